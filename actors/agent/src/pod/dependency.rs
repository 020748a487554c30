//! Which ConfigMaps and Secrets a pod needs before its containers can start, and what is known of them. Pure: the pod's
//! actor reads them from the store and hands the result in.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::token::{HeldToken, TokenWish};

/// The two kinds that hold configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Source {
    /// The resource in the store.
    pub fn resource(self) -> &'static str {
        match self {
            Source::ConfigMap => "configmaps",
            Source::Secret => "secrets",
        }
    }

    /// The word that Kubernetes' messages use.
    pub fn word(self) -> &'static str {
        match self {
            Source::ConfigMap => "configmap",
            Source::Secret => "secret",
        }
    }
}

/// One ConfigMap or Secret in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Which kind.
    pub source: Source,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// A reference.
    pub fn new(source: Source, name: impl Into<String>) -> Reference {
        Reference {
            source,
            name: name.into(),
        }
    }
}

/// A service as the pod's environment shows it (`REDIS_SERVICE_HOST` and so on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAddress {
    /// The service's name.
    pub name: String,
    /// Its cluster address.
    pub cluster_ip: String,
    /// Port name (may be empty), number and protocol.
    pub ports: Vec<(String, u16, String)>,
}

/// What was read from the store for a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// The content of each reference; `None` when it does not exist.
    pub contents: BTreeMap<Reference, Option<BTreeMap<String, Vec<u8>>>>,
    /// Services of the pod's namespace, and the `kubernetes` service.
    pub services: Vec<ServiceAddress>,
    /// The tokens that were asked for, or why there is none.
    pub tokens: BTreeMap<TokenWish, Result<HeldToken, String>>,
}

impl Dependencies {
    /// The content of a ConfigMap or Secret, if it exists.
    pub fn content(&self, source: Source, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.contents.get(&Reference::new(source, name))?.as_ref()
    }
}

/// Every ConfigMap and Secret that the pod names.
pub fn references(spec: &PodSpec) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let fixed = spec.init_containers.iter().flatten().chain(&spec.containers);
    let fixed = fixed.map(|container| (&container.env_from, &container.env));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|container| (&container.env_from, &container.env));
    for (env_from, env) in fixed.chain(ephemeral) {
        for from in env_from.iter().flatten() {
            if let Some(map) = &from.config_map_ref {
                found.insert(Reference::new(Source::ConfigMap, map.name.clone()));
            }
            if let Some(secret) = &from.secret_ref {
                found.insert(Reference::new(Source::Secret, secret.name.clone()));
            }
        }
        for from in env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(map) = &from.config_map_key_ref {
                found.insert(Reference::new(Source::ConfigMap, map.name.clone()));
            }
            if let Some(secret) = &from.secret_key_ref {
                found.insert(Reference::new(Source::Secret, secret.name.clone()));
            }
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume_references(volume, &mut found);
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.insert(Reference::new(Source::Secret, secret.name.clone()));
    }
    found
}

fn volume_references(volume: &Volume, found: &mut BTreeSet<Reference>) {
    if let Some(map) = &volume.config_map {
        found.insert(Reference::new(Source::ConfigMap, map.name.clone()));
    }
    if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()) {
        found.insert(Reference::new(Source::Secret, name));
    }
    for projection in volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten())
    {
        if let Some(map) = &projection.config_map {
            found.insert(Reference::new(Source::ConfigMap, map.name.clone()));
        }
        if let Some(secret) = &projection.secret {
            found.insert(Reference::new(Source::Secret, secret.name.clone()));
        }
    }
}
