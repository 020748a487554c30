//! The program `actorium`. Started as `actorium pod-parent DIRECTORY` it is the small process that a pod's containers hang
//! below: that is decided before anything else, while the process still has one thread.

use std::process::ExitCode;

/// The store, the router and the scheduler pass objects between threads; this allocator frees across threads without a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let _program = arguments.next();
    if arguments.next().is_some_and(|first| first == "pod-parent") {
        return runtime::pod_parent::main(arguments);
    }
    node::command::run()
}
