//! The key that signs service accounts' tokens (ES256). The first node makes it; it is kept in the replicated store
//! beside the CA, so that every node signs and verifies with the same one. The gateway builds the tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::IdentityError;

/// The signing key of service accounts' tokens.
pub struct ServiceAccountKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public_point: Vec<u8>,
    public_pem: String,
    key_id: String,
}

impl ServiceAccountKey {
    /// A new key, ECDSA P-256, as PKCS#8 PEM.
    pub fn generate_pem() -> Result<String, IdentityError> {
        let pair = KeyPair::generate().map_err(|source| IdentityError::Generate {
            what: "the service accounts' key",
            source,
        })?;
        Ok(pair.serialize_pem())
    }

    /// The key from its PEM.
    pub fn from_pem(pem: &str) -> Result<ServiceAccountKey, IdentityError> {
        let malformed = |reason: String| IdentityError::Malformed {
            what: "the service accounts' key".to_owned(),
            reason,
        };
        let key = KeyPair::from_pem(pem).map_err(|error| malformed(error.to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der(), &random)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(ServiceAccountKey {
            pair,
            random,
            public_point: key.public_key_raw().to_vec(),
            public_pem: key.public_key_pem(),
            key_id: URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info())),
        })
    }

    /// The key's id, as Kubernetes derives it: base64url of the SHA-256 of the public key's DER.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key, PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Signs as ES256 wants it: the two numbers of 32 bytes each, one after the other.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let signature = self
            .pair
            .sign(&self.random, message)
            .map_err(|_| IdentityError::Malformed {
                what: "the service accounts' key".to_owned(),
                reason: "it refuses to sign".to_owned(),
            })?;
        Ok(signature.as_ref().to_vec())
    }

    /// Whether the signature is this key's of this message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_point)
            .verify(message, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_verify_for_their_message_and_key_alone() {
        let pem = ServiceAccountKey::generate_pem().unwrap();
        let key = ServiceAccountKey::from_pem(&pem).unwrap();
        let other = ServiceAccountKey::from_pem(&ServiceAccountKey::generate_pem().unwrap()).unwrap();
        let signature = key.sign(b"header.claims").unwrap();
        assert_eq!(signature.len(), 64);
        assert!(
            ServiceAccountKey::from_pem(&pem)
                .unwrap()
                .verifies(b"header.claims", &signature)
        );
        assert!(!key.verifies(b"header.claimz", &signature));
        assert!(!other.verifies(b"header.claims", &signature));
        assert_ne!(key.key_id(), other.key_id());
        assert!(ServiceAccountKey::from_pem("nothing").is_err());
    }
}
