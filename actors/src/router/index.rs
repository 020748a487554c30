//! Whom an event concerns: the pure half of the router. It knows of every object its header, and of some its selector, and
//! answers which actors an event wakes, and what an actor must read when it wakes. It never parses more than that, and
//! holds no bodies.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use protocol::object::OwnerReference;
use protocol::selector::{LabelSelector, Operator};
use protocol::store::{Change, StoreEvent};
use protocol::{Header, Key, Object, Resource, Uid};
use serde::Deserialize;
use serde_json::Value;

use crate::collection;
use crate::kind::{Role, Slot};
use crate::kinds::{about_all_nodes, is_about_all_nodes};
use crate::namespace;
use crate::node::eviction;

/// Objects that are shown to an actor that works through many, at a time.
const SHOWN_MAX: usize = 500;

pub(crate) const PODS: &str = "pods";
pub(crate) const NODES: &str = "nodes";
const EVENTS: &str = "events";
pub(crate) const SERVICES: &str = "services";
pub(crate) const NAMESPACES: &str = "namespaces";
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
pub(crate) const QUOTAS: &str = "resourcequotas";
pub(crate) const REPLICA_SETS: &str = "replicasets.apps";
pub(crate) const DEPLOYMENTS: &str = "deployments.apps";
pub(crate) const ENDPOINT_SLICES: &str = "endpointslices.discovery.k8s.io";
pub(crate) const ENDPOINTS: &str = "endpoints";
pub(crate) const BUDGETS: &str = "poddisruptionbudgets.policy";
/// Resources whose objects keep a number of pods. A budget that is a percentage is one of that number.
const SCALED: [&str; 4] = [REPLICA_SETS, DEPLOYMENTS, "statefulsets.apps", "replicationcontrollers"];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const NODE_NAME: &str = "spec.nodeName";

/// What is known of one object.
struct Entry {
    header: Header,
    selector: Option<LabelSelector>,
    /// Of a node: whether it has to do something about its pods, being silent or driving them away.
    minds_pods: bool,
}

impl CustomPlace {
    fn read(definition: &Value) -> CustomPlace {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
        CustomPlace {
            resource: Resource::of(&plural, &group),
            kind: text(&spec["names"]["kind"]),
            namespaced: spec["scope"] == "Namespaced",
            group,
        }
    }
}

/// Whom an event concerns.
pub struct Routed {
    /// The actors that get it.
    pub slots: BTreeSet<Slot>,
    /// An actor that must read its state again, because from here on it is told of others than before: a node that is
    /// silent, or drives pods away, is told of its pods, a Service of the pods of its new selector.
    pub reread: Option<Slot>,
}

/// The index.
#[derive(Default)]
pub struct Index {
    entries: BTreeMap<Key, Entry>,
    uids: HashMap<Uid, Key>,
    dependents: HashMap<Uid, BTreeSet<Key>>,
    pods_by_node: HashMap<String, BTreeSet<Key>>,
    by_namespace: HashMap<Arc<str>, BTreeSet<Key>>,
    selecting: Selecting,
    /// Nodes by name, and whether each minds its pods. This and the next two answer for every pod event without a key being
    /// made to ask with.
    nodes: HashMap<Arc<str>, bool>,
    /// Namespaces that are being deleted.
    ending: HashSet<Arc<str>>,
    /// Quotas by namespace.
    quotas: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Where the objects of custom kinds are, by the definition of the kind.
    custom: BTreeMap<Key, CustomPlace>,
}

/// Where the objects of a custom kind are.
struct CustomPlace {
    group: String,
    kind: String,
    resource: Resource,
    namespaced: bool,
}

/// Objects with a selector by one label that it requires, within a namespace: label, then value. Those that require none are
/// under the empty label.
type Selecting = HashMap<Arc<str>, HashMap<String, HashMap<String, BTreeSet<Key>>>>;

impl Index {
    /// How many objects it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether an object exists.
    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// The header of an object.
    pub fn header(&self, key: &Key) -> Option<&Header> {
        self.entries.get(key).map(|entry| &entry.header)
    }

