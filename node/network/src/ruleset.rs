//! The nftables table of a node: its fixed part, and the vocabulary in which rules are written.
//!
//! Used by [`crate::service`] (the part that changes) and by the nft worker. Pure.
//!
//! ```text
//! table inet actorium
//!   map service-ips     address . protocol . port -> goto a service's chain
//!   map node-ports      protocol . port           -> goto a node port's chain
//!   set hairpin-ips     address . address         of this node's pods that are endpoints
//!   chain services      the two look-ups; jumped to from nat-prerouting and nat-output
//!   chain nat-*         base chains of type nat
//!   chain filter-*      base chains of type filter
//! ```
//!
//! A packet for a service costs one hash look-up, however many services there are. A change of one service touches its own
//! chain and one map element. The fixed chains are flushed and filled again in one transaction at each start: no packet sees
//! them empty, and a newer version of this program brings its own rules.

use std::{borrow::Cow, collections::HashSet, net::Ipv4Addr};

use nftables::{
    batch::Batch,
    expr::{
        BinaryOperation, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, NgMode, Numgen, Payload,
        PayloadField, Prefix, SetItem, Verdict,
    },
    schema::{Chain, Element, FlushObject, Map, NfCmd, NfListObject, Rule, Set, SetFlag, SetType, SetTypeValue, Table},
    stmt::{JumpTarget, Mangle, Match, NAT, NATFamily, NATFlag, Operator, Reject, RejectType, Statement, VerdictMap},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use serde_json::Value;

use crate::{address::Ipv4Cidr, service::Protocol};

/// The one table of ours.
pub(crate) const TABLE: &str = "actorium";
/// The table's family: one table serves both IP versions.
pub(crate) const FAMILY: NfFamily = NfFamily::INet;
/// Map from a service's address, protocol and port to its chain.
pub(crate) const SERVICE_IPS: &str = "service-ips";
/// Map from protocol and node port to its chain.
pub(crate) const NODE_PORTS: &str = "node-ports";
/// Pairs of equal addresses: the pods of this node that may be answered by themselves.
pub(crate) const HAIRPIN_IPS: &str = "hairpin-ips";

const SERVICES: &str = "services";
/// Before connections are looked up, so that what is dropped costs little: NF_IP_PRI_RAW.
const PRIORITY_RAW: i32 = -300;
/// nat runs after mangle and before filter: NF_IP_PRI_NAT_DST.
const PRIORITY_DNAT: i32 = -100;
/// NF_IP_PRI_NAT_SRC.
const PRIORITY_SNAT: i32 = 100;
/// NF_IP_PRI_FILTER.
const PRIORITY_FILTER: i32 = 0;
/// The bit of the packet mark that asks for masquerading. The bit that Kubernetes' own proxy uses for the same purpose.
const MASQUERADE_MARK: u32 = 0x4000;

/// What the fixed rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseRules {
    pub(crate) pod_cidr: Ipv4Cidr,
    pub(crate) cluster_cidr: Ipv4Cidr,
    pub(crate) service_cidr: Ipv4Cidr,
    pub(crate) bridge: String,
}

/// The transaction that makes the table or brings an existing one up to date. Services' chains and elements are untouched.
pub(crate) fn base(rules: &BaseRules) -> Batch<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.add(map(
        SERVICE_IPS,
        &[SetType::Ipv4Addr, SetType::InetProto, SetType::InetService],
    ));
    batch.add(map(NODE_PORTS, &[SetType::InetProto, SetType::InetService]));
    batch.add(NfListObject::Set(Box::new(Set {
        set_type: SetTypeValue::Concatenated(Cow::Borrowed(&[SetType::Ipv4Addr, SetType::Ipv4Addr])),
        ..named_set(HAIRPIN_IPS)
    })));
    batch.add(NfListObject::Chain(chain(SERVICES)));
    let chains = [
        (
            "filter-prerouting",
            NfChainType::Filter,
            NfHook::Prerouting,
            PRIORITY_RAW,
        ),
        ("nat-prerouting", NfChainType::NAT, NfHook::Prerouting, PRIORITY_DNAT),
        ("nat-output", NfChainType::NAT, NfHook::Output, PRIORITY_DNAT),
        ("nat-postrouting", NfChainType::NAT, NfHook::Postrouting, PRIORITY_SNAT),
        ("filter-forward", NfChainType::Filter, NfHook::Forward, PRIORITY_FILTER),
        ("filter-output", NfChainType::Filter, NfHook::Output, PRIORITY_FILTER),
    ];
    for (name, kind, hook, priority) in chains {
        batch.add(NfListObject::Chain(Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..chain(name)
        }));
    }
    for name in [SERVICES].into_iter().chain(chains.map(|(name, ..)| name)) {
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain(name))));
    }
    for (name, statements) in fixed_rules(rules) {
        batch.add(rule(name, statements));
    }
    batch
}

