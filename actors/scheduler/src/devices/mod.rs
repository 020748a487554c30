//! Owns what scheduling knows of devices (dynamic resource allocation, `resource.k8s.io/v1` with structured parameters): classes,
//! the devices that ResourceSlices publish, claims, and which device is allocated to which claim, here or in the store. Called
//! by the cluster state; read by the plugin DynamicResources. It must allocate no device twice.

mod reading;
mod search;
mod selector;

pub use reading::{read_claim, read_device_class, read_slice};
pub use search::{Allocation, Impossible};

use crate::cluster::PodId;
use crate::intern::{Sym, Symbols};
use crate::node::Node;
use crate::selector::{NodeSelectorTerm, Taint, Toleration};
use rustc_hash::{FxHashMap, FxHashSet};
use selector::{ExpressionId, Expressions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A claim that a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimUse {
    /// The claim `namespace/name`.
    Named(Sym),
    /// One that is to be made from a template, and is not there; the symbol is the pod's name for it.
    Awaited(Sym),
}

/// The value of a device's attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A truth value.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
    /// A semantic version.
    Version(String),
}

/// Which nodes reach a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Reachable {
    /// One node.
    Node(Sym),
    /// All nodes.
    Everywhere,
    /// Those that meet one of these terms.
    Terms(Vec<NodeSelectorTerm>),
}

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name within its pool.
    pub name: Sym,
    /// Attributes by fully qualified name, `domain/identifier`.
    pub attributes: BTreeMap<String, Attribute>,
    /// Capacities by fully qualified name, in thousandths.
    pub capacity: BTreeMap<String, i64>,
    /// Who reaches it.
    pub reachable: Reachable,
    /// Taints; NoSchedule and NoExecute keep claims away that do not tolerate them.
    pub taints: Vec<Taint>,
    /// What it has that this scheduler does not know how to allocate: then it is never allocated.
    pub unsupported: Option<&'static str>,
}

/// A ResourceSlice: some devices of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The driver.
    pub driver: Sym,
    /// The pool.
    pub pool: Sym,
    /// Which version of the pool it belongs to; only the latest counts.
    pub generation: i64,
    /// How many slices the pool has in that version. While some are missing, none of its devices is allocated.
    pub slices: i64,
    /// The devices.
    pub devices: Vec<Arc<Device>>,
}

/// A DeviceClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClass {
    /// CEL expressions that a device of the class meets.
    pub selectors: Vec<String>,
}

/// How many devices a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(usize),
    /// All that are selected, at least one, and none of them in use.
    All,
}

/// One way to meet a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// The name under which it is allocated: `request`, or `request/subrequest`.
    pub name: String,
    /// The device class.
    pub class: Sym,
    /// CEL expressions on top of the class's.
    pub selectors: Vec<String>,
    /// How many.
    pub count: Count,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
}

/// A request: the first of these that can be met.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// The ways to meet it, the best first.
    pub options: Vec<Alternative>,
}

/// What devices of several requests have in common, or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// The requests (or subrequests), all if empty.
    pub requests: Vec<String>,
    /// The attribute, `domain/identifier`.
    pub attribute: String,
    /// Whether its values are equal; otherwise they all differ.
    pub equal: bool,
}

/// A ResourceClaim.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceClaim {
    /// The requests.
    pub requests: Vec<Request>,
    /// The constraints.
    pub constraints: Vec<Constraint>,
    /// What this scheduler does not know how to allocate; then pods that use the claim are refused, with these words.
    pub unsupported: Option<String>,
    /// What is allocated, says the store.
    pub allocation: Option<Allocation>,
    /// The consumers for which it is reserved, as the store has them.
    pub reserved_for: serde_json::Value,
    /// The claim's finalizers.
    pub finalizers: Vec<String>,
    /// It is being deleted.
    pub terminating: bool,
}

/// The most consumers for which a claim is reserved (`ResourceClaimReservedForMaxSize`).
pub const CONSUMERS_MAX: usize = 256;

/// A device by driver, pool and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName {
    /// The driver.
    pub driver: Sym,
    /// The pool.
    pub pool: Sym,
    /// The device.
    pub device: Sym,
}

/// A place in the table of devices.
type Slot = u32;

#[derive(Debug)]
struct Published {
    slice: Sym,
    name: DeviceName,
    device: Arc<Device>,
}

