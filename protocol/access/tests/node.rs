//! What a node's agent may do: the relations that its pods make, the requests that follow from them, and what it may write.

use access::node::{NodeGraph, NodeWrite, Operation, Related, needed, restrict};
use access::{Attributes, Authorizers, ResourceRequest, User};
use proptest::prelude::*;
use protocol::selector::FieldSelector;
use serde_json::{Value, json};

static NULL: Value = Value::Null;

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"namespace": "d", "name": name, "uid": format!("uid-{name}")}, "spec": {
        "nodeName": node, "serviceAccountName": "web",
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"envFrom": [{"configMapRef": {"name": "init-env"}}]}],
        "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env-secret"}}}]}],
        "volumes": [
            {"name": "a", "secret": {"secretName": "vol-secret"}},
            {"name": "b", "projected": {"sources": [{"configMap": {"name": "projected"}}]}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "d", "ephemeral": {}},
        ],
    }})
}

fn volume() -> Value {
    json!({"metadata": {"name": "pv"}, "spec": {
        "claimRef": {"namespace": "d", "name": "claim"},
        "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "stage"},
                "controllerPublishSecretRef": {"namespace": "storage", "name": "controller"}}}})
}

fn cluster() -> Authorizers {
    let mut authorizers = Authorizers::new();
    authorizers.upsert("pods", &pod("p", "n1"));
    authorizers.upsert("pods", &pod("waiting", ""));
    authorizers.upsert("persistentvolumes", &volume());
    authorizers.upsert(
        "volumeattachments",
        &json!({"metadata": {"name": "att"}, "spec": {"nodeName": "n1"}}),
    );
    authorizers
}

/// Verb, group, resource, subresource, namespace, name.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// What the pod on n1, its volume and the node's own objects make readable and writable for n1 alone.
const RELATED: &[Row] = &[
    ("get", "", "secrets", "", "d", "pull"),
    ("get", "", "secrets", "", "d", "env-secret"),
    ("watch", "", "secrets", "", "d", "vol-secret"),
    ("get", "", "secrets", "", "storage", "stage"),
    ("get", "", "configmaps", "", "d", "init-env"),
    ("list", "", "configmaps", "", "d", "projected"),
    ("get", "", "persistentvolumeclaims", "", "d", "claim"),
    ("get", "", "persistentvolumeclaims", "", "d", "p-d"),
    ("patch", "", "persistentvolumeclaims", "status", "d", "claim"),
    ("get", "", "persistentvolumes", "", "", "pv"),
    ("create", "", "serviceaccounts", "token", "d", "web"),
    ("get", "", "pods", "", "d", "p"),
    ("get", "storage.k8s.io", "volumeattachments", "", "", "att"),
    ("get", "", "nodes", "", "", "n1"),
    ("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"),
    ("get", "storage.k8s.io", "csinodes", "", "", "n1"),
];

/// What no node may.
const UNRELATED: &[Row] = &[
    ("get", "", "secrets", "", "d", "other"),
    ("get", "", "secrets", "", "e", "pull"),
    ("list", "", "secrets", "", "d", ""),
    ("list", "", "secrets", "", "", ""),
    ("update", "", "secrets", "", "d", "pull"),
    ("get", "", "secrets", "", "storage", "controller"),
    ("update", "", "persistentvolumeclaims", "", "d", "claim"),
    ("list", "", "persistentvolumes", "", "", ""),
    ("create", "", "serviceaccounts", "token", "d", "admin"),
    ("create", "", "serviceaccounts", "", "d", ""),
    ("list", "", "pods", "", "", ""),
    ("get", "", "pods", "", "d", "waiting"),
    ("update", "", "pods", "", "d", "p"),
    ("create", "", "pods", "exec", "d", "p"),
    ("list", "", "nodes", "", "", ""),
    ("delete", "", "nodes", "", "", "n1"),
    ("get", "coordination.k8s.io", "leases", "", "d", "n1"),
    ("create", "apps", "deployments", "", "d", ""),
    ("create", "rbac.authorization.k8s.io", "clusterroles", "", "", ""),
];

/// What every node may.
const OF_ALL: &[Row] = &[
    ("list", "", "services", "", "", ""),
    ("create", "", "events", "", "d", ""),
    (
        "create",
        "certificates.k8s.io",
        "certificatesigningrequests",
        "",
        "",
        "",
    ),
    ("create", "", "pods", "eviction", "d", "p"),
    ("patch", "", "pods", "status", "d", "p"),
    ("create", "", "nodes", "", "", ""),
    ("get", "node.k8s.io", "runtimeclasses", "", "", "x"),
];

