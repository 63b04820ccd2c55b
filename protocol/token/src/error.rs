//! Why a token, a key or a signature is refused.

use millrace_protocol::code::{Code, Refusal};

/// Why a token is refused. Always the peer's fault or the clock's; [`TokenError::code`] tells the peer what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`](crate::TOKEN_BYTES_MAX).
    #[error("token is {len} bytes, limit is {}", crate::TOKEN_BYTES_MAX)]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// Not three base64url parts, or the header is not what a JWT header is.
    #[error("token is no signed JWT: {0}")]
    Malformed(&'static str),
    /// No key has this `kid`: it never was, or it was ended.
    #[error("token is signed with a key that is not known")]
    UnknownKey,
    /// The header names another algorithm than the key's own.
    #[error("token names another algorithm than its key has")]
    Algorithm,
    /// The signature is not the key's.
    #[error("token signature is wrong")]
    Signature,
    /// A claim is missing, of the wrong type, or over its limit.
    #[error("token claims cannot be used: {0}")]
    Claims(String),
    /// The claims are for another tenant than the key.
    #[error("token is for another tenant than its key")]
    ForeignTenant,
    /// It is to be used later than now, beyond the leeway.
    #[error("token is not valid yet, or the issuer's clock is ahead")]
    NotYet,
    /// Its life is over.
    #[error("token expired {ago_ms} ms ago")]
    Expired {
        /// Since when.
        ago_ms: i64,
    },
    /// It, its user's tokens, or in an overflow its tenant's tokens were revoked.
    #[error("token was revoked")]
    Revoked,
}

impl TokenError {
    /// The code that goes to the client.
    pub const fn code(&self) -> Code {
        match self {
            Self::Expired { .. } => Code::TokenExpired,
            Self::Revoked => Code::TokenRevoked,
            _ => Code::BadToken,
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Why a key is not taken. Tokens signed with it are refused as [`TokenError::UnknownKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The id is empty or longer than [`KEY_ID_BYTES_MAX`](crate::KEY_ID_BYTES_MAX).
    #[error("key id is {len} bytes, it must have 1 to {}", crate::KEY_ID_BYTES_MAX)]
    Id {
        /// Length in bytes.
        len: usize,
    },
    /// The id is another tenant's key.
    #[error("key id belongs to another tenant")]
    ForeignTenant,
    /// The material does not suit the algorithm: length, encoding, or a point off the curve.
    #[error("key material does not suit its algorithm: {0}")]
    Material(&'static str),
    /// The ring has as many keys as it may have.
    #[error("key ring is full: limit is {max} keys")]
    Full {
        /// The limit.
        max: usize,
    },
    /// The system gave no randomness to make a key from.
    #[error("no randomness to generate a key")]
    Randomness,
}

/// Why a token was not made. The caller's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A claim is over its limit, so no verifier would take the token.
    #[error("claims cannot be signed: {0}")]
    Claims(String),
    /// The key id is empty or too long.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// With these claims the token would be longer than [`TOKEN_BYTES_MAX`](crate::TOKEN_BYTES_MAX).
    #[error("token would be {len} bytes, limit is {}", crate::TOKEN_BYTES_MAX)]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The cryptographic library failed.
    #[error("signature failed")]
    Signature(#[source] jsonwebtoken::errors::Error),
}
