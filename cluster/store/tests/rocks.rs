//! The durable backend: it answers as the one in memory does, whatever happens in between, and a crash takes it back to
//! its last flush and never to anything in between.
#![cfg(feature = "rocksdb")]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;
use protocol::selector::LabelSelector;
use protocol::store::{Bodies, ListPage, ListRequest, Precondition, ReadError, StoreEvent, WatchItem, WatchRequest};
use protocol::{Key, Revision};
use store::{Backend, MemoryBackend, Replica, RocksBackend, RocksOptions};
use support::*;
use tempfile::TempDir;

fn small() -> RocksOptions {
    RocksOptions {
        cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
    }
}

fn open(directory: &TempDir) -> Replica<RocksBackend> {
    Replica::open(RocksBackend::open(directory.path(), small()).unwrap()).unwrap()
}

fn lists(namespaces: &[Option<&str>], at: Option<Revision>, limit: usize, after: Option<Key>) -> Vec<ListRequest> {
    let resources = ["pods", "podsx", "deployments.apps"];
    let requests = resources.iter().flat_map(|resource| {
        namespaces.iter().map(|namespace| ListRequest {
            namespace: namespace.map(Into::into),
            at,
            limit,
            after: after.clone(),
            ..ListRequest::all(*resource)
        })
    });
    requests.collect()
}

fn everything<B: Backend>(replica: &Replica<B>, at: Option<Revision>) -> Vec<Result<ListPage, ReadError>> {
    let namespaces = [None, Some(""), Some("a"), Some("ab"), Some("none")];
    let after = Key::new("pods", "a", "n1");
    let mut requests = lists(&namespaces, at, 0, None);
    requests.extend(lists(&namespaces, at, 2, None));
    requests.extend(lists(&namespaces, at, 1, Some(after)));
    requests.iter().map(|request| replica.list(request)).collect()
}

/// Whole lists, with and without a selector.
fn whole_lists() -> Vec<ListRequest> {
    let requests = lists(&[None, Some("a"), Some("none")], None, 0, None);
    let labels = LabelSelector::parse("parity=even").unwrap();
    let selective = requests.clone().into_iter().map(|request| ListRequest {
        labels: labels.clone(),
        ..request
    });
    requests.iter().cloned().chain(selective).collect()
}

/// The revision of a whole list and its bodies by their parts, put together.
fn bodies<B: Backend>(replica: &Replica<B>, request: &ListRequest) -> (Revision, Vec<u8>, u64) {
    let (mut revision, mut joined, mut objects) = (Revision::ZERO, Vec::new(), 0);
    let begun = |at| revision = at;
    let read = replica.bodies(request, begun, &mut |part| {
        joined.extend_from_slice(&part.joined);
        objects += part.objects;
        ControlFlow::Continue(())
    });
    read.unwrap();
    (revision, joined, objects)
}

/// The same by the list itself.
fn bodies_of_list<B: Backend>(replica: &Replica<B>, request: &ListRequest) -> (Revision, Vec<u8>, u64) {
    let page = replica.list(request).unwrap();
    let bodies: Vec<&[u8]> = page.items.iter().map(|(_, object)| &object.body.0[..]).collect();
    (page.revision, bodies.join(&b','), bodies.len() as u64)
}

fn history<B: Backend>(replica: &Replica<B>, after: Revision) -> Vec<StoreEvent> {
    let mut events = Vec::new();
    let read = replica.backend().with_view(|view| {
        view.history(after, &|_| true, &mut |event| {
            events.push((*event).clone());
            ControlFlow::Continue(())
        })
    });
    read.unwrap();
    events
}

