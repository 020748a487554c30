//! Owns what is kept for pods that are decided alike: what the plugins say of them, and their index. Called by the round. It
//! must give two classes one plan only if every rule answers equally for both, and must never let plans grow without bound.
//!
//! Classes differ by all labels of their pods, plans only by what decides: the replicas of a StatefulSet or an indexed Job,
//! each with labels of its own, share one plan. A plugin says what it reads of a pod's identity with `Plugin::reads`. Pods that
//! differ by claims whose volumes decide nothing but an attachment share one as well.

use crate::cluster::{ClassId, Cluster};
use crate::config::Profile;
use crate::cycle::{CompiledClass, NotFound};
use crate::decision::Preemption;
use crate::framework::{Memory, Reads};
use crate::index::ClassIndex;
use crate::intern::Sym;
use crate::pod::PodSignature;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// A plan's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanId(u32);

/// Nodes times indexed plans, at most: about 100 bytes each.
const INDEX_ENTRIES_MAX: usize = 4_000_000;
/// An index that was not used for so many decisions may give way to another.
const INDEX_IDLE_DECISIONS: u64 = 10_000;
/// Plans that no class has any more are kept for a while: the next pods of the same template are on their way.
const IDLE_PLANS_MAX: usize = 64;

/// What decides for a pod: equal keys, equal answers of every rule.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PlanKey {
    profile: usize,
    signature: PodSignature,
    terms_about: Vec<u64>,
    reads: Vec<Reads>,
    /// The versions of storage and devices, for pods that use any.
    stores: (u64, u64),
    /// What its volumes attach, where that is all that they decide.
    attachments: Option<Vec<(Sym, usize)>>,
}

/// What is kept for pods that are decided alike.
pub struct Plan {
    /// What the plugins say of them.
    pub class: CompiledClass,
    /// Their index, once they are worth one.
    pub index: Option<ClassIndex>,
    /// What PostFilter plugins remember, by their place in the profile.
    pub memory: Vec<Memory>,
    /// Why they fitted nowhere, while it holds.
    pub failure: Option<Failure>,
    /// Decisions made by it.
    pub uses: u64,
    /// The number of the last of them.
    pub last_used: u64,
    refs: u32,
    is_idle: bool,
    key: PlanKey,
}

/// Why pods fitted nowhere, and when that was found: it holds until something changes.
pub struct Failure {
    position: u64,
    layout: u64,
    /// The evidence.
    pub why: NotFound,
    /// That no room can be made either, and why, once that is known.
    pub no_room: Option<Preemption>,
}

impl Failure {
    /// Notes it.
    pub fn new(cluster: &Cluster, why: NotFound) -> Self {
        Self {
            position: cluster.position(),
            layout: cluster.layout(),
            why,
            no_room: None,
        }
    }

    /// Whether nothing has changed since.
    pub fn holds(&self, cluster: &Cluster) -> bool {
        self.position == cluster.position() && self.layout == cluster.layout()
    }
}

/// The version of the terms about a class, those of the stores that it uses, and whether its volumes only attach.
type PlanVersion = (u64, (u64, u64), bool);

/// All plans.
#[derive(Default)]
pub struct Plans {
    plans: Vec<Option<Box<Plan>>>,
    vacancies: Vec<PlanId>,
    by_key: FxHashMap<PlanKey, PlanId>,
    /// The plan of each class, and the versions of what it depends on.
    of_class: Vec<Option<(PlanId, PlanVersion)>>,
    idle: VecDeque<PlanId>,
    indexed: usize,
}

