//! Tells of pods that were placed: a Scheduled Event for each, off the scheduler's path. The scheduler puts them into a bounded
//! queue and goes on; they are written in batches while the scheduler has nothing to do, and slowly while it has. When the
//! queue is full they are dropped and counted, as the broadcaster of Kubernetes' components does: an Event is a courtesy,
//! and must not take the time in which pods are placed. Started and ended by the scheduler's actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::Cause;
use protocol::store::{ObjectStore, Proposal};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use supervision::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::desk::Placed;
use crate::recorder;

/// Placements that wait to be told of. Kubernetes' broadcaster queues 1,000 for each watcher.
const WAITING_MAX: usize = 4_096;
/// Events of one round of consensus.
const BATCH: usize = 128;
/// While the scheduler has work, the wait between two batches: some 500 Events a second are told of even then.
const PACE: Duration = Duration::from_millis(250);

/// The queue, and the task that empties it. Dropping it ends the task.
pub(super) struct Announcer {
    queue: mpsc::Sender<(Placed, Cause)>,
    busy: watch::Sender<bool>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Announcer {
    /// Starts the task. `seed` seeds the Events' uids.
    pub fn start(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, seed: u64) -> Announcer {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let (busy, is_busy) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            store,
            clock,
            rng: SmallRng::seed_from_u64(seed),
            counts: Arc::clone(&counts),
        };
        let task = tokio::spawn(writer.run(waiting, is_busy));
        Announcer {
            queue,
            busy,
            counts,
            task,
        }
    }

    /// Takes a placement to be told of, or drops it.
    pub fn placed(&self, placed: Placed, cause: Cause) {
        if self.queue.try_send((placed, cause)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the scheduler has work, so that telling must wait.
    pub fn set_busy(&self, busy: bool) {
        self.busy.send_if_modified(|was| std::mem::replace(was, busy) != busy);
    }

    /// Events written and dropped since the start.
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.written), read(&self.counts.dropped))
    }
}

struct Writer {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    rng: SmallRng,
    counts: Arc<Counts>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<(Placed, Cause)>, mut busy: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // The pace first: what is placed meanwhile joins the batch. An error means that the scheduler has gone.
            if let Ok(Err(_)) = tokio::time::timeout(PACE, busy.wait_for(|busy| !busy)).await {
                return;
            }
            if waiting.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            self.write(&mut batch).await;
        }
    }

    /// A pod is bound once, so its Scheduled Event is new: no read is needed to count.
    async fn write(&mut self, batch: &mut Vec<(Placed, Cause)>) {
        let now = self.clock.now();
        let proposals: Vec<Proposal> = batch
            .drain(..)
            .filter_map(|(placed, cause)| {
                let write = recorder::compose(&placed.note(), None, now, &mut self.rng)?;
                Some(Proposal::one(cause, write))
            })
            .collect();
        for answer in self.store.propose_all(proposals).await {
            match answer {
                Ok(_) => self.counts.written.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    tracing::debug!(%error, "an Event was dropped");
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::store::ListRequest;
    use protocol::{Key, Uid, UnixMillis};
    use store::MemoryStore;

    #[derive(Debug)]
    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> UnixMillis {
            UnixMillis(1_800_000_000_000)
        }
    }

    fn placed(number: usize) -> Placed {
        Placed {
            key: Key::new("pods", "default", format!("web-{number}")),
            uid: Uid::new(format!("uid-{number}")),
            node: "n1".into(),
        }
    }

    async fn settled(announcer: &Announcer, total: u64) -> (u64, u64) {
        let both = async {
            loop {
                let (written, dropped) = announcer.counts();
                if written + dropped == total {
                    return (written, dropped);
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .expect("every placement is written or counted")
    }

    #[tokio::test]
    async fn every_placement_that_fits_into_the_queue_becomes_an_event() {
        let store = MemoryStore::new();
        let announcer = Announcer::start(store.clone(), Arc::new(Noon), 1);
        for number in 0..300 {
            announcer.placed(placed(number), Cause(7));
        }
        assert_eq!(settled(&announcer, 300).await, (300, 0));
        let events = store.list(ListRequest::all("events")).await.unwrap().items;
        assert_eq!(events.len(), 300);
        let event = events[0].1.value().unwrap();
        assert_eq!(
            (&event["reason"], &event["type"]),
            (&"Scheduled".into(), &"Normal".into())
        );
        assert!(
            event["message"]
                .as_str()
                .unwrap()
                .starts_with("Successfully assigned default/web-")
        );
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted_and_the_scheduler_does_not_wait() {
        let store = MemoryStore::new();
        let announcer = Announcer::start(store.clone(), Arc::new(Noon), 1);
        announcer.set_busy(true);
        // The task has not run: the test's thread is the only one of the runtime.
        let total = WAITING_MAX + 10;
        for number in 0..total {
            announcer.placed(placed(number), Cause(7));
        }
        assert_eq!(announcer.counts(), (0, 10));
        announcer.set_busy(false);
        assert_eq!(settled(&announcer, total as u64).await, (WAITING_MAX as u64, 10));
    }
}
