//! Import of an OCI image layout: a directory, or a tar archive of one. Works in any process; the node process sees the
//! images as soon as they are recorded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use protocol::runtime::{PresentImage, RuntimeError};
use tar::{Archive, EntryType};

use super::manifest::{
    Descriptor, ManifestOrIndex, choose_platform, digest_hex, digest_of, parse_config, parse_manifest,
};
use super::store::{ImageStore, Temporary};
use super::unpack::{decompress, inner_components};
use crate::failure::io_failure;

/// How an index names its images: containerd writes the full name, others the OCI annotation.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Manifests and configurations are small; a larger one is no manifest.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

impl ImageStore {
    /// Imports all images of a layout under the names that its index gives. Blocking.
    ///
    /// # Errors
    /// The path holds no layout, a digest is wrong, or the disk is full. Images before the failing one are imported.
    pub fn import(&self, path: impl AsRef<Path>) -> Result<Vec<PresentImage>, RuntimeError> {
        self.import_named(path, None)
    }

    /// Imports; `name` is given to an image instead of the one that the index has. A layout of several images cannot be
    /// renamed so.
    ///
    /// # Errors
    /// As `import`.
    pub fn import_named(&self, path: impl AsRef<Path>, name: Option<&str>) -> Result<Vec<PresentImage>, RuntimeError> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let refused = |reason: String| RuntimeError::ImagePull {
            reference: shown.clone(),
            reason,
        };
        let _lock = self.lock_shared()?;
        let extracted;
        let layout = if path.is_dir() {
            Layout { root: path.to_owned() }
        } else {
            extracted = self.extract(path)?;
            Layout {
                root: extracted.path.clone(),
            }
        };
        let index = layout.root.join("index.json");
        let index = read_document(&index).map_err(|error| {
            refused(format!(
                "it is no OCI image layout ({} cannot be read: {error})",
                index.display()
            ))
        })?;
        let entries = parse_manifest(&index).map_err(refused)?.manifests.unwrap_or_default();
        if entries.is_empty() {
            return Err(refused("its index.json lists no image".to_owned()));
        }
        if name.is_some() && entries.len() > 1 {
            return Err(refused(format!(
                "it holds {} images, which cannot all have one name",
                entries.len()
            )));
        }
        let mut imported = Vec::new();
        for entry in &entries {
            let written = NAME_ANNOTATIONS
                .iter()
                .find_map(|annotation| entry.annotations.get(*annotation));
            let reference = name.or(written.map(String::as_str)).unwrap_or(&entry.digest);
            imported.push(self.import_image(&layout, entry, reference)?);
        }
        Ok(imported)
    }

    fn import_image(&self, layout: &Layout, entry: &Descriptor, reference: &str) -> Result<PresentImage, RuntimeError> {
        let refused = |reason: String| RuntimeError::ImagePull {
            reference: reference.to_owned(),
            reason,
        };
        let (digest, manifest) = layout.image_manifest(entry).map_err(refused)?;
        let config_entry = manifest
            .config
            .ok_or_else(|| refused("its manifest names no configuration".to_owned()))?;
        let config = layout.document(&config_entry.digest).map_err(refused)?;
        let (config, diff_ids) = parse_config(&config).map_err(refused)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(refused(format!(
                "{} layers and {} diff ids",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            if self.layer_bytes(diff_id).is_some() {
                continue;
            }
            let path = layout.blob(&layer.digest).map_err(refused)?;
            let mut blob = File::open(&path)
                .map_err(|error| refused(format!("layer {} cannot be read: {error}", layer.digest)))?;
            self.install_layer(reference, &mut blob, &layer.digest, diff_id)?;
        }
        self.record(reference, &digest, config, diff_ids)
    }

    /// Takes a layout out of a tar archive, into a temporary directory: blobs may come before the index that names them.
    fn extract(&self, archive: &Path) -> Result<Temporary, RuntimeError> {
        let temporary = self.temporary()?;
        let failed = |error: io::Error| io_failure(format!("reading the archive {}", archive.display()), &error);
        let file = File::open(archive).map_err(failed)?;
        let mut archive = Archive::new(decompress(file).map_err(failed)?);
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
                continue; // a layout has plain files only
            }
            let path = entry.path().map_err(failed)?.into_owned();
            let components = inner_components(&path).map_err(|error| failed(io::Error::other(error.to_string())))?;
            let target: PathBuf = std::iter::once(temporary.path.clone().into_os_string())
                .chain(components)
                .collect();
            if let Some(above) = target.parent() {
                fs::create_dir_all(above).map_err(failed)?;
            }
            let mut out = File::create(&target).map_err(failed)?;
            io::copy(&mut entry, &mut out).map_err(failed)?;
        }
        Ok(temporary)
    }
}

struct Layout {
    root: PathBuf,
}

fn read_document(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Layout {
    fn blob(&self, digest: &str) -> Result<PathBuf, String> {
        Ok(self.root.join("blobs").join("sha256").join(digest_hex(digest)?))
    }

    /// A small blob, its digest checked.
    fn document(&self, digest: &str) -> Result<Vec<u8>, String> {
        let bytes =
            read_document(&self.blob(digest)?).map_err(|error| format!("blob {digest} cannot be read: {error}"))?;
        let found = digest_of(&bytes);
        if found == digest {
            Ok(bytes)
        } else {
            Err(format!("blob {digest} has digest {found}"))
        }
    }

    /// The manifest behind an entry, through nested indexes.
    fn image_manifest(&self, entry: &Descriptor) -> Result<(String, ManifestOrIndex), String> {
        let mut entry = entry.clone();
        for _ in 0..4 {
            let manifest = parse_manifest(&self.document(&entry.digest)?)?;
            match &manifest.manifests {
                Some(entries) if entry.is_index() || manifest.config.is_none() => {
                    entry = choose_platform(entries)?.clone();
                }
                _ => return Ok((entry.digest, manifest)),
            }
        }
        Err("its indexes are nested too deep".to_owned())
    }
}
