//! Who may join: tokens and names. Called by the `JoinAuthority` on what it has read from the store. Pure.

use bincode::{Decode, Encode};
use config::JoinToken;
use config::name::check_node_name;
use protocol::UnixMillis;
use sha2::{Digest, Sha256};

use super::{JoinRefusal, JoinRequest};
use crate::membership::Member;

/// A join token as the cluster keeps it: whoever reads the store cannot join with what stands there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct TokenRecord {
    /// The public part.
    pub id: String,
    /// SHA-256 of the secret. The secret has 160 bits of chance, so that it needs no slow hash.
    pub secret_sha256: [u8; 32],
    /// Until when it admits; none for ever.
    pub expires_at: Option<UnixMillis>,
    /// What it is for, in its maker's words.
    pub description: String,
}

impl TokenRecord {
    /// The record of a token.
    pub fn new(token: &JoinToken, expires_at: Option<UnixMillis>, description: &str) -> TokenRecord {
        TokenRecord {
            id: token.id.clone(),
            secret_sha256: Sha256::digest(&token.secret).into(),
            expires_at,
            description: description.to_owned(),
        }
    }
}

/// Checks a token against the record of its id.
pub fn check_token(record: Option<&TokenRecord>, request: &JoinRequest, now: UnixMillis) -> Result<(), JoinRefusal> {
    let id = request.token_id.clone();
    let Some(record) = record.filter(|record| record.id == id) else {
        return Err(JoinRefusal::UnknownToken { id });
    };
    let shown: [u8; 32] = Sha256::digest(&request.token_secret).into();
    if !same(&shown, &record.secret_sha256) {
        return Err(JoinRefusal::WrongSecret { id });
    }
    match record.expires_at {
        Some(at) if at <= now => Err(JoinRefusal::Expired { id, at }),
        _ => Ok(()),
    }
}

/// Compares in a time that does not depend on where the two differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

/// Checks the name that a joiner wants: valid, and not that of another machine that lives. A machine that comes back
/// under its old name and address, or takes a dead one's name, is welcome.
pub fn check_name(request: &JoinRequest, members: &[Member]) -> Result<(), JoinRefusal> {
    check_node_name(request.name.as_str()).map_err(|error| JoinRefusal::Name {
        reason: error.to_string(),
    })?;
    let holder = members
        .iter()
        .find(|member| member.name == request.name && member.status.is_live());
    match holder {
        Some(holder) if holder.address != request.mesh_address => Err(JoinRefusal::NameTaken {
            name: request.name.clone(),
            address: holder.address,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::NodeName;

    use super::*;
    use crate::membership::{MemberFacts, MemberStatus};

    fn token() -> JoinToken {
        JoinToken::from_random([3; 32], [5; config::token::RANDOM_BYTES])
    }

    fn request(name: &str) -> JoinRequest {
        let token = token();
        JoinRequest {
            token_id: token.id,
            token_secret: token.secret,
            name: NodeName::from(name),
            mesh_address: "10.0.0.4:7443".parse().unwrap(),
            addresses: Vec::new(),
            signing_request: Vec::new(),
            version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn a_token_admits_until_it_expires_and_only_with_its_secret() {
        let now = UnixMillis(1_800_000_000_000);
        let record = TokenRecord::new(&token(), Some(now), "");
        let endless = TokenRecord {
            expires_at: None,
            ..record.clone()
        };
        let id = token().id;
        assert_eq!(check_token(Some(&record), &request("a"), UnixMillis(now.0 - 1)), Ok(()));
        assert_eq!(check_token(Some(&endless), &request("a"), UnixMillis(u64::MAX)), Ok(()));
        let expired = check_token(Some(&record), &request("a"), now).unwrap_err();
        assert_eq!(
            expired,
            JoinRefusal::Expired {
                id: id.clone(),
                at: now
            }
        );
        assert!(
            expired.to_string().contains("expired at 2027-01-15T08:00:00Z"),
            "{expired}"
        );
        assert_eq!(
            check_token(None, &request("a"), now),
            Err(JoinRefusal::UnknownToken { id: id.clone() })
        );
        let mut wrong = request("a");
        wrong.token_secret.replace_range(31..32, "7");
        assert_eq!(
            check_token(Some(&record), &wrong, UnixMillis(0)),
            Err(JoinRefusal::WrongSecret { id })
        );
        // An expired token does not tell whether a secret was right.
        assert!(matches!(
            check_token(Some(&record), &wrong, now),
            Err(JoinRefusal::WrongSecret { .. })
        ));
    }

    #[test]
    fn a_name_is_taken_while_another_machine_of_that_name_lives() {
        let member = |status, address: &str| Member {
            name: NodeName::from("n1"),
            address: address.parse().unwrap(),
            incarnation: 1,
            facts: MemberFacts::default(),
            status,
            since: UnixMillis(0),
        };
        let elsewhere = "10.0.0.9:7443";
        for (status, address, admitted) in [
            (MemberStatus::Alive, elsewhere, false),
            (MemberStatus::Suspect, elsewhere, false),
            (MemberStatus::Down, elsewhere, true),
            (MemberStatus::Left, elsewhere, true),
            (MemberStatus::Alive, "10.0.0.4:7443", true),
        ] {
            let checked = check_name(&request("n1"), &[member(status, address)]);
            assert_eq!(checked.is_ok(), admitted, "{status:?} at {address}: {checked:?}");
        }
        assert_eq!(
            check_name(&request("n2"), &[member(MemberStatus::Alive, elsewhere)]),
            Ok(())
        );
        assert!(matches!(
            check_name(&request("Kubernetes"), &[]),
            Err(JoinRefusal::Name { .. })
        ));
        assert!(matches!(
            check_name(&request("kubernetes"), &[]),
            Err(JoinRefusal::Name { .. })
        ));
    }
}
