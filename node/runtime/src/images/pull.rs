//! Pulls from registries. Pulls of different images never wait for each other; of one image, and of one layer, only one runs
//! at a time and the others find it done. A layer streams from the socket through decompression to the disk; nothing is
//! buffered whole.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use parking_lot::Mutex;
use protocol::runtime::{PresentImage, PullPolicy, RegistryCredential, RuntimeError};
use tokio::sync::mpsc;

use super::manifest::{ACCEPTED_TYPES, Descriptor, choose_platform, digest_of, parse_config, parse_manifest};
use super::reference::{is_plain_http, normalize};
use super::store::{ImageStore, StoredImage};
use crate::linux::blocking;

/// Layers of one image that are fetched at the same time (Docker's default).
const LAYERS_AT_ONCE: usize = 3;
/// Chunks between the socket and the disk.
const CHUNKS_WAITING: usize = 16;
/// A configuration is no larger.
const CONFIG_BYTES_MAX: usize = 4 << 20;

/// How registries are asked.
#[derive(Clone, Debug, Default)]
pub struct PullSettings {
    /// Registries without TLS, as host and port; loopback ones always are.
    pub insecure_registries: Vec<String>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an answer may pause.
    pub read_timeout: Duration,
}

/// One lock per name, as long as somebody holds it.
#[derive(Default)]
struct NamedLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl NamedLocks {
    async fn lock(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            let present = locks.get(name).and_then(Weak::upgrade);
            present.unwrap_or_else(|| {
                let fresh = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(name.to_owned(), Arc::downgrade(&fresh));
                fresh
            })
        };
        lock.lock_owned().await
    }
}

/// Pulls into a store.
pub struct Puller {
    store: Arc<ImageStore>,
    settings: PullSettings,
    images: NamedLocks,
    layers: NamedLocks,
}

fn present(reference: &str, image: &StoredImage) -> PresentImage {
    PresentImage {
        reference: reference.to_owned(),
        digest: image.digest.clone(),
        size_bytes: image.size_bytes,
    }
}

impl Puller {
    /// A puller.
    pub fn new(store: Arc<ImageStore>, settings: PullSettings) -> Self {
        Self {
            store,
            settings,
            images: NamedLocks::default(),
            layers: NamedLocks::default(),
        }
    }

