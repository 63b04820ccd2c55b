//! Closed sets of words, such as roles: the same word in JSON, in records, in logs and at a terminal.

use millrace_protocol::client::HistoryClass;
use millrace_protocol::node::{ChannelKind, KeyAlgorithm, Role, SlowConsumer};

/// A type whose every value has a word.
pub trait Word: Copy + PartialEq + 'static {
    /// What the words are for, such as `role`.
    const WHAT: &'static str;
    /// Every value with its word, in the order in which documents list them.
    const ALL: &'static [(Self, &'static str)];

    /// The word for a value.
    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(value, _)| *value == self).map_or("", |(_, word)| word)
    }

    /// The value of a word, exact in case.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(value, _)| *value)
    }

    /// All words, for a message to a person.
    fn list() -> String {
        let words: Vec<_> = Self::ALL.iter().map(|(_, word)| *word).collect();
        words.join(", ")
    }
}

impl Word for ChannelKind {
    const WHAT: &'static str = "kind";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Group, "group"), (Self::Dm, "dm"), (Self::Broadcast, "broadcast")];
}

impl Word for HistoryClass {
    const WHAT: &'static str = "history class";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Durable, "durable"), (Self::Windowed, "windowed"), (Self::None, "none")];
}

impl Word for SlowConsumer {
    const WHAT: &'static str = "slow-consumer policy";
    const ALL: &'static [(Self, &'static str)] = &[(Self::Disconnect, "disconnect"), (Self::Skip, "skip")];
}

impl Word for Role {
    const WHAT: &'static str = "role";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Owner, "owner"), (Self::Moderator, "moderator"), (Self::Member, "member"), (Self::Reader, "reader")];
}

impl Word for KeyAlgorithm {
    const WHAT: &'static str = "algorithm";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::EdDsa, "EdDSA"), (Self::Es256, "ES256"), (Self::Hs256, "HS256")];
}

/// For `#[serde(with = "word::as_word")]`: a value is written as its word.
pub mod as_word {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Word;

    /// Writes the word.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: Word, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.word())
    }

    /// Reads the word.
    ///
    /// # Errors
    /// A word that is not in the set.
    pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let word = String::deserialize(deserializer)?;
        T::from_word(&word)
            .ok_or_else(|| serde::de::Error::custom(format!("{word:?} is no {}; it is one of {}", T::WHAT, T::list())))
    }
}

/// For `#[serde(with = "word::as_words")]`: values are written as a list of their words.
pub mod as_words {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Word;

    /// Writes the words.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: Word, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| value.word()))
    }

    /// Reads the words.
    ///
    /// # Errors
    /// A word that is not in the set.
    pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        let word = |word: String| {
            T::from_word(&word).ok_or_else(|| serde::de::Error::custom(format!("{word:?} is no {}", T::WHAT)))
        };
        Vec::<String>::deserialize(deserializer)?.into_iter().map(word).collect()
    }
}

/// For `#[serde(with = "word::as_text")]`: a value is written as its text, and checked when it is read.
pub mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the text.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads and checks the text.
    ///
    /// # Errors
    /// What the type's own check says.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(with = "word::as_channel")]` and its like: numbers that are never 0.
pub mod as_number {
    use millrace_protocol::id::{ChannelId, TenantId};
    use serde::{Deserialize, Deserializer, Serializer};

    /// An id with a number inside.
    pub trait Number: Sized {
        /// The number.
        fn number(&self) -> u64;
        /// The id, unless the number is 0 or too large.
        fn from_number(number: u64) -> Option<Self>;
    }

    impl Number for ChannelId {
        fn number(&self) -> u64 {
            self.get()
        }

        fn from_number(number: u64) -> Option<Self> {
            Self::new(number)
        }
    }

    impl Number for TenantId {
        fn number(&self) -> u64 {
            u64::from(self.get())
        }

        fn from_number(number: u64) -> Option<Self> {
            u32::try_from(number).ok().and_then(Self::new)
        }
    }

    /// Writes the number.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: Number, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.number())
    }

    /// Reads the number.
    ///
    /// # Errors
    /// 0, or a number that does not fit.
    pub fn deserialize<'de, T: Number, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let number = u64::deserialize(deserializer)?;
        T::from_number(number).ok_or_else(|| serde::de::Error::custom(format!("{number} is no id")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_goes_both_ways() {
        fn check<T: Word + std::fmt::Debug>(count: usize) {
            assert_eq!(T::ALL.len(), count);
            for (value, word) in T::ALL {
                assert_eq!(value.word(), *word);
                assert_eq!(T::from_word(word), Some(*value));
                assert_eq!(T::from_word(&word.to_uppercase()).is_some(), word.to_uppercase() == *word);
            }
            assert_eq!(T::from_word(""), None);
        }
        check::<ChannelKind>(3);
        check::<HistoryClass>(3);
        check::<SlowConsumer>(2);
        check::<Role>(4);
        check::<KeyAlgorithm>(3);
        check::<crate::EventKind>(10);
        check::<crate::OffReason>(4);
    }
}
