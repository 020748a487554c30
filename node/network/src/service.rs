//! Services: what is wanted, what the kernel has, and the transaction that leads from one to the other.
//!
//! [`ServiceTable`] is owned by the nft worker. It remembers what each service contributes and what the kernel holds;
//! [`ServiceTable::plan`] is pure, and [`ServiceTable::commit`] takes over a plan that nft has accepted. A plan touches only
//! what differs, whatever the number of other services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use nftables::{batch::Batch, expr::Expression, schema::NfListObject};
use serde::{Deserialize, Serialize};

use crate::{
    address::Ipv4Cidr,
    ruleset::{self, HAIRPIN_IPS, NODE_PORTS, SERVICE_IPS, concat, goto, number, text},
    service_chain::{self, ClientSet, ServiceChain, ServiceChains},
};

/// A transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's name in nftables and in the labels of SRV records.
    pub(crate) fn nft_name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    pub(crate) fn from_nft(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| protocol.nft_name() == name)
    }
}

/// One port of one service, as it is to be programmed. Headless services have no rule: they exist in DNS only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRule {
    /// `namespace/name:port`; names the rule in [`ServiceChange`].
    pub name: String,
    /// The service's own address, inside the node's `service_cidr`.
    pub cluster_ip: Ipv4Addr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The service's port.
    pub port: u16,
    /// The port at which each node's own addresses offer the service.
    pub node_port: Option<u16>,
    /// Where the service's connections go, evenly. Without endpoints connections are refused.
    pub endpoints: Vec<SocketAddrV4>,
    /// `sessionAffinity: ClientIP`: for how many seconds after its last connection a client is sent to the same endpoint.
    pub session_affinity_s: Option<u32>,
}

/// A change of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    /// The service is to be as the rule says.
    Set(ServiceRule),
    /// The service of this name is to vanish.
    Remove(String),
}

impl ServiceChange {
    fn name(&self) -> &str {
        match self {
            Self::Set(rule) => &rule.name,
            Self::Remove(name) => name,
        }
    }
}

/// A key of the map of services.
pub(crate) type ServiceKey = (Ipv4Addr, Protocol, u16);
/// A key of the map of node ports.
pub(crate) type NodePortKey = (Protocol, u16);

/// What the kernel's table holds besides its fixed part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Programmed {
    pub(crate) service_ips: BTreeMap<ServiceKey, String>,
    pub(crate) node_ports: BTreeMap<NodePortKey, String>,
    pub(crate) hairpin_ips: BTreeSet<Ipv4Addr>,
    pub(crate) chains: BTreeSet<String>,
    pub(crate) sets: BTreeSet<String>,
}

/// Flows that clients have opened to a service's port and that lead to an endpoint which is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StaleFlow {
    /// The port that the clients know.
    pub(crate) port: u16,
    /// Where the kernel sends them.
    pub(crate) endpoint: SocketAddrV4,
}

/// What one service contributes to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contribution {
    service_key: ServiceKey,
    node_port_key: Option<NodePortKey>,
    chains: ServiceChains,
    local_endpoints: BTreeSet<Ipv4Addr>,
    /// Of a UDP service: its flows must be forgotten by the kernel when their endpoint goes.
    udp_endpoints: BTreeSet<SocketAddrV4>,
}

/// The services of a node.
#[derive(Debug)]
pub(crate) struct ServiceTable {
    pod_cidr: Ipv4Cidr,
    programmed: Programmed,
    contributions: BTreeMap<String, Contribution>,
    /// How many services have this local pod as an endpoint.
    hairpin_users: BTreeMap<Ipv4Addr, usize>,
}

/// How far a plan looks.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// At all known services, not only at those that change.
    all_services: bool,
    /// At what the kernel holds and no known service explains, to remove it.
    purge: bool,
}

/// A change of a map or set element: what is there, and what shall be.
type Turn<K> = BTreeMap<K, (Option<String>, Option<String>)>;

/// A transaction, and the state after it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    contributions: BTreeMap<String, Option<Contribution>>,
    service_ips: Turn<ServiceKey>,
    node_ports: Turn<NodePortKey>,
    hairpin_users: BTreeMap<Ipv4Addr, usize>,
    hairpin_added: BTreeSet<Ipv4Addr>,
    hairpin_removed: BTreeSet<Ipv4Addr>,
    chains_added: Vec<ServiceChain>,
    chains_removed: Vec<String>,
    sets_added: Vec<ClientSet>,
    sets_removed: Vec<String>,
}

