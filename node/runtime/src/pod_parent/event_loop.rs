//! The loop of a pod's parent: one poll over signals, the socket, its connections and the containers' pipes. Nothing in it
//! waits for anything but that poll, so a container that starts slowly, or a node process that does not read, holds up
//! nobody.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use protocol::runtime::ContainerState;

use super::child::{Child, Stage, StartOutcome, send_signal};
use super::log_writer::OutputStream;
use super::message::{FRAME_BYTES_MAX, FromParent, ReplyBody, Request, RequestBody, encode, take_frame};
use super::namespaces::PodNamespaces;
use crate::container::{ContainerLaunch, LaunchFailure};

/// A node process's connection.
struct Connection {
    id: u64,
    stream: UnixStream,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    is_closed: bool,
}

/// What a poll entry stands for. Containers and connections are named, not numbered: a list may change while the entries of
/// one poll are worked off.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Output(Pid, OutputStream),
    Status(Pid),
}

/// The pod's parent.
pub(crate) struct Parent {
    signals: SignalFd,
    listener: UnixListener,
    connections: Vec<Connection>,
    next_connection: u64,
    children: Vec<Child>,
    namespaces: PodNamespaces,
    null: OwnedFd,
}

impl Parent {
    pub(super) fn new(signals: SignalFd, listener: UnixListener, namespaces: PodNamespaces, null: OwnedFd) -> Self {
        Self {
            signals,
            listener,
            connections: Vec::new(),
            next_connection: 0,
            children: Vec::new(),
            namespaces,
            null,
        }
    }

