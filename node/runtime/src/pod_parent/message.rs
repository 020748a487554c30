//! What the node process and a pod's parent say to each other over the socket in the pod's directory: frames of a length
//! (u32, little endian) and JSON. The two may be binaries of different versions (the node process is upgraded under running
//! pods), so fields are only added, with a serde default, and an unknown request is answered, not fatal.

use std::io;
use std::path::PathBuf;

use protocol::runtime::{ContainerExit, ContainerState};
use serde::{Deserialize, Serialize};

use crate::container::{CgroupEntry, ContainerLaunch, IdRange, LaunchFailure};

/// No frame is longer: a launch is a few kilobytes, its environment at most a few megabytes.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;

/// What the parent is to be, written by the node's side into the pod's directory before the parent starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ParentConfig {
    /// Whether it makes a network namespace.
    pub own_network: bool,
    /// Whether it makes an ipc namespace.
    pub own_ipc: bool,
    /// Whether it makes one pid namespace for all containers.
    pub shared_pids: bool,
    /// The node's ids of the user namespace that it makes, and to which the others belong.
    #[serde(default)]
    pub user_namespace: Option<IdRange>,
    /// The UTS hostname.
    pub hostname: String,
    /// Namespaced sysctls.
    pub sysctls: Vec<(String, String)>,
    /// Memory file systems that it holds.
    pub memory_mounts: Vec<MemoryMount>,
    /// The group in which parents live.
    pub cgroup: CgroupEntry,
}

/// A tmpfs in the parent's mount namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemoryMount {
    /// Where.
    pub path: PathBuf,
    /// At most so many bytes.
    pub size_bytes: Option<u64>,
    /// Permission bits of its root.
    pub mode: u32,
}

/// The one line that the parent writes to its standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Readiness {
    /// It listens.
    Ready(ParentIdentity),
    /// It could not set itself up.
    Failed(LaunchFailure),
}

/// Names a process for ever: a pid is reused, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ParentIdentity {
    /// The pid, in the node's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/pid/stat`.
    pub start_ticks: u64,
}

impl ParentIdentity {
    /// The identity of a live process; `None` when there is none or it is a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name, in parentheses, may hold spaces and parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, start_ticks })
    }

    /// Whether this very process lives.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// From the node process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Chosen by the node process; the reply carries it.
    pub id: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// What the node process asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum RequestBody {
    /// Start a container.
    Start(Box<ContainerLaunch>),
    /// Signal the first process of a container's last start.
    Signal {
        /// The container.
        container: String,
        /// The signal.
        signal: i32,
    },
    /// All containers that it remembers.
    Status,
    /// Run a command in a container. Descriptors come with it: standard input, output and error, or with a terminal the one
    /// socket through which its other end is sent back. The session lasts as long as the connection.
    Exec {
        /// The container.
        container: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Whether it gets a terminal.
        tty: bool,
    },
    /// Join a container's own streams. Three descriptors come with it, each the parent's end of a pipe: input, output, error.
    /// The session lasts as long as the connection.
    Attach {
        /// The container.
        container: String,
        /// Whether the client gives input.
        stdin: bool,
    },
    /// The size of the terminal of the container to which this connection is attached.
    Resize {
        /// Columns.
        width: u16,
        /// Lines.
        height: u16,
    },
}

/// From the pod's parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum FromParent {
    /// The answer to a request.
    Reply {
        /// The request's id.
        id: u64,
        /// The answer.
        body: ReplyBody,
    },
    /// A container ended; its record is on disk already.
    Ended {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// How.
        exit: ContainerExit,
    },
    /// The process of a session ended; told to that session's connection alone.
    SessionEnded {
        /// The exit code; 128 plus the signal when a signal ended it.
        code: i32,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ReplyBody {
    /// It runs.
    Started(ContainerState),
    /// It could not be started.
    Failed(LaunchFailure),
    /// The containers.
    Status(Vec<ContainerState>),
    /// It was signalled, or has ended.
    Signalled,
    /// The session has begun.
    SessionBegun,
    /// No container of that name.
    Absent,
    /// The request cannot be read: its binary is older than the node process's.
    NotUnderstood,
}

/// A message with its length in front.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    // Every message is plain structs of strings, numbers and lists: serialization cannot fail.
    serde_json::to_writer(&mut frame, message).expect("messages are plain values");
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Takes one complete frame's content off the front of a buffer.
///
/// # Errors
/// A length that no message has.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let content = buffer[4..4 + length].to_vec();
    buffer.drain(..4 + length);
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_wherever_the_stream_is_cut() {
        let request = Request {
            id: 7,
            body: RequestBody::Status,
        };
        let stream: Vec<u8> = [encode(&request), encode(&request)].concat();
        for cut in 0..stream.len() {
            let mut buffer = stream[..cut].to_vec();
            let mut count = 0;
            while take_frame(&mut buffer).unwrap().is_some() {
                count += 1;
            }
            buffer.extend_from_slice(&stream[cut..]);
            while let Some(frame) = take_frame(&mut buffer).unwrap() {
                assert_eq!(serde_json::from_slice::<Request>(&frame).unwrap().id, 7);
                count += 1;
            }
            assert_eq!(count, 2, "cut at {cut}");
        }
        assert!(take_frame(&mut vec![0xff; 8]).is_err());
    }

    #[test]
    fn this_process_is_alive_and_another_start_of_its_pid_is_not() {
        let own = ParentIdentity::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        assert!(
            !ParentIdentity {
                start_ticks: own.start_ticks + 1,
                ..own
            }
            .is_alive()
        );
    }
}
