//! Which webhooks and policies a request concerns: rules over operation, group, version, resource and scope, and selectors
//! over namespace and object. Shared by `webhook` and `policy`. After apiserver's `plugin/webhook/predicates` and `rules`.

use std::collections::BTreeMap;

use access::User;
use api::access::Access;
use api::kinds::{self, Kind, Subresource};
use api::status::Status;
use protocol::selector::{LabelSelector, SelectorError};
use serde_json::{Value, json};

use crate::facts::Facts;
use crate::review::Operation;

/// What a request does, as webhooks and policies know it: beside writes also a connection to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It makes an object.
    Create,
    /// It changes one.
    Update,
    /// It deletes one.
    Delete,
    /// It connects to one: exec, attach, port-forward, proxy.
    Connect,
}

impl Verb {
    /// `CREATE`.
    pub fn text(self) -> &'static str {
        match self {
            Verb::Create => "CREATE",
            Verb::Update => "UPDATE",
            Verb::Delete => "DELETE",
            Verb::Connect => "CONNECT",
        }
    }
}

impl From<Operation> for Verb {
    fn from(operation: Operation) -> Verb {
        match operation {
            Operation::Create => Verb::Create,
            Operation::Update => Verb::Update,
            Operation::Delete => Verb::Delete,
        }
    }
}

/// The custom kinds of a cluster, as far as webhooks and policies need them: the table of kinds knows the others.
pub trait Customs: std::fmt::Debug + Sync {
    /// The kind of an object.
    fn find_by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind>;

    /// All versions of a custom kind that are served.
    fn versions(&self, kind: &Kind) -> Vec<&'static Kind>;

    /// An object of one version of a custom kind as another version tells it.
    ///
    /// # Errors
    ///
    /// It cannot be converted, or not yet be told: the decision ends here, and is made again when it can.
    fn converted(&self, from: &Kind, to: &Kind, object: &Value) -> Result<Value, Status>;
}

/// There are none.
#[derive(Clone, Copy, Debug)]
pub struct NoCustoms;

impl Customs for NoCustoms {
    fn find_by_kind(&self, _: &str, _: &str) -> Option<&'static Kind> {
        None
    }

    fn versions(&self, _: &Kind) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn converted(&self, _: &Kind, to: &Kind, object: &Value) -> Result<Value, Status> {
        Ok(to.served(object.clone()))
    }
}

/// A request, apart from the objects that it brings.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it does.
    pub verb: Verb,
    /// The kind of the object that it is about.
    pub kind: &'a Kind,
    /// What below the object.
    pub subresource: Option<Subresource>,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The object's name; empty while a generated one is not chosen.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The options of the request: `CreateOptions` and so on, with apiVersion and kind; null when there are none.
    pub options: &'a Value,
    /// Random bits, of which the uids of reviews are made.
    pub random: u64,
    /// The kinds that the table of kinds does not know.
    pub customs: &'a dyn Customs,
}