    /// Takes note of an object from a list.
    pub fn insert(&mut self, key: &Key, object: &Object) {
        if self.refresh(key, object) {
            return;
        }
        self.forget(key);
        if key.resource.as_str() == DEFINITIONS
            && let Ok(value) = object.value()
        {
            self.custom.insert(key.clone(), CustomPlace::read(&value));
        }
        let selector = selector_of(key, object);
        let minds_pods = key.resource.as_str() == NODES && minds_pods(object);
        let header = object.header.clone();
        self.uids.insert(header.uid.clone(), key.clone());
        for owner in header.owners.iter() {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(key.clone());
        }
        match key.resource.as_str() {
            PODS => self.place(key, header.field(NODE_NAME)),
            NODES => {
                self.nodes.insert(Arc::clone(&key.name), minds_pods);
            }
            NAMESPACES if header.deleting => {
                self.ending.insert(Arc::clone(&key.name));
            }
            QUOTAS => {
                let quotas = self.quotas.entry(Arc::clone(&key.namespace)).or_default();
                quotas.insert(key.clone());
            }
            _ => {}
        }
        if !key.namespace.is_empty() {
            self.by_namespace
                .entry(Arc::clone(&key.namespace))
                .or_default()
                .insert(key.clone());
        }
        if let Some(selector) = &selector {
            let (label, value) = anchor(selector);
            let labels = self.selecting.entry(Arc::clone(&key.namespace)).or_default();
            let values = labels.entry(label.to_owned()).or_default();
            values.entry(value.to_owned()).or_default().insert(key.clone());
        }
        self.entries.insert(
            key.clone(),
            Entry {
                header,
                selector,
                minds_pods,
            },
        );
    }

    /// A pod or an Event that was written again with the same owners: only its header, and the pod's node, are new. Most
    /// writes of a busy cluster are such.
    fn refresh(&mut self, key: &Key, object: &Object) -> bool {
        if !matches!(key.resource.as_str(), PODS | EVENTS) {
            return false;
        }
        let header = &object.header;
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        if entry.header.uid != header.uid || entry.header.owners != header.owners {
            return false;
        }
        let former = std::mem::replace(&mut entry.header, header.clone());
        let (before, now) = (former.field(NODE_NAME), header.field(NODE_NAME));
        if key.resource.as_str() == PODS && before != now {
            take(&mut self.pods_by_node, before, key);
            self.place(key, now);
        }
        true
    }

