//! core/v1 Node: its row, validation and columns.

use protocol::UnixMillis;
use serde_json::{Value, json};

use super::{Kind, STORED, Subresource, boolean_field, scheduling};
use crate::access::{Access, object_mut};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;
use crate::time::age_since;

pub const KIND: Kind = Kind {
    kind: "Node",
    list_kind: "NodeList",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    subresources: &[Subresource::Status, Subresource::Proxy],
    selectable_fields: &["spec.unschedulable"],
    definition: "io.k8s.api.core.v1.Node",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Node>();
    },
    default: |object| {
        if let Some(status) = object.get_mut("status").filter(|status| status.has("capacity"))
            && !status.has("allocatable")
        {
            status["allocatable"] = status["capacity"].clone();
        }
        object_mut(object, "spec");
    },
    created_with_status: true,
    validate,
    validate_update: |old, new, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        for name in ["podCIDR", "podCIDRs", "providerID"] {
            let (before, after) = (old.at(&["spec", name]), new.at(&["spec", name]));
            if !before.is_null() && before != after {
                causes.forbidden(path.field(name), "node updates may not change it once it is set");
            }
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Status", "The status of the node"),
        Column::text("Roles", "The roles of the node"),
        Column::AGE,
        Column::text("Version", "Kubelet Version reported by the node."),
        Column::wide("Internal-IP", "The node's address inside the cluster."),
        Column::wide("External-IP", "The node's address outside the cluster."),
        Column::wide("OS-Image", "OS Image reported by the node from /etc/os-release."),
        Column::wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'."),
        Column::wide("Container-Runtime", "ContainerRuntime Version reported by the node."),
    ],
    cells,
    field_value: boolean_field,
    ..STORED
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    scheduling::taints(spec, &path, causes);
    let list = path.field("podCIDRs");
    for (index, network) in spec.items("podCIDRs").iter().enumerate() {
        let text = network.as_str().unwrap_or_default();
        for problem in rules::cidr(text) {
            causes.invalid(list.index(index), text, problem);
        }
    }
    let first = spec.items("podCIDRs").first().unwrap_or(&Value::Null);
    if spec.has("podCIDR") && spec.has("podCIDRs") && spec.at(&["podCIDR"]) != first {
        causes.invalid(list.index(0), first.clone(), "must match `podCIDR`");
    }
}

fn status_text(object: &Value) -> String {
    let ready = object
        .at(&["status"])
        .items("conditions")
        .iter()
        .find(|condition| condition.text("type") == "Ready");
    let mut words = vec![match ready.map(|condition| condition.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if object.at(&["spec"]).flag("unschedulable") {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(metadata: &Value) -> String {
    let mut roles: Vec<&str> = metadata
        .members("labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ => (key == "kubernetes.io/role")
                .then(|| value.as_str())
                .flatten()
                .filter(|role| !role.is_empty()),
        })
        .collect();
    roles.sort_unstable();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn address(status: &Value, kind: &str) -> Value {
    let found = status
        .items("addresses")
        .iter()
        .find(|address| address.text("type") == kind);
    found.map_or_else(|| json!("<none>"), |address| address.text("address").into())
}

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (metadata, status) = (object.at(&["metadata"]), object.at(&["status"]));
    let known = |name: &str| match status.at(&["nodeInfo"]).text(name) {
        "" => json!("<unknown>"),
        text => text.into(),
    };
    vec![
        metadata.text("name").into(),
        status_text(object).into(),
        roles(metadata).into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
        status.at(&["nodeInfo"]).text("kubeletVersion").into(),
        address(status, "InternalIP"),
        address(status, "ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}
