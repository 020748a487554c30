//! Validating webhooks: all that concern a request are asked at once, and each may refuse it.

use std::sync::Arc;

use api::status::Status;
use serde_json::Value;

use super::configuration::Webhook;
use super::consult::{self, Said};
use super::dialogue::{Answer, Place, Question};
use super::refusal::Pause;
use crate::facts::Facts;
use crate::matching::Asked;
use crate::scene::Rights;

/// What is to be asked about an object that nothing changes any more. Null stands for an object that there is not.
///
/// # Errors
///
/// The request is refused without asking.
pub fn questions(
    webhooks: &[Arc<Webhook>],
    asked: &Asked<'_>,
    (facts, rights): (&Facts, &Rights<'_>),
    object: &Value,
    old: &Value,
) -> Result<Vec<Question>, Status> {
    if asked.is_exempt() {
        return Ok(Vec::new());
    }
    let mut questions = Vec::new();
    for (index, webhook) in webhooks.iter().enumerate() {
        let place = Place { round: 0, index };
        match consult::question(webhook, place, asked, (facts, rights), (object, old)) {
            Ok(question) => questions.extend(question.map(|(question, _)| question)),
            Err(Pause::Refused(status)) => return Err(status),
            Err(Pause::Ask(question)) => questions.push(*question),
            Err(Pause::Read(_)) => {}
        }
    }
    Ok(questions)
}

/// What the answers say together, noted in `said` also where the request is refused. Of several refusals the first in the
/// webhooks' order is told.
///
/// # Errors
///
/// The refusal.
pub fn verdicts(answered: &[(Question, Answer)], said: &mut Said) -> Result<(), Status> {
    let mut refusal = None;
    for (question, answer) in answered {
        match consult::verdict(question, answer, false, said) {
            Ok(_) | Err(Pause::Ask(_) | Pause::Read(_)) => {}
            Err(Pause::Refused(status)) => drop(refusal.get_or_insert(status)),
        }
    }
    refusal.map_or(Ok(()), Err)
}
