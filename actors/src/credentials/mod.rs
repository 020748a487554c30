//! What the control plane does for credentials: the rules of aggregating ClusterRoles, the tokens of Secrets that ask for one, and
//! requests for certificates: nodes' own are approved, what is approved is signed, what is done is removed. One actor, since what it decides is about few objects and seldom. Supervised by the
//! control plane's root (permanent); it lists anew when it starts. What it decides is pure (`roles`, `secrets`, `requests`, `approval`,
//! `cleaning`);
//! keys are the `Signer`'s.
//!
//! Invariant: it signs nothing that is not approved, and each request once.

pub mod approval;
pub mod cleaning;
pub mod requests;
pub mod roles;
pub mod secrets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use access::token::LegacyClaims;
use api::access::Access;
use async_trait::async_trait;
use futures::StreamExt;
use protocol::store::{Change, ListRequest, ObjectStore, Proposal, ReadError, WatchItem, WatchRequest, Write};
use protocol::{Cause, Key, Object, Resource, Revision};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::Value;
use supervision::{ActorView, AdminMessage, Clock};
use tokio::task::JoinHandle;

use crate::compose;
use requests::{Order, Subject};

const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const ACCOUNTS: &str = "serviceaccounts";
const SECRETS: &str = "secrets";
const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";
/// How soon a store that does not answer is asked again, and a write that failed is decided again.
const RETRY: Duration = Duration::from_millis(500);

/// How often requests that are done are looked for, and those of nodes are judged again by the rights of the moment.
const SWEEP: Duration = Duration::from_secs(60);

/// Holds the cluster's keys. Errors are for people.
#[async_trait]
pub trait Signer: Send + Sync + std::fmt::Debug {
    /// A token of these claims.
    async fn token(&self, claims: &LegacyClaims) -> Result<String, String>;

    /// What the PEM of a request says; an error when it is none.
    fn subject(&self, request_pem: &str) -> Result<Subject, String>;

    /// The answer to a SubjectAccessReview: whether it is allowed.
    async fn allows(&self, review: &Value) -> Result<bool, String>;

    /// A certificate for the key in the request, PEM.
    async fn certificate(&self, order: &Order) -> Result<String, String>;
}

/// What the actor is told.
pub enum CredentialsMessage {
    /// Every object of the resources that it follows.
    Listed(Vec<(Key, Arc<Object>)>),
    /// An object was written, or is gone.
    Changed(Key, Option<Arc<Object>>),
    /// To itself: look at this object again.
    Again(Key),
    /// To itself: look at all requests for certificates.
    Sweep,
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for CredentialsMessage {}

impl From<AdminMessage> for CredentialsMessage {
    fn from(message: AdminMessage) -> Self {
        CredentialsMessage::Admin(message)
    }
}

/// The actor.
pub struct Credentials;

/// What it starts with.
pub struct CredentialsArguments {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Who signs.
    pub signer: Arc<dyn Signer>,
    /// The certificate of the cluster's CA, PEM.
    pub cluster_ca: String,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Its entry in the registry.
    pub view: ActorView,
}

/// Its state.
pub struct CredentialsState {
    arguments: CredentialsArguments,
    /// Objects as they are, with their content.
    known: BTreeMap<Key, (Arc<Object>, Value)>,
    written: u64,
    follower: JoinHandle<()>,
}

impl Drop for CredentialsState {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Actor for Credentials {
    type Msg = CredentialsMessage;
    type State = CredentialsState;
    type Arguments = CredentialsArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(SWEEP, || CredentialsMessage::Sweep);
        let follower = tokio::spawn(follow(Arc::clone(&arguments.store), myself));
        Ok(CredentialsState {
            arguments,
            known: BTreeMap::new(),
            written: 0,
            follower,
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
            CredentialsMessage::Listed(objects) => {
                state.known.clear();
                for (key, object) in objects {
                    state.note(key, object);
                }
                let all: Vec<Key> = state.known.keys().cloned().collect();
                for key in all.iter().filter(|key| key.resource.as_str() != ACCOUNTS) {
                    state.attend(&myself, key).await;
                }
            }
            CredentialsMessage::Changed(key, object) => {
                match object {
                    Some(object) => state.note(key.clone(), object),
                    None => drop(state.known.remove(&key)),
                }
                for concerned in state.concerned(&key) {
                    state.attend(&myself, &concerned).await;
                }
            }
            CredentialsMessage::Again(key) => state.attend(&myself, &key).await,
            CredentialsMessage::Sweep => {
                for key in state.of(REQUESTS).cloned().collect::<Vec<_>>() {
                    state.attend(&myself, &key).await;
                }
            }
            // The shell may have gone by the time of the answer.
            CredentialsMessage::Admin(AdminMessage::Ask { reply, .. } | AdminMessage::Tell { reply, .. }) => {
                let _ = reply.send(Err("it understands no questions".to_owned()));
            }
        }
        state
            .arguments
            .view
            .summarize(format!("{} objects written", state.written));
        Ok(())
    }
}

impl CredentialsState {
    /// Keeps what may matter: of Secrets those of accounts only.
    fn note(&mut self, key: Key, object: Arc<Object>) {
        let value = match object.value() {
            Ok(value) => value,
            Err(error) => return tracing::error!(%key, %error, "a stored object cannot be read"),
        };
        if key.resource.as_str() == SECRETS && secrets::account_of(&value).is_none() {
            self.known.remove(&key);
            return;
        }
        self.known.insert(key, (object, value));
    }

