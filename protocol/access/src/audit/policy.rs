//! The audit policy: the first rule that matches a request says how much of it is written down. After Kubernetes'
//! `audit/policy/checker.go`. One thing is stricter here: the bodies of Secrets and tokens are written down only where a rule
//! names them, not where a wildcard happens to reach them.

use api::access::Access;
use serde_json::Value;

use crate::attributes::{Attributes, Requested, ResourceRequest};
use crate::audit::event::Stage;

/// How much is written down; each level holds the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when, with which result.
    Metadata,
    /// And the request's body.
    Request,
    /// And the answer's.
    RequestResponse,
}

impl Level {
    /// As policies and events have it.
    pub fn text(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }

    fn parse(text: &str) -> Option<Level> {
        [Level::None, Level::Metadata, Level::Request, Level::RequestResponse]
            .into_iter()
            .find(|level| level.text() == text)
    }
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is of another kind or version.
    #[error("the audit policy has apiVersion {found:?}: write apiVersion \"audit.k8s.io/v1\" and kind \"Policy\"")]
    Kind {
        /// Its apiVersion and kind.
        found: String,
    },
    /// Without a rule nothing would be written down, which is hardly meant.
    #[error("the audit policy has no rules: add one, such as \"- level: Metadata\"")]
    NoRules,
    /// A level that does not exist.
    #[error("rules[{rule}].level of the audit policy is {found:?}: use None, Metadata, Request or RequestResponse")]
    Level {
        /// The rule's place.
        rule: usize,
        /// What it says.
        found: String,
    },
    /// A stage that does not exist.
    #[error(
        "the audit policy omits the stage {found:?}: use RequestReceived, ResponseStarted, ResponseComplete or Panic"
    )]
    Stage {
        /// What it says.
        found: String,
    },
    /// A rule about both resources and paths can match nothing.
    #[error("rules[{rule}] of the audit policy names both resources and nonResourceURLs: make two rules of it")]
    Mixed {
        /// The rule's place.
        rule: usize,
    },
    /// A `*` elsewhere than at the end of a path.
    #[error(
        "rules[{rule}].nonResourceURLs of the audit policy has {path:?}: a path begins with / and has * at its end only"
    )]
    Path {
        /// The rule's place.
        rule: usize,
        /// The path.
        path: String,
    },
}

#[derive(Clone, Debug, Default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct PolicyRule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

/// A policy.
#[derive(Clone, Debug, Default)]
pub struct AuditPolicy {
    rules: Vec<PolicyRule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

/// What is written down of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How much.
    pub level: Level,
    /// Stages of which nothing is written.
    pub omit_stages: Vec<Stage>,
    /// Whether bodies are written without `managedFields`.
    pub omit_managed_fields: bool,
}

impl Decision {
    /// Whether an event is written at the stage.
    pub fn records(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omit_stages.contains(&stage)
    }
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.items(name).iter();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn stages(value: &Value) -> Result<Vec<Stage>, PolicyError> {
    let names = texts(value, "omitStages").into_iter();
    names
        .map(|name| Stage::parse(&name).ok_or(PolicyError::Stage { found: name }))
        .collect()
}

fn rule_of(index: usize, value: &Value) -> Result<PolicyRule, PolicyError> {
    let found = value.text("level");
    let level = Level::parse(found).ok_or_else(|| PolicyError::Level {
        rule: index,
        found: found.to_owned(),
    })?;
    let resources = value.items("resources").iter();
    let rule = PolicyRule {
        level,
        users: texts(value, "users"),
        groups: texts(value, "userGroups"),
        verbs: texts(value, "verbs"),
        resources: resources
            .map(|entry| Resources {
                group: entry.text("group").to_owned(),
                resources: texts(entry, "resources"),
                names: texts(entry, "resourceNames"),
            })
            .collect(),
        namespaces: texts(value, "namespaces"),
        paths: texts(value, "nonResourceURLs"),
        omit_stages: stages(value)?,
        omit_managed_fields: value.get("omitManagedFields").and_then(Value::as_bool),
    };
    let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
    if about_resources && !rule.paths.is_empty() {
        return Err(PolicyError::Mixed { rule: index });
    }
    let wrong = |path: &&String| {
        let stem = path.strip_suffix('*').unwrap_or(path);
        path.as_str() != "*" && (!path.starts_with('/') || stem.contains('*'))
    };
    match rule.paths.iter().find(wrong) {
        Some(path) => Err(PolicyError::Path {
            rule: index,
            path: path.clone(),
        }),
        None => Ok(rule),
    }
}

impl AuditPolicy {
    /// From the object in a policy file.
    pub fn from_value(value: &Value) -> Result<AuditPolicy, PolicyError> {
        if value.text("apiVersion") != "audit.k8s.io/v1" || value.text("kind") != "Policy" {
            let found = format!("{}, kind {}", value.text("apiVersion"), value.text("kind"));
            return Err(PolicyError::Kind { found });
        }
        let rules = value.items("rules").iter().enumerate();
        let rules: Vec<PolicyRule> = rules
            .map(|(index, rule)| rule_of(index, rule))
            .collect::<Result<_, _>>()?;
        if rules.is_empty() {
            return Err(PolicyError::NoRules);
        }
        Ok(AuditPolicy {
            rules,
            omit_stages: stages(value)?,
            omit_managed_fields: value.flag("omitManagedFields"),
        })
    }

