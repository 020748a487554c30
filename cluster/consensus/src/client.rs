//! `ObjectStore` on every node: in process where this node leads, from its own replica where it follows, over the transport
//! elsewhere. It finds the leader and follows it. A read is asked again until its deadline; a proposal only where nothing
//! can have been written.
#![allow(clippy::disallowed_methods)] // acting code: every call has a deadline

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bincode::Encode;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::RwLock;
use protocol::store::{
    BodyList, Committed, ListPage, ListRequest, ObjectStore, Proposal, ProposeError, ReadError, WatchRequest,
    WatchStream,
};
use protocol::transport::{FrameStream, Purpose, Transport, TransportError};
use protocol::{Key, NodeName, Object, Revision, codec};
use tokio::time::{sleep, timeout};

use crate::consensus::Consensus;
use crate::follower::Rounds;
use crate::front::{NotLeader, size};
use crate::status::Status;
use crate::store_service::{StoreAnswer, StoreRequest, WatchFrame, answer};

/// How long a call may take in all.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long one attempt of a read may take: a leader that hangs is not waited for until the end.
const READ_ATTEMPT: Duration = Duration::from_secs(2);

/// The pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(25);

/// A watch over the transport that yields nothing for so long is over: the store reports progress every two seconds.
const WATCH_SILENCE: Duration = Duration::from_secs(8);

/// Proposals of one call travel together up to about so many bytes, well below the largest message.
const CALL_BYTES: usize = 8 << 20;

/// Machines that may know the leader: the voters as gossip tells them, or any members.
pub type Candidates = Arc<dyn Fn() -> Vec<NodeName> + Send + Sync>;

/// The store for everyone on this node.
pub struct StoreClient {
    transport: Arc<dyn Transport>,
    consensus: RwLock<Option<Arc<Consensus>>>,
    candidates: Candidates,
    next_candidate: AtomicUsize,
    known: RwLock<Known>,
    rounds: Rounds,
    this: Weak<StoreClient>,
}

/// What the last answers told.
#[derive(Default)]
struct Known {
    /// The leader that answered, or that a node named.
    leader: Option<NodeName>,
    /// Whether it has answered as the leader. A proposal goes to no other: when one is lost on its way to a node that
    /// is merely believed to lead, such as one that has just died, its outcome would be unknown for nothing.
    confirmed: bool,
    /// The node that was asked last and could not answer: others are asked first.
    suspect: Option<NodeName>,
    /// The leader, and its term, in whom this node's own part in consensus believed when another one answered as the
    /// leader. A learner that was removed hears of no later leader and would be asked in vain with every call.
    refuted: Option<(NodeName, u64)>,
}

/// Where a request goes.
pub(crate) enum Route {
    Here(Arc<Consensus>),
    There(NodeName),
    Nowhere,
}

/// Why an attempt gave no answer.
pub(crate) enum Failed {
    /// It was certainly not carried out.
    NotDone { reason: String },
    /// It may have been.
    Unknown { reason: String },
}

impl From<NotLeader> for Failed {
    fn from(_: NotLeader) -> Self {
        Failed::NotDone {
            reason: "this node has just lost the lead".to_owned(),
        }
    }
}

impl StoreClient {
    /// A client on a node that takes part in consensus, or does not (`None`).
    pub fn new(
        transport: Arc<dyn Transport>,
        consensus: Option<Arc<Consensus>>,
        candidates: Candidates,
    ) -> Arc<StoreClient> {
        Arc::new_cyclic(|this| StoreClient {
            transport,
            consensus: RwLock::new(consensus),
            candidates,
            next_candidate: AtomicUsize::new(0),
            known: RwLock::default(),
            rounds: Rounds::default(),
            this: this.clone(),
        })
    }

    pub(crate) fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    pub(crate) fn shared(&self) -> Option<Arc<StoreClient>> {
        self.this.upgrade()
    }

    /// This node's part in consensus, where it leads.
    fn leading(&self) -> Option<Arc<Consensus>> {
        let consensus = self.consensus.read();
        consensus.as_ref().filter(|consensus| consensus.is_leader()).cloned()
    }

    /// This node's part in consensus, where it has a replica that follows a leader elsewhere.
    pub(crate) fn followed(&self) -> Option<Arc<Consensus>> {
        let consensus = self.consensus.read().clone()?;
        consensus.follows().then_some(consensus)
    }

    /// Tells the client that this node now takes part in consensus, or no longer does.
    pub fn set_consensus(&self, consensus: Option<Arc<Consensus>>) {
        *self.consensus.write() = consensus;
    }

