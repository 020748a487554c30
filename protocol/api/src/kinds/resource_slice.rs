//! resource.k8s.io: what devices there are: ResourceSlice, DeviceTaintRule and ResourcePoolStatusRequest. Rows, validation,
//! columns.

use serde_json::Value;

use super::checks::{self, Rule, check, required_by_schema};
use super::{Conversion, Generation, Kind, Subresource, cells, scheduling};
use crate::access::{Access, items_mut, remove};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// Devices of one slice.
const DEVICES_MAX: usize = 128;

pub const SLICE: Kind = Kind {
    namespaced: false,
    selectable_fields: &["spec.nodeName", "spec.driver"],
    generation: Generation::Spec,
    validate: validate_slice,
    validate_update: |old, new, causes| {
        checks::immutable(old, new, &["spec.driver", "spec.pool.name", "spec.nodeName"], causes);
    },
    columns: &[
        Column::NAME,
        Column::text("Node", "The node whose devices they are."),
        Column::text("Driver", "The driver that serves them."),
        Column::text("Pool", "The pool that they belong to."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            cells::text_or(object, &["spec", "nodeName"], "<unset>"),
            cells::text(object, &["spec", "driver"]),
            cells::text(object, &["spec", "pool", "name"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "resource.k8s.io",
        v1,
        resource,
        ResourceSlice,
        "resourceslices",
        "resourceslice"
    )
};

pub const TAINT_RULE: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        check(
            object.at(&["spec"]),
            &path,
            &[
                ("taint.key", Rule::RequiredForm(rules::qualified_name)),
                ("taint.value", Rule::Form(rules::label_value)),
                (
                    "taint.effect",
                    Rule::RequiredKnown(&["NoExecute", "NoSchedule", "None"]),
                ),
                ("deviceSelector.driver", Rule::Form(rules::dns_subdomain)),
                ("deviceSelector.device", Rule::Form(rules::dns_label)),
            ],
            causes,
        );
    },
    columns: &[Column::NAME, Column::AGE],
    cells: |object, now| vec![cells::name(object), cells::created_ago(object, now)],
    ..row!(
        "resource.k8s.io",
        v1,
        resource,
        DeviceTaintRule,
        "devicetaintrules",
        "devicetaintrule"
    )
};

pub const POOL_STATUS_REQUEST: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    validate: |object, causes| {
        required_by_schema(POOL_STATUS_REQUEST.definition, object, &Path::Root, causes);
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec"], causes),
    ..row!(
        "resource.k8s.io",
        v1alpha3,
        resource,
        ResourcePoolStatusRequest,
        "resourcepoolstatusrequests",
        "resourcepoolstatusrequest"
    )
};

static SLICE_STORED: Conversion = Conversion::renamed("resource.k8s.io", "v1", "ResourceSlice", "resourceslices");
static TAINT_RULE_STORED: Conversion =
    Conversion::renamed("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules");
static SLICE_FROM_V1BETA1: Conversion = Conversion {
    to_stored: flatten_devices,
    from_stored: nest_devices,
    ..Conversion::renamed("resource.k8s.io", "v1", "ResourceSlice", "resourceslices")
};

pub const SLICE_V1BETA2: Kind = version_of!(SLICE, v1beta2, resource, ResourceSlice, &SLICE_STORED);
pub const TAINT_RULE_V1BETA2: Kind = version_of!(TAINT_RULE, v1beta2, resource, DeviceTaintRule, &TAINT_RULE_STORED);
pub const TAINT_RULE_V1ALPHA3: Kind = version_of!(TAINT_RULE, v1alpha3, resource, DeviceTaintRule, &TAINT_RULE_STORED);

/// In v1beta1 what a device is stands below `basic`.
pub const SLICE_V1BETA1: Kind = Kind {
    validate: |object, causes| {
        let mut stored = object.clone();
        flatten_devices(&mut stored);
        validate_slice(&stored, causes);
    },
    ..version_of!(SLICE, v1beta1, resource, ResourceSlice, &SLICE_FROM_V1BETA1)
};

fn devices_of(object: &mut Value) -> &mut [Value] {
    match object.get_mut("spec") {
        Some(spec) => items_mut(spec, "devices"),
        None => &mut [],
    }
}

fn flatten_devices(object: &mut Value) {
    for device in devices_of(object) {
        if let Some(Value::Object(basic)) = remove(device, "basic") {
            for (name, value) in basic {
                device[name] = value;
            }
        }
    }
}

fn nest_devices(object: &mut Value) {
    for device in devices_of(object) {
        if let Some(members) = device.as_object_mut() {
            let name = members.remove("name");
            let basic = std::mem::take(members);
            members.extend(name.map(|name| ("name".to_owned(), name)));
            members.insert("basic".to_owned(), basic.into());
        }
    }
}

fn validate_slice(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(
        spec,
        &path,
        &[
            ("nodeName", Rule::Form(rules::dns_subdomain)),
            ("driver", Rule::RequiredForm(rules::dns_subdomain)),
            ("pool.name", Rule::Required),
            ("pool.generation", Rule::NotNegative),
            ("devices", Rule::ItemsMax(DEVICES_MAX)),
            ("devices", Rule::Unique("name")),
            ("devices[].name", Rule::RequiredForm(rules::dns_label)),
            ("sharedCounters", Rule::Unique("name")),
            ("sharedCounters[].name", Rule::RequiredForm(rules::dns_label)),
        ],
        causes,
    );
    let pool = path.field("pool");
    let slices = spec.at(&["pool"]).int("resourceSliceCount").unwrap_or(0);
    if slices <= 0 {
        causes.invalid(pool.field("resourceSliceCount"), slices, "must be greater than zero");
    }
    let given = [
        !spec.text("nodeName").is_empty(),
        spec.has("nodeSelector"),
        spec.flag("allNodes"),
        spec.flag("perDeviceNodeSelection"),
    ];
    let alternatives = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.iter().filter(|given| **given).count() {
        0 => causes.required(path, alternatives),
        1 => {}
        _ => {
            let text = format!("{alternatives}, but multiple fields are set");
            causes.invalid(path, Value::Null, text);
        }
    }
    if spec.has("nodeSelector") {
        let at = path.field("nodeSelector");
        scheduling::node_selector(spec.at(&["nodeSelector"]), &at, causes);
    }
}
