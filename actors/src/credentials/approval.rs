//! Which requests for certificates are approved without a person: those of nodes for their own client certificates, if who asks
//! may do so. After Kubernetes' `certificates/approver/sarapprove.go`. Pure; rights are asked by the caller.

use api::access::{Access, object_mut};
use protocol::UnixMillis;
use serde_json::{Value, json};

use super::requests::{NODE_CLIENT, Subject, asked, is_decided};

/// A request that is approved if its asker may create the subresource of certificate signing requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recognized {
    /// What the asker must be allowed to create.
    pub subresource: &'static str,
    /// What the approval says.
    message: &'static str,
}

/// What a request is, if it is one of those. `subject` reads its PEM.
pub fn recognized(request: &Value, subject: impl Fn(&str) -> Result<Subject, String>) -> Option<Recognized> {
    let order = asked(request).filter(|order| order.signer == NODE_CLIENT)?;
    if is_decided(request) {
        return None;
    }
    let subject = subject(&order.request_pem).ok()?;
    order.check(&subject).ok()?;
    Some(if order.requester == subject.common_name {
        Recognized {
            subresource: "selfnodeclient",
            message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
        }
    } else {
        Recognized {
            subresource: "nodeclient",
            message: "Auto approving kubelet client certificate after SubjectAccessReview.",
        }
    })
}

/// The question about the asker's right, as a SubjectAccessReview.
pub fn question(request: &Value, recognized: Recognized) -> Value {
    let spec = request.at(&["spec"]);
    json!({"spec": {
        "user": spec.text("username"), "uid": spec.text("uid"), "groups": spec.at(&["groups"]), "extra": spec.at(&["extra"]),
        "resourceAttributes": {
            "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests", "verb": "create",
            "subresource": recognized.subresource,
        },
    }})
}

/// The approved request.
pub fn approved(request: &Value, recognized: Recognized, now: UnixMillis) -> Value {
    let mut wanted = request.clone();
    let condition = json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": recognized.message,
        "lastUpdateTime": now.rfc3339(), "lastTransitionTime": now.rfc3339()});
    match &mut object_mut(&mut wanted, "status")["conditions"] {
        Value::Array(conditions) => conditions.push(condition),
        absent => *absent = json!([condition]),
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str, hosts: usize) -> Subject {
        Subject {
            common_name: name.to_owned(),
            organisations: vec!["system:nodes".to_owned()],
            hosts,
            others: 0,
        }
    }

    #[test]
    fn nodes_are_recognized_by_what_they_ask_for() {
        let request = |signer: &str, user: &str| {
            json!({"spec": {"signerName": signer, "username": user, "request": "", "groups": ["g"],
                "usages": ["digital signature", "client auth"]}})
        };
        let node = "system:node:n1";
        let of = |request: &Value, subject: Subject| {
            recognized(request, |_| Ok(subject.clone())).map(|recognized| recognized.subresource)
        };
        let own = request(NODE_CLIENT, node);
        assert_eq!(of(&own, subject(node, 0)), Some("selfnodeclient"));
        let bootstrap = request(NODE_CLIENT, "system:bootstrap:abc");
        assert_eq!(of(&bootstrap, subject(node, 0)), Some("nodeclient"));
        assert_eq!(of(&own, subject(node, 1)), None, "no hosts in a client's certificate");
        assert_eq!(
            of(&request("kubernetes.io/kubelet-serving", node), subject(node, 1)),
            None
        );
        assert_eq!(of(&own, subject("ann", 0)), None);
        assert_eq!(recognized(&own, |_| Err("no PEM".to_owned())), None);
        let known = recognized(&own, |_| Ok(subject(node, 0))).unwrap();
        let done = approved(&own, known, UnixMillis(0));
        assert_eq!(done["status"]["conditions"][0]["reason"], "AutoApproved");
        assert_eq!(of(&done, subject(node, 0)), None, "once");
        let asked = question(&own, known);
        assert_eq!(
            (
                &asked["spec"]["user"],
                &asked["spec"]["resourceAttributes"]["subresource"]
            ),
            (&json!(node), &json!("selfnodeclient"))
        );
    }
}
