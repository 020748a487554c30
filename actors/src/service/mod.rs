//! The actor of a Service: keeps its EndpointSlices, and the older Endpoints object of its name, in step with the pods that
//! its selector matches. Supervised by the router's directory (permanent, back-off per object). It owns the slices that
//! name it, and no others: slices that people or other controllers made are never touched, and neither are the Endpoints of
//! a Service without selector. What is left of a Service that is gone is `leftover`'s business.
//!
//! Invariant: an endpoint is in exactly one slice; a slice has at most 100 endpoints.

mod endpoints;
pub mod leftover;
mod subsets;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::selector::LabelSelector;
use protocol::{Key, Object, UnixMillis};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::effects::Effects;
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::reading;

/// What the actor knows.
pub struct Service {
    key: Key,
    own: Option<Own>,
    pods: BTreeMap<Key, Pod>,
    slices: BTreeMap<Key, Slice>,
    mirror: Option<Mirror>,
}

struct Own {
    object: Arc<Object>,
    reading: ServiceReading,
    selector: Option<LabelSelector>,
}

struct Pod {
    object: Arc<Object>,
    reading: reading::Pod,
}

struct Slice {
    object: Arc<Object>,
    value: Value,
}

/// The Endpoints object of the Service's name.
struct Mirror {
    key: Key,
    object: Arc<Object>,
    value: Value,
}

/// A Service, as its actor reads it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceReading {
    metadata: reading::Metadata,
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    selector: Option<BTreeMap<String, String>>,
    ports: Vec<ServicePort>,
    publish_not_ready_addresses: bool,
    ip_families: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    name: String,
    protocol: Option<String>,
    port: i64,
    target_port: Value,
    app_protocol: Option<String>,
}

impl Service {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> Service {
        Service {
            key,
            own: None,
            pods: BTreeMap::new(),
            slices: BTreeMap::new(),
            mirror: None,
        }
    }

    /// The pods that are behind the Service. `None` for one without selector, whose endpoints others write.
    fn selected<'a>(&'a self, own: &'a Own) -> Option<impl Iterator<Item = &'a Pod>> {
        let selector = own.selector.as_ref()?;
        let matches = |pod: &&Pod| selector.matches(&pod.object.header.labels);
        (own.reading.spec.kind != "ExternalName").then(|| self.pods.values().filter(matches))
    }
}

impl ObjectKind for Service {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match (key.resource.as_str(), object) {
            ("services", Some(object)) if *key == self.key => {
                let reading: ServiceReading = read(key, object)?;
                let labels = reading.spec.selector.as_ref().filter(|labels| !labels.is_empty());
                let selector = labels.map(|labels| LabelSelector::from_map(labels.iter()));
                self.own = Some(Own {
                    object: Arc::clone(object),
                    reading,
                    selector,
                });
            }
            ("services", None) if *key == self.key => self.own = None,
            ("pods", Some(object)) => {
                self.pods.insert(
                    key.clone(),
                    Pod {
                        object: Arc::clone(object),
                        reading: read(key, object)?,
                    },
                );
            }
            ("pods", None) => {
                self.pods.remove(key);
            }
            ("endpointslices.discovery.k8s.io", Some(object)) => {
                self.slices.insert(
                    key.clone(),
                    Slice {
                        object: Arc::clone(object),
                        value: read(key, object)?,
                    },
                );
            }
            ("endpointslices.discovery.k8s.io", None) => {
                self.slices.remove(key);
            }
            ("endpoints", object) if (&key.namespace, &key.name) == (&self.key.namespace, &self.key.name) => {
                self.mirror = match object {
                    None => None,
                    Some(object) => Some(Mirror {
                        key: key.clone(),
                        object: Arc::clone(object),
                        value: read(key, object)?,
                    }),
                };
            }
            _ => {}
        }
        Ok(())
    }

    fn decide(&mut self, _: UnixMillis, _: Event, effects: &mut Effects) {
        let Some(own) = self.own.as_ref().filter(|own| !own.object.header.deleting) else {
            return;
        };
        endpoints::decide(self, own, effects);
        if let Some(pods) = self.selected(own) {
            subsets::decide(own, pods, self.mirror.as_ref(), effects);
        }
    }

    fn summary(&self) -> String {
        if self.own.is_none() {
            return "deleted".to_owned();
        }
        let count = |slice: &Slice| slice.value["endpoints"].as_array().map_or(0, Vec::len);
        format!(
            "{} endpoints in {} slices",
            self.slices.values().map(count).sum::<usize>(),
            self.slices.len()
        )
    }

    fn inspect(&self) -> Value {
        json!({
            "key": self.key.to_string(),
            "object": self.own.as_ref().and_then(|own| own.object.value().ok()),
            "pods": self.pods.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "slices": self.slices.keys().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}
