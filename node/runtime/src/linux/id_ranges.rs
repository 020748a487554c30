//! Which ids of the node belong to which pod with a user namespace: 65,536 each, no id to two pods. Pure. What is taken is
//! kept in each pod's own record, from which `find_pods` fills this again when a node process starts.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use protocol::Uid;
use protocol::runtime::RuntimeError;

use crate::container::IdRange;
use crate::container::user_namespace::{IDS_PER_POD, WAY_OUT};

/// The first of the ids that are handed out, and how many ranges there are. Neither accounts of the system, nor the entries
/// that tools write to `/etc/subuid`, nor systemd's containers lie between 0x7000_0000 and 0x7fff_ffff (systemd's "Users,
/// Groups, UIDs and GIDs"), and above that some programs take ids for negative.
const FIRST_ID: u32 = 0x7000_0000;
const RANGES: u32 = 0x0fff_0000 / IDS_PER_POD;

/// The ranges of one node that are taken.
#[derive(Debug, Default)]
pub(crate) struct IdRanges {
    taken: BTreeMap<u32, Uid>,
}

impl IdRanges {
    /// The range of a pod: the one that it has, or a free one. The search begins at a place that follows from the uid, so
    /// that pods of several nodes on one machine hardly ever meet either.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn take(&mut self, pod: &Uid) -> Result<IdRange, RuntimeError> {
        if let Some((&first, _)) = self.taken.iter().find(|(_, owner)| *owner == pod) {
            return Ok(IdRange { first });
        }
        let mut hasher = DefaultHasher::new();
        pod.as_str().hash(&mut hasher);
        let start = (hasher.finish() % u64::from(RANGES)) as u32;
        let free = (0..RANGES)
            .map(|step| FIRST_ID + (start + step) % RANGES * IDS_PER_POD)
            .find(|first| !self.taken.contains_key(first))
            .ok_or_else(|| RuntimeError::Failed {
                doing: "finding user ids for the pod".to_owned(),
                reason: format!(
                    "all {RANGES} ranges of this node are taken: remove pods with hostUsers: false, {WAY_OUT}"
                ),
            })?;
        self.taken.insert(free, pod.clone());
        Ok(IdRange { first: free })
    }

    /// A range that a pod's record names.
    pub(crate) fn found(&mut self, pod: &Uid, range: IdRange) {
        self.taken.insert(range.first, pod.clone());
    }

    /// Nothing of the pod is left.
    pub(crate) fn release(&mut self, pod: &Uid) {
        self.taken.retain(|_, owner| owner != pod);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uid(number: u16) -> Uid {
        Uid::from(format!("pod-{number}"))
    }

    proptest! {
        #[test]
        fn no_id_belongs_to_two_pods_whatever_comes_and_goes(steps in prop::collection::vec((any::<bool>(), 0_u16..300), 1..600)) {
            let mut ranges = IdRanges::default();
            let mut held: BTreeMap<u16, IdRange> = BTreeMap::new();
            for (takes, pod) in steps {
                if takes {
                    let range = ranges.take(&uid(pod)).unwrap();
                    let known = held.insert(pod, range);
                    prop_assert!(known.is_none_or(|known| known == range), "a pod keeps its range");
                } else {
                    ranges.release(&uid(pod));
                    held.remove(&pod);
                }
                let mut firsts: Vec<u32> = held.values().map(|range| range.first).collect();
                firsts.sort_unstable();
                prop_assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] >= IDS_PER_POD));
                prop_assert!(firsts.iter().all(|first| *first >= FIRST_ID && first + (IDS_PER_POD - 1) < 0x7fff_ffff));
                let mut found = IdRanges::default();
                held.iter().for_each(|(pod, range)| found.found(&uid(*pod), *range));
                prop_assert_eq!(&found.taken, &ranges.taken, "records and memory agree");
            }
        }
    }

    #[test]
    fn a_node_whose_ranges_are_all_taken_says_so() {
        let mut ranges = IdRanges::default();
        for pod in 0..RANGES {
            ranges.take(&Uid::from(format!("pod-{pod}"))).unwrap();
        }
        let refused = ranges.take(&Uid::from("one-more".to_owned())).unwrap_err().to_string();
        assert!(refused.contains("4095 ranges"), "{refused}");
        ranges.release(&Uid::from("pod-7".to_owned()));
        ranges.take(&Uid::from("one-more".to_owned())).unwrap();
    }
}