/// The devices of the cluster.
#[derive(Debug, Default)]
pub struct Devices {
    classes: FxHashMap<Sym, DeviceClass>,
    slices: BTreeMap<Sym, Slice>,
    claims: FxHashMap<Sym, DeviceClaim>,
    /// Devices of the latest, complete version of each pool, worked out when they are needed.
    published: Vec<Published>,
    /// Slices have changed since.
    is_stale: bool,
    on_node: FxHashMap<Sym, Vec<Slot>>,
    elsewhere: Vec<Slot>,
    expressions: Expressions,
    /// Allocated by decisions, and not yet by the store.
    promised: FxHashMap<Sym, (PodId, Allocation)>,
    promised_to: FxHashMap<PodId, Vec<Sym>>,
    in_use: FxHashSet<DeviceName>,
    version: u64,
}

impl Devices {
    /// Changes with everything here.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A claim, as the store has it.
    pub fn claim(&self, name: Sym) -> Option<&DeviceClaim> {
        self.claims.get(&name)
    }

    /// What is allocated to a claim, by the store or by a decision.
    pub fn allocation(&self, claim: Sym) -> Option<&Allocation> {
        let stored = self.claims.get(&claim).and_then(|claim| claim.allocation.as_ref());
        stored.or_else(|| self.promised.get(&claim).map(|(_, allocation)| allocation))
    }

    /// The claims that a decision allocated for a pod.
    pub fn promised_to(&self, pod: PodId) -> &[Sym] {
        self.promised_to.get(&pod).map_or(&[], Vec::as_slice)
    }

    /// Whether a device is allocated.
    pub fn is_in_use(&self, device: DeviceName) -> bool {
        self.in_use.contains(&device)
    }

    /// Number of devices that are allocated.
    pub fn in_use(&self) -> usize {
        self.in_use.len()
    }

    /// Why no device can be allocated for the claim on any node, before any is looked at.
    pub fn objection(&self, symbols: &Symbols, claim: &DeviceClaim) -> Option<String> {
        if let Some(words) = &claim.unsupported {
            return Some(words.clone());
        }
        for option in claim.requests.iter().flat_map(|request| &request.options) {
            let Some(class) = self.classes.get(&option.class) else {
                let class = symbols.text(option.class);
                return Some(format!("request {}: device class {class} does not exist", option.name));
            };
            for text in class.selectors.iter().chain(&option.selectors) {
                if let Some(error) = self.expressions.error(text) {
                    return Some(format!("request {}: selector {text:?}: {error}", option.name));
                }
            }
        }
        None
    }

    /// Compiles the selectors of a claim and evaluates them for all devices, where that has not been done.
    pub(crate) fn prepare(&mut self, symbols: &Symbols, claim: Sym) {
        if std::mem::take(&mut self.is_stale) {
            self.publish(symbols);
        }
        let Some(claim) = self.claims.get(&claim) else { return };
        let options = claim.requests.iter().flat_map(|request| &request.options);
        let classes = &self.classes;
        let texts = options.flat_map(|option| {
            let of_class = classes
                .get(&option.class)
                .into_iter()
                .flat_map(|class| &class.selectors);
            of_class.chain(&option.selectors)
        });
        let published = &self.published;
        for text in texts {
            self.expressions.hold(text, || {
                published.iter().map(|p| selector::input(symbols, p.name, &p.device))
            });
        }
    }

