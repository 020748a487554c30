//! Pods with user namespaces of their own (`hostUsers: false`), and what keeps a pod from filling its node: through the
//! unmodified kubectl, on a real node, looked at from the machine.

use tests::remains::of_pods;

use super::*;

const POD_IDS: u32 = 65_536;

/// Root in its pod: what it sees, what it may write, what it may not.
const OWN_USERS: &str = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: users-settings}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: users-key}
stringData: {word: sesame}
"#;

fn own_users(name: &str) -> String {
    let script = "
        echo \"id=$(id -u):$(id -g) map=$(cat /proc/self/uid_map | tr -s ' ')\"
        echo \"owners=$(stat -c %u:%g / /bin /scratch | tr '\\n' ' ')\"
        echo \"files=$(cat /settings/colour /key/word | tr '\\n' ' ') $(stat -L -c %u:%g:%a /key/word)\"
        echo x >> /scratch/lives && echo \"lives=$(wc -l < /scratch/lives) $(stat -c %u:%g /scratch/lives)\"
        touch /etc/made && chown 1000:1000 /etc/made && echo \"made=$(stat -c %u:%g /etc/made)\"
        mknod disk b 254 0 2>&1; (echo 1 > /proc/sys/kernel/panic) 2>&1; mount -t tmpfs none /tmp && echo may-mount
        test -s /etc/resolv.conf && ping -c 1 -W 2 127.0.0.1 > /dev/null && echo network
        trap 'echo told to stop; exit 0' TERM
        echo ready
        while true; do test -e /scratch/end && rm /scratch/end && exit 3; sleep 0.1; done";
    let spec = "
hostUsers: false
securityContext: {fsGroup: 2000}
volumes:
- {name: scratch, emptyDir: {}}
- {name: settings, configMap: {name: users-settings}}
- {name: key, secret: {secretName: users-key, defaultMode: 0400}}";
    let container = "
volumeMounts:
- {name: scratch, mountPath: /scratch}
- {name: settings, mountPath: /settings}
- {name: key, mountPath: /key}
securityContext: {capabilities: {add: [SYS_ADMIN]}, seccompProfile: {type: Unconfined}}";
    pod(name, script, spec, container)
}

/// The first process of a pod's container, as the machine knows it.
fn first_process(cluster: &Cluster, name: &str) -> u32 {
    let uid = cluster.kubectl(0).get(&format!("pod {name}"))["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let is_first = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    let pids = pids_in_group(&uid);
    pids.iter()
        .copied()
        .find(is_first)
        .unwrap_or_else(|| panic!("no first process of {name} in {pids:?}"))
}

/// The real user id of a process, as the machine knows it.
fn machine_user(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("Uid:")).expect("a line");
    line.split_whitespace()
        .nth(1)
        .and_then(|id| id.parse().ok())
        .expect("a number")
}

fn root_inside_is_nobody_outside(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let firsts = ["users-one", "users-two"].map(|name| {
        let log = await_log(&kubectl, name, &["ready"]);
        let first = machine_user(first_process(cluster, name));
        assert!(first >= POD_IDS, "root of {name} is user {first} of the machine");
        for expected in [
            format!("id=0:0 map= 0 {first} {POD_IDS}"),
            "owners=0:0 0:0 0:2000 ".to_owned(),
            "files=bluesesame 0:2000:440".to_owned(),
            "lives=1 0:2000".to_owned(),
            "made=1000:1000".to_owned(),
            "mknod: disk: Operation not permitted".to_owned(),
            "/proc/sys/kernel/panic: Read-only file system".to_owned(),
            "may-mount".to_owned(),
            "network".to_owned(),
        ] {
            assert!(log.contains(&expected), "{expected:?} is not in {log}");
        }
        first
    });
    assert!(
        firsts[0].abs_diff(firsts[1]) >= POD_IDS,
        "the ranges overlap: {firsts:?}"
    );
}

/// A container that ends is started again in the same namespace, and its volume has kept what it wrote.
fn a_restart_keeps_ids_and_volumes(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let before = machine_user(first_process(cluster, "users-two"));
    let uid = kubectl.get("pod users-two")["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    std::fs::write(
        cluster.nodes[0]
            .data_dir
            .join("pods")
            .join(uid)
            .join("volumes/scratch/end"),
        "",
    )
    .expect("the volume is a directory of the node's");
    await_status(cluster, "users-two", "was started again", |status| {
        container(status)["restartCount"] == 1 && container(status)["ready"] == true
    });
    await_log(&kubectl, "users-two", &["lives=2 0:2000", "ready"]);
    assert_eq!(machine_user(first_process(cluster, "users-two")), before);
}

