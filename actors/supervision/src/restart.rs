//! When a child that ended is started again: Erlang's rules (permanent, transient, temporary) with a restart intensity,
//! and a back-off for what exceeds it. Pure: `Supervisor`, the control plane's directory of objects and the node's agent
//! (for containers: restartPolicy and CrashLoopBackOff) carry it out.

use std::collections::VecDeque;

use protocol::UnixMillis;

/// Which ends are followed by a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestartRule {
    /// Always, whatever the end: a pod's restartPolicy Always.
    Permanent,
    /// Only after a failure: restartPolicy OnFailure.
    Transient,
    /// Never: restartPolicy Never.
    Temporary,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It finished its work: a clean stop, exit code zero.
    Normal,
    /// It panicked, returned an error, or exited with another code.
    Failed,
    /// It was killed from outside.
    Killed,
}

/// How often and how fast a child is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Which ends are followed by a start.
    pub rule: RestartRule,
    /// So many restarts within `within_ms` happen at once; more of them wait.
    pub restarts_max: u32,
    /// The window of `restarts_max`, in milliseconds.
    pub within_ms: u64,
    /// The first wait, in milliseconds; each further one is twice as long.
    pub back_off_first_ms: u64,
    /// The longest wait, in milliseconds.
    pub back_off_max_ms: u64,
    /// A child that ran so long, in milliseconds, begins with the first wait again.
    pub stable_after_ms: u64,
    /// After so many waits in a row the supervisor itself fails; `None` waits for ever at the longest wait.
    pub escalate_after: Option<u32>,
}

impl RestartPolicy {
    /// For the actors of a tree: five restarts in ten seconds at once, then waits from 100 ms to 30 s.
    pub fn actor(rule: RestartRule) -> RestartPolicy {
        RestartPolicy {
            rule,
            restarts_max: 5,
            within_ms: 10_000,
            back_off_first_ms: 100,
            back_off_max_ms: 30_000,
            stable_after_ms: 60_000,
            escalate_after: None,
        }
    }

    /// For containers, as the kubelet does it: the first restart at once, then 10 s, 20 s, ... 5 min; ten minutes of
    /// running forgive.
    pub fn container(rule: RestartRule) -> RestartPolicy {
        RestartPolicy {
            rule,
            restarts_max: 1,
            within_ms: 600_000,
            back_off_first_ms: 10_000,
            back_off_max_ms: 300_000,
            stable_after_ms: 600_000,
            escalate_after: None,
        }
    }
}

/// What is remembered of a child's restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartState {
    /// Restarts that happened at once, within the window.
    immediate: VecDeque<UnixMillis>,
    /// Waits in a row.
    waits: u32,
    /// When the child was last started.
    started_at: Option<UnixMillis>,
    /// How many restarts were decided in all.
    restarts: u64,
}

/// What to do about a child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start it now.
    Restart,
    /// Start it after so many milliseconds; until then it is `backing-off`.
    RestartAfter {
        /// The wait in milliseconds.
        wait_ms: u64,
    },
    /// It is done.
    Stop,
    /// It cannot be kept running: the supervisor fails in turn.
    Escalate,
}

impl RestartState {
    /// Notes a start.
    pub fn started(&mut self, now: UnixMillis) {
        self.started_at = Some(now);
    }

    /// How many restarts were decided in all.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// How many waits in a row were decided: zero when the child is not crash-looping.
    pub fn waits(&self) -> u32 {
        self.waits
    }

    /// Decides about an end at `now`.
    pub fn ended(&mut self, policy: &RestartPolicy, exit: Exit, now: UnixMillis) -> Decision {
        let wanted = match policy.rule {
            RestartRule::Permanent => true,
            RestartRule::Transient => exit != Exit::Normal,
            RestartRule::Temporary => false,
        };
        if !wanted {
            return Decision::Stop;
        }
        if self
            .started_at
            .is_some_and(|at| now.since_ms(at) >= policy.stable_after_ms)
        {
            self.waits = 0;
            self.immediate.clear();
        }
        while self
            .immediate
            .front()
            .is_some_and(|&at| now.since_ms(at) > policy.within_ms)
        {
            self.immediate.pop_front();
        }
        if self.waits == 0 && self.immediate.len() < policy.restarts_max as usize {
            self.immediate.push_back(now);
            self.restarts += 1;
            return Decision::Restart;
        }
        if policy.escalate_after.is_some_and(|waits_max| self.waits >= waits_max) {
            return Decision::Escalate;
        }
        let doublings = self.waits.min(32);
        let wait_ms = policy
            .back_off_first_ms
            .saturating_mul(1 << doublings)
            .min(policy.back_off_max_ms);
        self.waits += 1;
        self.restarts += 1;
        Decision::RestartAfter { wait_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_000_000 + ms)
    }

