//! The objects that every cluster has: four namespaces, the system's priority classes, API priority and fairness, the Service `default/kubernetes`, and its EndpointSlice and
//! Endpoints with the addresses of the members' gateways. What is wanted is pure; the actor writes what is missing and follows the
//! membership. Supervised by the control plane's root (permanent).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use access::policy::{DefaultObject, PolicyWrite};
use futures::StreamExt;
use protocol::store::{ObjectStore, Precondition, Proposal, ProposeError, Refusal, Write};
use protocol::{Cause, Key, NodeName, Object, Resource};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use supervision::{ActorView, AdminMessage, Clock};
use tokio::task::JoinHandle;

use crate::addresses::{ClusterIpAllocator, Ipv4Range};
use crate::compose;
use crate::kind::Liveness;
use crate::membership::{MemberState, Membership};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const RETRY: Duration = Duration::from_millis(500);
/// The API group of roles and bindings.
const RBAC: &str = "rbac.authorization.k8s.io";
/// The port of the Service `default/kubernetes`.
const API_PORT: u16 = 443;

/// A wanted object.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its key.
    pub key: Key,
    /// Its content.
    pub value: Value,
    /// Members of the object that are kept at this content; the others of an existing one are left as people made them.
    pub kept_up: &'static [&'static str],
}

/// What every cluster has. `addresses` are the gateways of live members.
pub fn wanted(service_cidr: Ipv4Range, addresses: &[SocketAddr]) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = NAMESPACES
        .iter()
        .map(|name| Wanted {
            key: Key::new("namespaces", "", *name),
            value: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            kept_up: &[],
        })
        .collect();
    all.extend(admission::priority::system_classes().into_iter().map(|class| Wanted {
        key: Key::new(
            "priorityclasses.scheduling.k8s.io",
            "",
            class["metadata"]["name"].as_str().unwrap_or_default(),
        ),
        value: class,
        kept_up: &[],
    }));
    let address = ClusterIpAllocator::new(service_cidr).kubernetes().to_string();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let target = addresses.first().map_or(API_PORT, SocketAddr::port);
    all.push(Wanted {
        key: Key::new("services", "default", "kubernetes"),
        value: json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                "ports": [{"name": "https", "protocol": "TCP", "port": API_PORT, "targetPort": target}],
                "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            },
        }),
        kept_up: &[],
    });
    if !addresses.is_empty() {
        all.extend(endpoints(addresses, target));
    }
    all.extend(flow_control());
    all
}

/// The priority levels of API requests and what leads to them. They are people's to change once they exist.
fn flow_control() -> impl Iterator<Item = Wanted> {
    let of = |resource: &'static str| {
        move |value: Value| Wanted {
            key: Key::new(resource, "", value["metadata"]["name"].as_str().unwrap_or_default()),
            value,
            kept_up: &[],
        }
    };
    let levels = access::flow::default_priority_levels().into_iter();
    let schemas = access::flow::default_flow_schemas().into_iter();
    levels
        .map(of("prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"))
        .chain(schemas.map(of("flowschemas.flowcontrol.apiserver.k8s.io")))
}

/// The slice and the Endpoints object. Both have one port for all addresses: members that serve on another port than the
/// first are left out.
fn endpoints(addresses: &[SocketAddr], port: u16) -> Vec<Wanted> {
    let mut ips: Vec<IpAddr> = addresses
        .iter()
        .filter(|a| a.port() == port && a.is_ipv4())
        .map(SocketAddr::ip)
        .collect();
    ips.sort_unstable();
    ips.dedup();
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
        .collect();
    // An Endpoints object may not hold addresses that mean another machine to each reader.
    let reachable = ips.iter().filter(|ip| !ip.is_loopback());
    let addresses: Vec<Value> = reachable.map(|ip| json!({ "ip": ip.to_string() })).collect();
    let some_reachable = !addresses.is_empty();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let slice = Wanted {
        key: Key::new("endpointslices.discovery.k8s.io", "default", "kubernetes"),
        value: json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        }),
        kept_up: &["endpoints", "ports"],
    };
    // The label tells others not to make a slice of it: the slice is there.
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let object = Wanted {
        key: Key::new("endpoints", "default", "kubernetes"),
        value: json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "subsets": [{"addresses": addresses, "ports": ports}],
        }),
        kept_up: &["subsets"],
    };
    [slice].into_iter().chain(some_reachable.then_some(object)).collect()
}

