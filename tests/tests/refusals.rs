//! Bad input of every kind gets a clear answer that says what to do, and leaves nothing behind.

use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Cluster, NodeOptions, wait_for};

fn binary() -> Command {
    Command::new(std::env::var_os("ACTORIUM_BIN").expect("ACTORIUM_BIN names the program: run `cargo xtask test`"))
}

/// Runs a node that must not start; what it says.
fn fails_to_start(cluster: &Cluster, arguments: &[&str]) -> String {
    let data_dir = cluster.directory().join("refused");
    let mut command = binary();
    command
        .args(["node", "start", "--name", "refused", "--data-dir"])
        .arg(&data_dir)
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = cluster.nodes[0].machine.place(&mut command).spawn().expect("it runs");
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(
            "a node that must not start ends",
            Duration::from_secs(40),
            || match child.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{other:?}")),
            },
        )
    }));
    if ended.is_err() {
        child.kill().expect("it can be killed");
    }
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        ended.is_ok_and(|(status, _)| !status.success()),
        "the node started:\n{said}"
    );
    assert!(!data_dir.exists(), "a refused node left a directory behind");
    said
}

#[test]
fn a_cluster_refuses_bad_input_and_says_why() {
    let cluster = Cluster::start(2, 1);
    let address = cluster.nodes[0].machine.address.to_string();
    let token = std::fs::read_to_string(cluster.nodes[0].data_dir.join("join-token")).expect("a token");
    let token = token.trim();

    // Joining.
    let ports = ["--address", &address, "--mesh-port", "7555", "--https-port", "7556"];
    let join = |token: &str| {
        let mut arguments = ports.to_vec();
        arguments.extend(["--join", &address, "--token", token]);
        fails_to_start(&cluster, &arguments)
    };
    let (head, secret) = token.rsplit_once('.').expect("a token has parts");
    let wrong: String = secret.chars().rev().collect();
    let said = join(&format!("{head}.{wrong}"));
    assert!(
        said.contains("the secret of join token") && said.contains("is wrong"),
        "{said}"
    );
    let said = join("nonsense");
    assert!(
        said.contains("copy the whole line that `actorium token create` printed"),
        "{said}"
    );
    let (done, short) = cluster.actorium(0, &["token", "create", "--ttl", "1s"]);
    assert!(done, "{short}");
    std::thread::sleep(Duration::from_millis(1_100)); // the token's own time
    let said = join(short.trim());
    assert!(said.contains("expired at"), "{said}");

    // A port in use.
    let said = fails_to_start(
        &cluster,
        &["--address", &address, "--mesh-port", "7443", "--https-port", "7556"],
    );
    assert!(said.contains("7443"), "{said}");

    // An address that pods or services may get.
    let said = fails_to_start(
        &cluster,
        &["--address", "10.96.0.77", "--mesh-port", "7555", "--https-port", "7556"],
    );
    assert!(
        said.contains("lies in the cluster's service-cidr 10.96.0.0/12"),
        "{said}"
    );

    // Objects.
    let kubectl = cluster.kubectl(0);
    let file = cluster.directory().join("bad.yaml");
    let apply = |text: &str| {
        std::fs::write(&file, text).expect("the file can be written");
        kubectl.refused(&format!("apply -f {}", file.display()))
    };
    let said = apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n");
    assert!(said.contains("unknown field \"datum\""), "{said}");
    let said = apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\n");
    assert!(said.contains("error") && said.contains("yaml"), "{said}");
    let said = apply("apiVersion: v1\nkind: Pod\nmetadata: {name: BAD}\nspec: {containers: [{name: c, image: i}]}\n");
    assert!(said.contains("metadata.name: Invalid value: \"BAD\""), "{said}");
    assert_eq!(
        kubectl.refused("get pod none").trim(),
        "Error from server (NotFound): pods \"none\" not found"
    );

    // Images and commands that do not exist.
    cluster.import_images(0);
    let pod = |name: &str, image: &str, command: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: c, image: {image}, command: [{command}]}}\n"
        )
    };
    kubectl.apply(&pod("no-image", "127.0.0.1:1/none:1", "sh"));
    kubectl.apply(&pod("no-command", "actorium.local/busybox:1", "/no/such/program"));
    let waiting = |name: &str, reasons: &[&str], part: &str| {
        let pod = kubectl.get(&format!("pod {name}"));
        let status = &pod["status"]["containerStatuses"][0];
        let reason = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        let text = status.to_string();
        if reasons.contains(&reason) && text.contains(part) {
            Ok(())
        } else {
            Err(text)
        }
    };
    wait_for("an image that does not exist is named", Duration::from_secs(20), || {
        waiting("no-image", &["ErrImagePull", "ImagePullBackOff"], "127.0.0.1:1/none:1")
    });
    wait_for(
        "a command that does not exist is named",
        Duration::from_secs(20),
        || {
            waiting(
                "no-command",
                &["CrashLoopBackOff", "RunContainerError", "ContainerCreating"],
                "/no/such/program",
            )
        },
    );
    kubectl.run("delete pod no-image no-command --grace-period=1");
}

