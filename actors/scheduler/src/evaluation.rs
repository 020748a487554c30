//! Owns what-if questions: what would be decided for a pod, node by node. Called by whoever explains or plans. It must decide
//! nothing and change nothing.

use crate::cluster::{ClassId, NodeId};
use crate::cycle::{CompiledClass, Cycle};
use crate::framework::{Reasons, Verdict};
use crate::pod::read_pod;
use crate::scheduler::Scheduler;
use k8s_openapi::api::core::v1 as core;
use std::sync::Arc;

/// The answer to a what-if question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Nodes that fit.
    pub feasible: Vec<NodeScores>,
    /// Nodes that do not, with the plugin that refused.
    pub refused: Vec<(Arc<str>, &'static str)>,
}

/// A node that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeScores {
    /// Its name.
    pub node: Arc<str>,
    /// The weighted score that each plugin gives.
    pub by_plugin: Vec<(&'static str, i64)>,
}

impl Scheduler {
    /// What would be decided for a pod now, node by node, without deciding anything: scores (weighted, by plugin) of the
    /// nodes that fit, the refusing plugin of those that do not. `None` if no profile schedules the pod.
    pub fn evaluate(&mut self, pod: &core::Pod) -> Option<Evaluation> {
        let reading = read_pod(&mut self.cluster.symbols, pod);
        self.profile_of(&reading.signature)?;
        let class_id = self.cluster.hold_class(reading.signature);
        let plan_id = self.plan_of(class_id);
        let plan = self.plans.take(plan_id);
        let evaluation = self.evaluate_class(class_id, &plan.class);
        self.plans.put(plan_id, plan);
        self.cluster.release_class(class_id);
        self.sweep();
        Some(evaluation)
    }

    fn evaluate_class(&self, class_id: ClassId, class: &CompiledClass) -> Evaluation {
        let cycle = Cycle::new(&self.cluster, class_id, None, class);
        let names = &class.plugin_names;
        let mut feasible = Vec::new();
        let mut evaluation = Evaluation::default();
        for at in 0..self.cluster.nodes().len() as u32 {
            let id = NodeId(at);
            if !self.cluster.node(id).present {
                continue;
            }
            let name = self.cluster.symbols.text(self.cluster.node(id).name).clone();
            let refused = match &class.refusal {
                Some((plugin, _)) => Some(*plugin),
                None => match cycle.filter(
                    id,
                    &mut Reasons {
                        said: Vec::new(),
                        muted: true,
                    },
                ) {
                    (Verdict::Fits, _) => None,
                    (_, plugin) => Some(plugin),
                },
            };
            match refused {
                Some(plugin) => evaluation.refused.push((name, names[plugin])),
                None => {
                    feasible.push(id);
                    evaluation.feasible.push(NodeScores {
                        node: name,
                        by_plugin: Vec::new(),
                    });
                }
            }
        }
        for (plugin, column) in cycle.score_table(&feasible) {
            for (scores, score) in evaluation.feasible.iter_mut().zip(column) {
                scores.by_plugin.push((names[plugin], score));
            }
        }
        evaluation
    }
}
