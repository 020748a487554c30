//! Processes that outlive the chore that started them: started apart, known again by pid and start time, ended by signal.
//!
//! `up` and `down` call it. It must never signal a process by its name, nor a pid that has been given to another process
//! since.

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// A process that is known again even when its pid was given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks after boot (field 22 of proc(5) `stat`).
    pub started_ticks: u64,
}

impl ProcessId {
    /// The identity of a process that runs now.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = read_stat(pid).ok_or_else(|| anyhow!("there is no process {pid}"))?;
        Ok(Self {
            pid,
            started_ticks: stat.started_ticks,
        })
    }

    /// Whether this very process runs. One that has exited and waits for its parent does not.
    pub fn is_alive(self) -> bool {
        read_stat(self.pid)
            .is_some_and(|stat| stat.started_ticks == self.started_ticks && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Asks it to stop, waits, and ends it when it has not stopped within the bound.
    pub fn stop(self, grace: Duration) -> Result<Stopped> {
        if !self.is_alive() {
            return Ok(Stopped::WasGone);
        }
        self.signal(Signal::SIGTERM)?;
        if wait_until(grace, || !self.is_alive()) {
            return Ok(Stopped::ByItself);
        }
        self.signal(Signal::SIGKILL)?;
        if wait_until(Duration::from_secs(10), || !self.is_alive()) {
            return Ok(Stopped::Killed);
        }
        bail!(
            "process {} does not end, not even by SIGKILL: see /proc/{}/stack",
            self.pid,
            self.pid
        )
    }

    fn signal(self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("{signal} to process {}", self.pid)),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It did not run any more.
    WasGone,
    /// It stopped when asked.
    ByItself,
    /// It had to be killed.
    Killed,
}

struct Stat {
    state: char,
    started_ticks: u64,
}

fn read_stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name stands in parentheses and may hold spaces and parentheses: what follows the last one is counted.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat {
        state,
        started_ticks: fields.nth(18)?.parse().ok()?,
    })
}

/// Every process that is a node or the parent of a pod with its directory below this one, or a container whose root
/// lies there. A person's shell or editor that has a file of the directory open is none of these.
pub fn of_nodes_below(directory: &Path) -> Result<Vec<ProcessId>> {
    every_process(|pid| {
        let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        runs_a_node_below(&command_line, directory) || has_its_root_below(&mounts, directory)
    })
}

/// `actorium node start ... --data-dir DIRECTORY` or `actorium pod-parent DIRECTORY`, arguments ended by NUL.
fn runs_a_node_below(command_line: &[u8], directory: &Path) -> bool {
    let arguments: Vec<_> = command_line
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let is_ours = arguments
        .windows(2)
        .any(|pair| pair[0] == "pod-parent" || (pair[0] == "node" && pair[1] == "start"));
    is_ours
        && arguments
            .iter()
            .any(|argument| Path::new(argument.as_ref()).starts_with(directory))
}

/// Whether the root of a table of mounts (proc(5) `mountinfo`) is an overlay of directories below this one.
fn has_its_root_below(mountinfo: &str, directory: &Path) -> bool {
    let below = format!("{}/", directory.display());
    mountinfo
        .lines()
        .any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&below))
}

/// Every process in a network namespace, known by the number of its file.
pub fn in_network_namespace(inode: u64) -> Result<Vec<ProcessId>> {
    let wanted = format!("net:[{inode}]");
    every_process(|pid| {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|target| target.as_os_str() == wanted.as_str())
    })
}

/// Processes of which something is true, without this one and those that wait for their parent.
fn every_process(is_wanted: impl Fn(i32) -> bool) -> Result<Vec<ProcessId>> {
    let own = std::process::id().cast_signed();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("/proc cannot be listed")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid != own
            && is_wanted(pid)
            && let Ok(process) = ProcessId::of(pid)
            && process.is_alive()
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// Waits for a condition, looking every twentieth of a second; says whether it came true within the bound.
pub fn wait_until(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_start_time_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = parse_stat("7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9").unwrap();
        assert_eq!((stat.state, stat.started_ticks), ('S', 4711));
        assert!(parse_stat("7 (a) S 1").is_none());
    }

    #[test]
    fn a_pid_that_another_process_has_now_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let right = ProcessId::of(child.id().cast_signed()).unwrap();
        let other = ProcessId {
            started_ticks: right.started_ticks + 1,
            ..right
        };
        assert!(right.is_alive());
        assert_eq!(other.stop(Duration::ZERO).unwrap(), Stopped::WasGone);
        assert!(right.is_alive());
        assert_eq!(right.stop(Duration::from_secs(10)).unwrap(), Stopped::ByItself);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_listen_is_killed() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' TERM; echo ready; read line"]);
        let mut child = shell
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        assert_eq!(process.stop(Duration::from_millis(200)).unwrap(), Stopped::Killed);
        child.wait().unwrap();
    }

    #[test]
    fn nodes_and_parents_of_pods_are_known_by_their_directory_and_bystanders_are_not() {
        let directory = Path::new("/w/target/up");
        for (command_line, ours) in [
            (
                "/b/actorium\0node\0start\0--name\0n1\0--data-dir\0/w/target/up/n1/data\0",
                true,
            ),
            ("/b/actorium\0pod-parent\0/w/target/up/n1/data/pods/x\0", true),
            ("/b/actorium\0node\0start\0--data-dir\0/w/target/upper/n1\0", false),
            ("/b/actorium\0--kubeconfig\0/w/target/up/kubeconfig\0shell\0", false),
            ("tail\0-f\0/w/target/up/n1/node.log\0", false),
        ] {
            assert_eq!(
                runs_a_node_below(command_line.as_bytes(), directory),
                ours,
                "{command_line:?}"
            );
        }
    }

    #[test]
    fn a_container_is_known_by_its_root() {
        let overlay = "overlay rw,lowerdir=/w/target/up/n1/data/layers/a,upperdir=/w/target/up/n1/data/pods/x/upper";
        let container = format!("50 40 0:40 / / rw - overlay {overlay}\n51 50 0:41 / /proc rw - proc proc rw\n");
        let host =
            format!("30 1 8:1 / / rw - ext4 /dev/sda rw\n50 40 0:40 / /w/target/up/n1/x rw - overlay {overlay}\n");
        assert!(has_its_root_below(&container, Path::new("/w/target/up")));
        assert!(!has_its_root_below(&container, Path::new("/w/target/u")));
        assert!(!has_its_root_below(&host, Path::new("/w/target/up")));
    }

    #[test]
    fn a_running_node_is_found_by_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "read line", "sh", "node", "start"])
            .arg(directory.path().join("n1"));
        let mut child = shell.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(wait_until(Duration::from_secs(5), || of_nodes_below(directory.path())
            .unwrap()
            == [process]));
        process.stop(Duration::from_secs(5)).unwrap();
        child.wait().unwrap();
        assert_eq!(of_nodes_below(directory.path()).unwrap(), []);
    }
}