    fn of(&self, resource: &'static str) -> impl Iterator<Item = &Key> {
        self.known.keys().filter(move |key| key.resource.as_str() == resource)
    }

    /// Whose needs may have changed with this object.
    fn concerned(&self, key: &Key) -> Vec<Key> {
        let of = |resource| self.of(resource).cloned();
        match key.resource.as_str() {
            ROLES => {
                let gathers = |key: &Key| self.known.get(key).is_some_and(|(_, role)| role.has("aggregationRule"));
                of(ROLES).filter(gathers).collect()
            }
            ACCOUNTS => of(SECRETS).filter(|secret| secret.namespace == key.namespace).collect(),
            _ => vec![key.clone()],
        }
    }

    /// Decides about one object and writes what it needs. A conflict is answered by the event of the other write.
    async fn attend(&mut self, myself: &ActorRef<CredentialsMessage>, key: &Key) {
        let Some((object, value)) = self.known.get(key).cloned() else {
            return;
        };
        let decided = match key.resource.as_str() {
            ROLES => Ok(roles::aggregated(&value, &self.roles()).map(Some)),
            SECRETS => self.decide_secret(&value).await,
            REQUESTS => self.decide_request(key, &value).await,
            _ => Ok(None),
        };
        let write = match decided {
            Ok(None) => return,
            Ok(Some(None)) => Ok(compose::removal(key, object.header.revision)),
            Ok(Some(Some(wanted))) => compose::change(key, &object, &wanted).map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match write {
            Ok(write) => self.write(myself, key, write).await,
            Err(why) => {
                tracing::warn!(%key, why, "a credential was not given; tried again");
                self.later(myself, key);
            }
        }
    }

    async fn write(&mut self, myself: &ActorRef<CredentialsMessage>, key: &Key, write: Write) {
        match self
            .arguments
            .store
            .propose(Proposal::one(Cause::default(), write))
            .await
        {
            Ok(_) => self.written += 1,
            Err(protocol::store::ProposeError::Refused(_)) => {} // the event of what was written instead comes
            Err(error) => {
                tracing::debug!(%key, %error, "a credential was not written; tried again");
                self.later(myself, key);
            }
        }
    }

    fn later(&self, myself: &ActorRef<CredentialsMessage>, key: &Key) {
        let key = key.clone();
        myself.send_after(RETRY, move || CredentialsMessage::Again(key));
    }

    fn roles(&self) -> BTreeMap<&str, &Value> {
        let roles = self.known.iter().filter(|(key, _)| key.resource.as_str() == ROLES);
        roles.map(|(key, (_, value))| (&*key.name, value)).collect()
    }

    /// `Some(None)` removes the object.
    async fn decide_secret(&self, secret: &Value) -> Result<Option<Option<Value>>, String> {
        let Some((namespace, name)) = secrets::account_of(secret) else {
            return Ok(None);
        };
        let account = self.known.get(&Key::new(ACCOUNTS, namespace, name));
        let account = account.map(|(_, value)| value);
        let ca = &self.arguments.cluster_ca;
        let token = match secrets::step(secret, account, ca) {
            secrets::Step::Nothing => return Ok(None),
            secrets::Step::Delete => return Ok(Some(None)),
            secrets::Step::Sign(claims) => Some(self.arguments.signer.token(&claims).await?),
            secrets::Step::Complete => None,
        };
        Ok(account.map(|account| Some(secrets::filled(secret, account, token.as_deref(), ca))))
    }

    /// `Some(None)` removes the object. What its asker has no right for waits for a person, or for the right.
    async fn decide_request(&self, key: &Key, request: &Value) -> Result<Option<Option<Value>>, String> {
        let now = self.arguments.clock.now();
        if cleaning::is_over(request, now) {
            return Ok(Some(None));
        }
        let signer = &self.arguments.signer;
        if let Some(recognized) = approval::recognized(request, |pem| signer.subject(pem)) {
            let is_allowed = signer.allows(&approval::question(request, recognized)).await?;
            let requester = request.at(&["spec"]).text("username");
            tracing::info!(%key, requester, is_allowed, "a node asks for a client certificate");
            return Ok(is_allowed.then(|| Some(approval::approved(request, recognized, now))));
        }
        let Some(order) = requests::order(request) else {
            return Ok(None);
        };
        let subject = self.arguments.signer.subject(&order.request_pem);
        if let Err(why) = subject.and_then(|subject| order.check(&subject)) {
            tracing::info!(%key, why, "a certificate signing request failed");
            return Ok(Some(Some(requests::failed(request, &why, self.arguments.clock.now()))));
        }
        let certificate = self.arguments.signer.certificate(&order).await?;
        tracing::info!(%key, signer = %order.signer, requester = %order.requester, "a certificate was signed");
        Ok(Some(Some(requests::signed(request, &certificate))))
    }
}

/// Lists, then tells of every write; begins anew when events were lost. Ends with the actor.
async fn follow(store: Arc<dyn ObjectStore>, myself: ActorRef<CredentialsMessage>) {
    loop {
        match list(store.as_ref()).await {
            Ok((objects, revision)) => {
                if myself.send_message(CredentialsMessage::Listed(objects)).is_err() {
                    return;
                }
                if watch(store.as_ref(), &myself, revision).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "credentials cannot be listed; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

type Listing = (Vec<(Key, Arc<Object>)>, Revision);

/// Everything, and from which revision on events are told: the oldest of the lists.
async fn list(store: &dyn ObjectStore) -> Result<Listing, ReadError> {
    let (mut all, mut oldest) = (Vec::new(), None::<Revision>);
    for resource in [ROLES, ACCOUNTS, SECRETS, REQUESTS] {
        let page = store.list(ListRequest::all(resource)).await?;
        all.extend(page.items);
        oldest = Some(oldest.map_or(page.revision, |oldest| oldest.min(page.revision)));
    }
    Ok((all, oldest.unwrap_or(Revision::ZERO)))
}

/// An error means that the actor has gone.
async fn watch(store: &dyn ObjectStore, myself: &ActorRef<CredentialsMessage>, after: Revision) -> Result<(), ()> {
    let request = WatchRequest {
        resources: [ROLES, ACCOUNTS, SECRETS, REQUESTS].map(Resource::new).to_vec(),
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
        let message = CredentialsMessage::Changed(event.key.clone(), object);
        myself.send_message(message).map_err(|_| ())?;
    }
    Ok(())
}
