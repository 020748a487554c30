//! What people who keep a cluster do with kubectl: they empty nodes, look at what happened, copy a pod to look into it, and reach
//! the API through a proxy of their own.

use std::io::Read;
use std::net::TcpStream;

use super::*;

/// `drain`: refuses what would be lost, waits for budgets, and evicts.
pub fn drains(s: &Session) {
    let node = s.cluster.nodes[0].name.clone();
    // Pods of other checks stay where they are.
    let drain = format!("drain {node} '--pod-selector=app in (drained,lone)'");
    s.feed("apply -f -", &deployment("drained", 2));
    s.feed(
        "apply -f -",
        &pod("lone", "trap exit TERM; while true; do sleep 0.1; done"),
    );
    s.run("rollout status deployment/drained --timeout=30s");
    s.run("wait --for=condition=Ready pod/lone --timeout=30s");
    s.refused(
        &format!("{drain} --timeout=20s"),
        "",
        "cannot delete Pods that declare no controller (use --force to override)",
    );
    s.says(&format!("{drain} --force --dry-run=server"), "(server dry run)");
    s.run("get pod lone");

    s.run("create poddisruptionbudget all --selector=app=drained --min-available=2");
    s.await_value(
        "pdb all",
        "{.status.currentHealthy} {.status.disruptionsAllowed}",
        "2 0",
    );
    s.refused(
        &format!("{drain} --force --timeout=7s"),
        "",
        "Cannot evict pod as it would violate the pod's disruption budget",
    );
    s.run("get nodes");
    assert_eq!(s.value(&format!("node {node}"), "{.spec.unschedulable}"), "true");
    s.run("patch pdb all --type=merge -p '{\"spec\":{\"minAvailable\":0}}'");
    let emptied = s.run(&format!("{drain} --force --timeout=40s"));
    assert!(
        emptied.contains("pod/lone evicted") || emptied.contains("evicting pod"),
        "{emptied}"
    );
    s.says("get pods -l app=drained", "Pending");
    assert_eq!(s.run("get pod lone --ignore-not-found -o name"), "");
    s.says(&format!("uncordon {node}"), "uncordoned");
    s.says(
        "rollout status deployment/drained --timeout=30s",
        "successfully rolled out",
    );
    s.refused(
        &format!("drain {node}x --force"),
        "",
        &format!("nodes \"{node}x\" not found"),
    );
    s.run("delete deployment drained --timeout=30s");
}

/// `events`, `top`, `describe`, `cluster-info dump`, and `debug` of a copy.
pub fn looking(s: &Session) {
    let lives = "trap exit TERM; while true; do sleep 0.1; done";
    let following = s.follow("events --watch");
    s.feed("apply -f -", &pod("seen", lives));
    following.expect(&["Scheduled", "Pod/seen"], SOON);
    s.run("wait --for=condition=Ready pod/seen --timeout=30s");
    s.says("events --for pod/seen --types=Normal", "Started");
    s.says("events -A -o yaml", "involvedObject:");
    s.says("get events --sort-by=.metadata.creationTimestamp -o wide", "pod/seen");
    s.says(
        "get events.events.k8s.io --field-selector=regarding.name=seen",
        "Scheduled",
    );
    for what in ["nodes", "pods"] {
        s.refused(&format!("top {what}"), "", "Metrics API not available");
    }
    let dump = s.run(&format!("cluster-info dump --namespaces={}", s.namespace));
    assert!(
        dump.contains("\"kind\": \"PodList\"") && dump.contains("\"name\": \"seen\""),
        "{dump}"
    );
    let copied =
        "debug seen --copy-to=copy --container=main --image=actorium.local/busybox:1 --share-processes=false -- sh -c";
    s.run(&format!(
        "{copied} 'echo a copy; trap exit TERM; while true; do sleep 0.1; done'"
    ));
    s.run("wait --for=condition=Ready pod/copy --timeout=30s");
    wait_for("the copy runs another command", SOON, || {
        let log = s.run("logs copy");
        if log == "a copy\n" { Ok(()) } else { Err(log) }
    });
    s.says("get deployments,pods --show-kind", "pod/copy");
    s.run("delete pods --all --timeout=30s");
}

/// `kubectl proxy`: plain HTTP on a loopback port, the user's rights behind it.
pub fn proxies(s: &Session) {
    s.feed("create -f -", &config_map("a", "1"));
    let proxy = s.follow("proxy --port=0");
    let line = proxy.next(Instant::now() + SOON).expect("it says where it serves");
    let address = line.rsplit(' ').next().unwrap_or_default().to_owned();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).expect("the proxy listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    };
    let answer = get(&format!("/api/v1/namespaces/{}/configmaps/a", s.namespace));
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"key\":\"1\""),
        "{answer}"
    );
    assert!(get("/readyz").ends_with("ok"));
    assert!(get("/api/v1/nothing").starts_with("HTTP/1.1 404"));
}

/// Subresources by name, and what changes subjects and variables.
pub fn more_changes(s: &Session) {
    s.feed("apply -f -", &deployment("web", 1));
    assert_eq!(
        s.run("get deployment web --subresource=scale -o jsonpath={.kind}/{.spec.replicas}"),
        "Scale/1"
    );
    s.says(
        "get deployment web --subresource=status -o jsonpath={.kind}",
        "Deployment",
    );
    s.run("rollout status deployment/web --timeout=30s");
    s.says("set env deployment/web A=1 B=2", "updated");
    let listed = s.run("set env deployment/web --list");
    assert!(listed.contains("A=1") && listed.contains("B=2"), "{listed}");
    s.says("set env deployment/web A-", "updated");
    assert_eq!(
        s.value("deployment web", "{.spec.template.spec.containers[0].env[*].name}"),
        "B"
    );
    s.says("annotate deployment web kubernetes.io/change-cause=third", "annotated");
    s.run("rollout status deployment/web --timeout=30s");
    s.says("rollout history deployment/web", "third");
    s.run("create role r --verb=get --resource=pods");
    s.run("create rolebinding b --role=r --user=ann");
    s.says("set subject rolebinding b --user=bob --group=dev", "subjects updated");
    assert_eq!(s.value("rolebinding b", "{.subjects[*].name}"), "ann bob dev");
    let namespace = s.namespace.clone();
    let whole = s.json(&format!("namespace {namespace}"));
    let replaced = s.feed("replace --subresource=status -f -", &{
        let mut changed = whole.clone();
        changed["status"]["conditions"] = json!([{"type": "Seen", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}]);
        changed.to_string()
    });
    assert!(replaced.contains("replaced"), "{replaced}");
    assert_eq!(
        s.value(
            &format!("namespace {namespace}"),
            "{.status.conditions[?(@.type==\"Seen\")].status}"
        ),
        "True"
    );
    s.run("delete deployment web --timeout=30s");
}
