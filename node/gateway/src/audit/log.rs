//! The audit log's file: one event a line, rotated by size, old files removed by count and age. A thread of its own writes, behind
//! a queue with a bound: the API never waits for the disk. What does not fit into the queue, and what the disk does not take, is
//! lost, counted, and said in the node's log.
//!
//! Names and rules are those of kube-apiserver's `--audit-log-*` (its rotation is lumberjack's): beside `audit.log` stands
//! `audit-2026-01-02T15-04-05.000.log`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use protocol::UnixMillis;

/// How many events may wait for the disk.
const QUEUED_MAX: usize = 10_000;
/// How many bytes of events may wait for the disk.
const QUEUED_BYTES_MAX: u64 = 64 << 20;
/// Losses are said in the node's log at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Where the log goes, and what is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The file; `-` is the standard output.
    pub path: PathBuf,
    /// A file is closed before it grows beyond this, in bytes. Zero never closes one.
    pub size_bytes_max: u64,
    /// How many closed files are kept; zero keeps all.
    pub backups_max: u64,
    /// For how many days a closed file is kept; zero for ever.
    pub age_days_max: u64,
}

/// What became of events.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Written.
    pub written: AtomicU64,
    /// Lost: the queue was full, or the disk refused.
    pub lost: AtomicU64,
    queued_bytes: AtomicU64,
}

/// The way to the writing thread.
pub struct AuditLog {
    lines: SyncSender<String>,
    /// What became of events.
    pub counters: Arc<LogCounters>,
}

impl AuditLog {
    /// Opens the file, so that a path that cannot be written is known at once, and starts the thread.
    ///
    /// # Errors
    ///
    /// What the system said about the path.
    pub fn open(options: LogOptions) -> io::Result<AuditLog> {
        let mut output = Output::new(options);
        output.reopen()?;
        let (lines, queue) = sync_channel(QUEUED_MAX);
        let counters = Arc::new(LogCounters::default());
        let counted = Arc::clone(&counters);
        std::thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || write_all(&mut output, &queue, &counted))?;
        Ok(AuditLog { lines, counters })
    }

    /// Queues an event. It does not wait.
    pub fn write(&self, line: String) {
        let bytes = line.len() as u64;
        let queued = self.counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = queued < QUEUED_BYTES_MAX
            && !matches!(
                self.lines.try_send(line),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            );
        if !taken {
            self.counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes until the process ends.
fn write_all(output: &mut Output, queue: &Receiver<String>, counters: &LogCounters) {
    let (mut told, mut told_at) = (0, None::<std::time::Instant>);
    while let Ok(line) = queue.recv() {
        counters.queued_bytes.fetch_sub(line.len() as u64, Ordering::Relaxed);
        let mut why = "events come faster than the disk takes them".to_owned();
        match output.append(&line) {
            Ok(()) => drop(counters.written.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                counters.lost.fetch_add(1, Ordering::Relaxed);
                why = error.to_string();
                // Perhaps the file was taken away or the disk was mounted anew.
                output.file = None;
            }
        }
        let lost = counters.lost.load(Ordering::Relaxed);
        if lost > told && told_at.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            let path = output.options.path.display();
            tracing::error!(%path, lost = lost - told, why, "audit events were lost; requests are served without");
            (told, told_at) = (lost, Some(std::time::Instant::now()));
        }
    }
}

struct Output {
    options: LogOptions,
    file: Option<File>,
    size_bytes: u64,
}

impl Output {
    fn new(options: LogOptions) -> Output {
        Output {
            options,
            file: None,
            size_bytes: 0,
        }
    }

    fn is_stdout(&self) -> bool {
        self.options.path == Path::new("-")
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.is_stdout() {
            return Ok(());
        }
        let path = &self.options.path;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        // What people did is nobody's business but the operator's.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        self.size_bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.is_stdout() {
            return writeln!(io::stdout().lock(), "{line}");
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let bytes = line.len() as u64 + 1;
        let most = self.options.size_bytes_max;
        if most > 0 && self.size_bytes > 0 && self.size_bytes + bytes > most {
            self.rotate(wall_clock())?;
        }
        let file = self
            .file
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is not open"))?;
        let mut whole = String::with_capacity(line.len() + 1);
        whole.push_str(line);
        whole.push('\n');
        if let Err(error) = file.write_all(whole.as_bytes()) {
            // No half line stays behind for readers of lines.
            let _ = file.set_len(self.size_bytes);
            return Err(error);
        }
        self.size_bytes += bytes;
        Ok(())
    }

    /// Renames the file away, begins another, and removes what is too much or too old.
    fn rotate(&mut self, now: UnixMillis) -> io::Result<()> {
        self.file = None;
        let path = self.options.path.clone();
        std::fs::rename(&path, backup_path(&path, now))?;
        self.reopen()?;
        let mut backups = backups(&path)?;
        backups.sort();
        let surplus = match self.options.backups_max {
            0 => 0,
            most => backups.len().saturating_sub(most as usize),
        };
        let age_max = Duration::from_secs(self.options.age_days_max * 24 * 3600);
        for (index, backup) in backups.iter().enumerate() {
            let is_old = self.options.age_days_max > 0 && age_of(backup).is_some_and(|age| age > age_max);
            if index < surplus || is_old {
                std::fs::remove_file(backup)?;
            }
        }
        Ok(())
    }
}

/// The time that stamps a closed file.
fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixMillis(since.map_or(0, |since| since.as_millis() as u64))
}

