//! Unpacks one layer: a tar stream, plain or compressed with gzip or zstd, into a directory that overlayfs can use as a lower
//! layer. The stream comes from strangers: no entry may leave the directory, by `..`, by a symlink or by a hard link. Every
//! parent is opened as if the directory were `/`, and every name is used relative to that descriptor without following links.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use crate::container::mounts::open_in_root;

/// Prefix of names that stand for a removal (OCI image specification, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that hides all that lower layers have in its directory.
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// How overlayfs marks such a directory.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// The stream, or the disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An entry would leave the layer's directory.
    #[error("entry {path:?} leads out of the layer: the image is damaged or hostile")]
    Escape {
        /// The entry's path.
        path: PathBuf,
    },
    /// An entry cannot be made.
    #[error("entry {path:?}: {reason}")]
    Entry {
        /// The entry's path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What was unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// `sha256:...` of the blob as it came.
    pub blob_digest: String,
    /// `sha256:...` of the tar stream.
    pub diff_id: String,
    /// Bytes of its files.
    pub size_bytes: u64,
}

/// Counts a digest of all that is read.
struct Hashing<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            digest: Sha256::new(),
        }
    }

    /// Reads what is left and gives the digest of everything.
    fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(format!("sha256:{}", hex::encode(self.digest.finalize())))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

/// Unpacks a blob. The compression is told by its first bytes: media types lie.
pub(super) fn unpack_layer(blob: &mut dyn Read, root: &Path) -> Result<Unpacked, UnpackError> {
    let mut raw = Hashing::new(blob);
    let (diff_id, size_bytes) = {
        let mut plain = Hashing::new(decompress(&mut raw)?);
        let size_bytes = unpack_tar(&mut plain, root)?;
        // The end of the archive is not the end of the stream: padding follows, and counts.
        (plain.finish()?, size_bytes)
    };
    Ok(Unpacked {
        blob_digest: raw.finish()?,
        diff_id,
        size_bytes,
    })
}

/// The plain stream of a blob or an archive.
pub(super) fn decompress<'a, R: Read + 'a>(mut input: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start)?;
    let kind = (
        start.starts_with(&[0x1f, 0x8b]),
        start.as_slice() == [0x28, 0xb5, 0x2f, 0xfd],
    );
    let whole = io::BufReader::with_capacity(64 << 10, io::Cursor::new(start).chain(input));
    Ok(match kind {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        (_, true) => Box::new(
            ruzstd::decoding::StreamingDecoder::new(whole).map_err(|error| io::Error::other(error.to_string()))?,
        ),
        _ => Box::new(whole),
    })
}

/// The components of an entry's path; none for the root itself.
pub(super) fn inner_components(path: &Path) -> Result<Vec<OsString>, UnpackError> {
    let mut components = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => components.push(name.to_owned()),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(UnpackError::Escape { path: path.to_owned() }),
        }
    }
    Ok(components)
}

struct Unpacker {
    root: OwnedFd,
    /// The last parent that was opened: entries of one directory follow each other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of directories, set when nothing is written into them any more.
    directory_times: Vec<(PathBuf, u64)>,
    size_bytes: u64,
}

fn unpack_tar(stream: &mut dyn Read, root: &Path) -> Result<u64, UnpackError> {
    let root = open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(io::Error::from)?;
    let mut unpacker = Unpacker {
        root,
        parent: None,
        directory_times: Vec::new(),
        size_bytes: 0,
    };
    let mut archive = Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        unpacker.entry(&mut entry, &path).map_err(|error| match error {
            // A full disk keeps its errno; others are told with the entry.
            UnpackError::Io(error) if !crate::failure::is_disk_full(&error) => UnpackError::Entry {
                path: path.clone(),
                reason: error.to_string(),
            },
            other => other,
        })?;
    }
    let times = std::mem::take(&mut unpacker.directory_times);
    for (path, mtime) in times.into_iter().rev() {
        // A directory may have been replaced by a later entry.
        if let Ok(directory) = open_in_root(
            &unpacker.root,
            &path,
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW,
        ) {
            let time = TimeSpec::new(mtime as i64, 0);
            let _ = nix::sys::stat::futimens(&directory, &time, &time); // a time is decoration
        }
    }
    Ok(unpacker.size_bytes)
}

