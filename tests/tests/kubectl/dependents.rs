//! What the control plane does about kinds of one's own: dependents of custom owners and custom dependents of any owner, namespaces
//! that go with custom objects in them, quotas that count them, Events about them, and the subresource scale.

use super::*;

const GROUP: &str = "garden.example.com/v1";

/// `Bed` and `Plant` have a namespace, `Garden` has none. A Bed can be scaled.
fn definition(plural: &str, kind: &str, scope: &str) -> String {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.garden.example.com")},
        "spec": {
            "group": "garden.example.com", "scope": scope,
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            }],
        },
    })
    .to_string()
}

/// An object, with owners as (kind, name, uid).
fn object(api_version: &str, kind: &str, name: &str, owners: &[(&str, &str, &str, &str)]) -> String {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(api_version, kind, name, uid)| {
            json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": true})
        })
        .collect();
    let mut object =
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "ownerReferences": owners}});
    if api_version == GROUP {
        object["spec"] = json!({"replicas": 1});
    }
    object.to_string()
}

impl Session<'_> {
    /// Makes an object that is owned by others, which are named by their resource.
    fn owned(&self, api_version: &str, kind: &str, name: &str, owners: &[(&str, &str, &str)]) {
        let uids: Vec<String> = owners
            .iter()
            .map(|(_, kind, name)| self.value(&format!("{kind} {name}"), "{.metadata.uid}"))
            .collect();
        let owners: Vec<_> = owners
            .iter()
            .zip(&uids)
            .map(|((api_version, kind, name), uid)| (*api_version, *kind, *name, uid.as_str()))
            .collect();
        self.feed("create -f -", &object(api_version, kind, name, &owners));
    }

    /// Waits until just these objects of some kinds are left.
    fn await_left(&self, kinds: &str, expected: &[&str]) {
        wait_for(&format!("{expected:?} of {kinds} are left"), SOON, || {
            let left = self.run(&format!("get {kinds} -o name --ignore-not-found"));
            let left: Vec<&str> = left
                .lines()
                .filter(|name| !name.ends_with("kube-root-ca.crt"))
                .collect();
            if left == expected {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
    }
}

const ALL: &str = "configmaps,beds.garden.example.com,plants.garden.example.com";

pub fn custom_owners_and_dependents(s: &Session) {
    for (plural, kind, scope) in [
        ("beds", "Bed", "Namespaced"),
        ("plants", "Plant", "Namespaced"),
        ("gardens", "Garden", "Cluster"),
    ] {
        s.feed("apply -f -", &definition(plural, kind, scope));
        s.run(&format!(
            "wait --for=condition=Established crd/{plural}.garden.example.com --timeout=30s"
        ));
    }
    cascades(s);
    chains(s);
    several_owners(s);
    namespaces_with_custom_objects(s);
    quotas(s);
    events(s);
    scaling(s);
    for plural in ["plants", "beds", "gardens"] {
        s.run(&format!("delete crd {plural}.garden.example.com --timeout=40s"));
    }
}

/// A custom owner with a dependent of the table and a custom one, deleted in each way.
fn cascades(s: &Session) {
    for cascade in ["background", "foreground", "orphan"] {
        s.feed("create -f -", &object(GROUP, "Bed", "b", &[]));
        s.owned("v1", "ConfigMap", "note", &[(GROUP, "Bed", "b")]);
        s.owned(GROUP, "Plant", "rose", &[(GROUP, "Bed", "b")]);
        s.run(&format!("delete bed b --cascade={cascade} --timeout=30s"));
        match cascade {
            "foreground" => assert_eq!(
                s.run("get beds,plants -o name"),
                "",
                "dependents that block their owner go first"
            ),
            "orphan" => {
                let left = ["configmap/note", "plant.garden.example.com/rose"];
                s.await_left(ALL, &left);
                for name in left {
                    assert_eq!(s.value(name, "{.metadata.ownerReferences}"), "", "{name}");
                }
                s.run("delete configmap note");
                s.run("delete plant rose");
            }
            _ => {}
        }
        s.await_left(ALL, &[]);
    }
    // A finalizer of a dependent holds an owner that goes in the foreground.
    s.feed("create -f -", &object(GROUP, "Bed", "b", &[]));
    s.owned(GROUP, "Plant", "tree", &[(GROUP, "Bed", "b")]);
    s.run("patch plant tree --type=merge -p '{\"metadata\":{\"finalizers\":[\"garden.example.com/roots\"]}}'");
    s.run("delete bed b --cascade=foreground --wait=false");
    wait_for("the dependent is being deleted", SOON, || {
        let marked = s.value("plant tree", "{.metadata.deletionTimestamp}");
        if marked.is_empty() {
            Err("it is not".to_owned())
        } else {
            Ok(())
        }
    });
    assert!(
        s.value("bed b", "{.metadata.finalizers}")
            .contains("foregroundDeletion")
    );
    s.run("patch plant tree --type=merge -p '{\"metadata\":{\"finalizers\":null}}'");
    s.await_left(ALL, &[]);
}

/// From the table to a custom kind and back; and from an owner without a namespace.
fn chains(s: &Session) {
    s.feed("create -f -", &object("v1", "ConfigMap", "first", &[]));
    s.owned(GROUP, "Bed", "second", &[("v1", "ConfigMap", "first")]);
    s.owned(GROUP, "Plant", "third", &[(GROUP, "Bed", "second")]);
    s.owned("v1", "ConfigMap", "fourth", &[(GROUP, "Plant", "third")]);
    s.run("delete configmap first --timeout=30s");
    s.await_left(ALL, &[]);

    s.feed("create -f -", &object(GROUP, "Garden", "g", &[]));
    s.owned(GROUP, "Bed", "of-garden", &[(GROUP, "Garden", "g")]);
    s.owned("v1", "ConfigMap", "of-garden", &[(GROUP, "Garden", "g")]);
    s.run("delete garden g --timeout=30s");
    s.await_left(ALL, &[]);
}

/// What has an owner that lives stays; an owner that never was is no owner.
fn several_owners(s: &Session) {
    s.feed("create -f -", &object(GROUP, "Bed", "one", &[]));
    s.feed("create -f -", &object(GROUP, "Bed", "two", &[]));
    s.owned(
        GROUP,
        "Plant",
        "shared",
        &[(GROUP, "Bed", "one"), (GROUP, "Bed", "two")],
    );
    s.run("delete bed one --timeout=30s");
    s.await_value("plant shared", "{.metadata.ownerReferences[*].name}", "two");
    s.run("delete bed two --timeout=30s");
    s.await_left(ALL, &[]);
    let nobody = [(GROUP, "Bed", "none", "00000000-0000-4000-8000-000000000000")];
    s.feed("create -f -", &object(GROUP, "Plant", "stray", &nobody));
    s.feed("create -f -", &object("v1", "ConfigMap", "stray", &nobody));
    s.await_left(ALL, &[]);
}

/// Objects of custom kinds go with their namespace; one with a finalizer holds it, and the namespace says so.
fn namespaces_with_custom_objects(s: &Session) {
    s.run("create namespace garden-inside");
    for name in ["a", "b", "held"] {
        s.feed("create -n garden-inside -f -", &object(GROUP, "Bed", name, &[]));
    }
    s.run("patch bed held -n garden-inside --type=merge -p '{\"metadata\":{\"finalizers\":[\"garden.example.com/roots\"]}}'");
    s.run("delete namespace garden-inside --wait=false");
    wait_for("the others are gone", SOON, || {
        let left = s.run("get beds -n garden-inside -o name");
        if left == "bed.garden.example.com/held\n" {
            Ok(())
        } else {
            Err(left)
        }
    });
    let told = "{.status.conditions[?(@.type==\"NamespaceFinalizersRemaining\")].message}";
    wait_for("the namespace says what holds it", SOON, || {
        let message = s.value("namespace garden-inside", told);
        if message.contains("garden.example.com/roots") {
            Ok(())
        } else {
            Err(message)
        }
    });
    s.refused(
        "create -n garden-inside -f -",
        &object(GROUP, "Bed", "late", &[]),
        "because it is being terminated",
    );
    s.run("patch bed held -n garden-inside --type=merge -p '{\"metadata\":{\"finalizers\":null}}'");
    s.run("wait --for=delete namespace/garden-inside --timeout=30s");
}

fn quotas(s: &Session) {
    s.run("create quota beds --hard=count/beds.garden.example.com=2");
    s.await_value("quota beds", "{.status.used.count/beds\\.garden\\.example\\.com}", "0");
    s.feed("create -f -", &object(GROUP, "Bed", "a", &[]));
    s.feed("create -f -", &object(GROUP, "Bed", "b", &[]));
    s.refused(
        "create -f -",
        &object(GROUP, "Bed", "c", &[]),
        "exceeded quota: beds, requested: count/beds.garden.example.com=1, used: count/beds.garden.example.com=2, limited: \
         count/beds.garden.example.com=2",
    );
    s.run("delete bed a --timeout=30s");
    s.await_value("quota beds", "{.status.used.count/beds\\.garden\\.example\\.com}", "1");
    s.feed("create -f -", &object(GROUP, "Bed", "c", &[]));
    s.run("delete beds --all --timeout=30s");
    s.run("delete quota beds");
}

/// Whoever keeps a kind tells of its objects in Events, which kubectl finds by them.
fn events(s: &Session) {
    s.feed("create -f -", &object(GROUP, "Bed", "told", &[]));
    let uid = s.value("bed told", "{.metadata.uid}");
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "told.1"}, "type": "Warning",
        "reason": "Watered", "message": "there was water enough", "count": 1,
        "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": "2026-01-02T03:04:05Z", "source": {"component": "gardener"},
        "involvedObject": {"apiVersion": GROUP, "kind": "Bed", "name": "told", "namespace": s.namespace, "uid": uid},
    });
    s.feed("create -f -", &event.to_string());
    s.says("events --for bed.garden.example.com/told", "there was water enough");
    s.says("events --types=Warning", "Watered");
    s.says("describe bed told", "there was water enough");
    s.says(
        "get events --field-selector=involvedObject.kind=Bed,reason=Watered",
        "bed/told",
    );
    s.run("delete bed told --timeout=30s");
}

