//! Expressions of policies and webhooks are compiled when they are written, so that a misspelt one is refused where somebody
//! reads the refusal. In Kubernetes the kinds' validation does it.

use api::access::Access;
use api::cause::Causes;
use api::status::Status;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::policy;
use crate::review::{Attributes, Operation, Review};
use crate::webhook;

/// The plugin.
pub struct PolicyExpressions;

impl Plugin for PolicyExpressions {
    fn name(&self) -> &'static str {
        "PolicyExpressions"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete
            && attributes.subresource.is_none()
            && attributes.kind.group == "admissionregistration.k8s.io"
    }

    fn validate(&self, review: &mut Review<'_>, _: &Facts) -> Result<(), Status> {
        let (kind, object) = (review.attributes.kind, &review.object);
        // What is stored stays writable, whatever an older version let pass.
        let unchanged = |field: &str| review.old.is_some_and(|old| old.at(&[field]) == object.at(&[field]));
        if unchanged("spec") && unchanged("webhooks") {
            return Ok(());
        }
        let mut causes = Causes::default();
        match kind.kind {
            "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => policy::problems(object, &mut causes),
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => webhook::problems(object, &mut causes),
            _ => {}
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(kind, review.attributes.name, causes.0))
    }
}
