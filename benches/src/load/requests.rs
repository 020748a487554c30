//! Owns the loads of single requests: creates and gets by clients that each ask again as soon as they are answered, over a
//! connection of their own (HTTP/1.1) or in shares of a few (HTTP/2). Called by `api_load`. It must not ask for the same name in a create twice.

use super::measurement::Measurement;
use super::{ACCEPT, JSON, LoadError, NAMESPACE, Target, Via, connect, expect, expect_code};
use ::tests::http2::Http2;
use ::tests::https::{Connection, Endpoint};
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

/// What a client asks.
struct Request {
    method: &'static str,
    path: String,
    body: String,
}

/// Who asks, how many at once, and over what.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// How many ask at the same time.
    pub count: usize,
    /// How many connections they share, to each node, by HTTP/2; zero gives each one of its own, by HTTP/1.1.
    pub connections: usize,
    /// How many requests each sends before it reads the answers, where it has a connection of its own.
    pub pipelined: usize,
}

impl Clients {
    /// In words.
    fn over(self) -> String {
        match self.connections {
            0 if self.pipelined > 1 => format!(", {} requests at once on each connection", self.pipelined),
            0 => String::new(),
            1 => ", one HTTP/2 connection a node".to_owned(),
            several => format!(", {several} HTTP/2 connections a node"),
        }
    }
}

/// A client's way to its node.
enum Way {
    Own(Endpoint, Box<Connection>),
    Shared(Http2),
}

impl Way {
    /// Sends requests together and tells each answer as it comes: its status and body.
    async fn ask(
        &mut self,
        asked: Vec<Request>,
        mut answered: impl FnMut(u16, &[u8]) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        match self {
            Way::Own(endpoint, connection) => {
                let mut bytes = Vec::new();
                for request in &asked {
                    let headers = if request.body.is_empty() { ACCEPT } else { JSON };
                    bytes.extend(endpoint.request(request.method, &request.path, headers, request.body.as_bytes()));
                }
                connection.send(&bytes).await?;
                for _ in &asked {
                    let answer = connection.answer().await?;
                    answered(answer.head.code, &answer.body)?;
                }
            }
            Way::Shared(connection) => {
                for request in asked {
                    let method = request.method.parse().expect("a method's name");
                    let (code, body) = connection.ask(method, &request.path, request.body.into()).await?;
                    answered(code, &body)?;
                }
            }
        }
        Ok(())
    }
}

/// The ways of all clients.
async fn ways(target: &Target, via: Via, clients: Clients) -> Result<Vec<Way>, LoadError> {
    let mut ways = Vec::new();
    if clients.connections == 0 {
        for client in 0..clients.count {
            let endpoint = target.endpoint(via, client).clone();
            ways.push(Way::Own(endpoint, Box::new(connect(target, via, client).await?)));
        }
        return Ok(ways);
    }
    let nodes = if via == Via::All { target.nodes() } else { 1 };
    let mut shared = Vec::new();
    for number in 0..nodes * clients.connections {
        shared.push(Http2::connect(target.endpoint(via, number)).await?);
    }
    ways.extend((0..clients.count).map(|client| Way::Shared(shared[client % shared.len()].clone())));
    Ok(ways)
}

/// Lets each client ask until the time is over. `request` makes the bytes of a client's request by its number.
async fn keep_asking(
    target: &Arc<Target>,
    via: Via,
    clients: Clients,
    duration: Duration,
    expected: u16,
    request: impl Fn(usize, u64) -> Request + Send + Sync + 'static,
) -> Result<(Seen, f64), LoadError> {
    let ways = ways(target, via, clients).await?;
    let at_once = clients.pipelined.max(1) as u64;
    let request = Arc::new(request);
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (client, mut way) in ways.into_iter().enumerate() {
        let request = Arc::clone(&request);
        tasks.push(tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut number = 0;
            while begun.elapsed() < duration {
                let requests = (number..number + at_once)
                    .map(|number| request(client, number))
                    .collect();
                number += at_once;
                let asked = Instant::now();
                way.ask(requests, |code, body| {
                    seen.latencies_ms.push(asked.elapsed().as_secs_f64() * 1e3);
                    seen.bytes += body.len() as u64;
                    expect_code(expected, "a request", code, body)
                })
                .await?;
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
    clients: Clients,
    duration: Duration,
    round: usize,
) -> Result<Measurement, LoadError> {
    let before = target.cpu();
    let path = kind.path();
    let request = move |client, number| Request {
        method: "POST",
        path: path.clone(),
        body: kind.object(&format!("r{round}-c{client}-{number}")),
    };
    let (seen, seconds) = keep_asking(target, via, clients, duration, 201, request).await?;
    let what = format!("create {} through {}{}", kind.plural(), via.name(), clients.over());
    Ok(closed(
        target,
        before,
        Measurement::of(what, clients.count, seen.latencies_ms, seconds, seen.bytes),
    ))
}

/// Gets objects by name, of `names` that are made before.
pub async fn gets(
    target: &Arc<Target>,
    via: Via,
    clients: Clients,
    duration: Duration,
    names: usize,
) -> Result<Measurement, LoadError> {
    let path = Kind::ConfigMap.path();
    let before = target.cpu();
    // Each client walks through the names with a stride of its own.
    let request = move |client: usize, number: u64| Request {
        method: "GET",
        path: format!("{path}/get-{}", (client * 7919 + number as usize) % names),
        body: String::new(),
    };
    let (seen, seconds) = keep_asking(target, via, clients, duration, 200, request).await?;
    let what = format!("get configmaps through {}{}", via.name(), clients.over());
    Ok(closed(
        target,
        before,
        Measurement::of(what, clients.count, seen.latencies_ms, seconds, seen.bytes),
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
