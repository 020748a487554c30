//! What a request wants, as authorization sees it, and the verdicts. Modelled on Kubernetes' `authorizer.Attributes`.
//! The gateway fills `Attributes` from the route; RBAC, the node authorizer, audit and flow control read it. The words of a
//! refusal are Kubernetes', since people and tools match on them. Nothing here decides.

use api::status::{Details, Status};
use protocol::selector::FieldRequirement;

use crate::user::User;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested<'a> {
    /// A collection, an object or a subresource.
    Resource(ResourceRequest<'a>),
    /// A path outside of the resources: `/healthz`, `/version`, `/apis`.
    Path(&'a str),
}

/// The resource that a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceRequest<'a> {
    /// The namespace; empty at the cluster scope and for requests over all namespaces.
    pub namespace: &'a str,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The resource: `pods`.
    pub resource: &'a str,
    /// `log`, `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// The object's name; empty when it is not known. `list_name` gives it to lists and watches.
    pub name: &'a str,
    /// The request's field selector.
    pub fields: &'a [FieldRequirement],
}

impl<'a> ResourceRequest<'a> {
    /// What a path names, with what authorization reads out of it: a Namespace lies in itself, so that a role in it may allow
    /// to read it, and a list has the name that its selector pins. After Kubernetes' `RequestInfo`. The gateway fills the
    /// fields from the route and calls this once.
    #[must_use]
    pub fn completed(mut self, verb: &str) -> ResourceRequest<'a> {
        if self.group.is_empty() && self.resource == "namespaces" && self.namespace.is_empty() {
            self.namespace = self.name;
        }
        if self.name.is_empty() {
            self.name = list_name(verb, self.fields);
        }
        self
    }

    /// A second verb that the request needs beside its own: who opens a session into a pod with a GET, as WebSocket clients do,
    /// needs `create` as with a POST.
    pub fn also_needs(&self, verb: &str) -> Option<&'static str> {
        let opens = matches!(self.subresource, "exec" | "attach" | "portforward");
        (verb == "get" && opens && self.group.is_empty() && self.resource == "pods").then_some("create")
    }
}

/// Who wants to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a verb of RBAC alone such as
    /// `impersonate`; for paths the HTTP method in lower case.
    pub verb: &'a str,
    /// On what.
    pub requested: Requested<'a>,
}

impl<'a> Attributes<'a> {
    /// A request for a resource.
    pub fn resource(user: &'a User, verb: &'a str, request: ResourceRequest<'a>) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            requested: Requested::Resource(request),
        }
    }

    /// A request for a path.
    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            requested: Requested::Path(path),
        }
    }

    /// Whether it only reads.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

/// The value that the selector pins the field to.
pub fn equal_to<'a>(fields: &'a [FieldRequirement], path: &str) -> Option<&'a str> {
    let pinned = fields
        .iter()
        .find(|requirement| requirement.path == path && !requirement.negated);
    pinned.map(|requirement| requirement.value.as_str())
}

/// The object's name that a list or a watch counts as asking for: the one that its field selector pins `metadata.name` to,
/// if it can be a path's segment. Nothing else pins: a `deletecollection` and a `create` have no name for RBAC, so that a rule
/// with `resourceNames` never allows them.
pub fn list_name<'a>(verb: &str, fields: &'a [FieldRequirement]) -> &'a str {
    if !matches!(verb, "list" | "watch") {
        return "";
    }
    match equal_to(fields, "metadata.name") {
        Some(name) if !matches!(name, "." | "..") && !name.contains(['/', '%']) => name,
        _ => "",
    }
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow {
        /// Why, for the audit log and SubjectAccessReview.
        reason: String,
    },
    /// This authorizer does not allow it; another one may.
    NoOpinion {
        /// Why not; often empty.
        reason: String,
    },
    /// It may not, whatever another authorizer says.
    Deny {
        /// Why not.
        reason: String,
    },
}

impl Verdict {
    /// Without an opinion and without a reason.
    pub fn none() -> Verdict {
        Verdict::NoOpinion { reason: String::new() }
    }

    /// Whether it allows.
    pub fn allows(&self) -> bool {
        matches!(self, Verdict::Allow { .. })
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        match self {
            Verdict::Allow { reason } | Verdict::NoOpinion { reason } | Verdict::Deny { reason } => reason,
        }
    }
}

/// Kubernetes escapes what could be markup, since the message is shown by browsers.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`.
pub fn refusal_text(attributes: &Attributes<'_>) -> String {
    let (user, verb) = (&attributes.user.name, attributes.verb);
    let text = match attributes.requested {
        Requested::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
        Requested::Resource(request) => {
            let resource = if request.subresource.is_empty() {
                request.resource.to_owned()
            } else {
                format!("{}/{}", request.resource, request.subresource)
            };
            let scope = if request.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", request.namespace)
            };
            let group = request.group;
            format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
        }
    };
    escape(&text)
}

