//! The chains and sets that one service needs, given its rule.
//!
//! Called by [`crate::service`]. Pure. A chain's name contains a digest of all that its rules depend on: equal names mean equal
//! rules. So the names alone tell whether the kernel has what is wanted, also after a restart, and a chain is never edited: a
//! change adds a chain, turns one map element to it and deletes the old chain, in one transaction.
//!
//! ```text
//! svc-D       balances over the endpoints by dnat with a random index
//! svc-D-pN    the endpoints that listen on port N, where a service's endpoints have different ports
//! np-D        marks for masquerading, then goes to svc-D
//! ep-D aff-D  one endpoint of a service with session affinity, and the clients that it serves
//! ```

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use nftables::stmt::{JumpTarget, Operator, SetOp, Statement, VerdictMap};
use sha2::{Digest, Sha256};

use crate::{
    ruleset::{dnat, goto, indexed, mark_for_masquerade, match_protocol, matches, payload, random_below, text},
    service::{Protocol, ServiceRule},
};

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceChain {
    pub(crate) name: String,
    pub(crate) rules: Vec<Vec<Statement<'static>>>,
}

/// A set of clients that an endpoint serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientSet {
    pub(crate) name: String,
    pub(crate) timeout_s: u32,
}

/// All that one service needs besides its map elements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServiceChains {
    /// Where the service's address leads; `None` if the service has no endpoints and is to be refused.
    pub(crate) service_entry: Option<String>,
    /// Where the service's node port leads.
    pub(crate) node_port_entry: Option<String>,
    /// In the order in which they must be added: targets before those who go to them.
    pub(crate) chains: Vec<ServiceChain>,
    pub(crate) sets: Vec<ClientSet>,
}

/// Works out the chains of a service.
pub(crate) fn compile(service: &ServiceRule) -> ServiceChains {
    let mut endpoints = service.endpoints.clone();
    // The order in which endpoints are reported must not matter, nor a repetition.
    endpoints.sort_unstable();
    endpoints.dedup();
    if endpoints.is_empty() {
        return ServiceChains::default();
    }
    let mut compiled = ServiceChains::default();
    let name = format!("svc-{}", digest_of_service(service, &endpoints));
    let rules = match service.session_affinity_s {
        Some(timeout_s) => with_affinity(service, &endpoints, timeout_s, &mut compiled),
        None => balanced(service.protocol, &name, &endpoints, &mut compiled),
    };
    compiled.chains.push(ServiceChain {
        name: name.clone(),
        rules,
    });
    if service.node_port.is_some() {
        let entry = name.replacen("svc-", "np-", 1);
        let rules = vec![vec![
            mark_for_masquerade(),
            Statement::Goto(JumpTarget {
                target: name.clone().into(),
            }),
        ]];
        compiled.chains.push(ServiceChain {
            name: entry.clone(),
            rules,
        });
        compiled.node_port_entry = Some(entry);
    }
    compiled.service_entry = Some(name);
    compiled
}

fn balanced(
    protocol: Protocol,
    name: &str,
    endpoints: &[SocketAddrV4],
    compiled: &mut ServiceChains,
) -> Vec<Vec<Statement<'static>>> {
    let mut by_port: BTreeMap<u16, Vec<Ipv4Addr>> = BTreeMap::new();
    for endpoint in endpoints {
        by_port.entry(endpoint.port()).or_default().push(*endpoint.ip());
    }
    if let Some((port, addresses)) = by_port.iter().next()
        && by_port.len() == 1
    {
        return vec![balance_over_addresses(protocol, addresses, *port)];
    }
    // A dnat statement draws the address from a map but has one port; drawing both at once is not expressible in the JSON
    // that all versions of nft understand. So each port has its chain, drawn in proportion to its endpoints.
    let part = |port: u16| format!("{name}-p{port}");
    for (port, addresses) in &by_port {
        let rules = vec![balance_over_addresses(protocol, addresses, *port)];
        compiled.chains.push(ServiceChain {
            name: part(*port),
            rules,
        });
    }
    let targets = endpoints.iter().map(|endpoint| goto(part(endpoint.port())));
    vec![vec![draw(endpoints.len(), targets)]]
}

fn balance_over_addresses(protocol: Protocol, addresses: &[Ipv4Addr], port: u16) -> Vec<Statement<'static>> {
    let target = match addresses {
        [only] => text(only.to_string()),
        several => {
            nftables::expr::Expression::Named(nftables::expr::NamedExpression::Map(Box::new(nftables::expr::Map {
                key: random_below(several.len() as u32),
                data: indexed(several.iter().map(|address| text(address.to_string()))),
            })))
        }
    };
    vec![match_protocol(protocol), dnat(target, port)]
}

