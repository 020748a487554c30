//! `cargo xtask lint`: formatting, clippy with warnings denied, what may be linked, and tidy.
//!
//! `.ci/run` calls it before the tests. All four run even when one fails, so that one run shows everything.

use crate::system_packages::{self, Purpose};
use crate::workspace::{Workspace, cargo_command};
use crate::{command, tidy};
use anyhow::{Result, bail};
use std::process::Command;

/// The release line of cargo-deny for which `deny.toml` is written.
const CARGO_DENY_VERSION: &str = "^0.20";

/// Runs all checks.
pub fn run(workspace: &Workspace) -> Result<()> {
    system_packages::ensure(&[Purpose::Build])?;
    type Check = fn(&Workspace) -> Result<()>;
    let checks: [(&str, Check); 4] = [
        ("tidy", tidy::run),
        ("format", format),
        ("deny", deny),
        ("clippy", clippy),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("lint: {name}");
        if let Err(error) = check(workspace) {
            eprintln!("error: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    println!("lint: all passed");
    Ok(())
}

fn format(workspace: &Workspace) -> Result<()> {
    command::run(cargo_command(workspace)?.args(["fmt", "--all", "--check"]))
}

/// The release profile, because it is the only one for which RocksDB is compiled.
fn clippy(workspace: &Workspace) -> Result<()> {
    let mut clippy = cargo_command(workspace)?;
    command::run(clippy.args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// Licences, bans and sources always. Advisories need their database, which a machine without access to it cannot get.
fn deny(workspace: &Workspace) -> Result<()> {
    if command::find_program("cargo-deny").is_none() {
        println!("installing cargo-deny (once per machine; it takes some minutes)");
        let mut install = cargo_command(workspace)?;
        install.env("CARGO_TARGET_DIR", workspace.target.join("tools"));
        command::run(install.args([
            "install",
            "cargo-deny",
            "--locked",
            "--quiet",
            "--version",
            CARGO_DENY_VERSION,
        ]))?;
    }
    let check = |what: &[&str]| -> Result<()> {
        let mut deny = cargo_command(workspace)?;
        deny.args(["deny", "--log-level", "error", "check", "--hide-inclusion-graph"])
            .args(what);
        command::run(&mut deny)
    };
    check(&["bans", "licenses", "sources"])?;
    let database = command::capture(Command::new("timeout").env("GIT_TERMINAL_PROMPT", "0").args([
        "20",
        "git",
        "ls-remote",
        "--heads",
        "https://github.com/RustSec/advisory-db",
    ]))?;
    if !database.status.success() {
        println!("advisories: not checked, their database cannot be reached from here");
        return Ok(());
    }
    check(&["advisories"])
}
