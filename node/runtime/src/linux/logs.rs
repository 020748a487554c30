//! Reading containers' logs: from the CRI files that the pods' parents write, through rotation, to the bytes that a person
//! sees. Following waits for inotify events and for the container's end; it never polls.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::StreamExt;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use protocol::UnixMillis;
use protocol::runtime::{LogRequest, LogStream, RuntimeError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

use super::sandbox::Sandbox;
use super::{Shared, blocking};
use crate::failure::{configuration, io_failure};
use crate::pod_parent::log_writer::{FILES_MAX, rotated_path};

/// How much is read and passed on at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How many chunks wait for a slow reader.
const CHUNKS_WAITING: usize = 4;

/// Opens a container's log.
pub(super) async fn open(shared: &Arc<Shared>, request: &LogRequest) -> Result<LogStream, RuntimeError> {
    let uid = protocol::Uid::from(request.uid.as_str());
    let not_found = |what: String| RuntimeError::NotFound { what };
    let sandbox = shared
        .sandbox(&uid)
        .ok_or_else(|| not_found(format!("pod {}/{}", request.namespace, request.pod)))?;
    super::layout::checked_name("container", &request.container)?;
    let last = sandbox
        .known
        .lock()
        .containers
        .get(&request.container)
        .map(|state| state.attempt);
    let last = last.ok_or_else(|| {
        not_found(format!(
            "container {} of pod {}/{}",
            request.container, request.namespace, request.pod
        ))
    })?;
    let attempt = if request.previous {
        last.checked_sub(1).ok_or_else(|| {
            configuration(format!(
                "container {} was started once: there is no previous log",
                request.container
            ))
        })?
    } else {
        last
    };
    let path = sandbox.layout.log(&request.container, attempt);
    let options = request.clone();
    let reader = blocking({
        let path = path.clone();
        move || LogReader::open(path, &options).map_err(|error| io_failure("reading the container's log", &error))
    })
    .await?;
    let watch = if request.follow && !request.previous {
        let directory = sandbox.layout.container_logs(&request.container);
        Some(
            shared
                .log_watch
                .watch(&directory)
                .map_err(|error| io_failure("watching the container's log", &error))?,
        )
    } else {
        None
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let container = request.container.clone();
    tokio::spawn(async move { deliver(reader, &sandbox, &container, attempt, watch, sender).await });
    Ok(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    })
    .boxed())
}

async fn deliver(
    mut reader: LogReader,
    sandbox: &Arc<Sandbox>,
    container: &str,
    attempt: u32,
    watch: Option<Arc<Notify>>,
    sender: mpsc::Sender<Result<Bytes, RuntimeError>>,
) {
    let mut changes = sandbox.changes.subscribe();
    loop {
        // Asked before the read: what was written until the end is then read to the end.
        let is_live = watch.is_some() && sandbox.is_running(container, attempt);
        let mut notified = watch.as_ref().map(|watch| Box::pin(watch.notified()));
        if let Some(notified) = &mut notified {
            notified.as_mut().enable(); // an event from here on is not missed
        }
        loop {
            let read = blocking(move || {
                let chunk = reader
                    .next_chunk()
                    .map_err(|error| io_failure("reading the container's log", &error));
                Ok((reader, chunk))
            })
            .await;
            let chunk = match read {
                Ok((returned, Ok(chunk))) => {
                    reader = returned;
                    chunk
                }
                Ok((_, Err(error))) | Err(error) => {
                    let _ = sender.send(Err(error)).await; // a reader that left does not mind
                    return;
                }
            };
            if chunk.is_empty() {
                break;
            }
            if sender.send(Ok(Bytes::from(chunk))).await.is_err() {
                return;
            }
        }
        if !is_live || reader.is_full() {
            return;
        }
        let Some(notified) = notified else { return };
        tokio::select! {
            () = notified => {}
            _ = changes.changed() => {}
            () = sender.closed() => return,
        }
    }
}

/// Reads CRI files, the oldest first, and formats lines.
struct LogReader {
    path: PathBuf,
    /// Files still to be read, the oldest first, and the one being read.
    waiting: Vec<fs::File>,
    file: Option<fs::File>,
    /// Bytes of an incomplete line.
    rest: Vec<u8>,
    /// The last part written was tagged `P`: the next one continues its line.
    in_line: bool,
    /// Whether the line being continued is old enough to be left out.
    is_skipping: bool,
    timestamps: bool,
    since: Option<String>,
    bytes_left: Option<u64>,
}

