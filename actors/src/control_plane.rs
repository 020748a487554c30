//! The control plane of a cluster: the router, the scheduler and the default objects, under one supervisor. The node
//! process starts it while its node leads the consensus group and stops it when it does not. Two of them, for the time of
//! a fail-over, do no harm: every write is compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use protocol::store::ObjectStore;
use ractor::{Actor, ActorRef};
use supervision::{
    ActorPath, ChildSpec, Clock, Decision, Exit, Registration, Registry, RestartPolicy, RestartRule, RestartState,
    RunState, Supervisor, SupervisorArguments, SupervisorMessage,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::addresses::{AddressError, Ipv4Range};
use crate::credentials::{Credentials, CredentialsArguments, Signer};
use crate::defaults::{Defaults, DefaultsArguments};
use crate::expiry::{EventExpiry, ExpiryArguments};
use crate::kinds::KindSettings;
use crate::membership::Membership;
use crate::node::NodeSettings;
use crate::resource_claims::{ClaimsArguments, ResourceClaims};
use crate::reviewing::SharedReviewer;
use crate::router::{Router, RouterArguments};
use crate::scheduling::{SchedulerActor, SchedulerArguments, SchedulerDoor, SchedulerSettings};

/// How long `stop` waits for the actors to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What a cluster's operator may set.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// The range that is cut into the nodes' pod ranges: `10.244.0.0/16`.
    pub cluster_cidr: String,
    /// The length of a node's prefix: 24.
    pub node_prefix: u8,
    /// The range of cluster IPs: `10.96.0.0/16`.
    pub service_cidr: String,
    /// How lost nodes are dealt with.
    pub node: NodeSettings,
    /// After how long without work an actor is put to sleep.
    pub idle_after: Duration,
    /// Whether a Scheduled Event is written for each bound pod, as kube-scheduler does.
    pub scheduled_events: bool,
    /// What the node was told of scheduling; a ConfigMap of the cluster comes before it.
    pub scheduler: SchedulerSettings,
    /// What an operator sets for admission plugins; without it, what the control plane creates is not admitted.
    pub admission: Option<admission::Settings>,
    /// The certificate of the cluster's CA, PEM, which every namespace has; without one, namespaces are left as they are.
    pub cluster_ca: Option<String>,
    /// Who holds the cluster's keys; without it, no Secret is given a token and no request a certificate.
    pub signer: Option<Arc<dyn Signer>>,
    /// Who judges the actors' new objects beside the built-in admission plugins: webhooks and policies.
    pub reviewer: Option<SharedReviewer>,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        ControlPlaneConfig {
            cluster_cidr: "10.244.0.0/16".to_owned(),
            node_prefix: 24,
            service_cidr: "10.96.0.0/16".to_owned(),
            node: NodeSettings::default(),
            idle_after: Duration::from_secs(30),
            scheduled_events: true,
            scheduler: SchedulerSettings::default(),
            admission: None,
            cluster_ca: None,
            signer: None,
            reviewer: None,
        }
    }
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// A range in the configuration is no range.
    #[error("the configuration's {setting} cannot be used: {source}")]
    Configuration {
        /// Which setting.
        setting: &'static str,
        /// Why.
        source: AddressError,
    },
    /// The node prefix does not fit into the cluster's range.
    #[error(
        "the node prefix /{prefix} does not cut the cluster range {cluster} into parts: choose one between its own length and 30"
    )]
    NodePrefix {
        /// The prefix.
        prefix: u8,
        /// The range.
        cluster: String,
    },
    /// The root supervisor did not start.
    #[error("the control plane's supervisor did not start: {0}")]
    Spawn(#[from] ractor::SpawnErr),
}

/// A running control plane. Dropping it stops it without waiting.
pub struct ControlPlane {
    registry: Registry,
    stopping: watch::Sender<bool>,
    keeper: JoinHandle<()>,
}

