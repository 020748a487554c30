//! How the containers of a pod are stopped: at its deletion, at its eviction, and when only its sidecars are left. Pure;
//! `decide` calls it while it looks at the whole state.

use protocol::UnixMillis;

use super::decide::Effect;
use super::state::{ContainerRecord, PodState, Run, Sandbox};

/// What nobody can ignore.
const SIGKILL: i32 = 9;

pub(super) fn terminate(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let Some(termination) = &state.termination else {
        return;
    };
    match &state.sandbox {
        Sandbox::Running { .. } => {
            if state.containers.iter().any(ContainerRecord::may_run) && now < termination.kill_at {
                if !termination.signalled {
                    announce_stop(state, effects);
                    ask_to_stop(state, effects);
                    let all_heard = state.containers.iter().all(|record| record.run != Run::Starting);
                    if let Some(termination) = &mut state.termination {
                        termination.signalled = all_heard;
                    }
                }
                return;
            }
            state.sandbox = Sandbox::Removing;
            effects.push(Effect::RemoveSandbox);
        }
        Sandbox::Failed { .. } if !state.sandbox_backoff.waits(now) => {
            state.sandbox = Sandbox::Removing;
            effects.push(Effect::RemoveSandbox);
        }
        Sandbox::Absent => {
            state.sandbox = Sandbox::Removed;
            over(state, effects);
        }
        Sandbox::Removed => over(state, effects),
        Sandbox::Unknown | Sandbox::Starting | Sandbox::Removing | Sandbox::Failed { .. } => {}
    }
}

/// Nothing of the pod is left here: its API object goes, unless it already did.
fn over(state: &mut PodState, effects: &mut Vec<Effect>) {
    if state.forgotten {
        effects.push(Effect::Stop);
    } else if state.resolve_again_at.is_none() {
        state.forgotten = true;
        effects.push(Effect::RemovePod);
    }
}

pub(super) fn stop_sidecars(state: &mut PodState, effects: &mut Vec<Effect>) {
    if std::mem::replace(&mut state.sidecars_stopped, true) {
        return;
    }
    ask_to_stop(state, effects);
}

fn announce_stop(state: &PodState, effects: &mut Vec<Effect>) {
    for record in state.containers.iter().filter(|record| record.is_running()) {
        effects.push(Effect::Record {
            warning: false,
            reason: "Killing",
            message: format!("Stopping container {}", record.name),
        });
    }
}

/// Each running container by its own signal.
fn ask_to_stop(state: &PodState, effects: &mut Vec<Effect>) {
    signal_running(state, effects, |record| state.stop_signal(record));
}

fn signal_running(state: &PodState, effects: &mut Vec<Effect>, signal: impl Fn(&ContainerRecord) -> i32) {
    for record in state.containers.iter().filter(|record| record.is_running()) {
        effects.push(Effect::SignalContainer {
            container: record.name.clone(),
            signal: signal(record),
        });
    }
}

/// Ends an evicted pod. Its exits are waited for, so that its status tells them; then its sandbox goes and with it what it held
/// on the disk. The API object stays.
pub(super) fn evict(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let Some(eviction) = &state.eviction else { return };
    let is_over = !state.containers.iter().any(ContainerRecord::may_run);
    match &state.sandbox {
        Sandbox::Running { .. } if is_over => {}
        Sandbox::Failed { .. } if !state.sandbox_backoff.waits(now) => {}
        Sandbox::Running { .. } if now >= eviction.kill_at => return signal_running(state, effects, |_| SIGKILL),
        Sandbox::Running { .. } if !eviction.signalled => {
            ask_to_stop(state, effects);
            if let Some(eviction) = &mut state.eviction {
                eviction.signalled = true;
            }
            return;
        }
        _ => return,
    }
    state.sandbox = Sandbox::Removing;
    effects.push(Effect::RemoveSandbox);
}
