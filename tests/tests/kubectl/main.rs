//! The unmodified kubectl on a cluster of one node, command by command: what it prints and how it ends is what it prints
//! and how it ends against Kubernetes. What answers carry beyond that (codes, reasons) is checked with a client of ours.
//!
//! One cluster carries all checks, each in a namespace of its own. A check that fails does not hide the others: the test
//! names all that failed.

mod custom;
mod dependents;
mod forms;
mod keeping;
mod rights;
mod session;

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shell::client::ClientError;
use tests::{Cluster, Following, Kubectl, wait_for};

use session::{Session, config_map, deployment, pod, text};

const SOON: Duration = Duration::from_secs(30);

fn discovery(s: &Session) {
    let resources = s.run("api-resources --no-headers");
    for row in [
        "configmaps cm v1 true ConfigMap",
        "events ev v1 true Event",
        "namespaces ns v1 false Namespace",
        "nodes no v1 false Node",
        "pods po v1 true Pod",
        "secrets v1 true Secret",
        "services svc v1 true Service",
        "deployments deploy apps/v1 true Deployment",
        "replicasets rs apps/v1 true ReplicaSet",
        "leases coordination.k8s.io/v1 true Lease",
        "endpointslices discovery.k8s.io/v1 true EndpointSlice",
    ] {
        let found = resources
            .lines()
            .any(|line| line.split_whitespace().eq(row.split_whitespace()));
        assert!(found, "{row} is not among:\n{resources}");
    }
    s.says("api-resources --namespaced=false --verbs=list,patch -o name", "nodes");
    let versions = s.run("api-versions");
    for version in ["v1", "apps/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1"] {
        assert!(
            versions.lines().any(|line| line == version),
            "{version} is not among:\n{versions}"
        );
    }
    let version: Value = serde_json::from_str(&s.run("get --raw /version")).expect("JSON");
    assert_eq!(version["major"], "1");
    s.says("version", "Server Version: v1.");
    assert_eq!(s.run("get --raw /readyz"), "ok");
    s.says("cluster-info", "control plane");
    s.says("get --raw /openapi/v3", "apis/apps/v1");
    s.says("explain deployment.spec.strategy.rollingUpdate", "maxSurge");
    s.says("explain pods.spec.containers --recursive", "imagePullPolicy");
    s.says("explain lease.spec", "holderIdentity");
    s.refused("explain pods.spec.nothing", "", "field \"nothing\" does not exist");
    s.refused("get widgets", "", "the server doesn't have a resource type \"widgets\"");
}

fn creation(s: &Session) {
    s.says("create configmap a --from-literal=key=1", "configmap/a created");
    s.refused(
        "create configmap a --from-literal=key=1",
        "",
        "configmaps \"a\" already exists",
    );
    s.says("create secret generic s --from-literal=word=hidden", "secret/s created");
    assert_eq!(s.value("secret s", "{.data.word}"), "aGlkZGVu");
    s.says(
        "create configmap dry --from-literal=key=1 --dry-run=server -o yaml",
        "uid:",
    );
    s.refused("get configmap dry", "", "configmaps \"dry\" not found");
    s.says(
        "create deployment dry --image=actorium.local/busybox:1 --dry-run=server",
        "created (server dry run)",
    );
    let generated = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: made-}\n";
    let name = s.feed("create -f - -o name", generated);
    assert!(
        name.starts_with("configmap/made-") && name.trim().len() == "configmap/made-".len() + 5,
        "{name}"
    );
    s.refused(
        "create -f - --namespace other",
        &config_map("x", "1"),
        "namespaces \"other\" not found",
    );
    s.refused(
        "create -f -",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n",
        "unknown field \"datum\"",
    );
    let warned = s.output(
        "create -f - --validate=warn",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n",
    );
    assert!(
        warned.status.success() && text(&warned.stderr).contains("Warning: unknown field \"datum\""),
        "{warned:?}"
    );
}