/// The batch as the JSON text that nft reads. Completes what the crate's types cannot say: the maps' values are verdicts.
pub(crate) fn document(batch: Batch<'_>) -> Result<String, serde_json::Error> {
    let mut document = serde_json::to_value(batch.to_nftables())?;
    let commands = document
        .get_mut("nftables")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for command in commands {
        if let Some(map) = command.pointer_mut("/add/map") {
            map["map"] = Value::from("verdict");
        }
    }
    serde_json::to_string(&document)
}

fn fixed_rules(rules: &BaseRules) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let service = || payload("ip", "daddr");
    let jump = || {
        Statement::Jump(JumpTarget {
            target: Cow::Borrowed(SERVICES),
        })
    };
    // What still has a service address after the services' rules has no endpoint, or is no service. It is refused at once, so
    // that a client need not wait for its time-out. TCP is reset, since the kernel limits ICMP errors to about one a second
    // and client.
    let unknown_service = |how: Vec<Statement<'static>>| {
        let mut statements = vec![
            matches(service(), Operator::EQ, range(rules.service_cidr)),
            matches(destination_type(), Operator::NEQ, text("local")),
        ];
        statements.extend(how);
        statements
    };
    let reset = || {
        let with_reset = Reject::new(Some(RejectType::TCPReset), None);
        unknown_service(vec![match_protocol(Protocol::Tcp), Statement::Reject(Some(with_reset))])
    };
    let refuse = || unknown_service(vec![Statement::Reject(None)]);
    vec![
        (
            SERVICES,
            vec![look_up(
                vec![service(), layer4_protocol(), destination_port()],
                SERVICE_IPS,
            )],
        ),
        (
            SERVICES,
            vec![
                matches(destination_type(), Operator::EQ, text("local")),
                // 127.0.0.0/8 never leaves the machine; a rewritten packet with such a source would be dropped as martian.
                matches(
                    payload("ip", "daddr"),
                    Operator::NEQ,
                    prefix(Ipv4Addr::new(127, 0, 0, 0), 8),
                ),
                look_up(vec![layer4_protocol(), destination_port()], NODE_PORTS),
            ],
        ),
        // What comes from a pod has an address of this node's range: no pod speaks for the node, another node's pods or the
        // world.
        (
            "filter-prerouting",
            vec![
                matches(meta(MetaKey::Iifname), Operator::EQ, text(rules.bridge.clone())),
                matches(payload("ip", "saddr"), Operator::NEQ, range(rules.pod_cidr)),
                Statement::Drop(None),
            ],
        ),
        // A client outside of the cluster that is sent to a pod of another node must be answered through this one, or the
        // answer would come from an address that it never asked.
        (
            "nat-prerouting",
            vec![
                matches(service(), Operator::EQ, range(rules.service_cidr)),
                matches(payload("ip", "saddr"), Operator::NEQ, range(rules.cluster_cidr)),
                mark_for_masquerade(),
            ],
        ),
        ("nat-prerouting", vec![jump()]),
        ("nat-output", vec![jump()]),
        (
            "nat-postrouting",
            vec![
                matches(
                    Expression::BinaryOperation(Box::new(BinaryOperation::AND(
                        meta(MetaKey::Mark),
                        number(MASQUERADE_MARK),
                    ))),
                    Operator::EQ,
                    number(MASQUERADE_MARK),
                ),
                masquerade(),
            ],
        ),
        // A pod that reaches itself through a service would see its own address as the source and answer itself directly,
        // past the rewriting; from the gateway's address the answer comes back here.
        (
            "nat-postrouting",
            vec![
                matches(
                    concat(vec![payload("ip", "saddr"), payload("ip", "daddr")]),
                    Operator::EQ,
                    text(format!("@{HAIRPIN_IPS}")),
                ),
                masquerade(),
            ],
        ),
        (
            "nat-postrouting",
            vec![
                matches(payload("ip", "saddr"), Operator::EQ, range(rules.pod_cidr)),
                matches(payload("ip", "daddr"), Operator::NEQ, range(rules.cluster_cidr)),
                // Packets for the node's own addresses on the bridge are answered from there.
                matches(meta(MetaKey::Oifname), Operator::NEQ, text(rules.bridge.clone())),
                masquerade(),
            ],
        ),
        ("filter-forward", reset()),
        ("filter-forward", refuse()),
        ("filter-output", reset()),
        ("filter-output", refuse()),
        // Traffic between two pods leaves by the interface on which it came, and the kernel would tell the sender of a
        // "better" way that the isolated ports do not offer.
        (
            "filter-output",
            vec![
                matches(meta(MetaKey::Oifname), Operator::EQ, text(rules.bridge.clone())),
                matches(payload("icmp", "type"), Operator::EQ, text("redirect")),
                Statement::Drop(None),
            ],
        ),
    ]
}

/// The table, by name.
pub(crate) fn table() -> Table<'static> {
    Table {
        family: FAMILY,
        name: Cow::Borrowed(TABLE),
        handle: None,
    }
}