impl Asked<'_> {
    /// Whether it is about namespaces themselves.
    fn is_namespace(&self) -> bool {
        self.kind.group.is_empty() && self.kind.plural == "namespaces"
    }

    /// The namespace as admission has it: for a namespace its own name.
    pub fn place(&self) -> &str {
        if self.is_namespace() { self.name } else { self.namespace }
    }

    /// The last segment of the path, where there is one below the object.
    pub fn subresource_name(&self) -> &'static str {
        self.subresource.map_or("", Subresource::name)
    }

    /// Group, version and kind of the objects that it brings.
    pub fn body(&self) -> (&str, &str, &str) {
        match self.subresource {
            Some(subresource) => subresource.body(self.kind),
            None => (self.kind.group, self.kind.version, self.kind.kind),
        }
    }

    /// Whether what it brings is an object of the kind itself, not something below it such as a Scale.
    pub(crate) fn shows_own_kind(&self) -> bool {
        self.body().2 == self.kind.kind
    }

    /// Configurations of webhooks and policies are exempt: otherwise a broken one could not be removed.
    pub fn is_exempt(&self) -> bool {
        const EXEMPT: [&str; 6] = [
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        ];
        self.kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&self.kind.kind)
    }

    /// The request as webhooks are sent it and CEL reads it as `request`, without its objects. `uid` tells reviews apart; `seen`
    /// is the version in which the webhook or policy asked to see the objects.
    pub fn request(&self, uid: &str, seen: &Kind) -> Value {
        let kind =
            |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
        let resource = |row: &Kind| json!({"group": row.group, "version": row.version, "resource": row.plural});
        let as_seen = Asked { kind: seen, ..*self };
        let mut request = json!({
            "uid": uid,
            "kind": kind(as_seen.body()),
            "resource": resource(seen),
            "requestKind": kind(self.body()),
            "requestResource": resource(self.kind),
            "operation": self.verb.text(),
            "userInfo": self.user,
            "dryRun": self.dry_run,
            "options": self.options,
        });
        let texts = [
            ("name", self.name),
            ("namespace", self.place()),
            ("subResource", self.subresource_name()),
            ("requestSubResource", self.subresource_name()),
        ];
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            request[name] = text.into();
        }
        request
    }
}

/// A rule of a webhook or a policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// `Cluster`, `Namespaced`, or anything else for both.
    scope: String,
    /// Names of objects; empty for all.
    names: Vec<String>,
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.items(name).iter().filter_map(Value::as_str);
    items.map(str::to_owned).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|known| known == "*" || known == text)
}

impl Rule {
    /// Reads a `RuleWithOperations` or a `NamedRuleWithOperations`.
    pub fn read(rule: &Value) -> Rule {
        Rule {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources"),
            scope: rule.text("scope").to_owned(),
            names: texts(rule, "resourceNames"),
        }
    }

    fn matches(&self, asked: &Asked<'_>, seen: &Kind) -> bool {
        has(&self.operations, asked.verb.text())
            && has(&self.groups, seen.group)
            && has(&self.versions, seen.version)
            && self.matches_resource(seen.plural, asked.subresource_name())
            && self.matches_scope(asked)
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }

    fn matches_resource(&self, plural: &str, subresource: &str) -> bool {
        self.resources.iter().any(|resource| {
            let (wanted, below) = resource.split_once('/').unwrap_or((resource, ""));
            (wanted == "*" || wanted == plural) && (below == "*" || below == subresource)
        })
    }

    /// A namespace object is cluster-scoped, whatever namespace admission names for it.
    fn matches_scope(&self, asked: &Asked<'_>) -> bool {
        let namespaced = !asked.is_namespace() && !asked.namespace.is_empty();
        match self.scope.as_str() {
            "Namespaced" => namespaced,
            "Cluster" => !namespaced,
            _ => true,
        }
    }
}

