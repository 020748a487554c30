//! Owns one scheduling cycle over all nodes: filter, score, choose. This is the plain path, the definition of every
//! decision; the index must come to the same, and so must any number of threads. Called by the `Scheduler`. It must not change
//! the cluster.

use crate::cluster::{ClassId, Cluster, NodeId, PodId};
use crate::config::Profile;
use crate::diagnosis::{Diagnosis, RefusalCount, Tally};
use crate::framework::{Compiled, Context, ExtensionPoints, Reach, Reasons, Rule, Verdict};
use crate::intern::Sym;
use crate::node::Node;
use crate::parallel::{in_parallel, split};
use std::sync::Arc;

/// A rule of a class, with the plugin it comes from.
pub struct CompiledRule {
    /// The plugin's place in the profile.
    pub plugin: usize,
    /// The weight of its score.
    pub weight: i64,
    /// The rule.
    pub rule: Box<dyn Rule>,
    /// How far its filter reaches.
    pub filters: Reach,
    /// How far its score reaches.
    pub scores: Reach,
}

impl CompiledRule {
    /// Whether it reads sites.
    pub fn has_site(&self) -> bool {
        self.filters == Reach::Site || self.scores == Reach::Site
    }
}

/// What the plugins of a profile have to say about the pods of one class.
pub struct CompiledClass {
    /// The profile's place in the configuration.
    pub profile: usize,
    /// The names of the profile's plugins.
    pub plugin_names: Arc<[&'static str]>,
    /// The rules, in the order of the plugins.
    pub rules: Vec<CompiledRule>,
    /// PreFilter's refusal: plugin and message.
    pub refusal: Option<(usize, String)>,
    /// The only nodes to look at, and the plugins that say so.
    pub only_nodes: Option<(Vec<Sym>, Vec<usize>)>,
}

impl CompiledClass {
    /// Asks every plugin of a profile.
    pub fn new(cluster: &mut Cluster, profile_at: usize, profile: &Profile, class_id: ClassId) -> Self {
        let signature = cluster.class(class_id).signature.clone();
        let plugin_names = profile.plugins.iter().map(|enabled| enabled.plugin.name()).collect();
        let mut class = Self {
            profile: profile_at,
            plugin_names,
            rules: Vec::new(),
            refusal: None,
            only_nodes: None,
        };
        for (at, enabled) in profile.plugins.iter().enumerate() {
            let points = enabled.points;
            if !points.meets(
                ExtensionPoints::PRE_FILTER
                    .and(ExtensionPoints::FILTER)
                    .and(ExtensionPoints::SCORE),
            ) {
                continue;
            }
            match enabled.plugin.compile(cluster, class_id, &signature) {
                Compiled::Skip => {}
                Compiled::Refuse(message) => {
                    if points.meets(ExtensionPoints::PRE_FILTER) {
                        class.refusal.get_or_insert((at, message));
                    }
                }
                Compiled::Rule(rule) => {
                    let only_nodes = rule.only_nodes().filter(|_| points.meets(ExtensionPoints::PRE_FILTER));
                    if let Some(names) = only_nodes {
                        let (kept, plugins) = class.only_nodes.get_or_insert((names.to_vec(), Vec::new()));
                        kept.retain(|name| names.contains(name));
                        plugins.push(at);
                    }
                    let reach = |point, reach| if points.meets(point) { reach } else { Reach::None };
                    let filters = reach(ExtensionPoints::FILTER, rule.filters());
                    let scores = reach(ExtensionPoints::SCORE, rule.scores());
                    class.rules.push(CompiledRule {
                        plugin: at,
                        weight: enabled.weight,
                        rule,
                        filters,
                        scores,
                    });
                }
            }
        }
        class
    }

    /// Whether an index can follow: no rule reads anything, and all nodes are looked at.
    pub fn is_indexable(&self) -> bool {
        self.refusal.is_none()
            && self.only_nodes.is_none()
            && !self
                .rules
                .iter()
                .any(|r| r.filters == Reach::Cluster || r.scores == Reach::Cluster)
    }

