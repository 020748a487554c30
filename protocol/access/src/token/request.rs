//! TokenRequest: which token a ServiceAccount gets when it is asked for, `POST .../serviceaccounts/NAME/token`. After
//! Kubernetes' `registry/core/serviceaccount/storage/token.go`. The gateway reads the request, looks up what it is bound to,
//! builds the claims and signs them.

use api::access::Access;
use api::cause::Cause;
use api::status::{Details, Status};
use protocol::UnixMillis;
use serde_json::{Value, json};

use crate::token::claims::{Claims, ObjectRef, Private};
use crate::user::service_account_name;

/// What a request that does not say gets, in seconds.
const SECONDS_DEFAULT: u64 = 3600;
/// The shortest time that may be asked for, in seconds.
const SECONDS_MIN: u64 = 600;
/// The longest time that may be asked for, in seconds.
const SECONDS_MAX: u64 = 1 << 32;
/// The time that a node's agent asks for where the pod's author asked for none. It marks tokens that may be extended.
const SECONDS_EXTENDABLE: u64 = 3607;
/// How long an extended token lives, in seconds: a year, for programs that read their token once.
const SECONDS_EXTENDED: u64 = 365 * 24 * 3600;

/// What the cluster grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuePolicy {
    /// `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// The API's own audiences: the default, and those whose tokens may be extended.
    pub audiences: Vec<String>,
    /// The longest time that is granted, in seconds; `None` for no bound beyond 2^32.
    pub seconds_max: Option<u64>,
    /// Whether a pod's token lives for a year, with a warning after the time that was asked for.
    pub extend: bool,
}

/// The kinds that a token can be bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// Dies with the pod.
    Pod,
    /// Dies with the Secret.
    Secret,
    /// Dies with the Node.
    Node,
}

impl BindingKind {
    /// `pods`, `secrets`, `nodes`.
    pub fn resource(self) -> &'static str {
        match self {
            BindingKind::Pod => "pods",
            BindingKind::Secret => "secrets",
            BindingKind::Node => "nodes",
        }
    }
}

/// What a token is to be bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundObject {
    /// Its kind.
    pub kind: BindingKind,
    /// Its name, in the account's namespace.
    pub name: String,
    /// The uid that it must have; empty for any.
    pub uid: String,
}

/// A TokenRequest, read and defaulted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAsked {
    /// For whom; never empty.
    pub audiences: Vec<String>,
    /// For how long, in seconds, within the bounds.
    pub seconds: u64,
    /// Bound to what.
    pub bound: Option<BoundObject>,
    /// For the client's user, as `Warning` headers.
    pub warnings: Vec<String>,
}

/// What a token is issued from.
#[derive(Clone, Copy, Debug)]
pub struct Issue<'a> {
    /// The stored ServiceAccount.
    pub account: &'a Value,
    /// The stored object that the token is bound to.
    pub bound: Option<&'a Value>,
    /// The stored Node of the pod that the token is bound to.
    pub node: Option<&'a Value>,
    /// A fresh uuid, the token's id.
    pub id: &'a str,
    /// Now.
    pub now: UnixMillis,
}

impl TokenAsked {
    /// Reads a request's body.
    pub fn read(body: &Value, policy: &IssuePolicy) -> Result<TokenAsked, Status> {
        let spec = body.at(&["spec"]);
        let audiences: Vec<String> = spec
            .items("audiences")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let mut seconds = seconds_of(spec)?;
        let mut warnings = Vec::new();
        if let Some(most) = policy.seconds_max.filter(|most| seconds > *most) {
            warnings.push(format!(
                "requested expiration of {seconds} seconds shortened to {most} seconds"
            ));
            seconds = most;
        }
        Ok(TokenAsked {
            audiences: if audiences.is_empty() {
                policy.audiences.clone()
            } else {
                audiences
            },
            seconds,
            bound: bound_of(spec)?,
            warnings,
        })
    }

    /// The claims of the token that answers the request. Fails when what it should be bound to is not there, is another
    /// object of that name, or is another account's pod.
    pub fn claims(&self, policy: &IssuePolicy, issue: &Issue<'_>) -> Result<Claims, Status> {
        let metadata = issue.account.at(&["metadata"]);
        let (namespace, account) = (metadata.text("namespace"), metadata.text("name"));
        let now = issue.now.0 / 1000;
        let mut private = Private {
            namespace: namespace.to_owned(),
            serviceaccount: reference(issue.account),
            ..Private::default()
        };
        if let Some(bound) = &self.bound {
            let object = check_bound(bound, issue, account)?;
            match bound.kind {
                BindingKind::Pod => {
                    let node = object.at(&["spec"]).text("nodeName");
                    private.node = (!node.is_empty()).then(|| ObjectRef {
                        name: node.to_owned(),
                        uid: issue.node.map(|node| reference(node).uid).unwrap_or_default(),
                    });
                    private.pod = Some(reference(object));
                }
                BindingKind::Secret => private.secret = Some(reference(object)),
                BindingKind::Node => private.node = Some(reference(object)),
            }
        }
        let own_audience = self
            .audiences
            .iter()
            .all(|audience| policy.audiences.contains(audience));
        let extends = policy.extend && private.pod.is_some() && self.seconds == SECONDS_EXTENDABLE && own_audience;
        if extends {
            private.warnafter = Some(now + self.seconds);
        }
        let lives = if extends { SECONDS_EXTENDED } else { self.seconds };
        Ok(Claims {
            aud: self.audiences.clone(),
            exp: now + lives,
            iat: now,
            iss: policy.issuer.clone(),
            jti: issue.id.to_owned(),
            nbf: now,
            sub: service_account_name(namespace, account),
            private,
        })
    }
}