impl LogReader {
    fn open(path: PathBuf, request: &LogRequest) -> io::Result<Self> {
        // Held open at once: a rotation in the middle then renames files that are already in hand.
        let mut files = Vec::new();
        for generation in (0..FILES_MAX).rev() {
            match fs::File::open(rotated_path(&path, generation)) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // A rotation between two opens shows one file under two names.
        files.dedup_by_key(|file| file.metadata().map(|metadata| metadata.ino()).unwrap_or_default());
        if let Some(lines) = request.tail_lines {
            files = seek_to_tail(files, lines)?;
        }
        files.reverse();
        Ok(Self {
            path,
            file: files.pop(),
            waiting: files,
            rest: Vec::new(),
            in_line: false,
            is_skipping: false,
            timestamps: request.timestamps,
            since: request.since_ms.map(since_text),
            bytes_left: request.limit_bytes,
        })
    }

    fn is_full(&self) -> bool {
        self.bytes_left == Some(0)
    }

    /// The next formatted bytes; empty when there are none at present.
    fn next_chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        while out.is_empty() && !self.is_full() {
            let Some(file) = &mut self.file else {
                match fs::File::open(&self.path) {
                    Ok(file) => self.file = Some(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(out),
                    Err(error) => return Err(error),
                }
                continue;
            };
            let count = file.read(&mut buffer)?;
            if count == 0 {
                if !self.next_file()? {
                    break;
                }
                continue;
            }
            self.rest.extend_from_slice(&buffer[..count]);
            self.format(&mut out);
        }
        Ok(out)
    }

    /// At a file's end: goes on with the next one, if there is one by now.
    fn next_file(&mut self) -> io::Result<bool> {
        if let Some(next) = self.waiting.pop() {
            self.file = Some(next);
            return Ok(true);
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let present = match fs::metadata(&self.path) {
            Ok(present) => present,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let own = file.metadata()?;
        if (present.ino(), present.dev()) == (own.ino(), own.dev()) {
            return Ok(false);
        }
        // It was rotated away, and may have been written to between the read and now.
        if own.len() > file.stream_position()? {
            return Ok(true);
        }
        for generation in (0..FILES_MAX).rev() {
            let candidate = rotated_path(&self.path, generation);
            let is_own = fs::metadata(&candidate).is_ok_and(|metadata| metadata.ino() == own.ino());
            if is_own && generation > 0 {
                let mut newer = Vec::new();
                for generation in 0..generation {
                    newer.push(fs::File::open(rotated_path(&self.path, generation))?);
                }
                self.file = newer.pop();
                self.waiting = newer;
                return Ok(true);
            }
        }
        self.file = Some(fs::File::open(&self.path)?); // rotated away more often than files are kept
        Ok(true)
    }

    fn format(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        let mut start = 0;
        while let Some(length) = rest[start..].iter().position(|byte| *byte == b'\n') {
            self.line(&rest[start..start + length], out);
            start += length + 1;
        }
        self.rest = rest[start..].to_vec();
        if let Some(left) = &mut self.bytes_left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
    }

    /// One line of the file: time, stream, tag, text.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let text = fields.next().unwrap_or_default();
        if !self.in_line {
            self.is_skipping = self.since.as_ref().is_some_and(|since| time < since.as_bytes());
            if self.timestamps && !self.is_skipping {
                out.extend_from_slice(time);
                out.push(b' ');
            }
        }
        self.in_line = tag == b"P";
        if !self.is_skipping {
            out.extend_from_slice(text);
            if !self.in_line {
                out.push(b'\n');
            }
        }
    }
}

/// RFC 3339 times in UTC with the same number of digits order as text does.
fn since_text(since_ms: u64) -> String {
    let mut text = UnixMillis(since_ms / 1000 * 1000).rfc3339();
    text.pop(); // the Z
    text.push_str(&format!(".{:03}000000Z", since_ms % 1000));
    text
}

/// Drops files and seeks so that the last so many lines remain. Parts of a line do not count as lines.
fn seek_to_tail(files: Vec<fs::File>, lines: u64) -> io::Result<Vec<fs::File>> {
    let mut kept = Vec::new();
    let mut found = 0;
    for mut file in files.into_iter().rev() {
        if found > lines || (lines == 0 && !kept.is_empty()) {
            break;
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let mut offset = content.len();
        // Backwards over the lines; one line more than asked for is looked at, to begin right after its end.
        while offset > 0 && found <= lines {
            let end = offset - 1;
            let begin = content[..end]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |position| position + 1);
            let tag = content[begin..end].splitn(4, |byte| *byte == b' ').nth(2);
            // A part at the very end of the log is an unfinished line, and counts.
            if tag == Some(b"F") || (found == 0 && tag.is_some()) {
                found += 1;
            }
            if found > lines {
                break;
            }
            offset = begin;
        }
        file.seek(SeekFrom::Start(offset as u64))?;
        kept.push(file);
    }
    kept.reverse();
    Ok(kept)
}

/// One inotify instance for all followers: the kernel allows 128 instances a user.
#[derive(Default)]
pub(super) struct LogWatch {
    state: Arc<Mutex<Option<WatchState>>>,
}

struct WatchState {
    inotify: Arc<Inotify>,
    directories: HashMap<WatchDescriptor, Weak<Notify>>,
}

impl LogWatch {
    /// Notifies of every change in a directory, as long as the result is held.
    fn watch(&self, directory: &Path) -> io::Result<Arc<Notify>> {
        let mut state = self.state.lock();
        if state.is_none() {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let descriptor = inotify.as_fd().try_clone_to_owned()?;
            // SAFETY: an OwnedFd gives the same open descriptor for as long as it lives, and AsyncFd owns it.
            let readiness = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
            let inotify = Arc::new(inotify);
            tokio::spawn(dispatch(readiness, inotify.clone(), Arc::downgrade(&self.state)));
            *state = Some(WatchState {
                inotify,
                directories: HashMap::new(),
            });
        }
        let Some(state) = state.as_mut() else {
            return Err(io::ErrorKind::Other.into());
        };
        let (inotify, mut unwatched) = (state.inotify.clone(), Vec::new());
        state.directories.retain(|descriptor, notify| {
            let is_held = notify.strong_count() > 0;
            if !is_held {
                unwatched.push(*descriptor);
            }
            is_held
        });
        for descriptor in unwatched {
            let _ = inotify.rm_watch(descriptor); // its directory may be gone, and the watch with it
        }
        // The same directory again gives the same descriptor.
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE;
        let descriptor = inotify.add_watch(directory, flags)?;
        if let Some(notify) = state.directories.get(&descriptor).and_then(Weak::upgrade) {
            return Ok(notify);
        }
        let notify = Arc::new(Notify::new());
        state.directories.insert(descriptor, Arc::downgrade(&notify));
        Ok(notify)
    }
}

async fn dispatch(readiness: AsyncFd<OwnedFd>, inotify: Arc<Inotify>, state: Weak<Mutex<Option<WatchState>>>) {
    loop {
        let Ok(mut ready) = readiness.readable().await else {
            return;
        };
        let Some(state) = state.upgrade() else { return };
        let read = ready.try_io(|_| inotify.read_events().map_err(io::Error::from));
        let Ok(Ok(events)) = read else { continue };
        let state = state.lock();
        let Some(state) = state.as_ref() else { return };
        for event in events {
            if let Some(notify) = state.directories.get(&event.wd).and_then(Weak::upgrade) {
                notify.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(path: &Path, request: &LogRequest) -> String {
        let mut reader = LogReader::open(path.to_owned(), request).unwrap();
        let mut text = Vec::new();
        loop {
            let chunk = reader.next_chunk().unwrap();
            if chunk.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend(chunk);
        }
    }

    fn sample() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        fs::write(
            rotated_path(&path, 1),
            "2026-01-01T00:00:01.000000000Z stdout F one\n2026-01-01T00:00:02.000000000Z stdout P tw\n",
        )
        .unwrap();
        fs::write(
            &path,
            "2026-01-01T00:00:02.000000001Z stdout F o\n2026-01-01T00:00:03.500000000Z stderr F three\n\
             2026-01-01T00:00:04.000000000Z stdout P end",
        )
        .unwrap();
        fs::write(&path, format!("{}\n", fs::read_to_string(&path).unwrap())).unwrap();
        (directory, path)
    }

    #[test]
    fn lines_are_reassembled_across_parts_and_rotated_files() {
        let (_directory, path) = sample();
        assert_eq!(read_all(&path, &LogRequest::default()), "one\ntwo\nthree\nend");
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let (_directory, path) = sample();
        for (lines, expected) in [
            (0, ""),
            (1, "end"),
            (2, "three\nend"),
            (3, "two\nthree\nend"),
            (9, "one\ntwo\nthree\nend"),
        ] {
            let request = LogRequest {
                tail_lines: Some(lines),
                ..LogRequest::default()
            };
            assert_eq!(read_all(&path, &request), expected, "{lines} lines");
        }
    }

    #[test]
    fn since_timestamps_and_limit_apply() {
        let (_directory, path) = sample();
        let instant = 1_767_225_603_500; // 2026-01-01T00:00:03.5Z
        let request = LogRequest {
            since_ms: Some(instant),
            timestamps: true,
            ..LogRequest::default()
        };
        assert_eq!(
            read_all(&path, &request),
            "2026-01-01T00:00:03.500000000Z three\n2026-01-01T00:00:04.000000000Z end"
        );
        let request = LogRequest {
            limit_bytes: Some(6),
            ..LogRequest::default()
        };
        assert_eq!(read_all(&path, &request), "one\ntw");
    }

    #[test]
    fn a_reader_goes_on_through_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        fs::write(&path, "T stdout F 1\n").unwrap();
        let mut reader = LogReader::open(path.clone(), &LogRequest::default()).unwrap();
        assert_eq!(reader.next_chunk().unwrap(), b"1\n");
        assert_eq!(reader.next_chunk().unwrap(), b"");
        for number in 2..4 {
            for generation in (0..3).rev() {
                let _ = fs::rename(rotated_path(&path, generation), rotated_path(&path, generation + 1));
            }
            fs::write(&path, format!("T stdout F {number}\n")).unwrap();
        }
        assert_eq!(reader.next_chunk().unwrap(), b"2\n");
        assert_eq!(reader.next_chunk().unwrap(), b"3\n");
        assert_eq!(reader.next_chunk().unwrap(), b"");
    }
}
