//! `cargo xtask down`: ends the cluster that `up` started and checks that nothing of it is left.
//!
//! Nodes are stopped first, then each node's own `reset` removes its pods, cgroups, mounts, links and tables, then the
//! network goes. Afterwards it looks at the machine itself and does not take the programs' word. It must never touch what
//! the record, the network's name or the run directory does not prove to be the cluster's.

use crate::process::{self, Stopped};
use crate::run_record::{self, NodeRecord, RunRecord};
use crate::workspace::Workspace;
use crate::{cgroups, command, netns};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a node may take to stop by itself.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// How long the kernel may take to forget what was removed.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Removes the cluster.
pub fn run(workspace: &Workspace, binary: Option<PathBuf>) -> Result<()> {
    let record = RunRecord::read(&run_record::directory(workspace))?;
    let built = workspace.target.join("release/actorium");
    let binary = binary
        .or_else(|| record.as_ref().map(|record| record.binary.clone()))
        .unwrap_or(built);
    if record.is_none() {
        println!("no cluster is recorded; looking for remains");
    }
    remove(workspace, &binary, record.as_ref())
}

/// Removes the cluster of a record and whatever is left of earlier ones.
pub fn remove(workspace: &Workspace, binary: &Path, record: Option<&RunRecord>) -> Result<()> {
    let directory = run_record::directory(workspace);
    if !nix::unistd::geteuid().is_root() {
        bail!("the cluster belongs to root: run this as root");
    }
    let cgroups = note_cgroups(&directory, record)?;
    for node in record.into_iter().flat_map(|record| &record.nodes) {
        stop_node(node)?;
    }
    let mut complaints = end_unrecorded_nodes(&directory)?;
    complaints.extend(reset_nodes(binary, &directory));
    for process in process::of_nodes_below(&directory)? {
        complaints.push(format!(
            "process {} of a pod was left by its node's reset, and is killed",
            process.pid
        ));
        process.stop(Duration::ZERO)?;
    }
    for namespace in netns::namespaces() {
        complaints.extend(end_processes_in(&namespace)?);
    }
    complaints.extend(detach_mounts_below(&directory)?);
    for cgroup in cgroups::left_empty(&cgroups) {
        complaints.push(format!("the cgroup {} was left", cgroup.display()));
        cgroups::remove(&cgroup)?;
    }
    netns::remove()?;
    for complaint in &complaints {
        eprintln!("warning: {complaint}");
    }
    verify(&directory, &cgroups)?;
    for node in run_directories(&directory) {
        let data = node.join("data");
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        }
    }
    let _ = std::fs::remove_file(run_record::kubeconfig(workspace)); // There is none when `up` failed early.
    RunRecord::remove(&directory)?;
    println!("the cluster is gone; its logs stay in {}", directory.display());
    Ok(())
}

/// The cluster's cgroups: those in which its processes are now, and those that an earlier attempt noted. They are written
/// down before anything is ended, because afterwards nothing proves whose they are.
fn note_cgroups(directory: &Path, record: Option<&RunRecord>) -> Result<Vec<PathBuf>> {
    let mut processes: BTreeSet<i32> = process::of_nodes_below(directory)?
        .iter()
        .map(|process| process.pid)
        .collect();
    for inode in netns::namespaces()
        .iter()
        .filter_map(|namespace| netns::inode(namespace))
    {
        processes.extend(process::in_network_namespace(inode)?.iter().map(|process| process.pid));
    }
    let mut noted = cgroups::held_by(Path::new(cgroups::ROOT), &processes);
    if let Some(record) = record {
        noted.extend(
            record
                .cgroups
                .iter()
                .filter(|cgroup| !noted.contains(cgroup))
                .cloned()
                .collect::<Vec<_>>(),
        );
        RunRecord {
            cgroups: noted.clone(),
            ..record.clone()
        }
        .write(directory)?;
    }
    Ok(noted)
}

fn stop_node(node: &NodeRecord) -> Result<()> {
    let Some(process) = node.process else { return Ok(()) };
    match process.stop(STOP_GRACE)? {
        Stopped::WasGone => println!("node {} had ended", node.name),
        Stopped::ByItself => println!("node {} stopped", node.name),
        Stopped::Killed => println!(
            "node {} did not stop within {} s and was killed",
            node.name,
            STOP_GRACE.as_secs()
        ),
    }
    Ok(())
}

/// The directories of the nodes, `n1`, `n2`, ...
fn run_directories(directory: &Path) -> Vec<PathBuf> {
    (1..=netns::NODES)
        .map(|node| directory.join(format!("n{node}")))
        .filter(|path| path.is_dir())
        .collect()
}

