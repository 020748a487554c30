//! The container's side of a start, from clone to exec. One file per step; `init` puts them in order. All of it runs in
//! the per-pod parent process or in the child that it clones: single-threaded, without tokio, without the node's memory.

pub mod capabilities;
pub(crate) mod clone;
pub(crate) mod devices;
pub(crate) mod exec;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod launch;
pub(crate) mod masks;
pub(crate) mod mounts;
pub(crate) mod rootfs;
pub mod seccomp;
pub mod user;
pub(crate) mod user_namespace;

pub use launch::{BindMount, CgroupEntry, CgroupMount, ContainerLaunch, LaunchFailure, RootSource, UserChoice};
pub use user_namespace::IdRange;
