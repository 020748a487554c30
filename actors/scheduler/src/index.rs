//! Owns the index of one class of pods: for every node whether it is feasible, at which site, and how good it is by what
//! only the node decides. Called by the `Scheduler` instead of `Cycle::find` when all their rules reach no further
//! than nodes and sites. It must find exactly the node that `Cycle::find` finds; a property test holds it to that.
//!
//! Nodes at one site share every answer that reads more than the node, so the best node overall is the best of some
//! site. A decision asks the rules once for each site that has nodes, and the trees by score for the rest: O(sites + log
//! nodes). Afterwards one node has changed, and each class that is used again catches up with the change log.

use crate::cluster::NodeId;
use crate::cycle::{Cycle, Found, distance};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// "Not feasible".
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    bucket: u32,
    score: i64,
}

/// The nodes at one site, by score and place.
struct Bucket {
    site: Box<[i64]>,
    nodes: BTreeSet<(i64, u32)>,
}

/// The index of one class.
pub struct ClassIndex {
    position: u64,
    layout: u64,
    bounds: Vec<usize>,
    entries: Vec<Entry>,
    buckets: Vec<Bucket>,
    vacancies: Vec<u32>,
    by_site: FxHashMap<Box<[i64]>, u32>,
    site: Vec<i64>,
}

impl ClassIndex {
    /// Builds the index.
    pub fn new(cycle: &Cycle<'_>) -> Self {
        let mut index = Self {
            position: 0,
            layout: 0,
            bounds: Vec::new(),
            entries: Vec::new(),
            buckets: Vec::new(),
            vacancies: Vec::new(),
            by_site: FxHashMap::default(),
            site: Vec::new(),
        };
        index.build(cycle);
        index
    }

    fn build(&mut self, cycle: &Cycle<'_>) {
        let cluster = cycle.cx.cluster;
        self.position = cluster.position();
        self.layout = cluster.layout();
        self.buckets.clear();
        self.vacancies.clear();
        self.by_site.clear();
        self.entries.clear();
        self.entries.resize(
            cluster.nodes().len(),
            Entry {
                bucket: NOWHERE,
                score: 0,
            },
        );
        self.bounds = match cluster.nodes().is_empty() {
            true => Vec::new(),
            false => cycle.site_bounds(NodeId(0)),
        };
        for slot in 0..cluster.nodes().len() as u32 {
            self.update(cycle, NodeId(slot));
        }
    }

    /// Takes in what has changed since the last decision for this class.
    pub fn catch_up(&mut self, cycle: &Cycle<'_>) {
        let cluster = cycle.cx.cluster;
        let nodes = cluster.nodes().len();
        let same_layout = self.layout == cluster.layout() && !self.bounds.is_empty();
        match cluster.changes_since(self.position) {
            Some(changes) if same_layout && changes.len() <= nodes => {
                self.entries.resize(
                    nodes,
                    Entry {
                        bucket: NOWHERE,
                        score: 0,
                    },
                );
                self.position = cluster.position();
                let mut last = None;
                for id in changes {
                    if last != Some(*id) {
                        self.update(cycle, *id);
                        last = Some(*id);
                    }
                }
            }
            _ => self.build(cycle),
        }
    }

    fn update(&mut self, cycle: &Cycle<'_>, id: NodeId) {
        let slot = id.0 as usize;
        let feasible = cycle.cx.cluster.node(id).present && cycle.filter_local(id);
        let new = if feasible {
            self.site.clear();
            let mut site = std::mem::take(&mut self.site);
            cycle.site(id, &mut site);
            let bucket = self.bucket(&site);
            self.site = site;
            Entry {
                bucket,
                score: cycle.score_local(id),
            }
        } else {
            Entry {
                bucket: NOWHERE,
                score: 0,
            }
        };
        let old = self.entries[slot];
        if old == new {
            return;
        }
        self.entries[slot] = new;
        if new.bucket != NOWHERE {
            self.buckets[new.bucket as usize].nodes.insert((new.score, id.0));
        }
        if old.bucket != NOWHERE {
            let bucket = &mut self.buckets[old.bucket as usize];
            bucket.nodes.remove(&(old.score, id.0));
            if bucket.nodes.is_empty() {
                self.by_site.remove(&bucket.site);
                self.vacancies.push(old.bucket);
            }
        }
    }

    fn bucket(&mut self, site: &[i64]) -> u32 {
        if let Some(at) = self.by_site.get(site) {
            return *at;
        }
        let bucket = Bucket {
            site: site.into(),
            nodes: BTreeSet::new(),
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
        let mut sites: Vec<(&[i64], u32)> = Vec::new();
        let mut feasible: Vec<&BTreeSet<(i64, u32)>> = Vec::new();
        for bucket in self.buckets.iter().filter(|bucket| !bucket.nodes.is_empty()) {
            if cycle.filter_site(&bucket.site, &self.bounds) {
                sites.push((&bucket.site, bucket.nodes.len() as u32));
                feasible.push(&bucket.nodes);
            }
        }
        let mut totals = Vec::new();
        cycle.score_sites(&sites, &self.bounds, &mut totals);
        let top_of = |nodes: &BTreeSet<(i64, u32)>| nodes.last().map_or(0, |(score, _)| *score);
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
            .map(|(nodes, _)| {
                let top = top_of(nodes);
                let after = nodes.range((top, tie_start as u32)..).next();
                let (_, slot) = after
                    .or_else(|| nodes.range((top, 0)..).next())
                    .expect("the top score has a node");
                *slot
            })
            .min_by_key(|slot| distance(*slot as usize, tie_start, slots))?;
        Some(Found {
            node: NodeId(nearest),
            score: best,
            feasible: sites.iter().map(|(_, nodes)| *nodes as usize).sum(),
            examined: cycle.cx.cluster.nodes_present(),
        })
    }
}