    /// Whether no filter reads more than the node.
    pub fn filters_nodes_only(&self) -> bool {
        self.rules
            .iter()
            .all(|rule| matches!(rule.filters, Reach::None | Reach::Node))
    }

    /// Whether every filter that reads the node only runs before those that read more: then the reasons of nodes that the
    /// former refuse are known without the latter.
    pub fn filters_nodes_first(&self) -> bool {
        let reaches = self
            .rules
            .iter()
            .map(|rule| rule.filters)
            .filter(|reach| *reach != Reach::None);
        reaches
            .skip_while(|reach| *reach == Reach::Node)
            .all(|reach| reach != Reach::Node)
    }

    /// Lets go of what the rules held.
    pub fn release(self, cluster: &mut Cluster) {
        for compiled in self.rules {
            compiled.rule.release(cluster);
        }
    }
}

/// A pod, or any pod of a class, in front of the nodes.
#[derive(Clone, Copy)]
pub struct Cycle<'a> {
    /// What rules read.
    pub cx: Context<'a>,
    /// The rules.
    pub class: &'a CompiledClass,
}

/// Where nodes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Among equally good nodes, the first at or after this place wins.
    pub tie_start: usize,
    /// The place at which looking starts.
    pub window_start: usize,
    /// Stop when so many feasible nodes are found.
    pub feasible_max: usize,
    /// Threads to look with; what is found does not depend on it.
    pub threads: usize,
}

/// The chosen node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub node: NodeId,
    /// Its weighted score.
    pub score: i64,
    /// Number of feasible nodes among which it was chosen.
    pub feasible: usize,
    /// Number of nodes that were looked at.
    pub examined: usize,
}

/// Why no node was found.
#[derive(Clone, Debug)]
pub struct NotFound {
    /// The evidence.
    pub diagnosis: Arc<Diagnosis>,
}

/// What was seen of some nodes: the feasible ones with their sites, end to end, and why the others are not.
#[derive(Default)]
struct Seen {
    nodes: Vec<NodeId>,
    sites: Vec<i64>,
    /// The scores that read the node only.
    local: Vec<i64>,
    tally: Tally,
    examined: usize,
}

impl Seen {
    /// What was seen of these nodes and of those that come after them.
    fn and(mut self, after: Self) -> Self {
        self.nodes.extend(after.nodes);
        self.sites.extend(after.sites);
        self.local.extend(after.local);
        self.tally.add(after.tally);
        self.examined += after.examined;
        self
    }
}

impl<'a> Cycle<'a> {
    /// Prepares the cycle of a pod.
    pub fn new(cluster: &'a Cluster, class_id: ClassId, pod: Option<PodId>, class: &'a CompiledClass) -> Self {
        let signature = &cluster.class(class_id).signature;
        Self {
            cx: Context {
                cluster,
                class: class_id,
                signature,
                pod,
            },
            class,
        }
    }

    /// Appends a node's sites under all rules.
    pub fn site(&self, id: NodeId, site: &mut Vec<i64>) {
        let node = self.cx.cluster.node(id);
        for rule in self.class.rules.iter().filter(|rule| rule.has_site()) {
            rule.rule.site(&self.cx, id, node, site);
        }
    }

    /// Where each rule's part of the site begins, and the whole length. Measured on any node.
    pub fn site_bounds(&self, id: NodeId) -> Vec<usize> {
        let node = self.cx.cluster.node(id);
        let mut site = Vec::new();
        let mut bounds = vec![0];
        for rule in &self.class.rules {
            if rule.has_site() {
                rule.rule.site(&self.cx, id, node, &mut site);
            }
            bounds.push(site.len());
        }
        bounds
    }

