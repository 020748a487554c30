//! The last step: the program is looked up in the container's PATH and executed. It returns only on failure.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::launch::LaunchFailure;

/// Used when neither image nor pod sets PATH (as containerd does).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes `argv` with `env`. The candidates of the PATH are tried in order; one that may not be executed is remembered
/// as the reason when no later one works, as execvp(3) does.
pub(crate) fn execute(argv: &[String], env: &[(String, String)]) -> LaunchFailure {
    let Some(program) = argv.first() else {
        return LaunchFailure::configuration(
            "there is no program to execute: the image has no entrypoint, set command",
        );
    };
    let mut pointers = Vec::with_capacity(argv.len());
    for argument in argv {
        match CString::new(argument.as_bytes()) {
            Ok(argument) => pointers.push(argument),
            Err(_) => return LaunchFailure::configuration("an argument contains a NUL byte"),
        }
    }
    let mut variables = Vec::with_capacity(env.len());
    for (name, value) in env {
        match CString::new(format!("{name}={value}")) {
            Ok(variable) => variables.push(variable),
            Err(_) => return LaunchFailure::configuration(format!("the variable {name:?} contains a NUL byte")),
        }
    }
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    let candidates: Vec<std::path::PathBuf> = if program.contains('/') {
        vec![Path::new(program).to_owned()]
    } else {
        path.split(':')
            .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(program))
            .collect()
    };
    let mut reason = Errno::ENOENT;
    for candidate in candidates {
        let Ok(candidate) = CString::new(OsStr::as_bytes(candidate.as_os_str())) else {
            continue;
        };
        let Err(errno) = nix::unistd::execve(&candidate, &pointers, &variables);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => reason = errno,
            _ => {
                reason = errno;
                break;
            }
        }
    }
    let reason = match reason {
        Errno::ENOENT if !program.contains('/') => {
            format!("{} in the container's PATH ({path})", reason.desc())
        }
        Errno::ENOENT => format!(
            "{}: the file, or the interpreter that it names, is absent",
            reason.desc()
        ),
        Errno::ENOEXEC => format!("{}: made for another machine, or not a program", reason.desc()),
        other => other.desc().to_owned(),
    };
    LaunchFailure::Exec {
        program: program.clone(),
        reason,
    }
}