/// The 403 that answers a refused request; `reason` is the verdict's.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let text = refusal_text(attributes);
    let why = if reason.is_empty() {
        text
    } else {
        format!("{text}: {reason}")
    };
    match attributes.requested {
        Requested::Path(_) => Status::forbidden_path(format!("forbidden: {why}")),
        Requested::Resource(request) => forbidden_object(request.group, request.resource, request.name, &why),
    }
}

/// A 403 about an object, or a collection when the name is empty, of a kind that need not be in the table; `why` completes
/// the sentence `pods "web" is forbidden: ...`.
pub fn forbidden_object(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let qualified = if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    };
    let message = if name.is_empty() {
        format!("{qualified} is forbidden: {why}")
    } else {
        format!("{qualified} {name:?} is forbidden: {why}")
    };
    let mut status = Status::forbidden_path(message);
    *status.details = Details {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: resource.to_owned(),
        ..Details::default()
    };
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::selector::FieldSelector;

    #[test]
    fn a_refusal_is_worded_as_kubernetes_words_it() {
        let user = User::authenticated("x", ["dev"]);
        let pods = ResourceRequest {
            namespace: "default",
            version: "v1",
            resource: "pods",
            ..ResourceRequest::default()
        };
        let cases = [
            (
                Attributes::resource(&user, "list", pods),
                "",
                r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Attributes::resource(
                    &user,
                    "get",
                    ResourceRequest {
                        subresource: "log",
                        name: "web",
                        ..pods
                    },
                ),
                r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#,
                r#"pods "web" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "default": RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#,
            ),
            (
                Attributes::resource(
                    &user,
                    "delete",
                    ResourceRequest {
                        group: "apps",
                        resource: "deployments",
                        name: "web",
                        ..ResourceRequest::default()
                    },
                ),
                "",
                r#"deployments.apps "web" is forbidden: User "x" cannot delete resource "deployments" in API group "apps" at the cluster scope"#,
            ),
            (
                Attributes::path(&user, "get", "/metrics"),
                "",
                r#"forbidden: User "x" cannot get path "/metrics""#,
            ),
            (
                Attributes::path(&user, "get", "/<script>&"),
                "",
                r#"forbidden: User "x" cannot get path "/&lt;script&gt;&amp;""#,
            ),
        ];
        for (attributes, reason, expected) in cases {
            let status = forbidden(&attributes, reason);
            assert_eq!(
                (status.code, &*status.reason, status.message.as_str()),
                (403, "Forbidden", expected)
            );
        }
        let status = forbidden(&Attributes::resource(&user, "list", pods), "");
        assert_eq!(status.to_value()["details"], serde_json::json!({"kind": "pods"}));
    }

    #[test]
    fn only_lists_and_watches_take_their_name_from_the_selector() {
        let selector = |text: &str| FieldSelector::parse(text, &["spec.nodeName"]).unwrap().requirements;
        let pinned = selector("metadata.name=web");
        assert_eq!(list_name("list", &pinned), "web");
        assert_eq!(list_name("watch", &pinned), "web");
        assert_eq!(list_name("deletecollection", &pinned), "");
        assert_eq!(list_name("create", &pinned), "");
        for other in [
            "spec.nodeName=n1",
            "metadata.name!=web",
            "metadata.name=a/b",
            "metadata.name=..",
        ] {
            assert_eq!(list_name("list", &selector(other)), "", "{other}");
        }
    }

    #[test]
    fn a_namespace_lies_in_itself() {
        let request = |resource, name| ResourceRequest {
            resource,
            name,
            ..ResourceRequest::default()
        };
        let cases = [
            ("get", "namespaces", "d", "d"),
            ("list", "namespaces", "", ""),
            ("get", "nodes", "n1", ""),
        ];
        for (verb, resource, name, namespace) in cases {
            assert_eq!(
                request(resource, name).completed(verb).namespace,
                namespace,
                "{verb} {resource}"
            );
        }
        let pinned = FieldSelector::parse("metadata.name=d", &[]).unwrap().requirements;
        let list = ResourceRequest {
            fields: &pinned,
            ..request("namespaces", "")
        };
        // A list is of the cluster's Namespaces, whatever it selects.
        let list = list.completed("list");
        assert_eq!((list.name, list.namespace), ("d", ""));
    }

    #[test]
    fn a_session_by_get_needs_create_too() {
        let exec = ResourceRequest {
            resource: "pods",
            subresource: "exec",
            ..ResourceRequest::default()
        };
        assert_eq!(exec.also_needs("get"), Some("create"));
        assert_eq!(exec.also_needs("create"), None);
        let log = ResourceRequest {
            subresource: "log",
            ..exec
        };
        assert_eq!(log.also_needs("get"), None);
    }
}