impl Unpacker {
    /// Opens the directory in which an entry is made; levels that the stream does not have are made.
    fn parent(&mut self, components: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let path: PathBuf = components.iter().collect();
        if let Some((known, directory)) = &self.parent
            && *known == path
        {
            return Ok(directory.try_clone()?);
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let directory = match open_in_root(
            &self.root,
            if components.is_empty() { Path::new(".") } else { &path },
            flags,
        ) {
            Ok(directory) => directory,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let (name, above) = components.split_last().ok_or(error)?;
                let above = self.parent(above)?;
                match mkdirat(&above, name.as_os_str(), Mode::from_bits_retain(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(io::Error::from(errno).into()),
                }
                open_in_root(&self.root, &path, flags)?
            }
            Err(error) => return Err(error.into()),
        };
        self.parent = Some((path, directory.try_clone()?));
        Ok(directory)
    }

    fn entry(&mut self, entry: &mut Entry<'_, &mut dyn Read>, path: &Path) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let components = inner_components(path)?;
        let Some((name, above)) = components.split_last() else {
            // The root itself: its mode and owner count, it is what `/` of a container shows.
            let root = open_in_root(&self.root, Path::new("."), libc::O_RDONLY | libc::O_DIRECTORY)?;
            return apply_to(&File::from(root), entry);
        };
        let parent = self.parent(above)?;
        if name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return whiteout(&parent, name);
        }
        let relative: PathBuf = components.iter().collect();
        match kind {
            EntryType::Directory => self.directory(&parent, name, relative, entry),
            EntryType::Link => {
                remove(&parent, name, &mut self.parent)?;
                self.hard_link(&parent, name, entry)
            }
            EntryType::Symlink => {
                remove(&parent, name, &mut self.parent)?;
                symlink(&parent, name, entry)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                remove(&parent, name, &mut self.parent)?;
                node(&parent, name, kind, entry)
            }
            _ => {
                remove(&parent, name, &mut self.parent)?;
                self.size_bytes += file(&parent, name, entry)?;
                Ok(())
            }
        }
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: PathBuf,
        entry: &mut Entry<'_, &mut dyn Read>,
    ) -> Result<(), UnpackError> {
        let before = stat(parent, name);
        let is_directory = before.as_ref().is_some_and(|stat| is_kind(stat, SFlag::S_IFDIR));
        if !is_directory {
            remove(parent, name, &mut self.parent)?;
            mkdirat(parent, name, Mode::from_bits_retain(0o755)).map_err(io::Error::from)?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = File::from(openat(parent, name, flags, Mode::empty()).map_err(io::Error::from)?);
        if before.is_some_and(|stat| is_whiteout(&stat)) {
            // The layer removes the name and makes it anew: what lower layers have in it must not shine through.
            set_attribute(&directory, OPAQUE_ATTRIBUTE, b"y")?;
        }
        self.directory_times.push((path, entry.header().mtime().unwrap_or(0)));
        apply_to(&directory, entry)
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &mut Entry<'_, &mut dyn Read>,
    ) -> Result<(), UnpackError> {
        let target = link_target(entry)?;
        let components = inner_components(&target)?;
        let Some((target_name, above)) = components.split_last() else {
            return Err(UnpackError::Escape { path: target });
        };
        let from = self.parent(above)?;
        linkat(&from, target_name.as_os_str(), parent, name, AtFlags::empty()).map_err(io::Error::from)?;
        Ok(())
    }
}

fn link_target(entry: &Entry<'_, &mut dyn Read>) -> Result<PathBuf, UnpackError> {
    let target = entry.link_name()?;
    target
        .map(|target| target.into_owned())
        .ok_or_else(|| io::Error::other("a link without a target").into())
}

fn stat(parent: &OwnedFd, name: &OsStr) -> Option<FileStat> {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & libc::S_IFMT == kind.bits()
}

fn is_whiteout(stat: &FileStat) -> bool {
    is_kind(stat, SFlag::S_IFCHR) && stat.st_rdev == 0
}

/// A later entry of the same name replaces an earlier one.
fn remove(parent: &OwnedFd, name: &OsStr, opened: &mut Option<(PathBuf, OwnedFd)>) -> Result<(), UnpackError> {
    let Some(present) = stat(parent, name) else {
        return Ok(());
    };
    if is_kind(&present, SFlag::S_IFDIR) {
        *opened = None; // it may be inside
        let path = format!("/proc/self/fd/{}", parent.as_raw_fd());
        fs::remove_dir_all(Path::new(&path).join(name))?; // std does not follow symlinks here
    } else {
        unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from)?;
    }
    Ok(())
}