/// A chain of our table, by name.
pub(crate) fn chain(name: impl Into<Cow<'static, str>>) -> Chain<'static> {
    Chain {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: name.into(),
        ..Chain::default()
    }
}

/// A set of our table, by name.
pub(crate) fn named_set(name: impl Into<Cow<'static, str>>) -> Set<'static> {
    Set {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: name.into(),
        ..Set::default()
    }
}

/// A set of client addresses that forgets each one after `timeout_s` seconds without a new connection.
pub(crate) fn client_set(name: impl Into<Cow<'static, str>>, timeout_s: u32) -> NfListObject<'static> {
    NfListObject::Set(Box::new(Set {
        // nft 1.0 knows no flag "dynamic" in JSON; a set with a time-out can be updated by rules without it.
        flags: Some(HashSet::from([SetFlag::Timeout])),
        timeout: Some(timeout_s),
        ..named_set(name)
    }))
}

fn map(name: &'static str, key: &'static [SetType]) -> NfListObject<'static> {
    // The value type is set by `document`: the crate's types have no word for verdicts.
    NfListObject::Map(Box::new(Map {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: Cow::Borrowed(name),
        set_type: SetTypeValue::Concatenated(Cow::Borrowed(key)),
        ..Map::default()
    }))
}

/// A rule of our table.
pub(crate) fn rule(chain: impl Into<Cow<'static, str>>, statements: Vec<Statement<'static>>) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        chain: chain.into(),
        expr: Cow::Owned(statements),
        ..Rule::default()
    })
}

/// Elements of a map or set of our table.
pub(crate) fn elements(name: &'static str, elem: Vec<Expression<'static>>) -> NfListObject<'static> {
    NfListObject::Element(Element {
        family: FAMILY,
        table: Cow::Borrowed(TABLE),
        name: Cow::Borrowed(name),
        elem: Cow::Owned(elem),
    })
}

pub(crate) fn text(value: impl Into<Cow<'static, str>>) -> Expression<'static> {
    Expression::String(value.into())
}

pub(crate) fn number(value: u32) -> Expression<'static> {
    Expression::Number(value)
}

pub(crate) fn concat(parts: Vec<Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(parts))
}

pub(crate) fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: Cow::Borrowed(protocol),
        field: Cow::Borrowed(field),
    })))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn layer4_protocol() -> Expression<'static> {
    meta(MetaKey::L4proto)
}

fn destination_port() -> Expression<'static> {
    payload("th", "dport")
}

fn destination_type() -> Expression<'static> {
    Expression::Named(NamedExpression::Fib(Fib {
        result: FibResult::Type,
        flags: HashSet::from([FibFlag::Daddr]),
    }))
}

fn range(cidr: Ipv4Cidr) -> Expression<'static> {
    prefix(cidr.network(), cidr.prefix_len())
}

fn prefix(address: Ipv4Addr, prefix_len: u8) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(text(address.to_string())),
        len: u32::from(prefix_len),
    }))
}

pub(crate) fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

/// `dnat` with a port needs a match of the transport protocol before it.
pub(crate) fn match_protocol(protocol: Protocol) -> Statement<'static> {
    matches(layer4_protocol(), Operator::EQ, text(protocol.nft_name()))
}

pub(crate) fn goto(chain: String) -> Expression<'static> {
    Expression::Verdict(Verdict::Goto(JumpTarget {
        target: Cow::Owned(chain),
    }))
}

fn look_up(key: Vec<Expression<'static>>, map: &'static str) -> Statement<'static> {
    Statement::VerdictMap(VerdictMap {
        key: concat(key),
        data: text(format!("@{map}")),
    })
}

/// A number from 0 to `count` - 1, drawn anew for each connection.
pub(crate) fn random_below(count: u32) -> Expression<'static> {
    Expression::Named(NamedExpression::Numgen(Numgen {
        mode: NgMode::Random,
        ng_mod: count,
        offset: None,
    }))
}

/// An anonymous map from 0, 1, 2, ... to the values.
pub(crate) fn indexed(values: impl IntoIterator<Item = Expression<'static>>) -> Expression<'static> {
    let items = (0u32..)
        .zip(values)
        .map(|(index, value)| SetItem::Mapping(number(index), value))
        .collect();
    Expression::Named(NamedExpression::Set(items))
}

pub(crate) fn dnat(address: Expression<'static>, port: u16) -> Statement<'static> {
    Statement::DNAT(Some(NAT {
        addr: Some(address),
        family: Some(NATFamily::IP),
        port: Some(number(u32::from(port))),
        flags: None,
    }))
}

fn masquerade() -> Statement<'static> {
    // Fully random source ports: with the kernel's sequential choice, two clients that start together collide and lose a packet.
    Statement::Masquerade(Some(NAT {
        addr: None,
        family: None,
        port: None,
        flags: Some(HashSet::from([NATFlag::FullyRandom])),
    }))
}

/// Asks for masquerading when the packet leaves.
pub(crate) fn mark_for_masquerade() -> Statement<'static> {
    Statement::Mangle(Mangle {
        key: meta(MetaKey::Mark),
        value: Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![
            meta(MetaKey::Mark),
            number(MASQUERADE_MARK),
        ]))),
    })
}
