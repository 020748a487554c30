//! An actor that starts children from their specifications, keeps them registered, and starts them again as
//! `restart` decides. It supervises whatever it is given: the control plane's fixed actors, a node's pods. Its children
//! end with it (ractor stops them); it must never hold what a child needs to come back, since that is the child's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};

use crate::mailbox::{AdminInbox, AdminMessage};
use crate::registry::{ActorView, Registration, Registry, RunState};
use crate::restart::{Decision, Exit, RestartPolicy, RestartState};
use crate::{ActorPath, Clock};

/// What a starting child is given.
pub struct ChildContext {
    /// To link to.
    pub supervisor: ActorCell,
    /// Its entry in the registry.
    pub view: ActorView,
    /// Zero for the first start.
    pub restarts: u64,
}

/// A child that was started.
pub struct StartedChild {
    /// The actor.
    pub cell: ActorCell,
    /// Its mailbox for admin messages.
    pub inbox: Arc<dyn AdminInbox>,
}

/// Starts a child; called again for each restart. It must spawn the actor linked to `ChildContext::supervisor`. The
/// supervisor waits for it, so an actor's `pre_start` must be short: long work belongs behind its first message.
pub type StartChild = Arc<dyn Fn(ChildContext) -> BoxFuture<'static, Result<StartedChild, SpawnErr>> + Send + Sync>;

/// How a child is named, started and restarted.
#[derive(Clone)]
pub struct ChildSpec {
    /// Where it stands in the tree.
    pub path: ActorPath,
    /// What it is: `pod`, `router`.
    pub kind: &'static str,
    /// When it is started again.
    pub policy: RestartPolicy,
    /// How.
    pub start: StartChild,
}

impl ChildSpec {
    /// The specification of an actor whose handler and arguments `make` yields anew for each start.
    pub fn actor<A, F>(path: ActorPath, kind: &'static str, policy: RestartPolicy, make: F) -> ChildSpec
    where
        A: Actor,
        A::Msg: From<AdminMessage> + Sync,
        F: Fn(&ChildContext) -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let start: StartChild = Arc::new(move |context| {
            let (handler, arguments) = make(&context);
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, handler, arguments, context.supervisor).await?;
                Ok(StartedChild {
                    cell: actor.get_cell(),
                    inbox: Arc::new(actor),
                })
            })
        });
        ChildSpec {
            path,
            kind,
            policy,
            start,
        }
    }
}

/// Why a child was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A child with this path runs.
    #[error("{path} runs already")]
    Running {
        /// The path.
        path: ActorPath,
    },
    /// Its start failed; the supervisor tries again as its policy says.
    #[error("{path} did not start: {reason}")]
    Failed {
        /// The path.
        path: ActorPath,
        /// What it said.
        reason: String,
    },
}

/// What a supervisor is told.
pub enum SupervisorMessage {
    /// Start a child. While a former one of the same path is stopping, the new one waits for its end.
    Start {
        /// The child.
        spec: ChildSpec,
        /// Where the outcome goes. A child that waits for a former one is answered with `Running`.
        reply: Option<RpcReplyPort<Result<ActorCell, StartError>>>,
    },
    /// Stop a child in good order: it handles no further message, its `post_stop` runs, it is not started again.
    Stop {
        /// The child.
        path: ActorPath,
        /// Answered at once with whether there was such a child.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// A back-off has passed. Sent by the supervisor to itself.
    RestartDue {
        /// The child.
        path: ActorPath,
        /// The back-off's number: a stale one is dropped.
        token: u64,
    },
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for SupervisorMessage {}

impl From<AdminMessage> for SupervisorMessage {
    fn from(message: AdminMessage) -> Self {
        SupervisorMessage::Admin(message)
    }
}

/// The actor.
pub struct Supervisor;

/// What it starts with.
pub struct SupervisorArguments {
    /// Where its children are registered.
    pub registry: Registry,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Children to start at once, in this order.
    pub children: Vec<ChildSpec>,
}

struct Child {
    spec: ChildSpec,
    registration: Registration,
    restarts: RestartState,
    cell: Option<ActorCell>,
    token: u64,
    stopping: bool,
    successor: Option<ChildSpec>,
}

/// Its state.
pub struct SupervisorState {
    registry: Registry,
    clock: Arc<dyn Clock>,
    children: HashMap<ActorPath, Child>,
    paths: HashMap<ActorId, ActorPath>,
    tokens: u64,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        for spec in arguments.children {
            myself.send_message(SupervisorMessage::Start { spec, reply: None })?;
        }
        Ok(SupervisorState {
            registry: arguments.registry,
            clock: arguments.clock,
            children: HashMap::new(),
            paths: HashMap::new(),
            tokens: 0,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Start { spec, reply } => {
                let outcome = state.add(&myself, spec).await;
                if let Some(reply) = reply {
                    // The asker may have gone; the child runs anyway.
                    let _ = reply.send(outcome);
                }
            }
            SupervisorMessage::Stop { path, reply } => {
                let found = state.stop(&path);
                if let Some(reply) = reply {
                    let _ = reply.send(found);
                }
            }
            SupervisorMessage::RestartDue { path, token } => {
                let due = state
                    .children
                    .get(&path)
                    .is_some_and(|child| child.token == token && child.cell.is_none());
                if due {
                    // A failed start has decided about its own retry.
                    let _ = state.start(&myself, &path).await;
                }
            }
            SupervisorMessage::Admin(message) => state.answer(message),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, exit) = match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                tracing::warn!(actor = %state.path_of(&cell), %error, "an actor failed");
                (cell, Exit::Failed)
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let killed = matches!(reason.as_deref(), Some("killed" | "actor_task_cancelled"));
                (cell, if killed { Exit::Killed } else { Exit::Normal })
            }
            _ => return Ok(()),
        };
        let Some(path) = state.paths.remove(&cell.get_id()) else {
            return Ok(());
        };
        state.ended(&myself, &path, exit).await
    }
}

