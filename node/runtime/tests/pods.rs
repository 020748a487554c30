//! Pods on the real kernel: what containers share, volumes, restarts, logs, removal, and the node process's own death.
#![allow(clippy::disallowed_methods)] // tests measure real time

mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use futures::StreamExt;
use machine::*;
use protocol::runtime::*;

fn mount(volume: &str, path: &str) -> VolumeMountSpec {
    VolumeMountSpec {
        volume: volume.into(),
        mount_path: path.into(),
        sub_path: String::new(),
        read_only: false,
    }
}

fn files(list: &[(&str, &str)]) -> VolumeSource {
    let files = list
        .iter()
        .map(|(path, text)| {
            (
                (*path).to_owned(),
                FileContent {
                    content: text.as_bytes().to_vec(),
                    mode: 0o644,
                    owner: None,
                },
            )
        })
        .collect();
    VolumeSource::Files { files, memory: true }
}

fn volume(name: &str, source: VolumeSource) -> VolumeSpec {
    VolumeSpec {
        name: name.into(),
        source,
    }
}

const EMPTY: VolumeSource = VolumeSource::EmptyDir {
    memory: false,
    size_limit_bytes: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_of_a_pod_share_network_hostname_ipc_and_volumes_but_not_processes() {
    let machine = Machine::new().await;
    let mut pod = pod();
    pod.volumes = vec![volume("scratch", EMPTY)];
    let uid = pod.pod.uid.clone();
    let state = machine.runtime().start_sandbox(&pod).await.unwrap();
    assert!(state.alive);
    assert_eq!(state.addresses, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
    let script = "hostname > /shared/name; readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts > /shared/ns; \
                  readlink /proc/self/ns/pid > /shared/pid; echo x > /dev/shm/x; echo ready; sleep 600";
    let mut first = container("first", script);
    first.mounts = vec![mount("scratch", "/shared")];
    machine.runtime().start_container(&uid, &first).await.unwrap();
    machine.wait_for_log(&uid, "first", "ready").await;
    let script = "[ \"$(hostname)\" = \"$(cat /data/name)\" ] && echo same-name; \
                  [ \"$(readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts)\" = \"$(cat /data/ns)\" ] && echo same-ns; \
                  [ \"$(readlink /proc/self/ns/pid)\" != \"$(cat /data/pid)\" ] && echo other-pid; \
                  cat /dev/shm/x; ip link show lo | head -n 1; echo pid $$";
    let mut second = container("second", script);
    second.mounts = vec![mount("scratch", "/data")];
    machine.runtime().start_container(&uid, &second).await.unwrap();
    machine.exit(&uid, "second").await;
    let log = machine.log(&uid, "second").await;
    for expected in ["same-name", "same-ns", "other-pid", "x\n", "LOOPBACK,UP", "pid 1\n"] {
        assert!(log.contains(expected), "{expected:?} is not in {log}");
    }
    // The pod's network is not the machine's.
    let ContainerPhase::Running { pid, .. } = machine.container(&uid, "first").await.unwrap().phase else {
        panic!("the first container ended")
    };
    assert_ne!(
        fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
        fs::read_link("/proc/self/ns/net").unwrap()
    );
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    eventually("the container's process is gone", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_can_share_its_process_namespace_or_use_the_nodes_network() {
    let machine = Machine::new().await;
    let mut pod = pod();
    pod.share_process_namespace = true;
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    machine
        .runtime()
        .start_container(&uid, &container("first", "sleep 12345"))
        .await
        .unwrap();
    // The namespace's first process is of no use to a container with every right.
    let script = "ls -a /proc/1/root/; ls /proc/1/root/etc; cat /proc/1/status; echo done";
    let mut strong = container("strong", script);
    strong.security.capabilities_add = vec!["ALL".into()];
    machine.runtime().start_container(&uid, &strong).await.unwrap();
    machine.exit(&uid, "strong").await;
    let log = machine.log(&uid, "strong").await;
    assert!(
        log.contains("done") && log.contains("CapPrm:\t0000000000000000"),
        "{log}"
    );
    assert!(!log.contains("passwd"), "{log}");

    machine
        .runtime()
        .start_container(&uid, &container("second", "ps; [ $$ != 1 ] && echo not-first"))
        .await
        .unwrap();
    machine.exit(&uid, "second").await;
    let log = machine.log(&uid, "second").await;
    assert!(log.contains("sleep 12345") && log.contains("not-first"), "{log}");
    machine.runtime().remove_sandbox(&uid).await.unwrap();

    let mut pod = machine::pod();
    pod.host_network = true;
    let uid = pod.pod.uid.clone();
    let state = machine.runtime().start_sandbox(&pod).await.unwrap();
    assert!(state.addresses.is_empty());
    machine
        .runtime()
        .start_container(&uid, &container("main", "readlink /proc/self/ns/net"))
        .await
        .unwrap();
    machine.exit(&uid, "main").await;
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(machine.log(&uid, "main").await.trim(), own.to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_appear_as_specified() {
    let machine = Machine::new().await;
    let host = machine.directory.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "from the node").unwrap();
    let mut pod = pod();
    pod.fs_group = Some(4242);
    pod.volumes = vec![
        volume("config", files(&[("a.txt", "alpha"), ("sub/b.txt", "beta")])),
        volume(
            "memory",
            VolumeSource::EmptyDir {
                memory: true,
                size_limit_bytes: Some(1 << 20),
            },
        ),
        volume("disk", EMPTY),
        volume(
            "host",
            VolumeSource::HostPath {
                path: host.clone(),
                kind: "Directory".into(),
            },
        ),
        volume(
            "made",
            VolumeSource::HostPath {
                path: host.join("made"),
                kind: "DirectoryOrCreate".into(),
            },
        ),
    ];
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "cat /config/a.txt /config/sub/b.txt /one/file; cat /host/file; touch /host/x; \
                  dd if=/dev/zero of=/memory/big bs=1M count=2; stat -c '%g %a' /disk /memory; touch /config/new; \
                  echo deep > /deep/file; id; echo ready; while [ \"$(cat /config/a.txt)\" = alpha ]; do sleep 0.01; done; \
                  ls /config; cat /config/a.txt";
    let mut spec = container("main", script);
    spec.mounts = vec![
        mount("config", "/config"), // read-only all the same
        VolumeMountSpec {
            sub_path: "sub/b.txt".into(),
            ..mount("config", "/one/file")
        },
        VolumeMountSpec {
            read_only: true,
            ..mount("host", "/host")
        },
        mount("memory", "/memory"),
        mount("disk", "/disk"),
        VolumeMountSpec {
            sub_path: "deep/er".into(),
            ..mount("disk", "/deep")
        },
    ];
    machine.runtime().start_container(&uid, &spec).await.unwrap();
    let log = machine.wait_for_log(&uid, "main", "ready").await;
    for expected in [
        "alphabetabetafrom the node",
        "touch: /host/x: Read-only file system",
        "No space left on device",
        "4242 2777\n4242 2777",
        "touch: /config/new: Read-only file system",
        "4242",
    ] {
        assert!(log.contains(expected), "{expected:?} is not in {log}");
    }
    let deep = machine.pod_directory(&uid).join("volumes/disk/deep/er/file");
    assert_eq!(fs::read_to_string(deep).unwrap(), "deep\n");
    assert!(host.join("made").is_dir());
    machine
        .runtime()
        .update_volume(&uid, &volume("config", files(&[("a.txt", "omega"), ("c.txt", "")])))
        .await
        .unwrap();
    machine.exit(&uid, "main").await;
    let log = machine.log(&uid, "main").await;
    assert!(log.ends_with("a.txt\nc.txt\nomega"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sub_path_cannot_leave_its_volume() {
    let machine = Machine::new().await;
    let outside = machine.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let mut pod = pod();
    pod.volumes = vec![volume("disk", EMPTY)];
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let disk = machine.pod_directory(&uid).join("volumes/disk");
    symlink(&outside, disk.join("absolute")).unwrap();
    symlink("../../../../../outside", disk.join("relative")).unwrap();
    symlink("inner", disk.join("fine")).unwrap();
    fs::create_dir(disk.join("inner")).unwrap();
    for (path, is_allowed) in [
        ("absolute", false),
        ("relative", false),
        ("absolute/made", false),
        ("../x", false),
        ("fine", true),
    ] {
        let mut spec = container(&format!("c{}", path.len()), "ls /v");
        spec.mounts = vec![VolumeMountSpec {
            sub_path: path.into(),
            ..mount("disk", "/v")
        }];
        match machine.runtime().start_container(&uid, &spec).await {
            Ok(_) => assert!(is_allowed, "{path}"),
            Err(RuntimeError::Configuration { reason }) => {
                assert!(!is_allowed && reason.contains("subPath"), "{reason}")
            }
            Err(other) => panic!("{path}: {other}"),
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_a_new_start_with_a_fresh_root_and_the_previous_log() {
    let machine = Machine::new().await;
    let pod = pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "[ -e /mark ] && echo dirty; touch /mark; echo run $RUN; exit $RUN";
    for attempt in 0..3u32 {
        let mut spec = ContainerSpec {
            attempt,
            ..container("main", script)
        };
        spec.env = vec![("RUN".into(), attempt.to_string())];
        let state = machine.runtime().start_container(&uid, &spec).await.unwrap();
        assert_eq!(state.attempt, attempt);
        // Repeated, as a pod's actor does that died in the middle: the same start is meant.
        let again = machine.runtime().start_container(&uid, &spec).await.unwrap();
        assert_eq!(again.attempt, attempt);
        assert_eq!(machine.exit(&uid, "main").await.exit_code, attempt as i32);
    }
    assert_eq!(machine.log(&uid, "main").await, "run 2\n");
    let previous = LogRequest {
        previous: true,
        ..log_request(&uid, "main")
    };
    assert_eq!(machine.read_log(&previous).await, "run 1\n");
    let earlier = ContainerSpec {
        attempt: 1,
        ..container("main", "true")
    };
    assert!(matches!(
        machine.runtime().start_container(&uid, &earlier).await,
        Err(RuntimeError::Configuration { .. })
    ));
    let old = machine.pod_directory(&uid).join("containers/main/0");
    eventually("the first start's directory is gone", || !old.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_log_ends_with_its_container() {
    let machine = Machine::new().await;
    let pod = pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let mut spec = container(
        "main",
        "echo one; while [ ! -e /v/go ]; do sleep 0.01; done; echo two; printf three",
    );
    spec.mounts = vec![mount("disk", "/v")];
    let mut with_volume = pod.clone();
    with_volume.volumes = vec![volume("disk", EMPTY)];
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    machine.runtime().start_sandbox(&with_volume).await.unwrap();
    machine.runtime().start_container(&uid, &spec).await.unwrap();
    let follow = LogRequest {
        follow: true,
        ..log_request(&uid, "main")
    };
    let mut stream = machine.runtime().logs(&follow).await.unwrap();
    let first = tokio::time::timeout(BOUND, stream.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(&first[..], b"one\n");
    fs::write(machine.pod_directory(&uid).join("volumes/disk/go"), "").unwrap();
    let mut rest = Vec::new();
    while let Some(chunk) = tokio::time::timeout(BOUND, stream.next())
        .await
        .expect("the log does not end")
    {
        rest.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(String::from_utf8(rest).unwrap(), "two\nthree");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_great_log_is_rotated_and_read_whole() {
    let machine = Machine::new().await;
    let pod = pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    // 14 MB of lines with their prefix: past one file.
    machine
        .runtime()
        .start_container(&uid, &container("main", "seq 100000 420000"))
        .await
        .unwrap();
    machine.exit(&uid, "main").await;
    assert!(machine.pod_directory(&uid).join("logs/main/0.log.1").exists());
    let log = machine.log(&uid, "main").await;
    let numbers: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(100_000..=420_000), "{} lines", numbers.len());
    let tail = LogRequest {
        tail_lines: Some(2),
        ..log_request(&uid, "main")
    };
    assert_eq!(machine.read_log(&tail).await, "419999\n420000\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_are_reported_at_once_and_once() {
    let machine = Machine::new().await;
    let mut events = machine.runtime().events();
    let pod = pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    machine
        .runtime()
        .start_container(&uid, &container("main", "exit 4"))
        .await
        .unwrap();
    match tokio::time::timeout(BOUND, events.next()).await.unwrap().unwrap() {
        RuntimeEvent::ContainerExited {
            pod,
            container,
            attempt,
            exit,
        } => {
            assert_eq!(
                (pod, container.as_str(), attempt, exit.exit_code),
                (uid.clone(), "main", 0, 4)
            );
        }
        other => panic!("{other:?}"),
    }
    // The death of the parent takes the containers along and is an event too.
    machine
        .runtime()
        .start_container(&uid, &container("other", "sleep 600"))
        .await
        .unwrap();
    let identity = fs::read_to_string(machine.pod_directory(&uid).join("parent-identity.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_str(&identity).unwrap();
    let parent = nix::unistd::Pid::from_raw(identity["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGKILL).unwrap();
    match tokio::time::timeout(BOUND, events.next()).await.unwrap().unwrap() {
        RuntimeEvent::SandboxDied { pod, .. } => assert_eq!(pod, uid),
        other => panic!("{other:?}"),
    }
    let state = machine.container(&uid, "other").await.unwrap();
    assert!(
        matches!(
            state.phase,
            ContainerPhase::Exited(ContainerExit { exit_code: 137, .. })
        ),
        "{state:?}"
    );
    assert!(machine.processes().is_empty());
    // A new sandbox takes its place.
    assert!(machine.runtime().start_sandbox(&pod).await.unwrap().alive);
    machine
        .runtime()
        .start_container(&uid, &container("main", "exit 0"))
        .await
        .unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_pod_leaves_nothing() {
    let machine = Machine::new().await;
    let mut pod = pod();
    pod.volumes = vec![volume("memory", files(&[("a", "b")])), volume("disk", EMPTY)];
    let uid = pod.pod.uid.clone();
    let before = machine.groups();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    for name in ["one", "two"] {
        let mut spec = container(name, "for i in 1 2 3; do sleep 600 & done; echo ready; sleep 600");
        spec.mounts = vec![mount("memory", "/m"), mount("disk", "/d")];
        machine.runtime().start_container(&uid, &spec).await.unwrap();
        machine.wait_for_log(&uid, name, "ready").await;
    }
    assert!(machine.processes().len() >= 9);
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    assert!(machine.processes().is_empty());
    assert_eq!(machine.groups(), before);
    assert!(!machine.pod_directory(&uid).exists());
    assert_eq!(fs::read_dir(machine.config.data_dir.join("trash")).unwrap().count(), 0);
    assert!(machine.runtime().sandboxes().await.unwrap().is_empty());
    machine.runtime().remove_sandbox(&uid).await.unwrap();
    assert!(matches!(
        machine.runtime().start_container(&uid, &container("one", "true")).await,
        Err(RuntimeError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_cannot_be_made_leaves_nothing() {
    let machine = Machine::new().await;
    let before = machine.groups();
    let mut pod = pod();
    pod.sysctls = BTreeMap::from([("net.ipv4.no_such_thing".to_owned(), "1".to_owned())]);
    match machine.runtime().start_sandbox(&pod).await {
        Err(RuntimeError::Configuration { reason }) => assert!(reason.contains("no_such_thing"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(machine.processes().is_empty());
    assert_eq!(machine.groups(), before);
    assert!(!machine.pod_directory(&pod.pod.uid).exists());
    assert!(machine.runtime().sandboxes().await.unwrap().is_empty());
    for name in ["kernel.core_pattern", "kernel/core_pattern", "vm.swappiness"] {
        let mut pod = machine::pod();
        pod.sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let refused = machine.runtime().start_sandbox(&pod).await;
        assert!(
            matches!(refused, Err(RuntimeError::Configuration { .. })),
            "{name}: {refused:?}"
        );
    }
    pod.sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())]);
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    machine
        .runtime()
        .start_container(&pod.pod.uid, &container("main", script))
        .await
        .unwrap();
    machine.exit(&pod.pod.uid, "main").await;
    assert_eq!(machine.log(&pod.pod.uid, "main").await, "0\n");
    for bad in ["../escape", "a/b", ""] {
        let mut pod = machine::pod();
        pod.pod.uid = bad.into();
        assert!(matches!(
            machine.runtime().start_sandbox(&pod).await,
            Err(RuntimeError::Configuration { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_do_not_notice_that_the_node_process_is_another_one() {
    let mut machine = Machine::new().await;
    let mut pod = pod();
    pod.volumes = vec![volume("disk", EMPTY)];
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    machine
        .runtime()
        .start_container(&uid, &container("long", "echo begun; sleep 600"))
        .await
        .unwrap();
    let mut ending = container("ending", "while [ ! -e /v/go ]; do sleep 0.01; done; echo over; exit 9");
    ending.mounts = vec![mount("disk", "/v")];
    machine.runtime().start_container(&uid, &ending).await.unwrap();
    machine.wait_for_log(&uid, "long", "begun").await;
    let before = machine.container(&uid, "long").await.unwrap();
    // No node process: nobody is connected. One container ends meanwhile.
    machine.runtime = None;
    fs::write(machine.pod_directory(&uid).join("volumes/disk/go"), "").unwrap();
    let record = machine.pod_directory(&uid).join("containers/ending/0/state.json");
    eventually("the exit is on disk", || {
        fs::read_to_string(&record).is_ok_and(|text| text.contains("Exited"))
    })
    .await;
    machine.reopen().await;
    assert_eq!(machine.container(&uid, "long").await.unwrap(), before);
    assert_eq!(machine.exit(&uid, "ending").await.exit_code, 9);
    assert_eq!(machine.log(&uid, "ending").await, "over\n");
    let sandboxes = machine.runtime().sandboxes().await.unwrap();
    assert!(sandboxes[0].alive && sandboxes[0].pod == pod.pod);
    // And the new one has them in hand.
    let mut events = machine.runtime().events();
    machine.runtime().signal_container(&uid, "long", 9).await.unwrap();
    let event = tokio::time::timeout(BOUND, events.next()).await.unwrap().unwrap();
    assert!(
        matches!(event, RuntimeEvent::ContainerExited { ref container, .. } if container == "long"),
        "{event:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layers_of_an_image_are_shared_and_no_container_can_change_them() {
    let machine = Machine::new().await;
    let layer = fs::read_dir(machine.config.data_dir.join("images/layers"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let passwd = layer.path().join("fs/etc/passwd");
    let before = (fs::read(&passwd).unwrap(), fs::metadata(&passwd).unwrap().mtime());
    let (exit, _) = machine
        .run("echo evil > /etc/passwd && chmod 777 /etc && echo ok")
        .await;
    assert_eq!(exit.exit_code, 0);
    assert_eq!(
        (fs::read(&passwd).unwrap(), fs::metadata(&passwd).unwrap().mtime()),
        before
    );
    tokio::time::timeout(Duration::from_secs(5), machine.runtime().images())
        .await
        .unwrap()
        .unwrap();
}

/// The node process of the next test: not a test by itself, which is why it is ignored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the_death_of_the_node_process_is_not_noticed kills"]
async fn node_process_to_be_killed() {
    let Ok(data_dir) = std::env::var("ACTORIUM_TEST_DATA_DIR") else {
        return;
    };
    let parts: Vec<String> = std::env::var("ACTORIUM_TEST_CONFIG")
        .unwrap()
        .split('|')
        .map(str::to_owned)
        .collect();
    let mut config = runtime::RuntimeConfig::new(data_dir, &parts[0], &parts[2]);
    config.cgroup_parent = parts[1].clone();
    let runtime = runtime::LinuxRuntime::open(config, std::sync::Arc::new(NoNetwork))
        .await
        .unwrap();
    let mut pod = pod();
    pod.pod.uid = "survivor".into();
    runtime.start_sandbox(&pod).await.unwrap();
    runtime
        .start_container(
            &pod.pod.uid,
            &container("main", "echo begun; while true; do sleep 0.01; done"),
        )
        .await
        .unwrap();
    runtime
        .start_container(&pod.pod.uid, &container("ending", "sleep 0.2; exit 6"))
        .await
        .unwrap();
    println!("started");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_node_process_is_not_noticed() {
    use std::io::{BufRead, BufReader};
    let mut machine = Machine::new().await;
    machine.runtime = None;
    let config = &machine.config;
    let parts = [
        config.node_name.as_str(),
        &config.cgroup_parent,
        config.pod_parent_program.to_str().unwrap(),
    ];
    let mut node = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "node_process_to_be_killed", "--nocapture"])
        .env("ACTORIUM_TEST_DATA_DIR", &config.data_dir)
        .env("ACTORIUM_TEST_CONFIG", parts.join("|"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let started = lines.map_while(Result::ok).any(|line| line.contains("started"));
    node.kill().unwrap();
    node.wait().unwrap();
    assert!(started, "the node process did not start its pod");
    let uid = protocol::Uid::from("survivor");
    let record = machine.pod_directory(&uid).join("containers/ending/0/state.json");
    eventually("the exit is on disk", || {
        fs::read_to_string(&record).is_ok_and(|text| text.contains("Exited"))
    })
    .await;
    machine.reopen().await;
    assert_eq!(machine.exit(&uid, "ending").await.exit_code, 6);
    assert!(matches!(
        machine.container(&uid, "main").await.unwrap().phase,
        ContainerPhase::Running { .. }
    ));
    assert_eq!(machine.log(&uid, "main").await, "begun\n");
    machine.runtime().signal_container(&uid, "main", 9).await.unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_in_the_middle_of_starts_leaves_nothing() {
    let machine = Machine::new().await;
    let before = machine.groups();
    for round in 0..12u64 {
        let pod = pod();
        let uid = pod.pod.uid.clone();
        let (runtime, starting) = (machine.runtime().clone(), uid.clone());
        let starts = tokio::spawn(async move {
            runtime.start_sandbox(&pod).await?;
            for number in 0..3 {
                runtime
                    .start_container(&starting, &container(&format!("c{number}"), "sleep 600"))
                    .await?;
            }
            Ok::<(), RuntimeError>(())
        });
        // Another moment of the start each time; which one does not matter to what must hold.
        tokio::time::sleep(Duration::from_micros(round * 1500)).await;
        machine.runtime().remove_sandbox(&uid).await.unwrap();
        let _ = starts.await.unwrap(); // it may have been told that its sandbox is gone
        machine.runtime().remove_sandbox(&uid).await.unwrap();
        assert!(machine.processes().is_empty(), "round {round}");
        assert_eq!(machine.groups(), before, "round {round}");
        assert!(!machine.pod_directory(&uid).exists(), "round {round}");
        assert!(machine.runtime().sandboxes().await.unwrap().is_empty(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_images_stop_signal_is_told_and_can_be_sent() {
    let mut machine = Machine::new().await;
    let pod = pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    // SIGRTMIN+3, as the image says; a shell knows it by its number.
    let script = "trap 'echo told; exit 5' 37; echo ready; while true; do sleep 0.01; done";
    let started = machine
        .runtime()
        .start_container(&uid, &container("main", script))
        .await
        .unwrap();
    assert_eq!(started.stop_signal, Some(37));
    machine.wait_for_log(&uid, "main", "ready").await;
    machine.reopen().await;
    let found = machine.container(&uid, "main").await.unwrap();
    assert_eq!(found.stop_signal, Some(37), "a later node process knows it too");
    machine.runtime().signal_container(&uid, "main", 37).await.unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_holds_on_the_disk_is_measured() {
    const MIB: u64 = 1 << 20;
    let machine = Machine::new().await;
    let mut pod = pod();
    let memory = VolumeSource::EmptyDir {
        memory: true,
        size_limit_bytes: None,
    };
    pod.volumes = vec![volume("disk", EMPTY), volume("memory", memory)];
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "dd if=/dev/zero of=/disk/a bs=1M count=3; dd if=/dev/zero of=/memory/a bs=1M count=3; \
                  dd if=/dev/zero of=/own bs=1M count=2; echo written; sleep 600";
    let mut spec = container("main", script);
    spec.mounts = vec![mount("disk", "/disk"), mount("memory", "/memory")];
    machine.runtime().start_container(&uid, &spec).await.unwrap();
    machine.wait_for_log(&uid, "main", "written").await;
    let usage = machine.runtime().usage(&uid).await.unwrap();
    let slack = MIB / 2; // directories, and the log
    let disk = usage.volume_bytes["disk"];
    assert!((3 * MIB..3 * MIB + slack).contains(&disk), "{usage:?}");
    let own = usage.container_bytes["main"];
    assert!((2 * MIB..2 * MIB + slack).contains(&own), "{usage:?}");
    assert_eq!(usage.volume_bytes.len(), 1, "memory is no disk: {usage:?}");
    assert!(matches!(
        machine.runtime().usage(&"none".to_owned().into()).await,
        Err(RuntimeError::NotFound { .. })
    ));
}
