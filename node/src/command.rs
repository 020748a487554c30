//! The command line of `actorium`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use config::NodeArguments;

use crate::clock::now;
use crate::{authority, reset, start};

/// A cluster orchestrator with the Kubernetes API, in one program.
#[derive(Parser)]
#[command(name = "actorium", version, about = "A cluster orchestrator in one program: its nodes, its shell, and the daily verbs", long_about = None)]
pub struct CommandLine {
    #[command(flatten)]
    connection: shell::Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this machine as a node of a cluster.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Manage the tokens by which machines join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Manage the images of this machine.
    #[command(subcommand)]
    Image(ImageCommand),
    #[command(flatten)]
    Client(shell::Command),
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Start the node process: with --join it joins a cluster, without it begins one. Runs in the foreground.
    Start(Box<NodeArguments>),
    /// Remove what a stopped node left on this machine: its pods, cgroups, network. Its data stay.
    Reset(DataDirectory),
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a join token and print it.
    Create {
        /// How long it admits, such as 30m, 24h, 7d; 0 for ever.
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Make the images of an OCI layout (a folder, or an archive of one) present on this machine.
    Import {
        /// The layout.
        path: PathBuf,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Print the images that are present.
    List(DataDirectory),
}

#[derive(Args)]
struct DataDirectory {
    /// The node's data directory.
    #[arg(
        long,
        env = "ACTORIUM_DATA_DIR",
        default_value = "/var/lib/actorium",
        value_name = "DIRECTORY"
    )]
    data_dir: PathBuf,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let line = CommandLine::parse();
    let outcome = match line.command {
        Command::Node(NodeCommand::Start(arguments)) => run_node(&arguments),
        Command::Node(NodeCommand::Reset(data)) => reset::reset(&data.data_dir),
        Command::Image(ImageCommand::Import { path, data }) => import(&path, &data.data_dir),
        Command::Image(ImageCommand::List(data)) => list_images(&data.data_dir),
        Command::Token(TokenCommand::Create { ttl, description }) => {
            block_on(create_token(&line.connection, &ttl, &description))
        }
        Command::Client(command) => block_on(async {
            shell::run(&line.connection, command)
                .await
                .map_err(|error| error.to_string())
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let message = if message.starts_with("Error from server") {
                message
            } else {
                format!("error: {message}")
            };
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .map_err(|error| format!("no threads for this process: {error}"))?
        .block_on(work)
}

/// Each client is a descriptor, and a thousand of them are few. What this node's pods get is the pod's parent's business.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it was: about a thousand clients at most");
    }
}

fn run_node(arguments: &NodeArguments) -> Result<(), String> {
    let config = config::node::load(arguments, &cluster::machine::facts()).map_err(|error| error.to_string())?;
    start_logging(&config.log)?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("no threads for this process: {error}"))?;
    runtime.block_on(async {
        let node = start::start(config).await.map_err(|error| error.to_string())?;
        let signal = stop_signal()
            .await
            .map_err(|error| format!("signals cannot be received: {error}"))?;
        tracing::info!(signal, "stopping; pods run on");
        node.stop().await;
        Ok(())
    })
}

/// One thread for each core, two at least, so that none waits for a slow disk alone.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

/// actix logs an error for every answer that ends early: a followed log whose pod is gone, a watch whose node is stopping, a
/// client that closed its connection. All three are ordinary, the client is told by the end of its stream, and the line
/// names neither the request nor the client.
const HTTP_LOG_DIRECTIVE: &str = "actix_http::h2=off";
/// The DNS server tells of every query twice, which drowns what the node has to say.
const DNS_LOG_DIRECTIVE: &str = "hickory_server=warn";

fn start_logging(directives: &str) -> Result<(), String> {
    // What the operator says comes last and wins.
    let all = format!(
        "{},{HTTP_LOG_DIRECTIVE},{DNS_LOG_DIRECTIVE},{directives}",
        consensus::LOG_DIRECTIVE
    );
    let filter =
        tracing_subscriber::EnvFilter::try_new(&all).map_err(|error| format!("--log {directives:?}: {error}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .init();
    Ok(())
}

async fn stop_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn import(path: &std::path::Path, data_dir: &std::path::Path) -> Result<(), String> {
    let store = runtime::images::ImageStore::open(data_dir).map_err(|error| error.to_string())?;
    for image in store.import(path).map_err(|error| error.to_string())? {
        println!("{} {} ({} KiB)", image.reference, image.digest, image.size_bytes / 1024);
    }
    Ok(())
}

fn list_images(data_dir: &std::path::Path) -> Result<(), String> {
    let store = runtime::images::ImageStore::open(data_dir).map_err(|error| error.to_string())?;
    let mut rows = vec![["IMAGE", "DIGEST", "SIZE"].map(str::to_owned).to_vec()];
    for image in store.list().map_err(|error| error.to_string())? {
        rows.push(vec![
            image.reference,
            image.digest,
            format!("{} KiB", image.size_bytes / 1024),
        ]);
    }
    print!("{}", shell::render::columns(&rows));
    Ok(())
}

/// A token is a Secret like any other; what pins the CA is in the kubeconfig.
async fn create_token(connection: &shell::Connection, ttl: &str, description: &str) -> Result<(), String> {
    let client = shell::client::Client::load(connection.kubeconfig.as_ref(), connection.context.as_deref())
        .map_err(|error| error.to_string())?;
    let authority = client
        .authority_pem()
        .ok_or("the kubeconfig names no certificate authority")?;
    let facts = cluster::identity::CertificateFacts::from_pem(&authority).map_err(|error| error.to_string())?;
    let token = cluster::join::new_token(cluster::identity::fingerprint(&facts.der.into()));
    let ttl_ms = ttl_ms(ttl)?;
    let expires_at = (ttl_ms > 0).then(|| now().plus_ms(ttl_ms));
    let record = cluster::join::TokenRecord::new(&token, expires_at, description);
    let body = authority::token_secret(&record).to_string().into_bytes();
    client
        .request(
            "POST",
            "/api/v1/namespaces/kube-system/secrets",
            "application/json",
            "application/json",
            body,
        )
        .await
        .map_err(|error| error.to_string())?;
    println!("{token}");
    Ok(())
}

fn ttl_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("--ttl {text:?}: a number with s, m, h or d, such as 24h, or 0 for ever");
    if text == "0" {
        return Ok(0);
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds * 1000).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_with_their_unit() {
        assert_eq!(ttl_ms("30m"), Ok(1_800_000));
        assert_eq!(ttl_ms("0"), Ok(0));
        for bad in ["", "h", "1", "1w", "-1h"] {
            assert!(ttl_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }
}
