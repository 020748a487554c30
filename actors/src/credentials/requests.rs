//! CertificateSigningRequests to the signers that every cluster has: what an approved request is given, or why it fails. After
//! Kubernetes' `apis/certificates/v1/helpers.go` and its signer. What stands in the request's PEM is read by the `Signer`, who
//! has the key; here it comes as a subject.

use api::access::{Access, object_mut};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::UnixMillis;
use serde_json::{Value, json};

/// For clients of the API.
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// For nodes as clients of the API.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// For what nodes serve.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The longest life of a certificate, and what one gets that asks for none: a year.
const SECONDS_MAX: u64 = 365 * 24 * 3600;
const SECONDS_MIN: u64 = 600;
/// Members of this group may do everything; nobody becomes one by a request.
const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// What a request's PEM says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name: the user.
    pub common_name: String,
    /// The organisations: its groups.
    pub organisations: Vec<String>,
    /// How many names of DNS and addresses it wants.
    pub hosts: usize,
    /// How many other alternative names.
    pub others: usize,
}

/// A certificate to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The request, PEM.
    pub request_pem: String,
    /// Who is asked.
    pub signer: String,
    /// Who asked.
    pub requester: String,
    /// For what.
    pub usages: Vec<String>,
    /// For how long, in seconds.
    pub seconds: u64,
}

fn has_condition(request: &Value, kind: &str) -> bool {
    let mut conditions = request.at(&["status"]).items("conditions").iter();
    conditions.any(|condition| condition.text("type") == kind)
}

/// Whether a person or a rule has approved or denied a request.
pub fn is_decided(request: &Value) -> bool {
    has_condition(request, "Approved") || has_condition(request, "Denied")
}

/// What is to be signed of a request; `None` when nothing is: it is not approved, is done, or has another signer.
pub fn order(request: &Value) -> Option<Order> {
    asked(request).filter(|_| has_condition(request, "Approved") && !has_condition(request, "Denied"))
}

/// What a request that is not done asks of one of the cluster's signers, approved or not.
pub fn asked(request: &Value) -> Option<Order> {
    let (spec, status) = (request.at(&["spec"]), request.at(&["status"]));
    let signer = spec.text("signerName");
    let ours = [API_CLIENT, NODE_CLIENT, NODE_SERVING].contains(&signer);
    if !ours || has_condition(request, "Failed") || !status.text("certificate").is_empty() {
        return None;
    }
    let bytes = STANDARD.decode(spec.text("request")).unwrap_or_default();
    let seconds = spec
        .int("expirationSeconds")
        .and_then(|seconds| u64::try_from(seconds).ok());
    let usages = spec.items("usages").iter().filter_map(Value::as_str);
    Some(Order {
        request_pem: String::from_utf8_lossy(&bytes).into_owned(),
        signer: signer.to_owned(),
        requester: spec.text("username").to_owned(),
        usages: usages.map(str::to_owned).collect(),
        seconds: seconds.unwrap_or(SECONDS_MAX).clamp(SECONDS_MIN, SECONDS_MAX),
    })
}

