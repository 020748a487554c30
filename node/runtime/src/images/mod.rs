//! Images: pulled from registries or imported from OCI layouts, their layers unpacked once and shared by all containers.
//! The store is a directory of files that appear by rename; several processes may use it at once (the node process, and
//! `actorium image import`). Nothing in it is trusted before its digest is checked.

mod import;
mod manifest;
mod pull;
mod reference;
mod store;
mod unpack;

pub use manifest::ImageConfig;
pub use pull::{PullSettings, Puller};
pub use reference::normalize;
pub use store::{ImageStore, StoredImage};
