//! What `cargo metadata` says about the workspace: where it is, where its products go, its packages and their arrows.
//!
//! All chores take a [`Workspace`]. It must never guess a path that cargo can tell.

use crate::command;
use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace as cargo sees it.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Where cargo puts build products (`CARGO_TARGET_DIR`, or `target` below the root).
    pub target: PathBuf,
    /// The members of the workspace.
    pub packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// The crate's name.
    pub name: String,
    /// The path of its `Cargo.toml`.
    pub manifest_path: PathBuf,
    /// What it depends on, in every section of its manifest.
    pub dependencies: Vec<Dependency>,
    /// What it builds.
    pub targets: Vec<Target>,
}

/// A dependency as the manifest names it.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    /// The crate's name on its registry or in its own manifest.
    pub name: String,
    /// The directory of a dependency that is a path; `None` for one that comes from a registry.
    pub path: Option<PathBuf>,
    /// `None` for a normal dependency, otherwise `dev` or `build`.
    pub kind: Option<String>,
}

/// A target of a package.
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    /// The target's name.
    pub name: String,
    /// `lib`, `bin`, `test`, ...
    pub kind: Vec<String>,
    /// Features without which the target is not built.
    #[serde(default, rename = "required-features")]
    pub required_features: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// The directory of this crate. Cargo says it to what it runs; the compiler knew it too, but several clones may share a
/// target directory, and then what was compiled in one is run in another.
fn own_directory() -> PathBuf {
    let said = std::env::var_os("CARGO_MANIFEST_DIR");
    said.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

impl Workspace {
    /// Asks cargo, from the directory of this program's own manifest, so that it works from every working directory.
    pub fn load() -> Result<Self> {
        let manifest = own_directory().join("Cargo.toml");
        let text = command::output(
            Command::new(cargo())
                .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
                .arg(&manifest)
                // A relative CARGO_TARGET_DIR is meant from where the person stands.
                .current_dir(std::env::current_dir().context("the working directory is gone")?),
        )?;
        Self::from_metadata(&text)
    }

    fn from_metadata(text: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(text).context("cargo metadata's answer was not understood")?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            packages: metadata.packages,
        })
    }

    /// The member with this name.
    pub fn package(&self, name: &str) -> Result<&Package> {
        self.packages
            .iter()
            .find(|package| package.name == name)
            .ok_or_else(|| anyhow!("the workspace has no crate `{name}`"))
    }

    /// A path relative to the root, for messages.
    pub fn relative<'path>(&self, path: &'path Path) -> &'path Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

/// The cargo that started us, so that a toolchain chosen with `+toolchain` stays chosen.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// A cargo command in the workspace's root. Where ccache is installed, the compilers that are found first are wrappers
/// that ask it: RocksDB takes many minutes to compile. They are put on PATH and not in CC and CXX, because a changed CXX
/// makes cargo run RocksDB's build again, so a plain `cargo build` and this one would undo each other's work.
pub fn cargo_command(workspace: &Workspace) -> Result<Command> {
    let mut command = Command::new(cargo());
    command
        .current_dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target);
    if command::find_program("ccache").is_some() && command::find_program("g++").is_some() {
        let wrappers = compiler_wrappers(&workspace.target.join("compilers"))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(wrappers).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(directories).context("PATH is damaged")?);
    }
    Ok(command)
}

/// Writes `cc` and `c++`, by which build scripts call the compilers, as scripts that call them through ccache. Debian's
/// `/usr/lib/ccache` would do too, but ccache keeps what `c++` and `g++` compiled apart.
fn compiler_wrappers(directory: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for (name, compiler) in [("cc", "gcc"), ("c++", "g++")] {
        let (wrapper, text) = (
            directory.join(name),
            format!("#!/bin/sh\nexec ccache {compiler} \"$@\"\n"),
        );
        if std::fs::read_to_string(&wrapper).is_ok_and(|present| present == text) {
            continue;
        }
        // Renamed into place: another build may be running the one that is there.
        let fresh = directory.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&fresh, text)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&fresh, &wrapper)?;
    }
    Ok(directory.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_read_with_its_packages_and_their_dependencies() {
        let workspace = Workspace::load().unwrap();
        let own = workspace.package("xtask").unwrap();
        assert_eq!(workspace.relative(&own.manifest_path), Path::new("xtask/Cargo.toml"));
        assert!(
            own.dependencies
                .iter()
                .any(|dependency| dependency.name == "anyhow" && dependency.path.is_none())
        );
        assert!(own.targets.iter().any(|target| target.kind == ["bin"]));
    }

    #[test]
    fn the_compilers_are_wrapped_so_that_they_run_and_are_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let wrappers = compiler_wrappers(&directory.path().join("compilers")).unwrap();
        let written = |name: &str| wrappers.join(name).metadata().unwrap().modified().unwrap();
        let before = (written("cc"), written("c++"));
        compiler_wrappers(&wrappers).unwrap();
        assert_eq!((written("cc"), written("c++")), before);
        assert_eq!(wrappers.read_dir().unwrap().count(), 2);
        assert!(
            std::fs::read_to_string(wrappers.join("c++"))
                .unwrap()
                .contains("ccache g++ \"$@\"")
        );
    }

    #[test]
    fn a_crate_that_is_absent_is_named() {
        let workspace = Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            packages: Vec::new(),
        };
        assert!(workspace.package("ghost").unwrap_err().to_string().contains("ghost"));
    }

    #[test]
    fn an_answer_that_is_not_metadata_is_refused() {
        assert!(Workspace::from_metadata("{}").is_err());
    }
}
