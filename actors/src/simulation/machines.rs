//! Simulated machines: they register, die, fall silent and come back, and each runs the pods that are bound to it. What a
//! machine does about its pods is a `PodMachine`, so that an agent's own deciding code can take its part; `ModelMachine` writes
//! what an agent would write, one write at a time. No policy of the control plane is in here.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::store::{ListRequest, ObjectStore, Precondition, Proposal, Write};
use protocol::{Cause, Key, NodeName, Object, UnixMillis};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::at_once;
use crate::compose;
use crate::conditions::{self, Times, Wanted};

/// What one machine does about the pods that are bound to it.
pub trait PodMachine {
    /// Does one of the things that could happen next; false when there is none before `next_due`.
    fn step(&mut self, now: UnixMillis, rng: &mut SmallRng) -> bool;

    /// When something happens by itself.
    fn next_due(&self) -> Option<UnixMillis>;

    /// The node process ended and started again. What ran runs on.
    fn restart(&mut self, now: UnixMillis);

    /// The machine lost its power: nothing runs any more, and nothing is known.
    fn lose_power(&mut self);

    /// The pods of which something runs.
    fn running(&self) -> Vec<Key>;
}

/// Makes the `PodMachine` of a machine.
pub type MakeMachine = fn(Arc<dyn ObjectStore>, &NodeName) -> Box<dyn PodMachine>;

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It runs and is heard.
    Alive,
    /// Its pods run, and it reaches nobody.
    Silent,
    /// It has no power.
    Dead,
}

struct Machine {
    health: Health,
    pods: Box<dyn PodMachine>,
}

/// All machines of a simulated cluster.
pub struct Machines {
    store: Arc<dyn ObjectStore>,
    machines: BTreeMap<NodeName, Machine>,
}

impl Machines {
    /// Registers machines with so many cores.
    pub fn register(
        store: Arc<dyn ObjectStore>,
        names: &[String],
        cores: u32,
        make: MakeMachine,
        now: UnixMillis,
        rng: &mut SmallRng,
    ) -> Machines {
        let mut machines = BTreeMap::new();
        for name in names {
            let name = NodeName::from(name.as_str());
            let pods = make(Arc::clone(&store), &name);
            register(store.as_ref(), &name, cores, now, rng);
            let health = Health::Alive;
            machines.insert(name, Machine { health, pods });
        }
        Machines { store, machines }
    }

    /// The machines' names.
    pub fn names(&self) -> Vec<NodeName> {
        self.machines.keys().cloned().collect()
    }

    /// How a machine is; one that is not there is dead.
    pub fn health(&self, name: &str) -> Health {
        let machine = self.machines.get(&NodeName::from(name));
        machine.map_or(Health::Dead, |machine| machine.health)
    }

    /// Whether a machine runs and is heard.
    pub fn is_alive(&self, name: &str) -> bool {
        self.health(name) == Health::Alive
    }

    /// A machine dies, falls silent, or comes back and says that it is ready.
    pub fn set_health(&mut self, name: &NodeName, health: Health, now: UnixMillis) {
        let Some(machine) = self.machines.get_mut(name) else {
            return;
        };
        let former = std::mem::replace(&mut machine.health, health);
        match (former, health) {
            (_, Health::Dead) => machine.pods.lose_power(),
            (Health::Dead, _) => machine.pods.restart(now),
            _ => {}
        }
        if health == Health::Alive {
            self.report_ready(name, now);
        }
    }

    /// The node process of a random machine ends and starts again.
    pub fn restart_one(&mut self, now: UnixMillis, rng: &mut SmallRng) {
        let at = rng.random_range(0..self.machines.len());
        if let Some(machine) = self.machines.values_mut().nth(at).filter(|m| m.health != Health::Dead) {
            machine.pods.restart(now);
        }
    }

    /// Which machines a pod runs on, for each pod that runs on more than one.
    pub fn run_twice(&self) -> BTreeMap<Key, Vec<NodeName>> {
        let mut places: BTreeMap<Key, Vec<NodeName>> = BTreeMap::new();
        for (name, machine) in &self.machines {
            for pod in machine.pods.running() {
                places.entry(pod).or_default().push(name.clone());
            }
        }
        places.retain(|_, nodes| nodes.len() > 1);
        places
    }

    /// When a machine that is heard does something by itself.
    pub fn next_due(&self) -> Option<UnixMillis> {
        let alive = self.machines.values().filter(|machine| machine.health == Health::Alive);
        alive.filter_map(|machine| machine.pods.next_due()).min()
    }

    /// One agent does one thing. False when no agent has anything to do.
    pub fn step(&mut self, now: UnixMillis, rng: &mut SmallRng) -> bool {
        let names = self.names();
        for name in names.iter().filter(|name| self.is_alive(name.as_str())) {
            if !self.says_ready(name) {
                self.report_ready(name, now);
                return true;
            }
        }
        let first = rng.random_range(0..names.len());
        for offset in 0..names.len() {
            let name = &names[(first + offset) % names.len()];
            let machine = self.machines.get_mut(name).filter(|m| m.health == Health::Alive);
            if machine.is_some_and(|machine| machine.pods.step(now, rng)) {
                return true;
            }
        }
        false
    }

    /// A live machine whose Node does not say that it is ready says so.
    fn report_ready(&self, name: &NodeName, now: UnixMillis) {
        let key = Key::new("nodes", "", name.as_str());
        let Ok(Some(object)) = at_once(self.store.read(&key)) else {
            return;
        };
        let Ok(mut value) = object.value() else { return };
        if conditions::set(&mut value, ready("KubeletReady"), Times::Transition, now) {
            put(self.store.as_ref(), &key, &object, &value);
        }
    }

