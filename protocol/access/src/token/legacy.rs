//! Tokens of Secrets of the type `kubernetes.io/service-account-token`: they have no audience and no end, and live as long as
//! their Secret. After Kubernetes' `serviceaccount/legacy.go`. The control plane fills such a Secret when somebody makes
//! one; programs outside of the cluster use them.

use api::access::Access;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::token::claims::{LiveObject, TokenBinding, TokenError, check_account};
use crate::token::same_secret;
use crate::user::{User, service_account_name};

/// The issuer of all such tokens.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// The type of their Secrets.
pub const LEGACY_SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// The annotation of the Secret with the account's name.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// The annotation of the Secret with the account's uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// A label on a Secret whose token is not accepted any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What such a token claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

impl LegacyClaims {
    /// The claims for the Secret of an account.
    pub fn new(namespace: &str, account: &str, account_uid: &str, secret: &str) -> LegacyClaims {
        LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            sub: service_account_name(namespace, account),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: account_uid.to_owned(),
        }
    }

    /// Whether the claims agree with each other.
    pub(super) fn agree(&self) -> Result<(), TokenError> {
        let claimed = service_account_name(&self.namespace, &self.account);
        if self.iss != LEGACY_ISSUER {
            return Err(TokenError::Issuer {
                issuer: self.iss.clone(),
            });
        }
        if claimed != self.sub || crate::user::split_service_account(&self.sub).is_none() {
            return Err(TokenError::Subject {
                claimed,
                subject: self.sub.clone(),
            });
        }
        Ok(())
    }

    /// The objects that must be looked up: the account and the Secret.
    pub fn bindings(&self) -> [TokenBinding; 2] {
        let binding = |resource, name: &str, uid: &str| TokenBinding {
            resource,
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        [
            binding("serviceaccounts", &self.account, &self.uid),
            binding("secrets", &self.secret, ""),
        ]
    }

    /// Judges what the lookups found: the account, and the Secret, which must still hold this very token.
    pub fn check_objects(
        &self,
        token: &str,
        account: Option<&LiveObject>,
        secret: Option<&Value>,
        now: UnixMillis,
    ) -> Result<(), TokenError> {
        check_account(&self.bindings()[0], account, now)?;
        let invalidated = || TokenError::Invalidated("service account token has been invalidated".to_owned());
        let secret = secret.filter(|secret| !secret.at(&["metadata"]).has("deletionTimestamp"));
        let secret = secret.filter(|secret| !secret.at(&["metadata", "labels"]).has(INVALID_SINCE));
        let secret = secret.ok_or_else(invalidated)?;
        let kept = STANDARD
            .decode(secret.at(&["data"]).text("token"))
            .map_err(|_| invalidated())?;
        if same_secret(&kept, token.as_bytes()) {
            Ok(())
        } else {
            Err(TokenError::Invalidated(
                "service account token does not match server's copy".to_owned(),
            ))
        }
    }

    /// Who the token proves its bearer to be. Sound after `check_objects`.
    pub fn user(&self) -> User {
        User::service_account(&self.namespace, &self.account, &self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_token_lives_as_long_as_its_secret_holds_it() {
        let claims = LegacyClaims::new("d", "web", "u1", "web-token");
        assert_eq!(claims.agree(), Ok(()));
        assert_eq!(
            serde_json::to_value(&claims).unwrap(),
            json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:d:web",
                "kubernetes.io/serviceaccount/namespace": "d", "kubernetes.io/serviceaccount/secret.name": "web-token",
                "kubernetes.io/serviceaccount/service-account.name": "web",
                "kubernetes.io/serviceaccount/service-account.uid": "u1"})
        );
        let account = LiveObject {
            uid: "u1".into(),
            deleting_since: None,
        };
        let other = LiveObject {
            uid: "u2".into(),
            deleting_since: None,
        };
        let secret =
            |token: &str| json!({"metadata": {"name": "web-token"}, "data": {"token": STANDARD.encode(token)}});
        let now = UnixMillis(0);
        let check = |account: Option<&LiveObject>, secret: Option<&Value>| {
            claims.check_objects("T", account, secret, now).is_ok()
        };
        assert!(check(Some(&account), Some(&secret("T"))));
        assert!(!check(Some(&account), Some(&secret("U"))));
        assert!(!check(Some(&other), Some(&secret("T"))));
        assert!(!check(None, Some(&secret("T"))) && !check(Some(&account), None));
        for (field, name) in [("labels", INVALID_SINCE), ("", "")] {
            let mut gone = secret("T");
            if field.is_empty() {
                gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            } else {
                gone["metadata"][field] = json!({name: "2026-01-01"});
            }
            assert!(!check(Some(&account), Some(&gone)));
        }
    }

    #[test]
    fn claims_that_contradict_each_other_are_refused() {
        let mut claims = LegacyClaims::new("d", "web", "u1", "s");
        claims.sub = "system:serviceaccount:kube-system:admin".into();
        assert!(matches!(claims.agree(), Err(TokenError::Subject { .. })));
    }
}
