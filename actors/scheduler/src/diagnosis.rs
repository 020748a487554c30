//! Owns the evidence of why a pod was not placed, and its words, which are kube-scheduler's. Called by the scheduling
//! cycle; read by whoever writes the pod's condition and event. It must never lose a node: the counts say what became of each.

use crate::intern::{Sym, Symbols};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a filter refused a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// These words.
    Text(&'static str),
    /// Words made by a plugin.
    Made(Arc<str>),
    /// Too little of a resource, by the resource's name.
    Insufficient(Sym),
    /// A taint that the pod does not tolerate.
    UntoleratedTaint {
        /// Its key.
        key: Sym,
        /// Its value.
        value: Sym,
    },
}

impl Reason {
    /// The words.
    pub fn words(&self, symbols: &Symbols) -> String {
        match self {
            Self::Text(words) => (*words).to_owned(),
            Self::Made(words) => words.to_string(),
            Self::Insufficient(resource) => format!("Insufficient {}", symbols.text(*resource)),
            Self::UntoleratedTaint { key, value } => {
                format!(
                    "node(s) had untolerated taint {{{}: {}}}",
                    symbols.text(*key),
                    symbols.text(*value)
                )
            }
        }
    }
}

/// How many nodes one plugin refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalCount {
    /// The plugin; `None` for nodes that were not looked at because the pod names others.
    pub plugin: Option<&'static str>,
    /// The reason in words.
    pub reason: String,
    /// Number of nodes.
    pub nodes: usize,
}

/// Why a pod was not placed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// Number of nodes in the cluster.
    pub nodes_all: usize,
    /// Set if the pod was refused before any node was looked at.
    pub pre_filter_message: Option<String>,
    /// Refusals by plugin and reason.
    pub refusals: Vec<RefusalCount>,
    /// The plugins that refused some node, in order of their registration.
    pub plugins: Vec<&'static str>,
}

impl Diagnosis {
    /// kube-scheduler's sentence (`FitError`), without what preemption adds.
    pub fn message(&self) -> String {
        if self.nodes_all == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = format!("0/{} nodes are available:", self.nodes_all);
        if let Some(refused) = &self.pre_filter_message {
            message.push_str(&format!(" {refused}."));
            return message;
        }
        let counts = self.refusals.iter().map(|r| (r.reason.as_str(), r.nodes));
        let sentence = histogram(counts);
        if !sentence.is_empty() {
            message.push_str(&format!(" {sentence}."));
        }
        message
    }
}

/// "2 Insufficient cpu, 1 node(s) were unschedulable": sorted as text, as kube-scheduler does.
pub(crate) fn histogram<'a>(counts: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut by_reason: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for (reason, nodes) in counts {
        *by_reason.entry(reason).or_default() += nodes;
    }
    let mut parts: Vec<String> = by_reason
        .iter()
        .map(|(reason, nodes)| format!("{nodes} {reason}"))
        .collect();
    parts.sort();
    parts.join(", ")
}

/// Collects refusals while nodes are looked at. Mostly there are few different ones, found again by comparing; a map only
/// takes over when there are many.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    few: Vec<(usize, Vec<Reason>, usize)>,
    many: FxHashMap<(usize, Vec<Reason>), usize>,
    last: usize,
}

/// Different refusals that are found by comparing.
const FEW: usize = 16;

impl Tally {
    /// Notes that a plugin (by its place in the profile) refused some nodes for some reasons.
    pub fn note(&mut self, plugin: usize, reasons: &[Reason], nodes: usize) {
        let same = |known: &(usize, Vec<Reason>, usize)| known.0 == plugin && known.1 == reasons;
        // Neighbours are mostly refused alike.
        let known = match self.few.get(self.last).is_some_and(same) {
            true => Some(self.last),
            false => self.few.iter().position(same),
        };
        if let Some(at) = known {
            self.few[at].2 += nodes;
            self.last = at;
        } else if self.few.len() < FEW {
            self.last = self.few.len();
            self.few.push((plugin, reasons.to_vec(), nodes));
        } else {
            *self.many.entry((plugin, reasons.to_vec())).or_default() += nodes;
        }
    }

    fn rows(self) -> impl Iterator<Item = (usize, Vec<Reason>, usize)> {
        let many = self
            .many
            .into_iter()
            .map(|((plugin, reasons), nodes)| (plugin, reasons, nodes));
        self.few.into_iter().chain(many)
    }

    /// Adds what was noted elsewhere.
    pub fn add(&mut self, other: Self) {
        for (plugin, reasons, nodes) in other.rows() {
            self.note(plugin, &reasons, nodes);
        }
    }

    /// The finished evidence. `names` are the profile's plugins.
    pub fn finish(self, symbols: &Symbols, names: &[&'static str], nodes_all: usize) -> Diagnosis {
        let mut counts: BTreeMap<(usize, String), usize> = BTreeMap::new();
        for (plugin, reasons, nodes) in self.rows() {
            for reason in reasons {
                *counts.entry((plugin, reason.words(symbols))).or_default() += nodes;
            }
        }
        let rows: Vec<(usize, String, usize)> = counts
            .into_iter()
            .map(|((plugin, words), nodes)| (plugin, words, nodes))
            .collect();
        let mut plugins: Vec<usize> = rows.iter().map(|(plugin, _, _)| *plugin).collect();
        plugins.dedup();
        Diagnosis {
            nodes_all,
            pre_filter_message: None,
            refusals: rows
                .into_iter()
                .map(|(plugin, reason, nodes)| RefusalCount {
                    plugin: Some(names[plugin]),
                    reason,
                    nodes,
                })
                .collect(),
            plugins: plugins.into_iter().map(|plugin| names[plugin]).collect(),
        }
    }
}
