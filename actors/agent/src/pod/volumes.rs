//! What a pod's volumes hold, from their sources and the ConfigMaps and Secrets that were read. Pure; the runtime makes
//! the directories.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection,
    Volume,
};
use protocol::quantity::Quantity;
use protocol::runtime::{FileContent, VolumeSource, VolumeSpec};

use super::dependency::{Dependencies, Source};
use super::environment::{ConfigurationError, PodFacts, field_value, resource_value};
use super::token::TokenWish;

const DEFAULT_MODE: i32 = 0o644;

type Files = BTreeMap<String, FileContent>;

/// The runtime's form of every volume of the pod.
pub fn volumes(
    pod: &Pod,
    dependencies: &Dependencies,
    facts: &PodFacts,
) -> Result<Vec<VolumeSpec>, ConfigurationError> {
    let listed = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    listed
        .map(|volume| {
            Ok(VolumeSpec {
                name: volume.name.clone(),
                source: source(pod, volume, dependencies, facts)?,
            })
        })
        .collect()
}

fn source(
    pod: &Pod,
    volume: &Volume,
    dependencies: &Dependencies,
    facts: &PodFacts,
) -> Result<VolumeSource, ConfigurationError> {
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(volume, empty);
    }
    if let Some(host) = &volume.host_path {
        return Ok(VolumeSource::HostPath {
            path: host.path.clone().into(),
            kind: host.type_.clone().unwrap_or_default(),
        });
    }
    let reader = Reader {
        pod,
        dependencies,
        facts,
    };
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let mode = map.default_mode.unwrap_or(DEFAULT_MODE);
        reader.content(
            Source::ConfigMap,
            &map.name,
            map.items.as_deref(),
            map.optional,
            mode,
            &mut files,
        )?;
        return Ok(VolumeSource::Files { files, memory: false });
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.clone().unwrap_or_default();
        let mode = secret.default_mode.unwrap_or(DEFAULT_MODE);
        reader.content(
            Source::Secret,
            &name,
            secret.items.as_deref(),
            secret.optional,
            mode,
            &mut files,
        )?;
        return Ok(VolumeSource::Files { files, memory: true });
    }
    if let Some(downward) = &volume.downward_api {
        let mode = downward.default_mode.unwrap_or(DEFAULT_MODE);
        reader.downward(downward.items.iter().flatten(), mode, &mut files)?;
        return Ok(VolumeSource::Files { files, memory: false });
    }
    if let Some(projected) = &volume.projected {
        project(&reader, volume, projected, &mut files)?;
        return Ok(VolumeSource::Files { files, memory: true });
    }
    Err(unsupported(volume, &kind_of(volume)))
}

fn empty_dir(volume: &Volume, empty: &EmptyDirVolumeSource) -> Result<VolumeSource, ConfigurationError> {
    let parse = |text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
        Quantity::parse(&text.0)
            .map(|parsed| parsed.units().max(0) as u64)
            .map_err(|_| ConfigurationError::Quantity {
                what: format!("sizeLimit of volume {}", volume.name),
                text: text.0.clone(),
            })
    };
    Ok(VolumeSource::EmptyDir {
        memory: empty.medium.as_deref() == Some("Memory"),
        size_limit_bytes: empty.size_limit.as_ref().map(parse).transpose()?,
    })
}

/// All sources of a projected volume, in one set of files.
fn project(
    reader: &Reader<'_>,
    volume: &Volume,
    projected: &ProjectedVolumeSource,
    files: &mut Files,
) -> Result<(), ConfigurationError> {
    let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
    for projection in projected.sources.iter().flatten() {
        if let Some(map) = &projection.config_map {
            reader.content(
                Source::ConfigMap,
                &map.name,
                map.items.as_deref(),
                map.optional,
                mode,
                files,
            )?;
        } else if let Some(secret) = &projection.secret {
            let items = secret.items.as_deref();
            reader.content(Source::Secret, &secret.name, items, secret.optional, mode, files)?;
        } else if let Some(downward) = &projection.downward_api {
            reader.downward(downward.items.iter().flatten(), mode, files)?;
        } else if let Some(token) = &projection.service_account_token {
            let file = reader.token(volume, token, mode)?;
            files.insert(token.path.clone(), file);
        } else {
            return Err(unsupported(
                volume,
                "a projection other than serviceAccountToken, configMap, secret and downwardAPI",
            ));
        }
    }
    Ok(())
}

