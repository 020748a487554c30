//! The webhooks of a cluster, read from their configurations once, when one of those changes.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use api::access::Access;
use api::cause::{Causes, Path};
use expressions::Environment;
use serde_json::Value;

use crate::matching::Criteria;
use crate::scene::{self, Condition};

/// The version of AdmissionReview that a webhook reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVersion {
    /// admission.k8s.io/v1.
    V1,
    /// admission.k8s.io/v1beta1.
    V1Beta1,
}

impl ReviewVersion {
    /// `admission.k8s.io/v1`.
    pub fn api_version(self) -> &'static str {
        match self {
            ReviewVersion::V1 => "admission.k8s.io/v1",
            ReviewVersion::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// What match conditions of webhooks may name.
pub(super) static DECLARED: LazyLock<Environment> = LazyLock::new(|| scene::environment(false));

/// What of a configuration's match conditions does not compile: as the API server refuses it when it is written.
pub fn problems(configuration: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let list = root.field("webhooks");
    for (index, webhook) in configuration.items("webhooks").iter().enumerate() {
        let item = list.index(index);
        scene::condition_problems(webhook, &item, &DECLARED, causes);
    }
}

/// A webhook.
#[derive(Debug)]
pub struct Webhook {
    /// The configuration that it stands in.
    pub configuration: Arc<str>,
    /// Its name.
    pub name: String,
    /// Where it is: `clientConfig`.
    pub client: Value,
    /// Which requests it wants to see.
    pub criteria: Criteria,
    /// What else must hold.
    pub(super) conditions: Vec<Condition>,
    /// Whether a request is refused when it gives no answer: `failurePolicy: Fail`.
    pub fails_closed: bool,
    /// Whether a dry run may ask it.
    pub bears_dry_run: bool,
    /// How long it is waited for.
    pub timeout_seconds: u64,
    /// What it reads; `None` when it reads no version that is spoken here.
    pub version: Option<ReviewVersion>,
    /// Whether it is asked again when a later one changed the object: `reinvocationPolicy: IfNeeded`.
    pub reinvoke: bool,
}

impl Webhook {
    fn read(configuration: &Arc<str>, webhook: &Value) -> Option<Webhook> {
        let versions = webhook.items("admissionReviewVersions").iter();
        let version = versions.filter_map(Value::as_str).find_map(|version| match version {
            "v1" => Some(ReviewVersion::V1),
            "v1beta1" => Some(ReviewVersion::V1Beta1),
            _ => None,
        });
        Some(Webhook {
            configuration: Arc::clone(configuration),
            name: webhook.text("name").to_owned(),
            client: webhook.at(&["clientConfig"]).clone(),
            criteria: Criteria::read(webhook).ok()?,
            conditions: Condition::list(webhook, &DECLARED),
            fails_closed: webhook.text("failurePolicy") != "Ignore",
            bears_dry_run: matches!(webhook.text("sideEffects"), "None" | "NoneOnDryRun"),
            timeout_seconds: webhook
                .int("timeoutSeconds")
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or(10),
            version,
            reinvoke: webhook.text("reinvocationPolicy") == "IfNeeded",
        })
    }
}

/// All webhooks: by configuration, in the order of names, and in each in its own order.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    mutating: BTreeMap<Arc<str>, Vec<Arc<Webhook>>>,
    validating: BTreeMap<Arc<str>, Vec<Arc<Webhook>>>,
}

impl Webhooks {
    /// Notes a configuration. Other resources than `RESOURCES` are no configurations.
    pub fn upsert(&mut self, resource: &str, name: &str, configuration: &Value) {
        let name: Arc<str> = name.into();
        let read = configuration.items("webhooks").iter();
        let webhooks = read.filter_map(|webhook| Webhook::read(&name, webhook).map(Arc::new));
        let webhooks = webhooks.collect();
        if let Some(all) = self.of(resource) {
            all.insert(name, webhooks);
        }
    }

    /// Forgets a configuration.
    pub fn remove(&mut self, resource: &str, name: &str) {
        if let Some(all) = self.of(resource) {
            all.remove(name);
        }
    }

    /// Forgets all configurations of a resource.
    pub fn clear(&mut self, resource: &str) {
        if let Some(all) = self.of(resource) {
            all.clear();
        }
    }

    fn of(&mut self, resource: &str) -> Option<&mut BTreeMap<Arc<str>, Vec<Arc<Webhook>>>> {
        match resource.split('.').next() {
            Some("mutatingwebhookconfigurations") => Some(&mut self.mutating),
            Some("validatingwebhookconfigurations") => Some(&mut self.validating),
            _ => None,
        }
    }

    /// Those that may change objects, in the order in which they are asked.
    pub fn mutating(&self) -> impl Iterator<Item = &Arc<Webhook>> {
        self.mutating.values().flatten()
    }

    /// Those that only judge.
    pub fn validating(&self) -> impl Iterator<Item = &Arc<Webhook>> {
        self.validating.values().flatten()
    }
}
