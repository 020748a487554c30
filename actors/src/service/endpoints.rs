//! From pods to EndpointSlices: which pods are endpoints, on which ports, and the fewest writes that bring the slices to
//! it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::{Key, Resource};
use serde_json::{Value, json};

use super::{Own, Pod, Service, Slice};
use crate::effects::{Effects, Intent};
use crate::ownership::{self, Owner};
use crate::reading::Metadata;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Marks what belongs to a Service without a cluster address.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const ENDPOINTS_MAX: usize = 100;

/// Endpoints that may share a slice: the same family of addresses and the same ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    address_type: &'static str,
    /// The JSON of `ports`: it is compared and ordered as text.
    ports: String,
}

pub(super) fn decide(state: &Service, own: &Own, effects: &mut Effects) {
    let mine: BTreeMap<&Key, &Slice> = state.slices.iter().filter(|(_, slice)| is_mine(own, slice)).collect();
    let Some(pods) = state.selected(own) else {
        // Slices of a Service without selector belong to whoever writes them; those made here before go.
        for (key, slice) in mine {
            effects.write_one(Intent::Remove {
                key: key.clone(),
                revision: slice.object.header.revision,
            });
        }
        return;
    };
    let mut wanted: BTreeMap<Group, BTreeMap<String, Value>> = BTreeMap::new();
    for pod in pods {
        for (group, uid, endpoint) in endpoints_of(own, pod) {
            wanted.entry(group).or_default().insert(uid, endpoint);
        }
    }
    reconcile(own, wanted, mine, effects);
}

/// Whether this actor made the slice, for this life of the Service.
fn is_mine(own: &Own, slice: &Slice) -> bool {
    let header = &slice.object.header;
    header.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
        && header.labels.get(SERVICE_NAME) == Some(&own.reading.metadata.name)
        && header
            .owners
            .iter()
            .any(|owner| owner.uid.as_str() == own.reading.metadata.uid)
}

/// The endpoints of one pod: one for each family of its addresses.
fn endpoints_of(own: &Own, pod: &Pod) -> Vec<(Group, String, Value)> {
    let reading = &pod.reading;
    if reading.is_finished() || reading.addresses().is_empty() {
        return Vec::new();
    }
    let (ready, terminating) = (reading.is_ready(), reading.is_deleting());
    let metadata = &reading.metadata;
    let ports = Value::Array(ports_of(own, pod)).to_string();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for address in reading.addresses() {
        let address_type = if address.contains(':') { "IPv6" } else { "IPv4" };
        if !seen.insert(address_type) {
            continue;
        }
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {
                "ready": own.reading.spec.publish_not_ready_addresses || (ready && !terminating),
                "serving": ready, "terminating": terminating,
            },
            "targetRef": target_of(metadata),
        });
        if !reading.spec.node_name.is_empty() {
            endpoint["nodeName"] = json!(reading.spec.node_name);
        }
        if let Some(hostname) = hostname_of(own, pod) {
            endpoint["hostname"] = json!(hostname);
        }
        found.push((
            Group {
                address_type,
                ports: ports.clone(),
            },
            metadata.uid.clone(),
            endpoint,
        ));
    }
    found
}

/// The reference to a pod that an endpoint carries.
pub(super) fn target_of(metadata: &Metadata) -> Value {
    json!({ "kind": "Pod", "namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid })
}

/// The name under which a pod is found below the Service's own, if it asks for one.
pub(super) fn hostname_of<'a>(own: &Own, pod: &'a Pod) -> Option<&'a str> {
    let spec = &pod.reading.spec;
    let asked = !spec.hostname.is_empty() && spec.subdomain == own.reading.metadata.name;
    asked.then_some(spec.hostname.as_str())
}

