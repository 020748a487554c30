//! The plugins in upstream's order, and how they are run: first those that change the object, then, after the object was
//! defaulted and validated, those that only say yes or no.

use api::access::Access;
use api::status::Status;
use protocol::Key;
use serde_json::Value;

use crate::facts::Facts;
use crate::review::{Attributes, Charge, Review};

/// An admission plugin.
pub trait Plugin: Sync {
    /// Its name upstream.
    fn name(&self) -> &'static str;

    /// Whether it has to do with such a request at all.
    fn concerns(&self, attributes: &Attributes<'_>) -> bool;

    /// The object that it will look up by name, which may be younger than the facts at hand.
    fn looks_up(&self, attributes: &Attributes<'_>, object: &Value) -> Option<Key> {
        let _ = (attributes, object);
        None
    }

    /// Changes the object, or refuses it.
    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let _ = (review, facts);
        Ok(())
    }

    /// Refuses the object, which no plugin changes any more. Warnings may be added.
    fn validate(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let _ = (review, facts);
        Ok(())
    }

    /// Charges for the object, or refuses it: after everything else that may refuse it.
    fn charge(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let _ = (review, facts);
        Ok(())
    }
}

/// The plugins that are on, in the order in which Kubernetes runs them.
pub static PLUGINS: &[&dyn Plugin] = &[
    &crate::namespace_lifecycle::NamespaceLifecycle,
    &crate::limit_ranger::LimitRanger,
    &crate::taint_nodes_by_condition::TaintNodesByCondition,
    &crate::service_account::ServiceAccount,
    &crate::pod_security::PodSecurity,
    &crate::priority::Priority,
    &crate::default_toleration_seconds::DefaultTolerationSeconds,
    &crate::storage_object_in_use_protection::StorageObjectInUseProtection,
    &crate::default_storage_class::DefaultStorageClass,
    &crate::persistent_volume_claim_resize::PersistentVolumeClaimResize,
    &crate::runtime_class::RuntimeClass,
    &crate::certificate_subject_restriction::CertificateSubjectRestriction,
    &crate::default_ingress_class::DefaultIngressClass,
    &crate::policy_expressions::PolicyExpressions,
    &crate::resource_quota::ResourceQuota,
];

/// The objects that plugins will look up by name and that the facts do not have: the caller reads them first, so that a
/// client may use what it created a moment ago.
pub fn missing(attributes: &Attributes<'_>, object: &Value, facts: &Facts) -> Vec<Key> {
    let concerned = PLUGINS.iter().filter(|plugin| plugin.concerns(attributes));
    let keys = concerned.filter_map(|plugin| plugin.looks_up(attributes, object));
    keys.filter(|key| facts.one(key.resource.as_str(), &key.namespace, &key.name).is_none())
        .collect()
}

/// What plugins say beside the object.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the client's user is told.
    pub warnings: Vec<String>,
    /// What is written to quotas with the object.
    pub charges: Vec<Charge>,
}

/// Runs `admit`, `validate` or `charge` over an object in its place. The object names itself: a generated name is known by now.
pub fn run(
    plugins: fn(&mut Review<'_>, &Facts) -> Result<(), Status>,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: Option<&Value>,
    facts: &Facts,
) -> Result<Outcome, Status> {
    let name = object
        .at(&["metadata", "name"])
        .as_str()
        .unwrap_or(attributes.name)
        .to_owned();
    let attributes = Attributes {
        name: &name,
        ..*attributes
    };
    let mut review = Review::new(attributes, std::mem::take(object), old);
    let outcome = plugins(&mut review, facts);
    *object = std::mem::take(&mut review.object);
    outcome.map(|()| Outcome {
        warnings: review.warnings,
        charges: review.charges,
    })
}

/// Runs the plugins that change the object.
pub fn admit(review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
    for plugin in PLUGINS {
        if plugin.concerns(&review.attributes) {
            plugin.admit(review, facts)?;
        }
    }
    Ok(())
}

/// Runs the plugins that only judge.
pub fn validate(review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
    for plugin in PLUGINS {
        if plugin.concerns(&review.attributes) {
            plugin.validate(review, facts)?;
        }
    }
    Ok(())
}

/// Runs the plugins that charge.
pub fn charge(review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
    for plugin in PLUGINS {
        if plugin.concerns(&review.attributes) {
            plugin.charge(review, facts)?;
        }
    }
    Ok(())
}