#[test]
fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
    let authorizers = cluster();
    let may = |node: &str, (verb, group, resource, subresource, namespace, name): Row| {
        let request = ResourceRequest {
            namespace,
            group,
            version: "v1",
            resource,
            subresource,
            name,
            fields: &[],
        };
        let user = User::node(node);
        authorizers
            .authorize(&Attributes::resource(&user, verb, request))
            .allows()
    };
    for case in RELATED {
        assert!(may("n1", *case), "{case:?}");
        assert!(!may("n2", *case), "another node: {case:?}");
        assert!(!may("", *case), "no node: {case:?}");
    }
    for case in UNRELATED {
        assert!(!may("n1", *case), "{case:?}");
    }
    for case in OF_ALL {
        assert!(may("n1", *case) && may("n2", *case), "{case:?}");
    }
}

#[test]
fn a_node_lists_pods_and_slices_by_its_own_name() {
    let authorizers = cluster();
    let lists = |node: &str, group: &str, resource: &str, selector: &str| {
        let selector = FieldSelector::parse(selector, &["spec.nodeName", "nodeName"]).unwrap();
        let fields = &selector.requirements;
        let request = ResourceRequest {
            group,
            resource,
            fields,
            ..ResourceRequest::default()
        };
        authorizers
            .authorize(&Attributes::resource(&User::node(node), "list", request))
            .allows()
    };
    assert!(lists("n1", "", "pods", "spec.nodeName=n1"));
    assert!(!lists("n1", "", "pods", "spec.nodeName=n2"));
    assert!(!lists("n1", "", "pods", "spec.nodeName!=n1"));
    assert!(lists("n1", "resource.k8s.io", "resourceslices", "nodeName=n1"));
    assert!(!lists("n1", "resource.k8s.io", "resourceslices", ""));
}

#[test]
fn the_refusal_says_why() {
    let authorizers = cluster();
    let user = User::node("n2");
    let request = ResourceRequest {
        namespace: "d",
        resource: "secrets",
        name: "pull",
        ..ResourceRequest::default()
    };
    let error = authorizers
        .check(&Attributes::resource(&user, "get", request))
        .unwrap_err();
    assert_eq!(
        error.message,
        "secrets \"pull\" is forbidden: User \"system:node:n2\" cannot get resource \"secrets\" in API group \"\" in the \
         namespace \"d\": no relationship found between node 'n2' and this object"
    );
}

#[test]
fn relations_end_with_the_pod() {
    let mut graph = NodeGraph::new();
    graph.upsert("pods", &pod("p", "n1"));
    graph.upsert("pods", &pod("q", "n1"));
    graph.upsert("persistentvolumes", &volume());
    graph.remove("pods", "d", "p");
    assert!(
        graph.is_related("n1", Related::Secret, "d", "pull"),
        "the other pod still refers to it"
    );
    graph.remove("pods", "d", "q");
    assert!(!graph.is_related("n1", Related::Secret, "d", "pull"));
    assert!(!graph.is_related("n1", Related::Volume, "", "pv"));
    let mut mirror = pod("m", "n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    graph.upsert("pods", &mirror);
    assert!(graph.is_related("n1", Related::Pod, "d", "m"));
    assert!(
        !graph.is_related("n1", Related::Secret, "d", "pull"),
        "a mirror pod gives no rights"
    );
}

proptest! {
    /// A graph with any history answers like a fresh one of the pods that remain.
    #[test]
    fn history_does_not_matter(steps in proptest::collection::vec((0..4u8, 0..3u8, any::<bool>()), 0..30)) {
        let mut graph = NodeGraph::new();
        let mut pods = std::collections::BTreeMap::new();
        for (name, node, keep) in steps {
            let name = format!("p{name}");
            let node = if node == 0 { String::new() } else { format!("n{node}") };
            if keep {
                let pod = pod(&name, &node);
                graph.upsert("pods", &pod);
                pods.insert(name, pod);
            } else {
                graph.remove("pods", "d", &name);
                pods.remove(&name);
            }
        }
        for node in ["n1", "n2"] {
            let bound = |name: &str| pods.get(name).is_some_and(|pod| pod["spec"]["nodeName"] == node);
            let any = pods.values().any(|pod| pod["spec"]["nodeName"] == node);
            prop_assert_eq!(graph.is_related(node, Related::Secret, "d", "pull"), any);
            for name in ["p0", "p1", "p2", "p3"] {
                prop_assert_eq!(graph.is_related(node, Related::Pod, "d", name), bound(name));
                let claim = format!("{name}-d");
                prop_assert_eq!(graph.is_related(node, Related::Claim, "d", &claim), bound(name));
            }
        }
    }
}

fn write<'a>(user: &'a User, operation: Operation, resource: &'a str, subresource: &'a str) -> NodeWrite<'a> {
    NodeWrite {
        user,
        operation,
        group: "",
        resource,
        subresource,
        namespace: "d",
        name: "p",
        new: &NULL,
        old: &NULL,
        related: None,
    }
}

