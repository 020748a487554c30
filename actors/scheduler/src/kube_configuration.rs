//! Owns the reading of a KubeSchedulerConfiguration (`kubescheduler.config.k8s.io/v1`): profiles by schedulerName, plugins
//! enabled and disabled at each extension point or at all of them (`multiPoint`), weights, and the arguments of plugins. Called
//! by whoever configures a scheduler. It must read no file, and must refuse what it does not understand rather than ignore it.
//!
//! Third parties put their plugins into a `Registry` and name them in the configuration, as with kube-scheduler's registry.
//!
//! Differs from kube-scheduler:
//! - one order of plugins for all extension points: first those of `multiPoint` in their order, then those that are enabled at a
//!   single point. kube-scheduler keeps an order for each point.
//! - `percentageOfNodesToScore`: absent, all nodes are looked at, because the index makes that cheap; 0 is Kubernetes' adaptive rule.
//! - `parallelism`: absent, 1 rather than 16.
//! - `extenders` are refused: the scheduler makes no HTTP calls. Settings of the kube-scheduler process (leader election, client
//!   connection, profiling) are accepted and have no effect here.

mod arguments;

use crate::config::{EnabledPlugin, Profile, SchedulerConfiguration};
use crate::framework::{ExtensionPoints, Plugin};
use crate::plugins;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It is not a KubeSchedulerConfiguration.
    #[error("the configuration is not a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1: {0}")]
    Format(String),
    /// A plugin is named that nobody has registered.
    #[error("profile {profile}: there is no plugin {plugin:?}; known are {}", known.join(", "))]
    UnknownPlugin {
        /// The profile.
        profile: String,
        /// The name.
        plugin: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The arguments of a plugin are not what it takes.
    #[error("profile {profile}: pluginConfig of {plugin}: {reason}")]
    Arguments {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// The profiles contradict each other or themselves.
    #[error("profile {profile}: {reason}")]
    Profile {
        /// The profile.
        profile: String,
        /// What is wrong.
        reason: String,
    },
}

/// Makes a plugin from its arguments (`null` if there are none); the error says what is wrong with them.
pub type Factory = Arc<dyn Fn(&Value) -> Result<Arc<dyn Plugin>, String> + Send + Sync>;

/// The plugins that a configuration can name.
#[derive(Clone)]
pub struct Registry {
    factories: BTreeMap<String, Factory>,
}

impl Default for Registry {
    /// The plugins of this crate.
    fn default() -> Self {
        Self {
            factories: arguments::factories(),
        }
    }
}

impl Registry {
    /// Adds a plugin under its name, or puts another in the place of one of ours.
    pub fn with(
        mut self,
        name: &str,
        factory: impl Fn(&Value) -> Result<Arc<dyn Plugin>, String> + Send + Sync + 'static,
    ) -> Self {
        self.factories.insert(name.to_owned(), Arc::new(factory));
        self
    }

    /// Reads a configuration in YAML (or JSON).
    pub fn read(&self, text: &str) -> Result<SchedulerConfiguration, ConfigurationError> {
        let read: KubeSchedulerConfiguration =
            serde_norway::from_str(text).map_err(|error| ConfigurationError::Format(error.to_string()))?;
        if read.api_version != "kubescheduler.config.k8s.io/v1" || read.kind != "KubeSchedulerConfiguration" {
            let found = format!("apiVersion {:?}, kind {:?}", read.api_version, read.kind);
            return Err(ConfigurationError::Format(found));
        }
        let mut configuration = SchedulerConfiguration::default();
        read.settings(&mut configuration)?;
        if !read.profiles.is_empty() {
            let profiles: Result<Vec<_>, _> = read.profiles.iter().map(|profile| self.profile(profile)).collect();
            configuration.profiles = profiles?;
        }
        check(&configuration.profiles)?;
        Ok(configuration)
    }

    fn profile(&self, read: &ReadProfile) -> Result<Profile, ConfigurationError> {
        let name = read
            .scheduler_name
            .clone()
            .unwrap_or_else(|| "default-scheduler".to_owned());
        let mut arguments: BTreeMap<&str, &Value> = BTreeMap::new();
        for config in &read.plugin_config {
            if arguments.insert(&config.name, &config.args).is_some() {
                let reason = format!("pluginConfig of {} is given twice", config.name);
                return Err(ConfigurationError::Profile { profile: name, reason });
            }
        }
        let chosen = choose(&read.plugins).map_err(|reason| ConfigurationError::Profile {
            profile: name.clone(),
            reason,
        })?;
        let mut plugins = Vec::new();
        for choice in &chosen {
            let Some(factory) = self.factories.get(&choice.name) else {
                return Err(self.unknown(&name, &choice.name));
            };
            let given = arguments.get(choice.name.as_str()).copied().unwrap_or(&Value::Null);
            let plugin = factory(given).map_err(|reason| ConfigurationError::Arguments {
                profile: name.clone(),
                plugin: choice.name.clone(),
                reason,
            })?;
            plugins.push(EnabledPlugin {
                plugin,
                weight: choice.weight,
                points: choice.points,
            });
        }
        if let Some(unknown) = arguments.keys().find(|plugin| !self.factories.contains_key(**plugin)) {
            return Err(self.unknown(&name, unknown));
        }
        let percentage = read.percentage_of_nodes_to_score;
        Ok(Profile {
            percentage_of_nodes_to_score: percentage.map(|of| percent(of, &name)).transpose()?,
            scheduler_name: name,
            plugins,
        })
    }

    fn unknown(&self, profile: &str, plugin: &str) -> ConfigurationError {
        ConfigurationError::UnknownPlugin {
            profile: profile.to_owned(),
            plugin: plugin.to_owned(),
            known: self.factories.keys().cloned().collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // The settings of kube-scheduler's process are read so that unknown fields can be refused.
struct KubeSchedulerConfiguration {
    api_version: String,
    kind: String,
    parallelism: Option<i64>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<ReadProfile>,
    #[serde(default)]
    extenders: Vec<Value>,
    leader_election: Option<Value>,
    client_connection: Option<Value>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    delay_cache_until_active: Option<bool>,
}

impl KubeSchedulerConfiguration {
    fn settings(&self, configuration: &mut SchedulerConfiguration) -> Result<(), ConfigurationError> {
        let refuse = |reason: String| Err(ConfigurationError::Format(reason));
        if !self.extenders.is_empty() {
            return refuse("extenders are not called: write a plugin and register it".to_owned());
        }
        let milliseconds = |seconds: i64| {
            u64::try_from(seconds)
                .ok()
                .and_then(|seconds| seconds.checked_mul(1000))
        };
        if let Some(threads) = self.parallelism {
            match usize::try_from(threads) {
                Ok(threads) if threads > 0 => configuration.parallelism = threads,
                _ => return refuse(format!("parallelism must be 1 or more, not {threads}")),
            }
        }
        if let Some(of) = self.percentage_of_nodes_to_score {
            configuration.percentage_of_nodes_to_score = percent(of, "all profiles")?;
        }
        if let Some(seconds) = self.pod_initial_backoff_seconds {
            match milliseconds(seconds) {
                Some(ms) if ms > 0 => configuration.backoff_initial_ms = ms,
                _ => return refuse(format!("podInitialBackoffSeconds must be 1 or more, not {seconds}")),
            }
        }
        if let Some(seconds) = self.pod_max_backoff_seconds {
            match milliseconds(seconds) {
                Some(ms) => configuration.backoff_max_ms = ms,
                None => return refuse(format!("podMaxBackoffSeconds must be 1 or more, not {seconds}")),
            }
        }
        if configuration.backoff_max_ms < configuration.backoff_initial_ms {
            return refuse("podMaxBackoffSeconds is less than podInitialBackoffSeconds".to_owned());
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReadProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: ReadPlugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ReadPlugins {
    multi_point: PluginSet,
    pre_enqueue: PluginSet,
    queue_sort: PluginSet,
    pre_filter: PluginSet,
    filter: PluginSet,
    post_filter: PluginSet,
    pre_score: PluginSet,
    score: PluginSet,
    reserve: PluginSet,
    permit: PluginSet,
    pre_bind: PluginSet,
    bind: PluginSet,
    post_bind: PluginSet,
}

impl ReadPlugins {
    fn points(&self) -> [(ExtensionPoints, &PluginSet); 12] {
        [
            (ExtensionPoints::PRE_ENQUEUE, &self.pre_enqueue),
            (ExtensionPoints::QUEUE_SORT, &self.queue_sort),
            (ExtensionPoints::PRE_FILTER, &self.pre_filter),
            (ExtensionPoints::FILTER, &self.filter),
            (ExtensionPoints::POST_FILTER, &self.post_filter),
            (ExtensionPoints::PRE_SCORE, &self.pre_score),
            (ExtensionPoints::SCORE, &self.score),
            (ExtensionPoints::RESERVE, &self.reserve),
            (ExtensionPoints::PERMIT, &self.permit),
            (ExtensionPoints::PRE_BIND, &self.pre_bind),
            (ExtensionPoints::BIND, &self.bind),
            (ExtensionPoints::POST_BIND, &self.post_bind),
        ]
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PluginSet {
    enabled: Vec<NamedPlugin>,
    disabled: Vec<NamedPlugin>,
}

impl PluginSet {
    fn disables(&self, name: &str) -> bool {
        self.disabled
            .iter()
            .any(|plugin| plugin.name == name || plugin.name == "*")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamedPlugin {
    name: String,
    #[serde(default)]
    weight: i64,
}

struct Choice {
    name: String,
    weight: i64,
    points: ExtensionPoints,
}

/// Which plugins take part where: kube-scheduler's merging of the default `multiPoint` set with the given one, and of that with
/// the sets of single points.
fn choose(read: &ReadPlugins) -> Result<Vec<Choice>, String> {
    let everywhere = &read.multi_point;
    let mut chosen: Vec<Choice> = Vec::new();
    let mut replaced: Vec<&str> = Vec::new();
    for default in plugins::default_plugins() {
        let name = default.plugin.name();
        if everywhere.disables(name) {
            continue;
        }
        let given = everywhere.enabled.iter().find(|plugin| plugin.name == name);
        if given.is_some() {
            replaced.push(name);
        }
        chosen.push(Choice {
            name: name.to_owned(),
            weight: given.map_or(default.weight, |plugin| plugin.weight),
            points: ExtensionPoints::ALL,
        });
    }
    for plugin in everywhere
        .enabled
        .iter()
        .filter(|plugin| !replaced.contains(&plugin.name.as_str()))
    {
        if chosen.iter().any(|choice| choice.name == plugin.name) {
            return Err(format!("plugin {} is enabled twice in multiPoint", plugin.name));
        }
        chosen.push(Choice {
            name: plugin.name.clone(),
            weight: plugin.weight,
            points: ExtensionPoints::ALL,
        });
    }
    for (point, set) in read.points() {
        for choice in chosen.iter_mut().filter(|choice| set.disables(&choice.name)) {
            choice.points = choice.points.without(point);
        }
        for (at, plugin) in set.enabled.iter().enumerate() {
            if set.enabled[..at].iter().any(|other| other.name == plugin.name) {
                return Err(format!(
                    "plugin {} is enabled twice at one extension point",
                    plugin.name
                ));
            }
            let known = chosen.iter_mut().find(|choice| choice.name == plugin.name);
            let choice = match known {
                Some(choice) => choice,
                None => {
                    chosen.push(Choice {
                        name: plugin.name.clone(),
                        weight: 0,
                        points: ExtensionPoints::NONE,
                    });
                    chosen.last_mut().ok_or("a plugin was just chosen")?
                }
            };
            choice.points = choice.points.and(point);
            if point == ExtensionPoints::SCORE {
                choice.weight = plugin.weight;
            }
        }
    }
    for choice in &mut chosen {
        if choice.weight < 0 {
            return Err(format!("plugin {} has a negative weight", choice.name));
        }
        // As in kube-scheduler: a plugin that scores and has no weight counts once.
        choice.weight = choice.weight.max(1);
    }
    chosen.retain(|choice| choice.points != ExtensionPoints::NONE);
    Ok(chosen)
}

fn percent(of: i64, profile: &str) -> Result<u32, ConfigurationError> {
    match u32::try_from(of) {
        Ok(of) if of <= 100 => Ok(of),
        _ => Err(ConfigurationError::Profile {
            profile: profile.to_owned(),
            reason: format!("percentageOfNodesToScore must be from 0 to 100, not {of}"),
        }),
    }
}

/// What kube-scheduler demands of profiles: names of their own, somebody who binds, and one common order of the queue.
fn check(profiles: &[Profile]) -> Result<(), ConfigurationError> {
    let refuse = |profile: &Profile, reason: String| {
        Err(ConfigurationError::Profile {
            profile: profile.scheduler_name.clone(),
            reason,
        })
    };
    // Only PrioritySort of our own plugins sorts; a third party's that takes its place is the one that is enabled there.
    let sorts = |profile: &Profile| -> Vec<&'static str> {
        let sorting = profile
            .plugins
            .iter()
            .filter(|enabled| enabled.points.meets(ExtensionPoints::QUEUE_SORT));
        sorting
            .map(|enabled| enabled.plugin.name())
            .filter(|name| *name == "PrioritySort")
            .collect()
    };
    let own: Vec<&str> = plugins::default_plugins()
        .iter()
        .map(|enabled| enabled.plugin.name())
        .collect();
    let binds = |enabled: &EnabledPlugin| {
        let name = enabled.plugin.name();
        enabled.points.meets(ExtensionPoints::BIND) && (name == "DefaultBinder" || !own.contains(&name))
    };
    for (at, profile) in profiles.iter().enumerate() {
        if profiles[..at]
            .iter()
            .any(|other| other.scheduler_name == profile.scheduler_name)
        {
            return refuse(profile, "another profile has this schedulerName".to_owned());
        }
        if !profile.plugins.iter().any(binds) {
            return refuse(profile, "no plugin is enabled at bind; enable DefaultBinder".to_owned());
        }
        if sorts(profile) != sorts(&profiles[0]) {
            let reason = "all profiles share one queue, so they need the same plugin at queueSort".to_owned();
            return refuse(profile, reason);
        }
    }
    Ok(())
}
