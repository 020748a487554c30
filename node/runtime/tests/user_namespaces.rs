//! Pods with `hostUsers: false` on the real kernel (KEP-127): root inside is nobody outside, and nothing else changes for
//! the pod.
#![allow(clippy::disallowed_methods)] // tests measure real time

mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use machine::*;
use protocol::Uid;
use protocol::runtime::*;

/// As many ids as a pod has.
const IDS: u32 = 65_536;

fn confined_pod() -> SandboxSpec {
    SandboxSpec {
        host_users: false,
        ..pod()
    }
}

async fn pid_of(machine: &Machine, pod: &Uid, container: &str) -> u32 {
    match machine.container(pod, container).await.unwrap().phase {
        ContainerPhase::Running { pid, .. } => pid,
        ContainerPhase::Exited(exit) => panic!("{container} ended: {exit:?}"),
    }
}

/// The four user ids of a process, as the machine sees them.
fn uids(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn namespace(pid: u32, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap()
}

/// `stat`, `id` and `cat` of busybox, each line with a name in front.
fn line<'a>(log: &'a str, name: &str) -> &'a str {
    log.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {log}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_of_a_pod_is_nobody_on_the_machine_and_shares_its_ids_with_no_other_pod() {
    let machine = Machine::new().await;
    let mut firsts = Vec::new();
    for _ in 0..2 {
        let pod = confined_pod();
        let uid = pod.pod.uid.clone();
        machine.runtime().start_sandbox(&pod).await.unwrap();
        for name in ["one", "two"] {
            let script = "echo map=$(cat /proc/self/uid_map); echo id=$(id -u):$(id -g); echo ready; sleep 600";
            machine
                .runtime()
                .start_container(&uid, &container(name, script))
                .await
                .unwrap();
            let log = machine.wait_for_log(&uid, name, "ready").await;
            assert_eq!(line(&log, "id"), "0:0");
            assert!(line(&log, "map").ends_with(" 65536"), "{log}");
        }
        let (one, two) = (pid_of(&machine, &uid, "one").await, pid_of(&machine, &uid, "two").await);
        let first = uids(one)[0];
        assert!(first >= IDS, "container root is {first} on the machine");
        assert_eq!(uids(one), [first; 4]);
        assert_eq!(uids(two), [first; 4], "one user namespace for all containers of a pod");
        assert_eq!(namespace(one, "user"), namespace(two, "user"));
        let own = std::process::id();
        for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            assert_ne!(namespace(one, name), namespace(own, name), "{name}");
        }
        assert_ne!(namespace(one, "pid"), namespace(two, "pid"));
        firsts.push(first);

        let mut as_user = container("user", "echo id=$(id); echo ready; sleep 600");
        as_user.security.run_as_user = Some(1000);
        machine.runtime().start_container(&uid, &as_user).await.unwrap();
        machine.wait_for_log(&uid, "user", "ready").await;
        assert_eq!(uids(pid_of(&machine, &uid, "user").await), [first + 1000; 4]);
    }
    assert!(firsts[0].abs_diff(firsts[1]) >= IDS, "{firsts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_belong_to_the_pods_own_users_and_volumes_outlive_a_container() {
    let machine = Machine::new().await;
    let mut pod = confined_pod();
    pod.fs_group = Some(2000);
    let files = BTreeMap::from([(
        "key".to_owned(),
        FileContent {
            content: b"secret".to_vec(),
            mode: 0o400,
            owner: None,
        },
    )]);
    let empty = |memory| VolumeSource::EmptyDir {
        memory,
        size_limit_bytes: None,
    };
    pod.volumes = [
        ("disk", empty(false)),
        ("memory", empty(true)),
        ("files", VolumeSource::Files { files, memory: true }),
    ]
    .map(|(name, source)| VolumeSpec {
        name: name.into(),
        source,
    })
    .to_vec();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let mounts = ["disk", "memory", "files"].map(|volume| VolumeMountSpec {
        volume: volume.into(),
        mount_path: format!("/{volume}"),
        sub_path: String::new(),
        read_only: false,
    });
    let script = "
        for path in / /bin/busybox /etc/passwd /proc /dev /dev/shm /dev/pts /disk /memory /files/key /etc/resolv.conf \
            /dev/termination-log /proc/self/fd/1; do echo \"$path=$(stat -L -c %u:%g $path)\"; done
        for path in /made /disk/made /memory/made /dev/shm/made made-here /etc/hosts /etc/hostname; do
            echo x >> $path && echo \"$path-is=$(stat -c %u:%g $path)\"; done
        echo resolv=$(cat /etc/resolv.conf); echo key=$(cat /files/key); echo name=$(hostname)
        chmod 4755 /bin/busybox && echo copied-up=$(stat -c %u:%g /bin/busybox)
        echo x > /dev/null && head -c 1 /dev/urandom > random && echo devices=work
        echo again > /dev/stdout; printf words > /dev/termination-log; exit 3";
    let mut spec = container("main", script);
    spec.mounts = mounts.to_vec();
    machine.runtime().start_container(&uid, &spec).await.unwrap();
    let exit = machine.exit(&uid, "main").await;
    let log = machine.log(&uid, "main").await;
    assert_eq!((exit.exit_code, exit.message.as_str()), (3, "words"), "{log}");
    for path in [
        "/",
        "/bin/busybox",
        "/etc/passwd",
        "/dev",
        "/dev/shm",
        "/etc/resolv.conf",
        "/proc/self/fd/1",
    ] {
        assert_eq!(line(&log, path), "0:0", "{path}: {log}");
    }
    assert_eq!(line(&log, "/dev/pts"), "0:0");
    for path in ["/disk", "/memory"] {
        assert_eq!(line(&log, path), "0:2000", "fsGroup is a group of the pod's: {log}");
    }
    assert_eq!(line(&log, "/files/key"), "0:2000");
    for path in ["/made", "/dev/shm/made", "made-here", "/etc/hosts", "/etc/hostname"] {
        assert_eq!(line(&log, &format!("{path}-is")), "0:0", "{log}");
    }
    for path in ["/disk/made", "/memory/made"] {
        assert_eq!(line(&log, &format!("{path}-is")), "0:2000", "{log}");
    }
    assert_eq!(line(&log, "copied-up"), "0:0");
    assert_eq!(line(&log, "key"), "secret");
    assert!(line(&log, "resolv").contains("192.0.2.53"));
    assert_eq!(line(&log, "name"), pod.hostname);
    assert!(log.contains("devices=work") && log.contains("again"), "{log}");

    // What is on the disk has the pod's ids, so that it means the same with another range.
    let on_disk = fs::metadata(machine.pod_directory(&uid).join("volumes/disk/made")).unwrap();
    assert_eq!((on_disk.uid(), on_disk.gid()), (0, 2000));

    let again = ContainerSpec {
        attempt: 1,
        command: [
            "sh",
            "-c",
            "cat /disk/made /memory/made /dev/shm/made; test -e /made || echo fresh; echo y > /disk/made",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..spec
    };
    machine.runtime().start_container(&uid, &again).await.unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 0);
    assert_eq!(machine.log(&uid, "main").await, "x\nx\nx\nfresh\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_capability_inside_is_none_on_the_machine() {
    let machine = Machine::new().await;
    let pod = confined_pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "
        echo eff=$(sed -n 's/CapEff:\\s*//p' /proc/self/status 2>/dev/null || head -n 99 /proc/self/status)
        mknod disk b 254 0; mknod null c 1 3; head -c 1 /dev/kmsg
        mount -t proc none /tmp && echo own-proc; mount -t tmpfs none /tmp && echo own-tmpfs=$(stat -c %u /tmp)
        hostname other && echo own-hostname
        echo 1 > /proc/sys/kernel/panic; echo core > /proc/sys/kernel/core_pattern; echo 3 > /proc/sys/vm/drop_caches
        echo 5 > /proc/sys/kernel/shmmni && echo own-shmmni; cat /proc/sys/kernel/shmmni
        ip link add type veth && echo own-links
        ls /proc/1/root/etc/shadow; echo done";
    let mut spec = container("main", script);
    spec.security.capabilities_add = vec!["ALL".into()];
    spec.security.seccomp_unconfined = true;
    spec.security.privileged = true;
    machine.runtime().start_container(&uid, &spec).await.unwrap();
    machine.exit(&uid, "main").await;
    let log = machine.log(&uid, "main").await;
    for expected in [
        "mknod: disk: Operation not permitted",
        "mknod: null: Operation not permitted",
        "can't create /proc/sys/kernel/panic: Permission denied",
        "can't create /proc/sys/kernel/core_pattern: Permission denied",
        "can't create /proc/sys/vm/drop_caches: Permission denied",
        "head: /dev/kmsg: Operation not permitted",
        "own-proc",
        "own-tmpfs=0",
        "own-links",
        "own-hostname",
        "own-shmmni",
        "done",
    ] {
        assert!(log.contains(expected), "{expected:?} is not in {log}");
    }
    let machines = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    assert_ne!(machines.trim(), "5", "the machine's sysctl was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_a_user_namespace_may_share_processes_have_sysctls_and_a_terminal() {
    let machine = Machine::new().await;
    let mut pod = confined_pod();
    pod.share_process_namespace = true;
    pod.sysctls = BTreeMap::from([
        ("kernel.shmmni".to_owned(), "77".to_owned()),
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
    ]);
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    machine
        .runtime()
        .start_container(&uid, &container("first", "exec sleep 12345"))
        .await
        .unwrap();
    let script = "echo shmmni=$(cat /proc/sys/kernel/shmmni); \
                  echo port=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start); ps; \
                  test -t 0 && test -t 1 && echo terminal=$(stat -L -c %u /proc/self/fd/0); ls /proc/1/root/etc; echo done";
    let mut second = container("second", script);
    second.tty = true;
    second.security.capabilities_add = vec!["ALL".into()];
    machine.runtime().start_container(&uid, &second).await.unwrap();
    machine.exit(&uid, "second").await;
    let log = machine.log(&uid, "second").await.replace('\r', "");
    assert_eq!((line(&log, "shmmni"), line(&log, "port")), ("77", "0"));
    assert!(log.contains("sleep 12345"), "{log}");
    assert_eq!(line(&log, "terminal"), "0");
    assert!(
        !log.contains("passwd"),
        "the namespace's first process shows the machine's files: {log}"
    );
    let first = pid_of(&machine, &uid, "first").await;
    assert!(uids(first)[0] >= IDS);
    machine.runtime().signal_container(&uid, "first", 15).await.unwrap();
    machine.runtime().signal_container(&uid, "first", 9).await.unwrap();
    assert_eq!(machine.exit(&uid, "first").await.exit_code, 143);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_process_finds_the_pod_and_its_ids_and_removal_frees_them() {
    let mut machine = Machine::new().await;
    let pod = confined_pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "trap 'echo got TERM; exit 5' TERM; echo ready; while true; do sleep 0.01; done";
    machine
        .runtime()
        .start_container(&uid, &container("main", script))
        .await
        .unwrap();
    machine.wait_for_log(&uid, "main", "ready").await;
    let pid = pid_of(&machine, &uid, "main").await;
    let first = uids(pid)[0];

    machine.reopen().await;
    assert_eq!(pid_of(&machine, &uid, "main").await, pid, "it runs on");
    let second = container("second", "echo ready; sleep 600");
    machine.runtime().start_container(&uid, &second).await.unwrap();
    machine.wait_for_log(&uid, "second", "ready").await;
    assert_eq!(uids(pid_of(&machine, &uid, "second").await)[0], first);
    let record = fs::read_to_string(machine.pod_directory(&uid).join("sandbox.json")).unwrap();
    assert!(record.contains(&format!("\"first\":{first}")), "{record}");
    machine.runtime().signal_container(&uid, "main", 15).await.unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 5, "its exit is known");

    // Its parent dies, and the pod is removed and started anew.
    let parent = fs::read_to_string(machine.pod_directory(&uid).join("parent-identity.json")).unwrap();
    let parent: serde_json::Value = serde_json::from_str(&parent).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(parent["pid"].as_i64().unwrap() as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("the containers died with their parent", || {
        machine.processes().is_empty()
    })
    .await;
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let third = container("third", "echo ready; sleep 600");
    machine.runtime().start_container(&uid, &third).await.unwrap();
    machine.wait_for_log(&uid, "third", "ready").await;
    assert_eq!(
        uids(pid_of(&machine, &uid, "third").await)[0],
        first,
        "released, and taken again"
    );
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    assert!(!machine.pod_directory(&uid).exists());
    assert_eq!(machine.processes(), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_with_what_to_do_and_leaves_nothing() {
    let machine = Machine::new().await;
    let pod = SandboxSpec {
        host_network: true,
        ..confined_pod()
    };
    let refused = machine.runtime().start_sandbox(&pod).await.unwrap_err();
    assert!(
        matches!(&refused, RuntimeError::Configuration { reason } if reason.contains("hostNetwork") && reason.contains("hostUsers")),
        "{refused}"
    );

    // sysfs cannot be id-mapped: the container is refused, the pod stays.
    let mut pod = confined_pod();
    pod.volumes = vec![VolumeSpec {
        name: "sys".into(),
        source: VolumeSource::HostPath {
            path: "/sys/kernel".into(),
            kind: "Directory".into(),
        },
    }];
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let mut spec = container("main", "true");
    spec.mounts = vec![VolumeMountSpec {
        volume: "sys".into(),
        mount_path: "/host".into(),
        sub_path: String::new(),
        read_only: true,
    }];
    let refused = machine
        .runtime()
        .start_container(&uid, &spec)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("/sys/kernel") && refused.contains("id-mapped") && refused.contains("hostUsers: true"),
        "{refused}"
    );
    assert!(machine.container(&uid, "main").await.is_none());
    let groups = machine.groups();
    assert!(groups.iter().all(|group| !group.contains("main")), "{groups:?}");

    // A program that is absent: the failure comes from the container's own process.
    let mut absent = container("main", "");
    absent.command = vec!["/no/such/program".into()];
    let refused = machine.runtime().start_container(&uid, &absent).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Exec { .. }), "{refused}");
    machine
        .runtime()
        .start_container(&uid, &container("main", "exit 9"))
        .await
        .unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 9);
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    assert!(!Path::new(&machine.pod_directory(&uid)).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_containers_are_all_accounted_for() {
    let machine = Machine::new().await;
    let pod = confined_pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    // A process that ends at once may be collected before the pod's parent has read who it is.
    for attempt in 0..40 {
        let mut spec = container("main", "");
        spec.attempt = attempt;
        spec.command = vec!["false".into()];
        machine.runtime().start_container(&uid, &spec).await.unwrap();
        assert_eq!(machine.exit(&uid, "main").await.exit_code, 1, "start {attempt}");
    }
}
