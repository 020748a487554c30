//! One rule of a Role or ClusterRole: what it matches, what it covers, how it is written. Semantics after Kubernetes'
//! `rbac.RuleAllows` and component-helpers' `validation.Covers`; the index, the escalation checks and
//! SelfSubjectRulesReview call it.

use api::access::Access;
use serde::Serialize;
use serde_json::Value;

use crate::attributes::{Attributes, Requested, ResourceRequest};

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `get`, `*`.
    pub verbs: Vec<String>,
    /// `""`, `apps`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names that the rule is limited to; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// `/healthz`, `/api/*`, `*`. In ClusterRoles only.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.items(name).iter();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|entry| entry == text)
}

fn has_or_all(list: &[String], text: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == text)
}

impl Rule {
    /// From JSON; what has another shape counts as absent, and allows nothing.
    pub fn from_value(value: &Value) -> Rule {
        Rule {
            verbs: texts(value, "verbs"),
            api_groups: texts(value, "apiGroups"),
            resources: texts(value, "resources"),
            resource_names: texts(value, "resourceNames"),
            non_resource_urls: texts(value, "nonResourceURLs"),
        }
    }

    /// The rules of a Role or ClusterRole in JSON.
    pub fn list(role: &Value) -> Vec<Rule> {
        role.items("rules").iter().map(Rule::from_value).collect()
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        match &attributes.requested {
            Requested::Resource(request) => self.allows_resource(attributes.verb, request),
            Requested::Path(path) => has_or_all(&self.verbs, attributes.verb) && self.matches_path(path),
        }
    }

    fn allows_resource(&self, verb: &str, request: &ResourceRequest<'_>) -> bool {
        has_or_all(&self.verbs, verb)
            && has_or_all(&self.api_groups, request.group)
            && self.matches_resource(request.resource, request.subresource)
            && (self.resource_names.is_empty() || has(&self.resource_names, request.name))
    }

    /// `*` is every resource and subresource; `*/scale` is that subresource of every resource.
    pub(super) fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|entry| {
            if entry == "*" {
                return true;
            }
            match entry.split_once('/') {
                None => subresource.is_empty() && entry == resource,
                Some((left, right)) => {
                    !subresource.is_empty() && right == subresource && (left == "*" || left == resource)
                }
            }
        })
    }

    fn matches_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|url| path_covers(url, path))
    }

    /// Whether everything that `narrow` allows is allowed by this rule. `narrow` must be one of `broken_down`'s.
    fn covers(&self, narrow: &Rule) -> bool {
        let all = |wide: &[String], narrow: &[String]| has(wide, "*") || narrow.iter().all(|entry| has(wide, entry));
        let resources = || {
            narrow.resources.iter().all(|entry| {
                has(&self.resources, "*")
                    || has(&self.resources, entry)
                    || entry
                        .split_once('/')
                        .is_some_and(|(_, subresource)| has(&self.resources, &format!("*/{subresource}")))
            })
        };
        let names = || {
            self.resource_names.is_empty()
                || !narrow.resource_names.is_empty() && all_named(&self.resource_names, &narrow.resource_names)
        };
        let urls = || {
            narrow
                .non_resource_urls
                .iter()
                .all(|url| self.non_resource_urls.iter().any(|own| path_covers(own, url)))
        };
        all(&self.verbs, &narrow.verbs) && all(&self.api_groups, &narrow.api_groups) && resources() && names() && urls()
    }

    /// The rule in pieces of one group, resource, name and verb, or one path and verb.
    fn broken_down(&self) -> Vec<Rule> {
        let mut pieces = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let mut piece = Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    for name in &self.resource_names {
                        piece.resource_names = one(name);
                        pieces.push(piece.clone());
                    }
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                    }
                }
            }
        }
        // A URL is its own thing even in a rule that has resources: Kubernetes' validation refuses such a rule.
        for verb in &self.verbs {
            pieces.extend(self.non_resource_urls.iter().map(|url| Rule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Rule::default()
            }));
        }
        pieces
    }

    /// As an escalation error shows it: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
    pub fn compact_text(&self) -> String {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts = parts.iter().filter(|(_, list)| !list.is_empty());
        let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

fn all_named(wide: &[String], narrow: &[String]) -> bool {
    narrow.iter().all(|name| has(wide, name))
}

/// A list as Go's `%q` prints it: `["a" "b"]`.
pub(super) fn quoted(list: &[String]) -> String {
    let entries: Vec<String> = list.iter().map(|entry| format!("{entry:?}")).collect();
    format!("[{}]", entries.join(" "))
}

/// Whether the rule's URL, in which a last `*` stands for any rest, covers the path or the other rule's URL.
fn path_covers(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.ends_with('*') && path.starts_with(url.trim_end_matches('*'))
}

/// What of `wanted` is not covered by `held`, piece by piece; empty when all is.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let pieces = wanted.iter().flat_map(Rule::broken_down);
    pieces
        .filter(|piece| !held.iter().any(|rule| rule.covers(piece)))
        .collect()
}

