//! The control plane of a cluster: the router, the scheduler and the default objects, under one supervisor. The node
//! process starts it while its node leads the consensus group and stops it when it does not. Two of them, for the time of
//! a fail-over, do no harm: every write is compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use protocol::store::ObjectStore;
use ractor::{Actor, ActorRef};
use supervision::{
    ActorPath, ChildSpec, Clock, Registration, Registry, RestartPolicy, RestartRule, Supervisor, SupervisorArguments,
    SupervisorMessage,
};
use tokio::task::JoinHandle;

use crate::addresses::{AddressError, Ipv4Range};
use crate::defaults::{Defaults, DefaultsArguments};
use crate::kinds::KindSettings;
use crate::membership::Membership;
use crate::node::NodeSettings;
use crate::router::{Router, RouterArguments};
use crate::scheduling::{SchedulerActor, SchedulerArguments, SchedulerDoor};

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
    #[error("the node prefix /{prefix} does not cut the cluster range {cluster} into parts: choose one between its own length and 30")]
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
    root: ActorRef<SupervisorMessage>,
    task: JoinHandle<()>,
    _registration: Registration,
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
            return Err(ControlPlaneError::NodePrefix { prefix: config.node_prefix, cluster });
        }
        let settings =
            Arc::new(KindSettings { cluster_cidr, node_prefix: config.node_prefix, node: config.node.clone() });
        let parts = Parts { config, store, membership, clock: Arc::clone(&clock), seed, settings, service_cidr, door: SchedulerDoor::default() };
        let path = ActorPath::root().child("cluster");
        let registration = registry.register(path.clone(), "control-plane");
        let children = vec![
            parts.scheduler(path.child("scheduler")),
            parts.defaults(path.child("defaults")),
            parts.router(path.child("router"), registry.clone()),
        ];
        let arguments = SupervisorArguments { registry: registry.clone(), clock, children };
        let (root, task) = Actor::spawn(None, Supervisor, arguments).await?;
        registration.running(root.get_cell(), Arc::new(root.clone()));
        Ok(ControlPlane { registry, root, task, _registration: registration })
    }

    /// The registry in which its actors are.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops every actor and waits for their end, at most five seconds.
    pub async fn stop(mut self) {
        self.root.stop(Some("the control plane was stopped".to_owned()));
        if tokio::time::timeout(STOP_DEADLINE, &mut self.task).await.is_err() {
            self.root.kill();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.root.stop(None);
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
        RestartPolicy { back_off_max_ms: 5_000, ..RestartPolicy::actor(RestartRule::Permanent) }
    }

    /// A seed of its own for each actor and each of its starts, so that no two draw the same names.
    fn seed_for(seed: u64, actor: u64, restarts: u64) -> u64 {
        seed.wrapping_add(actor.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(restarts.wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    fn scheduler(&self, path: ActorPath) -> ChildSpec {
        let (store, clock, seed) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.seed);
        let (door, scheduled_events) = (self.door.clone(), self.config.scheduled_events);
        ChildSpec::actor(path, "scheduler", Self::policy(), move |context| {
            let arguments = SchedulerArguments {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 1, context.restarts),
                view: context.view.clone(),
                door: door.clone(),
                scheduled_events,
            };
            (SchedulerActor, arguments)
        })
    }

    fn defaults(&self, path: ActorPath) -> ChildSpec {
        let (store, membership) = (Arc::clone(&self.store), Arc::clone(&self.membership));
        let (clock, seed, service_cidr) = (Arc::clone(&self.clock), self.seed, self.service_cidr);
        ChildSpec::actor(path, "defaults", Self::policy(), move |context| {
            let arguments = DefaultsArguments {
                store: Arc::clone(&store),
                membership: Arc::clone(&membership),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 2, context.restarts),
                service_cidr,
                view: context.view.clone(),
            };
            (Defaults, arguments)
        })
    }

    fn router(&self, path: ActorPath, registry: Registry) -> ChildSpec {
        let (store, membership) = (Arc::clone(&self.store), Arc::clone(&self.membership));
        let (clock, seed, settings) = (Arc::clone(&self.clock), self.seed, Arc::clone(&self.settings));
        let (door, idle_after) = (self.door.clone(), self.config.idle_after);
        ChildSpec::actor(path, "router", Self::policy(), move |context| {
            let arguments = RouterArguments {
                store: Arc::clone(&store),
                membership: Arc::clone(&membership),
                settings: Arc::clone(&settings),
                clock: Arc::clone(&clock),
                seed: Self::seed_for(seed, 3, context.restarts),
                registry: registry.clone(),
                view: context.view.clone(),
                scheduler: door.clone(),
                idle_after,
            };
            (Router, arguments)
        })
    }
}
