//! The few fields of OCI and Docker manifests, indexes and configurations that matter here, and the choice of a platform.
//! Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `mediaType`s of an index.
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// What is asked of a registry.
pub(super) const ACCEPTED_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    INDEX_TYPES[0],
    INDEX_TYPES[1],
];

/// A reference to a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What machine an image is for.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Platform {
    pub architecture: String,
    pub os: String,
}

/// A manifest or an index: which one, its fields tell.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestOrIndex {
    #[serde(default)]
    pub manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

impl Descriptor {
    /// Whether it names an index by its type.
    pub(super) fn is_index(&self) -> bool {
        INDEX_TYPES.contains(&self.media_type.as_str())
    }
}

/// This machine's architecture in the names of Go, which images use.
pub(super) fn machine_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The entry of an index for this machine.
///
/// # Errors
/// There is none; the message lists what there is.
pub(super) fn choose_platform(entries: &[Descriptor]) -> Result<&Descriptor, String> {
    let architecture = machine_architecture();
    entries
        .iter()
        .find(|entry| {
            entry
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
        })
        // An index of one image without platform is how some tools write a single image.
        .or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
        .ok_or_else(|| {
            let offered: Vec<String> = entries
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            format!(
                "it is not made for linux/{architecture}; it offers {}",
                offered.join(", ")
            )
        })
}

/// An image's configuration, as far as a container's start needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `User`.
    pub user: String,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub command: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `StopSignal`.
    pub stop_signal: String,
}

/// The configuration blob.
#[derive(Deserialize)]
struct ConfigBlob {
    #[serde(default)]
    config: Option<ConfigFields>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Null and absent are the same to image builders.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFields {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

/// Reads a configuration blob: what to start, and the digests of the unpacked layers, the lowest first.
///
/// # Errors
/// It is no configuration.
pub(super) fn parse_config(blob: &[u8]) -> Result<(ImageConfig, Vec<String>), String> {
    let blob: ConfigBlob =
        serde_json::from_slice(blob).map_err(|error| format!("its configuration cannot be read: {error}"))?;
    let fields = blob.config.unwrap_or_default();
    let config = ImageConfig {
        user: fields.user.unwrap_or_default(),
        env: fields.env.unwrap_or_default(),
        entrypoint: fields.entrypoint.unwrap_or_default(),
        command: fields.cmd.unwrap_or_default(),
        working_dir: fields.working_dir.unwrap_or_default(),
        stop_signal: fields.stop_signal.unwrap_or_default(),
    };
    Ok((config, blob.rootfs.diff_ids))
}

/// Reads a manifest that must be an image's.
///
/// # Errors
/// It is none, or it does not fit its configuration.
pub(super) fn parse_manifest(bytes: &[u8]) -> Result<ManifestOrIndex, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("its manifest cannot be read: {error}"))
}

/// `sha256:...` of bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The hexadecimal part of a digest, which becomes a file name.
///
/// # Errors
/// Another algorithm, or not 64 lower-case digits.
pub(super) fn digest_hex(digest: &str) -> Result<&str, String> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .ok_or_else(|| format!("{digest:?} is not a sha256 digest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(architecture: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: architecture.unwrap_or("none").to_owned(),
            platform: architecture.map(|architecture| Platform {
                architecture: architecture.to_owned(),
                os: "linux".to_owned(),
            }),
            annotations: Default::default(),
        }
    }

    #[test]
    fn the_machines_platform_is_chosen_and_its_absence_explained() {
        let own = machine_architecture();
        assert_eq!(
            choose_platform(&[entry(Some("s390x")), entry(Some(own))])
                .unwrap()
                .digest,
            own
        );
        assert_eq!(choose_platform(&[entry(None)]).unwrap().digest, "none");
        assert!(
            choose_platform(&[entry(Some("s390x"))])
                .unwrap_err()
                .contains("linux/s390x")
        );
    }

    #[test]
    fn configurations_with_nulls_are_read() {
        let blob =
            br#"{"config":{"Env":null,"Cmd":["sh"],"User":"1"},"rootfs":{"type":"layers","diff_ids":["sha256:x"]}}"#;
        let (config, diff_ids) = parse_config(blob).unwrap();
        assert_eq!(
            (config.user.as_str(), config.command.as_slice()),
            ("1", ["sh".to_owned()].as_slice())
        );
        assert_eq!(diff_ids, ["sha256:x"]);
        assert!(parse_config(b"{}").is_err());
    }

    #[test]
    fn digests_become_file_names_only_when_well_formed() {
        assert!(digest_hex(&digest_of(b"")).is_ok());
        for bad in ["sha256:../../x", "sha512:00", "sha256:ABC", ""] {
            assert!(digest_hex(bad).is_err(), "{bad}");
        }
    }
}
