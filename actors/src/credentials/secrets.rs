//! Secrets of the type `kubernetes.io/service-account-token`: each is filled with a token of the account that it names, and goes
//! with that account. After Kubernetes' tokens controller.

use access::token::{ACCOUNT_NAME, ACCOUNT_UID, LEGACY_SECRET_TYPE, LegacyClaims};
use api::access::{Access, object_mut};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What becomes of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is no concern of ours, or as it should be.
    Nothing,
    /// Its account does not exist, or is another one of that name.
    Delete,
    /// A token of these claims is missing.
    Sign(LegacyClaims),
    /// Only what stands beside the token is missing.
    Complete,
}

/// Which account a Secret names, by namespace and name.
pub fn account_of(secret: &Value) -> Option<(&str, &str)> {
    let metadata = secret.at(&["metadata"]);
    let name = metadata.at(&["annotations"]).text(ACCOUNT_NAME);
    (secret.text("type") == LEGACY_SECRET_TYPE && !name.is_empty()).then(|| (metadata.text("namespace"), name))
}

/// What a Secret needs.
pub fn step(secret: &Value, account: Option<&Value>, cluster_ca: &str) -> Step {
    let metadata = secret.at(&["metadata"]);
    let Some((namespace, name)) = account_of(secret) else {
        return Step::Nothing;
    };
    if metadata.has("deletionTimestamp") {
        return Step::Nothing;
    }
    let Some(account) = account else { return Step::Delete };
    let uid = account.at(&["metadata"]).text("uid");
    let named = metadata.at(&["annotations"]).text(ACCOUNT_UID);
    if !named.is_empty() && named != uid {
        return Step::Delete;
    }
    let data = secret.at(&["data"]);
    if data.text("token").is_empty() {
        return Step::Sign(LegacyClaims::new(namespace, name, uid, metadata.text("name")));
    }
    let complete = named == uid
        && data.text("ca.crt") == STANDARD.encode(cluster_ca)
        && data.text("namespace") == STANDARD.encode(namespace);
    if complete { Step::Nothing } else { Step::Complete }
}

/// The Secret with everything that it should hold; `token` where one was signed.
pub fn filled(secret: &Value, account: &Value, token: Option<&str>, cluster_ca: &str) -> Value {
    let mut wanted = secret.clone();
    let namespace = secret.at(&["metadata"]).text("namespace");
    let data = object_mut(&mut wanted, "data");
    if let Some(token) = token {
        data["token"] = STANDARD.encode(token).into();
    }
    data["ca.crt"] = STANDARD.encode(cluster_ca).into();
    data["namespace"] = STANDARD.encode(namespace).into();
    let annotations = object_mut(object_mut(&mut wanted, "metadata"), "annotations");
    annotations[ACCOUNT_UID] = account.at(&["metadata"]).text("uid").into();
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(annotations: Value, data: Value) -> Value {
        json!({"metadata": {"namespace": "d", "name": "s", "annotations": annotations}, "type": LEGACY_SECRET_TYPE, "data": data})
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let account = json!({"metadata": {"namespace": "d", "name": "web", "uid": "u1"}});
        let fresh = secret(json!({ACCOUNT_NAME: "web"}), Value::Null);
        let claims = LegacyClaims::new("d", "web", "u1", "s");
        assert_eq!(step(&fresh, Some(&account), "CA"), Step::Sign(claims));
        let full = filled(&fresh, &account, Some("TOKEN"), "CA");
        assert_eq!(step(&full, Some(&account), "CA"), Step::Nothing);
        assert_eq!(full["data"]["token"], STANDARD.encode("TOKEN"));
        assert_eq!(step(&full, Some(&account), "another CA"), Step::Complete);
        let again = filled(&full, &account, None, "another CA");
        assert_eq!(again["data"]["token"], full["data"]["token"]);

        assert_eq!(step(&full, None, "CA"), Step::Delete);
        let other = json!({"metadata": {"namespace": "d", "name": "web", "uid": "u2"}});
        assert_eq!(step(&full, Some(&other), "CA"), Step::Delete);
        let opaque = json!({"metadata": {"annotations": {ACCOUNT_NAME: "web"}}, "type": "Opaque"});
        assert_eq!(step(&opaque, None, "CA"), Step::Nothing);
    }
}
