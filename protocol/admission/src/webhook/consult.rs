//! One webhook and one request: whether it is asked, what it is asked, and what its answer means. Shared by `mutate` and
//! `validate`.

use std::sync::Arc;

use api::kinds::Kind;
use api::status::Status;
use serde_json::Value;

use super::configuration::{DECLARED, Webhook};
use super::dialogue::{Answer, Place, Question};
use super::refusal::{Pause, denied, failed, no_dry_run};
use super::review::{self, Verdict};
use crate::facts::Facts;
use crate::matching::{Asked, shown};
use crate::scene::{Rights, Scene, complete_request, conditions_hold};

/// What webhooks say beside yes and no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For the client's user.
    pub warnings: Vec<String>,
    /// For the audit log: key and value. A webhook's own have its name before the key, `WEBHOOK/KEY`.
    pub annotations: Vec<(String, String)>,
}

/// What a webhook is to be asked about this request; `None` when it does not concern it. Null stands for no object.
///
/// # Errors
///
/// The request is refused without asking.
pub(super) fn question<'k>(
    webhook: &Arc<Webhook>,
    place: Place,
    asked: &Asked<'k>,
    (facts, rights): (&Facts, &Rights<'_>),
    (object, old): (&Value, &Value),
) -> Result<Option<(Question, &'k Kind)>, Pause> {
    let Some(seen) = webhook.criteria.matches(asked, object, old, facts)? else {
        return Ok(None);
    };
    if !webhook.conditions.is_empty() {
        let request = complete_request(asked.request("", seen));
        let namespace = facts.one("namespaces", "", asked.place());
        let scene = Scene {
            object: &shown(asked, seen, object)?,
            old: &shown(asked, seen, old)?,
            request: &request,
            params: &Value::Null,
            namespace: namespace.map_or(&Value::Null, |fact| &*fact.value),
            rights,
        };
        match conditions_hold(&webhook.conditions, &DECLARED, &scene, webhook.fails_closed) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(why) => return Err(Status::forbidden(asked.kind, asked.name, why).into()),
        }
    }
    if asked.dry_run && !webhook.bears_dry_run {
        return Err(no_dry_run(&webhook.name).into());
    }
    if webhook.version.is_none() {
        let why =
            "could not get admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return match webhook.fails_closed {
            true => Err(failed(&webhook.name, why).into()),
            false => Ok(None),
        };
    }
    let question = Question {
        webhook: Arc::clone(webhook),
        review: review::build(asked, webhook, seen, place, (object, old))?,
        place,
    };
    Ok(Some((question, seen)))
}

/// What an answer means: the verdict of a webhook that lets the request pass; `None` when it failed and may.
///
/// # Errors
///
/// The request is refused.
pub(super) fn verdict(
    question: &Question,
    answer: &Answer,
    mutating: bool,
    said: &mut Said,
) -> Result<Option<Verdict>, Pause> {
    let webhook = &question.webhook;
    let read = match answer {
        Ok(document) => review::read(&question.review, document, mutating)
            .map_err(|why| format!("received invalid webhook response: {why}")),
        Err(why) => Err(format!("failed to call webhook: {why}")),
    };
    let verdict = match read {
        Ok(verdict) => verdict,
        Err(why) if webhook.fails_closed => return Err(failed(&webhook.name, &why).into()),
        Err(_) => {
            let kind = if mutating { "mutation" } else { "validating" };
            let key = format!("failed-open.{kind}.webhook.admission.k8s.io/{}", question.place);
            said.annotations.push((key, webhook.name.clone()));
            return Ok(None);
        }
    };
    said.warnings.extend(verdict.warnings.iter().cloned());
    let annotations = verdict.annotations.iter();
    said.annotations
        .extend(annotations.map(|(key, value)| (format!("{}/{key}", webhook.name), value.clone())));
    if !verdict.allowed {
        return Err(denied(&webhook.name, &verdict.result).into());
    }
    Ok(Some(verdict))
}
