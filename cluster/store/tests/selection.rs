//! Watches with selections: what they show is the state within the selection, live and from history alike, and nothing
//! else is handed to them.

mod support;

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use protocol::selector::{FieldSelector, LabelSelector};
use protocol::store::{Change, ObjectStore, Precondition, Selection, WatchItem, WatchRequest, WatchStream};
use protocol::{Key, Resource, Revision};
use store::MemoryStore;
use support::*;

fn request(selections: Vec<Selection>, after: Revision) -> WatchRequest {
    WatchRequest {
        resources: vec![Resource::new("pods"), Resource::new("secrets")],
        selections,
        after: Some(after),
        ..WatchRequest::default()
    }
}

fn by_value(value: u32) -> Selection {
    Selection::field("pods", "spec.value", &value.to_string())
}

fn selector(labels: &str, fields: &str) -> Selection {
    Selection {
        resource: Resource::new("pods"),
        labels: LabelSelector::parse(labels).unwrap(),
        fields: FieldSelector::parse(fields, &["spec.value"]).unwrap(),
    }
}

/// One event, in a form that can be compared.
type Seen = (u64, Change, String);

/// Everything that a watch has to say now, up to its next word of progress.
async fn seen(stream: &mut WatchStream) -> Vec<Seen> {
    let mut events = Vec::new();
    // A watch that has nothing to say would wait for two seconds.
    while let Some(Some(item)) = stream.next().now_or_never() {
        if let WatchItem::Event(event) = item {
            events.push((event.revision.0, event.change, event.key.to_string()));
        }
    }
    events
}

/// One write: a pod or a secret, and its new value, or its removal.
type Step = (bool, u8, Option<u32>);

fn key((is_pod, number, _): &Step) -> Key {
    let resource = if *is_pod { "pods" } else { "secrets" };
    Key::new(resource, "default", format!("k{number}"))
}

async fn take(store: &MemoryStore, step: &Step) {
    let write = match step.2 {
        Some(value) => put(&key(step), Precondition::None, value),
        None => delete(&key(step), Precondition::None),
    };
    // Removing what is not there is refused, and nothing happens.
    let _ = store.propose(one(write)).await;
}

/// The keys that a selection selects after these steps.
fn selected(steps: &[Step], wants: impl Fn(&Step) -> bool) -> Vec<String> {
    let mut last: BTreeMap<String, &Step> = BTreeMap::new();
    for step in steps {
        last.insert(key(step).to_string(), step);
    }
    let kept = last.into_iter().filter(|(_, step)| step.2.is_some() && wants(step));
    kept.map(|(key, _)| key).collect()
}

/// Follows the events as a client does, and fails on one that does not fit to those before.
fn folded(events: &[Seen]) -> Result<Vec<String>, TestCaseError> {
    let mut present: BTreeMap<String, ()> = BTreeMap::new();
    for (revision, change, key) in events {
        let known = present.contains_key(key);
        match change {
            Change::Created => prop_assert!(!known, "{key} was created twice, at {revision}"),
            Change::Updated | Change::Deleted => prop_assert!(known, "{key} changed unseen, at {revision}"),
        }
        match change {
            Change::Deleted => present.remove(key),
            Change::Created | Change::Updated => present.insert(key.clone(), ()),
        };
    }
    Ok(present.into_keys().collect())
}

proptest! {
    #[test]
    fn a_watch_shows_the_state_within_its_selection_live_and_from_history(
        steps in proptest::collection::vec((any::<bool>(), 0_u8..4, proptest::option::weighted(0.8, 0_u32..4)), 0..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            type Wants = fn(&Step) -> bool;
            let cases: [(Vec<Selection>, Wants); 6] = [
                (vec![by_value(1)], |step| !step.0 || step.2 == Some(1)),
                (vec![selector("parity=even", "")], |step| !step.0 || step.2.is_some_and(|value| value % 2 == 0)),
                (vec![selector("parity=even", "spec.value=2")], |step| !step.0 || step.2 == Some(2)),
                (vec![selector("", "spec.value!=2")], |step| !step.0 || step.2 != Some(2)),
                (vec![by_value(1), by_value(3)], |step| !step.0 || matches!(step.2, Some(1 | 3))),
                (vec![selector("", "metadata.name=k2")], |step| !step.0 || step.1 == 2),
            ];
            let store = MemoryStore::new();
            let mut live = Vec::new();
            for (selections, _) in &cases {
                let mut stream = store.watch(request(selections.clone(), Revision::ZERO)).await.unwrap();
                prop_assert_eq!(seen(&mut stream).await, vec![]);
                live.push(stream);
            }
            for step in &steps {
                take(&store, step).await;
            }
            for ((selections, wants), stream) in cases.into_iter().zip(&mut live) {
                let pushed = seen(stream).await;
                let mut replay = store.watch(request(selections, Revision::ZERO)).await.unwrap();
                prop_assert_eq!(&seen(&mut replay).await, &pushed);
                prop_assert_eq!(folded(&pushed)?, selected(&steps, wants));
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn nodes_that_watch_their_own_pods_hear_nothing_of_a_thousand_on_another() {
    let store = MemoryStore::new();
    let mut streams = Vec::new();
    for node in 1..=3 {
        let mut stream = store
            .watch(request(vec![by_value(node)], Revision::ZERO))
            .await
            .unwrap();
        assert_eq!(seen(&mut stream).await, vec![]);
        streams.push(stream);
    }
    let mut whole = store.watch(request(vec![], Revision::ZERO)).await.unwrap();
    assert_eq!(seen(&mut whole).await, vec![]);
    for pod in 0..1000 {
        // Created without a node, then bound.
        let key = Key::new("pods", "default", format!("p{pod}"));
        store.propose(one(put(&key, Precondition::Absent, 0))).await.unwrap();
        store.propose(one(put(&key, Precondition::None, 3))).await.unwrap();
    }
    let mut counts = Vec::new();
    for stream in &mut streams {
        counts.push(seen(stream).await.len());
    }
    assert_eq!((counts, seen(&mut whole).await.len()), (vec![0, 0, 1000], 2000));
}
