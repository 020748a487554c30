//! From pods to the older core/v1 Endpoints object of a Service, as Kubernetes' endpoints controller writes it: one object
//! with the Service's name, in which addresses that serve the same ports share a subset, and which holds 1,000 addresses at
//! most. Pure. Slices are the truth of this cluster (`endpoints`); this object is for clients that know nothing newer.
//!
//! Differs from Kubernetes: ports and subsets are sorted by their content, not by a hash of it; the annotation with the
//! time of the last change, which only measures Kubernetes' own latency, is not written.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::Resource;
use serde_json::{Map, Value, json};

use super::endpoints::{HEADLESS, hostname_of, ports_of, still_there, target_of};
use super::{Mirror, Own, Pod};
use crate::effects::{Effects, Intent};
use crate::ownership;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses that one object holds at most; more of them would make it too large to be sent around at each change.
const ADDRESSES_MAX: usize = 1000;

/// Addresses that serve the same ports.
#[derive(Default)]
struct Subset {
    ports: Vec<Value>,
    ready: Vec<Value>,
    not_ready: Vec<Value>,
}

/// The ready and the other addresses behind one port, by address and uid of the pod.
type Addresses = BTreeMap<(String, String), (Value, bool)>;

pub(super) fn decide<'a>(
    own: &Own,
    pods: impl Iterator<Item = &'a Pod>,
    stored: Option<&Mirror>,
    effects: &mut Effects,
) {
    let mut subsets = repack(by_port(own, pods));
    let truncated = truncate(&mut subsets);
    let subsets: Vec<Value> = subsets.into_iter().map(Subset::into_value).collect();
    let mut value = match stored {
        Some(stored) => stored.value.clone(),
        None => json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": own.reading.metadata.name, "namespace": own.reading.metadata.namespace},
        }),
    };
    set_or_remove(
        &mut value,
        "subsets",
        (!subsets.is_empty()).then_some(Value::Array(subsets)),
    );
    set_metadata(own, &mut value, truncated);
    match stored {
        Some(stored) if stored.value == value => {}
        Some(stored) => effects.write_one(Intent::Update {
            key: stored.key.clone(),
            base: Arc::clone(&stored.object),
            value,
        }),
        None => {
            let object = Intent::Create {
                resource: Resource::new("endpoints"),
                namespace: own.reading.metadata.namespace.as_str().into(),
                value,
            };
            effects.write(vec![object, still_there(own)]);
        }
    }
}

fn set_or_remove(value: &mut Value, name: &str, wanted: Option<Value>) {
    if let Some(object) = value.as_object_mut() {
        match wanted {
            Some(wanted) => object.insert(name.to_owned(), wanted),
            None => object.remove(name),
        };
    }
}

/// The labels are the Service's, and two of the controller's; of the annotations only that of the capacity is ours.
fn set_metadata(own: &Own, value: &mut Value, truncated: bool) {
    let mut labels: Map<String, Value> = own
        .object
        .header
        .labels
        .iter()
        .map(|(name, text)| (name.clone(), json!(text)))
        .collect();
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    if matches!(own.reading.spec.cluster_ip.as_str(), "" | "None") {
        labels.insert(HEADLESS.into(), json!(""));
    }
    let metadata = ownership::metadata(value);
    metadata.insert("labels".into(), Value::Object(labels));
    if truncated {
        ownership::annotate(value, OVER_CAPACITY, "truncated");
    } else if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove(OVER_CAPACITY);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

/// Who serves each port. The port's JSON is the key, so that it is compared and ordered as text; a headless Service without
/// ports has its addresses under the empty text.
fn by_port<'a>(own: &Own, pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<String, Addresses> {
    let mut ports: BTreeMap<String, Addresses> = BTreeMap::new();
    let publish = own.reading.spec.publish_not_ready_addresses;
    let headless = own.reading.spec.cluster_ip == "None";
    for pod in pods {
        let reading = &pod.reading;
        if reading.is_finished() || (reading.is_deleting() && !publish) {
            continue;
        }
        let Some(address) = address_of(own, pod) else { continue };
        let ready = publish || reading.is_ready();
        let key = (address.clone(), reading.metadata.uid.clone());
        let mut entry = json!({ "ip": address, "targetRef": target_of(&reading.metadata) });
        if !reading.spec.node_name.is_empty() {
            entry["nodeName"] = json!(reading.spec.node_name);
        }
        if let Some(hostname) = hostname_of(own, pod) {
            entry["hostname"] = json!(hostname);
        }
        let mut serve = |port: String| {
            let of_port = ports.entry(port).or_default();
            let (_, was_ready) = of_port.entry(key.clone()).or_insert_with(|| (entry.clone(), ready));
            *was_ready &= ready;
        };
        if own.reading.spec.ports.is_empty() && headless {
            serve(String::new());
        }
        for mut port in ports_of(own, pod) {
            if port["name"] == "" {
                set_or_remove(&mut port, "name", None);
            }
            serve(port.to_string());
        }
    }
    ports
}

