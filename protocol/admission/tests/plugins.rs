//! What the plugins make of requests, as Kubernetes documents it: one table or a few cases for each.

use std::sync::Arc;

use admission::{Attributes, Fact, Facts, Operation, Review, Settings};
use api::kinds::{self, Kind};
use api::status::Status;
use protocol::Revision;
use serde_json::{Value, json};

fn facts(objects: Value) -> Facts {
    let mut facts = Facts::default();
    let namespace = json!({"metadata": {"name": "d"}});
    let account = json!({"metadata": {"name": "default", "namespace": "d"}, "automountServiceAccountToken": false});
    let mut add = |resource: &str, value: Value| {
        let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
        let fact = Fact {
            revision: Revision(7),
            value: Arc::new(value.clone()),
        };
        facts.upsert(resource, &text("namespace"), &text("name"), fact);
    };
    add("namespaces", namespace);
    add("serviceaccounts", account);
    for (resource, values) in objects.as_object().unwrap() {
        for value in values.as_array().unwrap() {
            add(resource, value.clone());
        }
    }
    facts.settings = Settings {
        unreachable_toleration_seconds: 2,
        not_ready_toleration_seconds: 30,
        mount_tokens: true,
    };
    facts
}

fn kind(plural: &str, group: &str) -> &'static Kind {
    kinds::find(group, "v1", plural).unwrap()
}

fn attributes(kind: &Kind, operation: Operation) -> Attributes<'_> {
    Attributes {
        operation,
        kind,
        namespace: if kind.namespaced { "d" } else { "" },
        name: "p",
        subresource: None,
        user: "u",
        groups: &[],
        random: 1,
    }
}

/// Runs the whole chain for a new object.
fn create(kind: &Kind, object: Value, facts: &Facts) -> Result<(Value, Vec<String>, Vec<admission::Charge>), Status> {
    let mut review = Review::new(attributes(kind, Operation::Create), object, None);
    admission::admit(&mut review, facts)?;
    admission::validate(&mut review, facts)?;
    admission::charge(&mut review, facts)?;
    Ok((review.object, review.warnings, review.charges))
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": spec})
}

fn plain() -> Value {
    pod(json!({"containers": [{"name": "c", "image": "i"}]}))
}

#[test]
fn nothing_is_created_where_no_namespace_is_or_where_it_goes() {
    let mut facts = facts(json!({}));
    facts.remove("namespaces", "", "d", Revision(7));
    let error = create(kind("pods", ""), plain(), &facts).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (404, "namespaces \"d\" not found")
    );
    let going = json!({"metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let fact = Fact {
        revision: Revision(9),
        value: Arc::new(going),
    };
    facts.upsert("namespaces", "", "d", fact);
    let error = create(kind("pods", ""), plain(), &facts).unwrap_err();
    assert_eq!(error.code, 403);
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: unable to create new content in namespace d because it is being terminated"
    );
    assert_eq!(error.details.causes[0].reason, "NamespaceTerminating");
}

#[test]
fn the_namespaces_of_the_system_stay() {
    for (name, stays) in [
        ("default", true),
        ("kube-system", true),
        ("kube-public", true),
        ("kube-node-lease", false),
        ("x", false),
    ] {
        let mut attributes = attributes(kind("namespaces", ""), Operation::Delete);
        attributes.name = name;
        let mut review = Review::new(attributes, Value::Null, None);
        assert_eq!(
            admission::admit(&mut review, &Facts::default()).is_err(),
            stays,
            "{name}"
        );
    }
}

#[test]
fn a_pod_is_told_how_long_it_stays_on_a_dead_node_unless_it_says_so() {
    let facts = facts(json!({}));
    let (object, ..) = create(kind("pods", ""), plain(), &facts).unwrap();
    assert_eq!(
        object["spec"]["tolerations"],
        json!([
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2},
        ])
    );
    let all = json!([{"operator": "Exists"}]);
    let own = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9},
    ]);
    for tolerations in [all, own] {
        let mut object = plain();
        object["spec"]["tolerations"] = tolerations.clone();
        assert_eq!(
            create(kind("pods", ""), object, &facts).unwrap().0["spec"]["tolerations"],
            tolerations
        );
    }
}