impl ControlPlane {
    /// Starts it. `registry` is the node's, shared with its agent; `seed` seeds uids and generated names.
    pub async fn start(
        config: ControlPlaneConfig,
        store: Arc<dyn ObjectStore>,
        membership: Arc<dyn Membership>,
        clock: Arc<dyn Clock>,
        registry: Registry,
        seed: u64,
    ) -> Result<ControlPlane, ControlPlaneError> {
        let range = |setting, text: &str| {
            Ipv4Range::parse(text).map_err(|source| ControlPlaneError::Configuration { setting, source })
        };
        let cluster_cidr = range("cluster_cidr", &config.cluster_cidr)?;
        let service_cidr = range("service_cidr", &config.service_cidr)?;
        if config.node_prefix > 30 || cluster_cidr.free_part(config.node_prefix, &Default::default()).is_err() {
            let cluster = config.cluster_cidr.clone();
            return Err(ControlPlaneError::NodePrefix {
                prefix: config.node_prefix,
                cluster,
            });
        }
        let settings = Arc::new(KindSettings {
            cluster_cidr,
            node_prefix: config.node_prefix,
            node: config.node.clone(),
            cluster_ca: config.cluster_ca.as_deref().map(Into::into),
            reviewer: config.reviewer.clone(),
        });
        let door = SchedulerDoor::default();
        let parts = Parts {
            config,
            store,
            membership,
            clock,
            seed,
            settings,
            service_cidr,
            door,
        };
        let registration = registry.register(path(), "control-plane");
        let first = start_root(&parts, &registry, &registration, 0).await?;
        let (stopping, stop) = watch::channel(false);
        let keeper = tokio::spawn(keep(parts, registry.clone(), registration, first, stop));
        Ok(ControlPlane {
            registry,
            stopping,
            keeper,
        })
    }

    /// The registry in which its actors are.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops every actor and waits for their end, at most five seconds.
    pub async fn stop(mut self) {
        let _ = self.stopping.send(true);
        if tokio::time::timeout(STOP_DEADLINE, &mut self.keeper).await.is_err() {
            self.keeper.abort();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.stopping.send(true);
    }
}

fn path() -> ActorPath {
    ActorPath::root().child("cluster")
}

type Root = (ActorRef<SupervisorMessage>, JoinHandle<()>);

async fn start_root(
    parts: &Parts,
    registry: &Registry,
    registration: &Registration,
    restarts: u64,
) -> Result<Root, ractor::SpawnErr> {
    let mut children = vec![
        parts.scheduler(path().child("scheduler"), restarts),
        parts.defaults(path().child("defaults"), restarts),
        parts.expiry(path().child("event-expiry"), restarts),
        parts.resource_claims(path().child("resource-claims"), restarts),
        parts.router(path().child("router"), registry.clone(), restarts),
    ];
    children.extend(parts.credentials(path().child("credentials")));
    let arguments = SupervisorArguments {
        registry: registry.clone(),
        clock: Arc::clone(&parts.clock),
        children,
    };
    let (root, task) = Actor::spawn(None, Supervisor, arguments).await?;
    registration.ended(RunState::Running, restarts);
    registration.running(root.get_cell(), Arc::new(root.clone()));
    Ok((root, task))
}

/// Comes to an end when the control plane is stopped or dropped.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that the control plane was dropped.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// The root has no supervisor: this task starts it again when it ends, until the control plane is stopped.
async fn keep(
    parts: Parts,
    registry: Registry,
    registration: Registration,
    first: Root,
    mut stop: watch::Receiver<bool>,
) {
    let mut running = Some(first);
    let mut restarts = RestartState::default();
    loop {
        if let Some((root, mut task)) = running.take() {
            tokio::select! {
                () = told_to_stop(&mut stop) => {
                    root.stop(Some("the control plane was stopped".to_owned()));
                    if tokio::time::timeout(STOP_DEADLINE, &mut task).await.is_err() {
                        root.kill();
                    }
                    return;
                }
                _ = &mut task => {}
            }
        }
        let wait_ms = match restarts.ended(&Parts::policy(), Exit::Failed, parts.clock.now()) {
            Decision::RestartAfter { wait_ms } => wait_ms,
            Decision::Restart | Decision::Stop | Decision::Escalate => 0,
        };
        registration.ended(RunState::BackingOff, restarts.restarts());
        tokio::select! {
            () = told_to_stop(&mut stop) => return,
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
        }
        restarts.started(parts.clock.now());
        match start_root(&parts, &registry, &registration, restarts.restarts()).await {
            Ok(root) => running = Some(root),
            Err(error) => tracing::error!(%error, "the control plane's supervisor did not start; it is tried again"),
        }
    }
}

/// What the children are made from, anew for each start.
struct Parts {
    config: ControlPlaneConfig,
    store: Arc<dyn ObjectStore>,
    membership: Arc<dyn Membership>,
    clock: Arc<dyn Clock>,
    seed: u64,
    settings: Arc<KindSettings>,
    service_cidr: Ipv4Range,
    door: SchedulerDoor,
}

impl Parts {
    fn policy() -> RestartPolicy {
        RestartPolicy {
            back_off_max_ms: 5_000,
            ..RestartPolicy::actor(RestartRule::Permanent)
        }
    }

