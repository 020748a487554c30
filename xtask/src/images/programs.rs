//! Runs programs of an image that is being built: to list busybox's applets, to compile Python modules, to check it.
//!
//! The image builder calls it. The programs run on a copy of the tree in a scratch directory: the first two without
//! root, by the image's own loader; the check in a chroot, for which it needs root.

use super::Scratch;
use super::layer::{Node, Tree};
use crate::command;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Gives every applet of a busybox its link, where nothing else has that name.
pub fn link_applets(tree: &mut Tree, busybox: &str, scratch: &Path) -> Result<()> {
    let scratch = Scratch::new(scratch, "applets")?;
    tree.unpack(&scratch.0)?;
    let listed = command::output(Command::new(scratch.0.join(busybox)).arg("--list-full"))?;
    for applet in listed.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let path = if applet.starts_with("usr/") {
            applet.to_owned()
        } else {
            format!("usr/{applet}")
        };
        if tree.node(&path).is_none() && path != busybox {
            tree.insert(&path, Node::Symlink(format!("/{busybox}")));
        }
    }
    Ok(())
}

/// Imports modules with the image's Python and adds the byte code of every module that this loaded. The byte code is of
/// the kind that is not checked against its source's time, which a layer does not keep.
pub fn precompile(tree: &mut Tree, modules: &[String], scratch: &Path) -> Result<()> {
    let scratch = Scratch::new(scratch, "precompile")?;
    tree.unpack(&scratch.0)?;
    let loader = find_loader(&scratch.0)?;
    let libraries = library_directories(&scratch.0)?;
    let python = scratch
        .0
        .join("usr/bin/python3")
        .canonicalize()
        .context("the image has no usr/bin/python3")?;
    let written = command::output(
        Command::new(loader)
            .arg("--library-path")
            .arg(libraries)
            .arg(python)
            .args(["-B", "-s", "-c", PRECOMPILE])
            .arg(&scratch.0)
            .args(modules)
            .env_clear()
            .env("PYTHONHOME", scratch.0.join("usr"))
            .env("PYTHONHASHSEED", "0")
            .env("LC_ALL", "C.UTF-8"),
    )?;
    for path in written.lines() {
        let contents =
            std::fs::read(scratch.0.join(path)).with_context(|| format!("the byte code {path} is not there"))?;
        tree.insert(path, Node::File(0o644, contents));
    }
    Ok(())
}

/// Prints the path of each byte code file, relative to the root. The path that tracebacks show is the one in the image.
const PRECOMPILE: &str = r#"
import importlib, os, py_compile, sys
root, modules = sys.argv[1], sys.argv[2:]
for module in modules:
    importlib.import_module(module)
sources = set()
for module in list(sys.modules.values()):
    source = getattr(module, "__file__", None)
    if source and source.endswith(".py") and source.startswith(root + "/"):
        sources.add(source)
for source in sorted(sources):
    shown = source[len(root):]
    code = py_compile.compile(source, dfile=shown, doraise=True, optimize=0,
                              invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    print(os.path.relpath(code, root))
"#;

/// The dynamic loader of the tree.
fn find_loader(root: &Path) -> Result<PathBuf> {
    for directory in ["usr/lib64", "usr/lib"] {
        let Ok(entries) = root.join(directory).read_dir() else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("ld-linux") {
                continue;
            }
            // The entry is a link with an absolute target, which is meant from inside the image.
            let target = std::fs::read_link(entry.path()).unwrap_or_else(|_| entry.path());
            let inside = target
                .strip_prefix("/")
                .map(|target| root.join(target))
                .unwrap_or_else(|_| root.join(directory).join(&target));
            return inside
                .canonicalize()
                .with_context(|| format!("the loader {} is not there", inside.display()));
        }
    }
    bail!("the image has no dynamic loader in usr/lib64 or usr/lib")
}

/// Where the tree's libraries are: `usr/lib/<machine>-linux-gnu` and `usr/lib`.
fn library_directories(root: &Path) -> Result<String> {
    let lib = root.join("usr/lib");
    let mut directories = vec![lib.clone()];
    for entry in lib.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().ends_with("-linux-gnu") {
            directories.push(entry.path());
        }
    }
    Ok(directories
        .iter()
        .map(|directory| directory.to_string_lossy())
        .collect::<Vec<_>>()
        .join(":"))
}

/// Runs the image's check in its root, and returns what it printed.
pub fn check(tree: &Tree, check: &[String], scratch: &Path) -> Result<String> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the check changes its root directory, which needs root: run it as root, or leave out --check");
    }
    let (program, arguments) = check.split_first().context("the recipe has no check")?;
    let scratch = Scratch::new(scratch, "check")?;
    tree.unpack(&scratch.0)?;
    let root = scratch.0.clone();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::chroot(root.as_path())?;
            nix::unistd::chdir("/")?;
            Ok(())
        });
    }
    command::output(&mut command)
}