#[test]
fn a_pods_priority_is_that_of_its_class() {
    let class = |name: &str, value: i64, default: bool, policy: &str| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": policy});
    let some = facts(json!({"priorityclasses.scheduling.k8s.io": [
        class("high", 1000, false, "Never"), class("usual", 10, true, "PreemptLowerPriority"),
    ]}));
    let none = facts(json!({}));
    let cases = [
        (&some, "high", Ok((1000, "Never"))),
        (&some, "", Ok((10, "PreemptLowerPriority"))),
        (&none, "", Ok((0, "PreemptLowerPriority"))),
        (
            &none,
            "system-node-critical",
            Ok((2_000_001_000, "PreemptLowerPriority")),
        ),
        (&none, "high", Err("no PriorityClass with name high was found")),
    ];
    for (facts, name, expected) in cases {
        let mut object = plain();
        if !name.is_empty() {
            object["spec"]["priorityClassName"] = name.into();
        }
        match (create(kind("pods", ""), object, facts), expected) {
            (Ok((object, ..)), Ok((value, policy))) => {
                assert_eq!(
                    (object["spec"]["priority"].as_i64(), &object["spec"]["preemptionPolicy"]),
                    (Some(value), &json!(policy))
                );
            }
            (Err(error), Err(why)) => assert!(error.message.contains(why), "{}", error.message),
            (outcome, expected) => panic!("{name}: {outcome:?}, not {expected:?}"),
        }
    }
    let mut object = plain();
    object["spec"]["priority"] = 5.into();
    let error = create(kind("pods", ""), object, &none).unwrap_err();
    assert!(
        error
            .message
            .contains("the integer value of priority (5) must not be provided in pod spec"),
        "{}",
        error.message
    );
    let second = json!({"metadata": {"name": "other"}, "value": 1, "globalDefault": true});
    let error = create(kind("priorityclasses", "scheduling.k8s.io"), second, &some).unwrap_err();
    assert!(
        error
            .message
            .contains("PriorityClass usual is already marked as default"),
        "{}",
        error.message
    );
}

#[test]
fn a_pods_account_must_exist_and_brings_its_token_and_secrets() {
    let account = json!({"metadata": {"name": "robot", "namespace": "d"}, "imagePullSecrets": [{"name": "s"}]});
    let facts = facts(json!({"serviceaccounts": [account]}));
    let with = |name: &str, more: Value| {
        let mut object = plain();
        object["spec"]["serviceAccountName"] = name.into();
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        object
    };
    let error = create(kind("pods", ""), with("ghost", json!({})), &facts).unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: error looking up service account d/ghost: serviceaccount \"ghost\" not found"
    );
    let (object, ..) = create(kind("pods", ""), with("robot", json!({})), &facts).unwrap();
    let spec = &object["spec"];
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{"name": volume, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}])
    );
    assert_eq!(
        spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
        3607
    );
    // A second review, as after a webhook, changes nothing.
    let again = create(kind("pods", ""), object.clone(), &facts).unwrap().0;
    assert_eq!(again, object);
    // The pod's own word counts before the account's.
    let (object, ..) = create(
        kind("pods", ""),
        with("robot", json!({"automountServiceAccountToken": false})),
        &facts,
    )
    .unwrap();
    assert!(object["spec"]["volumes"].is_null());
    let (object, ..) = create(kind("pods", ""), with("default", json!({})), &facts).unwrap();
    assert!(object["spec"]["volumes"].is_null(), "the account does not want it");
}

#[test]
fn a_limit_range_gives_defaults_and_bounds() {
    let range = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"limits": [{
        "type": "Container",
        "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "200m"},
        "min": {"cpu": "100m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "4"},
    }]}});
    let facts = facts(json!({"limitranges": [range]}));
    let (object, ..) = create(kind("pods", ""), plain(), &facts).unwrap();
    assert_eq!(
        object["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "200m"}})
    );
    let annotation = &object["metadata"]["annotations"]["kubernetes.io/limit-ranger"];
    assert_eq!(
        annotation,
        "LimitRanger plugin set: cpu limit for container c; cpu request for container c (r)"
    );
    let cases = [
        (
            "50m",
            "100m",
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        ("1", "2", "maximum cpu usage per Container is 1, but limit is 2"),
        (
            "100m",
            "900m",
            "cpu max limit to request ratio per Container is 4, but provided ratio is 9",
        ),
    ];
    for (request, limit, why) in cases {
        let resources = json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
        let object = pod(json!({"containers": [{"name": "c", "image": "i", "resources": resources}]}));
        let error = create(kind("pods", ""), object, &facts).unwrap_err();
        assert!(error.code == 403 && error.message.contains(why), "{}", error.message);
    }
}

#[test]
fn a_quota_refuses_what_exceeds_it_and_is_charged_for_the_rest() {
    let quota = json!({
        "metadata": {"name": "q", "namespace": "d"},
        "spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/configmaps": "1"}},
        "status": {"hard": {"pods": "2", "requests.cpu": "1", "count/configmaps": "1"}, "used": {"pods": "1", "requests.cpu": "700m", "count/configmaps": "1"}},
    });
    let facts = facts(json!({"resourcequotas": [quota]}));
    let asking =
        |cpu: &str| pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}));
    let (_, _, charges) = create(kind("pods", ""), asking("300m"), &facts).unwrap();
    assert_eq!(charges.len(), 1);
    assert_eq!(charges[0].revision, Revision(7));
    assert_eq!(
        charges[0].quota["status"]["used"],
        json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"})
    );
    let error = create(kind("pods", ""), asking("301m"), &facts).unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=301m, used: requests.cpu=700m, limited: requests.cpu=1"
    );
    let error = create(kind("pods", ""), plain(), &facts).unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let map = json!({"metadata": {"name": "p", "namespace": "d"}});
    let error = create(kind("configmaps", ""), map, &facts).unwrap_err();
    assert!(
        error
            .message
            .contains("exceeded quota: q, requested: count/configmaps=1"),
        "{}",
        error.message
    );
}

