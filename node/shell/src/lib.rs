//! The message-based shell and the daily verbs, clients of the API like any other: they hold no privilege and no state.
//!
//! `sentence` reads a line of the shell, `interactive` says it to the actors, `render` and `describe` print; `verbs` are
//! get, describe, apply, delete and logs; `client` speaks HTTPS. The binary `actorium` embeds `Command`.

// An acting crate: it talks to a server and a terminal.
#![allow(clippy::disallowed_methods)]

pub mod client;
pub mod describe;
pub mod interactive;
pub mod render;
pub mod resource;
pub mod sentence;
pub mod verbs;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use client::{Client, ClientError};
use interactive::Output;

/// Which cluster a command speaks to.
#[derive(Args, Clone, Debug, Default)]
pub struct Connection {
    /// The kubeconfig [default: $KUBECONFIG, else ~/.kube/config].
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it [default: its current one].
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

/// The commands of a client.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Talk to the actors of the cluster: ls, tree, ask, tell, stats, kill, members, leader.
    Shell(Shell),
    /// Print objects.
    Get(verbs::Get),
    /// Print an object in full, with its events.
    Describe(verbs::Describe),
    /// Make objects as the files say (server-side apply).
    Apply(verbs::Apply),
    /// Delete objects.
    Delete(verbs::Delete),
    /// Print what a container writes.
    Logs(verbs::Logs),
}

/// `shell`.
#[derive(Args, Clone, Debug)]
pub struct Shell {
    /// Say this line and leave; may be repeated.
    #[arg(short = 'c', long = "command", value_name = "LINE")]
    pub lines: Vec<String>,
    /// How answers are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ShellOutput,
}

/// How the shell prints answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShellOutput {
    /// For people.
    Text,
    /// JSON, a line each.
    Json,
}

/// Runs a command.
pub async fn run(connection: &Connection, command: Command) -> Result<(), ClientError> {
    let client = Client::load(connection.kubeconfig.as_ref(), connection.context.as_deref())?;
    match command {
        Command::Shell(shell) => {
            let output = if shell.output == ShellOutput::Json {
                Output::Json
            } else {
                Output::Text
            };
            if shell.lines.is_empty() {
                return interactive::run(client, output).await;
            }
            let mut here = "/".to_owned();
            for line in &shell.lines {
                if !interactive::say(&client, line, &mut here, output).await? {
                    break;
                }
            }
            Ok(())
        }
        Command::Get(get) => verbs::get(&client, &get).await,
        Command::Describe(describe) => verbs::describe_objects(&client, &describe).await,
        Command::Apply(apply) => verbs::apply(&client, &apply).await,
        Command::Delete(delete) => verbs::delete(&client, &delete).await,
        Command::Logs(logs) => verbs::logs(&client, &logs).await,
    }
}
