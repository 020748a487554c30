//! Kubeconfig files: how kubectl, helm and our own shell find the cluster. `node start` writes one, the shell reads
//! them. Parsing, merging and choosing are pure; `load` and `save` touch files and say so. Fields that other programs
//! put there are kept when a file is rewritten.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_norway::Value;

type Extra = BTreeMap<String, Value>;

/// A kubeconfig file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// Always `v1`.
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    /// Always `Config`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Where clusters are.
    #[serde(default, deserialize_with = "null_is_default")]
    pub clusters: Vec<NamedCluster>,
    /// Who one is.
    #[serde(default, deserialize_with = "null_is_default")]
    pub users: Vec<NamedUser>,
    /// Pairs of the two.
    #[serde(default, deserialize_with = "null_is_default")]
    pub contexts: Vec<NamedContext>,
    /// The context to use unless told otherwise.
    #[serde(rename = "current-context", default, deserialize_with = "null_is_default")]
    pub current_context: String,
    /// What we do not read.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A cluster with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedCluster {
    /// The name.
    pub name: String,
    /// The cluster.
    pub cluster: Cluster,
}

/// Where a cluster's API is and whom it is trusted by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    /// `https://host:port`.
    pub server: String,
    /// CA certificates, PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// A file of CA certificates, relative to the kubeconfig's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<PathBuf>,
    /// Whether to trust any server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_tls_verify: Option<bool>,
    /// The name to expect in the server's certificate instead of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// What we do not read.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A user with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedUser {
    /// The name.
    pub name: String,
    /// The user.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: User,
}

/// How a user proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// A client certificate, PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// A file with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// Its key, PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// A file with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// A bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What we do not read.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A context with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedContext {
    /// The name.
    pub name: String,
    /// The context.
    pub context: Context,
}

/// A cluster, a user and a namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// The cluster's name.
    pub cluster: String,
    /// The user's name.
    pub user: String,
    /// The namespace of requests that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What we do not read.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a client needs to reach one cluster, all files read.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// The context that was chosen.
    pub context: String,
    /// `https://host:port`.
    pub server: String,
    /// The CA's certificates, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Whether to trust any server.
    pub insecure_skip_tls_verify: bool,
    /// The name to expect in the server's certificate.
    pub tls_server_name: Option<String>,
    /// Client certificate and key, PEM.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// A bearer token.
    pub token: Option<String>,
    /// The namespace of requests that name none.
    pub namespace: String,
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Not a kubeconfig.
    #[error("{path} is not a kubeconfig: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        source: serde_norway::Error,
    },
    /// No context is chosen.
    #[error("{path} has no current-context: choose one with --context ({})", listed(.available))]
    NoContext {
        /// The file.
        path: PathBuf,
        /// The contexts that exist.
        available: Vec<String>,
    },
    /// A name leads nowhere.
    #[error("{path} has no {kind} {name:?} ({})", listed(.available))]
    Missing {
        /// The file.
        path: PathBuf,
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Those that exist.
        available: Vec<String>,
    },
    /// Data that is not base64.
    #[error("{path}: {field} of {name:?} is not base64")]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// The cluster or user.
        name: String,
    },
}

fn listed(available: &[String]) -> String {
    if available.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there is: {}", available.join(", "))
    }
}

fn api_version() -> String {
    "v1".to_owned()
}

fn kind() -> String {
    "Config".to_owned()
}

/// kubectl itself writes `clusters: null` into an emptied file.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Default for Kubeconfig {
    fn default() -> Self {
        Kubeconfig {
            api_version: api_version(),
            kind: kind(),
            clusters: Vec::new(),
            users: Vec::new(),
            contexts: Vec::new(),
            current_context: String::new(),
            extra: Extra::new(),
        }
    }
}

