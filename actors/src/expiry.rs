//! Events are kept for an hour, as Kubernetes keeps them: this actor removes older ones, a page at a time. Supervised by
//! the control plane's root (permanent). It touches no other kind.

use std::sync::Arc;
use std::time::Duration;

use protocol::store::{ListRequest, ObjectStore, Proposal};
use protocol::{Cause, Key, Object, UnixMillis};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::Deserialize;
use supervision::{ActorView, AdminMessage, Clock};

use crate::compose;
use crate::reading;

/// How long an Event is kept after it was last seen, in milliseconds.
const KEPT_MS: u64 = 3_600_000;
/// How often it looks.
const EVERY: Duration = Duration::from_secs(120);
/// Events of one page, and of one round of consensus.
const PAGE: usize = 500;

/// An Event's times.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Times {
    metadata: reading::Metadata,
    last_timestamp: Option<String>,
    event_time: Option<String>,
}

/// Whether an Event is too old to be kept. One whose times cannot be read is kept as long as its creation says.
fn is_expired(event: &Object, now: UnixMillis) -> bool {
    let Ok(times) = event.parse::<Times>() else {
        return false;
    };
    let seen = [times.last_timestamp, times.event_time]
        .iter()
        .filter_map(|at| reading::instant(at.as_deref()))
        .max();
    now.since_ms(seen.unwrap_or_else(|| times.metadata.created_at())) > KEPT_MS
}

/// What the actor is told.
pub enum ExpiryMessage {
    /// To itself: look at the page after this key.
    Sweep(Option<Key>),
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for ExpiryMessage {}

impl From<AdminMessage> for ExpiryMessage {
    fn from(message: AdminMessage) -> Self {
        ExpiryMessage::Admin(message)
    }
}

/// The actor.
pub struct EventExpiry;

/// What it starts with.
pub struct ExpiryArguments {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Its entry in the registry.
    pub view: ActorView,
}

impl Actor for EventExpiry {
    type Msg = ExpiryMessage;
    type State = (ExpiryArguments, u64);
    type Arguments = ExpiryArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_after(EVERY, || ExpiryMessage::Sweep(None));
        Ok((arguments, 0))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        (arguments, removed): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        arguments.view.count_message();
        match message {
            ExpiryMessage::Sweep(after) => {
                let (count, next) = sweep(arguments, after).await;
                *removed += count;
                arguments.view.summarize(format!("{removed} events removed"));
                match next {
                    Some(key) => myself.send_message(ExpiryMessage::Sweep(Some(key)))?,
                    None => {
                        myself.send_after(EVERY, || ExpiryMessage::Sweep(None));
                    }
                }
            }
            // The shell may have gone by the time of the answer.
            ExpiryMessage::Admin(AdminMessage::Tell { message, reply }) if message == "sweep" => {
                let mut after = None;
                loop {
                    let (count, next) = sweep(arguments, after).await;
                    *removed += count;
                    after = match next {
                        Some(key) => Some(key),
                        None => break,
                    };
                }
                let _ = reply.send(Ok(format!("{removed} events removed so far")));
            }
            ExpiryMessage::Admin(AdminMessage::Ask { reply, .. } | AdminMessage::Tell { reply, .. }) => {
                let _ = reply.send(Err("tell: sweep".to_owned()));
            }
        }
        Ok(())
    }
}

/// Removes what is too old on one page. Returns how many, and after which key the next page begins.
async fn sweep(arguments: &ExpiryArguments, after: Option<Key>) -> (u64, Option<Key>) {
    let mut request = ListRequest::all("events");
    (request.limit, request.after) = (PAGE, after);
    let page = match arguments.store.list(request).await {
        Ok(page) => page,
        Err(error) => {
            tracing::debug!(%error, "events could not be listed; the next sweep tries again");
            return (0, None);
        }
    };
    let now = arguments.clock.now();
    let old = page.items.iter().filter(|(_, event)| is_expired(event, now));
    let proposals: Vec<Proposal> = old
        .map(|(key, event)| Proposal::one(Cause::default(), compose::removal(key, event.header.revision)))
        .collect();
    let answers = arguments.store.propose_all(proposals).await;
    let next = page.items.last().map(|(key, _)| key.clone()).filter(|_| page.more);
    (answers.iter().filter(|answer| answer.is_ok()).count() as u64, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;
    use serde_json::json;

    #[test]
    fn an_event_is_kept_for_an_hour_after_it_was_last_seen() {
        let now = UnixMillis(1_800_000_000_000);
        let at = |minutes: u64| UnixMillis(now.0 - minutes * 60_000).rfc3339();
        let cases = [
            (json!({"lastTimestamp": at(59)}), false),
            (json!({"lastTimestamp": at(61)}), true),
            (json!({"lastTimestamp": null, "eventTime": at(5)}), false),
            (json!({"lastTimestamp": at(90), "eventTime": at(5)}), false),
            (json!({}), true),
        ];
        for (times, expired) in cases {
            let mut value = json!({"metadata": {"name": "e", "uid": "e", "creationTimestamp": at(70)}});
            for (name, part) in times.as_object().unwrap() {
                value[name] = part.clone();
            }
            assert_eq!(is_expired(&stored(value, 1), now), expired, "{times}");
        }
    }
}
