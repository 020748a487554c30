//! New limits for a pod and its containers while they run (KEP-1287): the values in their cgroups. Whether a container must be
//! started again for them is decided elsewhere.

use std::sync::Arc;

use protocol::Uid;
use protocol::runtime::{ContainerPhase, ResourceLimits, RuntimeError};

use super::layout::attempt_group;
use super::sandbox::{SandboxRecord, write_record};
use super::{Shared, blocking};
use crate::cgroup::Group;

/// Changes them. A container that does not run is left out: it is started with its new limits.
pub(super) async fn resize(
    shared: &Arc<Shared>,
    pod: &Uid,
    whole: &ResourceLimits,
    containers: &[(String, ResourceLimits)],
) -> Result<(), RuntimeError> {
    let not_found = || RuntimeError::NotFound {
        what: format!("the sandbox of pod {pod}"),
    };
    let sandbox = shared.sandbox(pod).ok_or_else(not_found)?;
    let _lifecycle = sandbox.lifecycle.lock().await;
    let group = shared.pod_group(pod);
    let (record, running) = {
        let known = sandbox.known.lock();
        let record = known.record.clone().ok_or_else(not_found)?;
        let running = containers.iter().filter_map(|(name, limits)| {
            let state = known.containers.get(name)?;
            let runs = matches!(state.phase, ContainerPhase::Running { .. });
            let group = group.below(&attempt_group(name, state.attempt));
            runs.then(|| (name.clone(), group, limits.clone()))
        });
        (record.clone(), running.collect::<Vec<_>>())
    };
    let (layout, whole) = (sandbox.layout.clone(), whole.clone());
    let record = blocking(move || {
        for (name, group, limits) in &running {
            check_fits(name, group, limits)?;
        }
        // No container may have more than its pod: the pod's limits are raised first, and lowered last.
        group.limit(&both(&record.spec.resources, &whole), false)?;
        for (_, container, limits) in &running {
            container.limit(limits, true)?;
        }
        group.limit(&whole, false)?;
        let mut record = SandboxRecord::clone(&record);
        record.spec.resources = whole;
        write_record(&layout, &record)?;
        Ok(record)
    })
    .await?;
    sandbox.known.lock().record = Some(Arc::new(record));
    Ok(())
}

/// A limit below what is in use would end the container on v2: the kernel kills what it cannot reclaim.
fn check_fits(name: &str, group: &Group, limits: &ResourceLimits) -> Result<(), RuntimeError> {
    let (Some(limit), Some(used)) = (limits.memory_limit_bytes, group.working_set_bytes()) else {
        return Ok(());
    };
    if used <= limit {
        return Ok(());
    }
    Err(RuntimeError::Failed {
        doing: format!("resizing container {name}"),
        reason: format!("attempting to set memory limit ({limit}) below current usage ({used})"),
    })
}

/// Limits that are wide enough for the old ones and the new ones. What is unlimited in either is left as it is.
fn both(old: &ResourceLimits, new: &ResourceLimits) -> ResourceLimits {
    let greater = |old: Option<u64>, new: Option<u64>| Some(old?.max(new?));
    ResourceLimits {
        cpu_request_milli: old.cpu_request_milli.max(new.cpu_request_milli),
        cpu_limit_milli: greater(old.cpu_limit_milli, new.cpu_limit_milli),
        memory_limit_bytes: greater(old.memory_limit_bytes, new.memory_limit_bytes),
        pids_max: greater(old.pids_max, new.pids_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_wide_enough_for_both_while_it_changes() {
        let limits = |cpu: Option<u64>, memory: Option<u64>| ResourceLimits {
            cpu_request_milli: Some(1),
            cpu_limit_milli: cpu,
            memory_limit_bytes: memory,
            pids_max: None,
        };
        assert_eq!(
            both(&limits(Some(5), Some(1)), &limits(Some(2), Some(7))),
            limits(Some(5), Some(7))
        );
        assert_eq!(both(&limits(None, Some(3)), &limits(Some(2), None)), limits(None, None));
    }
}
