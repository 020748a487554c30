//! A cluster of real node processes, each on a machine of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::client::Client;

use crate::kubectl::Kubectl;
use crate::machine::{Machine, Wire};
use crate::wait::wait_for;

/// How long a node may take to become Ready before a test gives up. The goals are much tighter and are checked apart.
const READY_BOUND: Duration = Duration::from_secs(30);

/// How a node differs from the others.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// More arguments of `actorium node start`.
    pub arguments: Vec<String>,
    /// Its data lie on a disk of their own, of so many bytes.
    pub disk_bytes: Option<u64>,
}

/// A node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub machine: Machine,
    /// Its data.
    pub data_dir: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    arguments: Vec<String>,
    own_disk: bool,
}

/// A cluster. Dropping it removes everything: pods, processes, namespaces, data.
pub struct Cluster {
    /// Its nodes, in the order in which they were started.
    pub nodes: Vec<Node>,
    directory: PathBuf,
    tag: String,
    // After the nodes: machines are removed before the wire that joins them.
    wire: Wire,
}

fn binary() -> PathBuf {
    PathBuf::from(std::env::var_os("ACTORIUM_BIN").expect("ACTORIUM_BIN names the program: run `cargo xtask test`"))
}

/// Where the images of the example are.
pub fn images() -> PathBuf {
    PathBuf::from(
        std::env::var_os("ACTORIUM_IMAGES").expect("ACTORIUM_IMAGES names the images: run `cargo xtask test`"),
    )
}

impl Cluster {
    /// Starts `count` nodes and waits until each is Ready. `number` tells apart the clusters of one test process.
    pub fn start(number: u8, count: usize) -> Cluster {
        let mut cluster = Cluster::empty(number);
        for _ in 0..count {
            cluster.add(NodeOptions::default());
        }
        cluster
    }

    /// No node as yet.
    pub fn empty(number: u8) -> Cluster {
        let tag = format!("t{}x{number}", std::process::id());
        let directory = std::env::temp_dir().join(format!("actorium-{tag}"));
        std::fs::create_dir_all(&directory).expect("the directory for temporary files can be written");
        Cluster {
            nodes: Vec::new(),
            directory,
            tag,
            wire: Wire::new(number),
        }
    }

    /// Adds a node, waits until it is Ready, and says how long that took.
    pub fn add(&mut self, options: NodeOptions) -> Duration {
        let number = self.nodes.len() as u8 + 1;
        let name = format!("{}-n{number}", self.tag);
        let machine = self.wire.machine(number);
        let data_dir = self.directory.join(&name);
        let mut arguments = vec![
            "--name".to_owned(),
            name.clone(),
            "--data-dir".to_owned(),
            data_dir.display().to_string(),
            "--address".to_owned(),
            machine.address.to_string(),
        ];
        if let Some(first) = self.nodes.first() {
            let token =
                std::fs::read_to_string(first.data_dir.join("join-token")).expect("the first node left a join token");
            arguments.extend(["--join".to_owned(), format!("{}:7443", first.machine.address)]);
            arguments.extend(["--token".to_owned(), token.trim().to_owned()]);
        }
        arguments.extend(options.arguments);
        if let Some(bytes) = options.disk_bytes {
            std::fs::create_dir_all(&data_dir).expect("the mount point can be made");
            let size = format!("size={bytes}");
            let tmpfs = Some("tmpfs");
            nix::mount::mount(
                tmpfs,
                &data_dir,
                tmpfs,
                nix::mount::MsFlags::empty(),
                Some(size.as_str()),
            )
            .expect("root may mount a tmpfs");
        }
        let own_disk = options.disk_bytes.is_some();
        let log = self.directory.join(format!("{name}.log"));
        self.nodes.push(Node {
            name: name.clone(),
            machine,
            data_dir,
            log,
            process: None,
            arguments,
            own_disk,
        });
        let begun = Instant::now();
        self.start_node(number as usize - 1);
        self.await_ready(&name);
        begun.elapsed()
    }

