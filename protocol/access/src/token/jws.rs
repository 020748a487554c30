//! The compact form of a signed token (RFC 7515, section 7.1) with ES256 (RFC 7518, section 3.4), and nothing else: a token that
//! names another algorithm, or `none`, is refused before its signature is looked at.
//!
//! Written here and not taken from a JWT crate, because the crate on ring (jsonwebtoken 9) takes a malformed `nbf` for none
//! (CVE-2026-25537), and its successors bring a second cryptographic library. Signing itself is the key's business.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::token::claims::{Claims, TokenError};
use crate::token::legacy::LegacyClaims;

/// The longest token that is read, in bytes; those that are issued have about 1,000.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// An ES256 key, as the token code needs it. The node's process gives the cluster's own key.
pub trait TokenKey: Send + Sync {
    /// The key's id: base64url of the SHA-256 of the public key's DER, as Kubernetes derives it.
    fn key_id(&self) -> &str;
    /// The public key, PEM (SubjectPublicKeyInfo).
    fn public_pem(&self) -> &str;
    /// The signature: two numbers of 32 bytes, one after the other. `None` when the key refuses.
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>>;
    /// Whether the signature is this key's of this message.
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool;
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    /// Extensions that must be understood; none is.
    #[serde(default)]
    crit: Vec<String>,
}

/// A token of these claims. `None` when the key refuses to sign.
pub fn sign(claims: &Claims, key: &dyn TokenKey) -> Option<String> {
    sign_body(claims, key)
}

/// A token for a Secret. `None` when the key refuses to sign.
pub fn sign_legacy(claims: &LegacyClaims, key: &dyn TokenKey) -> Option<String> {
    sign_body(claims, key)
}

fn sign_body(claims: &impl Serialize, key: &dyn TokenKey) -> Option<String> {
    let header = serde_json::json!({"alg": "ES256", "kid": key.key_id()}).to_string();
    let body = serde_json::to_vec(claims).ok()?;
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
    let signature = key.sign(message.as_bytes())?;
    Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The claims of a token that one of the keys signed. Says nothing of their being true: see `Claims::check`. A token that
/// names its key is tried with that one alone.
pub fn verify(token: &str, keys: &[&dyn TokenKey]) -> Result<Claims, TokenError> {
    verify_as(token, keys)
}

/// As `verify`, for claims of any sort.
pub(super) fn verify_as<T: DeserializeOwned>(token: &str, keys: &[&dyn TokenKey]) -> Result<T, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, body) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Malformed)?;
    if header.alg != "ES256" || !header.crit.is_empty() {
        return Err(TokenError::Algorithm);
    }
    let signature = decoded(signature)?;
    let mut candidates = keys
        .iter()
        .filter(|key| header.kid.is_empty() || key.key_id() == header.kid);
    if !candidates.any(|key| key.verifies(message.as_bytes(), &signature)) {
        return Err(TokenError::Signature);
    }
    serde_json::from_slice(&decoded(body)?).map_err(|_| TokenError::Claims)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    };

    pub struct RingKey {
        pair: EcdsaKeyPair,
        id: String,
        pem: String,
    }

    impl RingKey {
        pub fn new(id: &str) -> RingKey {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
            let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
            let der = [prefix.as_slice(), pair.public_key().as_ref()].concat();
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            let lines: Vec<&str> = text
                .as_bytes()
                .chunks(64)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            let pem = format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                lines.join("\n")
            );
            RingKey {
                pair,
                id: id.to_owned(),
                pem,
            }
        }

        pub fn point(&self) -> &[u8] {
            self.pair.public_key().as_ref()
        }
    }

    impl TokenKey for RingKey {
        fn key_id(&self) -> &str {
            &self.id
        }

        fn public_pem(&self) -> &str {
            &self.pem
        }

        fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
            Some(self.pair.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec())
        }

        fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point());
            key.verify(message, signature).is_ok()
        }
    }

    pub fn claims() -> Claims {
        serde_json::from_value(serde_json::json!({
            "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:d:web", "aud": ["a"],
            "exp": 2000, "iat": 1000, "nbf": 1000, "jti": "j",
            "kubernetes.io": {"namespace": "d", "serviceaccount": {"name": "web", "uid": "u"}},
        }))
        .unwrap()
    }

    #[test]
    fn a_token_says_what_was_signed_to_its_own_key_alone() {
        let (key, other) = (RingKey::new("k1"), RingKey::new("k2"));
        let token = sign(&claims(), &key).unwrap();
        assert_eq!(verify(&token, &[&other, &key]).unwrap(), claims());
        assert_eq!(verify(&token, &[&other]).unwrap_err(), TokenError::Signature);
        // The same id does not make it the same key.
        assert_eq!(
            verify(&token, &[&RingKey::new("k1")]).unwrap_err(),
            TokenError::Signature
        );
    }

    #[test]
    fn other_algorithms_are_refused_unread() {
        let key = RingKey::new("k");
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims()).unwrap());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"ES256","crit":["b64"]}"#,
        ] {
            let message = format!("{}.{body}", URL_SAFE_NO_PAD.encode(header));
            let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).unwrap());
            assert_eq!(
                verify(&format!("{message}.{signature}"), &[&key]).unwrap_err(),
                TokenError::Algorithm
            );
        }
    }

    #[test]
    fn a_claim_of_the_wrong_type_refuses_the_token() {
        let key = RingKey::new("k");
        for (name, value) in [
            ("nbf", serde_json::json!("1")),
            ("exp", serde_json::json!(-1)),
            ("exp", serde_json::json!(null)),
        ] {
            let mut body = serde_json::to_value(claims()).unwrap();
            body[name] = value;
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
            let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(body.to_string()));
            let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).unwrap());
            assert_eq!(
                verify(&format!("{message}.{signature}"), &[&key]).unwrap_err(),
                TokenError::Claims,
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,80}") {
            prop_assert!(verify(&text, &[&RingKey::new("k")]).is_err());
        }

        /// Whatever byte of a token is changed, it is no longer a token.
        #[test]
        fn a_changed_token_is_refused(at in 0usize..10_000, to in proptest::sample::select(b"abcXYZ019-_.".as_slice())) {
            let key = RingKey::new("k");
            let mut token = sign(&claims(), &key).unwrap().into_bytes();
            let at = at % token.len();
            prop_assume!(token[at] != to);
            token[at] = to;
            prop_assert!(verify(std::str::from_utf8(&token).unwrap(), &[&key]).is_err());
        }
    }
}
