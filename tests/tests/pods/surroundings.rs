//! Pods and their surroundings: the network between nodes, why a pod is not scheduled, and that nothing of a removed pod
//! remains. Called by the one test in `main.rs`.

use super::*;

/// A web server on the near node that says who asks, and its Services.
pub fn network(near: &str) -> String {
    let serve = r#"
        mkdir -p /www/cgi-bin
        printf '#!/bin/sh\necho; peer=${REMOTE_ADDR##*:}; echo peer=${peer%%]}\n' > /www/cgi-bin/peer
        chmod +x /www/cgi-bin/peer
        exec httpd -f -p 8080 -h /www"#;
    let services = "
---
apiVersion: v1
kind: Service
metadata: {name: peer}
spec:
  selector: {app: server}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: peer-headless}
spec:
  clusterIP: None
  selector: {app: server}
  ports: [{name: http, port: 8080}]
";
    [
        pod("server", serve, &format!("nodeName: {near}"), ""),
        services.to_owned(),
    ]
    .concat()
}

pub fn pods_reach_each_other(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let server = await_phase(cluster, "server", "Running")["podIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    let service = kubectl.get("service peer")["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    let ask = format!(
        "
        try() {{ for i in $(seq 100); do wget -q -O- $1 2>/dev/null && return; sleep 0.1; done; echo failed; }}
        echo \"mine=$(hostname -i)\"
        echo \"direct $(try http://{server}:8080/cgi-bin/peer)\"
        for name in peer peer.default peer.default.svc.cluster.local; do
        echo \"$name $(try http://$name/cgi-bin/peer)\"
        done
        echo \"headless-web $(try http://peer-headless:8080/cgi-bin/peer)\"
        echo \"cluster $(nslookup peer.default.svc.cluster.local | tr '\\n' ' ')\"
        echo \"headless $(nslookup peer-headless.default.svc.cluster.local | tr '\\n' ' ')\"
        echo \"absent $(nslookup absent.default.svc.cluster.local 2>&1 | tr '\\n' ' ')\"
        begun=$(date +%s)
        echo \"outside $(nslookup nothing.example. 2>&1 | tr '\\n' ' ')\"
        echo \"seconds=$(($(date +%s) - begun))\"
        echo asked
        exec sleep 1000"
    );
    let far = cluster.nodes[1].name.clone();
    kubectl.apply(&pod("client", &ask, &format!("nodeName: {far}"), ""));
    let log = await_log(&kubectl, "client", &["asked"]);
    let client = status(cluster, "client").expect("it exists")["podIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    let line = |start: &str| {
        log.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("no {start} in {log}"))
    };
    assert_eq!(line("mine="), format!("mine={client}"));
    for name in [
        "direct",
        "peer",
        "peer.default",
        "peer.default.svc.cluster.local",
        "headless-web",
    ] {
        assert_eq!(
            line(&format!("{name} ")),
            format!("{name} peer={client}"),
            "the server saw another source, or nobody: {log}"
        );
    }
    assert!(line("cluster ").contains(&service), "{log}");
    assert!(line("headless ").contains(&server), "{log}");
    assert!(line("absent ").contains("NXDOMAIN"), "{log}");
    assert!(line("outside ").contains("SERVFAIL"), "{log}");
    let seconds: u64 = line("seconds=")["seconds=".len()..].parse().expect("a number");
    assert!(seconds <= 5, "a name that no server answers took {seconds} s: {log}");
}

