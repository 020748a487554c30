//! What the cluster keeps of its own in the store: the CA, and join tokens; and the admission of new machines on these.
//! The CA's key is in a resource that the API does not serve. Tokens are Secrets in kube-system, as kubeadm keeps them, so
//! that `kubectl delete secret` takes one back.

use std::net::IpAddr;
use std::sync::Arc;

use api::write::WriteContext;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cluster::Membership;
use cluster::identity::{AuthorityMaterial, ClusterAuthority};
use cluster::join::{JoinAuthority, JoinGrant, JoinRefusal, JoinRequest, TokenRecord, check_name, check_token};
use config::node::ClusterSettings;
use protocol::store::{ObjectStore, Precondition, Proposal, ProposeError, Refusal, Write};
use protocol::{Cause, Draft, Key, NodeName, Uid, UnixMillis};
use serde_json::{Value, json};

use crate::clock::{now, random};

/// The resource of the CA. No kind has it: the API cannot reach it.
const AUTHORITIES: &str = "authorities.internal.actorium.io";

/// How long a token admits that a new cluster prints.
pub const FIRST_TOKEN_VALIDITY_MS: u64 = 24 * 3_600_000;

/// Why something of the cluster's own was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The store did not take it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The store was not read.
    #[error(transparent)]
    Read(#[from] protocol::store::ReadError),
    /// It does not make sense.
    #[error("the cluster's own objects are damaged: {0}")]
    Malformed(String),
}

fn malformed(error: impl std::fmt::Display) -> AdmissionError {
    AdmissionError::Malformed(error.to_string())
}

fn authority_key() -> Key {
    Key::new(AUTHORITIES, "", "cluster")
}

/// Puts the CA of a new cluster into the store. A second time is no error.
pub async fn store_authority(store: &dyn ObjectStore, material: &AuthorityMaterial) -> Result<(), AdmissionError> {
    let object = json!({
        "apiVersion": "internal.actorium.io/v1", "kind": "Authority",
        "metadata": {"name": "cluster", "uid": Uid::from_bits(random())},
        "authority": material,
    });
    let draft = Draft::encode(&object, Vec::new()).map_err(malformed)?;
    let write = Write::Put {
        key: authority_key(),
        precondition: Precondition::Absent,
        draft,
    };
    match store.propose(Proposal::one(Cause::default(), write)).await {
        Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyExists { .. })) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The CA, ready to issue.
pub async fn authority(store: &dyn ObjectStore) -> Result<ClusterAuthority, AdmissionError> {
    let stored = store
        .read(&authority_key())
        .await?
        .ok_or_else(|| malformed("the CA is missing"))?;
    let value = stored.value().map_err(malformed)?;
    let material: AuthorityMaterial = serde_json::from_value(value["authority"].clone()).map_err(malformed)?;
    ClusterAuthority::load(&material).map_err(malformed)
}

/// The Secret that keeps a token: kubeadm's shape, with the secret's hash instead of the secret.
pub fn token_secret(record: &TokenRecord) -> Value {
    let data = |text: String| STANDARD.encode(text);
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", record.id), "namespace": "kube-system"},
        "data": {
            "token-id": data(record.id.clone()),
            "token-secret-sha256": data(hex::encode(record.secret_sha256)),
            "description": data(record.description.clone()),
            "usage-bootstrap-authentication": data("true".to_owned()),
        },
    });
    if let Some(at) = record.expires_at {
        secret["data"]["expiration"] = data(at.rfc3339()).into();
        secret["data"]["expiration-unix-ms"] = data(at.0.to_string()).into();
    }
    secret
}

fn token_record(secret: &Value) -> Option<TokenRecord> {
    let text = |name: &str| String::from_utf8(STANDARD.decode(secret["data"][name].as_str()?).ok()?).ok();
    let mut secret_sha256 = [0; 32];
    hex::decode_to_slice(text("token-secret-sha256")?, &mut secret_sha256).ok()?;
    let expires_at = match text("expiration-unix-ms") {
        Some(ms) => Some(UnixMillis(ms.parse().ok()?)),
        None => None,
    };
    Some(TokenRecord {
        id: text("token-id")?,
        secret_sha256,
        expires_at,
        description: text("description")?,
    })
}