/// Which requests a webhook or a policy wants to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// `matchPolicy: Exact`.
    exact: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Criteria {
    /// Reads the fields of a webhook, or `matchConstraints` and `matchResources` of a policy and its binding.
    ///
    /// # Errors
    ///
    /// The selector that cannot be read; validation refuses those.
    pub fn read(value: &Value) -> Result<Criteria, SelectorError> {
        let rules = |name: &str| value.items(name).iter().map(Rule::read).collect::<Vec<_>>();
        let mut included = rules("rules");
        included.extend(rules("resourceRules"));
        Ok(Criteria {
            rules: included,
            excluded: rules("excludeResourceRules"),
            exact: value.text("matchPolicy") == "Exact",
            namespaces: LabelSelector::from_value(value.at(&["namespaceSelector"]))?,
            objects: LabelSelector::from_value(value.at(&["objectSelector"]))?,
        })
    }

    /// Whether it bounds nothing by resource: a binding without rules takes whatever its policy takes.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty()
    }

    /// The kind in which the object is to be shown, when the request matches. Another version of the object's kind where a rule
    /// names only that one.
    ///
    /// # Errors
    ///
    /// The namespace of a request that would match is not known.
    pub fn matches<'k>(
        &self,
        asked: &Asked<'k>,
        object: &Value,
        old: &Value,
        facts: &Facts,
    ) -> Result<Option<&'k Kind>, Status> {
        if self.rules_match(&self.excluded, asked).is_some() {
            return Ok(None);
        }
        let seen = if self.is_open() {
            Some(asked.kind)
        } else {
            self.rules_match(&self.rules, asked)
        };
        let Some(seen) = seen else { return Ok(None) };
        if !self.object_matches(object) && !self.object_matches(old) {
            return Ok(None);
        }
        Ok(self.namespace_matches(asked, object, facts)?.then_some(seen))
    }

    fn rules_match<'k>(&self, rules: &[Rule], asked: &Asked<'k>) -> Option<&'k Kind> {
        if rules.iter().any(|rule| rule.matches(asked, asked.kind)) {
            return Some(asked.kind);
        }
        if self.exact || rules.is_empty() {
            return None;
        }
        // Rules are tried in their order, each against every version.
        let others: Vec<&'static Kind> = match asked.kind.custom {
            Some(_) => asked.customs.versions(asked.kind),
            None => {
                let resource = asked.kind.resource();
                let same = kinds::kinds().iter().filter(|kind| kind.resource() == resource);
                same.filter(|kind| *kind != asked.kind).collect()
            }
        };
        let find = |rule: &Rule| others.iter().find(|kind| rule.matches(asked, kind)).copied();
        rules.iter().find_map(find)
    }

    fn object_matches(&self, object: &Value) -> bool {
        if self.objects.is_empty() {
            return true;
        }
        // What has no labels of its own, such as the options of a connection, is selected by nothing.
        object.at(&["metadata"]).is_object() && matches_labels(&self.objects, object)
    }

    fn namespace_matches(&self, asked: &Asked<'_>, object: &Value, facts: &Facts) -> Result<bool, Status> {
        if self.namespaces.is_empty() || asked.place().is_empty() {
            return Ok(true);
        }
        // The labels of a namespace that is being written are those that it will have.
        let written = asked.is_namespace() && asked.subresource.is_none() && asked.verb != Verb::Delete;
        if written {
            return Ok(matches_labels(&self.namespaces, object));
        }
        match facts.one("namespaces", "", asked.place()) {
            Some(namespace) => Ok(matches_labels(&self.namespaces, &namespace.value)),
            None => Err(match kinds::find("", "v1", "namespaces") {
                Some(kind) => Status::not_found(kind, asked.place()),
                None => Status::no_such_resource(),
            }),
        }
    }
}

/// Whether an object's labels are selected.
fn matches_labels(selector: &LabelSelector, object: &Value) -> bool {
    selector.matches(&labels_of(object))
}

fn labels_of(object: &Value) -> BTreeMap<String, String> {
    let labels = object.at(&["metadata"]).members("labels");
    labels
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// What a request brings as `seen` tells it. What is below an object has one version, whichever the object is seen in.
///
/// # Errors
///
/// See `converted`.
pub(crate) fn shown(asked: &Asked<'_>, seen: &Kind, object: &Value) -> Result<Value, Status> {
    if asked.shows_own_kind() {
        converted(asked, asked.kind, seen, object)
    } else {
        Ok(object.clone())
    }
}

/// An object of one version of a kind as another version tells it.
///
/// # Errors
///
/// A custom object cannot be converted, or not yet.
pub(crate) fn converted(asked: &Asked<'_>, from: &Kind, to: &Kind, object: &Value) -> Result<Value, Status> {
    if from == to || !object.is_object() {
        return Ok(object.clone());
    }
    if from.custom.is_some() {
        return asked.customs.converted(from, to, object);
    }
    let mut stored = object.clone();
    if let Some(conversion) = from.conversion {
        (conversion.to_stored)(&mut stored);
    }
    let row = from.stored_row();
    stored["apiVersion"] = row.api_version().into();
    stored["kind"] = row.kind.into();
    Ok(to.served(stored))
}
