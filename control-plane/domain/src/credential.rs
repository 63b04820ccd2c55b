//! The secrets that callers show, as text. Where they are kept, only their SHA-256 is.
//!
//! | text | what |
//! |---|---|
//! | `mr_<id>_<secret>` | API key of a tenant, or operator key |
//! | `mrr_<id>_<secret>` | refresh token |
//! | three parts with dots between | access token, a JWT |

use std::fmt;

/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 4096;
/// Longest id of a key or refresh token; the secrets are bounded by the text.
const ID_BYTES_MAX: usize = 64;

/// Why an `Authorization` value is none that we give out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BearerError {
    /// Longer than 4096 bytes.
    #[error("the credential is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// None of the shapes above.
    #[error("the credential is neither an API key (mr_…) nor an access token (a JWT)")]
    Shape,
    /// A refresh token where an access token or key belongs.
    #[error("a refresh token is no access token; exchange it at /v1/tokens/refresh")]
    Refresh,
}

/// What came after `Bearer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// A key.
    Key(KeyText<'a>),
    /// An access token, not yet verified.
    Token(&'a str),
}

/// The parts of an API or operator key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyText<'a> {
    /// Names it; no secret.
    pub id: &'a str,
    /// Proves it.
    pub secret: &'a str,
}

/// The parts of a refresh token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RefreshText<'a> {
    /// Names it; no secret; stays the same when it is exchanged.
    pub id: &'a str,
    /// Proves it; new with every exchange.
    pub secret: &'a str,
}

impl<'a> Bearer<'a> {
    /// Tells the shapes apart.
    ///
    /// # Errors
    /// [`BearerError`], never with the text inside.
    pub fn parse(text: &'a str) -> Result<Self, BearerError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(BearerError::TooLong);
        }
        if text.starts_with("mrr_") {
            return Err(BearerError::Refresh);
        }
        if let Some((id, secret)) = parts(text, "mr_") {
            return Ok(Self::Key(KeyText { id, secret }));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.bytes().all(allowed) && text.split('.').count() == 3 {
            return Ok(Self::Token(text));
        }
        Err(BearerError::Shape)
    }
}

impl<'a> RefreshText<'a> {
    /// Takes a refresh token apart; `None` if it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = parts(text, "mrr_").filter(|_| text.len() <= TEXT_BYTES_MAX)?;
        Some(Self { id, secret })
    }
}

fn parts<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let (id, secret) = text.strip_prefix(prefix)?.split_once('_')?;
    let id_ok = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let secret_ok =
        !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    (id_ok && secret_ok).then_some((id, secret))
}

/// The whole text, to be shown once. `Debug` does not exist: a secret has no business in a log.
impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mr_{}_{}", self.id, self.secret)
    }
}

/// The whole text, to be shown once.
impl fmt::Display for RefreshText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mrr_{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyText").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for RefreshText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshText").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shapes_are_told_apart() {
        let check =
            |text: &str, expect: Result<Bearer<'_>, BearerError>| assert_eq!(Bearer::parse(text), expect, "{text}");
        check("mr_abc_x-y_z", Ok(Bearer::Key(KeyText { id: "abc", secret: "x-y_z" })));
        check("eyJ.eyJ.abc", Ok(Bearer::Token("eyJ.eyJ.abc")));
        check("mrr_abc_xyz", Err(BearerError::Refresh));
        for shapeless in ["", "x", "mr_", "mr_abc", "mr_abc_", "mr__x", "mr_a b_c", "a.b", "a.b.c.d", "a.b.ü", "mr_a_ü"]
        {
            check(shapeless, Err(BearerError::Shape));
        }
        check(&"x".repeat(4097), Err(BearerError::TooLong));
        assert_eq!(RefreshText::parse("mrr_a_b"), Some(RefreshText { id: "a", secret: "b" }));
        assert_eq!(RefreshText::parse("mr_a_b"), None);
    }

    #[test]
    fn secrets_are_not_in_debug_text() {
        let shown = format!("{:?}", Bearer::parse("mr_abc_hunter2"));
        assert!(shown.contains("abc") && !shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(id in "[a-z0-9]{1,64}", secret in "[A-Za-z0-9_-]{1,80}") {
            let key = KeyText { id: &id, secret: &secret };
            let text = key.to_string();
            prop_assert_eq!(Bearer::parse(&text), Ok(Bearer::Key(key)));
            let refresh = RefreshText { id: &id, secret: &secret };
            let text = refresh.to_string();
            prop_assert_eq!(RefreshText::parse(&text), Some(refresh));
        }

        #[test]
        fn anything_at_all_is_answered(text in ".{0,200}") {
            let _ = (Bearer::parse(&text), RefreshText::parse(&text));
        }
    }
}
