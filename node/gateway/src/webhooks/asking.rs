//! The webhooks and policies of one request: what was answered and read so far, and the asking itself. The questions come from `admission::webhook`
//! while a write is decided; a question whose answer is missing ends that decision, is asked here, and the write is decided
//! again (see there why).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use admission::matching::Customs;
use admission::policy::{InForce, Parameters};
use admission::webhook::{Answer, Answers, Question, Said, Webhook};
use api::custom::{ConversionError, Definition};
use api::kinds::Kind;
use api::status::Status;
use futures::future::join_all;
use parking_lot::Mutex;
use protocol::Object;
use protocol::store::{ListRequest, ObjectStore};
use serde_json::Value;

use super::client::{ClientConfig, WebhookClient};
use crate::custom::Custom;
use crate::read::read_status;
use crate::versions::{Versions, conversion_status};

/// How many questions one write may lead to: more than two rounds of all webhooks that clusters have.
const QUESTIONS_MAX: usize = 512;

/// The webhooks and policies of a moment, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// Policies that may change objects.
    pub mutating_policies: Arc<[InForce]>,
    /// Policies that only judge.
    pub validating_policies: Arc<[InForce]>,
    /// Webhooks that may change objects.
    pub mutating: Arc<[Arc<Webhook>]>,
    /// Webhooks that only judge.
    pub validating: Arc<[Arc<Webhook>]>,
}

impl Configured {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.mutates() && self.validating.is_empty() && self.validating_policies.is_empty()
    }

    /// Whether any may change objects.
    pub fn mutates(&self) -> bool {
        !self.mutating.is_empty() || !self.mutating_policies.is_empty()
    }
}

/// What must be had before a write can be decided.
enum Waiting {
    Answer(Box<Question>),
    Parameters(Parameters),
    Conversion(Box<Conversion>),
}

/// A custom object on its way into another version.
struct Conversion {
    /// The kind's definition, in the version that is wanted.
    to: Arc<Definition>,
    object: Value,
}

impl Conversion {
    fn is(&self, other: &Conversion) -> bool {
        self.to.api_version() == other.to.api_version() && self.object == other.object
    }
}

/// The webhooks and policies of one request.
pub struct Asking {
    /// Those of the moment when the request came: one request is judged by one set.
    pub configured: Configured,
    client: Arc<WebhookClient>,
    store: Arc<dyn ObjectStore>,
    customs: Arc<Custom>,
    versions: Arc<Versions>,
    answers: Mutex<Answers>,
    converted: Mutex<Vec<(Conversion, Result<Value, ConversionError>)>>,
    waiting: Mutex<Option<Waiting>>,
    said: Mutex<Said>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asking({:?})", self.configured)
    }
}

impl Asking {
    /// Nothing was asked as yet.
    pub fn new(
        configured: Configured,
        client: Arc<WebhookClient>,
        store: Arc<dyn ObjectStore>,
        (customs, versions): (Arc<Custom>, Arc<Versions>),
    ) -> Asking {
        Asking {
            configured,
            client,
            store,
            customs,
            versions,
            answers: Mutex::default(),
            converted: Mutex::default(),
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
        self.wait(Waiting::Answer(question))
    }

    /// The same for what must be read.
    pub fn wait_for_parameters(&self, parameters: Parameters) -> Status {
        self.wait(Waiting::Parameters(parameters))
    }

    fn wait(&self, waiting: Waiting) -> Status {
        *self.waiting.lock() = Some(waiting);
        Status::internal("the write waits for an answer")
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
            match waiting {
                None => return decided,
                Some(Waiting::Answer(question)) => {
                    let answer = ask(&self.client, &question).await;
                    self.answers.lock().note(*question, answer);
                }
                Some(Waiting::Parameters(parameters)) => {
                    let read = self.read(&parameters).await?;
                    self.answers.lock().note_parameters(parameters, read);
                }
                Some(Waiting::Conversion(conversion)) => {
                    let answer = self.convert(&conversion).await;
                    self.converted.lock().push((*conversion, answer));
                }
            }
        }
        Err(Status::internal(format!(
            "the object was to be shown to webhooks more than {QUESTIONS_MAX} times"
        )))
    }

    async fn convert(&self, conversion: &Conversion) -> Result<Value, ConversionError> {
        let Conversion { to, object } = conversion;
        let Some(webhook) = &to.webhook else {
            return Ok(to.served(object.clone()));
        };
        let objects = std::slice::from_ref(object);
        let converted = self.versions.convert(webhook, to.api_version(), objects).await?;
        let mut converted = converted.into_iter().next().unwrap_or_default();
        to.settle(&mut converted);
        Ok(converted)
    }

    /// Reads the objects that a policy takes as parameters.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn read(&self, parameters: &Parameters) -> Result<Vec<Arc<Value>>, Status> {
        let told = |kind: &Kind, object: &Object| {
            let value = object.value().map_err(Status::internal)?;
            Ok(Arc::new(kind.served(value)))
        };
        let store_of = |kind: &'static Kind| {
            let view = kind.custom.and_then(|_| self.versions.of(kind, false));
            view.unwrap_or_else(|| Arc::clone(&self.store))
        };
        match parameters {
            Parameters::None | Parameters::Unknown(_) => Ok(Vec::new()),
            Parameters::One { kind, key } => {
                let stored = store_of(kind).read(key).await.map_err(read_status)?;
                stored.iter().map(|object| told(kind, object)).collect()
            }
            Parameters::Selected {
                kind,
                namespace,
                selector,
            } => {
                let request = ListRequest {
                    namespace: namespace.as_deref().map(Into::into),
                    labels: selector.clone(),
                    ..ListRequest::all(kind.resource())
                };
                let page = store_of(kind).list(request).await.map_err(read_status)?;
                page.items.iter().map(|(_, object)| told(kind, object)).collect()
            }
        }
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

impl Customs for Asking {
    fn find_by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        self.customs.kinds().find_by_kind(api_version, kind)
    }

    fn versions(&self, kind: &Kind) -> Vec<&'static Kind> {
        let mut versions = self.customs.kinds().versions(kind);
        versions.retain(|version| *version != kind);
        versions
    }

    fn converted(&self, _: &Kind, to: &Kind, object: &Value) -> Result<Value, Status> {
        let definition = to.custom_definition()?.ok_or_else(Status::no_such_resource)?;
        if definition.webhook.is_none() {
            return Ok(definition.served(object.clone()));
        }
        let wanted = Conversion {
            to: definition,
            object: object.clone(),
        };
        let known = self.converted.lock();
        match known.iter().find(|(known, _)| known.is(&wanted)) {
            Some((_, Ok(converted))) => Ok(converted.clone()),
            Some((_, Err(error))) => Err(conversion_status(error.to_string())),
            None => Err(self.wait(Waiting::Conversion(Box::new(wanted)))),
        }
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
