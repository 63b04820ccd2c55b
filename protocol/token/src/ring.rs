//! What a verifier holds in memory, and the verification.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use millrace_protocol::id::TenantId;
use millrace_protocol::node::{KeyAlgorithm, TenantKey, TokensRevoked};
use serde::Deserialize;

use crate::claims::Claims;
use crate::error::{KeyError, TokenError};
use crate::remembered::{Remembered, Signed, TokenHash};
use crate::revocation::Revocations;
use crate::signing::{algorithm_name, check_secret, jwt_algorithm};
use crate::{KEY_ID_BYTES_MAX, TOKEN_BYTES_MAX};

/// Limits of a [`KeyRing`].
#[derive(Debug, Clone)]
pub struct KeyRingLimits {
    /// Longest life of a token from `iat` to `exp`. Default 24 h. A revocation has to be remembered that long.
    pub life_max: Duration,
    /// How far an issuer's clock may be ahead of ours. Default 60 s. An expired token gets no leeway.
    pub leeway: Duration,
    /// Most keys of all tenants together. Default 100,000, about 300 bytes each.
    pub keys_max: usize,
    /// Most revocations of all tenants together. Default 100,000, about 100 bytes each. Beyond it, precision is lost, never a revocation:
    /// the tenant with the most refuses all its tokens that were issued until then.
    pub revocations_max: usize,
    /// Most tokens that [`KeyRing::verify_remembering`] remembers. Default 16,384, about 350 bytes each, taken as tokens come; below 2 it
    /// remembers none.
    pub remembered_max: usize,
}

impl Default for KeyRingLimits {
    fn default() -> Self {
        Self {
            life_max: Duration::from_secs(24 * 3600),
            leeway: Duration::from_secs(60),
            keys_max: 100_000,
            revocations_max: 100_000,
            remembered_max: 16_384,
        }
    }
}

/// A good token: what it says, and what it was signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Mark of the key: among [`KeyRing::marks`] for as long as the ring has this key under this id.
    pub key: u64,
}

/// The keys and revocations that a verifier knows; verifies without asking anybody.
///
/// A new link begins with a new ring: the control node sends all it has before anything else.
#[derive(Debug, Clone)]
pub struct KeyRing {
    keys: HashMap<Box<str>, VerifyingKey>,
    revocations: Revocations,
    remembered: Remembered,
    limits: KeyRingLimits,
}

#[derive(Debug, Clone)]
struct VerifyingKey {
    tenant: TenantId,
    /// The only algorithm that this key verifies, whatever a token's header says.
    algorithm: KeyAlgorithm,
    key: DecodingKey,
    mark: u64,
}

impl Default for KeyRing {
    fn default() -> Self {
        Self::new(KeyRingLimits::default())
    }
}

impl KeyRing {
    /// An empty ring: refuses every token.
    pub fn new(limits: KeyRingLimits) -> Self {
        Self {
            keys: HashMap::new(),
            revocations: Revocations::new(limits.revocations_max, millis(limits.leeway)),
            remembered: Remembered::new(limits.remembered_max),
            limits,
        }
    }

    /// Sets one key, or ends it if it comes without material.
    ///
    /// # Errors
    /// [`KeyError`]; the ring then has no key of this id, unless it is another tenant's.
    pub fn apply(&mut self, key: &TenantKey) -> Result<(), KeyError> {
        self.remembered.clear();
        if self.keys.get(key.id.as_str()).is_some_and(|present| present.tenant != key.tenant) {
            return Err(KeyError::ForeignTenant);
        }
        self.keys.remove(key.id.as_str());
        let Some((algorithm, material)) = &key.key else { return Ok(()) };
        if !(1..=KEY_ID_BYTES_MAX).contains(&key.id.len()) {
            return Err(KeyError::Id { len: key.id.len() });
        }
        let decoding = decoding_key(*algorithm, material)?;
        if self.keys.len() >= self.limits.keys_max {
            return Err(KeyError::Full { max: self.limits.keys_max });
        }
        let mark = mark(key.tenant, &key.id, *algorithm, material);
        let key_of_tenant = VerifyingKey { tenant: key.tenant, algorithm: *algorithm, key: decoding, mark };
        self.keys.insert(key.id.as_str().into(), key_of_tenant);
        Ok(())
    }

