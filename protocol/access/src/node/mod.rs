//! What a node's agent may do: read what its own pods refer to, write what is its own. The graph follows pods, volumes and
//! attachments as they are written; the authorizer decides from it before a request is read, the restriction decides on the
//! object that a request would write. After Kubernetes' Node authorizer and NodeRestriction admission.

mod authorizer;
mod graph;
mod labels;
mod references;
mod restriction;

pub use graph::{NodeGraph, Related};
pub use restriction::{Needed, NodeWrite, Operation, needed, restrict};
