//! ResourceClaims (KEP-4381): makes those of templates for pods, and gives up those that no pod uses. One actor, as few pods
//! have claims: as long as there is neither a claim nor a template in the cluster, it does not look at pods at all. Supervised
//! by the control plane's root (permanent); it lists anew when it starts. What it decides is pure (`decide`).
//!
//! Invariant: a claim of a template and its name in the pod's status are one write.

pub mod decide;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::access::Access;
use futures::StreamExt;
use protocol::store::{
    Change, ListRequest, ObjectStore, Proposal, ProposeError, ReadError, WatchItem, WatchRequest, Write,
};
use protocol::{Cause, Key, Object, Resource, Revision};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use supervision::{ActorView, AdminMessage, Clock};
use tokio::task::JoinHandle;

use crate::compose;
use decide::{Consumer, Step};

const PODS: &str = "pods";
const CLAIMS: &str = "resourceclaims.resource.k8s.io";
const TEMPLATES: &str = "resourceclaimtemplates.resource.k8s.io";
/// How soon a store that does not answer is asked again, and a write that failed is decided again.
const RETRY: Duration = Duration::from_millis(500);
/// What the bytes of a pod contain that has claims. A pod that only says so elsewhere is read for nothing.
const MARK: &[u8] = b"\"resourceClaims\"";

/// What the actor is told.
pub enum ClaimsMessage {
    /// Every object of these resources.
    Listed(&'static [&'static str], Vec<(Key, Arc<Object>)>),
    /// An object was written, or is gone.
    Changed(Key, Option<Arc<Object>>),
    /// To itself: look at this object again.
    Again(Key),
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for ClaimsMessage {}

impl From<AdminMessage> for ClaimsMessage {
    fn from(message: AdminMessage) -> Self {
        ClaimsMessage::Admin(message)
    }
}

/// The actor.
pub struct ResourceClaims;

/// What it starts with.
pub struct ClaimsArguments {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// For uids and names.
    pub seed: u64,
    /// Its entry in the registry.
    pub view: ActorView,
}

type Known = BTreeMap<Key, (Arc<Object>, Value)>;

/// Its state.
pub struct ClaimsState {
    arguments: ClaimsArguments,
    rng: SmallRng,
    /// Claims, templates, and pods that have claims.
    known: Known,
    /// Pods were listed: what is not known of them does not exist.
    knows_pods: bool,
    written: u64,
    followers: Vec<JoinHandle<()>>,
}

impl Drop for ClaimsState {
    fn drop(&mut self) {
        self.followers.iter().for_each(JoinHandle::abort);
    }
}

const DEVICES: &[&str] = &[TEMPLATES, CLAIMS];
const ONLY_PODS: &[&str] = &[PODS];

impl Actor for ResourceClaims {
    type Msg = ClaimsMessage;
    type State = ClaimsState;
    type Arguments = ClaimsArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let follower = tokio::spawn(follow(Arc::clone(&arguments.store), DEVICES, myself));
        Ok(ClaimsState {
            rng: SmallRng::seed_from_u64(arguments.seed),
            arguments,
            known: Known::new(),
            knows_pods: false,
            written: 0,
            followers: vec![follower],
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.arguments.view.count_message();
        match message {
            ClaimsMessage::Listed(resources, objects) => {
                state.known.retain(|key, _| !resources.contains(&key.resource.as_str()));
                objects.into_iter().for_each(|(key, object)| state.note(key, object));
                state.knows_pods |= resources == ONLY_PODS;
                for key in state.known.keys().cloned().collect::<Vec<_>>() {
                    state.attend(&myself, &key).await;
                }
            }
            ClaimsMessage::Changed(key, object) => {
                let before = state.known.remove(&key).map(|(_, value)| value);
                if let Some(object) = object {
                    state.note(key.clone(), object);
                }
                for concerned in state.concerned(&key, before.as_ref()) {
                    state.attend(&myself, &concerned).await;
                }
            }
            ClaimsMessage::Again(key) => state.attend(&myself, &key).await,
            // The shell may have gone by the time of the answer.
            ClaimsMessage::Admin(AdminMessage::Ask { reply, .. } | AdminMessage::Tell { reply, .. }) => {
                let _ = reply.send(Err("it understands no questions".to_owned()));
            }
        }
        if !state.known.is_empty() && state.followers.len() == 1 {
            let store = Arc::clone(&state.arguments.store);
            state.followers.push(tokio::spawn(follow(store, ONLY_PODS, myself)));
        }
        let count = state.known.len();
        state
            .arguments
            .view
            .summarize(format!("{count} claims, templates and pods; {} writes", state.written));
        Ok(())
    }
}

impl ClaimsState {
    fn note(&mut self, key: Key, object: Arc<Object>) {
        if key.resource.as_str() == PODS && memchr::memmem::find(&object.body.0, MARK).is_none() {
            return;
        }
        match object.value() {
            Ok(value) => drop(self.known.insert(key, (object, value))),
            Err(error) => tracing::error!(%key, %error, "a stored object cannot be read"),
        }
    }