    #[test]
    fn rules_decide_which_ends_are_followed_by_a_start() {
        use Exit::{Failed, Killed, Normal};
        use RestartRule::{Permanent, Temporary, Transient};
        let cases = [
            (Permanent, Normal, true),
            (Permanent, Failed, true),
            (Permanent, Killed, true),
            (Transient, Normal, false),
            (Transient, Failed, true),
            (Transient, Killed, true),
            (Temporary, Normal, false),
            (Temporary, Failed, false),
            (Temporary, Killed, false),
        ];
        for (rule, exit, restarted) in cases {
            let decision = RestartState::default().ended(&RestartPolicy::actor(rule), exit, at(0));
            assert_eq!(
                decision,
                if restarted { Decision::Restart } else { Decision::Stop },
                "{rule:?} {exit:?}"
            );
        }
    }

    #[test]
    fn what_exceeds_the_intensity_waits_twice_as_long_each_time() {
        let policy = RestartPolicy {
            restarts_max: 2,
            back_off_first_ms: 100,
            back_off_max_ms: 500,
            ..RestartPolicy::actor(RestartRule::Permanent)
        };
        let mut state = RestartState::default();
        let decisions: Vec<Decision> = (0..7).map(|i| state.ended(&policy, Exit::Failed, at(i))).collect();
        let wait = |wait_ms| Decision::RestartAfter { wait_ms };
        assert_eq!(
            decisions,
            [
                Decision::Restart,
                Decision::Restart,
                wait(100),
                wait(200),
                wait(400),
                wait(500),
                wait(500)
            ]
        );
        assert_eq!(state.restarts(), 7);
    }

    #[test]
    fn a_child_that_ran_long_enough_is_forgiven() {
        let policy = RestartPolicy::container(RestartRule::Permanent);
        let mut state = RestartState::default();
        state.started(at(0));
        assert_eq!(state.ended(&policy, Exit::Failed, at(1)), Decision::Restart);
        state.started(at(1));
        assert_eq!(
            state.ended(&policy, Exit::Failed, at(2)),
            Decision::RestartAfter { wait_ms: 10_000 }
        );
        state.started(at(10_002));
        assert_eq!(
            state.ended(&policy, Exit::Failed, at(10_003)),
            Decision::RestartAfter { wait_ms: 20_000 }
        );
        state.started(at(30_003));
        assert_eq!(state.ended(&policy, Exit::Failed, at(630_003)), Decision::Restart);
    }

    #[test]
    fn restarts_that_are_far_apart_never_wait() {
        let policy = RestartPolicy::actor(RestartRule::Permanent);
        let mut state = RestartState::default();
        for i in 0..100 {
            assert_eq!(
                state.ended(&policy, Exit::Failed, at(i * 3_000)),
                Decision::Restart,
                "{i}"
            );
        }
    }

    #[test]
    fn a_supervisor_that_may_escalate_does_so_after_its_waits() {
        let policy = RestartPolicy {
            restarts_max: 0,
            escalate_after: Some(2),
            ..RestartPolicy::actor(RestartRule::Permanent)
        };
        let mut state = RestartState::default();
        assert!(matches!(
            state.ended(&policy, Exit::Failed, at(0)),
            Decision::RestartAfter { .. }
        ));
        assert!(matches!(
            state.ended(&policy, Exit::Failed, at(1)),
            Decision::RestartAfter { .. }
        ));
        assert_eq!(state.ended(&policy, Exit::Failed, at(2)), Decision::Escalate);
    }

    proptest! {
        #[test]
        fn never_more_immediate_restarts_than_the_intensity_allows(
            gaps in proptest::collection::vec(0u64..20_000, 1..200),
            restarts_max in 0u32..6,
        ) {
            let policy = RestartPolicy { restarts_max, ..RestartPolicy::actor(RestartRule::Permanent) };
            let mut state = RestartState::default();
            let (mut now, mut immediate) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                if state.ended(&policy, Exit::Failed, at(now)) == Decision::Restart {
                    immediate.push(now);
                }
                let recent = immediate.iter().filter(|&&then| now - then <= policy.within_ms).count();
                prop_assert!(recent <= restarts_max as usize);
            }
        }
    }
}