/// The Service's ports as they are on this pod. A named target port that the pod does not have is left out.
pub(super) fn ports_of(own: &Own, pod: &Pod) -> Vec<Value> {
    let mut ports = Vec::new();
    for port in &own.reading.spec.ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            Value::Number(number) => number.as_i64(),
            Value::String(name) => named_port(pod, name, protocol),
            _ => Some(port.port),
        };
        // Headless Services without a target port use the port itself.
        let Some(number) = number else { continue };
        let mut entry = json!({ "name": port.name, "port": number, "protocol": protocol });
        if let Some(app_protocol) = &port.app_protocol {
            entry["appProtocol"] = json!(app_protocol);
        }
        ports.push(entry);
    }
    ports
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i64> {
    let spec = &pod.reading.spec;
    let containers = spec.containers.iter().chain(&spec.init_containers);
    let mut ports = containers.flat_map(|container| &container.ports);
    let port = ports.find(|port| port.name == name && port.protocol.as_deref().unwrap_or("TCP") == protocol)?;
    Some(i64::from(port.container_port))
}

/// Brings the slices to what is wanted: first the endpoints that a slice has already are kept in it, then free places are
/// filled, then slices are made; slices that end up empty go.
fn reconcile(
    own: &Own,
    mut wanted: BTreeMap<Group, BTreeMap<String, Value>>,
    mine: BTreeMap<&Key, &Slice>,
    effects: &mut Effects,
) {
    let mut kept: Vec<(&Key, &Slice, Group, Vec<Value>)> = Vec::new();
    for (key, slice) in mine {
        let group = group_of(&slice.value);
        let left = wanted.get_mut(&group);
        let stay: Vec<Value> = match left {
            None => Vec::new(),
            Some(left) => uids(&slice.value).filter_map(|uid| left.remove(uid)).collect(),
        };
        kept.push((key, slice, group, stay));
    }
    for (_, _, group, endpoints) in &mut kept {
        let Some(left) = wanted.get_mut(group) else { continue };
        // Only a slice that stays in use is filled up.
        while !endpoints.is_empty() && endpoints.len() < ENDPOINTS_MAX {
            let Some((_, endpoint)) = left.pop_first() else { break };
            endpoints.push(endpoint);
        }
    }
    // A slice that lost all its endpoints takes new ones of its group before it would be removed and another made.
    for (key, slice, group, mut endpoints) in kept {
        if let Some(left) = wanted.get_mut(&group).filter(|_| endpoints.is_empty()) {
            while endpoints.len() < ENDPOINTS_MAX {
                let Some((_, endpoint)) = left.pop_first() else { break };
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            effects.write_one(Intent::Remove {
                key: key.clone(),
                revision: slice.object.header.revision,
            });
            continue;
        }
        let mut value = slice.value.clone();
        value["endpoints"] = Value::Array(endpoints);
        set_labels(own, &mut value);
        if value != slice.value {
            effects.write_one(Intent::Update {
                key: key.clone(),
                base: Arc::clone(&slice.object),
                value,
            });
        }
    }
    for (group, endpoints) in wanted {
        let endpoints: Vec<Value> = endpoints.into_values().collect();
        for chunk in endpoints.chunks(ENDPOINTS_MAX) {
            create(own, &group, chunk, effects);
        }
    }
}

fn group_of(slice: &Value) -> Group {
    let address_type = if slice["addressType"] == "IPv6" { "IPv6" } else { "IPv4" };
    let ports = slice["ports"].as_array().cloned().unwrap_or_default();
    // Only the members that `ports_of` writes, so that defaulting does not tell them apart.
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| {
            let mut entry = json!({
                "name": port["name"].as_str().unwrap_or_default(), "port": port["port"],
                "protocol": port["protocol"].as_str().unwrap_or("TCP"),
            });
            if let Some(app_protocol) = port["appProtocol"].as_str() {
                entry["appProtocol"] = json!(app_protocol);
            }
            entry
        })
        .collect();
    Group {
        address_type,
        ports: Value::Array(ports).to_string(),
    }
}

fn uids(slice: &Value) -> impl Iterator<Item = &str> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.filter_map(|endpoint| endpoint["targetRef"]["uid"].as_str())
}

