//! What is left on a machine: the search for everything that a node, or a pod of it, can leave behind. The tests of removal
//! find it empty, and `pods` proves that it finds what is there.

use std::path::Path;
use std::process::Command;

use crate::machine::Machine;

/// The control groups of a node are named after it, below this one of each hierarchy.
const GROUP: &str = "actorium";

/// Processes in a cgroup whose path contains this.
pub fn pids_in_group(part: &str) -> Vec<u32> {
    let in_it = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .unwrap_or_default()
            .contains(part)
    };
    let all = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(in_it)
        .collect()
}

/// All that a node keeps of pods: processes, cgroups, mounts, directories, links. `seen_by` is a process that sees the
/// mounts, such as the node's.
pub fn of_pods(node: &str, data_dir: &Path, machine: &Machine, seen_by: u32) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for pid in pids_in_group(&format!("/{GROUP}/{node}/")) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push(format!(
            "process {pid} {}",
            String::from_utf8_lossy(&line).replace('\0', " ")
        ));
    }
    for group in groups(node) {
        for inner in std::fs::read_dir(group).into_iter().flatten().flatten() {
            let is_pod = inner.path().is_dir() && inner.file_name() != "parents";
            found.extend(is_pod.then(|| format!("cgroup {}", inner.path().display())));
        }
    }
    found.extend(mounts_below(&data_dir.join("pods"), seen_by));
    for directory in ["pods", "removing", "trash"] {
        let entries = std::fs::read_dir(data_dir.join(directory))
            .into_iter()
            .flatten()
            .flatten();
        found.extend(entries.map(|entry| format!("directory {}", entry.path().display())));
    }
    found.extend(links(machine, "type veth"));
    found
}

/// All that a node can leave that did not start, or was reset: as above, and whatever is its own.
pub fn of_node(node: &str, data_dir: &Path, machine: &Machine) -> Vec<String> {
    let mut found = of_pods(node, data_dir, machine, std::process::id());
    found.extend(data_dir.exists().then(|| format!("directory {}", data_dir.display())));
    found.extend(
        groups(node)
            .into_iter()
            .map(|group| format!("cgroup {}", group.display())),
    );
    found.extend(links(machine, ""));
    let mut list = Command::new("nft");
    let output = machine.place(list.args(["list", "tables"])).output();
    let tables = output.expect("the program `nft` (nftables) runs");
    assert!(tables.status.success(), "nft list tables: {tables:?}");
    found.extend(String::from_utf8_lossy(&tables.stdout).lines().map(str::to_owned));
    found.sort();
    found.dedup();
    found
}

/// The control groups of a node that exist, one in each hierarchy.
fn groups(node: &str) -> Vec<std::path::PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).expect("cgroups are mounted").flatten();
    let places = hierarchies.map(|hierarchy| hierarchy.path()).chain([root.to_owned()]);
    places
        .map(|place| place.join(GROUP).join(node))
        .filter(|group| group.is_dir())
        .collect()
}

/// Mounts below a directory that a process sees.
fn mounts_below(directory: &Path, seen_by: u32) -> Vec<String> {
    let mounts = std::fs::read_to_string(format!("/proc/{seen_by}/mountinfo")).expect("the process runs");
    let name = directory.to_str().expect("a name of a test's own");
    // Field 5 of proc(5) mountinfo is the mount point.
    let below = |line: &&str| line.split(' ').nth(4).is_some_and(|point| point.starts_with(name));
    mounts
        .lines()
        .filter(below)
        .map(|line| format!("mount {line}"))
        .collect()
}

/// Links of a machine beside those that it was made with.
fn links(machine: &Machine, which: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args(["-n", &machine.namespace, "-o", "link", "show"])
        .args(which.split_whitespace())
        .output()
        .expect("the program `ip` (iproute2) runs");
    assert!(output.status.success(), "ip link show: {output:?}");
    let links = String::from_utf8_lossy(&output.stdout).into_owned();
    let own = |line: &&str| !line.contains(": eth0") && !line.contains(": lo:");
    links.lines().filter(own).map(|line| format!("link {line}")).collect()
}
