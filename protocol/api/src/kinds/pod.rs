//! core/v1 Pod: its row, first status and quality-of-service class.

use protocol::quantity::Quantity;
use serde_json::{Value, json};

use super::{
    Generation, Kind, STORED, Subresource, boolean_field, field_value, pod_defaults, pod_print, pod_spec, pod_update,
};
use crate::access::{Access, object_mut};
use crate::cause::Path;

pub const KIND: Kind = Kind {
    kind: "Pod",
    list_kind: "PodList",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Status,
        Subresource::Log,
        Subresource::Binding,
        Subresource::Eviction,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Proxy,
        Subresource::EphemeralContainers,
        Subresource::Resize,
    ],
    selectable_fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    definition: "io.k8s.api.core.v1.Pod",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Pod>();
    },
    generation: Generation::Spec,
    default: |object| pod_defaults::pod(object_mut(object, "spec")),
    prepare_create,
    prepare_update: |old, new| {
        let class = old.at(&["status", "qosClass"]);
        if !class.is_null() {
            object_mut(new, "status")["qosClass"] = class.clone();
        }
    },
    validate_create: |object, causes| {
        if !object.at(&["spec"]).items("ephemeralContainers").is_empty() {
            let root = Path::Root;
            let path = root.field("spec");
            causes.forbidden(path.field("ephemeralContainers"), "cannot be set on create");
        }
    },
    validate: |object, causes| {
        let root = Path::Root;
        pod_spec::validate(object.at(&["spec"]), &root.field("spec"), causes);
    },
    validate_update: pod_update::validate,
    columns: pod_print::COLUMNS,
    cells: pod_print::cells,
    field_value: |object, path| match path {
        "spec.hostNetwork" => boolean_field(object, path),
        _ => field_value(object, path),
    },
    ..STORED
};

fn prepare_create(object: &mut Value) {
    let class = quality_of_service(object.at(&["spec"]));
    object["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// `Guaranteed` when every container limits both cpu and memory and requests just that, `BestEffort` when none says
/// anything, else `Burstable`.
pub fn quality_of_service(spec: &Value) -> &'static str {
    let containers = spec.items("initContainers").iter().chain(spec.items("containers"));
    let (mut any, mut all_limited) = (false, true);
    for container in containers {
        for name in ["cpu", "memory"] {
            let amount = |list: &str| {
                let text = container.at(&["resources", list, name]).as_str()?;
                Quantity::parse(text).ok().filter(|amount| amount.milli() != 0)
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            all_limited &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all_limited) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let cases = [
            (json!({"containers": [{}]}), "BestEffort"),
            (json!({"containers": [{"resources": full}]}), "Guaranteed"),
            (json!({"containers": [{"resources": full}, {}]}), "Burstable"),
            (
                json!({"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1"}}}]}),
                "Guaranteed",
            ),
            (
                json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}),
                "Burstable",
            ),
            (
                json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}),
                "BestEffort",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(quality_of_service(&spec), expected, "{spec}");
        }
    }
}