    /// Runs until the pod's pid namespace dies (the node's side ends a parent with SIGKILL).
    pub(crate) fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => {
                    eprintln!("pod-parent: poll: {errno}");
                    return;
                }
            };
            for source in ready {
                match source {
                    Source::Signals => {
                        while let Ok(Some(_)) = self.signals.read_signal() {}
                        if self.reap() {
                            return;
                        }
                    }
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.serve(id),
                    Source::Output(pid, stream) => {
                        if let Some(child) = self.children.iter_mut().find(|child| child.pid == pid) {
                            child.pump(stream, false);
                        }
                    }
                    Source::Status(pid) => self.follow_start(pid),
                }
            }
            self.flush();
        }
    }

    fn wait(&self) -> nix::Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut polled = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let mut add = |source: Source, descriptor: BorrowedFd<'_>, flags: PollFlags| {
            sources.push(source);
            // SAFETY: the entries are dropped before this function returns, and with them the borrow, whose lifetime the
            // closure's signature cannot express.
            polled.push(PollFd::new(
                unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&descriptor)) },
                flags,
            ));
        };
        for connection in &self.connections {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !connection.outbound.is_empty());
            add(Source::Connection(connection.id), connection.stream.as_fd(), flags);
        }
        for child in &self.children {
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                if let Some(pipe) = &child.outputs[stream as usize] {
                    add(Source::Output(child.pid, stream), pipe.as_fd(), PollFlags::POLLIN);
                }
            }
            if let Some(pipe) = &child.status {
                add(Source::Status(child.pid), pipe.as_fd(), PollFlags::POLLIN);
            }
        }
        poll(&mut polled, PollTimeout::NONE)?;
        Ok(sources
            .into_iter()
            .zip(&polled)
            .filter(|(_, entry)| entry.revents().is_some_and(|events| !events.is_empty()))
            .map(|(source, _)| source)
            .collect())
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue; // such a connection could block the loop: it is dropped, and the node process connects again
            }
            self.next_connection += 1;
            self.connections.push(Connection {
                id: self.next_connection,
                stream,
                inbound: Vec::new(),
                outbound: Vec::new(),
                is_closed: false,
            });
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => {
                    connection.is_closed = true;
                    break;
                }
                Ok(count) => connection.inbound.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    connection.is_closed = true;
                    break;
                }
            }
        }
        let mut frames = Vec::new();
        loop {
            match take_frame(&mut connection.inbound) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => {
                    connection.is_closed = true;
                    break;
                }
            }
        }
        for frame in frames {
            self.answer(id, &frame);
        }
    }

    fn answer(&mut self, connection: u64, frame: &[u8]) {
        #[derive(serde::Deserialize)]
        struct OnlyId {
            id: u64,
        }
        let Ok(request) = serde_json::from_slice::<Request>(frame) else {
            if let Ok(OnlyId { id }) = serde_json::from_slice(frame) {
                self.send(
                    connection,
                    &FromParent::Reply {
                        id,
                        body: ReplyBody::NotUnderstood,
                    },
                );
            }
            return;
        };
        let body = match request.body {
            RequestBody::Start(launch) => match self.start(*launch, connection, request.id) {
                Some(body) => body,
                None => return, // answered when exec has succeeded or failed
            },
            RequestBody::Signal { container, signal } => self.signal(&container, signal),
            RequestBody::Status => ReplyBody::Status(self.states()),
        };
        self.send(connection, &FromParent::Reply { id: request.id, body });
    }

    fn states(&self) -> Vec<ContainerState> {
        self.children
            .iter()
            .filter(|child| child.stage != Stage::Starting)
            .map(|child| child.state.clone())
            .collect()
    }

    fn start(&mut self, launch: ContainerLaunch, connection: u64, request: u64) -> Option<ReplyBody> {
        if let Some(child) = self.children.iter_mut().find(|child| child.launch.name == launch.name) {
            if child.launch.attempt == launch.attempt {
                if child.stage == Stage::Starting {
                    child.waiting.push((connection, request));
                    return None;
                }
                return Some(ReplyBody::Started(child.state.clone()));
            }
            if child.stage != Stage::Ended {
                return Some(ReplyBody::Failed(LaunchFailure::configuration(format!(
                    "start {} of container {} still runs: end it before start {}",
                    child.launch.attempt, launch.name, launch.attempt
                ))));
            }
        }
        self.children.retain(|child| child.launch.name != launch.name);
        match Child::start(launch, &self.null, self.namespaces.user.as_ref().map(AsFd::as_fd)) {
            Ok(mut child) => {
                child.waiting.push((connection, request));
                self.children.push(child);
                None
            }
            Err(failure) => Some(ReplyBody::Failed(failure)),
        }
    }

    fn signal(&self, container: &str, signal: i32) -> ReplyBody {
        match self.children.iter().find(|child| child.launch.name == container) {
            None => ReplyBody::Absent,
            Some(child) if child.stage == Stage::Ended => ReplyBody::Signalled,
            Some(child) => match send_signal(child.pid, signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => ReplyBody::Signalled,
                Err(errno) => ReplyBody::Failed(LaunchFailure::kernel(format!("kill({signal})"), errno)),
            },
        }
    }

    /// The status pipe of a starting container has something to say.
    fn follow_start(&mut self, pid: Pid) {
        let Some(index) = self.children.iter().position(|child| child.pid == pid) else {
            return;
        };
        let child = &mut self.children[index];
        let outcome = child.read_status();
        let pid = child.pid; // it may have been told just now
        let body = match outcome {
            StartOutcome::Pending => return,
            StartOutcome::Started => match child.record() {
                Ok(()) => ReplyBody::Started(child.state.clone()),
                Err(error) => {
                    // A container without a record would be forgotten by a later node process: it must not run.
                    let _ = send_signal(pid, libc::SIGKILL); // it may have ended already
                    ReplyBody::Failed(LaunchFailure::kernel("record of the container's start", error))
                }
            },
            StartOutcome::Failed(failure) => ReplyBody::Failed(failure),
        };
        let waiting = std::mem::take(&mut child.waiting);
        if matches!(body, ReplyBody::Failed(_)) {
            self.children.remove(index);
            let _ = waitpid(pid, None); // it has reported its failure and is leaving
        }
        for (connection, id) in waiting {
            self.send(connection, &FromParent::Reply { id, body: body.clone() });
        }
    }

    /// Hears of all starts that are under way: the pid of a container may be told in a pipe that was not read yet.
    fn follow_all_starts(&mut self) {
        let starting: Vec<Pid> = self
            .children
            .iter()
            .filter(|child| child.stage == Stage::Starting)
            .map(|child| child.pid)
            .collect();
        for pid in starting {
            self.follow_start(pid);
        }
    }

    /// Records and reaps what has ended. True when the pod's pid namespace is gone and with it all containers.
    fn reap(&mut self) -> bool {
        loop {
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let status = match waitid(Id::All, peek) {
                Ok(WaitStatus::StillAlive) | Err(_) => return false,
                Ok(status) => status,
            };
            let Some(pid) = status.pid() else { return false };
            if self.namespaces.pid_holder == Some(pid) {
                eprintln!("pod-parent: the first process of the pod's pid namespace ended: {status:?}");
                return true;
            }
            // A child that ended before its status pipe was read: the pipe is complete now.
            self.follow_all_starts();
            if let Some(child) = self.children.iter_mut().find(|child| child.pid == pid) {
                let (container, attempt) = (child.launch.name.clone(), child.launch.attempt);
                match child.end(status) {
                    Ok(exit) => self.broadcast(&FromParent::Ended {
                        container,
                        attempt,
                        exit,
                    }),
                    Err(error) => {
                        // A full disk: the exit is in memory here as long as this process lives, and is told all the same.
                        eprintln!("pod-parent: the exit of {container} cannot be recorded: {error}");
                        if let protocol::runtime::ContainerPhase::Exited(exit) = &child.state.phase {
                            let exit = exit.clone();
                            self.broadcast(&FromParent::Ended {
                                container,
                                attempt,
                                exit,
                            });
                        }
                    }
                }
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG)); // reaped above when its start had failed
        }
    }

    fn broadcast(&mut self, message: &FromParent) {
        let frame = encode(message);
        for connection in &mut self.connections {
            connection.outbound.extend_from_slice(&frame);
        }
    }

    fn send(&mut self, connection: u64, message: &FromParent) {
        if let Some(connection) = self.connections.iter_mut().find(|candidate| candidate.id == connection) {
            connection.outbound.extend_from_slice(&encode(message));
        }
    }

    /// Writes what connections can take; drops those that are closed, or that have not read for so long that they never will.
    fn flush(&mut self) {
        for connection in &mut self.connections {
            while !connection.outbound.is_empty() {
                match connection.stream.write(&connection.outbound) {
                    Ok(count) => drop(connection.outbound.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        connection.is_closed = true;
                        break;
                    }
                }
            }
            connection.is_closed |= connection.outbound.len() > FRAME_BYTES_MAX;
        }
        self.connections.retain(|connection| !connection.is_closed);
    }
}
