//! The agent's way to the cluster's issuer of ServiceAccount tokens, which is part of this process: a TokenRequest for each
//! token, bound to its pod. What the token says and whether it is given is the issuer's business.

use std::sync::Arc;

use agent::pod::token::{HeldToken, TokenError, TokenSource, TokenWish};
use api::status::Status;
use async_trait::async_trait;
use gateway::issuer::Issuer;
use protocol::runtime::PodIdentity;
use protocol::{NodeName, Uid};
use serde_json::{Value, json};

use crate::clock::{now, random};

/// Asks the issuer for the tokens of this node's pods.
pub struct PodTokens {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// This node's name: its pods are here.
    pub node: NodeName,
}

#[async_trait]
impl TokenSource for PodTokens {
    async fn token(&self, pod: &PodIdentity, account: &str, wish: &TokenWish) -> Result<HeldToken, TokenError> {
        let (id, issued_at) = (Uid::from_bits(random()), now());
        let request = token_request(pod, wish);
        let answer = self
            .issuer
            .request(
                (&pod.namespace, account),
                &request,
                id.as_str(),
                issued_at,
                Some(self.node.as_str()),
            )
            .await;
        let (answer, _) = answer.map_err(refusal)?;
        let token = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
        // What was granted may be shorter than what was asked for.
        let seconds = answer["spec"]["expirationSeconds"].as_u64().unwrap_or(wish.seconds);
        Ok(HeldToken {
            token,
            issued_at,
            expires_at: issued_at.plus_ms(seconds * 1000),
        })
    }
}

fn token_request(pod: &PodIdentity, wish: &TokenWish) -> Value {
    let audiences: Vec<&str> = Some(wish.audience.as_str())
        .filter(|audience| !audience.is_empty())
        .into_iter()
        .collect();
    json!({"spec": {
        "audiences": audiences,
        "expirationSeconds": wish.seconds,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid.as_str()},
    }})
}

/// A store that does not answer is asked again; everything else is an answer.
fn refusal(status: Status) -> TokenError {
    if status.code >= 500 || status.code == 429 {
        TokenError::Unavailable(status.message)
    } else {
        TokenError::Refused(status.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_by_its_pod() {
        let pod = PodIdentity {
            uid: Uid::new("u1"),
            namespace: "d".to_owned(),
            name: "p".to_owned(),
        };
        let wish = |audience: &str| TokenWish {
            audience: audience.to_owned(),
            seconds: 3607,
        };
        let own = token_request(&pod, &wish(""));
        assert_eq!(own["spec"]["audiences"], json!([]));
        assert_eq!(own["spec"]["boundObjectRef"]["uid"], "u1");
        assert_eq!(
            token_request(&pod, &wish("vault"))["spec"]["audiences"],
            json!(["vault"])
        );
    }

    #[test]
    fn only_an_answer_is_a_refusal() {
        assert!(matches!(refusal(Status::bad_request("no")), TokenError::Refused(_)));
        assert!(matches!(
            refusal(Status::internal("broken")),
            TokenError::Unavailable(_)
        ));
    }
}
