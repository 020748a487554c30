//! `cargo xtask up`: a three-node cluster on this machine with the example on it.
//!
//! Owns the order of the steps and what is said about them; the network, the processes and the record of the run are
//! parts of their own. It must record a thing before it makes it, so that `down` finds everything after a failure in
//! the middle.

use crate::process::ProcessId;
use crate::run_record::{self, NodeRecord, RunRecord};
use crate::system_packages::{self, Purpose};
use crate::workspace::{Workspace, cargo_command};
use crate::{command, down, images, netns};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The port on which a node listens for other nodes.
const MESH_PORT: u16 = 7443;
/// How long a node may take until it is Ready. A machine that is compiling something else is slow.
const NODE_READY_MAX: Duration = Duration::from_secs(60);
/// How long the example may take until it runs.
const EXAMPLE_READY_MAX: Duration = Duration::from_secs(120);

/// How long its page may take until it comes: the front ends may be up before Redis is.
const PAGE_MAX: Duration = Duration::from_secs(30);

/// Starts the cluster, or says that it runs.
pub fn run(workspace: &Workspace, binary: Option<PathBuf>, bare: bool) -> Result<()> {
    let directory = run_record::directory(workspace);
    if let Some(record) = RunRecord::read(&directory)? {
        match record.nodes_alive() {
            alive if alive == usize::from(netns::NODES) => {
                println!("the cluster is up already");
                return report(
                    workspace,
                    &Cluster {
                        binary: record.binary,
                        kubeconfig: run_record::kubeconfig(workspace),
                    },
                );
            }
            0 => down::remove(workspace, &record.binary, Some(&record))?,
            alive => bail!("{alive} of {} nodes run: `cargo xtask down` first", netns::NODES),
        }
    }
    system_packages::ensure(&[Purpose::Build, Purpose::Run])?;
    if !nix::unistd::geteuid().is_root() {
        bail!("nodes make namespaces, mounts and cgroups: run this as root");
    }
    let binary = match binary {
        Some(binary) => binary
            .canonicalize()
            .with_context(|| format!("there is no {}", binary.display()))?,
        None => build(workspace, &[])?,
    };
    let layouts = if bare {
        Vec::new()
    } else {
        images::run(workspace, false, false)?
    };
    let started = Instant::now();
    let cluster = start_cluster(workspace, &directory, binary).with_context(|| {
        format!(
            "the cluster did not come up (logs: {}; clean up: cargo xtask down)",
            directory.display()
        )
    })?;
    println!("three nodes are Ready after {:.1} s", started.elapsed().as_secs_f64());
    if !bare {
        deploy(workspace, &directory, &cluster, &layouts)?;
    }
    report(workspace, &cluster)
}

/// Builds the node's binary, and other targets along with it. The whole workspace is named, although one binary is built,
/// so that its dependencies have the features that everything else uses, and RocksDB is not compiled twice.
pub fn build(workspace: &Workspace, along_with: &[String]) -> Result<PathBuf> {
    println!("building actorium (the first time RocksDB is compiled, which takes many minutes)");
    let mut build = cargo_command(workspace)?;
    command::run(
        build
            .args(["build", "--release", "--workspace", "--bin", "actorium", "--quiet"])
            .args(along_with),
    )?;
    let binary = workspace.target.join("release/actorium");
    if !binary.is_file() {
        bail!("cargo built the workspace, but {} is not there", binary.display());
    }
    Ok(binary)
}

/// How the cluster is reached.
struct Cluster {
    binary: PathBuf,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// The binary as a client of the cluster.
    fn client(&self) -> Command {
        let mut client = Command::new(&self.binary);
        client.arg("--kubeconfig").arg(&self.kubeconfig);
        client
    }

