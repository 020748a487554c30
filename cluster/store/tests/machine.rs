//! What the state machine answers, write by write: preconditions, revisions, refusals, no-ops, removals, compaction.

mod support;

use protocol::store::{Change, ListRequest, Precondition, ReadError, Refusal, Write};
use protocol::{Key, Revision};
use store::{Backend, Machine, list};
use support::*;

#[test]
fn each_write_takes_the_next_revision_and_it_becomes_the_resource_version() {
    let mut machine = Machine::in_memory();
    let (committed, events) = machine
        .apply(&proposal(vec![
            put(&pod("a"), Precondition::Absent, 1),
            put(&pod("b"), Precondition::None, 1),
        ]))
        .unwrap();
    assert_eq!(committed.revisions, [Revision(1), Revision(2)]);
    assert_eq!(
        events.iter().map(|event| event.change).collect::<Vec<_>>(),
        [Change::Created, Change::Created]
    );
    assert_eq!(events[1].object.value().unwrap()["metadata"]["resourceVersion"], "2");
    let (_, events) = machine
        .apply(&one(put(&pod("a"), Precondition::Revision(Revision(1)), 2)))
        .unwrap();
    assert_eq!(
        (events[0].change, events[0].object.header.created),
        (Change::Updated, Revision(1))
    );
    assert_eq!(events[0].previous.as_ref().unwrap().header.revision, Revision(1));
}

#[test]
fn a_precondition_that_does_not_hold_refuses_the_whole_proposal() {
    let mut machine = Machine::in_memory();
    machine.apply(&one(put(&pod("a"), Precondition::None, 1))).unwrap();
    let a = pod("a");
    let absent = pod("absent");
    let cases: Vec<(Write, Refusal)> = vec![
        (
            put(&a, Precondition::Absent, 2),
            Refusal::AlreadyExists {
                key: a.clone(),
                actual: Revision(1),
            },
        ),
        (
            put(&a, Precondition::Revision(Revision(9)), 2),
            Refusal::Conflict {
                key: a.clone(),
                expected: Revision(9),
                actual: Revision(1),
            },
        ),
        (
            put(&absent, Precondition::Revision(Revision(1)), 2),
            Refusal::NotFound { key: absent.clone() },
        ),
        (
            delete(&absent, Precondition::None),
            Refusal::NotFound { key: absent.clone() },
        ),
        (
            delete(&a, Precondition::Revision(Revision(3))),
            Refusal::Conflict {
                key: a.clone(),
                expected: Revision(3),
                actual: Revision(1),
            },
        ),
    ];
    for (write, expected) in cases {
        let refused = machine.apply(&proposal(vec![put(&pod("x"), Precondition::None, 1), write]));
        assert_eq!(refused.unwrap_err(), expected);
        assert_eq!(machine.state().revision, Revision(1));
        assert_eq!(machine.backend().object(&pod("x")).unwrap(), None);
    }
}

#[test]
fn a_malformed_proposal_is_refused_and_says_why() {
    let mut machine = Machine::in_memory();
    let cases = [
        (vec![], "it has no write"),
        (
            vec![
                put(&pod("a"), Precondition::None, 1),
                delete(&pod("a"), Precondition::None),
            ],
            "is written twice",
        ),
        (vec![delete(&pod("a"), Precondition::Absent)], "requires its absence"),
        (
            vec![put(&Key::new("pods", "default", ""), Precondition::None, 1)],
            "lacks a resource or a name",
        ),
        (
            vec![put(&Key::new("pods", "a\0b", "c"), Precondition::None, 1)],
            "contains NUL",
        ),
    ];
    for (writes, expected) in cases {
        let refusal = machine.apply(&proposal(writes)).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed { .. }), "{refusal}");
        assert!(refusal.to_string().contains(expected), "{refusal}");
    }
}

#[test]
fn a_put_that_changes_nothing_keeps_the_revision_and_makes_no_event() {
    let mut machine = Machine::in_memory();
    machine.apply(&one(put(&pod("a"), Precondition::None, 1))).unwrap();
    let (committed, events) = machine
        .apply(&proposal(vec![
            put(&pod("a"), Precondition::None, 1),
            put(&pod("b"), Precondition::None, 1),
        ]))
        .unwrap();
    assert_eq!(committed.revisions, [Revision(1), Revision(2)]);
    assert_eq!(events.len(), 1);
}

#[test]
fn later_proposals_of_a_batch_see_the_earlier_ones() {
    let mut machine = Machine::in_memory();
    let mut staging = machine.stage();
    assert!(
        staging
            .apply(&one(put(&pod("a"), Precondition::Absent, 1)))
            .unwrap()
            .is_ok()
    );
    let refused = staging.apply(&one(put(&pod("a"), Precondition::Absent, 2))).unwrap();
    assert_eq!(
        refused,
        Err(Refusal::AlreadyExists {
            key: pod("a"),
            actual: Revision(1)
        })
    );
    assert!(
        staging
            .apply(&one(delete(&pod("a"), Precondition::Revision(Revision(1)))))
            .unwrap()
            .is_ok()
    );
    assert!(
        staging
            .apply(&one(put(&pod("a"), Precondition::Absent, 3)))
            .unwrap()
            .is_ok()
    );
    let events = staging.commit(None).unwrap();
    let changes: Vec<_> = events.iter().map(|event| event.change).collect();
    assert_eq!(changes, [Change::Created, Change::Deleted, Change::Created]);
    assert_eq!(events[2].object.header.created, Revision(3));
}

#[test]
fn a_batch_that_is_dropped_changes_nothing() {
    let mut machine = Machine::in_memory();
    let mut staging = machine.stage();
    staging
        .apply(&one(put(&pod("a"), Precondition::Absent, 1)))
        .unwrap()
        .unwrap();
    drop(staging);
    assert_eq!(machine.state().revision, Revision::ZERO);
    assert_eq!(machine.backend().object(&pod("a")).unwrap(), None);
}

#[test]
fn a_removal_carries_the_last_content_under_its_own_revision() {
    let mut machine = Machine::in_memory();
    machine.apply(&one(put(&pod("a"), Precondition::None, 5))).unwrap();
    let (_, events) = machine.apply(&one(delete(&pod("a"), Precondition::None))).unwrap();
    let last = events[0].object.value().unwrap();
    assert_eq!(last["metadata"]["resourceVersion"], "2");
    assert_eq!(last["spec"]["value"], 5);
    assert_eq!(last["spec"]["text"], "\"metadata\":{\"resourceVersion\":\"7\"}");
    assert_eq!(events[0].object.header.revision, Revision(2));
}

#[test]
fn compacted_and_future_revisions_are_told_apart() {
    let mut machine = Machine::in_memory();
    for value in 0..10 {
        machine.apply(&one(put(&pod("a"), Precondition::None, value))).unwrap();
    }
    machine.compact(Revision(4));
    machine.compact(Revision(2));
    let at = |revision| {
        let request = ListRequest {
            at: Some(Revision(revision)),
            ..ListRequest::all("pods")
        };
        machine.backend().with_view(|view| list(view, &request))
    };
    assert_eq!(
        at(3),
        Err(ReadError::Compacted {
            requested: Revision(3),
            compacted: Revision(4)
        })
    );
    assert_eq!(at(4).unwrap().items[0].1.header.revision, Revision(4));
    assert_eq!(at(10).unwrap().items[0].1.header.revision, Revision(10));
    assert_eq!(
        at(11),
        Err(ReadError::Ahead {
            requested: Revision(11),
            current: Revision(10)
        })
    );
}
