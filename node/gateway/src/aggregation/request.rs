//! A request to an aggregated API, read without a table of kinds, and made ready for the server that answers it. Pure.

use access::{ResourceRequest, User};
use bytes::Bytes;

use crate::request::ApiRequest;

/// What a path below `/apis/GROUP/VERSION` is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) namespace: String,
    pub(super) resource: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

impl About {
    /// Reads the segments behind group and version; `None` for the discovery document itself.
    pub(super) fn read(path: &str) -> Option<About> {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty()).skip(3);
        let first = segments.next()?;
        let rest: Vec<&str> = segments.collect();
        let (namespace, rest) = match (first, rest.as_slice()) {
            ("namespaces", [namespace, rest @ ..]) if !rest.is_empty() => (*namespace, rest.to_vec()),
            _ => ("", [&[first], rest.as_slice()].concat()),
        };
        let text = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
        Some(About {
            namespace: namespace.to_owned(),
            resource: text(0),
            name: text(1),
            subresource: text(2),
        })
    }

    /// The verb by which authorization knows the request.
    pub(super) fn verb(&self, method: &str, watches: bool) -> &'static str {
        match (method, self.name.is_empty()) {
            ("GET" | "HEAD", _) if watches => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => "",
        }
    }

    /// As authorization reads it.
    pub(super) fn resource_request<'a>(&'a self, group: &'a str, version: &'a str) -> ResourceRequest<'a> {
        ResourceRequest {
            namespace: &self.namespace,
            group,
            version,
            resource: &self.resource,
            subresource: &self.subresource,
            name: &self.name,
            ..ResourceRequest::default()
        }
    }
}

/// The path and query as they go over the wire: the query as it came, in which a parameter may stand several times.
pub(super) fn target(request: &ApiRequest) -> String {
    let mut target = escape(&request.path, b"/");
    if let Some((_, query)) = request.uri.split_once('?') {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// Percent-encodes all but RFC 3986's unreserved characters and those that are kept.
fn escape(text: &str, kept: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The user as front-proxy headers tell it. Keys of extra values may hold characters that header names may not.
pub(super) fn user_headers(user: &User) -> Vec<(String, String)> {
    let mut headers = vec![("x-remote-user".to_owned(), user.name.clone())];
    if !user.uid.is_empty() {
        headers.push(("x-remote-uid".to_owned(), user.uid.clone()));
    }
    let groups = user.groups.iter();
    headers.extend(groups.map(|group| ("x-remote-group".to_owned(), group.clone())));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape(&key.to_ascii_lowercase(), b""));
        headers.extend(values.iter().map(|value| (name.clone(), value.clone())));
    }
    headers
}

/// The whole request as it is sent. Credentials of the client stay here: the front proxy's certificate speaks for it.
pub(super) fn outgoing(
    request: &ApiRequest,
    user: &User,
    host: &str,
) -> Result<http::Request<http_body_util::Full<Bytes>>, http::Error> {
    let mut builder = http::Request::builder()
        .method(request.method.as_str())
        .uri(target(request))
        .header("host", host);
    let passed = [
        ("accept", &request.accept),
        ("content-type", &request.content_type),
        ("user-agent", &request.user_agent),
    ];
    for (name, value) in passed {
        if !value.is_empty() {
            builder = builder.header(name, value);
        }
    }
    for (name, value) in user_headers(user) {
        builder = builder.header(name, value);
    }
    builder.body(http_body_util::Full::new(request.body.clone()))
}

/// The same for a request that asks for a WebSocket. `handshake` is what the client says about that.
pub(super) fn upgrading(
    request: &ApiRequest,
    user: &User,
    host: &str,
    handshake: &[(String, String)],
) -> Result<http::Request<http_body_util::Full<Bytes>>, http::Error> {
    let mut upgrading = outgoing(request, user, host)?;
    let fixed = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let told = handshake.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in fixed.into_iter().chain(told) {
        let name = http::HeaderName::from_bytes(name.as_bytes())?;
        upgrading
            .headers_mut()
            .append(name, http::HeaderValue::from_str(value)?);
    }
    Ok(upgrading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_without_a_table_of_kinds() {
        let about = |namespace: &str, resource: &str, name: &str, subresource: &str| About {
            namespace: namespace.into(),
            resource: resource.into(),
            name: name.into(),
            subresource: subresource.into(),
        };
        let cases = [
            ("/apis/g/v1", None),
            ("/apis/g/v1/fish", Some(about("", "fish", "", ""))),
            ("/apis/g/v1/fish/a/status", Some(about("", "fish", "a", "status"))),
            ("/apis/g/v1/namespaces/d/fish/a", Some(about("d", "fish", "a", ""))),
            ("/apis/g/v1/namespaces/d", Some(about("", "namespaces", "d", ""))),
        ];
        for (path, expected) in cases {
            assert_eq!(About::read(path), expected, "{path}");
        }
        let collection = about("d", "fish", "", "");
        assert_eq!(collection.verb("GET", true), "watch");
        assert_eq!(collection.verb("DELETE", false), "deletecollection");
    }

    #[test]
    fn the_user_is_told_in_headers() {
        let mut user = User::authenticated("jane", ["devs"]);
        user.extra.insert("Example.org/Team".into(), vec!["a".into()]);
        let headers = user_headers(&user);
        let expected = [
            ("x-remote-user", "jane"),
            ("x-remote-group", "devs"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-example.org%2Fteam", "a"),
        ];
        let expected: Vec<(String, String)> = expected.map(|(name, value)| (name.into(), value.into())).into();
        assert_eq!(headers, expected);
    }

    #[test]
    fn path_and_query_are_encoded_again() {
        let mut request = crate::logs::tests::request("labelSelector=a=b");
        request.path = "/apis/g/v1/namespaces/d/fish/a b".into();
        request.uri = "/apis/g/v1/namespaces/d/fish/a%20b?command=ls&command=%2Dl&labelSelector=a%3Db".into();
        assert_eq!(
            target(&request),
            "/apis/g/v1/namespaces/d/fish/a%20b?command=ls&command=%2Dl&labelSelector=a%3Db"
        );
    }
}
