//! Join tokens: what a machine shows to become a member, and what pins the cluster's CA for it. Called by the node's
//! process (`node start --token`), by `cluster::join` and by the shell that makes tokens. Pure: random bytes and the
//! time come in as arguments.
//!
//! The text form is `act1.CA.ID.SECRET`: the SHA-256 of the CA certificate's DER in hex, so that the joiner recognises
//! the cluster before it says anything; a public id, by which the cluster finds the token's record; and the secret, of
//! which the cluster keeps only a hash.

use std::fmt;
use std::str::FromStr;

/// The form's version, the first part of every token.
const PREFIX: &str = "act1";
/// Letters and digits of the id: 8 of 5 bits, which only has to be unlikely to collide.
const ID_LENGTH: usize = 8;
/// Letters and digits of the secret: 32 of 5 bits, 160 bits of chance.
const SECRET_LENGTH: usize = 32;
/// Lower-case base32 (RFC 4648's alphabet): nothing in it needs quoting in a shell.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Random bytes that a new token is made of.
pub const RANDOM_BYTES: usize = 25;

/// A join token. Its `Debug` form leaves the secret out, so that it cannot slip into a log; `Display` is the text that
/// the joiner is given.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the cluster's CA certificate (DER).
    pub ca_fingerprint: [u8; 32],
    /// Names the token's record. Not secret.
    pub id: String,
    /// What only the holder of the token knows.
    pub secret: String,
}

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as tokens do.
    #[error(
        "the join token begins with {found:?}, not with \"{PREFIX}.\": copy the whole line that `actorium token create` printed"
    )]
    Prefix {
        /// Its first part, cut to 16 characters.
        found: String,
    },
    /// It has too few or too many parts.
    #[error(
        "the join token has {found} parts between dots, not 4 ({PREFIX}.CA.ID.SECRET): copy the whole line that `actorium token create` printed"
    )]
    Parts {
        /// How many it has.
        found: usize,
    },
    /// The CA's fingerprint is malformed.
    #[error(
        "the second part of the join token is {length} characters, not the 64 hex digits of a CA's SHA-256 fingerprint"
    )]
    Fingerprint {
        /// How long the part is.
        length: usize,
    },
    /// The id is malformed.
    #[error("the third part of the join token (its id) is not {ID_LENGTH} letters and digits")]
    Id,
    /// The secret is malformed.
    #[error(
        "the last part of the join token (its secret) is not {SECRET_LENGTH} letters and digits: it was cut short or changed"
    )]
    Secret,
}

impl JoinToken {
    /// A new token for the cluster whose CA has this fingerprint.
    pub fn from_random(ca_fingerprint: [u8; 32], random: [u8; RANDOM_BYTES]) -> JoinToken {
        let text = base32(&random);
        JoinToken {
            ca_fingerprint,
            id: text[..ID_LENGTH].to_owned(),
            secret: text[ID_LENGTH..ID_LENGTH + SECRET_LENGTH].to_owned(),
        }
    }

    /// Parses the text form; blanks around it do not matter.
    pub fn parse(text: &str) -> Result<JoinToken, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        if parts[0] != PREFIX {
            return Err(TokenError::Prefix {
                found: parts[0].chars().take(16).collect(),
            });
        }
        let [_, fingerprint, id, secret] = parts[..] else {
            return Err(TokenError::Parts { found: parts.len() });
        };
        let mut ca_fingerprint = [0; 32];
        hex::decode_to_slice(fingerprint, &mut ca_fingerprint).map_err(|_| TokenError::Fingerprint {
            length: fingerprint.chars().count(),
        })?;
        if !is_base32(id, ID_LENGTH) {
            return Err(TokenError::Id);
        }
        if !is_base32(secret, SECRET_LENGTH) {
            return Err(TokenError::Secret);
        }
        Ok(JoinToken {
            ca_fingerprint,
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        JoinToken::parse(text)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}.{}.{}.{}",
            hex::encode(self.ca_fingerprint),
            self.id,
            self.secret
        )
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "JoinToken({}..., id {}, secret hidden)",
            hex::encode(&self.ca_fingerprint[..4]),
            self.id
        )
    }
}

fn is_base32(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// Base32 without padding; `bytes` is a multiple of five long.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() / 5 * 8);
    for group in bytes.chunks_exact(5) {
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for place in (0..8).rev() {
            text.push(char::from(ALPHABET[(bits >> (place * 5) & 31) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken::from_random([7; 32], std::array::from_fn(|i| i as u8 * 9))
    }

    #[test]
    fn a_malformed_token_says_which_part_is_wrong() {
        let good = token().to_string();
        let cases = [
            ("".to_owned(), TokenError::Prefix { found: String::new() }),
            (
                "K10abc::server:1".to_owned(),
                TokenError::Prefix {
                    found: "K10abc::server:1".to_owned(),
                },
            ),
            (good[..70].to_owned(), TokenError::Parts { found: 3 }),
            (format!("{good}.x"), TokenError::Parts { found: 5 }),
            (good.replacen("07", "", 1), TokenError::Fingerprint { length: 62 }),
            (good.replacen("07", "zz", 1), TokenError::Fingerprint { length: 64 }),
            (good[..good.len() - 1].to_owned(), TokenError::Secret),
            (good.replacen(&token().id, "short", 1), TokenError::Id),
        ];
        for (text, expected) in cases {
            assert_eq!(JoinToken::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let token = token();
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    proptest! {
        #[test]
        fn tokens_survive_their_text_form(fingerprint: [u8; 32], random: [u8; RANDOM_BYTES]) {
            let token = JoinToken::from_random(fingerprint, random);
            prop_assert_eq!(JoinToken::parse(&format!(" {token}\n")), Ok(token));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,120}") {
            let _ = JoinToken::parse(&text);
        }
    }
}
