//! The store as one version of a custom kind shows it, where that differs from what is stored: objects that are stored in
//! another version are converted by the definition's webhook as they are read, and back as they are written; and fields that
//! became selectable after an object was written are found in the object.
//!
//! It is an `ObjectStore` over another, so that whoever reads, lists, watches and writes knows nothing of it. Kinds of the
//! table, and custom kinds whose versions differ in their name alone, have no view and pay nothing. What a webhook is asked
//! and what of its answer is believed is `api::custom`'s business.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::access::Access;
use api::custom::{ConversionError, ConversionWebhook, Definition};
use api::kinds::Kind;
use api::status::Status;
use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::object::{Body, DraftError};
use protocol::selector::{FieldSelector, LabelSelector};
use protocol::store::{
    Committed, ListPage, ListRequest, ObjectStore, Proposal, ProposeError, ReadError, StoreEvent, WatchItem,
    WatchRequest, WatchStream, Write,
};
use protocol::{Draft, Key, Object, Resource, Revision, Uid};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::request::ApiRequest;
use crate::webhooks::client::{ClientConfig, WebhookClient};

/// How long a webhook is waited for (`NewCRConverterFactory` in apiextensions-apiserver).
const CONVERSION_MAX: Duration = Duration::from_secs(30);

/// How many bytes of objects go into one review. An answer may be as large again with what conversion adds, and has a bound.
const REVIEW_BYTES_MAX: usize = 2 << 20;

/// How many events of one watch are converted at once, while their order is kept.
const EVENTS_AT_ONCE: usize = 8;

/// How many converted events are kept: watches of one kind are at most a few events apart.
const RECENT_MAX: usize = 64;

/// How a failed conversion looks to a client: as Kubernetes tells an error that it has no reason for.
pub fn conversion_status(reason: String) -> Status {
    Status {
        code: 500,
        reason: "".into(),
        message: reason,
        details: Box::default(),
    }
}

