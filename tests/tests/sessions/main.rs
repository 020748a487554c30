//! exec, attach, cp and port-forward by the unmodified kubectl, and stream() of the unmodified Python client, on a cluster of
//! two nodes: all pods run on the second node, all clients speak to the first, so that every session crosses the mesh.
//!
//! One cluster carries all checks. A check that fails does not hide the others: the test names all that failed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::AssertUnwindSafe;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tests::{Cluster, Kubectl, wait_for};

/// Nothing here takes longer.
const SOON: Duration = Duration::from_secs(30);
const BOUND_S: &str = "60";

/// The Python program, from this crate.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sessions/stream.py");

fn pod(name: &str, node: &str, script: &str, more: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: sessions}}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: actorium.local/busybox:1
    imagePullPolicy: Never
    command: [\"sh\", \"-c\", \"{script}\"]
    {more}
"
    )
}

/// kubectl, which `timeout` ends when it hangs.
fn kubectl(kubectl: &Kubectl, arguments: &[&str]) -> Command {
    let program = kubectl.command();
    let mut command = Command::new("timeout");
    command.arg(BOUND_S).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(arguments);
    command
}

fn output(client: &Kubectl, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = kubectl(client, arguments);
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("the program `timeout` (coreutils) runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // Apart from reading: what comes back fills a pipe before all has been given.
    let giving = std::thread::spawn(move || {
        let _ = stdin.write_all(&input); // a command that reads no input may have ended already
    });
    let output = child.wait_with_output().expect("kubectl ends");
    giving.join().expect("it gave");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes in which a lost, doubled or moved part shows.
fn noise(length: u32) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn commands_end_with_their_codes(client: &Kubectl) {
    for code in [0, 3, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let output = output(client, &["exec", "web", "--", "sh", "-c", &script], b"");
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert_eq!(text(&output.stdout), "out\n");
        assert!(errors.starts_with("err\n"), "{errors}");
        let expected = format!("command terminated with exit code {code}");
        assert_eq!(errors.contains(&expected), code != 0, "{errors}");
    }
}

fn input_ends_and_comes_whole(client: &Kubectl) {
    let content = noise(4 << 20);
    let output = output(client, &["exec", "-i", "web", "--", "cat"], &content);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout == content, "{} bytes came back", output.stdout.len());
}

fn a_terminal_has_the_clients_size(client: &Kubectl) {
    let script = "for i in $(seq 200); do test \"$(stty size)\" = \"33 77\" && break; sleep 0.05; done; stty size; tty; \
                  echo TERM=$TERM; exit 6";
    let command = kubectl(client, &["exec", "-it", "web", "--", "sh", "-c"]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // `exec` whatever the shell: a child of the shell that `timeout` moves to a process group of its own would be in the
    // terminal's background, and stopped when it reads.
    let line = format!("stty rows 33 cols 77; exec {} '{script}'", words.join(" "));
    let mut recorded = Command::new("script");
    recorded.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    recorded.env("SHELL", "/bin/sh");
    let output = recorded
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("the program `script` (bsdutils) runs");
    let printed = text(&output.stdout);
    for expected in ["33 77", "/dev/pts/0", "TERM=xterm"] {
        assert!(
            printed.contains(expected),
            "{expected:?} is not in {printed:?} ({line})"
        );
    }
    assert_eq!(output.status.code(), Some(6), "{printed}");
}

fn files_are_copied_both_ways(client: &Kubectl) {
    let directory = std::env::temp_dir().join(format!("actorium-sessions-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for temporary files can be made");
    let (there, back) = (directory.join("there"), directory.join("back"));
    let content = noise(5_000_001);
    std::fs::write(&there, &content).expect("it can be written");
    let copy = |from: &str, to: &str| {
        let output = output(client, &["cp", from, to], b"");
        assert!(output.status.success(), "cp {from} {to}: {}", text(&output.stderr));
    };
    copy(&there.display().to_string(), "web:copied");
    copy("web:copied", &back.display().to_string());
    let copied = std::fs::read(&back).expect("it was copied");
    let _ = std::fs::remove_dir_all(&directory); // in the directory for temporary files
    assert!(copied == content, "{} bytes came back", copied.len());
}

/// A kubectl that runs on; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// Starts a kubectl of its own, without `timeout`, which would not be killed with it.
fn start(client: &Kubectl, arguments: &[&str]) -> Running {
    let mut command = client.command();
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Running(command.spawn().expect("kubectl runs"))
}

fn fetch(port: u16) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("kubectl listens");
    stream.set_read_timeout(Some(SOON)).expect("a bound");
    stream
        .write_all(b"GET /big HTTP/1.0\r\n\r\n")
        .expect("it takes the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer comes");
    answer
}

fn ports_are_forwarded(client: &Kubectl) {
    let mut forwarding = start(client, &["port-forward", "pod/web", ":8080", ":7000", ":9"]);
    let mut lines = BufReader::new(forwarding.0.stdout.take().expect("a pipe")).lines();
    let mut port_of = |remote: u16| loop {
        let line = lines.next().expect("kubectl says where it listens").expect("text");
        let found = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split_once(" -> "));
        if let Some((local, to)) = found
            && to == remote.to_string()
        {
            return local.parse::<u16>().expect("a port");
        }
    };
    let (web, echo, closed) = (port_of(8080), port_of(7000), port_of(9));
    // Concurrent connections, each with a big answer.
    let fetching: Vec<_> = (0..8).map(|_| std::thread::spawn(move || fetch(web))).collect();
    for one in fetching {
        let answer = one.join().expect("it is fetched");
        let body = answer
            .windows(4)
            .position(|part| part == b"\r\n\r\n")
            .map(|at| &answer[at + 4..]);
        assert_eq!(
            body.map(<[u8]>::len),
            Some(3_000_000),
            "{}",
            text(&answer[..answer.len().min(200)])
        );
    }
    // A big body both ways at once; the client's half is closed before the answer has come.
    let content = noise(2 << 20);
    let mut stream = TcpStream::connect(("127.0.0.1", echo)).expect("kubectl still listens");
    stream.set_read_timeout(Some(SOON)).expect("a bound");
    let (mut giving, given) = (stream.try_clone().expect("a clone"), content.clone());
    let writer = std::thread::spawn(move || {
        giving.write_all(&given).expect("it takes the bytes");
        giving.shutdown(Shutdown::Write).expect("it can be closed");
    });
    let mut echoed = vec![0; content.len()];
    stream.read_exact(&mut echoed).expect("the bytes come back");
    writer.join().expect("all was given");
    assert!(echoed == content, "the echo is not what was sent");
    // A port at which nobody listens: kubectl says so, and as with Kubernetes it then gives up.
    let mut refused = TcpStream::connect(("127.0.0.1", closed)).expect("kubectl still listens");
    refused.set_read_timeout(Some(SOON)).expect("a bound");
    let read = refused.read(&mut [0; 16]);
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let mut complaint = String::new();
    let mut errors = forwarding.0.stderr.take().expect("a pipe");
    errors.read_to_string(&mut complaint).expect("kubectl ends");
    for expected in ["error forwarding port 9 to pod web", "127.0.0.1:9: Connection refused"] {
        assert!(complaint.contains(expected), "{expected:?} is not in {complaint:?}");
    }
}

fn a_client_is_attached(client: &Kubectl) {
    let output = output(client, &["attach", "-i", "reader"], b"hello\nagain\n");
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.contains("got hello\ngot again\n"), "{printed:?}");
    // stdinOnce: the container's input ended with this client's.
    wait_for("the end of the container", SOON, || {
        let phase = client.get("pod reader")["status"]["phase"].clone();
        if phase == "Succeeded" {
            Ok(())
        } else {
            Err(phase.to_string())
        }
    });
    let attached =
        client.get("pod reader")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
    assert_eq!(attached, 0);
}