fn age_of(path: &Path) -> Option<Duration> {
    std::fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

/// `audit.log` without and with what is after the last dot.
fn stem_and_extension(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = match path.extension() {
        Some(extension) => format!(".{}", extension.to_string_lossy()),
        None => String::new(),
    };
    (text(path.file_stem()), extension)
}

/// A name by the time, and by the next free millisecond where two files were closed in one: names are in the order of closing.
fn backup_path(path: &Path, now: UnixMillis) -> PathBuf {
    let (stem, extension) = stem_and_extension(path);
    let mut at = now;
    loop {
        // 2026-01-02T15:04:05.000000Z
        let micros = at.rfc3339_micros();
        let stamp = micros.get(..23).unwrap_or(&micros).replace(':', "-");
        let backup = path.with_file_name(format!("{stem}-{stamp}{extension}"));
        if !backup.exists() {
            return backup;
        }
        at = at.plus_ms(1);
    }
}

/// The closed files of a log.
fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = stem_and_extension(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let prefix = format!("{stem}-");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(extension.as_str()));
        let is_stamp = |stamp: &str| {
            stamp.len() >= 23 && stamp.as_bytes()[10] == b'T' && stamp.starts_with(|c: char| c.is_ascii_digit())
        };
        if stamp.is_some_and(is_stamp) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: PathBuf) -> LogOptions {
        LogOptions {
            path,
            size_bytes_max: 25,
            backups_max: 2,
            age_days_max: 0,
        }
    }

    #[test]
    fn a_full_file_is_closed_and_only_the_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/audit.log");
        let mut output = Output::new(options(path.clone()));
        output.reopen().unwrap();
        std::fs::write(path.with_file_name("audit-notes.log"), "not ours").unwrap();
        for number in 0..8 {
            output.append(&format!("event {number:04}")).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "event 0006\nevent 0007\n");
        let mut kept = backups(&path).unwrap();
        kept.sort();
        let texts: Vec<String> = kept.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert_eq!(texts, ["event 0002\nevent 0003\n", "event 0004\nevent 0005\n"]);
        assert!(path.with_file_name("audit-notes.log").exists());
    }

    #[test]
    fn a_disk_that_refuses_loses_events_and_nothing_else() {
        // The kernel's device that is always full.
        let log = AuditLog::open(LogOptions {
            size_bytes_max: 0,
            ..options("/dev/full".into())
        })
        .unwrap();
        for _ in 0..3 {
            log.write("event".to_owned());
        }
        let begun = std::time::Instant::now();
        while log.counters.lost.load(Ordering::Relaxed) < 3 {
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", log.counters);
            std::thread::yield_now();
        }
        assert_eq!(log.counters.written.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_refused_at_once() {
        assert!(AuditLog::open(options("/proc/nowhere/audit.log".into())).is_err());
    }
}
