//! openraft's requests to other members, over the transport. Whatever goes wrong is "unreachable" to openraft, which
//! then waits a little before it tries again; it must never wait on a peer without a deadline.

use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend};
use protocol::NodeName;
use protocol::codec::{self, CodecError};
use protocol::object::Body;
use protocol::transport::{Purpose, Transport, TransportError};

use crate::standing::Standing;
use crate::state_machine::snapshot_files;
use crate::types::{LogId, Member, Snapshot, TypeConfig, Vote};
use crate::wire::{PeerAnswer, PeerAsk, PeerRequest, append_ask, vote_ask};

/// One part of a snapshot's file.
const PART_BYTES: usize = 1 << 20;

/// How long one part may take, and the last request, upon which the peer opens the store that it received.
const PART_DEADLINE: Duration = Duration::from_secs(5);
const INSTALL_DEADLINE: Duration = Duration::from_secs(60);

/// Waits between attempts at a peer that does not answer.
const BACKOFF_MS: [u64; 4] = [50, 100, 200, 400];

/// Why a peer gave no usable answer.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("{node} cannot: {reason}")]
    Failed { node: NodeName, reason: String },
    #[error("this node was removed from the members while it was away")]
    Removed,
    #[error("{node} answered something else than was asked")]
    Unexpected { node: NodeName },
}

/// Makes connections to members.
#[derive(Clone)]
pub struct Network {
    pub transport: Arc<dyn Transport>,
    pub standing: Standing,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            transport: self.transport.clone(),
            standing: self.standing.clone(),
            raft_id: target,
            name: node.name.clone(),
        }
    }
}

/// One member, as openraft speaks to it.
pub struct Peer {
    transport: Arc<dyn Transport>,
    standing: Standing,
    raft_id: u64,
    name: NodeName,
}

impl Peer {
    async fn ask(&self, ask: PeerAsk, deadline: Duration) -> Result<PeerAnswer, PeerError> {
        let request = Bytes::from(codec::encode(&PeerRequest { to: self.raft_id, ask })?);
        let answer = self
            .transport
            .call(&self.name, Purpose::Consensus, request, deadline)
            .await?;
        match codec::decode(&answer)? {
            PeerAnswer::Failed(reason) => Err(PeerError::Failed {
                node: self.name.clone(),
                reason,
            }),
            answer => Ok(answer),
        }
    }

    fn unexpected(&self) -> PeerError {
        PeerError::Unexpected {
            node: self.name.clone(),
        }
    }

    /// Sends all files; the peer installs them before it answers the last request.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
    ) -> Result<Vote, StreamingError<TypeConfig, Fatal<u64>>> {
        let directory = snapshot.snapshot.path();
        let files = snapshot_files(directory).map_err(|error| network(&error))?;
        let begin = PeerAsk::SnapshotBegin {
            vote: vote.into(),
            meta: (&snapshot.meta).into(),
            files: files.clone(),
        };
        let transfer = match self.ask(begin, PART_DEADLINE).await.map_err(|error| network(&error))? {
            PeerAnswer::SnapshotReady { transfer } => transfer,
            PeerAnswer::HigherVote(higher) => return Ok(higher.into()),
            _ => return Err(network(&self.unexpected())),
        };
        for (number, file) in files.iter().enumerate() {
            let mut content = std::fs::File::open(directory.join(&file.name)).map_err(|error| network(&error))?;
            let mut offset = 0;
            while offset < file.bytes {
                let mut part = vec![0; PART_BYTES.min((file.bytes - offset) as usize)];
                content.read_exact(&mut part).map_err(|error| network(&error))?;
                let length = part.len() as u64;
                let bytes = Body(Bytes::from(part));
                let ask = PeerAsk::SnapshotPart {
                    transfer,
                    file: number as u32,
                    offset,
                    bytes,
                };
                match self.ask(ask, PART_DEADLINE).await.map_err(|error| network(&error))? {
                    PeerAnswer::SnapshotPartTaken => offset += length,
                    _ => return Err(network(&self.unexpected())),
                }
            }
        }
        match self
            .ask(PeerAsk::SnapshotEnd { transfer }, INSTALL_DEADLINE)
            .await
            .map_err(|error| network(&error))?
        {
            PeerAnswer::SnapshotInstalled { vote } => Ok(vote.into()),
            _ => Err(network(&self.unexpected())),
        }
    }
}

fn network(error: &(impl std::error::Error + 'static)) -> StreamingError<TypeConfig, Fatal<u64>> {
    StreamingError::Network(NetworkError::new(error))
}

fn unreachable<E: std::error::Error>(error: &PeerError) -> RPCError<u64, Member, RaftError<u64, E>>
where
    RaftError<u64, E>: std::error::Error,
{
    RPCError::Unreachable(Unreachable::from(AnyError::error(error.to_string())))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        match self.ask(append_ask(&request), option.hard_ttl()).await {
            Ok(PeerAnswer::Appended) => Ok(AppendEntriesResponse::Success),
            Ok(PeerAnswer::AppendedUpTo(upto)) => Ok(AppendEntriesResponse::PartialSuccess(upto.map(LogId::from))),
            Ok(PeerAnswer::Conflict) => Ok(AppendEntriesResponse::Conflict),
            Ok(PeerAnswer::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            Ok(_) => Err(unreachable(&self.unexpected())),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        match self.ask(vote_ask(&request), option.hard_ttl()).await {
            Ok(PeerAnswer::Voted { vote, last, granted }) => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(LogId::from), granted))
            }
            Ok(PeerAnswer::Standing { removed: true }) => {
                self.standing.set_removed(true);
                Err(unreachable(&PeerError::Removed))
            }
            Ok(_) => Err(unreachable(&self.unexpected())),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let send = std::pin::pin!(self.send_snapshot(vote, &snapshot));
        match select(send, std::pin::pin!(cancel)).await {
            Either::Left((sent, _)) => Ok(SnapshotResponse { vote: sent? }),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        let last = BACKOFF_MS[BACKOFF_MS.len() - 1];
        Backoff::new(
            BACKOFF_MS
                .into_iter()
                .chain(std::iter::repeat(last))
                .map(Duration::from_millis),
        )
    }
}