    /// Runs all filters on a node. With `Refused` or `NeverFits`, the second is the place of the plugin that said so.
    pub fn filter(&self, id: NodeId, reasons: &mut Reasons) -> (Verdict, usize) {
        let mut site = Vec::new();
        self.site(id, &mut site);
        let bounds = if site.is_empty() {
            vec![0; self.class.rules.len() + 1]
        } else {
            self.site_bounds(id)
        };
        self.filter_with_site(id, &site, &bounds, reasons)
    }

    fn filter_with_site(&self, id: NodeId, site: &[i64], bounds: &[usize], reasons: &mut Reasons) -> (Verdict, usize) {
        let node = self.cx.cluster.node(id);
        for (at, rule) in self.class.rules.iter().enumerate() {
            let verdict = match rule.filters {
                Reach::None => continue,
                Reach::Node | Reach::Cluster => rule.rule.filter_node(&self.cx, node, reasons),
                Reach::Site => rule
                    .rule
                    .filter_site(&self.cx, &site[bounds[at]..bounds[at + 1]], reasons),
            };
            if verdict != Verdict::Fits {
                return (verdict, rule.plugin);
            }
        }
        (Verdict::Fits, 0)
    }

    /// Runs the filters that read the node only, on a node that need not be as it is in the state.
    pub fn filter_copy(&self, node: &Node, reasons: &mut Reasons) -> (Verdict, usize) {
        for rule in self.class.rules.iter().filter(|rule| rule.filters == Reach::Node) {
            let verdict = rule.rule.filter_node(&self.cx, node, reasons);
            if verdict != Verdict::Fits {
                return (verdict, rule.plugin);
            }
        }
        (Verdict::Fits, 0)
    }

    /// The nodes that refuse the pod as they are, but may take it if other pods leave.
    pub fn refused_nodes(&self) -> Vec<NodeId> {
        if self.class.refusal.is_some() {
            return Vec::new();
        }
        let cluster = self.cx.cluster;
        let mut reasons = Reasons {
            said: Vec::new(),
            muted: true,
        };
        let all = (0..cluster.nodes().len() as u32)
            .map(NodeId)
            .filter(|id| cluster.node(*id).present);
        let looked_at = |id: &NodeId| match &self.class.only_nodes {
            Some((names, _)) => names.contains(&cluster.node(*id).name),
            None => true,
        };
        all.filter(looked_at)
            .filter(|id| self.filter(*id, &mut reasons).0 == Verdict::Refused)
            .collect()
    }