/// The answer's body: the request with what was granted. The time is the one that was asked for even where the token
/// lives longer, so that whoever holds it renews it in time.
pub fn respond(body: &Value, asked: &TokenAsked, token: &str, now: UnixMillis) -> Value {
    let mut answer = body.clone();
    if !answer.is_object() {
        answer = json!({});
    }
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["kind"] = "TokenRequest".into();
    let mut spec = json!({"audiences": asked.audiences, "expirationSeconds": asked.seconds, "boundObjectRef": null});
    if body.at(&["spec"]).has("boundObjectRef") {
        spec["boundObjectRef"] = body["spec"]["boundObjectRef"].clone();
    }
    answer["spec"] = spec;
    let expires = now.plus_ms(asked.seconds * 1000);
    answer["status"] = json!({"token": token, "expirationTimestamp": expires.rfc3339()});
    answer
}

fn reference(object: &Value) -> ObjectRef {
    let metadata = object.at(&["metadata"]);
    ObjectRef {
        name: metadata.text("name").to_owned(),
        uid: metadata.text("uid").to_owned(),
    }
}

fn seconds_of(spec: &Value) -> Result<u64, Status> {
    let refused = |seconds: i64, why: &str| {
        let cause = Cause {
            field: "spec.expirationSeconds".to_owned(),
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {seconds}: {why}"),
        };
        Err(Status::invalid_of(
            "authentication.k8s.io",
            "TokenRequest",
            "",
            vec![cause],
        ))
    };
    let Some(seconds) = spec.int("expirationSeconds") else {
        return Ok(SECONDS_DEFAULT);
    };
    match u64::try_from(seconds) {
        Ok(within) if (SECONDS_MIN..=SECONDS_MAX).contains(&within) => Ok(within),
        Ok(over) if over > SECONDS_MAX => refused(seconds, "may not specify a duration larger than 2^32 seconds"),
        _ => refused(seconds, "may not specify a duration less than 10 minutes"),
    }
}

fn bound_of(spec: &Value) -> Result<Option<BoundObject>, Status> {
    if !spec.has("boundObjectRef") {
        return Ok(None);
    }
    let reference = spec.at(&["boundObjectRef"]);
    let kind = match (reference.text("apiVersion"), reference.text("kind")) {
        ("v1", "Pod") => BindingKind::Pod,
        ("v1", "Secret") => BindingKind::Secret,
        ("v1", "Node") => BindingKind::Node,
        (version, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let text = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(text));
        }
    };
    Ok(Some(BoundObject {
        kind,
        name: reference.text("name").to_owned(),
        uid: reference.text("uid").to_owned(),
    }))
}

