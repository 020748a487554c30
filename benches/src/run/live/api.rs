//! Owns depth `api`: a real node process in a network namespace of its own (as the end-to-end tests have it), and a door over
//! HTTPS: pods by POST over many connections, bindings seen by a watch. Called for each case in a process of its own. The node
//! itself is cordoned, and the hollow nodes are Node objects only, so that no pod is run.

#![allow(clippy::disallowed_methods)] // it measures

use super::{Door, Sighting, cpu_seconds};
use crate::catalog::Selected;
use crate::run::outcome::CaseResult;
use crate::run::{CaseError, RunOptions};
use ::tests::cluster::Cluster;
use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Value, json};
use shell::client::Client;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A request that was made before the clock runs.
struct Request {
    path: String,
    body: Vec<u8>,
    /// A second one for the status, which a create drops.
    status: Option<(String, Vec<u8>)>,
}

/// The door over HTTPS.
struct ApiDoor {
    /// One client for each connection.
    clients: Vec<Client>,
    next: AtomicUsize,
    server_pid: u32,
    cpu_before: (f64, f64),
    own_before: (f64, f64),
}

fn failed(what: &'static str, why: impl std::fmt::Display) -> CaseError {
    CaseError::Failed {
        what,
        why: why.to_string(),
    }
}

/// The program of the node process: `ACTORIUM_BIN`, or the one next to this program.
pub fn binary() -> Result<PathBuf, CaseError> {
    if let Some(named) = std::env::var_os("ACTORIUM_BIN") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().map_err(|error| failed("this program's path", error))?;
    let beside = own.with_file_name("actorium");
    match beside.exists() {
        true => Ok(beside),
        false => Err(failed(
            "the node process",
            format!(
                "{} does not exist: build it with `cargo build --release -p node`, or name it in ACTORIUM_BIN",
                beside.display()
            ),
        )),
    }
}

/// Runs a case at depth `api`.
pub fn run(
    case: &Selected,
    options: &RunOptions,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<CaseResult, CaseError> {
    let program = binary()?;
    // SAFETY: no other thread has been started in this process.
    unsafe { std::env::set_var("ACTORIUM_BIN", program) };
    let cluster = Cluster::start(1, 1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads.max(2))
        .enable_all()
        .build()
        .map_err(|error| failed("the runtime", error))?;
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..options.clients.max(1) {
            clients.push(cluster.client(0).map_err(|error| failed("a client", error))?);
        }
        let node = format!("/api/v1/nodes/{}", cluster.nodes[0].name);
        let cordon = json!({"spec": {"unschedulable": true}}).to_string().into_bytes();
        let cordoned = clients[0].request("PATCH", &node, MERGE_PATCH, JSON, cordon).await;
        cordoned.map_err(|error| failed("the node's cordon", error))?;
        let server_pid = cluster.pid(0);
        let door = Arc::new(ApiDoor {
            clients,
            next: AtomicUsize::new(0),
            server_pid,
            cpu_before: cpu_seconds(server_pid),
            own_before: cpu_seconds(std::process::id()),
        });
        super::run(case, "api", options, door, progress).await
    })
}

impl ApiDoor {
    /// Connections take turns.
    fn client(&self) -> &Client {
        &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()]
    }
}

#[async_trait]
impl Door for ApiDoor {
    type Prepared = Request;

    fn batch(&self) -> usize {
        1
    }

    fn prepare(&self, resource: &'static str, namespace: &str, object: &Value) -> Result<Request, CaseError> {
        let path = match namespace {
            "" => format!("/api/v1/{resource}"),
            namespace => format!("/api/v1/namespaces/{namespace}/{resource}"),
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let status = object["status"].is_object().then(|| {
            let body = json!({"status": object["status"]}).to_string().into_bytes();
            (format!("{path}/{name}/status"), body)
        });
        Ok(Request {
            path,
            body: object.to_string().into_bytes(),
            status,
        })
    }

    async fn create(&self, prepared: &[Request]) -> Result<(), CaseError> {
        let client = self.client();
        for request in prepared {
            let created = client.request("POST", &request.path, JSON, JSON, request.body.clone());
            created.await.map_err(|error| failed("a POST", error))?;
            if let Some((path, body)) = &request.status {
                let patched = client.request("PATCH", path, MERGE_PATCH, JSON, body.clone());
                patched.await.map_err(|error| failed("a PATCH of a status", error))?;
            }
        }
        Ok(())
    }

    async fn watch(&self) -> Result<UnboundedReceiver<Sighting>, CaseError> {
        let list = self.clients[0].get("/api/v1/pods?limit=1").await;
        let list = list.map_err(|error| failed("the list of pods", error))?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let path = format!("/api/v1/pods?watch=true&resourceVersion={revision}&timeoutSeconds=3600");
        let stream = self.clients[0].stream(&path, JSON).await;
        let stream = stream.map_err(|error| failed("the watch", error))?;
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            let mut stream = Box::pin(stream);
            let mut seen = HashSet::new();
            let mut buffer: Vec<u8> = Vec::new();
            while let Some(Ok(part)) = stream.next().await {
                buffer.extend_from_slice(&part);
                let at = Instant::now();
                let mut from = 0;
                while let Some(length) = buffer[from..].iter().position(|byte| *byte == b'\n') {
                    let sighting = read_line(&buffer[from..from + length], at);
                    from += length + 1;
                    let Some(sighting) = sighting.filter(|s| seen.insert(s.pod.clone())) else {
                        continue;
                    };
                    // Nobody listens after the run.
                    if sender.send(sighting).is_err() {
                        return;
                    }
                }
                buffer.drain(..from);
            }
        });
        Ok(receiver)
    }

    fn notes(&self, wall: Duration) -> Vec<String> {
        let (user, system) = cpu_seconds(self.server_pid);
        let (user, system) = (user - self.cpu_before.0, system - self.cpu_before.1);
        let own = cpu_seconds(std::process::id());
        let own = own.0 + own.1 - self.own_before.0 - self.own_before.1;
        vec![format!(
            "over the whole run the node process took {user:.2} s user and {system:.2} s system, the clients {own:.2} s; the timed section \
             is {:.2} s",
            wall.as_secs_f64()
        )]
    }

    fn resident_bytes_max(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server_pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }
}

/// The binding that a line of a watch shows.
fn read_line(line: &[u8], at: Instant) -> Option<Sighting> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let object = &event["object"];
    let node = object["spec"]["nodeName"].as_str()?;
    let metadata = &object["metadata"];
    Some(Sighting {
        pod: format!("{}/{}", metadata["namespace"].as_str()?, metadata["name"].as_str()?),
        node: node.into(),
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bound_pods_are_sightings() {
        let at = Instant::now();
        let bound =
            br#"{"type":"MODIFIED","object":{"metadata":{"namespace":"a","name":"b"},"spec":{"nodeName":"n"}}}"#;
        let sighting = read_line(bound, at).unwrap();
        assert_eq!((&*sighting.pod, &*sighting.node), ("a/b", "n"));
        let pending = br#"{"type":"ADDED","object":{"metadata":{"namespace":"a","name":"b"},"spec":{}}}"#;
        assert!(read_line(pending, at).is_none());
        assert!(read_line(b"{", at).is_none());
    }
}