impl ServiceTable {
    /// Starts from what the kernel holds; no service is known yet.
    pub(crate) fn adopt(pod_cidr: Ipv4Cidr, programmed: Programmed) -> Self {
        Self {
            pod_cidr,
            programmed,
            contributions: BTreeMap::new(),
            hairpin_users: BTreeMap::new(),
        }
    }

    /// The plan for some changes. Of several changes of one service the last one counts. What the kernel holds and no known
    /// service explains is left alone, since its service may only not have been told yet.
    pub(crate) fn plan(&self, changes: &[ServiceChange]) -> Plan {
        self.plan_changes(
            changes,
            Scope {
                all_services: false,
                purge: false,
            },
        )
    }

    /// The plan that gives all known services what they need, after the kernel's table was found different.
    pub(crate) fn plan_repair(&self) -> Plan {
        self.plan_changes(
            &[],
            Scope {
                all_services: true,
                purge: false,
            },
        )
    }

    /// The plan that makes `rules` all there is: whatever else the kernel holds goes.
    pub(crate) fn plan_all(&self, rules: &[ServiceRule]) -> Plan {
        let named: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        let removed = self.contributions.keys().filter(|name| !named.contains(name.as_str()));
        let changes: Vec<ServiceChange> = removed
            .map(|name| ServiceChange::Remove(name.clone()))
            .chain(rules.iter().map(|rule| ServiceChange::Set(rule.clone())))
            .collect();
        self.plan_changes(
            &changes,
            Scope {
                all_services: true,
                purge: true,
            },
        )
    }

    fn plan_changes(&self, changes: &[ServiceChange], scope: Scope) -> Plan {
        let mut plan = Plan::default();
        for change in changes {
            let after = match change {
                ServiceChange::Set(rule) => Some(self.contribution(rule)),
                ServiceChange::Remove(_) => None,
            };
            plan.contributions.insert(change.name().to_owned(), after);
        }
        plan.contributions
            .retain(|name, after| self.contributions.get(name) != after.as_ref());
        self.plan_elements(&mut plan, scope);
        self.plan_hairpins(&mut plan, scope);
        self.plan_chains(&mut plan, scope);
        plan
    }

    fn contribution(&self, rule: &ServiceRule) -> Contribution {
        Contribution {
            service_key: (rule.cluster_ip, rule.protocol, rule.port),
            node_port_key: rule.node_port.map(|port| (rule.protocol, port)),
            chains: service_chain::compile(rule),
            local_endpoints: rule
                .endpoints
                .iter()
                .map(|endpoint| *endpoint.ip())
                .filter(|ip| self.pod_cidr.contains(*ip))
                .collect(),
            udp_endpoints: rule
                .endpoints
                .iter()
                .copied()
                .filter(|_| rule.protocol == Protocol::Udp)
                .collect(),
        }
    }

    /// Contributions that will be in force after the plan, of the services that it changes (or of all).
    fn after<'a>(&'a self, plan: &'a Plan, scope: Scope) -> impl Iterator<Item = &'a Contribution> {
        let unchanged = self
            .contributions
            .iter()
            .filter(move |(name, _)| scope.all_services && !plan.contributions.contains_key(*name));
        plan.contributions
            .values()
            .flatten()
            .chain(unchanged.map(|(_, contribution)| contribution))
    }

    fn before<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Contribution> {
        plan.contributions
            .keys()
            .filter_map(|name| self.contributions.get(name))
    }

    fn plan_elements(&self, plan: &mut Plan, scope: Scope) {
        let mut service_ips: BTreeMap<ServiceKey, Option<String>> = BTreeMap::new();
        let mut node_ports: BTreeMap<NodePortKey, Option<String>> = BTreeMap::new();
        for old in self.before(plan) {
            // An address that another service has taken over meanwhile is that service's: only what still leads to the old
            // service's own chain is withdrawn.
            if self.programmed.service_ips.get(&old.service_key) == old.chains.service_entry.as_ref() {
                service_ips.insert(old.service_key, None);
            }
            if let Some(key) = old.node_port_key
                && self.programmed.node_ports.get(&key) == old.chains.node_port_entry.as_ref()
            {
                node_ports.insert(key, None);
            }
        }
        if scope.purge {
            service_ips.extend(self.programmed.service_ips.keys().map(|key| (*key, None)));
            node_ports.extend(self.programmed.node_ports.keys().map(|key| (*key, None)));
        }
        for new in self.after(plan, scope) {
            service_ips.insert(new.service_key, new.chains.service_entry.clone());
            if let Some(key) = new.node_port_key {
                node_ports.insert(key, new.chains.node_port_entry.clone());
            }
        }
        plan.service_ips = turns(&self.programmed.service_ips, service_ips);
        plan.node_ports = turns(&self.programmed.node_ports, node_ports);
    }

