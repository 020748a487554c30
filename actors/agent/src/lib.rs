//! The node's agent: one actor per pod that is bound to this node, which runs its containers through the runtime; and the
//! heartbeat that keeps the Node object and its Lease.
//!
//! The node process starts it with `start`. It makes no syscall and opens no socket: `PodRuntime` and `ObjectStore` do.
//!
//! ```text
//! /nodes/n1             supervisor
//!   heartbeat           registers the node, keeps its status and its Lease
//!   agent               follows the pods that are bound here
//!   pods                supervisor of the pods' actors: /nodes/n1/pods/default/web
//! ```

pub mod agent;
pub mod event;
pub mod heartbeat;
pub mod node_object;
pub mod pod;
pub mod table;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use protocol::UnixMillis;
use protocol::runtime::PodRuntime;
use protocol::store::ObjectStore;
use ractor::{Actor, ActorRef};
use supervision::{
    ActorPath, ChildSpec, Clock, Registry, RestartPolicy, RestartRule, Supervisor, SupervisorArguments,
    SupervisorMessage,
};
use tokio::sync::watch;

use agent::{AgentActor, AgentArguments, pod_child};
use heartbeat::{Heartbeat, HeartbeatArguments};
use node_object::NodeFacts;
use pod::actor::PodSurroundings;
use pod::environment::PodFacts;
use pod::token::TokenSource;
use table::PodTable;

/// Gives the text of a pod's `/etc/resolv.conf`.
pub type ResolvConf = Arc<dyn Fn(&Pod) -> String + Send + Sync>;

/// What the agent starts with.
pub struct AgentConfig {
    /// What the machine is.
    pub facts: NodeFacts,
    /// Gives the text of a pod's `/etc/resolv.conf`.
    pub resolv_conf: ResolvConf,
    /// Why pods cannot run here at present (no pod network as yet); `None` when they can.
    pub unready: watch::Receiver<Option<String>>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Random bits, for uids and names.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// Who gives tokens of ServiceAccounts.
    pub tokens: Arc<dyn TokenSource>,
}

/// The context in which this node writes objects: as the kubelet, whose field manager name people know.
pub(crate) fn write_context(now: UnixMillis) -> api::write::WriteContext<'static> {
    api::write::WriteContext {
        now,
        field_manager: "kubelet",
        field_validation: api::write::FieldValidation::Ignore,
        user: "system:node",
        groups: &[],
        ..api::write::WriteContext::default()
    }
}

/// Starts the agent's tree. It runs until the returned supervisor is stopped; the pods' containers run on.
pub async fn start(
    config: AgentConfig,
    store: Arc<dyn ObjectStore>,
    runtime: Arc<dyn PodRuntime>,
    registry: Registry,
) -> Result<ActorRef<SupervisorMessage>, ractor::SpawnErr> {
    let node = ActorPath::root().child("nodes").child(&config.facts.name);
    let facts = PodFacts {
        node_name: config.facts.name.clone(),
        host_ip: config.facts.address.clone(),
        pod_ip: String::new(),
        allocatable_cpu_milli: config.facts.cpu_milli.saturating_sub(config.facts.reserved_cpu_milli),
        allocatable_memory_bytes: config
            .facts
            .memory_bytes
            .saturating_sub(config.facts.reserved_memory_bytes),
        memory_bytes: config.facts.memory_bytes,
    };
    let shared = Arc::new(PodSurroundings {
        store: Arc::clone(&store),
        runtime,
        clock: Arc::clone(&config.clock),
        table: Arc::new(PodTable::default()),
        facts,
        resolv_conf: config.resolv_conf,
        random: Arc::clone(&config.random),
        tokens: config.tokens,
    });
    let heartbeat = HeartbeatArguments {
        facts: config.facts,
        store,
        clock: Arc::clone(&config.clock),
        random: config.random,
        unready: config.unready,
        view: None,
    };
    let permanent = RestartPolicy::actor(RestartRule::Permanent);
    let heartbeat = ChildSpec::actor(node.child("heartbeat"), "heartbeat", permanent, move |context| {
        (
            Heartbeat,
            HeartbeatArguments {
                view: Some(context.view.clone()),
                ..heartbeat.clone()
            },
        )
    });
    let children = vec![heartbeat, pods_child(&node, &shared, &registry, &config.clock)];
    let arguments = SupervisorArguments {
        registry,
        clock: config.clock,
        children,
    };
    let (supervisor, _) = Actor::spawn(None, Supervisor, arguments).await?;
    Ok(supervisor)
}

/// The supervisor of the pods, with the agent beside them: at each start it begins with the pods that are known.
fn pods_child(
    node: &ActorPath,
    shared: &Arc<PodSurroundings>,
    registry: &Registry,
    clock: &Arc<dyn Clock>,
) -> ChildSpec {
    let (node, shared, registry, clock) = (node.clone(), Arc::clone(shared), registry.clone(), Arc::clone(clock));
    let path = node.child("pods");
    let policy = RestartPolicy::actor(RestartRule::Permanent);
    let start: supervision::StartChild = Arc::new(move |context| {
        let (node, shared) = (node.clone(), Arc::clone(&shared));
        let known = shared.table.all();
        let children = known
            .into_iter()
            .map(|(_, slot)| pod_child(slot, Arc::clone(&shared)))
            .collect();
        let arguments = SupervisorArguments {
            registry: registry.clone(),
            clock: Arc::clone(&clock),
            children,
        };
        Box::pin(async move {
            let (actor, _) = Actor::spawn_linked(None, Supervisor, arguments, context.supervisor).await?;
            let agent = AgentArguments {
                shared,
                supervisor: actor.clone(),
                node: node.clone(),
                view: None,
            };
            let policy = RestartPolicy::actor(RestartRule::Permanent);
            let spec = ChildSpec::actor(node.child("agent"), "agent", policy, move |context| {
                (
                    AgentActor,
                    AgentArguments {
                        view: Some(context.view.clone()),
                        ..agent.clone()
                    },
                )
            });
            // The supervisor was started a moment ago.
            let _ = actor.send_message(SupervisorMessage::Start { spec, reply: None });
            Ok(supervision::StartedChild {
                cell: actor.get_cell(),
                inbox: Arc::new(actor),
            })
        })
    });
    ChildSpec {
        path,
        kind: "supervisor",
        policy,
        start,
    }
}