fn a_client_that_goes_takes_its_command_along(client: &Kubectl) {
    let script = "echo $$ >running; exec sleep 600";
    let running = start(client, &["exec", "web", "--", "sh", "-c", script]);
    let (pid, _) = wait_for("the command runs", SOON, || {
        let output = output(client, &["exec", "web", "--", "cat", "running"], b"");
        let pid = text(&output.stdout).trim().to_owned();
        if pid.is_empty() {
            Err(text(&output.stderr))
        } else {
            Ok(pid)
        }
    });
    let lives = || {
        output(
            client,
            &["exec", "web", "--", "test", "-d", &format!("/proc/{pid}")],
            b"",
        )
        .status
        .success()
    };
    assert!(lives());
    drop(running);
    wait_for("the end of the command", SOON, || {
        if lives() { Err(pid.clone()) } else { Ok(()) }
    });
}

fn what_cannot_be_is_refused(client: &Kubectl) {
    let cases: [(&[&str], &str); 4] = [
        (&["exec", "absent", "--", "true"], "pods \"absent\" not found"),
        (
            &["exec", "web", "-c", "other", "--", "true"],
            "container other is not valid for pod web",
        ),
        (&["exec", "web", "--", "no-such-program"], "no-such-program"),
        (&["port-forward", "pod/absent", ":80"], "pods \"absent\" not found"),
    ];
    for (arguments, complaint) in cases {
        let output = output(client, arguments, b"");
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(
            errors.contains(complaint),
            "{arguments:?} did not complain of {complaint:?} but: {errors}"
        );
    }
}

