//! DefaultIngressClass: an Ingress that names no class gets the cluster's default one.

use api::access::{Access, object_mut};
use api::status::Status;

use crate::chain::Plugin;
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
        let mut defaults = facts.all(CLASSES, "").filter(|(_, class)| {
            let annotations = class.value.at(&["metadata", "annotations"]);
            annotations.text("ingressclass.kubernetes.io/is-default-class") == "true"
        });
        // Of several defaults the newest counts, then the first by name (upstream's rule).
        let first = defaults.next();
        let chosen = defaults.fold(first, |best, next| {
            let time = |(_, fact): &(&str, &crate::facts::Fact)| {
                fact.value.at(&["metadata"]).text("creationTimestamp").to_owned()
            };
            match best {
                Some(best) if time(&best) >= time(&next) => Some(best),
                _ => Some(next),
            }
        });
        if let Some((name, _)) = chosen {
            object_mut(&mut review.object, "spec")["ingressClassName"] = name.into();
        }
        Ok(())
    }
}