    fn plan_hairpins(&self, plan: &mut Plan, scope: Scope) {
        let mut users: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        let mut touch = |address: &Ipv4Addr, step: isize| {
            let count = users
                .entry(*address)
                .or_insert_with(|| self.hairpin_users.get(address).copied().unwrap_or(0));
            *count = count.saturating_add_signed(step);
        };
        for old in self.before(plan) {
            old.local_endpoints.iter().for_each(|address| touch(address, -1));
        }
        for new in plan.contributions.values().flatten() {
            new.local_endpoints.iter().for_each(|address| touch(address, 1));
        }
        if scope.all_services {
            self.hairpin_users.keys().for_each(|address| touch(address, 0));
        }
        if scope.purge {
            self.programmed.hairpin_ips.iter().for_each(|address| touch(address, 0));
        }
        for (address, count) in &users {
            match (self.programmed.hairpin_ips.contains(address), *count > 0) {
                (false, true) => drop(plan.hairpin_added.insert(*address)),
                (true, false) => drop(plan.hairpin_removed.insert(*address)),
                _ => {}
            }
        }
        plan.hairpin_users = users;
    }

    fn plan_chains(&self, plan: &mut Plan, scope: Scope) {
        let mut kept: BTreeSet<String> = BTreeSet::new();
        let mut kept_sets: BTreeSet<String> = BTreeSet::new();
        let (mut chains, mut sets) = (Vec::new(), Vec::new());
        for new in self.after(plan, scope) {
            for chain in &new.chains.chains {
                if kept.insert(chain.name.clone()) && !self.programmed.chains.contains(&chain.name) {
                    chains.push(chain.clone());
                }
            }
            for set in &new.chains.sets {
                if kept_sets.insert(set.name.clone()) && !self.programmed.sets.contains(&set.name) {
                    sets.push(set.clone());
                }
            }
        }
        let mut dropped: BTreeSet<String> = BTreeSet::new();
        let mut dropped_sets: BTreeSet<String> = BTreeSet::new();
        for old in self.before(plan) {
            dropped.extend(old.chains.chains.iter().map(|chain| chain.name.clone()));
            dropped_sets.extend(old.chains.sets.iter().map(|set| set.name.clone()));
        }
        if scope.purge {
            dropped.extend(self.programmed.chains.iter().cloned());
            dropped_sets.extend(self.programmed.sets.iter().cloned());
        }
        // Adopted elements that are turned away from chains of an earlier process: those chains go with them.
        let turned = plan.service_ips.values().chain(plan.node_ports.values());
        dropped.extend(turned.filter_map(|(before, _)| before.clone()));
        dropped.retain(|name| self.programmed.chains.contains(name) && !kept.contains(name));
        dropped_sets.retain(|name| self.programmed.sets.contains(name) && !kept_sets.contains(name));
        plan.chains_added = chains;
        plan.sets_added = sets;
        plan.chains_removed = in_order_of_reference(dropped);
        plan.sets_removed = dropped_sets.into_iter().collect();
    }

    /// Takes over what nft has applied.
    pub(crate) fn commit(&mut self, plan: Plan) {
        for (name, contribution) in plan.contributions {
            match contribution {
                Some(contribution) => self.contributions.insert(name, contribution),
                None => self.contributions.remove(&name),
            };
        }
        take_over(&mut self.programmed.service_ips, plan.service_ips);
        take_over(&mut self.programmed.node_ports, plan.node_ports);
        for (address, count) in plan.hairpin_users {
            if count == 0 {
                self.hairpin_users.remove(&address);
            } else {
                self.hairpin_users.insert(address, count);
            }
        }
        self.programmed.hairpin_ips.extend(plan.hairpin_added);
        self.programmed
            .hairpin_ips
            .retain(|address| !plan.hairpin_removed.contains(address));
        self.programmed
            .chains
            .extend(plan.chains_added.into_iter().map(|chain| chain.name));
        self.programmed
            .chains
            .retain(|name| !plan.chains_removed.contains(name));
        self.programmed
            .sets
            .extend(plan.sets_added.into_iter().map(|set| set.name));
        self.programmed.sets.retain(|name| !plan.sets_removed.contains(name));
    }

