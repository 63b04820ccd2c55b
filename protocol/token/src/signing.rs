//! Keys that make tokens.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey};
use millrace_protocol::id::TenantId;
use millrace_protocol::node::{KeyAlgorithm, TenantKey};
use serde::Serialize;

use crate::claims::Claims;
use crate::error::{KeyError, SignError};
use crate::{KEY_ID_BYTES_MAX, SECRET_BYTES_MAX, SECRET_BYTES_MIN, TOKEN_BYTES_MAX};

/// A key that signs tokens. Its bytes are a secret; `Debug` does not show them.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: KeyAlgorithm,
    /// HS256: the secret. ES256, EdDSA: PKCS#8.
    secret: Bytes,
    /// HS256: the secret. ES256: the uncompressed point. EdDSA: the public key.
    verifying: Bytes,
    encoding: EncodingKey,
}

impl SigningKey {
    /// Makes a new random key.
    ///
    /// # Errors
    /// [`KeyError::Randomness`] if the system gives none.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        match algorithm {
            KeyAlgorithm::Hs256 => {
                let mut secret = [0; SECRET_BYTES_MIN];
                aws_lc_rs::rand::fill(&mut secret).or(Err(KeyError::Randomness))?;
                Self::from_bytes(algorithm, &secret)
            }
            KeyAlgorithm::Es256 => {
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .or(Err(KeyError::Randomness))?;
                Self::from_bytes(algorithm, pkcs8.as_ref())
            }
            KeyAlgorithm::EdDsa => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).or(Err(KeyError::Randomness))?;
                Self::from_bytes(algorithm, pkcs8.as_ref())
            }
        }
    }

    /// Takes a key from bytes: the secret for HS256, PKCS#8 (DER) for ES256 and EdDSA.
    ///
    /// # Errors
    /// [`KeyError::Material`] if they are no such key, or the secret is shorter than 32 or longer than 1024 bytes.
    pub fn from_bytes(algorithm: KeyAlgorithm, secret: &[u8]) -> Result<Self, KeyError> {
        let (verifying, encoding) = match algorithm {
            KeyAlgorithm::Hs256 => {
                check_secret(secret)?;
                (Bytes::copy_from_slice(secret), EncodingKey::from_secret(secret))
            }
            KeyAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, secret)
                    .or(Err(KeyError::Material("no PKCS#8 key on P-256")))?;
                (Bytes::copy_from_slice(pair.public_key().as_ref()), EncodingKey::from_ec_der(secret))
            }
            KeyAlgorithm::EdDsa => {
                let pair =
                    Ed25519KeyPair::from_pkcs8(secret).or(Err(KeyError::Material("no PKCS#8 key on Ed25519")))?;
                (Bytes::copy_from_slice(pair.public_key().as_ref()), EncodingKey::from_ed_der(secret))
            }
        };
        Ok(Self { algorithm, secret: Bytes::copy_from_slice(secret), verifying, encoding })
    }

    /// The bytes that [`SigningKey::from_bytes`] takes. Secret.
    pub fn to_bytes(&self) -> Bytes {
        self.secret.clone()
    }

    /// How it signs.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// What a verifier needs to know, as it travels on the link. For HS256 that is the secret itself.
    pub fn tenant_key(&self, tenant: TenantId, id: &str) -> TenantKey {
        TenantKey { tenant, id: id.into(), key: Some((self.algorithm, self.verifying.clone())) }
    }

    /// Signs a token; `key_id` becomes its `kid`.
    ///
    /// # Errors
    /// [`SignError`] if a claim or the key id is over its limit; then no verifier would take the token.
    pub fn sign(&self, key_id: &str, claims: &Claims) -> Result<String, SignError> {
        if !(1..=KEY_ID_BYTES_MAX).contains(&key_id.len()) {
            return Err(KeyError::Id { len: key_id.len() }.into());
        }
        let header = Header { alg: algorithm_name(self.algorithm), typ: "JWT", kid: key_id };
        let header = serde_json::to_vec(&header).map_err(|error| SignError::Claims(error.to_string()))?;
        let claims = claims.to_json().map_err(SignError::Claims)?;
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = jsonwebtoken::crypto::sign(token.as_bytes(), &self.encoding, jwt_algorithm(self.algorithm))
            .map_err(SignError::Signature)?;
        token.push('.');
        token.push_str(&signature);
        if token.len() > TOKEN_BYTES_MAX {
            return Err(SignError::TooLong { len: token.len() });
        }
        Ok(token)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

pub(crate) fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    match secret.len() {
        ..SECRET_BYTES_MIN => Err(KeyError::Material("an HS256 secret needs at least 32 bytes")),
        SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(()),
        _ => Err(KeyError::Material("an HS256 secret has at most 1024 bytes")),
    }
}

/// The `alg` of the token header. Source: RFC 7518 §3.1, RFC 8037 §3.1.
pub(crate) const fn algorithm_name(algorithm: KeyAlgorithm) -> &'static str {
    match algorithm {
        KeyAlgorithm::Hs256 => "HS256",
        KeyAlgorithm::Es256 => "ES256",
        KeyAlgorithm::EdDsa => "EdDSA",
    }
}

pub(crate) const fn jwt_algorithm(algorithm: KeyAlgorithm) -> Algorithm {
    match algorithm {
        KeyAlgorithm::Hs256 => Algorithm::HS256,
        KeyAlgorithm::Es256 => Algorithm::ES256,
        KeyAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}
