//! Priority and fairness as its clients feel it: who goes to which level, that a flood of one flow does not hold up another,
//! and that the bounds hold whatever happens.

use std::collections::{BTreeMap, HashMap, HashSet};

use access::flow::{
    Flow, FlowControl, FlowEffect, FlowEvent, FlowLimits, Micros, RequestId, WaitRefusal, default_flow_schemas,
    default_priority_levels,
};
use access::{Attributes, ResourceRequest, User};
use proptest::prelude::*;
use serde_json::{Value, json};

const LIMITS: FlowLimits = FlowLimits {
    seats: 60,
    wait_max: 15_000_000,
};

fn with_defaults() -> FlowControl {
    let mut control = FlowControl::new(LIMITS);
    let mut effects = Vec::new();
    for level in default_priority_levels() {
        control.upsert(Micros(0), "prioritylevelconfigurations", &level, &mut effects);
    }
    for schema in default_flow_schemas() {
        control.upsert(Micros(0), "flowschemas", &schema, &mut effects);
    }
    assert_eq!(effects, []);
    control
}

/// User, verb, API group, namespace, resource, then schema, level and distinguisher; `-` is nothing. A user is `NAME`, or
/// `NAME@GROUP`; a resource may have a subresource.
const WHERE: &str = "
root@system:masters get - d pods exempt exempt -
system:node:n1@system:nodes update - - nodes/status system-node-high node-high system:node:n1
system:node:n1@system:nodes update coordination.k8s.io kube-node-lease leases system-node-high node-high system:node:n1
system:node:n1@system:nodes list - - pods system-nodes system system:node:n1
system:kube-scheduler get coordination.k8s.io kube-system leases system-leader-election leader-election system:kube-scheduler
system:kube-scheduler list - - pods kube-scheduler workload-high -
system:kube-controller-manager update - d endpoints endpoint-controller workload-high system:kube-controller-manager
system:serviceaccount:kube-system:x get - d pods kube-system-service-accounts workload-high d
system:serviceaccount:d:x@system:serviceaccounts get - d pods service-accounts workload-low system:serviceaccount:d:x
ann get - d pods global-default global-default ann
";

#[test]
fn requests_go_where_kubernetes_sends_them() {
    let control = with_defaults();
    for line in WHERE.trim().lines() {
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| if word == "-" { "" } else { word })
            .collect();
        let [user, verb, group, namespace, resource, schema, level, distinguisher] = words[..] else {
            panic!("a row has eight words: {line}")
        };
        let (name, user_group) = user.split_once('@').unwrap_or((user, "x"));
        let user = User::authenticated(name, [user_group]);
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let request = ResourceRequest {
            namespace,
            group,
            resource,
            subresource,
            ..ResourceRequest::default()
        };
        let flow = control.classify(&Attributes::resource(&user, verb, request));
        let actual = (flow.schema.as_str(), flow.level.as_str(), flow.distinguisher.as_str());
        assert_eq!(actual, (schema, level, distinguisher), "{line}");
    }
    let probe = control.classify(&Attributes::path(&User::anonymous(), "get", "/readyz"));
    assert_eq!(probe.schema, "probes");
}

#[test]
fn a_schema_without_its_level_is_passed_over_and_the_mandatory_ones_stay() {
    let mut control = with_defaults();
    let mut effects = Vec::new();
    let ann = User::authenticated("ann", [""; 0]);
    let pods = Attributes::resource(
        &ann,
        "get",
        ResourceRequest {
            resource: "pods",
            ..ResourceRequest::default()
        },
    );
    control.remove(Micros(0), "prioritylevelconfigurations", "global-default", &mut effects);
    assert_eq!(control.classify(&pods).level, "catch-all");
    for name in ["catch-all", "exempt"] {
        control.remove(Micros(0), "prioritylevelconfigurations", name, &mut effects);
        control.remove(Micros(0), "flowschemas", name, &mut effects);
    }
    assert_eq!(control.classify(&pods).level, "catch-all");
}

/// Drives the state machine as a server would: a request that runs ends after its own time.
struct Server {
    control: FlowControl,
    now: u64,
    next_id: u64,
    /// What runs, by when it ends.
    running: BTreeMap<(u64, RequestId), ()>,
    service: HashMap<RequestId, u64>,
    started: HashMap<RequestId, u64>,
    refused: HashMap<RequestId, WaitRefusal>,
}