    /// The devices that a node reaches, in the order of slices.
    fn reached_by<'a>(&'a self, symbols: &'a Symbols, node: &'a Node) -> impl Iterator<Item = (Slot, &'a Published)> {
        let own = self.on_node.get(&node.name).into_iter().flatten();
        let shared =
            self.elsewhere
                .iter()
                .filter(move |slot| match &self.published[**slot as usize].device.reachable {
                    Reachable::Everywhere => true,
                    Reachable::Node(name) => *name == node.name,
                    Reachable::Terms(terms) => terms
                        .iter()
                        .any(|term| term.matches(symbols, node.name, &node.reading.labels)),
                });
        own.chain(shared).map(|slot| (*slot, &self.published[*slot as usize]))
    }

    /// What would be allocated on a node for claims that have nothing: for each, in order.
    pub fn allocate(&self, symbols: &Symbols, claims: &[Sym], node: &Node) -> Result<Vec<Allocation>, Impossible> {
        search::allocate(self, symbols, claims, node)
    }

    fn matches(&self, expressions: &[ExpressionId], slot: Slot) -> Result<bool, String> {
        for id in expressions {
            if !self.expressions.matches(*id, slot as usize)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    // ---- Changes -----------------------------------------------------------------------------------------------------

    pub(crate) fn set_class(&mut self, name: Sym, class: Option<DeviceClass>) -> bool {
        let changed = match class {
            Some(class) => self.classes.insert(name, class.clone()).as_ref() != Some(&class),
            None => self.classes.remove(&name).is_some(),
        };
        self.version += u64::from(changed);
        changed
    }

    pub(crate) fn set_slice(&mut self, name: Sym, slice: Option<Slice>) -> bool {
        let changed = match slice {
            Some(slice) => self.slices.insert(name, slice.clone()).as_ref() != Some(&slice),
            None => self.slices.remove(&name).is_some(),
        };
        // A whole cluster's slices come one by one: the devices are worked out once, before the next claim is looked at.
        self.is_stale |= changed;
        self.version += u64::from(changed);
        changed
    }

    /// Works out which devices there are. Selectors are evaluated for the new ones only.
    fn publish(&mut self, symbols: &Symbols) {
        let mut pools: BTreeMap<(Sym, Sym), (i64, i64, i64)> = BTreeMap::new();
        for slice in self.slices.values() {
            let pool = pools
                .entry((slice.driver, slice.pool))
                .or_insert((slice.generation, slice.slices, 0));
            if slice.generation > pool.0 {
                *pool = (slice.generation, slice.slices, 0);
            }
            pool.2 += i64::from(slice.generation == pool.0);
        }
        let before = std::mem::take(&mut self.published);
        let known: FxHashMap<(Sym, DeviceName), usize> = before
            .iter()
            .enumerate()
            .map(|(at, p)| ((p.slice, p.name), at))
            .collect();
        let mut kept: Vec<Option<usize>> = Vec::new();
        self.on_node.clear();
        self.elsewhere.clear();
        for (slice_name, slice) in &self.slices {
            let (generation, slices, found) = pools[&(slice.driver, slice.pool)];
            if slice.generation != generation || found != slices {
                continue;
            }
            for device in &slice.devices {
                let name = DeviceName {
                    driver: slice.driver,
                    pool: slice.pool,
                    device: device.name,
                };
                let slot = self.published.len() as Slot;
                match device.reachable {
                    Reachable::Node(node) => self.on_node.entry(node).or_default().push(slot),
                    _ => self.elsewhere.push(slot),
                }
                let old = known.get(&(*slice_name, name)).copied();
                kept.push(old.filter(|old| before[*old].device == *device));
                self.published.push(Published {
                    slice: *slice_name,
                    name,
                    device: device.clone(),
                });
            }
        }
        let published = &self.published;
        self.expressions.renumber(&kept, |at| {
            let published = &published[at];
            selector::input(symbols, published.name, &published.device)
        });
    }

    pub(crate) fn set_claim(&mut self, name: Sym, claim: Option<DeviceClaim>) -> bool {
        let before = self.claims.get(&name);
        if before == claim.as_ref() {
            return false;
        }
        if let Some(allocation) = self.allocation(name).cloned() {
            allocation.devices.iter().for_each(|(_, device)| {
                self.in_use.remove(device);
            });
        }
        match claim {
            Some(claim) => {
                self.claims.insert(name, claim);
            }
            None => {
                self.claims.remove(&name);
                self.forget_promise(name);
            }
        }
        // What the store has allocated replaces what was promised.
        if self.claims.get(&name).is_some_and(|claim| claim.allocation.is_some()) {
            self.forget_promise(name);
        }
        if let Some(allocation) = self.allocation(name).cloned() {
            self.in_use.extend(allocation.devices.iter().map(|(_, device)| *device));
        }
        self.version += 1;
        true
    }

    fn forget_promise(&mut self, claim: Sym) {
        if let Some((pod, _)) = self.promised.remove(&claim)
            && let Some(claims) = self.promised_to.get_mut(&pod)
        {
            claims.retain(|other| *other != claim);
            if claims.is_empty() {
                self.promised_to.remove(&pod);
            }
        }
    }

    /// Allocates claims for a pod, until the store says the same or the pod gives them back.
    pub(crate) fn promise(&mut self, pod: PodId, claims: Vec<(Sym, Allocation)>) {
        for (claim, allocation) in claims {
            self.in_use.extend(allocation.devices.iter().map(|(_, device)| *device));
            self.promised_to.entry(pod).or_default().push(claim);
            self.promised.insert(claim, (pod, allocation));
            self.version += 1;
        }
    }

    /// A pod gives back what was allocated for it and is not in the store. True if there was anything.
    pub(crate) fn release(&mut self, pod: PodId) -> bool {
        let claims = self.promised_to.remove(&pod).unwrap_or_default();
        for claim in &claims {
            if let Some((_, allocation)) = self.promised.remove(claim) {
                allocation.devices.iter().for_each(|(_, device)| {
                    self.in_use.remove(device);
                });
            }
            self.version += 1;
        }
        !claims.is_empty()
    }
}