    /// Objects of a kind, as the API lists them.
    fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let text = command::output(self.client().args(["get", kind, "-o", "json"]))?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("`get {kind} -o json` is not JSON"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

fn start_cluster(workspace: &Workspace, directory: &Path, binary: PathBuf) -> Result<Cluster> {
    let nodes = (1..=netns::NODES).map(|node| NodeRecord {
        name: format!("n{node}"),
        namespace: netns::namespace(node),
        address: netns::address(node),
        data_dir: directory.join(format!("n{node}/data")),
        log: directory.join(format!("n{node}/node.log")),
        process: None,
    });
    let mut record = RunRecord {
        binary: binary.clone(),
        nodes: nodes.collect(),
        cgroups: Vec::new(),
    };
    record.write(directory)?;
    netns::remove()?;
    netns::create()?;
    let _ = std::fs::remove_file(run_record::kubeconfig(workspace)); // An old one must not be taken for the new one.
    let cluster = Cluster {
        binary,
        kubeconfig: run_record::kubeconfig(workspace),
    };
    let mut join = None;
    for index in 0..record.nodes.len() {
        let process = start_node(&record.binary, &record.nodes[index], &cluster.kubeconfig, join.as_ref())?;
        record.nodes[index].process = Some(process);
        record.write(directory)?;
        let node = &record.nodes[index];
        if join.is_none() {
            join = Some(await_bootstrap(node, process, &cluster.kubeconfig)?);
        }
        await_ready(&cluster, node, process)?;
        println!("node {} is Ready at {}", node.name, node.address);
    }
    Ok(cluster)
}

/// What a node needs to know to join.
struct Join {
    address: String,
    token: String,
}

/// Starts a node in its namespace, in a session of its own, so that a terminal that is closed does not end it.
fn start_node(binary: &Path, node: &NodeRecord, kubeconfig: &Path, join: Option<&Join>) -> Result<ProcessId> {
    std::fs::create_dir_all(&node.data_dir).with_context(|| format!("cannot create {}", node.data_dir.display()))?;
    let log = File::create(&node.log).with_context(|| format!("cannot create {}", node.log.display()))?;
    let mut command = Command::new("setsid");
    command.arg(binary).args([
        "node",
        "start",
        "--name",
        &node.name,
        "--address",
        &node.address,
        "--data-dir",
    ]);
    command.arg(&node.data_dir);
    match join {
        None => command.arg("--kubeconfig").arg(kubeconfig),
        Some(join) => command.args(["--join", &join.address, "--token", &join.token]),
    };
    // The person's own settings are for a node of theirs.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ACTORIUM_")) {
        command.env_remove(name);
    }
    netns::enter(&mut command, &node.namespace)?;
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command
        .spawn()
        .with_context(|| format!("{} could not be started", command::display(&command)))?;
    // Not a group leader after fork, so setsid executes the program in this very process.
    ProcessId::of(child.id().cast_signed())
}

/// Waits until the first node has written its credentials, and returns how others join.
fn await_bootstrap(node: &NodeRecord, process: ProcessId, kubeconfig: &Path) -> Result<Join> {
    let token = node.data_dir.join("join-token");
    await_condition(NODE_READY_MAX, "the first node to write its credentials", || {
        still_runs(node, process)?;
        Ok(token.is_file() && kubeconfig.is_file())
    })?;
    let token = std::fs::read_to_string(&token)?.trim().to_owned();
    Ok(Join {
        address: format!("{}:{MESH_PORT}", node.address),
        token,
    })
}

/// Waits until the API says that a node is Ready.
fn await_ready(cluster: &Cluster, node: &NodeRecord, process: ProcessId) -> Result<()> {
    let mut last = None;
    let waited = await_condition(NODE_READY_MAX, &format!("node {} to be Ready", node.name), || {
        still_runs(node, process)?;
        match cluster.list("nodes") {
            Ok(nodes) => Ok(nodes
                .iter()
                .any(|object| object["metadata"]["name"] == *node.name && is_ready(object))),
            Err(error) => {
                last = Some(error);
                Ok(false)
            }
        }
    });
    match (waited, last) {
        (Err(error), Some(last)) => Err(error.context(format!("the API's last answer was: {last:#}"))),
        (waited, _) => waited,
    }
}

fn still_runs(node: &NodeRecord, process: ProcessId) -> Result<()> {
    if process.is_alive() {
        return Ok(());
    }
    let log = std::fs::read_to_string(&node.log).unwrap_or_default();
    let mut tail: Vec<&str> = log.lines().rev().take(15).collect();
    tail.reverse();
    bail!(
        "node {} has ended; the end of {}:\n{}",
        node.name,
        node.log.display(),
        tail.join("\n")
    )
}

/// Whether the condition `Ready` of an object is true.
fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// Whether a Deployment has what it was asked for.
fn is_available(deployment: &Value) -> bool {
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let has = |field: &str| deployment["status"][field].as_u64().unwrap_or(0);
    has("availableReplicas") >= wanted
        && has("updatedReplicas") >= wanted
        && has("observedGeneration") >= deployment["metadata"]["generation"].as_u64().unwrap_or(0)
}

/// Imports the images into every node, applies the example and waits until it runs.
fn deploy(workspace: &Workspace, directory: &Path, cluster: &Cluster, layouts: &[PathBuf]) -> Result<()> {
    let record = RunRecord::read(directory)?.context("the record of the cluster is gone")?;
    println!("importing the example's images into every node");
    let started = Instant::now();
    std::thread::scope(|scope| {
        let nodes = record.nodes.iter();
        let imports: Vec<_> = nodes
            .map(|node| scope.spawn(|| import_images(&cluster.binary, node, layouts)))
            .collect();
        let mut outcomes = imports
            .into_iter()
            .map(|import| import.join().unwrap_or_else(|_| Err(anyhow!("an import panicked"))));
        outcomes.try_for_each(|outcome| outcome)
    })?;
    println!("the images are there after {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    command::run(
        cluster
            .client()
            .args(["apply", "-f"])
            .arg(workspace.root.join("examples/guestbook")),
    )?;
    await_condition(EXAMPLE_READY_MAX, "the example's Deployments to be available", || {
        let deployments = cluster.list("deployments")?;
        Ok(!deployments.is_empty() && deployments.iter().all(is_available))
    })?;
    println!("the guestbook runs after {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Makes images present on a node.
fn import_images(binary: &Path, node: &NodeRecord, layouts: &[PathBuf]) -> Result<()> {
    for layout in layouts {
        let mut import = Command::new(binary);
        import
            .args(["image", "import"])
            .arg(layout)
            .arg("--data-dir")
            .arg(&node.data_dir);
        netns::enter(&mut import, &node.namespace)?;
        command::output(&mut import)?;
    }
    Ok(())
}

/// Says what runs and how to reach it.
fn report(workspace: &Workspace, cluster: &Cluster) -> Result<()> {
    for words in [["get", "nodes"], ["get", "pods"], ["get", "services"]] {
        println!("\n$ actorium {}", words.join(" "));
        command::run(cluster.client().args(words))?;
    }
    println!();
    if let Some(service) = cluster
        .list("services")?
        .iter()
        .find(|service| service["metadata"]["name"] == "frontend")
    {
        println!("guestbook   {}", address_of_page(service)?);
    }
    let (binary, kubeconfig) = (cluster.binary.display(), cluster.kubeconfig.display());
    println!("kubeconfig  {kubeconfig}");
    println!("shell       {binary} --kubeconfig {kubeconfig} shell");
    println!(
        "logs        {}",
        run_record::directory(workspace).join("n1/node.log").display()
    );
    println!("stop        cargo xtask down");
    Ok(())
}

/// Reads the page through the Service's port of the first node, and returns where it is.
fn address_of_page(service: &Value) -> Result<String> {
    let port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("the Service frontend has no nodePort")?;
    let address: SocketAddr = format!("{}:{port}", netns::address(1)).parse()?;
    let mut last = anyhow!("no attempt was made");
    await_condition(PAGE_MAX, "the guestbook's page", || match fetch(address) {
        Ok(()) => Ok(true),
        Err(error) => {
            last = error;
            Ok(false)
        }
    })
    .map_err(|error| error.context(format!("http://{address}/ does not answer; the last attempt: {last:#}")))?;
    Ok(format!("http://{address}/"))
}

fn fetch(address: SocketAddr) -> Result<()> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET / HTTP/1.0\r\nHost: frontend\r\n\r\n")?;
    let mut page = String::new();
    connection.read_to_string(&mut page)?;
    let status = page.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") || !page.contains("</html>") {
        bail!("the answer was {status}");
    }
    Ok(())
}

/// Waits for a condition; a bound that is over is an error that says what was waited for.
fn await_condition(bound: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + bound;
    while !condition()? {
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}", bound.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_ready_when_its_condition_says_so() {
        let node = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(is_ready(&node("True")));
        assert!(!is_ready(&node("Unknown")));
        assert!(!is_ready(&json!({})));
    }

    #[test]
    fn a_deployment_is_available_when_the_newest_generation_has_all_its_replicas() {
        let deployment = |available: u64, observed: u64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3},
                   "status": {"availableReplicas": available, "updatedReplicas": 3, "observedGeneration": observed}})
        };
        assert!(is_available(&deployment(3, 2)));
        assert!(!is_available(&deployment(2, 2)));
        assert!(!is_available(&deployment(3, 1)));
        assert!(!is_available(&json!({"spec": {"replicas": 1}})));
    }

    #[test]
    fn a_condition_that_stays_false_is_an_error_that_names_it() {
        let error = await_condition(Duration::ZERO, "the moon", || Ok(false))
            .unwrap_err()
            .to_string();
        assert!(error.contains("the moon"), "{error}");
    }
}