    fn place(&mut self, pod: &Key, node: &str) {
        if node.is_empty() {
            return;
        }
        match self.pods_by_node.get_mut(node) {
            Some(pods) => {
                pods.insert(pod.clone());
            }
            None => {
                let pods = BTreeSet::from([pod.clone()]);
                self.pods_by_node.insert(node.to_owned(), pods);
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.custom.remove(key);
        if self.uids.get(&entry.header.uid) == Some(key) {
            self.uids.remove(&entry.header.uid);
        }
        for owner in entry.header.owners.iter() {
            take(&mut self.dependents, &owner.uid, key);
        }
        match key.resource.as_str() {
            PODS => take(&mut self.pods_by_node, entry.header.field(NODE_NAME), key),
            NODES => {
                self.nodes.remove(&key.name);
            }
            NAMESPACES => {
                self.ending.remove(&key.name);
            }
            QUOTAS => take(&mut self.quotas, &key.namespace, key),
            _ => {}
        }
        take(&mut self.by_namespace, &key.namespace, key);
        if let Some(selector) = &entry.selector {
            let (label, value) = anchor(selector);
            if let Some(labels) = self.selecting.get_mut(&key.namespace) {
                if let Some(values) = labels.get_mut(label) {
                    take(values, value, key);
                    if values.is_empty() {
                        labels.remove(label);
                    }
                }
                if labels.is_empty() {
                    self.selecting.remove(&key.namespace);
                }
            }
        }
    }

    /// Takes note of an event and answers which actors it concerns.
    pub fn route(&mut self, event: &StoreEvent) -> Routed {
        let scope = |entry: Option<&Entry>| entry.map(|entry| (entry.minds_pods, entry.selector.clone()));
        let before = scope(self.entries.get(&event.key));
        let slots = self.concerned_by(event);
        let after = scope(self.entries.get(&event.key));
        let widened = before.is_some() && after.is_some() && before != after;
        Routed {
            slots,
            reread: widened.then(|| Slot::own(event.key.clone())),
        }
    }

    fn concerned_by(&mut self, event: &StoreEvent) -> BTreeSet<Slot> {
        let mut slots = BTreeSet::new();
        let (key, header) = (&event.key, &event.object.header);
        let removed = event.change == Change::Deleted;
        // Whom the former state concerned is asked before it is forgotten.
        if let Some(previous) = event
            .previous
            .as_deref()
            .filter(|p| !concerns_the_same(key, &p.header, header))
        {
            self.concerned(key, &previous.header, &mut slots);
        }
        if removed {
            self.concerned(key, header, &mut slots);
            self.forget(key);
            self.concerned_by_end(key, header, &mut slots);
        } else {
            self.insert(key, &event.object);
            self.concerned(key, header, &mut slots);
            self.wake_own(key, &mut slots);
        }
        if key.resource.as_str() == NODES {
            slots.extend(about_all_nodes().map(Slot::own));
            if event.change == Change::Created {
                slots.extend(self.pods_on(&key.name).map(|pod| Slot::own(pod.clone())));
            }
        }
        slots
    }

    /// Actors that have something to do after a start: those that hold a kind's state, and what was left half done.
    pub fn initial(&self) -> BTreeSet<Slot> {
        let mut slots = BTreeSet::from(about_all_nodes().map(Slot::own));
        for key in self.entries.keys() {
            self.wake_own(key, &mut slots);
            // A Service may have ended while nobody looked.
            if key.resource.as_str() == ENDPOINTS && !self.entries.contains_key(&in_place_of(key, SERVICES)) {
                slots.insert(Slot::own(key.clone()));
            }
        }
        slots
    }

    /// The object's own actors, if its present state gives them something to do.
    fn wake_own(&self, key: &Key, slots: &mut BTreeSet<Slot>) {
        let Some(entry) = self.entries.get(key) else { return };
        let header = &entry.header;
        let own = match key.resource.as_str() {
            NODES | SERVICES | REPLICA_SETS | DEPLOYMENTS | BUDGETS => true,
            NAMESPACES => {
                header.deleting
                    || namespace::contents(&key.name)
                        .iter()
                        .any(|part| !self.entries.contains_key(part))
            }
            QUOTAS => true,
            EVENTS => false,
            PODS => match header.field(NODE_NAME) {
                "" => header.deleting,
                node => !self.nodes.contains_key(node),
            },
            _ => is_about_all_nodes(key),
        };
        if own {
            slots.insert(Slot::own(key.clone()));
        }
        let waits = |finalizer: &String| matches!(finalizer.as_str(), "foregroundDeletion" | "orphan");
        let collects = header.deleting && header.finalizers.iter().any(waits);
        let orphaned = !header.deleting
            && header.owners.iter().any(|owner| {
                self.uids
                    .get(&owner.uid)
                    .is_none_or(|owner| self.entries.get(owner).is_some_and(|e| waits_foreground(&e.header)))
            });
        if collects || orphaned {
            slots.insert(Slot::collector(key.clone()));
        }
    }

    /// The actors of others that a state of an object concerns.
    fn concerned(&self, key: &Key, header: &Header, slots: &mut BTreeSet<Slot>) {
        for owner in header.owners.iter() {
            let Some(owner_key) = self.uids.get(&owner.uid) else {
                continue;
            };
            if has_actor(owner_key) {
                slots.insert(Slot::own(owner_key.clone()));
            }
            let deleting = self.entries.get(owner_key).is_some_and(|entry| {
                let waits = |name: &String| matches!(name.as_str(), "foregroundDeletion" | "orphan");
                entry.header.deleting && entry.header.finalizers.iter().any(waits)
            });
            if deleting {
                slots.insert(Slot::collector(owner_key.clone()));
            }
        }
        match key.resource.as_str() {
            PODS => {
                self.selecting(key, header, |selecting| {
                    // A pod with another controller is none of a ReplicaSet's business, whatever its labels.
                    matches!(selecting.resource.as_str(), SERVICES | BUDGETS)
                        || (selecting.resource.as_str() == REPLICA_SETS && header.controller().is_none())
                })
                .for_each(|selecting| {
                    slots.insert(Slot::own(selecting.clone()));
                });
                let node = header.field(NODE_NAME);
                if self.nodes.get(node) == Some(&true) {
                    slots.insert(Slot::own(Key::new(NODES, "", node)));
                }
            }
            REPLICA_SETS if header.controller().is_none() => {
                self.selecting(key, header, |selecting| selecting.resource.as_str() == DEPLOYMENTS)
                    .for_each(|selecting| {
                        slots.insert(Slot::own(selecting.clone()));
                    });
            }
            ENDPOINT_SLICES => {
                let service = header
                    .labels
                    .get(SERVICE_NAME)
                    .map(|name| Key::new(SERVICES, Arc::clone(&key.namespace), name.as_str()));
                slots.extend(
                    service
                        .filter(|service| self.entries.contains_key(service))
                        .map(Slot::own),
                );
            }
            ENDPOINTS => {
                let service = in_place_of(key, SERVICES);
                slots.extend(self.entries.contains_key(&service).then(|| Slot::own(service)));
            }
            _ => {}
        }
        if SCALED.contains(&key.resource.as_str()) {
            slots.extend(self.budgets_over(key).cloned().map(Slot::own));
        }
        slots.extend(self.quotas_over(key).cloned().map(Slot::own));
        if self.ending.contains(&key.namespace) {
            slots.insert(Slot::own(Key::new(NAMESPACES, "", Arc::clone(&key.namespace))));
        }
    }

    /// The actors that the end of an object concerns, beside those of its last state.
    fn concerned_by_end(&self, key: &Key, header: &Header, slots: &mut BTreeSet<Slot>) {
        for role in [Role::Own, Role::Collector] {
            // Its own actors learn of the end if they are awake; nobody is woken for it.
            slots.insert(Slot { key: key.clone(), role });
        }
        if namespace::contents(&key.namespace).contains(key) {
            slots.insert(Slot::own(Key::new(NAMESPACES, "", Arc::clone(&key.namespace))));
        }
        let dependents = self.dependents.get(&header.uid).into_iter().flatten();
        slots.extend(dependents.map(|dependent| Slot::collector(dependent.clone())));
        match key.resource.as_str() {
            NODES => slots.extend(self.pods_on(&key.name).map(|pod| Slot::own(pod.clone()))),
            SERVICES => {
                slots.insert(Slot::own(in_place_of(key, ENDPOINTS)));
            }
            _ => {}
        }
    }

    /// Whether a slot's object exists, or the slot does without: nobody is woken for what is gone.
    pub fn has_subject(&self, slot: &Slot) -> bool {
        is_about_all_nodes(&slot.key) || self.entries.contains_key(&slot.key)
    }

    /// What the actor of a slot must read when it wakes, beside its own object.
    pub fn related(&self, slot: &Slot) -> Vec<Key> {
        let key = &slot.key;
        let Some(entry) = self.entries.get(key) else {
            return if is_about_all_nodes(key) {
                self.of_resource(NODES, "").cloned().collect()
            } else {
                Vec::new()
            };
        };
        if slot.role == Role::Collector {
            return self.related_to_collector(key, &entry.header);
        }
        let mut related: BTreeSet<Key> = BTreeSet::new();
        match key.resource.as_str() {
            PODS => {
                let node = entry.header.field(NODE_NAME);
                related.extend((!node.is_empty()).then(|| Key::new(NODES, "", node)));
            }
            NODES => related.extend(self.pods_on(&key.name).cloned()),
            SERVICES => {
                related.extend(self.selected(PODS, key, entry));
                related.extend(self.slices_of(key).cloned());
                related.insert(in_place_of(key, ENDPOINTS));
            }
            ENDPOINTS => {
                related.insert(in_place_of(key, SERVICES));
            }
            REPLICA_SETS => {
                related.extend(self.selected(PODS, key, entry));
                related.extend(self.owned(&entry.header, PODS));
            }
            DEPLOYMENTS => {
                related.extend(self.selected(REPLICA_SETS, key, entry));
                related.extend(self.owned(&entry.header, REPLICA_SETS));
                // Names that it might want for a new ReplicaSet.
                related.extend(self.named_after(REPLICA_SETS, key));
            }
            BUDGETS => {
                for pod in self.selected(PODS, key, entry) {
                    let controllers = self.controllers_above(&pod);
                    related.extend(controllers);
                    related.insert(pod);
                }
            }
            NAMESPACES if !entry.header.deleting => related.extend(namespace::contents(&key.name)),
            QUOTAS => related.extend(
                self.in_namespace(&key.namespace)
                    .filter(|other| *other != key && is_counted(other))
                    .cloned(),
            ),
            NAMESPACES => {
                related.extend(
                    self.by_namespace
                        .get(&key.name)
                        .into_iter()
                        .flatten()
                        .take(SHOWN_MAX)
                        .cloned(),
                );
            }
            _ if is_about_all_nodes(key) => related.extend(self.of_resource(NODES, "").cloned()),
            _ => {}
        }
        related.into_iter().collect()
    }

    /// The quotas that count an object.
    fn quotas_over<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Key> {
        let quotas = self.quotas.get(&key.namespace).filter(|_| is_counted(key));
        quotas.into_iter().flatten().filter(move |quota| *quota != key)
    }

    /// The slices that name a Service as theirs.
    fn slices_of<'a>(&'a self, service: &'a Key) -> impl Iterator<Item = &'a Key> {
        let slices = self.of_resource(ENDPOINT_SLICES, &service.namespace);
        slices.filter(|slice| {
            let name = self.header(slice).and_then(|header| header.labels.get(SERVICE_NAME));
            name.is_some_and(|name| **name == *service.name)
        })
    }

    /// Objects of a resource in the key's namespace whose names begin with the key's name and a hyphen.
    fn named_after(&self, resource: &str, key: &Key) -> impl Iterator<Item = Key> {
        let prefix = format!("{}-", key.name);
        let first = Key::new(resource, Arc::clone(&key.namespace), prefix.as_str());
        let of = (first.resource.clone(), Arc::clone(&first.namespace));
        let from = self.entries.range((Bound::Included(first), Bound::Unbounded));
        from.map(|(key, _)| key.clone())
            .take_while(move |other| (&other.resource, &other.namespace) == (&of.0, &of.1))
            .take_while(move |other| other.name.starts_with(&prefix))
    }

    /// The resources of all custom kinds that are defined.
    pub fn custom_resources(&self) -> Vec<Resource> {
        self.custom.values().map(|place| place.resource.clone()).collect()
    }

    /// The key of an owner; `None` when no kind of its name is known.
    fn owner_key(&self, owner: &OwnerReference, namespace: &str) -> Option<Key> {
        collection::owner_key(owner, namespace).or_else(|| {
            let (group, _) = owner.api_version.split_once('/')?;
            let mut places = self.custom.values();
            let place = places.find(|place| place.group == group && place.kind == owner.kind)?;
            let namespace = if place.namespaced { namespace } else { "" };
            Some(Key::new(place.resource.clone(), namespace, owner.name.as_str()))
        })
    }

    fn related_to_collector(&self, key: &Key, header: &Header) -> Vec<Key> {
        let owners = header
            .owners
            .iter()
            .filter_map(|owner| self.owner_key(owner, &key.namespace));
        let mut related: BTreeSet<Key> = owners.collect();
        if header.deleting {
            related.extend(
                self.dependents
                    .get(&header.uid)
                    .into_iter()
                    .flatten()
                    .take(SHOWN_MAX)
                    .cloned(),
            );
        }
        related.into_iter().collect()
    }

    /// The controller of an object, if it exists: the actor above it in the tree of paths.
    pub fn controller(&self, key: &Key) -> Option<&Key> {
        let controller = self.header(key)?.controller()?;
        self.uids
            .get(&controller.uid)
            .filter(|above| above.namespace == key.namespace)
    }

    /// The objects that a controller owns.
    pub fn controlled(&self, key: &Key) -> impl Iterator<Item = &Key> {
        let uid = self.header(key).map(|header| header.uid.clone());
        let dependents = uid
            .clone()
            .and_then(|uid| self.dependents.get(&uid))
            .into_iter()
            .flatten();
        dependents.filter(move |dependent| {
            let controller = self.header(dependent).and_then(Header::controller);
            controller.is_some_and(|controller| Some(&controller.uid) == uid.as_ref())
        })
    }

    /// The controller of an object, and that one's, whether or not they exist.
    fn controllers_above(&self, key: &Key) -> Vec<Key> {
        let above = |key: &Key| self.owner_key(self.header(key)?.controller()?, &key.namespace);
        let controller = above(key);
        let second = controller.as_ref().and_then(above);
        controller.into_iter().chain(second).collect()
    }

    /// The budgets that cover the pods below a controller. One pod stands for all of a controller's: they are made from one
    /// template, and what becomes of a pod itself is told to its budgets anyway.
    fn budgets_over(&self, controller: &Key) -> impl Iterator<Item = &Key> {
        let is_pod = |key: &&Key| key.resource.as_str() == PODS;
        let sets = self.controlled(controller).filter(move |key| !is_pod(key));
        let first = self.controlled(controller).find(is_pod);
        let pods = first
            .into_iter()
            .chain(sets.filter_map(move |set| self.controlled(set).find(is_pod)));
        pods.filter_map(|pod| Some((pod, self.header(pod)?)))
            .flat_map(|(pod, header)| self.selecting(pod, header, |selecting| selecting.resource.as_str() == BUDGETS))
    }

    /// All objects of a resource in a namespace.
    pub fn of_resource<'a>(&'a self, resource: &str, namespace: &str) -> impl Iterator<Item = &'a Key> {
        let first = Key::new(Resource::new(resource), namespace, "");
        let (resource, namespace) = (first.resource.clone(), Arc::clone(&first.namespace));
        self.entries
            .range((Bound::Included(first), Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(move |key| key.resource == resource && key.namespace == namespace)
    }

    /// Namespaces in which there is something.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_namespace
            .iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(namespace, _)| namespace)
    }