impl Kubeconfig {
    /// The administrator's file of a cluster: one context, named as the cluster.
    pub fn admin(cluster: &str, server: &str, ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Kubeconfig {
        let user = format!("{cluster}-admin");
        Kubeconfig {
            clusters: vec![NamedCluster {
                name: cluster.to_owned(),
                cluster: Cluster {
                    server: server.to_owned(),
                    certificate_authority_data: Some(STANDARD.encode(ca_pem)),
                    ..Cluster::default()
                },
            }],
            users: vec![NamedUser {
                name: user.clone(),
                user: User {
                    client_certificate_data: Some(STANDARD.encode(certificate_pem)),
                    client_key_data: Some(STANDARD.encode(key_pem)),
                    ..User::default()
                },
            }],
            contexts: vec![NamedContext {
                name: cluster.to_owned(),
                context: Context {
                    cluster: cluster.to_owned(),
                    user,
                    ..Context::default()
                },
            }],
            current_context: cluster.to_owned(),
            ..Kubeconfig::default()
        }
    }

    /// Parses a file's text; `path` is for the messages. An empty text is an empty file, as kubectl has it.
    pub fn parse(path: &Path, text: &str) -> Result<Kubeconfig, KubeconfigError> {
        if text.trim().is_empty() {
            return Ok(Kubeconfig::default());
        }
        serde_norway::from_str(text).map_err(|source| KubeconfigError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    /// The file's text.
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(self).expect("text keys and plain values always have a YAML form")
    }

    /// Takes over the entries of another file: those of the same name are replaced, all others kept, and its context
    /// becomes the current one.
    pub fn merge(&mut self, other: Kubeconfig) {
        replace_by_name(&mut self.clusters, other.clusters, |entry| &entry.name);
        replace_by_name(&mut self.users, other.users, |entry| &entry.name);
        replace_by_name(&mut self.contexts, other.contexts, |entry| &entry.name);
        if !other.current_context.is_empty() {
            self.current_context = other.current_context;
        }
    }

    /// Adds what another file has under names that this one lacks: how kubectl reads several files of `KUBECONFIG`,
    /// where the first to say something wins.
    pub fn fill_from(&mut self, later: Kubeconfig) {
        let mut first = std::mem::replace(self, later);
        let current = std::mem::take(&mut first.current_context);
        self.merge(first);
        if !current.is_empty() {
            self.current_context = current;
        }
    }

    /// Everything that a client needs for a context; the current one if none is named. Reads the files that the entries
    /// name, relative to the directory of `path`.
    pub fn access(&self, path: &Path, context: Option<&str>) -> Result<Access, KubeconfigError> {
        let names = || self.contexts.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        let wanted = context.unwrap_or(&self.current_context);
        if wanted.is_empty() {
            return Err(KubeconfigError::NoContext {
                path: path.to_owned(),
                available: names(),
            });
        }
        let missing = |kind, name: &str, available| KubeconfigError::Missing {
            path: path.to_owned(),
            kind,
            name: name.to_owned(),
            available,
        };
        let context = self
            .contexts
            .iter()
            .find(|entry| entry.name == wanted)
            .map(|entry| &entry.context)
            .ok_or_else(|| missing("context", wanted, names()))?;
        let cluster = self
            .clusters
            .iter()
            .find(|entry| entry.name == context.cluster)
            .ok_or_else(|| {
                missing(
                    "cluster",
                    &context.cluster,
                    self.clusters.iter().map(|entry| entry.name.clone()).collect(),
                )
            })?;
        let user = self
            .users
            .iter()
            .find(|entry| entry.name == context.user)
            .ok_or_else(|| {
                missing(
                    "user",
                    &context.user,
                    self.users.iter().map(|entry| entry.name.clone()).collect(),
                )
            })?;
        let read = |field, name: &str, inline: &Option<String>, file: &Option<PathBuf>| {
            material(path, field, name, inline.as_deref(), file.as_deref())
        };
        let (c, u) = (&cluster.cluster, &user.user);
        let certificate = read(
            "client-certificate-data",
            &user.name,
            &u.client_certificate_data,
            &u.client_certificate,
        )?;
        let key = read("client-key-data", &user.name, &u.client_key_data, &u.client_key)?;
        Ok(Access {
            context: wanted.to_owned(),
            server: c.server.trim_end_matches('/').to_owned(),
            ca_pem: read(
                "certificate-authority-data",
                &cluster.name,
                &c.certificate_authority_data,
                &c.certificate_authority,
            )?,
            insecure_skip_tls_verify: c.insecure_skip_tls_verify.unwrap_or(false),
            tls_server_name: c.tls_server_name.clone(),
            client_pem: certificate.zip(key),
            token: u.token.clone(),
            namespace: context.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        })
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::Io {
            path: path.to_owned(),
            source,
        })?;
        Kubeconfig::parse(path, &text)
    }

    /// Writes a file that only its owner can read, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), KubeconfigError> {
        let failed = |source| KubeconfigError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let fresh = path.with_file_name(name);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(self.to_yaml().as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&fresh, path));
        written.map_err(|error| {
            // Nothing is left behind; what the removal says does not matter beside the first failure.
            let _ = std::fs::remove_file(&fresh);
            failed(error)
        })
    }

    /// Puts this file's entries into the one at `path`, which need not exist.
    pub fn merge_into(self, path: &Path) -> Result<(), KubeconfigError> {
        let mut existing = match Kubeconfig::load(path) {
            Ok(existing) => existing,
            Err(KubeconfigError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Kubeconfig::default()
            }
            Err(error) => return Err(error),
        };
        existing.merge(self);
        existing.save(path)
    }
}

/// The files that kubectl would read: `$KUBECONFIG` (several, with colons between) or `~/.kube/config`. Takes the two
/// variables as arguments.
pub fn default_paths(kubeconfig: Option<&str>, home: Option<&str>) -> Vec<PathBuf> {
    match kubeconfig.filter(|text| !text.is_empty()) {
        Some(text) => text
            .split(':')
            .filter(|part| !part.is_empty())
            .map(PathBuf::from)
            .collect(),
        None => home
            .map(|home| Path::new(home).join(".kube/config"))
            .into_iter()
            .collect(),
    }
}

fn replace_by_name<T>(into: &mut Vec<T>, from: Vec<T>, name: impl Fn(&T) -> &String) {
    for entry in from {
        match into.iter().position(|existing| name(existing) == name(&entry)) {
            Some(place) => into[place] = entry,
            None => into.push(entry),
        }
    }
}

