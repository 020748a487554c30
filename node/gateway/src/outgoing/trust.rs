//! Whose certificates the gateway believes when it calls out, and which certificate it shows: a CA bundle of a webhook's
//! configuration, the machine's roots, or nobody's where an APIService says so.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// Why what is believed cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrustError {
    /// The CA bundle has no certificate that can be read.
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    Bundle,
    /// The machine has no CA certificates.
    #[error("the machine has no root certificates, and no caBundle is given")]
    NoRoots,
    /// The certificate that would be shown cannot be used.
    #[error("the client certificate cannot be used: {0}")]
    Identity(String),
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchors {
    /// These, PEM.
    Bundle(Vec<u8>),
    /// The machine's.
    Machine,
    /// Anybody's: the server is not checked at all.
    Anybody,
}

/// A certificate to show, and its key; both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The chain.
    pub certificate_pem: String,
    /// The key.
    pub key_pem: String,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity")
    }
}

/// What a connection is checked by. Its TLS settings are made once.
#[derive(Debug)]
pub struct Trust {
    anchors: Anchors,
    identity: Option<ClientIdentity>,
    /// Tells trusts apart.
    pub digest: [u8; 32],
    made: OnceLock<Result<Arc<ClientConfig>, TrustError>>,
}

impl Trust {
    /// A trust in these anchors.
    pub fn new(anchors: Anchors, identity: Option<ClientIdentity>) -> Trust {
        let mut digest = Sha256::new();
        match &anchors {
            Anchors::Bundle(pem) => digest.update([&[1], pem.as_slice()].concat()),
            Anchors::Machine => digest.update([2]),
            Anchors::Anybody => digest.update([3]),
        }
        if let Some(identity) = &identity {
            digest.update(Sha256::digest(&identity.certificate_pem));
        }
        Trust {
            anchors,
            identity,
            digest: digest.finalize().into(),
            made: OnceLock::new(),
        }
    }

    /// The TLS settings.
    ///
    /// # Errors
    ///
    /// What of the anchors or the certificate cannot be used.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        self.made.get_or_init(|| self.make().map(Arc::new)).clone()
    }

    fn make(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TrustError::Identity(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider)?);
        let Some(identity) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let unusable = |error: &dyn fmt::Display| TrustError::Identity(error.to_string());
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| unusable(&error))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&error))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        match &self.anchors {
            Anchors::Anybody => return Ok(Arc::new(Unchecked(provider))),
            Anchors::Bundle(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|_| TrustError::Bundle)?;
                    pinned.push(certificate.clone());
                    roots.add(certificate).map_err(|_| TrustError::Bundle)?;
                }
                if roots.is_empty() {
                    return Err(TrustError::Bundle);
                }
            }
            Anchors::Machine => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(TrustError::NoRoots);
                }
            }
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_| TrustError::Bundle)?;
        Ok(Arc::new(ChainOrPinned { chains, pinned }))
    }
}

/// Checks chains as webpki does, and believes a server that shows a certificate of the bundle itself. webpki refuses a CA's
/// certificate as a server's own, but what `openssl req -x509` makes is both, and Go believes it.
#[derive(Debug)]
struct ChainOrPinned {
    chains: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for ChainOrPinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.pinned.iter().any(|pinned| pinned == end_entity) {
            return self
                .chains
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        let (_, parsed) = x509_parser::parse_x509_certificate(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if now > validity.not_after.timestamp() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Expired));
        }
        if now < validity.not_before.timestamp() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet));
        }
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Believes any server: `insecureSkipTLSVerify` of an APIService, and what the `proxy` subresource connects to.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