/// Runs each node's own clean-up in its namespace, and returns what went wrong.
fn reset_nodes(binary: &Path, directory: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    for node in 1..=netns::NODES {
        let data = directory.join(format!("n{node}/data"));
        if !data.is_dir() {
            continue;
        }
        let mut reset = Command::new(binary);
        reset.args(["node", "reset", "--data-dir"]).arg(&data);
        let namespace = netns::namespace(node);
        let prepared = if netns::inode(&namespace).is_some() {
            netns::enter(&mut reset, &namespace)
        } else {
            Ok(())
        };
        if let Err(error) = prepared.and_then(|()| command::output(&mut reset)) {
            complaints.push(format!("n{node} was not cleaned by its own reset: {error:#}"));
        }
    }
    complaints
}

/// Ends nodes that the record does not know: `up` may have been killed between starting one and recording it. Parents of
/// pods are left to `reset`, which knows how to end a pod.
fn end_unrecorded_nodes(directory: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for process in process::of_nodes_below(directory)? {
        let command_line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        if String::from_utf8_lossy(&command_line).contains("node\0start\0") {
            complaints.push(format!(
                "process {} was a node that the record did not know",
                process.pid
            ));
            process.stop(STOP_GRACE)?;
        }
    }
    Ok(complaints)
}

/// Ends what still runs in a namespace of the cluster.
fn end_processes_in(namespace: &str) -> Result<Vec<String>> {
    let Some(inode) = netns::inode(namespace) else {
        return Ok(Vec::new());
    };
    let mut complaints = Vec::new();
    for process in process::in_network_namespace(inode)? {
        complaints.push(format!("process {} was left in {namespace}", process.pid));
        process.stop(Duration::from_secs(2))?;
    }
    Ok(complaints)
}

/// Detaches mounts below the run directory, innermost first.
fn detach_mounts_below(directory: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for mount in mounts_below(&mount_table()?, directory).into_iter().rev() {
        complaints.push(format!("{} was left mounted", mount.display()));
        nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    Ok(complaints)
}

fn mount_table() -> Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the table of mounts")
}

/// The mount points below a directory, in the order in which they were mounted. Field 5 of proc(5) `mountinfo`, in which
/// a space is written `\040`.
fn mounts_below(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")));
    points.filter(|point| point.starts_with(directory)).collect()
}

/// Looks at the machine and fails when anything of the cluster is on it.
fn verify(directory: &Path, cgroups: &[PathBuf]) -> Result<()> {
    // The kernel takes killed processes and their namespaces down in the background.
    let mut inspection = inspect(directory, cgroups)?;
    let mut failure = None;
    process::wait_until(SETTLE_MAX, || match inspect(directory, cgroups) {
        Ok(newer) => {
            inspection = newer;
            inspection.iter().all(|(_, left)| left.is_empty())
        }
        Err(error) => {
            failure = Some(error);
            true
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut count = 0;
    for (what, left) in &inspection {
        println!(
            "checked {what}: {}",
            if left.is_empty() {
                "none left".to_owned()
            } else {
                left.join(", ")
            }
        );
        count += left.len();
    }
    if count > 0 {
        bail!("{count} things of the cluster are left");
    }
    Ok(())
}

/// What is on the machine, by kind.
fn inspect(directory: &Path, cgroups: &[PathBuf]) -> Result<[(&'static str, Vec<String>); 5]> {
    let cgroups = cgroups::left_empty(cgroups);
    let processes = process::of_nodes_below(directory)?
        .iter()
        .map(|process| format!("process {}", process.pid))
        .collect();
    let mounts = mounts_below(&mount_table()?, directory)
        .iter()
        .map(|mount| format!("mount {}", mount.display()))
        .collect();
    Ok([
        ("processes", processes),
        ("mounts", mounts),
        (
            "cgroups",
            cgroups
                .iter()
                .map(|cgroup| format!("cgroup {}", cgroup.display()))
                .collect(),
        ),
        ("namespaces and interfaces", netns::remains()?),
        ("nftables tables", tables()?),
    ])
}

/// Tables of ours in the host's own network namespace, where a node of this cluster must never have written.
fn tables() -> Result<Vec<String>> {
    if command::find_program("nft").is_none() {
        return Ok(Vec::new());
    }
    let listed = command::output(Command::new("nft").args(["list", "tables"]))?;
    Ok(listed
        .lines()
        .filter(|line| line.contains("actorium"))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_the_directory_are_found_and_others_are_not() {
        let table = "30 1 8:1 / / rw - ext4 /dev/sda rw\n\
                     31 30 0:40 / /w/target/up/n1/data/a\\040b rw - overlay overlay rw\n\
                     32 30 0:41 / /w/target/up2 rw - tmpfs tmpfs rw\n\
                     33 31 0:42 / /w/target/up/n1/data/a\\040b/c rw - tmpfs tmpfs rw\n";
        let found = mounts_below(table, Path::new("/w/target/up"));
        assert_eq!(
            found,
            [
                PathBuf::from("/w/target/up/n1/data/a b"),
                PathBuf::from("/w/target/up/n1/data/a b/c")
            ]
        );
    }
}