fn set_labels(own: &Own, slice: &mut Value) {
    let headless = own.reading.spec.cluster_ip == "None";
    let name = own.reading.metadata.name.clone();
    let labels = ownership::metadata(slice).entry("labels").or_insert_with(|| json!({}));
    labels[SERVICE_NAME] = json!(name);
    labels[MANAGED_BY] = json!(MANAGER);
    if headless {
        labels[HEADLESS] = json!("");
    } else if let Some(labels) = labels.as_object_mut() {
        labels.remove(HEADLESS);
    }
}

fn create(own: &Own, group: &Group, endpoints: &[Value], effects: &mut Effects) {
    let metadata = &own.reading.metadata;
    let owner = Owner {
        api_version: "v1",
        kind: "Service",
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
    };
    let ports: Value = serde_json::from_str(&group.ports).unwrap_or(Value::Null);
    let mut value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", metadata.name), "namespace": metadata.namespace,
            "ownerReferences": [owner.controller_reference()],
        },
        "addressType": group.address_type, "endpoints": endpoints, "ports": ports,
    });
    set_labels(own, &mut value);
    let slice = Intent::Create {
        resource: Resource::new("endpointslices.discovery.k8s.io"),
        namespace: metadata.namespace.as_str().into(),
        value,
    };
    effects.write(vec![slice, still_there(own)]);
}