/// Keeps the first token of a new cluster.
pub async fn store_token(store: &dyn ObjectStore, record: &TokenRecord) -> Result<(), AdmissionError> {
    let kind = api::kinds::find("", "v1", "secrets").ok_or_else(|| malformed("no kind Secret"))?;
    let uid = Uid::from_bits(random());
    let context = WriteContext {
        now: now(),
        new_uid: uid.as_str(),
        field_manager: "actorium",
        user: "actorium",
        groups: &[],
        ..WriteContext::default()
    };
    let written = api::write::prepare_create(kind, "kube-system", token_secret(record), &context).map_err(malformed)?;
    let draft = kind.draft(&written.object).map_err(malformed)?;
    let key = Key::new("secrets", "kube-system", format!("bootstrap-token-{}", record.id));
    let write = Write::Put {
        key,
        precondition: Precondition::None,
        draft,
    };
    store.propose(Proposal::one(Cause::default(), write)).await?;
    Ok(())
}

/// Admits machines, on any member: what it needs is in the store.
pub struct StoreAuthority {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Who is a member.
    pub membership: Membership,
    /// What all nodes agree on.
    pub settings: ClusterSettings,
}

impl StoreAuthority {
    async fn authority(&self) -> Result<ClusterAuthority, JoinRefusal> {
        let not_ready = |error: AdmissionError| JoinRefusal::NotReady {
            reason: error.to_string(),
        };
        authority(self.store.as_ref()).await.map_err(not_ready)
    }

    async fn record(&self, id: &str) -> Result<Option<TokenRecord>, JoinRefusal> {
        let key = Key::new("secrets", "kube-system", format!("bootstrap-token-{id}"));
        let stored = self.store.read(&key).await.map_err(|error| JoinRefusal::NotReady {
            reason: error.to_string(),
        })?;
        Ok(stored.and_then(|stored| token_record(&stored.value().ok()?)))
    }

    async fn issue(
        &self,
        name: &NodeName,
        signing_request: &[u8],
        addresses: &[IpAddr],
    ) -> Result<(String, String), JoinRefusal> {
        let authority = self.authority().await?;
        let names = self.settings.api_names();
        let certificate = authority
            .issue_node(signing_request, name, addresses, &names, now())
            .map_err(|error| JoinRefusal::SigningRequest {
                reason: error.to_string(),
            })?;
        Ok((certificate, authority.certificate_pem().to_owned()))
    }
}

#[async_trait]
impl JoinAuthority for StoreAuthority {
    async fn admit(&self, request: JoinRequest) -> Result<JoinGrant, JoinRefusal> {
        let record = self.record(&request.token_id).await?;
        check_token(record.as_ref(), &request, now())?;
        let members = self.membership.members();
        check_name(&request, &members)?;
        let (certificate_pem, authority_pem) = self
            .issue(&request.name, &request.signing_request, &request.addresses)
            .await?;
        let live = members.iter().filter(|member| member.status.is_live());
        Ok(JoinGrant {
            certificate_pem,
            authority_pem,
            members: live.map(|member| (member.name.clone(), member.address)).collect(),
            settings: self.settings.clone(),
            raft_id: (random() as u64).max(1),
        })
    }

    async fn renew(
        &self,
        node: &NodeName,
        signing_request: Vec<u8>,
        addresses: Vec<IpAddr>,
    ) -> Result<String, JoinRefusal> {
        Ok(self.issue(node, &signing_request, &addresses).await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_secret() {
        let record = TokenRecord {
            id: "abc".into(),
            secret_sha256: [7; 32],
            expires_at: Some(UnixMillis(1_800_000_000_123)),
            description: "first".into(),
        };
        assert_eq!(token_record(&token_secret(&record)), Some(record.clone()));
        let endless = TokenRecord {
            expires_at: None,
            ..record
        };
        assert_eq!(token_record(&token_secret(&endless)), Some(endless));
        assert_eq!(token_record(&json!({"data": {"token-id": "eA=="}})), None);
    }
}