fn unsupported(volume: &Volume, kind: &str) -> ConfigurationError {
    ConfigurationError::Volume {
        name: volume.name.clone(),
        kind: kind.to_owned(),
    }
}

/// The name of the source that the volume uses, for the message.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let named = value
        .as_object()
        .and_then(|fields| fields.keys().find(|key| *key != "name").cloned());
    named.unwrap_or_else(|| "no source".to_owned())
}

struct Reader<'a> {
    pod: &'a Pod,
    dependencies: &'a Dependencies,
    facts: &'a PodFacts,
}

/// The user as which every container of the pod runs, where it is one.
fn only_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users = containers.map(|container| {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user);
        own.or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first as u32)
}

impl Reader<'_> {
    /// A token is readable by the pod's only user, or by its group, where the pod says who they are.
    fn token(
        &self,
        volume: &Volume,
        projection: &ServiceAccountTokenProjection,
        mode: i32,
    ) -> Result<FileContent, ConfigurationError> {
        let refused = |reason: &str| ConfigurationError::Token {
            volume: volume.name.clone(),
            reason: reason.to_owned(),
        };
        let token = match self.dependencies.tokens.get(&TokenWish::of(projection)) {
            Some(Ok(token)) => token,
            Some(Err(reason)) => return Err(refused(reason)),
            None => return Err(refused("it was not asked for as yet")),
        };
        let security = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let has_group = security.is_some_and(|context| context.fs_group.is_some());
        let owner = only_user(self.pod);
        let is_private = owner.is_some() || has_group;
        Ok(FileContent {
            content: token.token.clone().into_bytes(),
            mode: if is_private { 0o600 } else { mode as u32 },
            owner,
        })
    }

    fn content(
        &self,
        source: Source,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), ConfigurationError> {
        let Some(content) = self.dependencies.content(source, name) else {
            if optional == Some(true) {
                return Ok(());
            }
            return Err(ConfigurationError::Absent {
                word: source.word(),
                name: name.to_owned(),
            });
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, value) in content {
                files.insert(
                    key.clone(),
                    FileContent {
                        content: value.clone(),
                        mode: mode as u32,
                        owner: None,
                    },
                );
            }
            return Ok(());
        };
        for item in items {
            match content.get(&item.key) {
                Some(value) => {
                    let mode = item.mode.unwrap_or(mode) as u32;
                    files.insert(
                        item.path.clone(),
                        FileContent {
                            content: value.clone(),
                            mode,
                            owner: None,
                        },
                    );
                }
                None if optional == Some(true) => {}
                None => {
                    return Err(ConfigurationError::KeyAbsent {
                        key: item.key.clone(),
                        word: if source == Source::Secret {
                            "Secret"
                        } else {
                            "ConfigMap"
                        },
                        namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
                        name: name.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    fn downward<'b>(
        &self,
        items: impl Iterator<Item = &'b DownwardAPIVolumeFile>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), ConfigurationError> {
        let first = self.pod.spec.as_ref().and_then(|spec| spec.containers.first());
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref, first) {
                (Some(field), ..) => field_value(self.pod, &field.field_path, self.facts)?,
                (None, Some(resource), Some(first)) => {
                    let divisor = resource.divisor.as_ref().map_or("", |quantity| quantity.0.as_str());
                    let owner = resource.container_name.as_deref();
                    resource_value(self.pod, first, owner, &resource.resource, divisor, self.facts)?
                }
                _ => return Err(ConfigurationError::Field(item.path.clone())),
            };
            let mode = item.mode.unwrap_or(mode) as u32;
            files.insert(
                item.path.clone(),
                FileContent {
                    content: text.into_bytes(),
                    mode,
                    owner: None,
                },
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::dependency::Reference;
    use serde_json::json;

    fn volume_of(volume: serde_json::Value, dependencies: &Dependencies) -> Result<VolumeSource, ConfigurationError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c"}], "volumes": [volume]},
        }))
        .unwrap();
        volumes(&pod, dependencies, &PodFacts::default()).map(|mut all| all.remove(0).source)
    }

    fn settings() -> Dependencies {
        let content = BTreeMap::from([("k".to_owned(), b"v".to_vec()), ("l".to_owned(), b"w".to_vec())]);
        Dependencies {
            contents: BTreeMap::from([(Reference::new(Source::ConfigMap, "m"), Some(content))]),
            services: vec![],
            tokens: Default::default(),
        }
    }

    #[test]
    fn items_choose_and_rename_keys() {
        let source = volume_of(
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "dir/file", "mode": 256}]}}),
            &settings(),
        );
        let files = BTreeMap::from([(
            "dir/file".to_owned(),
            FileContent {
                content: b"v".to_vec(),
                mode: 0o400,
                owner: None,
            },
        )]);
        assert_eq!(source, Ok(VolumeSource::Files { files, memory: false }));
    }

    #[test]
    fn absent_sources_are_errors_unless_optional() {
        let absent = volume_of(json!({"name": "v", "secret": {"secretName": "s"}}), &settings());
        assert_eq!(absent.unwrap_err().to_string(), "secret \"s\" not found");
        let optional = volume_of(
            json!({"name": "v", "secret": {"secretName": "s", "optional": true}}),
            &settings(),
        );
        assert_eq!(
            optional,
            Ok(VolumeSource::Files {
                files: Files::new(),
                memory: true
            })
        );
        let key = volume_of(
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}),
            &settings(),
        );
        assert_eq!(key.unwrap_err().to_string(), "couldn't find key z in ConfigMap d/m");
    }

    #[test]
    fn a_token_belongs_to_the_pods_user_or_group() {
        let projected = json!({"name": "v", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}});
        let wish = TokenWish {
            audience: String::new(),
            seconds: 3607,
        };
        let token = crate::pod::token::HeldToken {
            token: "t".to_owned(),
            issued_at: protocol::UnixMillis(0),
            expires_at: protocol::UnixMillis(1),
        };
        let given = Dependencies {
            tokens: BTreeMap::from([(wish.clone(), Ok(token))]),
            ..Dependencies::default()
        };
        let file = |spec: serde_json::Value, given: &Dependencies| {
            let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
            let volume: Volume = serde_json::from_value(projected.clone()).unwrap();
            pod.spec.as_mut().unwrap().volumes = Some(vec![volume]);
            volumes(&pod, given, &PodFacts::default()).map(|mut all| match all.remove(0).source {
                VolumeSource::Files { mut files, memory } => {
                    assert!(memory);
                    let file = files.remove("token").unwrap();
                    (file.mode, file.owner)
                }
                other => panic!("{other:?}"),
            })
        };
        let two = |first: u32, second: u32| {
            json!({"containers": [
            {"name": "a", "securityContext": {"runAsUser": first}}, {"name": "b", "securityContext": {"runAsUser": second}}]})
        };
        let cases = [
            (json!({"containers": [{"name": "a"}]}), (0o644, None)),
            (two(7, 7), (0o600, Some(7))),
            (two(7, 8), (0o644, None)),
            (
                json!({"securityContext": {"fsGroup": 9}, "containers": [{"name": "a"}]}),
                (0o600, None),
            ),
            (
                json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}]}),
                (0o600, Some(7)),
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(file(spec.clone(), &given).unwrap(), expected, "{spec}");
        }
        let refused = Dependencies {
            tokens: BTreeMap::from([(wish, Err("serviceaccounts \"x\" not found".to_owned()))]),
            ..Dependencies::default()
        };
        let error = file(json!({"containers": []}), &refused).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to fetch token for volume \"v\": serviceaccounts \"x\" not found"
        );
    }

    #[test]
    fn a_volume_of_another_kind_is_named() {
        let error = volume_of(json!({"name": "v", "nfs": {"server": "s", "path": "/"}}), &settings()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "volume \"v\" is of a kind that this node cannot provide: nfs"
        );
    }
}
