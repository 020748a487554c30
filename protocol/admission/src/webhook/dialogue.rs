//! What was asked of webhooks during one write, and what they answered.

use std::sync::Arc;

use serde_json::Value;

use super::configuration::Webhook;

/// What a webhook is to be asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whom.
    pub webhook: Arc<Webhook>,
    /// The AdmissionReview to send.
    pub review: Value,
    /// Which of the write's questions it is.
    pub place: Place,
}

/// Which question of a write: the round, and the webhook's place among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Zero, or one when webhooks are asked again.
    pub round: u8,
    /// The webhook's place in the order.
    pub index: usize,
}

/// What came back: the document, or why there is none.
pub type Answer = Result<Value, String>;

/// The answers that a write has so far.
#[derive(Debug, Default)]
pub struct Answers {
    known: Vec<(Question, Answer)>,
}

impl Answers {
    /// Notes an answer. One to another question of the same place is forgotten: the object has changed since.
    pub fn note(&mut self, question: Question, answer: Answer) {
        self.known.retain(|(known, _)| known.place != question.place);
        self.known.push((question, answer));
    }

    /// The answer to just this question, if it was asked.
    pub(super) fn to(&self, question: &Question) -> Option<&Answer> {
        let same = |known: &Question| {
            known.place == question.place
                && Arc::ptr_eq(&known.webhook, &question.webhook)
                && known.review == question.review
        };
        self.known
            .iter()
            .find(|(known, _)| same(known))
            .map(|(_, answer)| answer)
    }
}