/// An Endpoints object has one family of addresses: the first one of the Service.
fn address_of(own: &Own, pod: &Pod) -> Option<String> {
    let addresses = pod.reading.addresses();
    let family = own.reading.spec.ip_families.first();
    let mut fitting = addresses.into_iter().filter(|address| match family {
        Some(family) => (family == "IPv6") == address.contains(':'),
        None => true,
    });
    fitting.next().map(str::to_owned)
}

/// Ports behind which there are the same addresses in the same state share a subset.
fn repack(by_port: BTreeMap<String, Addresses>) -> Vec<Subset> {
    let mut shared: BTreeMap<Vec<(String, String, bool)>, Subset> = BTreeMap::new();
    for (port, addresses) in by_port {
        let who = addresses
            .iter()
            .map(|((ip, uid), (_, ready))| (ip.clone(), uid.clone(), *ready));
        let subset = shared.entry(who.collect()).or_default();
        if subset.ports.is_empty() && subset.ready.is_empty() && subset.not_ready.is_empty() {
            for (entry, ready) in addresses.into_values() {
                if ready {
                    &mut subset.ready
                } else {
                    &mut subset.not_ready
                }
                .push(entry);
            }
        }
        // The text was made from a JSON value a moment ago; the empty one stands for no port at all.
        subset.ports.extend(serde_json::from_str::<Value>(&port).ok());
    }
    let mut subsets: Vec<Subset> = shared.into_values().collect();
    subsets.sort_by_key(|subset| Value::Array(subset.ports.clone()).to_string());
    subsets
}

/// Leaves so many addresses as one object may hold: ready ones first, from each subset its share. Returns whether some were
/// left out.
fn truncate(subsets: &mut [Subset]) -> bool {
    let count = |of: fn(&Subset) -> usize| subsets.iter().map(of).sum::<usize>();
    let (ready, not_ready) = (count(|s| s.ready.len()), count(|s| s.not_ready.len()));
    if ready + not_ready <= ADDRESSES_MAX {
        return false;
    }
    let only_ready = ready > ADDRESSES_MAX;
    let (room, total) = if only_ready {
        (ADDRESSES_MAX, ready)
    } else {
        (ADDRESSES_MAX - ready, not_ready)
    };
    let mut left = room;
    for subset in subsets {
        let shortened = if only_ready {
            subset.not_ready.clear();
            &mut subset.ready
        } else {
            &mut subset.not_ready
        };
        // Each share is rounded up, so that the last subset has what is left.
        let share = (shortened.len() * room).div_ceil(total).min(left);
        shortened.truncate(share);
        left -= share;
    }
    true
}

impl Subset {
    fn into_value(self) -> Value {
        let mut value = json!({});
        for (name, items) in [
            ("addresses", self.ready),
            ("notReadyAddresses", self.not_ready),
            ("ports", self.ports),
        ] {
            let some = !items.is_empty();
            set_or_remove(&mut value, name, some.then_some(Value::Array(items)));
        }
        value
    }
}

#[cfg(test)]
#[path = "subsets_tests.rs"]
mod tests;
