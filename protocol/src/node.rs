//! What one node asks of another beyond the store: the log of a pod that runs there. The gateway that serves
//! `pods/log` calls `NodeDoor`; the node process implements it over the mesh.

use async_trait::async_trait;

use crate::NodeName;
use crate::runtime::{LogRequest, LogStream};

/// Why a node did not serve a request.
#[derive(Debug, thiserror::Error)]
pub enum NodeDoorError {
    /// The node is not a member, or does not answer.
    #[error("node {node} cannot be reached: {reason}")]
    Unreachable {
        /// The node.
        node: NodeName,
        /// What was seen.
        reason: String,
    },
    /// The node answered with a refusal, such as a container that does not exist there.
    #[error("{0}")]
    Refused(String),
}

/// Doors of the other nodes.
#[async_trait]
pub trait NodeDoor: Send + Sync + 'static {
    /// Reads the log of a container that runs on `node`.
    async fn logs(&self, node: &NodeName, request: LogRequest) -> Result<LogStream, NodeDoorError>;
}
