//! The eviction brake: which silent nodes may have their pods driven away, and how fast. One actor for all nodes, because
//! only who sees a whole zone can tell a lost machine from a lost network: when a large share of a zone goes silent at
//! once, it is more likely that the leader cannot hear it than that all machines died, and pods that run on must not be
//! replaced in a rush. A node's own actor marks it NoSchedule at once; this one adds NoExecute, which drives pods away.
//! Supervised by the router's directory (permanent, back-off per object); its slot has no object of its own.
//!
//! After Kubernetes' node lifecycle controller, with its defaults but for the usual rate (`NodeSettings`):
//! - A zone is fully disrupted when none of its nodes is ready; partially when more than two are not, and they are 55 % or
//!   more. In a partially disrupted zone, evictions slow down to the secondary rate, or stop if it has 50 nodes or fewer.
//! - When every zone is fully disrupted, the trouble is this node's own: evictions stop, and marks are taken back.
//!
//! Invariants: NoExecute is added to at most one node of a zone per interval (two control planes at once, during a
//! fail-over, may add it to two); a zone that is slowed down or stopped keeps the marks that it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use super::NodeSettings;
use super::eviction::{NOT_READY, UNREACHABLE, is_marked};
use crate::effects::{Effects, Intent};
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::ownership;
use crate::reading::{self, condition, instant};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const NEXT_TIMER: &str = "next";
/// Up to so many nodes that are not ready are no disruption of a zone, whatever their share.
const FEW_NODES: usize = 2;

/// The key of the actor's slot. No object has it; the name keeps it apart from those of other actors.
pub fn key() -> Key {
    Key::new("configmaps", "kube-system", "node-evictions")
}

/// What is wrong with a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disruption {
    /// Nothing that single machines do not explain.
    None,
    /// A large share of its nodes is not ready.
    Partial,
    /// None of its nodes is ready.
    Full,
}

/// Judges a zone by its nodes. `threshold_percent` is the share of nodes from which on it is disrupted.
pub fn disruption(ready: usize, not_ready: usize, threshold_percent: u64) -> Disruption {
    let share_is_large = not_ready as u64 * 100 >= threshold_percent * (ready + not_ready) as u64;
    if ready == 0 && not_ready > 0 {
        Disruption::Full
    } else if not_ready > FEW_NODES && share_is_large {
        Disruption::Partial
    } else {
        Disruption::None
    }
}

/// What the actor knows.
pub struct EvictionBrake {
    settings: NodeSettings,
    nodes: BTreeMap<Key, Seen>,
    /// When a node of the zone was last marked by this actor.
    marked_at: BTreeMap<Zone, UnixMillis>,
}

/// Region and zone; both empty for nodes that say nothing.
type Zone = (String, String);

struct Seen {
    object: Arc<Object>,
    reading: reading::Node,
}

impl Seen {
    fn zone(&self) -> Zone {
        let label = |name: &str| self.object.header.labels.get(name).cloned().unwrap_or_default();
        (label(REGION), label(ZONE))
    }

    fn ready_status(&self) -> &str {
        let ready = condition(&self.reading.status.conditions, "Ready");
        ready.map_or("", |ready| ready.status.as_str())
    }

    fn is_ready(&self) -> bool {
        self.ready_status() == "True"
    }

    /// When its pods were marked to go, if they are.
    fn marked_at(&self) -> Option<UnixMillis> {
        let mark = self.reading.spec.taints.iter().find(|taint| is_marked(taint))?;
        Some(instant(mark.time_added.as_deref()).unwrap_or_default())
    }

    /// Since when it is not ready: who went first is served first.
    fn silent_since(&self) -> UnixMillis {
        let ready = condition(&self.reading.status.conditions, "Ready");
        instant(ready.and_then(|ready| ready.last_transition_time.as_deref())).unwrap_or_default()
    }
}

impl EvictionBrake {
    /// An actor that knows nothing so far.
    pub fn new(settings: NodeSettings) -> EvictionBrake {
        EvictionBrake {
            settings,
            nodes: BTreeMap::new(),
            marked_at: BTreeMap::new(),
        }
    }

    fn zones(&self) -> BTreeMap<Zone, Vec<(&Key, &Seen)>> {
        let mut zones: BTreeMap<Zone, Vec<(&Key, &Seen)>> = BTreeMap::new();
        for (key, node) in self.nodes.iter().filter(|(_, node)| !node.object.header.deleting) {
            zones.entry(node.zone()).or_default().push((key, node));
        }
        zones
    }

    fn judge(&self, nodes: &[(&Key, &Seen)]) -> Disruption {
        let ready = nodes.iter().filter(|(_, node)| node.is_ready()).count();
        disruption(
            ready,
            nodes.len() - ready,
            self.settings.unhealthy_zone_threshold_percent,
        )
    }

