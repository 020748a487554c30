//! Serves the store to other nodes, while this one leads; and what travels between them. Registered with the mesh for
//! `Purpose::Store`. A node that does not lead says who does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::{StreamExt, stream};
use protocol::store::{Committed, ListPage, ListRequest, Proposal, ProposeError, ReadError, WatchItem, WatchRequest};
use protocol::transport::{FrameStream, Service};
use protocol::{Key, NodeName, Object, Revision, codec};

use crate::consensus::Consensus;
use crate::front::NotLeader;

/// What a node asks the leader.
#[derive(Clone, Debug, Encode, Decode)]
pub enum StoreRequest {
    Propose { proposals: Vec<Proposal>, deadline_ms: u64 },
    Read(Key),
    List(ListRequest),
    Revision,
}

/// What it is answered.
#[derive(Clone, Debug, Encode, Decode)]
pub enum StoreAnswer {
    Proposed(Vec<Result<Committed, ProposeError>>),
    Read(Result<Option<Arc<Object>>, ReadError>),
    Listed(Result<ListPage, ReadError>),
    Revision(Result<Revision, ReadError>),
    NotLeader {
        hint: Option<NodeName>,
    },
    /// The request does not decode: the nodes' versions are too far apart.
    Malformed(String),
}

/// The frames of a watch.
#[derive(Clone, Debug, Encode, Decode)]
pub enum WatchFrame {
    /// The watch is open; items follow.
    Opened,
    Refused(ReadError),
    NotLeader {
        hint: Option<NodeName>,
    },
    Items(Vec<WatchItem>),
}

/// One answer carries about so many bytes of a list; the client asks for the rest.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// Objects that are looked at for one answer.
const PAGE_OBJECTS_MAX: usize = 4000;

/// Items of a watch that travel in one frame when they are there together.
const FRAME_ITEMS_MAX: usize = 64;

/// The store's side towards other nodes.
pub struct StoreService {
    consensus: Arc<Consensus>,
}

impl StoreService {
    pub fn new(consensus: Arc<Consensus>) -> StoreService {
        StoreService { consensus }
    }

    async fn answer(&self, request: StoreRequest) -> Result<StoreAnswer, NotLeader> {
        match request {
            StoreRequest::List(request) => Ok(StoreAnswer::Listed(self.list(request).await?)),
            request => answer(&self.consensus, request).await,
        }
    }

    async fn list(&self, mut request: ListRequest) -> Result<Result<ListPage, ReadError>, NotLeader> {
        if request.limit == 0 || request.limit > PAGE_OBJECTS_MAX {
            request.limit = PAGE_OBJECTS_MAX;
        }
        let mut listed = self.consensus.list_here(request).await?;
        if let Ok(page) = &mut listed {
            let mut bytes = 0;
            let fitting = page.items.iter().take_while(|(_, object)| {
                bytes += object.body.0.len() + 512;
                bytes <= PAGE_BYTES_MAX
            });
            let fitting = fitting.count().max(1);
            if fitting < page.items.len() {
                page.remaining = page
                    .remaining
                    .or((!page.more).then_some(0))
                    .map(|remaining| remaining + (page.items.len() - fitting) as u64);
                page.items.truncate(fitting);
                page.more = true;
            }
        }
        Ok(listed)
    }
}

/// Answers a request if this node leads.
pub async fn answer(consensus: &Consensus, request: StoreRequest) -> Result<StoreAnswer, NotLeader> {
    Ok(match request {
        StoreRequest::Propose { proposals, deadline_ms } => {
            let deadline = Duration::from_millis(deadline_ms);
            StoreAnswer::Proposed(consensus.propose_here(proposals, deadline).await?)
        }
        StoreRequest::Read(key) => StoreAnswer::Read(consensus.read_here(&key).await?),
        StoreRequest::List(request) => StoreAnswer::Listed(consensus.list_here(request).await?),
        StoreRequest::Revision => StoreAnswer::Revision(consensus.revision_here().await?),
    })
}

fn encode<T: Encode>(message: &T) -> Bytes {
    let encoded = codec::encode(message).or_else(|error| codec::encode(&StoreAnswer::Malformed(error.to_string())));
    Bytes::from(encoded.expect("a short text encodes"))
}

#[async_trait]
impl Service for StoreService {
    async fn call(&self, _from: &NodeName, request: Bytes) -> Bytes {
        let answer = match codec::decode(&request) {
            Ok(request) => self
                .answer(request)
                .await
                .unwrap_or_else(|NotLeader { hint }| StoreAnswer::NotLeader { hint }),
            Err(error) => StoreAnswer::Malformed(error.to_string()),
        };
        encode(&answer)
    }

    async fn stream(&self, _from: &NodeName, request: Bytes) -> FrameStream {
        let one = |frame: WatchFrame| -> FrameStream { Box::pin(stream::iter([Ok(encode(&frame))])) };
        let request: WatchRequest = match codec::decode(&request) {
            Ok(request) => request,
            Err(error) => {
                return one(WatchFrame::Refused(ReadError::Unavailable {
                    reason: error.to_string(),
                }));
            }
        };
        match self.consensus.watch_here(request).await {
            Ok(Ok(items)) => {
                let items = items
                    .ready_chunks(FRAME_ITEMS_MAX)
                    .map(|items| Ok(encode(&WatchFrame::Items(items))));
                Box::pin(stream::iter([Ok(encode(&WatchFrame::Opened))]).chain(items))
            }
            Ok(Err(error)) => one(WatchFrame::Refused(error)),
            Err(NotLeader { hint }) => one(WatchFrame::NotLeader { hint }),
        }
    }
}
