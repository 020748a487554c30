//! Owns the index of pods that are decided alike: for every node whether it is feasible, at which site, and how good it is by
//! what only the node decides; or why it refuses. Called by the `Scheduler` instead of `Cycle::find` when all rules reach
//! no further than nodes and sites. It must find exactly the node, and say exactly the reasons, that `Cycle::find` finds
//! and says; a property test holds it to that.
//!
//! Nodes at one site share every answer that reads more than the node, so the best node overall is the best of some
//! site. A decision asks the rules once for each site that has nodes, and the bitmaps by score for the rest: O(sites +
//! nodes / 64). Afterwards one node has changed, and each index that is used again catches up with the change log.

use crate::cluster::NodeId;
use crate::cycle::{Cycle, Found, NotFound, distance};
use crate::diagnosis::{Reason, Tally};
use crate::framework::{Reasons, Verdict};
use crate::levels::Levels;
use crate::parallel::{in_parallel, split};
use rustc_hash::FxHashMap;

/// What the index knows of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// The API does not know it.
    Absent,
    /// A filter that reads the node only refuses it: the place of the refusal.
    Refused(u32),
    /// It is feasible as far as the node itself goes: the place of its bucket, and its score.
    Open { bucket: u32, score: i64 },
}

/// The nodes at one site, by score and place.
struct Bucket {
    site: Box<[i64]>,
    nodes: Levels,
}

/// A refusal, and how many nodes it is of.
struct Refusal {
    plugin: usize,
    reasons: Vec<Reason>,
    nodes: usize,
}

/// The index of one plan.
pub struct ClassIndex {
    position: u64,
    layout: u64,
    images: u64,
    bounds: Vec<usize>,
    entries: Vec<Entry>,
    buckets: Vec<Bucket>,
    vacancies: Vec<u32>,
    by_site: FxHashMap<Box<[i64]>, u32>,
    refusals: Vec<Refusal>,
    view: View,
}

/// A node as the rules see it.
#[derive(Clone, Default)]
struct View {
    state: State,
    site: Vec<i64>,
    reasons: Reasons,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Absent,
    Refused {
        plugin: usize,
    },
    Open {
        score: i64,
    },
}

impl View {
    /// Asks the rules about a node.
    fn look_at(&mut self, cycle: &Cycle<'_>, id: NodeId) {
        self.site.clear();
        self.reasons.said.clear();
        let node = cycle.cx.cluster.node(id);
        if !node.present {
            self.state = State::Absent;
            return;
        }
        let (verdict, plugin) = cycle.filter_copy(node, &mut self.reasons);
        if verdict != Verdict::Fits {
            self.state = State::Refused { plugin };
            return;
        }
        cycle.site(id, &mut self.site);
        self.state = State::Open {
            score: cycle.score_local(id),
        };
    }
}

impl ClassIndex {
    /// Builds the index.
    pub fn new(cycle: &Cycle<'_>, threads: usize) -> Self {
        let mut index = Self {
            position: 0,
            layout: 0,
            images: 0,
            bounds: Vec::new(),
            entries: Vec::new(),
            buckets: Vec::new(),
            vacancies: Vec::new(),
            by_site: FxHashMap::default(),
            refusals: Vec::new(),
            view: View::default(),
        };
        index.build(cycle, threads);
        index
    }

    fn build(&mut self, cycle: &Cycle<'_>, threads: usize) {
        let cluster = cycle.cx.cluster;
        self.position = cluster.position();
        self.layout = cluster.layout();
        self.images = cluster.image_stamp(&cycle.cx.signature.images);
        self.buckets.clear();
        self.vacancies.clear();
        self.by_site.clear();
        self.refusals.clear();
        self.entries.clear();
        self.entries.resize(cluster.nodes().len(), Entry::Absent);
        self.bounds = match cluster.nodes().is_empty() {
            true => Vec::new(),
            false => cycle.site_bounds(NodeId(0)),
        };
        let parts = split(cluster.nodes().len(), threads);
        if parts.len() < 2 {
            (0..cluster.nodes().len() as u32).for_each(|slot| self.update(cycle, NodeId(slot)));
            return;
        }
        let views = in_parallel(&parts, |part| {
            let mut view = View::default();
            part.map(|slot| {
                view.look_at(cycle, NodeId(slot as u32));
                view.clone()
            })
            .collect::<Vec<_>>()
        });
        for (slot, view) in views.into_iter().flatten().enumerate() {
            let entry = self.entry(&view);
            self.replace(NodeId(slot as u32), entry);
        }
    }

    /// Takes in what has changed since the last decision by this index.
    pub fn catch_up(&mut self, cycle: &Cycle<'_>, threads: usize) {
        let cluster = cycle.cx.cluster;
        let nodes = cluster.nodes().len();
        let same_layout = self.layout == cluster.layout()
            && self.images == cluster.image_stamp(&cycle.cx.signature.images)
            && !self.bounds.is_empty();
        match cluster.changes_since(self.position) {
            Some(changes) if same_layout && changes.len() <= nodes => {
                self.entries.resize(nodes, Entry::Absent);
                self.position = cluster.position();
                self.warm_up(changes);
                let mut last = None;
                for id in changes {
                    if last != Some(*id) {
                        self.update(cycle, *id);
                        last = Some(*id);
                    }
                }
            }
            _ => self.build(cycle, threads),
        }
    }

