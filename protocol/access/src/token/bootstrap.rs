//! Bootstrap tokens, `ID.SECRET`: what a machine shows before it has a certificate. Each is a Secret
//! `bootstrap-token-ID` in kube-system; the gateway looks that up by the id and asks this module who the bearer is.
//!
//! Kubernetes keeps the secret itself (`token-secret`). The cluster's own join tokens keep its SHA-256
//! (`token-secret-sha256`) and have longer ids and secrets; both prove the same group here.

use api::access::Access;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::UnixMillis;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::token::same_secret;
use crate::user::{BOOTSTRAP_PREFIX, BOOTSTRAPPERS, User};

/// The type of such a Secret.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// A bearer token that has the form of a bootstrap token. Its secret is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// The public part, by which the Secret is found.
    pub id: String,
    secret: String,
}

impl std::fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootstrapToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why a bootstrap token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// No such Secret, or it is being deleted, or it is of another type or id.
    #[error("there is no bootstrap token {id:?}: it may have been deleted; make a new one")]
    Unknown {
        /// The token's id.
        id: String,
    },
    /// The secret is another one.
    #[error("the secret of bootstrap token {id:?} is wrong")]
    Secret {
        /// The token's id.
        id: String,
    },
    /// Its time is over, or its `expiration` cannot be read.
    #[error("bootstrap token {id:?} has expired: make a new one")]
    Expired {
        /// The token's id.
        id: String,
    },
    /// It is not meant for authentication.
    #[error(
        "bootstrap token {id:?} may not be used for authentication: set usage-bootstrap-authentication to \"true\""
    )]
    Usage {
        /// The token's id.
        id: String,
    },
    /// A group in `auth-extra-groups` is not one that a token may prove.
    #[error(
        "bootstrap token {id:?} names the group {group:?}, which does not match system:bootstrappers:[a-z0-9:-]{{0,255}}[a-z0-9]"
    )]
    Group {
        /// The token's id.
        id: String,
        /// The group.
        group: String,
    },
}

