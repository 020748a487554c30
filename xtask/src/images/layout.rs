//! Writes an OCI image layout: `oci-layout`, `index.json`, `blobs/sha256/...` (image-spec 1.1).
//!
//! The image builder calls it. A layout appears whole or not at all: it is written beside its place and renamed.

use super::layer;
use super::recipe::ImageRecipe;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// A layer in both of its forms.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The compressed archive, which is the blob.
    pub blob: Vec<u8>,
    /// The digest of the uncompressed archive, which the image's configuration names.
    pub diff_id: String,
}

impl Layer {
    /// Compresses an archive.
    pub fn new(archive: &[u8]) -> Result<Self> {
        Ok(Self {
            blob: layer::compress(archive)?,
            diff_id: digest(archive),
        })
    }
}

/// The name of the file in a layout that says from what it was built.
pub const FINGERPRINT: &str = "built-from";

/// Writes the layout of one image into `directory`, which is replaced when it is there.
pub fn write(
    directory: &Path,
    image: &ImageRecipe,
    architecture: &str,
    layers: &[Layer],
    fingerprint: &str,
) -> Result<()> {
    let parent = directory.parent().context("a layout needs a directory to be in")?;
    let fresh = parent.join(format!(".{}.{}", image.name, std::process::id()));
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    let blobs = fresh.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).with_context(|| format!("cannot create {}", blobs.display()))?;
    let put = |media_type: &str, bytes: &[u8]| -> Result<Value> {
        let digest = digest(bytes);
        let name = digest.trim_start_matches("sha256:");
        std::fs::write(blobs.join(name), bytes).with_context(|| format!("cannot write the blob {digest}"))?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    };
    let layer_descriptors = layers
        .iter()
        .map(|layer| put("application/vnd.oci.image.layer.v1.tar+gzip", &layer.blob))
        .collect::<Result<Vec<_>>>()?;
    let configuration = configuration(image, architecture, layers);
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        &serde_json::to_vec(&configuration)?,
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layer_descriptors,
    });
    let mut descriptor = put(
        "application/vnd.oci.image.manifest.v1+json",
        &serde_json::to_vec(&manifest)?,
    )?;
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": image.reference });
    descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    std::fs::write(fresh.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    std::fs::write(fresh.join("index.json"), serde_json::to_vec(&index)?)?;
    std::fs::write(fresh.join(FINGERPRINT), fingerprint)?;
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::rename(&fresh, directory).with_context(|| format!("cannot put {} in its place", directory.display()))
}

/// The image's configuration. It names no time, so that the same packages give the same image.
fn configuration(image: &ImageRecipe, architecture: &str, layers: &[Layer]) -> Value {
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    env.extend(image.env.iter().cloned());
    let mut config = json!({ "Env": env, "WorkingDir": "/" });
    if !image.entrypoint.is_empty() {
        config["Entrypoint"] = json!(image.entrypoint);
    }
    if !image.command.is_empty() {
        config["Cmd"] = json!(image.command);
    }
    if !image.user.is_empty() {
        config["User"] = json!(image.user);
    }
    if !image.ports.is_empty() {
        let ports: BTreeMap<_, _> = image.ports.iter().map(|port| (port, json!({}))).collect();
        config["ExposedPorts"] = json!(ports);
    }
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
    })
}

/// `sha256:` and the digest in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn image() -> ImageRecipe {
        toml::from_str(
            "name = \"a\"\nreference = \"r.local/a:1\"\nbase = \"b\"\nentrypoint = [\"/x\"]\nuser = \"1:1\"\nports = [\"80/tcp\"]\ncheck = []",
        )
        .unwrap()
    }

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_layout_can_be_followed_from_its_index_to_its_layers() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("a");
        let layers = [Layer::new(b"first").unwrap(), Layer::new(b"second").unwrap()];
        write(&place, &image(), "amd64", &layers, "x").unwrap();
        write(&place, &image(), "amd64", &layers, "y").unwrap();
        assert_eq!(std::fs::read(place.join(FINGERPRINT)).unwrap(), b"y");
        assert_eq!(
            directory.path().read_dir().unwrap().count(),
            1,
            "nothing is left beside the layout"
        );

        let blob = |descriptor: &Value| {
            let digest_wanted = descriptor["digest"].as_str().unwrap();
            let bytes = std::fs::read(place.join("blobs/sha256").join(&digest_wanted[7..])).unwrap();
            assert_eq!(digest(&bytes), digest_wanted);
            assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
            bytes
        };
        let index = json(&place.join("index.json"));
        let descriptor = &index["manifests"][0];
        assert_eq!(
            descriptor["annotations"]["org.opencontainers.image.ref.name"],
            "r.local/a:1"
        );
        let manifest: Value = serde_json::from_slice(&blob(descriptor)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/x");
        assert_eq!(config["config"]["ExposedPorts"]["80/tcp"], json!({}));
        for (layer, (contents, diff_id)) in manifest["layers"].as_array().unwrap().iter().zip(
            ["first", "second"]
                .iter()
                .zip(config["rootfs"]["diff_ids"].as_array().unwrap()),
        ) {
            let mut unpacked = String::new();
            GzDecoder::new(blob(layer).as_slice())
                .read_to_string(&mut unpacked)
                .unwrap();
            assert_eq!(unpacked, **contents);
            assert_eq!(digest(contents.as_bytes()), diff_id.as_str().unwrap());
        }
    }
}
