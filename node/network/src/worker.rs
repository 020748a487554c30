//! A thread that owns a state and runs blocking jobs on it, one after the other.
//!
//! [`crate::PodNetwork`] has two: one for links, addresses and routes, one for nftables, so that a long nftables load does not
//! delay a pod's start. A thread rather than async tasks, because a netlink request runs in the kernel while its sender waits
//! (deleting a veth takes 16-20 ms) and because sockets and children must belong to the namespace of one known thread.
//! Jobs hold no policy.

use std::{fmt, sync::mpsc};

use tokio::sync::oneshot;

use crate::error::NetworkError;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

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

impl<S: 'static> Worker<S> {
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
                    while let Ok(job) = inbox.recv() {
                        job(&mut state);
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
