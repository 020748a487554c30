//! Who may do what. Two groups exist: cluster administrators (`system:masters`) may do everything, nodes
//! (`system:nodes`) may read what a node needs and write what is their own. Everything else is refused. Pure.

use api::kinds::Subresource;
use api::status::Status;

use crate::request::User;
use crate::route::{Route, Target};

/// Paths that need no credential: what load balancers and clients ask before they have one.
fn is_open(route: &Route) -> bool {
    matches!(route, Route::Health(_) | Route::Version)
}

/// Whether the request may go on: 401 without a credential, 403 without the right.
pub fn authorize(user: Option<&User>, verb: &str, path: &str, route: &Route) -> Result<(), Status> {
    if is_open(route) {
        return Ok(());
    }
    let Some(user) = user else {
        return Err(Status::unauthorized());
    };
    let member = |group: &str| user.groups.iter().any(|name| name == group);
    if member("system:masters") {
        return Ok(());
    }
    match route {
        Route::Resource(target) if member("system:nodes") && node_may(user, verb, target) => Ok(()),
        Route::Resource(target) => {
            let name = target.name.as_deref().unwrap_or_default();
            let scope = if target.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", target.namespace)
            };
            let (plural, group) = (target.kind.plural, target.kind.group);
            let why = format!(
                "User {:?} cannot {verb} resource {plural:?} in API group {group:?} {scope}",
                user.name
            );
            Err(Status::forbidden(target.kind, name, why))
        }
        Route::Admin | Route::Metrics => Err(forbidden_path(user, verb, path)),
        _ => Ok(()),
    }
}

fn forbidden_path(user: &User, verb: &str, path: &str) -> Status {
    Status::forbidden_path(format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name))
}

/// A node reads pods, services and configuration, and writes its own Node, its own Lease, its pods' status and events.
fn node_may(user: &User, verb: &str, target: &Target) -> bool {
    let own = user
        .name
        .strip_prefix("system:node:")
        .is_some_and(|node| target.name.as_deref() == Some(node));
    let reads = matches!(verb, "get" | "list" | "watch");
    match (target.kind.group, target.kind.plural) {
        ("", "pods") => reads || matches!(target.subresource, Some(Subresource::Status)) || verb == "delete",
        ("", "nodes") => reads || own || verb == "create",
        ("coordination.k8s.io", "leases") => target.namespace == "kube-node-lease" && (own || verb == "create"),
        ("", "events") => matches!(verb, "create" | "patch" | "update"),
        ("", "services" | "configmaps" | "namespaces") | ("discovery.k8s.io", "endpointslices") => reads,
        ("", "secrets") => verb == "get",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::route;

    fn user(name: &str, group: &str) -> User {
        User {
            name: name.into(),
            groups: vec![group.into()],
        }
    }

    #[test]
    fn nobody_comes_in_without_a_credential() {
        let path = "/api/v1/pods";
        assert_eq!(authorize(None, "list", path, &route(path)).unwrap_err().code, 401);
        assert!(authorize(None, "get", "/healthz", &route("/healthz")).is_ok());
    }

    #[test]
    fn a_node_writes_only_what_is_its_own() {
        let node = user("system:node:n1", "system:nodes");
        let cases = [
            ("list", "/api/v1/pods", true),
            ("patch", "/api/v1/namespaces/d/pods/w/status", true),
            ("create", "/api/v1/namespaces/d/pods", false),
            ("update", "/api/v1/nodes/n1/status", true),
            ("update", "/api/v1/nodes/n2/status", false),
            ("list", "/api/v1/secrets", false),
            ("create", "/apis/apps/v1/namespaces/d/deployments", false),
            ("create", "/actorium/v1/admin", false),
        ];
        for (verb, path, allowed) in cases {
            assert_eq!(
                authorize(Some(&node), verb, path, &route(path)).is_ok(),
                allowed,
                "{verb} {path}"
            );
        }
    }

    #[test]
    fn a_refusal_says_who_what_and_where() {
        let path = "/apis/apps/v1/namespaces/d/deployments";
        let error = authorize(Some(&user("eve", "x")), "create", path, &route(path)).unwrap_err();
        assert_eq!(error.code, 403);
        assert!(
            error.message.contains(
                "User \"eve\" cannot create resource \"deployments\" in API group \"apps\" in the namespace \"d\""
            ),
            "{}",
            error.message
        );
    }
}
