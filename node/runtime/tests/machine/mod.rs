//! A machine to test on: a data directory, a cgroup of its own, an image made of busybox, and a runtime over them. Dropping it
//! ends everything and checks that nothing is left. Needs root and `/bin/busybox` (Debian: busybox-static).
#![allow(dead_code, clippy::disallowed_methods)] // each test program uses a part; tests measure real time

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use protocol::Uid;
use protocol::runtime::*;
use runtime::cgroup::Hierarchies;
use runtime::images::ImageStore;
use runtime::{LinuxRuntime, RuntimeConfig, destroy_all};
use sha2::{Digest, Sha256};

/// Nothing on this machine should take longer.
pub const BOUND: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network that connects nothing.
pub struct NoNetwork;

#[async_trait]
impl SandboxNetwork for NoNetwork {
    async fn attach(&self, _: &PodIdentity, namespace: &Path) -> Result<Vec<IpAddr>, String> {
        fs::metadata(namespace).map_err(|error| format!("{}: {error}", namespace.display()))?;
        Ok(vec!["192.0.2.7".parse().unwrap()])
    }

    async fn detach(&self, _: &Uid) -> Result<(), String> {
        Ok(())
    }
}

/// See the module.
pub struct Machine {
    pub directory: tempfile::TempDir,
    pub config: RuntimeConfig,
    pub runtime: Option<LinuxRuntime>,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An entry of a layer.
pub enum Item<'a> {
    Directory(&'a str, u32),
    File(&'a str, &'a [u8], u32),
    Link(&'a str, &'a str),
    HardLink(&'a str, &'a str),
}

/// A tar stream. Paths are written as they are, also those that no honest tool would write.
pub fn layer(items: &[Item<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    for item in items {
        match item {
            Item::Directory(path, mode) => add(path, tar::EntryType::Directory, *mode, "", b""),
            Item::File(path, content, mode) => add(path, tar::EntryType::Regular, *mode, "", content),
            Item::Link(path, target) => add(path, tar::EntryType::Symlink, 0o777, target, b""),
            Item::HardLink(path, target) => add(path, tar::EntryType::Link, 0o644, target, b""),
        }
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Writes an OCI layout of one image.
pub fn write_layout(directory: &Path, name: &str, layers: &[Vec<u8>], config: serde_json::Value) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        (format!("sha256:{digest}"), bytes.len())
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let descriptors: Vec<serde_json::Value> = layers
        .iter()
        .map(|layer| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(layer).unwrap();
            let (digest, size) = put(&gzip.finish().unwrap());
            serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
        })
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let (config, config_size) = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": descriptors,
    });
    let (manifest, manifest_size) = put(manifest.to_string().as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": name},
        }],
    });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Writes the layout of an image with busybox in it, named `test/busybox:1`.
pub fn write_busybox_layout(directory: &Path) {
    let busybox = fs::read("/bin/busybox").expect("these tests need /bin/busybox: apt-get install busybox-static");
    let mut items = vec![
        Item::Directory("bin/", 0o755),
        Item::Directory("etc/", 0o755),
        Item::Directory("tmp/", 0o1777),
        Item::File("bin/busybox", &busybox, 0o755),
        Item::File(
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n",
            0o644,
        ),
        Item::File("etc/group", b"root:x:0:\nweb:x:1001:\nextra:x:1005:web\n", 0o644),
        Item::File("etc/not-executable", b"text", 0o644),
        Item::File("etc/garbage", b"\x01\x02\x03", 0o755),
    ];
    let applets: Vec<String> = [
        "sh", "cat", "echo", "sleep", "true", "false", "id", "ls", "hostname", "mount", "touch", "mkdir", "mknod",
        "head", "dd", "kill", "ps", "chmod", "seq", "test", "unshare", "ip", "env", "pwd", "stat", "readlink",
        "printf", "tail", "yes",
    ]
    .iter()
    .map(|applet| format!("bin/{applet}"))
    .collect();
    items.extend(applets.iter().map(|applet| Item::HardLink(applet, "bin/busybox")));
    let layer = layer(&items);
    let config = serde_json::json!({"Env": ["PATH=/bin", "FROM_IMAGE=1"], "Cmd": ["sh"], "WorkingDir": "/tmp", "StopSignal": "SIGRTMIN+3"});
    write_layout(directory, "test/busybox:1", &[layer], config);
}

/// Cargo names it to tests; an example finds it beside its own directory.
fn pod_parent_program() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_pod-parent-test") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("pod-parent-test"),
    }
}