/// Why an object is not told in a version.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    #[error("a stored object cannot be read: {0}")]
    Stored(#[from] serde_json::Error),
    #[error("a converted object cannot be encoded: {0}")]
    Draft(#[from] DraftError),
    #[error("the kind {0} is defined no longer")]
    Gone(&'static str),
}

impl TellError {
    fn read(self) -> ReadError {
        let reason = self.to_string();
        match self {
            TellError::Conversion(_) | TellError::Draft(_) => ReadError::Conversion { reason },
            TellError::Stored(_) => ReadError::Storage { reason },
            TellError::Gone(_) => ReadError::Unavailable { reason },
        }
    }

    fn proposed(self) -> ProposeError {
        let reason = self.to_string();
        match self {
            TellError::Conversion(_) | TellError::Draft(_) | TellError::Gone(_) => ProposeError::Conversion { reason },
            TellError::Stored(_) => ProposeError::Storage { reason },
        }
    }
}

/// An object that a watch was told of, in the version of a definition.
struct Told {
    definition: Arc<Definition>,
    revision: Revision,
    object: Arc<OnceCell<Arc<Object>>>,
}

/// Makes views, and asks webhooks for them.
pub struct Versions {
    store: Arc<dyn ObjectStore>,
    client: Arc<WebhookClient>,
    /// Tells reviews apart.
    random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// A thousand watchers of one kind are told of an event after one question.
    recent: Mutex<VecDeque<Told>>,
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Versions({:?})", self.client)
    }
}

impl Versions {
    /// Views over this store.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        client: Arc<WebhookClient>,
        random: Arc<dyn Fn() -> u128 + Send + Sync>,
    ) -> Arc<Versions> {
        Arc::new(Versions {
            store,
            client,
            random,
            recent: Mutex::default(),
        })
    }

    /// The store as a request sees it that is about this kind; `None` where that is the store itself.
    pub fn for_request(self: &Arc<Self>, kind: &'static Kind, request: &ApiRequest) -> Option<Arc<dyn ObjectStore>> {
        kind.custom?;
        self.of(kind, !request.parameter("fieldSelector").is_empty())
    }

    /// The store as a version of a kind shows it. `by_fields` says that objects are selected by their fields.
    pub fn of(self: &Arc<Self>, kind: &'static Kind, by_fields: bool) -> Option<Arc<dyn ObjectStore>> {
        let definition = kind.definition_now()?;
        if definition.webhook.is_none() && !(by_fields && definition.was_changed) {
            return None;
        }
        Some(Arc::new(View {
            versions: Arc::clone(self),
            kind,
            resource: kind.resource(),
        }))
    }

    /// Asks the webhook of a definition for objects, none of which is in the version `desired`.
    pub async fn convert(
        &self,
        webhook: &ConversionWebhook,
        desired: &str,
        objects: &[Value],
    ) -> Result<Vec<Value>, ConversionError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let uid = Uid::from_bits((self.random)()).to_string();
        let review = webhook.review(&uid, desired, objects)?;
        let client = ClientConfig::read(&webhook.client);
        let begun = tokio::time::Instant::now();
        let answer = self.client.post(&client, &review.document, CONVERSION_MAX).await;
        let converted = match answer {
            Ok(answer) => review.accepted(answer),
            Err(error) => Err(review.unanswered(error)),
        };
        let (url, count, elapsed_ms) = (client.url(), objects.len(), begun.elapsed().as_millis());
        match &converted {
            Ok(_) => tracing::debug!(url, desired, count, elapsed_ms, "a conversion webhook answered"),
            Err(error) => tracing::warn!(url, desired, count, elapsed_ms, %error, "a conversion webhook failed"),
        }
        converted
    }

    fn told(&self, definition: &Arc<Definition>, revision: Revision) -> Arc<OnceCell<Arc<Object>>> {
        let mut recent = self.recent.lock();
        let known = recent
            .iter()
            .rev()
            .find(|told| told.revision == revision && Arc::ptr_eq(&told.definition, definition));
        if let Some(known) = known {
            return Arc::clone(&known.object);
        }
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        let object = Arc::new(OnceCell::new());
        recent.push_back(Told {
            definition: Arc::clone(definition),
            revision,
            object: Arc::clone(&object),
        });
        object
    }
}

/// The store as one version of a kind shows it.
#[derive(Clone)]
struct View {
    versions: Arc<Versions>,
    kind: &'static Kind,
    resource: Resource,
}

/// What of a request's selectors the store may judge: the rest is judged by objects as this version tells them.
struct Split {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Split {
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    fn selects(&self, key: &Key, object: &Object) -> bool {
        self.labels.matches(&object.header.labels) && self.fields.matches(&key.namespace, &key.name, &object.header)
    }
}

impl View {
    fn definition(&self) -> Result<Arc<Definition>, TellError> {
        self.kind.definition_now().ok_or(TellError::Gone(self.kind.kind))
    }

    /// Takes out of selectors what the store cannot judge. A conversion may change labels too.
    fn split(definition: &Definition, labels: &mut LabelSelector, fields: &mut FieldSelector) -> Split {
        let (kept, own) = std::mem::take(fields)
            .requirements
            .into_iter()
            .partition(|requirement| requirement.path.starts_with("metadata."));
        fields.requirements = kept;
        Split {
            labels: match definition.webhook {
                Some(_) => std::mem::take(labels),
                None => LabelSelector::default(),
            },
            fields: FieldSelector { requirements: own },
        }
    }