    /// Takes a `keys` frame of the link: replaces all keys of the tenants that it names. Gives back the keys that were not taken.
    pub fn replace<'a>(&mut self, keys: &'a [TenantKey]) -> Vec<(&'a TenantKey, KeyError)> {
        let mut named: Vec<_> = keys.iter().map(|key| key.tenant).collect();
        named.sort_unstable();
        named.dedup();
        self.remembered.clear();
        self.keys.retain(|_, key| named.binary_search(&key.tenant).is_err());
        keys.iter().filter_map(|key| self.apply(key).err().map(|error| (key, error))).collect()
    }

    /// Refuses the tokens from now on. Never fails: when there is no room, more tokens are refused than were named
    /// (see [`KeyRingLimits::revocations_max`]).
    pub fn revoke(&mut self, revoked: &TokensRevoked, now_unix_ms: i64) {
        self.revocations.insert(revoked, now_unix_ms);
    }

    /// Forgets revocations whose tokens have expired; call it now and then, such as once a minute.
    pub fn forget(&mut self, now_unix_ms: i64) {
        self.revocations.forget(now_unix_ms);
    }

    /// How many keys it holds.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// A mark for each key that it holds. A session whose token was signed with another one has lost what vouched for it.
    pub fn marks(&self) -> HashSet<u64> {
        self.keys.values().map(|key| key.mark).collect()
    }

    /// How many revocations it holds.
    pub fn revocations(&self) -> usize {
        self.revocations.len()
    }

    /// Verifies a token and gives what it says.
    ///
    /// Checked in this order: size, shape, key, algorithm, signature, claims, tenant, time, revocation. Nothing but the header is parsed before
    /// the signature holds.
    ///
    /// # Errors
    /// [`TokenError`], with a code.
    ///
    /// Source: RFC 7515 §5.2, RFC 7519 §7.2, RFC 8725.
    pub fn verify(&self, token: &str, now_unix_ms: i64) -> Result<Claims, TokenError> {
        let signed = self.check_signature(token)?;
        check_today(&signed, &self.limits, &self.revocations, now_unix_ms)?;
        Ok(signed.claims)
    }

    /// As [`verify`](Self::verify), with the same outcome for every token at every time; remembers the tokens whose signature held, so
    /// that one that comes again costs a hash and not a signature. Tokens of a key that was changed or ended are forgotten with it.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_remembering(&mut self, token: &str, now_unix_ms: i64) -> Result<Verified, TokenError> {
        if self.remembered.is_off() || token.len() > TOKEN_BYTES_MAX {
            let signed = self.check_signature(token)?;
            check_today(&signed, &self.limits, &self.revocations, now_unix_ms)?;
            return Ok(Verified { claims: signed.claims, key: signed.key });
        }
        let hash = TokenHash::of(token);
        if let Some(signed) = self.remembered.get(&hash) {
            check_today(signed, &self.limits, &self.revocations, now_unix_ms)?;
            return Ok(Verified { claims: signed.claims.clone(), key: signed.key });
        }
        let signed = self.check_signature(token)?;
        check_today(&signed, &self.limits, &self.revocations, now_unix_ms)?;
        let verified = Verified { claims: signed.claims.clone(), key: signed.key };
        self.remembered.insert(hash, signed);
        Ok(verified)
    }

    /// How many tokens it remembers.
    pub fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// What the signature vouches for, if it holds and the claims are of the key's tenant: all that time does not change.
    fn check_signature(&self, token: &str) -> Result<Signed, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { len: token.len() });
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("it has no three parts"))?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed("it has no three parts"))?;

        let header = URL_SAFE_NO_PAD.decode(header).or(Err(TokenError::Malformed("header is no base64url")))?;
        let header: Header =
            serde_json::from_slice(&header).or(Err(TokenError::Malformed("header is no JWT header with a kid")))?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed("header has critical extensions"));
        }
        let key = self.keys.get(header.kid.as_str()).ok_or(TokenError::UnknownKey)?;
        if header.alg != algorithm_name(key.algorithm) {
            return Err(TokenError::Algorithm);
        }
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, jwt_algorithm(key.algorithm)) {
            Ok(true) => {}
            // The only error here is a signature that is no base64url: the key was checked when it came.
            Ok(false) | Err(_) => return Err(TokenError::Signature),
        }

        let payload = URL_SAFE_NO_PAD.decode(payload).or(Err(TokenError::Malformed("claims are no base64url")))?;
        let (claims, not_before_ms) = Claims::from_json(&payload).map_err(TokenError::Claims)?;
        if claims.tenant != key.tenant {
            return Err(TokenError::ForeignTenant);
        }
        Ok(Signed { claims, not_before_ms, key: key.mark })
    }

    /// Whether a token that was verified before has been revoked since; for sessions that are open.
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        self.revocations.refuses(claims)
    }
}

