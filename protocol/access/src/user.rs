//! Who asks: the identity that authentication proves and everything else decides by, and the names and groups that Kubernetes
//! gives a meaning to. The gateway makes a `User` from a certificate, a token or nothing; authorization, impersonation,
//! audit and flow control read it. It must never hold a credential.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Every user that showed a credential.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// Every user that showed none.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything; no rule can take that from it.
pub const MASTERS: &str = "system:masters";
/// The group of the nodes' agents.
pub const NODES: &str = "system:nodes";
/// The group of all ServiceAccounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The name of a user without a credential.
pub const ANONYMOUS: &str = "system:anonymous";
/// The API server itself, as a client.
pub const API_SERVER: &str = "system:apiserver";
/// The controllers' common user.
pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// The scheduler.
pub const SCHEDULER: &str = "system:kube-scheduler";
/// The service proxy of a node.
pub const PROXY: &str = "system:kube-proxy";
/// The group that bootstrap tokens prove, and the prefix of groups that they may add.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// The prefix of a node's user name: `system:node:n1`.
pub const NODE_PREFIX: &str = "system:node:";
/// The prefix of a ServiceAccount's user name: `system:serviceaccount:NAMESPACE:NAME`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The prefix of the group of a namespace's ServiceAccounts.
pub const SERVICE_ACCOUNT_GROUP_PREFIX: &str = "system:serviceaccounts:";
/// The prefix of a bootstrap token's user name.
pub const BOOTSTRAP_PREFIX: &str = "system:bootstrap:";

/// The key of `extra` with the id of the credential: `JTI=...` for tokens, `X509SHA256=...` for certificates.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The key of `extra` with the name of the pod that a token is bound to.
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// The key of `extra` with the uid of the pod that a token is bound to.
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The key of `extra` with the name of the node that a token is bound to.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The key of `extra` with the uid of the node that a token is bound to.
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// What a user carries besides name, uid and groups; keys are lower case.
pub type Extra = BTreeMap<String, Vec<String>>;

/// Who asks: `authentication.k8s.io/v1` UserInfo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// `kubernetes-admin`, `system:node:n1`.
    #[serde(rename = "username", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Unique over time, where the authenticator knows one; else empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Groups, in the order in which the authenticator gave them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The rest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: Extra,
}

impl User {
    /// A user that showed a credential for this name and these groups; `system:authenticated` is added.
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> User {
        let mut user = User {
            name: name.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..User::default()
        };
        user.add_group(ALL_AUTHENTICATED);
        user
    }

    /// The holder of a client certificate: its common name, its organizations as groups, and the SHA-256 of its DER.
    pub fn of_certificate(
        common_name: &str,
        organizations: impl IntoIterator<Item = impl Into<String>>,
        sha256: &[u8; 32],
    ) -> User {
        let mut user = User::authenticated(common_name, organizations);
        let id = format!("X509SHA256={}", hex::encode(sha256));
        user.extra.insert(CREDENTIAL_ID.to_owned(), vec![id]);
        user
    }

    /// A user without a credential.
    pub fn anonymous() -> User {
        User {
            name: ANONYMOUS.to_owned(),
            groups: vec![ALL_UNAUTHENTICATED.to_owned()],
            ..User::default()
        }
    }

    /// A ServiceAccount with the groups that it always has.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
        User {
            name: service_account_name(namespace, name),
            uid: uid.to_owned(),
            groups: service_account_groups(namespace)
                .into_iter()
                .chain([ALL_AUTHENTICATED.to_owned()])
                .collect(),
            extra: Extra::new(),
        }
    }

    /// A node's agent.
    pub fn node(name: &str) -> User {
        User::authenticated(format!("{NODE_PREFIX}{name}"), [NODES])
    }

    /// Whether it is in the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Adds a group unless it is there.
    pub fn add_group(&mut self, group: &str) {
        if !self.is_in(group) {
            self.groups.push(group.to_owned());
        }
    }

    /// Namespace and name of the ServiceAccount that this user is.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }

    /// The node whose agent this is: a name `system:node:NAME` in the group `system:nodes`. The name may be empty, which
    /// names no node: such a user is refused whatever a node may do.
    pub fn as_node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.is_in(NODES).then_some(name)
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of a namespace's ServiceAccounts.
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    [
        SERVICE_ACCOUNTS.to_owned(),
        format!("{SERVICE_ACCOUNT_GROUP_PREFIX}{namespace}"),
    ]
}

/// Namespace and name from a ServiceAccount's user name. Both must be there, and neither may hold a colon or a slash:
/// a name that an attacker chose must not read as another account's.
pub fn split_service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let plain = |part: &str| !part.is_empty() && !part.contains([':', '/']);
    (plain(namespace) && plain(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_known_by_its_name() {
        let cases = [
            ("system:serviceaccount:default:web", Some(("default", "web"))),
            ("system:serviceaccount:default:", None),
            ("system:serviceaccount::web", None),
            ("system:serviceaccount:a:b:c", None),
            ("system:serviceaccount:a", None),
            ("serviceaccount:a:b", None),
        ];
        for (name, expected) in cases {
            assert_eq!(split_service_account(name), expected, "{name}");
        }
        let account = User::service_account("default", "web", "u1");
        assert_eq!(account.as_service_account(), Some(("default", "web")));
        let groups = [SERVICE_ACCOUNTS, "system:serviceaccounts:default", ALL_AUTHENTICATED];
        assert_eq!(account.groups, groups);
    }

    #[test]
    fn a_node_needs_both_name_and_group() {
        assert_eq!(User::node("n1").as_node(), Some("n1"));
        assert_eq!(User::authenticated("system:node:n1", ["x"]).as_node(), None);
        assert_eq!(User::authenticated("n1", [NODES]).as_node(), None);
        assert_eq!(User::node("").as_node(), Some(""));
    }

    #[test]
    fn a_certificate_names_user_groups_and_itself() {
        let user = User::of_certificate("ann", ["dev", "dev2"], &[0xab; 32]);
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("ann", ["dev", "dev2", ALL_AUTHENTICATED].map(str::to_owned).as_slice())
        );
        assert_eq!(user.extra[CREDENTIAL_ID], [format!("X509SHA256={}", "ab".repeat(32))]);
    }

    #[test]
    fn user_info_is_written_as_kubernetes_writes_it() {
        let mut user = User::authenticated("ann", ["dev"]);
        user.extra.insert("scopes".into(), vec!["a".into()]);
        let text = serde_json::to_value(&user).unwrap();
        assert_eq!(
            text,
            serde_json::json!({"username": "ann", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["a"]}})
        );
        assert_eq!(serde_json::from_value::<User>(text).unwrap(), user);
    }
}