    /// Reads the entries that will be updated, all at once. One after the other, with the rules in between, each read would
    /// wait for memory alone: with a hundred indexes in turn that was more than half of a decision's time.
    fn warm_up(&self, changes: &[NodeId]) {
        let open = changes
            .iter()
            .filter(|id| matches!(self.entries[id.0 as usize], Entry::Open { .. }))
            .count();
        std::hint::black_box(open);
    }

    fn update(&mut self, cycle: &Cycle<'_>, id: NodeId) {
        let mut view = std::mem::take(&mut self.view);
        view.look_at(cycle, id);
        let entry = self.entry(&view);
        self.view = view;
        self.replace(id, entry);
    }

    fn replace(&mut self, id: NodeId, new: Entry) {
        let old = std::mem::replace(&mut self.entries[id.0 as usize], new);
        if old == new {
            return;
        }
        match new {
            Entry::Absent => {}
            Entry::Refused(at) => self.refusals[at as usize].nodes += 1,
            Entry::Open { bucket, score } => {
                self.buckets[bucket as usize].nodes.insert(score, id.0);
            }
        }
        match old {
            Entry::Absent => {}
            Entry::Refused(at) => self.refusals[at as usize].nodes -= 1,
            Entry::Open { bucket: at, score } => {
                let bucket = &mut self.buckets[at as usize];
                bucket.nodes.remove(score, id.0);
                if bucket.nodes.is_empty() {
                    self.by_site.remove(&bucket.site);
                    self.vacancies.push(at);
                }
            }
        }
    }

    fn entry(&mut self, view: &View) -> Entry {
        match view.state {
            State::Absent => Entry::Absent,
            State::Refused { plugin } => Entry::Refused(self.refusal(plugin, &view.reasons.said)),
            State::Open { score } => Entry::Open {
                bucket: self.bucket(&view.site),
                score,
            },
        }
    }

    /// The place of a refusal. There are few different ones: a scan is faster than a hash.
    fn refusal(&mut self, plugin: usize, said: &[Reason]) -> u32 {
        let known = self
            .refusals
            .iter()
            .position(|refusal| refusal.plugin == plugin && refusal.reasons == said);
        let at = known.unwrap_or_else(|| {
            self.refusals.push(Refusal {
                plugin,
                reasons: said.to_vec(),
                nodes: 0,
            });
            self.refusals.len() - 1
        });
        at as u32
    }

    /// The bucket of a site.
    fn bucket(&mut self, site: &[i64]) -> u32 {
        if let Some(at) = self.by_site.get(site) {
            return *at;
        }
        let bucket = Bucket {
            site: site.into(),
            nodes: Levels::default(),
        };
        let at = match self.vacancies.pop() {
            Some(at) => {
                self.buckets[at as usize] = bucket;
                at
            }
            None => {
                self.buckets.push(bucket);
                (self.buckets.len() - 1) as u32
            }
        };
        self.by_site.insert(site.into(), at);
        at
    }

    /// The best node, if any is feasible. The index must have caught up.
    pub fn find(&self, cycle: &Cycle<'_>, tie_start: usize) -> Option<Found> {
        let slots = cycle.cx.cluster.nodes().len();
        let mut reasons = Reasons {
            said: Vec::new(),
            muted: true,
        };
        let mut sites: Vec<(&[i64], u32)> = Vec::new();
        let mut feasible: Vec<&Levels> = Vec::new();
        for bucket in self.buckets.iter().filter(|bucket| !bucket.nodes.is_empty()) {
            if cycle.filter_site(&bucket.site, &self.bounds, &mut reasons).0 == Verdict::Fits {
                sites.push((&bucket.site, bucket.nodes.len() as u32));
                feasible.push(&bucket.nodes);
            }
        }
        if sites.is_empty() {
            return None;
        }
        let mut totals = Vec::new();
        cycle.score_sites(&sites, &self.bounds, &mut totals);
        let top_of = |nodes: &Levels| nodes.top().unwrap_or(0);
        let best = feasible
            .iter()
            .zip(&totals)
            .map(|(nodes, total)| total + top_of(nodes))
            .max()?;
        let tied = feasible
            .iter()
            .zip(&totals)
            .filter(|(nodes, total)| **total + top_of(nodes) == best);
        let nearest = tied
            .filter_map(|(nodes, _)| nodes.best_from(tie_start as u32))
            .min_by_key(|slot| distance(*slot as usize, tie_start, slots))?;
        Some(Found {
            node: NodeId(nearest),
            score: best,
            feasible: sites.iter().map(|(_, nodes)| *nodes as usize).sum(),
            examined: cycle.cx.cluster.nodes_present(),
        })
    }

    /// Why no node is feasible; `None` if the index cannot tell, because some filter that reads the node only would have
    /// spoken after one that reads the site.
    pub fn why_not(&self, cycle: &Cycle<'_>) -> Option<NotFound> {
        if !cycle.class.filters_nodes_first() {
            return None;
        }
        let mut tally = Tally::default();
        for refusal in self.refusals.iter().filter(|refusal| refusal.nodes > 0) {
            tally.note(refusal.plugin, &refusal.reasons, refusal.nodes);
        }
        let mut reasons = Reasons::default();
        for bucket in self.buckets.iter().filter(|bucket| !bucket.nodes.is_empty()) {
            let (_, plugin) = cycle.filter_site(&bucket.site, &self.bounds, &mut reasons);
            tally.note(plugin, &reasons.said, bucket.nodes.len());
            reasons.said.clear();
        }
        Some(cycle.not_found(tally, cycle.cx.cluster.nodes_present()))
    }
}