/// Refuses what is made for the Service if that is gone meanwhile, maybe with its namespace.
pub(super) fn still_there(own: &Own) -> Intent {
    let metadata = &own.reading.metadata;
    Intent::Fence {
        key: Key::new("services", metadata.namespace.as_str(), metadata.name.as_str()),
        base: Arc::clone(&own.object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Event, ObjectKind};
    use crate::ownership::tests::stored;
    use protocol::UnixMillis;

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "default", "uid": "svc"}, "spec": spec})
    }

    fn plain() -> Value {
        json!({"clusterIP": "10.96.0.20", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
    }

    fn pod(name: &str, ip: &str, port: i64, ready: bool) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    struct World {
        state: Service,
        revision: u64,
    }

    impl World {
        fn new(spec: Value) -> World {
            let key = Key::new("services", "default", "web");
            let mut state = Service::new(key.clone());
            state.observe(&key, Some(&stored(service(spec), 1))).unwrap();
            World { state, revision: 1 }
        }

        fn pod(&mut self, pod: Value) {
            self.revision += 1;
            let key = Key::new("pods", "default", pod["metadata"]["name"].as_str().unwrap());
            self.state.observe(&key, Some(&stored(pod, self.revision))).unwrap();
        }

        fn decide(&mut self) -> Effects {
            let mut effects = Effects::default();
            self.state.decide(UnixMillis(0), Event::Changed, &mut effects);
            // The Endpoints object has its own tests.
            let other = |intent: &Intent| match intent {
                Intent::Create { resource, .. } => resource.as_str() == "endpoints",
                other => other.key().is_some_and(|key| key.resource.as_str() == "endpoints"),
            };
            effects.groups.retain(|group| !group.iter().any(other));
            effects
        }

        /// Applies the effects as the store would, and answers how many writes they were.
        fn settle(&mut self) -> usize {
            let groups = self.decide().groups;
            for intent in groups.iter().flatten() {
                self.revision += 1;
                match intent {
                    Intent::Create { value, .. } => {
                        let mut value = value.clone();
                        let name = format!("web-{}", self.revision);
                        value["metadata"]["name"] = json!(name);
                        value["metadata"]["uid"] = json!(name);
                        let key = Key::new("endpointslices.discovery.k8s.io", "default", name.as_str());
                        self.state.observe(&key, Some(&stored(value, self.revision))).unwrap();
                    }
                    Intent::Update { key, value, .. } => {
                        self.state
                            .observe(key, Some(&stored(value.clone(), self.revision)))
                            .unwrap();
                    }
                    Intent::Remove { key, .. } => self.state.observe(key, None).unwrap(),
                    Intent::Fence { .. } => {}
                }
            }
            assert!(self.decide().writes_nothing(), "a second decision has nothing to do");
            groups.len()
        }

        fn sizes(&self) -> Vec<usize> {
            let mut sizes: Vec<usize> = self
                .state
                .slices
                .values()
                .map(|slice| slice.value["endpoints"].as_array().unwrap().len())
                .collect();
            sizes.sort_unstable();
            sizes
        }
    }

    #[test]
    fn endpoints_say_whether_they_are_ready_serving_and_terminating() {
        let mut terminating = pod("c", "10.0.0.3", 8080, true);
        terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let cases = [
            (
                pod("a", "10.0.0.1", 8080, true),
                false,
                json!({"ready": true, "serving": true, "terminating": false}),
            ),
            (
                pod("b", "10.0.0.2", 8080, false),
                false,
                json!({"ready": false, "serving": false, "terminating": false}),
            ),
            (
                terminating,
                false,
                json!({"ready": false, "serving": true, "terminating": true}),
            ),
            (
                pod("d", "10.0.0.4", 8080, false),
                true,
                json!({"ready": true, "serving": false, "terminating": false}),
            ),
        ];
        for (pod, publish, conditions) in cases {
            let mut spec = plain();
            spec["publishNotReadyAddresses"] = json!(publish);
            let mut world = World::new(spec);
            world.pod(pod);
            let effects = world.decide();
            let Intent::Create { value, .. } = &effects.groups[0][0] else {
                panic!("{effects:?}")
            };
            assert_eq!(value["endpoints"][0]["conditions"], conditions);
            assert_eq!(value["endpoints"][0]["nodeName"], "n1");
            assert_eq!(
                value["ports"],
                json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
            );
            assert_eq!(value["metadata"]["labels"][MANAGED_BY], MANAGER);
        }
    }

    #[test]
    fn pods_without_address_or_finished_are_no_endpoints() {
        let mut world = World::new(plain());
        world.pod(pod("a", "", 8080, true));
        let mut finished = pod("b", "10.0.0.2", 8080, true);
        finished["status"]["phase"] = json!("Succeeded");
        world.pod(finished);
        assert!(world.decide().writes_nothing());
    }

    #[test]
    fn a_slice_holds_a_hundred_endpoints_and_changes_touch_only_their_slice() {
        let mut world = World::new(plain());
        for i in 0..250 {
            world.pod(pod(
                &format!("p{i}"),
                &format!("10.0.{}.{}", i / 200, i % 200 + 1),
                8080,
                true,
            ));
        }
        assert_eq!(world.settle(), 3);
        assert_eq!(world.sizes(), [50, 100, 100]);
        world.pod(pod("p7", "10.0.0.8", 8080, false));
        assert_eq!(world.settle(), 1);
        world.state.observe(&Key::new("pods", "default", "p9"), None).unwrap();
        world.pod(pod("new", "10.1.0.1", 8080, true));
        assert!(world.settle() <= 2);
        assert_eq!(world.sizes().iter().sum::<usize>(), 250);
    }

    #[test]
    fn pods_whose_named_port_differs_get_slices_of_their_own() {
        let mut world = World::new(plain());
        world.pod(pod("a", "10.0.0.1", 8080, true));
        world.pod(pod("b", "10.0.0.2", 9090, true));
        assert_eq!(world.settle(), 2);
        assert_eq!(world.sizes(), [1, 1]);
    }

    #[test]
    fn slices_of_others_are_left_alone_and_a_lost_selector_removes_ours() {
        let mut world = World::new(plain());
        world.pod(pod("a", "10.0.0.1", 8080, true));
        let foreign = json!({"metadata": {"name": "hand", "namespace": "default", "uid": "hand", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]});
        let hand = Key::new("endpointslices.discovery.k8s.io", "default", "hand");
        world.state.observe(&hand, Some(&stored(foreign, 1))).unwrap();
        world.settle();
        let key = Key::new("services", "default", "web");
        world
            .state
            .observe(&key, Some(&stored(service(json!({"ports": []})), 99)))
            .unwrap();
        world.settle();
        assert_eq!(world.state.slices.keys().collect::<Vec<_>>(), [&hand]);
    }
}
