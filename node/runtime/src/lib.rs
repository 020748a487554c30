//! Starts pods as processes: namespaces, cgroups, images, volumes, logs. The node process opens a [`LinuxRuntime`] and
//! calls it through `protocol::runtime::PodRuntime`; it never decides whether something should run.
//!
//! A container's start, step by step, is the folder tree:
//!
//! 1. `images`      the image is made present and its layers are unpacked once
//! 2. `linux`       the node's side: the pod's directory, its cgroups, its volumes, its parent process
//! 3. `pod_parent`  the pod's side: a small process per pod that outlives the node process
//! 4. `container`   the container's side: from clone to exec
//!
//! Invariants: a container is never a child of the node process; nothing of a pod lies outside its directory, its cgroup
//! and the mount namespace of its parent, so that removing those removes the pod; an exit is on disk before it is reaped.
#![allow(clippy::disallowed_methods)] // acting code: it stamps starts, exits and log lines with the machine's clock

pub mod cgroup;
pub mod container;
mod failure;
pub mod images;
pub mod linux;
pub mod pod_parent;
pub mod preflight;

pub use linux::{LinuxRuntime, RuntimeConfig, destroy_all};
pub use preflight::{MissingFeature, preflight, preflight_data_dir};
