//! A container's log file: lines in the CRI format (`2026-01-31T12:00:00.123456789Z stdout F text`), rotated by size. Owned by
//! the pod's parent. A full disk loses lines, never blocks the container.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::UnixMillis;

/// A file is rotated when it has grown past this (the kubelet's containerLogMaxSize).
pub(crate) const FILE_BYTES_MAX: u64 = 10 << 20;
/// How many files are kept, with the one being written (containerLogMaxFiles).
pub(crate) const FILES_MAX: u32 = 5;
/// A longer line is written in parts, tagged `P`; the last part is tagged `F` (containerd's 16 KiB).
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    fn name(self) -> &'static str {
        match self {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        }
    }
}

/// The path of a rotated file; 0 is the one being written.
pub(crate) fn rotated_path(path: &Path, generation: u32) -> PathBuf {
    if generation == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{generation}"));
    PathBuf::from(name)
}

/// Writes one container's log.
pub(crate) struct LogWriter {
    path: PathBuf,
    file: Option<fs::File>,
    written_bytes: u64,
    file_bytes_max: u64,
    unfinished: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens (or goes on with) the file.
    pub(crate) fn open(path: &Path, file_bytes_max: u64) -> io::Result<Self> {
        let file = fs::OpenOptions::new().append(true).create(true).open(path)?;
        let written_bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            written_bytes,
            file_bytes_max,
            unfinished: Default::default(),
        })
    }

    /// Takes what the container wrote; whole lines go to the file.
    pub(crate) fn push(&mut self, stream: OutputStream, bytes: &[u8], now: &str) {
        let mut out = Vec::with_capacity(bytes.len() + 128);
        let mut pending = std::mem::take(&mut self.unfinished[stream as usize]);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            pending.extend_from_slice(text);
            let mut start = 0;
            while pending.len() - start > LINE_BYTES_MAX {
                line(&mut out, stream, b'P', &pending[start..start + LINE_BYTES_MAX], now);
                start += LINE_BYTES_MAX;
            }
            if is_whole {
                line(&mut out, stream, b'F', &pending[start..], now);
                pending.clear();
            } else {
                pending.drain(..start);
            }
        }
        self.unfinished[stream as usize] = pending;
        self.write(&out);
    }

    /// The stream has ended: a last line without newline is kept, as a part that nothing follows.
    pub(crate) fn finish(&mut self, stream: OutputStream, now: &str) {
        let pending = std::mem::take(&mut self.unfinished[stream as usize]);
        if !pending.is_empty() {
            let mut out = Vec::with_capacity(pending.len() + 64);
            line(&mut out, stream, b'P', &pending, now);
            self.write(&out);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.written_bytes >= self.file_bytes_max {
            self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.written_bytes += bytes.len() as u64;
        }
    }

    fn rotate(&mut self) {
        for generation in (0..FILES_MAX - 1).rev() {
            // A generation that does not exist yet is no failure; any other leaves the older file in place.
            let _ = fs::rename(
                rotated_path(&self.path, generation),
                rotated_path(&self.path, generation + 1),
            );
        }
        self.file = fs::OpenOptions::new().append(true).create(true).open(&self.path).ok();
        self.written_bytes = 0;
    }
}

fn line(out: &mut Vec<u8>, stream: OutputStream, tag: u8, text: &[u8], now: &str) {
    out.extend_from_slice(now.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The present instant as RFC 3339 with nanoseconds.
pub(crate) fn timestamp() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = UnixMillis(since_epoch.as_secs() * 1000).rfc3339();
    text.pop(); // the Z
    text.push_str(&format!(".{:09}Z", since_epoch.subsec_nanos()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_newlines_and_at_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogWriter::open(&path, FILE_BYTES_MAX).unwrap();
        log.push(OutputStream::Stdout, b"one\ntw", "T");
        log.push(OutputStream::Stderr, b"err\n", "T");
        log.push(OutputStream::Stdout, b"o\n\n", "T");
        log.push(OutputStream::Stdout, &vec![b'x'; LINE_BYTES_MAX + 1], "T");
        log.push(OutputStream::Stdout, b"\nlast", "T");
        log.finish(OutputStream::Stdout, "T");
        let long = "x".repeat(LINE_BYTES_MAX);
        let expected = format!(
            "T stdout F one\nT stderr F err\nT stdout F two\nT stdout F \nT stdout P {long}\nT stdout F x\nT stdout P last\n"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn files_rotate_and_the_oldest_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogWriter::open(&path, 10).unwrap();
        for number in 0..8 {
            log.push(OutputStream::Stdout, format!("line {number}\n").as_bytes(), "T");
        }
        let text = |generation| fs::read_to_string(rotated_path(&path, generation)).unwrap();
        assert_eq!(text(0), "T stdout F line 7\n");
        assert_eq!(text(4), "T stdout F line 3\n");
        assert!(!rotated_path(&path, 5).exists());
    }
}