    /// All objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Key> {
        self.by_namespace.get(namespace).into_iter().flatten()
    }

    fn pods_on(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.pods_by_node.get(node).into_iter().flatten()
    }

    fn owned<'a>(&'a self, header: &Header, resource: &'a str) -> impl Iterator<Item = Key> + 'a {
        let dependents = self.dependents.get(&header.uid).into_iter().flatten();
        dependents.filter(move |key| key.resource.as_str() == resource).cloned()
    }

    /// Objects of a resource in the key's namespace that its selector matches.
    fn selected<'a>(&'a self, resource: &'a str, key: &'a Key, entry: &'a Entry) -> impl Iterator<Item = Key> + 'a {
        let candidates = entry.selector.iter().flat_map(move |selector| {
            self.of_resource(resource, &key.namespace)
                .map(move |candidate| (selector, candidate))
        });
        candidates.filter_map(|(selector, candidate)| {
            let header = self.header(candidate)?;
            selects(key, selector, header).then(|| candidate.clone())
        })
    }

    /// Objects in the key's namespace whose selector matches these labels.
    fn selecting<'a>(
        &'a self,
        key: &'a Key,
        header: &'a Header,
        wanted: impl Fn(&Key) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Key> {
        let by_label = self.selecting.get(&key.namespace);
        let anchors = header
            .labels
            .iter()
            .map(|(label, value)| (label.as_str(), value.as_str()));
        let anchors = by_label.map(|by_label| {
            let found = anchors.chain([("", "")]);
            found.filter_map(move |(label, value)| by_label.get(label)?.get(value))
        });
        anchors
            .into_iter()
            .flatten()
            .flatten()
            .filter(move |selecting| wanted(selecting))
            .filter(|selecting| {
                let selector = self.entries.get(*selecting).and_then(|entry| entry.selector.as_ref());
                selector.is_some_and(|selector| selects(selecting, selector, header))
            })
    }
}