    /// Objects of the store as this version tells them, in the same order.
    async fn tell(&self, definition: &Definition, objects: &[Arc<Object>]) -> Result<Vec<Arc<Object>>, TellError> {
        let Some(webhook) = &definition.webhook else {
            return objects.iter().map(|object| noted(definition, object)).collect();
        };
        let mut told = Vec::with_capacity(objects.len());
        let (mut batch, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (place, object) in objects.iter().enumerate() {
            let value = definition.recalled(object.value()?);
            if definition.is_own(&value) {
                told.push(encoded(definition, &value, object)?);
                continue;
            }
            told.push(Arc::clone(object));
            if bytes + object.body.0.len() > REVIEW_BYTES_MAX && !batch.is_empty() {
                self.tell_batch(webhook, definition, &mut batch, &mut places, &mut told)
                    .await?;
                bytes = 0;
            }
            bytes += object.body.0.len();
            batch.push(value);
            places.push(place);
        }
        self.tell_batch(webhook, definition, &mut batch, &mut places, &mut told)
            .await?;
        Ok(told)
    }

    /// Converts `batch` and puts the objects at their `places`, where the stored ones are.
    async fn tell_batch(
        &self,
        webhook: &ConversionWebhook,
        definition: &Definition,
        batch: &mut Vec<Value>,
        places: &mut Vec<usize>,
        told: &mut [Arc<Object>],
    ) -> Result<(), TellError> {
        let converted = self.versions.convert(webhook, definition.api_version(), batch).await?;
        for ((mut value, stored), place) in converted.into_iter().zip(batch.drain(..)).zip(places.drain(..)) {
            definition.settle(&mut value);
            let object = encoded(definition, &value, &told[place])?;
            told[place] = if stored.text("apiVersion") == definition.storage_api_version() {
                object
            } else {
                marked(&object)
            };
        }
        Ok(())
    }

    /// One object, as the watches of a moment share it.
    async fn tell_shared(&self, definition: &Arc<Definition>, object: &Arc<Object>) -> Result<Arc<Object>, TellError> {
        if definition.webhook.is_none() {
            return noted(definition, object);
        }
        let cell = self.versions.told(definition, object.header.revision);
        let told = cell.get_or_try_init(|| async {
            let told = self.tell(definition, std::slice::from_ref(object)).await?;
            Ok::<_, TellError>(told.into_iter().next().unwrap_or_else(|| Arc::clone(object)))
        });
        told.await.map(Arc::clone)
    }

    /// A watch's item as this version tells it. `selects` says whether what was there before matters.
    async fn item(&self, item: WatchItem, selects: bool) -> WatchItem {
        let event = match item {
            WatchItem::Event(event) if event.key.resource == self.resource => event,
            other => return other,
        };
        let told = async {
            let definition = self.definition()?;
            let object = self.tell_shared(&definition, &event.object).await?;
            let previous = match &event.previous {
                Some(previous) if selects => Some(self.tell_shared(&definition, previous).await?),
                previous => previous.clone(),
            };
            Ok::<_, TellError>(StoreEvent {
                object,
                previous,
                key: event.key.clone(),
                ..StoreEvent::clone(&event)
            })
        };
        match told.await {
            Ok(event) => WatchItem::Event(Arc::new(event)),
            Err(error) => WatchItem::Lost(error.read()),
        }
    }

    /// What is written, in the version in which the kind is stored.
    async fn to_stored(&self, mut proposal: Proposal) -> Result<Proposal, TellError> {
        let definition = self.definition()?;
        let Some(webhook) = &definition.webhook else {
            return Ok(proposal);
        };
        let desired = definition.storage_api_version();
        for write in &mut proposal.writes {
            let Write::Put { key, draft, .. } = write else { continue };
            if key.resource != self.resource {
                continue;
            }
            let value = draft.preview().value()?;
            if value.text("apiVersion") == desired {
                continue;
            }
            let converted = self.versions.convert(webhook, &desired, &[value]).await?;
            for mut value in converted {
                definition.settle(&mut value);
                *draft = Draft::encode(&value, definition.fields(&value))?;
            }
        }
        Ok(proposal)
    }
}

/// A converted object as it would be stored.
fn encoded(definition: &Definition, value: &Value, stored: &Object) -> Result<Arc<Object>, TellError> {
    let draft = Draft::encode(value, definition.fields(value))?;
    Ok(Arc::new(
        draft.commit(stored.header.revision, Some(stored.header.created)),
    ))
}

/// The same with a byte that no draft has. A write that changes nothing is skipped; but of an object that is stored in an
/// older version it must be carried out, for that is how objects come into the version that is stored now.
fn marked(object: &Object) -> Arc<Object> {
    let body = [&object.body.0[..], b"\n"].concat();
    Arc::new(Object {
        header: object.header.clone(),
        body: Body(body.into()),
    })
}

/// An object with its selectable fields as they are today.
fn noted(definition: &Definition, object: &Arc<Object>) -> Result<Arc<Object>, TellError> {
    if !definition.may_lag(&object.header.fields) {
        return Ok(Arc::clone(object));
    }
    let value = definition.served(object.value()?);
    let mut header = object.header.clone();
    header.fields = Arc::new(definition.fields(&value));
    Ok(Arc::new(Object {
        header,
        body: object.body.clone(),
    }))
}

#[async_trait]
impl ObjectStore for View {
    async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeError> {
        let proposal = self.to_stored(proposal).await.map_err(TellError::proposed)?;
        self.versions.store.propose(proposal).await
    }