    fn of<'a>(&'a self, resource: &'static str, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        let all = self.known.iter();
        all.filter(move |(key, _)| key.resource.as_str() == resource && &*key.namespace == namespace)
            .map(|(key, (_, value))| (key, value))
    }

    /// What may have to be decided anew when an object has changed, of which `before` is what was known.
    fn concerned(&self, key: &Key, before: Option<&Value>) -> Vec<Key> {
        let (namespace, name) = (&*key.namespace, &*key.name);
        match key.resource.as_str() {
            PODS => {
                let now = self.known.get(key).map(|(_, value)| value);
                if now.is_none() && before.is_none() {
                    return Vec::new();
                }
                let consumes = |claim: &Value| {
                    let consumers = claim.at(&["status"]).items("reservedFor").iter();
                    consumers
                        .chain(decide::owner(claim))
                        .any(|one| one.text("name") == name)
                };
                let claims = self.of(CLAIMS, namespace).filter(|(_, claim)| consumes(claim));
                let claims = claims.map(|(key, _)| key.clone());
                claims.chain([key.clone()]).collect()
            }
            TEMPLATES => {
                let waits = |pod: &Value| decide::missing(pod).iter().any(|(_, template)| *template == name);
                let pods = self.of(PODS, namespace).filter(|(_, pod)| waits(pod));
                pods.map(|(key, _)| key.clone()).collect()
            }
            _ => {
                let uses = |pod: &Value| claim_names(pod).any(|claim| claim == name);
                let pods = self.of(PODS, namespace).filter(|(_, pod)| uses(pod));
                let pods = pods.map(|(key, _)| key.clone());
                pods.chain([key.clone()]).collect()
            }
        }
    }

    /// Decides about one object and writes what it needs. A conflict is answered by the event of the other write.
    async fn attend(&mut self, myself: &ActorRef<ClaimsMessage>, key: &Key) {
        let Some((object, value)) = self.known.get(key).cloned() else {
            return;
        };
        let writes = match key.resource.as_str() {
            PODS => self.attend_pod(key, &object, &value),
            CLAIMS => self.attend_claim(key, &object, &value),
            _ => return,
        };
        match writes {
            Ok(proposals) => {
                for writes in proposals {
                    self.write(myself, key, writes).await;
                }
            }
            Err(error) => tracing::warn!(%key, %error, "a resource claim could not be composed"),
        }
    }

    /// Makes the claims of a pod, and reserves those of a pod that was bound by somebody else than the scheduler.
    fn attend_pod(
        &mut self,
        key: &Key,
        object: &Object,
        pod: &Value,
    ) -> Result<Vec<Vec<Write>>, compose::ComposeError> {
        let mut writes = Vec::new();
        let mut named = Vec::new();
        let now = self.arguments.clock.now();
        for (entry, template) in decide::missing(pod) {
            let made = self.of(CLAIMS, &key.namespace).find(|(_, claim)| {
                let of_entry = claim.at(&["metadata", "annotations"]).text(decide::POD_CLAIM_NAME) == entry;
                of_entry && decide::is_owned_by(claim, pod)
            });
            if let Some((claim, _)) = made {
                named.push((entry.to_owned(), claim.name.to_string()));
                continue;
            }
            let template = Key::new(TEMPLATES, &*key.namespace, template);
            let Some((_, template)) = self.known.get(&template) else {
                continue; // its event comes, if it ever exists
            };
            let claim = decide::claim_of(pod, entry, template);
            let write = compose::creation(&Resource::new(CLAIMS), &key.namespace, claim, now, &mut self.rng)?;
            named.push((entry.to_owned(), write.key().name.to_string()));
            writes.push(write);
        }
        let mut proposals = Vec::new();
        if !named.is_empty() {
            // The pod first: it is what the group is about.
            writes.insert(0, compose::change(key, object, &decide::told(pod, &named))?);
            proposals.push(writes);
        }
        if !pod.at(&["spec"]).text("nodeName").is_empty() && !decide::is_over(pod) {
            for name in claim_names(pod) {
                let claim = Key::new(CLAIMS, &*key.namespace, name);
                if let Some((object, value)) = self.known.get(&claim)
                    && let Some(wanted) = decide::reserved(value, pod)
                {
                    proposals.push(vec![compose::change(&claim, object, &wanted)?]);
                }
            }
        }
        Ok(proposals)
    }