fn the_python_client_streams(cluster: &Cluster) {
    let python = std::env::var_os("ACTORIUM_PYTHON").expect(
        "ACTORIUM_PYTHON names a Python that has the package `kubernetes`: run `cargo xtask test`, which makes one",
    );
    let output = Command::new("timeout")
        .arg(BOUND_S)
        .arg(python)
        .arg(PROGRAM)
        .env("KUBECONFIG", cluster.kubeconfig(0))
        .stdin(Stdio::null())
        .output()
        .expect("the program `timeout` (coreutils) runs");
    let said = text(&output.stdout);
    let expected = "ok exec\nok exit\nok input\nok terminal\nok ports\n";
    assert!(
        output.status.success() && said == expected,
        "the program ended with {} and said\n{said}{}",
        output.status,
        text(&output.stderr)
    );
}

#[test]
fn sessions_with_pods_of_another_node() {
    let cluster = Cluster::start(9, 2);
    cluster.import_images(1);
    let client = cluster.kubectl(0);
    let node = cluster.nodes[1].name.clone();
    let serve = "head -c 3000000 /dev/zero >big; httpd -p 127.0.0.1:8080 -h .; \
                 (while true; do nc -l -p 7000 -e cat; done) & echo ready; exec sleep 600";
    client.apply(&pod("web", &node, serve, ""));
    let read = "while read line; do echo got $line; done";
    client.apply(&pod("reader", &node, read, "stdin: true\n    stdinOnce: true"));
    wait_for("the pods run", SOON, || {
        let pods = client.run("get pods -o jsonpath={.items[*].status.phase}");
        let log = text(&output(&client, &["logs", "web"], b"").stdout);
        if pods == "Running Running" && log.contains("ready") {
            Ok(())
        } else {
            Err(format!("{pods}: {log}"))
        }
    });
    let checks: [(&str, &dyn Fn()); 9] = [
        ("codes", &|| commands_end_with_their_codes(&client)),
        ("input", &|| input_ends_and_comes_whole(&client)),
        ("terminal", &|| a_terminal_has_the_clients_size(&client)),
        ("cp", &|| files_are_copied_both_ways(&client)),
        ("port-forward", &|| ports_are_forwarded(&client)),
        ("attach", &|| a_client_is_attached(&client)),
        ("gone", &|| a_client_that_goes_takes_its_command_along(&client)),
        ("refusals", &|| what_cannot_be_is_refused(&client)),
        ("python", &|| the_python_client_streams(&cluster)),
    ];
    let failed: Vec<&str> = checks
        .iter()
        .filter(|(_, check)| std::panic::catch_unwind(AssertUnwindSafe(check)).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}\n{}", cluster.logs());
}
