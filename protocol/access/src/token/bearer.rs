//! What a bearer shows: where the token is in a request, of which sort it is, and a memory of those whose signature was good.
//! The gateway asks these in this order for every request that has no client certificate.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::HashMap;
use sha2::{Digest, Sha256};

use crate::token::bootstrap::BootstrapToken;
use crate::token::claims::{Claims, TokenError};
use crate::token::jws::{TokenKey, verify_as};
use crate::token::legacy::LegacyClaims;

/// The subprotocol by which a browser shows its token, as it cannot set headers.
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of an `Authorization` header: the scheme counts in any case, blanks around it do not.
pub fn of_header(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token of a `Sec-WebSocket-Protocol` header, and the protocols that remain. Only these may be answered: the token
/// must not be sent back.
pub fn of_protocols(value: &str) -> Option<(String, Vec<String>)> {
    let protocols = value.split(',').map(str::trim).filter(|protocol| !protocol.is_empty());
    let (mut token, mut others) = (None, Vec::new());
    for protocol in protocols {
        match protocol.strip_prefix(SUBPROTOCOL) {
            Some(encoded) if token.is_none() => {
                token = Some(String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?);
            }
            Some(_) => return None,
            None => others.push(protocol.to_owned()),
        }
    }
    Some((token.filter(|token| !token.is_empty())?, others))
}

/// A token by its sort. What it says is not yet true: its objects must be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// A ServiceAccount's, signed by the cluster.
    Account(Arc<Claims>),
    /// A ServiceAccount's from a Secret, signed by the cluster.
    Legacy(Arc<LegacyClaims>),
    /// A bootstrap token.
    Bootstrap(BootstrapToken),
}

impl Bearer {
    /// Reads a token; the signature of a signed one is good afterwards.
    pub fn read(token: &str, keys: &[&dyn TokenKey]) -> Result<Bearer, TokenError> {
        if let Some(token) = BootstrapToken::parse(token) {
            return Ok(Bearer::Bootstrap(token));
        }
        let body: serde_json::Value = verify_as(token, keys)?;
        if body.get("kubernetes.io/serviceaccount/namespace").is_some() {
            let claims: LegacyClaims = serde_json::from_value(body).map_err(|_| TokenError::Claims)?;
            claims.agree()?;
            return Ok(Bearer::Legacy(Arc::new(claims)));
        }
        let claims: Claims = serde_json::from_value(body).map_err(|_| TokenError::Claims)?;
        Ok(Bearer::Account(Arc::new(claims)))
    }
}

/// Signed tokens that were verified, so that a client that asks often costs one verification (about 100 microseconds of a
/// core) and not one a request. Only good ones are kept, so nobody without a token can fill it; the oldest goes first. Times
/// and objects are checked at every use all the same.
#[derive(Debug)]
pub struct VerifiedTokens {
    tokens: HashMap<[u8; 32], Bearer>,
    order: VecDeque<[u8; 32]>,
    most: usize,
}

impl VerifiedTokens {
    /// A memory of at most so many tokens, about 1 KiB each.
    pub fn new(most: usize) -> VerifiedTokens {
        VerifiedTokens {
            tokens: HashMap::default(),
            order: VecDeque::new(),
            most: most.max(1),
        }
    }

    /// The token, if it was verified.
    pub fn known(&self, token: &str) -> Option<Bearer> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.tokens.get(&digest).cloned()
    }

    /// Keeps a token that was read. Bootstrap tokens are not kept: nothing about them was proven.
    pub fn keep(&mut self, token: &str, bearer: &Bearer) {
        if matches!(bearer, Bearer::Bootstrap(_)) {
            return;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if self.tokens.insert(digest, bearer.clone()).is_none() {
            self.order.push_back(digest);
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.tokens.remove(&oldest);
            }
        }
    }

    /// Forgets all: the keys have changed.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::jws::tests::{RingKey, claims};
    use crate::token::{sign, sign_legacy};

    #[test]
    fn tokens_are_found_where_clients_put_them() {
        let cases = [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(of_header(value), expected, "{value:?}");
        }
        let protocol = format!("v5.channel.k8s.io, {SUBPROTOCOL}{}", URL_SAFE_NO_PAD.encode("abc"));
        assert_eq!(
            of_protocols(&protocol),
            Some(("abc".to_owned(), vec!["v5.channel.k8s.io".to_owned()]))
        );
        for none in [
            "v5.channel.k8s.io",
            "base64url.bearer.authorization.k8s.io.",
            "base64url.bearer.authorization.k8s.io.!",
        ] {
            assert_eq!(of_protocols(none), None, "{none}");
        }
    }

    #[test]
    fn each_sort_of_token_is_known_by_itself() {
        let key = RingKey::new("k");
        let keys: [&dyn TokenKey; 1] = [&key];
        let token = sign(&claims(), &key).unwrap();
        assert!(matches!(Bearer::read(&token, &keys), Ok(Bearer::Account(read)) if *read == claims()));
        let legacy = LegacyClaims::new("d", "web", "u", "s");
        let token = sign_legacy(&legacy, &key).unwrap();
        assert!(matches!(Bearer::read(&token, &keys), Ok(Bearer::Legacy(read)) if *read == legacy));
        assert!(matches!(
            Bearer::read("abcdef.0123456789abcdef", &keys),
            Ok(Bearer::Bootstrap(_))
        ));
        assert_eq!(Bearer::read("nonsense", &keys), Err(TokenError::Malformed));
    }

    #[test]
    fn the_memory_is_bounded_and_holds_what_was_proven() {
        let key = RingKey::new("k");
        let bearer = Bearer::read(&sign(&claims(), &key).unwrap(), &[&key]).unwrap();
        let mut memory = VerifiedTokens::new(2);
        for token in ["a", "b", "b", "c"] {
            memory.keep(token, &bearer);
        }
        assert_eq!(memory.known("a"), None);
        assert_eq!(memory.known("b"), Some(bearer.clone()));
        assert_eq!(memory.known("c"), Some(bearer));
        let bootstrap = Bearer::read("abcdef.0123456789abcdef", &[]).unwrap();
        memory.keep("d", &bootstrap);
        assert_eq!(memory.known("d"), None);
        memory.clear();
        assert_eq!(memory.known("c"), None);
    }
}