#[test]
fn a_quota_with_scopes_counts_only_what_is_in_them() {
    let quota = json!({
        "metadata": {"name": "q", "namespace": "d"},
        "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]},
    });
    let facts = facts(json!({"resourcequotas": [quota]}));
    assert!(create(kind("pods", ""), plain(), &facts).is_err());
    let burstable = pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1m"}}}]}));
    assert!(create(kind("pods", ""), burstable, &facts).is_ok());
}

#[test]
fn security_standards_refuse_and_warn() {
    let mut labelled = facts(json!({}));
    let namespace = json!({"metadata": {"name": "d", "labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted",
    }}});
    let fact = Fact {
        revision: Revision(8),
        value: Arc::new(namespace),
    };
    labelled.upsert("namespaces", "", "d", fact);
    let (_, warnings, _) = create(kind("pods", ""), plain(), &labelled).unwrap();
    assert_eq!(
        warnings,
        [
            "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ]
    );
    let cases = [
        (
            json!({"hostNetwork": true, "hostPID": true}),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]}),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "ports": [{"hostPort": 80}]}]}),
            "hostPort (container \"c\" uses hostPort 80)",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}),
            "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
    ];
    for (more, why) in cases {
        let mut object = plain();
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let error = create(kind("pods", ""), object, &labelled).unwrap_err();
        let expected = format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": {why}");
        assert_eq!(error.message, expected);
    }
    let hardened = pod(json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    }));
    assert!(create(kind("pods", ""), hardened, &labelled).unwrap().1.is_empty());
    let template =
        json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"template": {"spec": plain()["spec"]}}});
    let (_, warnings, _) = create(kind("deployments", "apps"), template, &labelled).unwrap();
    assert_eq!(warnings.len(), 1, "templates are warned about, not refused");
}

#[test]
fn nobody_asks_for_a_certificate_of_the_masters() {
    use base64::Engine;
    let requests = kind("certificatesigningrequests", "certificates.k8s.io");
    for (group, signer, refused) in [
        ("system:masters", "kubernetes.io/kube-apiserver-client", true),
        ("devs", "kubernetes.io/kube-apiserver-client", false),
        ("system:masters", "example.com/own", false),
    ] {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        let object = json!({"metadata": {"name": "p"}, "spec": {"signerName": signer, "request": request}});
        let outcome = create(requests, object, &facts(json!({})));
        assert_eq!(outcome.is_err(), refused, "{group} {signer}");
        if let Err(status) = outcome {
            assert!(
                status.message.ends_with(
                    "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
                ),
                "{status}"
            );
        }
    }
}

#[test]
fn signers_have_rights_of_their_own() {
    use admission::signers::{SignerRight, needed};
    use api::Subresource;
    let request = |status: Value| json!({"spec": {"signerName": "example.com/s"}, "status": status});
    let right = |verb: &'static str, signer: &str| {
        let signer = signer.to_owned();
        Some(SignerRight { verb, signer })
    };
    let requests = kind("certificatesigningrequests", "certificates.k8s.io");
    let approved = request(json!({"conditions": [{"type": "Approved"}]}));
    let signed = request(json!({"certificate": "Yw=="}));
    let plain = request(json!({}));
    let cases = [
        (
            Some(Subresource::Approval),
            &approved,
            right("approve", "example.com/s"),
        ),
        (Some(Subresource::Status), &signed, right("sign", "example.com/s")),
        (Some(Subresource::Status), &plain, None),
        (None, &plain, None),
    ];
    for (subresource, new, expected) in cases {
        let mut attributes = attributes(requests, Operation::Update);
        attributes.subresource = subresource;
        assert_eq!(needed(&attributes, new, &plain), expected);
    }
    let bundles = kinds::kinds()
        .iter()
        .find(|kind| kind.plural == "clustertrustbundles")
        .unwrap();
    let bundle = json!({"spec": {"signerName": "example.com/s", "trustBundle": "x"}});
    let attributes = attributes(bundles, Operation::Create);
    assert_eq!(
        needed(&attributes, &bundle, &Value::Null),
        right("attest", "example.com/s")
    );
    assert_eq!(
        needed(&attributes, &json!({"spec": {"trustBundle": "x"}}), &Value::Null),
        None
    );
}

#[test]
fn a_new_node_is_tainted_until_it_is_ready() {
    let nodes = kind("nodes", "");
    let node = |taints: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": taints}});
    let (not_ready, own) = (
        json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}),
        json!({"key": "own", "effect": "NoExecute"}),
    );
    for (taints, expected) in [
        (Value::Null, json!([not_ready])),
        (json!([own]), json!([own, not_ready])),
        (json!([not_ready]), json!([not_ready])),
    ] {
        let (created, ..) = create(nodes, node(taints), &facts(json!({}))).unwrap();
        assert_eq!(created["spec"]["taints"], expected);
    }
    let mut changed = Review::new(attributes(nodes, Operation::Update), node(Value::Null), None);
    admission::admit(&mut changed, &facts(json!({}))).unwrap();
    assert_eq!(changed.object, node(Value::Null), "only a new one");
}
