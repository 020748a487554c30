//! A machine that lacks what a node needs: a kernel without a feature, no root rights. The real node is started there, says
//! what is missing and what to do, ends with a failure, and leaves nothing.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::kernel::{Lacking, without};
use tests::machine::{Machine, Wire};
use tests::{remains, wait_for};

/// How long a node may take to find that it cannot run.
const BOUND: Duration = Duration::from_secs(20);

fn binary() -> PathBuf {
    PathBuf::from(std::env::var_os("ACTORIUM_BIN").expect("ACTORIUM_BIN names the program: run `cargo xtask test`"))
}

/// Starts a node of a name of its own on a machine; `prepare` takes from it what it shall lack. What it said before it ended.
fn refusal(machine: &Machine, name: &str, program: PathBuf, prepare: impl FnOnce(&mut Command)) -> String {
    let name = format!("t{}-{name}", std::process::id());
    let data_dir = std::env::temp_dir().join(format!("actorium-{name}"));
    let mut command = Command::new(program);
    command
        .args([
            "node",
            "start",
            "--name",
            &name,
            "--address",
            &machine.address.to_string(),
        ])
        .arg("--data-dir")
        .arg(&data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    prepare(machine.place(&mut command));
    let output = end(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{name} ended with {}: {said}",
        output.status
    );
    assert_eq!(
        remains::of_node(&name, &data_dir, machine),
        Vec::<String>::new(),
        "{name} left something"
    );
    said
}

/// Runs a command that must end by itself.
fn end(mut command: Command) -> Output {
    let mut child = command.spawn().expect("the node's process starts");
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("a node that cannot run ends", BOUND, || match child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }));
    if ended.is_err() {
        child.kill().expect("it can be killed");
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(
        ended.is_ok(),
        "the node runs: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn a_kernel_without_a_needed_feature_is_refused_with_advice() {
    let wire = Wire::new(9);
    let machine = wire.machine(1);
    let cases: [(&str, Lacking, &[&str]); 6] = [
        (
            "nftables",
            Lacking::Netfilter,
            &["this kernel has no nftables with NAT", "Load the modules nf_tables"],
        ),
        (
            "overlay-mounts",
            Lacking::OverlayMounts,
            &[
                "overlayfs cannot be mounted",
                "ENODEV",
                "choose a data directory on ext4",
            ],
        ),
        (
            "overlay-listed",
            Lacking::OverlayListed,
            &["the kernel has no file system overlay: load the module: modprobe overlay"],
        ),
        (
            "namespaces",
            Lacking::Namespaces,
            &["namespaces cannot be made (Invalid argument", "use a kernel with them"],
        ),
        (
            "young-kernel",
            Lacking::MountSetattr,
            &["the kernel lacks mount_setattr(2): use Linux 5.12 or later"],
        ),
        (
            "cgroups",
            Lacking::Cgroups,
            &[
                "the cgroup controllers",
                "are mounted nowhere: mount cgroup2 at /sys/fs/cgroup",
            ],
        ),
    ];
    for (name, lacking, parts) in cases {
        let said = refusal(&machine, name, binary(), |command| {
            without(lacking, command);
        });
        assert!(
            said.starts_with("error: this machine cannot run pods:\n"),
            "{name}: {said}"
        );
        for part in parts {
            assert!(said.contains(part), "{name}: {part:?} is not in\n{said}");
        }
        // What is there is not called missing.
        assert_eq!(
            said.trim().lines().count(),
            if lacking == Lacking::OverlayListed { 3 } else { 2 },
            "{name}: {said}"
        );
    }
}

#[test]
fn a_node_without_root_rights_says_so() {
    use std::os::unix::process::CommandExt;
    let wire = Wire::new(10);
    let machine = wire.machine(1);
    // Where everybody may execute it: the build's directory may be closed to others.
    let program = std::env::temp_dir().join(format!("actorium-program-{}", std::process::id()));
    // Copied by another process: while this one holds the copy open for writing, a process that a test beside this one starts
    // would inherit that, and nobody could execute it (ETXTBSY).
    let copied = std::process::Command::new("cp").arg(binary()).arg(&program).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program can be copied");
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        refusal(&machine, "unprivileged", program.clone(), |command| {
            // After the machine's namespace was entered, which needs the rights that are given up here: the standard library
            // gives them up before, so it is done by hand.
            // SAFETY: setgroups, setgid and setuid are system calls with constant arguments.
            unsafe {
                command.pre_exec(|| {
                    nix::unistd::setgroups(&[])?;
                    nix::unistd::setgid(nix::unistd::Gid::from_raw(65_534))?;
                    Ok(nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534))?)
                });
            }
        })
    }));
    std::fs::remove_file(&program).expect("the copy can be removed");
    let said = refused.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(
        said.contains("this process runs as uid 65534: start the node as root, for example with sudo"),
        "{said}"
    );
}
