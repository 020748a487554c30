//! Notes become core/v1 Events. The same note again raises the count of its Event instead of making another. Composing is
//! pure; `record` writes, as well as it can: a note that the store does not take is dropped, never the work that it tells
//! of.

use protocol::store::{ObjectStore, Precondition, Proposal, Write};
use protocol::{Cause, Key, Object, Resource, UnixMillis};
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::compose;
use crate::effects::{Note, Severity};
use crate::ownership;

const EVENTS: &str = "events";

/// The key of a note's Event: the same for the same words about the same object.
pub fn key(note: &Note) -> Key {
    let severity = if note.severity == Severity::Warning {
        "Warning"
    } else {
        "Normal"
    };
    let parts = [
        note.regarding.uid.as_str(),
        note.reason,
        severity,
        note.component,
        note.message.as_str(),
    ];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Key::new(EVENTS, namespace(note), format!("{}.{hash:016x}", note.regarding.name))
}

fn namespace(note: &Note) -> &str {
    if note.regarding.namespace.is_empty() {
        "default"
    } else {
        &note.regarding.namespace
    }
}

/// The write of a note, given the Event that is stored for it.
pub fn compose(note: &Note, stored: Option<&Object>, now: UnixMillis, rng: &mut SmallRng) -> Option<Write> {
    let key = key(note);
    if let Some(object) = stored {
        let mut value = object.value().ok()?;
        value["count"] = json!(value["count"].as_u64().unwrap_or(1) + 1);
        value["lastTimestamp"] = json!(now.rfc3339());
        return compose::change(&key, object, &value).ok();
    }
    let (key, draft) = compose::create(
        &Resource::new(EVENTS),
        namespace(note),
        event(note, &key, now),
        now,
        rng,
    )
    .ok()?;
    Some(Write::Put {
        key,
        precondition: Precondition::Absent,
        draft,
    })
}

fn event(note: &Note, key: &Key, now: UnixMillis) -> Value {
    let regarding = &note.regarding;
    let mut value = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": &*key.name, "namespace": namespace(note)},
        "involvedObject": {
            "apiVersion": regarding.api_version, "kind": regarding.kind, "name": regarding.name, "uid": regarding.uid,
        },
        "reason": note.reason, "message": note.message,
        "type": if note.severity == Severity::Warning { "Warning" } else { "Normal" },
        "source": {"component": note.component}, "reportingComponent": note.component, "reportingInstance": "",
        "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(), "count": 1, "eventTime": null,
    });
    if !regarding.namespace.is_empty() {
        ownership::member(&mut value, "involvedObject").insert("namespace".into(), json!(regarding.namespace));
    }
    value
}

/// Writes notes: reads which of them are stored already, and proposes all in one round.
pub async fn record(store: &dyn ObjectStore, notes: &[Note], cause: Cause, now: UnixMillis, rng: &mut SmallRng) {
    let mut proposals = Vec::with_capacity(notes.len());
    let mut seen = std::collections::BTreeSet::new();
    for note in notes.iter().filter(|note| seen.insert(key(note))) {
        let stored = match store.read(&key(note)).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::debug!(%error, reason = note.reason, "a note was dropped");
                continue;
            }
        };
        proposals.extend(compose(note, stored.as_deref(), now, rng).map(|write| Proposal::one(cause, write)));
    }
    for answer in store.propose_all(proposals).await {
        if let Err(error) = answer {
            tracing::debug!(%error, "a note was dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::Regarding;
    use protocol::Revision;
    use rand::SeedableRng;

    fn note(message: &str) -> Note {
        Note {
            regarding: Regarding {
                api_version: "v1".into(),
                kind: "Pod".into(),
                namespace: "default".into(),
                name: "web-1".into(),
                uid: "u".into(),
            },
            severity: Severity::Warning,
            reason: "FailedScheduling",
            message: message.into(),
            component: "default-scheduler",
        }
    }

    #[test]
    fn the_same_note_again_raises_the_count_and_another_is_another_event() {
        let mut rng = SmallRng::seed_from_u64(7);
        let Some(Write::Put {
            draft,
            precondition,
            key: first,
            ..
        }) = compose(&note("no room"), None, UnixMillis(1000), &mut rng)
        else {
            panic!("not composed")
        };
        assert_eq!(precondition, Precondition::Absent);
        let stored = draft.commit(Revision(5), None);
        let Some(Write::Put {
            draft,
            precondition,
            key: again,
        }) = compose(&note("no room"), Some(&stored), UnixMillis(9000), &mut rng)
        else {
            panic!("not composed")
        };
        assert_eq!((precondition, &first), (Precondition::Revision(Revision(5)), &again));
        let value = draft.preview().value().unwrap();
        assert_eq!(
            (&value["count"], &value["lastTimestamp"]),
            (&json!(2), &json!(UnixMillis(9000).rfc3339()))
        );
        assert_eq!(value["involvedObject"]["name"], "web-1");
        assert_ne!(key(&note("other words")), first);
    }
}