#[test]
fn a_node_without_root_rights_says_so() {
    use std::os::unix::process::CommandExt;
    let directory = std::env::temp_dir().join(format!("actorium-unprivileged-{}", std::process::id()));
    // Where everybody may execute it: the build's directory may be closed to others.
    let program = std::env::temp_dir().join(format!("actorium-program-{}", std::process::id()));
    let built = std::env::var_os("ACTORIUM_BIN").expect("ACTORIUM_BIN names the program: run `cargo xtask test`");
    std::fs::copy(built, &program).expect("the program can be copied");
    let mut command = Command::new(&program);
    command
        .args(["node", "start", "--name", "x", "--address", "127.0.0.1", "--data-dir"])
        .arg(&directory)
        .uid(65_534)
        .gid(65_534);
    let output = command.output();
    std::fs::remove_file(&program).expect("the copy can be removed");
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("root"), "{said}");
    assert!(!directory.exists(), "a node that did not start left a directory");
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    const DISK_BYTES: u64 = 256 << 20;
    let mut cluster = Cluster::empty(7);
    cluster.add(NodeOptions {
        disk_bytes: Some(DISK_BYTES),
        ..NodeOptions::default()
    });
    let kubectl = cluster.kubectl(0);
    kubectl.run("create configmap before --from-literal=a=b");
    // All but 8 MiB are taken, as by somebody else's files: less than what the store keeps in reserve.
    let ballast = cluster.nodes[0].data_dir.join("ballast");
    let free = nix::sys::statvfs::statvfs(&cluster.nodes[0].data_dir).expect("the disk tells its room");
    let free_bytes = free.blocks_available() * free.fragment_size();
    let file = std::fs::File::create(&ballast).expect("a file");
    let taken = (free_bytes - (8 << 20)) as i64;
    nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, taken).expect("there is room for the ballast");
    drop(file); // or its room would not come back with its name
    wait_for("writes are refused", Duration::from_secs(10), || {
        let output = kubectl.output("create configmap during --from-literal=a=b");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        kubectl.output("delete configmap during --ignore-not-found");
        let clear = said.contains("bytes free") && said.contains("free some space");
        if clear { Ok(()) } else { Err(said) }
    });
    assert!(kubectl.run("get configmap before").contains("before"), "reads go on");
    std::fs::remove_file(&ballast).expect("the ballast can be removed");
    wait_for("writes are accepted again", Duration::from_secs(10), || {
        let output = kubectl.output("create configmap after --from-literal=a=b");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    });
    cluster.kill_node(0);
    cluster.start_node(0);
    wait_for(
        "what was acknowledged is there after a restart",
        Duration::from_secs(20),
        || {
            let list = cluster.read("/api/v1/namespaces/default/configmaps")?;
            let names = list["items"].to_string();
            if names.contains("\"before\"") && names.contains("\"after\"") {
                Ok(())
            } else {
                Err(names)
            }
        },
    );
}