fn a_restart_of_the_node_process_is_not_noticed(cluster: &mut Cluster) {
    let before = first_process(cluster, "users-one");
    cluster.kill_node(0);
    cluster.start_node(0);
    let (status, _) = wait_for("the API answers again", SOON, || status(cluster, "users-one"));
    assert_eq!(first_process(cluster, "users-one"), before);
    assert_eq!(container(&status)["restartCount"], 0, "{status}");
    // The new node process hands out ids that are free.
    cluster.kubectl(0).apply(&own_users("users-three"));
    await_log(&cluster.kubectl(0), "users-three", &["ready"]);
    let ids = ["users-one", "users-two", "users-three"].map(|name| machine_user(first_process(cluster, name)));
    for (at, id) in ids.iter().enumerate() {
        assert!(ids[..at].iter().all(|other| other.abs_diff(*id) >= POD_IDS), "{ids:?}");
    }
}

/// A file system without id-mapped mounts: the pod says so, and nothing of the attempt is left.
fn what_cannot_be_mapped_is_told(cluster: &Cluster) {
    await_event(
        cluster,
        "users-unmappable",
        "Failed",
        "does not support id-mapped mounts",
    );
    await_event(cluster, "users-unmappable", "Failed", "hostUsers: true");
    cluster.kubectl(0).run("delete pod users-unmappable");
}

fn a_pod_that_fills_its_volume_is_evicted(cluster: &Cluster) {
    let message = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ";
    let status = await_status(cluster, "greedy", "is evicted and has ended", |status| {
        status["phase"] == "Failed" && container(status)["state"]["terminated"].is_object()
    });
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&"Evicted".into(), &message.into()),
        "{status}"
    );
    await_event(cluster, "greedy", "Evicted", message.trim());
    let uid = cluster.kubectl(0).get("pod greedy")["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    wait_for("the disk is free again", SOON, || {
        let directory = cluster.nodes[0].data_dir.join("pods").join(&uid);
        if directory.exists() {
            Err(directory.display().to_string())
        } else {
            Ok(())
        }
    });
}

fn the_kernel_knows_whom_to_end_first(cluster: &Cluster) {
    let score = |name: &str| {
        let path = format!("/proc/{}/oom_score_adj", first_process(cluster, name));
        std::fs::read_to_string(path).expect("it runs").trim().to_owned()
    };
    for (name, class) in [("users-one", "BestEffort"), ("burstable", "Burstable")] {
        await_phase(cluster, name, "Running");
        assert_eq!(status(cluster, name).expect("it exists")["qosClass"], class);
    }
    assert_eq!(score("users-one"), "1000");
    // 1000 less the part of the node's memory, in thousandths, that it asks for.
    let asked: u64 = 512 << 20;
    let memory = std::fs::read_to_string("/proc/meminfo").expect("it is there");
    let kibibytes: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("MemTotal");
    let expected = 1000 - 1000 * asked / (kibibytes << 10);
    assert_eq!(score("burstable"), expected.to_string());
}

#[test]
fn pods_with_user_namespaces_run_as_nobody_and_pods_keep_to_their_disk() {
    let mut cluster = Cluster::start(22, 1);
    cluster.import_images(0);
    let greedy = "
        trap 'exit 0' TERM
        head -c 3000000 /dev/zero > /scratch/much
        while true; do sleep 0.1; done";
    let unmappable = pod(
        "users-unmappable",
        "exec sleep 1000",
        "hostUsers: false\nvolumes: [{name: sys, hostPath: {path: /sys/kernel}}]",
        "volumeMounts: [{name: sys, mountPath: /host}]",
    );
    let manifests = [
        OWN_USERS.to_owned(),
        own_users("users-one"),
        own_users("users-two"),
        unmappable,
        pod(
            "greedy",
            greedy,
            "volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}]",
            "volumeMounts: [{name: scratch, mountPath: /scratch}]",
        ),
        pod(
            "burstable",
            "exec sleep 1000",
            "",
            "resources: {requests: {memory: 512Mi}}",
        ),
    ];
    cluster.kubectl(0).apply(&manifests.concat());
    root_inside_is_nobody_outside(&cluster);
    the_kernel_knows_whom_to_end_first(&cluster);
    a_restart_keeps_ids_and_volumes(&cluster);
    what_cannot_be_mapped_is_told(&cluster);
    a_restart_of_the_node_process_is_not_noticed(&mut cluster);
    a_pod_that_fills_its_volume_is_evicted(&cluster);
    cluster.kubectl(0).run("delete pods --all");
    wait_for("nothing of the pods remains", Duration::from_secs(10), || {
        let node = &cluster.nodes[0];
        let found = of_pods(&node.name, &node.data_dir, &node.machine, cluster.pid(0));
        if found.is_empty() {
            Ok(())
        } else {
            Err(found.join("\n"))
        }
    });
}