    /// Starts the process of a node that does not run.
    pub fn start_node(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let log = File::options()
            .create(true)
            .append(true)
            .open(&node.log)
            .expect("the log can be written");
        let mut command = Command::new(binary());
        command
            .args(["node", "start"])
            .args(&node.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        node.process = Some(
            node.machine
                .place(&mut command)
                .spawn()
                .expect("the node process starts"),
        );
    }

    /// Kills a node process with SIGKILL.
    pub fn kill_node(&mut self, index: usize) {
        if let Some(mut process) = self.nodes[index].process.take() {
            process.kill().expect("the node process can be killed");
            process.wait().expect("it ends");
        }
    }

    /// Starts a node again that was killed, and waits until the others have taken note of its new life and it is Ready.
    pub fn restart_node(&mut self, index: usize) {
        let before = self
            .member(index)
            .map_or(0, |member| member["incarnation"].as_u64().unwrap_or(0));
        self.start_node(index);
        self.await_alive(index, before);
        let name = self.nodes[index].name.clone();
        self.await_ready(&name);
    }

    /// What the leader's gossip says of a node.
    fn member(&self, index: usize) -> Result<Value, String> {
        let (done, text) = self.actorium(self.leader(), &["shell", "-o", "json", "-c", "members"]);
        let members: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let found = members
            .as_array()
            .filter(|_| done)
            .into_iter()
            .flatten()
            .find(|m| m["name"] == *self.nodes[index].name);
        found.cloned().ok_or(text)
    }

    /// Waits until the leader's gossip has a node alive, in a life after `incarnation`.
    pub fn await_alive(&self, index: usize, incarnation: u64) {
        wait_for("the member is alive again", READY_BOUND, || {
            let member = self.member(index)?;
            let newer = member["incarnation"].as_u64().unwrap_or(0) > incarnation;
            if member["state"] == "alive" && newer {
                Ok(())
            } else {
                Err(member.to_string())
            }
        });
    }

    /// The pid of a node process.
    pub fn pid(&self, index: usize) -> u32 {
        self.nodes[index].process.as_ref().expect("the node runs").id()
    }

    /// Waits until a node is Ready.
    pub fn await_ready(&self, name: &str) -> Duration {
        let ready = || {
            let node = self.read(&format!("/api/v1/nodes/{name}"))?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if ready {
                Ok(())
            } else {
                Err(format!("{}", node["status"]["conditions"]))
            }
        };
        let (outcome, elapsed) = wait_for_or_log(self, &format!("node {name} is Ready"), READY_BOUND, ready);
        outcome.map(|()| elapsed).unwrap_or_else(|text| panic!("{text}"))
    }

    /// The kubeconfig of a node, as soon as it has written one.
    pub fn kubeconfig(&self, index: usize) -> PathBuf {
        self.nodes[index].data_dir.join("kubeconfig")
    }

    /// kubectl, speaking to a node.
    pub fn kubectl(&self, index: usize) -> Kubectl {
        let path = self.kubeconfig(index);
        wait_for("the node's kubeconfig", READY_BOUND, || {
            if path.exists() { Ok(()) } else { Err("absent".into()) }
        });
        Kubectl::new(&path)
    }

    /// A client of our own, speaking to a node.
    pub fn client(&self, index: usize) -> Result<Client, String> {
        Client::load(Some(&self.kubeconfig(index)), None).map_err(|error| error.to_string())
    }

    /// GET from any node that answers.
    pub fn read(&self, path: &str) -> Result<Value, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let mut last = "no node runs".to_owned();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.process.is_none() || !self.kubeconfig(index).exists() {
                continue;
            }
            let client = self.client(index)?;
            let answer = runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(3), client.get(path))
                    .await
                    .map_err(|_| "no answer in 3 s".to_owned())
            });
            match answer {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => last = error.to_string(),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Says a line of the shell to a node; panics when it is refused.
    pub fn shell(&self, index: usize, line: &str) -> String {
        let output = self.actorium(index, &["shell", "-c", line]);
        assert!(output.0, "shell {line:?}: {}", output.1);
        output.1
    }

    /// Runs `actorium` with a node's kubeconfig: whether it succeeded, and what it printed.
    pub fn actorium(&self, index: usize, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(binary());
        let output = command
            .arg("--kubeconfig")
            .arg(self.kubeconfig(index))
            .args(arguments)
            .output()
            .expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Makes the example's images present on a node.
    pub fn import_images(&self, index: usize) {
        for entry in std::fs::read_dir(images()).expect("the images were built") {
            let layout = entry.expect("a folder").path();
            if !layout.join("index.json").exists() {
                continue;
            }
            let data_dir = self.nodes[index].data_dir.display().to_string();
            let output = Command::new(binary())
                .args(["image", "import", "--data-dir", &data_dir])
                .arg(&layout)
                .output()
                .expect("it runs");
            assert!(
                output.status.success(),
                "import of {}: {}",
                layout.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    /// The pods that a selector names, newest state.
    pub fn pods(&self, selector: &str) -> Result<Vec<Value>, String> {
        let path = format!(
            "/api/v1/namespaces/default/pods?labelSelector={}",
            selector.replace('=', "%3D")
        );
        Ok(self.read(&path)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until `count` pods of a selector are Ready and none is being deleted; says how long that took.
    pub fn await_pods(&self, selector: &str, count: usize, bound: Duration) -> Duration {
        let check = || {
            let pods = self.pods(selector)?;
            let states: Vec<String> = pods.iter().map(describe).collect();
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if ready == count && pods.len() == count {
                Ok(())
            } else {
                Err(states.join("; "))
            }
        };
        let what = format!("{count} pods of {selector} are Ready");
        let (outcome, elapsed) = wait_for_or_log(self, &what, bound, check);
        outcome.map(|()| elapsed).unwrap_or_else(|text| panic!("{text}"))
    }

    /// The index of the node that leads.
    pub fn leader(&self) -> usize {
        let asked = (0..self.nodes.len())
            .find(|index| self.nodes[*index].process.is_some())
            .expect("a node runs");
        let find = || {
            let (done, text) = self.actorium(asked, &["shell", "-o", "json", "-c", "leader"]);
            let value: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
            let name = value["leader"].as_str().filter(|_| done).ok_or(text)?.to_owned();
            self.nodes.iter().position(|node| node.name == name).ok_or(name)
        };
        wait_for("a leader", READY_BOUND, find).0
    }

    /// The end of every node's log, for a failure's message.
    pub fn logs(&self) -> String {
        let tail = |node: &Node| {
            let text = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!(
                "--- {}\n{}",
                node.name,
                lines[lines.len().saturating_sub(30)..].join("\n")
            )
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// Processes whose command line contains this text.
    pub fn pids_of(&self, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(text) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        found
    }

    /// The whole log of a node.
    pub fn log(&self, index: usize) -> String {
        std::fs::read_to_string(&self.nodes[index].log).unwrap_or_default()
    }

    /// Where this cluster's files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Like `wait_for`, but a failure carries the nodes' logs.
fn wait_for_or_log(
    cluster: &Cluster,
    what: &str,
    bound: Duration,
    mut check: impl FnMut() -> Result<(), String>,
) -> (Result<(), String>, Duration) {
    let begun = Instant::now();
    loop {
        let reason = match check() {
            Ok(()) => return (Ok(()), begun.elapsed()),
            Err(reason) => reason,
        };
        if begun.elapsed() > bound {
            return (
                Err(format!(
                    "{what}: not within {bound:?}; last seen: {reason}\n{}",
                    cluster.logs()
                )),
                begun.elapsed(),
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The resident memory of a process at present, in bytes; zero when it has gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// Whether a pod is Ready and stays.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn describe(pod: &Value) -> String {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
    let waiting = pod
        .pointer("/status/containerStatuses/0/state")
        .map(Value::to_string)
        .unwrap_or_default();
    format!(
        "{} on {} {} {waiting}",
        text("/metadata/name"),
        text("/spec/nodeName"),
        text("/status/phase")
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                // A process that ended by itself cannot be killed again.
                let _ = process.kill();
                let _ = process.wait();
            }
            let mut reset = Command::new(binary());
            reset.args(["node", "reset", "--data-dir"]).arg(&node.data_dir);
            if let Ok(output) = node.machine.place(&mut reset).output()
                && !output.status.success()
            {
                eprintln!("reset of {}: {}", node.name, String::from_utf8_lossy(&output.stderr));
            }
            if node.own_disk
                && let Err(error) = nix::mount::umount2(&node.data_dir, nix::mount::MntFlags::MNT_DETACH)
            {
                eprintln!("the disk of {} was not unmounted: {error}", node.name);
            }
        }
        if std::thread::panicking() && std::env::var_os("ACTORIUM_KEEP").is_some() {
            eprintln!("kept: {}", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}
