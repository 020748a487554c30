//! The documents by which others verify this cluster's tokens: the key set (RFC 7517) and OpenID's discovery document.
//! The gateway serves both.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::token::jws::TokenKey;

/// Where the discovery document is served.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// Where the key set is served; its content type is `application/jwk-set+json`.
pub const JWKS_PATH: &str = "/openid/v1/jwks";

/// The head of the DER of a P-256 public key (RFC 5480): algorithm, curve, and a bit string of 66 bytes with an uncompressed point.
const P256_HEAD: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The two coordinates of the public key; `None` when the PEM is no P-256 key.
fn coordinates(pem: &str) -> Option<([u8; 32], [u8; 32])> {
    let text: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let der = STANDARD.decode(text).ok()?;
    let point: [u8; 64] = der.strip_prefix(&P256_HEAD)?.try_into().ok()?;
    let (x, y) = point.split_at(32);
    Some((x.try_into().ok()?, y.try_into().ok()?))
}

/// The public keys. A key that is no P-256 key has no place in it.
pub fn key_set(keys: &[&dyn TokenKey]) -> Value {
    let keys: Vec<Value> = keys
        .iter()
        .filter_map(|key| {
            let (x, y) = coordinates(key.public_pem())?;
            Some(json!({
                "use": "sig", "kty": "EC", "kid": key.key_id(), "crv": "P-256", "alg": "ES256",
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            }))
        })
        .collect();
    json!({"keys": keys})
}

/// OpenID's discovery document. `base` is the URL at which clients reach the API.
pub fn discovery_document(issuer: &str, base: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{}{JWKS_PATH}", base.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::jws::tests::RingKey;

    #[test]
    fn the_key_set_holds_the_point_of_the_key() {
        let key = RingKey::new("k1");
        let set = key_set(&[&key]);
        let decoded = |name: &str| URL_SAFE_NO_PAD.decode(set["keys"][0][name].as_str().unwrap()).unwrap();
        assert_eq!([vec![4], decoded("x"), decoded("y")].concat(), key.point());
        assert_eq!(set["keys"][0]["kid"], "k1");
        assert_eq!(coordinates("nonsense"), None);
    }

    #[test]
    fn discovery_names_issuer_and_keys() {
        let document = discovery_document("https://kubernetes.default.svc", "https://10.0.0.1:6443/");
        assert_eq!(document["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
        assert_eq!(document["issuer"], "https://kubernetes.default.svc");
    }
}
