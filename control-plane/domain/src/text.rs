//! Text and data that a stranger chose: checked once, bounded for ever.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;

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
    /// A character that turns the direction of what stands around it, so that a name reads as another or moves what is beside it.
    #[error("has {found:?}, which changes the direction of text")]
    Direction {
        /// The first such character.
        found: char,
    },
    /// Only blanks and characters that nobody sees.
    #[error("has nothing in it that can be seen")]
    Invisible,
    /// A blank at one of its ends, where nobody sees it.
    #[error("begins or ends with a blank")]
    Blank,
}

/// A name for people to read: 1 to 256 bytes of UTF-8 in normalization form C, with something to be seen in it, without blanks at its ends,
/// control characters, and characters that change the direction of text. Names of the same look can still be of different users: their id tells.
///
/// What a store gives back is not checked again: it was, by the rules of its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DisplayName(String);

impl DisplayName {
    /// Checks a name and takes it in normalization form C: what looks the same is the same.
    ///
    /// # Errors
    /// [`TextError`] if it is empty, too long (also as it would be kept), cannot be seen, has a blank at one of its ends, or a character that a
    /// name may not have.
    ///
    /// Source: Unicode Standard Annex #15 (normalization), UTS #55 §2 (what changes direction).
    pub fn new(name: &str) -> Result<Self, TextError> {
        let bounded = |len| if len > DISPLAY_NAME_BYTES_MAX { Err(len) } else { Ok(()) };
        let too_long = |len| TextError::TooLong { len, max: DISPLAY_NAME_BYTES_MAX };
        if name.is_empty() {
            return Err(TextError::Empty);
        }
        bounded(name.len()).map_err(too_long)?;
        if let Some(found) = name.chars().find(|&c| c.is_control() || is_line_end(c)) {
            return Err(TextError::Control { found });
        }
        if let Some(found) = name.chars().find(|&c| changes_direction(c)) {
            return Err(TextError::Direction { found });
        }
        if !name.chars().any(is_visible) {
            return Err(TextError::Invisible);
        }
        if name.trim() != name {
            return Err(TextError::Blank);
        }
        let name: String = name.nfc().collect();
        bounded(name.len()).map_err(too_long)?;
        Ok(Self(name))
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

impl From<DisplayName> for String {
    fn from(name: DisplayName) -> Self {
        name.0
    }
}

/// Line and paragraph separators, which break a line without being control characters.
fn is_line_end(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Embeddings, overrides and isolates. Marks (U+200E, U+200F, U+061C) stay: they turn nothing but what is neutral beside them.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether it leaves a trace on a screen. Blanks do not, nor does what is to be ignored by default (Unicode's `Default_Ignorable_Code_Point`)
/// and the letter and the pattern that are drawn as nothing.
fn is_visible(c: char) -> bool {
    let is_ignored = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}');
    !is_ignored && !c.is_whitespace() && !c.is_control() && c != '\u{2800}'
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
        check("a\u{2028}b", Err(TextError::Control { found: '\u{2028}' }));
        for found in ['\u{202a}', '\u{202b}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2069}'] {
            check(&format!("ann{found}bob"), Err(TextError::Direction { found }));
        }
        for invisible in [
            " ",
            "\u{a0}",
            "\u{3000}",
            "\u{200b}",
            "\u{200d}\u{fe0f}",
            "\u{3164}",
            "\u{2800}",
            "\u{e0041}",
            "\u{ad} \u{2060}",
        ] {
            check(invisible, Err(TextError::Invisible));
        }
        for blank in [" ann", "ann ", "\u{2003}ann"] {
            check(blank, Err(TextError::Blank));
        }
        // What joins and marks belongs to names: a family, Persian, Hebrew beside Latin, a flag.
        for name in [
            "👩\u{200d}👧",
            "می\u{200c}خواهم",
            "\u{200f}דנה (Dana)",
            "🏴\u{e0067}\u{e0062}\u{e007f}",
            "❤\u{fe0f}",
            "김 철수",
        ] {
            check(name, Ok(()));
        }
    }

    #[test]
    fn display_names_are_kept_in_one_form() {
        let check = |name: &str, expect: &str| assert_eq!(DisplayName::new(name).unwrap().as_str(), expect);
        check("Zoe\u{308}", "Zoë");
        check("Zoë", "Zoë");
        check("\u{1112}\u{1161}\u{11ab}", "한");
        // Some become longer.
        assert_eq!(DisplayName::new(&"\u{958}".repeat(80)), Err(TextError::TooLong { len: 480, max: 256 }));
    }

    #[test]
    fn what_is_stored_is_read_whatever_the_rules_are_today() {
        let name: DisplayName = serde_json::from_str("\" a\u{202e}b\"").unwrap();
        assert_eq!(name.as_str(), " a\u{202e}b");
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
