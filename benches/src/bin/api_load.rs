//! Load on the API: starts a cluster of real node processes and measures creates, gets, lists and watches over HTTPS. Called by
//! people. It must end with failure when an answer was not as expected.

#![allow(clippy::disallowed_methods)] // a report carries its date

use benches::load::measurement::{Measurement, markdown};
use benches::load::requests::{Clients, Kind, creates, fill, gets};
use benches::load::watching::{Writes, watches};
use benches::load::{LoadError, Target, Via, listing};
use benches::report;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Measures the API of a cluster of real node processes on this machine. Needs root, and the program built with
/// `cargo build --release -p node` (or named in ACTORIUM_BIN).
#[derive(Parser)]
#[command(name = "api_load", version)]
struct Arguments {
    /// Nodes of the cluster; the first three are voters.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Clients that create and get, each one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// How many HTTP/2 connections to each node these clients share, as the parts of one program do. Zero gives each client an
    /// HTTP/1.1 connection of its own.
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// How many requests a client sends before it reads the answers (HTTP/1.1 pipelining). It shows what the server does when the
    /// kernel's share of each request is small.
    #[arg(long, default_value_t = 1, conflicts_with = "connections", value_parser = clap::value_parser!(u16).range(1..=64))]
    pipelined: u16,
    /// How long each of the loads `creates` and `gets` lasts.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Watchers of one kind.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Writes whose events the watchers must see, in each of the two watch loads.
    #[arg(long, default_value_t = 1000)]
    watched_writes: u64,
    /// Writes a second in the paced watch load.
    #[arg(long, default_value_t = 20)]
    watched_rate: u64,
    /// Pods that are listed.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// How often they are listed.
    #[arg(long, default_value_t = 20)]
    lists: usize,
    /// Threads of the clients.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only these loads.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Load>,
    /// Writes the measurements as JSON, a list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as Markdown too; it is printed in any case.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Load {
    Creates,
    Pods,
    Gets,
    Lists,
    Watches,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api_load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    raise_open_files()?;
    let target = Arc::new(Target::start(usize::from(arguments.nodes))?);
    eprintln!("the leader is process {}", target.leader_pid());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads.max(1))
        .enable_all()
        .build()?;
    let measurements = runtime.block_on(measure(&target, arguments))?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p benches --bin api_load -- {}", words.join(" "));
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let text = markdown(&measurements, &report::machine(), &today, command.trim_end());
    print!("{text}");
    let failed = |path: &PathBuf, error: std::io::Error| format!("{} cannot be written: {error}", path.display());
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, &text).map_err(|error| failed(path, error))?;
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&measurements)?;
        std::fs::write(path, text).map_err(|error| failed(path, error))?;
    }
    Ok(())
}

async fn measure(target: &Arc<Target>, arguments: &Arguments) -> Result<Vec<Measurement>, LoadError> {
    let wanted = |load| arguments.only.is_empty() || arguments.only.contains(&load);
    let clients = Clients {
        count: usize::from(arguments.clients),
        connections: arguments.connections,
        pipelined: usize::from(arguments.pipelined),
    };
    let duration = Duration::from_secs(arguments.seconds);
    let vias: &[Via] = if target.nodes() > 1 {
        &[Via::Leader, Via::All]
    } else {
        &[Via::Leader]
    };
    let mut done = Vec::new();
    let mut say = |measurement: Measurement| {
        eprintln!(
            "{}: {:.0} a second, {:?} ms",
            measurement.what, measurement.per_second, measurement.latency_ms
        );
        done.push(measurement);
    };
    target.prepare().await?;
    if wanted(Load::Gets) {
        const NAMES: usize = 1000;
        fill(target, Kind::ConfigMap, "get", NAMES, clients.count).await?;
        for via in vias {
            say(gets(target, *via, clients, duration, NAMES).await?);
        }
    }
    if wanted(Load::Watches) && arguments.watchers > 0 {
        let count = arguments.watched_writes;
        let mut round = 0;
        for via in vias {
            for per_second in [arguments.watched_rate, 0] {
                round += 1;
                say(watches(target, *via, arguments.watchers, Writes { count, per_second }, round).await?);
            }
        }
    }
    if wanted(Load::Lists) && arguments.pods > 0 {
        fill(target, Kind::Pod, "list", arguments.pods, clients.count).await?;
        let leader = target.endpoint(Via::Leader, 0);
        say(listing::lists(target, leader, "the leader", arguments.pods, arguments.lists).await?);
        if target.nodes() > 1 {
            let follower = target.follower();
            say(listing::lists(target, follower, "a follower", arguments.pods, arguments.lists).await?);
        }
    }
    for (load, kind) in [(Load::Creates, Kind::ConfigMap), (Load::Pods, Kind::Pod)] {
        if wanted(load) {
            for (round, via) in vias.iter().enumerate() {
                say(creates(target, kind, *via, clients, duration, round).await?);
            }
        }
    }
    Ok(done)
}

/// A thousand watchers are a thousand sockets, here and in the node process, which takes the limit over.
fn raise_open_files() -> Result<(), Failure> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