/// The write that brings a stored object to what is wanted, if there is one.
fn write_of(wanted: &Wanted, stored: Option<&Object>, clock: &dyn Clock, rng: &mut SmallRng) -> Option<Write> {
    let resource: Resource = wanted.key.resource.clone();
    let Some(object) = stored else {
        let composed = compose::create(&resource, &wanted.key.namespace, wanted.value.clone(), clock.now(), rng);
        return match composed {
            Ok((key, draft)) => Some(Write::Put {
                key,
                precondition: Precondition::Absent,
                draft,
            }),
            Err(error) => {
                tracing::error!(key = %wanted.key, %error, "a default object is invalid");
                None
            }
        };
    };
    if wanted.kept_up.is_empty() {
        return None;
    }
    let mut value = object.value().ok()?;
    let before = value.clone();
    for member in wanted.kept_up {
        value[member] = wanted.value[member].clone();
    }
    if value == before {
        return None;
    }
    let draft = compose::update(&resource, &value).ok()?;
    Some(Write::Put {
        key: wanted.key.clone(),
        precondition: Precondition::Revision(object.header.revision),
        draft,
    })
}

/// The writes that bring a role or binding of the default policy in line, each to be proposed for itself.
fn policy_writes(
    key: &Key,
    stored: Option<&Object>,
    default: &DefaultObject,
    clock: &dyn Clock,
    rng: &mut SmallRng,
) -> Result<Vec<Proposal>, compose::ComposeError> {
    let existing = stored.and_then(|stored| stored.value().ok());
    let mut create = |value: Value| compose::creation(&key.resource, &key.namespace, value, clock.now(), rng);
    let writes = match (access::policy::reconcile(existing.as_ref(), default), stored) {
        (None, _) => Vec::new(),
        (Some(PolicyWrite::Create(value)), _) => vec![create(value)?],
        (Some(PolicyWrite::Update(value)), Some(stored)) => vec![compose::change(key, stored, &value)?],
        (Some(PolicyWrite::Recreate(value)), Some(stored)) => {
            vec![compose::removal(key, stored.header.revision), create(value)?]
        }
        (Some(_), None) => Vec::new(),
    };
    Ok(writes
        .into_iter()
        .map(|write| Proposal::one(Cause::default(), write))
        .collect())
}

