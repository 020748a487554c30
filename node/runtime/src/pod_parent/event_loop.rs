//! The loop of a pod's parent: one poll over signals, the socket, its connections and the containers' pipes. Nothing in it
//! waits for anything but that poll, so a container that starts slowly, or a node process that does not read, holds up
//! nobody.

use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use protocol::runtime::ContainerState;

use super::attach::Attachment;
use super::child::{Child, Stage, send_signal};
use super::exec::ExecSession;
use super::log_writer::OutputStream;
use super::message::{FRAME_BYTES_MAX, FromParent, ReplyBody, Request, RequestBody, encode, take_frame};
use super::namespaces::PodNamespaces;
use super::status_pipe::StartOutcome;
use crate::container::join::JoiningStreams;
use crate::container::{ContainerLaunch, LaunchFailure};

/// A node process's connection.
struct Connection {
    id: u64,
    stream: UnixStream,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    /// Came with bytes that make a request, which takes them.
    descriptors: Vec<OwnedFd>,
    is_closed: bool,
}

/// A request carries no more descriptors.
const DESCRIPTORS_MAX: usize = 3;

/// What a poll entry stands for. Containers and connections are named, not numbered: a list may change while the entries of
/// one poll are worked off.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Output(Pid, OutputStream),
    Status(Pid),
    ExecStatus(u64),
    AttachedOutput(u64, OutputStream),
    AttachedInput(u64),
}

