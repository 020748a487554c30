//! A node's keys and certificates on disk: `DATA_DIR/pki`, readable by root alone, each file written whole or not at
//! all. Acting code; called by the process when it starts, joins and renews.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{AuthorityMaterial, IdentityError, NodeIdentity};

/// The certificate of a CA that is on its way into the store.
const FOUNDING_CERTIFICATE: &str = "founding-ca.crt";
/// Its key.
const FOUNDING_KEY: &str = "founding-ca.key";

/// The directory of a node's keys and certificates.
#[derive(Clone, Debug)]
pub struct PkiDirectory {
    path: PathBuf,
}

impl PkiDirectory {
    /// Names the directory; it is made when something is written.
    pub fn new(path: impl Into<PathBuf>) -> PkiDirectory {
        PkiDirectory { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's identity, or none if this machine has never been a member.
    pub fn load(&self) -> Result<Option<NodeIdentity>, IdentityError> {
        // The certificate is written last: where it is missing, an earlier attempt to join did not end.
        let Some(certificate) = self.read("node.crt")? else {
            return Ok(None);
        };
        let required = |name: &str| {
            self.read(name)?.ok_or_else(|| IdentityError::Io {
                path: self.path.join(name),
                source: std::io::Error::new(std::io::ErrorKind::NotFound, "missing, though node.crt is there"),
            })
        };
        NodeIdentity::new(certificate, required("node.key")?, required("ca.crt")?).map(Some)
    }

    /// Writes a node's identity: the CA, the key, and last the certificate, whose presence means that all is there.
    pub fn store(&self, identity: &NodeIdentity) -> Result<(), IdentityError> {
        self.write("ca.crt", &identity.authority_pem)?;
        self.write("node.key", &identity.key_pem)?;
        self.write("node.crt", &identity.certificate_pem)
    }

    /// Keeps the CA of a cluster that is being founded, until the replicated store has it. It is to be written before the
    /// node's identity, and removed when the store has acknowledged it: a founder that dies in between finds it here when
    /// it is started again. Without this the CA's key could be lost, and nobody could ever join.
    pub fn store_founding_authority(&self, material: &AuthorityMaterial) -> Result<(), IdentityError> {
        self.write(FOUNDING_CERTIFICATE, &material.certificate_pem)?;
        self.write(FOUNDING_KEY, &material.key_pem)
    }

    /// The CA that the replicated store may not have yet.
    pub fn founding_authority(&self) -> Result<Option<AuthorityMaterial>, IdentityError> {
        // The key is written last: where it is missing, the founding had hardly begun.
        let Some(key_pem) = self.read(FOUNDING_KEY)? else {
            return Ok(None);
        };
        let certificate_pem = self.read(FOUNDING_CERTIFICATE)?;
        Ok(certificate_pem.map(|certificate_pem| AuthorityMaterial {
            certificate_pem,
            key_pem,
        }))
    }

    /// Removes the CA's key from this node: the replicated store has it.
    pub fn remove_founding_authority(&self) -> Result<(), IdentityError> {
        for name in [FOUNDING_KEY, FOUNDING_CERTIFICATE] {
            let path = self.path.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(IdentityError::Io { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes one file, readable by its owner alone.
    pub fn write(&self, name: &str, text: &str) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Io {
            path: self.path.clone(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(failed)?;
        let path = self.path.join(name);
        write_private(&path, text.as_bytes()).map_err(|source| IdentityError::Io { path, source })
    }

    /// Reads one file, if it exists.
    pub fn read(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let path = self.path.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }
}

/// Writes a file of mode 0600 whole or not at all: a temporary one beside it is synced and renamed, and the directory
/// synced, so that a crash leaves the old file or the new one. A failure leaves no temporary file.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&fresh, path))
        .and_then(|()| std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all());
    if written.is_err() {
        // What the removal says does not matter beside the first failure.
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use protocol::{NodeName, UnixMillis};

    use super::super::{ClusterAuthority, NodeKey};
    use super::*;

    fn identity() -> NodeIdentity {
        let now = UnixMillis(1_800_000_000_000);
        let name = NodeName::from("n1");
        let (authority, _) = ClusterAuthority::generate(now).unwrap();
        let key = NodeKey::generate().unwrap();
        let pem = authority
            .issue_node(&key.signing_request(&name).unwrap(), &name, &[], &[], now)
            .unwrap();
        NodeIdentity::new(pem, key.to_pem(), authority.certificate_pem().to_owned()).unwrap()
    }

    #[test]
    fn an_identity_is_kept_privately_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let pki = PkiDirectory::new(directory.path().join("pki"));
        assert!(pki.load().unwrap().is_none());
        let identity = identity();
        pki.store(&identity).unwrap();
        let found = pki.load().unwrap().unwrap();
        assert_eq!(
            (found.name, found.certificate_pem),
            (identity.name, identity.certificate_pem)
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(pki.path()), 0o700);
        let files: Vec<_> = std::fs::read_dir(pki.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 3, "{files:?}");
        assert!(files.iter().all(|file| mode(file) == 0o600));
    }

    #[test]
    fn a_founders_authority_waits_on_disk_until_the_store_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let pki = PkiDirectory::new(directory.path().join("pki"));
        let (_, material) = ClusterAuthority::generate(UnixMillis(1_800_000_000_000)).unwrap();
        assert_eq!(pki.founding_authority().unwrap(), None);
        pki.store_founding_authority(&material).unwrap();
        assert_eq!(pki.founding_authority().unwrap(), Some(material));
        for _ in 0..2 {
            pki.remove_founding_authority().unwrap();
            assert_eq!(pki.founding_authority().unwrap(), None);
        }
        assert_eq!(std::fs::read_dir(pki.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_interrupted_join_is_no_identity_and_a_lost_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let pki = PkiDirectory::new(directory.path());
        let identity = identity();
        pki.write("node.key", &identity.key_pem).unwrap();
        assert!(pki.load().unwrap().is_none());
        pki.store(&identity).unwrap();
        std::fs::remove_file(pki.path().join("node.key")).unwrap();
        assert!(pki.load().unwrap_err().to_string().contains("node.key"));
    }
}
