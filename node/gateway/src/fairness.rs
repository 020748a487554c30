//! API priority and fairness on this node: requests wait here for a seat of their priority level. Which level, how many seats and
//! whose turn it is are `access::flow`'s decisions; the FlowSchemas and priority levels are followed in the store.
//!
//! A seat is held while a request is served. Requests of exempt levels are let through without one, and so is what goes on for
//! long (logs, sessions, proxied connections); of a watch only its start takes a seat. After Kubernetes' `WithPriorityAndFairness`.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::Attributes;
use access::flow::{
    Flow, FlowControl, FlowEffect, FlowEvent, FlowLimits, Micros, RequestId, WaitRefusal, seats_of_list,
};
use api::status::Status;
use parking_lot::{Mutex, RwLock};
use protocol::store::ObjectStore;
use protocol::{Key, Object, Resource, Revision};
use tokio::sync::oneshot;

use crate::follow::{Follower, follow};
use crate::session::Connection;

/// How long a request may wait for a seat: a quarter of a minute, of which Kubernetes gives each request one.
const WAIT_MAX: Duration = Duration::from_secs(15);

const RESOURCES: [&str; 2] = [
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
];

/// The header that names the FlowSchema of a request.
const SCHEMA_HEADER: &str = "x-kubernetes-pf-flowschema-uid";
/// The header that names its priority level.
const LEVEL_HEADER: &str = "x-kubernetes-pf-prioritylevel-uid";

type Answer = Result<(), WaitRefusal>;

/// The state that an event changes.
struct Desk {
    control: FlowControl,
    waiting: HashMap<RequestId, oneshot::Sender<Answer>>,
    /// The names of each resource's objects, to see which are gone.
    known: HashMap<&'static str, BTreeSet<Arc<str>>>,
}

/// Fairness on this node.
pub struct Fairness {
    desk: RwLock<Desk>,
    begun: tokio::time::Instant,
    next: AtomicU64,
    refused: AtomicU64,
    /// How many objects the last list of a resource held.
    listed: Mutex<HashMap<Resource, u64>>,
}

/// A request's place among others, until it is dropped.
pub struct Seat {
    fairness: Arc<Fairness>,
    /// Absent where nothing is counted.
    request: Option<RequestId>,
    /// The headers that the answer carries.
    pub headers: Vec<(&'static str, String)>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.fairness.tell(FlowEvent::Finish { request });
        }
    }
}

/// Takes a request that waits out of its queue, should its client go.
struct Waiting<'a> {
    fairness: &'a Fairness,
    request: RequestId,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.fairness.withdraw(self.request);
        }
    }
}

impl Fairness {
    /// With so many seats. Follows the store from now on.
    pub fn start(store: Arc<dyn ObjectStore>, seats: u64) -> Arc<Fairness> {
        let fairness = Fairness::new(seats);
        let resources = RESOURCES.iter().map(|name| Resource::new(*name)).collect();
        tokio::spawn(follow(store, resources, Arc::clone(&fairness) as Arc<dyn Follower>));
        fairness
    }

    fn new(seats: u64) -> Arc<Fairness> {
        let limits = FlowLimits {
            seats,
            wait_max: WAIT_MAX.as_micros() as u64,
        };
        Arc::new(Fairness {
            desk: RwLock::new(Desk {
                control: FlowControl::new(limits),
                waiting: HashMap::new(),
                known: HashMap::new(),
            }),
            begun: tokio::time::Instant::now(),
            next: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            listed: Mutex::default(),
        })
    }

