//! Admission on this node: the policy objects that plugins consult, followed in the store, and the gate through which every
//! write of a client goes. What the plugins decide is `admission`'s business.

use std::sync::Arc;
use std::time::Duration;

use access::User;
use access::node::NodeWrite;
use admission::matching::{Asked, Verb};
use admission::policy::{self, Policies, PolicySort};
use admission::webhook::{self, Mutation, Pause, Said, Webhooks};
use admission::{Attributes, CONSULTED, Facts, Outcome, Review, Rights as RightsOfUser, Settings};
use api::kinds::Subresource;
use api::status::Status;
use parking_lot::RwLock;
use protocol::store::ObjectStore;
use protocol::{Key, Object, Resource, Revision};
use serde_json::Value;
use tokio::sync::watch;

use crate::audit::Notes;
use crate::custom::Custom;
use crate::follow::{Follower, follow};
use crate::read::{read_status, try_again};
use crate::rights::Rights;
use crate::versions::Versions;
use crate::webhooks::asking::{Asking, Configured};
use crate::webhooks::client::WebhookClient;

/// How long a write waits for a node that has just started to have read its policy objects.
const LOADING_MAX: Duration = Duration::from_secs(5);

/// Webhooks and policies, and what of them each request is given.
#[derive(Default)]
struct Hooks {
    webhooks: Webhooks,
    policies: Policies,
    configured: Configured,
}

impl Hooks {
    fn configure(&mut self) {
        self.configured = Configured {
            mutating_policies: self.policies.in_force(PolicySort::Mutating).into(),
            validating_policies: self.policies.in_force(PolicySort::Validating).into(),
            mutating: self.webhooks.mutating().cloned().collect(),
            validating: self.webhooks.validating().cloned().collect(),
        };
    }

    fn clear(&mut self, resource: &str) {
        self.webhooks.clear(resource);
        self.policies.clear(resource);
    }

    fn remove(&mut self, resource: &str, name: &str) {
        self.webhooks.remove(resource, name);
        self.policies.remove(resource, name);
    }

    fn note(&mut self, key: &Key, object: &Object) {
        match object.value() {
            Ok(value) => {
                self.webhooks.upsert(key.resource.as_str(), &key.name, &value);
                self.policies.upsert(key.resource.as_str(), &key.name, &value);
            }
            Err(error) => tracing::error!(%key, %error, "a stored webhook or policy cannot be read"),
        }
    }
}

/// The policy objects of a node.
pub struct Policy {
    store: Arc<dyn ObjectStore>,
    facts: RwLock<Facts>,
    hooks: RwLock<Hooks>,
    client: Arc<WebhookClient>,
    customs: Arc<Custom>,
    versions: Arc<Versions>,
    complete: watch::Sender<bool>,
}

impl Policy {
    /// Begins to follow the store.
    pub fn start(
        store: Arc<dyn ObjectStore>,
        settings: Settings,
        client: Arc<WebhookClient>,
        (customs, versions): (Arc<Custom>, Arc<Versions>),
    ) -> Arc<Policy> {
        let mut facts = Facts::default();
        facts.settings = settings;
        let policy = Arc::new(Policy {
            store: Arc::clone(&store),
            facts: RwLock::new(facts),
            hooks: RwLock::default(),
            client,
            customs,
            versions,
            complete: watch::channel(false).0,
        });
        let resources = CONSULTED.iter().chain(&webhook::RESOURCES).chain(&policy::RESOURCES);
        let resources = resources.map(|name| Resource::new(*name)).collect();
        tokio::spawn(follow(store, resources, Arc::clone(&policy) as Arc<dyn Follower>));
        policy
    }

