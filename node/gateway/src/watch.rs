//! Watches: a stream of JSON lines, one an event. Selection is decided here, since with a selector an update can be an
//! appearance or a disappearance.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};

use api::kinds::Kind;
use api::status::Status;
use api::table::{self, IncludeObject};
use protocol::store::{Change, ListPage, ObjectStore, ReadError, StoreEvent, WatchItem, WatchRequest, WatchStream};
use protocol::{Key, Object, Revision, UnixMillis};

use crate::accept::{Form, negotiate};
use crate::read::{Selectors, include_object, invalid_option, list_request, namespace_of, read_status, version_of};
use crate::request::{ApiRequest, ApiResponse, BodyStream, JSON};
use crate::route::Target;

/// A watch without `timeoutSeconds` ends after this time; clients open another. Kubernetes ends it between 30 and 60
/// minutes.
const TIMEOUT_DEFAULT_SECONDS: u64 = 2400;

/// Tells the time, for the ages in tables.
pub type Now = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// Opens the watch that a request asks for.
pub async fn open(
    store: &dyn ObjectStore,
    request: &ApiRequest,
    target: &Target,
    now: Now,
    recent: Arc<RecentLines>,
) -> Result<ApiResponse, Status> {
    let (form, _) = negotiate(&request.accept)?;
    let encoder = LineEncoder {
        kind: target.kind,
        form,
        include: include_object(request)?,
        selectors: Selectors::of(request, target)?,
        bookmarks: request.flag("allowWatchBookmarks"),
        columns_sent: false,
        now,
        recent,
    };
    let version = request.parameter("resourceVersion");
    let wants_initial = match request.parameter("sendInitialEvents") {
        "" => matches!(version, "" | "0"),
        _ => request.flag("sendInitialEvents"),
    };
    let announce_end = request.flag("sendInitialEvents");
    if announce_end && request.parameter("resourceVersionMatch") != "NotOlderThan" {
        let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(invalid_option(
            "resourceVersionMatch",
            "FieldValueForbidden",
            why.to_owned(),
        ));
    }
    let (initial, after) = if wants_initial {
        let mut list = list_request(request, target)?;
        (list.limit, list.at, list.after) = (0, None, None);
        let page = store.list(list).await.map_err(read_status)?;
        let after = page.revision;
        (Some(page), after)
    } else {
        (None, version_of(request)?)
    };
    let resources = vec![target.kind.resource()];
    let watch = WatchRequest {
        resources,
        namespace: namespace_of(target),
        after: Some(after),
        selections: encoder.selectors.selections(target.kind.resource()),
    };
    let timeout_seconds = request
        .number("timeoutSeconds")?
        .filter(|s| *s > 0)
        .unwrap_or(TIMEOUT_DEFAULT_SECONDS);
    let lines = match store.watch(watch).await {
        Ok(items) => lines(encoder, initial, announce_end, items),
        Err(error @ ReadError::Compacted { .. }) => {
            let status = error_line(&read_status(error));
            Box::pin(stream::once(async move { status }))
        }
        Err(error) => return Err(read_status(error)),
    };
    let deadline = tokio::time::sleep(Duration::from_secs(timeout_seconds));
    Ok(ApiResponse::watch(JSON, Box::pin(lines.take_until(deadline))))
}

fn lines(mut encoder: LineEncoder, initial: Option<ListPage>, announce_end: bool, items: WatchStream) -> BodyStream {
    let mut first = VecDeque::new();
    if let Some(page) = initial {
        for (key, object) in &page.items {
            if encoder.selectors.select(key, object) {
                first.push_back(encoder.line("ADDED", object));
            }
        }
        if announce_end {
            first.push_back(encoder.bookmark(page.revision, true));
        }
    }
    let rest = stream::unfold((encoder, items, false), |(mut encoder, mut items, ended)| async move {
        if ended {
            return None;
        }
        loop {
            match items.next().await? {
                WatchItem::Event(event) => {
                    if let Some(line) = encoder.event(&event) {
                        return Some((line, (encoder, items, false)));
                    }
                }
                WatchItem::Progress(revision) if encoder.bookmarks => {
                    let line = encoder.bookmark(revision, false);
                    return Some((line, (encoder, items, false)));
                }
                WatchItem::Progress(_) => {}
                WatchItem::Lost(error) => {
                    let line = error_line(&read_status(error));
                    return Some((line, (encoder, items, true)));
                }
            }
        }
    });
    Box::pin(stream::iter(first).chain(rest))
}

struct LineEncoder {
    kind: &'static Kind,
    form: Form,
    include: IncludeObject,
    selectors: Selectors,
    bookmarks: bool,
    columns_sent: bool,
    now: Now,
    recent: Arc<RecentLines>,
}

/// Events whose lines are kept. Watches of one kind are at most a few events apart.
const RECENT_LINES_MAX: usize = 32;

