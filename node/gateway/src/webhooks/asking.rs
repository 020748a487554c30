//! The webhooks of one request: what was answered so far, and the asking itself. The questions come from `admission::webhook`
//! while a write is decided; a question whose answer is missing ends that decision, is asked here, and the write is decided
//! again (see there why).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use admission::webhook::{Answer, Answers, Question, Said, Webhook};
use api::status::Status;
use futures::future::join_all;
use parking_lot::Mutex;

use super::client::{ClientConfig, WebhookClient};

/// How many questions one write may lead to: more than two rounds of all webhooks that clusters have.
const QUESTIONS_MAX: usize = 512;

/// The webhooks of a moment, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// Those that may change objects.
    pub mutating: Arc<[Arc<Webhook>]>,
    /// Those that only judge.
    pub validating: Arc<[Arc<Webhook>]>,
}

/// The webhooks of one request.
pub struct Asking {
    /// Those of the moment when the request came: one request is judged by one set.
    pub configured: Configured,
    client: Arc<WebhookClient>,
    answers: Mutex<Answers>,
    waiting: Mutex<Option<Box<Question>>>,
    said: Mutex<Said>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asking({:?})", self.configured)
    }
}

impl Asking {
    /// Nothing was asked as yet.
    pub fn new(configured: Configured, client: Arc<WebhookClient>) -> Asking {
        Asking {
            configured,
            client,
            answers: Mutex::default(),
            waiting: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Reads what was answered.
    pub fn with_answers<T>(&self, read: impl FnOnce(&Answers) -> T) -> T {
        read(&self.answers.lock())
    }

    /// Notes what must be asked before the write can be decided; the returned refusal ends this try and is shown to nobody.
    pub fn wait_for(&self, question: Box<Question>) -> Status {
        let status = Status::internal(format!("webhook {:?} was not asked", question.webhook.name));
        *self.waiting.lock() = Some(question);
        status
    }

    /// Notes what the webhooks said in a decision.
    pub fn note(&self, said: Said) {
        *self.said.lock() = said;
    }

    /// What the webhooks said.
    pub fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// Decides, again for each answer that turns out to be missing. Deciding must be pure.
    ///
    /// # Errors
    ///
    /// The decision's.
    pub async fn decide<T>(&self, decide: impl Fn() -> Result<T, Status>) -> Result<T, Status> {
        for _ in 0..QUESTIONS_MAX {
            let decided = decide();
            let waiting = self.waiting.lock().take();
            let Some(question) = waiting else { return decided };
            let answer = ask(&self.client, &question).await;
            self.answers.lock().note(*question, answer);
        }
        Err(Status::internal(format!(
            "the mutating webhooks asked to see the object more than {QUESTIONS_MAX} times"
        )))
    }

    /// Asks all at once.
    pub async fn ask_all(&self, questions: Vec<Question>) -> Vec<(Question, Answer)> {
        let asked = questions.into_iter().map(|question| async {
            let answer = ask(&self.client, &question).await;
            (question, answer)
        });
        join_all(asked).await
    }
}

async fn ask(client: &WebhookClient, question: &Question) -> Answer {
    let webhook = &question.webhook;
    let begun = tokio::time::Instant::now();
    let timeout = Duration::from_secs(webhook.timeout_seconds.max(1));
    let answer = client
        .post(&ClientConfig::read(&webhook.client), &question.review, timeout)
        .await
        .map_err(|error| error.to_string());
    let elapsed_ms = begun.elapsed().as_millis();
    match &answer {
        Ok(_) => tracing::debug!(webhook = webhook.name, elapsed_ms, "a webhook answered"),
        Err(error) => {
            let closed = webhook.fails_closed;
            tracing::warn!(webhook = webhook.name, configuration = %webhook.configuration, elapsed_ms, error, closed, "a webhook failed");
        }
    }
    answer
}
