//! The mutating part of admission from start to end: the built-in plugins, the mutating policies, then the webhooks in their
//! order; and when one of those changed the object, the plugins once more, and whoever wants to see what later ones made.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::kinds::Kind;
use api::status::Status;
use api::write::{PatchType, apply_patch};
use serde_json::{Value, json};

use super::configuration::Webhook;
use super::consult::{self, Said};
use super::dialogue::{Answers, Place};
use super::refusal::Pause;
use crate::facts::Facts;
use crate::matching::{Asked, converted, shown};
use crate::policy::{self, InForce};
use crate::scene::Rights;

/// What the webhooks of a write are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Mutation<'a> {
    /// The request.
    pub asked: &'a Asked<'a>,
    /// The mutating policies, in their order.
    pub policies: &'a [InForce],
    /// The webhooks, in their order.
    pub webhooks: &'a [Arc<Webhook>],
    /// The namespaces.
    pub facts: &'a Facts,
    /// What expressions may ask about access.
    pub rights: &'a Rights<'a>,
    /// What was answered already.
    pub answers: &'a Answers,
}

/// Runs `plugins` and the webhooks over an object, null for a deletion. `old` is the stored one, or null. What the webhooks say
/// beside is noted in `said`, also where the request is refused.
///
/// # Errors
///
/// A refusal, or a question whose answer is missing: the object is then half done and must be thrown away.
pub fn mutate(
    with: &Mutation<'_>,
    object: &mut Value,
    old: &Value,
    said: &mut Said,
    plugins: &mut dyn FnMut(&mut Value) -> Result<(), Status>,
) -> Result<(), Pause> {
    plugins(object)?;
    if with.webhooks.is_empty() && with.policies.is_empty() || with.asked.is_exempt() {
        return Ok(());
    }
    let mut again = Again::default();
    let mut changed = policies(with, object, old, &mut again)?;
    for index in 0..with.webhooks.len() {
        changed |= consult(with, Place { round: 0, index }, object, old, &mut again, said)?;
    }
    if changed {
        let before = object.clone();
        plugins(object)?;
        policies(with, object, old, &mut again)?;
        if *object != before {
            again.require_all();
        }
        for index in 0..with.webhooks.len() {
            if again.due.contains(&index) {
                consult(with, Place { round: 1, index }, object, old, &mut again, said)?;
            }
        }
    }
    Ok(())
}

/// Lets the mutating policies that are due change the object; in a second round those alone that want to see what others made
/// of it since.
fn policies(with: &Mutation<'_>, object: &mut Value, old: &Value, again: &mut Again) -> Result<bool, Pause> {
    let mut changed = false;
    for due in policy::due(with.policies, with.asked, object, old, with.facts) {
        let name = due.place();
        let seen_before = again.left_by.get(&name);
        if seen_before.is_some_and(|left| !due.policy.reinvokes() || left == object) {
            continue;
        }
        let needs = due.parameters.resource().is_some();
        let read = match with.answers.parameters(&due.parameters) {
            Some(read) => read,
            None if needs => return Err(Pause::Read(due.parameters)),
            None => &[],
        };
        changed |= policy::mutate(&due, read, with.asked, (object, old), with.facts, with.rights)?;
        again.left_by.insert(name, object.clone());
    }
    Ok(changed)
}

/// Who sees the object again.
#[derive(Default)]
struct Again {
    /// The object as each policy left it, by policy and binding.
    left_by: HashMap<(Arc<str>, Arc<str>), Value>,
    /// Webhooks that want to, and have seen it.
    invoked: HashSet<usize>,
    /// Webhooks that shall.
    due: HashSet<usize>,
}

impl Again {
    fn require_all(&mut self) {
        self.due.extend(self.invoked.drain());
    }
}

/// Asks one webhook; says whether it changed the object.
fn consult(
    with: &Mutation<'_>,
    place: Place,
    object: &mut Value,
    old: &Value,
    again: &mut Again,
    said: &mut Said,
) -> Result<bool, Pause> {
    let webhook = &with.webhooks[place.index];
    let Some((question, seen)) =
        consult::question(webhook, place, with.asked, (with.facts, with.rights), (object, old))?
    else {
        return Ok(false);
    };
    let Some(answer) = with.answers.to(&question) else {
        return Err(Pause::Ask(Box::new(question)));
    };
    let answered = consult::verdict(&question, answer, true, said).and_then(|verdict| {
        match verdict.and_then(|verdict| verdict.patch) {
            Some(patch) => Ok(patched(with.asked, webhook, seen, object, &patch)?),
            None => Ok(false),
        }
    });
    let mutated = json!({
        "configuration": &*webhook.configuration, "webhook": webhook.name, "mutated": *answered.as_ref().unwrap_or(&false),
    });
    said.annotations.push((
        format!("mutation.webhook.admission.k8s.io/{place}"),
        mutated.to_string(),
    ));
    let changed = answered?;
    if changed {
        again.require_all();
    }
    if webhook.reinvoke {
        again.invoked.insert(place.index);
    }
    Ok(changed)
}

/// Applies a webhook's patch to the object in the version that it saw, and fills in what it left out.
fn patched(
    asked: &Asked<'_>,
    webhook: &Webhook,
    seen: &Kind,
    object: &mut Value,
    patch: &Value,
) -> Result<bool, Status> {
    if object.is_null() {
        return Err(Status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            webhook.name
        )));
    }
    let own = asked.shows_own_kind();
    let before = shown(asked, seen, object)?;
    let patched = apply_patch(seen, PatchType::Json, &before, patch).map_err(|status| {
        let cause = status.details.causes.first().map(|cause| cause.message.clone());
        Status::internal(cause.unwrap_or(status.message))
    })?;
    if patched == before {
        return Ok(false);
    }
    *object = if own {
        converted(asked, seen, asked.kind, &patched)?
    } else {
        patched
    };
    if own {
        (asked.kind.default)(object);
    }
    Ok(true)
}
