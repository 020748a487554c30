//! What a ServiceAccount's token claims, and when that holds: for its issuer, its audiences, its time and the live objects
//! that it is bound to. After Kubernetes' `serviceaccount/claims.go`. The caller looks the objects up: `Claims::bindings` says
//! which, `Claims::check_objects` judges what was found.

use protocol::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::user::{self, User, service_account_name};

/// How much the clocks of issuer and reader may differ, in seconds: go-jose's default.
const LEEWAY_SECONDS: u64 = 60;

/// Name and uid of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims in `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Private {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    pub serviceaccount: ObjectRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<u64>,
}

/// One audience or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

fn audiences<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Audiences::deserialize(deserializer)? {
        Audiences::One(audience) => vec![audience],
        Audiences::Many(audiences) => audiences,
    })
}

/// The claims of a ServiceAccount's token. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is.
    #[serde(deserialize_with = "audiences")]
    pub aud: Vec<String>,
    /// When it ends.
    pub exp: u64,
    /// When it was issued.
    pub iat: u64,
    /// Who issued it.
    pub iss: String,
    /// Its id.
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) private: Private,
    /// When it begins.
    pub nbf: u64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no signed token.
    #[error("the bearer token is not a signed token of three parts")]
    Malformed,
    /// Its algorithm is not ES256.
    #[error("the token is signed with an algorithm that this cluster does not use")]
    Algorithm,
    /// None of the cluster's keys signed it.
    #[error("invalid bearer token: no key of this cluster signed it")]
    Signature,
    /// A claim is missing or has another type.
    #[error("the token's claims are not those of a service account")]
    Claims,
    /// Another issuer's.
    #[error("the token was issued by {issuer:?}, which this cluster does not trust")]
    Issuer {
        /// Who issued it.
        issuer: String,
    },
    /// For others.
    #[error("token audiences {} is invalid for the target audiences {}", go_list(.token), go_list(.wanted))]
    Audience {
        /// For whom it is.
        token: Vec<String>,
        /// For whom it should be.
        wanted: Vec<String>,
    },
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYetValid,
    /// Its subject and its private claims name different accounts.
    #[error("service account name claim ({claimed}) does not match the token's subject ({subject})")]
    Subject {
        /// From the private claims.
        claimed: String,
        /// `sub`.
        subject: String,
    },
    /// An object that it is bound to does not exist or is another one of the same name.
    #[error("{0}")]
    Invalidated(String),
}

fn go_list(list: &[String]) -> String {
    let entries: Vec<String> = list.iter().map(|entry| format!("{entry:?}")).collect();
    format!("[{}]", entries.join(" "))
}

/// An object whose existence a token depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBinding {
    /// `serviceaccounts`, `pods`, `secrets` or `nodes`.
    pub resource: &'static str,
    /// Empty for a node.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uid that it must have.
    pub uid: String,
}

/// What was found of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveObject {
    /// Its uid.
    pub uid: String,
    /// Since when it is being deleted.
    pub deleting_since: Option<UnixMillis>,
}

/// What the lookups found, in the order of `Claims::bindings`; `None` where nothing is.
pub type LiveObjects = [Option<LiveObject>];

/// The token outlived the time that it was asked for and lives on its extension: something does not reload its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleToken {
    /// For the audit annotation `authentication.k8s.io/stale-token`.
    pub text: String,
}

impl Claims {
    /// Checks what needs no lookup. `wanted` are the audiences, one of which must be the token's. Answers with the
    /// audiences that are both wanted and the token's.
    pub fn check(&self, issuers: &[&str], wanted: &[String], now: UnixMillis) -> Result<Vec<String>, TokenError> {
        if !issuers.contains(&self.iss.as_str()) {
            return Err(TokenError::Issuer {
                issuer: self.iss.clone(),
            });
        }
        let common: Vec<String> = wanted
            .iter()
            .filter(|audience| self.aud.contains(audience))
            .cloned()
            .collect();
        if common.is_empty() {
            let (token, wanted) = (self.aud.clone(), wanted.to_vec());
            return Err(TokenError::Audience { token, wanted });
        }
        let seconds = now.0 / 1000;
        if seconds > self.exp.saturating_add(LEEWAY_SECONDS) {
            return Err(TokenError::Expired);
        }
        if seconds.saturating_add(LEEWAY_SECONDS) < self.nbf.max(self.iat) {
            return Err(TokenError::NotYetValid);
        }
        let claimed = service_account_name(&self.private.namespace, &self.private.serviceaccount.name);
        if claimed != self.sub || user::split_service_account(&self.sub).is_none() {
            let subject = self.sub.clone();
            return Err(TokenError::Subject { claimed, subject });
        }
        Ok(common)
    }

