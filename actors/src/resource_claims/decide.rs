//! What becomes of ResourceClaims, after Kubernetes' `pkg/controller/resourceclaim`: claims of templates are made for pods and
//! named in their status, a claim is taken from pods that are over, and freed with its last one. Pure: whole objects in, whole
//! objects out.

use api::access::{Access, object_mut, remove};
use serde_json::{Value, json};

/// Which entry of a pod a generated claim is for.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps an allocated claim from vanishing; the scheduler puts it there.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How long the part of a generated name before its random suffix may be.
const GENERATED_BASE_BYTES_MAX: usize = 63 - 5;

/// Whether a pod will never run any more.
pub fn is_over(pod: &Value) -> bool {
    let ended = matches!(pod.at(&["status"]).text("phase"), "Succeeded" | "Failed");
    let never_began = pod.at(&["spec"]).text("nodeName").is_empty();
    ended || never_began && pod.at(&["metadata"]).has("deletionTimestamp")
}

/// Whether the claim belongs to this very pod.
pub fn is_owned_by(claim: &Value, pod: &Value) -> bool {
    let uid = pod.at(&["metadata"]).text("uid");
    owner(claim).is_some_and(|owner| owner.text("uid") == uid && !uid.is_empty())
}

/// The pod for which a claim was made.
pub fn owner(claim: &Value) -> Option<&Value> {
    let mut owners = claim.at(&["metadata"]).items("ownerReferences").iter();
    owners.find(|owner| owner.flag("controller") && owner.text("kind") == "Pod" && owner.text("apiVersion") == "v1")
}

/// The templates that a pod's claims are still to be made from: entry and template. What its status names is made.
pub fn missing(pod: &Value) -> Vec<(&str, &str)> {
    if is_over(pod) || pod.at(&["metadata"]).has("deletionTimestamp") {
        return Vec::new();
    }
    let made = pod.at(&["status"]).items("resourceClaimStatuses");
    let entries = pod.at(&["spec"]).items("resourceClaims").iter();
    entries
        .map(|entry| (entry.text("name"), entry.text("resourceClaimTemplateName")))
        .filter(|(_, template)| !template.is_empty())
        .filter(|(name, _)| !made.iter().any(|made| made.text("name") == *name))
        .collect()
}

/// The claim of a pod's entry, to be created.
pub fn claim_of(pod: &Value, entry: &str, template: &Value) -> Value {
    let metadata = pod.at(&["metadata"]);
    let wanted = template.at(&["spec"]);
    let mut annotations = wanted.at(&["metadata", "annotations"]).clone();
    if !annotations.is_object() {
        annotations = json!({});
    }
    annotations[POD_CLAIM_NAME] = entry.into();
    let mut base = format!("{}-{entry}", metadata.text("name"));
    let mut end = base.len().min(GENERATED_BASE_BYTES_MAX - 1);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    base.truncate(end);
    let mut claim = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {
            "generateName": format!("{base}-"), "namespace": metadata.text("namespace"), "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": metadata.text("name"), "uid": metadata.text("uid"),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": wanted.at(&["spec"]),
    });
    let labels = wanted.at(&["metadata", "labels"]);
    if labels.is_object() {
        claim["metadata"]["labels"] = labels.clone();
    }
    claim
}

/// The pod with the names of its claims.
pub fn told(pod: &Value, names: &[(String, String)]) -> Value {
    let mut wanted = pod.clone();
    let list = &mut object_mut(&mut wanted, "status")["resourceClaimStatuses"];
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.extend(
            names
                .iter()
                .map(|(entry, name)| json!({"name": entry, "resourceClaimName": name})),
        );
    }
    wanted
}

/// What a claim's consumers are to this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// It runs or will run, or nobody knows: it keeps the claim.
    Stays,
    /// It is gone or over.
    Gone,
}

/// What is to be done about a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is as it should be.
    Nothing,
    /// It is to be written so.
    Write(Box<Value>),
    /// It was made for a pod that will not use it any more.
    Remove,
}

/// Takes a claim from consumers that are gone; frees what was allocated with the last of them, and removes a claim that was
/// made for a pod which is over.
pub fn step(claim: &Value, consumer: impl Fn(&Value) -> Consumer, owner_is_over: bool) -> Step {
    let reserved = claim.at(&["status"]).items("reservedFor");
    let kept: Vec<Value> = reserved
        .iter()
        .filter(|one| consumer(one) == Consumer::Stays)
        .cloned()
        .collect();
    let finalizers = claim.at(&["metadata"]).items("finalizers");
    let is_protected = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    let is_deleting = claim.at(&["metadata"]).has("deletionTimestamp");
    let changed = kept.len() != reserved.len();
    let frees = kept.is_empty() && is_protected && (changed || is_deleting);
    if !changed && !frees {
        return if kept.is_empty() && owner_is_over && !is_deleting {
            Step::Remove
        } else {
            Step::Nothing
        };
    }
    let mut wanted = claim.clone();
    let status = object_mut(&mut wanted, "status");
    if kept.is_empty() {
        remove(status, "reservedFor");
    } else {
        status["reservedFor"] = kept.into();
    }
    if frees {
        remove(status, "allocation");
        remove(status, "devices");
        let metadata = object_mut(&mut wanted, "metadata");
        if let Some(list) = metadata["finalizers"].as_array_mut() {
            list.retain(|finalizer| finalizer != FINALIZER);
        }
        if metadata.items("finalizers").is_empty() {
            remove(metadata, "finalizers");
        }
    }
    Step::Write(Box::new(wanted))
}

