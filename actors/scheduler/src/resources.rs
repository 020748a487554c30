//! Owns the resource vector that pods request and nodes offer. Called by the parsers, the cluster state and the
//! resource plugins. It must stay integer arithmetic: milli-cpu, bytes and whole devices.

use crate::intern::Sym;

/// What a container gets in scoring when it requests no cpu (milli-cpu), as in Kubernetes.
pub const DEFAULT_SCORED_CPU_MILLI: i64 = 100;
/// What a container gets in scoring when it requests no memory (bytes), as in Kubernetes.
pub const DEFAULT_SCORED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a cpu.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local disk.
    pub ephemeral_bytes: i64,
    /// Extended resources and huge pages, sorted by symbol, without zeros in requests.
    pub extended: Vec<(Sym, i64)>,
}

impl Resources {
    /// The amount of one extended resource.
    pub fn extended_amount(&self, name: Sym) -> i64 {
        self.extended
            .iter()
            .find(|(sym, _)| *sym == name)
            .map_or(0, |(_, amount)| *amount)
    }

    /// Sets the amount of an extended resource.
    pub fn set_extended(&mut self, name: Sym, amount: i64) {
        match self.extended.binary_search_by_key(&name, |(sym, _)| *sym) {
            Ok(at) => self.extended[at].1 = amount,
            Err(at) => self.extended.insert(at, (name, amount)),
        }
    }

    /// Adds another vector.
    pub fn add(&mut self, other: &Resources) {
        self.apply(other, |have, more| have.saturating_add(more));
    }

    /// Takes another vector away. Extended resources that reach zero are dropped, so that equal sums compare equal.
    pub fn subtract(&mut self, other: &Resources) {
        self.apply(other, |have, less| have.saturating_sub(less));
        self.extended.retain(|(_, amount)| *amount != 0);
    }

    /// Keeps the larger amount of each resource.
    pub fn raise_to(&mut self, other: &Resources) {
        self.apply(other, i64::max);
    }

    fn apply(&mut self, other: &Resources, op: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = op(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = op(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = op(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.extended {
            let sum = op(self.extended_amount(*name), *amount);
            self.set_extended(*name, sum);
        }
    }

    /// Whether nothing at all is asked for.
    pub fn is_zero(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_bytes == 0
            && self.ephemeral_bytes == 0
            && self.extended.iter().all(|(_, amount)| *amount == 0)
    }
}