    /// Waits for the request's turn. `goes_on` says that it is let through without a seat, because nobody knows how long it
    /// takes. Fails with 429 when too many wait already, or when it waited too long.
    pub async fn seat(
        self: &Arc<Self>,
        attributes: &Attributes<'_>,
        seats: u32,
        goes_on: bool,
        connection: &Connection,
    ) -> Result<Seat, Status> {
        let (flow, headers, is_exempt) = self.classify(attributes);
        let mut seat = Seat {
            fairness: Arc::clone(self),
            request: None,
            headers,
        };
        if is_exempt || goes_on {
            return Ok(seat);
        }
        let request = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let Some(mut answer) = self.arrive(request, flow, seats)? else {
            seat.request = Some(request);
            return Ok(seat);
        };
        let mut waiting = Waiting {
            fairness: self,
            request,
            is_over: false,
        };
        let (mut connection, timer) = (connection.clone(), tokio::time::sleep(WAIT_MAX));
        tokio::pin!(timer);
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                () = connection.closed() => return Err(refusal()),
                () = &mut timer => {
                    self.tell(FlowEvent::Tick);
                    timer.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(10));
                }
            }
        };
        waiting.is_over = true;
        match answer {
            Ok(Ok(())) => {
                seat.request = Some(request);
                Ok(seat)
            }
            Ok(Err(_)) | Err(_) => Err(refusal()),
        }
    }

    fn classify(&self, attributes: &Attributes<'_>) -> (Flow, Vec<(&'static str, String)>, bool) {
        let desk = self.desk.read();
        let flow = desk.control.classify(attributes);
        let level_uid = desk.control.level_uid(&flow.level).to_owned();
        let is_exempt = desk.control.is_exempt(&flow.level);
        let headers = [(SCHEMA_HEADER, flow.schema_uid.clone()), (LEVEL_HEADER, level_uid)];
        let known = headers.into_iter().filter(|(_, uid)| !uid.is_empty());
        (flow, known.collect(), is_exempt)
    }

    /// `None` when the request may run at once.
    fn arrive(&self, request: RequestId, flow: Flow, seats: u32) -> Result<Option<oneshot::Receiver<Answer>>, Status> {
        let mut effects = Vec::with_capacity(1);
        let mut desk = self.desk.write();
        let event = FlowEvent::Arrive { request, flow, seats };
        desk.control.decide(self.now(), event, &mut effects);
        let own = effects.iter().position(|effect| match effect {
            FlowEffect::Run { request: of } | FlowEffect::Refuse { request: of, .. } => *of == request,
        });
        let answer = match own.map(|at| effects.swap_remove(at)) {
            Some(FlowEffect::Run { .. }) => Ok(None),
            Some(FlowEffect::Refuse { .. }) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(refusal())
            }
            None => {
                let (answer, waits) = oneshot::channel();
                desk.waiting.insert(request, answer);
                Ok(Some(waits))
            }
        };
        self.carry_out(&mut desk, effects);
        answer
    }

    fn tell(&self, event: FlowEvent) {
        let mut effects = Vec::new();
        let mut desk = self.desk.write();
        desk.control.decide(self.now(), event, &mut effects);
        self.carry_out(&mut desk, effects);
    }

    /// The client of a request has gone. It may have been given its seat in the same moment.
    fn withdraw(&self, request: RequestId) {
        let waits = self.desk.write().waiting.remove(&request).is_some();
        self.tell(if waits {
            FlowEvent::Cancel { request }
        } else {
            FlowEvent::Finish { request }
        });
    }

    fn carry_out(&self, desk: &mut Desk, effects: Vec<FlowEffect>) {
        for effect in effects {
            let (request, answer) = match effect {
                FlowEffect::Run { request } => (request, Ok(())),
                FlowEffect::Refuse { request, why } => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    (request, Err(why))
                }
            };
            if let Some(waits) = desk.waiting.remove(&request) {
                // Its client may be going just now; then `Waiting` gives the seat back.
                let _ = waits.send(answer);
            }
        }
    }

    fn now(&self) -> Micros {
        Micros(self.begun.elapsed().as_micros() as u64)
    }

    /// How many seats a list or the start of a watch takes, by what the last list of the resource held and the page's limit.
    pub fn seats_of(&self, resource: &Resource, limit: Option<u64>) -> u32 {
        let known = self.listed.lock().get(resource).copied().unwrap_or(0);
        seats_of_list(known.min(limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX)))
    }

    /// Notes how many objects a list held.
    pub fn note_list(&self, resource: Resource, objects: u64) {
        self.listed.lock().insert(resource, objects);
    }

    /// What `/metrics` says of it, in Prometheus' format, by Kubernetes' names.
    pub fn metrics(&self) -> String {
        let desk = self.desk.read();
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, of: &dyn Fn(usize, u64) -> u64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (level, waiting, in_use) in desk.control.occupancy() {
                let _ = writeln!(text, "{name}{{priority_level=\"{level}\"}} {}", of(waiting, in_use));
            }
        };
        gauge(
            "apiserver_flowcontrol_current_inqueue_requests",
            "Requests that wait for a seat.",
            &|waiting, _| waiting as u64,
        );
        gauge(
            "apiserver_flowcontrol_current_executing_seats",
            "Seats in use.",
            &|_, in_use| in_use,
        );
        let name = "apiserver_flowcontrol_rejected_requests_total";
        let refused = self.refused.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "# HELP {name} Requests that were refused with 429.\n# TYPE {name} counter\n{name} {refused}"
        );
        text
    }
}

fn refusal() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

impl Follower for Fairness {
    fn listed(&self, resource: &Resource, items: &[(Key, Arc<Object>)]) {
        let now: BTreeSet<Arc<str>> = items.iter().map(|(key, _)| Arc::clone(&key.name)).collect();
        let gone: Vec<Arc<str>> = {
            let mut desk = self.desk.write();
            let before = desk.known.insert(plural(resource), now.clone()).unwrap_or_default();
            before.difference(&now).cloned().collect()
        };
        for name in gone {
            self.gone(&Key::new(resource.clone(), "", name), Revision::ZERO);
        }
        for (key, object) in items {
            self.changed(key, object);
        }
    }