    async fn find(&self, reference: &str) -> Result<Option<StoredImage>, RuntimeError> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        blocking(move || store.find(&reference)).await
    }

    /// Makes an image present, as the policy says.
    ///
    /// # Errors
    /// The name is none, the image is absent and may not be pulled, the registry refuses, or the disk is full.
    pub async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[RegistryCredential],
    ) -> Result<PresentImage, RuntimeError> {
        // A name that was imported as it is written need not follow the registries' grammar.
        if policy != PullPolicy::Always
            && let Some(image) = self.find(reference).await?
        {
            return Ok(present(reference, &image));
        }
        let target = normalize(reference)?;
        if policy == PullPolicy::Never {
            return Err(RuntimeError::ImageAbsent {
                reference: reference.to_owned(),
            });
        }
        let _one_at_a_time = self.images.lock(&target.whole()).await;
        if policy == PullPolicy::IfNotPresent
            && let Some(image) = self.find(reference).await?
        {
            return Ok(present(reference, &image));
        }
        let mut attempts: Vec<RegistryAuth> = credentials
            .iter()
            .map(|credential| RegistryAuth::Basic(credential.username.clone(), credential.password.clone()))
            .collect();
        attempts.push(RegistryAuth::Anonymous);
        let mut refusal = String::new();
        for auth in attempts {
            match self.pull(reference, &target, &auth).await {
                Ok(image) => return Ok(image),
                Err(PullFailure::Refused(reason)) if refusal.is_empty() => refusal = reason,
                Err(PullFailure::Refused(_)) => {} // the first refusal, of a real credential, tells most
                Err(PullFailure::Final(error)) => return Err(error),
            }
        }
        Err(RuntimeError::ImagePull {
            reference: reference.to_owned(),
            reason: refusal,
        })
    }

    /// A client of its own for each pull: tokens that one pod's credentials bought must not serve another pod.
    fn client(&self, target: &Reference) -> Client {
        // reqwest is built without a provider of its own; another part of the process may have installed one first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = target.resolve_registry();
        let protocol = if is_plain_http(registry, &self.settings.insecure_registries) {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(self.settings.connect_timeout),
            read_timeout: Some(self.settings.read_timeout),
            user_agent: concat!("actorium/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })
    }

    async fn pull(
        &self,
        reference: &str,
        target: &Reference,
        auth: &RegistryAuth,
    ) -> Result<PresentImage, PullFailure> {
        let fail = |reason: String| {
            PullFailure::Final(RuntimeError::ImagePull {
                reference: reference.to_owned(),
                reason,
            })
        };
        let client = self.client(target);
        let (digest, manifest_bytes) = self.manifest(&client, target, auth, reference).await?;
        let manifest = parse_manifest(&manifest_bytes).map_err(fail)?;
        let config_entry = manifest
            .config
            .ok_or_else(|| fail("its manifest names no configuration".to_owned()))?;
        let config = self.document(&client, target, &config_entry.digest, reference).await?;
        let (config, diff_ids) = parse_config(&config).map_err(fail)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(fail(format!(
                "{} layers and {} diff ids",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let store = self.store.clone();
        // Held until the image is recorded: nobody removes its layers before.
        let lock = blocking(move || store.lock_shared())
            .await
            .map_err(PullFailure::Final)?;
        let fetches: Vec<_> = manifest
            .layers
            .iter()
            .zip(&diff_ids)
            .map(|(layer, diff_id)| self.layer(&client, target, reference, layer, diff_id))
            .collect();
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        drop(fetches);
        let (store, reference) = (self.store.clone(), reference.to_owned());
        let recorded = blocking(move || {
            let recorded = store.record(&reference, &digest, config, diff_ids);
            drop(lock);
            recorded
        });
        recorded.await.map_err(PullFailure::Final)
    }

    /// The image's manifest: behind an index, the one for this machine.
    async fn manifest(
        &self,
        client: &Client,
        target: &Reference,
        auth: &RegistryAuth,
        reference: &str,
    ) -> Result<(String, Bytes), PullFailure> {
        let mut asked = target.clone();
        for _ in 0..4 {
            let (bytes, _) = client
                .pull_manifest_raw(&asked, auth, &ACCEPTED_TYPES)
                .await
                .map_err(|error| refusal(reference, &error))?;
            let digest = digest_of(&bytes);
            let fail = |reason: String| {
                PullFailure::Final(RuntimeError::ImagePull {
                    reference: reference.to_owned(),
                    reason,
                })
            };
            if let Some(pinned) = asked.digest()
                && pinned.starts_with("sha256:")
                && pinned != digest
            {
                return Err(fail(format!(
                    "the registry answered digest {digest} when asked for {pinned}"
                )));
            }
            let parsed = parse_manifest(&bytes).map_err(fail)?;
            let Some(entries) = parsed.manifests.filter(|_| parsed.config.is_none()) else {
                return Ok((digest, bytes));
            };
            asked = target.clone_with_digest(choose_platform(&entries).map_err(fail)?.digest.clone());
        }
        Err(PullFailure::Final(RuntimeError::ImagePull {
            reference: reference.to_owned(),
            reason: "its indexes are nested too deep".to_owned(),
        }))
    }

    async fn document(
        &self,
        client: &Client,
        target: &Reference,
        digest: &str,
        reference: &str,
    ) -> Result<Vec<u8>, PullFailure> {
        let fail = |reason: String| {
            PullFailure::Final(RuntimeError::ImagePull {
                reference: reference.to_owned(),
                reason,
            })
        };
        let mut stream = client
            .pull_blob_stream(target, digest)
            .await
            .map_err(|error| refusal(reference, &error))?
            .stream;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| fail(format!("blob {digest}: {error}")))?);
            if bytes.len() > CONFIG_BYTES_MAX {
                return Err(fail(format!(
                    "its configuration {digest} is larger than {CONFIG_BYTES_MAX} bytes"
                )));
            }
        }
        let found = digest_of(&bytes);
        if found == digest {
            Ok(bytes)
        } else {
            Err(fail(format!("blob {digest} came with digest {found}")))
        }
    }

    async fn layer(
        &self,
        client: &Client,
        target: &Reference,
        reference: &str,
        layer: &Descriptor,
        diff_id: &str,
    ) -> Result<(), PullFailure> {
        // Images that share a layer fetch it once.
        let _one_at_a_time = self.layers.lock(diff_id).await;
        if self.store.layer_bytes(diff_id).is_some() {
            return Ok(());
        }
        let mut stream = client
            .pull_blob_stream(target, layer.digest.as_str())
            .await
            .map_err(|error| refusal(reference, &error))?
            .stream;
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let (store, name) = (self.store.clone(), reference.to_owned());
        let (blob_digest, diff_id) = (layer.digest.clone(), diff_id.to_owned());
        let installing = tokio::task::spawn_blocking(move || {
            let mut blob = ChannelReader {
                receiver,
                chunk: Bytes::new(),
                has_ended: false,
            };
            store.install_layer(&name, &mut blob, &blob_digest, &diff_id)
        });
        let mut has_ended = false;
        while let Some(chunk) = stream.next().await {
            if sender.send(Some(chunk)).await.is_err() {
                has_ended = true; // the installation failed, and says why
                break;
            }
        }
        if !has_ended {
            let _ = sender.send(None).await; // it may have failed at the end of what it had
        }
        drop(sender);
        match installing.await {
            Ok(installed) => installed.map_err(PullFailure::Final),
            Err(error) => Err(PullFailure::Final(RuntimeError::Failed {
                doing: format!("unpacking a layer of {reference}"),
                reason: error.to_string(),
            })),
        }
    }
}

enum PullFailure {
    /// Not with this credential.
    Refused(String),
    /// Not at all.
    Final(RuntimeError),
}

/// What a registry's answer means: whether another credential may help, and what a person is told.
fn refusal(reference: &str, error: &OciDistributionError) -> PullFailure {
    use OciErrorCode::{Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized};
    let finally = |reason: String| {
        PullFailure::Final(RuntimeError::ImagePull {
            reference: reference.to_owned(),
            reason,
        })
    };
    let refused = |reason: String| {
        PullFailure::Refused(format!(
            "{reason}: the image needs a credential (imagePullSecrets), or does not exist"
        ))
    };
    match error {
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
            refused(error.to_string())
        }
        OciDistributionError::ImageManifestNotFoundError(_) => finally(format!("not found in the registry: {error}")),
        OciDistributionError::RegistryError { envelope, url } => {
            let said: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            let said = format!("{} ({url})", said.join(", "));
            let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            if has(&[Unauthorized, Denied]) {
                refused(said)
            } else if has(&[ManifestUnknown, NameUnknown, NotFound]) {
                finally(format!("not found in the registry: {said}"))
            } else {
                finally(format!("the registry refuses: {said}"))
            }
        }
        OciDistributionError::RequestError(error) => {
            // reqwest tells the cause only through the chain of sources.
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            finally(format!("the registry cannot be reached: {text}"))
        }
        other => finally(other.to_string()),
    }
}

/// The blocking end of a stream. A sender that goes away without the end mark is an interruption, never an end.
struct ChannelReader {
    receiver: mpsc::Receiver<Option<io::Result<Bytes>>>,
    chunk: Bytes,
    has_ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.has_ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Some(chunk)) => self.chunk = chunk?,
                Some(None) => self.has_ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pull was interrupted")),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}
