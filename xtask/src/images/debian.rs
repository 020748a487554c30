//! Debian packages: what a package needs, and its files in a cache.
//!
//! The image builder calls it. Packages are downloaded, checked by apt against its signed lists, and never installed:
//! installing Redis would start a daemon. Which dependency is taken is a pure function of apt's answer.

use crate::command;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages, with everything they depend on, in the order of their names. What is in `without` is left out, and
/// with it what only it needs.
pub fn closure(packages: &[String], without: &[String]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut wave: BTreeSet<String> = packages.iter().cloned().collect();
    while !wave.is_empty() {
        let answer = command::output(
            Command::new("apt-cache")
                .env("LC_ALL", "C")
                .args([
                    "depends",
                    "--no-recommends",
                    "--no-suggests",
                    "--no-conflicts",
                    "--no-breaks",
                    "--no-replaces",
                ])
                .arg("--no-enhances")
                .args(&wave),
        )?;
        found.append(&mut wave);
        for dependency in dependencies(&answer) {
            if !found.contains(&dependency) && !without.contains(&dependency) {
                wave.insert(dependency);
            }
        }
    }
    Ok(found)
}

/// The dependencies in the answer of `apt-cache depends`. Of alternatives (marked `|`) the first is taken, as apt does,
/// and for a virtual package (`<in brackets>`) the first that provides it.
fn dependencies(answer: &str) -> Vec<String> {
    let mut chosen = Vec::new();
    let mut in_alternatives = false;
    let mut wants_provider = false;
    for line in answer.lines() {
        let Some((marker, name)) = line.split_once("Depends: ") else {
            // A deeper line names a package that provides the one above it.
            if wants_provider && line.starts_with("    ") {
                chosen.push(line.trim().to_owned());
            }
            wants_provider = false;
            continue;
        };
        wants_provider = false;
        if !in_alternatives {
            if name.starts_with('<') {
                wants_provider = true;
            } else {
                chosen.push(name.trim().to_owned());
            }
        }
        in_alternatives = marker.trim_start().starts_with('|');
    }
    chosen
}

/// Downloads the packages that the cache does not hold, and returns the file of each.
pub fn download(packages: &BTreeSet<String>, cache: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let apt = |place: &Path, arguments: &[&str], packages: &mut dyn Iterator<Item = &String>| {
        let mut command = Command::new("apt-get");
        // apt's own unprivileged user cannot write into the cache.
        command
            .current_dir(place)
            .env("LC_ALL", "C")
            .args(["-o", "APT::Sandbox::User=root"]);
        command.args(arguments).arg("download").args(packages);
        command::output(&mut command)
    };
    // Asked from the root directory: apt leaves out the files that it finds where it runs.
    let listed = expected_files(&apt(Path::new("/"), &["--print-uris"], &mut packages.iter())?);
    let absent: Vec<&String> = packages
        .iter()
        .filter(|package| match listed.get(*package) {
            Some((file, bytes)) => cache
                .join(file)
                .metadata()
                .map_or(true, |metadata| metadata.len() != *bytes),
            None => true,
        })
        .collect();
    if !absent.is_empty() {
        apt(cache, &["-q"], &mut absent.into_iter())?;
    }
    packages
        .iter()
        .map(|package| {
            let Some((name, _)) = listed.get(package) else {
                bail!("apt names no file for the package {package}")
            };
            let path = cache.join(name);
            if !path.is_file() {
                bail!("apt-get downloaded {package}, but {} is not there", path.display());
            }
            Ok(path)
        })
        .collect()
}

/// From the lines `'URI' file bytes checksum`: package name to file and bytes.
fn expected_files(answer: &str) -> BTreeMap<String, (String, u64)> {
    answer
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (file, bytes) = (words.next()?, words.next()?.parse().ok()?);
            Some((file.split_once('_')?.0.to_owned(), (file.to_owned(), bytes)))
        })
        .collect()
}

/// Debian's name of this machine's architecture, which OCI uses too for the ones that we build for.
pub fn architecture() -> Result<String> {
    Ok(command::output(Command::new("dpkg").arg("--print-architecture"))?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_alternatives_the_first_is_taken_and_of_a_virtual_package_its_first_provider() {
        let answer = "redis-server\n  PreDepends: init-system-helpers\n  Depends: lsb-base\n    sysvinit-utils\n\
                      \x20|Depends: media-types\n |Depends: other-types\n  Depends: mime-support\n  Depends: redis-tools\n\
                      \x20 Depends: <virtual>\n    provider-one\n    provider-two\nredis-tools\n  Depends: libc6\n";
        assert_eq!(
            dependencies(answer),
            [
                "init-system-helpers",
                "lsb-base",
                "media-types",
                "redis-tools",
                "provider-one",
                "libc6"
            ]
        );
    }

    #[test]
    fn the_files_that_apt_would_fetch_are_read() {
        let answer = "'http://h/redis-tools_7%7edeb_amd64.deb' redis-tools_5%3a7~deb_amd64.deb 991988 SHA256:f7\n";
        assert_eq!(
            expected_files(answer)["redis-tools"],
            ("redis-tools_5%3a7~deb_amd64.deb".to_owned(), 991_988)
        );
    }
}