/// Bytes of lines that are kept.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// The lines of the last events, for all watches of a node: a thousand watchers of one kind are sent the same bytes, made once.
#[derive(Debug, Default)]
pub struct RecentLines(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    /// An object, as what a watch saw it, and that line.
    lines: VecDeque<(Arc<Object>, &'static str, Bytes)>,
    bytes: usize,
}

impl RecentLines {
    /// The line of a whole object as it is stored.
    fn line(&self, word: &'static str, object: &Arc<Object>) -> Bytes {
        let mut recent = self.0.lock();
        let known = recent
            .lines
            .iter()
            .rev()
            .find(|(known, as_word, _)| Arc::ptr_eq(known, object) && *as_word == word);
        if let Some((_, _, line)) = known {
            return line.clone();
        }
        let line = whole_line(word, object);
        recent.bytes += line.len();
        recent.lines.push_back((Arc::clone(object), word, line.clone()));
        while recent.lines.len() > RECENT_LINES_MAX || recent.bytes > RECENT_BYTES_MAX {
            let Some((_, _, oldest)) = recent.lines.pop_front() else {
                break;
            };
            recent.bytes -= oldest.len();
        }
        line
    }
}

/// An event's line around an object's stored bytes.
fn whole_line(word: &str, object: &Object) -> Bytes {
    const BEFORE: &[u8] = br#"{"type":""#;
    const BETWEEN: &[u8] = br#"","object":"#;
    let parts = [BEFORE, word.as_bytes(), BETWEEN, &object.body.0, b"}\n"];
    Bytes::from(parts.concat())
}

/// What an event is to a watcher with these selectors.
pub fn seen_as(selectors: &Selectors, key: &Key, event: &StoreEvent) -> Option<&'static str> {
    let now = selectors.select(key, &event.object);
    let before = event
        .previous
        .as_ref()
        .is_some_and(|previous| selectors.select(key, previous));
    match (event.change, before, now) {
        (Change::Deleted, before, _) => (before || event.previous.is_none() && now).then_some("DELETED"),
        (_, true, true) => Some("MODIFIED"),
        (_, false, true) => Some("ADDED"),
        (_, true, false) => Some("DELETED"),
        (_, false, false) => None,
    }
}

impl LineEncoder {
    fn event(&mut self, event: &StoreEvent) -> Option<Bytes> {
        let word = seen_as(&self.selectors, &event.key, event)?;
        if self.sends_stored_bytes() {
            return Some(self.recent.line(word, &event.object));
        }
        Some(self.line(word, &event.object))
    }

    fn sends_stored_bytes(&self) -> bool {
        matches!(self.form, Form::Objects | Form::AggregatedDiscovery) && self.kind.told_as_stored()
    }

    fn line(&mut self, word: &str, object: &Object) -> Bytes {
        if self.sends_stored_bytes() {
            return whole_line(word, object);
        }
        let value = self.kind.served(object.value().unwrap_or_default());
        let shaped = self.shaped(&value, object.header.revision);
        Bytes::from(format!("{}\n", json!({"type": word, "object": shaped})))
    }

    fn shaped(&mut self, value: &Value, revision: Revision) -> Value {
        match self.form {
            Form::Metadata => return table::partial_metadata(value),
            Form::Objects | Form::AggregatedDiscovery => return value.clone(),
            Form::Table => {}
        }
        let meta = json!({"resourceVersion": revision.to_string()});
        let mut shaped = table::table(self.kind, std::iter::once(value), meta, self.include, (self.now)());
        if std::mem::replace(&mut self.columns_sent, true) {
            shaped["columnDefinitions"] = Value::Null;
        }
        shaped
    }

    fn bookmark(&mut self, revision: Revision, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let object = match self.form {
            Form::Table => {
                let mut shaped = table::table(
                    self.kind,
                    std::iter::once(&object),
                    metadata,
                    self.include,
                    (self.now)(),
                );
                shaped["rows"] = json!([{"cells": [], "object": object}]);
                shaped
            }
            Form::Metadata => table::partial_metadata(&object),
            Form::Objects | Form::AggregatedDiscovery => object,
        };
        Bytes::from(format!("{}\n", json!({"type": "BOOKMARK", "object": object})))
    }
}

fn error_line(status: &Status) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status.to_value()})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::selector::LabelSelector;
    use protocol::{Cause, Draft};

    fn object(label: &str) -> Arc<Object> {
        let value =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u", "labels": {"a": label}}});
        Arc::new(Draft::encode(&value, vec![]).unwrap().commit(Revision(5), None))
    }

    #[test]
    fn watches_share_the_lines_of_the_last_events() {
        let recent = RecentLines::default();
        let first = object("1");
        let line = recent.line("ADDED", &first);
        assert_eq!(line, whole_line("ADDED", &first));
        assert!(line.starts_with(br#"{"type":"ADDED","object":{"#) && line.ends_with(b"}}\n"));
        assert_eq!(recent.line("ADDED", &first).as_ptr(), line.as_ptr());
        assert_eq!(recent.line("DELETED", &first), whole_line("DELETED", &first));
        for _ in 0..RECENT_LINES_MAX {
            recent.line("ADDED", &object("2"));
        }
        assert_ne!(recent.line("ADDED", &first).as_ptr(), line.as_ptr(), "it was forgotten");
        assert!(recent.0.lock().lines.len() <= RECENT_LINES_MAX);
    }

    #[test]
    fn a_selector_turns_updates_into_appearances_and_disappearances() {
        let selectors = Selectors {
            labels: LabelSelector::parse("a=1").unwrap(),
            ..Selectors::default()
        };
        let key = Key::new("pods", "d", "p");
        let cases = [
            (Change::Created, None, "1", Some("ADDED")),
            (Change::Created, None, "2", None),
            (Change::Updated, Some("1"), "1", Some("MODIFIED")),
            (Change::Updated, Some("2"), "1", Some("ADDED")),
            (Change::Updated, Some("1"), "2", Some("DELETED")),
            (Change::Updated, Some("2"), "3", None),
            (Change::Deleted, Some("1"), "1", Some("DELETED")),
            (Change::Deleted, Some("2"), "2", None),
        ];
        for (change, before, after, expected) in cases {
            let event = StoreEvent {
                revision: Revision(5),
                cause: Cause::default(),
                key: key.clone(),
                change,
                object: object(after),
                previous: before.map(object),
            };
            assert_eq!(
                seen_as(&selectors, &key, &event),
                expected,
                "{change:?} {before:?} {after}"
            );
        }
    }
}
