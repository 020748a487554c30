//! Simulated machines: what their agents would write about the pods that are bound to them, one write at a time, and
//! machines that die and come back. No policy of the control plane is in here.

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

/// All machines of a simulated cluster.
pub struct Machines {
    store: Arc<dyn ObjectStore>,
    alive: BTreeMap<NodeName, bool>,
    addresses: u32,
}

impl Machines {
    /// Registers machines of this size.
    pub fn register(
        store: Arc<dyn ObjectStore>,
        names: &[String],
        pods_max: u32,
        now: UnixMillis,
        rng: &mut SmallRng,
    ) -> Machines {
        let mut alive = BTreeMap::new();
        for name in names {
            alive.insert(NodeName::from(name.as_str()), true);
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
            let Ok((key, draft)) = compose::create(&"nodes".into(), "", node, now, rng) else {
                continue;
            };
            let mut value = draft.preview().value().unwrap_or_default();
            let resources = json!({"cpu": "64", "memory": "64Gi", "pods": pods_max.to_string()});
            value["status"] = json!({ "allocatable": resources, "capacity": resources });
            let wanted = Wanted {
                kind: "Ready",
                status: "True",
                reason: "KubeletReady",
                message: "",
            };
            conditions::set(&mut value, wanted, Times::Transition, now);
            let Ok(draft) = compose::update(&key.resource, &value) else {
                continue;
            };
            let write = Write::Put {
                key,
                precondition: Precondition::Absent,
                draft,
            };
            // A machine whose registration is refused takes no part.
            let _ = at_once(store.propose(Proposal::one(Cause(0), write)));
        }
        Machines {
            store,
            alive,
            addresses: 0,
        }
    }

    /// The machines' names.
    pub fn names(&self) -> Vec<NodeName> {
        self.alive.keys().cloned().collect()
    }

    /// Whether a machine runs.
    pub fn is_alive(&self, name: &str) -> bool {
        self.alive.get(&NodeName::from(name)).copied().unwrap_or(false)
    }

    /// A machine dies, or comes back and says that it is ready.
    pub fn set_alive(&mut self, name: &NodeName, alive: bool, now: UnixMillis) {
        self.alive.insert(name.clone(), alive);
        if alive {
            self.report_ready(name, now);
        }
    }

    /// A live machine whose Node does not say that it is ready says so.
    fn report_ready(&self, name: &NodeName, now: UnixMillis) {
        let key = Key::new("nodes", "", name.as_str());
        let Ok(Some(object)) = at_once(self.store.read(&key)) else {
            return;
        };
        let Ok(mut value) = object.value() else { return };
        let wanted = Wanted {
            kind: "Ready",
            status: "True",
            reason: "KubeletReady",
            message: "",
        };
        if conditions::set(&mut value, wanted, Times::Transition, now) {
            self.put(&key, &object, &value);
        }
    }

    fn put(&self, key: &Key, base: &Object, value: &Value) -> bool {
        let Ok(draft) = compose::update(&key.resource, value) else {
            return false;
        };
        let precondition = Precondition::Revision(base.header.revision);
        let write = Write::Put {
            key: key.clone(),
            precondition,
            draft,
        };
        at_once(self.store.propose(Proposal::one(Cause(0), write))).is_ok()
    }

    /// One agent does one thing about one pod. False when no agent has anything to do.
    pub fn step(&mut self, now: UnixMillis, rng: &mut SmallRng) -> bool {
        for name in self.names() {
            if self.is_alive(name.as_str()) && !self.says_ready(&name) {
                self.report_ready(&name, now);
                return true;
            }
        }
        let Ok(page) = at_once(self.store.list(ListRequest::all("pods"))) else {
            return false;
        };
        let busy: Vec<(Key, Arc<Object>)> = page
            .items
            .into_iter()
            .filter(|(_, object)| {
                self.is_alive(object.header.field("spec.nodeName")) && (object.header.deleting || !is_ready(object))
            })
            .collect();
        if busy.is_empty() {
            return false;
        }
        let (key, object) = &busy[rng.random_range(0..busy.len())];
        if object.header.deleting {
            let precondition = Precondition::Revision(object.header.revision);
            let write = Write::Delete {
                key: key.clone(),
                precondition,
            };
            let _ = at_once(self.store.propose(Proposal::one(Cause(0), write)));
        } else {
            self.progress(key, object, now);
        }
        true
    }

    fn says_ready(&self, name: &NodeName) -> bool {
        let key = Key::new("nodes", "", name.as_str());
        at_once(self.store.read(&key))
            .ok()
            .flatten()
            .is_none_or(|node| is_ready(&node))
    }

    /// Pending, running, ready: one step of them.
    fn progress(&mut self, key: &Key, object: &Object, now: UnixMillis) {
        let Ok(mut value) = object.value() else { return };
        if value["status"]["phase"] != "Running" {
            self.addresses += 1;
            let ip = format!(
                "10.{}.{}.{}",
                self.addresses >> 16 & 255,
                self.addresses >> 8 & 255,
                self.addresses & 255
            );
            value["status"]["phase"] = json!("Running");
            value["status"]["podIP"] = json!(ip);
            value["status"]["podIPs"] = json!([{ "ip": ip }]);
        } else {
            let wanted = Wanted {
                kind: "Ready",
                status: "True",
                reason: "",
                message: "",
            };
            conditions::set(&mut value, wanted, Times::Transition, now);
        }
        self.put(key, object, &value);
    }
}

fn is_ready(object: &Object) -> bool {
    let value = object.value().unwrap_or_default();
    let conditions = value["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}
