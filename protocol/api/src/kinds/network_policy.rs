//! networking.k8s.io/v1 NetworkPolicy: its row, defaults, validation and columns.

use serde_json::{Value, json};

use super::checks::{Rule, check};
use super::container::port_reference;
use super::{Generation, Kind, apps, cells};
use crate::access::{Access, items_mut, object_mut, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["netpol"],
    generation: Generation::Spec,
    default: |object| {
        let spec = object_mut(object, "spec");
        if spec.items("policyTypes").is_empty() {
            spec["policyTypes"] = if spec.items("egress").is_empty() {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
        }
        for list in ["ingress", "egress"] {
            for rule in items_mut(spec, list) {
                for port in items_mut(rule, "ports") {
                    set_default_text(port, "protocol", "TCP");
                }
            }
        }
    },
    validate,
    columns: &[
        Column::NAME,
        Column::text("Pod-Selector", "The pods that the policy is about."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            apps::selector_text(object.at(&["spec", "podSelector"])).into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "networking.k8s.io",
        v1,
        networking,
        NetworkPolicy,
        "networkpolicies",
        "networkpolicy"
    )
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(spec, &path, &[("podSelector", Rule::Selector)], causes);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        let at = path.field(list);
        for (index, rule) in spec.items(list).iter().enumerate() {
            let at = at.index(index);
            let places = at.field("ports");
            for (index, entry) in rule.items("ports").iter().enumerate() {
                port(entry, &places.index(index), causes);
            }
            let places = at.field(peers);
            for (index, entry) in rule.items(peers).iter().enumerate() {
                peer(entry, &places.index(index), causes);
            }
        }
    }
    let at = path.field("policyTypes");
    let types = spec.items("policyTypes");
    if types.len() > 2 {
        let all = spec.at(&["policyTypes"]).clone();
        causes.invalid(at, all, "may not specify more than two policyTypes");
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Egress" | "Ingress") {
            causes.not_supported(at.index(index), kind, &["Egress", "Ingress"]);
        }
    }
}

fn port(port: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        port,
        path,
        &[("protocol", Rule::Known(&["SCTP", "TCP", "UDP"]))],
        causes,
    );
    let (first, last) = (port.at(&["port"]), port.int("endPort"));
    if !first.is_null() {
        port_reference(first, path.field("port"), causes);
    }
    let Some(last) = last else { return };
    let at = path.field("endPort");
    match first.as_i64() {
        None if first.is_null() => {
            causes.required(path.field("port"), "must be specified when `endPort` is specified");
        }
        None => causes.invalid(at, last, "may not be specified when `port` is non-numeric"),
        Some(first) => {
            if first > last {
                causes.invalid(at, last, "must be greater than or equal to `port`");
            }
            for problem in rules::port_number(last) {
                causes.invalid(at, last, problem);
            }
        }
    }
}

fn peer(peer: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        peer,
        path,
        &[("podSelector", Rule::Selector), ("namespaceSelector", Rule::Selector)],
        causes,
    );
    let selects = peer.has("podSelector") || peer.has("namespaceSelector");
    let block = peer.at(&["ipBlock"]);
    if block.is_null() {
        if !selects {
            causes.required(*path, "must specify a peer");
        }
        return;
    }
    if selects {
        causes.forbidden(*path, "may not specify both ipBlock and another peer");
    }
    let at = path.field("ipBlock");
    let whole = block.text("cidr");
    if whole.is_empty() {
        causes.required(at.field("cidr"), "");
        return;
    }
    let problems = rules::cidr(whole);
    let readable = problems.is_empty();
    for problem in problems {
        causes.invalid(at.field("cidr"), whole, problem);
    }
    let list = at.field("except");
    for (index, except) in block.items("except").iter().enumerate() {
        let text = except.as_str().unwrap_or_default();
        let problems = rules::cidr(text);
        if problems.is_empty() && readable && !is_strictly_within(text, whole) {
            causes.invalid(list.index(index), text, "must be a strict subset of `cidr`");
        }
        for problem in problems {
            causes.invalid(list.index(index), text, problem);
        }
    }
}

/// Whether a network lies within another and is smaller.
fn is_strictly_within(part: &str, whole: &str) -> bool {
    let read = |text: &str| -> Option<(u128, u32, u32)> {
        let (address, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok()?;
        Some(match address.parse().ok()? {
            std::net::IpAddr::V4(four) => (u128::from(u32::from(four)), bits, 32),
            std::net::IpAddr::V6(six) => (u128::from(six), bits, 128),
        })
    };
    let (Some((one, one_bits, one_width)), Some((other, bits, width))) = (read(part), read(whole)) else {
        return false;
    };
    let host_bits = width.saturating_sub(bits);
    let network = |address: u128| if host_bits >= 128 { 0 } else { address >> host_bits };
    one_width == width && one_bits > bits && network(one) == network(other)
}

#[cfg(test)]
mod tests {
    use super::is_strictly_within;

    #[test]
    fn exceptions_lie_within_and_are_smaller() {
        let cases = [
            ("10.0.1.0/24", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("11.0.0.0/24", "10.0.0.0/8", false),
            ("::1/128", "::/0", true),
            ("10.0.0.0/24", "::/0", false),
            ("0.0.0.0/1", "0.0.0.0/0", true),
        ];
        for (part, whole, expected) in cases {
            assert_eq!(is_strictly_within(part, whole), expected, "{part} in {whole}");
        }
    }
}
