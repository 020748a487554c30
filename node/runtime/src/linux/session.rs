//! Exec and attach on the node's side: pipes or a terminal towards the container, streams of items towards the client, and one
//! task per session between them. When the client lets go of its output the task ends, and with it the session's socket to
//! the pod's parent, which ends the command.
//!
//! Bounded: a few items wait for the client; then nothing is read from the container, which waits in turn.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use protocol::Uid;
use protocol::runtime::{ContainerPhase, RuntimeError};
use protocol::session::{AttachSpec, ExecSpec, InputStream, OutputStream, SessionInput, SessionOutput, StreamChoice};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::session_control::{Resizing, SessionControl, receive_terminal};
use super::{Shared, blocking};
use crate::failure::{configuration, io_failure};
use crate::pod_parent::message::RequestBody;
use crate::pod_parent::terminal::set_window_size;

/// How much is read from a pipe at once.
const READ_BYTES: usize = 32 << 10;
/// How many items wait for the client.
const ITEMS_MAX: usize = 4;
/// What a process wrote is in its pipe when it has ended, but the pipe ends only when its children have closed it too. So
/// long is waited for each part of what they may still write.
const LINGER: Duration = Duration::from_millis(500);
/// And so much of it is read: all that the process itself can have left there, since no pipe holds more (pipe-max-size).
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Runs a command in a container.
pub(super) async fn exec(
    shared: &Arc<Shared>,
    spec: &ExecSpec,
    input: InputStream,
) -> Result<OutputStream, RuntimeError> {
    if spec.command.is_empty() {
        return Err(configuration("there is no command to run: name a program"));
    }
    let (directory, what) = running_container(shared, &spec.pod, &spec.container)?;
    let body = RequestBody::Exec {
        container: spec.container.clone(),
        argv: spec.command.clone(),
        tty: spec.streams.tty,
    };
    let streams = spec.streams;
    if streams.tty {
        let (stream, socket) = blocking(move || {
            let (ours, theirs) = BlockingStream::pair().map_err(|error| io_failure("making a socket pair", &error))?;
            Ok((SessionControl::ask(&directory, body, vec![theirs.into()])?, ours))
        })
        .await?;
        let (control, resizing) = SessionControl::begin(stream, &what).await?;
        let terminal = Arc::new(asynchronous(receive_terminal(&socket)?)?);
        let ends = Ends {
            stdin: streams.stdin.then(|| Arc::clone(&terminal)),
            outputs: [Some(Arc::clone(&terminal)), None],
            size: Size {
                resizing,
                of: Terminal::Own(terminal),
            },
        };
        return Ok(run(control, ends, streams, input));
    }
    let (stream, pipes) = blocking(move || {
        let (pipes, theirs) = Pipes::make(streams.stdin)?;
        Ok((SessionControl::ask(&directory, body, theirs)?, pipes))
    })
    .await?;
    let (control, resizing) = SessionControl::begin(stream, &what).await?;
    let size = Size {
        resizing,
        of: Terminal::None,
    };
    Ok(run(control, pipes.ends(size)?, streams, input))
}

/// Joins the streams of a container's first process.
pub(super) async fn attach(
    shared: &Arc<Shared>,
    spec: &AttachSpec,
    input: InputStream,
) -> Result<OutputStream, RuntimeError> {
    let (directory, what) = running_container(shared, &spec.pod, &spec.container)?;
    let streams = spec.streams;
    let body = RequestBody::Attach {
        container: spec.container.clone(),
        stdin: streams.stdin,
    };
    let (stream, pipes) = blocking(move || {
        let (pipes, theirs) = Pipes::make(streams.stdin)?;
        Ok((SessionControl::ask(&directory, body, theirs)?, pipes))
    })
    .await?;
    let (control, resizing) = SessionControl::begin(stream, &what).await?;
    let size = Size {
        resizing,
        of: Terminal::Container,
    };
    Ok(run(control, pipes.ends(size)?, streams, input))
}

/// The pod's directory, and what the container is called in messages.
fn running_container(
    shared: &Arc<Shared>,
    pod: &str,
    container: &str,
) -> Result<(std::path::PathBuf, String), RuntimeError> {
    let what = format!("a running container {container} of pod {pod}");
    let absent = || RuntimeError::NotFound { what: what.clone() };
    let sandbox = shared.sandbox(&Uid::from(pod.to_owned())).ok_or_else(absent)?;
    let is_running = {
        let known = sandbox.known.lock();
        let state = known.containers.get(container);
        state.is_some_and(|state| matches!(state.phase, ContainerPhase::Running { .. }))
    };
    if is_running {
        Ok((sandbox.layout.root.clone(), what))
    } else {
        Err(absent())
    }
}

/// This process's ends of a session's pipes.
struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    /// With the other ends: input, output and error. Output is always a pipe, since the container's user becomes its owner.
    fn make(stdin: bool) -> Result<(Pipes, Vec<OwnedFd>), RuntimeError> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| io_failure("making a pipe", &errno.into()));
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let (stdin, stdin_end) = if stdin {
            let (end, ours) = pipe()?;
            (Some(ours), end)
        } else {
            let null = File::open("/dev/null").map_err(|error| io_failure("opening /dev/null", &error))?;
            (None, null.into())
        };
        let ours = Pipes { stdin, stdout, stderr };
        Ok((ours, vec![stdin_end, stdout_end, stderr_end]))
    }

    fn ends(self, size: Size) -> Result<Ends, RuntimeError> {
        let asynchronous = |descriptor| asynchronous(descriptor).map(Arc::new);
        Ok(Ends {
            stdin: self.stdin.map(asynchronous).transpose()?,
            outputs: [Some(asynchronous(self.stdout)?), Some(asynchronous(self.stderr)?)],
            size,
        })
    }
}

