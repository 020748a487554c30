//! Runs `swim` over the mesh: its timers, its datagrams, and the file that remembers where the members are. Acting code
//! without policy.

#![allow(clippy::disallowed_methods)] // Acting code: it gives the time to the deciding code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::transport::{Purpose, Service, Transport};
use protocol::{NodeName, UnixMillis};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::identity::{MemberFacts, MemberIdentity};
use super::swim::Swim;
use super::view::{Member, MemberEvent};
use crate::identity::write_private;
use crate::mesh::{Datagram, Mesh};

/// Datagrams that may wait for the driver. More come only when this process stands still, and gossip repeats itself.
const DATAGRAMS_WAITING_MAX: usize = 1024;
/// Events that a slow subscriber may miss none of; beyond that it is told how many it missed, and reads `members`.
const EVENTS_KEPT: usize = 1024;
/// Between the two steps of leaving, and after them: several gossip rounds.
const LEAVE_STEP: Duration = Duration::from_millis(250);

/// An exchange of the whole state with a member that lives takes milliseconds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// How membership is started.
#[derive(Clone, Debug)]
pub struct MembershipOptions {
    /// By which address the others reach this node's mesh.
    pub address: SocketAddr,
    /// What this member says of itself.
    pub facts: MemberFacts,
    /// Members to call on first: from the join grant, or of the store.
    pub seeds: Vec<(NodeName, SocketAddr)>,
    /// Where the members' addresses are remembered across restarts.
    pub memory: Option<PathBuf>,
}

/// This node's membership. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    events: broadcast::Sender<MemberEvent>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("members", &self.members.borrow().len())
            .finish_non_exhaustive()
    }
}

enum Command {
    Exchange(NodeName, Bytes, Option<oneshot::Sender<Bytes>>),
    Announce(Vec<(NodeName, SocketAddr)>),
    SetFacts(MemberFacts),
    Leave(oneshot::Sender<()>),
}

/// What is remembered across restarts.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Memory {
    /// The last incarnation, so that a clock that was set back does not make a new life look older than the last.
    incarnation: u64,
    members: Vec<(NodeName, SocketAddr)>,
}

impl Membership {
    /// Starts gossip. Calls on the seeds and on whoever was a member when this node last ran.
    pub fn start(mesh: &Mesh, options: MembershipOptions) -> Membership {
        let memory = options.memory.as_deref().map(read_memory).unwrap_or_default();
        let started = Instant::now();
        let origin = wall_clock();
        let identity = MemberIdentity {
            name: mesh.name().clone(),
            address: options.address,
            incarnation: origin.0.max(memory.incarnation + 1),
            facts: options.facts,
        };
        let mut swim = Swim::new(identity, origin, u64::from_be_bytes(crate::mesh::random()));
        let seeds: Vec<(NodeName, SocketAddr)> = memory.members.into_iter().chain(options.seeds).collect();
        swim.announce(started.elapsed(), &seeds);

        let (datagrams, from_mesh) = mpsc::channel(DATAGRAMS_WAITING_MAX);
        mesh.receive_datagrams(datagrams);
        let (commands, from_handles) = mpsc::channel(64);
        let (publish, members) = watch::channel(swim.members());
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        mesh.serve(
            Purpose::Membership,
            Arc::new(Exchange {
                commands: commands.downgrade(),
            }),
        );
        let driver = Driver {
            mesh: mesh.clone(),
            commands: commands.downgrade(),
            swim,
            started,
            publish,
            events: events.clone(),
            memory: options.memory,
        };
        tokio::spawn(driver.run(from_mesh, from_handles));
        Membership {
            commands,
            members,
            events,
        }
    }

    /// All members that are known, dead ones of the last day among them, in the order of their names.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.borrow().clone()
    }

    /// One member.
    pub fn member(&self, name: &NodeName) -> Option<Member> {
        self.members
            .borrow()
            .iter()
            .find(|member| member.name == *name)
            .cloned()
    }

    /// The members now and after each change.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.clone()
    }

    /// What changes from now on. A subscriber that falls far behind gets `Lagged`, and then reads `members`.
    pub fn subscribe(&self) -> broadcast::Receiver<MemberEvent> {
        self.events.subscribe()
    }

    /// Calls on members, to find the cluster or to heal it.
    pub async fn announce(&self, seeds: Vec<(NodeName, SocketAddr)>) {
        // The driver ends only when this node has left, and then there is nobody to call on.
        let _ = self.commands.send(Command::Announce(seeds)).await;
    }

    /// Says something new of this member.
    pub async fn set_facts(&self, facts: MemberFacts) {
        let _ = self.commands.send(Command::SetFacts(facts)).await;
    }

    /// Leaves: the others learn that this is no failure. Takes half a second; afterwards nothing is gossiped.
    pub async fn leave(&self) {
        let (done, when_done) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).await.is_ok() {
            let _ = when_done.await;
        }
    }
}

/// Answers a member's whole state with this one's.
struct Exchange {
    commands: mpsc::WeakSender<Command>,
}

#[async_trait]
impl Service for Exchange {
    async fn call(&self, from: &NodeName, request: Bytes) -> Bytes {
        let (reply, when_replied) = oneshot::channel();
        let Some(commands) = self.commands.upgrade() else {
            return Bytes::new();
        };
        // A driver that has ended answers nothing, and the peer goes on with what it knows.
        let _ = commands
            .send(Command::Exchange(from.clone(), request, Some(reply)))
            .await;
        when_replied.await.unwrap_or_default()
    }
}

