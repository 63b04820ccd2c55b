//! The names and numbers that both planes and every SDK call things by. Each is a type, so that none is mistaken for
//! another; each is checked once, where it enters.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

/// Longest name of a user or a channel, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a string is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing in it.
    #[error("name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("name is {len} bytes, limit is {NAME_BYTES_MAX}")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// A character outside letters, digits and `-_.:@~`.
    #[error("name has {found:?}; letters, digits and -_.:@~ are allowed")]
    Character {
        /// The first such character.
        found: char,
    },
}

fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { len: name.len() });
    }
    match name.chars().find(|&c| !(c.is_alphanumeric() || "-_.:@~".contains(c))) {
        Some(found) => Err(NameError::Character { found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] if it is empty, longer than [`NAME_BYTES_MAX`], or has a character that is not allowed.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_name(name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
    };
}

name! {
    /// A user of a tenant, by the tenant's own name for them: 1 to 128 bytes of letters, digits and `-_.:@~`.
    UserId
}
name! {
    /// A channel by name, unique in its tenant: 1 to 128 bytes of letters, digits and `-_.:@~`.
    ChannelName
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $raw:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($inner);

        impl $name {
            /// `None` for 0, which stands for "none" on the wire.
            pub const fn new(number: $raw) -> Option<Self> {
                match <$inner>::new(number) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }

            /// The plain number, never 0.
            pub const fn get(self) -> $raw {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number! {
    /// A tenant: one customer's world of users and channels.
    TenantId, NonZeroU32, u32
}
number! {
    /// A channel's number, given at creation, unique in the deployment and never used again.
    ChannelId, NonZeroU64, u64
}
number! {
    /// Place of a message in its channel: contiguous, the first of a channel is 1.
    ///
    /// A new [`Epoch`] goes on counting after the last message that is stored.
    Offset, NonZeroU64, u64
}
number! {
    /// One incarnation of a channel's history, from 1. It changes only when history that somebody may have seen is lost.
    Epoch, NonZeroU32, u32
}
number! {
    /// One run of a sender, random, kept over reconnects. Scoped by channel and user: nobody can spoil another's.
    Producer, NonZeroU64, u64
}
number! {
    /// Counts the messages of one producer on one channel from 1, without gaps.
    ProducerSequence, NonZeroU64, u64
}

impl Offset {
    /// The first offset of a channel.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The offset `count` places later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl Epoch {
    /// The first epoch of a channel.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl ProducerSequence {
    /// The first message of a producer.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The sequence after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A place in a channel's history: everything up to and including `offset` is behind it.
///
/// `offset` is plain because 0, before the first message, is a place too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The epoch in which the offset counts.
    pub epoch: Epoch,
    /// Offset of the last message behind this place; 0 for the very beginning.
    pub offset: u64,
}

impl Position {
    /// The place just behind a message.
    pub const fn behind(epoch: Epoch, offset: Offset) -> Self {
        Self { epoch, offset: offset.get() }
    }

    /// Offset of the message that follows this place.
    pub const fn next_offset(self) -> Offset {
        Offset(NonZeroU64::MIN.saturating_add(self.offset))
    }
}

/// Fencing number of a node's link to the control plane: a higher term ends every lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term(pub u64);

/// Names a session in logs and support cases; random, and no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let check = |name: &str, expect: Result<(), NameError>| {
            assert_eq!(ChannelName::new(name).map(drop), expect, "{name:?}");
        };
        check("general", Ok(()));
        check("dm:alice~bob", Ok(()));
        check("größe-世界", Ok(()));
        check(&"x".repeat(128), Ok(()));
        check("", Err(NameError::Empty));
        check(&"x".repeat(129), Err(NameError::TooLong { len: 129 }));
        check("a b", Err(NameError::Character { found: ' ' }));
        check("a/b", Err(NameError::Character { found: '/' }));
        check("a\0b", Err(NameError::Character { found: '\0' }));
    }

    #[test]
    fn a_position_is_behind_its_offset() {
        assert_eq!(Position { epoch: Epoch::FIRST, offset: 0 }.next_offset(), Offset::FIRST);
        assert_eq!(Position::behind(Epoch::FIRST, Offset::FIRST).next_offset().get(), 2);
    }
}
