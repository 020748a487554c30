//! What lets others verify this cluster's tokens, and what needs no credential.

use serde_json::Value;
use tests::{Cluster, Kubectl};

/// OpenID's discovery, for ServiceAccounts as Kubernetes' default roles allow.
pub fn tokens_can_be_verified_elsewhere(_: &Cluster, client: &Kubectl) {
    let get = |path: &str| -> Value {
        let text = client.run(&format!(
            "get --raw {path} --as system:serviceaccount:default:default --as-group system:serviceaccounts"
        ));
        serde_json::from_str(&text).expect("a document")
    };
    let document = get("/.well-known/openid-configuration");
    let uri = document["jwks_uri"].as_str().unwrap_or_default().to_owned();
    assert!(
        uri.starts_with("https://") && uri.ends_with("/openid/v1/jwks"),
        "{document}"
    );
    let keys = get("/openid/v1/jwks");
    assert_eq!(keys["keys"][0]["kty"], "EC", "{keys}");
    let refused = client.refused("get --raw /openid/v1/jwks --as bob");
    assert!(refused.contains("Forbidden"), "{refused}");
}