fn whiteout(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    if name.as_bytes() == OPAQUE_WHITEOUT {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(parent, ".", flags, Mode::empty()).map_err(io::Error::from)?;
        return set_attribute(&File::from(directory), OPAQUE_ATTRIBUTE, b"y");
    }
    let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT_PREFIX.len()..]);
    if hidden.as_bytes().starts_with(WHITEOUT_PREFIX) {
        return Ok(()); // aufs' own bookkeeping
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(UnpackError::Escape {
            path: PathBuf::from(name),
        });
    }
    if stat(parent, hidden).is_some() {
        return Ok(()); // this layer's own entry hides the lower ones already
    }
    mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0).map_err(io::Error::from)?;
    Ok(())
}

fn owner(entry: &Entry<'_, &mut dyn Read>) -> io::Result<(u32, u32)> {
    let narrow = |id: u64| u32::try_from(id).map_err(|_| io::Error::other(format!("the owner {id} is no user id")));
    Ok((narrow(entry.header().uid()?)?, narrow(entry.header().gid()?)?))
}

fn file(parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, &mut dyn Read>) -> Result<u64, UnpackError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let descriptor = openat(parent, name, flags, Mode::from_bits_retain(0o600)).map_err(io::Error::from)?;
    let mut file = File::from(descriptor);
    let written = io::copy(entry, &mut file)?;
    apply_to(&file, entry)?;
    let time = TimeSpec::new(entry.header().mtime().unwrap_or(0) as i64, 0);
    nix::sys::stat::futimens(&file, &time, &time).map_err(io::Error::from)?;
    Ok(written)
}

/// Owner, then mode (a change of owner clears set-user-id), then attributes (a change of owner clears capabilities).
fn apply_to(file: &File, entry: &mut Entry<'_, &mut dyn Read>) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry)?;
    fchown(file, Some(uid), Some(gid))?;
    file.set_permissions(Permissions::from_mode(entry.header().mode()? & 0o7777))?;
    let mut attributes: Vec<(String, Vec<u8>)> = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else {
            continue;
        };
        // trusted.* steers overlayfs and is ours alone; user.overlay.* is its unprivileged twin.
        if name == "security.capability" || (name.starts_with("user.") && !name.starts_with("user.overlay.")) {
            attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    for (name, value) in attributes {
        match set_attribute(file, &name, &value) {
            // A file system without user attributes: they carry no rights.
            Err(UnpackError::Io(error)) if name.starts_with("user.") && error.raw_os_error() == Some(libc::ENOTSUP) => {
            }
            result => result?,
        }
    }
    Ok(())
}

fn set_attribute(file: &File, name: &str, value: &[u8]) -> Result<(), UnpackError> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: name is NUL-terminated, value is passed with its length, and both outlive the call, which only reads them.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error().into())
    }
}

fn symlink(parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, &mut dyn Read>) -> Result<(), UnpackError> {
    let target = link_target(entry)?;
    symlinkat(target.as_path(), parent, name).map_err(io::Error::from)?;
    finish_without_opening(parent, name, entry)
}

fn node(
    parent: &OwnedFd,
    name: &OsStr,
    kind: EntryType,
    entry: &mut Entry<'_, &mut dyn Read>,
) -> Result<(), UnpackError> {
    let header = entry.header();
    let (flag, device) = match kind {
        EntryType::Fifo => (SFlag::S_IFIFO, 0),
        other => {
            let major = header.device_major()?.unwrap_or(0);
            let minor = header.device_minor()?.unwrap_or(0);
            let device = libc::makedev(major, minor);
            if device == 0 {
                return Err(UnpackError::Entry {
                    path: PathBuf::from(name),
                    reason: "a device 0:0 is overlayfs' mark of a removal".to_owned(),
                });
            }
            (
                if other == EntryType::Char {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                },
                device,
            )
        }
    };
    let mode = Mode::from_bits_retain(header.mode()? & 0o7777);
    match mknodat(parent, name, flag, mode, device) {
        Ok(()) => finish_without_opening(parent, name, entry),
        // Roots are mounted without devices: one that cannot be made is not missed.
        Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

fn finish_without_opening(
    parent: &OwnedFd,
    name: &OsStr,
    entry: &mut Entry<'_, &mut dyn Read>,
) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry)?;
    fchownat(
        parent,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(io::Error::from)?;
    let time = TimeSpec::new(entry.header().mtime().unwrap_or(0) as i64, 0);
    let _ = utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink); // a time is decoration
    Ok(())
}
