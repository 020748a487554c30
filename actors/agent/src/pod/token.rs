//! ServiceAccount tokens of a pod's projected volumes: which ones its volumes want, and when each is replaced. Pure; the pod's
//! actor asks a `TokenSource` for them and hands them in with the pod's other dependencies.
//!
//! A token is bound to its pod: it is refused everywhere once the pod is gone, so nothing has to take it back. It is held in
//! memory alone and given again to every volume that wants the same; after a restart of the node process it is asked for anew.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ServiceAccountTokenProjection};
use protocol::UnixMillis;
use protocol::runtime::PodIdentity;

use super::dependency::Dependencies;

/// What a projection that does not say gets, in seconds.
const SECONDS_DEFAULT: u64 = 3600;
/// A token is replaced at the latest when it is a day old, as the kubelet does it.
const AGE_MAX_MS: u64 = 24 * 3600 * 1000;
/// Tokens of pods that started together are not all replaced in the same moment: they are spread over so much time.
const SPREAD_MS: u64 = 10_000;
/// How soon a token that could not be replaced is asked for again. A fifth of its life is left then, two minutes at least.
const RETRY_MS: u64 = 15_000;

/// A token that a volume wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWish {
    /// For whom; empty for the API server.
    pub audience: String,
    /// How long it is to be valid, in seconds.
    pub seconds: u64,
}

impl TokenWish {
    /// What a projection wants.
    pub fn of(projection: &ServiceAccountTokenProjection) -> TokenWish {
        let seconds = projection
            .expiration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        TokenWish {
            audience: projection.audience.clone().unwrap_or_default(),
            seconds: seconds.unwrap_or(SECONDS_DEFAULT),
        }
    }
}

/// A token that was given.
#[derive(Clone, PartialEq, Eq)]
pub struct HeldToken {
    /// What the pod shows.
    pub token: String,
    /// Since when it is valid.
    pub issued_at: UnixMillis,
    /// Until when.
    pub expires_at: UnixMillis,
}

/// Without the token: what is printed for debugging ends in logs.
impl std::fmt::Debug for HeldToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldToken({:?} to {:?})", self.issued_at, self.expires_at)
    }
}

impl HeldToken {
    /// When it is replaced: after four fifths of its life, or a day.
    fn replace_at(&self, spread_ms: u64) -> UnixMillis {
        let life_ms = self.expires_at.since_ms(self.issued_at);
        let due_ms = (life_ms - life_ms / 5).min(AGE_MAX_MS);
        self.issued_at.plus_ms(due_ms.saturating_sub(spread_ms))
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The cluster does not give it, such as when the account is gone.
    #[error("{0}")]
    Refused(String),
    /// The store does not answer.
    #[error("the issuer does not answer: {0}")]
    Unavailable(String),
}

/// Who gives tokens: the cluster's issuer.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token of an account of the pod's namespace, bound to the pod.
    async fn token(&self, pod: &PodIdentity, account: &str, wish: &TokenWish) -> Result<HeldToken, TokenError>;
}

/// Every token that the pod's volumes want.
pub fn wishes(spec: &PodSpec) -> BTreeSet<TokenWish> {
    let volumes = spec.volumes.iter().flatten();
    let sources = volumes.flat_map(|volume| volume.projected.iter().flat_map(|all| all.sources.iter().flatten()));
    sources
        .filter_map(|source| source.service_account_token.as_ref().map(TokenWish::of))
        .collect()
}

/// The account as which the pod runs.
pub fn account(pod: &Pod) -> &str {
    let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    named.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The tokens of a pod, over time.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    held: BTreeMap<TokenWish, HeldToken>,
    retry_at: Option<UnixMillis>,
}

impl Tokens {
    /// When one of them is replaced next.
    pub fn due_at(&self, pod: &Pod) -> Option<UnixMillis> {
        let spread_ms = spread_ms(pod);
        let first = self.held.values().map(|token| token.replace_at(spread_ms)).min()?;
        Some(self.retry_at.map_or(first, |retry_at| first.max(retry_at)))
    }

    /// Those that must be asked for: what is not held, and what is to be replaced.
    pub fn missing(&self, pod: &Pod, now: UnixMillis) -> Vec<TokenWish> {
        let spread_ms = spread_ms(pod);
        let fresh = |wish: &TokenWish| {
            let held = self.held.get(wish);
            held.is_some_and(|token| token.replace_at(spread_ms) > now)
        };
        let wanted = pod.spec.as_ref().map(wishes).unwrap_or_default();
        wanted.into_iter().filter(|wish| !fresh(wish)).collect()
    }

