//! Owns which pods belong together: pod groups, the composite groups above them, and what each demands. Called by the `Scheduler`
//! and by the round of a gang. It must release no pod before enough of its group, and of the groups with it, are there.

use crate::cluster::PodId;
use crate::intern::Sym;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// A group, or a group of groups, by `namespace/name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Member {
    /// A PodGroup.
    Group(Sym),
    /// A CompositePodGroup.
    Composite(Sym),
}

/// Composite groups within each other, at most: deeper ones, and circles, are never complete.
const DEPTH_MAX: usize = 16;

#[derive(Debug, Default)]
struct Group {
    /// How many of its pods are placed at least, if any; `None` while the PodGroup does not exist.
    pods_min: Option<usize>,
    /// The composite group above it.
    parent: Option<Sym>,
    /// Its pods, pending and placed.
    members: BTreeSet<PodId>,
    /// Those that wait for nothing but the group.
    ready: BTreeSet<PodId>,
}

#[derive(Debug, Default)]
struct Composite {
    /// How many of its children are placed at least, if any; `None` while the CompositePodGroup does not exist.
    groups_min: Option<usize>,
    parent: Option<Sym>,
    children: BTreeSet<Member>,
}

/// All pod groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: FxHashMap<Sym, Group>,
    composites: FxHashMap<Sym, Composite>,
}

impl Groups {
    /// Sets what a group demands and what is above it; true if that changed.
    pub(crate) fn set(&mut self, group: Sym, pods_min: Option<usize>, parent: Option<Sym>) -> bool {
        let known = self.groups.entry(group).or_default();
        let changed = known.pods_min != pods_min || known.parent != parent;
        known.pods_min = pods_min;
        let old = std::mem::replace(&mut known.parent, parent);
        self.rehang(Member::Group(group), old, parent);
        self.drop_if_empty(group);
        changed
    }

    /// The same for a composite group.
    pub(crate) fn set_composite(&mut self, composite: Sym, groups_min: Option<usize>, parent: Option<Sym>) -> bool {
        let known = self.composites.entry(composite).or_default();
        let changed = known.groups_min != groups_min || known.parent != parent;
        known.groups_min = groups_min;
        let old = std::mem::replace(&mut known.parent, parent);
        self.rehang(Member::Composite(composite), old, parent);
        self.drop_composite_if_empty(composite);
        changed
    }

    fn rehang(&mut self, child: Member, old: Option<Sym>, new: Option<Sym>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            if let Some(known) = self.composites.get_mut(&old) {
                known.children.remove(&child);
            }
            self.drop_composite_if_empty(old);
        }
        if let Some(new) = new {
            self.composites.entry(new).or_default().children.insert(child);
        }
    }

    /// A pod of the group is there.
    pub(crate) fn join(&mut self, group: Sym, pod: PodId) {
        self.groups.entry(group).or_default().members.insert(pod);
    }

    /// A pod of the group is gone.
    pub(crate) fn leave(&mut self, group: Sym, pod: PodId) {
        if let Some(known) = self.groups.get_mut(&group) {
            known.members.remove(&pod);
            known.ready.remove(&pod);
        }
        self.drop_if_empty(group);
    }

    /// A pod of the group waits for nothing but the group.
    pub(crate) fn is_ready(&mut self, group: Sym, pod: PodId) {
        self.groups.entry(group).or_default().ready.insert(pod);
    }

    /// How many pods of a group are placed at least; `None` while the PodGroup does not exist.
    pub(crate) fn pods_min(&self, group: Sym) -> Option<usize> {
        self.groups.get(&group)?.pods_min
    }

    /// How many children of a composite group are placed at least; `None` while it does not exist.
    pub(crate) fn groups_min(&self, composite: Sym) -> Option<usize> {
        self.composites.get(&composite)?.groups_min
    }

    /// The pods of a group.
    pub(crate) fn members(&self, group: Sym) -> impl Iterator<Item = PodId> {
        self.groups
            .get(&group)
            .into_iter()
            .flat_map(|known| known.members.iter().copied())
    }

    /// What is right below a composite group.
    pub(crate) fn children(&self, composite: Sym) -> impl Iterator<Item = Member> {
        self.composites
            .get(&composite)
            .into_iter()
            .flat_map(|known| known.children.iter().copied())
    }

    /// What is decided together with a group: itself, or the composite group on top of it. `None` if something above it does
    /// not exist.
    pub(crate) fn root(&self, group: Sym) -> Option<Member> {
        let known = self.groups.get(&group)?;
        known.pods_min?;
        let Some(mut top) = known.parent else {
            return Some(Member::Group(group));
        };
        for _ in 0..DEPTH_MAX {
            let composite = self.composites.get(&top)?;
            composite.groups_min?;
            match composite.parent {
                Some(parent) => top = parent,
                None => return Some(Member::Composite(top)),
            }
        }
        None
    }

    /// The groups below, in order.
    pub(crate) fn leaves(&self, root: Member) -> Vec<Sym> {
        let mut leaves = Vec::new();
        self.add_leaves(root, 0, &mut leaves);
        leaves
    }

    fn add_leaves(&self, member: Member, depth: usize, leaves: &mut Vec<Sym>) {
        match member {
            Member::Group(group) => leaves.push(group),
            Member::Composite(composite) if depth <= DEPTH_MAX => {
                for child in self.children(composite) {
                    self.add_leaves(child, depth + 1, leaves);
                }
            }
            Member::Composite(_) => {}
        }
    }

    /// Whether enough is there of a group, or of the groups below.
    fn is_complete(&self, member: Member, depth: usize) -> bool {
        match member {
            Member::Group(group) => {
                let known = self.groups.get(&group);
                known.is_some_and(|known| known.pods_min.is_some_and(|min| known.members.len() >= min))
            }
            Member::Composite(composite) => {
                let Some(min) = self.groups_min(composite).filter(|_| depth <= DEPTH_MAX) else {
                    return false;
                };
                let complete = self
                    .children(composite)
                    .filter(|child| self.is_complete(*child, depth + 1));
                complete.take(min).count() == min
            }
        }
    }

    /// The pods that wait for nothing but a group, or for those that are decided with it, if enough are there.
    pub(crate) fn released(&mut self, group: Sym) -> BTreeSet<PodId> {
        let mut released = BTreeSet::new();
        let Some(root) = self.root(group).filter(|root| self.is_complete(*root, 0)) else {
            return released;
        };
        for leaf in self.leaves(root) {
            if self.is_complete(Member::Group(leaf), 0)
                && let Some(known) = self.groups.get_mut(&leaf)
            {
                released.append(&mut known.ready);
            }
        }
        released
    }

    fn drop_if_empty(&mut self, group: Sym) {
        let empty = |known: &Group| known.members.is_empty() && known.pods_min.is_none();
        if self.groups.get(&group).is_some_and(empty) {
            self.groups.remove(&group);
        }
    }

    fn drop_composite_if_empty(&mut self, composite: Sym) {
        let empty = |known: &Composite| known.children.is_empty() && known.groups_min.is_none();
        if self.composites.get(&composite).is_some_and(empty) {
            self.composites.remove(&composite);
        }
    }
}
