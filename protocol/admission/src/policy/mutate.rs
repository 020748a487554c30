//! What mutating policies make of an object: JSON patches and apply configurations that expressions come to.

use std::sync::Arc;

use api::kinds::Kind;
use api::status::Status;
use api::write::{PatchType, apply_patch};
use expressions::{Budget, Evaluation};
use serde_json::Value;

use super::definition::{Mutation, Policy};
use super::due::Due;
use crate::facts::Facts;
use crate::matching::{Asked, converted, shown};
use crate::scene::{Rights, Scene, complete_request, conditions_hold};

/// Changes an object by one policy that is due, with the parameters that were read for it. Says whether it changed.
///
/// # Errors
///
/// The refusal of a policy whose failures count.
pub fn mutate(
    due: &Due<'_>,
    read: &[Arc<Value>],
    asked: &Asked<'_>,
    (object, old): (&mut Value, &Value),
    facts: &Facts,
    rights: &Rights<'_>,
) -> Result<bool, Status> {
    let policy = &*due.policy;
    let refused = |why: &str| {
        let by = match &due.binding {
            Some(binding) => format!(
                "policy '{}' with binding '{}' denied request: {why}",
                policy.name, binding.name
            ),
            None => format!("policy '{}' denied request: {why}", policy.name),
        };
        Status::forbidden(asked.kind, asked.name, by)
    };
    let params = match due.evaluations(read) {
        Ok(params) => params,
        Err(_) if !policy.fails_closed => return Ok(false),
        Err(why) => return Err(refused(&why)),
    };
    let request = complete_request(asked.request("", due.seen));
    let old = shown(asked, due.seen, old)?;
    let namespace = facts.one("namespaces", "", asked.place());
    let before = object.clone();
    for params in params {
        let first = shown(asked, due.seen, object)?;
        let scene = Scene {
            object: &first,
            old: &old,
            request: &request,
            params,
            namespace: namespace.map_or(&Value::Null, |fact| &*fact.value),
            rights,
        };
        match conditions_hold(&policy.conditions, &policy.environment, &scene, policy.fails_closed) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => return Err(refused(&why)),
        }
        for mutation in &policy.mutations {
            let current = shown(asked, due.seen, object)?;
            let scene = Scene {
                object: &current,
                ..scene
            };
            match changed(policy, mutation, &scene, due.seen) {
                Ok(changed) => {
                    *object = if asked.shows_own_kind() {
                        converted(asked, due.seen, asked.kind, &changed)?
                    } else {
                        changed
                    };
                }
                Err(_) if !policy.fails_closed => break,
                Err(why) => return Err(refused(&why)),
            }
        }
    }
    let changed = *object != before;
    if changed && asked.shows_own_kind() {
        (asked.kind.default)(object);
    }
    Ok(changed)
}

fn changed(policy: &Policy, mutation: &Mutation, scene: &Scene<'_>, seen: &Kind) -> Result<Value, String> {
    let program = mutation
        .program
        .as_ref()
        .map_err(|error| format!("compilation error: {error}"))?;
    let mut inputs = scene.inputs(&policy.environment);
    inputs.bind_composed("variables", &policy.variables);
    let mut evaluation = Evaluation::new(&inputs, Budget::default());
    let failed =
        |error: &dyn std::fmt::Display| format!("expression '{}' resulted in error: {error}", mutation.expression);
    let made = evaluation.run(program).map_err(|error| failed(&error))?;
    let made = made.to_json().map_err(|error| failed(&error))?;
    // Lists with keys are merged by them, as the schemas of the kind say; what is no field of it is refused by what follows.
    let sort = if mutation.is_json_patch {
        PatchType::Json
    } else {
        PatchType::Strategic
    };
    apply_patch(seen, sort, scene.object, &made).map_err(|status| {
        let cause = status.details.causes.first().map(|cause| cause.message.clone());
        failed(&cause.unwrap_or(status.message))
    })
}
