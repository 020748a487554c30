//! The store as its users see it: lists in pages that stay consistent under writes, and watches without gaps.

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use protocol::selector::{FieldSelector, LabelSelector};
use protocol::store::{
    ListRequest, ObjectStore, Precondition, ReadError, StoreEvent, WatchItem, WatchRequest, WatchStream,
};
use protocol::{Key, Revision};
use store::{MemoryStore, QUEUE_EVENTS_MAX};
use support::*;

fn watch_all(after: Option<u64>) -> WatchRequest {
    WatchRequest {
        resources: vec![],
        after: after.map(Revision),
        ..WatchRequest::default()
    }
}

/// The next event; a watch that is silent for ten seconds has failed.
async fn event(stream: &mut WatchStream) -> Arc<StoreEvent> {
    loop {
        let item = tokio::time::timeout(Duration::from_secs(10), stream.next())
            .await
            .expect("the watch is silent");
        match item.expect("the watch ended") {
            WatchItem::Event(event) => return event,
            WatchItem::Progress(_) => {}
            WatchItem::Lost(error) => panic!("the watch is lost: {error}"),
        }
    }
}

#[tokio::test]
async fn pages_of_one_list_show_one_state_whatever_is_written_between_them() {
    let store = MemoryStore::new();
    for name in ["a", "c", "e", "g"] {
        store
            .propose(one(put(&pod(name), Precondition::Absent, 1)))
            .await
            .unwrap();
    }
    store
        .propose(one(put(&Key::new("pods", "other", "x"), Precondition::Absent, 1)))
        .await
        .unwrap();
    let mut request = ListRequest {
        limit: 2,
        ..ListRequest::all("pods").in_namespace("default")
    };
    let first = store.list(request.clone()).await.unwrap();
    assert_eq!((first.items.len(), first.more, first.remaining), (2, true, Some(2)));
    store.propose(one(delete(&pod("e"), Precondition::None))).await.unwrap();
    store
        .propose(one(put(&pod("d"), Precondition::Absent, 1)))
        .await
        .unwrap();
    store.propose(one(put(&pod("g"), Precondition::None, 2))).await.unwrap();
    store
        .propose(one(put(&pod("h"), Precondition::Absent, 1)))
        .await
        .unwrap();
    request.after = Some(first.items[1].0.clone());
    request.at = Some(first.revision);
    request.limit = 1;
    let second = store.list(request.clone()).await.unwrap();
    assert_eq!(
        (&*second.items[0].0.name, second.more, second.remaining),
        ("e", true, Some(1))
    );
    request.after = Some(second.items[0].0.clone());
    let third = store.list(request).await.unwrap();
    assert_eq!(
        (&*third.items[0].0.name, third.more, third.remaining),
        ("g", false, None)
    );
    assert_eq!(third.items[0].1.header.revision, Revision(4));
}

#[tokio::test]
async fn selectors_filter_lists_and_hide_how_many_follow() {
    let store = MemoryStore::new();
    for value in 0..6 {
        store
            .propose(one(put(&pod(&format!("p{value}")), Precondition::Absent, value)))
            .await
            .unwrap();
    }
    let request = ListRequest {
        labels: LabelSelector::parse("parity=odd").unwrap(),
        limit: 2,
        ..ListRequest::all("pods")
    };
    let page = store.list(request).await.unwrap();
    assert_eq!(
        page.items.iter().map(|(key, _)| &*key.name).collect::<Vec<_>>(),
        ["p1", "p3"]
    );
    assert_eq!((page.more, page.remaining), (true, None));
    let fields = FieldSelector::parse("spec.value=4", &["spec.value"]).unwrap();
    let page = store
        .list(ListRequest {
            fields,
            ..ListRequest::all("pods")
        })
        .await
        .unwrap();
    assert_eq!((&*page.items[0].0.name, page.items.len()), ("p4", 1));
}

#[tokio::test]
async fn a_watch_replays_history_and_then_follows() {
    let store = MemoryStore::new();
    for value in 0..600 {
        store
            .propose(one(put(&pod("a"), Precondition::None, value)))
            .await
            .unwrap();
    }
    let mut stream = store.watch(watch_all(Some(100))).await.unwrap();
    for revision in 101..=600 {
        assert_eq!(event(&mut stream).await.revision, Revision(revision));
    }
    assert!(matches!(stream.next().await, Some(WatchItem::Progress(Revision(600)))));
    store.propose(one(delete(&pod("a"), Precondition::None))).await.unwrap();
    assert_eq!(event(&mut stream).await.revision, Revision(601));
}

