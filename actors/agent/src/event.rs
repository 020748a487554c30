//! Event objects (core/v1) about pods and the node: what happened, for people. Repetitions of one event raise its count
//! instead of making another object. Written without waiting and without retry: an event is worth less than the work.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::store::{ObjectStore, Precondition, Proposal, Write};
use protocol::{Cause, Key, Uid, UnixMillis};
use serde_json::{Value, json};

/// How many different events of one object are remembered for counting.
const REMEMBERED_MAX: usize = 64;

/// What an event is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Its namespace; the event of a cluster-scoped object is kept in `default`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Builds the events of one subject and counts repetitions. Pure.
pub struct EventLog {
    subject: Subject,
    node: String,
    known: HashMap<(String, String), Known>,
}

struct Known {
    name: String,
    uid: String,
    count: u32,
    first: UnixMillis,
}

impl EventLog {
    /// The events of a subject, reported by this node.
    pub fn new(subject: Subject, node: impl Into<String>) -> EventLog {
        EventLog {
            subject,
            node: node.into(),
            known: HashMap::new(),
        }
    }

    /// The object to write for one occurrence. `serial` makes names unique: the kernel's random bits, or a counter.
    pub fn occurred(&mut self, now: UnixMillis, serial: u128, warning: bool, reason: &str, message: &str) -> Value {
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        let known = self
            .known
            .entry((reason.to_owned(), message.to_owned()))
            .or_insert_with(|| Known {
                name: format!("{}.{:016x}", self.subject.name, serial as u64),
                uid: Uid::from_bits(serial).to_string(),
                count: 0,
                first: now,
            });
        known.count += 1;
        let namespace = if self.subject.namespace.is_empty() {
            "default"
        } else {
            &self.subject.namespace
        };
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": known.name, "namespace": namespace, "uid": known.uid,
                "creationTimestamp": known.first.rfc3339(),
            },
            "involvedObject": {
                "apiVersion": self.subject.api_version, "kind": self.subject.kind,
                "namespace": self.subject.namespace, "name": self.subject.name, "uid": self.subject.uid,
            },
            "type": if warning { "Warning" } else { "Normal" },
            "reason": reason,
            "message": message,
            "count": known.count,
            "firstTimestamp": known.first.rfc3339(),
            "lastTimestamp": now.rfc3339(),
            "source": {"component": "kubelet", "host": self.node},
            "reportingComponent": "kubelet",
            "reportingInstance": self.node,
        })
    }
}

/// Writes an event object. A failure is logged and forgotten.
pub async fn write(store: Arc<dyn ObjectStore>, cause: Cause, event: Value) {
    let Some(kind) = api::kinds::find_by_kind("v1", "Event") else {
        return;
    };
    let text = |path: &str| {
        event
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let key = Key::new(kind.resource(), text("/metadata/namespace"), text("/metadata/name"));
    let draft = match kind.draft(&event) {
        Ok(draft) => draft,
        Err(error) => {
            tracing::error!(%key, %error, "an event does not encode");
            return;
        }
    };
    let write = Write::Put {
        key: key.clone(),
        precondition: Precondition::None,
        draft,
    };
    if let Err(error) = store.propose(Proposal::one(cause, write)).await {
        tracing::debug!(%key, %error, "an event was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_counted_and_keeps_its_name() {
        let subject = Subject {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: "d".into(),
            name: "web".into(),
            uid: "u".into(),
        };
        let mut log = EventLog::new(subject, "n1");
        let first = log.occurred(UnixMillis(1000), 7, true, "BackOff", "again");
        let second = log.occurred(UnixMillis(9000), 8, true, "BackOff", "again");
        let other = log.occurred(UnixMillis(9000), 9, true, "BackOff", "other");
        assert_eq!(first["metadata"]["name"], second["metadata"]["name"]);
        assert_eq!(
            (&second["count"], &second["firstTimestamp"]),
            (&json!(2), &json!("1970-01-01T00:00:01Z"))
        );
        assert_ne!(first["metadata"]["name"], other["metadata"]["name"]);
    }
}
