//! Exec, attach and forwarded ports on the real kernel: what a command in a container has of the container, how its streams
//! and its end come through, and that nothing of it is left.
#![allow(clippy::disallowed_methods)] // tests measure real time

mod machine;

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use machine::*;
use protocol::Uid;
use protocol::runtime::*;
use protocol::session::*;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// Input that a test sends bit by bit. Dropping the sender ends it.
fn input() -> (mpsc::UnboundedSender<SessionInput>, InputStream) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    });
    (sender, stream.boxed())
}

fn no_input() -> InputStream {
    futures::stream::pending().boxed()
}

const OUTPUTS: StreamChoice = StreamChoice {
    stdin: false,
    stdout: true,
    stderr: true,
    tty: false,
};
const ALL: StreamChoice = StreamChoice { stdin: true, ..OUTPUTS };
const TERMINAL: StreamChoice = StreamChoice {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

fn command(pod: &Uid, script: &str, streams: StreamChoice) -> ExecSpec {
    ExecSpec {
        pod: pod.to_string(),
        container: "main".into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        streams,
    }
}

fn joining(pod: &Uid, streams: StreamChoice) -> AttachSpec {
    AttachSpec {
        pod: pod.to_string(),
        container: "main".into(),
        streams,
    }
}

/// A pod with one container that waits.
async fn running(machine: &Machine, sandbox: SandboxSpec, spec: ContainerSpec) -> Uid {
    machine.runtime().start_sandbox(&sandbox).await.unwrap();
    machine
        .runtime()
        .start_container(&sandbox.pod.uid, &spec)
        .await
        .unwrap();
    sandbox.pod.uid
}

async fn sleeping(machine: &Machine) -> Uid {
    running(machine, pod(), container("main", "sleep 600")).await
}

async fn next(output: &mut OutputStream) -> Option<SessionOutput> {
    let item = tokio::time::timeout(BOUND, output.next()).await;
    item.expect("the session is silent")
        .map(|item| item.expect("the session holds"))
}

/// Everything until the end: code, output, error.
async fn collect(mut output: OutputStream) -> (i32, Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(item) = next(&mut output).await {
        match item {
            SessionOutput::Stdout(bytes) => out.extend_from_slice(&bytes),
            SessionOutput::Stderr(bytes) => err.extend_from_slice(&bytes),
            SessionOutput::Exited { code } => {
                assert!(next(&mut output).await.is_none(), "something follows the end");
                return (code, out, err);
            }
        }
    }
    panic!("no end came; {:?}", String::from_utf8_lossy(&out));
}

/// Reads until the output contains a text.
async fn read_until(output: &mut OutputStream, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        match next(output).await {
            Some(SessionOutput::Stdout(bytes) | SessionOutput::Stderr(bytes)) => {
                read.push_str(&String::from_utf8_lossy(&bytes));
            }
            other => panic!("{other:?} instead of {text:?}, after {read:?}"),
        }
    }
    read
}

