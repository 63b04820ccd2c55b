//! Text and data that a stranger chose: checked once, bounded for ever.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest display name, in bytes of UTF-8.
pub const DISPLAY_NAME_BYTES_MAX: usize = 256;
/// Largest metadata, in bytes of compact JSON.
pub const METADATA_BYTES_MAX: usize = 4096;

/// Why text or metadata is refused. The caller's mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// Over its limit.
    #[error("is {len} bytes, limit is {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A line break, a tab or another control character.
    #[error("has the control character {found:?}")]
    Control {
        /// The first such character.
        found: char,
    },
}

/// A name for people to read: 1 to 256 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DisplayName(String);

impl DisplayName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`TextError`] if it is empty, too long, or has a control character.
    pub fn new(name: &str) -> Result<Self, TextError> {
        if name.is_empty() {
            return Err(TextError::Empty);
        }
        if name.len() > DISPLAY_NAME_BYTES_MAX {
            return Err(TextError::TooLong { len: name.len(), max: DISPLAY_NAME_BYTES_MAX });
        }
        match name.chars().find(|c| c.is_control()) {
            Some(found) => Err(TextError::Control { found }),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DisplayName {
    type Err = TextError;

    fn from_str(name: &str) -> Result<Self, TextError> {
        Self::new(name)
    }
}

impl TryFrom<String> for DisplayName {
    type Error = TextError;

    fn try_from(name: String) -> Result<Self, TextError> {
        Self::new(&name)
    }
}

impl From<DisplayName> for String {
    fn from(name: DisplayName) -> Self {
        name.0
    }
}

/// A JSON object that belongs to the application; at most 4 KiB when written compactly. Millrace never looks inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    /// Checks and takes an object.
    ///
    /// # Errors
    /// [`TextError::TooLong`] if it is over [`METADATA_BYTES_MAX`] when written compactly.
    pub fn new(object: Map<String, Value>) -> Result<Self, TextError> {
        let len = Value::Object(object.clone()).to_string().len();
        if len > METADATA_BYTES_MAX {
            return Err(TextError::TooLong { len, max: METADATA_BYTES_MAX });
        }
        Ok(Self(object))
    }

    /// The object.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_are_checked() {
        let check = |name: &str, expect: Result<(), TextError>| {
            assert_eq!(DisplayName::new(name).map(drop), expect, "{name:?}");
        };
        check("Ann O'Neill 👋", Ok(()));
        check(&"é".repeat(128), Ok(()));
        check("", Err(TextError::Empty));
        check(&"é".repeat(129), Err(TextError::TooLong { len: 258, max: 256 }));
        check("a\nb", Err(TextError::Control { found: '\n' }));
        check("a\u{0}", Err(TextError::Control { found: '\0' }));
    }

    #[test]
    fn metadata_is_bounded_by_its_compact_form() {
        let of = |len: usize| Map::from_iter([("k".to_owned(), Value::String("x".repeat(len)))]);
        let overhead = r#"{"k":""}"#.len();
        assert!(Metadata::new(of(METADATA_BYTES_MAX - overhead)).is_ok());
        assert_eq!(
            Metadata::new(of(METADATA_BYTES_MAX - overhead + 1)),
            Err(TextError::TooLong { len: METADATA_BYTES_MAX + 1, max: METADATA_BYTES_MAX })
        );
    }
}
