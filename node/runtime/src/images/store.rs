//! The directory of images:
//!
//! ```text
//! images/layers/HEX/fs         an unpacked layer, named by the digest of its tar stream (the diff id)
//! images/layers/HEX/bytes      its size
//! images/manifests/HEX.json    a StoredImage, named by the digest of its manifest
//! images/references/HEX.json   which image a name means, named by the hash of the name
//! images/tmp/                  what is being written
//! images/lock                  shared by whoever adds, exclusive for whoever removes
//! ```
//!
//! Everything appears by rename when it is complete, so readers need no lock and see an image whole or not at all.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::runtime::{PresentImage, RuntimeError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::{ImageConfig, digest_hex};
use super::reference::normalize;
use super::unpack::{UnpackError, unpack_layer};
use crate::failure::{io_failure, is_disk_full};
use crate::pod_parent::record::{read_json, write_json};

/// An image whose layers are all present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// `sha256:...` of its manifest.
    pub digest: String,
    /// What to start.
    pub config: ImageConfig,
    /// Its layers by diff id (`sha256:...`), the lowest first.
    pub layers: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
}

/// Which image a name means.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ReferenceRecord {
    reference: String,
    digest: String,
    /// The completed form of a name that was also recorded as written: found, but not listed twice.
    is_alias: bool,
}

/// The store.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    next_temporary: AtomicU64,
}

/// Held while images are added or removed; released when dropped.
#[derive(Debug)]
pub(super) struct StoreLock {
    _file: fs::File,
}

/// A directory in `tmp` that is removed unless it was moved to its place.
pub(super) struct Temporary {
    pub path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // moved away, or a leftover that `open` removes
    }
}

