//! The member's side of joining: decodes, asks the authority, encodes. Registered with the mesh for `Purpose::Join` on
//! every member, so that a machine can join by any address.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use config::name::check_node_name;
use protocol::NodeName;
use protocol::codec::{decode, encode};
use protocol::transport::Service;

use super::{JoinGrant, JoinRefusal, JoinRequest, WireReply, WireRequest};

/// Decides about joiners and issues certificates; the process implements it on the replicated store, where tokens and
/// the CA's key are.
#[async_trait]
pub trait JoinAuthority: Send + Sync + 'static {
    /// Admits a machine or says why not.
    async fn admit(&self, request: JoinRequest) -> Result<JoinGrant, JoinRefusal>;

    /// Issues a member a new certificate for its own name. The mesh has verified who it is.
    async fn renew(
        &self,
        node: &NodeName,
        signing_request: Vec<u8>,
        addresses: Vec<IpAddr>,
    ) -> Result<String, JoinRefusal>;
}

/// Serves `Purpose::Join`.
pub struct JoinService {
    authority: Arc<dyn JoinAuthority>,
}

impl JoinService {
    /// Over an authority.
    pub fn new(authority: Arc<dyn JoinAuthority>) -> Arc<JoinService> {
        Arc::new(JoinService { authority })
    }

    async fn answer(&self, from: &NodeName, request: WireRequest) -> WireReply {
        match request {
            WireRequest::Join(request) => {
                let name = request.name.clone();
                match self.authority.admit(request).await {
                    Ok(grant) => {
                        tracing::info!(%from, node = %name, "a machine was admitted");
                        WireReply::Granted(grant.into())
                    }
                    Err(refusal) => {
                        tracing::info!(%from, node = %name, %refusal, "a machine was refused");
                        WireReply::Refused(refusal)
                    }
                }
            }
            WireRequest::Renew {
                signing_request,
                addresses,
            } => {
                // A joiner is known to the mesh by its address alone, which is no node's name.
                if check_node_name(from.as_str()).is_err() {
                    let reason = "only a member's certificate can be renewed".to_owned();
                    return WireReply::Refused(JoinRefusal::Name { reason });
                }
                match self.authority.renew(from, signing_request, addresses).await {
                    Ok(certificate_pem) => WireReply::Renewed { certificate_pem },
                    Err(refusal) => WireReply::Refused(refusal),
                }
            }
        }
    }
}

#[async_trait]
impl Service for JoinService {
    async fn call(&self, from: &NodeName, request: Bytes) -> Bytes {
        let reply = match decode(&request) {
            Ok(request) => self.answer(from, request).await,
            Err(error) => WireReply::Refused(JoinRefusal::Version {
                theirs: "unknown".to_owned(),
                ours: env!("CARGO_PKG_VERSION").to_owned(),
                remedy: format!("its request cannot be read ({error})"),
            }),
        };
        // A reply is far below the codec's limit, which is the only reason for it not to encode.
        encode(&reply).map(Bytes::from).unwrap_or_default()
    }
}
