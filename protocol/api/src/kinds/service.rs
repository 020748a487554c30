//! core/v1 Service: its row, defaults, validation and columns. Which cluster address and which node ports it gets is
//! decided by whoever owns those pools, not here.

use std::collections::BTreeSet;

use protocol::UnixMillis;
use serde_json::{Value, json};

use super::container::{only_known, port_reference};
use super::{Kind, STORED, Subresource};
use crate::access::{Access, items_mut, object_mut, remove, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::table::Column;
use crate::time::age_since;
use crate::{meta, rules};

pub const KIND: Kind = Kind {
    kind: "Service",
    list_kind: "ServiceList",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Proxy],
    selectable_fields: &["spec.clusterIP", "spec.type"],
    definition: "io.k8s.api.core.v1.Service",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Service>();
    },
    name_rule: rules::dns_1035_label,
    default,
    prepare_create: |object| object["status"] = json!({"loadBalancer": {}}),
    prepare_update: keep_allocated,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Type", "How the service is exposed."),
        Column::text("Cluster-IP", "The address of the service inside the cluster."),
        Column::text("External-IP", "The addresses of the service outside the cluster."),
        Column::text("Port(s)", "The list of ports that are exposed by this service."),
        Column::AGE,
        Column::wide(
            "Selector",
            "Route service traffic to pods with label keys and values matching this selector.",
        ),
    ],
    cells,
    ..STORED
};

fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    set_default_text(spec, "sessionAffinity", "None");
    set_default_text(spec, "type", "ClusterIP");
    if spec.text("sessionAffinity") == "ClientIP"
        && !spec.at(&["sessionAffinityConfig", "clientIP"]).has("timeoutSeconds")
    {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    for port in items_mut(spec, "ports") {
        set_default_text(port, "protocol", "TCP");
        let target = port.at(&["targetPort"]);
        if target.is_null() || *target == json!(0) || *target == json!("") {
            port["targetPort"] = port.at(&["port"]).clone();
        }
    }
    let kind = spec.text("type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        set_default_text(spec, "internalTrafficPolicy", "Cluster");
        families(spec);
        let address = spec.text("clusterIP").to_owned();
        if !address.is_empty() && !spec.has("clusterIPs") {
            spec["clusterIPs"] = json!([address]);
        }
        if address.is_empty()
            && let Some(first) = spec.items("clusterIPs").first().cloned()
        {
            spec["clusterIP"] = first;
        }
    }
}

/// One address family, that of its address when it names one.
fn families(spec: &mut Value) {
    set_default_text(spec, "ipFamilyPolicy", "SingleStack");
    if !spec.has("ipFamilies") {
        let six = spec.text("clusterIP").contains(':');
        spec["ipFamilies"] = json!([if six { "IPv6" } else { "IPv4" }]);
    }
}

/// An update that leaves out what was allocated keeps it, and one that changes the type lets go of what the new type has
/// no use for, as long as the client left that as it was.
fn keep_allocated(old: &Value, new: &mut Value) {
    let (before, spec) = (old.at(&["spec"]), object_mut(new, "spec"));
    let (was, is) = (before.text("type").to_owned(), spec.text("type").to_owned());
    if is == "ExternalName" {
        if was != is && spec.at(&["clusterIP"]) == before.at(&["clusterIP"]) {
            for name in CLUSTER_ADDRESS_FIELDS {
                remove(spec, name);
            }
        }
        return;
    }
    if was != "ExternalName" && spec.text("clusterIP").is_empty() {
        for name in ["clusterIP", "clusterIPs", "ipFamilies"] {
            if before.has(name) {
                spec[name] = before.at(&[name]).clone();
            }
        }
    }
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let same_policy = spec.at(&["externalTrafficPolicy"]) == before.at(&["externalTrafficPolicy"]);
    for port in items_mut(spec, "ports") {
        let known = before.items("ports").iter().find(|candidate| {
            candidate.int("port") == port.int("port") && candidate.text("protocol") == port.text("protocol")
        });
        let number = known.and_then(|candidate| candidate.int("nodePort"));
        if has_node_ports(&is) {
            if let Some(number) = number {
                set_default(port, "nodePort", number);
            }
        } else if has_node_ports(&was) && port.int("nodePort") == number {
            remove(port, "nodePort");
        }
    }
    if has_node_ports(&was) && !has_node_ports(&is) && same_policy {
        remove(spec, "externalTrafficPolicy");
    }
    if was == "LoadBalancer" && is != was {
        remove(spec, "allocateLoadBalancerNodePorts");
    }
}

/// What only a service with an address of its own has.
const CLUSTER_ADDRESS_FIELDS: [&str; 5] = [
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "internalTrafficPolicy",
];