/// The claim with a pod among its consumers: a pod that was bound without the scheduler. `None` when it is one already, or
/// the claim is not allocated.
pub fn reserved(claim: &Value, pod: &Value) -> Option<Value> {
    let metadata = pod.at(&["metadata"]);
    let consumers = claim.at(&["status"]).items("reservedFor");
    let is_one = consumers.iter().any(|one| one.text("uid") == metadata.text("uid"));
    if is_one || !claim.at(&["status"]).has("allocation") || claim.at(&["metadata"]).has("deletionTimestamp") {
        return None;
    }
    let mut wanted = claim.clone();
    let mut all = consumers.to_vec();
    all.push(json!({"resource": "pods", "name": metadata.text("name"), "uid": metadata.text("uid")}));
    object_mut(&mut wanted, "status")["reservedFor"] = all.into();
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"nodeName": "n", "resourceClaims": [
                {"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "own", "resourceClaimName": "c"},
            ]},
            "status": status,
        })
    }

    #[test]
    fn a_claim_is_made_of_the_template_once() {
        let fresh = pod(json!({}));
        assert_eq!(missing(&fresh), [("gpu", "t")]);
        let template = json!({"spec": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}},
            "spec": {"devices": {"requests": [{"name": "r"}]}},
        }});
        let claim = claim_of(&fresh, "gpu", &template);
        assert_eq!(claim["metadata"]["generateName"], "p-gpu-");
        assert_eq!(
            claim["metadata"]["annotations"],
            json!({"x": "y", POD_CLAIM_NAME: "gpu"})
        );
        assert_eq!(
            (
                &claim["metadata"]["labels"]["a"],
                &claim["spec"]["devices"]["requests"][0]["name"]
            ),
            (&json!("b"), &json!("r"))
        );
        assert!(is_owned_by(&claim, &fresh));
        let named = told(&fresh, &[("gpu".into(), "p-gpu-x".into())]);
        assert!(missing(&named).is_empty());
        assert_eq!(
            named["status"]["resourceClaimStatuses"][0]["resourceClaimName"],
            "p-gpu-x"
        );
        assert!(missing(&pod(json!({"phase": "Failed"}))).is_empty());
        let mut long = fresh.clone();
        long["metadata"]["name"] = "x".repeat(80).into();
        assert_eq!(
            claim_of(&long, "gpu", &template)["metadata"]["generateName"]
                .as_str()
                .unwrap()
                .len(),
            58
        );
    }

    #[test]
    fn a_claim_goes_with_its_last_consumer() {
        let claim = |consumers: Value, deleting: bool| {
            let mut claim = json!({
                "metadata": {"name": "c", "finalizers": [FINALIZER, "x/y"]},
                "status": {"allocation": {"devices": {}}, "reservedFor": consumers},
            });
            if deleting {
                claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            claim
        };
        let (a, b) = (
            json!({"resource": "pods", "uid": "a"}),
            json!({"resource": "pods", "uid": "b"}),
        );
        let a_goes = |one: &Value| {
            if one["uid"] == "a" {
                Consumer::Gone
            } else {
                Consumer::Stays
            }
        };
        let Step::Write(left) = step(&claim(json!([a, b]), false), a_goes, false) else {
            panic!()
        };
        assert_eq!(
            (&left["status"]["reservedFor"], left["status"]["allocation"].is_object()),
            (&json!([b]), true)
        );
        let Step::Write(freed) = step(&claim(json!([a]), false), a_goes, true) else {
            panic!()
        };
        assert_eq!(
            *freed,
            json!({"metadata": {"name": "c", "finalizers": ["x/y"]}, "status": {}})
        );
        assert_eq!(
            step(&freed, a_goes, true),
            Step::Remove,
            "next, for it was made for that pod"
        );
        assert_eq!(step(&freed, a_goes, false), Step::Nothing);
        assert_eq!(
            step(&claim(json!([b]), true), a_goes, true),
            Step::Nothing,
            "still in use"
        );
        assert!(
            matches!(step(&claim(json!([]), true), a_goes, false), Step::Write(_)),
            "deletion waits for this"
        );
        let late = reserved(&claim(json!([b]), false), &pod(json!({}))).unwrap();
        assert_eq!(
            late["status"]["reservedFor"][1],
            json!({"resource": "pods", "name": "p", "uid": "u"})
        );
        assert_eq!(reserved(&late, &pod(json!({}))), None);
    }
}