fn printing(s: &Session) {
    s.feed("create -f -", &config_map("a", "1"));
    s.feed("create -f -", &config_map("b", "2"));
    assert_eq!(s.json("configmap a")["data"], json!({"key": "1", "other": "fixed"}));
    let yaml = s.run("get configmap a -o yaml");
    assert!(
        yaml.starts_with("apiVersion: v1\ndata:\n  key: \"1\"\n  other: fixed\nkind: ConfigMap\n"),
        "{yaml}"
    );
    assert_eq!(s.run("get configmaps a b -o name"), "configmap/a\nconfigmap/b\n");
    let columns = s.run("get configmaps a b -o custom-columns=N:.metadata.name,K:.data.key --sort-by=.data.key");
    let rows: Vec<Vec<&str>> = columns.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[..3], [["N", "K"], ["a", "1"], ["b", "2"]]);
    assert_eq!(
        s.value("configmaps", "{.items[?(@.data.key==\"2\")].metadata.name}"),
        "b"
    );
    assert_eq!(s.run("get configmap a -o go-template={{.data.key}}"), "1");
    let table = s.run("get configmaps");
    assert!(
        table.starts_with("NAME") && table.lines().next().is_some_and(|head| head.ends_with("AGE")),
        "{table}"
    );
    s.says("get configmaps --show-labels", "LABELS");
    let services = s.run("get services -A --no-headers");
    let mut found = services
        .lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
    assert!(found.any(|row| row == ["default", "kubernetes"]), "{services}");
    assert_eq!(s.run("get configmaps -l nobody=none -o name"), "");
    s.says("get configmaps --chunk-size=1 -o name", "configmap/b");
    s.says("get configmaps --field-selector=metadata.name=b -o name", "configmap/b");
    assert!(
        !s.run("get configmaps --field-selector=metadata.name!=b -o name")
            .contains("configmap/b\n")
    );
    s.refused(
        "get configmaps --field-selector=data.key=1",
        "",
        "field label not supported: data.key",
    );
    s.says("get node -o wide", "actorium://");
    s.says("describe configmap a", "fixed");
}

fn changing(s: &Session) {
    s.feed("create -f -", &config_map("a", "1"));
    s.says("label configmap a tier=x", "configmap/a labeled");
    s.refused(
        "label configmap a tier=y",
        "",
        "already has a value (x), and --overwrite is false",
    );
    s.run("label configmap a tier=y --overwrite");
    assert_eq!(s.run("get configmap -l 'tier in (x,y),!gone' -o name"), "configmap/a\n");
    s.says("label configmap a tier-", "unlabeled");
    s.says("annotate configmap a note='two words'", "annotated");
    assert_eq!(s.value("configmap a", "{.metadata.annotations.note}"), "two words");
    for (line, expected) in [
        ("patch configmap a -p '{\"data\":{\"key\":\"2\"}}'", "2"),
        (
            "patch configmap a --type=merge -p '{\"data\":{\"key\":\"3\",\"other\":null}}'",
            "3",
        ),
        (
            "patch configmap a --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/key\",\"value\":\"4\"}]'",
            "4",
        ),
    ] {
        s.says(line, "configmap/a patched");
        assert_eq!(s.value("configmap a", "{.data.key}"), expected, "{line}");
    }
    assert_eq!(
        s.value("configmap a", "{.data.other}"),
        "",
        "null removes in a merge patch"
    );
    s.says(
        "patch configmap a --type=merge -p '{\"data\":{\"key\":\"4\"}}'",
        "patched (no change)",
    );
    let test = "patch configmap a --type=json -p '[{\"op\":\"test\",\"path\":\"/data/key\",\"value\":\"9\"}]'";
    s.refused(test, "", "value did not match");

    let read = s.run("get configmap a -o yaml");
    s.run("patch configmap a --type=merge -p '{\"data\":{\"key\":\"5\"}}'");
    s.refused(
        "replace -f -",
        &read,
        "the object has been modified; please apply your changes to the latest version",
    );
    assert!(
        s.feed("replace -f -", &config_map("a", "6"))
            .contains("configmap/a replaced")
    );
    s.refused(
        "replace -f -",
        &config_map("none", "6"),
        "configmaps \"none\" not found",
    );
    assert!(
        s.feed("replace --force -f -", &config_map("a", "7"))
            .contains("configmap/a replaced")
    );

    let editor = s.cluster.directory().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/key: \"7\"/key: \"8\"/' \"$1\"\n").expect("a file");
    let mut edit = s.command("edit configmap a");
    let output = edit
        .env("EDITOR", format!("sh {}", editor.display()))
        .output()
        .expect("kubectl runs");
    assert!(
        text(&output.stdout).contains("configmap/a edited"),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(s.value("configmap a", "{.data.key}"), "8");

    s.feed(
        "create -f -",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed}\nimmutable: true\ndata: {a: b}\n",
    );
    s.refused(
        "patch configmap fixed --type=merge -p '{\"data\":{\"a\":\"c\"}}'",
        "",
        "field is immutable when `immutable` is set",
    );
    s.says("delete configmap a fixed", "configmap \"a\" deleted");
    s.refused("delete configmap a", "", "configmaps \"a\" not found");
    s.run("delete configmap a --ignore-not-found");
}

