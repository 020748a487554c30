//! Kinds that are stored nowhere: what their answers are made of. Pure; the service decides who is asked.

use serde_json::{Value, json};

use api::Subresource;
use api::kinds;
use api::status::Status;

use crate::route::Target;

/// The parts of the cluster as ComponentStatus objects. Every node has all of them in one process, so they are as ready as
/// it is.
pub fn components(readiness: Result<(), String>) -> Vec<Value> {
    let condition = match readiness {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(reason) => json!({"type": "Healthy", "status": "False", "message": "not ready", "error": reason}),
    };
    ["scheduler", "controller-manager", "store-0"]
        .into_iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition],
            })
        })
        .collect()
}

/// The pod that a Binding posted to the collection names: what is done is the same as below the pod's own path.
pub fn bound_pod(target: &Target, binding: &Value) -> Result<Target, Status> {
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request(
            "Binding.metadata.name: Required value: the pod's name",
        ));
    }
    let pods = kinds::find("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    Ok(Target {
        kind: pods,
        namespace: target.namespace.clone(),
        name: Some(name.to_owned()),
        subresource: Some(Subresource::Binding),
    })
}
