//! The identity by which aggregated servers know this one: a CA of its own and a client certificate that it signed. Whoever
//! shows that certificate is believed about the user it speaks for, so the CA signs nothing else.
//!
//! It is a `cluster_secret`. It does not expire: who could read its key could read the CA's.

use std::sync::Arc;

use api::access::Access;
use api::status::Status;
use protocol::store::ObjectStore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::cluster_secret;
use crate::outgoing::trust::ClientIdentity;

/// Whom the client certificate names, and whom aggregated servers are told to believe.
pub(super) const CLIENT_NAME: &str = "front-proxy-client";

/// The identity.
pub(super) struct Identity {
    /// The CA's certificate, PEM.
    pub(super) ca_pem: String,
    /// What is shown.
    pub(super) client: ClientIdentity,
}

/// Reads or makes the identity when it is first needed.
pub(super) struct FrontProxy {
    store: Arc<dyn ObjectStore>,
    identity: OnceCell<Arc<Identity>>,
}

impl FrontProxy {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> FrontProxy {
        FrontProxy {
            store,
            identity: OnceCell::new(),
        }
    }

    pub(super) async fn identity(&self) -> Result<Arc<Identity>, Status> {
        self.identity.get_or_try_init(|| self.load()).await.cloned()
    }

    async fn load(&self) -> Result<Arc<Identity>, Status> {
        let kept = cluster_secret::read_or_make(self.store.as_ref(), "front-proxy", "FrontProxyIdentity", || {
            generate().map_err(Status::internal)
        });
        let value = kept.await?;
        Ok(Arc::new(Identity {
            ca_pem: value.text("ca").to_owned(),
            client: ClientIdentity {
                certificate_pem: value.text("certificate").to_owned(),
                key_pem: value.text("key").to_owned(),
            },
        }))
    }
}

fn generate() -> Result<Map<String, Value>, rcgen::Error> {
    let named = |name: &str| {
        let mut of = DistinguishedName::new();
        of.push(DnType::CommonName, name);
        of
    };
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name = named("actorium-front-proxy-ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let mut client = CertificateParams::default();
    client.distinguished_name = named(CLIENT_NAME);
    client.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = client.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let texts = [
        ("ca", ca_pem),
        ("certificate", certificate.pem()),
        ("key", key.serialize_pem()),
    ];
    Ok(texts
        .map(|(name, text)| (name.to_owned(), text.into()))
        .into_iter()
        .collect())
}
