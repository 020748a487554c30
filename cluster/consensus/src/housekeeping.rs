//! What happens beside the requests: following raft's state, snapshots and purges by the log's size, and compaction of
//! the history by its age. Each task holds the consensus weakly and ends with it.
#![allow(clippy::disallowed_methods)] // acting code: history is kept by its age

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::{Duration, Instant};

use protocol::Revision;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::consensus::Consensus;
use crate::status::Status;

/// How often the log's size is looked at.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How often the revision is noted, to know later how old it is.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// How many revisions a compaction must be worth: it is an entry of the log.
const COMPACT_REVISIONS_MIN: u64 = 1000;

/// A compaction by number goes in steps, so that a stream of writes does not make one every second.
const COMPACT_REVISIONS_STEP: u64 = 20_000;

/// Tells about changes of raft's state, and ends the watches when this node no longer leads.
pub async fn follow_status(consensus: Weak<Consensus>, sender: watch::Sender<Status>) {
    let Some((mut metrics, mut removed)) = consensus
        .upgrade()
        .map(|consensus| (consensus.raft().metrics(), consensus.standing().watch()))
    else {
        return;
    };
    loop {
        let Some(consensus) = consensus.upgrade() else { return };
        let is_removed = *removed.borrow_and_update();
        let status = Status::of(&metrics.borrow_and_update(), consensus.timings(), is_removed);
        let before = sender.borrow().clone();
        if status != before {
            announce(&consensus, &before, &status);
            let takes_over = status.is_leader && (!before.is_leader || !before.changing) && status.changing;
            sender.send_replace(status);
            if takes_over {
                let weak = std::sync::Arc::downgrade(&consensus);
                tokio::spawn(complete_change(weak));
            }
        }
        drop(consensus);
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = removed.changed() => if changed.is_err() { return },
        }
    }
}

fn announce(consensus: &Consensus, before: &Status, now: &Status) {
    if before.is_leader && !now.is_leader {
        consensus.replica().hub().end_all();
    }
    if now.is_leader != before.is_leader {
        tracing::info!(
            term = now.term,
            leads = now.is_leader,
            "this node's part in consensus changed"
        );
    } else if now.leader != before.leader
        && let Some(leader) = &now.leader
    {
        tracing::info!(term = now.term, %leader, "another node leads");
    }
    if now.removed != before.removed {
        // A machine without a vote that stands for election only raises its term.
        consensus.raft().runtime_config().elect(!now.removed);
        if now.removed {
            tracing::warn!(
                "the voters went on without this node while it was away, and it has no vote any more; its pods run on, and it                  reaches the store through the others. Nothing needs to be done: it is chosen again when a voter is wanted"
            );
        } else {
            tracing::info!("this node takes part in consensus again");
        }
    }
    if let (None, Some(reason)) = (&before.failed, &now.failed)
        && reason != "raft stopped"
    {
        tracing::error!(%reason, "consensus has stopped on this node: restart it when the cause is removed");
    }
}

/// A leader that died between the two steps of a change leaves both sets of voters in charge. The change that is under
/// way here is given time to finish by itself.
async fn complete_change(consensus: Weak<Consensus>) {
    loop {
        sleep(LOG_INTERVAL).await;
        let Some(consensus) = consensus.upgrade() else { return };
        let status = consensus.status();
        if !status.is_leader || !status.changing {
            return;
        }
        match consensus.complete_change().await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "a change of the voters is still to be completed"),
        }
    }
}

/// Snapshots, purges, compactions.
pub async fn keep_house(consensus: Weak<Consensus>) {
    let mut notes = Notes::default();
    loop {
        sleep(LOG_INTERVAL).await;
        let Some(consensus) = consensus.upgrade() else { return };
        keep_log(&consensus).await;
        keep_history(&consensus, &mut notes).await;
    }
}

async fn keep_log(consensus: &Consensus) {
    let retention = consensus.retention();
    let progress = consensus.progress();
    let (bytes, entries) = consensus.log().since(progress.snapshot);
    if bytes > retention.log_bytes || entries > retention.log_entries {
        consensus.trigger_snapshot().await;
    }
    let purgeable = consensus
        .log()
        .purgeable(progress.snapshot, retention.log_kept_bytes, retention.log_entries / 4);
    if purgeable > progress.purged {
        // An error here means that raft has stopped, which the status tells.
        let _ = consensus.raft().trigger().purge_log(purgeable).await;
    }
}

/// Revisions and when they were seen.
#[derive(Default)]
struct Notes {
    seen: VecDeque<(Instant, Revision)>,
}

impl Notes {
    /// Notes a revision, and yields the newest that is older than `age`.
    fn older_than(&mut self, age: Duration, now: Instant, revision: Revision) -> Revision {
        let due = self
            .seen
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= NOTE_INTERVAL);
        if due {
            self.seen.push_back((now, revision));
        }
        let mut oldest = Revision::ZERO;
        while let Some((at, revision)) = self.seen.front()
            && now.duration_since(*at) > age
        {
            oldest = *revision;
            self.seen.pop_front();
        }
        oldest
    }
}

async fn keep_history(consensus: &Consensus, notes: &mut Notes) {
    let Ok(state) = consensus.replica().state() else { return };
    let retention = consensus.retention();
    let by_age = notes.older_than(retention.history, Instant::now(), state.revision);
    let surplus = state.revision.0.saturating_sub(retention.history_revisions_max);
    let by_number = Revision(surplus / COMPACT_REVISIONS_STEP * COMPACT_REVISIONS_STEP);
    let up_to = by_age.max(by_number);
    if consensus.status().is_leader && up_to.0 >= state.compacted.0 + COMPACT_REVISIONS_MIN {
        let compacted = tokio::time::timeout(Duration::from_secs(5), consensus.compact(up_to)).await;
        if !matches!(compacted, Ok(Ok(()))) {
            tracing::debug!(%up_to, "history was not compacted; it is tried again later");
        }
    }
}