impl Server {
    fn new(control: FlowControl) -> Server {
        Server {
            control,
            now: 0,
            next_id: 0,
            running: BTreeMap::new(),
            service: HashMap::new(),
            started: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    fn tell(&mut self, event: FlowEvent) {
        let mut effects = Vec::new();
        self.control.decide(Micros(self.now), event, &mut effects);
        for effect in effects {
            match effect {
                FlowEffect::Run { request } => {
                    let twice = self.started.insert(request, self.now);
                    assert!(
                        twice.is_none() && !self.refused.contains_key(&request),
                        "{request:?} was answered twice"
                    );
                    self.running.insert((self.now + self.service[&request], request), ());
                }
                FlowEffect::Refuse { request, why } => {
                    let twice = self.refused.insert(request, why);
                    assert!(
                        twice.is_none() && !self.started.contains_key(&request),
                        "{request:?} was answered twice"
                    );
                }
            }
        }
    }

    fn arrive(&mut self, flow: &Flow, seats: u32, service: u64) -> RequestId {
        let request = RequestId(self.next_id);
        self.next_id += 1;
        self.service.insert(request, service);
        self.tell(FlowEvent::Arrive {
            request,
            flow: flow.clone(),
            seats,
        });
        request
    }

    /// Lets time go on, ending what ends meanwhile.
    fn until(&mut self, then: u64) {
        while let Some((&(end, request), ())) = self.running.first_key_value() {
            if end > then {
                break;
            }
            self.running.remove(&(end, request));
            self.now = end;
            self.tell(FlowEvent::Finish { request });
        }
        self.now = then;
    }
}

fn flow(level: &str, user: &str) -> Flow {
    Flow {
        schema: "s".into(),
        schema_uid: String::new(),
        level: level.into(),
        distinguisher: user.into(),
    }
}

#[test]
fn an_elephant_does_not_delay_a_mouse() {
    const SERVICE: u64 = 10_000;
    let mut server = Server::new(with_defaults());
    let (elephant, mouse) = (flow("global-default", "elephant"), flow("global-default", "mouse"));
    // The elephant asks for more than all free seats can serve, and keeps its queues full; the mouse asks once every 100 ms.
    let mut longest = 0;
    for round in 0..200u64 {
        for _ in 0..500 {
            server.arrive(&elephant, 1, SERVICE);
        }
        let asked = server.now;
        let request = server.arrive(&mouse, 1, SERVICE);
        server.until((round + 1) * 100_000);
        let started = server
            .started
            .get(&request)
            .unwrap_or_else(|| panic!("round {round}: the mouse still waits"));
        longest = longest.max(started - asked);
    }
    let refused = server.refused.len();
    assert!(
        refused > 100,
        "the elephant is not refused ({refused}): this is no flood"
    );
    assert!(
        longest <= 2 * SERVICE,
        "the mouse waited {longest} microseconds for a seat of {SERVICE}"
    );
}

#[test]
fn two_equal_flows_get_equal_service_whatever_they_ask_for() {
    let mut server = Server::new(with_defaults());
    let (greedy, modest) = (flow("global-default", "greedy"), flow("global-default", "modest"));
    let mut mine: [Vec<RequestId>; 2] = [Vec::new(), Vec::new()];
    // Both always have requests waiting; one asks four times as often, and its requests take four times as long.
    for round in 0..500u64 {
        for _ in 0..40 {
            mine[0].push(server.arrive(&greedy, 1, 8_000));
        }
        for _ in 0..160 {
            mine[1].push(server.arrive(&modest, 1, 2_000));
        }
        server.until((round + 1) * 5_000);
    }
    let service = |ids: &[RequestId]| -> u64 {
        let ran = ids.iter().filter(|id| server.started.contains_key(id));
        ran.map(|id| server.service[id]).sum()
    };
    let (a, b) = (service(&mine[0]) as f64, service(&mine[1]) as f64);
    assert!(
        (0.7..1.43).contains(&(a / b)),
        "greedy got {a}, modest {b} microseconds"
    );
}

#[test]
fn levels_keep_what_they_do_not_lend() {
    let mut server = Server::new(with_defaults());
    // Everybody floods workload-low, which may borrow without bound; it fills what others lend.
    for _ in 0..200 {
        for user in 0..10 {
            server.arrive(&flow("workload-low", &format!("u{user}")), 1, 1_000_000);
        }
    }
    let in_use = |server: &Server, name: &str| {
        let mut occupancy = server.control.occupancy();
        occupancy
            .find(|(level, ..)| *level == name)
            .map(|(_, _, seats)| seats)
            .unwrap()
    };
    let borrowed = in_use(&server, "workload-low");
    // Of 60 seats and 245 shares: 25 are its own.
    assert!(borrowed > 30, "it borrows: {borrowed}");
    // Leader election lends nothing: its three seats are there at once, in the middle of the flood.
    for expected in 1..=3 {
        let request = server.arrive(&flow("leader-election", "scheduler"), 1, 1_000);
        assert!(server.started.contains_key(&request), "seat {expected}");
    }
    assert_eq!(in_use(&server, "workload-low"), borrowed);
}

#[test]
fn the_exempt_always_run_and_the_catch_all_refuses() {
    let mut server = Server::new(with_defaults());
    for _ in 0..1000 {
        let request = server.arrive(&flow("exempt", "root"), 1, 1_000_000);
        assert!(server.started.contains_key(&request));
    }
    let outcomes: Vec<bool> = (0..40)
        .map(|_| {
            let request = server.arrive(&flow("catch-all", "x"), 1, 1_000_000);
            server.started.contains_key(&request)
        })
        .collect();
    assert!(outcomes[0] && !outcomes[39]);
    assert!(server.refused.values().all(|why| *why == WaitRefusal::Concurrency));
}

#[test]
fn nobody_waits_longer_than_the_bound() {
    let mut server = Server::new(with_defaults());
    let user = flow("global-default", "u");
    for _ in 0..200 {
        server.arrive(&user, 1, 100_000_000);
    }
    let waiting: Vec<RequestId> = (0..server.next_id)
        .map(RequestId)
        .filter(|id| !server.started.contains_key(id) && !server.refused.contains_key(id))
        .collect();
    assert!(!waiting.is_empty());
    let deadline = server.control.deadline().unwrap();
    assert_eq!(deadline, Micros(LIMITS.wait_max));
    server.now = deadline.0;
    server.tell(FlowEvent::Tick);
    assert!(
        waiting
            .iter()
            .all(|id| server.refused.get(id) == Some(&WaitRefusal::TimeOut))
    );
    assert_eq!(server.control.deadline(), None);
}

#[test]
fn a_client_that_goes_leaves_its_place() {
    let mut server = Server::new(with_defaults());
    let user = flow("leader-election", "u");
    let ids: Vec<RequestId> = (0..60).map(|_| server.arrive(&user, 1, 1_000)).collect();
    let waiting = *ids.iter().find(|id| !server.started.contains_key(id)).unwrap();
    server.tell(FlowEvent::Cancel { request: waiting });
    server.until(1_000_000);
    assert!(!server.started.contains_key(&waiting) && !server.refused.contains_key(&waiting));
    server.tell(FlowEvent::Cancel { request: waiting });
    server.tell(FlowEvent::Finish { request: waiting });
    assert!(
        server
            .control
            .occupancy()
            .all(|(_, waiting, seats)| waiting == 0 && seats == 0)
    );
}

#[test]
fn a_wide_request_runs_in_the_end() {
    let mut server = Server::new(with_defaults());
    let narrow = flow("global-default", "narrow");
    for _ in 0..40 {
        server.arrive(&narrow, 1, 10_000);
    }
    let wide = server.arrive(&flow("global-default", "wide"), 1000, 10_000);
    for step in 1..200u64 {
        server.arrive(&narrow, 1, 10_000);
        server.until(step * 1_000);
    }
    assert!(
        server.started.contains_key(&wide),
        "it takes no more seats than the level has"
    );
}

fn level(name: &str, shares: u32, lendable: u32, queues: u32, length: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lendable,
        "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": 2, "queueLengthLimit": length}}}}})
}

