//! What the kernel's table holds, read from nft's JSON list of it.
//!
//! Called by the nft worker when it adopts or checks the table. Pure.

use std::net::Ipv4Addr;

use crate::{
    ruleset::{HAIRPIN_IPS, NODE_PORTS, SERVICE_IPS, TABLE},
    service::{Programmed, Protocol},
};

/// Reads the changing part of the table from nft's JSON list of it. Unknown objects are skipped: they are not ours to judge.
pub(crate) fn read_listing(listing: &serde_json::Value) -> Programmed {
    let mut programmed = Programmed::default();
    let objects = listing
        .get("nftables")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten();
    for object in objects {
        if let Some(name) = object.pointer("/chain/name").and_then(serde_json::Value::as_str) {
            if ["svc-", "np-", "ep-"].iter().any(|start| name.starts_with(start)) {
                programmed.chains.insert(name.to_owned());
            }
        } else if let Some(set) = object.get("set").or_else(|| object.get("map")) {
            read_set(set, &mut programmed);
        }
    }
    programmed
}

/// Whether a list of tables contains ours.
pub(crate) fn has_table(tables: &serde_json::Value) -> bool {
    let objects = tables
        .get("nftables")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten();
    objects.filter_map(|object| object.get("table")).any(|table| {
        table.get("family").and_then(serde_json::Value::as_str) == Some("inet")
            && table.get("name").and_then(serde_json::Value::as_str) == Some(TABLE)
    })
}

/// The chains of other tables that drop forwarded packets by default, as `family table chain`. A verdict of our table does not
/// overrule another's.
pub(crate) fn foreign_drops(chains: &serde_json::Value) -> Vec<String> {
    let objects = chains
        .get("nftables")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten();
    objects
        .filter_map(|object| object.get("chain"))
        .filter_map(|chain| {
            let word = |key: &str| chain.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            let forwards = word("hook") == "forward" && ["ip", "inet"].contains(&word("family"));
            let drops = forwards && word("policy") == "drop" && word("table") != TABLE;
            drops.then(|| format!("{} {} {}", word("family"), word("table"), word("name")))
        })
        .collect()
}

fn read_set(set: &serde_json::Value, programmed: &mut Programmed) {
    let name = set.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
    let elements = set
        .get("elem")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten();
    if name.starts_with("aff-") {
        programmed.sets.insert(name.to_owned());
    }
    for element in elements {
        let target = || {
            element
                .pointer("/1/goto/target")
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned)
        };
        let part = |pointer: &str| element.pointer(pointer);
        let address = |value: Option<&serde_json::Value>| value?.as_str()?.parse::<Ipv4Addr>().ok();
        let protocol = |value: Option<&serde_json::Value>| Protocol::from_nft(value?.as_str()?);
        let port = |value: Option<&serde_json::Value>| u16::try_from(value?.as_u64()?).ok();
        match name {
            SERVICE_IPS => {
                let key = (
                    address(part("/0/concat/0")),
                    protocol(part("/0/concat/1")),
                    port(part("/0/concat/2")),
                );
                if let ((Some(ip), Some(protocol), Some(port)), Some(chain)) = (key, target()) {
                    programmed.service_ips.insert((ip, protocol, port), chain);
                }
            }
            NODE_PORTS => {
                let key = (protocol(part("/0/concat/0")), port(part("/0/concat/1")));
                if let ((Some(protocol), Some(port)), Some(chain)) = (key, target()) {
                    programmed.node_ports.insert((protocol, port), chain);
                }
            }
            HAIRPIN_IPS => programmed.hairpin_ips.extend(address(part("/concat/0"))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_listing_of_nft_is_read_back() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "actorium", "handle": 1}},
            {"map": {"family": "inet", "name": "service-ips", "table": "actorium", "type": ["ipv4_addr", "inet_proto", "inet_service"],
                "map": "verdict", "elem": [[{"concat": ["10.96.0.1", "tcp", 443]}, {"goto": {"target": "svc-00"}}], ["odd"]]}},
            {"map": {"name": "node-ports", "elem": [[{"concat": ["udp", 30053]}, {"goto": {"target": "np-00"}}]]}},
            {"set": {"name": "hairpin-ips", "elem": [{"concat": ["10.244.0.2", "10.244.0.2"]}]}},
            {"set": {"name": "aff-00", "elem": [{"elem": {"val": "10.0.0.1", "timeout": 3}}]}},
            {"chain": {"name": "svc-00"}}, {"chain": {"name": "np-00"}}, {"chain": {"name": "services"}},
            {"rule": {"chain": "svc-00", "expr": []}},
        ]});
        let programmed = read_listing(&listing);
        assert_eq!(
            programmed.service_ips,
            BTreeMap::from([((Ipv4Addr::new(10, 96, 0, 1), Protocol::Tcp, 443), "svc-00".to_owned())])
        );
        assert_eq!(
            programmed.node_ports,
            BTreeMap::from([((Protocol::Udp, 30053), "np-00".to_owned())])
        );
        assert_eq!(programmed.hairpin_ips, BTreeSet::from([Ipv4Addr::new(10, 244, 0, 2)]));
        assert_eq!(
            programmed.chains,
            BTreeSet::from(["svc-00".to_owned(), "np-00".to_owned()])
        );
        assert_eq!(programmed.sets, BTreeSet::from(["aff-00".to_owned()]));
    }

    #[test]
    fn foreign_chains_that_drop_forwarded_packets_are_named() {
        let chain = |family: &str, table: &str, hook: &str, policy: &str| serde_json::json!({"chain": {"family": family, "table": table, "name": "C", "hook": hook, "policy": policy}});
        let chains = serde_json::json!({"nftables": [
            chain("ip", "filter", "forward", "drop"),
            chain("inet", "firewalld", "forward", "accept"),
            chain("ip6", "filter", "forward", "drop"),
            chain("ip", "filter", "input", "drop"),
            chain("inet", "actorium", "forward", "drop"),
            {"chain": {"family": "ip", "table": "filter", "name": "plain"}},
        ]});
        assert_eq!(foreign_drops(&chains), ["ip filter C"]);
    }

    #[test]
    fn our_table_is_found_by_family_and_name() {
        let tables =
            |family: &str, name: &str| serde_json::json!({"nftables": [{"table": {"family": family, "name": name}}]});
        assert!(has_table(&tables("inet", "actorium")));
        assert!(!has_table(&tables("ip", "actorium")));
        assert!(!has_table(&tables("inet", "other")));
        assert!(!has_table(&serde_json::json!({})));
    }
}
