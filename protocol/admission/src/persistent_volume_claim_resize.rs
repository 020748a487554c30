//! PersistentVolumeClaimResize: a bound claim grows only if its class allows that.

use api::access::Access;
use api::status::Status;
use serde_json::Value;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::pod::quantity;
use crate::review::{Attributes, Operation, Review};

/// The plugin.
pub struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update && attributes.is_object_of("persistentvolumeclaims")
    }

    fn validate(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let size = |claim: &Value| quantity(claim.at(&["spec", "resources", "requests", "storage"]));
        let old = review.old.unwrap_or(&Value::Null);
        if size(&review.object) <= size(old) {
            return Ok(());
        }
        if old.at(&["status"]).text("phase") != "Bound" {
            return Err(review
                .attributes
                .forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = review.spec().text("storageClassName");
        let grows = facts
            .one("storageclasses.storage.k8s.io", "", class)
            .is_some_and(|class| class.value.flag("allowVolumeExpansion"));
        if grows {
            return Ok(());
        }
        Err(review.attributes.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}
