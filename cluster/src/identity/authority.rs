//! The cluster's certificate authority: makes itself once, and issues certificates to nodes and administrators. Called
//! by the first node when it makes the cluster, and by whoever holds the material (the leader) when a machine joins or
//! renews. The time comes in as an argument; the key and serial numbers are random by their nature.

use std::net::IpAddr;

use bincode::{Decode, Encode};
use protocol::{NodeName, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::FromDer;

use super::{
    ADMINISTRATOR_USER, ADMINISTRATORS_GROUP, IdentityError, NODE_USER_PREFIX, NODES_GROUP, certificate::fingerprint,
};

/// Days for which the CA is valid.
const AUTHORITY_VALIDITY_DAYS: i64 = 3650;
/// Days for which a node's certificate is valid; it is renewed when two thirds have passed.
pub const NODE_VALIDITY_DAYS: u32 = 365;
/// Days for which the administrator's certificate is valid.
pub const ADMIN_VALIDITY_DAYS: u32 = 365;
/// How far the clocks of two machines may differ: certificates are valid from so long before they were made.
const CLOCK_SKEW: Duration = Duration::minutes(10);

/// The CA as it is kept in the replicated store. Its `Debug` form leaves the key out.
#[derive(Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AuthorityMaterial {
    /// The CA's certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PKCS#8 PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for AuthorityMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityMaterial")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate that was issued, with the key where the authority made that too.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PKCS#8 PEM.
    pub key_pem: String,
}

/// A certificate to be made of a signing request.
#[derive(Clone, Copy, Debug)]
pub struct CertificateOrder<'a> {
    /// The request, PEM.
    pub request_pem: &'a str,
    /// For a server; else for a client.
    pub server: bool,
    /// Whether the key may also encipher keys.
    pub key_encipherment: bool,
    /// For how long, in seconds.
    pub seconds: u64,
}

/// What a signing request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organisations.
    pub organisations: Vec<String>,
    /// How many DNS names and addresses.
    pub hosts: usize,
    /// How many alternative names of other kinds.
    pub other_names: usize,
}

fn malformed_request(reason: impl std::fmt::Display) -> IdentityError {
    IdentityError::Malformed {
        what: "the certificate signing request".to_owned(),
        reason: reason.to_string(),
    }
}

fn parse_request(pem: &str) -> Result<CertificateSigningRequestParams, IdentityError> {
    CertificateSigningRequestParams::from_pem(pem).map_err(|source| IdentityError::Request { source })
}

/// Reads a signing request whose signature is its key's.
///
/// # Errors
///
/// It is no such request, or asks for something that a certificate of this CA cannot hold: several organisations.
pub fn read_request(pem: &str) -> Result<RequestedNames, IdentityError> {
    let request = parse_request(pem)?;
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(malformed_request)?;
    let (_, parsed) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&der).map_err(malformed_request)?;
    let subject = &parsed.certification_request_info.subject;
    let texts = |values: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
        values
            .filter_map(|value| value.as_str().ok().map(str::to_owned))
            .collect()
    };
    let organisations = texts(&mut subject.iter_organization());
    if organisations.len() > 1 {
        return Err(malformed_request(
            "it names several organisations (O): a certificate of this cluster holds one",
        ));
    }
    let is_host = |name: &&SanType| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_));
    let names = &request.params.subject_alt_names;
    let hosts = names.iter().filter(is_host).count();
    Ok(RequestedNames {
        common_name: texts(&mut subject.iter_common_name())
            .into_iter()
            .next()
            .unwrap_or_default(),
        organisations,
        hosts,
        other_names: names.len() - hosts,
    })
}

