//! cgroups of pods and containers on v1, v2 and mixed machines: where each controller lives, groups below our own parent,
//! limits, the kill of all that is inside. Called by the node's side (`linux`). It never touches a group outside
//! `cgroup_parent`, and it names groups from the hierarchies' roots, wherever the node process itself lives.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::runtime::{ResourceLimits, RuntimeError};

use crate::container::{CgroupEntry, CgroupMount};

/// The period of a cpu quota, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses a smaller quota.
const CPU_QUOTA_US_MIN: u64 = 1_000;
/// The smallest weight, for what requests no cpu.
const CPU_SHARES_MIN: u64 = 2;
/// How long the removal of a group waits for its last process to be reaped.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

/// A controller that limits pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// Time.
    Cpu,
    /// Memory.
    Memory,
    /// Numbers of processes and threads.
    Pids,
}

impl ControllerKind {
    /// All that are needed.
    pub const ALL: [ControllerKind; 3] = [ControllerKind::Cpu, ControllerKind::Memory, ControllerKind::Pids];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            ControllerKind::Cpu => "cpu",
            ControllerKind::Memory => "memory",
            ControllerKind::Pids => "pids",
        }
    }
}

/// Where one controller lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Which.
    pub controller: ControllerKind,
    /// The root of its hierarchy.
    pub root: PathBuf,
    /// Whether that is a v2 hierarchy.
    pub v2: bool,
    /// On v1, all controllers that are mounted together there, as mount(2) wants them: `cpu,cpuacct`.
    pub controllers: String,
}

/// Where the controllers of this machine live; each may be on v1 or on v2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// One entry per controller that was found.
    pub found: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Reads the mounts of this process.
    ///
    /// # Errors
    /// `/proc` is not readable.
    pub fn detect() -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::from_mountinfo(&mountinfo, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    /// The decision: v1 where a controller is mounted, v2 where its root lists it. Of several mounts of one hierarchy the
    /// last is the visible one.
    pub fn from_mountinfo(mountinfo: &str, v2_controllers: impl Fn(&Path) -> String) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        let mut put = |hierarchy: Hierarchy| {
            // v1 wins over v2: the kernel gives a controller to one of them only.
            match found.iter_mut().find(|known| known.controller == hierarchy.controller) {
                Some(known) if hierarchy.v2 && !known.v2 => {}
                Some(known) => *known = hierarchy,
                None => found.push(hierarchy),
            }
        };
        for line in mountinfo.lines() {
            let Some((mount, kind)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut kind = kind.split(' ');
            let (fs_type, options) = (kind.next().unwrap_or(""), kind.nth(1).unwrap_or(""));
            // What mount(2) needs to mount the same hierarchy again: the options but those of every file system.
            let controllers: Vec<&str> = options
                .split(',')
                .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                .collect();
            let controllers = controllers.join(",");
            let root = PathBuf::from(point.replace("\\040", " "));
            match fs_type {
                "cgroup" => {
                    for controller in ControllerKind::ALL {
                        if options.split(',').any(|option| option == controller.name()) {
                            put(Hierarchy {
                                controller,
                                root: root.clone(),
                                v2: false,
                                controllers: controllers.clone(),
                            });
                        }
                    }
                }
                "cgroup2" => {
                    let listed = v2_controllers(&root);
                    for controller in ControllerKind::ALL {
                        if listed.split_whitespace().any(|name| name == controller.name()) {
                            put(Hierarchy {
                                controller,
                                root: root.clone(),
                                v2: true,
                                controllers: String::new(),
                            });
                        }
                    }
                }
                _ => {}
            }
        }
        Self { found }
    }

    /// Controllers that are nowhere.
    pub fn missing(&self) -> Vec<ControllerKind> {
        ControllerKind::ALL
            .into_iter()
            .filter(|controller| !self.found.iter().any(|hierarchy| hierarchy.controller == *controller))
            .collect()
    }

    /// A handle to a group; it need not exist.
    pub fn group(&self, path: &str) -> Group {
        Group {
            hierarchies: self.clone(),
            path: path.trim_matches('/').to_owned(),
        }
    }
}

/// A handle to one group in all hierarchies.
#[derive(Clone, Debug)]
pub struct Group {
    hierarchies: Hierarchies,
    path: String,
}