    /// Runs the filters that read the site.
    pub fn filter_site(&self, site: &[i64], bounds: &[usize], reasons: &mut Reasons) -> (Verdict, usize) {
        for (at, rule) in self
            .class
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.filters == Reach::Site)
        {
            let verdict = rule
                .rule
                .filter_site(&self.cx, &site[bounds[at]..bounds[at + 1]], reasons);
            if verdict != Verdict::Fits {
                return (verdict, rule.plugin);
            }
        }
        (Verdict::Fits, 0)
    }

    /// The weighted sum of the scores that read the node only.
    pub fn score_local(&self, id: NodeId) -> i64 {
        let node = self.cx.cluster.node(id);
        let local = self.class.rules.iter().filter(|rule| rule.scores == Reach::Node);
        local
            .map(|rule| rule.weight * rule.rule.score_node(&self.cx, node))
            .sum()
    }

    /// For each site (with the number of feasible nodes that share it), the weighted sum of the scores that read it,
    /// normalised over all of them.
    pub fn score_sites(&self, sites: &[(&[i64], u32)], bounds: &[usize], totals: &mut Vec<i64>) {
        totals.clear();
        totals.resize(sites.len(), 0);
        let mut scratch = Vec::new();
        let mut raws: Vec<Option<i64>> = Vec::new();
        for (at, rule) in self
            .class
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.scores == Reach::Site)
        {
            let (from, to) = (bounds[at], bounds[at + 1]);
            scratch.clear();
            let own: Vec<(&[i64], u32)> = sites.iter().map(|(site, nodes)| (&site[from..to], *nodes)).collect();
            rule.rule.pre_score(&self.cx, &own, &mut scratch);
            raws.clear();
            raws.extend(
                own.iter()
                    .map(|(site, _)| rule.rule.score_site(&self.cx, site, &scratch)),
            );
            add_normalized(rule, &raws, totals);
        }
    }

    /// Looks for the best node over all nodes.
    pub fn find(&self, search: &Search) -> Result<Found, NotFound> {
        let cluster = self.cx.cluster;
        let slots = cluster.nodes().len();
        let seen = match (&self.class.refusal, &self.class.only_nodes) {
            (Some(_), _) => Seen::default(),
            (None, Some((names, _))) => {
                let order = names.iter().filter_map(|name| cluster.node_id(*name));
                self.look_at(order, search.feasible_max)
            }
            (None, None) => {
                let node = |step: usize| NodeId(((search.window_start + step) % slots) as u32);
                let parts = split(slots, search.threads);
                // A search that stops early must look at nodes one after the other.
                if parts.len() < 2 || search.feasible_max < usize::MAX {
                    self.look_at((0..slots).map(node), search.feasible_max)
                } else {
                    let looks = in_parallel(&parts, |part| self.look_at(part.map(node), usize::MAX));
                    looks.into_iter().reduce(Seen::and).unwrap_or_default()
                }
            }
        };
        if seen.nodes.is_empty() {
            return Err(self.not_found(seen.tally, seen.examined));
        }
        let (node, score) = self.choose(&seen, search.tie_start);
        Ok(Found {
            node,
            score,
            feasible: seen.nodes.len(),
            examined: seen.examined,
        })
    }

    /// Runs the filters on some nodes, in order, until enough of them are feasible.
    fn look_at(&self, order: impl Iterator<Item = NodeId>, feasible_max: usize) -> Seen {
        let cluster = self.cx.cluster;
        let mut seen = Seen::default();
        let mut reasons = Reasons::default();
        let mut bounds: Option<Vec<usize>> = None;
        for id in order.filter(|id| cluster.node(*id).present) {
            seen.examined += 1;
            let bounds = bounds.get_or_insert_with(|| self.site_bounds(id));
            let from = seen.sites.len();
            self.site(id, &mut seen.sites);
            let (verdict, plugin) = self.filter_with_site(id, &seen.sites[from..], bounds, &mut reasons);
            if verdict == Verdict::Fits {
                seen.nodes.push(id);
                seen.local.push(self.score_local(id));
                if seen.nodes.len() >= feasible_max {
                    break;
                }
            } else {
                seen.sites.truncate(from);
                seen.tally.note(plugin, &reasons.said, 1);
                reasons.said.clear();
            }
        }
        seen
    }

    fn choose(&self, candidates: &Seen, tie_start: usize) -> (NodeId, i64) {
        let totals = self.totals(candidates);
        let slots = self.cx.cluster.nodes().len();
        let mut best: Option<(i64, usize, NodeId)> = None;
        for (node, total) in candidates.nodes.iter().zip(&totals) {
            let distance = distance(node.0 as usize, tie_start, slots);
            if best.is_none_or(|(top, nearest, _)| *total > top || (*total == top && distance < nearest)) {
                best = Some((*total, distance, *node));
            }
        }
        let (score, _, node) = best.expect("there is at least one candidate");
        (node, score)
    }

    fn totals(&self, candidates: &Seen) -> Vec<i64> {
        let bounds = self.site_bounds(candidates.nodes[0]);
        let sites: Vec<(&[i64], u32)> = match candidates.sites.len() / candidates.nodes.len() {
            0 => candidates.nodes.iter().map(|_| (&[][..], 1)).collect(),
            len => candidates.sites.chunks(len).map(|site| (site, 1)).collect(),
        };
        let mut totals = Vec::new();
        self.score_sites(&sites, &bounds, &mut totals);
        for (total, local) in totals.iter_mut().zip(&candidates.local) {
            *total += local;
        }
        for rule in self.class.rules.iter().filter(|rule| rule.scores == Reach::Cluster) {
            let score = |id: &NodeId| Some(rule.rule.score_node(&self.cx, self.cx.cluster.node(*id)));
            let raws: Vec<Option<i64>> = candidates.nodes.iter().map(score).collect();
            add_normalized(rule, &raws, &mut totals);
        }
        totals
    }

    /// Each feasible node's weighted score under each plugin, for what-if questions.
    pub fn score_table(&self, nodes: &[NodeId]) -> Vec<(usize, Vec<i64>)> {
        let Some(first) = nodes.first() else { return Vec::new() };
        let bounds = self.site_bounds(*first);
        let mut table = Vec::new();
        for (at, rule) in self.class.rules.iter().enumerate() {
            let mut column = vec![0; nodes.len()];
            match rule.scores {
                Reach::None => continue,
                Reach::Node => {
                    for (score, id) in column.iter_mut().zip(nodes) {
                        *score = rule.rule.score_node(&self.cx, self.cx.cluster.node(*id)) * rule.weight;
                    }
                }
                Reach::Cluster => {
                    let score = |id: &NodeId| Some(rule.rule.score_node(&self.cx, self.cx.cluster.node(*id)));
                    add_normalized(rule, &nodes.iter().map(score).collect::<Vec<_>>(), &mut column);
                }
                Reach::Site => {
                    let mut all = Vec::new();
                    nodes.iter().for_each(|id| self.site(*id, &mut all));
                    let len = bounds[bounds.len() - 1];
                    let own: Vec<(&[i64], u32)> = all
                        .chunks(len)
                        .map(|site| (&site[bounds[at]..bounds[at + 1]], 1))
                        .collect();
                    let mut scratch = Vec::new();
                    rule.rule.pre_score(&self.cx, &own, &mut scratch);
                    let raws: Vec<Option<i64>> = own
                        .iter()
                        .map(|(site, _)| rule.rule.score_site(&self.cx, site, &scratch))
                        .collect();
                    add_normalized(rule, &raws, &mut column);
                }
            }
            table.push((rule.plugin, column));
        }
        table
    }

    /// The evidence that no node was found.
    pub(crate) fn not_found(&self, tally: Tally, examined: usize) -> NotFound {
        let cluster = self.cx.cluster;
        let nodes_all = cluster.nodes_present();
        let names = &self.class.plugin_names;
        let mut diagnosis = tally.finish(&cluster.symbols, names, nodes_all);
        if let Some((plugin, message)) = &self.class.refusal {
            diagnosis.pre_filter_message = Some(message.clone());
            diagnosis.plugins = vec![names[*plugin]];
        } else if let Some((_, plugins)) = &self.class.only_nodes {
            let said_so: Vec<&str> = plugins.iter().map(|at| names[*at]).collect();
            for at in plugins {
                if !diagnosis.plugins.contains(&names[*at]) {
                    diagnosis.plugins.push(names[*at]);
                }
            }
            if nodes_all > examined {
                diagnosis.refusals.push(RefusalCount {
                    plugin: None,
                    reason: format!("node(s) didn't satisfy plugin(s) [{}]", said_so.join(" ")),
                    nodes: nodes_all - examined,
                });
            }
        }
        NotFound {
            diagnosis: Arc::new(diagnosis),
        }
    }
}

/// How far after `start` a place is, going round.
pub fn distance(place: usize, start: usize, slots: usize) -> usize {
    if place >= start {
        place - start
    } else {
        place + slots - start
    }
}

fn add_normalized(rule: &CompiledRule, raws: &[Option<i64>], totals: &mut [i64]) {
    let least = raws.iter().flatten().copied().min().unwrap_or(0);
    let greatest = raws.iter().flatten().copied().max().unwrap_or(0);
    for (total, raw) in totals.iter_mut().zip(raws) {
        if let Some(raw) = raw {
            *total += rule.weight * rule.rule.normalize(*raw, least, greatest);
        }
    }
}
