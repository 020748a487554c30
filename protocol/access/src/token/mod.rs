//! Bearer tokens: those of ServiceAccounts, which are signed claims, and bootstrap tokens, which are shared secrets. The
//! gateway reads them from `Authorization`, asks this module what a token says, and looks up the objects that it names.
//!
//! Keys and instants are arguments. What a token holds is never part of an error or a log.

pub mod bearer;
mod bootstrap;
mod claims;
mod discovery;
mod jws;
mod legacy;
mod request;

pub use bearer::{Bearer, VerifiedTokens};
pub use bootstrap::{BootstrapError, BootstrapToken, SECRET_TYPE};
pub use claims::{Claims, LiveObject, LiveObjects, ObjectRef, StaleToken, TokenBinding, TokenError};
pub use discovery::{DISCOVERY_PATH, JWKS_PATH, discovery_document, key_set};
pub use jws::{TokenKey, sign, sign_legacy, verify};
pub use legacy::{ACCOUNT_NAME, ACCOUNT_UID, LEGACY_ISSUER, LEGACY_SECRET_TYPE, LegacyClaims};
pub use request::{BindingKind, BoundObject, Issue, IssuePolicy, TokenAsked, respond};

use subtle::ConstantTimeEq;

/// Compares secrets in a time that depends on their lengths alone.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