    fn says_ready(&self, name: &NodeName) -> bool {
        let key = Key::new("nodes", "", name.as_str());
        at_once(self.store.read(&key))
            .ok()
            .flatten()
            .is_none_or(|node| is_ready(&node))
    }
}

/// A machine's own Node object. A machine whose registration is refused takes no part.
fn register(store: &dyn ObjectStore, name: &NodeName, cores: u32, now: UnixMillis, rng: &mut SmallRng) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name.as_str()}});
    let Ok((key, draft)) = compose::create(&"nodes".into(), "", node, now, rng) else {
        return;
    };
    let mut value = draft.preview().value().unwrap_or_default();
    let resources = json!({"cpu": cores.to_string(), "memory": "64Gi", "pods": "250"});
    value["status"] = json!({ "allocatable": resources, "capacity": resources });
    conditions::set(&mut value, ready("KubeletReady"), Times::Transition, now);
    let Ok(draft) = compose::update(&key.resource, &value) else {
        return;
    };
    let write = Write::Put {
        key,
        precondition: Precondition::Absent,
        draft,
    };
    let _ = at_once(store.propose(Proposal::one(Cause(0), write)));
}

fn ready(reason: &str) -> Wanted<'_> {
    Wanted {
        kind: "Ready",
        status: "True",
        reason,
        message: "",
    }
}

/// Writes an object as an agent does, if it is still what was read.
fn put(store: &dyn ObjectStore, key: &Key, base: &Object, value: &Value) -> bool {
    let Ok(write) = compose::change(key, base, value) else {
        return false;
    };
    at_once(store.propose(Proposal::one(Cause(0), write))).is_ok()
}

/// The pods that are bound to a machine, as the store has them.
pub fn bound_pods(store: &dyn ObjectStore, node: &NodeName) -> Vec<(Key, Arc<Object>)> {
    let page = at_once(store.list(ListRequest::all("pods")));
    let mut pods = page.map(|page| page.items).unwrap_or_default();
    pods.retain(|(_, pod)| pod.header.field("spec.nodeName") == node.as_str());
    pods
}

/// A machine that does what an agent does, in the fewest steps.
pub struct ModelMachine {
    store: Arc<dyn ObjectStore>,
    node: NodeName,
    /// What runs, with the uid of the pod.
    running: BTreeMap<Key, String>,
    addresses: u32,
}

impl ModelMachine {
    /// For `Machines::register`.
    pub fn make(store: Arc<dyn ObjectStore>, node: &NodeName) -> Box<dyn PodMachine> {
        let (node, running) = (node.clone(), BTreeMap::new());
        Box::new(ModelMachine {
            store,
            node,
            running,
            addresses: 0,
        })
    }

    fn runs(&self, key: &Key, pod: &Object) -> bool {
        self.running.get(key).is_some_and(|uid| *uid == pod.header.uid.as_str())
    }

    /// Pending, running, ready: one step of them.
    fn progress(&mut self, key: &Key, object: &Object, now: UnixMillis) {
        let Ok(mut value) = object.value() else { return };
        if !self.runs(key, object) {
            self.running.insert(key.clone(), object.header.uid.to_string());
            self.addresses += 1;
            let number: u32 = self.node.as_str().bytes().map(u32::from).sum();
            let ip = format!(
                "10.{}.{}.{}",
                number & 255,
                self.addresses >> 8 & 255,
                self.addresses & 255
            );
            value["status"]["phase"] = json!("Running");
            value["status"]["podIP"] = json!(ip);
            value["status"]["podIPs"] = json!([{ "ip": ip }]);
        } else {
            conditions::set(&mut value, ready(""), Times::Transition, now);
        }
        put(self.store.as_ref(), key, object, &value);
    }
}

impl PodMachine for ModelMachine {
    fn step(&mut self, now: UnixMillis, rng: &mut SmallRng) -> bool {
        let pods = bound_pods(self.store.as_ref(), &self.node);
        let known: BTreeMap<&Key, &Arc<Object>> = pods.iter().map(|(key, pod)| (key, pod)).collect();
        let mut gone: Vec<Key> = self.running.keys().cloned().collect();
        gone.retain(|key| known.get(key).is_none_or(|pod| !self.runs(key, pod)));
        let busy = |(key, pod): &&(Key, Arc<Object>)| pod.header.deleting || !is_ready(pod) || !self.runs(key, pod);
        let busy: Vec<&(Key, Arc<Object>)> = pods.iter().filter(busy).collect();
        if gone.is_empty() && busy.is_empty() {
            return false;
        }
        let at = rng.random_range(0..gone.len() + busy.len());
        if let Some(key) = gone.get(at) {
            self.running.remove(key);
            return true;
        }
        let (key, pod) = busy[at - gone.len()];
        if !pod.header.deleting {
            self.progress(key, pod, now);
            return true;
        }
        // What runs ends before the object is removed.
        self.running.remove(key);
        let write = compose::removal(key, pod.header.revision);
        let _ = at_once(self.store.propose(Proposal::one(Cause(0), write)));
        true
    }

    fn next_due(&self) -> Option<UnixMillis> {
        None
    }

    fn restart(&mut self, _: UnixMillis) {}

    fn lose_power(&mut self) {
        self.running.clear();
    }

    fn running(&self) -> Vec<Key> {
        self.running.keys().cloned().collect()
    }
}

fn is_ready(object: &Object) -> bool {
    let value = object.value().unwrap_or_default();
    let conditions = value["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}
