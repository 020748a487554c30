//! The records of an answer, given what a name means.
//!
//! Pure. The server calls [`decide`] for each question and either sends the reply or asks other servers.

use std::net::IpAddr;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
    },
};

use super::zone::{Lookup, Records, Zone};

/// For how long an answer may be kept, in seconds: endpoints change within seconds.
pub(crate) const TTL_S: u32 = 5;
/// Aliases within the zone that are followed before giving up.
const ALIASES_MAX: usize = 8;

/// What to do with a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Answer with this.
    Answer(Reply),
    /// The zone does not know the name: ask other servers. `prefix` holds aliases that lead to `name` and come first.
    Forward { name: Name, prefix: Vec<Record> },
}

/// An answer from the zone.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
}

/// Decides on the question for `name`. `turn` rotates the addresses of an answer, so that clients that take the first one
/// spread over all.
pub(crate) fn decide(zone: &Zone, name: &Name, kind: RecordType, turn: usize) -> Decision {
    let mut owner = name.clone();
    let mut reply = Reply::default();
    for _ in 0..ALIASES_MAX {
        match zone.lookup(&owner.to_ascii()) {
            Lookup::Foreign => {
                return Decision::Forward {
                    name: owner,
                    prefix: reply.answers,
                };
            }
            Lookup::NoSuchName => {
                // After an alias the name that was asked for does exist; the code is that of the last name (RFC 6604).
                reply.code = ResponseCode::NXDomain;
                reply.authority = authority(zone, &owner);
                return Decision::Answer(reply);
            }
            Lookup::Found(Records {
                alias: Some(target), ..
            }) => {
                let Some(target) = absolute(&target) else {
                    return Decision::Answer(Reply {
                        code: ResponseCode::ServFail,
                        ..Reply::default()
                    });
                };
                reply
                    .answers
                    .push(Record::from_rdata(owner, TTL_S, RData::CNAME(CNAME(target.clone()))));
                if kind == RecordType::CNAME {
                    return Decision::Answer(reply);
                }
                owner = target;
            }
            Lookup::Found(records) => {
                let found = of_kind(zone, &owner, &records, kind, turn);
                if found.is_empty() {
                    reply.authority = authority(zone, &owner);
                }
                if kind == RecordType::SRV {
                    reply.additional = targets(zone, &records);
                }
                reply.answers.extend(found);
                return Decision::Answer(reply);
            }
        }
    }
    Decision::Answer(Reply {
        code: ResponseCode::ServFail,
        ..Reply::default()
    })
}

fn of_kind(zone: &Zone, owner: &Name, records: &Records, kind: RecordType, turn: usize) -> Vec<Record> {
    let any = kind == RecordType::ANY;
    let mut data: Vec<RData> = Vec::new();
    let mut addresses: Vec<RData> = records
        .addresses
        .iter()
        .filter(|address| {
            any || kind
                == if address.is_ipv4() {
                    RecordType::A
                } else {
                    RecordType::AAAA
                }
        })
        .map(|address| address_data(*address))
        .collect();
    if !addresses.is_empty() {
        let middle = turn % addresses.len();
        addresses.rotate_left(middle);
    }
    data.append(&mut addresses);
    if any || kind == RecordType::SRV {
        // Equal weights, since the cluster has no preference among endpoints.
        let services = records.services.iter();
        data.extend(services.filter_map(|(port, target)| Some(RData::SRV(SRV::new(0, 100, *port, absolute(target)?)))));
    }
    if any || kind == RecordType::PTR {
        data.extend(
            records
                .pointers
                .iter()
                .filter_map(|name| Some(RData::PTR(PTR(absolute(name)?)))),
        );
    }
    if any || kind == RecordType::TXT {
        data.extend(records.text.iter().map(|text| RData::TXT(TXT::new(vec![text.clone()]))));
    }
    if records.is_apex && (any || kind == RecordType::NS) {
        data.extend(name_server(zone).map(|name| RData::NS(NS(name))));
    }
    if records.is_apex && (any || kind == RecordType::SOA) {
        data.extend(start_of_authority(zone));
    }
    data.into_iter()
        .map(|data| Record::from_rdata(owner.clone(), TTL_S, data))
        .collect()
}

