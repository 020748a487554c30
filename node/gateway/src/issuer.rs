//! The cluster's issuer of ServiceAccount tokens: its key in the store, and the tokens that it signs and knows again. What a
//! token says is `access`' business.
//!
//! The key lies beside the CA, under a resource that no kind has, so the API cannot reach it. The first node that needs it
//! makes it; when two do so at once, the store keeps the first.

use std::sync::Arc;

use access::User;
use access::token::{
    BindingKind, Claims, Issue, IssuePolicy, LiveObject, TokenAsked, TokenBinding, TokenError, TokenKey, respond, sign,
    verify,
};
use api::access::Access;
use api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use protocol::store::{ObjectStore, Precondition, Proposal, ProposeError, Refusal, Write};
use protocol::{Cause, Draft, Key, UnixMillis};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::read::read_status;

/// The resource of the key. No kind has it: the API cannot reach it.
const KEYS: &str = "authorities.internal.actorium.io";

/// What comes before the point in the DER of a P-256 public key (RFC 5480).
const PUBLIC_KEY_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Who issues, as tokens name it.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The issuer on this node.
pub struct Issuer {
    store: Arc<dyn ObjectStore>,
    policy: IssuePolicy,
    key: OnceCell<Arc<EcKey>>,
}

impl Issuer {
    /// Reads or makes the key when it is first needed.
    pub fn new(store: Arc<dyn ObjectStore>) -> Issuer {
        Issuer {
            store,
            policy: IssuePolicy {
                issuer: ISSUER.to_owned(),
                audiences: vec![ISSUER.to_owned()],
                seconds_max: None,
                extend: true,
            },
            key: OnceCell::new(),
        }
    }

    /// The key.
    pub async fn key(&self) -> Result<Arc<EcKey>, Status> {
        self.key.get_or_try_init(|| self.load()).await.cloned()
    }

