//! What a pod's resolver is told: the text of its `/etc/resolv.conf`.
//!
//! Called by the runtime's side of the node when it prepares a pod. Pure: the node's own file comes in as parsed by
//! [`NodeResolver::parse`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Kubernetes' limit on name servers in a pod.
const NAMESERVERS_MAX: usize = 3;
/// Kubernetes' limit on search domains in a pod.
const SEARCHES_MAX: usize = 32;
/// Kubernetes' limit on the characters of all search domains.
const SEARCH_CHARACTERS_MAX: usize = 2048;
/// Names with fewer dots are tried with the search domains first: `_http._tcp.web.default.svc` has four.
const CLUSTER_NDOTS: &str = "5";

/// The resolver configuration of the node itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeResolver {
    /// The name servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// The search domains, in order.
    pub searches: Vec<String>,
    /// The options, in order.
    pub options: Vec<ResolverOption>,
}

/// An option such as `ndots:5` or `edns0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverOption {
    /// The option's name.
    pub name: String,
    /// Its value, if it has one.
    pub value: Option<String>,
}

/// A pod's `dnsPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The cluster's DNS; that of the node for pods in the node's own network.
    ClusterFirst,
    /// The cluster's DNS, for pods in the node's own network too.
    ClusterFirstWithHostNet,
    /// The node's own resolver.
    Default,
    /// Nothing but the pod's `dnsConfig`.
    None,
}

/// A pod's `dnsConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodDnsConfig {
    /// Further name servers.
    pub nameservers: Vec<IpAddr>,
    /// Further search domains.
    pub searches: Vec<String>,
    /// Further options; they replace those of the same name.
    pub options: Vec<ResolverOption>,
}

/// What the resolver of one pod depends on.
#[derive(Debug, Clone)]
pub struct PodDns<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's policy.
    pub policy: DnsPolicy,
    /// Whether the pod uses the node's own network.
    pub host_network: bool,
    /// The pod's own configuration.
    pub config: Option<&'a PodDnsConfig>,
    /// The addresses of the cluster's DNS, as pods reach it.
    pub cluster_dns: &'a [IpAddr],
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: &'a str,
    /// The node's own configuration.
    pub node: &'a NodeResolver,
}

impl NodeResolver {
    /// Reads a `resolv.conf`. Lines and words that are not understood are skipped, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().and_then(parse_nameserver)),
                // The last one counts, and "domain" is the old word for a single search domain.
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| set_option(&mut resolver.options, parse_option(word))),
                _ => {}
            }
        }
        resolver
    }
}

fn parse_nameserver(word: &str) -> Option<IpAddr> {
    // A scope, as in fe80::1%eth0, means nothing in another namespace.
    word.parse().ok()
}

fn parse_option(word: &str) -> ResolverOption {
    match word.split_once(':') {
        Some((name, value)) => ResolverOption {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        },
        None => ResolverOption {
            name: word.to_owned(),
            value: None,
        },
    }
}

fn set_option(options: &mut Vec<ResolverOption>, option: ResolverOption) {
    match options.iter_mut().find(|known| known.name == option.name) {
        Some(known) => *known = option,
        None => options.push(option),
    }
}

/// The text of a pod's `/etc/resolv.conf`.
pub fn resolv_conf(pod: &PodDns<'_>) -> String {
    let mut resolver = by_policy(pod);
    if let Some(config) = pod.config {
        for nameserver in &config.nameservers {
            if !resolver.nameservers.contains(nameserver) {
                resolver.nameservers.push(*nameserver);
            }
        }
        for search in &config.searches {
            if !resolver.searches.contains(search) {
                resolver.searches.push(search.clone());
            }
        }
        for option in &config.options {
            set_option(&mut resolver.options, option.clone());
        }
    }
    write(&resolver)
}

fn by_policy(pod: &PodDns<'_>) -> NodeResolver {
    let cluster = match pod.policy {
        DnsPolicy::ClusterFirst => !pod.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::Default => false,
        DnsPolicy::None => return NodeResolver::default(),
    };
    if !cluster || pod.cluster_dns.is_empty() {
        return pod.node.clone();
    }
    let domain = pod.cluster_domain.trim_end_matches('.');
    let own = [
        format!("{}.svc.{domain}", pod.namespace),
        format!("svc.{domain}"),
        domain.to_owned(),
    ];
    let mut resolver = NodeResolver {
        nameservers: pod.cluster_dns.to_vec(),
        searches: own.to_vec(),
        options: vec![ResolverOption {
            name: "ndots".into(),
            value: Some(CLUSTER_NDOTS.into()),
        }],
    };
    resolver.searches.extend(
        pod.node
            .searches
            .iter()
            .filter(|search| !own.contains(search) && *search != ".")
            .cloned(),
    );
    resolver
}

