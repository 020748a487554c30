//! Numbers of a rollout: surge and unavailability, how many pods the newest ReplicaSet may have, what the old ones may
//! lose, and proportional scaling. Pure arithmetic after Kubernetes' deployment controller.

use serde_json::Value;

use crate::int_or_percent;

/// What a rollout may do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Wanted pods.
    pub replicas: i64,
    /// Pods that may exist beyond them.
    pub surge: i64,
    /// Wanted pods that may be missing.
    pub unavailable: i64,
}

impl Bounds {
    /// Of a rolling update. Percentages of surge round up, those of unavailability down; both zero would stand still, so
    /// one may then be missing. `Recreate` has neither.
    pub fn new(replicas: i64, recreate: bool, max_surge: &Value, max_unavailable: &Value) -> Bounds {
        if recreate {
            return Bounds {
                replicas,
                surge: 0,
                unavailable: 0,
            };
        }
        let quarter = Value::from("25%");
        let of = |value: &Value, up: bool| {
            let value = if value.is_null() { &quarter } else { value };
            int_or_percent::of_total(value, replicas, up)
        };
        let surge = of(max_surge, true);
        let mut unavailable = of(max_unavailable, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Bounds {
            replicas,
            surge,
            unavailable: unavailable.min(replicas),
        }
    }

    /// How many pods may exist.
    pub fn pods_max(&self) -> i64 {
        self.replicas + self.surge
    }

    /// How many must be available.
    pub fn available_min(&self) -> i64 {
        self.replicas - self.unavailable
    }
}

/// A ReplicaSet in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetSize {
    /// What its spec wants.
    pub replicas: i64,
    /// How many of its pods are available, by its status.
    pub available: i64,
}

impl SetSize {
    /// The status may be older than the spec: what is to go does not count.
    fn available(&self) -> i64 {
        self.available.min(self.replicas)
    }
}

/// How many pods the newest ReplicaSet should want in this step.
pub(super) fn newest_size(bounds: &Bounds, newest: SetSize, old: &[SetSize]) -> i64 {
    if newest.replicas >= bounds.replicas {
        return bounds.replicas;
    }
    let existing = newest.replicas + old.iter().map(|set| set.replicas).sum::<i64>();
    let room = bounds.pods_max() - existing;
    if room <= 0 {
        newest.replicas
    } else {
        newest.replicas + room.min(bounds.replicas - newest.replicas)
    }
}

/// How many pods each old ReplicaSet (oldest first) should want in this step: first those go that are not available, then
/// as many of the others as may be missing.
pub(super) fn old_sizes(bounds: &Bounds, newest: SetSize, old: &[SetSize]) -> Vec<i64> {
    let mut sizes: Vec<i64> = old.iter().map(|set| set.replicas).collect();
    let existing = newest.replicas + sizes.iter().sum::<i64>();
    let newest_unavailable = newest.replicas - newest.available();
    let removable = existing - bounds.available_min() - newest_unavailable;
    if removable <= 0 {
        return sizes;
    }
    let mut broken = removable;
    for (size, set) in sizes.iter_mut().zip(old) {
        let unavailable = set.replicas - set.available();
        let taken = unavailable.min(broken);
        *size -= taken;
        broken -= taken;
    }
    let available: i64 = newest.available() + old.iter().map(SetSize::available).sum::<i64>();
    let mut left = available - bounds.available_min();
    for size in &mut sizes {
        let taken = (*size).min(left).max(0);
        *size -= taken;
        left -= taken;
    }
    sizes
}

/// A ReplicaSet in a proportional scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// What its spec wants.
    pub replicas: i64,
    /// The Deployment's `pods_max` when it was last scaled, from the annotation; its own status without one.
    pub former_max: i64,
}

/// Spreads the pods that a scaled Deployment may have over its active ReplicaSets, in proportion to their sizes. The
/// shares come in the order of the preference: those that come first get what rounding leaves over.
pub(super) fn proportional(bounds: &Bounds, shares: &[Share]) -> Vec<i64> {
    let total: i64 = shares.iter().map(|share| share.replicas).sum();
    let allowed = if bounds.replicas > 0 { bounds.pods_max() } else { 0 };
    let to_add = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i64> = shares
        .iter()
        .map(|share| {
            let change = share_of(bounds, share, to_add, added);
            added += change;
            share.replicas + change
        })
        .collect();
    // What rounding left over goes to the first; what it took too little goes on to the next where the first is too small,
    // which Kubernetes leaves undone.
    let mut left = to_add - added;
    for size in &mut sizes {
        let change = left.max(-*size);
        *size += change;
        left -= change;
    }
    sizes
}

