//! Owns the loads of single requests: creates and gets over connections that are kept alive, each asking again as soon as it is
//! answered. Called by `api_load`. It must not ask for the same name in a create twice.

use super::measurement::Measurement;
use super::{ACCEPT, JSON, LoadError, NAMESPACE, Target, Via, connect, expect};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ConfigMap with a value of 200 bytes.
    ConfigMap,
    /// A pod that no scheduler looks at.
    Pod,
}

impl Kind {
    /// As it stands in a path.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmaps",
            Kind::Pod => "pods",
        }
    }

    /// The collection of this kind.
    pub fn path(self) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/{}", self.plural())
    }

    /// An object.
    pub fn object(self, name: &str) -> String {
        match self {
            Kind::ConfigMap => format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"value":"{:x<200}"}}}}"#,
                ""
            ),
            Kind::Pod => super::listing::pod(name),
        }
    }
}

/// What one client saw: milliseconds of each answer, and bytes of bodies.
#[derive(Default)]
struct Seen {
    latencies_ms: Vec<f64>,
    bytes: u64,
}

/// Lets each client ask until the time is over. `request` makes the bytes of a client's request by its number.
async fn keep_asking(
    target: &Arc<Target>,
    via: Via,
    clients: usize,
    duration: Duration,
    expected: u16,
    request: impl Fn(usize, u64) -> Vec<u8> + Send + Sync + 'static,
) -> Result<(Seen, f64), LoadError> {
    let mut connections = Vec::new();
    for client in 0..clients {
        connections.push(connect(target, via, client).await?);
    }
    let request = Arc::new(request);
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        let request = Arc::clone(&request);
        tasks.push(tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut number = 0;
            while begun.elapsed() < duration {
                let bytes = request(client, number);
                number += 1;
                let asked = Instant::now();
                let answer = connection.ask(&bytes).await?;
                seen.latencies_ms.push(asked.elapsed().as_secs_f64() * 1e3);
                seen.bytes += answer.body.len() as u64;
                expect(expected, "a request", &answer)?;
            }
            Ok::<Seen, LoadError>(seen)
        }));
    }
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await.map_err(|error| LoadError::Cluster(error.to_string()))??;
        all.latencies_ms.extend(seen.latencies_ms);
        all.bytes += seen.bytes;
    }
    Ok((all, begun.elapsed().as_secs_f64()))
}

/// Creates objects, each answered when a majority has it on disk. `round` keeps names of several runs apart.
pub async fn creates(
    target: &Arc<Target>,
    kind: Kind,
    via: Via,
    clients: usize,
    duration: Duration,
    round: usize,
) -> Result<Measurement, LoadError> {
    let before = target.cpu();
    let (endpoint, path) = (target.endpoint(Via::Leader, 0).clone(), kind.path());
    let request = move |client, number| {
        let object = kind.object(&format!("r{round}-c{client}-{number}"));
        endpoint.request("POST", &path, JSON, object.as_bytes())
    };
    let (seen, seconds) = keep_asking(target, via, clients, duration, 201, request).await?;
    let what = format!("create {} through {}", kind.plural(), via.name());
    Ok(closed(
        target,
        before,
        Measurement::of(what, clients, seen.latencies_ms, seconds, seen.bytes),
    ))
}

/// Gets objects by name, of `names` that are made before.
pub async fn gets(
    target: &Arc<Target>,
    via: Via,
    clients: usize,
    duration: Duration,
    names: usize,
) -> Result<Measurement, LoadError> {
    let path = Kind::ConfigMap.path();
    let before = target.cpu();
    let requests: Vec<Vec<u8>> = (0..names)
        .map(|number| {
            let endpoint = target.endpoint(Via::Leader, 0);
            endpoint.request("GET", &format!("{path}/get-{number}"), ACCEPT, b"")
        })
        .collect();
    // Each client walks through the names with a stride of its own.
    let request =
        move |client: usize, number: u64| requests[(client * 7919 + number as usize) % requests.len()].clone();
    let (seen, seconds) = keep_asking(target, via, clients, duration, 200, request).await?;
    let what = format!("get configmaps through {}", via.name());
    Ok(closed(
        target,
        before,
        Measurement::of(what, clients, seen.latencies_ms, seconds, seen.bytes),
    ))
}

/// Makes what `gets` asks for, and `listing` lists: so many objects of a kind, by so many clients.
pub async fn fill(
    target: &Arc<Target>,
    kind: Kind,
    prefix: &'static str,
    count: usize,
    clients: usize,
) -> Result<(), LoadError> {
    let mut tasks = Vec::new();
    for client in 0..clients {
        let target = Arc::clone(target);
        tasks.push(tokio::spawn(async move {
            let mut connection = connect(&target, Via::Leader, client).await?;
            for number in (client..count).step_by(clients) {
                let object = kind.object(&format!("{prefix}-{number}"));
                let endpoint = target.endpoint(Via::Leader, 0);
                let answer = connection
                    .ask(&endpoint.request("POST", &kind.path(), JSON, object.as_bytes()))
                    .await?;
                expect(201, "a create", &answer)?;
            }
            Ok::<(), LoadError>(())
        }));
    }
    for task in tasks {
        task.await.map_err(|error| LoadError::Cluster(error.to_string()))??;
    }
    Ok(())
}

/// With the processor time since then, and the memory now.
pub fn closed(target: &Target, before: super::measurement::Cpu, measurement: Measurement) -> Measurement {
    Measurement {
        cpu: target.cpu() - before,
        leader_rss_bytes: target.leader_rss_bytes(),
        ..measurement
    }
}
