//! The control plane's way to the cluster's keys: the issuer's for tokens, the CA's for certificates. Both lie in the store; what
//! is signed is the control plane's decision.

use std::sync::Arc;

use access::token::{LegacyClaims, sign_legacy};
use actors::credentials::Signer;
use actors::credentials::requests::{Order, Subject};
use async_trait::async_trait;
use cluster::identity::{CertificateOrder, read_request};
use gateway::issuer::Issuer;
use gateway::service::Api;
use protocol::store::ObjectStore;
use serde_json::Value;

use crate::authority;
use crate::clock::now;

/// Signs with the cluster's keys.
pub struct ClusterSigner {
    /// Where the CA is.
    pub store: Arc<dyn ObjectStore>,
    /// Who has the key for tokens.
    pub issuer: Arc<Issuer>,
    /// Who knows who may do what.
    pub api: Arc<Api>,
}

impl std::fmt::Debug for ClusterSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterSigner")
    }
}

#[async_trait]
impl Signer for ClusterSigner {
    async fn token(&self, claims: &LegacyClaims) -> Result<String, String> {
        let key = self.issuer.key().await.map_err(|status| status.message)?;
        sign_legacy(claims, key.as_ref()).ok_or_else(|| "the key refused to sign".to_owned())
    }

    fn subject(&self, request_pem: &str) -> Result<Subject, String> {
        let request = read_request(request_pem).map_err(|error| error.to_string())?;
        Ok(Subject {
            common_name: request.common_name,
            organisations: request.organisations,
            hosts: request.hosts,
            others: request.other_names,
        })
    }

    async fn allows(&self, review: &Value) -> Result<bool, String> {
        let answer = self.api.review_access(review).await.map_err(|status| status.message)?;
        Ok(answer["status"]["allowed"] == true)
    }

    async fn certificate(&self, order: &Order) -> Result<String, String> {
        let authority = authority::authority(self.store.as_ref()).await;
        let authority = authority.map_err(|error| error.to_string())?;
        let has = |usage: &str| order.usages.iter().any(|known| known == usage);
        let order = CertificateOrder {
            request_pem: &order.request_pem,
            server: has("server auth"),
            key_encipherment: has("key encipherment"),
            seconds: order.seconds,
        };
        authority
            .issue_requested(&order, now())
            .map_err(|error| error.to_string())
    }
}