/// The CA, ready to issue.
pub struct ClusterAuthority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClusterAuthority {
    /// Makes a cluster's CA: ECDSA P-256, self-signed.
    pub fn generate(now: UnixMillis) -> Result<(ClusterAuthority, AuthorityMaterial), IdentityError> {
        let failed = |source| IdentityError::Generate {
            what: "the cluster's CA",
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("actorium-cluster-ca", None);
        params.not_before = instant(now) - CLOCK_SKEW;
        params.not_after = instant(now) + Duration::days(AUTHORITY_VALIDITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let material = AuthorityMaterial {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        };
        Ok((ClusterAuthority::load(&material)?, material))
    }

    /// The CA from its material.
    pub fn load(material: &AuthorityMaterial) -> Result<ClusterAuthority, IdentityError> {
        let malformed = |what: &str, reason: String| IdentityError::Malformed {
            what: what.to_owned(),
            reason,
        };
        let certificate = CertificateDer::from_pem_slice(material.certificate_pem.as_bytes())
            .map_err(|error| malformed("the CA's certificate", error.to_string()))?;
        let key = KeyPair::from_pem(&material.key_pem).map_err(|error| malformed("the CA's key", error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| malformed("the CA's certificate", error.to_string()))?;
        Ok(ClusterAuthority {
            certificate,
            certificate_pem: material.certificate_pem.clone(),
            issuer,
        })
    }

    /// The CA's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the CA's certificate, which join tokens carry.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Issues a node's certificate for the key in a signing request. Only the key is taken from the request: name,
    /// addresses and usages are what the caller decided, so that a joiner cannot ask for another's.
    pub fn issue_node(
        &self,
        request_der: &[u8],
        name: &NodeName,
        addresses: &[IpAddr],
        api_names: &[String],
        now: UnixMillis,
    ) -> Result<String, IdentityError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der))
            .map_err(|source| IdentityError::Request { source })?;
        let common_name = format!("{NODE_USER_PREFIX}{name}");
        let mut names = vec![name.to_string(), "localhost".to_owned()];
        names.extend(api_names.iter().cloned());
        let mut addresses = addresses.to_vec();
        addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        let params = leaf(
            &common_name,
            NODES_GROUP,
            alternative_names(&names, &addresses)?,
            now,
            NODE_VALIDITY_DAYS,
        );
        self.sign(params, &request.public_key, "a node's certificate")
    }

    /// Issues a certificate to whom a signing request names, for its key. Subject and alternative names are the request's, which
    /// the caller has checked; usages and validity are the caller's.
    pub fn issue_requested(&self, order: &CertificateOrder<'_>, now: UnixMillis) -> Result<String, IdentityError> {
        let request = parse_request(order.request_pem)?;
        let mut params = request.params;
        params.not_before = instant(now) - CLOCK_SKEW;
        params.not_after = instant(now) + Duration::seconds(i64::try_from(order.seconds).unwrap_or(i64::MAX));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if order.key_encipherment {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![if order.server {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        params.custom_extensions = Vec::new();
        params.use_authority_key_identifier_extension = true;
        self.sign(params, &request.public_key, "a requested certificate")
    }

    /// Issues an administrator's certificate with a key of its own.
    pub fn issue_admin(&self, now: UnixMillis) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate().map_err(|source| IdentityError::Generate {
            what: "the administrator's key",
            source,
        })?;
        let mut params = leaf(
            ADMINISTRATOR_USER,
            ADMINISTRATORS_GROUP,
            Vec::new(),
            now,
            ADMIN_VALIDITY_DAYS,
        );
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate_pem = self.sign(params, &key, "the administrator's certificate")?;
        Ok(Issued {
            certificate_pem,
            key_pem: key.serialize_pem(),
        })
    }

    fn sign(
        &self,
        params: CertificateParams,
        key: &impl PublicKeyData,
        what: &'static str,
    ) -> Result<String, IdentityError> {
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(|source| IdentityError::Generate { what, source })?;
        Ok(certificate.pem())
    }
}

/// The parts that all leaf certificates share.
fn leaf(
    common_name: &str,
    organisation: &str,
    names: Vec<SanType>,
    now: UnixMillis,
    validity_days: u32,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name, Some(organisation));
    params.subject_alt_names = names;
    params.not_before = instant(now) - CLOCK_SKEW;
    params.not_after = instant(now) + Duration::days(i64::from(validity_days));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}

/// Names and addresses, each once. What reads as an address is one.
fn alternative_names(names: &[String], addresses: &[IpAddr]) -> Result<Vec<SanType>, IdentityError> {
    let mut all: Vec<SanType> = Vec::new();
    for name in names {
        let san = match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|source| IdentityError::Generate {
                what: "a certificate's alternative name",
                source,
            })?),
        };
        all.push(san);
    }
    all.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    let mut once: Vec<SanType> = Vec::with_capacity(all.len());
    for san in all {
        if !once.contains(&san) {
            once.push(san);
        }
    }
    Ok(once)
}