    fn attend_claim(
        &self,
        key: &Key,
        object: &Object,
        claim: &Value,
    ) -> Result<Vec<Vec<Write>>, compose::ComposeError> {
        if !self.knows_pods {
            return Ok(Vec::new());
        }
        let pod = |name: &str| {
            self.known
                .get(&Key::new(PODS, &*key.namespace, name))
                .map(|(_, pod)| pod)
        };
        let is_gone = |name: &str, uid: &str| {
            pod(name).is_none_or(|pod| pod.at(&["metadata"]).text("uid") != uid || decide::is_over(pod))
        };
        let consumer = |one: &Value| {
            let is_pod = one.text("resource") == "pods" && one.text("apiGroup").is_empty();
            if is_pod && is_gone(one.text("name"), one.text("uid")) {
                Consumer::Gone
            } else {
                Consumer::Stays
            }
        };
        let owner_is_over = decide::owner(claim).is_some_and(|owner| is_gone(owner.text("name"), owner.text("uid")));
        Ok(match decide::step(claim, consumer, owner_is_over) {
            Step::Nothing => Vec::new(),
            Step::Write(wanted) => {
                let is_free =
                    api::kinds::find_by_resource(&key.resource).is_some_and(|kind| api::may_go(kind, &wanted));
                let write = if is_free {
                    compose::removal(key, object.header.revision)
                } else {
                    compose::change(key, object, &wanted)?
                };
                vec![vec![write]]
            }
            Step::Remove => vec![vec![compose::removal(key, object.header.revision)]],
        })
    }

    async fn write(&mut self, myself: &ActorRef<ClaimsMessage>, key: &Key, writes: Vec<Write>) {
        let proposal = Proposal {
            cause: Cause::default(),
            writes,
        };
        match self.arguments.store.propose(proposal).await {
            Ok(_) => self.written += 1,
            Err(ProposeError::Refused(_)) => {} // the event of what was written instead comes
            Err(error) => {
                tracing::debug!(%key, %error, "a resource claim was not written; tried again");
                let key = key.clone();
                myself.send_after(RETRY, move || ClaimsMessage::Again(key));
            }
        }
    }
}

/// The names of the claims that a pod uses, those of templates included.
fn claim_names(pod: &Value) -> impl Iterator<Item = &str> {
    let direct = pod.at(&["spec"]).items("resourceClaims").iter();
    let made = pod.at(&["status"]).items("resourceClaimStatuses").iter();
    direct
        .chain(made)
        .map(|entry| entry.text("resourceClaimName"))
        .filter(|name| !name.is_empty())
}

/// Lists, then tells of every write; begins anew when events were lost. Ends with the actor.
async fn follow(store: Arc<dyn ObjectStore>, resources: &'static [&'static str], myself: ActorRef<ClaimsMessage>) {
    loop {
        match list(store.as_ref(), resources).await {
            Ok((objects, revision)) => {
                if myself.send_message(ClaimsMessage::Listed(resources, objects)).is_err() {
                    return;
                }
                if watch(store.as_ref(), resources, &myself, revision).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "resource claims cannot be listed; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

type Listing = (Vec<(Key, Arc<Object>)>, Revision);

/// Everything, and from which revision on events are told: the oldest of the lists.
async fn list(store: &dyn ObjectStore, resources: &[&str]) -> Result<Listing, ReadError> {
    let (mut all, mut oldest) = (Vec::new(), None::<Revision>);
    for resource in resources {
        let page = store.list(ListRequest::all(*resource)).await?;
        all.extend(page.items);
        oldest = Some(oldest.map_or(page.revision, |oldest| oldest.min(page.revision)));
    }
    Ok((all, oldest.unwrap_or(Revision::ZERO)))
}

/// An error means that the actor has gone.
async fn watch(
    store: &dyn ObjectStore,
    resources: &[&str],
    myself: &ActorRef<ClaimsMessage>,
    after: Revision,
) -> Result<(), ()> {
    let request = WatchRequest {
        resources: resources.iter().map(|name| Resource::new(*name)).collect(),
        after: Some(after),
        ..WatchRequest::default()
    };
    let Ok(mut items) = store.watch(request).await else {
        return Ok(());
    };
    while let Some(item) = items.next().await {
        let event = match item {
            WatchItem::Event(event) => event,
            WatchItem::Progress(_) => continue,
            WatchItem::Lost(_) => return Ok(()),
        };
        let object = (event.change != Change::Deleted).then(|| Arc::clone(&event.object));
        let message = ClaimsMessage::Changed(event.key.clone(), object);
        myself.send_message(message).map_err(|_| ())?;
    }
    Ok(())
}