    async fn load(&self) -> Result<Arc<EcKey>, Status> {
        let key = Key::new(KEYS, "", "service-accounts");
        for _ in 0..2 {
            if let Some(stored) = self.store.read(&key).await.map_err(read_status)? {
                let value = stored.value().map_err(Status::internal)?;
                let pkcs8 = STANDARD.decode(value.text("pkcs8")).map_err(Status::internal)?;
                return EcKey::load(&pkcs8).map(Arc::new);
            }
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| Status::internal("no key for tokens could be made"))?;
            let object = json!({
                "apiVersion": "internal.actorium.io/v1", "kind": "IssuerKey",
                "metadata": {"name": "service-accounts", "uid": "service-accounts"},
                "pkcs8": STANDARD.encode(pkcs8.as_ref()),
            });
            let write = Write::Put {
                key: key.clone(),
                precondition: Precondition::Absent,
                draft: Draft::encode(&object, Vec::new()).map_err(Status::internal)?,
            };
            match self.store.propose(Proposal::one(Cause::default(), write)).await {
                Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyExists { .. })) => {}
                Err(error) => {
                    return Err(Status::internal(format!(
                        "the key for tokens cannot be stored: {error}"
                    )));
                }
            }
        }
        Err(Status::internal("the key for tokens was stored and is not there"))
    }

    /// Answers a TokenRequest for an account.
    pub async fn request(
        &self,
        namespace: &str,
        account: &str,
        body: &Value,
        id: &str,
        now: UnixMillis,
    ) -> Result<(Value, Vec<String>), Status> {
        let accounts = api::kinds::find("", "v1", "serviceaccounts").ok_or_else(Status::no_such_resource)?;
        let stored = self.object("serviceaccounts", namespace, account).await?;
        let stored = stored.ok_or_else(|| Status::not_found(accounts, account))?;
        let asked = TokenAsked::read(body, &self.policy)?;
        let bound = match &asked.bound {
            Some(bound) => {
                let place = if bound.kind == BindingKind::Node { "" } else { namespace };
                self.object(bound.kind.resource(), place, &bound.name).await?
            }
            None => None,
        };
        let node = bound
            .as_ref()
            .map(|bound| bound.at(&["spec"]).text("nodeName").to_owned());
        let node = match node.filter(|node| !node.is_empty()) {
            Some(node) => self.object("nodes", "", &node).await?,
            None => None,
        };
        let claims = asked.claims(
            &self.policy,
            &Issue {
                account: &stored,
                bound: bound.as_ref(),
                node: node.as_ref(),
                id,
                now,
            },
        )?;
        let key = self.key().await?;
        let token = sign(&claims, key.as_ref()).ok_or_else(|| Status::internal("the token was not signed"))?;
        let warnings = asked.warnings.clone();
        Ok((respond(body, &asked, &token, now), warnings))
    }

    /// Who a token proves its bearer to be, and for which of the wanted audiences. None wanted means the API's own.
    pub async fn authenticate(
        &self,
        token: &str,
        wanted: &[String],
        now: UnixMillis,
    ) -> Result<Result<(User, Vec<String>), TokenError>, Status> {
        let key = self.key().await?;
        let wanted = if wanted.is_empty() {
            &self.policy.audiences
        } else {
            wanted
        };
        let claims = verify(token, &[key.as_ref()]);
        let checked = claims.and_then(|claims| {
            let audiences = claims.check(&[&self.policy.issuer], wanted, now)?;
            Ok((claims, audiences))
        });
        let (claims, audiences) = match checked {
            Ok(checked) => checked,
            Err(error) => return Ok(Err(error)),
        };
        let found = self.live(&claims).await?;
        if let Err(error) = claims.check_objects(&found, now) {
            return Ok(Err(error));
        }
        if let Some(stale) = claims.stale(now) {
            tracing::debug!(text = %stale.text, "a token outlived the time that it was asked for");
        }
        Ok(Ok((claims.user(), audiences)))
    }

    /// The objects that a token is bound to, as they are.
    async fn live(&self, claims: &Claims) -> Result<Vec<Option<LiveObject>>, Status> {
        let mut found = Vec::new();
        for TokenBinding {
            resource,
            namespace,
            name,
            ..
        } in claims.bindings()
        {
            let object = self.object(resource, &namespace, &name).await?;
            found.push(object.map(|object| {
                let metadata = object.at(&["metadata"]);
                LiveObject {
                    uid: metadata.text("uid").to_owned(),
                    deleting_since: api::time::parse(metadata.text("deletionTimestamp")),
                }
            }));
        }
        Ok(found)
    }

    async fn object(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let stored = self
            .store
            .read(&Key::new(resource, namespace, name))
            .await
            .map_err(read_status)?;
        stored
            .map(|stored| stored.value().map_err(Status::internal))
            .transpose()
    }
}

/// The issuer's key.
pub struct EcKey {
    pair: EcdsaKeyPair,
    id: String,
    public_pem: String,
}

impl EcKey {
    fn load(pkcs8: &[u8]) -> Result<EcKey, Status> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
            .map_err(|_| Status::internal("the key for tokens in the store is damaged"))?;
        let der = [&PUBLIC_KEY_PREFIX, pair.public_key().as_ref()].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, &der);
        let encoded = STANDARD.encode(&der);
        let mut public_pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in encoded.as_bytes().chunks(64) {
            public_pem.push_str(&String::from_utf8_lossy(line));
            public_pem.push('\n');
        }
        public_pem.push_str("-----END PUBLIC KEY-----\n");
        Ok(EcKey {
            pair,
            id: URL_SAFE_NO_PAD.encode(digest),
            public_pem,
        })
    }
}

impl TokenKey for EcKey {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn public_pem(&self) -> &str {
        &self.public_pem
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signature = self.pair.sign(&SystemRandom::new(), message).ok()?;
        Some(signature.as_ref().to_vec())
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(message, signature).is_ok()
    }
}
