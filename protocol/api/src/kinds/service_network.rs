//! networking.k8s.io/v1 IPAddress and ServiceCIDR, of which Services get their addresses: rows, validation and columns.

use std::net::IpAddr;

use serde_json::Value;

use super::checks::{self, Rule, check};
use super::{Kind, Subresource, cells};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules::{self, Problems};
use crate::table::Column;

pub const IP_ADDRESS: Kind = Kind {
    short_names: &["ip"],
    namespaced: false,
    name_rule: canonical_ip,
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let reference = object.at(&["spec", "parentRef"]);
        if reference.is_null() {
            causes.required(path.field("parentRef"), "");
            return;
        }
        check(
            reference,
            &path.field("parentRef"),
            &[
                ("group", Rule::Form(rules::dns_subdomain)),
                ("resource", Rule::RequiredForm(rules::path_segment)),
                ("name", Rule::RequiredForm(rules::path_segment)),
                ("namespace", Rule::Form(rules::path_segment)),
            ],
            causes,
        );
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec.parentRef"], causes),
    columns: &[
        Column::NAME,
        Column::text("ParentRef", "The object that has the address."),
    ],
    cells: |object, _| {
        let parent = object.at(&["spec", "parentRef"]);
        let resource = match parent.text("group") {
            "" => parent.text("resource").to_owned(),
            group => format!("{}.{group}", parent.text("resource")),
        };
        let steps = [resource.as_str(), parent.text("namespace"), parent.text("name")];
        let shown: Vec<&str> = steps.into_iter().filter(|step| !step.is_empty()).collect();
        vec![cells::name(object), shown.join("/").into()]
    },
    ..row!(
        "networking.k8s.io",
        v1,
        networking,
        IPAddress,
        "ipaddresses",
        "ipaddress"
    )
};

pub const SERVICE_CIDR: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    validate: validate_networks,
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec.cidrs"], causes),
    columns: &[
        Column::NAME,
        Column::text("CIDRs", "The networks of which addresses are given."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            cells::list_or(object.at(&["spec"]).items("cidrs"), ""),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "networking.k8s.io",
        v1,
        networking,
        ServiceCIDR,
        "servicecidrs",
        "servicecidr"
    )
};

/// An address in its one canonical form, as it names an IPAddress.
fn canonical_ip(text: &str) -> Problems {
    match text.parse::<IpAddr>() {
        Ok(address) if address.to_string() == text => Vec::new(),
        Ok(address) => vec![format!(
            "not a valid ip in canonical format, must be {:?}",
            address.to_string()
        )],
        Err(_) => rules::ip(text),
    }
}

fn validate_networks(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let at = path.field("cidrs");
    let spec = object.at(&["spec"]);
    let networks: Vec<&str> = spec.items("cidrs").iter().filter_map(Value::as_str).collect();
    match networks.as_slice() {
        [] => return causes.required(at, "at least one CIDR required"),
        [one, other] if one.contains(':') == other.contains(':') => {
            let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            return causes.invalid(at, spec.clone(), text);
        }
        [_] | [_, _] => {}
        _ => return causes.invalid(at, spec.clone(), "may only hold up to 2 values"),
    }
    for (index, network) in networks.iter().enumerate() {
        for problem in rules::cidr(network) {
            causes.invalid(at.index(index), *network, problem);
        }
    }
}