    /// What is written down of the request. Without a rule that matches, nothing.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(attributes)) else {
            return Decision::default();
        };
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(
            rule.omit_stages
                .iter()
                .filter(|stage| !self.omit_stages.contains(stage)),
        );
        let most = if is_confidential(attributes) && !rule.names_it(attributes) {
            Level::Metadata
        } else {
            Level::RequestResponse
        };
        Decision {
            level: rule.level.min(most),
            omit_stages,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

/// Bodies that hold secrets or tokens.
fn is_confidential(attributes: &Attributes<'_>) -> bool {
    match &attributes.requested {
        Requested::Resource(request) => matches!(
            (request.group, request.resource, request.subresource),
            ("", "secrets", _) | ("", "serviceaccounts", "token") | ("authentication.k8s.io", "tokenreviews", _)
        ),
        Requested::Path(_) => false,
    }
}

fn empty_or_has(list: &[String], text: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == text)
}

impl PolicyRule {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let user = attributes.user;
        let grouped = self.groups.is_empty() || self.groups.iter().any(|group| user.is_in(group));
        if !empty_or_has(&self.users, &user.name) || !grouped || !empty_or_has(&self.verbs, attributes.verb) {
            return false;
        }
        match &attributes.requested {
            Requested::Resource(request) => {
                self.paths.is_empty()
                    && empty_or_has(&self.namespaces, request.namespace)
                    && (self.resources.is_empty() || self.resources.iter().any(|entry| entry.matches(request)))
            }
            Requested::Path(path) => {
                self.resources.is_empty()
                    && self.namespaces.is_empty()
                    && (self.paths.is_empty() || self.paths.iter().any(|pattern| path_matches(pattern, path)))
            }
        }
    }

    /// Whether the rule names the request's resource in full.
    fn names_it(&self, attributes: &Attributes<'_>) -> bool {
        let Requested::Resource(request) = &attributes.requested else {
            return false;
        };
        let combined = combined(request);
        let entries = self.resources.iter().filter(|entry| entry.group == request.group);
        entries.flat_map(|entry| &entry.resources).any(|name| *name == combined)
    }
}

fn combined(request: &ResourceRequest<'_>) -> String {
    if request.subresource.is_empty() {
        request.resource.to_owned()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    }
}

