//! Set-up and chores of the project: `cargo xtask up`, `down`, `test`, `lint`, `tidy`, `images`, `registry`.
//!
//! Owns how a machine is prepared, how the example cluster is started and removed, and the checks that a compiler does
//! not make. People and `.ci/run` call it. It must never depend on a crate of ours (it has to be there before they are
//! built, and must work when they do not compile), and must never touch a process, namespace or file that it did not
//! record as its own.
#![allow(clippy::disallowed_methods)] // Chores wait for real processes and print real durations.

mod cgroups;
mod clients;
mod command;
mod down;
mod failures;
mod images;
mod lint;
mod netns;
mod process;
mod registry;
mod run_record;
mod suites;
mod system_packages;
mod tidy;
mod up;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What `cargo xtask` is asked to do.
#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up and chores of Actorium", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Start a three-node cluster on this machine and deploy the example.
    Up {
        /// Use this `actorium` binary instead of building one.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// Start the nodes only; do not deploy the example.
        #[arg(long)]
        bare: bool,
    },
    /// Stop the cluster that `up` started and check that nothing of it is left.
    Down {
        /// Use this `actorium` binary for the clean-up instead of the one that `up` started.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Run the tests: all of them, or one suite.
    Test(suites::TestArguments),
    /// Formatting, clippy with warnings denied, licences and advisories, tidy.
    Lint,
    /// The rules of the house that the compiler does not check.
    Tidy,
    /// Build the images of the example as OCI layouts.
    Images {
        /// Build them again even when they are up to date.
        #[arg(long)]
        force: bool,
        /// Run each image's own check in a chroot (needs root).
        #[arg(long)]
        check: bool,
    },
    /// Serve the example's images from a registry until interrupted; prints `registry ADDRESS` when it can be pulled from.
    Registry {
        /// Address to listen on, such as one in a namespace of a test's own.
        #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
        address: Ipv4Addr,
        /// Port to listen on; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Directory with the OCI layouts; the default is where `cargo xtask images` puts them.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

fn main() {
    if let Err(error) = run(Cli::parse().chore) {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}

fn run(chore: Chore) -> Result<()> {
    let workspace = workspace::Workspace::load()?;
    match chore {
        Chore::Up { binary, bare } => up::run(&workspace, binary, bare),
        Chore::Down { binary } => down::run(&workspace, binary),
        Chore::Test(arguments) => suites::run(&workspace, &arguments),
        Chore::Lint => lint::run(&workspace),
        Chore::Tidy => tidy::run(&workspace),
        Chore::Images { force, check } => images::run(&workspace, force, check).map(drop),
        Chore::Registry { address, port, dir } => registry::run(&workspace, address, port, dir),
    }
}
