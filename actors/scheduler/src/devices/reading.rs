//! Owns the reading of ResourceSlices, DeviceClasses and ResourceClaims from the API's objects. Called by the `Scheduler`. It must
//! note what this scheduler does not know how to allocate, so that it is refused rather than allocated wrongly.

use super::{
    Allocation, Alternative, Attribute, Constraint, Count, Device, DeviceClaim, DeviceClass, DeviceName, Reachable,
    Request, Slice,
};
use crate::intern::{Sym, Symbols};
use crate::quantity;
use crate::selector::{NodeSelectorTerm, Taint, Toleration};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads a class; the first is its name.
pub fn read_device_class(symbols: &mut Symbols, object: &resource::DeviceClass) -> (Sym, DeviceClass) {
    let class = DeviceClass {
        selectors: expressions(object.spec.as_ref().and_then(|spec| spec.selectors.as_deref())),
    };
    (
        symbols.intern(object.metadata.name.as_deref().unwrap_or_default()),
        class,
    )
}

fn expressions(selectors: Option<&[resource::DeviceSelector]>) -> Vec<String> {
    let all = selectors.into_iter().flatten();
    all.filter_map(|selector| Some(selector.cel.as_ref()?.expression.clone()))
        .collect()
}

/// Reads a slice; the first is its name.
pub fn read_slice(symbols: &mut Symbols, object: &resource::ResourceSlice) -> (Sym, Slice) {
    let spec = &object.spec;
    let of_slice = reachable(symbols, spec.node_name.as_deref(), spec.node_selector.as_ref());
    let per_device = spec.per_device_node_selection == Some(true);
    let devices = spec.devices.iter().flatten().map(|device| {
        let reachable = match per_device {
            true => reachable(symbols, device.node_name.as_deref(), device.node_selector.as_ref()),
            false => of_slice.clone(),
        };
        Arc::new(read_device(symbols, &spec.driver, device, reachable))
    });
    let devices = devices.collect();
    let slice = Slice {
        driver: symbols.intern(&spec.driver),
        pool: symbols.intern(&spec.pool.name),
        generation: spec.pool.generation,
        slices: spec.pool.resource_slice_count,
        devices,
    };
    (
        symbols.intern(object.metadata.name.as_deref().unwrap_or_default()),
        slice,
    )
}

fn reachable(symbols: &mut Symbols, node: Option<&str>, selector: Option<&core::NodeSelector>) -> Reachable {
    match (node.filter(|name| !name.is_empty()), selector) {
        (Some(name), _) => Reachable::Node(symbols.intern(name)),
        (None, Some(selector)) => Reachable::Terms(terms(symbols, selector)),
        (None, None) => Reachable::Everywhere,
    }
}

fn terms(symbols: &mut Symbols, selector: &core::NodeSelector) -> Vec<NodeSelectorTerm> {
    let terms = selector.node_selector_terms.iter();
    terms.map(|term| NodeSelectorTerm::parse(symbols, term)).collect()
}

fn qualified(driver: &str, name: &str) -> String {
    match name.contains('/') {
        true => name.to_owned(),
        false => format!("{driver}/{name}"),
    }
}

fn read_device(symbols: &mut Symbols, driver: &str, device: &resource::Device, reachable: Reachable) -> Device {
    let mut attributes = BTreeMap::new();
    for (name, value) in device.attributes.iter().flatten() {
        let value = match value {
            resource::DeviceAttribute { bool: Some(value), .. } => Attribute::Bool(*value),
            resource::DeviceAttribute { int: Some(value), .. } => Attribute::Int(*value),
            resource::DeviceAttribute {
                string: Some(value), ..
            } => Attribute::Text(value.clone()),
            resource::DeviceAttribute {
                version: Some(value), ..
            } => Attribute::Version(value.clone()),
            // A list: no selector and no constraint sees it.
            _ => continue,
        };
        attributes.insert(qualified(driver, name), value);
    }
    let capacity = device.capacity.iter().flatten();
    let capacity = capacity.filter_map(|(name, of)| Some((qualified(driver, name), quantity::milli(&of.value.0)?)));
    let some = |list: Option<usize>| list.is_some_and(|len| len > 0);
    let unsupported = if some(device.consumes_counters.as_ref().map(Vec::len)) {
        Some("devices that consume shared counters")
    } else if device.allow_multiple_allocations == Some(true) {
        Some("devices that are allocated several times")
    } else if some(device.binding_conditions.as_ref().map(Vec::len)) {
        Some("devices with binding conditions")
    } else if some(device.node_allocatable_resources.as_ref().map(BTreeMap::len)) {
        Some("devices that take node resources")
    } else {
        None
    };
    Device {
        attributes,
        capacity: capacity.collect(),
        reachable,
        taints: device
            .taints
            .iter()
            .flatten()
            .map(|taint| read_taint(symbols, taint))
            .collect(),
        unsupported,
        name: symbols.intern(&device.name),
    }
}

fn read_taint(symbols: &mut Symbols, taint: &resource::DeviceTaint) -> Taint {
    let taint = core::Taint {
        effect: taint.effect.clone(),
        key: taint.key.clone(),
        value: taint.value.clone(),
        time_added: None,
    };
    Taint::parse(symbols, &taint)
}

