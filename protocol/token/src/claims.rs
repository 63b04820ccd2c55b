//! What a token says, and its JSON shape.

use millrace_protocol::id::{TenantId, UserId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most roles in a token.
pub const ROLES_MAX: usize = 32;
/// Longest `jti`, role or device, in bytes.
pub const CLAIM_BYTES_MAX: usize = 128;

/// What a token says: this user of this tenant may connect until then.
///
/// JWT names: `tenant` (number), `sub`, `iat` and `exp` (seconds, fractions allowed), `jti`, `roles`, `device`. Other claims are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whose user (`tenant`).
    pub tenant: TenantId,
    /// Who (`sub`).
    pub user: UserId,
    /// When it was made (`iat`); Unix time, ms.
    pub issued_at_ms: i64,
    /// When it ends (`exp`); Unix time, ms. At this moment it is valid no more.
    pub expires_at_ms: i64,
    /// Names this token (`jti`), so that it can be revoked; 1 to 128 bytes.
    pub id: String,
    /// What else the user may do, by name; at most 32 of at most 128 bytes.
    pub roles: Vec<String>,
    /// The device it was made for; at most 128 bytes.
    pub device: Option<String>,
}

impl Claims {
    /// Checks the limits that signer and verifier share.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fits = |what: &str, len: usize| match len {
            1..=CLAIM_BYTES_MAX => Ok(()),
            _ => Err(format!("{what} is {len} bytes, it must have 1 to {CLAIM_BYTES_MAX}")),
        };
        fits("jti", self.id.len())?;
        if self.roles.len() > ROLES_MAX {
            return Err(format!("{} roles, limit is {ROLES_MAX}", self.roles.len()));
        }
        self.roles.iter().try_for_each(|role| fits("role", role.len()))?;
        self.device.iter().try_for_each(|device| fits("device", device.len()))?;
        if self.expires_at_ms <= self.issued_at_ms {
            return Err("exp is not after iat".into());
        }
        Ok(())
    }

    /// The JSON of the claims.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, String> {
        self.check()?;
        let json = JsonClaims {
            tenant: self.tenant.get(),
            sub: self.user.as_str().into(),
            iat: NumericDate(self.issued_at_ms),
            exp: NumericDate(self.expires_at_ms),
            nbf: None,
            jti: self.id.as_str().into(),
            roles: self.roles.clone(),
            device: self.device.clone(),
        };
        serde_json::to_vec(&json).map_err(|error| error.to_string())
    }

    /// Claims from JSON, with the `nbf` that they may have; Unix time, ms.
    pub(crate) fn from_json(json: &[u8]) -> Result<(Self, Option<i64>), String> {
        let json: JsonClaims = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let claims = Self {
            tenant: TenantId::new(json.tenant).ok_or("tenant is 0")?,
            user: UserId::new(&json.sub).map_err(|error| format!("sub: {error}"))?,
            issued_at_ms: json.iat.0,
            expires_at_ms: json.exp.0,
            id: json.jti,
            roles: json.roles,
            device: json.device,
        };
        claims.check()?;
        Ok((claims, json.nbf.map(|date| date.0)))
    }
}

#[derive(Serialize, Deserialize)]
struct JsonClaims {
    tenant: u32,
    sub: String,
    iat: NumericDate,
    exp: NumericDate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<NumericDate>,
    jti: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
}

/// Unix time in ms; seconds in JSON, with a fraction where needed. Source: RFC 7519 §2.
struct NumericDate(i64);

/// The last second of the year 9999: beyond it lies only a mistake, such as milliseconds given as seconds.
const DATE_SECONDS_MAX: i64 = 253_402_300_799;

impl Serialize for NumericDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 1000 == 0 {
            return serializer.serialize_i64(self.0 / 1000);
        }
        // Exact to the millisecond: an f64 has 53 bits, and a date before the year 9999 needs 48 of them in ms.
        #[expect(clippy::cast_precision_loss, reason = "48 bits fit")]
        serializer.serialize_f64(self.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let ms = match (number.as_i64(), number.as_f64()) {
            (Some(seconds), _) if (0..=DATE_SECONDS_MAX).contains(&seconds) => seconds * 1000,
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "checked range")]
            (None, Some(seconds)) if seconds >= 0.0 && seconds <= DATE_SECONDS_MAX as f64 => {
                (seconds * 1000.0).round() as i64
            }
            _ => return Err(serde::de::Error::custom("date is not in the years 1970 to 9999")),
        };
        Ok(Self(ms))
    }
}