/// What the actor is told.
pub enum DefaultsMessage {
    /// To itself: write what is missing.
    Ensure,
    /// From the membership.
    Member(MemberState),
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for DefaultsMessage {}

impl From<AdminMessage> for DefaultsMessage {
    fn from(message: AdminMessage) -> Self {
        DefaultsMessage::Admin(message)
    }
}

/// The actor.
pub struct Defaults;

/// What it starts with.
pub struct DefaultsArguments {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The membership.
    pub membership: Arc<dyn Membership>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Seeds uids.
    pub seed: u64,
    /// The range of cluster IPs.
    pub service_cidr: Ipv4Range,
    /// Its entry in the registry.
    pub view: ActorView,
}

/// Its state.
pub struct DefaultsState {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    rng: SmallRng,
    service_cidr: Ipv4Range,
    view: ActorView,
    gateways: BTreeMap<NodeName, SocketAddr>,
    queued: bool,
    members: JoinHandle<()>,
}

impl Drop for DefaultsState {
    fn drop(&mut self) {
        self.members.abort();
    }
}

impl Actor for Defaults {
    type Msg = DefaultsMessage;
    type State = DefaultsState;
    type Arguments = DefaultsArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_message(DefaultsMessage::Ensure)?;
        let mut members = arguments.membership.watch();
        let members = tokio::spawn(async move {
            while let Some(member) = members.next().await {
                if myself.send_message(DefaultsMessage::Member(member)).is_err() {
                    return;
                }
            }
        });
        Ok(DefaultsState {
            store: arguments.store,
            clock: arguments.clock,
            rng: SmallRng::seed_from_u64(arguments.seed),
            service_cidr: arguments.service_cidr,
            view: arguments.view,
            gateways: BTreeMap::new(),
            queued: true,
            members,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.view.count_message();
        match message {
            DefaultsMessage::Ensure => {
                state.queued = false;
                if let Err(reason) = state.ensure().await {
                    state.view.summarize(format!("waits for the store: {reason}"));
                    state.queued = true;
                    myself.send_after(RETRY, || DefaultsMessage::Ensure);
                }
            }
            DefaultsMessage::Member(member) => {
                let former = match (member.liveness, member.api_address) {
                    (Liveness::Alive, Some(address)) => state.gateways.insert(member.node, address) == Some(address),
                    _ => state.gateways.remove(&member.node).is_none(),
                };
                if !former && !state.queued {
                    state.queued = true;
                    myself.send_message(DefaultsMessage::Ensure)?;
                }
            }
            DefaultsMessage::Admin(message) => answer(&myself, message),
        }
        Ok(())
    }
}

impl DefaultsState {
    async fn ensure(&mut self) -> Result<(), String> {
        let addresses: Vec<SocketAddr> = self.gateways.values().copied().collect();
        let all = wanted(self.service_cidr, &addresses);
        let mut proposals = Vec::new();
        for wanted in &all {
            let stored = self.store.read(&wanted.key).await.map_err(|error| error.to_string())?;
            let write = write_of(wanted, stored.as_deref(), self.clock.as_ref(), &mut self.rng);
            proposals.extend(write.map(|write| Proposal::one(Cause::default(), write)));
        }
        for default in access::policy::defaults() {
            let resource = Resource::of(default.resource, RBAC);
            let key = Key::new(resource, default.namespace.as_str(), default.name.as_str());
            let stored = self.store.read(&key).await.map_err(|error| error.to_string())?;
            let writes = policy_writes(&key, stored.as_deref(), default, self.clock.as_ref(), &mut self.rng);
            proposals.extend(writes.map_err(|error| error.to_string())?);
        }
        for answer in self.store.propose_all(proposals).await {
            match answer {
                // Someone else made it in the meantime.
                Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyExists { .. })) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.view
            .summarize(format!("{} objects, {} gateways", all.len(), addresses.len()));
        Ok(())
    }
}

fn answer(myself: &ActorRef<DefaultsMessage>, message: AdminMessage) {
    const UNDERSTANDS: &str = "tell: reconcile";
    // The shell may have gone by the time of the answer.
    match message {
        AdminMessage::Tell { message, reply } if message == "reconcile" => {
            let _ = myself.send_message(DefaultsMessage::Ensure);
            let _ = reply.send(Ok("it writes what is missing".to_owned()));
        }
        AdminMessage::Ask { reply, .. } | AdminMessage::Tell { reply, .. } => {
            let _ = reply.send(Err(UNDERSTANDS.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_object_is_valid_and_complete() {
        let addresses = [
            "10.1.0.2:6443".parse().unwrap(),
            "10.1.0.1:6443".parse().unwrap(),
            "10.1.0.3:7443".parse().unwrap(),
        ];
        let mut rng = SmallRng::seed_from_u64(1);
        let all = wanted(Ipv4Range::parse("10.96.0.0/16").unwrap(), &addresses);
        assert_eq!(all.len(), 30);
        for wanted in &all {
            let write = write_of(wanted, None, &supervision::SystemClock, &mut rng);
            assert!(write.is_some_and(|write| write.key() == &wanted.key), "{}", wanted.key);
        }
        assert_eq!(all[6].value["spec"]["clusterIP"], "10.96.0.1");
        let ips: Vec<&str> = all[7].value["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["addresses"][0].as_str().unwrap())
            .collect();
        assert_eq!(ips, ["10.1.0.1", "10.1.0.2"]);
        let subset = &all[8].value["subsets"][0];
        assert_eq!(subset["addresses"], json!([{"ip": "10.1.0.1"}, {"ip": "10.1.0.2"}]));
        assert_eq!(
            subset["ports"],
            json!([{"name": "https", "port": 6443, "protocol": "TCP"}])
        );
    }

    #[test]
    fn addresses_of_the_loopback_are_not_published_as_endpoints() {
        let all = wanted(
            Ipv4Range::parse("10.96.0.0/16").unwrap(),
            &["127.0.0.1:6443".parse().unwrap()],
        );
        let resources: Vec<&str> = all[6..8].iter().map(|wanted| wanted.key.resource.as_str()).collect();
        assert_eq!(resources, ["services", "endpointslices.discovery.k8s.io"]);
        assert!(all.iter().all(|wanted| wanted.key.resource.as_str() != "endpoints"));
    }

    #[test]
    fn only_what_is_kept_up_is_written_again() {
        let mut rng = SmallRng::seed_from_u64(1);
        let of = |text: &str| {
            let addresses: Vec<SocketAddr> = text.split_whitespace().map(|a| a.parse().unwrap()).collect();
            wanted(Ipv4Range::parse("10.96.0.0/16").unwrap(), &addresses)
        };
        let (before, after) = (of("10.1.0.1:6443"), of("10.1.0.1:6443 10.1.0.2:6443"));
        for (before, after) in before.iter().zip(&after) {
            let mut value = before.value.clone();
            value["metadata"]["uid"] = json!("u");
            let stored = crate::ownership::tests::stored(value, 3);
            let again = write_of(before, Some(&stored), &supervision::SystemClock, &mut rng);
            assert!(again.is_none(), "{} is as it should be", before.key);
            let write = write_of(after, Some(&stored), &supervision::SystemClock, &mut rng);
            assert_eq!(write.is_some(), !before.kept_up.is_empty(), "{}", before.key);
        }
    }
}