fn read_tolerations(symbols: &mut Symbols, list: Option<&[resource::DeviceToleration]>) -> Vec<Toleration> {
    let all = list.into_iter().flatten().map(|toleration| core::Toleration {
        effect: toleration.effect.clone(),
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        toleration_seconds: toleration.toleration_seconds,
    });
    all.map(|toleration| Toleration::parse(symbols, &toleration)).collect()
}

/// Reads a claim; the first is `namespace/name`.
pub fn read_claim(symbols: &mut Symbols, object: &resource::ResourceClaim) -> (Sym, DeviceClaim) {
    let devices = object
        .spec
        .as_ref()
        .and_then(|spec| spec.devices.clone())
        .unwrap_or_default();
    let mut unsupported = None;
    let requests = devices.requests.iter().flatten();
    let requests = requests
        .map(|request| read_request(symbols, request, &mut unsupported))
        .collect();
    let constraints = devices.constraints.iter().flatten().filter_map(|constraint| {
        let (attribute, equal) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute.clone(), true),
            (None, Some(attribute)) => (attribute.clone(), false),
            (None, None) => {
                unsupported = Some("a constraint of an unknown kind".to_owned());
                return None;
            }
        };
        Some(Constraint {
            requests: constraint.requests.clone().unwrap_or_default(),
            attribute,
            equal,
        })
    });
    let constraints = constraints.collect();
    let status = object.status.clone().unwrap_or_default();
    let claim = DeviceClaim {
        requests,
        constraints,
        unsupported: unsupported.map(|what| format!("resourceclaim asks for what is not supported here: {what}")),
        allocation: status
            .allocation
            .as_ref()
            .map(|allocation| read_allocation(symbols, allocation)),
        reserved_for: serde_json::to_value(&status.reserved_for).unwrap_or_default(),
        finalizers: object.metadata.finalizers.clone().unwrap_or_default(),
        terminating: object.metadata.deletion_timestamp.is_some(),
    };
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let name = object.metadata.name.as_deref().unwrap_or_default();
    (symbols.intern(&format!("{namespace}/{name}")), claim)
}

fn read_request(symbols: &mut Symbols, request: &resource::DeviceRequest, unsupported: &mut Option<String>) -> Request {
    let mut options = Vec::new();
    if let Some(exactly) = &request.exactly {
        if exactly.admin_access == Some(true) {
            *unsupported = Some("adminAccess".to_owned());
        }
        let sub = resource::DeviceSubRequest {
            allocation_mode: exactly.allocation_mode.clone(),
            capacity: exactly.capacity.clone(),
            count: exactly.count,
            derived_attributes: exactly.derived_attributes.clone(),
            device_class_name: exactly.device_class_name.clone(),
            name: request.name.clone(),
            selectors: exactly.selectors.clone(),
            tolerations: exactly.tolerations.clone(),
        };
        options.push(read_alternative(symbols, &sub, request.name.clone(), unsupported));
    }
    for sub in request.first_available.iter().flatten() {
        let name = format!("{}/{}", request.name, sub.name);
        options.push(read_alternative(symbols, sub, name, unsupported));
    }
    if options.is_empty() {
        *unsupported = Some("a request of an unknown kind".to_owned());
    }
    Request {
        name: request.name.clone(),
        options,
    }
}

fn read_alternative(
    symbols: &mut Symbols,
    sub: &resource::DeviceSubRequest,
    name: String,
    unsupported: &mut Option<String>,
) -> Alternative {
    if sub.capacity.is_some() {
        *unsupported = Some("a part of a device's capacity".to_owned());
    }
    if sub.derived_attributes.as_ref().is_some_and(|list| !list.is_empty()) {
        *unsupported = Some("derived attributes".to_owned());
    }
    let count = match sub.allocation_mode.as_deref().unwrap_or("ExactCount") {
        "ExactCount" => Count::Exactly(sub.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1)),
        "All" => Count::All,
        other => {
            *unsupported = Some(format!("allocationMode {other}"));
            Count::All
        }
    };
    Alternative {
        name,
        class: symbols.intern(&sub.device_class_name),
        selectors: expressions(sub.selectors.as_deref()),
        count,
        tolerations: read_tolerations(symbols, sub.tolerations.as_deref()),
    }
}

fn read_allocation(symbols: &mut Symbols, allocation: &resource::AllocationResult) -> Allocation {
    let results = allocation
        .devices
        .iter()
        .flat_map(|devices| devices.results.iter().flatten());
    // Shares of a device, and access for administrators, do not keep it from others.
    let exclusive = results.filter(|result| result.admin_access != Some(true) && result.share_id.is_none());
    let devices = exclusive.map(|result| {
        let device = DeviceName {
            driver: symbols.intern(&result.driver),
            pool: symbols.intern(&result.pool),
            device: symbols.intern(&result.device),
        };
        (result.request.clone(), device)
    });
    Allocation {
        devices: devices.collect(),
        nodes: allocation
            .node_selector
            .as_ref()
            .map(|selector| terms(symbols, selector)),
        on: None,
    }
}