/// Inline data before a file, as kubectl has it.
fn material(
    path: &Path,
    field: &'static str,
    name: &str,
    inline: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<Vec<u8>>, KubeconfigError> {
    if let Some(text) = inline {
        let compact: String = text.split_ascii_whitespace().collect();
        let decoded = STANDARD.decode(compact);
        return decoded.map(Some).map_err(|_| KubeconfigError::Encoding {
            path: path.to_owned(),
            field,
            name: name.to_owned(),
        });
    }
    let Some(file) = file else { return Ok(None) };
    let file = path.parent().unwrap_or(Path::new("")).join(file);
    std::fs::read(&file)
        .map(Some)
        .map_err(|source| KubeconfigError::Io { path: file, source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn admin(name: &str) -> Kubeconfig {
        Kubeconfig::admin(name, &format!("https://{name}:6443"), "CA", "CERT", "KEY")
    }

    #[test]
    fn the_administrators_file_gives_access_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/kubeconfig");
        admin("one").save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "a temporary file was left behind"
        );
        let access = Kubeconfig::load(&path).unwrap().access(&path, None).unwrap();
        assert_eq!(access.server, "https://one:6443");
        assert_eq!(access.ca_pem.as_deref(), Some(&b"CA"[..]));
        assert_eq!(access.client_pem, Some((b"CERT".to_vec(), b"KEY".to_vec())));
        assert_eq!(access.namespace, "default");
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_replaces_what_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let foreign = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\nclusters:\n- name: other\n  cluster:\n    \
            server: https://other\n    proxy-url: socks5://p\nusers:\n- name: other\n  user:\n    exec:\n      command: \
            login\ncontexts:\n- name: other\n  context: {cluster: other, user: other, namespace: team}\n\
            current-context: other\n";
        std::fs::write(&path, foreign).unwrap();
        admin("one").merge_into(&path).unwrap();
        admin("one").merge_into(&path).unwrap();
        let merged = Kubeconfig::load(&path).unwrap();
        assert_eq!(
            (merged.clusters.len(), merged.users.len(), merged.contexts.len()),
            (2, 2, 2)
        );
        assert_eq!(merged.current_context, "one");
        let text = std::fs::read_to_string(&path).unwrap();
        for kept in ["proxy-url", "exec", "colors", "namespace: team"] {
            assert!(text.contains(kept), "{kept} was lost in\n{text}");
        }
        assert_eq!(merged.access(&path, Some("other")).unwrap().namespace, "team");
    }

    #[test]
    fn of_several_files_the_first_to_say_something_wins() {
        let mut first = admin("one");
        first.clusters[0].cluster.server = "https://first".to_owned();
        let mut second = admin("one");
        second.merge(admin("two"));
        first.fill_from(second);
        assert_eq!(first.current_context, "one");
        let access = |name| first.access(Path::new("k"), Some(name)).unwrap().server;
        assert_eq!(
            (access("one"), access("two")),
            ("https://first".to_owned(), "https://two:6443".to_owned())
        );
    }

    #[test]
    fn files_beside_the_kubeconfig_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(directory.path().join("ca.crt"), "FILE").unwrap();
        let mut config = admin("one");
        config.clusters[0].cluster.certificate_authority_data = None;
        config.clusters[0].cluster.certificate_authority = Some("ca.crt".into());
        assert_eq!(
            config.access(&path, None).unwrap().ca_pem.as_deref(),
            Some(&b"FILE"[..])
        );
        config.clusters[0].cluster.certificate_authority = Some("gone.crt".into());
        assert!(
            config
                .access(&path, None)
                .err()
                .unwrap()
                .to_string()
                .contains("gone.crt")
        );
    }

    #[test]
    fn every_refusal_names_the_file_and_what_there_is() {
        let path = Path::new("k");
        let error = |config: &Kubeconfig, context| config.access(path, context).err().unwrap().to_string();
        let mut config = admin("one");
        assert_eq!(error(&config, Some("two")), "k has no context \"two\" (there is: one)");
        config.users[0].user.client_key_data = Some("!".to_owned());
        assert_eq!(
            error(&config, None),
            "k: client-key-data of \"one-admin\" is not base64"
        );
        config.users.clear();
        assert_eq!(error(&config, None), "k has no user \"one-admin\" (there is none)");
        config.current_context.clear();
        assert!(error(&config, None).contains("no current-context"));
        assert!(
            Kubeconfig::parse(path, "clusters: 3")
                .unwrap_err()
                .to_string()
                .starts_with("k is not a kubeconfig")
        );
        assert_eq!(
            Kubeconfig::parse(path, "clusters: null\nusers: null\n").unwrap(),
            Kubeconfig::default()
        );
    }

    #[test]
    fn the_default_files_are_kubectls() {
        assert_eq!(
            default_paths(Some("/a::/b"), Some("/h")),
            [PathBuf::from("/a"), "/b".into()]
        );
        assert_eq!(default_paths(Some(""), Some("/h")), [PathBuf::from("/h/.kube/config")]);
        assert!(default_paths(None, None).is_empty());
    }
}
