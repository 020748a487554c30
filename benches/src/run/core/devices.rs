//! Owns the devices at depth `core`: claims as the API has them, what a binding writes to them, and the check of what was
//! allocated, from the API objects alone: a device is given to one claim, and lies on the node that its pod is bound to. Called by
//! the world for objects that come and for every binding.

use k8s_openapi::api::resource::v1 as resource;
use scheduler::{Binding, PreBind};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

const CLAIMS: &str = "resourceclaims.resource.k8s.io";

/// The devices of a case.
#[derive(Default)]
pub(super) struct Devices {
    /// By `namespace/name`.
    claims: HashMap<String, Value>,
    /// The node of a pool: every pool here is of one node.
    pools: HashMap<String, String>,
    /// By driver, pool and device, the claim that has it.
    given: HashMap<[String; 3], String>,
    /// The first rule that was broken.
    pub broken: Option<String>,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Devices {
    /// A claim came.
    pub fn claim(&mut self, tree: &Value) {
        let key = format!("{}/{}", text(tree, "/metadata/namespace"), text(tree, "/metadata/name"));
        self.claims.insert(key, tree.clone());
    }

    /// A slice came.
    pub fn slice(&mut self, tree: &Value) {
        let (pool, node) = (text(tree, "/spec/pool/name"), text(tree, "/spec/nodeName"));
        self.pools.insert(pool.to_owned(), node.to_owned());
    }

    /// Writes what a binding wants written of claims; the claims as the watch then shows them.
    pub fn bind(&mut self, binding: &Binding) -> Vec<resource::ResourceClaim> {
        let mut shown = Vec::new();
        for step in &binding.pre_bind {
            let PreBind::Patch(patch) = step else { continue };
            let key = format!("{}/{}", patch.namespace, patch.name);
            let Some(claim) = self.claims.get_mut(&key).filter(|_| &*patch.resource == CLAIMS) else {
                self.broken.get_or_insert(format!(
                    "{} is patched: {} {key} does not exist",
                    binding.pod, patch.resource
                ));
                continue;
            };
            let was_allocated = !claim["status"]["allocation"].is_null();
            json_patch::merge(claim, &patch.patch);
            let claim = claim.clone();
            if !was_allocated {
                self.check(&key, &claim, &binding.node);
            }
            match serde_json::from_value(claim) {
                Ok(claim) => shown.push(claim),
                Err(error) => {
                    self.broken
                        .get_or_insert(format!("{key} is no claim any more: {error}"));
                }
            }
        }
        shown
    }

    fn check(&mut self, key: &str, claim: &Value, node: &Arc<str>) {
        let results = claim
            .pointer("/status/allocation/devices/results")
            .and_then(Value::as_array);
        let Some(results) = results.filter(|results| !results.is_empty()) else {
            self.broken
                .get_or_insert(format!("{key} has a pod that is bound, and no device"));
            return;
        };
        for result in results {
            let device = ["/driver", "/pool", "/device"].map(|part| text(result, part).to_owned());
            if self.pools.get(&device[1]).map(String::as_str) != Some(&**node) {
                self.broken
                    .get_or_insert(format!("{key} has {}, which is not on {node}", device.join("/")));
            }
            let name = device.join("/");
            if let Some(other) = self.given.insert(device, key.to_owned()) {
                self.broken
                    .get_or_insert(format!("{name} is given to {other} and to {key}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{BindMethod, ObjectPatch, PodKey};
    use serde_json::json;

    fn binding(claim: &str, node: &str, device: &str) -> Binding {
        let results = json!([{"request": "r", "driver": "d", "pool": "n1", "device": device}]);
        let patch = ObjectPatch {
            resource: CLAIMS.into(),
            namespace: "ns".into(),
            name: claim.into(),
            patch: json!({"status": {"allocation": {"devices": {"results": results}}}}),
        };
        Binding {
            pod: PodKey::new("ns", "p"),
            uid: "u".into(),
            node: node.into(),
            score: 0,
            feasible_nodes: 1,
            group: None,
            pre_bind: vec![PreBind::Patch(patch)],
            method: BindMethod::NodeName,
        }
    }

    #[test]
    fn planted_mistakes_are_found() {
        let cases = [
            (vec![binding("a", "n1", "0"), binding("b", "n1", "1")], None),
            (
                vec![binding("a", "n1", "0"), binding("b", "n1", "0")],
                Some("d/n1/0 is given to ns/a and to ns/b"),
            ),
            (
                vec![binding("a", "n2", "0")],
                Some("ns/a has d/n1/0, which is not on n2"),
            ),
            (
                vec![binding("c", "n1", "0")],
                Some("ns/p is patched: resourceclaims.resource.k8s.io ns/c does not exist"),
            ),
        ];
        for (bindings, broken) in cases {
            let mut devices = Devices::default();
            for name in ["a", "b"] {
                devices.claim(&json!({"metadata": {"namespace": "ns", "name": name}, "spec": {}}));
            }
            devices.slice(&json!({"spec": {"nodeName": "n1", "pool": {"name": "n1"}}}));
            for binding in bindings {
                devices.bind(&binding);
            }
            assert_eq!(devices.broken.as_deref(), broken);
        }
    }
}