impl BootstrapToken {
    /// Reads a bearer token; `None` when it has another form. Kubernetes' have 6 and 16 letters and digits, the cluster's own
    /// 8 and 32.
    pub fn parse(bearer: &str) -> Option<BootstrapToken> {
        let (id, secret) = bearer.split_once('.')?;
        let letters = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let lengths = matches!((id.len(), secret.len()), (6, 16) | (8, 32));
        (lengths && letters(id) && letters(secret)).then(|| BootstrapToken {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The name of its Secret in kube-system.
    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }

    /// Who the bearer is, by the stored Secret of that name.
    pub fn authenticate(&self, secret: Option<&Value>, now: UnixMillis) -> Result<User, BootstrapError> {
        let id = || self.id.clone();
        let unknown = BootstrapError::Unknown { id: id() };
        let Some(secret) = secret else { return Err(unknown) };
        let field = |name: &str| -> Option<String> {
            let data = STANDARD.decode(secret.at(&["data"]).text(name)).ok()?;
            String::from_utf8(data).ok().filter(|text| !text.is_empty())
        };
        let deleting = secret.at(&["metadata"]).has("deletionTimestamp");
        if deleting || secret.text("type") != SECRET_TYPE || field("token-id").as_deref() != Some(&self.id) {
            return Err(unknown);
        }
        let same = match (field("token-secret"), field("token-secret-sha256")) {
            (Some(kept), _) => same_secret(kept.as_bytes(), self.secret.as_bytes()),
            (None, Some(digest)) => {
                same_secret(digest.as_bytes(), hex::encode(Sha256::digest(&self.secret)).as_bytes())
            }
            (None, None) => return Err(unknown),
        };
        if !same {
            return Err(BootstrapError::Secret { id: id() });
        }
        let expired = field("expiration").is_some_and(|text| api::time::parse(&text).is_none_or(|at| at <= now));
        if expired {
            return Err(BootstrapError::Expired { id: id() });
        }
        if field("usage-bootstrap-authentication").as_deref() != Some("true") {
            return Err(BootstrapError::Usage { id: id() });
        }
        let extra = field("auth-extra-groups").unwrap_or_default();
        let mut groups = vec![BOOTSTRAPPERS.to_owned()];
        for group in extra.split(',').filter(|group| !group.is_empty()) {
            if !is_bootstrap_group(group) {
                let group = group.to_owned();
                return Err(BootstrapError::Group { id: id(), group });
            }
            groups.push(group.to_owned());
        }
        Ok(User::authenticated(format!("{BOOTSTRAP_PREFIX}{}", self.id), groups))
    }
}

fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|byte| letter(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn secret(fields: &[(&str, &str)]) -> Value {
        let data: serde_json::Map<String, Value> = fields
            .iter()
            .map(|(name, text)| ((*name).to_owned(), STANDARD.encode(text).into()))
            .collect();
        json!({"type": SECRET_TYPE, "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}, "data": data})
    }

    const GOOD: [(&str, &str); 3] = [
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
    ];

    fn try_with(extra: &[(&str, &str)]) -> Result<User, BootstrapError> {
        let fields = [GOOD.as_slice(), extra].concat();
        BootstrapToken::parse("abcdef.0123456789abcdef")
            .unwrap()
            .authenticate(Some(&secret(&fields)), NOW)
    }

    #[test]
    fn only_the_two_forms_are_bootstrap_tokens() {
        let cases = [
            ("abcdef.0123456789abcdef", true),
            ("abcdefgh.0123456789abcdef0123456789abcdef", true),
            ("ABCDEF.0123456789abcdef", false),
            ("abcdef.0123456789abcde", false),
            ("abcdef0123456789abcdef", false),
            ("a.b.c", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(BootstrapToken::parse(text).is_some(), expected, "{text}");
        }
        let shown = format!("{:?}", BootstrapToken::parse("abcdef.0123456789abcdef").unwrap());
        assert!(!shown.contains("0123456789"), "{shown}");
    }

    #[test]
    fn a_good_token_proves_its_groups() {
        let user = try_with(&[
            ("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b:c"),
            ("expiration", "2030-01-01T00:00:00Z"),
        ])
        .unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:a",
                "system:bootstrappers:b:c",
                "system:authenticated"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let cases = [
            (vec![("expiration", "2020-01-01T00:00:00Z")], "expired"),
            (vec![("expiration", "soon")], "expired"),
            (
                vec![("usage-bootstrap-authentication", "false")],
                "usage-bootstrap-authentication",
            ),
            (vec![("token-id", "xxxxxx")], "no bootstrap token"),
            (vec![("token-secret", "0123456789abcdeX")], "secret"),
            (vec![("auth-extra-groups", "system:masters")], "system:masters"),
            (vec![("auth-extra-groups", "system:bootstrappers:-")], "does not match"),
        ];
        for (extra, expected) in cases {
            let text = try_with(&extra).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("0123456789"), "{text}");
        }
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        assert!(token.authenticate(None, NOW).is_err());
        let mut deleting = secret(&GOOD);
        deleting["metadata"]["deletionTimestamp"] = "2023-01-01T00:00:00Z".into();
        assert!(token.authenticate(Some(&deleting), NOW).is_err());
        let mut opaque = secret(&GOOD);
        opaque["type"] = "Opaque".into();
        assert!(token.authenticate(Some(&opaque), NOW).is_err());
    }

    #[test]
    fn the_cluster_s_own_tokens_keep_only_a_hash() {
        let token = BootstrapToken::parse("abcdefgh.0123456789abcdef0123456789abcdef").unwrap();
        let digest = hex::encode(Sha256::digest("0123456789abcdef0123456789abcdef"));
        let fields = [
            ("token-id", "abcdefgh"),
            ("token-secret-sha256", digest.as_str()),
            GOOD[2],
        ];
        assert!(token.authenticate(Some(&secret(&fields)), NOW).is_ok());
        let other = BootstrapToken::parse("abcdefgh.0123456789abcdef0123456789abcdee").unwrap();
        assert!(matches!(
            other.authenticate(Some(&secret(&fields)), NOW),
            Err(BootstrapError::Secret { .. })
        ));
    }
}
