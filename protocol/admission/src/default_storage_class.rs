//! DefaultStorageClass: a claim that names no class gets the cluster's default one; the newest, where there are several.

use api::access::{Access, object_mut};
use api::status::Status;

use crate::chain::Plugin;
use crate::default_class::default_class;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

const CLASSES: &str = "storageclasses.storage.k8s.io";
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// The plugin.
pub struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("persistentvolumeclaims")
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let beta = review
            .object
            .at(&["metadata", "annotations"])
            .has("volume.beta.kubernetes.io/storage-class");
        // An empty name is an answer too: no class.
        if review.spec().has("storageClassName") || beta {
            return Ok(());
        }
        if let Some(name) = default_class(facts, CLASSES, &IS_DEFAULT) {
            object_mut(&mut review.object, "spec")["storageClassName"] = name.into();
        }
        Ok(())
    }
}
