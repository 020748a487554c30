//! One node's part in consensus: its raft, its replica of the store, the front that gathers proposals, the barrier for
//! reads. The node process starts it and registers its two services with the mesh; `StoreClient` goes through it where
//! it leads.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use protocol::store::{
    Bodies, BodyList, Committed, ListPage, ListRequest, Proposal, ProposeError, ReadError, WatchRequest, WatchStream,
};
use protocol::transport::{SharedService, Transport};
use protocol::{Key, NodeName, Object, Revision};
use store::{Replica, RocksBackend};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::barrier::{Barrier, NotCurrent};
use crate::config::{ConsensusConfig, Retention, StartError, Timings};
use crate::disk::DiskGuard;
use crate::front::{Front, NotLeader};
use crate::lease::Lease;
use crate::log_store::LogStore;
use crate::network::Network;
use crate::peer_service::{PeerService, Promise};
use crate::standing::{Standing, ask_members};
use crate::state_machine::{Snapshots, StateMachine, StoreReplica};
use crate::status::{Progress, Status};
use crate::store_service::StoreService;
use crate::types::{Command, Raft, Step};

/// How long a leader that steps down waits for another one.
const STEP_DOWN_DEADLINE: Duration = Duration::from_secs(5);

/// How long a compaction waits for a majority.
const COMPACT_DEADLINE: Duration = Duration::from_secs(5);

/// One node's part in consensus.
pub struct Consensus {
    node: NodeName,
    raft_id: u64,
    timings: Timings,
    retention: Retention,
    raft: Raft,
    log: LogStore,
    replica: Arc<StoreReplica>,
    front: Front,
    barrier: Barrier,
    disk: Arc<DiskGuard>,
    peer_service: SharedService,
    standing: Standing,
    status: watch::Receiver<Status>,
    stepping_down: AtomicBool,
    changing: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as this exists.
    _lock: File,
}

impl Consensus {
    /// Opens what lies in the data directory and takes up where it stopped. A node with an empty directory waits, until
    /// it is bootstrapped or a leader adds it.
    pub async fn start(config: ConsensusConfig, transport: Arc<dyn Transport>) -> Result<Arc<Consensus>, StartError> {
        let raft_config = config.raft()?;
        let directory = config.data_dir.clone();
        let lock = lock_directory(&directory)?;
        let (log, replica, snapshots) = open_storage(&config)?;
        let store_failed = |reason: String| StartError::Store {
            directory: directory.join("state"),
            reason,
        };
        let machine = StateMachine::open(replica.clone(), Arc::new(snapshots));
        let machine = machine.map_err(|error| store_failed(error.to_string()))?;
        let standing = Standing::new();
        let raft = Raft::new(
            config.raft_id,
            Arc::new(raft_config),
            Network {
                transport: transport.clone(),
                standing: standing.clone(),
            },
            log.clone(),
            machine,
        )
        .await
        .map_err(|error| StartError::Raft {
            directory: directory.clone(),
            reason: error.to_string(),
        })?;

        let raft_id = config.raft_id;
        let election_max = Duration::from_millis(config.timings.election_max_ms);
        let recalled = raft.with_raft_state(move |state| {
            let alone = state.membership_state.effective().voter_ids().eq([raft_id]);
            (alone, state.vote_ref().is_committed())
        });
        let (alone, had_leader) = recalled.await.unwrap_or_default();
        // When the leader was heard before the restart is not known: it may read by a lease that counts on this vote.
        let vote_promised = !alone && had_leader;
        if !vote_promised {
            raft.runtime_config().elect(true);
        }
        if alone {
            // Nobody else can lead: there is nothing to wait for.
            let _ = raft.trigger().elect().await;
        }
        let disk = Arc::new(DiskGuard::new(directory, config.retention.disk_reserve_bytes));
        let (front, front_task) = Front::start(raft.clone());
        let lease = Arc::new(Lease::new(election_max));
        let (barrier, barrier_task) = Barrier::start(raft.clone(), lease.clone());
        let (status_sender, status) = watch::channel(Status::of(&raft.metrics().borrow(), &config.timings, false));
        let promise = Promise::new(election_max, vote_promised, lease);
        let peer_service = PeerService::new(config.raft_id, raft.clone(), disk.clone(), promise, standing.clone());
        let peer_service = Arc::new(peer_service);
        let this = (raft_id, config.node.clone());
        let ask = ask_members(raft.clone(), log.clone(), this, transport, standing.clone());
        let ask = tokio::spawn(ask);
        let stand_later = tokio::spawn(stand_when_free(
            raft.clone(),
            vote_promised.then_some(election_max),
            standing.clone(),
        ));
        let consensus = Arc::new(Consensus {
            node: config.node,
            raft_id: config.raft_id,
            timings: config.timings,
            retention: config.retention,
            raft,
            log,
            replica,
            front,
            barrier,
            disk,
            peer_service,
            standing,
            status,
            stepping_down: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(vec![front_task, barrier_task, ask, stand_later]),
            _lock: lock,
        });
        let follow = tokio::spawn(crate::housekeeping::follow_status(
            Arc::downgrade(&consensus),
            status_sender,
        ));
        let keep_house = tokio::spawn(crate::housekeeping::keep_house(Arc::downgrade(&consensus)));
        consensus.tasks.lock().extend([follow, keep_house]);
        Ok(consensus)
    }

