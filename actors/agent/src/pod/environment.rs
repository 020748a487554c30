//! A container's environment: service variables, `envFrom`, `env` with `valueFrom`, and `$(NAME)` expansion, after the
//! kubelet's `makeEnvironmentVariables` and the expansion rules of apimachinery's `third_party/forked/golang/expansion`.
//! Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use protocol::quantity::Quantity;

use super::dependency::{Dependencies, ServiceAddress, Source};

/// Why a container cannot be configured: `CreateContainerConfigError`, with the message that Kubernetes gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A ConfigMap or Secret is absent and not optional.
    #[error("{word} {name:?} not found")]
    Absent {
        /// `configmap` or `secret`.
        word: &'static str,
        /// Its name.
        name: String,
    },
    /// It exists, without the key.
    #[error("couldn't find key {key} in {word} {namespace}/{name}")]
    KeyAbsent {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        word: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `fieldRef` or `resourceFieldRef` names what pods do not have.
    #[error("field {0:?} is not supported by the downward API")]
    Field(String),
    /// A volume of a kind that this node cannot provide.
    #[error("volume {name:?} is of a kind that this node cannot provide: {kind}")]
    Volume {
        /// The volume.
        name: String,
        /// What it asks for.
        kind: String,
    },
    /// A token that the cluster does not give.
    #[error("failed to fetch token for volume {volume:?}: {reason}")]
    Token {
        /// The volume.
        volume: String,
        /// What the issuer said.
        reason: String,
    },
    /// A mount without volume; validation refuses it earlier.
    #[error("volume mount {0:?} names no volume of the pod")]
    Mount(String),
    /// A container whose processes an ephemeral one is to see does not run.
    #[error("unable to find target container {0:?}")]
    Target(String),
    /// A number that is none.
    #[error("{what} {text:?} is not a quantity")]
    Quantity {
        /// Which limit.
        what: String,
        /// What it says.
        text: String,
    },
}

/// Facts of the running pod that the downward API can show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub host_ip: String,
    /// The pod's address; empty until the sandbox has one.
    pub pod_ip: String,
    /// The node's allocatable cpu in thousandths, what `limits.cpu` says when there is no limit.
    pub allocatable_cpu_milli: u64,
    /// The node's allocatable memory in bytes.
    pub allocatable_memory_bytes: u64,
    /// All of the node's memory in bytes.
    pub memory_bytes: u64,
}

/// The environment of a container, in the order in which it is set; a later entry of the same name replaces an earlier.
pub fn environment(
    pod: &Pod,
    container: &Container,
    dependencies: &Dependencies,
    facts: &PodFacts,
) -> Result<Vec<(String, String)>, ConfigurationError> {
    let mut variables = Variables::default();
    let spec = pod.spec.as_ref();
    let links = spec.and_then(|spec| spec.enable_service_links).unwrap_or(true);
    for service in &dependencies.services {
        if links || service.name == "kubernetes" {
            for (name, value) in service_variables(service) {
                variables.set(name, value);
            }
        }
    }
    add_env_from(container, dependencies, &mut variables)?;
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, dependencies, facts, &variables)? {
            variables.set(variable.name.clone(), value);
        }
    }
    Ok(variables.in_order)
}

#[derive(Default)]
struct Variables {
    in_order: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(&at) => self.in_order[at].1 = value,
            None => {
                self.index.insert(name.clone(), self.in_order.len());
                self.in_order.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.in_order[at].1.as_str())
    }
}

fn add_env_from(
    container: &Container,
    dependencies: &Dependencies,
    variables: &mut Variables,
) -> Result<(), ConfigurationError> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        let map = from
            .config_map_ref
            .as_ref()
            .map(|r| (Source::ConfigMap, r.name.clone(), r.optional));
        let secret = from
            .secret_ref
            .as_ref()
            .map(|r| (Source::Secret, r.name.clone(), r.optional));
        for (source, name, optional) in map.into_iter().chain(secret) {
            match dependencies.content(source, &name) {
                Some(content) => {
                    for (key, value) in content {
                        variables.set(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
                    }
                }
                None if optional == Some(true) => {}
                None => {
                    return Err(ConfigurationError::Absent {
                        word: source.word(),
                        name,
                    });
                }
            }
        }
    }
    Ok(())
}

fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    dependencies: &Dependencies,
    facts: &PodFacts,
    known: &Variables,
) -> Result<Option<String>, ConfigurationError> {
    let Some(from) = &variable.value_from else {
        let value = variable.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(value, |name| known.get(name).map(str::to_owned))));
    };
    if let Some(field) = &from.field_ref {
        return field_value(pod, &field.field_path, facts).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        let divisor = resource.divisor.as_ref().map_or("", |quantity| quantity.0.as_str());
        let owner = resource.container_name.as_deref();
        return resource_value(pod, container, owner, &resource.resource, divisor, facts).map(Some);
    }
    let map = from.config_map_key_ref.as_ref();
    let secret = from.secret_key_ref.as_ref();
    let reference = map
        .map(|r| (Source::ConfigMap, "ConfigMap", &r.name, &r.key, r.optional))
        .or_else(|| secret.map(|r| (Source::Secret, "Secret", &r.name, &r.key, r.optional)));
    let Some((source, word, name, key, optional)) = reference else {
        return Ok(None);
    };
    let content = dependencies.content(source, name);
    match content.and_then(|content| content.get(key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None if content.is_none() => Err(ConfigurationError::Absent {
            word: source.word(),
            name: name.clone(),
        }),
        None => Err(ConfigurationError::KeyAbsent {
            key: key.clone(),
            word,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: name.clone(),
        }),
    }
}

