//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is being deleted, and the namespaces that
//! every cluster needs stay.

use api::access::Access;
use api::cause::Cause;
use api::kinds;
use api::status::Status;
use protocol::Key;
use serde_json::Value;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Operation, Review};

/// The namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        match attributes.operation {
            Operation::Create => attributes.kind.namespaced && attributes.subresource.is_none(),
            Operation::Update => false,
            Operation::Delete => attributes.is_object_of("namespaces"),
        }
    }

    fn looks_up(&self, attributes: &Attributes<'_>, _: &Value) -> Option<Key> {
        (attributes.operation == Operation::Create).then(|| Key::new("namespaces", "", attributes.namespace))
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let attributes = &review.attributes;
        if attributes.operation == Operation::Delete {
            return refuse_namespace(attributes);
        }
        let namespace = facts.one("namespaces", "", attributes.namespace);
        let Some(namespace) = namespace else {
            return Err(match kinds::find("", "v1", "namespaces") {
                Some(kind) => Status::not_found(kind, attributes.namespace),
                None => Status::no_such_resource(),
            });
        };
        if !namespace.value.at(&["metadata"]).has("deletionTimestamp") {
            return Ok(());
        }
        let name = attributes.namespace;
        let mut status = attributes.forbidden(format_args!(
            "unable to create new content in namespace {name} because it is being terminated"
        ));
        status.details.causes.push(Cause {
            field: "metadata.namespace".to_owned(),
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
        });
        Err(status)
    }
}

/// Refuses the deletion of a namespace that has to stay.
pub fn refuse_namespace(attributes: &Attributes<'_>) -> Result<(), Status> {
    if IMMORTAL.contains(&attributes.name) {
        return Err(attributes.forbidden("this namespace may not be deleted"));
    }
    Ok(())
}