    /// The names of the services that are known.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.contributions.keys().map(String::as_str)
    }

    /// Corrects what we believe that the kernel holds.
    pub(crate) fn replace_programmed(&mut self, found: Programmed) {
        self.programmed = found;
    }

    /// What the kernel holds, as far as we know.
    pub(crate) fn programmed(&self) -> &Programmed {
        &self.programmed
    }
}

fn turns<K: Ord + Copy>(programmed: &BTreeMap<K, String>, wanted: BTreeMap<K, Option<String>>) -> Turn<K> {
    wanted
        .into_iter()
        .filter_map(|(key, after)| {
            let before = programmed.get(&key).cloned();
            (before != after).then_some((key, (before, after)))
        })
        .collect()
}

fn take_over<K: Ord>(programmed: &mut BTreeMap<K, String>, turns: Turn<K>) {
    for (key, (_, after)) in turns {
        match after {
            Some(chain) => programmed.insert(key, chain),
            None => programmed.remove(&key),
        };
    }
}

/// A chain can be deleted only when nothing goes to it: node ports' chains first, then services', then those that they use.
fn in_order_of_reference(names: BTreeSet<String>) -> Vec<String> {
    let rank = |name: &String| match name {
        name if name.starts_with("np-") => 0,
        name if name.starts_with("svc-") && !name.contains("-p") => 1,
        _ => 2,
    };
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_key(rank);
    names
}

impl Plan {
    /// Whether nothing is to be done in the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        self.service_ips.is_empty()
            && self.node_ports.is_empty()
            && self.hairpin_added.is_empty()
            && self.hairpin_removed.is_empty()
            && self.chains_added.is_empty()
            && self.chains_removed.is_empty()
            && self.sets_added.is_empty()
            && self.sets_removed.is_empty()
    }

    /// The flows that lead to UDP endpoints which their service loses. To be asked before the plan is committed.
    pub(crate) fn stale_flows(&self, table: &ServiceTable) -> BTreeSet<StaleFlow> {
        let mut stale = BTreeSet::new();
        for (name, after) in &self.contributions {
            let Some(before) = table.contributions.get(name) else {
                continue;
            };
            let ports = [Some(before.service_key.2), before.node_port_key.map(|(_, port)| port)];
            let kept = |endpoint: &SocketAddrV4| {
                after
                    .as_ref()
                    .is_some_and(|after| after.udp_endpoints.contains(endpoint))
            };
            for endpoint in before.udp_endpoints.iter().filter(|endpoint| !kept(endpoint)) {
                stale.extend(ports.into_iter().flatten().map(|port| StaleFlow {
                    port,
                    endpoint: *endpoint,
                }));
            }
        }
        stale
    }

    /// The transaction. New chains come first, then the elements turn to them, then what nobody refers to any more goes.
    pub(crate) fn batch(&self) -> Batch<'static> {
        let mut batch = Batch::new();
        for set in &self.sets_added {
            batch.add(ruleset::client_set(set.name.clone(), set.timeout_s));
        }
        for chain in &self.chains_added {
            batch.add(NfListObject::Chain(ruleset::chain(chain.name.clone())));
        }
        for chain in &self.chains_added {
            for statements in &chain.rules {
                batch.add(ruleset::rule(chain.name.clone(), statements.clone()));
            }
        }
        turn_elements(
            &mut batch,
            SERVICE_IPS,
            &self.service_ips,
            |(address, protocol, port)| {
                vec![
                    text(address.to_string()),
                    text(protocol.nft_name()),
                    number(u32::from(*port)),
                ]
            },
        );
        turn_elements(&mut batch, NODE_PORTS, &self.node_ports, |(protocol, port)| {
            vec![text(protocol.nft_name()), number(u32::from(*port))]
        });
        let pair = |address: &Ipv4Addr| concat(vec![text(address.to_string()), text(address.to_string())]);
        if !self.hairpin_removed.is_empty() {
            batch.delete(ruleset::elements(
                HAIRPIN_IPS,
                self.hairpin_removed.iter().map(pair).collect(),
            ));
        }
        if !self.hairpin_added.is_empty() {
            batch.add(ruleset::elements(
                HAIRPIN_IPS,
                self.hairpin_added.iter().map(pair).collect(),
            ));
        }
        for name in &self.chains_removed {
            batch.delete(NfListObject::Chain(ruleset::chain(name.clone())));
        }
        for name in &self.sets_removed {
            batch.delete(NfListObject::Set(Box::new(ruleset::named_set(name.clone()))));
        }
        batch
    }
}

