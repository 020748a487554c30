//! The Debian packages that building, running and testing need, and how they come onto the machine.
//!
//! Every chore that needs them asks here first. Run by root it installs what is absent; run by anyone else it says which
//! command does. It must never install a package that starts a service: those are unpacked elsewhere (see `clients`).

use crate::command;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::process::Command;

/// What a package is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Compiling RocksDB and its bindings.
    Build,
    /// A node, and a network of nodes on one machine.
    Run,
    /// The clients and servers that tests drive.
    Test,
}

/// How it is known that a package, or another that serves as well, is there.
#[derive(Debug, Clone, Copy)]
enum Probe {
    /// A program on PATH.
    Program(&'static str),
    /// dpkg says that it is installed.
    Installed,
    /// `python3 -m pip` answers.
    Pip,
    /// `python3 -m venv` can put pip into what it makes; Debian has that apart from Python.
    Venv,
}

struct SystemPackage {
    name: &'static str,
    purpose: Purpose,
    probe: Probe,
}

const PACKAGES: [SystemPackage; 13] = [
    SystemPackage {
        name: "g++",
        purpose: Purpose::Build,
        probe: Probe::Program("c++"),
    },
    SystemPackage {
        name: "libc6-dev",
        purpose: Purpose::Build,
        probe: Probe::Installed,
    },
    SystemPackage {
        name: "libclang-dev",
        purpose: Purpose::Build,
        probe: Probe::Installed,
    },
    SystemPackage {
        name: "ccache",
        purpose: Purpose::Build,
        probe: Probe::Program("ccache"),
    },
    SystemPackage {
        name: "iproute2",
        purpose: Purpose::Run,
        probe: Probe::Program("ip"),
    },
    SystemPackage {
        name: "nftables",
        purpose: Purpose::Run,
        probe: Probe::Program("nft"),
    },
    SystemPackage {
        name: "python3",
        purpose: Purpose::Test,
        probe: Probe::Program("python3"),
    },
    SystemPackage {
        name: "python3-pip",
        purpose: Purpose::Test,
        probe: Probe::Pip,
    },
    SystemPackage {
        name: "python3-venv",
        purpose: Purpose::Test,
        probe: Probe::Venv,
    },
    SystemPackage {
        name: "nodejs",
        purpose: Purpose::Test,
        probe: Probe::Program("node"),
    },
    SystemPackage {
        name: "npm",
        purpose: Purpose::Test,
        probe: Probe::Program("npm"),
    },
    SystemPackage {
        name: "ca-certificates",
        purpose: Purpose::Test,
        probe: Probe::Installed,
    },
    SystemPackage {
        name: "git",
        purpose: Purpose::Test,
        probe: Probe::Program("git"),
    },
];

/// Makes sure of the packages for these purposes.
pub fn ensure(purposes: &[Purpose]) -> Result<()> {
    let wanted: Vec<&SystemPackage> = PACKAGES
        .iter()
        .filter(|package| purposes.contains(&package.purpose))
        .collect();
    let installed = installed_packages()?;
    let absent: Vec<&str> = wanted
        .iter()
        .filter(|package| !is_there(package, &installed))
        .map(|package| package.name)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "packages are missing; install them with\n  {}",
            install_command_line(&absent)
        );
    }
    println!("installing {}", absent.join(" "));
    update_lists()?;
    command::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&absent),
    )
}

/// Asks the archive for its newest lists. Needs root.
pub fn update_lists() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lists of packages are absent or old; renew them with\n  sudo apt-get update");
    }
    command::output(Command::new("apt-get").args(["update", "-q"])).map(drop)
}

fn install_command_line(absent: &[&str]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
        absent.join(" ")
    )
}

fn is_there(package: &SystemPackage, installed: &BTreeSet<String>) -> bool {
    match package.probe {
        Probe::Program(program) => command::find_program(program).is_some(),
        Probe::Installed => installed.contains(package.name),
        Probe::Pip => command::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok(),
        Probe::Venv => command::output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok(),
    }
}

fn installed_packages() -> Result<BTreeSet<String>> {
    let listed = command::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}\t${Package}\n"]))
        .context("the set-up knows Debian and Ubuntu only; README.md lists what to install elsewhere")?;
    Ok(parse_installed(&listed))
}

/// Lines `ii <tab> name`; a package that was removed and left its configuration is not installed.
fn parse_installed(listed: &str) -> BTreeSet<String> {
    listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(status, _)| status.starts_with("ii"))
        .map(|(_, name)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_was_removed_is_not_installed() {
        let installed = parse_installed("ii \tlibc6-dev\nrc \tg++\n");
        assert!(installed.contains("libc6-dev"));
        assert!(!installed.contains("g++"));
    }

    #[test]
    fn who_is_not_root_is_told_the_whole_command() {
        assert!(install_command_line(&["g++", "ccache"]).ends_with("--no-install-recommends g++ ccache"));
    }

    #[test]
    fn every_package_is_listed_once() {
        let names: BTreeSet<_> = PACKAGES.iter().map(|package| package.name).collect();
        assert_eq!(names.len(), PACKAGES.len());
    }
}