    /// The objects that must be looked up: the account first, then what the token is bound to. A node that comes with a pod
    /// is information only and is not looked up.
    pub fn bindings(&self) -> Vec<TokenBinding> {
        let private = &self.private;
        let binding = |resource, namespace: &str, object: &ObjectRef| TokenBinding {
            resource,
            namespace: namespace.to_owned(),
            name: object.name.clone(),
            uid: object.uid.clone(),
        };
        let mut bindings = vec![binding("serviceaccounts", &private.namespace, &private.serviceaccount)];
        bindings.extend(
            private
                .secret
                .iter()
                .map(|secret| binding("secrets", &private.namespace, secret)),
        );
        bindings.extend(private.pod.iter().map(|pod| binding("pods", &private.namespace, pod)));
        if private.pod.is_none() {
            bindings.extend(private.node.iter().map(|node| binding("nodes", "", node)));
        }
        bindings
    }

    /// Judges what the lookups of `bindings` found. An object that is being deleted counts for a minute more, as its pods
    /// may need their token to end well.
    pub fn check_objects(&self, found: &LiveObjects, now: UnixMillis) -> Result<(), TokenError> {
        for (index, binding) in self.bindings().iter().enumerate() {
            let object = found.get(index).and_then(Option::as_ref);
            if binding.resource == "serviceaccounts" {
                check_account(binding, object, now)?;
            } else {
                check_bound(binding, object, now)?;
            }
        }
        Ok(())
    }

    /// Who the token proves its bearer to be. Sound after `check` and `check_objects`.
    pub fn user(&self) -> User {
        let private = &self.private;
        let mut user = User::service_account(
            &private.namespace,
            &private.serviceaccount.name,
            &private.serviceaccount.uid,
        );
        let mut add = |key: &str, value: String| user.extra.insert(key.to_owned(), vec![value]);
        if !self.jti.is_empty() {
            add(user::CREDENTIAL_ID, format!("JTI={}", self.jti));
        }
        if let Some(pod) = &private.pod {
            add(user::POD_NAME, pod.name.clone());
            add(user::POD_UID, pod.uid.clone());
        }
        if let Some(node) = &private.node {
            add(user::NODE_NAME, node.name.clone());
            add(user::NODE_UID, node.uid.clone());
        }
        user
    }

    /// Whether the token is past the time that it was asked for.
    pub fn stale(&self, now: UnixMillis) -> Option<StaleToken> {
        let late = (now.0 / 1000).checked_sub(self.private.warnafter?)?;
        (late > 0).then(|| StaleToken {
            text: format!("subject: {}, seconds after warning threshold: {late}", self.sub),
        })
    }
}

fn is_gone(object: &LiveObject, now: UnixMillis) -> bool {
    let since = object.deleting_since;
    since.is_some_and(|since| since.plus_ms(LEEWAY_SECONDS * 1000) < now)
}

/// Judges the account of a token.
pub(super) fn check_account(
    binding: &TokenBinding,
    found: Option<&LiveObject>,
    now: UnixMillis,
) -> Result<(), TokenError> {
    let TokenBinding {
        namespace, name, uid, ..
    } = binding;
    let text = match found {
        None => format!("serviceaccounts {name:?} not found"),
        Some(account) if is_gone(account, now) => format!("service account {namespace}/{name} has been deleted"),
        Some(account) if account.uid != *uid => {
            format!("service account UID ({}) does not match claim ({uid})", account.uid)
        }
        Some(_) => return Ok(()),
    };
    Err(TokenError::Invalidated(text))
}