#[derive(Clone, Debug)]
enum Step {
    Arrive {
        level: u8,
        user: u8,
        seats: u32,
        service: u64,
    },
    Wait(u64),
    Cancel(u16),
    Level {
        level: u8,
        shares: u32,
        lendable: u32,
        queues: u32,
    },
    DropLevel(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3u8, 0..4u8, 1..5u32, 1..20_000u64)
            .prop_map(|(level, user, seats, service)| Step::Arrive { level, user, seats, service }),
        4 => (0..10_000u64).prop_map(Step::Wait),
        1 => any::<u16>().prop_map(Step::Cancel),
        1 => (0..3u8, 1..50u32, 0..100u32, 1..9u32)
            .prop_map(|(level, shares, lendable, queues)| Step::Level { level, shares, lendable, queues }),
        1 => (0..3u8).prop_map(Step::DropLevel),
    ];
    proptest::collection::vec(step, 1..120)
}

#[test]
fn the_only_request_of_a_flow_runs_at_once_beside_a_flood() {
    let mut server = Server::new(FlowControl::new(FlowLimits {
        seats: 16,
        wait_max: 50_000,
    }));
    let mut effects = Vec::new();
    let object = level("l", 1000, 0, 8, 50);
    server
        .control
        .upsert(Micros(0), "prioritylevelconfigurations", &object, &mut effects);
    for _ in 0..40 {
        server.arrive(&flow("l", "flood"), 4, 10_000);
    }
    let begun = |server: &Server| server.started.len();
    let flooded = begun(&server);
    assert!(flooded < 40, "the flood waits");
    server.arrive(&flow("l", "reader"), 1, 10_000);
    assert_eq!(begun(&server), flooded + 1, "one reader runs at once");
    server.arrive(&flow("l", "reader"), 1, 10_000);
    assert_eq!(begun(&server), flooded + 1, "its second request waits");
    server.arrive(&flow("l", "lister"), 2, 10_000);
    assert_eq!(begun(&server), flooded + 1, "what takes more than one seat waits");
    for user in 0..30 {
        server.arrive(&flow("l", &format!("u{user}")), 1, 10_000);
    }
    assert_eq!(begun(&server), flooded + 2, "an eighth of the seats bounds how many do");
    server.until(10_000_000);
    assert_eq!(server.started.len() + server.refused.len(), server.next_id as usize);
}

