//! What people do to a simulated cluster: they scale, update, delete and make things, as the gateway would let them. Seeded;
//! called by `world`.

use std::sync::Arc;

use api::write::{DeleteOptions, Deletion, PropagationPolicy, begin_deletion};
use protocol::store::{ListRequest, ObjectStore, Proposal, Write};
use protocol::{Cause, Key, Object, UnixMillis};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::at_once;
use super::world::Scenario;
use crate::compose;

/// Namespaces that exist from the beginning. The last one is deleted and made again.
const NAMESPACES: [&str; 3] = ["default", "kube-system", "team"];
/// The namespace that people delete.
const DELETED: &str = "team";

/// The class of pods for which others make room. The invariants read the number from its name.
const CLASS: &str = "priority-100";

/// How many pods a Deployment wants where there is little room: three of them fit on all machines, with two places left.
const CROWD: std::ops::Range<i64> = 3..7;

/// The people.
pub(super) struct User {
    pub store: Arc<dyn ObjectStore>,
    pub scenario: Scenario,
}

impl User {
    /// Makes what is there from the beginning.
    pub fn begin(&self, now: UnixMillis, rng: &mut SmallRng) {
        for name in NAMESPACES {
            self.make_namespace(name, now, rng);
        }
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": CLASS}, "value": 100,
        });
        self.create("priorityclasses.scheduling.k8s.io", "", class, now, rng);
        for (namespace, name) in self.deployments() {
            self.make_deployment(namespace, name, now, rng);
            self.make_service(namespace, name, now, rng);
        }
        if self.scenario == Scenario::Deletions {
            self.replace_the_single_pod(now, rng);
        }
    }

    /// The Deployments with which people work.
    fn deployments(&self) -> &'static [(&'static str, &'static str)] {
        match self.scenario {
            Scenario::Crashes | Scenario::LostMachines => &[("default", "web"), ("default", "api")],
            Scenario::Deletions => &[("default", "web"), (DELETED, "api")],
            Scenario::Preemption => &[("default", "web"), ("default", "api"), ("default", "urgent")],
        }
    }

    /// One of them does something, or thinks better of it.
    pub fn act(&self, now: UnixMillis, rng: &mut SmallRng) {
        let all = self.deployments();
        let (namespace, name) = all[rng.random_range(0..all.len())];
        match (self.scenario, rng.random_range(0..16)) {
            (_, 0..4) => self.scale(namespace, name, rng),
            (_, 4..8) => self.update(namespace, name, rng),
            // People who delete pods give up what a rollout counts on, as lost machines do.
            (Scenario::Crashes, _) => {}
            (Scenario::Deletions, 8) => self.delete_deployment(namespace, name, now, rng),
            (Scenario::Deletions, 9..11) => self.delete_or_make_again(namespace, name, now, rng),
            (Scenario::Deletions, 11..14) => self.replace_the_single_pod(now, rng),
            _ => self.delete_a_pod(now, rng),
        }
    }

    fn scale(&self, namespace: &str, name: &str, rng: &mut SmallRng) {
        let replicas = match self.scenario {
            Scenario::Preemption => rng.random_range(CROWD),
            _ => rng.random_range(0..10),
        };
        self.change(namespace, name, |spec| spec["replicas"] = json!(replicas));
    }

    fn update(&self, namespace: &str, name: &str, rng: &mut SmallRng) {
        let image = format!("i:{}", rng.random_range(1..4));
        self.change(namespace, name, |spec| {
            spec["template"]["spec"]["containers"][0]["image"] = json!(image);
        });
    }

    fn change(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let key = Key::new("deployments.apps", namespace, name);
        let Some((object, mut value)) = self.read(&key) else {
            return;
        };
        change(&mut value["spec"]);
        let generation = value["metadata"]["generation"].as_i64().unwrap_or(0);
        value["metadata"]["generation"] = json!(generation + 1);
        self.put(&key, &object, &value);
    }

    fn delete_deployment(&self, namespace: &str, name: &str, now: UnixMillis, rng: &mut SmallRng) {
        use PropagationPolicy::{Background, Foreground, Orphan};
        let policy = [Background, Foreground, Orphan][rng.random_range(0..3)];
        let key = Key::new("deployments.apps", namespace, name);
        // A second deletion with another policy would take the first one's promise back.
        if self.read(&key).is_some_and(|(object, _)| !object.header.deleting) {
            self.delete(&key, Some(policy), now);
        }
    }

    /// The namespace, or a Service; what is missing is made again.
    fn delete_or_make_again(&self, namespace: &str, name: &str, now: UnixMillis, rng: &mut SmallRng) {
        if rng.random_range(0..4) == 0 {
            return self.delete(&Key::new("namespaces", "", DELETED), None, now);
        }
        if rng.random_range(0..4) == 0 {
            return self.delete(&Key::new("services", namespace, name), None, now);
        }
        self.make_namespace(DELETED, now, rng);
        self.make_deployment(namespace, name, now, rng);
        self.make_service(namespace, name, now, rng);
    }

    /// A pod without a controller, always of the same name: it is deleted, or made again when it is gone.
    fn replace_the_single_pod(&self, now: UnixMillis, rng: &mut SmallRng) {
        let key = Key::new("pods", "default", "single");
        if self.read(&key).is_some() {
            return self.delete(&key, None, now);
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "single"},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]},
        });
        self.create("pods", "default", pod, now, rng);
    }

    fn delete_a_pod(&self, now: UnixMillis, rng: &mut SmallRng) {
        let Ok(page) = at_once(self.store.list(ListRequest::all("pods"))) else {
            return;
        };
        let live: Vec<_> = page.items.iter().filter(|(_, pod)| !pod.header.deleting).collect();
        if !live.is_empty() {
            self.delete(&live[rng.random_range(0..live.len())].0, None, now);
        }
    }

    fn make_namespace(&self, name: &str, now: UnixMillis, rng: &mut SmallRng) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.create("namespaces", "", namespace, now, rng);
    }

    fn make_deployment(&self, namespace: &str, name: &str, now: UnixMillis, rng: &mut SmallRng) {
        let (surge, unavailable) = [("25%", "25%"), ("1", "0"), ("0", "1"), ("100%", "0")][rng.random_range(0..4)];
        let number = |text: &str| text.parse::<i64>().map_or(json!(text), |number| json!(number));
        let mut spec = json!({"containers": [{"name": "c", "image": "i:1"}]});
        let mut replicas = rng.random_range(1..8);
        if self.scenario == Scenario::Preemption {
            replicas = rng.random_range(CROWD);
            spec["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
            if name == "urgent" {
                spec["priorityClassName"] = json!(CLASS);
            }
        }
        let value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "strategy": {"rollingUpdate": {"maxSurge": number(surge), "maxUnavailable": number(unavailable)}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
            },
        });
        self.create("deployments.apps", namespace, value, now, rng);
    }

    fn make_service(&self, namespace: &str, name: &str, now: UnixMillis, rng: &mut SmallRng) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "None", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        self.create("services", namespace, service, now, rng);
    }

    /// As the gateway does it: nothing is made in a namespace that does not exist or that is being deleted.
    fn create(&self, resource: &str, namespace: &str, value: Value, now: UnixMillis, rng: &mut SmallRng) {
        let inside = Key::new("namespaces", "", namespace);
        let open = || self.read(&inside).is_some_and(|(object, _)| !object.header.deleting);
        if !namespace.is_empty() && !open() {
            return;
        }
        let write = compose::creation(&resource.into(), namespace, value, now, rng);
        write.into_iter().for_each(|write| self.propose(write));
    }

    fn delete(&self, key: &Key, policy: Option<PropagationPolicy>, now: UnixMillis) {
        let (Some((object, value)), Some(kind)) = (self.read(key), api::kinds::find_by_resource(&key.resource)) else {
            return;
        };
        let options = DeleteOptions {
            propagation_policy: policy,
            ..DeleteOptions::default()
        };
        match begin_deletion(kind, &value, &options, now) {
            Deletion::Remove => self.propose(compose::removal(key, object.header.revision)),
            Deletion::Mark(marked) => self.put(key, &object, &marked),
            Deletion::Nothing => {}
        }
    }

    fn read(&self, key: &Key) -> Option<(Arc<Object>, Value)> {
        let object = at_once(self.store.read(key)).ok()??;
        let value = object.value().ok()?;
        Some((object, value))
    }

    fn put(&self, key: &Key, base: &Object, value: &Value) {
        let write = compose::change(key, base, value);
        write.into_iter().for_each(|write| self.propose(write));
    }

    /// A refusal tells people to think again.
    fn propose(&self, write: Write) {
        let _ = at_once(self.store.propose(Proposal::one(Cause(2), write)));
    }
}
