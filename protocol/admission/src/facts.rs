//! The policy objects that plugins consult: few, small and read for every write, so each node keeps them at hand and follows
//! the store. They lag behind it by the time of one event, as the informers of an API server do.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Key, Object, Revision};
use serde_json::Value;

/// The resources whose objects plugins consult. Whoever keeps `Facts` follows exactly these.
pub const CONSULTED: &[&str] = &[
    "namespaces",
    "limitranges",
    "resourcequotas",
    "serviceaccounts",
    "priorityclasses.scheduling.k8s.io",
    "runtimeclasses.node.k8s.io",
    "storageclasses.storage.k8s.io",
    "ingressclasses.networking.k8s.io",
];

/// An object that plugins consult.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The revision of its last write.
    pub revision: Revision,
    /// Its content.
    pub value: Arc<Value>,
}

/// What an operator sets for the plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For how many seconds a pod that says nothing itself stays on a node that is unreachable.
    pub unreachable_toleration_seconds: i64,
    /// The same for a node that is not ready.
    pub not_ready_toleration_seconds: i64,
    /// Whether pods are given a token of their account. A cluster without an issuer of tokens has none to give.
    pub mount_tokens: bool,
}

impl Default for Settings {
    /// Kubernetes' own: five minutes.
    fn default() -> Settings {
        Settings {
            unreachable_toleration_seconds: 300,
            not_ready_toleration_seconds: 300,
            mount_tokens: true,
        }
    }
}

type ByName = BTreeMap<(Arc<str>, Arc<str>), Fact>;

/// The consulted objects by resource, namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    objects: BTreeMap<Arc<str>, ByName>,
    /// The operator's settings.
    pub settings: Settings,
}

impl Facts {
    /// Notes an object's newest content. An older one than is known changes nothing.
    pub fn upsert(&mut self, resource: &str, namespace: &str, name: &str, fact: Fact) {
        let objects = self.objects.entry(resource.into()).or_default();
        let key = (namespace.into(), name.into());
        if objects.get(&key).is_none_or(|known| known.revision <= fact.revision) {
            objects.insert(key, fact);
        }
    }

    /// Notes a stored object, if plugins consult its resource.
    pub fn note(&mut self, key: &Key, object: &Object) -> Result<(), serde_json::Error> {
        if CONSULTED.contains(&key.resource.as_str()) {
            let fact = Fact {
                revision: object.header.revision,
                value: Arc::new(object.value()?),
            };
            self.upsert(key.resource.as_str(), &key.namespace, &key.name, fact);
        }
        Ok(())
    }

    /// Forgets an object that was removed at a revision, unless a newer one of the name is known.
    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str, removed: Revision) {
        if let Some(objects) = self.objects.get_mut(resource) {
            let key = (namespace.into(), name.into());
            if objects.get(&key).is_some_and(|known| known.revision <= removed) {
                objects.remove(&key);
            }
        }
    }

    /// Forgets every object of a resource: before those of a new list are noted.
    pub fn clear(&mut self, resource: &str) {
        self.objects.remove(resource);
    }

    /// One object. Cluster-scoped kinds have the empty namespace.
    pub fn one(&self, resource: &str, namespace: &str, name: &str) -> Option<&Fact> {
        self.objects.get(resource)?.get(&(namespace.into(), name.into()))
    }

    /// The objects of a namespace, by name.
    pub fn all<'a>(&'a self, resource: &str, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a Fact)> {
        let objects = self.objects.get(resource).into_iter().flatten();
        objects
            .filter(move |((place, _), _)| &**place == namespace)
            .map(|((_, name), fact)| (&**name, fact))
    }
}