    /// This machine.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Its number among the members.
    pub fn raft_id(&self) -> u64 {
        self.raft_id
    }

    /// Serves the other members; to be registered for `Purpose::Consensus`.
    pub fn service(&self) -> SharedService {
        self.peer_service.clone()
    }

    /// Serves the store to other nodes while this one leads; to be registered for `Purpose::Store`.
    pub fn store_service(self: &Arc<Self>) -> SharedService {
        Arc::new(StoreService::new(self.clone()))
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.status.borrow().is_leader
    }

    /// Whether this node is a member that gets its log from a leader elsewhere.
    pub(crate) fn follows(&self) -> bool {
        let status = self.status.borrow();
        let elsewhere = status.leader.as_ref().is_some_and(|leader| *leader != self.node);
        elsewhere && !status.is_leader && !status.removed && status.failed.is_none() && status.is_member(&self.node)
    }

    /// Who leads, who votes.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows `status`.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// How far log, store and members are.
    pub fn progress(&self) -> Progress {
        Progress::of(&self.raft.metrics().borrow())
    }

    /// Whether this node is a voter or a learner.
    pub fn is_member(&self) -> bool {
        let status = self.status.borrow();
        status.is_member(&self.node) && !status.removed
    }

    /// How often the log was synced since the start.
    pub fn log_syncs(&self) -> u64 {
        self.log.syncs()
    }

    /// Every write after a revision, straight from this node's replica, for the router on the leader. Ends when this
    /// node no longer leads.
    pub async fn subscribe(&self, after: Revision) -> Result<WatchStream, ReadError> {
        let request = WatchRequest {
            resources: Vec::new(),
            after: Some(after),
            ..WatchRequest::default()
        };
        self.watch_here(request).await.unwrap_or_else(|NotLeader { hint }| {
            let leader = hint.map_or_else(|| "nobody at present".to_owned(), |leader| leader.to_string());
            Err(ReadError::Unavailable {
                reason: format!("this node does not lead, {leader} does"),
            })
        })
    }

    /// Forgets history up to and including `up_to`, on all replicas.
    pub async fn compact(&self, up_to: Revision) -> Result<(), ProposeError> {
        let command = Command::new(Step::Compact(up_to), 32).map_err(|error| ProposeError::Storage {
            reason: error.to_string(),
        })?;
        let unknown = |_| ProposeError::Unknown {
            deadline_ms: COMPACT_DEADLINE.as_millis() as u64,
        };
        let written = timeout(COMPACT_DEADLINE, self.raft.client_write(command)).await;
        match written.map_err(unknown)? {
            Ok(_) => Ok(()),
            Err(error) => Err(ProposeError::NoLeader {
                reason: error.to_string(),
            }),
        }
    }

    /// Makes a snapshot of the store now, in the background.
    pub async fn trigger_snapshot(&self) {
        // An error here means that raft has stopped, which the status tells.
        let _ = self.raft.trigger().snapshot().await;
    }

