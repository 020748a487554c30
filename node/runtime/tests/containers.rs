//! Containers on the real kernel: start, end, output, limits, rights, isolation.
#![allow(clippy::disallowed_methods)] // tests measure real time

mod machine;

use machine::*;
use protocol::runtime::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_runs_and_its_exit_and_output_are_known() {
    let machine = Machine::new().await;
    let (exit, output) = machine
        .run("echo out; echo err >&2; pwd; echo $FROM_IMAGE $HOME; exit 3")
        .await;
    assert_eq!(exit.exit_code, 3);
    assert_eq!(exit.signal, None);
    assert!(!exit.oom_killed);
    assert!(exit.started_at <= exit.finished_at);
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["/tmp", "1 /root", "err", "out"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_executed_is_told_and_leaves_nothing() {
    let machine = Machine::new().await;
    let pod = pod();
    let uid = pod.pod.uid.clone();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let cases = [
        ("no-such-program", "No such file"),
        ("/bin/no-such-program", "No such file"),
        ("/etc/not-executable", "Permission denied"),
        ("/etc/garbage", "Exec format error"),
    ];
    for (program, expected) in cases {
        let spec = ContainerSpec {
            command: vec![program.into()],
            ..container("main", "")
        };
        match machine.runtime().start_container(&uid, &spec).await {
            Err(RuntimeError::Exec { program: told, reason }) => {
                assert_eq!(told, program);
                assert!(reason.contains(expected), "{program}: {reason}");
            }
            other => panic!("{program}: {other:?}"),
        }
    }
    assert!(machine.container(&uid, "main").await.is_none());
    assert!(!machine.pod_directory(&uid).join("containers/main/0").exists());
    let spec = ContainerSpec {
        image: "test/absent:1".into(),
        ..container("main", "true")
    };
    assert!(matches!(
        machine.runtime().start_container(&uid, &spec).await,
        Err(RuntimeError::ImageAbsent { .. })
    ));
    // The same attempt may be repeated after its cause is gone.
    machine
        .runtime()
        .start_container(&uid, &container("main", "exit 0"))
        .await
        .unwrap();
    assert_eq!(machine.exit(&uid, "main").await.exit_code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_above_its_memory_limit_is_killed_and_the_kill_is_reported() {
    let machine = Machine::new().await;
    let mut spec = container("main", "head -c 200000000 /dev/zero | tail; exit 7");
    spec.resources.memory_limit_bytes = Some(16 << 20);
    let (exit, _) = machine.run_container(spec).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_ne!(exit.exit_code, 0);

    let mut spec = container("main", "");
    spec.command = vec!["tail".into(), "/dev/zero".into()];
    spec.resources.memory_limit_bytes = Some(16 << 20);
    let (exit, _) = machine.run_container(spec).await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_cannot_have_more_processes_than_its_limit() {
    let machine = Machine::new().await;
    let mut spec = container("main", "for i in $(seq 40); do sleep 60 & done; echo all; exit 0");
    spec.resources.pids_max = Some(20);
    let (exit, output) = machine.run_container(spec).await;
    assert_ne!(exit.exit_code, 0, "{output}");
    assert!(output.contains("can't fork"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_rights_are_those_of_docker() {
    let machine = Machine::new().await;
    let (_, status) = machine.run("cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name}: {status}"));
        line.trim_start_matches(':').trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(set), "00000000a80425fb", "{set}");
    }
    assert_eq!(field("CapInh"), "0000000000000000");
    assert_eq!(field("CapAmb"), "0000000000000000");
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("NoNewPrivs"), "0");
    let script = "unshare -U true; mount -t tmpfs none /tmp; echo x > /proc/sys/kernel/hostname; \
                  [ -c /proc/interrupts ] && echo masked; chmod 755 /proc/irq; \
                  mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; mknod /dev/disk b 254 0 && head -c 1 /dev/disk; \
                  ls /sys/firmware; touch /sys/x; echo done";
    let (_, output) = machine.run(script).await;
    for expected in [
        "unshare: unshare(0x10000000): Operation not permitted",
        "mount: permission denied",
        "/proc/sys/kernel/hostname: Read-only file system",
        "masked",
        "chmod: /proc/irq: Read-only file system",
        "head: /tmp/disk: Permission denied",
        "head: /dev/disk: Permission denied",
        "touch: /sys/x: Read-only file system",
        "done",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in {output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_security_context_is_carried_out() {
    let machine = Machine::new().await;
    let mut spec = container(
        "main",
        "id; cat /proc/self/status; touch /x; echo to-file > /dev/stdout; test -w /dev/termination-log && echo writable",
    );
    spec.security = SecuritySpec {
        run_as_user: Some(1000),
        supplemental_groups: vec![7],
        no_new_privileges: true,
        read_only_root_filesystem: true,
        run_as_non_root: true,
        ..SecuritySpec::default()
    };
    let (_, output) = machine.run_container(spec).await;
    assert!(
        output.contains("uid=1000(web) gid=1001(web) groups=7,1001(web),1005(extra)"),
        "{output}"
    );
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
    assert!(output.contains("Seccomp:\t2"), "{output}");
    assert!(output.contains("touch: /x: Read-only file system"), "{output}");
    assert!(output.contains("to-file"), "{output}");
    assert!(output.contains("writable"), "{output}");

    let mut spec = container("main", "grep CapEff /proc/self/status || cat /proc/self/status");
    spec.security.capabilities_drop = vec!["ALL".into()];
    spec.security.capabilities_add = vec!["NET_BIND_SERVICE".into()];
    let (_, output) = machine.run_container(spec).await;
    assert!(output.contains("CapEff:\t0000000000000400"), "{output}");

    let pod = pod();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let mut spec = container("main", "true");
    spec.security.run_as_non_root = true;
    match machine.runtime().start_container(&pod.pod.uid, &spec).await {
        Err(RuntimeError::Configuration { reason }) => assert!(reason.contains("runAsNonRoot"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let mut spec = container(
        "main",
        "mount -t tmpfs none /tmp && echo mounted; ls /dev/vda /dev/kmsg",
    );
    spec.security.privileged = true;
    let (_, output) = machine.run_container(spec).await;
    assert!(output.contains("mounted"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_working_directory_and_files_of_etc_are_set() {
    let machine = Machine::new().await;
    let mut spec = container(
        "main",
        "env; pwd; cat /etc/hosts /etc/hostname /etc/resolv.conf; hostname",
    );
    spec.env = vec![("A".into(), "1 2".into()), ("FROM_IMAGE".into(), "pod".into())];
    spec.working_dir = Some("/made/for/it".into());
    let (_, output) = machine.run_container(spec).await;
    for expected in [
        "A=1 2\n",
        "FROM_IMAGE=pod\n",
        "/made/for/it\n",
        "192.0.2.7\tpod-",
        "192.0.2.9\talias",
        "nameserver 192.0.2.53",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in {output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_the_host_runs_without_image() {
    let machine = Machine::new().await;
    let mut spec = container("main", "");
    spec.image = String::new();
    spec.command = vec![
        "/bin/busybox".into(),
        "sh".into(),
        "-c".into(),
        "echo $$; /bin/busybox head -n 1 /etc/os-release".into(),
    ];
    let (exit, output) = machine.run_container(spec).await;
    assert_eq!(exit.exit_code, 0, "{output}");
    assert!(output.starts_with("1\n") && output.contains("NAME="), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_come_from_the_file_or_from_the_log() {
    let machine = Machine::new().await;
    let (exit, _) = machine.run("printf 'I am ill' > /dev/termination-log; exit 1").await;
    assert_eq!(exit.message, "I am ill");
    let mut spec = container("main", "echo first; echo last; exit 1");
    spec.termination_message_from_log = true;
    let (exit, _) = machine.run_container(spec).await;
    assert_eq!(exit.message, "first\nlast");
    let mut spec = container("main", "seq 5000 > /tmp/words; exit 1");
    spec.termination_message_path = "/tmp/words".into();
    let (exit, _) = machine.run_container(spec).await;
    assert_eq!(exit.message.len(), 4096);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_reach_the_first_process() {
    let machine = Machine::new().await;
    let pod = pod();
    let uid = &pod.pod.uid;
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "trap 'echo got TERM; exit 5' TERM; echo ready; while true; do sleep 0.01; done";
    machine
        .runtime()
        .start_container(uid, &container("main", script))
        .await
        .unwrap();
    machine.wait_for_log(uid, "main", "ready").await;
    machine.runtime().signal_container(uid, "main", 15).await.unwrap();
    assert_eq!(machine.exit(uid, "main").await.exit_code, 5);
    machine.runtime().signal_container(uid, "main", 15).await.unwrap();
    assert!(matches!(
        machine.runtime().signal_container(uid, "other", 15).await,
        Err(RuntimeError::NotFound { .. })
    ));
    let again = ContainerSpec {
        attempt: 1,
        ..container("main", "sleep 600")
    };
    machine.runtime().start_container(uid, &again).await.unwrap();
    machine.runtime().signal_container(uid, "main", 9).await.unwrap();
    let exit = machine.exit(uid, "main").await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_sees_its_own_limits_and_may_have_a_terminal() {
    let machine = Machine::new().await;
    let mut spec = container(
        "main",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; cat /proc/self/cgroup; \
         mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x; test -t 0 && test -t 1 && test -t 2 && echo terminal",
    );
    spec.resources.memory_limit_bytes = Some(64 << 20);
    spec.tty = true;
    let (_, output) = machine.run_container(spec).await;
    assert!(output.contains("67108864"), "{output}");
    assert!(output.contains("memory:/\r") || output.contains("0::/\r"), "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(output.contains("terminal"), "{output}");
    let mut spec = container("main", "read x; echo never");
    spec.stdin = true;
    let pod = pod();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    machine.runtime().start_container(&pod.pod.uid, &spec).await.unwrap();
    let (_, other) = machine.run("read x; echo at-once").await;
    assert_eq!(other, "at-once\n");
    assert!(matches!(
        machine.container(&pod.pod.uid, "main").await.unwrap().phase,
        ContainerPhase::Running { .. }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_limits_reach_the_kernel() {
    let machine = Machine::new().await;
    let pod = pod();
    machine.runtime().start_sandbox(&pod).await.unwrap();
    let script = "cat /sys/fs/cgroup/cpu*/cpu.cfs_quota_us /sys/fs/cgroup/cpu*/cpu.shares; cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.weight";
    let mut spec = container("main", script);
    spec.resources.cpu_limit_milli = Some(250);
    spec.resources.cpu_request_milli = Some(100);
    machine.runtime().start_container(&pod.pod.uid, &spec).await.unwrap();
    machine.exit(&pod.pod.uid, "main").await;
    let log = machine.log(&pod.pod.uid, "main").await;
    assert!(
        log.contains("25000\n102\n") || log.contains("25000 100000\n4\n"),
        "{log}"
    );
}