fn refused(operation: String, error: &dyn std::error::Error) -> RuntimeError {
    let reason = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    RuntimeError::Kernel { operation, reason }
}

impl Group {
    fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(&self.path)
    }

    /// The distinct directories of the group.
    fn directories(&self) -> Vec<(PathBuf, bool)> {
        let mut directories: Vec<(PathBuf, bool)> = Vec::new();
        for hierarchy in &self.hierarchies.found {
            let directory = self.directory(hierarchy);
            if !directories.iter().any(|(known, _)| *known == directory) {
                directories.push((directory, hierarchy.v2));
            }
        }
        directories
    }

    /// A group below this one.
    pub fn below(&self, name: &str) -> Group {
        Group {
            hierarchies: self.hierarchies.clone(),
            path: format!("{}/{name}", self.path),
        }
    }

    /// Makes the group, in v2 with the controllers enabled on the way down. An existing one is kept.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn create(&self) -> Result<(), RuntimeError> {
        for (directory, v2) in self.directories() {
            if v2 {
                self.enable_controllers(&directory)?;
            }
            fs::create_dir_all(&directory)
                .map_err(|error| refused(format!("mkdir of cgroup {}", directory.display()), &error))?;
        }
        Ok(())
    }

    /// Writes `cgroup.subtree_control` from the hierarchy's root to the group's parent, where it is not set already.
    fn enable_controllers(&self, directory: &Path) -> Result<(), RuntimeError> {
        let here: Vec<&Hierarchy> = self
            .hierarchies
            .found
            .iter()
            .filter(|found| found.v2 && directory.starts_with(&found.root))
            .collect();
        let Some(root) = here.first().map(|hierarchy| hierarchy.root.clone()) else {
            return Ok(());
        };
        let mut level = root;
        for component in Path::new(&self.path).components() {
            let control = level.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&control).unwrap_or_default();
            for hierarchy in &here {
                let name = hierarchy.controller.name();
                if !enabled.split_whitespace().any(|known| known == name) {
                    fs::write(&control, format!("+{name}"))
                        .map_err(|error| refused(format!("+{name} in {}", control.display()), &error))?;
                }
            }
            level.push(component);
            fs::create_dir_all(&level)
                .map_err(|error| refused(format!("mkdir of cgroup {}", level.display()), &error))?;
        }
        Ok(())
    }

    /// Sets limits.
    ///
    /// # Errors
    /// The kernel refuses a value.
    pub fn limit(&self, limits: &ResourceLimits, kill_as_one: bool) -> Result<(), RuntimeError> {
        for hierarchy in &self.hierarchies.found {
            let (directory, root, v2) = (self.directory(hierarchy), hierarchy.root.clone(), hierarchy.v2);
            let operation = || format!("{} limit of cgroup {}", hierarchy.controller.name(), self.path);
            match hierarchy.controller {
                ControllerKind::Cpu => limit_cpu(&CpuController::new(directory, root, v2), limits, v2)
                    .map_err(|error| refused(operation(), &error))?,
                ControllerKind::Memory => {
                    if let Some(bytes) = limits.memory_limit_bytes {
                        let controller = MemController::new(directory.clone(), root, v2);
                        limit_memory(&controller, &directory, bytes, v2)
                            .map_err(|error| refused(operation(), &error))?;
                    }
                    if v2 && kill_as_one {
                        // All of a container dies at an OOM kill, not one victim that leaves the others half alive.
                        fs::write(directory.join("memory.oom.group"), "1")
                            .map_err(|error| refused(operation(), &error))?;
                    }
                }
                ControllerKind::Pids => {
                    if let Some(max) = limits.pids_max {
                        let max = i64::try_from(max).unwrap_or(i64::MAX);
                        PidController::new(directory, root, v2)
                            .set_pid_max(MaxValue::Value(max))
                            .map_err(|error| refused(operation(), &error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The memory that its processes use and that the kernel cannot take back at once: usage without inactive pages of files,
    /// as the kubelet counts it. `None` when the group does not exist.
    pub fn working_set_bytes(&self) -> Option<u64> {
        let mut found = self.hierarchies.found.iter();
        let hierarchy = found.find(|hierarchy| hierarchy.controller == ControllerKind::Memory)?;
        let directory = self.directory(hierarchy);
        let (usage, inactive) = if hierarchy.v2 {
            ("memory.current", "inactive_file ")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file ")
        };
        let used: u64 = fs::read_to_string(directory.join(usage)).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let inactive = stat
            .lines()
            .find_map(|line| line.strip_prefix(inactive)?.parse::<u64>().ok());
        Some(used.saturating_sub(inactive.unwrap_or(0)))
    }

    /// What a process needs to enter, and where its OOM kills are counted.
    pub fn entry(&self) -> CgroupEntry {
        let mut entry = CgroupEntry::default();
        for (directory, v2) in self.directories() {
            if v2 {
                entry.unified = Some(directory);
            } else {
                entry.task_files.push(directory.join("tasks"));
            }
        }
        entry.mounts = self.mounts();
        entry.oom_events = self
            .hierarchies
            .found
            .iter()
            .find(|hierarchy| hierarchy.controller == ControllerKind::Memory)
            .map(|hierarchy| {
                self.directory(hierarchy).join(if hierarchy.v2 {
                    "memory.events"
                } else {
                    "memory.oom_control"
                })
            });
        entry
    }

    /// How a container sees its groups at `/sys/fs/cgroup`: one mount on v2, one per v1 hierarchy.
    fn mounts(&self) -> Vec<CgroupMount> {
        let mut mounts: Vec<CgroupMount> = Vec::new();
        for hierarchy in &self.hierarchies.found {
            let name = hierarchy
                .root
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let is_pure = hierarchy.v2 && self.hierarchies.found.iter().all(|other| other.root == hierarchy.root);
            let mount = CgroupMount {
                directory: if is_pure { String::new() } else { name },
                v2: hierarchy.v2,
                options: if hierarchy.v2 {
                    String::new()
                } else {
                    hierarchy.controllers.clone()
                },
            };
            if !mounts.contains(&mount) {
                mounts.push(mount);
            }
        }
        mounts
    }

    /// Pids in the group and below, in every hierarchy.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for (directory, _) in self.directories() {
            collect_processes(&directory, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills all that is inside, and waits until nothing is left. Blocking.
    ///
    /// # Errors
    /// Something is left after a bound (a process in an uninterruptible wait).
    pub fn kill_all(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        let mut wait = Duration::from_micros(200);
        // No new processes, so that the kill catches up with a fork bomb.
        for hierarchy in self
            .hierarchies
            .found
            .iter()
            .filter(|found| found.controller == ControllerKind::Pids)
        {
            let _ = fs::write(self.directory(hierarchy).join("pids.max"), "0"); // a group that is gone has no processes
        }
        loop {
            for (directory, v2) in self.directories() {
                if v2 {
                    let _ = fs::write(directory.join("cgroup.kill"), "1"); // older kernels: killed one by one below
                }
            }
            let pids = self.processes();
            if pids.is_empty() {
                return Ok(());
            }
            for pid in &pids {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL); // it may have ended since
            }
            if Instant::now() > deadline {
                return Err(RuntimeError::Kernel {
                    operation: format!("kill of cgroup {}", self.path),
                    reason: format!(
                        "{} processes do not end (first pid {}): see their wchan",
                        pids.len(),
                        pids[0]
                    ),
                });
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the group and those below it. Blocking; absent is fine.
    ///
    /// # Errors
    /// A group stays busy.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        for (directory, _) in self.directories() {
            loop {
                match remove_tree(&directory) {
                    Ok(()) => break,
                    Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(1)); // its last process is being reaped
                    }
                    Err(error) => return Err(refused(format!("rmdir of cgroup {}", directory.display()), &error)),
                }
            }
        }
        Ok(())
    }

    /// Removes the groups above this one that hold nothing, up to the hierarchies' roots.
    pub fn remove_empty_ancestors(&self) {
        for hierarchy in &self.hierarchies.found {
            let mut above = Path::new(&self.path).parent();
            while let Some(path) = above.filter(|path| !path.as_os_str().is_empty()) {
                if fs::remove_dir(hierarchy.root.join(path)).is_err() {
                    break; // another node's group is in it, or it is gone
                }
                above = path.parent();
            }
        }
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|(directory, _)| directory.exists())
    }

    /// Groups directly below.
    pub fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .directories()
            .iter()
            .flat_map(|(directory, _)| fs::read_dir(directory).into_iter().flatten().flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

fn collect_processes(directory: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that this pid namespace cannot see.
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), pids);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// cpu.shares of a request, as the kubelet converts it.
pub fn cpu_shares(request_milli: Option<u64>) -> u64 {
    request_milli.map_or(CPU_SHARES_MIN, |milli| {
        (milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, 262_144)
    })
}

/// cpu.weight of v1 shares (KEP-2254).
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.saturating_sub(2) * 9999) / 262_142
}

fn limit_cpu(controller: &CpuController, limits: &ResourceLimits, v2: bool) -> cgroups_rs::fs::error::Result<()> {
    let shares = cpu_shares(limits.cpu_request_milli);
    controller.set_shares(if v2 { cpu_weight(shares) } else { shares })?;
    if let Some(milli) = limits.cpu_limit_milli {
        let quota = (milli.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_US_MIN);
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        controller.set_cfs_quota_and_period(Some(quota), Some(CPU_PERIOD_US))?;
    }
    Ok(())
}

/// Swap would make a memory limit a limit of something else: it is off where the kernel can.
fn limit_memory(
    controller: &MemController,
    directory: &Path,
    bytes: u64,
    v2: bool,
) -> cgroups_rs::fs::error::Result<()> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let swap_file = directory.join(if v2 {
        "memory.swap.max"
    } else {
        "memory.memsw.limit_in_bytes"
    });
    let limit_swap = || {
        if !swap_file.exists() {
            return Ok(());
        }
        // On v2 the number is swap alone, on v1 memory and swap together.
        controller.set_memswap_limit(if v2 { 0 } else { bytes })
    };
    // v1: memory above memory+swap is refused, so a group that is lowered needs the one first, one that is raised the other.
    let current = fs::read_to_string(directory.join("memory.limit_in_bytes")).unwrap_or_default();
    if current.trim().parse::<i64>().is_ok_and(|current| bytes > current) {
        limit_swap()?;
        return controller.set_limit(bytes);
    }
    controller.set_limit(bytes)?;
    limit_swap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(found: &Hierarchies) -> Vec<(&'static str, &str, bool)> {
        found
            .found
            .iter()
            .map(|hierarchy| {
                (
                    hierarchy.controller.name(),
                    hierarchy.root.to_str().unwrap(),
                    hierarchy.v2,
                )
            })
            .collect()
    }

    #[test]
    fn controllers_are_found_on_v1_v2_and_mixed_machines() {
        let v1 = "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  32 29 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let unified = "33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let expected_v1 = vec![
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct", false),
            ("memory", "/sys/fs/cgroup/memory", false),
            ("pids", "/sys/fs/cgroup/pids", false),
        ];
        let hybrid = Hierarchies::from_mountinfo(&format!("{v1}{unified}"), |_| "hugetlb".to_owned());
        assert_eq!(named(&hybrid), expected_v1);
        assert!(hybrid.missing().is_empty());

        let pure = "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let pure = Hierarchies::from_mountinfo(pure, |_| "cpuset cpu io memory pids".to_owned());
        assert!(
            pure.found
                .iter()
                .all(|hierarchy| hierarchy.v2 && hierarchy.root == Path::new("/sys/fs/cgroup"))
        );
        assert_eq!(pure.found.len(), 3);

        let mixed = Hierarchies::from_mountinfo(
            &format!("{unified}31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
            |_| "cpu".to_owned(),
        );
        assert_eq!(
            named(&mixed),
            vec![
                ("cpu", "/sys/fs/cgroup/unified", true),
                ("memory", "/sys/fs/cgroup/memory", false)
            ]
        );
        assert_eq!(mixed.missing(), vec![ControllerKind::Pids]);
    }

    #[test]
    fn cpu_requests_become_shares_and_weights_as_the_kubelet_converts_them() {
        for (request, shares, weight) in [
            (None, 2, 1),
            (Some(1), 2, 1),
            (Some(100), 102, 4),
            (Some(1000), 1024, 39),
        ] {
            assert_eq!(cpu_shares(request), shares);
            assert_eq!(cpu_weight(shares), weight);
        }
        assert_eq!(cpu_weight(262_144), 10_000);
    }
}
