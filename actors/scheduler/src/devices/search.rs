//! Owns the search for devices on one node that meet all requests and constraints of some claims. Called by `Devices`. It must
//! give the same answer for the same state, and must end: after so many steps it gives up.

use super::{Constraint, Count, DeviceName, Devices, Published, Slot};
use crate::intern::{Sym, Symbols};
use crate::node::Node;
use crate::selector::{NodeSelectorTerm, keeps_away, untolerated};

/// What is allocated to a claim. A claim whose devices only some nodes reach, through a selector, is bound to the nodes of one of
/// these selectors; kube-scheduler writes the conjunction of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Request (or `request/subrequest`) and device.
    pub devices: Vec<(String, DeviceName)>,
    /// Which nodes reach all of them, if not all nodes do.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
    /// The node for which it was made here.
    pub on: Option<Sym>,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// The devices do not suffice.
    NoDevices,
    /// A selector could not be evaluated, with the reason.
    Selector(String),
    /// There are too many ways to try.
    TooManySteps,
}

/// Devices that are looked at for one node, at most: a bound for requests whose constraints force a search through combinations.
const STEPS_MAX: usize = 200_000;

/// A device that was taken for a request of a claim.
#[derive(Clone)]
struct Taken {
    claim: usize,
    request: usize,
    option: usize,
    slot: Slot,
}

/// A request with one of its alternatives worked out.
struct Way<'a> {
    name: &'a str,
    count: Count,
    /// The devices that it selects, in order.
    candidates: Vec<Slot>,
}

struct Search<'a> {
    devices: &'a Devices,
    constraints: Vec<&'a [Constraint]>,
    /// The requests in the order in which they are met: claim, and alternatives.
    requests: Vec<(usize, Vec<Way<'a>>)>,
    request_names: Vec<&'a str>,
    taken: Vec<Taken>,
    steps: usize,
}

/// See `Devices::allocate`.
pub(super) fn allocate(
    devices: &Devices,
    symbols: &Symbols,
    claims: &[Sym],
    node: &Node,
) -> Result<Vec<Allocation>, Impossible> {
    let mut search = Search {
        devices,
        constraints: Vec::new(),
        requests: Vec::new(),
        request_names: Vec::new(),
        taken: Vec::new(),
        steps: 0,
    };
    let reached: Vec<(Slot, &Published)> = devices.reached_by(symbols, node).collect();
    for (at, name) in claims.iter().enumerate() {
        let claim = devices.claim(*name).ok_or(Impossible::NoDevices)?;
        search.constraints.push(&claim.constraints);
        for request in &claim.requests {
            let mut ways = Vec::new();
            for option in &request.options {
                let class = devices.classes.get(&option.class).ok_or(Impossible::NoDevices)?;
                let texts = class.selectors.iter().chain(&option.selectors);
                let ids: Option<Vec<_>> = texts.map(|text| devices.expressions.id(text)).collect();
                let ids = ids.ok_or_else(|| Impossible::Selector("a selector was not compiled".to_owned()))?;
                let mut candidates = Vec::new();
                let mut complete = true;
                for (slot, published) in &reached {
                    if !devices.matches(&ids, *slot).map_err(Impossible::Selector)? {
                        continue;
                    }
                    let taints = &published.device.taints;
                    let usable = published.device.unsupported.is_none()
                        && untolerated(symbols, taints, &option.tolerations, keeps_away).is_none();
                    complete &= usable && !devices.is_in_use(published.name);
                    if usable && !devices.is_in_use(published.name) {
                        candidates.push(*slot);
                    }
                }
                let possible = match option.count {
                    Count::Exactly(count) => candidates.len() >= count,
                    Count::All => complete && !candidates.is_empty(),
                };
                if possible {
                    ways.push(Way {
                        name: &option.name,
                        count: option.count,
                        candidates,
                    });
                }
            }
            if ways.is_empty() {
                return Err(Impossible::NoDevices);
            }
            search.requests.push((at, ways));
            search.request_names.push(&request.name);
        }
    }
    match search.meet(0)? {
        true => Ok(search.allocations(claims.len(), node)),
        false => Err(Impossible::NoDevices),
    }
}

impl Search<'_> {
    /// Meets the requests from a place on, trying every alternative.
    fn meet(&mut self, at: usize) -> Result<bool, Impossible> {
        if at == self.requests.len() {
            return Ok(true);
        }
        for option in 0..self.requests[at].1.len() {
            let way = &self.requests[at].1[option];
            let wanted = match way.count {
                Count::Exactly(count) => count,
                Count::All => way.candidates.len(),
            };
            if self.take(at, option, 0, wanted)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes so many more devices for a request, from a candidate on, and then meets the rest.
    fn take(&mut self, at: usize, option: usize, from: usize, wanted: usize) -> Result<bool, Impossible> {
        if wanted == 0 {
            return self.meet(at + 1);
        }
        let claim = self.requests[at].0;
        for place in from..self.requests[at].1[option].candidates.len() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(Impossible::TooManySteps);
            }
            let candidates = &self.requests[at].1[option].candidates;
            if candidates.len() - place < wanted {
                return Ok(false);
            }
            let slot = candidates[place];
            let taken = Taken {
                claim,
                request: at,
                option,
                slot,
            };
            if self.taken.iter().any(|other| other.slot == slot) || !self.agrees(&taken) {
                continue;
            }
            self.taken.push(taken);
            if self.take(at, option, place + 1, wanted - 1)? {
                return Ok(true);
            }
            self.taken.pop();
        }
        Ok(false)
    }

    fn concerns(&self, constraint: &Constraint, taken: &Taken) -> bool {
        let way = self.requests[taken.request].1[taken.option].name;
        let request = self.request_names[taken.request];
        constraint.requests.is_empty() || constraint.requests.iter().any(|name| name == request || name == way)
    }

    /// Whether a device may be taken besides those that are.
    fn agrees(&self, new: &Taken) -> bool {
        let value = |taken: &Taken, constraint: &Constraint| {
            let device = &self.devices.published[taken.slot as usize].device;
            device.attributes.get(&constraint.attribute)
        };
        self.constraints[new.claim].iter().all(|constraint| {
            if !self.concerns(constraint, new) {
                return true;
            }
            // A device without the attribute meets no constraint on it.
            let Some(own) = value(new, constraint) else {
                return false;
            };
            let others = self
                .taken
                .iter()
                .filter(|other| other.claim == new.claim && self.concerns(constraint, other));
            let mut values = others.filter_map(|other| value(other, constraint));
            if constraint.equal {
                values.all(|other| other == own)
            } else {
                values.all(|other| other != own)
            }
        })
    }

    fn allocations(&self, claims: usize, node: &Node) -> Vec<Allocation> {
        let mut allocations: Vec<Allocation> = Vec::new();
        for claim in 0..claims {
            let own = self.taken.iter().filter(|taken| taken.claim == claim);
            let mut local = false;
            let mut terms: Option<Vec<NodeSelectorTerm>> = None;
            let devices = own.map(|taken| {
                let published = &self.devices.published[taken.slot as usize];
                match &published.device.reachable {
                    super::Reachable::Node(_) => local = true,
                    super::Reachable::Terms(of_device) => terms = Some(of_device.clone()),
                    super::Reachable::Everywhere => {}
                }
                (
                    self.requests[taken.request].1[taken.option].name.to_owned(),
                    published.name,
                )
            });
            let devices = devices.collect();
            allocations.push(Allocation {
                devices,
                nodes: terms.filter(|_| !local),
                on: local.then_some(node.name),
            });
        }
        allocations
    }
}
