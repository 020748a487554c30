//! The cluster's issuer of ServiceAccount tokens: its key in the store, and the tokens that it signs and knows again. What a
//! token says is `access`' business.
//!
//! The key is a `cluster_secret`.

use std::sync::Arc;

use access::User;
use access::token::{
    Bearer, BindingKind, BootstrapError, Issue, IssuePolicy, LiveObject, TokenAsked, TokenBinding, TokenError,
    TokenKey, VerifiedTokens, discovery_document, key_set, respond, sign,
};
use api::access::Access;
use api::status::Status;
use cluster::identity::ServiceAccountKey;
use parking_lot::Mutex;
use protocol::store::ObjectStore;
use protocol::{Key, UnixMillis};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::cluster_secret;
use crate::read::read_status;
use crate::request::ApiResponse;

/// How many verified tokens are remembered, about 1 KiB each.
const VERIFIED_MAX: usize = 4096;

/// Who issues, as tokens name it.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Why a bearer is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// A token that the cluster signed, or should have.
    #[error(transparent)]
    Signed(#[from] TokenError),
    /// A bootstrap token.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

/// The issuer on this node.
pub struct Issuer {
    store: Arc<dyn ObjectStore>,
    policy: IssuePolicy,
    key: OnceCell<Arc<SigningKey>>,
    verified: Mutex<VerifiedTokens>,
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
            verified: Mutex::new(VerifiedTokens::new(VERIFIED_MAX)),
        }
    }

    /// The key.
    pub async fn key(&self) -> Result<Arc<SigningKey>, Status> {
        self.key.get_or_try_init(|| self.load()).await.cloned()
    }

    async fn load(&self) -> Result<Arc<SigningKey>, Status> {
        let kept = cluster_secret::read_or_make(self.store.as_ref(), "service-accounts", "IssuerKey", || {
            let pem = ServiceAccountKey::generate_pem().map_err(Status::internal)?;
            Ok(Map::from_iter([("key".to_owned(), pem.into())]))
        });
        let key = ServiceAccountKey::from_pem(kept.await?.text("key")).map_err(Status::internal)?;
        Ok(Arc::new(SigningKey(key)))
    }

    /// Answers a TokenRequest for an account. `on_node` is where the pod is that the token is to be bound to, if the caller
    /// knows it: everything is then read at the same time.
    pub async fn request(
        &self,
        (namespace, account): (&str, &str),
        body: &Value,
        id: &str,
        now: UnixMillis,
        on_node: Option<&str>,
    ) -> Result<(Value, Vec<String>), Status> {
        let accounts = api::kinds::find("", "v1", "serviceaccounts").ok_or_else(Status::no_such_resource)?;
        let asked = TokenAsked::read(body, &self.policy)?;
        let bound = async {
            match &asked.bound {
                Some(bound) => {
                    let place = if bound.kind == BindingKind::Node { "" } else { namespace };
                    self.object(bound.kind.resource(), place, &bound.name).await
                }
                None => Ok(None),
            }
        };
        let node = async {
            match on_node {
                Some(name) => self.object("nodes", "", name).await,
                None => Ok(None),
            }
        };
        let (stored, bound, node) = futures::join!(self.object("serviceaccounts", namespace, account), bound, node);
        let (stored, bound, mut node) = (stored?, bound?, node?);
        let stored = stored.ok_or_else(|| Status::not_found(accounts, account))?;
        let named = bound
            .as_ref()
            .map(|bound| bound.at(&["spec"]).text("nodeName").to_owned());
        let named = named.filter(|name| !name.is_empty());
        if named.as_deref() != on_node {
            node = match &named {
                Some(name) => self.object("nodes", "", name).await?,
                None => None,
            };
        }
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

    /// OpenID's discovery document. `address` is where this node's API is reached.
    pub fn discovery(&self, address: &str) -> ApiResponse {
        let document = discovery_document(&self.policy.issuer, &format!("https://{address}"));
        ApiResponse::value(200, &document)
    }

    /// The public keys, by which others verify tokens.
    pub async fn keys(&self) -> Result<ApiResponse, Status> {
        let key = self.key().await?;
        Ok(ApiResponse {
            content_type: "application/jwk-set+json".into(),
            ..ApiResponse::value(200, &key_set(&[key.as_ref()]))
        })
    }

    /// Who a token proves its bearer to be, and for which of the wanted audiences. None wanted means the API's own.
    pub async fn authenticate(
        &self,
        token: &str,
        wanted: &[String],
        now: UnixMillis,
    ) -> Result<Result<(User, Vec<String>), TokenRefusal>, Status> {
        let wanted = if wanted.is_empty() {
            &self.policy.audiences
        } else {
            wanted
        };
        let bearer = match self.read(token).await? {
            Ok(bearer) => bearer,
            Err(error) => return Ok(Err(error.into())),
        };
        match bearer {
            Bearer::Account(claims) => {
                let audiences = match claims.check(&[&self.policy.issuer], wanted, now) {
                    Ok(audiences) => audiences,
                    Err(error) => return Ok(Err(error.into())),
                };
                let found = self.live(claims.bindings()).await?;
                if let Err(error) = claims.check_objects(&found, now) {
                    return Ok(Err(error.into()));
                }
                if let Some(stale) = claims.stale(now) {
                    tracing::debug!(text = %stale.text, "a token outlived the time that it was asked for");
                }
                Ok(Ok((claims.user(), audiences)))
            }
            Bearer::Legacy(claims) => {
                let [account, secret] = claims.bindings();
                let secret = self.object("secrets", &secret.namespace, &secret.name).await?;
                let found = self.live([account]).await?;
                let account = found.first().and_then(Option::as_ref);
                if let Err(error) = claims.check_objects(token, account, secret.as_ref(), now) {
                    return Ok(Err(error.into()));
                }
                Ok(Ok((claims.user(), self.policy.audiences.clone())))
            }
            Bearer::Bootstrap(token) => {
                let secret = self.object("secrets", "kube-system", &token.secret_name()).await?;
                let user = token.authenticate(secret.as_ref(), now).map_err(TokenRefusal::from);
                Ok(user.map(|user| (user, self.policy.audiences.clone())))
            }
        }
    }

    /// A token by its sort, its signature verified once.
    async fn read(&self, token: &str) -> Result<Result<Bearer, TokenError>, Status> {
        if let Some(known) = self.verified.lock().known(token) {
            return Ok(Ok(known));
        }
        let key = self.key().await?;
        let bearer = Bearer::read(token, &[key.as_ref()]);
        if let Ok(bearer) = &bearer {
            self.verified.lock().keep(token, bearer);
        }
        Ok(bearer)
    }

    /// The objects that a token is bound to, as they are.
    async fn live(&self, bindings: impl IntoIterator<Item = TokenBinding>) -> Result<Vec<Option<LiveObject>>, Status> {
        let mut found = Vec::new();
        for TokenBinding {
            resource,
            namespace,
            name,
            ..
        } in bindings
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

/// The cluster's key as `access` needs it.
pub struct SigningKey(ServiceAccountKey);

impl TokenKey for SigningKey {
    fn key_id(&self) -> &str {
        self.0.key_id()
    }

    fn public_pem(&self) -> &str {
        self.0.public_pem()
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.0.sign(message).ok()
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verifies(message, signature)
    }
}