    /// Why there is nobody to ask.
    fn nobody(&self) -> Failed {
        let failed = (self.consensus.read().as_ref()).and_then(|consensus| consensus.status().failed);
        let reason = match failed {
            Some(failed) => format!("consensus has stopped on this node: {failed}"),
            None => "no node that could know the leader is known".to_owned(),
        };
        Failed::NotDone { reason }
    }

    /// The leader, as far as is known: from this node's own part in consensus, or as the one who answered last.
    pub fn leader(&self) -> Option<NodeName> {
        match self.known_route() {
            Some(Route::Here(consensus)) => Some(consensus.node().clone()),
            Some(Route::There(node)) => Some(node),
            Some(Route::Nowhere) | None => None,
        }
    }

    pub(crate) fn known_route(&self) -> Option<Route> {
        let known = self.known.read();
        let local = self.transport.local();
        let elsewhere = |node: &NodeName| node != local;
        if let Some(consensus) = &*self.consensus.read() {
            if consensus.is_leader() {
                return Some(Route::Here(consensus.clone()));
            }
            let status = consensus.status();
            // What a node remembers whose consensus has stopped, or that was removed from the members, is out of date.
            let heard = believed(&status).filter(|_| status.failed.is_none() && consensus.is_member());
            let current = heard.filter(|believed| known.refuted.as_ref() != Some(believed));
            if let Some((leader, _)) =
                current.filter(|(node, _)| elsewhere(node) && known.suspect.as_ref() != Some(node))
            {
                return Some(Route::There(leader));
            }
        }
        known.leader.clone().filter(elsewhere).map(Route::There)
    }

    fn route(&self) -> Route {
        if let Some(route) = self.known_route() {
            return route;
        }
        let known = self.known.read();
        let local = self.transport.local();
        let mut candidates: Vec<NodeName> = (self.candidates)().into_iter().filter(|node| node != local).collect();
        if candidates.len() > 1 {
            candidates.retain(|node| known.suspect.as_ref() != Some(node));
        }
        if candidates.is_empty() {
            return Route::Nowhere;
        }
        let turn = self.next_candidate.fetch_add(1, Ordering::Relaxed);
        Route::There(candidates[turn % candidates.len()].clone())
    }

    /// Notes that a node could not answer, and whom it named.
    fn forget(&self, node: &NodeName, hint: Option<NodeName>) {
        let mut known = self.known.write();
        known.leader = match hint {
            Some(hint) if hint != *node => Some(hint),
            _ => known.leader.take().filter(|leader| leader != node),
        };
        known.confirmed = false;
        known.suspect = Some(node.clone());
    }

    /// Notes that a node answered as the leader.
    fn remember(&self, node: &NodeName) {
        if !self.is_confirmed(node) {
            let status = self.consensus.read().as_ref().map(|consensus| consensus.status());
            let refuted = status
                .and_then(|status| believed(&status))
                .filter(|(leader, _)| leader != node);
            *self.known.write() = Known {
                leader: Some(node.clone()),
                confirmed: true,
                suspect: None,
                refuted,
            };
        }
    }

    fn is_confirmed(&self, node: &NodeName) -> bool {
        let known = self.known.read();
        known.confirmed && known.leader.as_ref() == Some(node)
    }

    /// Makes sure that a node leads, by a question that can be lost without harm.
    async fn confirm(&self, node: &NodeName, deadline: Duration) -> Result<(), Failed> {
        if self.is_confirmed(node) {
            return Ok(());
        }
        match self
            .ask(node, &StoreRequest::Revision, deadline.min(READ_ATTEMPT))
            .await
        {
            Ok(_) => Ok(()),
            Err(Failed::NotDone { reason } | Failed::Unknown { reason }) => Err(Failed::NotDone { reason }),
        }
    }