type Descriptor = AsyncFd<File>;

fn asynchronous(descriptor: OwnedFd) -> Result<Descriptor, RuntimeError> {
    let failed = |error: io::Error| io_failure("polling a stream of the container", &error);
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed(errno.into()))?;
    // SAFETY: a File owns its descriptor, which stays open and the same for as long as the AsyncFd has the File.
    unsafe { AsyncFd::register(File::from(descriptor)) }.map_err(|error| failed(error.into()))
}

/// Everything towards the container.
struct Ends {
    stdin: Option<Arc<Descriptor>>,
    outputs: [Option<Arc<Descriptor>>; 2],
    size: Size,
}

/// The size of the client's terminal, and who is told. It lives as long as the session: dropping its half of the socket would
/// tell the parent that the client has gone.
struct Size {
    resizing: Resizing,
    of: Terminal,
}

/// Which terminal has a size.
enum Terminal {
    /// None.
    None,
    /// The command's own.
    Own(Arc<Descriptor>),
    /// The container's, which its parent holds.
    Container,
}

impl Size {
    async fn set(&mut self, width: u16, height: u16) {
        match &self.of {
            Terminal::None => {}
            Terminal::Own(terminal) => set_window_size(terminal.get_ref(), width, height),
            Terminal::Container => self.resizing.resize(width, height).await,
        }
    }
}

/// Starts the session's task.
fn run(control: SessionControl, ends: Ends, wanted: StreamChoice, input: InputStream) -> OutputStream {
    let (sender, receiver) = mpsc::channel(ITEMS_MAX);
    tokio::spawn(async move {
        let session = session(control, ends, wanted, input, &sender);
        tokio::select! {
            () = session => {}
            () = sender.closed() => {}
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
    .boxed()
}

type Client = mpsc::Sender<Result<SessionOutput, RuntimeError>>;

async fn session(
    mut control: SessionControl,
    mut ends: Ends,
    wanted: StreamChoice,
    input: InputStream,
    client: &Client,
) {
    let (ended, has_ended) = watch::channel(false);
    let [stdout, stderr] = ends.outputs;
    let out = pump(stdout, has_ended.clone(), client, |bytes| {
        wanted.stdout.then_some(SessionOutput::Stdout(bytes))
    });
    let err = pump(stderr, has_ended, client, |bytes| {
        wanted.stderr.then_some(SessionOutput::Stderr(bytes))
    });
    let exit = async {
        let code = control.ended().await;
        ended.send_replace(true);
        code
    };
    // What the client sends neither begins nor ends anything.
    let fed = async {
        feed(input, ends.stdin.take(), &mut ends.size).await;
        std::future::pending::<()>().await;
    };
    let (code, (), ()) = tokio::select! {
        over = async { tokio::join!(exit, out, err) } => over,
        () = fed => return,
    };
    let last = match code {
        Some(code) => Ok(SessionOutput::Exited { code }),
        None => Err(RuntimeError::Failed {
            doing: "a session with a container".to_owned(),
            reason: "the pod's parent has gone, and the container with it".to_owned(),
        }),
    };
    let _ = client.send(last).await; // a client that has gone needs no end
}

/// Moves output to the client until it ends.
async fn pump(
    source: Option<Arc<Descriptor>>,
    mut has_ended: watch::Receiver<bool>,
    client: &Client,
    item: impl Fn(Bytes) -> Option<SessionOutput>,
) {
    let Some(source) = source else { return };
    let mut buffer = vec![0; READ_BYTES];
    let mut lingering_bytes = 0;
    loop {
        let is_over = *has_ended.borrow_and_update();
        let count = if is_over {
            let read = tokio::time::timeout(LINGER, read(&source, &mut buffer)).await;
            read.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                count = read(&source, &mut buffer) => count,
                _ = has_ended.changed() => continue,
            }
        };
        // A terminal without its other end is an error (EIO), and as good an end as any.
        let Ok(count @ 1..) = count else { return };
        if let Some(item) = item(Bytes::copy_from_slice(&buffer[..count]))
            && client.send(Ok(item)).await.is_err()
        {
            return;
        }
        if is_over {
            lingering_bytes += count;
            if lingering_bytes >= LINGER_BYTES_MAX {
                return;
            }
        }
    }
}

/// Moves input to the container until the client ends it. A command that reads no more loses it.
async fn feed(mut input: InputStream, mut stdin: Option<Arc<Descriptor>>, size: &mut Size) {
    while let Some(item) = input.next().await {
        match item {
            SessionInput::Stdin(bytes) => {
                if let Some(open) = &stdin
                    && write_all(open, &bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            SessionInput::StdinClosed => stdin = None,
            SessionInput::Resize { width, height } => size.set(width, height).await,
        }
    }
}

/// Reads when there is something to read. Cancelling it loses nothing.
async fn read(source: &Descriptor, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = source.readable().await?;
        match ready.try_io(|source| source.get_ref().read(buffer)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_) => {} // it was not: wait again
        }
    }
}

async fn write_all(sink: &Descriptor, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = sink.writable().await?;
        match ready.try_io(|sink| sink.get_ref().write(bytes)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => bytes = &bytes[result?..],
            Err(_) => {}
        }
    }
    Ok(())
}
