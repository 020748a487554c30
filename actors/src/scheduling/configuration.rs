//! What the scheduler is configured with: a KubeSchedulerConfiguration, from a file that the node is started with
//! (`--scheduler-config`), or from the ConfigMap `kube-system/kube-scheduler` (`config.yaml`), which comes first, since it is in
//! the store and so the same for every leader. Pure; called by the node when it starts, and by the scheduler's actor, which
//! reads the map when it starts and whenever it changes. A file that cannot be used keeps the node from starting; a map that
//! cannot be used must never leave the cluster without a scheduler: it is said, and what was in use stays.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use protocol::{Key, Object};
use scheduler::SchedulerConfiguration;
use scheduler::kube_configuration::{ConfigurationError, Registry};

use crate::effects::{Note, Regarding, Severity};
use crate::kind::read;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-scheduler";
const FILE: &str = "config.yaml";

/// What a node was told of scheduling; the default profile if nothing.
#[derive(Clone, Default)]
pub struct SchedulerSettings(SchedulerConfiguration);

impl SchedulerSettings {
    /// Reads the text of a KubeSchedulerConfiguration, YAML or JSON.
    pub fn parse(text: &str) -> Result<SchedulerSettings, ConfigurationError> {
        Registry::default().read(text).map(SchedulerSettings)
    }

    pub(super) fn configuration(&self) -> &SchedulerConfiguration {
        &self.0
    }
}

impl std::fmt::Debug for SchedulerSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let profiles = self.0.profiles.iter().map(|profile| &profile.scheduler_name);
        formatter.debug_list().entries(profiles).finish()
    }
}

/// Where the configuration is.
pub(super) fn key() -> Key {
    Key::new("configmaps", NAMESPACE, NAME)
}

/// Whether an object is the configuration.
pub(super) fn is_it(key: &Key) -> bool {
    key.resource.as_str() == "configmaps" && &*key.namespace == NAMESPACE && &*key.name == NAME
}

/// Reads the configuration; without an object it is what the node was told. The error says what is wrong.
pub(super) fn configuration(
    object: Option<&Arc<Object>>,
    settings: &SchedulerSettings,
) -> Result<SchedulerConfiguration, String> {
    let Some(object) = object else {
        return Ok(settings.0.clone());
    };
    let map: core::ConfigMap = read(&key(), object).map_err(|error| error.to_string())?;
    let Some(text) = map.data.as_ref().and_then(|data| data.get(FILE)) else {
        return Err(format!("ConfigMap {NAMESPACE}/{NAME} has no key {FILE}"));
    };
    Registry::default()
        .read(text)
        .map_err(|error| format!("{FILE} of ConfigMap {NAMESPACE}/{NAME}: {error}"))
}

/// What is noted about a configuration that cannot be used.
pub(super) fn refusal(object: &Object, reason: &str) -> Note {
    Note {
        regarding: Regarding {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: NAMESPACE.to_owned(),
            name: NAME.to_owned(),
            uid: object.header.uid.to_string(),
        },
        severity: Severity::Warning,
        reason: "InvalidConfiguration",
        message: format!("{reason}; the scheduler goes on with what it had"),
        component: super::desk::COMPONENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;
    use serde_json::{Value, json};

    fn map(data: Value) -> Arc<Object> {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": "u"}});
        stored(value, 1)
    }

    #[test]
    fn profiles_come_from_the_config_map() {
        let settings = SchedulerSettings::default();
        assert_eq!(configuration(None, &settings).unwrap().profiles.len(), 1);
        let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n\
                    - schedulerName: default-scheduler\n- schedulerName: packing\n";
        let names = |configuration: SchedulerConfiguration| -> Vec<String> {
            let profiles = configuration.profiles.iter();
            profiles.map(|profile| profile.scheduler_name.to_string()).collect()
        };
        let from_map = configuration(Some(&map(json!({FILE: text}))), &settings).unwrap();
        assert_eq!(names(from_map), ["default-scheduler", "packing"]);
        let told = SchedulerSettings::parse(&text.replace("packing", "told")).unwrap();
        assert_eq!(format!("{told:?}"), "[\"default-scheduler\", \"told\"]");
        assert_eq!(
            names(configuration(None, &told).unwrap()),
            ["default-scheduler", "told"]
        );
        let from_map = configuration(Some(&map(json!({FILE: text}))), &told).unwrap();
        assert_eq!(names(from_map), ["default-scheduler", "packing"], "the map comes first");
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (data, words) in [
            (json!({}), "ConfigMap kube-system/kube-scheduler has no key config.yaml"),
            (
                json!({FILE: "kind: Other"}),
                "config.yaml of ConfigMap kube-system/kube-scheduler: ",
            ),
        ] {
            let object = map(data);
            let reason = configuration(Some(&object), &SchedulerSettings::default())
                .map(|_| ())
                .unwrap_err();
            assert!(reason.starts_with(words), "{reason}");
            assert!(
                refusal(&object, &reason)
                    .message
                    .ends_with("the scheduler goes on with what it had")
            );
        }
    }

    #[test]
    fn only_that_map_is_the_configuration() {
        assert!(is_it(&key()));
        assert!(!is_it(&Key::new("configmaps", "default", NAME)));
        assert!(!is_it(&Key::new("secrets", NAMESPACE, NAME)));
    }
}