/// A certificate's instants have whole seconds. An instant beyond what the type holds (year 9999) is the last.
fn instant(now: UnixMillis) -> OffsetDateTime {
    i64::try_from(now.0 / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::super::{CertificateFacts, NodeKey};
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn issued(name: &str) -> (ClusterAuthority, CertificateFacts, String) {
        let (authority, _) = ClusterAuthority::generate(NOW).unwrap();
        let key = NodeKey::generate().unwrap();
        let pem = authority
            .issue_node(
                &key.signing_request(&NodeName::from("liar")).unwrap(),
                &NodeName::from(name),
                &["10.0.0.7".parse().unwrap(), "127.0.0.1".parse().unwrap()],
                &["kubernetes.default.svc".to_owned(), "10.96.0.1".to_owned()],
                NOW,
            )
            .unwrap();
        let facts = CertificateFacts::from_pem(&pem).unwrap();
        (authority, facts, pem)
    }

    #[test]
    fn a_nodes_certificate_says_what_the_authority_decided_and_not_what_was_asked() {
        let (_, facts, _) = issued("n7");
        assert_eq!(facts.common_name, "system:node:n7");
        assert_eq!(facts.organisations, ["system:nodes"]);
        assert_eq!(facts.node_name().unwrap().as_str(), "n7");
        for name in ["n7", "localhost", "kubernetes.default.svc"] {
            assert!(
                facts.dns_names.iter().any(|found| found == name),
                "{name} is missing in {:?}",
                facts.dns_names
            );
        }
        let mut addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
        addresses.sort();
        assert_eq!(addresses, ["10.0.0.7", "10.96.0.1", "127.0.0.1", "::1"]);
        assert!(facts.server_auth && facts.client_auth && !facts.is_authority);
    }

    #[test]
    fn the_administrators_certificate_is_for_clients_only() {
        let (authority, _) = ClusterAuthority::generate(NOW).unwrap();
        let issued = authority.issue_admin(NOW).unwrap();
        let facts = CertificateFacts::from_pem(&issued.certificate_pem).unwrap();
        assert_eq!(
            (facts.common_name.as_str(), &facts.organisations[..]),
            ("kubernetes-admin", &["system:masters".to_owned()][..])
        );
        assert!(facts.client_auth && !facts.server_auth);
        assert!(facts.node_name().is_err());
    }

    #[test]
    fn certificates_verify_against_their_authority_alone() {
        let (authority, _, pem) = issued("n1");
        let (other, _) = ClusterAuthority::generate(NOW).unwrap();
        let facts = CertificateFacts::from_pem(&pem).unwrap();
        assert!(facts.is_signed_by(authority.certificate_pem()).unwrap());
        assert!(!facts.is_signed_by(other.certificate_pem()).unwrap());
        assert_ne!(authority.fingerprint(), other.fingerprint());
    }

    #[test]
    fn an_authority_survives_its_stored_form_and_broken_material_is_refused() {
        let (authority, material) = ClusterAuthority::generate(NOW).unwrap();
        assert_eq!(
            ClusterAuthority::load(&material).unwrap().fingerprint(),
            authority.fingerprint()
        );
        assert!(!format!("{material:?}").contains("PRIVATE"));
        let broken = AuthorityMaterial {
            key_pem: "nothing".to_owned(),
            ..material
        };
        assert!(matches!(
            ClusterAuthority::load(&broken),
            Err(IdentityError::Malformed { .. })
        ));
    }

    #[test]
    fn what_is_no_signing_request_is_refused() {
        let (authority, _) = ClusterAuthority::generate(NOW).unwrap();
        let name = NodeName::from("n1");
        let mut request = NodeKey::generate().unwrap().signing_request(&name).unwrap();
        // The last byte belongs to the signature that proves possession of the key.
        *request.last_mut().unwrap() ^= 1;
        for bad in [&b"nonsense"[..], &[], &request] {
            let refused = authority.issue_node(bad, &name, &[], &[], NOW);
            assert!(matches!(refused, Err(IdentityError::Request { .. })), "{refused:?}");
        }
    }
}
