//! A kind of one's own through kubectl: its definition, its objects, what is said of wrong ones, and its end.

use super::*;

fn definition() -> String {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"], "categories": ["tabs"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cronSpec"],
                        "x-kubernetes-validations": [{"rule": "!has(oldSelf.image) || self.image == oldSelf.image",
                                                      "message": "image is immutable"}],
                        "properties": {
                            "cronSpec": {"type": "string", "pattern": "^[0-9* ]+$", "description": "When it runs."},
                            "image": {"type": "string", "default": "busybox"},
                            "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
                        }},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}},
                }}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"}},
                "selectableFields": [{"jsonPath": ".spec.image"}],
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
            }],
        },
    })
    .to_string()
}

fn cron_tab(name: &str, spec: Value) -> String {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

pub fn kinds_of_ones_own(s: &Session) {
    s.refused(
        "get crontabs",
        "",
        "the server doesn't have a resource type \"crontabs\"",
    );
    s.feed("apply -f -", &definition());
    s.says(
        "wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s",
        "condition met",
    );
    s.says("api-resources --api-group=stable.example.com", "crontabs");
    s.says("api-versions", "stable.example.com/v1");
    s.says("explain crontab.spec.cronSpec", "When it runs.");

    let made = s.feed(
        "apply -f -",
        &cron_tab("mine", json!({"cronSpec": "* * 5", "replicas": 1})),
    );
    assert!(made.contains("crontab.stable.example.com/mine created"), "{made}");
    assert_eq!(s.value("crontab mine", "{.spec.image}"), "busybox");
    let printed = s.run("get ct");
    let heading: Vec<&str> = printed.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(heading, ["NAME", "SPEC", "REPLICAS", "AGE"], "{printed}");
    s.says("get tabs", "mine");
    s.says(
        "get crontabs --field-selector spec.image=busybox -o name",
        "crontab.stable.example.com/mine",
    );
    s.says("describe crontab mine", "Cron Spec:");

    for (spec, part) in [
        (
            json!({"cronSpec": "never"}),
            "spec.cronSpec: Invalid value: \"never\": spec.cronSpec in body should match '^[0-9* ]+$'",
        ),
        (json!({}), "spec.cronSpec: Required value"),
        (
            json!({"cronSpec": "1", "replicas": 11}),
            "spec.replicas in body should be less than or equal to 10",
        ),
        (json!({"cronSpec": "1", "nope": 1}), "unknown field \"spec.nope\""),
    ] {
        s.refused("apply -f -", &cron_tab("wrong", spec), part);
    }
    s.refused(
        "patch crontab mine --type=merge -p {\"spec\":{\"image\":\"other\"}}",
        "",
        "image is immutable",
    );
    s.run("patch crontab mine --type=merge -p {\"spec\":{\"cronSpec\":\"1\"}}");
    s.run("annotate crontab mine note=x");
    s.run("patch crontab mine --subresource=status --type=merge -p {\"status\":{\"replicas\":1}}");
    assert_eq!(s.value("crontab mine", "{.status.replicas}"), "1");
    s.says("scale crontab mine --replicas=3", "scaled");
    assert_eq!(s.value("crontab mine", "{.spec.replicas}"), "3");
    let applied = cron_tab("mine", json!({"cronSpec": "2"}));
    s.says_fed(
        "apply --server-side --force-conflicts -f -",
        &applied,
        "serverside-applied",
    );
    s.says("get crontab mine -o yaml", "cronSpec: \"2\"");

    // What an object of the kind owns goes with it.
    let uid = s.value("crontab mine", "{.metadata.uid}");
    let owned = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [{
        "apiVersion": "stable.example.com/v1", "kind": "CronTab", "name": "mine", "uid": uid}]}});
    s.feed("create -f -", &owned.to_string());
    s.run("delete crontab mine --timeout=30s");
    wait_for("the owned object goes", SOON, || {
        let found = s.run("get configmaps -o name");
        if found.contains("owned") { Err(found) } else { Ok(()) }
    });
    // A namespace goes with the objects of the kind in it.
    s.run("create namespace tabs-inside");
    s.feed(
        "apply -n tabs-inside -f -",
        &cron_tab("inside", json!({"cronSpec": "1"})),
    );
    s.run("delete namespace tabs-inside --timeout=40s");

    s.feed("apply -f -", &cron_tab("last", json!({"cronSpec": "1"})));
    s.run("delete crd crontabs.stable.example.com --timeout=40s");
    s.refused(
        "get --raw /apis/stable.example.com/v1/crontabs",
        "",
        "not find the requested resource",
    );
}