impl Resources {
    fn matches(&self, request: &ResourceRequest<'_>) -> bool {
        if self.group != request.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let combined = combined(request);
        let has_subresource = !request.subresource.is_empty();
        let matches = |pattern: &String| {
            let by_subresource = pattern
                .strip_prefix("*/")
                .is_some_and(|rest| rest == request.subresource);
            let by_resource = pattern.strip_suffix("/*").is_some_and(|rest| rest == request.resource);
            pattern == "*" || *pattern == combined || has_subresource && (by_subresource || by_resource)
        };
        empty_or_has(&self.names, request.name) && self.resources.iter().any(matches)
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|stem| path.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::User;
    use serde_json::json;

    fn policy(rules: Value) -> AuditPolicy {
        let value = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules});
        AuditPolicy::from_value(&value).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(json!([
            {"level": "None", "users": ["system:kube-proxy"], "verbs": ["watch"],
                "resources": [{"group": "", "resources": ["endpoints", "services"]}]},
            {"level": "None", "userGroups": ["system:authenticated"], "nonResourceURLs": ["/api*", "/version"]},
            {"level": "Request", "resources": [{"group": "", "resources": ["configmaps"]}], "namespaces": ["kube-system"]},
            {"level": "Metadata", "resources": [{"group": "", "resources": ["pods/log", "*/status", "nodes/*"]}]},
            {"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods"], "resourceNames": ["web"]}]},
            {"level": "Metadata", "omitStages": ["ResponseStarted"]},
        ]));
        let ann = User::authenticated("ann", ["dev"]);
        let proxy = User::authenticated("system:kube-proxy", [""; 0]);
        let level = |user: &User, verb: &str, namespace: &str, resource: &str, subresource: &str, name: &str| {
            let request = ResourceRequest {
                namespace,
                resource,
                subresource,
                name,
                ..ResourceRequest::default()
            };
            policy.decide(&Attributes::resource(user, verb, request)).level
        };
        assert_eq!(level(&proxy, "watch", "", "services", "", ""), Level::None);
        assert_eq!(level(&proxy, "list", "", "services", "", ""), Level::Metadata);
        assert_eq!(level(&ann, "watch", "", "services", "", ""), Level::Metadata);
        assert_eq!(level(&ann, "get", "kube-system", "configmaps", "", "x"), Level::Request);
        assert_eq!(level(&ann, "get", "d", "configmaps", "", "x"), Level::Metadata);
        assert_eq!(level(&ann, "get", "d", "pods", "log", "web"), Level::Metadata);
        assert_eq!(level(&ann, "get", "d", "pods", "", "web"), Level::RequestResponse);
        assert_eq!(level(&ann, "get", "d", "pods", "", "other"), Level::Metadata);
        assert_eq!(
            policy.decide(&Attributes::path(&ann, "get", "/apis/apps")).level,
            Level::None
        );
        let metrics = policy.decide(&Attributes::path(&ann, "get", "/metrics"));
        assert_eq!(
            (metrics.level, metrics.omit_stages.as_slice()),
            (
                Level::Metadata,
                [Stage::RequestReceived, Stage::ResponseStarted].as_slice()
            )
        );
        assert!(!metrics.records(Stage::RequestReceived) && metrics.records(Stage::ResponseComplete));
    }

    #[test]
    fn secrets_are_kept_out_unless_a_rule_names_them() {
        let wide = policy(json!([{"level": "RequestResponse"}]));
        let named = policy(
            json!([{"level": "Request", "resources": [{"group": "", "resources": ["secrets", "serviceaccounts/*"]}]}]),
        );
        let ann = User::authenticated("ann", [""; 0]);
        let level = |policy: &AuditPolicy, group: &str, resource: &str, subresource: &str| {
            let request = ResourceRequest {
                group,
                resource,
                subresource,
                ..ResourceRequest::default()
            };
            policy.decide(&Attributes::resource(&ann, "create", request)).level
        };
        assert_eq!(level(&wide, "", "secrets", ""), Level::Metadata);
        assert_eq!(level(&wide, "", "serviceaccounts", "token"), Level::Metadata);
        assert_eq!(
            level(&wide, "authentication.k8s.io", "tokenreviews", ""),
            Level::Metadata
        );
        assert_eq!(level(&wide, "", "serviceaccounts", ""), Level::RequestResponse);
        assert_eq!(level(&named, "", "secrets", ""), Level::Request);
        assert_eq!(level(&named, "", "serviceaccounts", "token"), Level::Metadata);
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused_with_its_place() {
        let with = |rules: Value| json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
        let cases = [
            (json!({"apiVersion": "v1"}), "apiVersion"),
            (with(json!([])), "no rules"),
            (with(json!([{"level": "All"}])), "rules[0].level"),
            (with(json!([{"level": "None", "omitStages": ["Never"]}])), "Never"),
            (
                with(json!([{"level": "None"}, {"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["d"]}])),
                "rules[1]",
            ),
            (with(json!([{"level": "None", "nonResourceURLs": ["/a*/b"]}])), "/a*/b"),
        ];
        for (value, expected) in cases {
            let text = AuditPolicy::from_value(&value).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}
