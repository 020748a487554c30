//! The index of roles and bindings, kept up by single writes. A binding is filed under each of its subjects, in the scope in
//! which it holds, so that a check reads only bindings that name the user or one of its groups. ClusterRoles that aggregate
//! others hold the union of what they select, as Kubernetes' aggregation controller would write it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use api::access::Access;
use foldhash::HashMap;
use protocol::selector::LabelSelector;
use serde_json::Value;

use crate::attributes::{Attributes, Requested, Verdict};
use crate::rbac::rule::Rule;
use crate::user::{User, service_account_name};

/// A role with what a check needs of it.
#[derive(Debug, Default)]
struct Role {
    /// The rules that count, each with the bits of its verbs.
    rules: Vec<(u16, Rule)>,
    /// Which rules name a resource or a subresource of it.
    by_resource: HashMap<String, Vec<usize>>,
    /// The rules with a wildcard for resources.
    of_any_resource: Vec<usize>,
    /// The rules about paths.
    of_paths: Vec<usize>,
    /// The rules that the object itself holds.
    own: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// Selectors of `aggregationRule`; `None` for a role that does not aggregate.
    aggregates: Option<Vec<LabelSelector>>,
}

impl Role {
    fn set_rules(&mut self, rules: Vec<Rule>) {
        self.by_resource.clear();
        self.of_any_resource.clear();
        self.of_paths.clear();
        for (index, rule) in rules.iter().enumerate() {
            if !rule.non_resource_urls.is_empty() {
                self.of_paths.push(index);
            }
            if rule.resources.iter().any(|entry| entry.starts_with('*')) {
                self.of_any_resource.push(index);
                continue;
            }
            for entry in &rule.resources {
                let resource = entry.split('/').next().unwrap_or_default();
                let indices = self.by_resource.entry(resource.to_owned()).or_default();
                if indices.last() != Some(&index) {
                    indices.push(index);
                }
            }
        }
        self.rules = rules.into_iter().map(|rule| (verb_bits(&rule), rule)).collect();
    }

    /// Whether a rule allows the request; `bit` is its verb's.
    fn allows(&self, bit: u16, attributes: &Attributes<'_>) -> bool {
        let allows = |index: &usize| {
            let (bits, rule) = &self.rules[*index];
            bits & bit != 0 && rule.allows(attributes)
        };
        match &attributes.requested {
            Requested::Path(_) => self.of_paths.iter().any(allows),
            Requested::Resource(request) => {
                self.of_any_resource.iter().any(allows)
                    || self.by_resource.get(request.resource).into_iter().flatten().any(allows)
            }
        }
    }

    fn from_value(object: &Value) -> Role {
        let labels = object.at(&["metadata"]).members("labels");
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let selectors = object.at(&["aggregationRule"]).items("clusterRoleSelectors");
        // A selector that cannot be read selects nothing, as the API refuses to store one.
        let selectors: Vec<LabelSelector> = selectors
            .iter()
            .filter_map(|selector| LabelSelector::from_value(selector).ok())
            .collect();
        let mut role = Role {
            own: Rule::list(object),
            labels: labels.collect(),
            aggregates: object.has("aggregationRule").then_some(selectors),
            ..Role::default()
        };
        role.set_rules(role.own.clone());
        role
    }

    fn selects(&self, other: &Role) -> bool {
        let selectors = self.aggregates.iter().flatten();
        selectors.into_iter().any(|selector| selector.matches(&other.labels))
    }
}

/// The verbs that have a bit of their own; every other verb shares the last.
const VERBS: [&str; 9] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
];

/// The bit by which a verb is looked up: rules without it are not read at all.
fn verb_bit(verb: &str) -> u16 {
    1 << VERBS.iter().position(|known| *known == verb).unwrap_or(VERBS.len())
}

fn verb_bits(rule: &Rule) -> u16 {
    let bits = rule
        .verbs
        .iter()
        .map(|verb| if verb == "*" { u16::MAX } else { verb_bit(verb) });
    bits.fold(0, |all, bit| all | bit)
}