/// Whether objects of this resource have an actor of their own beside a collector.
pub(crate) fn has_actor(key: &Key) -> bool {
    matches!(key.resource.as_str(), NODES | SERVICES | REPLICA_SETS | DEPLOYMENTS)
}

/// Whether the selector of an object selects another one. An empty selector selects nothing, but for budgets, where it
/// covers the whole namespace (policy/v1).
fn selects(key: &Key, selector: &LabelSelector, header: &Header) -> bool {
    (!selector.is_empty() || key.resource.as_str() == BUDGETS) && selector.matches(&header.labels)
}

/// The key of the object of another resource that has the same name.
fn in_place_of(key: &Key, resource: &str) -> Key {
    Key::new(resource, Arc::clone(&key.namespace), Arc::clone(&key.name))
}

fn waits_foreground(header: &Header) -> bool {
    header.deleting && header.finalizers.iter().any(|name| name == "foregroundDeletion")
}

/// Whether two states of a pod or an Event concern the same actors of others: `concerned` reads nothing else of them.
fn concerns_the_same(key: &Key, before: &Header, now: &Header) -> bool {
    matches!(key.resource.as_str(), PODS | EVENTS)
        && before.labels == now.labels
        && before.owners == now.owners
        && before.field(NODE_NAME) == now.field(NODE_NAME)
}