    pub(crate) async fn ask(
        &self,
        node: &NodeName,
        request: &StoreRequest,
        deadline: Duration,
    ) -> Result<StoreAnswer, Failed> {
        let bytes = match codec::encode(request) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                return Err(Failed::NotDone {
                    reason: error.to_string(),
                });
            }
        };
        let answered = match self.transport.call(node, Purpose::Store, bytes, deadline).await {
            Ok(answer) => answer,
            Err(error @ (TransportError::UnknownNode(_) | TransportError::NotServed { .. })) => {
                self.forget(node, None);
                return Err(Failed::NotDone {
                    reason: error.to_string(),
                });
            }
            Err(error) => {
                self.forget(node, None);
                return Err(Failed::Unknown {
                    reason: error.to_string(),
                });
            }
        };
        match codec::decode(&answered) {
            Ok(StoreAnswer::NotLeader { hint }) => {
                self.forget(node, hint);
                Err(Failed::NotDone {
                    reason: format!("{node} does not lead"),
                })
            }
            Ok(StoreAnswer::Malformed(reason)) => Err(Failed::NotDone { reason }),
            Ok(answer) => {
                self.remember(node);
                Ok(answer)
            }
            Err(error) => Err(Failed::Unknown {
                reason: error.to_string(),
            }),
        }
    }

    async fn propose_once(
        &self,
        proposals: Vec<Proposal>,
        deadline: Duration,
    ) -> Result<Vec<Result<Committed, ProposeError>>, Failed> {
        match self.route() {
            Route::Here(consensus) => Ok(consensus.propose_here(proposals, deadline).await?),
            Route::There(node) => {
                self.confirm(&node, deadline).await?;
                let count = proposals.len();
                let request = StoreRequest::Propose {
                    proposals,
                    deadline_ms: deadline.as_millis() as u64,
                };
                match self.ask(&node, &request, deadline).await? {
                    StoreAnswer::Proposed(outcomes) if outcomes.len() == count => Ok(outcomes),
                    _ => Err(Failed::Unknown {
                        reason: format!("{node} answered something else than was asked"),
                    }),
                }
            }
            Route::Nowhere => Err(self.nobody()),
        }
    }

    /// Proposes as much as one message carries.
    async fn propose_part(&self, proposals: Vec<Proposal>) -> Vec<Result<Committed, ProposeError>> {
        let begun = Instant::now();
        let count = proposals.len();
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let error = match self.propose_once(proposals.clone(), left).await {
                Ok(outcomes) => return outcomes,
                Err(Failed::NotDone { reason }) => {
                    if begun.elapsed() + PAUSE < DEADLINE {
                        sleep(PAUSE).await;
                        continue;
                    }
                    ProposeError::NoLeader { reason }
                }
                Err(Failed::Unknown { reason }) => {
                    tracing::debug!(%reason, "the outcome of a proposal is unknown");
                    ProposeError::Unknown {
                        deadline_ms: begun.elapsed().as_millis() as u64,
                    }
                }
            };
            return (0..count).map(|_| Err(error.clone())).collect();
        }
    }

    /// Asks for something that changes nothing, until the deadline.
    async fn read_with<T>(
        &self,
        request: StoreRequest,
        unwrap: impl Fn(StoreAnswer) -> Option<Result<T, ReadError>>,
    ) -> Result<T, ReadError> {
        let begun = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let answered = match self.route() {
                Route::Here(consensus) => match timeout(left, answer(&consensus, request.clone())).await {
                    Ok(answered) => answered.map_err(Failed::from),
                    Err(_) => Err(Failed::Unknown {
                        reason: "no majority of the voters answers".to_owned(),
                    }),
                },
                Route::There(node) => self.ask(&node, &request, left.min(READ_ATTEMPT)).await,
                Route::Nowhere => Err(self.nobody()),
            };
            let reason = match answered.map(&unwrap) {
                Ok(Some(Err(ReadError::Unavailable { reason }))) => reason,
                Ok(Some(answer)) => return answer,
                Ok(None) => "the leader answered something else than was asked".to_owned(),
                Err(Failed::NotDone { reason } | Failed::Unknown { reason }) => reason,
            };
            if begun.elapsed() + PAUSE >= DEADLINE {
                return Err(ReadError::Unavailable { reason });
            }
            sleep(PAUSE).await;
        }
    }

    async fn watch_there(
        &self,
        node: &NodeName,
        request: &WatchRequest,
    ) -> Result<Result<WatchStream, ReadError>, Failed> {
        let failed = |reason: String| Failed::Unknown { reason };
        let bytes = encode(request).map_err(failed)?;
        let opened = timeout(READ_ATTEMPT, async {
            let mut frames = self.transport.stream(node, Purpose::Store, bytes).await?;
            let first = frames.next().await.transpose()?;
            Ok::<_, TransportError>((first, frames))
        });
        let (first, frames) = match opened.await {
            Ok(Ok((Some(first), frames))) => (first, frames),
            Ok(Ok((None, _))) => {
                self.forget(node, None);
                return Err(failed(format!("{node} closed the watch at once")));
            }
            Ok(Err(error)) => {
                self.forget(node, None);
                return Err(failed(error.to_string()));
            }
            Err(_) => {
                self.forget(node, None);
                return Err(failed(format!("{node} did not open the watch in time")));
            }
        };
        match codec::decode(&first) {
            Ok(WatchFrame::Opened) => Ok(Ok(items_of(frames))),
            Ok(WatchFrame::Refused(error)) => Ok(Err(error)),
            Ok(WatchFrame::NotLeader { hint }) => {
                self.forget(node, hint);
                Err(Failed::NotDone {
                    reason: format!("{node} does not lead"),
                })
            }
            Ok(WatchFrame::Items(_)) => Err(failed(format!("{node} sent items of a watch before it was open"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// In whom this node's part in consensus believes, and since when.
fn believed(status: &Status) -> Option<(NodeName, u64)> {
    Some((status.leader.clone()?, status.term))
}

fn encode<T: Encode>(message: &T) -> Result<Bytes, String> {
    codec::encode(message)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

/// The items of a watch's frames. A frame that does not decode, an error and silence end it: the watcher opens another
/// one from the last revision that it saw.
fn items_of(frames: FrameStream) -> WatchStream {
    let batches = stream::unfold(frames, |mut frames| async move {
        let frame = timeout(WATCH_SILENCE, frames.next()).await.ok()??.ok()?;
        match codec::decode(&frame) {
            Ok(WatchFrame::Items(items)) => Some((stream::iter(items), frames)),
            _ => None,
        }
    });
    Box::pin(batches.flatten())
}

#[async_trait]
impl ObjectStore for StoreClient {
    async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeError> {
        let mut outcomes = self.propose_all(vec![proposal]).await;
        outcomes.pop().unwrap_or(Err(ProposeError::Unknown { deadline_ms: 0 }))
    }

    async fn propose_all(&self, proposals: Vec<Proposal>) -> Vec<Result<Committed, ProposeError>> {
        let mut outcomes = Vec::with_capacity(proposals.len());
        let (mut part, mut bytes) = (Vec::new(), 0);
        for proposal in proposals {
            bytes += size(&proposal);
            part.push(proposal);
            if bytes >= CALL_BYTES {
                outcomes.extend(self.propose_part(std::mem::take(&mut part)).await);
                bytes = 0;
            }
        }
        if !part.is_empty() {
            outcomes.extend(self.propose_part(part).await);
        }
        outcomes
    }

    async fn read(&self, key: &Key) -> Result<Option<Arc<Object>>, ReadError> {
        if let Some(read) = self.leading().and_then(|consensus| consensus.read_at_once(key)) {
            return read;
        }
        if let Some(consensus) = self.caught_up().await {
            return consensus.replica().read(key).map_err(ReadError::from);
        }
        self.read_with(StoreRequest::Read(key.clone()), |answer| match answer {
            StoreAnswer::Read(read) => Some(read),
            _ => None,
        })
        .await
    }

    async fn list(&self, mut request: ListRequest) -> Result<ListPage, ReadError> {
        if let Some(consensus) = self.caught_up().await {
            return consensus.list_replica(request).await;
        }
        let wanted = request.limit;
        let mut items: Vec<(Key, Arc<Object>)> = Vec::new();
        loop {
            let page = self.read_with(StoreRequest::List(request.clone()), |answer| match answer {
                StoreAnswer::Listed(listed) => Some(listed),
                _ => None,
            });
            let mut page = page.await?;
            items.append(&mut page.items);
            // A leader elsewhere answers in pages of its own size.
            let enough = wanted != 0 && items.len() >= wanted;
            match items.last() {
                Some((last, _)) if page.more && !enough => {
                    request.after = Some(last.clone());
                    request.at = Some(page.revision);
                    request.limit = if wanted == 0 { 0 } else { wanted - items.len() };
                }
                _ => return Ok(ListPage { items, ..page }),
            }
        }
    }

    async fn bodies(&self, request: ListRequest) -> Result<BodyList, ReadError> {
        if let Some(consensus) = self.leading()
            && let Ok(Ok(bodies)) = consensus.bodies_here(request.clone()).await
        {
            return Ok(bodies);
        }
        if let Some(consensus) = self.caught_up().await {
            return consensus.bodies_replica(request).await;
        }
        Ok(BodyList::of(&self.list(request).await?))
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, ReadError> {
        let begun = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let opened = match self.route() {
                Route::Here(consensus) => match timeout(left, consensus.watch_here(request.clone())).await {
                    Ok(opened) => opened.map_err(Failed::from),
                    Err(_) => Err(Failed::Unknown {
                        reason: "no majority of the voters answers".to_owned(),
                    }),
                },
                Route::There(node) => self.watch_there(&node, &request).await,
                Route::Nowhere => Err(self.nobody()),
            };
            let reason = match opened {
                Ok(Err(ReadError::Unavailable { reason })) => reason,
                Ok(opened) => return opened,
                Err(Failed::NotDone { reason } | Failed::Unknown { reason }) => reason,
            };
            if begun.elapsed() + PAUSE >= DEADLINE {
                return Err(ReadError::Unavailable { reason });
            }
            sleep(PAUSE).await;
        }
    }

    async fn revision(&self) -> Result<Revision, ReadError> {
        self.read_with(StoreRequest::Revision, |answer| match answer {
            StoreAnswer::Revision(revision) => Some(revision),
            _ => None,
        })
        .await
    }
}