async fn run(machine: &Machine, pod: &Uid, script: &str) -> (i32, String, String) {
    let output = machine.runtime().exec(&command(pod, script, OUTPUTS), no_input()).await;
    let (code, out, err) = collect(output.unwrap()).await;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (code, text(out), text(err))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_end_with_their_codes_and_their_streams_stay_apart() {
    let machine = Machine::new().await;
    let pod = sleeping(&machine).await;
    let (code, out, err) = run(&machine, &pod, "echo out; echo err >&2; exit 3").await;
    assert_eq!((code, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    assert_eq!(run(&machine, &pod, "kill -9 $$").await.0, 137);
    assert_eq!(
        run(&machine, &pod, "echo $FROM_IMAGE $(pwd) $HOME").await.1,
        "1 /tmp /root\n"
    );
    // What a child still writes after its parent's end comes too.
    let (code, out, _) = run(&machine, &pod, "(sleep 0.2; echo late) & echo early").await;
    assert_eq!((code, out.as_str()), (0, "early\nlate\n"));

    let absent = ExecSpec {
        command: vec!["nothing-of-this-name".into()],
        ..command(&pod, "", OUTPUTS)
    };
    let error = machine.runtime().exec(&absent, no_input()).await.err().unwrap();
    assert!(matches!(error, RuntimeError::Exec { .. }), "{error}");
    let elsewhere = ExecSpec {
        container: "other".into(),
        ..command(&pod, "true", OUTPUTS)
    };
    let error = machine.runtime().exec(&elsewhere, no_input()).await.err().unwrap();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

/// What the container's first process and a command in it say of themselves.
const SELF_PORTRAIT: &str = "for n in mnt pid net ipc uts cgroup user; do readlink /proc/self/ns/$n; done; \
     while read -r line; do case $line in Cap*|Seccomp*|NoNewPrivs*|Uid*|Gid*|Groups*) echo $line;; esac; done \
     </proc/self/status; cat /proc/self/cgroup; pwd; umask; env | while read -r l; do case $l in _=*|SHLVL=*|PWD=*) ;; *) \
     echo $l;; esac; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_all_that_its_container_has_and_no_more() {
    let machine = Machine::new().await;
    let web = SecuritySpec {
        run_as_user: Some(1000),
        run_as_group: Some(1001),
        supplemental_groups: vec![1005],
        no_new_privileges: true,
        capabilities_drop: vec!["ALL".into()],
        ..SecuritySpec::default()
    };
    for host_users in [true, false] {
        for security in [SecuritySpec::default(), web.clone()] {
            for share_process_namespace in [false, true] {
                let sandbox = SandboxSpec {
                    host_users,
                    share_process_namespace,
                    ..pod()
                };
                let spec = ContainerSpec {
                    security: security.clone(),
                    env: vec![("FROM_POD".into(), "2".into())],
                    ..container("main", &format!("{SELF_PORTRAIT}; echo ready; sleep 600"))
                };
                let pod = running(&machine, sandbox, spec).await;
                let log = machine.wait_for_log(&pod, "main", "ready").await;
                let own = log.split("ready").next().unwrap();
                let (code, out, err) = run(&machine, &pod, SELF_PORTRAIT).await;
                let what = format!("host_users {host_users}, shared {share_process_namespace}, {security:?}");
                assert_eq!((code, err.as_str()), (0, ""), "{what}");
                assert_eq!(out, own, "{what}");
                machine.runtime().remove_sandbox(&pod).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_ends_when_the_client_ends_it_and_big_output_comes_whole() {
    let machine = Machine::new().await;
    let pod = sleeping(&machine).await;
    let content: Vec<u8> = (0..8u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (sender, stream) = input();
    let output = machine
        .runtime()
        .exec(&command(&pod, "cat", ALL), stream)
        .await
        .unwrap();
    for part in content.chunks(100_000) {
        sender.send(SessionInput::Stdin(Bytes::copy_from_slice(part))).unwrap();
    }
    sender.send(SessionInput::StdinClosed).unwrap();
    let (code, out, _) = collect(output).await;
    assert_eq!(code, 0);
    assert_eq!(Sha256::digest(&out), Sha256::digest(&content));

    let (code, out, _) = run(&machine, &pod, "dd if=/dev/zero bs=1048576 count=64 2>/dev/null").await;
    assert_eq!((code, out.len()), (0, 64 << 20));
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_the_command_and_costs_bounded_memory() {
    let machine = Machine::new().await;
    let pod = sleeping(&machine).await;
    let script = "echo $$ >writer; exec yes 0123456789012345678901234567890123456789012345678901234567890123";
    let mut output = machine
        .runtime()
        .exec(&command(&pod, script, OUTPUTS), no_input())
        .await
        .unwrap();
    read_until(&mut output, "0123").await;
    // The writer waits in the kernel for its full pipe: the bytes that it has written no longer grow.
    let written = || async {
        let script = "while read -r l; do case $l in wchar:*) echo $l;; esac; done </proc/$(cat writer)/io";
        run(&machine, &pod, script).await.1
    };
    let deadline = Instant::now() + BOUND;
    let mut last = written().await;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = written().await;
        if now == last {
            break;
        }
        assert!(Instant::now() < deadline, "the writer is held up by nobody: {now}");
        last = now;
    }
    let bytes: u64 = last.trim().strip_prefix("wchar: ").unwrap().parse().unwrap();
    assert!(bytes < 1 << 20, "{bytes} bytes wait for a client that does not read");
    drop(output);
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_the_containers_own_and_has_the_clients_size() {
    let machine = Machine::new().await;
    for host_users in [true, false] {
        let sandbox = SandboxSpec { host_users, ..pod() };
        let pod = running(&machine, sandbox, container("main", "sleep 600")).await;
        let (sender, stream) = input();
        sender.send(SessionInput::Resize { width: 100, height: 40 }).unwrap();
        let script = "read go; busybox stty size; busybox tty; echo $TERM; trap 'busybox stty size; exit 5' WINCH; \
                      echo waiting; while true; do sleep 0.05; done";
        let output = machine.runtime().exec(&command(&pod, script, TERMINAL), stream).await;
        let mut output = output.unwrap();
        sender.send(SessionInput::Stdin("go\n".into())).unwrap();
        let text = read_until(&mut output, "waiting").await;
        for expected in ["40 100\r\n", "/dev/pts/0\r\n", "xterm\r\n"] {
            assert!(text.contains(expected), "{expected:?} in {text:?}");
        }
        sender.send(SessionInput::Resize { width: 81, height: 25 }).unwrap();
        let (code, out, _) = collect(output).await;
        assert_eq!((code, String::from_utf8_lossy(&out).trim()), (5, "25 81"));

        // It is the controlling terminal: its interrupt character ends the foreground process.
        let (sender, stream) = input();
        let script = "echo waiting; sleep 600";
        let mut output = machine
            .runtime()
            .exec(&command(&pod, script, TERMINAL), stream)
            .await
            .unwrap();
        read_until(&mut output, "waiting").await;
        sender.send(SessionInput::Stdin("\x03".into())).unwrap();
        assert_eq!(collect(output).await.0, 130);
        machine.runtime().remove_sandbox(&pod).await.unwrap();
    }
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_takes_its_command_along() {
    let machine = Machine::new().await;
    let pod = sleeping(&machine).await;
    let before = machine.processes().len();
    for streams in [OUTPUTS, TERMINAL] {
        let script = "trap '' HUP TERM; echo started; sleep 600; sleep 600";
        let output = machine
            .runtime()
            .exec(&command(&pod, script, streams), no_input())
            .await;
        let mut output = output.unwrap();
        read_until(&mut output, "started").await;
        assert!(machine.processes().len() > before);
        drop(output);
        eventually("the end of the command", || machine.processes().len() == before).await;
    }
    // The container runs on, also under another node process.
    let script = "echo started; sleep 600";
    let output = machine
        .runtime()
        .exec(&command(&pod, script, OUTPUTS), no_input())
        .await;
    let mut output = output.unwrap();
    read_until(&mut output, "started").await;
    let mut machine = machine;
    drop(output);
    machine.reopen().await;
    eventually("the end of the command", || machine.processes().len() == before).await;
    assert!(matches!(
        machine.container(&pod, "main").await.unwrap().phase,
        ContainerPhase::Running { .. }
    ));
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ends_takes_its_commands_along() {
    let machine = Machine::new().await;
    for share_process_namespace in [false, true] {
        let sandbox = SandboxSpec {
            share_process_namespace,
            ..pod()
        };
        let pod = running(&machine, sandbox, container("main", "sleep 600")).await;
        let script = "echo started; sleep 600";
        let mut output = machine
            .runtime()
            .exec(&command(&pod, script, OUTPUTS), no_input())
            .await
            .unwrap();
        read_until(&mut output, "started").await;
        machine
            .runtime()
            .signal_container(&pod, "main", libc::SIGKILL)
            .await
            .unwrap();
        let (code, _, _) = collect(output).await;
        assert_eq!(code, 137, "shared {share_process_namespace}");
        machine.runtime().remove_sandbox(&pod).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_commands_leave_no_process_and_no_descriptor() {
    let machine = Machine::new().await;
    let pod = sleeping(&machine).await;
    let identity = fs::read_to_string(machine.pod_directory(&pod).join("parent-identity.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_str(&identity).unwrap();
    let parent = identity["pid"].as_u64().unwrap() as u32;
    let one = |number: usize| {
        let (machine, pod) = (&machine, &pod);
        async move {
            let streams = [OUTPUTS, ALL, TERMINAL][number % 3];
            let output = machine
                .runtime()
                .exec(&command(pod, "echo hi; exit 7", streams), no_input())
                .await;
            let (code, out, _) = collect(output.unwrap()).await;
            assert_eq!((code, String::from_utf8_lossy(&out).trim()), (7, "hi"));
        }
    };
    let of_parent = descriptors(parent);
    let processes = machine.processes();
    futures::stream::iter(0..100).for_each_concurrent(8, one).await;
    let left = || {
        let all = fs::read_dir(format!("/proc/{parent}/fd")).unwrap().flatten();
        let links = all.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).collect::<Vec<String>>()
    };
    let begun = Instant::now();
    while descriptors(parent) != of_parent {
        assert!(
            begun.elapsed() < BOUND,
            "of {of_parent} descriptors there are {:?}",
            left()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(machine.processes(), processes);
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_join_the_streams_of_a_container() {
    let machine = Machine::new().await;
    let spec = ContainerSpec {
        stdin: true,
        ..container(
            "main",
            "while read line; do echo got $line; echo err $line >&2; done; exit 4",
        )
    };
    let pod = running(&machine, pod(), spec).await;
    let (first, stream) = input();
    let mut one = machine.runtime().attach(&joining(&pod, ALL), stream).await.unwrap();
    let mut two = machine
        .runtime()
        .attach(&joining(&pod, OUTPUTS), no_input())
        .await
        .unwrap();
    first.send(SessionInput::Stdin("a\n".into())).unwrap();
    for client in [&mut one, &mut two] {
        let mut read = String::new();
        while !(read.contains("got a\n") && read.contains("err a\n")) {
            read.push_str(&read_until(client, "a\n").await);
        }
    }
    drop(one);
    // Without stdinOnce the container's input is still there for the next.
    let (second, stream) = input();
    let mut three = machine.runtime().attach(&joining(&pod, ALL), stream).await.unwrap();
    second.send(SessionInput::Stdin("b\n".into())).unwrap();
    read_until(&mut three, "got b\n").await;
    assert!(machine.log(&pod, "main").await.contains("got b\n"));
    machine
        .runtime()
        .signal_container(&pod, "main", libc::SIGKILL)
        .await
        .unwrap();
    assert_eq!(collect(three).await.0, 137);
    let error = machine
        .runtime()
        .attach(&joining(&pod, ALL), no_input())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_is_given_once_ends_with_its_client() {
    let machine = Machine::new().await;
    for goes in [false, true] {
        let spec = ContainerSpec {
            stdin: true,
            stdin_once: true,
            ..container("main", "cat; echo over; exit 6")
        };
        let pod = running(&machine, pod(), spec).await;
        let (sender, stream) = input();
        let mut output = machine.runtime().attach(&joining(&pod, ALL), stream).await.unwrap();
        sender.send(SessionInput::Stdin("line\n".into())).unwrap();
        read_until(&mut output, "line\n").await;
        if goes {
            drop(output);
        } else {
            sender.send(SessionInput::StdinClosed).unwrap();
            let (code, out, _) = collect(output).await;
            assert_eq!((code, String::from_utf8_lossy(&out).as_ref()), (6, "over\n"));
        }
        assert_eq!(machine.exit(&pod, "main").await.exit_code, 6);
        machine.runtime().remove_sandbox(&pod).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_joins_a_containers_terminal() {
    let machine = Machine::new().await;
    let spec = ContainerSpec {
        stdin: true,
        tty: true,
        ..container("main", "while read line; do echo got $line; busybox stty size; done")
    };
    let pod = running(&machine, pod(), spec).await;
    let (sender, stream) = input();
    let mut output = machine
        .runtime()
        .attach(&joining(&pod, TERMINAL), stream)
        .await
        .unwrap();
    sender.send(SessionInput::Resize { width: 77, height: 33 }).unwrap();
    sender.send(SessionInput::Stdin("a\n".into())).unwrap();
    read_until(&mut output, "33 77\r\n").await;
    machine.runtime().remove_sandbox(&pod).await.unwrap();
}

async fn answer(mut output: PortOutput) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(part) = tokio::time::timeout(BOUND, output.next())
        .await
        .expect("the port is silent")
    {
        bytes.extend_from_slice(&part.unwrap());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_reached_inside_of_the_pod() {
    let machine = Machine::new().await;
    let script = "head -c 3000000 /dev/zero >big; busybox httpd -p 127.0.0.1:8080 -h .; \
                  busybox httpd -p [::1]:8081 -h .; echo ready; sleep 600";
    for host_users in [true, false] {
        let sandbox = SandboxSpec { host_users, ..pod() };
        let pod = running(&machine, sandbox, container("main", script)).await;
        machine.wait_for_log(&pod, "main", "ready").await;
        let request = || {
            let bytes = Bytes::from_static(b"GET /big HTTP/1.0\r\n\r\n");
            futures::stream::once(async move { bytes })
                .chain(futures::stream::pending())
                .boxed()
        };
        let port = |port| PortSpec {
            pod: pod.to_string(),
            port,
        };
        for number in [8080, 8081] {
            let spec = port(number);
            let answers = (0..4).map(|_| async {
                let output = machine.runtime().port_forward(&spec, request()).await.unwrap();
                answer(output).await.len()
            });
            for length in futures::future::join_all(answers).await {
                assert!(length > 3_000_000, "{length} bytes from port {number}");
            }
        }
        // The machine's own loopback is another one, and so is a port at which nobody listens.
        let error = machine
            .runtime()
            .port_forward(&port(9), request())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("127.0.0.1:9") && error.contains("[::1]:9"), "{error}");
        machine.runtime().remove_sandbox(&pod).await.unwrap();
    }
}