    /// Reads what plugins will look up for this object and this node has not heard of.
    pub async fn prepare(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
        let mut complete = self.complete.subscribe();
        match tokio::time::timeout(LOADING_MAX, complete.wait_for(|complete| *complete)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                return Err(try_again(
                    "this node has not read the cluster's policy objects: the store does not answer it".to_owned(),
                ));
            }
        }
        let missing = admission::missing(attributes, object, &self.facts.read());
        for key in missing {
            self.refresh(&key).await?;
        }
        Ok(())
    }

    /// The webhooks and policies of this moment, for one request.
    pub fn asking(&self) -> Asking {
        let configured = self.hooks.read().configured.clone();
        let kinds = (Arc::clone(&self.customs), Arc::clone(&self.versions));
        Asking::new(configured, Arc::clone(&self.client), Arc::clone(&self.store), kinds)
    }

    /// Reads one object again.
    pub async fn refresh(&self, key: &Key) -> Result<(), Status> {
        if let Some(object) = self.store.read(key).await.map_err(read_status)? {
            self.changed(key, &object);
        }
        Ok(())
    }
}

impl Follower for Policy {
    fn listed(&self, resource: &Resource, items: &[(Key, Arc<Object>)]) {
        if is_hook(resource) {
            let mut hooks = self.hooks.write();
            hooks.clear(resource.as_str());
            for (key, object) in items {
                hooks.note(key, object);
            }
            return hooks.configure();
        }
        let mut facts = self.facts.write();
        facts.clear(resource.as_str());
        for (key, object) in items {
            note(&mut facts, key, object);
        }
    }

    fn changed(&self, key: &Key, object: &Object) {
        if is_hook(&key.resource) {
            let mut hooks = self.hooks.write();
            hooks.note(key, object);
            return hooks.configure();
        }
        note(&mut self.facts.write(), key, object);
    }

    fn gone(&self, key: &Key, removed: Revision) {
        if is_hook(&key.resource) {
            let mut hooks = self.hooks.write();
            hooks.remove(key.resource.as_str(), &key.name);
            return hooks.configure();
        }
        self.facts
            .write()
            .remove(key.resource.as_str(), &key.namespace, &key.name, removed);
    }

    fn complete(&self) {
        self.complete.send_replace(true);
    }
}

fn note(facts: &mut Facts, key: &Key, object: &Object) {
    if let Err(error) = facts.note(key, object) {
        tracing::error!(%key, %error, "a stored policy object cannot be read");
    }
}

fn is_hook(resource: &Resource) -> bool {
    let name = resource.as_str();
    webhook::RESOURCES.contains(&name) || policy::RESOURCES.contains(&name)
}

/// One request's way through admission.
pub struct Gate<'a> {
    /// The policy objects.
    pub policy: &'a Policy,
    /// Who may write what.
    pub rights: &'a Rights,
    /// Who asks.
    pub user: &'a User,
    /// The request.
    pub attributes: Attributes<'a>,
    /// The other object that a node's write is judged by.
    pub related: Option<Value>,
    /// What webhooks are told that the request does.
    pub verb: Verb,
    /// The request's options, as webhooks are told of them.
    pub options: Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The webhooks.
    pub asking: Asking,
    /// Where the audit log is told what webhooks and policies say for it.
    pub notes: Notes,
}

impl std::fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({:?})", self.attributes)
    }
}

impl api::write::Admission for Gate<'_> {
    fn admit(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if !self.asking.configured.mutates() || !self.shows_object() {
            return self.run(admission::admit, object, old).map(|_| ());
        }
        let kind = self.attributes.kind;
        if self.attributes.subresource != Some(Subresource::Scale) {
            let old_shown = old.unwrap_or(&Value::Null);
            return self.mutate(object, old_shown, |object, facts| self.plugins(object, old, facts));
        }
        // What is below the path is a Scale: that is what webhooks see and change.
        self.run(admission::admit, object, old)?;
        let mut scale = api::write::scale_of(kind, object)?;
        let old = old.map(|old| api::write::scale_of(kind, old)).transpose()?;
        self.mutate(&mut scale, &old.unwrap_or_default(), |_, _| Ok(()))?;
        *object = api::write::set_scale(kind, object, &scale)?;
        Ok(())
    }
}

