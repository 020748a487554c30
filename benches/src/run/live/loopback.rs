//! Owns a mesh within one process: requests are handed to the service of the other node directly. Called for depth `store`, so
//! that three voters run in one process. It must add nothing: no delay, no loss, no encoding.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use protocol::NodeName;
use protocol::transport::{FrameStream, Purpose, SharedService, Transport, TransportError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

type Services = Arc<RwLock<HashMap<(NodeName, Purpose), SharedService>>>;

/// The mesh.
#[derive(Clone, Default)]
pub struct Loopback {
    services: Services,
}

impl Loopback {
    /// Serves one purpose on one node.
    pub fn register(&self, node: &NodeName, purpose: Purpose, service: SharedService) {
        self.services.write().insert((node.clone(), purpose), service);
    }

    /// A node's way to the others.
    pub fn transport(&self, node: &NodeName) -> Arc<dyn Transport> {
        Arc::new(Wire {
            node: node.clone(),
            services: self.services.clone(),
        })
    }
}

struct Wire {
    node: NodeName,
    services: Services,
}

impl Wire {
    fn service(&self, to: &NodeName, purpose: Purpose) -> Result<SharedService, TransportError> {
        let found = self.services.read().get(&(to.clone(), purpose)).cloned();
        found.ok_or_else(|| TransportError::Unreachable {
            node: to.clone(),
            reason: "no such service in this process".to_owned(),
        })
    }
}

#[async_trait]
impl Transport for Wire {
    fn local(&self) -> &NodeName {
        &self.node
    }

    async fn call(
        &self,
        to: &NodeName,
        purpose: Purpose,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let service = self.service(to, purpose)?;
        let answer = tokio::time::timeout(deadline, service.call(&self.node, request)).await;
        answer.map_err(|_| TransportError::Deadline {
            node: to.clone(),
            deadline_ms: deadline.as_millis() as u64,
        })
    }

    async fn stream(&self, to: &NodeName, purpose: Purpose, request: Bytes) -> Result<FrameStream, TransportError> {
        Ok(self.service(to, purpose)?.stream(&self.node, request).await)
    }
}
