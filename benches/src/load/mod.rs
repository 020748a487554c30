//! Owns load on the API: a cluster of real node processes in network namespaces of their own (as the end-to-end tests have it,
//! fsync on), and clients over HTTPS that create, get, list and watch as fast as they are answered. Called by `api_load`. It must
//! count only what was answered in full and as expected, and fail at the first answer that is not.

#![allow(clippy::disallowed_methods)] // it measures a system that runs in real time

pub mod listing;
pub mod measurement;
pub mod requests;
pub mod watching;

use crate::run::live::{api, cpu_seconds};
use ::tests::cluster::{Cluster, NodeOptions};
use ::tests::https::{Connection, Endpoint, HttpsError};
use measurement::Cpu;
use serde_json::{Value, json};

/// The namespace of everything that is made.
pub const NAMESPACE: &str = "load";

/// The headers of a request with a body.
pub const JSON: &[(&str, &str)] = &[("Content-Type", "application/json"), ("Accept", "application/json")];

/// The headers of a request without one.
pub const ACCEPT: &[(&str, &str)] = &[("Accept", "application/json")];

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The cluster does not stand.
    #[error("the cluster: {0}")]
    Cluster(String),
    /// A request failed on its way.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// An answer that was not expected.
    #[error("{what} was answered with {code}: {body}")]
    Refused {
        /// What was asked.
        what: String,
        /// The status.
        code: u16,
        /// The body.
        body: String,
    },
    /// Events did not come.
    #[error("{missing} of {expected} events did not come within {seconds} s after the last write")]
    Missing {
        /// How many did not come.
        missing: u64,
        /// Of how many.
        expected: u64,
        /// How long was waited.
        seconds: u64,
    },
}

/// Which nodes clients speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The one that leads.
    Leader,
    /// All, in turn.
    All,
}

impl Via {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Via::Leader => "the leader",
            Via::All => "all nodes",
        }
    }
}

/// A cluster under load.
pub struct Target {
    cluster: Cluster,
    endpoints: Vec<Endpoint>,
    leader: usize,
}

impl Target {
    /// Starts a cluster whose nodes take no pods, and makes the namespace.
    pub fn start(nodes: usize) -> Result<Target, LoadError> {
        let program = api::binary().map_err(|error| LoadError::Cluster(error.to_string()))?;
        // SAFETY: no other thread has been started in this process.
        unsafe { std::env::set_var("ACTORIUM_BIN", program) };
        let mut cluster = Cluster::empty(1);
        for _ in 0..nodes {
            cluster.add(NodeOptions::default());
        }
        let mut endpoints = Vec::new();
        for index in 0..nodes {
            endpoints.push(Endpoint::load(&cluster.kubeconfig(index))?);
        }
        let leader = cluster.leader();
        Ok(Target {
            cluster,
            endpoints,
            leader,
        })
    }

    /// Makes the namespace of what follows.
    pub async fn prepare(&self) -> Result<(), LoadError> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        self.create("/api/v1/namespaces", &namespace).await
    }

    /// The endpoint of the client with this number.
    pub fn endpoint(&self, via: Via, client: usize) -> &Endpoint {
        match via {
            Via::Leader => &self.endpoints[self.leader],
            Via::All => &self.endpoints[client % self.endpoints.len()],
        }
    }

    /// An endpoint that does not lead; the leader's in a cluster of one.
    pub fn follower(&self) -> &Endpoint {
        let other = (0..self.endpoints.len()).find(|index| *index != self.leader);
        &self.endpoints[other.unwrap_or(self.leader)]
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.endpoints.len()
    }

    /// Creates one object.
    pub async fn create(&self, path: &str, object: &Value) -> Result<(), LoadError> {
        let body = object.to_string();
        let answer = self.endpoints[self.leader]
            .once("POST", path, JSON, body.as_bytes())
            .await?;
        expect(201, path, &answer)
    }

    /// Processor time so far: of each node process, and of this one.
    pub fn cpu(&self) -> Cpu {
        let of = |pid| {
            let (user, system) = cpu_seconds(pid);
            user + system
        };
        Cpu {
            leader_s: of(self.cluster.pid(self.leader)),
            others_s: (0..self.nodes())
                .filter(|index| *index != self.leader)
                .map(|index| of(self.cluster.pid(index)))
                .sum(),
            clients_s: of(std::process::id()),
        }
    }

    /// The resident memory of the leader's process at present, in bytes.
    pub fn leader_rss_bytes(&self) -> u64 {
        ::tests::cluster::resident_bytes(self.cluster.pid(self.leader))
    }

    /// The leader's process.
    pub fn leader_pid(&self) -> u32 {
        self.cluster.pid(self.leader)
    }
}

/// An answer's code must be the one expected.
pub fn expect(code: u16, what: &str, answer: &::tests::https::Answer) -> Result<(), LoadError> {
    expect_code(code, what, answer.head.code, &answer.body)
}

/// The same of an answer's parts.
pub fn expect_code(expected: u16, what: &str, code: u16, body: &[u8]) -> Result<(), LoadError> {
    if code == expected {
        return Ok(());
    }
    Err(LoadError::Refused {
        what: what.to_owned(),
        code,
        body: String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(),
    })
}

/// A connection to the node of a client.
pub async fn connect(target: &Target, via: Via, client: usize) -> Result<Connection, LoadError> {
    Ok(target.endpoint(via, client).connect().await?)
}