fn applying(s: &Session) {
    assert!(
        s.feed("apply -f -", &config_map("a", "1"))
            .contains("configmap/a created")
    );
    assert!(
        s.feed("apply -f -", &config_map("a", "1"))
            .contains("configmap/a unchanged")
    );
    let same = s.output("diff -f -", &config_map("a", "1"));
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    let other = s.output("diff -f -", &config_map("a", "2"));
    assert_eq!(other.status.code(), Some(1), "{}", text(&other.stderr));
    assert!(
        text(&other.stdout).contains("-  key: \"1\"\n+  key: \"2\""),
        "{}",
        text(&other.stdout)
    );
    assert!(
        s.feed("apply --dry-run=server -f -", &config_map("a", "2"))
            .contains("configmap/a configured (server dry run)")
    );
    assert_eq!(s.value("configmap a", "{.data.key}"), "1");
    assert!(
        s.feed("apply -f -", &config_map("a", "2"))
            .contains("configmap/a configured")
    );
    s.says("apply view-last-applied configmap/a", "key: \"2\"");
    s.feed(
        "apply -f -",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {key: \"2\"}\n",
    );
    assert_eq!(
        s.value("configmap a", "{.data.other}"),
        "",
        "what is no longer applied goes"
    );

    assert!(
        s.feed("apply --server-side -f -", &config_map("b", "1"))
            .contains("configmap/b serverside-applied")
    );
    let conflict = "Apply failed with 1 conflict: conflict with \"kubectl\": .data.key";
    s.refused(
        "apply --server-side --field-manager=second -f -",
        &config_map("b", "2"),
        conflict,
    );
    s.feed(
        "apply --server-side --field-manager=second --force-conflicts -f -",
        &config_map("b", "2"),
    );
    assert_eq!(s.value("configmap b", "{.data.key}"), "2");
    let managers = s.run("get configmap b --show-managed-fields -o 'jsonpath={.metadata.managedFields[*].manager}'");
    assert_eq!(managers.split_whitespace().collect::<Vec<_>>(), ["kubectl", "second"]);
    // From client-side to server-side apply: kubectl moves the fields to its new manager.
    s.feed("apply -f -", &config_map("c", "1"));
    s.feed("apply --server-side -f -", &config_map("c", "2"));
    assert_eq!(s.value("configmap c", "{.data.key}"), "2");
    let mixed = format!(
        "{}---\n{}",
        config_map("d", "1"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: BAD}\n"
    );
    s.refused("apply -f -", &mixed, "metadata.name: Invalid value: \"BAD\"");
    assert_eq!(
        s.value("configmap d", "{.data.key}"),
        "1",
        "the good document was applied"
    );
}

fn rollouts(s: &Session) {
    s.feed("apply -f -", &deployment("web", 2));
    s.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    s.run("wait --for=condition=Available deployment/web --timeout=30s");
    s.says("get deployment web", "2/2");
    s.says("get deployment,replicaset,pod -o wide", "actorium.local/busybox:1");
    s.says("scale deployment web --replicas=3", "scaled");
    s.run("wait '--for=jsonpath={.status.readyReplicas}=3' deployment/web --timeout=30s");
    s.refused(
        "scale deployment web --replicas=1 --current-replicas=9",
        "",
        "Expected replicas to be 9, was 3",
    );
    s.says(
        "patch deployment web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'",
        "patched",
    );
    s.run("wait '--for=jsonpath={.status.replicas}=2' deployment/web --timeout=30s");

    s.says("set env deployment/web COLOUR=red", "env updated");
    s.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    let history = s.run("rollout history deployment/web");
    assert!(
        history.contains("1         <none>") && history.contains("2         <none>"),
        "{history}"
    );
    s.says("rollout history deployment/web --revision=2", "COLOUR:\tred");
    undo(s);
    s.says("rollout restart deployment/web", "restarted");
    s.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    s.says("rollout pause deployment/web", "paused");
    s.says(
        "set image deployment/web main=actorium.local/busybox:none",
        "image updated",
    );
    s.says(
        "set image deployment/web main=actorium.local/busybox:1",
        "image updated",
    );
    s.says("rollout resume deployment/web", "resumed");
    s.says("rollout status deployment/web --timeout=30s", "successfully rolled out");

    s.says("expose deployment web --port=80", "service/web exposed");
    s.says("get service web", "ClusterIP");
    s.await_value(
        "endpointslices -l kubernetes.io/service-name=web",
        "{.items[0].endpoints[1].conditions.ready}",
        "true",
    );
    s.says("describe service web", "Endpoints:");
    let described = s.run("describe deployment web");
    assert!(
        described.contains("Scaled up replica set") && described.contains("NewReplicaSetAvailable"),
        "{described}"
    );
    s.says("describe pods", "Successfully assigned");
    s.says("events --for deployment/web", "ScalingReplicaSet");
    s.says(
        "get events --field-selector=involvedObject.kind=Deployment --sort-by=.lastTimestamp",
        "ScalingReplicaSet",
    );
    s.says("get all -o name", "replicaset.apps/web-");
}

/// To the revision before, to one by its number, and to one that is not there.
fn undo(s: &Session) {
    s.says("rollout undo deployment/web", "rolled back");
    s.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    assert_eq!(s.value("deployment web", "{.spec.template.spec.containers[0].env}"), "");
    let history = s.run("rollout history deployment/web");
    assert!(
        !history.contains("1         <none>") && history.contains("3         <none>"),
        "the revision that is used again is the newest: {history}"
    );
    s.says("rollout undo deployment/web --to-revision=2", "rolled back");
    s.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    assert_eq!(
        s.value("deployment web", "{.spec.template.spec.containers[0].env[0].value}"),
        "red"
    );
    s.refused(
        "rollout undo deployment/web --to-revision=9",
        "",
        "unable to find specified revision 9",
    );
}

fn deletion(s: &Session) {
    let up = || {
        s.feed("apply -f -", &deployment("web", 2));
        s.run("rollout status deployment/web --timeout=30s");
    };
    up();
    s.says("delete deployment web --cascade=orphan --timeout=30s", "deleted");
    let replica_set = s.run("get replicasets -o name").trim().to_owned();
    assert_eq!(s.value(&replica_set, "{.metadata.ownerReferences}"), "");
    s.says(
        &format!("delete {replica_set} --cascade=orphan --timeout=30s"),
        "deleted",
    );
    assert_eq!(s.run("get pods -o name").lines().count(), 2);
    s.run("delete pods -l app=web --timeout=30s");
    for cascade in ["foreground", "background"] {
        up();
        s.says(
            &format!("delete deployment web --cascade={cascade} --timeout=30s"),
            "deleted",
        );
        if cascade == "foreground" {
            assert_eq!(s.run("get replicasets,pods -o name"), "", "dependents go first");
        }
        wait_for("dependents go", SOON, || {
            let left = s.run("get replicasets,pods -o name");
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    // A container that ignores SIGTERM gets its grace period, and no more.
    s.feed(
        "apply -f -",
        &pod("deaf", "trap \"\" TERM; while true; do sleep 0.1; done"),
    );
    s.run("wait --for=condition=Ready pod/deaf --timeout=30s");
    let begun = Instant::now();
    s.run("delete pod deaf --grace-period=2 --timeout=30s");
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(1_900) && took < Duration::from_secs(10),
        "{took:?}"
    );
    s.feed(
        "apply -f -",
        &pod("deaf", "trap \"\" TERM; while true; do sleep 0.1; done"),
    );
    s.run("wait --for=condition=Ready pod/deaf --timeout=30s");
    s.says("delete pod deaf --grace-period=0 --force", "force deleted");
    s.refused("get pod deaf", "", "pods \"deaf\" not found");
    s.feed("create -f -", &config_map("a", "1"));
    s.feed("create -f -", &config_map("b", "1"));
    s.says("delete configmap --all --dry-run=server", "(server dry run)");
    s.run("get configmap a b");
    s.says("delete configmap a --wait=false", "deleted");
    s.says("delete configmap --all", "configmap \"b\" deleted");
}

fn logs(s: &Session) {
    let two = "apiVersion: v1\nkind: Pod\nmetadata: {name: two, labels: {app: two}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
               initContainers:\n  - {name: first, image: actorium.local/busybox:1, command: [echo, from the first]}\n  containers:\n  \
               - {name: talks, image: actorium.local/busybox:1, command: [sh, -c, 'for i in 1 2 3 4 5; do echo line $i; done; n=0; while true; do n=$((n+1)); echo tick $n; sleep 0.2; done']}\n  \
               - {name: crashes, image: actorium.local/busybox:1, command: [sh, -c, 'echo about to crash; sleep 0.5; exit 3']}\n";
    s.feed("apply -f -", two);
    s.run("wait '--for=jsonpath={.status.containerStatuses[?(@.name==\"crashes\")].lastState.terminated.exitCode}=3' pod/two --timeout=30s");
    s.says("logs two -c talks", "line 1\nline 2\nline 3\nline 4\nline 5\ntick 1");
    s.says("logs two -c first", "from the first");
    s.says("logs two -c crashes --previous", "about to crash");
    s.refused(
        "logs two -c talks --previous",
        "",
        "previous terminated container \"talks\" in pod \"two\" not found",
    );
    s.refused("logs two -c none", "", "container none is not valid for pod two");
    assert_eq!(s.run("logs two -c talks --tail=2").lines().count(), 2);
    assert_eq!(s.run("logs two -c talks --limit-bytes=9"), "line 1\nli");
    s.says("logs two -c talks --since=1h", "line 1");
    assert_eq!(s.run("logs two -c talks --since-time=2100-01-01T00:00:00Z"), "");
    let stamped = s.run("logs two -c talks --timestamps --tail=1");
    assert!(
        stamped.split_once('T').is_some_and(|(day, _)| day.len() == 10) && stamped.contains("Z tick "),
        "{stamped}"
    );
    s.says("logs two --all-containers --prefix --tail=20", "[pod/two/talks] ");
    s.says("logs -l app=two -c talks --tail=1", "tick");
    let follows = s.follow("logs two -c talks -f --tail=1");
    follows.expect(&["tick"], SOON);
    follows.expect(&["tick"], SOON);
    follows.expect(&["tick"], SOON);
    drop(follows);
    // A followed log ends with its container, whose successor has a log of its own.
    let whole = s.feed("apply -f -", &pod("restarts", "sleep 1; echo one life; exit 3"))
        + &s.run("wait --for=condition=Ready pod/restarts --timeout=30s");
    assert_eq!(s.run("logs restarts -f"), "one life\n", "{whole}");
    s.await_value("pod restarts", "{.status.containerStatuses[0].restartCount}", "1");
    s.await_value(
        "pod restarts",
        "{.status.containerStatuses[0].lastState.terminated.exitCode}",
        "3",
    );
    assert_eq!(s.run("logs restarts --previous"), "one life\n");
    s.feed("apply -f -", &pod("ends", "echo one; sleep 1; echo two"));
    s.run("wait --for=condition=Ready pod/ends --timeout=30s");
    s.says("logs ends -f --pod-running-timeout=20s", "one\ntwo\n");
}

fn watching(s: &Session) {
    s.feed("create -f -", &config_map("a", "1"));
    let watch = s.follow("get configmaps -l watched=yes --watch -o name");
    let events = s.follow("get configmaps --watch --output-watch-events");
    events.expect(&["ADDED", "a"], SOON);
    s.run("label configmap a watched=yes");
    watch.expect(&["configmap/a"], SOON);
    events.expect(&["MODIFIED", "a"], SOON);
    s.run("delete configmap a");
    events.expect(&["DELETED", "a"], SOON);
    let pods = s.follow("get pods --watch");
    s.feed(
        "apply -f -",
        &pod("p", "trap exit TERM; while true; do sleep 0.1; done"),
    );
    pods.expect(&["p", "1/1", "Running"], SOON);
    s.says("get pods --field-selector=status.phase=Running -o name", "pod/p");
    assert_eq!(s.run("get pods --field-selector=status.phase!=Running -o name"), "");
    let node = &s.cluster.nodes[0].name;
    s.says(
        &format!("get pods -A --field-selector=spec.nodeName={node} -o name"),
        "pod/p",
    );
    s.run("delete pod p --wait=false");
    s.run("wait --for=delete pod/p --timeout=30s");
    pods.expect(&["p", "Terminating"], SOON);
    s.refused(
        "wait --for=condition=Ready pod/none --timeout=1s",
        "",
        "pods \"none\" not found",
    );
    s.says(
        "run task --image=actorium.local/busybox:1 --restart=Never --command -- echo done",
        "pod/task created",
    );
    s.run("wait '--for=jsonpath={.status.phase}=Succeeded' pod/task --timeout=30s");
    s.says("get pod task", "Completed");
}

fn nodes(s: &Session) {
    let name = s.cluster.nodes[0].name.clone();
    s.says(&format!("cordon {name}"), "cordoned");
    s.says("get nodes", "Ready,SchedulingDisabled");
    s.says(&format!("uncordon {name}"), "uncordoned");
    s.says(&format!("taint nodes {name} key=value:NoSchedule"), "tainted");
    s.feed("apply -f -", &pod("waits", "while true; do sleep 0.1; done"));
    s.await_value(
        "pod waits",
        "{.status.conditions[?(@.type==\"PodScheduled\")].reason}",
        "Unschedulable",
    );
    s.says("describe pod waits", "untolerated taint");
    s.says("get pod waits", "Pending");
    s.refused("logs waits", "", "pod waits does not have a host assigned");
    s.says(&format!("describe node {name}"), "key=value:NoSchedule");
    s.says(&format!("taint nodes {name} key=value:NoSchedule-"), "untainted");
    s.run("wait --for=condition=Ready pod/waits --timeout=30s");
    s.says(&format!("label node {name} disk=fast"), "labeled");
    s.says("get nodes -l disk=fast -L disk", "fast");
    s.says(&format!("get lease -n kube-node-lease {name}"), &name);
    s.run("delete pod waits --grace-period=1 --timeout=30s");
}

fn namespaces(s: &Session) {
    s.says("create namespace full", "namespace/full created");
    s.feed("apply -n full -f -", &deployment("web", 2));
    s.feed("apply -n full -f -", &config_map("a", "1"));
    s.run("expose -n full deployment web --port=80");
    s.run("rollout status -n full deployment/web --timeout=30s");
    s.says("describe namespace full", "Active");
    s.says("delete namespace full --timeout=40s", "namespace \"full\" deleted");
    s.refused("get namespace full", "", "namespaces \"full\" not found");
    for kind in [
        "pods",
        "deployments.apps",
        "replicasets.apps",
        "services",
        "configmaps",
        "endpointslices",
        "events",
    ] {
        assert_eq!(
            s.run(&format!(
                "get {kind} -A --field-selector=metadata.namespace=full -o name"
            )),
            "",
            "{kind} are left"
        );
    }
    s.refused(
        "delete namespace default",
        "",
        "namespaces \"default\" is forbidden: this namespace may not be deleted",
    );
    s.run("create namespace full"); // its name is free again
    s.run("delete namespace full --timeout=40s");
}

fn refusals(s: &Session) {
    let path = format!("/api/v1/namespaces/{}/configmaps", s.namespace);
    let map = |name: &str| json!({"metadata": {"name": name}});
    let created = s.request("POST", &path, &map("a")).expect("it is created");
    let mut stale = map("a");
    stale["metadata"]["resourceVersion"] = "1".into();
    let mut other_uid = map("a");
    other_uid["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    let wrong_uid = json!({"preconditions": {"uid": "other"}});
    let one = format!("{path}/a");
    let services = format!("/api/v1/namespaces/{}/services", s.namespace);
    let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "192.0.2.1", "ports": [{"port": 80}]}});
    let cases: &[(&str, String, Value, u16, &str)] = &[
        ("POST", path.clone(), map("a"), 409, "AlreadyExists"),
        ("PUT", one.clone(), stale, 409, "Conflict"),
        ("PUT", one.clone(), other_uid, 409, "Conflict"),
        ("PUT", one.clone(), map("b"), 400, "BadRequest"),
        ("DELETE", one.clone(), wrong_uid, 409, "Conflict"),
        (
            "DELETE",
            format!("{one}?propagationPolicy=Sideways"),
            Value::Null,
            422,
            "Invalid",
        ),
        ("POST", path.clone(), map("Not A Name"), 422, "Invalid"),
        (
            "POST",
            path.clone(),
            json!({"metadata": {"name": "x"}, "data": [1]}),
            400,
            "BadRequest",
        ),
        ("POST", services, service, 422, "Invalid"),
        ("PATCH", one.clone(), json!({}), 415, "UnsupportedMediaType"),
        (
            "GET",
            format!("{path}?continue=nonsense"),
            Value::Null,
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{path}?resourceVersion=nonsense"),
            Value::Null,
            422,
            "Invalid",
        ),
        (
            "GET",
            format!("{path}?resourceVersion=999999999"),
            Value::Null,
            504,
            "Timeout",
        ),
        (
            "GET",
            format!("{path}?labelSelector=a%20b"),
            Value::Null,
            400,
            "BadRequest",
        ),
        ("PUT", path.clone(), map("a"), 405, "MethodNotAllowed"),
        (
            "GET",
            "/apis/nobody.example/v1/things".to_owned(),
            Value::Null,
            404,
            "NotFound",
        ),
    ];
    for (method, path, body, code, reason) in cases {
        match s.request(method, path, body) {
            Ok(answer) => panic!("{method} {path} succeeded: {answer}"),
            Err((found, said, message)) => {
                assert_eq!((found, said.as_str()), (*code, *reason), "{method} {path}: {message}")
            }
        }
    }
    let deleted = s.request("DELETE", &one, &Value::Null).expect("it is deleted");
    assert_eq!(
        (&deleted["status"], &deleted["details"]["uid"]),
        (&json!("Success"), &created["metadata"]["uid"])
    );
    s.refused(&format!("get --raw {one}"), "", "configmaps \"a\" not found");
    assert!(
        s.feed(&format!("create --raw {path} -f -"), &map("raw").to_string())
            .contains("\"name\":\"raw\"")
    );
}

#[test]
fn the_unmodified_kubectl_finds_a_kubernetes() {
    let cluster = Cluster::start(4, 1);
    cluster.import_images(0);
    let checks: &[(&str, fn(&Session))] = &[
        ("discovery", discovery),
        ("creation", creation),
        ("printing", printing),
        ("changing", changing),
        ("applying", applying),
        ("rollouts", rollouts),
        ("deletion", deletion),
        ("logs", logs),
        ("watching", watching),
        ("nodes", nodes),
        ("namespaces", namespaces),
        ("refusals", refusals),
        ("custom", custom::kinds_of_ones_own),
        ("formats", forms::formats),
        ("watches", forms::watches),
        ("explanations", forms::explanations),
        ("ways-of-apply", forms::applying),
        ("rights", rights::rights),
        ("makers", rights::makers),
        ("dependents", dependents::custom_owners_and_dependents),
        ("drains", keeping::drains),
        ("looking", keeping::looking),
        ("proxies", keeping::proxies),
        ("more-changes", keeping::more_changes),
    ];
    let failed: Vec<&str> = checks
        .iter()
        .filter(|(name, check)| {
            let begun = Instant::now();
            let check = || check(&Session::new(&cluster, &format!("check-{name}")));
            let failed = std::panic::catch_unwind(AssertUnwindSafe(check)).is_err();
            println!(
                "{name}: {} in {} ms",
                if failed { "FAILED" } else { "ok" },
                begun.elapsed().as_millis()
            );
            failed
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(
        failed.is_empty(),
        "failed: {failed:?}; what was wrong stands above\n{}",
        cluster.logs()
    );
}
