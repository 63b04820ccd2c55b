//! Why bytes are no frame. One enum for both wires, because what can be wrong with a Cap'n Proto message is the same on each.

use crate::code::Code;
use crate::id::NameError;

/// Why bytes are no frame of this protocol. All of it is the peer's fault; the connection ends with [`FrameError::code`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than any frame may be; found before anything in it is read.
    #[error("frame is {bytes} bytes, limit is {bytes_max}")]
    FrameTooLarge {
        /// Length of the frame in bytes.
        bytes: usize,
        /// The limit of this direction.
        bytes_max: usize,
    },
    /// A list, text or body over its own limit.
    #[error("{what} has a size of {size}, limit is {size_max}")]
    TooLarge {
        /// The field, as the schema names it.
        what: &'static str,
        /// Items of a list, bytes of a text or body.
        size: usize,
        /// The limit.
        size_max: usize,
    },
    /// The segment table does not announce exactly one segment that ends where the frame ends.
    #[error("frame of {bytes} bytes is not one whole segment")]
    NotOneSegment {
        /// Length of the frame in bytes.
        bytes: usize,
    },
    /// A pointer of the wrong kind, out of bounds, nested too deep, or more to read than the frame is long.
    #[error("frame is not well formed")]
    Structure(#[from] capnp::Error),
    /// A text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field, as the schema names it.
        what: &'static str,
        /// What the check found.
        source: simdutf8::basic::Utf8Error,
    },
    /// A number that must not be 0.
    #[error("{what} is 0")]
    Zero {
        /// The field, as the schema names it.
        what: &'static str,
    },
    /// Data of a fixed length that has another.
    #[error("{what} is {bytes} bytes, must be {bytes_expected}")]
    Length {
        /// The field, as the schema names it.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// What it must be.
        bytes_expected: usize,
    },
    /// A text that is no name, where only a checked name may stand.
    #[error("{what} is no name")]
    Name {
        /// The field, as the schema names it.
        what: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
}

impl FrameError {
    /// The code under which the peer hears of it: [`Code::TooLarge`] over a limit, [`Code::Invalid`] for a value that
    /// cannot stand where it does, [`Code::BadFrame`] for everything else.
    pub const fn code(&self) -> Code {
        match self {
            Self::FrameTooLarge { .. } | Self::TooLarge { .. } => Code::TooLarge,
            Self::Zero { .. } | Self::Length { .. } | Self::Name { .. } => Code::Invalid,
            Self::NotOneSegment { .. } | Self::Structure(_) | Self::NotUtf8 { .. } => Code::BadFrame,
        }
    }
}

/// Why a member was not decoded: a fault of the peer, or something that a later version put there.
pub(crate) enum Stop {
    /// A union member or an enum value that this version does not know.
    Unknown,
    /// The peer's fault.
    Fault(FrameError),
}

impl From<FrameError> for Stop {
    fn from(error: FrameError) -> Self {
        Self::Fault(error)
    }
}

impl From<capnp::Error> for Stop {
    fn from(error: capnp::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<capnp::NotInSchema> for Stop {
    fn from(_: capnp::NotInSchema) -> Self {
        Self::Unknown
    }
}
