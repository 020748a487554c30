//! Owns what goes on beside the steps in virtual time: churn and gradual deletions. Called by the world of depth `core`
//! before each round. It must carry out everything that is due, in the order in which it is due.

use super::{CoreWorld, Life, Part};
use crate::run::CaseError;
use crate::run::oracle::Event;
use crate::workload::{ChurnMode, Step};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::scheduling::v1alpha3 as composite;
use scheduler::PodKey;
use serde_json::{Value, json};
use std::sync::Arc;

/// Something that goes on.
pub struct Background {
    /// When it is due next, in virtual microseconds.
    pub next_us: u64,
    interval_us: u64,
    work: Work,
}

enum Work {
    Churn {
        at: usize,
        step: Box<Step>,
        turn: u64,
        previous: Vec<Previous>,
    },
    Delete(std::vec::IntoIter<PodKey>),
}

/// What the last turn of a recreating churn made.
enum Previous {
    Pod(PodKey),
    Node(String),
    Service(String, String),
}

impl Background {
    /// Churn of a step from now on.
    pub fn churn(now_us: u64, at: usize, step: &Step) -> Self {
        let interval_us = step.interval_milliseconds.unwrap_or(1000) * 1000;
        Self {
            next_us: now_us,
            interval_us,
            work: Work::Churn {
                at,
                step: Box::new(step.clone()),
                turn: 0,
                previous: Vec::new(),
            },
        }
    }

    /// Deletions, so many a second, from now on.
    pub fn delete(now_us: u64, keys: Vec<PodKey>, per_second: u64) -> Self {
        Self {
            next_us: now_us,
            interval_us: (1_000_000 / per_second.max(1)).max(1),
            work: Work::Delete(keys.into_iter()),
        }
    }
}

impl CoreWorld<'_> {
    /// Carries out what is due.
    pub(super) fn run_background(&mut self) -> Result<(), CaseError> {
        loop {
            let due = self.background.iter().enumerate();
            let first = due
                .filter(|(_, background)| background.next_us <= self.now_us)
                .min_by_key(|(at, background)| (background.next_us, *at))
                .map(|(at, _)| at);
            let Some(at) = first else { return Ok(()) };
            let mut background = self.background.swap_remove(at);
            background.next_us += background.interval_us;
            let goes_on = match &mut background.work {
                Work::Churn {
                    at,
                    step,
                    turn,
                    previous,
                } => {
                    if step.mode == Some(ChurnMode::Recreate) {
                        for object in previous.drain(..) {
                            self.take_away(object);
                        }
                    }
                    for name in &step.templates {
                        previous.push(self.churn_one(*at, step, name, *turn)?);
                    }
                    *turn += 1;
                    true
                }
                Work::Delete(keys) => match keys.next() {
                    Some(key) => {
                        self.delete(&key, Part::Ingest);
                        true
                    }
                    None => false,
                },
            };
            if goes_on {
                self.background.push(background);
            }
        }
    }

    fn churn_one(&mut self, at: usize, step: &Step, name: &str, turn: u64) -> Result<Previous, CaseError> {
        let template = self.maker.template(name);
        let namespace = step.namespace.clone().unwrap_or_else(|| format!("namespace-{at}"));
        let kind = template.value()["kind"].as_str().unwrap_or("Pod");
        if kind == "Pod" {
            let pod = self.maker.pods_of(template, at, false, &namespace, 0)?.make(turn)?;
            let key = PodKey::new(&namespace, &pod.name);
            let objects = [pod.object(self.pods.len())];
            self.arrive(at, vec![pod], &objects, false, false);
            return Ok(Previous::Pod(key));
        }
        let mut tree = self.maker.tree(template, at, turn, 0)?;
        let object_name = tree["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match kind {
            "Node" => {
                tree["metadata"]["labels"]["kubernetes.io/hostname"] = json!(object_name);
                tree["status"]["allocatable"] = tree["status"]["capacity"].clone();
                self.add_node(template.read(tree, "Node")?);
                Ok(Previous::Node(object_name))
            }
            _ => {
                tree["metadata"]["namespace"] = json!(namespace);
                self.add_any(kind, tree, name)?;
                Ok(Previous::Service(namespace, object_name))
            }
        }
    }

    fn take_away(&mut self, object: Previous) {
        match object {
            Previous::Pod(key) => self.delete(&key, Part::Ingest),
            Previous::Node(name) => {
                let scheduler = &mut self.scheduler;
                self.meter.time(Part::Ingest, || scheduler.remove_node(&name));
                self.log.push(Event::NodeGone(name.into()));
            }
            Previous::Service(namespace, name) => {
                let scheduler = &mut self.scheduler;
                self.meter
                    .time(Part::Ingest, || scheduler.remove_service(&namespace, &name));
            }
        }
    }

    /// A node comes.
    pub(super) fn add_node(&mut self, node: core::Node) {
        let scheduler = &mut self.scheduler;
        self.meter.time(Part::Ingest, || scheduler.upsert_node(&node));
        self.log.push(Event::Node(Arc::new(node)));
    }

    /// Any other object that scheduling reads, outside of the timed section.
    pub(super) fn add_any(&mut self, kind: &str, tree: Value, template: &str) -> Result<(), CaseError> {
        let template = self.maker.template(template);
        match kind {
            "Service" => {
                let service: core::Service = template.read(tree, "Service")?;
                let scheduler = &mut self.scheduler;
                self.meter.time(Part::Ingest, || scheduler.upsert_service(&service));
                Ok(())
            }
            "DeviceClass" => {
                let class: resource::DeviceClass = template.read(tree, "DeviceClass")?;
                self.scheduler.upsert_device_class(&class);
                Ok(())
            }
            "ResourceSlice" => {
                self.devices.slice(&tree);
                let slice: resource::ResourceSlice = template.read(tree, "ResourceSlice")?;
                self.scheduler.upsert_resource_slice(&slice);
                Ok(())
            }
            "ResourceClaim" => {
                self.devices.claim(&tree);
                let claim: resource::ResourceClaim = template.read(tree, "ResourceClaim")?;
                self.scheduler.upsert_resource_claim(&claim);
                Ok(())
            }
            "CompositePodGroup" => {
                let group: composite::CompositePodGroup = template.read(tree, "CompositePodGroup")?;
                self.scheduler.upsert_composite_group(&group);
                Ok(())
            }
            kind => Err(CaseError::Depth {
                depth: "core",
                why: format!(
                    "template {} is of kind `{kind}`, which it does not create",
                    template.name()
                ),
            }),
        }
    }

    /// Whether a pod is still there.
    pub(super) fn is_there(&self, key: &PodKey) -> bool {
        let number = self.by_key.get(key);
        number.is_some_and(|number| self.pods[*number as usize].life != Life::Deleted)
    }
}