/// Whom a binding names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl fmt::Display for Subject {
    /// As Kubernetes describes it, a ServiceAccount with its name first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(name) => write!(f, "User {name:?}"),
            Subject::Group(name) => write!(f, "Group {name:?}"),
            Subject::ServiceAccount { namespace, name } => {
                write!(f, "ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Debug)]
struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    /// Whether it refers to a ClusterRole; else to a Role of its namespace.
    cluster_role: bool,
    role: String,
    subjects: Vec<Subject>,
}

impl Binding {
    fn from_value(namespace: &str, name: &str, object: &Value) -> Binding {
        let role_ref = object.at(&["roleRef"]);
        let subjects = object.items("subjects").iter();
        Binding {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cluster_role: role_ref.text("kind") == "ClusterRole",
            role: role_ref.text("name").to_owned(),
            subjects: subjects.filter_map(|subject| subject_of(namespace, subject)).collect(),
        }
    }

    /// The namespace of the role; empty for a ClusterRole.
    fn role_namespace(&self) -> &str {
        if self.cluster_role { "" } else { &self.namespace }
    }
}

/// A ServiceAccount without a namespace is one of the RoleBinding's own; in a ClusterRoleBinding it is nobody.
fn subject_of(namespace: &str, subject: &Value) -> Option<Subject> {
    let name = subject.text("name").to_owned();
    match subject.text("kind") {
        "User" => Some(Subject::User(name)),
        "Group" => Some(Subject::Group(name)),
        "ServiceAccount" => {
            let own = subject.text("namespace");
            let namespace = if own.is_empty() { namespace } else { own }.to_owned();
            (!namespace.is_empty()).then_some(Subject::ServiceAccount { namespace, name })
        }
        _ => None,
    }
}

/// Bindings of one subject by name, each with the place of the subject in its list.
type Named = BTreeMap<String, (Arc<Binding>, usize)>;

/// Bindings by whom they name. The second key is the binding's name, so that a check reads them in a fixed order.
#[derive(Debug, Default)]
struct Scope {
    users: HashMap<String, Named>,
    groups: HashMap<String, Named>,
}

impl Scope {
    fn slot(&mut self, subject: &Subject) -> (&mut HashMap<String, Named>, String) {
        match subject {
            Subject::Group(name) => (&mut self.groups, name.clone()),
            Subject::User(name) => (&mut self.users, name.clone()),
            Subject::ServiceAccount { namespace, name } => (&mut self.users, service_account_name(namespace, name)),
        }
    }

    fn insert(&mut self, binding: &Arc<Binding>) {
        for (index, subject) in binding.subjects.iter().enumerate() {
            let (map, key) = self.slot(subject);
            let entry = map.entry(key).or_default().entry(binding.name.clone());
            entry.or_insert_with(|| (Arc::clone(binding), index));
        }
    }

    fn remove(&mut self, binding: &Binding) {
        for subject in &binding.subjects {
            let (map, key) = self.slot(subject);
            if let Some(bindings) = map.get_mut(&key) {
                bindings.remove(&binding.name);
                if bindings.is_empty() {
                    map.remove(&key);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    fn of_user<'a>(&'a self, user: &'a User) -> impl Iterator<Item = (&'a Binding, &'a Subject)> {
        let named = self.users.get(&user.name).into_iter();
        let grouped = user.groups.iter().filter_map(|group| self.groups.get(group));
        named
            .chain(grouped)
            .flat_map(Named::values)
            .map(|(binding, index)| (binding.as_ref(), &binding.subjects[*index]))
    }
}

/// What allows a request.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    binding: &'a Binding,
    subject: &'a Subject,
}

impl fmt::Display for Grant<'_> {
    /// `ClusterRoleBinding "admins" of ClusterRole "admin" to Group "devs"`; a RoleBinding with its namespace behind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant { binding, subject } = self;
        let role = if binding.cluster_role { "ClusterRole" } else { "Role" };
        if binding.namespace.is_empty() {
            write!(f, "ClusterRoleBinding {:?}", binding.name)?;
        } else {
            write!(f, "RoleBinding {:?}", format!("{}/{}", binding.name, binding.namespace))?;
        }
        write!(f, " of {role} {:?} to {subject}", binding.role)
    }
}

/// The rules of a user, and the bindings' roles that do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// All rules that hold, in the order of the bindings.
    pub rules: Vec<Rule>,
    /// `clusterrole.rbac.authorization.k8s.io "gone" not found`.
    pub errors: Vec<String>,
}

impl Resolved {
    /// The errors as Go's aggregate prints them; empty when there are none.
    pub fn error_text(&self) -> String {
        aggregate(&self.errors)
    }
}

