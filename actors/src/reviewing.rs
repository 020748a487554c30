//! What is asked about an actor's new object before it is written: those who judge objects beside the built-in plugins,
//! webhooks and admission policies. They are asked after an actor has decided and its object was composed, since that takes time and
//! deciding does not wait. Whoever answers is behind a trait: the gateway does so, for clients and for actors alike.

use std::sync::Arc;

use async_trait::async_trait;
use protocol::store::{Precondition, Write};
use protocol::{Cause, Draft, Key};
use serde_json::Value;

use crate::activation::Plan;
use crate::compose::{self, ComposeError};

/// Who judges new objects.
#[async_trait]
pub trait Reviewer: Send + Sync {
    /// Whether there is anybody to ask.
    fn has_anybody(&self) -> bool;

    /// The object as it may be written, or why it may not.
    async fn review(&self, key: &Key, object: Value, cause: Cause) -> Result<Value, String>;
}

/// A reviewer in settings, which are printed.
#[derive(Clone)]
pub struct SharedReviewer(pub Arc<dyn Reviewer>);

impl std::fmt::Debug for SharedReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedReviewer")
    }
}

/// Has the new objects of a plan reviewed. A group with an object that is refused is not proposed: the plan has an invalid
/// object, as if it could not be composed.
pub(crate) async fn review(plan: &mut Plan, reviewer: &dyn Reviewer) {
    if !reviewer.has_anybody() {
        return;
    }
    let mut group = 0;
    while group < plan.proposals.len() {
        match reviewed(plan, group, reviewer).await {
            Ok(()) => group += 1,
            Err(error) => {
                plan.drop_group(group);
                plan.invalid = Some(error);
            }
        }
    }
}

async fn reviewed(plan: &mut Plan, group: usize, reviewer: &dyn Reviewer) -> Result<(), ComposeError> {
    let cause = plan.proposals[group].cause;
    for index in 0..plan.proposals[group].writes.len() {
        let Write::Put {
            key,
            precondition: Precondition::Absent,
            draft,
        } = &plan.proposals[group].writes[index]
        else {
            continue;
        };
        let key = key.clone();
        let composed = unstored(draft)?;
        let object = reviewer
            .review(&key, composed.clone(), cause)
            .await
            .map_err(ComposeError::Invalid)?;
        if object != composed {
            let draft = compose::update(&key.resource, &object)?;
            plan.replace_put(group, index, draft);
        }
    }
    Ok(())
}

/// The object of a draft, without the revision that it does not have.
fn unstored(draft: &Draft) -> Result<Value, ComposeError> {
    let mut value = draft
        .preview()
        .value()
        .map_err(|error| ComposeError::Invalid(error.to_string()))?;
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    Ok(value)
}