impl Machine {
    /// Opens one with busybox imported.
    pub async fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests start containers: run them as root"
        );
        let directory = tempfile::Builder::new().prefix("actorium-runtime-").tempdir().unwrap();
        let node = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut config = RuntimeConfig::new(directory.path().join("data"), &node, pod_parent_program());
        config.cgroup_parent = format!("actorium-test-{node}");
        let layout = directory.path().join("busybox");
        write_busybox_layout(&layout);
        ImageStore::open(&config.data_dir).unwrap().import(&layout).unwrap();
        let runtime = LinuxRuntime::open(config.clone(), Arc::new(NoNetwork)).await.unwrap();
        Self {
            directory,
            config,
            runtime: Some(runtime),
        }
    }

    pub fn runtime(&self) -> &LinuxRuntime {
        self.runtime.as_ref().unwrap()
    }

    /// Forgets the runtime and opens another one over the same directory.
    pub async fn reopen(&mut self) {
        self.runtime = None;
        self.runtime = Some(
            LinuxRuntime::open(self.config.clone(), Arc::new(NoNetwork))
                .await
                .unwrap(),
        );
    }

    pub fn pod_directory(&self, pod: &Uid) -> PathBuf {
        self.config.data_dir.join("pods").join(pod.as_str())
    }

    /// The state of one container.
    pub async fn container(&self, pod: &Uid, name: &str) -> Option<ContainerState> {
        let sandboxes = self.runtime().sandboxes().await.unwrap();
        let sandbox = sandboxes.into_iter().find(|sandbox| sandbox.pod.uid == *pod)?;
        sandbox.containers.into_iter().find(|container| container.name == name)
    }

    /// Waits until a container has ended.
    pub async fn exit(&self, pod: &Uid, name: &str) -> ContainerExit {
        let deadline = Instant::now() + BOUND;
        loop {
            if let Some(ContainerState {
                phase: ContainerPhase::Exited(exit),
                ..
            }) = self.container(pod, name).await
            {
                return exit;
            }
            assert!(Instant::now() < deadline, "container {name} did not end in {BOUND:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts a pod with one container that runs a shell script, waits for its end, and gives exit and output.
    pub async fn run(&self, script: &str) -> (ContainerExit, String) {
        self.run_container(container("main", script)).await
    }

    pub async fn run_container(&self, spec: ContainerSpec) -> (ContainerExit, String) {
        let pod = pod();
        self.runtime().start_sandbox(&pod).await.unwrap();
        self.runtime().start_container(&pod.pod.uid, &spec).await.unwrap();
        let exit = self.exit(&pod.pod.uid, &spec.name).await;
        let output = self.log(&pod.pod.uid, &spec.name).await;
        self.runtime().remove_sandbox(&pod.pod.uid).await.unwrap();
        (exit, output)
    }

    pub async fn log(&self, pod: &Uid, container: &str) -> String {
        self.read_log(&log_request(pod, container)).await
    }

    pub async fn read_log(&self, request: &LogRequest) -> String {
        let mut stream = self.runtime().logs(request).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = tokio::time::timeout(BOUND, stream.next())
            .await
            .expect("the log does not end")
        {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log of a container contains a text.
    pub async fn wait_for_log(&self, pod: &Uid, container: &str, text: &str) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            let log = self.log(pod, container).await;
            if log.contains(text) {
                return log;
            }
            assert!(
                Instant::now() < deadline,
                "{text:?} does not appear in the log: {log:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything below this machine's cgroup.
    pub fn processes(&self) -> Vec<i32> {
        Hierarchies::detect()
            .unwrap()
            .group(&self.config.cgroup_parent)
            .processes()
    }

    /// Names of this machine's cgroups.
    pub fn groups(&self) -> Vec<String> {
        Hierarchies::detect()
            .unwrap()
            .group(&self.config.cgroup_parent)
            .children()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.runtime = None;
        let destroyed = destroy_all(&self.config.data_dir);
        if std::thread::panicking() {
            return;
        }
        destroyed.unwrap();
        let group = Hierarchies::detect().unwrap().group(&self.config.cgroup_parent);
        assert!(!group.exists(), "the machine's cgroup is left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(own), "mounts are left:\n{mounts}");
    }
}

/// A fresh pod.
pub fn pod() -> SandboxSpec {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("pod-{}-{number}", std::process::id());
    SandboxSpec {
        pod: PodIdentity {
            uid: Uid::from(format!("uid-{name}")),
            namespace: "default".into(),
            name: name.clone(),
        },
        hostname: name,
        host_network: false,
        host_pid: false,
        host_ipc: false,
        host_users: true,
        share_process_namespace: false,
        resolv_conf: "nameserver 192.0.2.53\n".into(),
        host_aliases: vec![("192.0.2.9".into(), vec!["alias".into()])],
        sysctls: BTreeMap::new(),
        resources: ResourceLimits::default(),
        volumes: Vec::new(),
        fs_group: None,
    }
}

/// A container that runs a shell script.
pub fn container(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        attempt: 0,
        image: "test/busybox:1".into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        args: Vec::new(),
        working_dir: None,
        env: Vec::new(),
        mounts: Vec::new(),
        resources: ResourceLimits::default(),
        security: SecuritySpec::default(),
        stdin: false,
        stdin_once: false,
        tty: false,
        termination_message_path: "/dev/termination-log".into(),
        termination_message_from_log: false,
        oom_score_adj: 0,
        pid_namespace_of: None,
    }
}

pub fn log_request(pod: &Uid, container: &str) -> LogRequest {
    LogRequest {
        namespace: "default".into(),
        pod: "pod".into(),
        uid: pod.to_string(),
        container: container.into(),
        ..LogRequest::default()
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true in {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
