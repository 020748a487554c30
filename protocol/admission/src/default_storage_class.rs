//! DefaultStorageClass: a claim that names no class gets the cluster's default one; the newest, where there are several.

use api::access::{Access, object_mut};
use api::status::Status;

use crate::chain::Plugin;
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
        let defaults = facts.all(CLASSES, "").filter(|(_, class)| {
            let annotations = class.value.at(&["metadata", "annotations"]);
            IS_DEFAULT.iter().any(|name| annotations.text(name) == "true")
        });
        // Creation times are RFC 3339 in UTC: they sort as text. The name decides between equals.
        let newest = defaults.max_by(|(one, a), (other, b)| {
            let time = |fact: &crate::facts::Fact| fact.value.at(&["metadata"]).text("creationTimestamp").to_owned();
            time(a).cmp(&time(b)).then_with(|| other.cmp(one))
        });
        if let Some((name, _)) = newest {
            object_mut(&mut review.object, "spec")["storageClassName"] = name.into();
        }
        Ok(())
    }
}