fn take<K, Q>(map: &mut HashMap<K, BTreeSet<Key>>, name: &Q, key: &Key)
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(keys) = map.get_mut(name) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(name);
        }
    }
}

/// One label that a selector requires, to find it by, and its value.
fn anchor(selector: &LabelSelector) -> (&str, &str) {
    let exact = selector
        .requirements
        .iter()
        .find_map(|requirement| match &requirement.operator {
            Operator::In(values) if values.len() == 1 => Some((requirement.key.as_str(), values[0].as_str())),
            _ => None,
        });
    exact.unwrap_or_default()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Selector {
    spec: SelectorSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SelectorSpec {
    selector: Value,
}

/// The selector of an object that has one. What cannot be parsed selects nothing: its own actor reports it.
fn selector_of(key: &Key, object: &Object) -> Option<LabelSelector> {
    let read = || object.parse::<Selector>().ok().map(|object| object.spec.selector);
    match key.resource.as_str() {
        REPLICA_SETS | DEPLOYMENTS => LabelSelector::from_value(&read()?).ok(),
        BUDGETS => {
            let selector = read()?;
            selector
                .is_object()
                .then(|| LabelSelector::from_value(&selector).ok())?
        }
        SERVICES => {
            let labels: BTreeMap<String, String> = serde_json::from_value(read()?).ok()?;
            (!labels.is_empty()).then(|| LabelSelector::from_map(labels.iter()))
        }
        _ => None,
    }
}

/// Whether a node's taints say that it has to do something about its pods: those of a silent node are not ready, whether or
/// not they are driven away.
fn minds_pods(object: &Object) -> bool {
    let node = object.parse::<crate::reading::Node>().unwrap_or_default();
    let silent = |key: &str| matches!(key, eviction::UNREACHABLE | eviction::NOT_READY);
    node.spec
        .taints
        .iter()
        .any(|taint| taint.effect == "NoExecute" || silent(&taint.key))
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;

/// Whether quotas may count an object. What the control plane itself writes all the time is not counted.
fn is_counted(key: &Key) -> bool {
    !matches!(
        key.resource.as_str(),
        EVENTS | "leases.coordination.k8s.io" | ENDPOINT_SLICES | ENDPOINTS
    )
}