impl Plans {
    /// The plan of a class, made if there is none like it.
    pub fn of(&mut self, cluster: &mut Cluster, profile_at: usize, profile: &Profile, class: ClassId) -> PlanId {
        let at = class.0 as usize;
        if self.of_class.len() <= at {
            self.of_class.resize(at + 1, None);
        }
        let attachments = attachments(cluster, class);
        let version = (
            cluster.class(class).subject_version,
            store_versions(cluster, class),
            attachments.is_some(),
        );
        match self.of_class[at] {
            Some((id, known)) if known == version => return id,
            Some(_) => self.release(cluster, class),
            None => {}
        }
        let key = key_of(cluster, profile_at, profile, class, attachments);
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => self.make(cluster, profile_at, profile, class, key),
        };
        self.plan_mut(id).refs += 1;
        self.of_class[at] = Some((id, version));
        id
    }

    fn make(
        &mut self,
        cluster: &mut Cluster,
        profile_at: usize,
        profile: &Profile,
        class: ClassId,
        key: PlanKey,
    ) -> PlanId {
        let class = CompiledClass::new(cluster, profile_at, profile, class);
        let plan = Plan {
            class,
            index: None,
            memory: profile.plugins.iter().map(|_| None).collect(),
            failure: None,
            uses: 0,
            last_used: 0,
            refs: 0,
            is_idle: false,
            key: key.clone(),
        };
        let id = match self.vacancies.pop() {
            Some(id) => {
                self.plans[id.0 as usize] = Some(Box::new(plan));
                id
            }
            None => {
                self.plans.push(Some(Box::new(plan)));
                PlanId((self.plans.len() - 1) as u32)
            }
        };
        self.by_key.insert(key, id);
        id
    }

    fn plan_mut(&mut self, id: PlanId) -> &mut Plan {
        self.plans[id.0 as usize]
            .as_mut()
            .expect("plan ids are used only while the plan is kept")
    }

    /// Takes a plan out to work with; `put` brings it back.
    pub fn take(&mut self, id: PlanId) -> Box<Plan> {
        self.plans[id.0 as usize]
            .take()
            .expect("a plan is taken once at a time")
    }

    /// Brings a plan back.
    pub fn put(&mut self, id: PlanId, plan: Box<Plan>) {
        self.plans[id.0 as usize] = Some(plan);
    }

    /// A class is gone, or what its plugins read has changed: its plan is looked for anew.
    pub fn release(&mut self, cluster: &mut Cluster, class: ClassId) {
        let Some((id, _)) = self.of_class.get_mut(class.0 as usize).and_then(Option::take) else {
            return;
        };
        let plan = self.plan_mut(id);
        plan.refs -= 1;
        if plan.refs == 0 && !plan.is_idle {
            plan.is_idle = true;
            self.idle.push_back(id);
        }
        while self.idle.len() > IDLE_PLANS_MAX {
            self.drop_oldest_idle(cluster);
        }
    }

    fn drop_oldest_idle(&mut self, cluster: &mut Cluster) {
        let Some(id) = self.idle.pop_front() else { return };
        let plan = self.plan_mut(id);
        plan.is_idle = false;
        if plan.refs > 0 {
            return;
        }
        let plan = self.take(id);
        self.by_key.remove(&plan.key);
        self.vacancies.push(id);
        self.indexed -= usize::from(plan.index.is_some());
        plan.class.release(cluster);
    }

    /// What plugins read of the pods of a namespace without spread constraints has changed.
    pub fn release_namespace(&mut self, cluster: &mut Cluster, namespace: Sym) {
        for at in 0..self.of_class.len() as u32 {
            if self.of_class[at as usize].is_some() && cluster.class(ClassId(at)).signature.namespace == namespace {
                self.release(cluster, ClassId(at));
            }
        }
    }

    /// What plugins read has changed everywhere.
    pub fn release_all(&mut self, cluster: &mut Cluster) {
        (0..self.of_class.len() as u32).for_each(|at| self.release(cluster, ClassId(at)));
    }

    /// Whether a plan has an index, or is worth one: it is used again, and there is room, or another index is idle.
    /// `decided` is the number of the present decision.
    pub fn may_index(&mut self, plan: &Plan, nodes: usize, decided: u64) -> bool {
        if plan.index.is_some() {
            return true;
        }
        if plan.uses < 2 || !plan.class.is_indexable() {
            return false;
        }
        let plans_max = (INDEX_ENTRIES_MAX / nodes.max(1)).max(8);
        if self.indexed < plans_max {
            self.indexed += 1;
            return true;
        }
        let idle_since = decided.saturating_sub(INDEX_IDLE_DECISIONS);
        let indexed = self.plans.iter_mut().flatten().filter(|other| other.index.is_some());
        match indexed
            .min_by_key(|other| other.last_used)
            .filter(|other| other.last_used < idle_since)
        {
            Some(idle) => {
                idle.index = None;
                idle.memory.iter_mut().for_each(|memory| *memory = None);
                true
            }
            None => false,
        }
    }
}

/// Plans of pods that use storage, or devices, hold until anything about these changes.
fn store_versions(cluster: &Cluster, class: ClassId) -> (u64, u64) {
    let signature = &cluster.class(class).signature;
    let volumes = if signature.volumes.is_empty() {
        0
    } else {
        cluster.volumes().version()
    };
    let devices = if signature.device_claims.is_empty() {
        0
    } else {
        cluster.devices().version()
    };
    (volumes, devices)
}

/// What the volumes of a class attach, if it has any and that is all that they decide.
fn attachments(cluster: &Cluster, class: ClassId) -> Option<Vec<(Sym, usize)>> {
    let signature = &cluster.class(class).signature;
    if signature.volumes.is_empty() {
        None
    } else {
        cluster.attachments(signature)
    }
}

fn key_of(
    cluster: &Cluster,
    profile_at: usize,
    profile: &Profile,
    class: ClassId,
    attachments: Option<Vec<(Sym, usize)>>,
) -> PlanKey {
    let stores = store_versions(cluster, class);
    let class = cluster.class(class);
    let reads: Vec<Reads> = profile
        .plugins
        .iter()
        .map(|enabled| enabled.plugin.reads(cluster, &class.signature))
        .collect();
    let mut signature = PodSignature::clone(&class.signature);
    if !reads.contains(&Reads::Everything) {
        signature.labels = Vec::new();
        signature.namespace = Sym(0);
        signature.controller = None;
        signature.group = None;
    }
    // A plugin of a third party may read anything, also the claims.
    if attachments.is_some() && !reads.contains(&Reads::Everything) {
        signature.volumes = Vec::new();
    }
    let topology = cluster.topology();
    let terms_about = class
        .subject_to()
        .iter()
        .map(|term| topology.term(*term).serial())
        .collect();
    PlanKey {
        attachments,
        stores,
        profile: profile_at,
        signature,
        terms_about,
        reads,
    }
}
