//! Owns the steps of a workload at depth `core`. Called by the world for each step in order. It must begin and end the timed
//! section exactly where the workload says.

use super::background::Background;
use super::{CoreWorld, Life, Part};
use crate::run::CaseError;
use crate::run::objects::{Made, PodMaker};
use crate::run::oracle::Event;
use crate::workload::{Opcode, StageRequirement, Step};
use k8s_openapi::api::core::v1 as core;
use std::sync::mpsc::sync_channel;

/// At which rate measured pods arrive, in virtual time, where the case has no threshold.
const ARRIVALS_PER_SECOND: f64 = 1000.0;

impl CoreWorld<'_> {
    pub(super) fn step(&mut self, at: usize, step: &Step) -> Result<(), CaseError> {
        match step.opcode {
            Opcode::CreateNodes => self.create_nodes(at, step),
            Opcode::CreateNamespaces => self.create_namespaces(step),
            Opcode::CreatePods => {
                let namespace = step.namespace.clone().unwrap_or_else(|| format!("namespace-{at}"));
                self.create_pods(at, step, &namespace)
            }
            Opcode::CreatePodSets => {
                let sets = step
                    .namespaces
                    .as_ref()
                    .map_or(Ok(1), |count| count.value(self.case.parameters()))?;
                let prefix = step.namespace_prefix.clone().unwrap_or_default();
                (0..sets).try_for_each(|set| self.create_pods(at, step, &format!("{prefix}-{set}")))
            }
            Opcode::CreateAny => {
                let name = step.template.clone().unwrap_or_default();
                let template = self.maker.template(&name);
                let namespace = step.namespace.clone().unwrap_or_else(|| format!("namespace-{at}"));
                let kind = template.value()["kind"].as_str().unwrap_or("Service").to_owned();
                let count = step.total(self.case.parameters())?;
                for index in 0..count {
                    let mut tree = self.maker.tree(self.maker.template(&name), at, index, count)?;
                    tree["metadata"]["namespace"] = serde_json::json!(namespace);
                    self.add_any(&kind, tree, &name)?;
                }
                Ok(())
            }
            Opcode::CreatePodGroups => self.create_groups(at, step),
            Opcode::Churn => {
                let churn = Background::churn(self.now_us, at, step);
                self.background.push(churn);
                Ok(())
            }
            Opcode::DeletePods => self.delete_pods(at, step),
            Opcode::UpdateAny => self.update_pods(at, step),
            Opcode::Barrier => {
                let stage = step.stage.unwrap_or(StageRequirement::Scheduled);
                self.await_selected(step, stage);
                match stage {
                    StageRequirement::Scheduled => self.settle(at, "bound", false),
                    StageRequirement::Attempted => self.settle(at, "attempted", true),
                }
            }
            Opcode::StartCollectingMetrics => {
                self.collecting = Some(step.clone());
                self.meter.collect(true);
                Ok(())
            }
            Opcode::StopCollectingMetrics => {
                self.collecting = None;
                self.meter.collect(false);
                Ok(())
            }
        }
    }

    fn create_nodes(&mut self, at: usize, step: &Step) -> Result<(), CaseError> {
        let count = step.total(self.case.parameters())?;
        for index in 0..count {
            let node = self.maker.node(at, step, index, count)?;
            let name = node.metadata.name.clone().unwrap_or_default();
            self.add_node(node);
            let drivers = step.csi_drivers.values().map(|driver| driver.count);
            if let (Some(csi_node), Some(limit)) = (self.maker.csi_node(step, &name), drivers.min()) {
                self.oracle.attachable.insert(name, limit);
                let scheduler = &mut self.scheduler;
                self.meter.time(Part::Ingest, || scheduler.upsert_csi_node(&csi_node));
            }
        }
        Ok(())
    }

    fn create_namespaces(&mut self, step: &Step) -> Result<(), CaseError> {
        for index in 0..step.total(self.case.parameters())? {
            let tree = self.maker.namespace_tree(step, index)?;
            let namespace: core::Namespace = serde_json::from_value(tree).map_err(|error| CaseError::Failed {
                what: "a namespace's template",
                why: error.to_string(),
            })?;
            let metadata = &namespace.metadata;
            let labels = metadata.labels.clone().unwrap_or_default();
            self.oracle
                .namespaces
                .insert(metadata.name.clone().unwrap_or_default(), labels);
            let scheduler = &mut self.scheduler;
            self.meter.time(Part::Ingest, || scheduler.upsert_namespace(&namespace));
        }
        Ok(())
    }

    fn create_groups(&mut self, at: usize, step: &Step) -> Result<(), CaseError> {
        let count = step.total(self.case.parameters())?;
        let namespace = step.namespace.clone().unwrap_or_else(|| format!("namespace-{at}"));
        for index in 0..count {
            let group = self.maker.group(at, step, &namespace, index, count)?;
            let scheduler = &mut self.scheduler;
            self.meter.time(Part::Ingest, || scheduler.upsert_group(&group));
        }
        Ok(())
    }

    /// Volumes and claims come before the pods, outside of the timed section: in Kubernetes, too, they are made and bound
    /// before.
    fn create_volumes(&mut self, at: usize, step: &Step, namespace: &str, count: u64) -> Result<(), CaseError> {
        for index in 0..count {
            let Some((volume, claim)) = self.maker.volume(at, step, namespace, index)? else {
                return Ok(());
            };
            let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
            if modes.into_iter().any(|mode| mode == "ReadWriteOncePod") {
                self.oracle.for_one_pod.insert(format!("{namespace}/pvc-{index}"));
            }
            let scheduler = &mut self.scheduler;
            self.meter.time(Part::Ingest, || {
                scheduler.upsert_volume(&volume);
                scheduler.upsert_claim(&claim);
            });
        }
        Ok(())
    }

    fn create_pods(&mut self, at: usize, step: &Step, namespace: &str) -> Result<(), CaseError> {
        let parameters = self.case.parameters();
        let count = step.count.as_ref().map_or(Ok(1), |count| count.value(parameters))?;
        let was_collecting = self.meter.collecting();
        self.meter.collect(false);
        self.create_volumes(at, step, namespace, count)?;
        let pods = self.maker.pods(at, step, namespace, count)?;
        let measured = count > 0 && self.is_measured(step, &pods)?;
        self.meter.collect(was_collecting || step.collect_metrics);
        let waits = !step.skip_wait_to_completion;
        let rate = self.case.case.threshold.unwrap_or(ARRIVALS_PER_SECOND);
        let us_each = if measured { 1e6 / rate } else { 0.0 };
        let begun_us = self.now_us;
        let round = self.options.round.max(1) as u64;
        let chunks = (0..count)
            .step_by(round as usize)
            .map(|from| from..(from + round).min(count));
        let first = self.pods.len();
        let take = |world: &mut Self, (made, objects): (Vec<Made>, Vec<core::Pod>), to: u64| -> Result<(), CaseError> {
            world.now_us = world.now_us.max(begun_us + (to as f64 * us_each) as u64);
            world.arrive(at, made, &objects, measured, waits);
            world.run_background()?;
            if waits && world.scheduler.has_work() {
                world.round();
            }
            Ok(())
        };
        let make = |range: std::ops::Range<u64>| -> Result<(Vec<Made>, Vec<core::Pod>), CaseError> {
            let made = range
                .clone()
                .map(|index| pods.make(index))
                .collect::<Result<Vec<_>, _>>()?;
            let numbered = range.zip(&made);
            let objects = numbered
                .map(|(index, pod)| pod.object(first + index as usize))
                .collect();
            Ok((made, objects))
        };
        if self.options.threads > 1 {
            // A second thread makes the objects ahead of the scheduler.
            std::thread::scope(|scope| {
                let (sender, receiver) = sync_channel(2);
                scope.spawn(move || {
                    for range in chunks {
                        let to = range.end;
                        // The receiver goes first only when the case has failed.
                        if sender.send((make(range), to)).is_err() {
                            return;
                        }
                    }
                });
                receiver.iter().try_for_each(|(made, to)| take(self, made?, to))
            })?;
        } else {
            for range in chunks {
                let to = range.end;
                take(self, make(range)?, to)?;
            }
        }
        if waits {
            self.settle(at, "bound", false)?;
        }
        self.meter.collect(was_collecting);
        Ok(())
    }

    fn delete_pods(&mut self, at: usize, step: &Step) -> Result<(), CaseError> {
        let namespace = step.namespace.as_deref().unwrap_or_default();
        let of_step = self
            .pods
            .iter()
            .filter(|pod| pod.key.namespace() == namespace && pod.life != Life::Deleted && self.matches(pod, step));
        let keys: Vec<_> = of_step.map(|pod| pod.key.clone()).collect();
        match step.delete_pods_per_second {
            Some(per_second) => {
                let delete = Background::delete(self.now_us, keys.clone(), per_second);
                self.background.push(delete);
                if !step.skip_wait_to_completion {
                    while keys.iter().any(|key| self.is_there(key)) {
                        self.advance(at)?;
                    }
                }
            }
            None => keys.iter().for_each(|key| self.delete(key, Part::Ingest)),
        }
        Ok(())
    }

    /// Lets the next thing that is due happen.
    fn advance(&mut self, at: usize) -> Result<(), CaseError> {
        let next = self.background.iter().map(|background| background.next_us).min();
        let next = next.ok_or_else(|| self.stuck(at, "deleted"))?;
        self.now_us = self.now_us.max(next);
        self.run_background()?;
        if self.scheduler.has_work() {
            self.round();
        }
        Ok(())
    }

    fn update_pods(&mut self, at: usize, step: &Step) -> Result<(), CaseError> {
        let count = step.total(self.case.parameters())?;
        let namespace = step.namespace.clone().unwrap_or_default();
        let template = self.maker.template(step.template.as_deref().unwrap_or_default());
        let pods: PodMaker<'_> = self.maker.pods_of(template, at, false, &namespace, count)?;
        let interval_us = step
            .update_per_second
            .map_or(0, |per_second| 1_000_000 / per_second.max(1));
        for index in 0..count {
            let made = pods.make(index)?;
            let key = scheduler::PodKey::new(&namespace, &made.name);
            let Some(number) = self.by_key.get(&key).copied() else {
                return Err(CaseError::Outcome {
                    step: at,
                    found: format!("there is no pod {key} to update"),
                    expected: "one that an earlier step made".to_owned(),
                });
            };
            let former = std::mem::replace(&mut self.pods[number as usize].shape, made.shape.clone());
            self.first.entry(number).or_insert(former);
            self.log.push(Event::Changed {
                pod: number,
                shape: made.shape,
            });
            let object = self.object(number);
            let scheduler = &mut self.scheduler;
            self.meter.time(Part::Ingest, || scheduler.upsert_pod(&object));
            self.now_us += interval_us;
            self.run_background()?;
            if self.scheduler.has_work() {
                self.round();
            }
        }
        Ok(())
    }
}