fn message(write: &NodeWrite<'_>) -> String {
    restrict(write).map_or_else(|status| status.message, |()| String::new())
}

fn mirror() -> Value {
    json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}})
}

#[test]
fn a_node_creates_only_mirror_pods_of_its_own() {
    let user = User::node("n1");
    let stored = json!({"metadata": {"name": "n1", "uid": "u1"}});
    let attempt = |change: &dyn Fn(&mut Value)| {
        let mut pod = mirror();
        change(&mut pod);
        message(&NodeWrite {
            new: &pod,
            related: Some(&stored),
            ..write(&user, Operation::Create, "pods", "")
        })
    };
    assert_eq!(attempt(&|_| {}), "");
    let text = |rest: &str| format!("pods \"p\" is forbidden: node \"n1\" {rest}");
    type Change = dyn Fn(&mut Value);
    let cases: [(&Change, String); 8] = [
        (
            &|pod| pod["spec"]["nodeName"] = "n2".into(),
            text("can only create pods with spec.nodeName set to itself"),
        ),
        (
            &|pod| pod["metadata"]["ownerReferences"] = json!([]),
            text("can only create pods with an owner reference set to itself"),
        ),
        (
            &|pod| pod["metadata"]["ownerReferences"][0]["controller"] = false.into(),
            text("can only create pods with a controller owner reference set to itself"),
        ),
        (
            &|pod| pod["metadata"]["ownerReferences"][0]["uid"] = "u9".into(),
            "pods \"p\" is forbidden: node n1 UID mismatch: expected u9 got u1".to_owned(),
        ),
        (
            &|pod| pod["spec"]["serviceAccountName"] = "web".into(),
            text("can not create pods that reference a service account"),
        ),
        (
            &|pod| pod["spec"]["volumes"] = json!([{"secret": {"secretName": "s"}}]),
            text("can not create pods that reference secrets"),
        ),
        (
            &|pod| pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "c"}}]),
            text("can not create pods that reference configmaps"),
        ),
        (
            &|pod| pod["spec"]["volumes"] = json!([{"persistentVolumeClaim": {"claimName": "c"}}]),
            text("can not create pods that reference persistentvolumeclaims"),
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(attempt(change), expected);
    }
    assert!(attempt(&|pod| pod["metadata"]["annotations"] = json!({})).contains("can only create mirror pods"));
    let plain = mirror();
    let unknown = NodeWrite {
        new: &plain,
        ..write(&user, Operation::Create, "pods", "")
    };
    assert_eq!(restrict(&unknown).unwrap_err().code, 404, "its Node does not exist");
    assert_eq!(needed(&unknown).unwrap().name, "n1");
}

#[test]
fn a_node_touches_only_pods_that_are_bound_to_it() {
    let user = User::node("n1");
    let (own, other) = (pod("p", "n1"), pod("p", "n2"));
    for (old, expected) in [(&own, true), (&other, false)] {
        let delete = NodeWrite {
            old,
            ..write(&user, Operation::Delete, "pods", "")
        };
        assert_eq!(restrict(&delete).is_ok(), expected);
        let status = NodeWrite {
            old,
            new: old,
            ..write(&user, Operation::Update, "pods", "status")
        };
        assert_eq!(restrict(&status).is_ok(), expected);
        let eviction = NodeWrite {
            related: Some(old),
            ..write(&user, Operation::Create, "pods", "eviction")
        };
        assert_eq!(restrict(&eviction).is_ok(), expected);
        assert_eq!(needed(&eviction).unwrap().name, "p");
        let body =
            json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p"}}});
        let token = NodeWrite {
            new: &body,
            related: Some(old),
            ..write(&user, Operation::Create, "serviceaccounts", "token")
        };
        assert_eq!(restrict(&token).is_ok(), expected);
    }
    let mut labelled = own.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let status = NodeWrite {
        old: &own,
        new: &labelled,
        ..write(&user, Operation::Update, "pods", "status")
    };
    assert!(message(&status).contains("cannot update labels through pod status"));
    assert!(message(&write(&user, Operation::Create, "pods", "exec")).contains("unexpected pod subresource \"exec\""));
    assert!(message(&write(&user, Operation::Update, "pods", "")).contains("can only create and delete mirror pods"));
}