    /// A seed of its own for each actor and each of its starts, so that no two draw the same names.
    fn seed_for(seed: u64, actor: u64, life: u64, restarts: u64) -> u64 {
        [actor, life, restarts].iter().fold(seed, |seed, part| {
            (seed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
    }

    fn expiry(&self, path: ActorPath, _: u64) -> ChildSpec {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        ChildSpec::actor(path, "event-expiry", Self::policy(), move |context| {
            let (store, clock, view) = (Arc::clone(&store), Arc::clone(&clock), context.view.clone());
            (EventExpiry, ExpiryArguments { store, clock, view })
        })
    }

    fn credentials(&self, path: ActorPath) -> Option<ChildSpec> {
        let signer = Arc::clone(self.config.signer.as_ref()?);
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let cluster_ca = self.config.cluster_ca.clone().unwrap_or_default();
        Some(ChildSpec::actor(path, "credentials", Self::policy(), move |context| {
            let arguments = CredentialsArguments {
                store: Arc::clone(&store),
                signer: Arc::clone(&signer),
                cluster_ca: cluster_ca.clone(),
                clock: Arc::clone(&clock),
                view: context.view.clone(),
            };
            (Credentials, arguments)
        }))
    }

    fn resource_claims(&self, path: ActorPath, life: u64) -> ChildSpec {
        let (store, clock, seed) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.seed);
        ChildSpec::actor(path, "resource-claims", Self::policy(), move |context| {
            let arguments = ClaimsArguments {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 4, life, context.restarts),
                view: context.view.clone(),
            };
            (ResourceClaims, arguments)
        })
    }

    fn scheduler(&self, path: ActorPath, life: u64) -> ChildSpec {
        let (store, clock, seed) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.seed);
        let (door, scheduled_events) = (self.door.clone(), self.config.scheduled_events);
        let settings = self.config.scheduler.clone();
        ChildSpec::actor(path, "scheduler", Self::policy(), move |context| {
            let arguments = SchedulerArguments {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 1, life, context.restarts),
                view: context.view.clone(),
                door: door.clone(),
                scheduled_events,
                settings: settings.clone(),
            };
            (SchedulerActor, arguments)
        })
    }

    fn defaults(&self, path: ActorPath, life: u64) -> ChildSpec {
        let (store, membership) = (Arc::clone(&self.store), Arc::clone(&self.membership));
        let (clock, seed, service_cidr) = (Arc::clone(&self.clock), self.seed, self.service_cidr);
        ChildSpec::actor(path, "defaults", Self::policy(), move |context| {
            let arguments = DefaultsArguments {
                store: Arc::clone(&store),
                membership: Arc::clone(&membership),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 2, life, context.restarts),
                service_cidr,
                view: context.view.clone(),
            };
            (Defaults, arguments)
        })
    }

    fn router(&self, path: ActorPath, registry: Registry, life: u64) -> ChildSpec {
        let (store, membership) = (Arc::clone(&self.store), Arc::clone(&self.membership));
        let (clock, seed, settings) = (Arc::clone(&self.clock), self.seed, Arc::clone(&self.settings));
        let (door, idle_after, admission) = (self.door.clone(), self.config.idle_after, self.config.admission);
        ChildSpec::actor(path, "router", Self::policy(), move |context| {
            let arguments = RouterArguments {
                store: Arc::clone(&store),
                membership: Arc::clone(&membership),
                settings: Arc::clone(&settings),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 3, life, context.restarts),
                registry: registry.clone(),
                view: context.view.clone(),
                scheduler: door.clone(),
                idle_after,
                admission,
            };
            (Router, arguments)
        })
    }
}