/// Rules about the same single resource (and name) become one with all their verbs, in the order of first sight. The others
/// stay as they are and come first, as in Kubernetes' `CompactRules`.
pub fn compacted(rules: &[Rule]) -> Vec<Rule> {
    let (mut others, mut simple): (Vec<Rule>, Vec<Rule>) = (Vec::new(), Vec::new());
    for rule in rules {
        let is_simple = rule.api_groups.len() == 1
            && rule.resources.len() == 1
            && rule.resource_names.len() <= 1
            && rule.non_resource_urls.is_empty();
        if !is_simple {
            others.push(rule.clone());
            continue;
        }
        let same = simple.iter_mut().find(|known| {
            known.api_groups == rule.api_groups
                && known.resources == rule.resources
                && known.resource_names == rule.resource_names
        });
        match same {
            Some(known) => known.verbs.extend(rule.verbs.iter().cloned()),
            None => simple.push(rule.clone()),
        }
    }
    others.extend(simple);
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::User;
    use proptest::prelude::*;
    use serde_json::json;

    fn rule(value: Value) -> Rule {
        Rule::from_value(&value)
    }

    #[test]
    fn rules_match_as_documented() {
        let user = User::default();
        let pods = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
        let log = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]});
        let scale = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]});
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        let named = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]});
        // (rule, verb, group, resource, subresource, name, allowed)
        let cases = [
            (&pods, "get", "", "pods", "", "web", true),
            (&pods, "watch", "", "pods", "", "", false),
            (&pods, "get", "apps", "pods", "", "web", false),
            (&pods, "get", "", "pods", "log", "web", false),
            (&log, "get", "", "pods", "log", "web", true),
            (&log, "get", "", "pods", "", "web", false),
            (&scale, "update", "apps", "deployments", "scale", "web", true),
            (&scale, "update", "apps", "deployments", "status", "web", false),
            (&scale, "update", "apps", "deployments", "", "web", false),
            (&all, "get", "", "pods", "log", "web", true),
            (&all, "impersonate", "", "users", "", "ann", true),
            (&named, "get", "", "secrets", "", "a", true),
            (&named, "get", "", "secrets", "", "b", false),
            (&named, "list", "", "secrets", "", "", false),
            (&named, "list", "", "secrets", "", "a", true),
            (&named, "create", "", "secrets", "", "", false),
            (&named, "deletecollection", "", "secrets", "", "", false),
        ];
        for (value, verb, group, resource, subresource, name, expected) in cases {
            let request = ResourceRequest {
                group,
                resource,
                subresource,
                name,
                ..ResourceRequest::default()
            };
            let attributes = Attributes::resource(&user, verb, request);
            let actual = rule(value.clone()).allows(&attributes);
            assert_eq!(
                actual, expected,
                "{value} on {verb} {group}/{resource}/{subresource} {name:?}"
            );
        }
        let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]});
        let cases = [
            ("get", "/healthz", true),
            ("get", "/healthz/etcd", false),
            ("get", "/api/v1", true),
            ("get", "/api", false),
            ("post", "/api/v1", false),
        ];
        for (verb, path, expected) in cases {
            assert_eq!(
                rule(paths.clone()).allows(&Attributes::path(&user, verb, path)),
                expected,
                "{verb} {path}"
            );
        }
        let everything = rule(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        assert!(everything.allows(&Attributes::path(&user, "get", "/metrics")));
        assert!(!everything.allows(&Attributes::resource(&user, "get", ResourceRequest::default())));
    }

    #[test]
    fn coverage_is_piece_by_piece() {
        let held = [
            rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]})),
            rule(json!({"verbs": ["watch"], "apiGroups": [""], "resources": ["*"]})),
            rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]})),
            rule(json!({"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]})),
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/api/*"]})),
        ];
        let cases = [
            (
                json!({"verbs": ["get", "watch"], "apiGroups": [""], "resources": ["pods"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["b"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}),
                false,
            ),
            (json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}), false),
            (
                json!({"verbs": ["update"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}),
                true,
            ),
            (
                json!({"verbs": ["update"], "apiGroups": ["apps"], "resources": ["deployments"]}),
                false,
            ),
            (json!({"verbs": ["get"], "nonResourceURLs": ["/api/v1/*"]}), true),
            (json!({"verbs": ["get"], "nonResourceURLs": ["/apis"]}), false),
            (json!({"verbs": ["get"], "nonResourceURLs": ["*"]}), false),
        ];
        for (wanted, expected) in cases {
            assert_eq!(
                uncovered(&held, &[rule(wanted.clone())]).is_empty(),
                expected,
                "{wanted}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_shown_in_few_rules() {
        let missing = uncovered(
            &[],
            &[rule(
                json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods"]}),
            )],
        );
        let texts: Vec<String> = compacted(&missing).iter().map(Rule::compact_text).collect();
        assert_eq!(
            texts,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#,
                r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "list"]}"#
            ]
        );
    }

    fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(proptest::sample::select(all).prop_map(str::to_owned), 0..3)
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (
            words(&["get", "list", "*"]),
            words(&["", "apps", "*"]),
            words(&["pods", "pods/log", "*/log", "*"]),
            words(&["a", "b"]),
        )
            .prop_map(|(verbs, api_groups, resources, resource_names)| Rule {
                verbs,
                api_groups,
                resources,
                resource_names,
                non_resource_urls: Vec::new(),
            })
    }

    proptest! {
        /// Who holds rules that cover a role cannot gain anything by being bound to it.
        #[test]
        fn covered_rules_allow_nothing_new(
            held in proptest::collection::vec(any_rule(), 0..4),
            wanted in proptest::collection::vec(any_rule(), 0..3),
        ) {
            prop_assume!(uncovered(&held, &wanted).is_empty());
            let user = User::default();
            for verb in ["get", "list", "delete"] {
                for group in ["", "apps", "batch"] {
                    for (resource, subresource) in [("pods", ""), ("pods", "log"), ("jobs", "log"), ("jobs", "")] {
                        for name in ["", "a", "b", "c"] {
                            let request = ResourceRequest { group, resource, subresource, name, ..Default::default() };
                            let attributes = Attributes::resource(&user, verb, request);
                            let gained = wanted.iter().any(|rule| rule.allows(&attributes));
                            prop_assert!(!gained || held.iter().any(|rule| rule.allows(&attributes)));
                        }
                    }
                }
            }
        }

        /// Every rule covers itself.
        #[test]
        fn coverage_is_reflexive(rule in any_rule()) {
            prop_assert!(uncovered(std::slice::from_ref(&rule), std::slice::from_ref(&rule)).is_empty());
        }
    }
}