    /// Lets another voter take the lead: takes no more writes, stops its heartbeats and waits until another one leads.
    /// Yields whether one does. This takes about as long as replacing a dead leader, but no write is cut off.
    pub async fn step_down(&self) -> bool {
        let status = self.status();
        if !status.is_leader || status.voters.len() < 2 {
            return false;
        }
        self.stepping_down.store(true, Ordering::Release);
        self.raft.runtime_config().heartbeat(false);
        let mut watched = self.watch_status();
        let other = watched.wait_for(|now| now.leader.as_ref().is_some_and(|leader| *leader != self.node));
        let stepped_down = timeout(STEP_DOWN_DEADLINE, other)
            .await
            .is_ok_and(|other| other.is_ok());
        self.raft.runtime_config().heartbeat(true);
        self.stepping_down.store(false, Ordering::Release);
        stepped_down
    }

    /// Stops in good order: what is under way is not waited for, but everything applied is put on disk, so that the next
    /// start has nothing to repeat.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop in good order");
        }
        self.replica.hub().end_all();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        let replica = self.replica.clone();
        let flushed = tokio::task::spawn_blocking(move || replica.backend().flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the store was not put on disk; the next start repeats the log instead");
        }
    }

    /// Proposes if this node leads.
    pub(crate) async fn propose_here(
        &self,
        proposals: Vec<Proposal>,
        deadline: Duration,
    ) -> Result<Vec<Result<Committed, ProposeError>>, NotLeader> {
        self.leads()?;
        let refused = |error: ProposeError| Ok(proposals.iter().map(|_| Err(error.clone())).collect());
        if let Some(reason) = self.status.borrow().failed.clone() {
            return refused(ProposeError::Storage { reason });
        }
        if let Err(full) = self.disk.check_leader() {
            return refused(ProposeError::Storage {
                reason: full.to_string(),
            });
        }
        self.front.propose(proposals, deadline).await
    }

    /// Reads if this node surely leads, without asking anybody.
    pub(crate) fn read_at_once(&self, key: &Key) -> Option<Result<Option<Arc<Object>>, ReadError>> {
        let sure = self.leads().is_ok() && self.barrier.is_passed();
        sure.then(|| self.replica.read(key).map_err(ReadError::from))
    }

    /// Reads if this node leads, after everything that was acknowledged before.
    pub(crate) async fn read_here(&self, key: &Key) -> Result<Result<Option<Arc<Object>>, ReadError>, NotLeader> {
        Ok(match self.current().await? {
            Ok(()) => self.replica.read(key).map_err(ReadError::from),
            Err(error) => Err(error),
        })
    }

    /// Lists if this node leads. Without a revision the list shows everything that was acknowledged before.
    pub(crate) async fn list_here(&self, request: ListRequest) -> Result<Result<ListPage, ReadError>, NotLeader> {
        Ok(match self.current().await? {
            Ok(()) => self.list_replica(request).await,
            Err(error) => Err(error),
        })
    }

    /// Lists what this replica has.
    pub(crate) async fn list_replica(&self, request: ListRequest) -> Result<ListPage, ReadError> {
        let replica = self.replica.clone();
        let listed = tokio::task::spawn_blocking(move || replica.list(&request)).await;
        listed.unwrap_or_else(|error| {
            Err(ReadError::Unavailable {
                reason: error.to_string(),
            })
        })
    }

    /// Lists all bodies if this node leads.
    pub(crate) async fn bodies_here(&self, request: ListRequest) -> Result<Result<BodyList, ReadError>, NotLeader> {
        Ok(match self.current().await? {
            Ok(()) => self.bodies_replica(request).await,
            Err(error) => Err(error),
        })
    }

    /// Lists all bodies that this replica has. What is read ahead of a slow reader waits in memory, as a whole list would.
    pub(crate) async fn bodies_replica(&self, request: ListRequest) -> Result<BodyList, ReadError> {
        let replica = self.replica.clone();
        let (sender, mut parts) = mpsc::unbounded();
        let (begun, revision) = oneshot::channel();
        let reading = tokio::task::spawn_blocking(move || {
            let begin = |revision| {
                let _ = begun.send(revision); // nobody is there any more: the first part finds that out
            };
            let mut objects = 0;
            let mut send = |part: Bodies| {
                objects += part.objects;
                match sender.unbounded_send(Ok(part)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            };
            if let Err(error) = replica.bodies(&request, begin, &mut send) {
                let _ = sender.unbounded_send(Err(error));
            }
            objects
        });
        let Ok(revision) = revision.await else {
            let reason = "the list was not begun".to_owned();
            return Err(match parts.next().await {
                Some(Err(error)) => error,
                _ => ReadError::Unavailable { reason },
            });
        };
        Ok(BodyList {
            revision,
            parts: Box::pin(parts),
            read: reading.map(Result::unwrap_or_default).boxed(),
        })
    }

    /// Watches if this node leads. The watch ends when it no longer does.
    pub(crate) async fn watch_here(&self, request: WatchRequest) -> Result<Result<WatchStream, ReadError>, NotLeader> {
        Ok(match self.current().await? {
            Ok(()) => self.replica.watch(request),
            Err(error) => Err(error),
        })
    }

    /// The revision if this node leads.
    pub(crate) async fn revision_here(&self) -> Result<Result<Revision, ReadError>, NotLeader> {
        Ok(match self.current().await? {
            Ok(()) => self
                .replica
                .state()
                .map(|state| state.revision)
                .map_err(ReadError::from),
            Err(error) => Err(error),
        })
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(crate) fn log(&self) -> &LogStore {
        &self.log
    }

    pub(crate) fn replica(&self) -> &StoreReplica {
        &self.replica
    }

    pub(crate) fn changing(&self) -> &tokio::sync::Mutex<()> {
        &self.changing
    }

    pub(crate) fn timings(&self) -> &Timings {
        &self.timings
    }

    pub(crate) fn retention(&self) -> &Retention {
        &self.retention
    }

    fn leads(&self) -> Result<(), NotLeader> {
        let status = self.status.borrow();
        if status.is_leader && !self.stepping_down.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(NotLeader {
            hint: status.leader.clone().filter(|leader| *leader != self.node),
        })
    }

    /// Whether this replica shows everything that was acknowledged so far.
    async fn current(&self) -> Result<Result<(), ReadError>, NotLeader> {
        self.leads()?;
        match self.barrier.pass().await {
            Ok(()) => Ok(Ok(())),
            Err(NotCurrent::NotLeader(refusal)) => Err(refusal),
            Err(NotCurrent::NoQuorum(reason)) => Ok(Err(ReadError::Unavailable { reason })),
        }
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

/// Lets this node stand for election when it owes its vote to nobody any more.
async fn stand_when_free(raft: Raft, after: Option<Duration>, standing: Standing) {
    let Some(after) = after else { return };
    tokio::time::sleep(after).await;
    let is_removed = *standing.watch().borrow();
    raft.runtime_config().elect(!is_removed);
}

fn open_storage(config: &ConsensusConfig) -> Result<(LogStore, Arc<StoreReplica>, Snapshots), StartError> {
    let (log_dir, state_dir) = (config.data_dir.join("log"), config.data_dir.join("state"));
    let log_failed = |reason: String| StartError::Log {
        directory: log_dir.clone(),
        reason,
    };
    let log = LogStore::open(&log_dir).map_err(|error| log_failed(error.to_string()))?;
    let found = log
        .identity(config.raft_id)
        .map_err(|error| log_failed(error.to_string()))?;
    if found != config.raft_id {
        let directory = config.data_dir.clone();
        return Err(StartError::Identity {
            directory,
            found,
            expected: config.raft_id,
        });
    }
    let replica = RocksBackend::open(&state_dir, config.store).and_then(Replica::open);
    let replica = replica.map_err(|error| StartError::Store {
        directory: state_dir,
        reason: error.to_string(),
    })?;
    let snapshots = config.data_dir.join("snapshots");
    let snapshots = Snapshots::open(snapshots.clone()).map_err(|source| StartError::Directory {
        directory: snapshots,
        source,
    })?;
    Ok((log, Arc::new(replica), snapshots))
}

/// Makes sure that no other process uses the directory.
fn lock_directory(directory: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::Directory {
        directory: directory.to_owned(),
        source,
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join("LOCK");
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {
            let note = |lock: &mut File| {
                lock.set_len(0)?;
                lock.rewind()?;
                write!(lock, "{}", std::process::id())
            };
            note(&mut lock).map_err(failed)?;
            Ok(lock)
        }
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            Err(StartError::Locked {
                directory: directory.to_owned(),
                holder,
            })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