proptest! {
    /// Whatever happens: each request is answered once or was cancelled, and in the end nothing is left behind.
    #[test]
    fn every_request_is_answered_once(steps in steps()) {
        let mut server = Server::new(FlowControl::new(FlowLimits { seats: 12, wait_max: 50_000 }));
        let mut effects = Vec::new();
        for index in 0..3 {
            let object = level(&format!("l{index}"), 10, 50, 4, 3);
            server.control.upsert(Micros(0), "prioritylevelconfigurations", &object, &mut effects);
        }
        let mut cancelled = HashSet::new();
        for step in steps {
            match step {
                Step::Arrive { level, user, seats, service } => {
                    server.arrive(&flow(&format!("l{level}"), &format!("u{user}")), seats, service);
                }
                Step::Wait(micros) => {
                    let then = server.now + micros;
                    server.until(then);
                    server.tell(FlowEvent::Tick);
                }
                Step::Cancel(which) if server.next_id > 0 => {
                    let request = RequestId(u64::from(which) % server.next_id);
                    if !server.started.contains_key(&request) && !server.refused.contains_key(&request) {
                        cancelled.insert(request);
                    }
                    server.tell(FlowEvent::Cancel { request });
                }
                Step::Cancel(_) => {}
                Step::Level { level: index, shares, lendable, queues } => {
                    let object = level(&format!("l{index}"), shares, lendable, queues, 3);
                    server.configure(|control, now, effects| {
                        control.upsert(now, "prioritylevelconfigurations", &object, effects);
                    });
                }
                Step::DropLevel(index) => server.configure(|control, now, effects| {
                    control.remove(now, "prioritylevelconfigurations", &format!("l{index}"), effects);
                }),
            }
            // Between events nobody's oldest request waits beyond the bound.
            if let Some(deadline) = server.control.deadline() {
                prop_assert!(deadline.0 + 10_000 >= server.now);
            }
        }
        server.until(server.now + 10_000_000);
        server.tell(FlowEvent::Tick);
        server.until(server.now + 10_000_000);
        for id in (0..server.next_id).map(RequestId) {
            let answered = server.started.contains_key(&id) || server.refused.contains_key(&id);
            prop_assert!(answered != cancelled.contains(&id), "{:?}", id);
        }
        prop_assert!(server.control.occupancy().all(|(_, waiting, seats)| waiting == 0 && seats == 0));
    }

    /// With a configuration that stays, the seats in use never exceed what there is.
    #[test]
    fn seats_are_bounded(arrivals in proptest::collection::vec((0..3u8, 0..4u8, 1..5u32, 1..20_000u64, 0..3_000u64), 1..200)) {
        let mut server = Server::new(FlowControl::new(FlowLimits { seats: 12, wait_max: 50_000 }));
        let mut effects = Vec::new();
        for (index, lendable) in [0, 50, 100].into_iter().enumerate() {
            let object = level(&format!("l{index}"), 10 + index as u32 * 10, lendable, 4, 3);
            server.control.upsert(Micros(0), "prioritylevelconfigurations", &object, &mut effects);
        }
        for (level, user, seats, service, pause) in arrivals {
            server.arrive(&flow(&format!("l{level}"), &format!("u{user}")), seats, service);
            let used: u64 = server.control.occupancy().map(|(_, _, seats)| seats).sum();
            // Rounding up gives each of the four limited levels at most one seat more than its share.
            prop_assert!(used <= 12 + 4, "{} seats", used);
            let then = server.now + pause;
            server.until(then);
        }
    }
}

impl Server {
    fn configure(&mut self, change: impl FnOnce(&mut FlowControl, Micros, &mut Vec<FlowEffect>)) {
        let mut effects = Vec::new();
        change(&mut self.control, Micros(self.now), &mut effects);
        for effect in effects {
            if let FlowEffect::Run { request } = effect {
                self.started.insert(request, self.now);
                self.running.insert((self.now + self.service[&request], request), ());
            }
        }
    }
}