#[tokio::test]
async fn a_watch_sees_only_its_resources_and_namespace() {
    let store = MemoryStore::new();
    let request = WatchRequest {
        resources: vec!["pods".into(), "services".into()],
        namespace: Some("a".into()),
        after: Some(Revision::ZERO),
        ..WatchRequest::default()
    };
    let mut stream = store.watch(request).await.unwrap();
    let keys = [
        ("pods", "b"),
        ("secrets", "a"),
        ("pods", "a"),
        ("podsx", "a"),
        ("services", "a"),
    ];
    for half in [&keys[..3], &keys[3..]] {
        for (resource, namespace) in half {
            let key = Key::new(*resource, *namespace, "n");
            store.propose(one(put(&key, Precondition::None, 1))).await.unwrap();
        }
        // The first half comes from history, the second through the hub.
        let seen = event(&mut stream).await;
        assert_eq!(seen.key.namespace.as_ref(), "a");
        assert_eq!(seen.revision, if half.len() == 3 { Revision(3) } else { Revision(5) });
    }
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_for_its_queue_still_sees_every_event() {
    let store = MemoryStore::new();
    let mut stream = store.watch(watch_all(None)).await.unwrap();
    assert!(matches!(stream.next().await, Some(WatchItem::Progress(Revision::ZERO))));
    let total = 2 * QUEUE_EVENTS_MAX as u64 + 10;
    for value in 0..total {
        store
            .propose(one(put(&pod("a"), Precondition::None, value as u32)))
            .await
            .unwrap();
    }
    for revision in 1..=total {
        assert_eq!(event(&mut stream).await.revision, Revision(revision));
    }
}

#[tokio::test]
async fn a_watcher_that_compaction_overtakes_is_told_that_it_is_lost() {
    let store = MemoryStore::new();
    let mut stream = store.watch(watch_all(None)).await.unwrap();
    assert!(matches!(stream.next().await, Some(WatchItem::Progress(Revision::ZERO))));
    for value in 0..QUEUE_EVENTS_MAX as u32 + 1 {
        store
            .propose(one(put(&pod("a"), Precondition::None, value)))
            .await
            .unwrap();
    }
    store.compact(Revision(10));
    let lost = ReadError::Compacted {
        requested: Revision::ZERO,
        compacted: Revision(10),
    };
    assert_eq!(stream.next().await, Some(WatchItem::Lost(lost.clone())));
    assert_eq!(stream.next().await, None);
    assert_eq!(store.watch(watch_all(Some(0))).await.err(), Some(lost));
    let ahead = store.watch(watch_all(Some(1_000_000))).await.err();
    assert!(matches!(ahead, Some(ReadError::Ahead { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_tells_how_far_it_has_come() {
    let store = MemoryStore::new();
    let request = WatchRequest {
        resources: vec!["secrets".into()],
        after: None,
        ..WatchRequest::default()
    };
    let mut stream = store.watch(request).await.unwrap();
    assert_eq!(stream.next().await, Some(WatchItem::Progress(Revision::ZERO)));
    store.propose(one(put(&pod("a"), Precondition::None, 1))).await.unwrap();
    assert_eq!(stream.next().await, Some(WatchItem::Progress(Revision(1))));
}

#[tokio::test]
async fn ended_watches_end_and_new_ones_can_be_opened() {
    let store = MemoryStore::new();
    let mut stream = store.watch(watch_all(None)).await.unwrap();
    assert!(matches!(stream.next().await, Some(WatchItem::Progress(_))));
    store.end_watches();
    assert_eq!(stream.next().await, None);
    let mut stream = store.watch(watch_all(None)).await.unwrap();
    store.propose(one(put(&pod("a"), Precondition::None, 1))).await.unwrap();
    // Opened "from now on", before the write.
    assert_eq!(event(&mut stream).await.revision, Revision(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_watchers_agree_on_one_order() {
    let store = MemoryStore::new();
    let total = 2_000u64;
    let watchers: Vec<_> = (0..8)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let start = number * 50;
                while store.revision().await.unwrap() < Revision(start) {
                    tokio::task::yield_now().await;
                }
                let mut stream = store.watch(watch_all(Some(start))).await.unwrap();
                for revision in start + 1..=total {
                    assert_eq!(event(&mut stream).await.revision, Revision(revision));
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                for value in 0..500 {
                    store
                        .propose(one(put(&pod(&format!("w{number}")), Precondition::None, value)))
                        .await
                        .unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(watchers) {
        task.await.unwrap();
    }
}