struct Driver {
    mesh: Mesh,
    /// Weak, so that the driver ends when the last handle does.
    commands: mpsc::WeakSender<Command>,
    swim: Swim,
    started: Instant,
    publish: watch::Sender<Arc<Vec<Member>>>,
    events: broadcast::Sender<MemberEvent>,
    memory: Option<PathBuf>,
}

impl Driver {
    async fn run(mut self, mut datagrams: mpsc::Receiver<Datagram>, mut commands: mpsc::Receiver<Command>) {
        loop {
            self.carry_out();
            let until = self.started + self.swim.deadline().min(Duration::from_secs(3600));
            tokio::select! {
                // What has arrived is read before time is let pass: an answer that waits is an answer.
                biased;
                datagram = datagrams.recv() => {
                    let Some(datagram) = datagram else { return };
                    self.swim.receive(self.started.elapsed(), &datagram.from, &datagram.bytes);
                }
                command = commands.recv() => match command {
                    Some(Command::Exchange(from, state, reply)) => {
                        self.swim.merge(self.started.elapsed(), &from, &state);
                        if let Some(reply) = reply {
                            // A peer that no longer waits needs no answer.
                            let _ = reply.send(self.swim.state().into());
                        }
                    }
                    Some(Command::Announce(seeds)) => self.swim.announce(self.started.elapsed(), &seeds),
                    Some(Command::SetFacts(facts)) => self.swim.set_facts(self.started.elapsed(), facts),
                    Some(Command::Leave(done)) => {
                        self.leave(&mut datagrams).await;
                        let _ = done.send(());
                        return;
                    }
                    // No handle is left: the process is stopping.
                    None => return,
                },
                () = tokio::time::sleep_until(until.into()) => self.swim.advance(self.started.elapsed()),
            }
        }
    }

    /// Gossips on for a moment after each of the two steps.
    async fn leave(&mut self, datagrams: &mut mpsc::Receiver<Datagram>) {
        self.swim.begin_leave(self.started.elapsed());
        self.carry_out();
        let until = Instant::now() + LEAVE_STEP;
        loop {
            let next = (self.started + self.swim.deadline()).min(until);
            tokio::select! {
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => self.swim.receive(self.started.elapsed(), &datagram.from, &datagram.bytes),
                    None => break,
                },
                () = tokio::time::sleep_until(next.into()) => self.swim.advance(self.started.elapsed()),
            }
            self.carry_out();
            if Instant::now() >= until {
                break;
            }
        }
        self.swim.leave(self.started.elapsed());
        self.carry_out();
        tokio::time::sleep(LEAVE_STEP).await;
    }

    /// Sends, publishes, and tells the mesh where members are.
    fn carry_out(&mut self) {
        let events = self.swim.take_events();
        for event in &events {
            let member = event.member();
            match event {
                MemberEvent::Joined(_) | MemberEvent::Changed(_) | MemberEvent::Recovered(_) => {
                    self.mesh.set_address(&member.name, member.address);
                }
                MemberEvent::Down(_) => {
                    tracing::warn!(node = %member.name, "a member is declared dead");
                    self.mesh.disconnect(&member.name, "the member was declared dead");
                }
                MemberEvent::Left(_) => tracing::info!(node = %member.name, "a member has left"),
                MemberEvent::Suspected(_) => tracing::info!(node = %member.name, "a member does not answer"),
            }
            if matches!(event, MemberEvent::Joined(_)) {
                tracing::info!(node = %member.name, address = %member.address, "a member has joined");
            }
        }
        for outgoing in self.swim.take_outgoing() {
            if self.mesh.address_of(&outgoing.to).is_none() {
                self.mesh.set_address(&outgoing.to, outgoing.address);
            }
            self.mesh.send_datagram(&outgoing.to, outgoing.bytes);
        }
        if let Some(with) = self.swim.take_exchange() {
            self.exchange(with);
        }
        let members = self.swim.members();
        let changed = self.publish.send_if_modified(|published| {
            let changed = *published != members;
            if changed {
                *published = members;
            }
            changed
        });
        if changed {
            self.remember();
        }
        for event in events {
            // No subscriber is no failure.
            let _ = self.events.send(event);
        }
    }

    /// Sends the whole state to a member, and has its own brought in as a command.
    fn exchange(&self, with: NodeName) {
        let (mesh, commands) = (self.mesh.clone(), self.commands.clone());
        let state = Bytes::from(self.swim.state());
        tokio::spawn(async move {
            match mesh.call(&with, Purpose::Membership, state, EXCHANGE_TIMEOUT).await {
                Ok(theirs) if !theirs.is_empty() => {
                    if let Some(commands) = commands.upgrade() {
                        // As above: a driver that has ended needs nothing more.
                        let _ = commands.send(Command::Exchange(with, theirs, None)).await;
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the members could not be exchanged"),
            }
        });
    }

    fn remember(&self) {
        let Some(path) = &self.memory else { return };
        let memory = Memory {
            incarnation: self.swim.identity().incarnation,
            members: self
                .swim
                .known()
                .iter()
                .map(|(name, address)| (name.clone(), *address))
                .collect(),
        };
        let text = serde_json::to_vec(&memory).expect("names and addresses always have a JSON form");
        if let Err(error) = write_private(path, &text) {
            tracing::warn!(path = %path.display(), %error, "the members' addresses could not be remembered");
        }
    }
}

/// What was remembered; nothing if there is no file, or one that a crash has spoilt: then the seeds have to do.
fn read_memory(path: &std::path::Path) -> Memory {
    let Ok(bytes) = std::fs::read(path) else {
        return Memory::default();
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the remembered members are unreadable");
        Memory::default()
    })
}

/// The wall clock, for incarnations and for dates that people read.
fn wall_clock() -> UnixMillis {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(since.as_millis() as u64)
}
