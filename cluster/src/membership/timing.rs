//! How fast membership notices things, by the size of the cluster. Pure.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};

/// Each member probes another so often. At this pace somebody comes to a dead member within a second even with bad luck;
/// a probe of a member to whom no connection is open costs a handshake, about 1 ms of work at each end.
const PROBE_PERIOD: Duration = Duration::from_millis(250);
/// A probe that is not answered after this is repeated through others.
const PROBE_ROUND_TRIP: Duration = Duration::from_millis(100);
/// A suspected member of a small cluster has this long to say that it lives. With the probe before it, a death is
/// declared about 2.3 seconds after it happened, seldom a second later, and a member that is stalled for a second keeps its place.
const SUSPICION: Duration = Duration::from_millis(1800);

/// The settings for a cluster of so many members. Only what foca allows to change later depends on the size.
pub fn timings(members: usize) -> Config {
    let size = members.max(1) as f64;
    // What is to be told reaches everyone after about log(n) rounds; foca's own rule for a LAN, with a floor that bears
    // the loss of a few datagrams in a small cluster.
    let transmissions = (4.0 * (size + 1.0).log10()).ceil().clamp(6.0, 60.0) as u8;
    // Suspicion has to travel to the suspect and back, which takes longer the more members there are.
    let suspicion = SUSPICION.mul_f64(size.log10().max(1.0));
    // All members together call on those that are down about seven times a second, whatever their number.
    let call_the_dead = Duration::from_millis(1500).max(Duration::from_millis(150).mul_f64(size));
    let two = NonZeroUsize::new(2).expect("two is not zero");
    let three = NonZeroUsize::new(3).expect("three is not zero");
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_ROUND_TRIP,
        num_indirect_probes: three,
        max_transmissions: NonZeroU8::new(transmissions).expect("clamped to at least six"),
        suspect_to_down_after: suspicion,
        remove_down_after: Some(Duration::from_secs(24 * 60 * 60)),
        max_packet_size: NonZeroUsize::new(crate::Mesh::datagram_bytes_max()).expect("not zero"),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams {
            frequency: Duration::from_secs(15),
            num_members: NonZeroUsize::MIN,
        }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: call_the_dead,
            num_members: two,
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis(200),
            num_members: three,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_declares_a_death_within_four_seconds() {
        for size in 2..=10 {
            let config = timings(size);
            // At worst each of the others has just probed the dead one and comes to it after all the rest.
            let others = (size - 1).min(3) as u32;
            let worst = config.probe_period * others.min(2) + config.probe_period + config.suspect_to_down_after;
            assert!(worst <= Duration::from_millis(3500), "{size}: {worst:?}");
        }
    }

    #[test]
    fn what_depends_on_the_size_grows_slowly() {
        assert_eq!(timings(10).suspect_to_down_after, SUSPICION);
        assert_eq!(timings(1000).suspect_to_down_after, SUSPICION * 3);
        assert_eq!(timings(1).max_transmissions.get(), 6);
        assert!(timings(10_000).max_transmissions.get() <= 17);
        assert_eq!(timings(0).probe_period, timings(5000).probe_period);
    }
}