/// The pod's parent.
pub(crate) struct Parent {
    signals: SignalFd,
    listener: UnixListener,
    connections: Vec<Connection>,
    next_connection: u64,
    children: Vec<Child>,
    commands: Vec<ExecSession>,
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
            commands: Vec::new(),
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
                    Source::ExecStatus(connection) => self.follow_command(connection),
                    Source::AttachedOutput(connection, stream) => {
                        for attachment in self.children.iter_mut().flat_map(|child| &mut child.attachments) {
                            if attachment.connection == connection {
                                attachment.flush(stream);
                            }
                        }
                    }
                    Source::AttachedInput(connection) => {
                        self.children.iter_mut().for_each(|child| child.feed(connection));
                    }
                }
            }
            self.release_attached();
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
                if let Some(pipe) = &child.outputs[stream as usize]
                    && child.may_pump(stream)
                {
                    add(Source::Output(child.pid, stream), pipe.as_fd(), PollFlags::POLLIN);
                }
                for attachment in &child.attachments {
                    if let Some(pipe) = attachment.output(stream) {
                        let source = Source::AttachedOutput(attachment.connection, stream);
                        add(source, pipe.as_fd(), PollFlags::POLLOUT);
                    }
                }
            }
            for attachment in &child.attachments {
                let source = Source::AttachedInput(attachment.connection);
                if let Some(pipe) = attachment.readable_input() {
                    add(source, pipe.as_fd(), PollFlags::POLLIN);
                } else if let (true, Some(input)) = (attachment.has_unfed(), child.input()) {
                    add(source, input.as_fd(), PollFlags::POLLOUT);
                }
            }
            if let Some(pipe) = child.status.descriptor() {
                add(Source::Status(child.pid), pipe, PollFlags::POLLIN);
            }
        }
        for command in &self.commands {
            if let Some(pipe) = command.status.descriptor() {
                add(Source::ExecStatus(command.connection), pipe, PollFlags::POLLIN);
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
                descriptors: Vec::new(),
                is_closed: false,
            });
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else {
            return;
        };
        connection.receive();
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
            RequestBody::Exec { container, argv, tty } => {
                match self.exec(&container, &argv, tty, (connection, request.id)) {
                    Some(body) => body,
                    None => return, // answered when exec has succeeded or failed
                }
            }
            RequestBody::Attach { container, stdin } => self.attach(&container, stdin, connection),
            RequestBody::Resize { width, height } => {
                let is_client = |child: &&Child| child.attachments.iter().any(|a| a.connection == connection);
                match self.children.iter().find(is_client) {
                    Some(child) => child.resize(width, height),
                    None => return, // the container has ended meanwhile
                }
                return;
            }
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
        self.release_earlier(&launch.name);
        let joined = match self.joined(&launch) {
            Ok(joined) => joined,
            Err(failure) => return Some(ReplyBody::Failed(failure)),
        };
        let user_namespace = self.namespaces.user.as_ref().map(AsFd::as_fd);
        match Child::start(launch, &self.null, user_namespace, joined) {
            Ok(mut child) => {
                child.waiting.push((connection, request));
                self.children.push(child);
                None
            }
            Err(failure) => Some(ReplyBody::Failed(failure)),
        }
    }

    /// The first process of the container whose pid namespace a new one enters.
    fn joined(&self, launch: &ContainerLaunch) -> Result<Option<Pid>, LaunchFailure> {
        let Some(target) = &launch.pid_namespace_of else {
            return Ok(None);
        };
        let is_target = |child: &&Child| child.launch.name == *target && child.stage == Stage::Running;
        match self.children.iter().find(is_target) {
            Some(child) => Ok(Some(child.pid)),
            None => Err(LaunchFailure::configuration(format!(
                "unable to find target container {target}: it does not run"
            ))),
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
        let begun: Vec<u64> = self.commands.iter().map(|command| command.connection).collect();
        for connection in begun {
            self.follow_command(connection);
        }
    }

    /// Takes the descriptors that came with a request.
    fn take_descriptors<const N: usize>(&mut self, connection: u64) -> Result<[OwnedFd; N], LaunchFailure> {
        let connection = self.connections.iter_mut().find(|candidate| candidate.id == connection);
        let descriptors = connection.map(|connection| std::mem::take(&mut connection.descriptors));
        descriptors
            .unwrap_or_default()
            .try_into()
            .map_err(|came: Vec<OwnedFd>| {
                LaunchFailure::configuration(format!(
                    "the session came with {} descriptors instead of {N}",
                    came.len()
                ))
            })
    }

    fn exec(
        &mut self,
        container: &str,
        argv: &[String],
        tty: bool,
        (connection, request): (u64, u64),
    ) -> Option<ReplyBody> {
        let streams = if tty {
            self.take_descriptors(connection)
                .map(|[socket]| JoiningStreams::Terminal(socket))
        } else {
            self.take_descriptors(connection).map(JoiningStreams::Pipes)
        };
        let is_running = |child: &&Child| child.launch.name == container && child.stage == Stage::Running;
        let Some(child) = self.children.iter().find(is_running) else {
            return Some(ReplyBody::Absent);
        };
        let started = streams
            .and_then(|streams| ExecSession::start(&child.launch, child.pid, argv, streams, (connection, request)));
        match started {
            Ok(command) => {
                self.commands.push(command);
                None
            }
            Err(failure) => Some(ReplyBody::Failed(failure)),
        }
    }

    fn attach(&mut self, container: &str, stdin: bool, connection: u64) -> ReplyBody {
        let descriptors = self.take_descriptors(connection);
        let is_running = |child: &&mut Child| child.launch.name == container && child.stage == Stage::Running;
        let Some(child) = self.children.iter_mut().find(is_running) else {
            return ReplyBody::Absent;
        };
        match descriptors.and_then(|descriptors| Attachment::new(connection, stdin, descriptors)) {
            Ok(attachment) => {
                child.attachments.push(attachment);
                ReplyBody::SessionBegun
            }
            Err(failure) => ReplyBody::Failed(failure),
        }
    }

    /// The status pipe of a command has something to say.
    fn follow_command(&mut self, connection: u64) {
        let Some(index) = self
            .commands
            .iter()
            .position(|command| command.connection == connection)
        else {
            return;
        };
        let command = &mut self.commands[index];
        let outcome = command.status.read(&mut command.pid);
        if command.is_abandoned && !command.status.awaits_successor() {
            command.kill();
        }
        let (request, pid) = (command.request, command.pid);
        let body = match outcome {
            StartOutcome::Pending => return,
            StartOutcome::Started => ReplyBody::SessionBegun,
            StartOutcome::Failed(failure) => {
                self.commands.remove(index);
                let _ = waitpid(pid, None); // it has reported its failure and is leaving
                ReplyBody::Failed(failure)
            }
        };
        self.send(connection, &FromParent::Reply { id: request, body });
    }

    /// A connection has ended: so do its sessions.
    fn end_sessions(&mut self, connection: u64) {
        for command in self
            .commands
            .iter_mut()
            .filter(|command| command.connection == connection)
        {
            command.abandon();
        }
        self.children.iter_mut().for_each(|child| child.detach(connection));
    }

    /// Clients of a container that has ended are told so when they have taken all that it wrote.
    fn release_attached(&mut self) {
        let mut told = Vec::new();
        for child in self.children.iter_mut().filter(|child| child.stage == Stage::Ended) {
            let code = exit_code(&child.state);
            child.attachments.retain(|attachment| {
                let is_even = attachment.is_even();
                if is_even {
                    told.push((attachment.connection, code));
                }
                !is_even
            });
        }
        for (connection, code) in told {
            self.send(connection, &FromParent::SessionEnded { code });
        }
    }

    /// Forgets an earlier start of a container. A client that has not read to its end is told of it all the same.
    fn release_earlier(&mut self, name: &str) {
        let mut told = Vec::new();
        for child in self.children.iter().filter(|child| child.launch.name == name) {
            let code = exit_code(&child.state);
            told.extend(child.attachments.iter().map(|attachment| (attachment.connection, code)));
        }
        self.children.retain(|child| child.launch.name != name);
        for (connection, code) in told {
            self.send(connection, &FromParent::SessionEnded { code });
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
            if let Some(index) = self.commands.iter().position(|command| command.is_process(pid)) {
                let command = self.commands.swap_remove(index);
                let code = code_of(status);
                self.send(command.connection, &FromParent::SessionEnded { code });
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
        let closed: Vec<u64> = self
            .connections
            .iter()
            .filter(|connection| connection.is_closed)
            .map(|connection| connection.id)
            .collect();
        self.connections.retain(|connection| !connection.is_closed);
        for connection in closed {
            self.end_sessions(connection);
        }
    }
}

impl Connection {
    /// Takes what has come, with the descriptors that came with it.
    fn receive(&mut self) {
        let mut buffer = [0; 16 << 10];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_MAX]);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut control), flags);
            let count = match received {
                Ok(message) => {
                    for part in message.cmsgs().into_iter().flatten() {
                        if let ControlMessageOwned::ScmRights(descriptors) = part {
                            // SAFETY: the kernel has just made these descriptors, and nothing else owns them.
                            let owned = descriptors.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
                            self.descriptors.extend(owned);
                        }
                    }
                    message.bytes
                }
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(_) => 0,
            };
            self.inbound.extend_from_slice(&buffer[..count]);
            // Only our own binary connects, and it sends no more: without a bound, one that does would fill the table.
            self.is_closed |= count == 0 || self.descriptors.len() > DESCRIPTORS_MAX;
            if self.is_closed {
                break;
            }
        }
    }
}

fn exit_code(state: &ContainerState) -> i32 {
    match &state.phase {
        protocol::runtime::ContainerPhase::Exited(exit) => exit.exit_code,
        protocol::runtime::ContainerPhase::Running { .. } => 0,
    }
}

fn code_of(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 255,
    }
}
