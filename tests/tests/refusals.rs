//! Bad input of every kind gets a clear answer that says what to do, and leaves nothing behind.

use std::process::{Command, Stdio};
use std::time::Duration;

use shell::client::ClientError;
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

/// Sends a ConfigMap as YAML, strictly, to the API itself: the code and the message of the refusal.
fn post_yaml(cluster: &Cluster, text: &str) -> (u16, String) {
    let client = cluster.client(0).expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    let request = client.request(
        "POST",
        path,
        "application/yaml",
        "application/json",
        text.as_bytes().to_vec(),
    );
    match runtime.expect("a runtime").block_on(request) {
        Err(ClientError::Refused { code, message, .. }) => (code, message),
        other => panic!("{text:?} was not refused: {other:?}"),
    }
}

#[test]
fn a_cluster_refuses_bad_input_and_says_why() {
    let cluster = Cluster::start(2, 1);
    tokens_that_admit_nobody(&cluster);
    ports_and_addresses_that_are_taken(&cluster);
    objects_that_are_wrong(&cluster);
    images_and_commands_that_do_not_exist(&cluster);
}

/// Arguments of a node beside the one that runs, with ports of its own.
fn beside<'a>(address: &'a str, mesh_port: &'a str, https_port: &'a str) -> [&'a str; 6] {
    [
        "--address",
        address,
        "--mesh-port",
        mesh_port,
        "--https-port",
        https_port,
    ]
}

fn tokens_that_admit_nobody(cluster: &Cluster) {
    let address = cluster.nodes[0].machine.address.to_string();
    let token = std::fs::read_to_string(cluster.nodes[0].data_dir.join("join-token")).expect("a token");
    let token = token.trim();
    let join = |token: &str| {
        let mut arguments = beside(&address, "7555", "7556").to_vec();
        arguments.extend(["--join", &address, "--token", token]);
        fails_to_start(cluster, &arguments)
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
}

fn ports_and_addresses_that_are_taken(cluster: &Cluster) {
    let address = cluster.nodes[0].machine.address.to_string();
    let said = fails_to_start(cluster, &beside(&address, "7443", "7556"));
    assert!(
        said.contains("UDP port 7443 on 0.0.0.0 is taken") && said.contains("--mesh-port"),
        "{said}"
    );
    let said = fails_to_start(cluster, &beside(&address, "7555", "6443"));
    assert!(
        said.contains("cannot listen on 0.0.0.0:6443") && said.contains("--https-port"),
        "{said}"
    );
    // One that pods or services may get.
    let said = fails_to_start(cluster, &beside("10.96.0.77", "7555", "7556"));
    assert!(
        said.contains("lies in the cluster's service-cidr 10.96.0.0/12"),
        "{said}"
    );
}

fn objects_that_are_wrong(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let file = cluster.directory().join("bad.yaml");
    let apply = |text: &str| {
        std::fs::write(&file, text).expect("the file can be written");
        kubectl.refused(&format!("apply -f {}", file.display()))
    };
    let unknown_field = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n";
    let said = apply(unknown_field);
    assert!(said.contains("unknown field \"datum\""), "{said}");
    let malformed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\n";
    let said = apply(malformed);
    assert!(said.contains("error converting YAML to JSON: yaml: line 3"), "{said}");
    let (done, said) = cluster.actorium(0, &["apply", "-f", &file.display().to_string()]);
    let place = file.display().to_string();
    assert!(!done && said.contains(&place) && said.contains("line 4"), "{said}");
    let (code, said) = post_yaml(cluster, malformed);
    assert!(code == 400 && said.contains("line 4"), "{code} {said}");
    let (code, said) = post_yaml(cluster, unknown_field);
    assert!(code == 400 && said.contains("unknown field \"datum\""), "{code} {said}");
    assert!(!kubectl.run("get configmaps -o name").contains("configmap/x"));
    let said = apply("apiVersion: v1\nkind: Pod\nmetadata: {name: BAD}\nspec: {containers: [{name: c, image: i}]}\n");
    assert!(said.contains("metadata.name: Invalid value: \"BAD\""), "{said}");
    assert_eq!(
        kubectl.refused("get pod none").trim(),
        "Error from server (NotFound): pods \"none\" not found"
    );
}

fn images_and_commands_that_do_not_exist(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    cluster.import_images(0);
    let pod = |name: &str, image: &str, command: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: c, image: {image}, command: [{command}]}}\n"
        )
    };
    kubectl.apply(&pod("no-image", "127.0.0.1:1/none:1", "sh"));
    kubectl.apply(&pod("no-command", "actorium.local/busybox:1", "/no/such/program"));
    // What is told in the end; the states before are short.
    let waiting = |name: &str, reason: &str, path: &str, part: &str| {
        let pod = kubectl.get(&format!("pod {name}"));
        let status = &pod["status"]["containerStatuses"][0];
        let message = status
            .pointer(path)
            .and_then(|message| message.as_str())
            .unwrap_or_default();
        if status["state"]["waiting"]["reason"] == reason && message.contains(part) {
            Ok(status.clone())
        } else {
            Err(status.to_string())
        }
    };
    wait_for("an image that does not exist is named", Duration::from_secs(20), || {
        waiting(
            "no-image",
            "ImagePullBackOff",
            "/state/waiting/message",
            "127.0.0.1:1/none:1",
        )
    });
    let (status, _) = wait_for(
        "a command that does not exist is named",
        Duration::from_secs(20),
        || {
            let message = "/lastState/terminated/message";
            waiting("no-command", "CrashLoopBackOff", message, "/no/such/program")
        },
    );
    let ended = &status["lastState"]["terminated"];
    assert_eq!(
        (&ended["reason"], &ended["exitCode"]),
        (&"StartError".into(), &128.into()),
        "{status}"
    );
    kubectl.run("delete pod no-image no-command --grace-period=1");
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