impl ImageStore {
    /// Opens the store below a node's data directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(data_dir: impl AsRef<Path>) -> Result<Self, RuntimeError> {
        let root = data_dir.as_ref().join("images");
        for name in ["layers", "manifests", "references", "tmp", "empty"] {
            fs::create_dir_all(root.join(name))
                .map_err(|error| io_failure(format!("making {}", root.join(name).display()), &error))?;
        }
        // Layers hold set-user-id programs of strangers: no user of the machine may reach them.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700))
            .map_err(|error| io_failure(format!("closing {}", root.display()), &error))?;
        Ok(Self {
            root,
            next_temporary: AtomicU64::new(0),
        })
    }

    fn lock_file(&self) -> Result<fs::File, RuntimeError> {
        let path = self.root.join("lock");
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| io_failure(format!("opening {}", path.display()), &error))
    }

    /// For adding: many may, as long as nobody removes. Blocking.
    pub(super) fn lock_shared(&self) -> Result<StoreLock, RuntimeError> {
        let file = self.lock_file()?;
        file.lock_shared()
            .map_err(|error| io_failure("locking the image store", &error))?;
        Ok(StoreLock { _file: file })
    }

    /// Removes what interrupted pulls and imports left; not while another process adds.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove_leftovers(&self) -> Result<(), RuntimeError> {
        let file = self.lock_file()?;
        if file.try_lock().is_err() {
            return Ok(()); // somebody is adding: those files are theirs
        }
        let temporary = self.root.join("tmp");
        let entries =
            fs::read_dir(&temporary).map_err(|error| io_failure(format!("reading {}", temporary.display()), &error))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| io_failure(format!("removing {}", path.display()), &error))?;
        }
        Ok(())
    }

    /// A fresh directory for something that is being written.
    pub(super) fn temporary(&self) -> Result<Temporary, RuntimeError> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}", std::process::id(), crate::failure::now().0);
        let path = self.root.join("tmp").join(name);
        fs::create_dir(&path).map_err(|error| io_failure(format!("making {}", path.display()), &error))?;
        Ok(Temporary { path })
    }

    fn layer_directory(&self, diff_id: &str) -> Result<PathBuf, String> {
        Ok(self.root.join("layers").join(digest_hex(diff_id)?))
    }

    /// The size of a layer that is present.
    pub(super) fn layer_bytes(&self, diff_id: &str) -> Option<u64> {
        let path = self.layer_directory(diff_id).ok()?.join("bytes");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Unpacks a layer and puts it in its place, when both digests are right. Blocking. Only under a shared lock.
    pub(super) fn install_layer(
        &self,
        reference: &str,
        blob: &mut dyn Read,
        blob_digest: &str,
        diff_id: &str,
    ) -> Result<(), RuntimeError> {
        let refused = |reason: String| RuntimeError::ImagePull {
            reference: reference.to_owned(),
            reason,
        };
        let place = self.layer_directory(diff_id).map_err(refused)?;
        let temporary = self.temporary()?;
        let root = temporary.path.join("fs");
        let failed = |error: io::Error| io_failure(format!("unpacking layer {diff_id} of {reference}"), &error);
        fs::create_dir(&root).map_err(failed)?;
        let unpacked = unpack_layer(blob, &root).map_err(|error| match error {
            UnpackError::Io(error) if is_disk_full(&error) => failed(error),
            other => refused(format!("layer {blob_digest}: {other}")),
        })?;
        if unpacked.blob_digest != blob_digest {
            return Err(refused(format!(
                "layer {blob_digest} came with digest {}",
                unpacked.blob_digest
            )));
        }
        if unpacked.diff_id != diff_id {
            return Err(refused(format!(
                "layer {blob_digest} unpacks to {}, and the image's configuration says {diff_id}",
                unpacked.diff_id
            )));
        }
        fs::write(temporary.path.join("bytes"), unpacked.size_bytes.to_string()).map_err(failed)?;
        match fs::rename(&temporary.path, &place) {
            Ok(()) => Ok(()),
            // Another process was faster; the content is the same.
            Err(_) if self.layer_bytes(diff_id).is_some() => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Records an image whose layers are present, and the names by which it is found.
    pub(super) fn record(
        &self,
        reference: &str,
        digest: &str,
        config: ImageConfig,
        layers: Vec<String>,
    ) -> Result<PresentImage, RuntimeError> {
        let refused = |reason: String| RuntimeError::ImagePull {
            reference: reference.to_owned(),
            reason,
        };
        let mut size_bytes = 0;
        for layer in &layers {
            size_bytes += self
                .layer_bytes(layer)
                .ok_or_else(|| refused(format!("layer {layer} is missing")))?;
        }
        let image = StoredImage {
            digest: digest.to_owned(),
            config,
            layers,
            size_bytes,
        };
        let path = self.manifest_path(digest).map_err(refused)?;
        self.replace(&path, &image)?;
        self.name(reference, digest, false)?;
        if let Ok(completed) = normalize(reference)
            && completed.whole() != reference
        {
            self.name(&completed.whole(), digest, true)?;
        }
        Ok(PresentImage {
            reference: reference.to_owned(),
            digest: digest.to_owned(),
            size_bytes,
        })
    }

    fn manifest_path(&self, digest: &str) -> Result<PathBuf, String> {
        Ok(self
            .root
            .join("manifests")
            .join(format!("{}.json", digest_hex(digest)?)))
    }

    fn reference_path(&self, reference: &str) -> PathBuf {
        let hash = hex::encode(Sha256::digest(reference.as_bytes()));
        self.root.join("references").join(format!("{hash}.json"))
    }

    fn name(&self, reference: &str, digest: &str, is_alias: bool) -> Result<(), RuntimeError> {
        let record = ReferenceRecord {
            reference: reference.to_owned(),
            digest: digest.to_owned(),
            is_alias,
        };
        self.replace(&self.reference_path(reference), &record)
    }

    fn replace<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), RuntimeError> {
        let failed = |error: io::Error| io_failure(format!("writing {}", path.display()), &error);
        // Two processes may write the same file: each has a temporary directory of its own.
        let temporary = self.temporary()?;
        let fresh = temporary.path.join("record.json");
        write_json(&fresh, value).map_err(failed)?;
        fs::rename(&fresh, path).map_err(failed)
    }

    /// The image that a name means: as written, in its completed form, or by its digest.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn find(&self, reference: &str) -> Result<Option<StoredImage>, RuntimeError> {
        let completed = normalize(reference).ok();
        let mut names = vec![reference.to_owned()];
        names.extend(completed.as_ref().map(|completed| completed.whole()));
        let mut digests = Vec::new();
        for name in names {
            match read_json::<ReferenceRecord>(&self.reference_path(&name)) {
                Ok(record) => digests.push(record.digest),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_failure(format!("reading the record of image {name}"), &error)),
            }
        }
        // A pinned digest may be the manifest's, and be present under another name.
        digests.extend(completed.and_then(|completed| completed.digest().map(str::to_owned)));
        for digest in digests {
            let Ok(path) = self.manifest_path(&digest) else {
                continue;
            };
            match read_json::<StoredImage>(&path) {
                Ok(image) => return Ok(Some(image)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_failure(format!("reading {}", path.display()), &error)),
            }
        }
        Ok(None)
    }

    /// The directories of an image's layers, the lowest first; never none, which overlayfs could not mount.
    pub fn layer_paths(&self, image: &StoredImage) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = image
            .layers
            .iter()
            .filter_map(|layer| self.layer_directory(layer).ok())
            .map(|directory| directory.join("fs"))
            .collect();
        if paths.is_empty() {
            paths.push(self.root.join("empty"));
        }
        paths
    }

    /// All images, by the names by which they were asked for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<PresentImage>, RuntimeError> {
        let directory = self.root.join("references");
        let entries =
            fs::read_dir(&directory).map_err(|error| io_failure(format!("reading {}", directory.display()), &error))?;
        let mut images = Vec::new();
        for entry in entries.flatten() {
            let Ok(record) = read_json::<ReferenceRecord>(&entry.path()) else {
                continue;
            };
            let Ok(path) = self.manifest_path(&record.digest) else {
                continue;
            };
            if let Ok(image) = read_json::<StoredImage>(&path)
                && !record.is_alias
            {
                images.push(PresentImage {
                    reference: record.reference,
                    digest: image.digest,
                    size_bytes: image.size_bytes,
                });
            }
        }
        images.sort_by(|one, other| one.reference.cmp(&other.reference));
        Ok(images)
    }

    /// Forgets names whose image is not in use, then removes images without names and layers without images. `in_use` holds
    /// digests of containers' images; `keep` decides about the others, by name. Returns the bytes that were freed. Blocking:
    /// waits until nobody adds.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn collect_garbage(&self, in_use: &[String], keep: impl Fn(&str) -> bool) -> Result<u64, RuntimeError> {
        let lock = self.lock_file()?;
        lock.lock()
            .map_err(|error| io_failure("locking the image store", &error))?;
        let failed = |path: &Path, error: &io::Error| io_failure(format!("removing {}", path.display()), error);
        let json_files = |name: &str| -> Vec<PathBuf> {
            let entries = fs::read_dir(self.root.join(name)).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "json"))
                .collect()
        };
        let mut named: Vec<String> = in_use.to_vec();
        for path in json_files("references") {
            match read_json::<ReferenceRecord>(&path) {
                Ok(record) if in_use.contains(&record.digest) || keep(&record.reference) => named.push(record.digest),
                _ => fs::remove_file(&path).map_err(|error| failed(&path, &error))?,
            }
        }
        let mut needed: Vec<String> = Vec::new();
        for path in json_files("manifests") {
            match read_json::<StoredImage>(&path) {
                Ok(image) if named.contains(&image.digest) => needed.extend(image.layers),
                _ => fs::remove_file(&path).map_err(|error| failed(&path, &error))?,
            }
        }
        let needed: Vec<&str> = needed.iter().filter_map(|layer| digest_hex(layer).ok()).collect();
        let mut freed_bytes = 0;
        for entry in fs::read_dir(self.root.join("layers")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if needed.iter().any(|layer| name == *layer) {
                continue;
            }
            let bytes = fs::read_to_string(entry.path().join("bytes")).unwrap_or_default();
            freed_bytes += bytes.trim().parse::<u64>().unwrap_or(0);
            fs::remove_dir_all(entry.path()).map_err(|error| failed(&entry.path(), &error))?;
        }
        Ok(freed_bytes)
    }
}