impl Gate<'_> {
    /// Whether there are webhooks or policies at all.
    pub fn asks(&self) -> bool {
        !self.asking.configured.is_empty()
    }

    /// Decides a write, asking the mutating webhooks that it turns out to need. Deciding must be pure.
    pub async fn decide<T>(&self, decide: impl Fn() -> Result<T, Status>) -> Result<T, Status> {
        self.asking.decide(decide).await
    }

    /// Runs the plugins that only judge, then what depends on who writes, the validating webhooks, and the quotas last: what is
    /// refused anyway is not charged.
    pub async fn judge(&self, object: &mut Value, old: Option<&Value>) -> Result<Outcome, Status> {
        let mut outcome = self.judge_uncharged(object, old).await?;
        let charged = self.run(admission::charge, object, old)?;
        outcome.warnings.extend(charged.warnings);
        outcome.charges.extend(charged.charges);
        Ok(outcome)
    }

    /// The same without quotas.
    pub async fn judge_uncharged(&self, object: &mut Value, old: Option<&Value>) -> Result<Outcome, Status> {
        let mut outcome = self.run(admission::validate, object, old)?;
        {
            let name = object["metadata"]["name"].as_str().unwrap_or(self.attributes.name);
            let write = self.node_write(name, object, old.unwrap_or(&Value::Null));
            self.rights.check_write(self.attributes.kind, &write)?;
            let right = admission::signers::needed(&self.attributes, object, old.unwrap_or(&Value::Null));
            if let Some(right) = right {
                self.rights
                    .ask(|rights| rights.check_signer(self.user, right.verb, &right.signer, name))?;
            }
        }
        if self.shows_object() {
            if self.attributes.subresource == Some(Subresource::Scale) {
                let kind = self.attributes.kind;
                let old = old.map(|old| api::write::scale_of(kind, old)).transpose()?;
                let scale = api::write::scale_of(kind, object)?;
                outcome
                    .warnings
                    .extend(self.validate(&scale, &old.unwrap_or_default()).await?);
            } else {
                let warnings = self.validate(object, old.unwrap_or(&Value::Null)).await?;
                outcome.warnings.extend(warnings);
            }
        }
        Ok(outcome)
    }

    /// Whether the object may go. Returns warnings.
    pub async fn may_delete(&self, old: &Value) -> Result<Vec<String>, Status> {
        self.run(admission::admit, &mut Value::Null, Some(old))?;
        self.run(admission::validate, &mut Value::Null, Some(old))?;
        self.rights.check_write(
            self.attributes.kind,
            &self.node_write(self.attributes.name, &Value::Null, old),
        )?;
        if self.verb != Verb::Delete {
            // An eviction was asked about as such.
            return Ok(Vec::new());
        }
        self.consult(&mut Value::Null, old).await
    }

    /// Asks the mutating and then the validating webhooks about what the request brings that is no object to store: a binding,
    /// an eviction, the options of a connection. Returns warnings.
    pub async fn consult(&self, body: &mut Value, old: &Value) -> Result<Vec<String>, Status> {
        let sent = body.clone();
        *body = self
            .decide(|| {
                let mut body = sent.clone();
                self.mutate(&mut body, old, |_, _| Ok(())).map(|()| body)
            })
            .await?;
        self.validate(body, old).await
    }

    /// Whether webhooks are shown the object that is written. The body of a binding or an eviction is another one.
    fn shows_object(&self) -> bool {
        use Subresource::{Binding, Eviction, Token};
        !matches!(self.attributes.subresource, Some(Binding | Eviction | Token))
    }

    fn asked(&self) -> Asked<'_> {
        let Attributes {
            kind,
            subresource,
            namespace,
            name,
            random,
            ..
        } = self.attributes;
        Asked {
            verb: self.verb,
            kind,
            subresource,
            namespace,
            name,
            user: self.user,
            dry_run: self.dry_run,
            options: &self.options,
            random,
            customs: &self.asking,
        }
    }

    /// The request about this object, which may have been given its name only now.
    fn asked_about<'w>(&'w self, object: &'w Value) -> Asked<'w> {
        let asked = self.asked();
        if !asked.name.is_empty() {
            return asked;
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Asked { name, ..asked }
    }

    fn mutate(
        &self,
        object: &mut Value,
        old: &Value,
        plugins: impl Fn(&mut Value, &Facts) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let facts = self.policy.facts.read();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut asked = self.asked();
        if asked.name.is_empty() {
            asked.name = &name;
        }
        let mut said = Said::default();
        let outcome = self.with_rights(|rights| {
            self.asking.with_answers(|answers| {
                let mutation = Mutation {
                    asked: &asked,
                    policies: &self.asking.configured.mutating_policies,
                    webhooks: &self.asking.configured.mutating,
                    facts: &facts,
                    rights,
                    answers,
                };
                webhook::mutate(&mutation, object, old, &mut said, &mut |object| plugins(object, &facts))
            })
        });
        match outcome {
            Ok(()) => {
                self.asking.note(said);
                Ok(())
            }
            Err(Pause::Refused(status)) => {
                self.notes.add(said.annotations);
                Err(status)
            }
            Err(Pause::Ask(question)) => Err(self.asking.wait_for(question)),
            Err(Pause::Read(parameters)) => Err(self.asking.wait_for_parameters(parameters)),
        }
    }

    /// Asks the validating policies and webhooks. Returns what all warn of.
    async fn validate(&self, object: &Value, old: &Value) -> Result<Vec<String>, Status> {
        let mut said = self.asking.said();
        let judged = self.judge_by_all(object, old, &mut said).await;
        self.notes.add(said.annotations);
        judged.map(|()| said.warnings)
    }

    async fn judge_by_all(&self, object: &Value, old: &Value, said: &mut Said) -> Result<(), Status> {
        let Configured {
            validating_policies,
            validating,
            ..
        } = &self.asking.configured;
        let asked = self.asked_about(object);
        if !validating_policies.is_empty() {
            let due = policy::due(validating_policies, &asked, object, old, &self.policy.facts.read());
            let mut with_parameters = Vec::with_capacity(due.len());
            for one in due {
                let read = self.asking.read(&one.parameters).await?;
                with_parameters.push((one, read));
            }
            let judge = || {
                let mut own = Said::default();
                let facts = self.policy.facts.read();
                let judged = self.with_rights(|rights| {
                    policy::validate(&with_parameters, &asked, (object, old), (&facts, rights), &mut own)
                });
                // A refusal is told with what was said beside it.
                Ok((own, judged))
            };
            let (own, judged) = self.decide(judge).await?;
            said.warnings.extend(own.warnings);
            said.annotations.extend(own.annotations);
            judged?;
        }
        if validating.is_empty() {
            return Ok(());
        }
        let questions = || {
            let facts = self.policy.facts.read();
            self.with_rights(|rights| webhook::questions(validating, &asked, (&facts, rights), object, old))
        };
        let questions = self.decide(questions).await?;
        let answered = self.asking.ask_all(questions).await;
        webhook::verdicts(&answered, said)
    }

    /// What expressions may ask about access.
    fn with_rights<T>(&self, question: impl FnOnce(&RightsOfUser<'_>) -> T) -> T {
        self.rights.ask(|authorizers| {
            question(&RightsOfUser {
                authorizers: Some(authorizers),
                user: self.user,
            })
        })
    }

    /// The write as authorization by content sees it.
    pub fn node_write<'w>(&'w self, name: &'w str, new: &'w Value, old: &'w Value) -> NodeWrite<'w> {
        let Attributes {
            operation,
            kind,
            namespace,
            subresource,
            ..
        } = self.attributes;
        NodeWrite {
            user: self.user,
            operation,
            group: kind.group,
            resource: kind.plural,
            subresource: subresource.map_or("", |subresource| subresource.name()),
            namespace,
            name,
            new,
            old,
            related: self.related.as_ref(),
        }
    }

    fn plugins(&self, object: &mut Value, old: Option<&Value>, facts: &Facts) -> Result<(), Status> {
        admission::run(admission::admit, &self.attributes, object, old, facts).map(|_| ())
    }

    fn run(
        &self,
        plugins: fn(&mut Review<'_>, &Facts) -> Result<(), Status>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Outcome, Status> {
        admission::run(plugins, &self.attributes, object, old, &self.policy.facts.read())
    }
}