fn draw(count: usize, targets: impl Iterator<Item = nftables::expr::Expression<'static>>) -> Statement<'static> {
    Statement::VerdictMap(VerdictMap {
        key: random_below(count as u32),
        data: indexed(targets),
    })
}

fn with_affinity(
    service: &ServiceRule,
    endpoints: &[SocketAddrV4],
    timeout_s: u32,
    compiled: &mut ServiceChains,
) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::with_capacity(endpoints.len() + 1);
    let mut entries = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        // The digest leaves out the other endpoints: clients stay with their endpoint when others come and go.
        let digest = digest_of_endpoint(service, *endpoint, timeout_s);
        let (chain, set) = (format!("ep-{digest}"), format!("aff-{digest}"));
        let client = || payload("ip", "saddr");
        let reference = format!("@{set}");
        let remember = Statement::Set(nftables::stmt::Set {
            op: SetOp::Update,
            elem: client(),
            set: reference.clone().into(),
        });
        let mut forward = vec![remember];
        forward.extend(balance_over_addresses(
            service.protocol,
            &[*endpoint.ip()],
            endpoint.port(),
        ));
        compiled.chains.push(ServiceChain {
            name: chain.clone(),
            rules: vec![forward],
        });
        compiled.sets.push(ClientSet { name: set, timeout_s });
        rules.push(vec![
            matches(client(), Operator::EQ, text(reference)),
            Statement::Goto(JumpTarget {
                target: chain.clone().into(),
            }),
        ]);
        entries.push(goto(chain));
    }
    rules.push(vec![draw(endpoints.len(), entries.into_iter())]);
    rules
}

fn digest_of_service(service: &ServiceRule, endpoints: &[SocketAddrV4]) -> String {
    let mut hash = started_hash(service);
    hash.update(service.session_affinity_s.unwrap_or(0).to_be_bytes());
    for endpoint in endpoints {
        feed_endpoint(&mut hash, *endpoint);
    }
    finished(hash)
}

fn digest_of_endpoint(service: &ServiceRule, endpoint: SocketAddrV4, timeout_s: u32) -> String {
    let mut hash = started_hash(service);
    hash.update(timeout_s.to_be_bytes());
    feed_endpoint(&mut hash, endpoint);
    finished(hash)
}

/// Changes when the rules that this file writes change their meaning, so that a newer program replaces an older one's chains.
const RULES_VERSION: u8 = 1;

fn started_hash(service: &ServiceRule) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update([RULES_VERSION]);
    hash.update((service.name.len() as u64).to_be_bytes());
    hash.update(service.name.as_bytes());
    hash.update(service.protocol.nft_name().as_bytes());
    hash
}

fn feed_endpoint(hash: &mut Sha256, endpoint: SocketAddrV4) {
    hash.update(endpoint.ip().octets());
    hash.update(endpoint.port().to_be_bytes());
}

fn finished(hash: Sha256) -> String {
    // 64 bits: among a million chains, two meet with a probability of about 3 in 10^8.
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(endpoints: &[(u8, u16)]) -> ServiceRule {
        ServiceRule {
            name: "default/web:http".into(),
            cluster_ip: Ipv4Addr::new(10, 96, 0, 5),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: endpoints
                .iter()
                .map(|(d, port)| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, *d), *port))
                .collect(),
            session_affinity_s: None,
        }
    }

    #[test]
    fn a_service_without_endpoints_has_no_chain() {
        assert_eq!(compile(&service(&[])), ServiceChains::default());
    }

    #[test]
    fn the_name_follows_from_the_endpoints_and_not_from_their_order() {
        let name = |endpoints: &[(u8, u16)]| compile(&service(endpoints)).service_entry.unwrap();
        assert_eq!(name(&[(2, 80), (3, 80)]), name(&[(3, 80), (2, 80), (2, 80)]));
        assert_ne!(name(&[(2, 80), (3, 80)]), name(&[(2, 80)]));
        assert_ne!(name(&[(2, 80)]), name(&[(2, 81)]));
        let mut other = service(&[(2, 80)]);
        other.name = "default/other:http".into();
        assert_ne!(compile(&other).service_entry.unwrap(), name(&[(2, 80)]));
    }

    #[test]
    fn endpoints_of_one_port_need_one_chain_and_of_several_ports_one_each() {
        assert_eq!(compile(&service(&[(2, 80), (3, 80), (4, 80)])).chains.len(), 1);
        let mixed = compile(&service(&[(2, 80), (3, 80), (4, 8080)]));
        assert_eq!(mixed.chains.len(), 3);
        let entry = mixed.service_entry.unwrap();
        assert_eq!(mixed.chains[2].name, entry);
        let balance = serde_json::to_string(&mixed.chains[2].rules).unwrap();
        assert_eq!(balance.matches(&format!("{entry}-p80\"")).count(), 2);
        assert_eq!(balance.matches(&format!("{entry}-p8080\"")).count(), 1);
    }

    #[test]
    fn a_node_port_is_marked_before_it_is_balanced() {
        let mut rule = service(&[(2, 80)]);
        rule.node_port = Some(30080);
        let compiled = compile(&rule);
        let entry = compiled.node_port_entry.unwrap();
        assert_eq!(compiled.chains.last().unwrap().name, entry);
        let text = serde_json::to_string(&compiled.chains.last().unwrap().rules).unwrap();
        assert!(
            text.contains("16384") && text.contains(&compiled.service_entry.unwrap()),
            "{text}"
        );
    }

    #[test]
    fn affinity_survives_a_change_of_other_endpoints() {
        let sticky = |endpoints: &[(u8, u16)]| {
            let mut rule = service(endpoints);
            rule.session_affinity_s = Some(60);
            compile(&rule)
        };
        let (before, after) = (sticky(&[(2, 80), (3, 80)]), sticky(&[(3, 80), (4, 80)]));
        assert_eq!(before.sets.len(), 2);
        assert_eq!(before.sets.iter().filter(|set| after.sets.contains(set)).count(), 1);
        assert_ne!(before.service_entry, after.service_entry);
    }
}
