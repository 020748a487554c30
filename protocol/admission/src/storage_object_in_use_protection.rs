//! StorageObjectInUseProtection: new claims and volumes carry a finalizer, so that none goes while a pod or a claim uses it.

use api::access::{Access, object_mut};
use api::status::Status;
use serde_json::{Value, json};

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

/// The plugin.
pub struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("persistentvolumeclaims") || attributes.creates("persistentvolumes")
    }

    fn admit(&self, review: &mut Review<'_>, _: &Facts) -> Result<(), Status> {
        let finalizer = if review.attributes.is_object_of("persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else {
            "kubernetes.io/pv-protection"
        };
        let metadata = object_mut(&mut review.object, "metadata");
        if metadata.items("finalizers").iter().any(|known| known == finalizer) {
            return Ok(());
        }
        match &mut metadata["finalizers"] {
            Value::Array(finalizers) => finalizers.push(finalizer.into()),
            absent => *absent = json!([finalizer]),
        }
        Ok(())
    }
}