    fn changed(&self, key: &Key, object: &Object) {
        let value = match object.value() {
            Ok(value) => value,
            Err(error) => return tracing::error!(%key, %error, "a stored object of flow control cannot be read"),
        };
        let mut effects = Vec::new();
        let mut desk = self.desk.write();
        let resource = plural(&key.resource);
        desk.known.entry(resource).or_default().insert(Arc::clone(&key.name));
        desk.control.upsert(self.now(), resource, &value, &mut effects);
        self.carry_out(&mut desk, effects);
    }

    fn gone(&self, key: &Key, _: Revision) {
        let mut effects = Vec::new();
        let mut desk = self.desk.write();
        let resource = plural(&key.resource);
        desk.known.entry(resource).or_default().remove(&key.name);
        desk.control.remove(self.now(), resource, &key.name, &mut effects);
        self.carry_out(&mut desk, effects);
    }

    fn complete(&self) {}
}

fn plural(resource: &Resource) -> &'static str {
    if resource.as_str() == RESOURCES[0] {
        "flowschemas"
    } else {
        "prioritylevelconfigurations"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use access::{ResourceRequest, User};

    fn attributes(user: &User) -> Attributes<'_> {
        let request = ResourceRequest {
            namespace: "d",
            version: "v1",
            resource: "pods",
            ..ResourceRequest::default()
        };
        Attributes::resource(user, "get", request)
    }

    fn with_defaults(seats: u64) -> Arc<Fairness> {
        let fairness = Fairness::new(seats);
        let mut desk = fairness.desk.write();
        for (resource, objects) in [
            ("prioritylevelconfigurations", access::flow::default_priority_levels()),
            ("flowschemas", access::flow::default_flow_schemas()),
        ] {
            for object in objects {
                desk.control.upsert(Micros(0), resource, &object, &mut Vec::new());
            }
        }
        drop(desk);
        fairness
    }

    #[tokio::test]
    async fn a_request_waits_for_a_seat_and_gets_it_when_one_is_given_back() {
        let fairness = with_defaults(1);
        let user = User::authenticated("ann", ["dev"]);
        let open = Connection::default();
        let mut seats = Vec::new();
        // As many as there are: each level has one at least, and idle ones lend theirs.
        let taken = async {
            loop {
                let about = attributes(&user);
                let seat = fairness.seat(&about, 1, false, &open);
                match tokio::time::timeout(Duration::from_millis(50), seat).await {
                    Ok(seat) => seats.push(seat.unwrap()),
                    Err(_) => return,
                }
            }
        };
        taken.await;
        assert!(!seats.is_empty() && seats.len() < 16, "{}", seats.len());
        // The one that was given up waits no longer.
        let in_queue =
            |fairness: &Fairness| -> usize { fairness.desk.read().control.occupancy().map(|(_, n, _)| n).sum() };
        assert_eq!(in_queue(&fairness), 0);
        let waiting = {
            let fairness = Arc::clone(&fairness);
            tokio::spawn(async move {
                let user = User::authenticated("ann", ["dev"]);
                fairness
                    .seat(&attributes(&user), 1, false, &Connection::default())
                    .await
                    .map(drop)
            })
        };
        while in_queue(&fairness) == 0 {
            tokio::task::yield_now().await;
        }
        // What is exempt, and what goes on for long, passes meanwhile.
        let root = User::authenticated("root", [access::user::MASTERS]);
        fairness.seat(&attributes(&root), 1, false, &open).await.unwrap();
        fairness.seat(&attributes(&user), 1, true, &open).await.unwrap();
        drop(seats.pop());
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waited_too_long_is_refused() {
        let fairness = Fairness::new(1);
        let user = User::authenticated("ann", ["dev"]);
        let desk = || {
            let level = serde_json::json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited":
                {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Queue", "queuing":
                    {"queues": 1, "handSize": 1, "queueLengthLimit": 1}}}}});
            fairness
                .desk
                .write()
                .control
                .upsert(Micros(0), "prioritylevelconfigurations", &level, &mut Vec::new());
        };
        desk();
        let open = Connection::default();
        let about = attributes(&user);
        let _first = fairness.seat(&about, 1, false, &open).await.unwrap();
        let second = fairness.seat(&about, 1, false, &open);
        let third = async {
            tokio::task::yield_now().await;
            fairness.seat(&about, 1, false, &open).await.map(drop)
        };
        // The third finds the queue full. The second's clock is the process's, which does not stand still: nothing is slept here
        // but the pause between two looks.
        let (second, third) = tokio::join!(
            async {
                tokio::time::timeout(Duration::from_secs(3600), second)
                    .await
                    .map(|seat| seat.map(drop))
            },
            third
        );
        assert_eq!(third.unwrap_err().code, 429);
        let refused = second.unwrap().unwrap_err();
        assert_eq!((refused.code, refused.details.retry_after_seconds), (429, 1));
        assert!(
            fairness.metrics().contains("rejected_requests_total 2"),
            "{}",
            fairness.metrics()
        );
    }
}
