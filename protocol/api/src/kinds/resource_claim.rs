//! resource.k8s.io: what of devices is asked for: ResourceClaim, ResourceClaimTemplate and DeviceClass. Rows, defaults,
//! validation and columns; what devices there are is in `resource_slice`.

use serde_json::Value;

use super::checks::{self, Rule, check};
use super::{Conversion, Generation, Kind, Subresource, cells};
use crate::access::{Access, existing_mut, items_mut, remove, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// Requests of a claim, and alternatives of a request.
const REQUESTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;

pub const CLAIM: Kind = Kind {
    subresources: &[Subresource::Status],
    default: |object| {
        if let Some(spec) = existing_mut(object, "spec") {
            default_claim(spec);
        }
    },
    validate: |object, causes| {
        let root = Path::Root;
        claim(object.at(&["spec"]), &root.field("spec"), causes);
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec"], causes),
    validate_status: |old, new, causes| {
        let (before, after) = (old.at(&["status", "allocation"]), new.at(&["status", "allocation"]));
        let root = Path::Root;
        let status = root.field("status");
        if !before.is_null() && !after.is_null() {
            checks::immutable(old, new, &["status.allocation"], causes);
        }
        let reserved = new.at(&["status"]).items("reservedFor").len();
        if reserved > 0 && after.is_null() {
            let text = "may not be specified when `allocated` is not set";
            causes.forbidden(status.field("reservedFor"), text);
        }
        check(
            new.at(&["status"]),
            &status,
            &[
                ("reservedFor", Rule::ItemsMax(256)),
                ("reservedFor", Rule::Unique("uid")),
                ("reservedFor[].resource", Rule::Required),
                ("reservedFor[].name", Rule::Required),
                ("reservedFor[].uid", Rule::Required),
            ],
            causes,
        );
    },
    columns: &[
        Column::NAME,
        Column::text("State", "Whether devices were found, and whether pods use them."),
        Column::AGE,
    ],
    cells: |object, now| {
        let (status, deleted) = (
            object.at(&["status"]),
            object.at(&["metadata"]).has("deletionTimestamp"),
        );
        let mut words = Vec::new();
        if deleted {
            words.push("deleted");
        }
        if status.has("allocation") {
            words.push("allocated");
            if !status.items("reservedFor").is_empty() {
                words.push("reserved");
            }
        } else if !deleted {
            words.push("pending");
        }
        vec![
            cells::name(object),
            words.join(",").into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "resource.k8s.io",
        v1,
        resource,
        ResourceClaim,
        "resourceclaims",
        "resourceclaim"
    )
};

pub const TEMPLATE: Kind = Kind {
    default: |object| {
        if let Some(spec) = existing_mut(object, "spec")
            && let Some(inner) = existing_mut(spec, "spec")
        {
            default_claim(inner);
        }
    },
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        claim(object.at(&["spec", "spec"]), &path.field("spec"), causes);
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec"], causes),
    columns: &[Column::NAME, Column::AGE],
    cells: |object, now| vec![cells::name(object), cells::created_ago(object, now)],
    ..row!(
        "resource.k8s.io",
        v1,
        resource,
        ResourceClaimTemplate,
        "resourceclaimtemplates",
        "resourceclaimtemplate"
    )
};

pub const CLASS: Kind = Kind {
    namespaced: false,
    generation: Generation::Spec,
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        selectors(spec, &path, causes);
        check(
            spec,
            &path,
            &[
                ("config", Rule::ItemsMax(32)),
                ("config[].opaque.driver", Rule::RequiredForm(rules::dns_subdomain)),
                ("config[].opaque.parameters", Rule::Required),
                ("extendedResourceName", Rule::Form(rules::qualified_name)),
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
        DeviceClass,
        "deviceclasses",
        "deviceclass"
    )
};

fn default_claim(spec: &mut Value) {
    let Some(devices) = existing_mut(spec, "devices") else {
        return;
    };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = existing_mut(request, "exactly") {
            default_request(exactly);
        }
        for alternative in items_mut(request, "firstAvailable") {
            default_request(alternative);
        }
    }
}

fn default_request(request: &mut Value) {
    if !request.is_object() {
        return;
    }
    set_default_text(request, "allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" && request.int("count").unwrap_or(0) == 0 {
        set_default(request, "count", 1);
    }
    for toleration in items_mut(request, "tolerations") {
        set_default_text(toleration, "operator", "Equal");
    }
}

/// Validates a claim's spec.
fn claim(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let (devices, at) = (spec.at(&["devices"]), path.field("devices"));
    let list = at.field("requests");
    let requests = devices.items("requests");
    if requests.len() > REQUESTS_MAX {
        causes.too_many(list, requests.len(), REQUESTS_MAX);
    }
    check(devices, &at, &[("requests", Rule::Unique("name"))], causes);
    for (index, request) in requests.iter().enumerate() {
        let at = list.index(index);
        check(request, &at, &[("name", Rule::RequiredForm(rules::dns_label))], causes);
        let alternatives = request.items("firstAvailable");
        match (request.has("exactly"), alternatives.is_empty()) {
            (false, true) => causes.required(at, "exactly one of `exactly` or `firstAvailable` is required"),
            (true, false) => {
                let text = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                causes.invalid(at, Value::Null, text);
            }
            (true, true) => exact(request.at(&["exactly"]), &at.field("exactly"), causes),
            (false, false) => {
                let list = at.field("firstAvailable");
                if alternatives.len() > ALTERNATIVES_MAX {
                    causes.too_many(list, alternatives.len(), ALTERNATIVES_MAX);
                }
                check(request, &at, &[("firstAvailable", Rule::Unique("name"))], causes);
                for (index, alternative) in alternatives.iter().enumerate() {
                    let at = list.index(index);
                    check(
                        alternative,
                        &at,
                        &[("name", Rule::RequiredForm(rules::dns_label))],
                        causes,
                    );
                    exact(alternative, &at, causes);
                }
            }
        }
    }
    references(devices, &at, causes);
}

fn exact(request: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        request,
        path,
        &[("deviceClassName", Rule::RequiredForm(rules::dns_subdomain))],
        causes,
    );
    selectors(request, path, causes);
    let count = request.int("count").unwrap_or(0);
    match request.text("allocationMode") {
        "All" => {
            if count != 0 {
                let text = "must not be specified when allocationMode is 'All'";
                causes.invalid(path.field("count"), count, text);
            }
        }
        "ExactCount" => {
            if count <= 0 {
                causes.invalid(path.field("count"), count, "must be greater than zero");
            }
        }
        other => causes.not_supported(path.field("allocationMode"), other, &["All", "ExactCount"]),
    }
    check(
        request,
        path,
        &[
            ("tolerations[].key", Rule::Form(rules::qualified_name)),
            ("tolerations[].operator", Rule::Known(&["Equal", "Exists"])),
            (
                "tolerations[].effect",
                Rule::Known(&["NoExecute", "NoSchedule", "None"]),
            ),
        ],
        causes,
    );
}

/// Validates the selectors of a request or a class.
fn selectors(holder: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(holder, path, &[("selectors", Rule::ItemsMax(32))], causes);
    let list = path.field("selectors");
    for (index, selector) in holder.items("selectors").iter().enumerate() {
        let at = list.index(index);
        let cel = at.field("cel");
        if !selector.has("cel") {
            causes.required(cel, "");
        } else if selector.at(&["cel"]).text("expression").is_empty() {
            causes.required(cel.field("expression"), "");
        }
    }
}

/// Constraints and configurations name requests of the claim, or alternatives of them.
fn references(devices: &Value, path: &Path<'_>, causes: &mut Causes) {
    let known = |name: &str| {
        let (request, alternative) = name.split_once('/').unwrap_or((name, ""));
        let requests = devices.items("requests").iter();
        requests.filter(|known| known.text("name") == request).any(|known| {
            let alternatives = known.items("firstAvailable");
            alternative.is_empty() || alternatives.iter().any(|known| known.text("name") == alternative)
        })
    };
    for field in ["constraints", "config"] {
        let list = path.field(field);
        if devices.items(field).len() > REQUESTS_MAX {
            causes.too_many(list, devices.items(field).len(), REQUESTS_MAX);
        }
        for (index, entry) in devices.items(field).iter().enumerate() {
            let at = list.index(index);
            let names = at.field("requests");
            for (index, name) in entry.items("requests").iter().enumerate() {
                let name = name.as_str().unwrap_or_default();
                if !known(name) {
                    let text = "must be the name of a request in the claim or the name of a request and a subrequest \
                                separated by '/'";
                    causes.invalid(names.index(index), name, text);
                }
            }
            if field == "constraints" && !entry.has("matchAttribute") && !entry.has("distinctAttribute") {
                causes.required(at, "exactly one of `matchAttribute` or `distinctAttribute` is required");
            }
            if field == "config" {
                if entry.has("opaque") {
                    let text = Rule::RequiredForm(rules::dns_subdomain);
                    check(
                        entry,
                        &at,
                        &[("opaque.driver", text), ("opaque.parameters", Rule::Required)],
                        causes,
                    );
                } else {
                    causes.required(at, "exactly one of `opaque` is required");
                }
            }
        }
    }
}

static CLAIM_STORED: Conversion = Conversion::renamed("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims");
static TEMPLATE_STORED: Conversion = Conversion::renamed(
    "resource.k8s.io",
    "v1",
    "ResourceClaimTemplate",
    "resourceclaimtemplates",
);
static CLASS_STORED: Conversion = Conversion::renamed("resource.k8s.io", "v1", "DeviceClass", "deviceclasses");

pub const CLAIM_V1BETA2: Kind = version_of!(CLAIM, v1beta2, resource, ResourceClaim, &CLAIM_STORED);
pub const TEMPLATE_V1BETA2: Kind = version_of!(TEMPLATE, v1beta2, resource, ResourceClaimTemplate, &TEMPLATE_STORED);
pub const CLASS_V1BETA2: Kind = version_of!(CLASS, v1beta2, resource, DeviceClass, &CLASS_STORED);
pub const CLASS_V1BETA1: Kind = version_of!(CLASS, v1beta1, resource, DeviceClass, &CLASS_STORED);

static CLAIM_FROM_V1BETA1: Conversion = Conversion {
    to_stored: |object| nest_requests(object.get_mut("spec")),
    from_stored: |object| flatten_requests(object.get_mut("spec")),
    ..Conversion::renamed("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims")
};
static TEMPLATE_FROM_V1BETA1: Conversion = Conversion {
    to_stored: |object| nest_requests(object.pointer_mut("/spec/spec")),
    from_stored: |object| flatten_requests(object.pointer_mut("/spec/spec")),
    ..Conversion::renamed(
        "resource.k8s.io",
        "v1",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
    )
};

/// In v1beta1 a request says itself what it asks for exactly; its rules are those of the stored form.
pub const CLAIM_V1BETA1: Kind = Kind {
    default: |object| {
        nest_requests(object.get_mut("spec"));
        (CLAIM.default)(object);
        flatten_requests(object.get_mut("spec"));
    },
    validate: |object, causes| {
        let mut stored = object.clone();
        nest_requests(stored.get_mut("spec"));
        without_exactly(causes, |causes| (CLAIM.validate)(&stored, causes));
    },
    ..version_of!(CLAIM, v1beta1, resource, ResourceClaim, &CLAIM_FROM_V1BETA1)
};

pub const TEMPLATE_V1BETA1: Kind = Kind {
    default: |object| {
        nest_requests(object.pointer_mut("/spec/spec"));
        (TEMPLATE.default)(object);
        flatten_requests(object.pointer_mut("/spec/spec"));
    },
    validate: |object, causes| {
        let mut stored = object.clone();
        nest_requests(stored.pointer_mut("/spec/spec"));
        without_exactly(causes, |causes| (TEMPLATE.validate)(&stored, causes));
    },
    ..version_of!(
        TEMPLATE,
        v1beta1,
        resource,
        ResourceClaimTemplate,
        &TEMPLATE_FROM_V1BETA1
    )
};

/// What is found below `exactly` is told without it.
fn without_exactly(causes: &mut Causes, validate: impl FnOnce(&mut Causes)) {
    let before = causes.0.len();
    validate(causes);
    for cause in &mut causes.0[before..] {
        cause.field = cause.field.replacen(".exactly.", ".", 1);
    }
}

fn requests_of(spec: Option<&mut Value>) -> &mut [Value] {
    match spec.and_then(|spec| spec.get_mut("devices")) {
        Some(devices) => items_mut(devices, "requests"),
        None => &mut [],
    }
}

/// Fields that stand in `exactly`.
const EXACT: [&str; 8] = [
    "deviceClassName",
    "selectors",
    "allocationMode",
    "count",
    "adminAccess",
    "tolerations",
    "capacity",
    "derivedAttributes",
];

fn nest_requests(spec: Option<&mut Value>) {
    for request in requests_of(spec) {
        let mut exactly = serde_json::Map::new();
        for name in EXACT {
            exactly.extend(remove(request, name).map(|value| (name.to_owned(), value)));
        }
        if !exactly.is_empty() && request.is_object() {
            request["exactly"] = exactly.into();
        }
    }
}

fn flatten_requests(spec: Option<&mut Value>) {
    for request in requests_of(spec) {
        if let Some(Value::Object(exactly)) = remove(request, "exactly") {
            for (name, value) in exactly {
                request[name] = value;
            }
        }
    }
}