    /// The time between two marks in a zone; `None` stops them.
    fn interval_ms(&self, disruption: Disruption, nodes: usize) -> Option<u64> {
        match disruption {
            Disruption::None | Disruption::Full => Some(self.settings.eviction_interval_ms),
            Disruption::Partial if nodes > self.settings.large_zone_nodes => {
                Some(self.settings.secondary_eviction_interval_ms)
            }
            Disruption::Partial => None,
        }
    }
}

impl ObjectKind for EvictionBrake {
    fn observe(&mut self, seen: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            _ if seen.resource.as_str() != "nodes" => {}
            Some(object) => {
                let (object, reading) = (Arc::clone(object), read(seen, object)?);
                self.nodes.insert(seen.clone(), Seen { object, reading });
            }
            None => {
                self.nodes.remove(seen);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: UnixMillis, _: Event, effects: &mut Effects) {
        let zones = self.zones();
        let all_silent = zones.values().all(|nodes| self.judge(nodes) == Disruption::Full);
        let mut marked: Vec<Zone> = Vec::new();
        let mut next: Option<UnixMillis> = None;
        for (zone, nodes) in &zones {
            if all_silent {
                let marks = nodes.iter().filter(|(_, node)| node.marked_at().is_some());
                marks.for_each(|(key, node)| write(key, node, now, Mark::Off, effects));
                continue;
            }
            let Some(interval_ms) = self.interval_ms(self.judge(nodes), nodes.len()) else {
                continue;
            };
            let waiting = nodes
                .iter()
                .filter(|(_, node)| !node.is_ready() && node.marked_at().is_none());
            let Some((key, node)) = waiting.min_by_key(|(key, node)| (node.silent_since(), *key)) else {
                continue;
            };
            // Marks in the store count as well: this actor may have been started a moment ago.
            let stored = nodes.iter().filter_map(|(_, node)| node.marked_at());
            let last = stored.chain(self.marked_at.get(zone).copied()).max();
            let due = last.map_or(now, |last| last.plus_ms(interval_ms));
            if due <= now {
                write(key, node, now, Mark::On, effects);
                marked.push(zone.clone());
            } else {
                next = Some(next.map_or(due, |other| other.min(due)));
            }
        }
        self.marked_at.extend(marked.into_iter().map(|zone| (zone, now)));
        effects.timer_if(NEXT_TIMER, next.map(|at| at.since_ms(now).max(1)));
    }

    fn summary(&self) -> String {
        let zones = self.zones();
        let count = |wanted| zones.values().filter(|nodes| self.judge(nodes) == wanted).count();
        let marked = self.nodes.values().filter(|node| node.marked_at().is_some()).count();
        format!(
            "{} zones, {} disrupted in part and {} in full; pods of {marked} nodes are driven away",
            zones.len(),
            count(Disruption::Partial),
            count(Disruption::Full)
        )
    }

    fn inspect(&self) -> Value {
        let zones = self.zones();
        let zones = zones.iter().map(|((region, zone), nodes)| {
            let silent = nodes.iter().filter(|(_, node)| !node.is_ready());
            json!({
                "region": region, "zone": zone, "nodes": nodes.len(), "disruption": format!("{:?}", self.judge(nodes)),
                "notReady": silent.map(|(key, _)| &*key.name).collect::<Vec<_>>(),
            })
        });
        json!({ "zones": zones.collect::<Vec<_>>() })
    }
}

enum Mark {
    On,
    Off,
}

fn write(key: &Key, node: &Seen, now: UnixMillis, mark: Mark, effects: &mut Effects) {
    let Ok(mut value) = node.object.value() else { return };
    let mut taints = value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    match mark {
        Mark::On => {
            let key = if node.ready_status() == "Unknown" {
                UNREACHABLE
            } else {
                NOT_READY
            };
            taints.push(json!({ "key": key, "effect": "NoExecute", "timeAdded": now.rfc3339() }));
        }
        Mark::Off => taints.retain(|taint| {
            let ours = taint["key"] == UNREACHABLE || taint["key"] == NOT_READY;
            !(ours && taint["effect"] == "NoExecute")
        }),
    }
    let spec = ownership::member(&mut value, "spec");
    if taints.is_empty() {
        spec.remove("taints");
    } else {
        spec.insert("taints".into(), Value::Array(taints));
    }
    effects.write_one(Intent::Update {
        key: key.clone(),
        base: Arc::clone(&node.object),
        value,
    });
}

#[cfg(test)]
#[path = "brake_tests.rs"]
mod tests;
