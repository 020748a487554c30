//! What was asked of webhooks during one write, what they answered, and what was read for policies.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::configuration::Webhook;
use crate::policy::Parameters;

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

/// As the audit log's keys name it: `round_0_index_1`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round_{}_index_{}", self.round, self.index)
    }
}

/// What came back: the document, or why there is none.
pub type Answer = Result<Value, String>;

/// The answers that a write has so far.
#[derive(Debug, Default)]
pub struct Answers {
    known: Vec<(Question, Answer)>,
    parameters: Vec<(Parameters, Vec<Arc<Value>>)>,
}

impl Answers {
    /// Notes an answer. One to another question of the same place is forgotten: the object has changed since.
    pub fn note(&mut self, question: Question, answer: Answer) {
        self.known.retain(|(known, _)| known.place != question.place);
        self.known.push((question, answer));
    }

    /// Notes the objects that a policy takes as parameters.
    pub fn note_parameters(&mut self, of: Parameters, read: Vec<Arc<Value>>) {
        self.parameters.push((of, read));
    }

    /// The objects that a policy takes as parameters, if they were read.
    pub(super) fn parameters(&self, of: &Parameters) -> Option<&[Arc<Value>]> {
        let known = self.parameters.iter().find(|(known, _)| known == of);
        known.map(|(_, read)| read.as_slice())
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
