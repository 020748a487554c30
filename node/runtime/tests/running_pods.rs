//! What changes in a pod that runs: a container that enters another one's pid namespace, and new limits.

mod machine;

use futures::StreamExt;
use machine::{Machine, container, pod};
use protocol::Uid;
use protocol::runtime::{ContainerPhase, ContainerSpec, PodRuntime, ResourceLimits, RuntimeError, SandboxSpec};
use protocol::session::{ExecSpec, SessionOutput, StreamChoice};

/// Runs a script in a container and returns what it writes, and its code.
async fn run(machine: &Machine, pod: &Uid, container: &str, script: &str) -> (i32, String) {
    let spec = ExecSpec {
        pod: pod.to_string(),
        container: container.into(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        streams: StreamChoice {
            stdin: false,
            stdout: true,
            stderr: true,
            tty: false,
        },
    };
    let input = Box::pin(futures::stream::pending());
    let mut output = machine.runtime().exec(&spec, input).await.unwrap();
    let mut text = String::new();
    while let Some(item) = output.next().await {
        match item.unwrap() {
            SessionOutput::Stdout(bytes) | SessionOutput::Stderr(bytes) => {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
            SessionOutput::Exited { code } => return (code, text),
        }
    }
    panic!("no end came after {text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_enters_the_pids_of_its_target_and_ends_with_it() {
    let machine = Machine::new().await;
    for host_users in [true, false] {
        let sandbox = SandboxSpec { host_users, ..pod() };
        let uid = sandbox.pod.uid.clone();
        let runtime = machine.runtime();
        runtime.start_sandbox(&sandbox).await.unwrap();
        let main = container("main", "echo ready; sleep 12345");
        runtime.start_container(&uid, &main).await.unwrap();
        runtime
            .start_container(&uid, &container("other", "sleep 600"))
            .await
            .unwrap();
        machine.wait_for_log(&uid, "main", "ready").await;
        let debugger = ContainerSpec {
            pid_namespace_of: Some("main".into()),
            ..container("debugger", "readlink /proc/self/ns/pid; echo ready; sleep 600")
        };
        runtime.start_container(&uid, &debugger).await.unwrap();
        let log = machine.wait_for_log(&uid, "debugger", "ready").await;
        let namespace = run(&machine, &uid, "main", "readlink /proc/self/ns/pid").await.1;
        assert!(log.starts_with(&namespace), "{log} {namespace}");
        // A command in it sees the target's processes, too, and not those of the other container.
        let (code, seen) = run(&machine, &uid, "debugger", "readlink /proc/self/ns/pid; ps").await;
        assert_eq!(code, 0, "{seen}");
        assert!(seen.starts_with(&namespace) && seen.contains("sleep 12345"), "{seen}");
        // What is started afterwards has pids of its own again.
        runtime
            .start_container(&uid, &container("later", "sleep 600"))
            .await
            .unwrap();
        let (_, apart) = run(
            &machine,
            &uid,
            "later",
            "readlink /proc/self/ns/pid; cat /proc/1/cmdline",
        )
        .await;
        assert!(!apart.starts_with(&namespace), "{apart}");
        runtime.signal_container(&uid, "main", 9).await.unwrap();
        assert_eq!(machine.exit(&uid, "debugger").await.exit_code, 137);
        let again = ContainerSpec {
            name: "too-late".into(),
            ..debugger
        };
        let error = runtime.start_container(&uid, &again).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Configuration { .. }), "{error}");
        assert!(error.to_string().contains("target container main"), "{error}");
        runtime.remove_sandbox(&uid).await.unwrap();
    }
}

fn limits(cpu_milli: u64, memory_mib: u64) -> ResourceLimits {
    ResourceLimits {
        cpu_request_milli: Some(cpu_milli),
        cpu_limit_milli: Some(cpu_milli),
        memory_limit_bytes: Some(memory_mib << 20),
        pids_max: Some(100),
    }
}

/// What the kernel says of a container's limits, on v1 or v2: quota in microseconds of 100 ms, memory in MiB.
async fn in_force(machine: &Machine, uid: &Uid) -> (u64, u64) {
    let script = "for f in /sys/fs/cgroup/*/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max; do [ -f $f ] && cat $f && break; \
                  done; for f in /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do [ -f $f ] && cat \
                  $f && break; done";
    let (_, text) = run(machine, uid, "main", script).await;
    let mut lines = text
        .lines()
        .map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap());
    (lines.next().unwrap(), lines.next().unwrap() >> 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_while_a_container_runs() {
    let mut machine = Machine::new().await;
    let sandbox = SandboxSpec {
        resources: limits(200, 32),
        ..pod()
    };
    let uid = sandbox.pod.uid.clone();
    machine.runtime().start_sandbox(&sandbox).await.unwrap();
    let main = ContainerSpec {
        resources: limits(200, 32),
        ..container("main", "echo ready; sleep 600")
    };
    let started = machine.runtime().start_container(&uid, &main).await.unwrap();
    machine.wait_for_log(&uid, "main", "ready").await;
    assert_eq!(in_force(&machine, &uid).await, (20_000, 32));
    for (cpu_milli, memory_mib) in [(500, 64), (100, 96), (300, 16)] {
        let new = limits(cpu_milli, memory_mib);
        let named = [
            ("main".to_owned(), new.clone()),
            ("not-started".to_owned(), new.clone()),
        ];
        machine.runtime().resize(&uid, &new, &named).await.unwrap();
        assert_eq!(in_force(&machine, &uid).await, (cpu_milli * 100, memory_mib));
        // A later node process finds the pod's new limits, from which the next ones start.
        machine.reopen().await;
    }
    let phase = machine.container(&uid, "main").await.unwrap().phase;
    assert_eq!(phase, started.phase, "it is the same process");
    let hungry = ContainerSpec {
        resources: limits(300, 16),
        ..container(
            "hungry",
            "dd if=/dev/zero of=/dev/shm/a bs=1M count=12; echo full; sleep 600",
        )
    };
    machine.runtime().start_container(&uid, &hungry).await.unwrap();
    machine.wait_for_log(&uid, "hungry", "full").await;
    let small = [("hungry".to_owned(), limits(300, 8))];
    let refusal = machine
        .runtime()
        .resize(&uid, &limits(300, 16), &small)
        .await
        .unwrap_err();
    assert!(refusal.to_string().contains("below current usage"), "{refusal}");
    assert!(matches!(
        machine.container(&uid, "main").await.unwrap().phase,
        ContainerPhase::Running { .. }
    ));
    machine.runtime().remove_sandbox(&uid).await.unwrap();
}
