//! Who is who in a cluster: the CA, the certificates of nodes and administrators, the key that signs service accounts'
//! tokens, and the files that keep a node's own. Called by the process that starts or joins a cluster, by the mesh
//! (which checks peers against the CA) and by the gateway.
//!
//! The CA's key lives in the replicated store (`AuthorityMaterial`), so that any leader can admit a joiner; a node keeps
//! only its own key on disk. Nothing here decides who may join: `join` does.

mod authority;
mod certificate;
mod files;
mod node;
mod service_account;

pub use authority::{
    ADMIN_VALIDITY_DAYS, AuthorityMaterial, CertificateOrder, ClusterAuthority, Issued, NODE_VALIDITY_DAYS,
    RequestedNames, read_request,
};
pub use certificate::{CertificateFacts, fingerprint, renewal_due};
pub use files::{PkiDirectory, write_private};
pub use node::{NodeIdentity, NodeKey};
pub use service_account::ServiceAccountKey;

use std::path::PathBuf;

/// The prefix of a node certificate's common name; the node's name follows.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The organisation (group) of nodes.
pub const NODES_GROUP: &str = "system:nodes";
/// The organisation (group) of administrators.
pub const ADMINISTRATORS_GROUP: &str = "system:masters";
/// The user name in the administrator's certificate.
pub const ADMINISTRATOR_USER: &str = "kubernetes-admin";

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A key or certificate cannot be made.
    #[error("{what} cannot be made: {source}")]
    Generate {
        /// What was to be made.
        what: &'static str,
        /// The library's words.
        source: rcgen::Error,
    },
    /// A certificate signing request is not one, or does not prove that its sender has the key.
    #[error("the certificate signing request is refused: {source}")]
    Request {
        /// The library's words.
        source: rcgen::Error,
    },
    /// A text or file does not hold what it should.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// What it should be.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The key does not belong to the certificate.
    #[error(
        "the key of node {node} does not belong to its certificate: the files in the pki directory come from two different nodes or times"
    )]
    KeyMismatch {
        /// The certificate's node.
        node: String,
    },
    /// The certificate names no node.
    #[error("the certificate's common name is {found:?}, not {NODE_USER_PREFIX}NAME: it is not a node's certificate")]
    NotANode {
        /// Its common name.
        found: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// rustls refuses the material.
    #[error("TLS refuses the identity of node {node}: {source}")]
    Tls {
        /// The node.
        node: String,
        /// The library's words.
        source: rustls::Error,
    },
}

/// Installs rustls' ring provider for the whole process. Several libraries in one process bring different providers, and
/// rustls refuses to choose: call this first in `main`. Calling it again does nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