/// Judges the Secret, the pod or the node that a token is bound to.
fn check_bound(binding: &TokenBinding, found: Option<&LiveObject>, now: UnixMillis) -> Result<(), TokenError> {
    let uid = &binding.uid;
    let text = match found.filter(|object| !is_gone(object, now)) {
        None => "service account token has been invalidated".to_owned(),
        Some(object) if object.uid != *uid => {
            let what = match binding.resource {
                "secrets" => "secret",
                "pods" => "pod",
                _ => "node",
            };
            let live = &object.uid;
            format!("{what} UID ({live}) does not match service account {what} ref claim ({uid})")
        }
        Some(_) => return Ok(()),
    };
    Err(TokenError::Invalidated(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(private: serde_json::Value) -> Claims {
        serde_json::from_value(json!({
            "iss": "https://i", "sub": "system:serviceaccount:d:web", "aud": ["https://i", "vault"], "jti": "j1",
            "exp": 5000, "iat": 1000, "nbf": 1000, "kubernetes.io": private,
        }))
        .unwrap()
    }

    fn bound() -> Claims {
        claims(json!({"namespace": "d", "serviceaccount": {"name": "web", "uid": "u1"},
            "pod": {"name": "p", "uid": "u2"}, "node": {"name": "n1", "uid": "u3"}, "warnafter": 2000}))
    }

    fn live(uid: &str) -> Option<LiveObject> {
        Some(LiveObject {
            uid: uid.to_owned(),
            deleting_since: None,
        })
    }

    #[test]
    fn time_issuer_and_audience_must_fit() {
        let wanted = |audience: &str| vec![audience.to_owned()];
        let at = |seconds: u64| UnixMillis(seconds * 1000);
        let check =
            |issuer: &str, audience: &str, seconds: u64| bound().check(&[issuer], &wanted(audience), at(seconds));
        assert_eq!(check("https://i", "vault", 1500), Ok(wanted("vault")));
        assert_eq!(check("https://i", "https://i", 5060), Ok(wanted("https://i")));
        assert_eq!(check("https://i", "vault", 5061), Err(TokenError::Expired));
        assert_eq!(check("https://i", "vault", 939), Err(TokenError::NotYetValid));
        assert!(matches!(
            check("https://j", "vault", 1500),
            Err(TokenError::Issuer { .. })
        ));
        let error = check("https://i", "x", 1500).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"token audiences ["https://i" "vault"] is invalid for the target audiences ["x"]"#
        );
        let mut forged = bound();
        forged.sub = "system:serviceaccount:kube-system:admin".into();
        assert!(matches!(
            forged.check(&["https://i"], &wanted("vault"), at(1500)),
            Err(TokenError::Subject { .. })
        ));
    }

    #[test]
    fn a_single_audience_may_be_plain_text() {
        let mut value = serde_json::to_value(bound()).unwrap();
        value["aud"] = "vault".into();
        assert_eq!(serde_json::from_value::<Claims>(value).unwrap().aud, ["vault"]);
    }

    #[test]
    fn a_token_lives_as_long_as_what_it_is_bound_to() {
        let claims = bound();
        let resources: Vec<&str> = claims.bindings().iter().map(|binding| binding.resource).collect();
        assert_eq!(
            resources,
            ["serviceaccounts", "pods"],
            "a node that comes with a pod is not looked up"
        );
        let now = UnixMillis(2_000_000);
        let deleting = |uid: &str, since| {
            Some(LiveObject {
                uid: uid.to_owned(),
                deleting_since: Some(UnixMillis(since)),
            })
        };
        let cases = [
            (vec![live("u1"), live("u2")], ""),
            (vec![live("u1"), deleting("u2", 1_940_000)], ""),
            (vec![None, live("u2")], "serviceaccounts \"web\" not found"),
            (
                vec![live("u9"), live("u2")],
                "service account UID (u9) does not match claim (u1)",
            ),
            (vec![live("u1"), None], "service account token has been invalidated"),
            (vec![live("u1")], "service account token has been invalidated"),
            (
                vec![live("u1"), live("u9")],
                "pod UID (u9) does not match service account pod ref claim (u2)",
            ),
            (
                vec![live("u1"), deleting("u2", 1_939_999)],
                "service account token has been invalidated",
            ),
            (
                vec![deleting("u1", 1_000), live("u2")],
                "service account d/web has been deleted",
            ),
        ];
        for (found, expected) in cases {
            let result = claims.check_objects(&found, now);
            assert_eq!(
                result.map_or_else(|error| error.to_string(), |()| String::new()),
                expected
            );
        }
        let node = super::tests::claims(json!({"namespace": "d", "serviceaccount": {"name": "web", "uid": "u1"},
            "node": {"name": "n1", "uid": "u3"}}));
        assert_eq!(node.bindings()[1].resource, "nodes");
        assert!(node.check_objects(&[live("u1"), live("u4")], now).is_err());
    }

    #[test]
    fn the_bearer_is_the_account_with_what_it_is_bound_to() {
        let user = bound().user();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str()),
            ("system:serviceaccount:d:web", "u1")
        );
        let extra: Vec<(&str, &str)> = user
            .extra
            .iter()
            .map(|(key, value)| (key.as_str(), value[0].as_str()))
            .collect();
        assert_eq!(
            extra,
            [
                ("authentication.kubernetes.io/credential-id", "JTI=j1"),
                ("authentication.kubernetes.io/node-name", "n1"),
                ("authentication.kubernetes.io/node-uid", "u3"),
                ("authentication.kubernetes.io/pod-name", "p"),
                ("authentication.kubernetes.io/pod-uid", "u2"),
            ]
        );
        assert_eq!(bound().stale(UnixMillis(2_000_999)), None);
        let stale = bound().stale(UnixMillis(2_007_000)).unwrap();
        assert_eq!(
            stale.text,
            "subject: system:serviceaccount:d:web, seconds after warning threshold: 7"
        );
    }
}
