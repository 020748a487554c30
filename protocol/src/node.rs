//! What one node asks of another beyond the store: the log of a pod that runs there, and sessions with its containers. The
//! gateway that serves `pods/log`, `pods/exec` and the like calls `NodeDoor`; the node process implements it over the mesh.

use async_trait::async_trait;

use crate::NodeName;
use crate::runtime::{LogRequest, LogStream};
use crate::session::{AttachSpec, ExecSpec, InputStream, OutputStream, PortInput, PortOutput, PortSpec};

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
    /// The node answered that it does not have what was named.
    #[error("{0}")]
    Absent(String),
}

/// Doors of the other nodes.
#[async_trait]
pub trait NodeDoor: Send + Sync + 'static {
    /// Reads the log of a container that runs on `node`.
    async fn logs(&self, node: &NodeName, request: LogRequest) -> Result<LogStream, NodeDoorError>;

    /// Runs a command in a container that runs on `node`. A door that has no sessions refuses.
    async fn exec(&self, node: &NodeName, spec: ExecSpec, input: InputStream) -> Result<OutputStream, NodeDoorError> {
        let _ = (spec, input);
        Err(no_sessions(node))
    }

    /// Joins the streams of a container that runs on `node`.
    async fn attach(
        &self,
        node: &NodeName,
        spec: AttachSpec,
        input: InputStream,
    ) -> Result<OutputStream, NodeDoorError> {
        let _ = (spec, input);
        Err(no_sessions(node))
    }

    /// Connects to a port of a pod that runs on `node`.
    async fn port_forward(
        &self,
        node: &NodeName,
        spec: PortSpec,
        input: PortInput,
    ) -> Result<PortOutput, NodeDoorError> {
        let _ = (spec, input);
        Err(no_sessions(node))
    }
}

fn no_sessions(node: &NodeName) -> NodeDoorError {
    NodeDoorError::Refused(format!("no sessions with pods of node {node} are carried from here"))
}