/// A field of the pod by its path, as the downward API gives it.
pub fn field_value(pod: &Pod, path: &str, facts: &PodFacts) -> Result<String, ConfigurationError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let listed = |map: Option<&BTreeMap<String, String>>| {
        let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let subscript = |map: Option<&BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    if let Some(value) = subscript(metadata.labels.as_ref(), "metadata.labels['") {
        return Ok(value);
    }
    if let Some(value) = subscript(metadata.annotations.as_ref(), "metadata.annotations['") {
        return Ok(value);
    }
    Ok(match path {
        "metadata.name" => text(metadata.name.as_ref()),
        "metadata.namespace" => text(metadata.namespace.as_ref()),
        "metadata.uid" => text(metadata.uid.as_ref()),
        "metadata.labels" => listed(metadata.labels.as_ref()),
        "metadata.annotations" => listed(metadata.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        other => return Err(ConfigurationError::Field(other.to_owned())),
    })
}

/// A request or limit of a container, divided by `divisor` and rounded up, as the downward API gives it.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    owner: Option<&str>,
    path: &str,
    divisor: &str,
    facts: &PodFacts,
) -> Result<String, ConfigurationError> {
    let spec = pod.spec.as_ref();
    let named = |name: &str| spec?.containers.iter().find(|candidate| candidate.name == name);
    let container = owner.and_then(named).unwrap_or(container);
    let unknown = || ConfigurationError::Field(path.to_owned());
    let (list, resource) = path.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let requested = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()?.get(resource)),
        "requests" => resources.and_then(|r| r.requests.as_ref()?.get(resource)),
        _ => return Err(unknown()),
    };
    let parse = |text: &str| {
        let quantity = |_| ConfigurationError::Quantity {
            what: path.to_owned(),
            text: text.to_owned(),
        };
        Quantity::parse(text).map_err(quantity)
    };
    let quantity = match requested {
        Some(text) => parse(&text.0)?,
        None if list == "requests" => Quantity::from_units(0),
        None if resource == "cpu" => Quantity::from_milli(facts.allocatable_cpu_milli as i64),
        None if resource == "memory" => Quantity::from_units(facts.allocatable_memory_bytes as i64),
        None => Quantity::from_units(0),
    };
    let divisor_milli = if divisor.is_empty() || divisor == "0" {
        1000
    } else {
        parse(divisor)?.milli().max(1)
    };
    let quotient = i128::from(quantity.milli()) + i128::from(divisor_milli) - 1;
    Ok((quotient / i128::from(divisor_milli)).to_string())
}

/// Replaces `$(NAME)` by the variable's value; `$$` stands for `$`; an unknown name stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = tail;
        }
    }
    expanded.push_str(rest);
    expanded
}

/// The variables of a service, in the form that Docker's links made customary.
pub fn service_variables(service: &ServiceAddress) -> Vec<(String, String)> {
    let prefix = service.name.to_uppercase().replace('-', "_");
    let mut variables = vec![(format!("{prefix}_SERVICE_HOST"), service.cluster_ip.clone())];
    let Some((_, first, first_protocol)) = service.ports.first() else {
        return variables;
    };
    variables.push((format!("{prefix}_SERVICE_PORT"), first.to_string()));
    for (name, port, _) in service.ports.iter().filter(|(name, ..)| !name.is_empty()) {
        let name = name.to_uppercase().replace('-', "_");
        variables.push((format!("{prefix}_SERVICE_PORT_{name}"), port.to_string()));
    }
    let url = |port: u16, protocol: &str| format!("{}://{}:{port}", protocol.to_lowercase(), service.cluster_ip);
    variables.push((format!("{prefix}_PORT"), url(*first, first_protocol)));
    for (_, port, protocol) in &service.ports {
        let base = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        variables.push((base.clone(), url(*port, protocol)));
        variables.push((format!("{base}_PROTO"), protocol.to_lowercase()));
        variables.push((format!("{base}_PORT"), port.to_string()));
        variables.push((format!("{base}_ADDR"), service.cluster_ip.clone()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::dependency::Reference;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "spec": {"containers": [{
                "name": "c", "image": "i",
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "value": "$(A)-$(NONE)-$$(A)"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                ],
                "resources": {"limits": {"memory": "64Mi"}},
            }]},
        }))
        .unwrap()
    }

    fn dependencies() -> Dependencies {
        let settings = BTreeMap::from([("x".to_owned(), b"y".to_vec())]);
        Dependencies {
            contents: BTreeMap::from([(Reference::new(Source::ConfigMap, "settings"), Some(settings))]),
            services: vec![ServiceAddress {
                name: "redis-main".into(),
                cluster_ip: "10.96.0.7".into(),
                ports: vec![(String::new(), 6379, "TCP".into())],
            }],
            tokens: Default::default(),
        }
    }

    #[test]
    fn every_source_of_the_environment_is_used_in_order() {
        let pod = pod();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let facts = PodFacts {
            pod_ip: "10.244.1.5".into(),
            ..PodFacts::default()
        };
        let variables: BTreeMap<_, _> = environment(&pod, container, &dependencies(), &facts)
            .unwrap()
            .into_iter()
            .collect();
        for (name, value) in [
            ("P_x", "y"),
            ("A", "1"),
            ("B", "1-$(NONE)-$(A)"),
            ("IP", "10.244.1.5"),
            ("APP", "web"),
            ("MEM", "64"),
            ("REDIS_MAIN_SERVICE_HOST", "10.96.0.7"),
            ("REDIS_MAIN_PORT_6379_TCP_ADDR", "10.96.0.7"),
        ] {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(
            !variables.contains_key("KEY"),
            "an optional key that is absent sets nothing"
        );
    }

    #[test]
    fn an_absent_config_map_is_named() {
        let pod = pod();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let error = environment(&pod, container, &Dependencies::default(), &PodFacts::default()).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"settings\" not found");
    }
}
