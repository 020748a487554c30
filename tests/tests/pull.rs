//! Images from a real registry, by tag and by digest; pull policies; and what is said of an image that does not exist.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Cluster, Following, Kubectl, NodeOptions, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// Debian's docker-registry on the wire's own address. Dropping it ends it; its files are the cluster's.
struct Registry {
    process: Child,
    address: SocketAddr,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // One that ended by itself cannot be killed again.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// Starts it on an address on which nobody listens.
    fn start(directory: &Path, address: SocketAddr) -> Registry {
        let program = std::env::var_os("ACTORIUM_REGISTRY")
            .expect("ACTORIUM_REGISTRY names docker-registry: run `cargo xtask test`");
        let configuration = directory.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            directory.join("registry").display()
        );
        std::fs::write(&configuration, text).expect("the configuration can be written");
        let mut command = Command::new(program);
        command.arg("serve").arg(configuration).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("the registry starts");
        let registry = Registry { process, address };
        wait_for("the registry answers", SOON, || {
            TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        registry
    }

    /// One request: the status and the place that the answer names.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("the registry answers");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("the registry reads");
        stream.write_all(body).expect("the registry reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("the registry's answer is text");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let place = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap_or_default();
        let path = place.find("/v2/").map_or(place, |start| &place[start..]);
        (
            status.unwrap_or_else(|| panic!("no status in {answer}")),
            path.trim().to_owned(),
        )
    }

    /// Pushes the image of a layout and returns its digest.
    fn push(&self, layout: &Path, repository: &str, tag: &str) -> String {
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest").to_owned();
            let path: PathBuf = layout.join("blobs").join(digest.replace(':', "/"));
            (std::fs::read(path).expect("the layout is whole"), digest)
        };
        let index = std::fs::read(layout.join("index.json")).expect("the images were built");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        let (manifest, digest) = blob(&index["manifests"][0]);
        let parsed: Value = serde_json::from_slice(&manifest).expect("JSON");
        for part in parsed["layers"]
            .as_array()
            .expect("layers")
            .iter()
            .chain([&parsed["config"]])
        {
            let (bytes, digest) = blob(part);
            let uploads = format!("/v2/{repository}/blobs/uploads/");
            let (status, place) = self.request("POST", &uploads, "application/octet-stream", b"");
            assert_eq!(status, 202);
            let join = if place.contains('?') { '&' } else { '?' };
            let place = format!("{place}{join}digest={digest}");
            assert_eq!(self.request("PUT", &place, "application/octet-stream", &bytes).0, 201);
        }
        let kind = index["manifests"][0]["mediaType"].as_str().expect("a media type");
        let (status, _) = self.request("PUT", &format!("/v2/{repository}/manifests/{tag}"), kind, &manifest);
        assert_eq!(status, 201);
        digest
    }
}

fn pod(name: &str, image: &str, policy: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - {{name: c, image: \"{image}\", imagePullPolicy: {policy}, command: [sleep, \"1000\"]}}\n"
    )
}

fn container(cluster: &Cluster, name: &str) -> Result<Value, String> {
    let pod = cluster.read(&format!("/api/v1/namespaces/default/pods/{name}"))?;
    Ok(pod["status"]["containerStatuses"][0].clone())
}

fn await_running(cluster: &Cluster, name: &str) -> Value {
    let check = || {
        let status = container(cluster, name)?;
        if status["state"]["running"].is_object() {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    };
    wait_for(&format!("{name} runs"), SOON, check).0
}

fn await_waiting(cluster: &Cluster, name: &str, reasons: &[&str]) -> String {
    let check = || {
        let waiting = container(cluster, name)?["state"]["waiting"].clone();
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        if reasons.contains(&reason) {
            Ok(message.to_owned())
        } else {
            Err(waiting.to_string())
        }
    };
    wait_for(&format!("{name} waits because of {reasons:?}"), SOON, check).0
}

/// Follows why the container of a pod waits: lines `REASON|MESSAGE`.
fn follow_reasons(kubectl: &Kubectl, name: &str) -> Following {
    let mut command = kubectl.command();
    let state = ".status.containerStatuses[0].state.waiting";
    command
        .args(["get", "pods", "--watch", "--field-selector"])
        .arg(format!("metadata.name={name}"))
        .arg("--output")
        .arg(format!("jsonpath={{{state}.reason}}|{{{state}.message}}{{\"\\n\"}}"));
    Following::start(command)
}

/// The next reason that is neither the one before, which other changes of the pod repeat, nor one of an attempt that begins.
fn next_reason(reasons: &Following, before: &str) -> (String, String) {
    let deadline = Instant::now() + SOON;
    while let Some(line) = reasons.next(deadline) {
        let (reason, message) = line.split_once('|').unwrap_or((&line, ""));
        if !["", "ContainerCreating", before].contains(&reason) {
            return (reason.to_owned(), message.to_owned());
        }
    }
    panic!("no reason within {SOON:?}")
}

#[test]
fn images_come_from_a_registry_as_the_pull_policy_says() {
    let mut cluster = Cluster::empty(22);
    let gateway = Ipv4Addr::new(10, 120 + (std::process::id() % 100) as u8, 22, 254); // the wire's own address
    let free = TcpListener::bind((gateway, 0)).and_then(|listener| listener.local_addr());
    let address = free.expect("the wire's address is this machine's");
    let arguments = vec!["--insecure-registry".to_owned(), address.to_string()];
    cluster.add(NodeOptions {
        arguments,
        ..NodeOptions::default()
    });
    let registry = Registry::start(cluster.directory(), address);
    let layout = tests::cluster::images().join("busybox-1");
    let digest = registry.push(&layout, "demo/busybox", "1");

    let kubectl = cluster.kubectl(0);
    let by_tag = format!("{address}/demo/busybox:1");
    kubectl.apply(&pod("never", &by_tag, "Never"));
    let message = await_waiting(&cluster, "never", &["ErrImageNeverPull"]);
    assert!(message.contains(&by_tag), "{message}");
    kubectl.apply(&pod(
        "by-digest",
        &format!("{address}/demo/busybox@{digest}"),
        "IfNotPresent",
    ));
    let status = await_running(&cluster, "by-digest");
    assert!(
        status["imageID"].as_str().unwrap_or_default().contains(&digest),
        "{status}"
    );
    kubectl.apply(&pod("by-tag", &by_tag, "IfNotPresent"));
    await_running(&cluster, "by-tag");

    let absent = format!("{address}/demo/busybox:none");
    let reasons = follow_reasons(&kubectl, "absent");
    kubectl.apply(&pod("absent", &absent, "IfNotPresent"));
    // A watch tells every state, also one that is over before somebody asks.
    for (before, reason) in [("", "ErrImagePull"), ("ErrImagePull", "ImagePullBackOff")] {
        let (seen, message) = next_reason(&reasons, before);
        assert_eq!(seen, reason, "{message}");
        assert!(
            message.contains(&absent) && message.to_lowercase().contains("manifest unknown"),
            "{reason}: {message}"
        );
    }

    // The registry is gone: what is present runs without it, and Always asks it in vain.
    drop(registry);
    kubectl.apply(
        &[
            pod("present", &by_tag, "IfNotPresent"),
            pod("always", &by_tag, "Always"),
        ]
        .concat(),
    );
    await_running(&cluster, "present");
    let message = await_waiting(&cluster, "always", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(message.contains(&address.to_string()), "{message}");
}
