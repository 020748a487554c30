//! networking.k8s.io/v1 Ingress and IngressClass: rows, defaults, validation and columns.

use std::collections::BTreeSet;

use protocol::UnixMillis;
use serde_json::Value;

use super::checks::{self, Rule, check, domain_prefixed_path};
use super::{Generation, Kind, Subresource, cells};
use crate::access::{Access, existing_mut, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// Hosts that a table shows before it counts the rest.
const HOSTS_SHOWN_MAX: usize = 3;
/// The class in an annotation, from before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub const INGRESS: Kind = Kind {
    short_names: &["ing"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    prepare_create: |object| object["status"] = serde_json::json!({"loadBalancer": {}}),
    validate_create: |object, causes| {
        let annotation = object.at(&["metadata", "annotations"]).text(CLASS_ANNOTATION);
        if !annotation.is_empty() && object.at(&["spec"]).has("ingressClassName") {
            let root = Path::Root;
            let annotations = root.field("annotations");
            let text = "can not be set when the class field is also set";
            causes.invalid(annotations.field(CLASS_ANNOTATION), annotation, text);
        }
    },
    validate,
    columns: &[
        Column::NAME,
        Column::text("Class", "The class whose controller serves this."),
        Column::text("Hosts", "Hosts that rules are for."),
        Column::text("Address", "The address of the load balancer."),
        Column::text("Ports", "Ports that are served."),
        Column::AGE,
    ],
    cells: print,
    ..row!("networking.k8s.io", v1, networking, Ingress, "ingresses", "ingress")
};

pub const CLASS: Kind = Kind {
    namespaced: false,
    generation: Generation::Spec,
    default: |object| {
        if let Some(spec) = existing_mut(object, "spec")
            && let Some(parameters) = existing_mut(spec, "parameters")
        {
            set_default_text(parameters, "scope", "Cluster");
        }
    },
    validate: validate_class,
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec.controller"], causes),
    columns: &[
        Column::NAME,
        Column::text("Controller", "The controller that serves ingresses of this class."),
        Column::text("Parameters", "An object with further configuration of the controller."),
        Column::AGE,
    ],
    cells: |object, now| {
        let parameters = object.at(&["spec", "parameters"]);
        let (kind, name) = (parameters.text("kind"), parameters.text("name"));
        let shown = match parameters.text("apiGroup") {
            _ if parameters.is_null() => "<none>".to_owned(),
            "" => format!("{kind}/{name}"),
            group => format!("{kind}.{group}/{name}"),
        };
        vec![
            cells::name(object),
            cells::text(object, &["spec", "controller"]),
            shown.into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "networking.k8s.io",
        v1,
        networking,
        IngressClass,
        "ingressclasses",
        "ingressclass"
    )
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    if spec.items("rules").is_empty() && !spec.has("defaultBackend") {
        let rules = spec.at(&["rules"]).clone();
        causes.invalid(path, rules, "either `defaultBackend` or `rules` must be specified");
    }
    if spec.has("defaultBackend") {
        backend(spec.at(&["defaultBackend"]), &path.field("defaultBackend"), causes);
    }
    let list = path.field("rules");
    for (index, rule) in spec.items("rules").iter().enumerate() {
        let at = list.index(index);
        host(rule.text("host"), at.field("host"), causes);
        if !rule.has("http") {
            continue;
        }
        let http = at.field("http");
        let paths = http.field("paths");
        if rule.at(&["http"]).items("paths").is_empty() {
            causes.required(paths, "");
        }
        for (index, entry) in rule.at(&["http"]).items("paths").iter().enumerate() {
            let at = paths.index(index);
            http_path(entry, &at, causes);
            backend(entry.at(&["backend"]), &at.field("backend"), causes);
        }
    }
    let list = path.field("tls");
    for (index, tls) in spec.items("tls").iter().enumerate() {
        let at = list.index(index);
        let hosts = at.field("hosts");
        for (index, name) in tls.items("hosts").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            for problem in host_name(name) {
                causes.invalid(hosts.index(index), name, problem);
            }
        }
        check(tls, &at, &[("secretName", Rule::Form(rules::dns_subdomain))], causes);
    }
    check(
        spec,
        &path,
        &[("ingressClassName", Rule::Form(rules::dns_subdomain))],
        causes,
    );
}

fn host(name: &str, path: Path<'_>, causes: &mut Causes) {
    if name.is_empty() {
        return;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        causes.invalid(path, name, "must be a DNS name, not an IP address");
        return;
    }
    for problem in host_name(name) {
        causes.invalid(path, name, problem);
    }
}

fn host_name(name: &str) -> rules::Problems {
    if name.contains('*') {
        rules::wildcard_dns_subdomain(name)
    } else {
        rules::dns_subdomain(name)
    }
}

/// Parts of a path by which a proxy and a backend could disagree about where it leads.
const INVALID_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const INVALID_ENDS: [&str; 2] = ["/..", "/."];

fn http_path(entry: &Value, path: &Path<'_>, causes: &mut Causes) {
    let (text, at) = (entry.text("path"), path.field("path"));
    let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
    match entry.text("pathType") {
        "" => causes.required(path.field("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                causes.invalid(at, text, "must be an absolute path");
            }
            for part in INVALID_SEQUENCES.into_iter().filter(|part| text.contains(part)) {
                causes.invalid(at, text, format!("must not contain '{part}'"));
            }
            for end in INVALID_ENDS.into_iter().filter(|end| text.ends_with(end)) {
                causes.invalid(at, text, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                causes.invalid(at, text, "must be an absolute path");
            }
        }
        other => causes.not_supported(path.field("pathType"), other, &kinds),
    }
}

fn backend(backend: &Value, path: &Path<'_>, causes: &mut Causes) {
    let service = backend.at(&["service"]);
    match (backend.has("service"), backend.has("resource")) {
        (true, true) => causes.invalid(*path, "", "cannot set both resource and service backends"),
        (false, false) => causes.invalid(*path, "", "resource or service backend is required"),
        (false, true) => check(
            backend.at(&["resource"]),
            &path.field("resource"),
            &[("kind", Rule::Required), ("name", Rule::Required)],
            causes,
        ),
        (true, false) => {
            let at = path.field("service");
            check(
                service,
                &at,
                &[("name", Rule::RequiredForm(rules::dns_1035_label))],
                causes,
            );
            let (port, place) = (service.at(&["port"]), at.field("port"));
            let number = port.int("number").unwrap_or(0);
            match (port.text("name"), number) {
                ("", 0) => causes.required(*path, "port name or number is required"),
                ("", number) => {
                    for problem in rules::port_number(number) {
                        causes.invalid(place.field("number"), number, problem);
                    }
                }
                (name, 0) => {
                    for problem in rules::port_name(name) {
                        causes.invalid(place.field("name"), name, problem);
                    }
                }
                _ => causes.invalid(*path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn validate_class(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let controller = spec.text("controller");
    if controller.len() > 250 {
        causes.too_long(path.field("controller"), 250);
    }
    check(
        spec,
        &path,
        &[("controller", Rule::RequiredForm(domain_prefixed_path))],
        causes,
    );
    let parameters = spec.at(&["parameters"]);
    if parameters.is_null() {
        return;
    }
    let at = path.field("parameters");
    check(
        parameters,
        &at,
        &[
            ("kind", Rule::RequiredForm(rules::path_segment)),
            ("name", Rule::RequiredForm(rules::path_segment)),
            ("apiGroup", Rule::Form(rules::dns_subdomain)),
            ("scope", Rule::RequiredKnown(&["Cluster", "Namespace"])),
            ("namespace", Rule::Form(rules::dns_label)),
        ],
        causes,
    );
    match (parameters.text("scope"), parameters.text("namespace")) {
        ("Namespace", "") => {
            causes.required(at.field("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        ("Cluster", namespace) if !namespace.is_empty() => {
            causes.forbidden(at.field("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        _ => {}
    }
}

fn hosts(spec: &Value) -> String {
    let mut known = BTreeSet::new();
    let names: Vec<&str> = spec
        .items("rules")
        .iter()
        .map(|rule| rule.text("host"))
        .filter(|name| !name.is_empty() && known.insert(*name))
        .collect();
    match names.len() {
        0 => "*".to_owned(),
        count if count <= HOSTS_SHOWN_MAX => names.join(","),
        count => format!(
            "{} + {} more...",
            names[..HOSTS_SHOWN_MAX].join(","),
            count - HOSTS_SHOWN_MAX
        ),
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status", "loadBalancer"]));
    let addresses: Vec<&str> = status
        .items("ingress")
        .iter()
        .map(|ingress| match ingress.text("ip") {
            "" => ingress.text("hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    let ports = if spec.items("tls").is_empty() { "80" } else { "80, 443" };
    vec![
        cells::name(object),
        cells::text_or(object, &["spec", "ingressClassName"], "<none>"),
        hosts(spec).into(),
        addresses.join(",").into(),
        ports.into(),
        cells::created_ago(object, now),
    ]
}
