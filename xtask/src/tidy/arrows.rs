//! The order of the rooms: protocol <- config <- cluster <- actors <- node.
//!
//! A crate belongs to the room in whose directory it is nested. It may depend on crates of its own room and of rooms to
//! the left. `tests`, `fuzz`, `benches` and `xtask` stand outside the house: they may use every room, no room may use them, and
//! `xtask` uses none. The rule has no exceptions.

use super::{Finding, Rule};
use crate::workspace::{Dependency, Package};
use std::path::Path;

/// The rooms, from the one that knows least to the one that knows most.
const ROOMS: [&str; 5] = ["protocol", "config", "cluster", "actors", "node"];

/// Where a crate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'path> {
    /// In the room with this index.
    Room(usize),
    /// Beside the house.
    Outside(&'path str),
}

/// The arrows that point the wrong way.
pub fn check(root: &Path, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let Some(from) = package
            .manifest_path
            .parent()
            .and_then(|directory| place(root, directory))
        else {
            continue;
        };
        for dependency in &package.dependencies {
            let Some(to) = dependency.path.as_deref().and_then(|directory| place(root, directory)) else {
                continue;
            };
            if let Some(wrong) = objection(from, to) {
                findings.push(Finding {
                    rule: Rule::Arrow,
                    path: package
                        .manifest_path
                        .strip_prefix(root)
                        .unwrap_or(&package.manifest_path)
                        .to_path_buf(),
                    line: None,
                    message: format!(
                        "`{}` depends on `{}`{}: {wrong}",
                        package.name,
                        dependency.name,
                        section(dependency)
                    ),
                });
            }
        }
    }
    findings
}

fn place<'path>(root: &Path, directory: &'path Path) -> Option<Place<'path>> {
    let first = directory
        .strip_prefix(root)
        .ok()?
        .components()
        .next()?
        .as_os_str()
        .to_str()?;
    Some(
        ROOMS
            .iter()
            .position(|&room| room == first)
            .map_or(Place::Outside(first), Place::Room),
    )
}

fn objection(from: Place<'_>, to: Place<'_>) -> Option<String> {
    match (from, to) {
        (Place::Room(from), Place::Room(to)) if to > from => Some(format!(
            "{} must not know of {}; arrows point to the left in {}",
            ROOMS[from],
            ROOMS[to],
            ROOMS.join(" <- ")
        )),
        (Place::Room(_), Place::Outside(outside)) => Some(format!("no room may use {outside}")),
        (Place::Outside("xtask"), Place::Room(_)) => {
            Some("xtask must be built before the rooms and without them".to_owned())
        }
        _ => None,
    }
}

fn section(dependency: &Dependency) -> String {
    dependency
        .kind
        .as_ref()
        .map_or_else(String::new, |kind| format!(" ({kind})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(directory: &str, on: &[&str]) -> Package {
        let dependencies: Vec<_> = on
            .iter()
            .map(|path| serde_json::json!({"name": path, "path": format!("/w/{path}"), "kind": null}))
            .chain([serde_json::json!({"name": "serde", "path": null, "kind": null})])
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": directory, "manifest_path": format!("/w/{directory}/Cargo.toml"),
            "dependencies": dependencies, "targets": []
        }))
        .unwrap()
    }

    #[test]
    fn arrows_within_the_order_are_accepted_and_others_are_found() {
        let cases = [
            ("config", "protocol", true),
            ("node", "actors/scheduler", true),
            ("node/runtime", "protocol/api", true),
            ("cluster", "cluster/store", true),
            ("cluster/store", "protocol", true),
            ("tests", "node", true),
            ("benches", "actors/scheduler", true),
            ("protocol", "config", false),
            ("protocol/api", "cluster/store", false),
            ("cluster", "actors", false),
            ("actors/scheduler", "node/runtime", false),
            ("actors", "tests", false),
            ("xtask", "protocol", false),
        ];
        for (from, to, accepted) in cases {
            let findings = check(Path::new("/w"), &[package(from, &[to])]);
            assert_eq!(findings.is_empty(), accepted, "{from} -> {to}: {findings:?}");
            assert!(
                findings
                    .iter()
                    .all(|finding| finding.message.contains(to) && finding.rule == Rule::Arrow)
            );
        }
    }

    #[test]
    fn development_dependencies_are_arrows_too() {
        let mut wrong = package("protocol", &["node"]);
        wrong.dependencies[0].kind = Some("dev".to_owned());
        assert!(check(Path::new("/w"), &[wrong])[0].message.contains("(dev)"));
    }
}