/// What `watch` replays, up to and including `to`.
async fn replay<B: Backend>(replica: &Replica<B>, after: Revision, to: Revision) -> Vec<StoreEvent> {
    use futures::StreamExt;
    let request = WatchRequest {
        resources: vec![],
        after: Some(after),
        ..WatchRequest::default()
    };
    let mut stream = replica.watch(request).unwrap();
    let mut events = Vec::new();
    loop {
        match stream.next().await.expect("the watch ended") {
            WatchItem::Event(event) => events.push((*event).clone()),
            WatchItem::Progress(revision) => {
                assert_eq!(revision, to);
                return events;
            }
            WatchItem::Lost(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The same steps against both backends and against recorded past states.
    #[test]
    fn rocks_and_memory_answer_alike_and_the_past_stays_as_it_was(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let memory = Replica::open(MemoryBackend::default()).unwrap();
        let mut rocks = open(&directory);
        let mut past = BTreeMap::from([(Revision::ZERO, everything(&memory, None))]);
        for step in steps {
            match step {
                Step::Apply(proposals) => {
                    for proposal in proposals {
                        let one = std::slice::from_ref(&proposal);
                        let expected = memory.apply_all(one, None).unwrap();
                        prop_assert_eq!(rocks.apply_all(one, None).unwrap(), expected);
                        past.insert(memory.state().unwrap().revision, everything(&memory, None));
                    }
                }
                Step::Compact(up_to) => {
                    memory.compact(Revision(up_to)).unwrap();
                    rocks.compact(Revision(up_to)).unwrap();
                }
                Step::Reopen => {
                    rocks.backend().flush().unwrap();
                    drop(rocks);
                    rocks = open(&directory);
                }
            }
            let state = memory.state().unwrap();
            prop_assert_eq!(rocks.state().unwrap(), state);
            prop_assert_eq!(everything(&rocks, None), everything(&memory, None));
            for request in whole_lists() {
                let expected = bodies_of_list(&memory, &request);
                prop_assert_eq!(&bodies(&memory, &request), &expected);
                prop_assert_eq!(&bodies(&rocks, &request), &expected);
            }
        }
        let state = memory.state().unwrap();
        for (revision, recorded) in past {
            let (in_memory, on_disk) = (everything(&memory, Some(revision)), everything(&rocks, Some(revision)));
            prop_assert_eq!(&in_memory, &on_disk);
            if revision >= state.compacted {
                prop_assert_eq!(in_memory, recorded);
            } else {
                let gone = in_memory.iter().all(|answer| matches!(answer, Err(ReadError::Compacted { .. })));
                prop_assert!(gone, "a compacted revision was answered");
            }
        }
        let events = history(&memory, state.compacted);
        prop_assert_eq!(&history(&rocks, state.compacted), &events);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(&runtime.block_on(replay(&rocks, state.compacted, state.revision)), &events);
        prop_assert_eq!(&runtime.block_on(replay(&memory, state.compacted, state.revision)), &events);
    }
}

#[test]
fn a_long_list_comes_in_parts_and_ends_when_nobody_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = open(&directory);
    let proposals: Vec<_> = (0..5_000)
        .map(|number| one(put(&pod(&format!("p{number:04}")), Precondition::Absent, number)))
        .collect();
    rocks.apply_all(&proposals, None).unwrap();
    let request = ListRequest::all("pods");
    assert_eq!(bodies(&rocks, &request), bodies_of_list(&rocks, &request));
    let mut sizes = Vec::new();
    let mut count = |part: Bodies| {
        sizes.push(part.joined.len());
        ControlFlow::Continue(())
    };
    rocks.bodies(&request, |_| {}, &mut count).unwrap();
    assert!(
        sizes.len() > 2 && sizes.iter().all(|size| *size < 300 << 10),
        "{sizes:?}"
    );
    let mut parts = 0;
    let mut take_one = |_| {
        parts += 1;
        ControlFlow::Break(())
    };
    rocks.bodies(&request, |_| {}, &mut take_one).unwrap();
    assert_eq!(parts, 1);
}

/// Set in the process that the crash test starts and that kills itself.
const CRASH_IN: &str = "STORE_TEST_CRASH_IN";

#[test]
fn a_crash_goes_back_to_the_last_flush_with_its_position() {
    if let Some(directory) = std::env::var_os(CRASH_IN) {
        let backend = RocksBackend::open(std::path::Path::new(&directory), small()).unwrap();
        let rocks = Replica::open(backend).unwrap();
        rocks
            .apply_all(
                &[one(put(&pod("kept"), Precondition::Absent, 1))],
                Some(b"at 1".to_vec()),
            )
            .unwrap();
        rocks.backend().flush().unwrap();
        rocks
            .apply_all(
                &[one(put(&pod("lost"), Precondition::Absent, 1))],
                Some(b"at 2".to_vec()),
            )
            .unwrap();
        assert_eq!(rocks.backend().position().unwrap().as_deref(), Some(&b"at 2"[..]));
        // Closing the database would flush it; nothing runs after this.
        std::process::abort();
    }
    let directory = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_crash_goes_back_to_the_last_flush_with_its_position"])
        .env(CRASH_IN, directory.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(
        std::os::unix::process::ExitStatusExt::signal(&status).is_some(),
        "the child did not crash: {status}"
    );
    let crashed = open(&directory);
    assert_eq!(crashed.backend().position().unwrap().as_deref(), Some(&b"at 1"[..]));
    assert_eq!(crashed.state().unwrap().revision, Revision(1));
    assert!(crashed.read(&pod("kept")).unwrap().is_some());
    assert!(crashed.read(&pod("lost")).unwrap().is_none());
    assert_eq!(history(&crashed, Revision::ZERO).len(), 1);
}

#[test]
fn a_checkpoint_carries_its_position_and_installs_over_another_store() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let leader = open(&source);
    for value in 0..50 {
        let position = Some(format!("at {value}").into_bytes());
        leader
            .apply_all(
                &[one(put(&pod(&format!("p{value}")), Precondition::Absent, value))],
                position,
            )
            .unwrap();
    }
    let checkpoint = target.path().join("received");
    assert_eq!(
        leader.backend().checkpoint(&checkpoint).unwrap().as_deref(),
        Some(&b"at 49"[..])
    );
    leader
        .apply_all(
            &[one(put(&pod("later"), Precondition::Absent, 1))],
            Some(b"at 50".to_vec()),
        )
        .unwrap();

    let follower = open(&target);
    follower
        .apply_all(
            &[one(put(&pod("other"), Precondition::Absent, 1))],
            Some(b"old".to_vec()),
        )
        .unwrap();
    let before = follower.read(&pod("other")).unwrap();
    assert!(before.is_some());
    follower.backend().install(&checkpoint).unwrap();
    follower.reopen().unwrap();
    let mut follower = Some(follower);
    for reopened in [false, true] {
        let follower = if reopened {
            open(&target)
        } else {
            follower.take().unwrap()
        };
        assert_eq!(follower.backend().position().unwrap().as_deref(), Some(&b"at 49"[..]));
        assert_eq!(follower.state().unwrap().revision, Revision(50));
        assert!(follower.read(&pod("p49")).unwrap().is_some());
        assert!(follower.read(&pod("other")).unwrap().is_none());
        assert!(follower.read(&pod("later")).unwrap().is_none());
    }
    let generations = std::fs::read_dir(target.path()).unwrap().flatten();
    let generations = generations.filter(|entry| entry.file_name().to_string_lossy().starts_with("generation-"));
    assert_eq!(generations.count(), 1);
}

#[test]
fn a_directory_in_use_is_refused_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let _open = open(&directory);
    let error = RocksBackend::open(directory.path(), small()).err().unwrap().to_string();
    assert!(error.contains("another process uses this directory"), "{error}");
}

#[test]
fn damaged_files_are_reported_and_do_not_panic() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = open(&directory);
    for value in 0..50 {
        rocks
            .apply_all(
                &[one(put(&pod(&format!("p{value}")), Precondition::Absent, value))],
                None,
            )
            .unwrap();
    }
    rocks.backend().flush().unwrap();
    drop(rocks);
    let generation = directory.path().join("generation-1");
    for entry in std::fs::read_dir(&generation).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            for byte in bytes.iter_mut() {
                *byte ^= 0x5a;
            }
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
    // RocksDB opens files when it first needs them, so the damage shows when opening or when reading.
    let seen = RocksBackend::open(directory.path(), small())
        .and_then(|backend| backend.with_view(|view| view.state().and_then(|_| view.object(&pod("p1")))));
    let error = seen.expect_err("damage must be noticed").to_string();
    assert!(error.contains("orrupt"), "{error}");
    std::fs::write(directory.path().join("CURRENT"), "nonsense").unwrap();
    let error = RocksBackend::open(directory.path(), small()).err().unwrap().to_string();
    assert!(error.contains("nonsense"), "{error}");
}