#[test]
fn a_token_must_be_bound_to_a_pod_of_the_node() {
    let user = User::node("n1");
    let stored = pod("p", "n1");
    let cases = [
        (json!(null), "node requested token not bound to a pod"),
        (
            json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "x"}),
            "node requested token not bound to a pod",
        ),
        (json!({"apiVersion": "v1", "kind": "Pod", "name": "p"}), "without a uid"),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "old"}),
            "does not match the UID in record",
        ),
    ];
    for (reference, expected) in cases {
        let body = json!({"spec": {"boundObjectRef": reference}});
        let token = write(&user, Operation::Create, "serviceaccounts", "token");
        let text = message(&NodeWrite {
            new: &body,
            related: Some(&stored),
            ..token
        });
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_node_cannot_lift_its_taints_or_draw_workloads() {
    let user = User::node("n1");
    let node = |labels: Value, taints: Value| json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
    let taint = json!([{"key": "a", "effect": "NoSchedule"}]);
    let base = node(
        json!({"app": "1", "node-restriction.kubernetes.io/a": "b"}),
        taint.clone(),
    );
    let update = |new: &Value| {
        message(&NodeWrite {
            name: "n1",
            new,
            old: &base,
            ..write(&user, Operation::Update, "nodes", "")
        })
    };
    assert_eq!(update(&base), "");
    let keeps = json!({"app": "2", "kubernetes.io/hostname": "n1", "node-restriction.kubernetes.io/a": "b"});
    assert_eq!(update(&node(keeps, taint.clone())), "");
    assert!(update(&node(base["metadata"]["labels"].clone(), json!([]))).contains("not allowed to modify taints"));
    assert!(
        update(&node(json!({"app": "1"}), taint.clone()))
            .contains("is not allowed to modify labels: node-restriction.kubernetes.io/a")
    );
    let created = node(json!({"node-role.kubernetes.io/x": "", "app": ""}), json!([]));
    let create = NodeWrite {
        name: "",
        new: &created,
        ..write(&user, Operation::Create, "nodes", "")
    };
    assert!(message(&create).contains("set the following labels: node-role.kubernetes.io/x"));
    let other = NodeWrite {
        name: "n2",
        new: &base,
        old: &base,
        ..write(&user, Operation::Update, "nodes", "status")
    };
    assert!(message(&other).contains("node \"n1\" is not allowed to modify node \"n2\""));
    let person = User::authenticated("ann", [""; 0]);
    assert!(
        restrict(&NodeWrite { user: &person, ..other }).is_ok(),
        "people are RBAC's business"
    );
}

#[test]
fn a_claim_s_growth_may_be_told_and_nothing_else() {
    let user = User::node("n1");
    let old =
        json!({"metadata": {"name": "c", "resourceVersion": "1"}, "spec": {"x": 1}, "status": {"phase": "Bound"}});
    let mut new = old.clone();
    new["metadata"]["resourceVersion"] = "2".into();
    new["status"]["capacity"] = json!({"storage": "2Gi"});
    let base = write(&user, Operation::Update, "persistentvolumeclaims", "status");
    assert!(
        restrict(&NodeWrite {
            old: &old,
            new: &new,
            ..base
        })
        .is_ok()
    );
    new["status"]["phase"] = "Lost".into();
    assert!(
        message(&NodeWrite {
            old: &old,
            new: &new,
            ..base
        })
        .contains("fields other than status.capacity")
    );
    assert!(
        message(&NodeWrite {
            subresource: "",
            ..base
        })
        .contains("may only update PVC status")
    );
}

#[test]
fn leases_csi_nodes_and_slices_bear_the_node_s_name() {
    let user = User::node("n1");
    let named = |name: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": name}});
    let (own, other) = (named("n1"), named("n2"));
    let base = NodeWrite {
        namespace: "kube-node-lease",
        ..write(&user, Operation::Create, "leases", "")
    };
    for (group, resource) in [
        ("coordination.k8s.io", "leases"),
        ("storage.k8s.io", "csinodes"),
        ("resource.k8s.io", "resourceslices"),
    ] {
        assert!(
            restrict(&NodeWrite {
                group,
                resource,
                new: &own,
                ..base
            })
            .is_ok(),
            "{resource}"
        );
        assert!(
            restrict(&NodeWrite {
                group,
                resource,
                new: &other,
                ..base
            })
            .is_err(),
            "{resource}"
        );
        let delete = NodeWrite {
            operation: Operation::Delete,
            group,
            resource,
            ..base
        };
        assert!(
            restrict(&NodeWrite {
                name: "n1",
                old: &own,
                ..delete
            })
            .is_ok(),
            "{resource}"
        );
        assert!(
            restrict(&NodeWrite {
                name: "n2",
                old: &other,
                ..delete
            })
            .is_err(),
            "{resource}"
        );
    }
    assert!(
        restrict(&NodeWrite {
            group: "coordination.k8s.io",
            namespace: "d",
            new: &own,
            ..base
        })
        .is_err()
    );
}