/// Time and revocations: what has to be checked again whenever a token is presented.
fn check_today(
    signed: &Signed,
    limits: &KeyRingLimits,
    revocations: &Revocations,
    now_unix_ms: i64,
) -> Result<(), TokenError> {
    let Signed { claims, not_before_ms, .. } = signed;
    let life_max_ms = millis(limits.life_max);
    let life_ms = claims.expires_at_ms - claims.issued_at_ms;
    if life_ms > life_max_ms {
        return Err(TokenError::Claims(format!("life is {life_ms} ms, limit is {life_max_ms}")));
    }
    if claims.expires_at_ms <= now_unix_ms {
        return Err(TokenError::Expired { ago_ms: now_unix_ms.saturating_sub(claims.expires_at_ms) });
    }
    let latest_ms = now_unix_ms.saturating_add(millis(limits.leeway));
    if claims.issued_at_ms > latest_ms || not_before_ms.is_some_and(|not_before_ms| not_before_ms > latest_ms) {
        return Err(TokenError::NotYet);
    }
    if revocations.refuses(claims) {
        return Err(TokenError::Revoked);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// Present means: the token must be refused by who does not know the extensions. Source: RFC 7515 §4.1.11.
    #[serde(default, deserialize_with = "present")]
    crit: Option<()>,
}

/// `Some` for any value, even `null`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<()>, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| Some(()))
}

/// The first 64 bits of the SHA-256 of all that a key is: another one under the same id has another mark.
fn mark(tenant: TenantId, id: &str, algorithm: KeyAlgorithm, material: &[u8]) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(&tenant.get().to_be_bytes());
    context.update(&(id.len() as u64).to_be_bytes());
    context.update(id.as_bytes());
    context.update(algorithm_name(algorithm).as_bytes());
    context.update(b"\0");
    context.update(material);
    context.finish().as_ref().iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

fn decoding_key(algorithm: KeyAlgorithm, material: &[u8]) -> Result<DecodingKey, KeyError> {
    match algorithm {
        KeyAlgorithm::Hs256 => {
            check_secret(material)?;
            Ok(DecodingKey::from_secret(material))
        }
        KeyAlgorithm::Es256 => {
            if material.len() != 65 || material[0] != 4 {
                return Err(KeyError::Material("an ES256 key is an uncompressed point of 65 bytes"));
            }
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, material)
                .or(Err(KeyError::Material("the point is not on P-256")))?;
            Ok(DecodingKey::from_ec_der(material))
        }
        KeyAlgorithm::EdDsa => {
            if material.len() != 32 {
                return Err(KeyError::Material("an Ed25519 key has 32 bytes"));
            }
            ParsedPublicKey::new(&ED25519, material).or(Err(KeyError::Material("no Ed25519 public key")))?;
            Ok(DecodingKey::from_ed_der(material))
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
