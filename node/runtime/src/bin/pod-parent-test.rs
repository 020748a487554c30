//! The per-pod parent alone, for this crate's tests and examples; in production it is the node's own binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|verb| verb != "pod-parent") {
        eprintln!("usage: pod-parent-test pod-parent DIRECTORY");
        return ExitCode::from(2);
    }
    runtime::pod_parent::main(arguments)
}
