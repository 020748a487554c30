//! FlowSchemas: to which priority level a request goes, and which flow it is part of there.

use api::access::Access;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::attributes::{Attributes, Requested, ResourceRequest};
use crate::user::User;

/// Where a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The name of the FlowSchema.
    pub schema: String,
    /// Its uid, for the header `X-Kubernetes-PF-FlowSchema-UID`.
    pub schema_uid: String,
    /// The name of the priority level.
    pub level: String,
    /// What sets the flow apart from others of the schema: a user, a namespace, or nothing.
    pub distinguisher: String,
}

impl Flow {
    /// By which queues are dealt to the flow.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = Sha256::new();
        hasher.update((self.schema.len() as u64).to_le_bytes());
        hasher.update(&self.schema);
        hasher.update(&self.distinguisher);
        let digest = hasher.finalize();
        digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Clone, Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Clone, Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// A `flowcontrol.apiserver.k8s.io/v1` FlowSchema.
#[derive(Clone, Debug)]
pub(super) struct FlowSchema {
    pub name: String,
    pub uid: String,
    pub level: String,
    /// The lowest number is asked first.
    pub precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.items(name).iter();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn any(list: &[String], text: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == text)
}

fn subject_of(value: &Value) -> Option<Subject> {
    Some(match value.text("kind") {
        "User" => Subject::User(value.at(&["user"]).text("name").to_owned()),
        "Group" => Subject::Group(value.at(&["group"]).text("name").to_owned()),
        "ServiceAccount" => Subject::ServiceAccount {
            namespace: value.at(&["serviceAccount"]).text("namespace").to_owned(),
            name: value.at(&["serviceAccount"]).text("name").to_owned(),
        },
        _ => return None,
    })
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.is_in(name),
            Subject::ServiceAccount { namespace, name } => {
                let account = user.as_service_account();
                account.is_some_and(|(own, account)| own == namespace && (name == "*" || name == account))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, verb: &str, request: &ResourceRequest<'_>) -> bool {
        let resource = if request.subresource.is_empty() {
            any(&self.resources, request.resource)
        } else {
            any(
                &self.resources,
                &format!("{}/{}", request.resource, request.subresource),
            )
        };
        let scope = match request.namespace {
            "" => self.cluster_scope,
            namespace => any(&self.namespaces, namespace),
        };
        resource && scope && any(&self.verbs, verb) && any(&self.groups, request.group)
    }
}

impl PathRule {
    fn matches(&self, verb: &str, path: &str) -> bool {
        let covers =
            |pattern: &String| pattern == path || pattern.strip_suffix('*').is_some_and(|stem| path.starts_with(stem));
        any(&self.verbs, verb) && self.paths.iter().any(covers)
    }
}

impl FlowSchema {
    pub fn from_value(object: &Value) -> FlowSchema {
        let (metadata, spec) = (object.at(&["metadata"]), object.at(&["spec"]));
        let rules = spec.items("rules").iter().map(|rule| Rule {
            subjects: rule.items("subjects").iter().filter_map(subject_of).collect(),
            resources: rule
                .items("resourceRules")
                .iter()
                .map(|entry| ResourceRule {
                    verbs: texts(entry, "verbs"),
                    groups: texts(entry, "apiGroups"),
                    resources: texts(entry, "resources"),
                    cluster_scope: entry.flag("clusterScope"),
                    namespaces: texts(entry, "namespaces"),
                })
                .collect(),
            paths: rule
                .items("nonResourceRules")
                .iter()
                .map(|entry| PathRule {
                    verbs: texts(entry, "verbs"),
                    paths: texts(entry, "nonResourceURLs"),
                })
                .collect(),
        });
        FlowSchema {
            name: metadata.text("name").to_owned(),
            uid: metadata.text("uid").to_owned(),
            level: spec.at(&["priorityLevelConfiguration"]).text("name").to_owned(),
            // What an absent precedence is defaulted to.
            precedence: spec.int("matchingPrecedence").unwrap_or(1000),
            distinguisher: match spec.at(&["distinguisherMethod"]).text("type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: rules.collect(),
        }
    }

    pub fn matches(&self, attributes: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| {
            let named = rule.subjects.iter().any(|subject| subject.is(attributes.user));
            named
                && match &attributes.requested {
                    Requested::Resource(request) => rule
                        .resources
                        .iter()
                        .any(|entry| entry.matches(attributes.verb, request)),
                    Requested::Path(path) => rule.paths.iter().any(|entry| entry.matches(attributes.verb, path)),
                }
        })
    }

    /// The flow of a request that matches.
    pub fn flow(&self, attributes: &Attributes<'_>) -> Flow {
        let distinguisher = match (&self.distinguisher, &attributes.requested) {
            (Distinguisher::User, _) => attributes.user.name.as_str(),
            (Distinguisher::Namespace, Requested::Resource(request)) => request.namespace,
            _ => "",
        };
        Flow {
            schema: self.name.clone(),
            schema_uid: self.uid.clone(),
            level: self.level.clone(),
            distinguisher: distinguisher.to_owned(),
        }
    }
}