fn write(resolver: &NodeResolver) -> String {
    let mut text = String::new();
    for nameserver in resolver.nameservers.iter().take(NAMESERVERS_MAX) {
        text.push_str(&format!("nameserver {nameserver}\n"));
    }
    let searches = bounded_searches(&resolver.searches);
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !resolver.options.is_empty() {
        let words: Vec<String> = resolver.options.iter().map(option_word).collect();
        text.push_str(&format!("options {}\n", words.join(" ")));
    }
    text
}

fn option_word(option: &ResolverOption) -> String {
    match &option.value {
        Some(value) => format!("{}:{value}", option.name),
        None => option.name.clone(),
    }
}

fn bounded_searches(searches: &[String]) -> Vec<&str> {
    let mut characters = 0;
    searches
        .iter()
        .take(SEARCHES_MAX)
        .map(String::as_str)
        .take_while(|search| {
            // The blank between two domains counts.
            characters += search.len() + usize::from(characters > 0);
            characters <= SEARCH_CHARACTERS_MAX
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeResolver {
        NodeResolver::parse(
            "# made by hand\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch corp.example\noptions ndots:1 edns0 ; end\n",
        )
    }

    fn pod<'a>(
        policy: DnsPolicy,
        host_network: bool,
        config: Option<&'a PodDnsConfig>,
        node: &'a NodeResolver,
    ) -> PodDns<'a> {
        const CLUSTER_DNS: &[IpAddr] = &[IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10))];
        PodDns {
            namespace: "shop",
            policy,
            host_network,
            config,
            cluster_dns: CLUSTER_DNS,
            cluster_domain: "cluster.local",
            node,
        }
    }

    #[test]
    fn each_policy_gives_its_file() {
        let node = node();
        let cluster = "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n";
        let own = "nameserver 192.0.2.53\nsearch corp.example\noptions ndots:1 edns0\n";
        let config = PodDnsConfig {
            nameservers: vec!["192.0.2.1".parse().unwrap()],
            searches: vec!["my.example".into(), "corp.example".into()],
            options: vec![
                ResolverOption {
                    name: "ndots".into(),
                    value: Some("2".into()),
                },
                ResolverOption {
                    name: "rotate".into(),
                    value: None,
                },
            ],
        };
        let cases: [(DnsPolicy, bool, Option<&PodDnsConfig>, &str); 8] = [
            (DnsPolicy::ClusterFirst, false, None, cluster),
            (DnsPolicy::ClusterFirst, true, None, own),
            (DnsPolicy::ClusterFirstWithHostNet, true, None, cluster),
            (DnsPolicy::ClusterFirstWithHostNet, false, None, cluster),
            (DnsPolicy::Default, false, None, own),
            (DnsPolicy::None, false, None, ""),
            (
                DnsPolicy::None,
                false,
                Some(&config),
                "nameserver 192.0.2.1\nsearch my.example corp.example\noptions ndots:2 rotate\n",
            ),
            (
                DnsPolicy::ClusterFirst,
                false,
                Some(&config),
                "nameserver 10.96.0.10\nnameserver 192.0.2.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local corp.example my.example\noptions ndots:2 rotate\n",
            ),
        ];
        for (policy, host_network, config, expected) in cases {
            assert_eq!(
                resolv_conf(&pod(policy, host_network, config, &node)),
                expected,
                "{policy:?} {host_network}"
            );
        }
    }

    #[test]
    fn limits_are_kept_without_cutting_a_name() {
        let searches: Vec<String> = (0..40).map(|n| format!("{}{n}.example", "a".repeat(100))).collect();
        let many = PodDnsConfig {
            nameservers: (1..9).map(|d| IpAddr::from([192, 0, 2, d])).collect(),
            searches: searches.clone(),
            options: vec![],
        };
        let text = resolv_conf(&pod(DnsPolicy::None, false, Some(&many), &NodeResolver::default()));
        assert_eq!(text.matches("nameserver").count(), NAMESERVERS_MAX);
        let search = text.lines().find(|line| line.starts_with("search ")).unwrap();
        assert!(search.len() <= "search ".len() + SEARCH_CHARACTERS_MAX);
        assert!(
            search
                .split(' ')
                .skip(1)
                .all(|word| searches.iter().any(|known| known == word))
        );
    }
}
