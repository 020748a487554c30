//! What a certificate says, read with x509-parser, and when it is due for renewal. Called by the mesh (a peer's name),
//! by the gateway (a client's user and groups) and by the process. Pure.

use std::net::IpAddr;

use protocol::{NodeName, UnixMillis};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{IdentityError, NODE_USER_PREFIX, NODES_GROUP};

/// SHA-256 of a certificate's DER.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The certificate itself.
    pub der: Vec<u8>,
    /// The subject's common name: the user.
    pub common_name: String,
    /// The subject's organisations: the groups.
    pub organisations: Vec<String>,
    /// Its DNS names.
    pub dns_names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// From when it is valid.
    pub not_before: UnixMillis,
    /// Until when.
    pub not_after: UnixMillis,
    /// Whether it may identify a server.
    pub server_auth: bool,
    /// Whether it may identify a client.
    pub client_auth: bool,
    /// Whether it may sign certificates.
    pub is_authority: bool,
}

impl CertificateFacts {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<CertificateFacts, IdentityError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        CertificateFacts::from_der(&der)
    }

    /// Reads a certificate. Does not verify it.
    pub fn from_der(der: &[u8]) -> Result<CertificateFacts, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or("").to_owned();
        let subject = certificate.subject();
        let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let usage = certificate.extended_key_usage().ok().flatten();
        Ok(CertificateFacts {
            common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
            organisations: subject.iter_organization().map(text).collect(),
            dns_names,
            addresses,
            not_before: millis(certificate.validity().not_before.timestamp()),
            not_after: millis(certificate.validity().not_after.timestamp()),
            server_auth: usage.as_ref().is_some_and(|usage| usage.value.server_auth),
            client_auth: usage.as_ref().is_some_and(|usage| usage.value.client_auth),
            is_authority: certificate.is_ca(),
            der: der.to_vec(),
        })
    }

    /// The node that it identifies.
    pub fn node_name(&self) -> Result<NodeName, IdentityError> {
        let is_node = self
            .organisations
            .iter()
            .any(|organisation| organisation == NODES_GROUP);
        match self.common_name.strip_prefix(NODE_USER_PREFIX) {
            Some(name) if is_node && !name.is_empty() => Ok(NodeName::from(name)),
            _ => Err(IdentityError::NotANode {
                found: self.common_name.clone(),
            }),
        }
    }

    /// Whether this CA signed it. Does not look at validity or usage.
    pub fn is_signed_by(&self, authority_pem: &str) -> Result<bool, IdentityError> {
        let authority = CertificateFacts::from_pem(authority_pem)?;
        let parse = |der| X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()));
        let (_, authority) = parse(&authority.der)?;
        let (_, certificate) = parse(&self.der)?;
        Ok(certificate.verify_signature(Some(authority.public_key())).is_ok())
    }

    /// Whether it is due for renewal.
    pub fn renewal_due(&self, now: UnixMillis) -> bool {
        renewal_due(self.not_before, self.not_after, now)
    }
}

/// A certificate is renewed when two thirds of its life have passed: a third is left for the attempts.
pub fn renewal_due(not_before: UnixMillis, not_after: UnixMillis, now: UnixMillis) -> bool {
    let life_ms = not_after.since_ms(not_before);
    now.since_ms(not_before) >= life_ms - life_ms / 3
}

fn malformed(reason: String) -> IdentityError {
    IdentityError::Malformed {
        what: "the certificate".to_owned(),
        reason,
    }
}

fn millis(seconds: i64) -> UnixMillis {
    UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds_of_a_certificates_life() {
        let day = 86_400_000;
        let due = |now| renewal_due(UnixMillis(1000 * day), UnixMillis(1090 * day), UnixMillis(now));
        for (now, expected) in [
            (0, false),
            (1000 * day, false),
            (1060 * day - 1, false),
            (1060 * day, true),
            (2000 * day, true),
        ] {
            assert_eq!(due(now), expected, "{now}");
        }
    }

    proptest! {
        #[test]
        fn bytes_from_a_peer_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = CertificateFacts::from_der(&bytes);
        }
    }
}
