//! Actor paths of the control plane's objects, by ownership: `/cluster/default/deployments.apps/web/replicasets.apps/web-1`.
//! Maps slots to paths and back, and shows the shell the actors that sleep. Reads the index, never changes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;
use protocol::Key;
use protocol::admin::ActorEntry;
use ractor::ActorRef;
use supervision::{ActorPath, AdminMessage, Sleepers};

use super::RouterMessage;
use super::index::{BUDGETS, DEPLOYMENTS, Index, NAMESPACES, NODES, PODS, REPLICA_SETS, SERVICES};
use crate::kind::{Role, Slot};
use crate::kinds;

/// Resources whose objects are shown in the tree.
const SHOWN: [&str; 7] = [BUDGETS, DEPLOYMENTS, NAMESPACES, NODES, PODS, REPLICA_SETS, SERVICES];
/// Owners above an object that are followed; a longer chain, or a circle, ends there.
const DEPTH_MAX: usize = 8;

/// The control plane's place in the tree.
pub(super) fn root() -> ActorPath {
    ActorPath::root().child("cluster")
}

/// The path of a slot.
pub(super) fn path_of(index: &Index, slot: &Slot) -> ActorPath {
    if kinds::is_about_all_nodes(&slot.key) && slot.role == Role::Own {
        return root().child(kinds::name(slot));
    }
    if slot.role == Role::Collector {
        let key = &slot.key;
        return root()
            .child("collectors")
            .child(key.resource.as_str())
            .child(&key.namespace)
            .child(&key.name);
    }
    path_of_key(index, &slot.key, DEPTH_MAX)
}

fn path_of_key(index: &Index, key: &Key, depth: usize) -> ActorPath {
    let above = match index.controller(key) {
        Some(controller) if depth > 0 => path_of_key(index, controller, depth - 1),
        _ => root().child(&key.namespace),
    };
    above.child(key.resource.as_str()).child(&key.name)
}

/// What a path below the root stands for.
enum Place {
    Root,
    Namespace(String),
    /// All objects of a resource: cluster-scoped ones, or those of a namespace that no controller owns.
    Resource(String, String),
    Object(Key),
    /// The objects of a resource that an object controls.
    Controlled(Key, String),
}

fn place(path: &ActorPath) -> Option<Place> {
    let rest = path.as_str().strip_prefix(root().as_str())?;
    let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
    Some(match segments.as_slice() {
        [] => Place::Root,
        [one] if cluster_scoped(one) => Place::Resource((*one).to_owned(), String::new()),
        [namespace] => Place::Namespace((*namespace).to_owned()),
        [resource, name] if cluster_scoped(resource) => Place::Object(Key::new(*resource, "", *name)),
        [namespace, pairs @ ..] => {
            let chunks: Vec<&[&str]> = pairs.chunks(2).collect();
            let (last, above) = chunks.split_last()?;
            match (last, above.last()) {
                ([resource, name], _) => Place::Object(Key::new(*resource, *namespace, *name)),
                ([resource], None) => Place::Resource((*resource).to_owned(), (*namespace).to_owned()),
                ([resource], Some([kind, name])) => {
                    Place::Controlled(Key::new(*kind, *namespace, *name), (*resource).to_owned())
                }
                _ => return None,
            }
        }
    })
}

fn cluster_scoped(resource: &str) -> bool {
    matches!(resource, NODES | NAMESPACES)
}

/// The sleeping actors, for the shell.
pub(crate) struct Paths {
    index: Arc<RwLock<Index>>,
    router: ActorRef<RouterMessage>,
}

impl Paths {
    pub fn new(index: Arc<RwLock<Index>>, router: ActorRef<RouterMessage>) -> Paths {
        Paths { index, router }
    }
}

impl Sleepers for Paths {
    fn children(&self, path: &ActorPath) -> Vec<ActorEntry> {
        let index = self.index.read();
        let folders = |names: BTreeSet<&str>| names.into_iter().map(|name| folder(&path.child(name))).collect();
        let shown = |key: &&Key| SHOWN.contains(&key.resource.as_str());
        match place(path) {
            None => Vec::new(),
            Some(Place::Root) => {
                let has_actors = |namespace: &&str| index.in_namespace(namespace).any(|key| shown(&key));
                let mut names: BTreeSet<&str> = index.namespaces().map(|namespace| &**namespace).collect();
                names.retain(has_actors);
                names.extend([NODES, NAMESPACES]);
                folders(names)
            }
            Some(Place::Namespace(namespace)) => {
                let objects = index.in_namespace(&namespace).filter(shown);
                folders(objects.map(|key| key.resource.as_str()).collect())
            }
            Some(Place::Resource(resource, namespace)) => {
                let objects = index.of_resource(&resource, &namespace).filter(shown);
                objects
                    .filter(|key| index.controller(key).is_none())
                    .map(|key| sleeping(&index, key, path))
                    .collect()
            }
            Some(Place::Object(key)) => folders(
                index
                    .controlled(&key)
                    .filter(shown)
                    .map(|key| key.resource.as_str())
                    .collect(),
            ),
            Some(Place::Controlled(key, resource)) => {
                let objects = index
                    .controlled(&key)
                    .filter(shown)
                    .filter(|key| key.resource.as_str() == resource);
                objects.map(|key| sleeping(&index, key, path)).collect()
            }
        }
    }

    fn find(&self, path: &ActorPath) -> Option<ActorEntry> {
        let Some(Place::Object(key)) = place(path) else {
            return None;
        };
        let index = self.index.read();
        let above = path.parent()?;
        let exists = SHOWN.contains(&key.resource.as_str())
            && index.contains(&key)
            && path_of_key(&index, &key, DEPTH_MAX) == *path;
        exists.then(|| sleeping(&index, &key, &above))
    }

    fn wake(&self, path: &ActorPath, message: AdminMessage) -> bool {
        let Some(Place::Object(key)) = place(path) else {
            return false;
        };
        self.router
            .send_message(RouterMessage::Wake(Slot::own(key), message))
            .is_ok()
    }
}

fn sleeping(index: &Index, key: &Key, above: &ActorPath) -> ActorEntry {
    ActorEntry {
        path: above.child(&key.name).to_string(),
        kind: kinds::name(&Slot::own(key.clone())).to_owned(),
        state: "asleep".to_owned(),
        summary: String::new(),
        restarts: 0,
        children: index.controlled(key).count() as u64,
    }
}

fn folder(path: &ActorPath) -> ActorEntry {
    ActorEntry {
        path: path.to_string(),
        kind: "folder".to_owned(),
        state: String::new(),
        summary: String::new(),
        restarts: 0,
        children: 0,
    }
}