    /// Takes what was read, and completes it with what is held. A token that could not be replaced is shown while it is valid.
    pub fn merge(&mut self, read: &mut Dependencies, now: UnixMillis) {
        self.retry_at = None;
        for (wish, answer) in &read.tokens {
            match answer {
                Ok(token) => drop(self.held.insert(wish.clone(), token.clone())),
                Err(_) => self.retry_at = Some(now.plus_ms(RETRY_MS)),
            }
        }
        self.held.retain(|_, token| token.expires_at > now);
        for (wish, token) in &self.held {
            read.tokens.insert(wish.clone(), Ok(token.clone()));
        }
    }
}

/// How much earlier than others this pod replaces its tokens.
fn spread_ms(pod: &Pod) -> u64 {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let hash = uid
        .bytes()
        .fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    hash % SPREAD_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        let projection = |audience: &str, seconds: u64| json!({"serviceAccountToken": {"path": "t", "audience": audience, "expirationSeconds": seconds}});
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": ""},
            "spec": {"containers": [], "volumes": [
                {"name": "a", "projected": {"sources": [projection("", 3607), projection("vault", 600)]}},
                {"name": "b", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, projection("", 3607)]}},
            ]},
        }))
        .unwrap()
    }

    fn wish(audience: &str, seconds: u64) -> TokenWish {
        TokenWish {
            audience: audience.to_owned(),
            seconds,
        }
    }

    fn held(text: &str, from_seconds: u64, seconds: u64) -> HeldToken {
        HeldToken {
            token: text.to_owned(),
            issued_at: UnixMillis(from_seconds * 1000),
            expires_at: UnixMillis((from_seconds + seconds) * 1000),
        }
    }

    fn answers(all: Vec<(TokenWish, Result<HeldToken, String>)>) -> Dependencies {
        Dependencies {
            tokens: all.into_iter().collect(),
            ..Dependencies::default()
        }
    }

    #[test]
    fn equal_wishes_are_one_token() {
        let all = wishes(pod().spec.as_ref().unwrap());
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [wish("", 3600), wish("", 3607), wish("vault", 600)]
        );
    }

    #[test]
    fn a_token_is_replaced_after_four_fifths_of_its_life_or_a_day() {
        for (seconds, due_seconds) in [(600, 480), (3607, 2885), (7 * 86_400, 86_400)] {
            let due = held("t", 1000, seconds).replace_at(0);
            assert_eq!(due.0 / 1000, 1000 + due_seconds, "{seconds}");
        }
        assert_eq!(held("t", 1000, 600).replace_at(5_000), UnixMillis(1_475_000));
    }

    #[test]
    fn only_what_is_due_is_asked_for_again_and_an_old_token_serves_until_it_expires() {
        let (pod, mut tokens) = (pod(), Tokens::default());
        assert_eq!(tokens.missing(&pod, UnixMillis(0)).len(), 3);
        let mut read = answers(vec![
            (wish("", 3600), Ok(held("one", 0, 3600))),
            (wish("", 3607), Ok(held("two", 0, 3607))),
            (wish("vault", 600), Ok(held("three", 0, 600))),
        ]);
        tokens.merge(&mut read, UnixMillis(0));
        assert_eq!(tokens.due_at(&pod), Some(UnixMillis(480_000)));
        let now = UnixMillis(480_000);
        assert_eq!(tokens.missing(&pod, now), [wish("vault", 600)]);

        let mut read = answers(vec![(wish("vault", 600), Err("no".to_owned()))]);
        tokens.merge(&mut read, now);
        assert_eq!(read.tokens[&wish("vault", 600)], Ok(held("three", 0, 600)));
        assert_eq!(read.tokens.len(), 3);
        assert_eq!(tokens.due_at(&pod), Some(now.plus_ms(RETRY_MS)));

        let mut read = answers(vec![(wish("vault", 600), Err("no".to_owned()))]);
        tokens.merge(&mut read, UnixMillis(600_000));
        assert_eq!(read.tokens[&wish("vault", 600)], Err("no".to_owned()));

        let mut read = answers(vec![(wish("vault", 600), Ok(held("four", 601, 600)))]);
        tokens.merge(&mut read, UnixMillis(601_000));
        assert_eq!(tokens.due_at(&pod), Some(UnixMillis(1_081_000)));
    }
}
