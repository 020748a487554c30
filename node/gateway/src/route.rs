//! What a request is about, read from its method and path. Pure. Paths follow the API conventions of Kubernetes:
//! `/api/v1/namespaces/NS/pods/NAME/log`, `/apis/apps/v1/deployments`.

use api::custom::CustomKinds;
use api::kinds::{self, Kind, Subresource};

/// A request's target.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// `/`: what there is.
    Root,
    /// `/healthz`, `/livez`, `/readyz`.
    Health(String),
    /// `/metrics`.
    Metrics,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    GroupVersion(String, String),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3Index,
    /// `/openapi/v3/api/v1`: the part after `/openapi/v3/`.
    OpenApiV3(String),
    /// `/.well-known/openid-configuration`: who issues tokens.
    Issuer,
    /// `/openid/v1/jwks`: the keys that tokens are verified with.
    IssuerKeys,
    /// `/actorium/v1/admin`: the shell's messages.
    Admin,
    /// A collection or an object.
    Resource(Target),
    /// Anything else.
    Unknown,
}

/// A collection, an object or a subresource of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its kind.
    pub kind: &'static Kind,
    /// The namespace; empty for cluster-scoped kinds and for lists over all namespaces.
    pub namespace: String,
    /// The object's name; `None` for a collection.
    pub name: Option<String>,
    /// What hangs below it.
    pub subresource: Option<Subresource>,
}

/// Reads a path. `custom` are the kinds beside those of the table.
pub fn route(path: &str, custom: &CustomKinds) -> Route {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        [] => Route::Root,
        ["healthz" | "livez" | "readyz", ..] => Route::Health(segments[0].to_owned()),
        ["metrics"] => Route::Metrics,
        ["version"] => Route::Version,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3Index,
        ["openapi", "v3", rest @ ..] => Route::OpenApiV3(rest.join("/")),
        [".well-known", "openid-configuration"] => Route::Issuer,
        ["openid", "v1", "jwks"] => Route::IssuerKeys,
        ["actorium", "v1", "admin"] => Route::Admin,
        ["api"] => Route::CoreVersions,
        ["api", version] => Route::GroupVersion(String::new(), (*version).to_owned()),
        ["api", version, rest @ ..] => resource("", version, rest, custom),
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["apis", group, version] => Route::GroupVersion((*group).to_owned(), (*version).to_owned()),
        ["apis", group, version, rest @ ..] => resource(group, version, rest, custom),
        _ => Route::Unknown,
    }
}

fn resource(group: &str, version: &str, rest: &[&str], custom: &CustomKinds) -> Route {
    let (namespace, rest) = match rest {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some((*name).to_owned()), None),
        [plural, name, "proxy", ..] => (*plural, Some((*name).to_owned()), Some(Subresource::Proxy)),
        [plural, name, subresource] => match Subresource::find(subresource) {
            Some(subresource) => (*plural, Some((*name).to_owned()), Some(subresource)),
            None => return Route::Unknown,
        },
        _ => return Route::Unknown,
    };
    let kind = kinds::find(group, version, plural).or_else(|| custom.find(group, version, plural));
    let Some(kind) = kind else {
        return Route::Unknown;
    };
    let misplaced =
        !kind.namespaced && !namespace.is_empty() || kind.namespaced && namespace.is_empty() && name.is_some();
    if misplaced || subresource.is_some_and(|subresource| !kind.has(subresource)) {
        return Route::Unknown;
    }
    Route::Resource(Target {
        kind,
        namespace: namespace.to_owned(),
        name,
        subresource,
    })
}

/// The verb by which authorization, audit and metrics know a request.
pub fn verb(method: &str, target: &Target, watch: bool) -> Option<&'static str> {
    Some(match (method, target.name.is_some()) {
        ("GET" | "HEAD", false) if watch => "watch",
        ("GET" | "HEAD", false) => "list",
        ("GET" | "HEAD", true) => "get",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Route {
        super::route(path, &CustomKinds::default())
    }

    fn target(path: &str) -> (String, String, Option<String>, Option<Subresource>) {
        match route(path) {
            Route::Resource(target) => (
                target.kind.kind.to_owned(),
                target.namespace,
                target.name,
                target.subresource,
            ),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        let some = |name: &str| Some(name.to_owned());
        let cases = [
            ("/api/v1/pods", ("Pod", "", None, None)),
            ("/api/v1/namespaces/d/pods", ("Pod", "d", None, None)),
            ("/api/v1/namespaces/d/pods/web", ("Pod", "d", some("web"), None)),
            (
                "/api/v1/namespaces/d/pods/web/log",
                ("Pod", "d", some("web"), Some(Subresource::Log)),
            ),
            ("/api/v1/namespaces", ("Namespace", "", None, None)),
            ("/api/v1/namespaces/d", ("Namespace", "", some("d"), None)),
            (
                "/api/v1/namespaces/d/finalize",
                ("Namespace", "", some("d"), Some(Subresource::Finalize)),
            ),
            (
                "/api/v1/nodes/n1/status",
                ("Node", "", some("n1"), Some(Subresource::Status)),
            ),
            (
                "/apis/apps/v1/namespaces/d/deployments/w/scale",
                ("Deployment", "d", some("w"), Some(Subresource::Scale)),
            ),
        ];
        for (path, (kind, namespace, name, subresource)) in cases {
            assert_eq!(
                target(path),
                (kind.to_owned(), namespace.to_owned(), name, subresource),
                "{path}"
            );
        }
    }

    #[test]
    fn misplaced_paths_lead_nowhere() {
        for path in [
            "/api/v1/pods/web",
            "/api/v1/namespaces/d/nodes/n1",
            "/api/v1/things",
            "/api/v1/nodes/n1/log",
            "/x",
        ] {
            assert_eq!(route(path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn verbs_follow_method_and_target() {
        let Route::Resource(pods) = route("/api/v1/pods") else {
            panic!()
        };
        let Route::Resource(pod) = route("/api/v1/namespaces/d/pods/web") else {
            panic!()
        };
        assert_eq!(verb("GET", &pods, true), Some("watch"));
        assert_eq!(verb("DELETE", &pods, false), Some("deletecollection"));
        assert_eq!(verb("GET", &pod, false), Some("get"));
        assert_eq!(verb("PUT", &pods, false), None);
    }
}