/// The addresses of SRV targets, which spare the client a second question.
fn targets(zone: &Zone, records: &Records) -> Vec<Record> {
    let mut seen: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for (_, target) in &records.services {
        if seen.contains(&target.as_str()) {
            continue;
        }
        seen.push(target);
        let (Some(owner), Lookup::Found(records)) = (absolute(target), zone.lookup(target)) else {
            continue;
        };
        found.extend(
            records
                .addresses
                .iter()
                .map(|address| Record::from_rdata(owner.clone(), TTL_S, address_data(*address))),
        );
    }
    found
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// What goes with a negative answer and says for how long it may be kept. A reverse name's authority is its own top, since a
/// resolver discards an authority that does not enclose the name.
fn authority(zone: &Zone, name: &Name) -> Vec<Record> {
    let text = name.to_ascii().to_ascii_lowercase();
    let apex = ["in-addr.arpa", "ip6.arpa"]
        .into_iter()
        .find(|top| text.trim_end_matches('.').ends_with(top));
    let owner = absolute(apex.unwrap_or(zone.domain()));
    owner
        .into_iter()
        .zip(start_of_authority(zone))
        .map(|(owner, data)| Record::from_rdata(owner, TTL_S, data))
        .collect()
}

fn name_server(zone: &Zone) -> Option<Name> {
    absolute(&format!("ns.dns.{}", zone.domain()))
}

fn start_of_authority(zone: &Zone) -> Option<RData> {
    // The zone is never transferred, so refresh, retry and expire have no reader; the values are those that CoreDNS gives.
    let mailbox = absolute(&format!("hostmaster.{}", zone.domain()))?;
    Some(RData::SOA(SOA::new(
        name_server(zone)?,
        mailbox,
        zone.serial(),
        7200,
        1800,
        86_400,
        TTL_S,
    )))
}

/// A name with its root dot; `None` if it is no valid name.
fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::{DnsChange, DnsPort, DnsService};
    use crate::service::Protocol;

    fn zone() -> Zone {
        let service = |name: &str| DnsService {
            namespace: "default".into(),
            name: name.into(),
            ..DnsService::default()
        };
        let web = DnsService {
            cluster_ips: ["10.96.0.5", "10.96.0.6", "10.96.0.7"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            ports: vec![DnsPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
            }],
            ..service("web")
        };
        let alias = |name: &str, target: &str| DnsService {
            external_name: Some(target.into()),
            ..service(name)
        };
        Zone::new("cluster.local", &["10.96.0.0/16".parse().unwrap()]).after([
            DnsChange::SetService(web),
            DnsChange::SetService(alias("inside", "web.default.svc.cluster.local")),
            DnsChange::SetService(alias("outside", "www.example.com")),
            DnsChange::SetService(alias("broken", "absent.default.svc.cluster.local")),
            DnsChange::SetService(alias("loop", "loop.default.svc.cluster.local")),
        ])
    }

    fn name(text: &str) -> Name {
        absolute(text).unwrap()
    }

    fn reply(text: &str, kind: RecordType) -> Reply {
        match decide(&zone(), &name(text), kind, 0) {
            Decision::Answer(reply) => reply,
            Decision::Forward { name, .. } => panic!("{text} was forwarded as {name}"),
        }
    }

    #[test]
    fn codes_and_sections_are_those_of_the_protocol() {
        use RecordType as T;
        let cases = [
            ("web.default.svc.cluster.local", T::A, ResponseCode::NoError, 3, 0, 0),
            ("web.default.svc.cluster.local", T::AAAA, ResponseCode::NoError, 0, 1, 0),
            ("web.default.svc.cluster.local", T::MX, ResponseCode::NoError, 0, 1, 0),
            ("default.svc.cluster.local", T::A, ResponseCode::NoError, 0, 1, 0),
            (
                "absent.default.svc.cluster.local",
                T::A,
                ResponseCode::NXDomain,
                0,
                1,
                0,
            ),
            (
                "_http._tcp.web.default.svc.cluster.local",
                T::SRV,
                ResponseCode::NoError,
                1,
                0,
                3,
            ),
            ("5.0.96.10.in-addr.arpa", T::PTR, ResponseCode::NoError, 1, 0, 0),
            ("9.0.96.10.in-addr.arpa", T::PTR, ResponseCode::NXDomain, 0, 1, 0),
            ("inside.default.svc.cluster.local", T::A, ResponseCode::NoError, 4, 0, 0),
            (
                "inside.default.svc.cluster.local",
                T::CNAME,
                ResponseCode::NoError,
                1,
                0,
                0,
            ),
            (
                "outside.default.svc.cluster.local",
                T::CNAME,
                ResponseCode::NoError,
                1,
                0,
                0,
            ),
            (
                "broken.default.svc.cluster.local",
                T::A,
                ResponseCode::NXDomain,
                1,
                1,
                0,
            ),
            ("loop.default.svc.cluster.local", T::A, ResponseCode::ServFail, 0, 0, 0),
            ("cluster.local", T::SOA, ResponseCode::NoError, 1, 0, 0),
            ("cluster.local", T::NS, ResponseCode::NoError, 1, 0, 0),
            ("cluster.local", T::A, ResponseCode::NoError, 0, 1, 0),
            ("dns-version.cluster.local", T::TXT, ResponseCode::NoError, 1, 0, 0),
        ];
        for (text, kind, code, answers, authority, additional) in cases {
            let reply = reply(text, kind);
            let found = (
                reply.code,
                reply.answers.len(),
                reply.authority.len(),
                reply.additional.len(),
            );
            assert_eq!(found, (code, answers, authority, additional), "{text} {kind}");
            assert!(
                reply
                    .answers
                    .iter()
                    .chain(&reply.authority)
                    .all(|record| record.ttl == TTL_S)
            );
            assert!(
                reply.authority.iter().all(|record| record.name.zone_of(&name(text))),
                "{text}"
            );
        }
    }

    #[test]
    fn foreign_names_are_forwarded_with_the_aliases_that_led_there() {
        let outside = decide(&zone(), &name("outside.default.svc.cluster.local"), RecordType::A, 0);
        assert!(
            matches!(outside, Decision::Forward { name: ref target, ref prefix } if *target == name("www.example.com") && prefix.len() == 1)
        );
        let foreign = decide(&zone(), &name("example.com"), RecordType::A, 0);
        assert!(matches!(foreign, Decision::Forward { ref prefix, .. } if prefix.is_empty()));
    }

    #[test]
    fn addresses_take_turns_at_being_first() {
        let first = |turn| match decide(&zone(), &name("web.default.svc.cluster.local"), RecordType::A, turn) {
            Decision::Answer(reply) => reply.answers[0].data.clone(),
            Decision::Forward { .. } => unreachable!("the name is in the zone"),
        };
        let seen: Vec<RData> = (0..3).map(first).collect();
        assert_eq!(seen.len(), 3);
        assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2]);
        assert_eq!(first(3), seen[0]);
    }
}