fn scaling(s: &Session) {
    s.feed("create -f -", &object(GROUP, "Bed", "wide", &[]));
    s.run(
        "patch bed wide --subresource=status --type=merge -p '{\"status\":{\"replicas\":1,\"selector\":\"app=wide\"}}'",
    );
    s.says("scale bed wide --replicas=4 --current-replicas=1", "scaled");
    s.refused(
        "scale bed wide --replicas=5 --current-replicas=1",
        "",
        "Expected replicas to be 1, was 4",
    );
    let scale = s.json("bed wide --subresource=scale");
    assert_eq!(
        (&scale["kind"], &scale["spec"], &scale["status"]),
        (
            &json!("Scale"),
            &json!({"replicas": 4}),
            &json!({"replicas": 1, "selector": "app=wide"})
        )
    );
    s.says(
        "patch bed wide --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'",
        "patched",
    );
    assert_eq!(s.value("bed wide", "{.spec.replicas} {.metadata.generation}"), "2 3");
    s.says("autoscale bed wide --min=1 --max=3 --cpu=50%", "autoscaled");
    assert_eq!(
        s.value(
            "hpa wide",
            "{.spec.scaleTargetRef.apiVersion} {.spec.scaleTargetRef.kind}"
        ),
        "garden.example.com/v1 Bed"
    );
    s.run("delete hpa wide");
    s.run("delete bed wide --timeout=30s");
}
