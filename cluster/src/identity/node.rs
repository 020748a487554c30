//! A node's own key and certificate, as the mesh and the gateway use them.

use std::sync::Arc;

use protocol::NodeName;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{CertificateFacts, IdentityError, NODE_USER_PREFIX};

/// A node's key before it has a certificate.
pub struct NodeKey {
    pair: KeyPair,
}

impl NodeKey {
    /// A new key, ECDSA P-256.
    pub fn generate() -> Result<NodeKey, IdentityError> {
        let pair = KeyPair::generate().map_err(|source| IdentityError::Generate {
            what: "the node's key",
            source,
        })?;
        Ok(NodeKey { pair })
    }

    /// The key of an existing node, for a renewal.
    pub fn from_pem(key_pem: &str) -> Result<NodeKey, IdentityError> {
        let pair = KeyPair::from_pem(key_pem).map_err(|error| IdentityError::Malformed {
            what: "the node's key".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(NodeKey { pair })
    }

    /// PKCS#8 PEM.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// A certificate signing request (DER), which proves possession of the key.
    pub fn signing_request(&self, name: &NodeName) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, format!("{NODE_USER_PREFIX}{name}"));
        params.distinguished_name = subject;
        let request = params
            .serialize_request(&self.pair)
            .map_err(|source| IdentityError::Generate {
                what: "the certificate signing request",
                source,
            })?;
        Ok(request.der().to_vec())
    }
}

/// A node's identity: its certificate, its key, and the CA by which it knows the others.
pub struct NodeIdentity {
    /// The node's name, from the certificate.
    pub name: NodeName,
    /// What the certificate says.
    pub facts: CertificateFacts,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PKCS#8 PEM.
    pub key_pem: String,
    /// The CA's certificate, PEM.
    pub authority_pem: String,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Puts the parts together, and checks that they belong together.
    pub fn new(certificate_pem: String, key_pem: String, authority_pem: String) -> Result<NodeIdentity, IdentityError> {
        let facts = CertificateFacts::from_pem(&certificate_pem)?;
        let name = facts.node_name()?;
        let identity = NodeIdentity {
            name,
            facts,
            certificate_pem,
            key_pem,
            authority_pem,
        };
        if !identity.facts.is_signed_by(&identity.authority_pem)? {
            return Err(IdentityError::Malformed {
                what: format!("the identity of node {}", identity.name),
                reason: "its certificate was not issued by the CA beside it".to_owned(),
            });
        }
        let key = NodeKey::from_pem(&identity.key_pem)?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&identity.facts.der).map_err(|error| IdentityError::Malformed {
                what: "the certificate".to_owned(),
                reason: error.to_string(),
            })?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.pair.public_key_raw() {
            return Err(IdentityError::KeyMismatch {
                node: identity.name.to_string(),
            });
        }
        Ok(identity)
    }

    /// The certificate as rustls wants it.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.facts.der.clone())]
    }

    /// The key as rustls wants it.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| IdentityError::Malformed {
            what: "the node's key".to_owned(),
            reason: error.to_string(),
        })
    }

    /// The CA as rustls' only root.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, IdentityError> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority_pem.as_bytes()).map_err(|error| {
            IdentityError::Malformed {
                what: "the CA's certificate".to_owned(),
                reason: error.to_string(),
            }
        })?;
        roots.add(authority).map_err(|source| IdentityError::Tls {
            node: self.name.to_string(),
            source,
        })?;
        Ok(Arc::new(roots))
    }
}

#[cfg(test)]
mod tests {
    use protocol::UnixMillis;

    use super::super::ClusterAuthority;
    use super::*;

    #[test]
    fn parts_of_different_nodes_do_not_make_an_identity() {
        let now = UnixMillis(1_800_000_000_000);
        let (authority, _) = ClusterAuthority::generate(now).unwrap();
        let (stranger, _) = ClusterAuthority::generate(now).unwrap();
        let name = NodeName::from("n1");
        let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let pem = authority
            .issue_node(&key.signing_request(&name).unwrap(), &name, &[], &[], now)
            .unwrap();
        let make = |key: &NodeKey, ca: &ClusterAuthority| {
            NodeIdentity::new(pem.clone(), key.to_pem(), ca.certificate_pem().to_owned())
        };
        assert_eq!(make(&key, &authority).unwrap().name, name);
        assert!(matches!(
            make(&other, &authority),
            Err(IdentityError::KeyMismatch { .. })
        ));
        assert!(matches!(make(&key, &stranger), Err(IdentityError::Malformed { .. })));
        let admin = authority.issue_admin(now).unwrap();
        let made = NodeIdentity::new(
            admin.certificate_pem,
            admin.key_pem,
            authority.certificate_pem().to_owned(),
        );
        assert!(matches!(made, Err(IdentityError::NotANode { .. })));
    }
}