fn is_headless(spec: &Value) -> bool {
    spec.text("clusterIP") == "None"
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    only_known(
        spec,
        &path,
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        causes,
    );
    only_known(spec, &path, "sessionAffinity", &["ClientIP", "None"], causes);
    only_known(spec, &path, "externalTrafficPolicy", &["Cluster", "Local"], causes);
    only_known(spec, &path, "internalTrafficPolicy", &["Cluster", "Local"], causes);
    only_known(
        spec,
        &path,
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        causes,
    );
    meta::labels(spec.at(&["selector"]), path.field("selector"), causes);
    if spec.text("type") == "ExternalName" {
        external_name(spec, &path, causes);
    } else if spec.items("ports").is_empty() && !is_headless(spec) {
        causes.required(path.field("ports"), "");
    }
    let address = spec.text("clusterIP");
    if !matches!(address, "" | "None") && spec.text("type") != "ExternalName" {
        let list = path.field("clusterIPs");
        for problem in rules::ip(address) {
            causes.invalid(list.index(0), address, problem);
        }
    }
    if is_headless(spec) && matches!(spec.text("type"), "NodePort" | "LoadBalancer") {
        let list = path.field("clusterIPs");
        let text = format!("may not be set to 'None' for {} services", spec.text("type"));
        causes.invalid(list.index(0), address, text);
    }
    ports(spec, &path, causes);
    let externals = path.field("externalIPs");
    for (index, address) in spec.items("externalIPs").iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        for problem in rules::ip(text) {
            causes.invalid(externals.index(index), text, problem);
        }
    }
}

fn external_name(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let name = spec.text("externalName");
    let at = path.field("externalName");
    if name.is_empty() {
        causes.required(at, "");
    } else {
        for problem in rules::dns_subdomain(name.strip_suffix('.').unwrap_or(name)) {
            causes.invalid(at, name, problem);
        }
    }
    if !spec.text("clusterIP").is_empty() {
        let list = path.field("clusterIPs");
        let text = "may not be set for ExternalName services";
        causes.forbidden(list.index(0), text);
    }
}

fn ports(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("ports");
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let count = spec.items("ports").len();
    for (index, port) in spec.items("ports").iter().enumerate() {
        let at = list.index(index);
        let (name, protocol, number) = (port.text("name"), port.text("protocol"), port.int("port").unwrap_or(0));
        if name.is_empty() && count > 1 {
            causes.required(at.field("name"), "");
        } else if !name.is_empty() {
            for problem in rules::dns_label(name) {
                causes.invalid(at.field("name"), name, problem);
            }
            if !names.insert(name) {
                causes.duplicate(at.field("name"), name);
            }
        }
        for problem in rules::port_number(number) {
            causes.invalid(at.field("port"), number, problem);
        }
        only_known(port, &at, "protocol", &["SCTP", "TCP", "UDP"], causes);
        if port.has("targetPort") {
            port_reference(port.at(&["targetPort"]), at.field("targetPort"), causes);
        }
        if !numbers.insert((number, protocol)) {
            causes.duplicate(at, json!({"port": number, "protocol": protocol}));
        }
        if let Some(node_port) = port.int("nodePort").filter(|number| *number != 0) {
            if spec.text("type") == "ClusterIP" {
                causes.forbidden(at.field("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            for problem in rules::port_number(node_port) {
                causes.invalid(at.field("nodePort"), node_port, problem);
            }
            if !node_ports.insert((node_port, protocol)) {
                causes.duplicate(at.field("nodePort"), node_port);
            }
        }
    }
}

fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let (before, after) = (old.at(&["spec"]), new.at(&["spec"]));
    let external = |spec: &Value| spec.text("type") == "ExternalName";
    let address = before.text("clusterIP");
    if !external(before) && !external(after) && !address.is_empty() && after.text("clusterIP") != address {
        let root = Path::Root;
        let path = root.field("spec");
        let list = path.field("clusterIPs");
        let text = "may not change once set";
        causes.invalid(list.index(0), after.at(&["clusterIPs"]).clone(), text);
    }
}

fn external_addresses(object: &Value) -> String {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status", "loadBalancer"]));
    let listed = spec
        .items("externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned);
    match spec.text("type") {
        "ExternalName" => spec.text("externalName").to_owned(),
        "LoadBalancer" => {
            let given = status.items("ingress").iter().map(|ingress| match ingress.text("ip") {
                "" => ingress.text("hostname").to_owned(),
                ip => ip.to_owned(),
            });
            let all: Vec<String> = given.chain(listed).collect();
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        _ => {
            let all: Vec<String> = listed.collect();
            if all.is_empty() {
                "<none>".to_owned()
            } else {
                all.join(",")
            }
        }
    }
}

fn ports_text(spec: &Value) -> String {
    let ports: Vec<String> = spec
        .items("ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol"));
            match port.int("nodePort").filter(|number| *number > 0) {
                Some(node_port) => format!("{number}:{node_port}/{protocol}"),
                None => format!("{number}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    }
}

fn selector_text(spec: &Value) -> String {
    let pairs: Vec<String> = spec
        .members("selector")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (metadata, spec) = (object.at(&["metadata"]), object.at(&["spec"]));
    let address = match spec.text("clusterIP") {
        "" => "<none>",
        address => address,
    };
    vec![
        metadata.text("name").into(),
        spec.text("type").into(),
        address.into(),
        external_addresses(object).into(),
        ports_text(spec).into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
        selector_text(spec).into(),
    ]
}