pub fn unschedulable_pods_say_why(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let (near, far) = (&cluster.nodes[0].name, &cluster.nodes[1].name);
    kubectl.run(&format!("taint nodes {far} dedicated=batch:NoSchedule"));
    let to = |node: &str| format!("nodeSelector: {{kubernetes.io/hostname: {node}}}");
    let tolerant = format!(
        "{}\ntolerations: [{{key: dedicated, operator: Equal, value: batch, effect: NoSchedule}}]",
        to(far)
    );
    let sleeps = "exec sleep 1000";
    kubectl.apply(
        &[
            pod("greedy", sleeps, &to(near), "resources: {requests: {cpu: 1000}}"),
            pod("picky", sleeps, "nodeSelector: {disk: none-such}", ""),
            pod("untolerant", sleeps, &to(far), ""),
            pod("tolerant", sleeps, &tolerant, ""),
        ]
        .concat(),
    );
    let refused = |name: &str, parts: &[&str]| {
        let status = await_status(cluster, name, "is unschedulable", |status| {
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|c| c["type"] == "PodScheduled" && c["status"] == "False" && c["reason"] == "Unschedulable")
        });
        assert_eq!(status["phase"], "Pending");
        let text = status["conditions"].to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
            await_event(cluster, name, "FailedScheduling", part);
        }
    };
    refused(
        "greedy",
        &[
            "0/2 nodes are available: ",
            "1 Insufficient cpu",
            "1 node(s) had untolerated taint {dedicated: batch}",
        ],
    );
    refused("picky", &["1 node(s) didn't match Pod's node affinity/selector"]);
    refused("untolerant", &["1 node(s) had untolerated taint {dedicated: batch}"]);
    await_phase(cluster, "tolerant", "Running");
    kubectl.run(&format!("label node {near} disk=none-such"));
    await_phase(cluster, "picky", "Running");
    kubectl.run(&format!("taint nodes {far} dedicated-"));
    await_phase(cluster, "untolerant", "Running");
    // Not before the end: it would no longer be unschedulable once it is gone.
    assert_eq!(status(cluster, "greedy").expect("it exists")["phase"], "Pending");
}

/// What is left of pods on a node.
fn remains(cluster: &Cluster, index: usize) -> Vec<String> {
    let node = &cluster.nodes[index];
    tests::remains::of_pods(&node.name, &node.data_dir, &node.machine, cluster.pid(index))
}

/// A mount among the pods of a node is found. Pods that run prove the other kinds; their mounts are in namespaces of their
/// own, so that one in the node's is always a fault, and has to be planted.
fn a_planted_mount_is_found(cluster: &Cluster) {
    let planted = cluster.nodes[0].data_dir.join("pods/planted");
    std::fs::create_dir(&planted).expect("a directory among the pods");
    let (tmpfs, flags) = (Some("tmpfs"), nix::mount::MsFlags::empty());
    nix::mount::mount(tmpfs, &planted, tmpfs, flags, None::<&str>).expect("root may mount a tmpfs");
    let found = remains(cluster, 0);
    nix::mount::umount(&planted).expect("it can be unmounted");
    let left = remains(cluster, 0);
    std::fs::remove_dir(&planted).expect("it is empty");
    let mounts = |found: &[String]| found.iter().filter(|line| line.starts_with("mount ")).count();
    let is_it = |line: &String| line.starts_with("mount ") && line.contains("/pods/planted ");
    assert!(found.iter().any(is_it), "the search does not find a mount: {found:?}");
    assert_eq!(
        mounts(&left),
        0,
        "pods that run show mounts in the node's namespace: {left:?}"
    );
}

pub fn nothing_remains(cluster: &Cluster) {
    for index in 0..2 {
        let kinds = remains(cluster, index);
        for kind in ["process", "cgroup", "directory", "link"] {
            assert!(
                kinds.iter().any(|found| found.starts_with(kind)),
                "the search finds no {kind} of pods that run: {kinds:?}"
            );
        }
    }
    a_planted_mount_is_found(cluster);
    let begun = Instant::now();
    cluster.kubectl(0).run("delete pods --all");
    println!(
        "measured: kubectl delete pods --all on two nodes: {} ms",
        begun.elapsed().as_millis()
    );
    for index in 0..2 {
        wait_for("nothing of the pods remains", Duration::from_secs(10), || {
            let found = remains(cluster, index);
            if found.is_empty() {
                Ok(())
            } else {
                Err(found.join("\n"))
            }
        });
    }
}
