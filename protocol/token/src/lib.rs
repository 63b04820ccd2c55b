//! Access tokens: what they say, how they are signed, and how a node verifies them with nothing but its memory.
//!
//! A token is a JWT (RFC 7519) in compact form, signed with HS256, ES256 or EdDSA. Pure: time comes in as Unix milliseconds.
//! In reading order:
//! - [`Claims`]: who may connect, until when;
//! - [`SigningKey`]: makes tokens;
//! - [`KeyRing`]: the keys and revocations a verifier holds, and the verification;
//! - [`TokenError`]: why a token is refused, with the code that tells the client what to do.
#![forbid(unsafe_code)]

mod claims;
mod error;
mod remembered;
mod revocation;
mod ring;
mod signing;

pub use claims::{CLAIM_BYTES_MAX, Claims, ROLES_MAX};
pub use error::{KeyError, SignError, TokenError};
pub use ring::{KeyRing, KeyRingLimits, Verified};
pub use signing::SigningKey;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Longest key id (`kid`), in bytes.
pub const KEY_ID_BYTES_MAX: usize = 128;
/// Shortest HS256 secret, in bytes. Source: RFC 7518 §3.2.
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest HS256 secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 1024;
