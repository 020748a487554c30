//! Objects of any shape: clients, disks and peers may send what they like, and nothing here may panic at it.

use std::collections::BTreeMap;

use access::audit::AuditPolicy;
use access::flow::{FlowControl, FlowLimits, Micros};
use access::node::{NodeWrite, Operation, needed, restrict};
use access::rbac::{RbacWrite, RoleChange};
use access::token::{BootstrapToken, Issue, IssuePolicy, TokenAsked, respond};
use access::{Attributes, Authorizers, ResourceRequest, User, impersonation, policy, review};
use proptest::prelude::*;
use protocol::UnixMillis;
use serde_json::{Map, Value};

/// Names that the code looks for, so that a random object gets deep into it.
const NAMES: [&str; 40] = [
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "spec",
    "status",
    "rules",
    "verbs",
    "apiGroups",
    "resources",
    "resourceNames",
    "nonResourceURLs",
    "roleRef",
    "subjects",
    "kind",
    "apiVersion",
    "aggregationRule",
    "clusterRoleSelectors",
    "matchLabels",
    "matchExpressions",
    "operator",
    "nodeName",
    "volumes",
    "secret",
    "secretName",
    "containers",
    "env",
    "boundObjectRef",
    "expirationSeconds",
    "audiences",
    "resourceAttributes",
    "limited",
    "limitResponse",
    "queuing",
    "queues",
    "type",
    "level",
    "data",
    "ownerReferences",
];

const TEXTS: [&str; 12] = [
    "",
    "*",
    "x",
    "User",
    "ServiceAccount",
    "ClusterRole",
    "Pod",
    "v1",
    "Limited",
    "Queue",
    "None",
    "audit.k8s.io/v1",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::sample::select(TEXTS.as_slice()).prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(NAMES.as_slice()), inner), 0..6).prop_map(|members| {
                members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<Map<_, _>>()
                    .into()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_is_taken_or_refused(first in any_value(), second in any_value()) {
        let (user, node) = (User::authenticated("ann", ["dev"]), User::node("x"));
        let mut authorizers = Authorizers::new();
        for (_, resource) in access::authorizer::WATCHED {
            authorizers.upsert(resource, &first);
            authorizers.upsert(resource, &second);
        }
        let request = ResourceRequest { namespace: "x", resource: "x", name: "x", ..ResourceRequest::default() };
        for user in [&user, &node] {
            let _ = authorizers.check(&Attributes::resource(user, "get", request));
            let _ = review::subject_access_review(&first, &authorizers);
            let _ = review::local_subject_access_review(&first, "x", &authorizers);
            let _ = review::self_subject_access_review(&first, user, &authorizers);
            let _ = review::self_subject_rules_review(&first, user, &authorizers);
            let _ = review::self_subject_review(&first, user);
            let _ = review::token_review_asks(&first);
        }
        for resource in ["roles", "clusterroles", "rolebindings", "clusterrolebindings"] {
            let change = RoleChange { new: &first, old: Some(&second) };
            let _ = authorizers.rbac.check_write(&RbacWrite { user: &user, resource, namespace: "x", name: "x", change });
        }
        for default in policy::defaults() {
            let _ = policy::reconcile(Some(&first), default);
        }
        for (_, resource) in access::authorizer::WATCHED {
            for name in ["", "x"] {
                authorizers.remove(resource, "", name);
                authorizers.remove(resource, "x", name);
            }
        }
    }

    #[test]
    fn any_write_of_a_node_is_judged(new in any_value(), old in any_value(), related in any_value()) {
        let user = User::node("x");
        for (group, resource, subresource) in [
            ("", "pods", ""), ("", "pods", "status"), ("", "pods", "eviction"), ("", "nodes", ""),
            ("", "persistentvolumeclaims", "status"), ("", "serviceaccounts", "token"),
            ("coordination.k8s.io", "leases", ""), ("storage.k8s.io", "csinodes", ""), ("resource.k8s.io", "resourceslices", ""),
        ] {
            for operation in [Operation::Create, Operation::Update, Operation::Delete] {
                let write = NodeWrite {
                    user: &user, operation, group, resource, subresource, namespace: "x", name: "x",
                    new: &new, old: &old, related: Some(&related),
                };
                let _ = (needed(&write), restrict(&write));
            }
        }
    }

    #[test]
    fn any_request_for_a_token_is_answered(body in any_value(), account in any_value(), bound in any_value()) {
        let policy = IssuePolicy { extend: true, ..IssuePolicy::default() };
        let now = UnixMillis(1_700_000_000_000);
        if let Ok(asked) = TokenAsked::read(&body, &policy) {
            let issue = Issue { account: &account, bound: Some(&bound), node: Some(&bound), id: "x", now };
            let _ = asked.claims(&policy, &issue);
            let _ = respond(&body, &asked, "x", now);
        }
        if let Some(token) = BootstrapToken::parse("abcdef.0123456789abcdef") {
            prop_assert!(token.authenticate(Some(&bound), now).is_err());
        }
    }

    #[test]
    fn any_policy_is_read_or_refused(value in any_value()) {
        let mut whole = serde_json::json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy"});
        whole["rules"] = serde_json::json!([value, {"level": "Request"}]);
        let user = User::anonymous();
        if let Ok(policy) = AuditPolicy::from_value(&whole) {
            let _ = policy.decide(&Attributes::path(&user, "get", "/x"));
        }
    }

    #[test]
    fn any_flow_object_is_taken(first in any_value(), second in any_value()) {
        let mut control = FlowControl::new(FlowLimits { seats: 10, wait_max: 1000 });
        let mut effects = Vec::new();
        for value in [&first, &second] {
            control.upsert(Micros(0), "flowschemas", value, &mut effects);
            control.upsert(Micros(0), "prioritylevelconfigurations", value, &mut effects);
        }
        let user = User::anonymous();
        let _ = control.classify(&Attributes::path(&user, "get", "/x"));
    }

    #[test]
    fn any_headers_are_read(headers in proptest::collection::btree_map("[Ii]mpersonate-[A-Za-z%-]{0,12}", "[ -~]{0,10}", 0..6)) {
        let headers: BTreeMap<String, String> = headers;
        let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let _ = impersonation::impersonation(pairs);
    }
}