impl Order {
    /// Whether the signer signs this, by Kubernetes' rules for it. The words are Kubernetes' where it has some.
    pub fn check(&self, subject: &Subject) -> Result<(), String> {
        let required = if self.signer == NODE_SERVING {
            "server auth"
        } else {
            "client auth"
        };
        let allowed = ["digital signature", "key encipherment", required];
        let has = |usage: &str| self.usages.iter().any(|known| known == usage);
        if !has(required) {
            return Err(format!("usages did not include {required:?}"));
        }
        if let Some(foreign) = self.usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
            return Err(format!("invalid usage for {} certificate: {foreign:?}", required));
        }
        if subject.organisations.iter().any(|group| group == MASTERS) {
            return Err(format!(
                "use of {} signer with {MASTERS} group is not allowed",
                self.signer
            ));
        }
        if self.signer == API_CLIENT {
            return Ok(());
        }
        if subject.organisations != [NODES] {
            return Err(format!("subject organization is not {NODES}"));
        }
        if !subject.common_name.starts_with(NODE_PREFIX) {
            return Err(format!("subject common name does not begin with {NODE_PREFIX}"));
        }
        if subject.others > 0 {
            return Err("email and URI subjectAltNames are not allowed".to_owned());
        }
        match (self.signer == NODE_SERVING, subject.hosts) {
            (true, 0) => Err("DNS or IP subjectAltName is required".to_owned()),
            (true, _) if subject.common_name != self.requester => {
                Err("a node asks for a serving certificate of its own name only".to_owned())
            }
            (false, 1..) => Err("DNS and IP subjectAltNames are not allowed".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The request with its certificate, PEM.
pub fn signed(request: &Value, certificate_pem: &str) -> Value {
    let mut wanted = request.clone();
    object_mut(&mut wanted, "status")["certificate"] = STANDARD.encode(certificate_pem).into();
    wanted
}

/// The request with why it failed.
pub fn failed(request: &Value, why: &str, now: UnixMillis) -> Value {
    let mut wanted = request.clone();
    let condition = json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
        "lastUpdateTime": now.rfc3339(), "lastTransitionTime": now.rfc3339()});
    let status = object_mut(&mut wanted, "status");
    match &mut status["conditions"] {
        Value::Array(conditions) => conditions.push(condition),
        absent => *absent = json!([condition]),
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(signer: &str, conditions: Value) -> Value {
        json!({"spec": {"signerName": signer, "request": STANDARD.encode("PEM"), "username": "system:node:n1",
            "usages": ["client auth"], "expirationSeconds": 5}, "status": {"conditions": conditions}})
    }

    #[test]
    fn only_approved_requests_to_known_signers_are_signed_once() {
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let order_of = order(&request(API_CLIENT, approved.clone())).unwrap();
        assert_eq!((order_of.request_pem.as_str(), order_of.seconds), ("PEM", 600));
        assert_eq!(order(&request("example.com/x", approved.clone())), None);
        assert_eq!(order(&request(API_CLIENT, json!([]))), None);
        let done = signed(&request(API_CLIENT, approved.clone()), "CERT");
        assert_eq!(order(&done), None);
        let failed = failed(&request(API_CLIENT, approved), "no", UnixMillis(0));
        assert_eq!(failed["status"]["conditions"][1]["reason"], "SignerValidationFailure");
        assert_eq!(order(&failed), None);
    }

    #[test]
    fn each_signer_has_its_rules() {
        let subject = |name: &str, groups: &[&str], hosts: usize| Subject {
            common_name: name.to_owned(),
            organisations: groups.iter().map(|group| (*group).to_owned()).collect(),
            hosts,
            others: 0,
        };
        let check = |signer: &str, usages: &[&str], subject: &Subject| {
            let approved = json!([{"type": "Approved", "status": "True"}]);
            let mut order = order(&request(signer, approved)).unwrap();
            order.usages = usages.iter().map(|usage| (*usage).to_owned()).collect();
            order.check(subject).is_ok()
        };
        let client = ["client auth", "digital signature"];
        let node = subject("system:node:n1", &["system:nodes"], 0);
        let cases = [
            (API_CLIENT, &client[..], subject("ann", &["dev"], 0), true),
            (API_CLIENT, &["server auth"], subject("ann", &["dev"], 0), false),
            (API_CLIENT, &["client auth", "cert sign"], subject("ann", &[], 0), false),
            (
                API_CLIENT,
                &client,
                subject("ann", &["dev", "system:masters"], 0),
                false,
            ),
            (NODE_CLIENT, &client, node.clone(), true),
            (
                NODE_CLIENT,
                &client,
                subject("system:node:n1", &["system:nodes"], 1),
                false,
            ),
            (NODE_CLIENT, &client, subject("n1", &["system:nodes"], 0), false),
            (
                NODE_SERVING,
                &["server auth"],
                subject("system:node:n1", &["system:nodes"], 1),
                true,
            ),
            (NODE_SERVING, &["server auth"], node, false),
            (
                NODE_SERVING,
                &["server auth"],
                subject("system:node:n2", &["system:nodes"], 1),
                false,
            ),
        ];
        for (signer, usages, subject, expected) in cases {
            assert_eq!(
                check(signer, usages, &subject),
                expected,
                "{signer} {usages:?} {subject:?}"
            );
        }
    }
}
