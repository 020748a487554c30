//! A thread that owns a state and runs blocking jobs on it, one after the other.
//!
//! [`crate::PodNetwork`] has two: one for links, addresses and routes, one for nftables, so that a long nftables load does not
//! delay a pod's start. A thread rather than async tasks, because a netlink request runs in the kernel while its sender waits
//! (deleting a veth takes 16-20 ms) and because sockets and children must belong to the namespace of one known thread.
//! Jobs hold no policy.

use std::{
    fmt,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::error::NetworkError;

/// The present instant, for deadlines and chores.
#[allow(
    clippy::disallowed_methods,
    reason = "when to clean up, and how long to wait, decides nothing about pods"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// What a worker's state has to do by itself, between jobs.
pub(crate) trait Chores {
    /// In how long the next chore is due; `None` if there is none.
    fn chore_due_in(&self) -> Option<Duration> {
        None
    }

    /// Does it.
    fn run_chore(&mut self) {}
}

/// The sending side of a worker thread. The thread ends when this is dropped and all jobs are done.
pub(crate) struct Worker<S> {
    name: &'static str,
    jobs: mpsc::Sender<Job<S>>,
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<S: Chores + 'static> Worker<S> {
    /// Starts the thread in the caller's network namespace. `make` builds the state on the new thread.
    pub(crate) async fn start(
        name: &'static str,
        make: impl FnOnce() -> Result<S, NetworkError> + Send + 'static,
    ) -> Result<Self, NetworkError> {
        let (jobs, inbox) = mpsc::channel::<Job<S>>();
        let (ready, made) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || match make() {
                Ok(mut state) => {
                    // The receiver is gone only if the opening call was cancelled; the loop then ends at once.
                    let _ = ready.send(Ok(()));
                    serve(&mut state, &inbox);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(|error| NetworkError::Worker {
                name,
                reason: error.to_string(),
            })?;
        made.await.map_err(|_| NetworkError::Worker {
            name,
            reason: "it panicked while starting".to_owned(),
        })??;
        Ok(Self { name, jobs })
    }

    /// Runs `job` on the thread, after all jobs that were handed in before. The job runs to its end even if the returned
    /// future is dropped: a half-made link is never left behind by a cancelled call.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> Result<R, NetworkError> + Send + 'static,
    ) -> Result<R, NetworkError> {
        let gone = || NetworkError::Worker {
            name: self.name,
            reason: "it panicked or was stopped".to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |state: &mut S| {
            let _ = reply.send(job(state));
        });
        self.jobs.send(job).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Runs jobs until nobody can send any more, and chores as they fall due. A chore that is due goes before a waiting job, so
/// that a busy worker does not put it off for ever. What is left to do at the end is done at once.
fn serve<S: Chores>(state: &mut S, inbox: &mpsc::Receiver<Job<S>>) {
    loop {
        let received = match state.chore_due_in() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Duration::ZERO) => Err(RecvTimeoutError::Timeout),
            Some(wait) => inbox.recv_timeout(wait),
        };
        match received {
            Ok(job) => job(state),
            Err(RecvTimeoutError::Timeout) => state.run_chore(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if state.chore_due_in().is_some() {
        state.run_chore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Chores for u32 {}
    impl Chores for () {}

    /// Counts its chores; one is due at once after each job.
    #[derive(Default)]
    struct Busy {
        due: bool,
        chores: u32,
    }

    impl Chores for Busy {
        fn chore_due_in(&self) -> Option<Duration> {
            self.due.then_some(Duration::ZERO)
        }

        fn run_chore(&mut self) {
            self.due = false;
            self.chores += 1;
        }
    }

    #[tokio::test]
    async fn chores_are_done_between_jobs_that_wait() {
        let worker = Worker::start("busy", || Ok(Busy::default())).await.unwrap();
        for expected in 0..50 {
            let chores = worker
                .run(|busy| {
                    busy.due = true;
                    Ok(busy.chores)
                })
                .await
                .unwrap();
            assert_eq!(chores, expected);
        }
    }

    #[tokio::test]
    async fn jobs_run_in_order_on_one_state() {
        let worker = Worker::start("counter", || Ok(0u32)).await.unwrap();
        for expected in 1..=100 {
            let seen = worker
                .run(|count| {
                    *count += 1;
                    Ok(*count)
                })
                .await
                .unwrap();
            assert_eq!(seen, expected);
        }
    }

    #[tokio::test]
    async fn a_panicking_job_is_reported_and_not_waited_for() {
        let worker = Worker::start("panicking", || Ok(())).await.unwrap();
        let first: Result<(), _> = worker.run(|()| panic!("planted")).await;
        assert!(matches!(first, Err(NetworkError::Worker { .. })), "{first:?}");
        let second = worker.run(|()| Ok(())).await;
        assert!(matches!(second, Err(NetworkError::Worker { .. })), "{second:?}");
    }
}
