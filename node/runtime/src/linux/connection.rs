//! The node's end of the socket to a pod's parent: requests with replies, and what the parent reports by itself. One task
//! reads, one writes; a caller that goes away leaves no half-written frame behind.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use parking_lot::Mutex;
use protocol::runtime::RuntimeError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::pod_parent::SOCKET_FILE;
use crate::pod_parent::message::{FromParent, ReplyBody, Request, RequestBody, encode, take_frame};

/// A parent answers at once, but for a start, which takes as long as its mounts.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens a socket to the parent of the pod with this directory.
pub(crate) fn connect(pod_directory: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    // Through a descriptor of the directory: a path in a socket address is limited to 108 bytes.
    let held = open(
        pod_directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let address = format!("/proc/self/fd/{}/{SOCKET_FILE}", held.as_raw_fd());
    std::os::unix::net::UnixStream::connect(address)
}

/// Who waits for which reply; `None` when the connection has ended and nobody will be answered any more.
type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<ReplyBody>>>>>;

/// A connection.
pub(crate) struct ParentConnection {
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    pending: Pending,
    next_id: AtomicU64,
}

/// What the reader hands on, in the order in which the parent said it.
pub(crate) enum Heard<'a> {
    /// An answer, before whoever asked gets it.
    Reply(&'a ReplyBody),
    /// A container ended.
    Ended(FromParent),
    /// The connection is gone.
    Closed,
}

impl ParentConnection {
    /// Connects to the parent of the pod with this directory. `hear` is called from the reading task.
    pub(crate) fn connect<F>(pod_directory: &Path, hear: F) -> io::Result<Arc<Self>>
    where
        F: Fn(Heard<'_>) + Send + Sync + 'static,
    {
        let stream = connect(pod_directory)?;
        stream.set_nonblocking(true)?;
        let (mut reading, mut writing) = UnixStream::from_std(stream)?.into_split();
        let (outgoing, mut frames) = mpsc::unbounded_channel::<Vec<u8>>();
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if writing.write_all(&frame).await.is_err() {
                    return; // the reader sees the same end and reports it
                }
            }
        });
        let waiting = pending.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while matches!(reading.read_buf(&mut buffer).await, Ok(count) if count > 0) {
                while let Ok(Some(frame)) = take_frame(&mut buffer) {
                    match serde_json::from_slice(&frame) {
                        Ok(FromParent::Reply { id, body }) => {
                            hear(Heard::Reply(&body));
                            let asker = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                            if let Some(asker) = asker {
                                let _ = asker.send(body); // an asker that went away needs no answer
                            }
                        }
                        Ok(ended) => hear(Heard::Ended(ended)),
                        Err(error) => tracing::warn!(%error, "a pod's parent said what this version does not know"),
                    }
                }
            }
            // First the askers: whoever handles the end may wait for one of them.
            *waiting.lock() = None;
            hear(Heard::Closed);
        });
        Ok(Arc::new(Self {
            outgoing,
            pending,
            next_id: AtomicU64::new(1),
        }))
    }

    /// Asks and waits.
    pub(crate) async fn ask(&self, body: RequestBody) -> Result<ReplyBody, RuntimeError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let gone = || RuntimeError::Failed {
            doing: "request to the pod's parent".to_owned(),
            reason: "it has gone: the pod needs a new sandbox".to_owned(),
        };
        self.pending.lock().as_mut().ok_or_else(gone)?.insert(id, sender);
        self.outgoing.send(encode(&Request { id, body })).map_err(|_| gone())?;
        match tokio::time::timeout(REPLY_TIMEOUT, receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                if let Some(waiting) = self.pending.lock().as_mut() {
                    waiting.remove(&id);
                }
                Err(RuntimeError::Failed {
                    doing: "request to the pod's parent".to_owned(),
                    reason: format!("no answer in {} s", REPLY_TIMEOUT.as_secs()),
                })
            }
        }
    }
}
