//! What a peer can do wrong in frames, and the close code that says so.

use super::close;

/// The peer broke the protocol, or sent more than we take: answer with a close frame of [`WsError::close_code`], then end
/// the connection (§7.1.7). Every variant is the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WsError {
    /// RSV1, RSV2 or RSV3 is set where no negotiated extension gives it a meaning (§5.2; RFC 7692 §6).
    #[error("a reserved bit is set that no negotiated extension gives a meaning")]
    ReservedBits,
    /// An opcode that has no meaning (§5.2).
    #[error("opcode {opcode:#x} is reserved")]
    ReservedOpcode {
        /// The opcode, 0x3 to 0x7 or 0xb to 0xf.
        opcode: u8,
    },
    /// A control frame that is not its message's only frame (§5.5).
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A control frame of more than 125 bytes (§5.5).
    #[error("a control frame has more than 125 bytes of payload")]
    ControlTooLong,
    /// A client's frame without a mask (§5.1).
    #[error("a frame from a client is not masked")]
    NotMasked,
    /// A server's frame with a mask (§5.1).
    #[error("a frame from a server is masked")]
    Masked,
    /// A length in more bytes than it needs (§5.2).
    #[error("a payload length of {bytes} is not encoded in the fewest bytes")]
    LengthNotMinimal {
        /// The length that was encoded.
        bytes: u64,
    },
    /// A 64-bit length with its highest bit set (§5.2).
    #[error("a payload length has its highest bit set")]
    LengthTooLarge,
    /// A continuation frame with nothing to continue (§5.4).
    #[error("a continuation frame follows no fragment")]
    ContinuationUnexpected,
    /// A new message before the last fragment of the one before (§5.4).
    #[error("a message begins before the one before it has ended")]
    ContinuationExpected,
    /// A close frame with one byte of payload (§5.5.1).
    #[error("a close frame has one byte of payload, a code has two")]
    CloseTooShort,
    /// A close code that nobody may send (§7.4).
    #[error("close code {code} must not be sent")]
    CloseCode {
        /// The code.
        code: u16,
    },
    /// Text, or the reason of a close frame, that is not UTF-8 (§8.1).
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// A compressed message that cannot be inflated (RFC 7692 §7.2.2).
    #[error("a compressed message cannot be inflated")]
    Deflate,
    /// A message over the limit. Found from the frame header, before its payload is taken in; of a compressed one also while it is
    /// inflated, before more than the limit is.
    #[error("a message of at least {bytes} bytes is over the limit of {max}")]
    MessageTooBig {
        /// Payload bytes up to the end of the frame that goes over, or to where inflating stopped.
        bytes: u64,
        /// The limit.
        max: u32,
    },
}

impl WsError {
    /// The close code for the peer (§7.4.1): 1002, 1007 or 1009.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::InvalidUtf8 | Self::Deflate => close::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => close::MESSAGE_TOO_BIG,
            _ => close::PROTOCOL_ERROR,
        }
    }
}