fn share_of(bounds: &Bounds, share: &Share, to_add: i64, added: i64) -> i64 {
    if share.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = if bounds.replicas == 0 || share.former_max == 0 {
        -share.replicas
    } else {
        let scaled = (share.replicas * bounds.pods_max()) as f64 / share.former_max as f64;
        scaled.round() as i64 - share.replicas
    };
    let allowed = to_add - added;
    if to_add > 0 {
        fraction.min(allowed)
    } else {
        fraction.max(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn bounds(replicas: i64, surge: i64, unavailable: i64) -> Bounds {
        Bounds {
            replicas,
            surge,
            unavailable,
        }
    }

    fn size(replicas: i64, available: i64) -> SetSize {
        SetSize { replicas, available }
    }

    #[test]
    fn percentages_of_surge_round_up_and_of_unavailability_down() {
        let cases = [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (3, json!(null), json!(null), (1, 0)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (4, json!(2), json!(0), (2, 0)),
            (4, json!(0), json!(0), (0, 1)),
            (4, json!("0%"), json!("10%"), (0, 1)),
            (2, json!(0), json!(5), (0, 2)),
            (0, json!("25%"), json!("25%"), (0, 0)),
        ];
        for (replicas, surge, unavailable, expected) in cases {
            let bounds = Bounds::new(replicas, false, &surge, &unavailable);
            assert_eq!(
                (bounds.surge, bounds.unavailable),
                expected,
                "{replicas} {surge} {unavailable}"
            );
        }
        let recreate = Bounds::new(3, true, &json!(1), &json!(1));
        assert_eq!((recreate.surge, recreate.unavailable), (0, 0));
    }

    #[test]
    fn the_newest_set_grows_into_the_room_that_surge_leaves() {
        let cases = [
            (bounds(3, 1, 0), size(0, 0), vec![size(3, 3)], 1),
            (bounds(3, 1, 0), size(1, 0), vec![size(3, 3)], 1),
            (bounds(3, 1, 0), size(1, 1), vec![size(2, 2)], 2),
            (bounds(3, 3, 0), size(0, 0), vec![size(3, 3)], 3),
            (bounds(3, 0, 1), size(0, 0), vec![size(2, 2)], 1),
            (bounds(3, 1, 0), size(5, 5), vec![], 3),
            (bounds(3, 1, 0), size(0, 0), vec![], 3),
        ];
        for (bounds, newest, old, expected) in cases {
            assert_eq!(
                newest_size(&bounds, newest, &old),
                expected,
                "{bounds:?} {newest:?} {old:?}"
            );
        }
    }

    #[test]
    fn old_sets_lose_the_broken_pods_first_and_then_what_may_be_missing() {
        let cases = [
            (bounds(3, 1, 0), size(1, 0), vec![size(3, 3)], vec![3]),
            (bounds(3, 1, 0), size(1, 1), vec![size(3, 3)], vec![2]),
            (bounds(3, 0, 1), size(0, 0), vec![size(3, 3)], vec![2]),
            (bounds(10, 3, 2), size(3, 0), vec![size(10, 10)], vec![8]),
            (bounds(3, 1, 0), size(1, 0), vec![size(3, 0)], vec![3]),
            (bounds(3, 1, 1), size(2, 0), vec![size(3, 0)], vec![2]),
            (bounds(3, 1, 1), size(3, 3), vec![size(1, 0), size(2, 2)], vec![0, 0]),
            (bounds(0, 0, 0), size(0, 0), vec![size(2, 2)], vec![0]),
        ];
        for (bounds, newest, old, expected) in cases {
            assert_eq!(
                old_sizes(&bounds, newest, &old),
                expected,
                "{bounds:?} {newest:?} {old:?}"
            );
        }
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
        // Kubernetes' own example: 10 replicas, maxSurge 3, 8 old and 5 new, scaled to 15.
        let shares = [
            Share {
                replicas: 8,
                former_max: 13,
            },
            Share {
                replicas: 5,
                former_max: 13,
            },
        ];
        assert_eq!(proportional(&bounds(15, 3, 2), &shares), [11, 7]);
        assert_eq!(proportional(&bounds(0, 0, 0), &shares), [0, 0]);
        assert_eq!(proportional(&bounds(5, 1, 1), &shares).iter().sum::<i64>(), 6);
        let of_92 = |replicas| Share {
            replicas,
            former_max: 92,
        };
        let shares = [1, 23, 33, 6, 29].map(of_92);
        assert_eq!(proportional(&bounds(17, 10, 1), &shares).iter().sum::<i64>(), 27);
    }

    proptest! {
        #[test]
        fn a_step_never_exceeds_the_surge_nor_takes_what_must_be_available(
            replicas in 0i64..40, surge in 0i64..10, unavailable in 0i64..10,
            newest in (0i64..40, 0i64..40), old in proptest::collection::vec((0i64..20, 0i64..20), 0..4),
        ) {
            let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable }.min(replicas.max(1));
            let bounds = Bounds { replicas, surge, unavailable };
            let newest = size(newest.0, newest.1.min(newest.0));
            let old: Vec<SetSize> = old.into_iter().map(|(replicas, available)| size(replicas, available.min(replicas))).collect();
            let existing = newest.replicas + old.iter().map(|set| set.replicas).sum::<i64>();
            let grown = newest_size(&bounds, newest, &old);
            let after = existing - newest.replicas + grown;
            prop_assert!(after <= bounds.pods_max().max(existing));
            let shrunk = old_sizes(&bounds, newest, &old);
            let available_before: i64 = newest.available + old.iter().map(|set| set.available).sum::<i64>();
            // In the worst case the pods that go are the available ones.
            let available_after: i64 = newest.available
                + old.iter().zip(&shrunk).map(|(set, &size)| set.available.min(size)).sum::<i64>();
            prop_assert!(available_after >= bounds.available_min().min(available_before));
        }

        #[test]
        fn proportional_scaling_hands_out_exactly_what_is_allowed(
            replicas in 1i64..100, surge in 0i64..20, sizes in proptest::collection::vec(1i64..50, 1..6),
        ) {
            let bounds = Bounds { replicas, surge, unavailable: 1 };
            let former: i64 = sizes.iter().sum();
            let shares: Vec<Share> = sizes.iter().map(|&replicas| Share { replicas, former_max: former }).collect();
            let scaled = proportional(&bounds, &shares);
            prop_assert!(scaled.iter().all(|&size| size >= 0));
            prop_assert_eq!(scaled.iter().sum::<i64>(), bounds.pods_max());
        }
    }
}