impl SupervisorState {
    fn path_of(&self, cell: &ActorCell) -> String {
        self.paths
            .get(&cell.get_id())
            .map_or_else(|| cell.get_id().to_string(), ToString::to_string)
    }

    async fn add(&mut self, myself: &ActorRef<SupervisorMessage>, spec: ChildSpec) -> Result<ActorCell, StartError> {
        let path = spec.path.clone();
        if let Some(child) = self.children.get_mut(&path) {
            if child.stopping {
                child.successor = Some(spec);
            }
            return Err(StartError::Running { path });
        }
        let registration = self.registry.register(path.clone(), spec.kind);
        let child = Child {
            spec,
            registration,
            restarts: RestartState::default(),
            cell: None,
            token: 0,
            stopping: false,
            successor: None,
        };
        self.children.insert(path.clone(), child);
        self.start(myself, &path).await
    }

    fn stop(&mut self, path: &ActorPath) -> bool {
        let Some(child) = self.children.get_mut(path) else {
            return false;
        };
        child.successor = None;
        match &child.cell {
            Some(cell) => {
                child.stopping = true;
                cell.stop(None);
            }
            None => {
                self.children.remove(path);
            }
        }
        true
    }

    async fn start(&mut self, myself: &ActorRef<SupervisorMessage>, path: &ActorPath) -> Result<ActorCell, StartError> {
        let failed = |reason: String| StartError::Failed {
            path: path.clone(),
            reason,
        };
        let Some(child) = self.children.get_mut(path) else {
            return Err(failed("it was stopped".to_owned()));
        };
        let context = ChildContext {
            supervisor: myself.get_cell(),
            view: child.registration.view(),
            restarts: child.restarts.restarts(),
        };
        child.restarts.started(self.clock.now());
        match (child.spec.start)(context).await {
            Ok(started) => {
                child.registration.running(started.cell.clone(), started.inbox);
                child.cell = Some(started.cell.clone());
                self.paths.insert(started.cell.get_id(), path.clone());
                Ok(started.cell)
            }
            Err(error) => {
                tracing::warn!(actor = %path, %error, "an actor did not start");
                self.back_off(myself, path, Exit::Failed);
                Err(failed(error.to_string()))
            }
        }
    }

    /// A failed start is followed by a wait even within the intensity: starting at once again from here would recurse.
    fn back_off(&mut self, myself: &ActorRef<SupervisorMessage>, path: &ActorPath, exit: Exit) {
        let now = self.clock.now();
        let Some(child) = self.children.get_mut(path) else {
            return;
        };
        let decision = child.restarts.ended(&child.spec.policy, exit, now);
        child
            .registration
            .ended(RunState::BackingOff, child.restarts.restarts());
        match decision {
            Decision::Restart => self.restart_after(myself, path, 0),
            Decision::RestartAfter { wait_ms } => self.restart_after(myself, path, wait_ms),
            Decision::Stop => {
                self.children.remove(path);
            }
            Decision::Escalate => myself.kill(),
        }
    }

    fn restart_after(&mut self, myself: &ActorRef<SupervisorMessage>, path: &ActorPath, wait_ms: u64) {
        self.tokens += 1;
        let token = self.tokens;
        if let Some(child) = self.children.get_mut(path) {
            child.token = token;
        }
        let path = path.clone();
        myself.send_after(Duration::from_millis(wait_ms), move || SupervisorMessage::RestartDue {
            path,
            token,
        });
    }

    async fn ended(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        path: &ActorPath,
        exit: Exit,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.clock.now();
        let Some(child) = self.children.get_mut(path) else {
            return Ok(());
        };
        child.cell = None;
        if child.stopping {
            let successor = child.successor.take();
            self.children.remove(path);
            if let Some(spec) = successor {
                // Its outcome was answered when it was asked for; a failure is retried.
                let _ = self.add(myself, spec).await;
            }
            return Ok(());
        }
        match child.restarts.ended(&child.spec.policy, exit, now) {
            Decision::Restart => {
                child.registration.ended(RunState::Running, child.restarts.restarts());
                // A failed start has decided about its own retry.
                let _ = self.start(myself, path).await;
            }
            Decision::RestartAfter { wait_ms } => {
                child
                    .registration
                    .ended(RunState::BackingOff, child.restarts.restarts());
                self.restart_after(myself, path, wait_ms);
            }
            Decision::Stop => {
                self.children.remove(path);
            }
            Decision::Escalate => {
                return Err(format!(
                    "{path} cannot be kept running: it ended {} times",
                    child.restarts.restarts()
                )
                .into());
            }
        }
        Ok(())
    }

    fn answer(&self, message: AdminMessage) {
        const UNDERSTANDS: &str = "ask: state";
        match message {
            AdminMessage::Ask { question, reply } => {
                let answer = if question == "state" {
                    let children: Vec<_> = self
                        .children
                        .values()
                        .map(|child| {
                            serde_json::json!({
                                "path": child.spec.path.as_str(), "kind": child.spec.kind,
                                "running": child.cell.is_some(), "restarts": child.restarts.restarts(),
                            })
                        })
                        .collect();
                    Ok(serde_json::json!({ "children": children }).to_string())
                } else {
                    Err(UNDERSTANDS.to_owned())
                };
                // The shell may have gone.
                let _ = reply.send(answer);
            }
            AdminMessage::Tell { reply, .. } => {
                let _ = reply.send(Err(UNDERSTANDS.to_owned()));
            }
        }
    }
}
