//! A command that goes on, such as `kubectl get --watch` or `logs -f`: its lines as they come. Dropping it ends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A command that goes on.
pub struct Following {
    process: Child,
    lines: Receiver<String>,
}

impl Following {
    /// Starts it. What it complains of goes where the test's own complaints go.
    pub fn start(mut command: Command) -> Following {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program starts");
        let printed = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Following { process, lines }
    }

    /// The next line; `None` when it has ended, or when the deadline is past.
    pub fn next(&self, deadline: Instant) -> Option<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).ok()
    }

    /// Waits for a line with all of these parts.
    pub fn expect(&self, parts: &[&str], bound: Duration) {
        let deadline = Instant::now() + bound;
        let mut seen = Vec::new();
        while let Some(line) = self.next(deadline) {
            if parts.iter().all(|part| line.contains(part)) {
                return;
            }
            seen.push(line);
        }
        panic!("no line with {parts:?}; seen: {seen:#?}");
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // SIGTERM and not SIGKILL: the program `timeout` passes that on to what it runs.
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