fn turn_elements<K>(
    batch: &mut Batch<'static>,
    map: &'static str,
    turns: &Turn<K>,
    key: impl Fn(&K) -> Vec<Expression<'static>>,
) {
    let element = |at: &K, chain: &String| Expression::List(vec![concat(key(at)), goto(chain.clone())]);
    let old: Vec<_> = turns
        .iter()
        .filter_map(|(at, (before, _))| before.as_ref().map(|chain| element(at, chain)))
        .collect();
    let new: Vec<_> = turns
        .iter()
        .filter_map(|(at, (_, after))| after.as_ref().map(|chain| element(at, chain)))
        .collect();
    if !old.is_empty() {
        batch.delete(ruleset::elements(map, old));
    }
    if !new.is_empty() {
        batch.add(ruleset::elements(map, new));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr() -> Ipv4Cidr {
        "10.244.0.0/24".parse().unwrap()
    }

    fn rule(number: u8, endpoints: &[(u8, u8)], affinity: bool, node_port: bool) -> ServiceRule {
        ServiceRule {
            name: format!("default/s{number}:http"),
            cluster_ip: Ipv4Addr::new(10, 96, 0, number),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: node_port.then(|| 30000 + u16::from(number)),
            endpoints: endpoints
                .iter()
                .map(|(node, pod)| SocketAddrV4::new(Ipv4Addr::new(10, 244, *node, *pod), 8000 + u16::from(*node)))
                .collect(),
            session_affinity_s: affinity.then_some(60),
        }
    }

    /// A fresh table that was told all the rules at once.
    fn from_nothing(rules: &[ServiceRule]) -> Programmed {
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        let plan = table.plan_all(rules);
        table.commit(plan);
        table.programmed
    }

    #[test]
    fn one_endpoint_more_touches_one_chain_and_one_element() {
        let mut rules: Vec<ServiceRule> = (0..200).map(|n| rule(n, &[(1, 2), (1, 3)], false, false)).collect();
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        let plan = table.plan_all(&rules);
        table.commit(plan);
        rules[7]
            .endpoints
            .push(SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 9), 8001));
        for plan in [
            table.plan(&[ServiceChange::Set(rules[7].clone())]),
            table.plan_all(&rules),
        ] {
            assert_eq!(plan.chains_added.len(), 1);
            assert_eq!(plan.chains_removed.len(), 1);
            assert_eq!(plan.service_ips.len(), 1);
            assert_eq!(plan.hairpin_added.len(), 1);
            // Chain, rule, element out, element in, hairpin, chain out.
            assert_eq!(plan.batch().to_nftables().objects.len(), 6);
        }
    }

    #[test]
    fn an_unchanged_service_changes_nothing() {
        let service = rule(1, &[(0, 2)], true, true);
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        let plan = table.plan(&[ServiceChange::Set(service.clone())]);
        assert!(!plan.is_empty());
        table.commit(plan);
        let mut shuffled = service.clone();
        shuffled.endpoints.reverse();
        assert!(table.plan(&[ServiceChange::Set(shuffled)]).is_empty());
        assert!(table.plan_all(&[service]).is_empty());
        assert!(
            table
                .plan(&[ServiceChange::Remove("default/unknown:http".into())])
                .is_empty()
        );
    }

    #[test]
    fn a_restart_adopts_what_is_right_and_drops_what_nobody_asks_for() {
        let (kept, gone) = (rule(1, &[(0, 2)], false, false), rule(2, &[(0, 3), (1, 3)], true, true));
        let kernel = from_nothing(&[kept.clone(), gone]);
        let mut table = ServiceTable::adopt(cidr(), kernel);
        // Before everything has been told, the unexplained stays.
        let plan = table.plan(&[ServiceChange::Set(kept.clone())]);
        assert!(plan.is_empty());
        table.commit(plan);
        let plan = table.plan_all(std::slice::from_ref(&kept));
        table.commit(plan);
        assert_eq!(table.programmed(), &from_nothing(&[kept]));
    }

    #[test]
    fn a_service_that_loses_its_last_endpoint_leaves_the_map() {
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        let plan = table.plan(&[ServiceChange::Set(rule(1, &[(0, 2)], false, true))]);
        table.commit(plan);
        let plan = table.plan(&[ServiceChange::Set(rule(1, &[], false, true))]);
        table.commit(plan);
        assert_eq!(table.programmed(), &Programmed::default());
        assert_eq!(table.names().count(), 1);
    }

    #[test]
    fn a_repair_restores_every_service_whatever_was_lost() {
        let rules = [rule(1, &[(0, 2), (1, 2)], true, true), rule(2, &[(0, 3)], false, false)];
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        let plan = table.plan_all(&rules);
        table.commit(plan);
        let whole = table.programmed().clone();
        assert!(table.plan_repair().is_empty());
        let spoil: [fn(&mut Programmed); 3] = [
            |kernel| *kernel = Programmed::default(),
            |kernel| kernel.service_ips.clear(),
            |kernel| kernel.hairpin_ips.clear(),
        ];
        for spoil in spoil {
            let mut kernel = whole.clone();
            spoil(&mut kernel);
            table.replace_programmed(kernel);
            let plan = table.plan_repair();
            table.commit(plan);
            assert_eq!(table.programmed(), &whole);
        }
    }

    #[test]
    fn flows_to_removed_udp_endpoints_are_stale_and_others_are_not() {
        let udp = |endpoints: &[(u8, u8)]| ServiceRule {
            protocol: Protocol::Udp,
            ..rule(1, endpoints, false, true)
        };
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        let plan = table.plan(&[ServiceChange::Set(udp(&[(0, 2), (1, 2)]))]);
        assert!(plan.stale_flows(&table).is_empty());
        table.commit(plan);
        let plan = table.plan(&[ServiceChange::Set(udp(&[(1, 2), (2, 2)]))]);
        let gone = SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 2), 8000);
        let expected = [80, 30001].map(|port| StaleFlow { port, endpoint: gone });
        assert_eq!(plan.stale_flows(&table), BTreeSet::from(expected));
        let tcp = rule(1, &[(0, 2), (1, 2)], false, true);
        let plan = table.plan(&[ServiceChange::Set(tcp.clone())]);
        table.commit(plan);
        assert!(
            table
                .plan(&[ServiceChange::Remove(tcp.name)])
                .stale_flows(&table)
                .is_empty()
        );
    }

    #[test]
    fn a_service_that_took_over_an_address_keeps_it_when_the_old_owner_goes() {
        let old = rule(1, &[(0, 2)], false, false);
        let new = ServiceRule {
            name: "default/heir:http".into(),
            ..rule(1, &[(0, 3)], false, false)
        };
        let mut table = ServiceTable::adopt(cidr(), Programmed::default());
        for change in [
            ServiceChange::Set(old.clone()),
            ServiceChange::Set(new.clone()),
            ServiceChange::Remove(old.name),
        ] {
            let plan = table.plan(&[change]);
            table.commit(plan);
        }
        assert_eq!(table.programmed(), &from_nothing(&[new]));
    }

    fn any_rule() -> impl Strategy<Value = ServiceRule> {
        (
            0u8..6,
            prop::collection::vec((0u8..3, 2u8..6), 0..4),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(|(number, endpoints, affinity, node_port)| rule(number, &endpoints, affinity, node_port))
    }

    fn any_change() -> impl Strategy<Value = ServiceChange> {
        prop_oneof![
            3 => any_rule().prop_map(ServiceChange::Set),
            1 => (0u8..6).prop_map(|number| ServiceChange::Remove(format!("default/s{number}:http"))),
        ]
    }

    proptest! {
        #[test]
        fn any_history_of_changes_ends_in_the_same_state_as_telling_all_at_once(
            rounds in prop::collection::vec((prop::collection::vec(any_change(), 0..5), any::<bool>()), 1..10),
        ) {
            let mut table = ServiceTable::adopt(cidr(), Programmed::default());
            let mut wanted: BTreeMap<String, ServiceRule> = BTreeMap::new();
            for (changes, restart) in rounds {
                for change in &changes {
                    match change {
                        ServiceChange::Set(rule) => drop(wanted.insert(rule.name.clone(), rule.clone())),
                        ServiceChange::Remove(name) => drop(wanted.remove(name)),
                    }
                }
                let rules: Vec<ServiceRule> = wanted.values().cloned().collect();
                let plan = if restart {
                    table = ServiceTable::adopt(cidr(), table.programmed.clone());
                    table.plan_all(&rules)
                } else {
                    table.plan(&changes)
                };
                table.commit(plan);
                prop_assert_eq!(table.programmed(), &from_nothing(&rules));
                prop_assert!(table.plan_all(&rules).is_empty());
            }
        }
    }
}