/// One error as it is; several in brackets, each once.
fn aggregate(errors: &[String]) -> String {
    let mut known = HashSet::new();
    let unique: Vec<&str> = errors
        .iter()
        .map(String::as_str)
        .filter(|text| known.insert(*text))
        .collect();
    match unique.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn missing_role(binding: &Binding) -> String {
    let kind = if binding.cluster_role { "clusterrole" } else { "role" };
    format!("{kind}.{} {:?} not found", super::GROUP, binding.role)
}

/// The index.
#[derive(Debug, Default)]
pub struct Rbac {
    cluster_roles: HashMap<String, Role>,
    /// By namespace and name.
    roles: HashMap<String, HashMap<String, Role>>,
    /// By namespace (empty for ClusterRoleBindings) and name.
    bindings: HashMap<String, HashMap<String, Arc<Binding>>>,
    cluster_scope: Scope,
    /// By namespace.
    scopes: HashMap<String, Scope>,
}

impl Rbac {
    /// An index without a role.
    pub fn new() -> Rbac {
        Rbac::default()
    }

    /// Takes an object of one of the four kinds as it is now. `resource` is `roles`, `clusterroles`, `rolebindings` or
    /// `clusterrolebindings`; another one is ignored. Idempotent.
    pub fn upsert(&mut self, resource: &str, object: &Value) {
        let metadata = object.at(&["metadata"]);
        let (namespace, name) = (metadata.text("namespace"), metadata.text("name"));
        match resource {
            "roles" => self.set_role(namespace, name, Some(Role::from_value(object))),
            "clusterroles" => self.set_role("", name, Some(Role::from_value(object))),
            "rolebindings" => self.set_binding(namespace, name, Some(Binding::from_value(namespace, name, object))),
            "clusterrolebindings" => self.set_binding("", name, Some(Binding::from_value("", name, object))),
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        match resource {
            "roles" => self.set_role(namespace, name, None),
            "clusterroles" => self.set_role("", name, None),
            "rolebindings" => self.set_binding(namespace, name, None),
            "clusterrolebindings" => self.set_binding("", name, None),
            _ => {}
        }
    }

    fn set_role(&mut self, namespace: &str, name: &str, role: Option<Role>) {
        if namespace.is_empty() {
            return self.set_cluster_role(name, role);
        }
        let roles = self.roles.entry(namespace.to_owned()).or_default();
        match role {
            Some(role) => drop(roles.insert(name.to_owned(), role)),
            None => drop(roles.remove(name)),
        }
        if roles.is_empty() {
            self.roles.remove(namespace);
        }
    }

    fn set_cluster_role(&mut self, name: &str, role: Option<Role>) {
        let roles = &mut self.cluster_roles;
        let aggregates = |role: &Role, roles: &HashMap<String, Role>| {
            role.aggregates.is_some() || roles.values().any(|other| other.selects(role))
        };
        let after = role.as_ref().is_some_and(|role| aggregates(role, roles));
        let before = match role {
            Some(role) => roles.insert(name.to_owned(), role),
            None => roles.remove(name),
        };
        if after || before.is_some_and(|role| aggregates(&role, roles)) {
            self.aggregate();
        }
    }

    /// Writes the rules of all aggregating roles anew. One may select another (`edit` selects `view`), so the rounds go on
    /// until nothing changes; each round adds rules of a finite set, and there is at most one round per aggregating role.
    fn aggregate(&mut self) {
        let roles = &mut self.cluster_roles;
        let mut names: Vec<String> = roles.keys().cloned().collect();
        names.sort();
        let aggregating: Vec<String> = names
            .iter()
            .filter(|name| roles[*name].aggregates.is_some())
            .cloned()
            .collect();
        for name in &aggregating {
            if let Some(role) = roles.get_mut(name) {
                role.set_rules(Vec::new());
            }
        }
        for _ in 0..=aggregating.len() {
            let mut changed = false;
            for name in &aggregating {
                let role = &roles[name];
                let selected = names
                    .iter()
                    .filter(|other| *other != name && role.selects(&roles[*other]));
                let mut rules: Vec<Rule> = Vec::new();
                let mut known = HashSet::new();
                for (_, rule) in selected.flat_map(|other| &roles[other].rules) {
                    if known.insert(rule) {
                        rules.push(rule.clone());
                    }
                }
                if !rules.iter().eq(role.rules.iter().map(|(_, rule)| rule)) {
                    changed = true;
                    if let Some(role) = roles.get_mut(name) {
                        role.set_rules(rules);
                    }
                }
            }
            if !changed {
                break;
            }
        }
    }

    /// The aggregating ClusterRoles whose stored `rules` differ from what they select, with the rules that they should hold:
    /// what an aggregation controller writes. Checks do not wait for these writes.
    pub fn aggregation_writes(&self) -> Vec<(String, Vec<Rule>)> {
        let roles = self.cluster_roles.iter();
        let mut writes: Vec<(String, Vec<Rule>)> = roles
            .filter(|(_, role)| role.aggregates.is_some())
            .map(|(name, role)| {
                (
                    name,
                    role,
                    role.rules.iter().map(|(_, rule)| rule.clone()).collect::<Vec<_>>(),
                )
            })
            .filter(|(_, role, rules)| role.own != *rules)
            .map(|(name, _, rules)| (name.clone(), rules))
            .collect();
        writes.sort();
        writes
    }

    fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<Binding>) {
        let scope = if namespace.is_empty() {
            &mut self.cluster_scope
        } else {
            self.scopes.entry(namespace.to_owned()).or_default()
        };
        let bindings = self.bindings.entry(namespace.to_owned()).or_default();
        if let Some(before) = bindings.remove(name) {
            scope.remove(&before);
        }
        if let Some(binding) = binding {
            let binding = Arc::new(binding);
            scope.insert(&binding);
            bindings.insert(name.to_owned(), binding);
        }
        if scope.is_empty() {
            self.scopes.remove(namespace);
        }
        if bindings.is_empty() {
            self.bindings.remove(namespace);
        }
    }

    fn role(&self, namespace: &str, name: &str) -> Option<&Role> {
        if namespace.is_empty() {
            self.cluster_roles.get(name)
        } else {
            self.roles.get(namespace)?.get(name)
        }
    }

    /// The rules of a role, by its namespace (empty for a ClusterRole) and name.
    pub fn role_rules(&self, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let role = self.role(namespace, name)?;
        Some(role.rules.iter().map(|(_, rule)| rule.clone()).collect())
    }

    /// The bindings that hold for the user in the namespace, the cluster's first.
    fn bindings_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject)> + use<'a> {
        let own = if namespace.is_empty() {
            None
        } else {
            self.scopes.get(namespace)
        };
        let scopes = std::iter::once(&self.cluster_scope).chain(own);
        scopes.flat_map(move |scope| scope.of_user(user))
    }

    /// What allows the request, or the roles that its bindings miss. The fast path: nothing is formatted or allocated when
    /// it is allowed.
    pub fn grant<'a>(&'a self, attributes: &Attributes<'a>) -> Result<Grant<'a>, Vec<String>> {
        let namespace = match &attributes.requested {
            Requested::Resource(request) => request.namespace,
            Requested::Path(_) => "",
        };
        let bit = verb_bit(attributes.verb);
        let mut missing = Vec::new();
        // Many bindings of a namespace give the same few roles: the last ones that did not allow it are not read again.
        let mut refused: [Option<&Role>; 4] = [None; 4];
        for (at, (binding, subject)) in self.bindings_of(attributes.user, namespace).enumerate() {
            let Some(role) = self.role(binding.role_namespace(), &binding.role) else {
                missing.push(missing_role(binding));
                continue;
            };
            if refused.iter().flatten().any(|known| std::ptr::eq(*known, role)) {
                continue;
            }
            if role.allows(bit, attributes) {
                return Ok(Grant { binding, subject });
            }
            refused[at % refused.len()] = Some(role);
        }
        Err(missing)
    }

    /// Kubernetes' answer to the request: allowed with the binding that does it, or no opinion.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Verdict {
        match self.grant(attributes) {
            Ok(grant) => Verdict::Allow {
                reason: format!("RBAC: allowed by {grant}"),
            },
            Err(missing) if missing.is_empty() => Verdict::none(),
            Err(missing) => Verdict::NoOpinion {
                reason: format!("RBAC: {}", aggregate(&missing)),
            },
        }
    }

    /// All rules that hold for the user in the namespace; with an empty namespace, those that hold everywhere.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Resolved {
        let mut resolved = Resolved::default();
        for (binding, _) in self.bindings_of(user, namespace) {
            match self.role(binding.role_namespace(), &binding.role) {
                Some(role) => resolved.rules.extend(role.rules.iter().map(|(_, rule)| rule.clone())),
                None => resolved.errors.push(missing_role(binding)),
            }
        }
        resolved
    }
}