    async fn propose_all(&self, proposals: Vec<Proposal>) -> Vec<Result<Committed, ProposeError>> {
        let proposed = proposals.into_iter().map(|proposal| self.propose(proposal));
        futures::future::join_all(proposed).await
    }

    async fn read(&self, key: &Key) -> Result<Option<Arc<Object>>, ReadError> {
        let found = self.versions.store.read(key).await?;
        let object = match found {
            Some(object) if key.resource == self.resource => object,
            // Whatever else the request reads is told as it is stored.
            other => return Ok(other),
        };
        let definition = self.definition().map_err(TellError::read)?;
        let told = self.tell(&definition, &[object]).await.map_err(TellError::read)?;
        Ok(told.into_iter().next())
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, ReadError> {
        if request.resource != self.resource {
            return self.versions.store.list(request).await;
        }
        let definition = self.definition().map_err(TellError::read)?;
        let mut asked = request;
        let split = View::split(&definition, &mut asked.labels, &mut asked.fields);
        let mut told = ListPage {
            items: Vec::new(),
            revision: Revision::ZERO,
            more: false,
            remaining: None,
        };
        loop {
            let page = self.versions.store.list(asked.clone()).await?;
            let last = page.items.last().map(|(key, _)| key.clone());
            let (keys, objects): (Vec<Key>, Vec<Arc<Object>>) = page.items.into_iter().unzip();
            let objects = self.tell(&definition, &objects).await.map_err(TellError::read)?;
            let items = keys.into_iter().zip(objects);
            told.items
                .extend(items.filter(|(key, object)| split.selects(key, object)));
            (told.revision, told.more) = (page.revision, page.more);
            if split.is_empty() {
                told.remaining = page.remaining;
            }
            let full = asked.limit > 0 && told.items.len() >= asked.limit;
            if full && told.items.len() > asked.limit {
                told.items.truncate(asked.limit);
                told.more = true;
            }
            // Of a page the selectors may have left little: the next one fills it up.
            match last.filter(|_| page.more && !full) {
                Some(last) => (asked.after, asked.at) = (Some(last), Some(page.revision)),
                None => return Ok(told),
            }
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, ReadError> {
        let definition = self.definition().map_err(TellError::read)?;
        let mut asked = request;
        let mut selects = false;
        for selection in asked.selections.iter_mut() {
            if selection.resource == self.resource {
                selects = true;
                View::split(&definition, &mut selection.labels, &mut selection.fields);
            }
        }
        let view = self.clone();
        let items = self.versions.store.watch(asked).await?;
        let told = items.map(move |item| {
            let view = view.clone();
            async move { view.item(item, selects).await }
        });
        Ok(Box::pin(told.buffered(EVENTS_AT_ONCE)))
    }

    async fn revision(&self) -> Result<Revision, ReadError> {
        self.versions.store.revision().await
    }
}
