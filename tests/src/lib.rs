//! What end-to-end tests share: machines that are network namespaces, clusters of real node processes on them, the
//! unmodified kubectl, connections on which a test chooses every byte, and waiting for a condition with a bound. The tests themselves are in `tests/`.
//!
//! Everything that a test makes carries its process id in its name and is removed when it ends, also when it fails.

pub mod cluster;
pub mod following;
pub mod helm;
pub mod http2;
pub mod https;
pub mod https_server;
pub mod kernel;
pub mod kubectl;
pub mod machine;
pub mod remains;
pub mod wait;

pub use cluster::{Cluster, NodeOptions, is_ready};
pub use following::Following;
pub use helm::Helm;
pub use kubectl::Kubectl;
pub use wait::wait_for;
