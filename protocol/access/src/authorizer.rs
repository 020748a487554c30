//! The authorizers in their order: the masters may do everything; then the node authorizer; then RBAC. The first that allows
//! or denies decides. The gateway holds one of these, feeds it from its watches, and asks it once per request.

use api::Status;
use serde_json::Value;

use crate::attributes::{Attributes, ResourceRequest, Verdict, forbidden, forbidden_object};
use crate::node::NodeGraph;
use crate::rbac::Rbac;
use crate::user::{MASTERS, User};

/// The resources that the authorizers must be told of: API group and resource.
pub const WATCHED: [(&str, &str); 8] = [
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("", "pods"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
];

/// The API group of certificate signers.
const CERTIFICATES: &str = "certificates.k8s.io";

/// All that decides who may do what.
#[derive(Debug, Default)]
pub struct Authorizers {
    /// Roles and bindings.
    pub rbac: Rbac,
    /// What belongs to which node.
    pub nodes: NodeGraph,
}

impl Authorizers {
    /// Without an object: only the masters may do anything.
    pub fn new() -> Authorizers {
        Authorizers::default()
    }

    /// Takes an object of a watched resource as it is now; another one is ignored.
    pub fn upsert(&mut self, resource: &str, object: &Value) {
        self.rbac.upsert(resource, object);
        self.nodes.upsert(resource, object);
    }

    /// Forgets an object.
    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        self.rbac.remove(resource, namespace, name);
        self.nodes.remove(resource, namespace, name);
    }

    /// The verdict. Without an opinion, its reason holds those of all authorizers, one a line.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Verdict {
        if attributes.user.is_in(MASTERS) {
            return Verdict::Allow { reason: String::new() };
        }
        let node = self.nodes.authorize(attributes);
        if !matches!(node, Verdict::NoOpinion { .. }) {
            return node;
        }
        let rbac = self.rbac.authorize(attributes);
        match (node.reason(), rbac) {
            ("", rbac) => rbac,
            (_, rbac) if rbac.allows() => rbac,
            (first, Verdict::NoOpinion { reason }) if reason.is_empty() => Verdict::NoOpinion {
                reason: first.to_owned(),
            },
            (first, Verdict::NoOpinion { reason }) => Verdict::NoOpinion {
                reason: format!("{first}\n{reason}"),
            },
            (_, rbac) => rbac,
        }
    }

    /// Whether the request may go on, as the 403 that it gets if not.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.authorize(attributes) {
            Verdict::Allow { .. } => Ok(()),
            Verdict::NoOpinion { reason } | Verdict::Deny { reason } => Err(forbidden(attributes, &reason)),
        }
    }

    /// Whether the user may `approve`, `sign` or `attest` for a certificate signer: it must have the verb on the signer, or on
    /// all signers of its domain (`example.com/*`). `object` is the request that it acts on, for the refusal. After
    /// Kubernetes' CertificateApproval and CertificateSigning admission.
    pub fn check_signer(&self, user: &User, verb: &str, signer: &str, object: &str) -> Result<(), Status> {
        let domain = signer.split('/').next().unwrap_or_default();
        let holds = |name: &str| {
            let request = ResourceRequest {
                group: CERTIFICATES,
                version: "*",
                resource: "signers",
                name,
                ..ResourceRequest::default()
            };
            self.authorize(&Attributes::resource(user, verb, request)).allows()
        };
        if holds(signer) || holds(&format!("{domain}/*")) {
            return Ok(());
        }
        let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(forbidden_object(
            CERTIFICATES,
            "certificatesigningrequests",
            object,
            &why,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;
    use serde_json::json;

    #[test]
    fn a_signer_is_a_right_of_its_own() {
        let mut authorizers = Authorizers::new();
        for default in policy::defaults() {
            authorizers.upsert(default.resource, &default.object);
        }
        let bind = |name: &str, role: &str| {
            json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": name}]})
        };
        authorizers.upsert(
            "clusterrolebindings",
            &bind("ann", "system:certificates.k8s.io:kubelet-serving-approver"),
        );
        authorizers.upsert(
            "clusterroles",
            &json!({"metadata": {"name": "domain"}, "rules": [
            {"verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
                "resourceNames": ["example.com/*"]}]}),
        );
        authorizers.upsert("clusterrolebindings", &bind("bob", "domain"));
        let user = |name: &str| User::authenticated(name, [""; 0]);
        let may = |name: &str, signer: &str| authorizers.check_signer(&user(name), "approve", signer, "csr").is_ok();
        assert!(may("ann", "kubernetes.io/kubelet-serving") && !may("ann", "kubernetes.io/kube-apiserver-client"));
        assert!(may("bob", "example.com/x") && !may("bob", "example.org/x"));
        let error = authorizers
            .check_signer(&user("eve"), "approve", "example.com/x", "csr")
            .unwrap_err();
        assert_eq!(
            error.message,
            "certificatesigningrequests.certificates.k8s.io \"csr\" is forbidden: user not permitted to approve requests with \
             signerName \"example.com/x\""
        );
    }

    #[test]
    fn the_first_authorizer_that_allows_decides_and_reasons_add_up() {
        let mut authorizers = Authorizers::new();
        let pods = ResourceRequest {
            namespace: "d",
            resource: "secrets",
            name: "s",
            ..ResourceRequest::default()
        };
        let node = User::node("n1");
        authorizers.upsert(
            "rolebindings",
            &json!({"metadata": {"namespace": "d", "name": "b"},
            "roleRef": {"kind": "Role", "name": "gone"}, "subjects": [{"kind": "Group", "name": "system:nodes"}]}),
        );
        let verdict = authorizers.authorize(&Attributes::resource(&node, "get", pods));
        assert_eq!(
            verdict.reason(),
            "no relationship found between node 'n1' and this object\nRBAC: role.rbac.authorization.k8s.io \"gone\" not found"
        );
        authorizers.upsert(
            "roles",
            &json!({"metadata": {"namespace": "d", "name": "gone"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}),
        );
        assert!(
            authorizers
                .authorize(&Attributes::resource(&node, "get", pods))
                .allows()
        );
        let root = User::authenticated("root", [MASTERS]);
        assert!(
            Authorizers::new()
                .check(&Attributes::resource(&root, "delete", pods))
                .is_ok()
        );
    }
}
