//! DefaultIngressClass: an Ingress that names no class gets the cluster's default one.

use api::access::{Access, object_mut};
use api::status::Status;

use crate::chain::Plugin;
use crate::default_class::default_class;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

const CLASSES: &str = "ingressclasses.networking.k8s.io";

/// The plugin.
pub struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("ingresses.networking.k8s.io")
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let old_name = review
            .object
            .at(&["metadata", "annotations"])
            .has("kubernetes.io/ingress.class");
        if review.spec().has("ingressClassName") || old_name {
            return Ok(());
        }
        if let Some(name) = default_class(facts, CLASSES, &["ingressclass.kubernetes.io/is-default-class"]) {
            object_mut(&mut review.object, "spec")["ingressClassName"] = name.into();
        }
        Ok(())
    }
}