fn check_bound<'a>(bound: &BoundObject, issue: &Issue<'a>, account: &str) -> Result<&'a Value, Status> {
    let (resource, name) = (bound.kind.resource(), &bound.name);
    let details = |code: u16, reason: &'static str, message: String| Status {
        code,
        reason: reason.into(),
        message,
        details: Box::new(Details {
            name: name.clone(),
            kind: resource.to_owned(),
            ..Details::default()
        }),
    };
    let Some(object) = issue.bound else {
        return Err(details(404, "NotFound", format!("{resource} {name:?} not found")));
    };
    if bound.kind == BindingKind::Pod && object.at(&["spec"]).text("serviceAccountName") != account {
        let text = format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        );
        return Err(Status::bad_request(text));
    }
    if !bound.uid.is_empty() && bound.uid != object.at(&["metadata"]).text("uid") {
        let text = format!(
            "Operation cannot be fulfilled on {resource} {name:?}: the UID in the bound object reference ({}) does not match \
             the UID in record. The object might have been deleted and then recreated",
            bound.uid
        );
        return Err(details(409, "Conflict", text));
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> IssuePolicy {
        IssuePolicy {
            issuer: "https://i".into(),
            audiences: vec!["https://i".into()],
            seconds_max: None,
            extend: true,
        }
    }

    const NOW: UnixMillis = UnixMillis(1_000_000_000);

    fn issue<'a>(account: &'a Value, bound: Option<&'a Value>, node: Option<&'a Value>) -> Issue<'a> {
        Issue {
            account,
            bound,
            node,
            id: "j1",
            now: NOW,
        }
    }

    fn account() -> Value {
        json!({"metadata": {"namespace": "d", "name": "web", "uid": "u1"}})
    }

    #[test]
    fn a_request_gets_defaults_and_keeps_to_the_bounds() {
        let asked = TokenAsked::read(&json!({}), &policy()).unwrap();
        assert_eq!(
            (asked.seconds, asked.audiences.as_slice()),
            (3600, ["https://i".to_owned()].as_slice())
        );
        let cases = [
            (599, "may not specify a duration less than 10 minutes"),
            (-1, "may not specify a duration less than 10 minutes"),
            (4_294_967_297i64, "may not specify a duration larger than 2^32 seconds"),
        ];
        for (seconds, why) in cases {
            let body = json!({"spec": {"expirationSeconds": seconds}});
            let error = TokenAsked::read(&body, &policy()).unwrap_err();
            let expected = format!(
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: {why}"
            );
            assert_eq!((error.code, error.message), (422, expected));
        }
        let capped = IssuePolicy {
            seconds_max: Some(1000),
            ..policy()
        };
        let asked = TokenAsked::read(&json!({"spec": {"expirationSeconds": 2000}}), &capped).unwrap();
        assert_eq!(asked.seconds, 1000);
        assert_eq!(
            asked.warnings,
            ["requested expiration of 2000 seconds shortened to 1000 seconds"]
        );
    }

    #[test]
    fn a_pod_s_token_names_pod_and_node_and_may_live_longer_than_asked() {
        let body = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef":
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"}}});
        let asked = TokenAsked::read(&body, &policy()).unwrap();
        let pod =
            json!({"metadata": {"name": "p", "uid": "u2"}, "spec": {"nodeName": "n1", "serviceAccountName": "web"}});
        let node = json!({"metadata": {"name": "n1", "uid": "u3"}});
        let account = account();
        let claims = asked
            .claims(&policy(), &issue(&account, Some(&pod), Some(&node)))
            .unwrap();
        assert_eq!(
            serde_json::to_value(&claims).unwrap(),
            json!({"aud": ["https://i"], "exp": 1_000_000 + 31_536_000, "iat": 1_000_000, "iss": "https://i", "jti": "j1",
                "kubernetes.io": {"namespace": "d", "node": {"name": "n1", "uid": "u3"}, "pod": {"name": "p", "uid": "u2"},
                    "serviceaccount": {"name": "web", "uid": "u1"}, "warnafter": 1_003_607},
                "nbf": 1_000_000, "sub": "system:serviceaccount:d:web"})
        );
        let answer = respond(&body, &asked, "TOKEN", NOW);
        assert_eq!(
            answer["status"],
            json!({"token": "TOKEN", "expirationTimestamp": "1970-01-12T14:46:47Z"})
        );
        // Other audiences, other times, other bindings: no extension.
        for change in [json!({"audiences": ["vault"]}), json!({"expirationSeconds": 3600})] {
            let mut body = body.clone();
            for (name, value) in change.as_object().unwrap() {
                body["spec"][name] = value.clone();
            }
            let asked = TokenAsked::read(&body, &policy()).unwrap();
            let claims = asked.claims(&policy(), &issue(&account, Some(&pod), None)).unwrap();
            assert_eq!(
                (claims.private.warnafter, claims.exp - claims.iat),
                (None, asked.seconds)
            );
        }
    }

    #[test]
    fn a_binding_must_be_the_object_that_was_meant() {
        let account = account();
        let pod = json!({"metadata": {"name": "p", "uid": "u2"}, "spec": {"serviceAccountName": "web"}});
        let foreign = json!({"metadata": {"name": "p", "uid": "u2"}, "spec": {"serviceAccountName": "other"}});
        let attempt = |kind: &str, uid: &str, object: Option<&Value>| {
            let body = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": "p", "uid": uid}}});
            let asked = TokenAsked::read(&body, &policy())?;
            asked.claims(&policy(), &issue(&account, object, None))
        };
        assert!(attempt("Pod", "", Some(&pod)).is_ok());
        assert!(attempt("Secret", "u2", Some(&pod)).unwrap().private.secret.is_some());
        assert_eq!(attempt("Pod", "u2", None).unwrap_err().code, 404);
        assert_eq!(attempt("Pod", "u9", Some(&pod)).unwrap_err().code, 409);
        assert_eq!(attempt("Pod", "u2", Some(&foreign)).unwrap_err().code, 400);
        assert_eq!(attempt("ConfigMap", "", Some(&pod)).unwrap_err().code, 400);
    }
}
