//! What a request says beside its body: path, query, `Accept`, tokens and the headers of impersonation.

use std::collections::BTreeMap;

use access::impersonation::impersonation;
use access::token::{TokenKey, bearer, verify};
use api::custom::CustomKinds;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::accept::negotiate;
use gateway::read::{Selectors, list_request, version_of};
use gateway::request::ApiRequest;
use gateway::route::{Route, route, verb};

use super::refused;
use crate::engine::{Outcome, Target};
use crate::mutation::Shape;

/// Three lines: the path, the query, `Accept`.
pub const REQUEST: Target = Target {
    name: "request",
    shape: Shape::Text,
    seeds: || {
        let token = URL_SAFE_NO_PAD.encode("{\"v\":\"meta.k8s.io/v1\",\"rv\":5,\"start\":\"default\\u0000a\"}");
        let lines = [
            "/api/v1/namespaces/default/pods\nlabelSelector=a in (b)&fieldSelector=status.phase=Running&limit=5\napplication/json".to_owned(),
            format!("/api/v1/pods\nlimit=2&continue={token}\n*/*"),
            "/apis/apps/v1/deployments\nresourceVersion=5&resourceVersionMatch=Exact&watch=1\napplication/json;as=Table;v=v1;g=meta.k8s.io,*/*".to_owned(),
            "/api/v1/namespaces/default/pods/a/log\nfollow=true&tailLines=3\n".to_owned(),
            "/apis/batch/v1/namespaces/x/jobs/y/status\nsendInitialEvents=true&resourceVersionMatch=NotOlderThan\napplication/yaml".to_owned(),
        ];
        lines.into_iter().map(String::into_bytes).collect()
    },
    dictionary: &[
        "/api/v1",
        "/apis/",
        "namespaces",
        "pods",
        "status",
        "scale",
        "labelSelector=",
        "fieldSelector=",
        "continue=",
        "limit=",
        "resourceVersion=",
        "resourceVersionMatch=",
        "Exact",
        "NotOlderThan",
        "sendInitialEvents=true",
        "timeoutSeconds=",
        ";as=Table",
        ";g=meta.k8s.io",
        ";v=v1",
        ";q=0.5",
        "application/json",
        "application/yaml",
        "GET",
        "&",
        "=",
        "/",
    ],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n');
        let mut line = || lines.next().unwrap_or_default();
        let (path, query, accept) = (line(), line(), line());
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let request = ApiRequest {
            method: "GET".to_owned(),
            path: path.to_owned(),
            query: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect::<BTreeMap<_, _>>(),
            accept: accept.to_owned(),
            user_agent: accept.to_owned(),
            ..ApiRequest::default()
        };
        let manager = request.field_manager();
        assert!(!manager.is_empty());
        let accepted = negotiate(accept).map_or_else(|status| refused(&status).0, |form| form.0 as u64);
        let Route::Resource(target) = route(path, &CustomKinds::default()) else {
            return Outcome(accepted);
        };
        let verb = verb("GET", &target, request.flag("watch")).expect("everything can be read");
        let read = Selectors::of(&request, &target)
            .and_then(|_| version_of(&request))
            .and_then(|_| list_request(&request, &target));
        match read {
            Ok(list) => Outcome(list.limit.min(3) as u64 ^ accepted ^ Outcome::of(verb).0),
            Err(status) => refused(&status),
        }
    },
};

/// A key that has signed everything: what is behind the signature is read too.
struct Signed;

impl TokenKey for Signed {
    fn key_id(&self) -> &str {
        "k"
    }

    fn public_pem(&self) -> &str {
        ""
    }

    fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn verifies(&self, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

/// Two lines: `Authorization` or `Sec-WebSocket-Protocol`, and a header of impersonation.
pub const CREDENTIAL: Target = Target {
    name: "credential",
    shape: Shape::Text,
    seeds: || {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!(
            "{}.{}.c2ln",
            part(r#"{"alg":"ES256","kid":"k"}"#),
            part(
                r#"{"iss":"i","sub":"system:serviceaccount:a:b","aud":["x"],"exp":2,"iat":1,"nbf":1,"kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b","uid":"u"}}}"#
            )
        );
        let protocol = URL_SAFE_NO_PAD.encode(&token);
        let lines = [
            format!("Bearer {token}\nimpersonate-user: a"),
            format!("base64url.bearer.authorization.k8s.io.{protocol}, v5.channel.k8s.io\nimpersonate-extra-a%2fb: c"),
            "Bearer 07401b.f395accd246ae52d\nimpersonate-group: system:masters".to_owned(),
        ];
        lines.into_iter().map(String::into_bytes).collect()
    },
    dictionary: &[
        "Bearer ",
        ".",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ",
        "impersonate-user: ",
        "impersonate-extra-",
        "%2f",
        "%",
        "system:",
    ],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
        let of_protocols = bearer::of_protocols(first).map(|(token, _)| token);
        let token = bearer::of_header(first).map(str::to_owned).or(of_protocols);
        let verified = token.map(|token| verify(&token, &[&Signed]));
        let verified = match verified {
            None => 0,
            Some(Ok(_)) => 1,
            Some(Err(error)) => Outcome::of(&error.to_string()).0,
        };
        let header = second.split_once(": ");
        let asked = match impersonation(header) {
            Ok(asked) => u64::from(asked.is_some()),
            Err(error) => Outcome::of(&error.to_string()).0,
        };
        Outcome(verified ^ asked.rotate_left(1))
    },
};
