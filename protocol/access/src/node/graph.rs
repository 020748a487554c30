//! Which objects are related to which node: through the pods that are bound to it, and through the volumes behind the claims
//! of these. Kept up by single writes, as objects come from a watch; a question is a few hash lookups.

use std::collections::{BTreeSet, HashMap};

use api::access::Access;
use serde_json::Value;

use crate::node::references::{Reference, of_pod, secrets_of_volume};

/// What can be related to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Related {
    /// A pod that is bound to it.
    Pod,
    /// A Secret that a pod or its volume refers to.
    Secret,
    /// A ConfigMap that a pod refers to.
    ConfigMap,
    /// A PersistentVolumeClaim that a pod mounts.
    Claim,
    /// The PersistentVolume of such a claim.
    Volume,
    /// The account of a pod.
    ServiceAccount,
    /// A ResourceClaim that a pod uses.
    ResourceClaim,
    /// A VolumeAttachment to the node.
    Attachment,
    /// A ResourceSlice of the node.
    Slice,
}

type ObjectName = (String, String);

#[derive(Debug)]
struct BoundPod {
    node: String,
    references: Vec<Reference>,
}

#[derive(Debug)]
struct BoundVolume {
    claim: ObjectName,
    secrets: Vec<ObjectName>,
}

/// The relations.
#[derive(Debug, Default)]
pub struct NodeGraph {
    pods: HashMap<ObjectName, BoundPod>,
    /// How many pods of which node refer to a thing.
    references: HashMap<Reference, HashMap<String, usize>>,
    volumes: HashMap<String, BoundVolume>,
    /// The volumes that need a Secret.
    volumes_of_secret: HashMap<ObjectName, BTreeSet<String>>,
    /// The node of attachments and slices, by kind and name.
    owned: HashMap<(Related, String), String>,
}

impl NodeGraph {
    /// A graph without an object.
    pub fn new() -> NodeGraph {
        NodeGraph::default()
    }

    /// Takes an object as it is now: of `pods`, `persistentvolumes`, `volumeattachments` or `resourceslices`; another
    /// resource is ignored. Idempotent.
    pub fn upsert(&mut self, resource: &str, object: &Value) {
        let metadata = object.at(&["metadata"]);
        let (namespace, name) = (metadata.text("namespace"), metadata.text("name"));
        self.remove(resource, namespace, name);
        let spec = object.at(&["spec"]);
        match resource {
            "pods" => {
                let node = spec.text("nodeName");
                if !node.is_empty() {
                    self.add_pod(namespace, name, node, of_pod(object));
                }
            }
            "persistentvolumes" => {
                let claim = spec.at(&["claimRef"]);
                let claim = (claim.text("namespace").to_owned(), claim.text("name").to_owned());
                if !claim.1.is_empty() {
                    self.add_volume(name, claim, secrets_of_volume(object));
                }
            }
            "volumeattachments" => self.own(Related::Attachment, name, spec.text("nodeName")),
            "resourceslices" => self.own(Related::Slice, name, spec.text("nodeName")),
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        match resource {
            "pods" => self.remove_pod(&(namespace.to_owned(), name.to_owned())),
            "persistentvolumes" => self.remove_volume(name),
            "volumeattachments" => drop(self.owned.remove(&(Related::Attachment, name.to_owned()))),
            "resourceslices" => drop(self.owned.remove(&(Related::Slice, name.to_owned()))),
            _ => {}
        }
    }

    fn own(&mut self, what: Related, name: &str, node: &str) {
        if !node.is_empty() {
            self.owned.insert((what, name.to_owned()), node.to_owned());
        }
    }

    fn add_pod(&mut self, namespace: &str, name: &str, node: &str, references: Vec<Reference>) {
        for reference in &references {
            let nodes = self.references.entry(reference.clone()).or_default();
            *nodes.entry(node.to_owned()).or_default() += 1;
        }
        let pod = BoundPod {
            node: node.to_owned(),
            references,
        };
        self.pods.insert((namespace.to_owned(), name.to_owned()), pod);
    }

    fn remove_pod(&mut self, key: &ObjectName) {
        let Some(pod) = self.pods.remove(key) else { return };
        for reference in pod.references {
            let Some(nodes) = self.references.get_mut(&reference) else {
                continue;
            };
            if let Some(count) = nodes.get_mut(&pod.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&pod.node);
                }
            }
            if nodes.is_empty() {
                self.references.remove(&reference);
            }
        }
    }

    fn add_volume(&mut self, name: &str, claim: ObjectName, secrets: Vec<ObjectName>) {
        for secret in &secrets {
            self.volumes_of_secret
                .entry(secret.clone())
                .or_default()
                .insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), BoundVolume { claim, secrets });
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else {
            return;
        };
        for secret in volume.secrets {
            if let Some(volumes) = self.volumes_of_secret.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.volumes_of_secret.remove(&secret);
                }
            }
        }
    }

    fn refers(&self, node: &str, what: Related, namespace: &str, name: &str) -> bool {
        let key = (what, namespace.to_owned(), name.to_owned());
        self.references.get(&key).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn mounts(&self, node: &str, volume: &str) -> bool {
        let volume = self.volumes.get(volume);
        volume.is_some_and(|volume| self.refers(node, Related::Claim, &volume.claim.0, &volume.claim.1))
    }

    /// Whether the object is related to the node. The namespace is empty for cluster-scoped kinds.
    pub fn is_related(&self, node: &str, what: Related, namespace: &str, name: &str) -> bool {
        match what {
            Related::Pod => {
                let pod = self.pods.get(&(namespace.to_owned(), name.to_owned()));
                pod.is_some_and(|pod| pod.node == node)
            }
            Related::Volume => self.mounts(node, name),
            Related::Attachment | Related::Slice => self
                .owned
                .get(&(what, name.to_owned()))
                .is_some_and(|owner| owner == node),
            Related::Secret => {
                let through = self.volumes_of_secret.get(&(namespace.to_owned(), name.to_owned()));
                self.refers(node, what, namespace, name)
                    || through.into_iter().flatten().any(|volume| self.mounts(node, volume))
            }
            _ => self.refers(node, what, namespace, name),
        }
    }
}
