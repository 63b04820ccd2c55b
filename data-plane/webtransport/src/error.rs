//! Error codes of HTTP/3, and what ends a connection.

/// Why a stream or a connection ends, in HTTP/3's words.
///
/// Source: RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §5.2, draft-ietf-webtrans-http3 §4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// H3_DATAGRAM_ERROR: a datagram that does not say whose it is.
    Datagram,
    /// H3_NO_ERROR: all is well, and over.
    NoError,
    /// H3_STREAM_CREATION_ERROR: a stream of a kind that a client does not open, or a second one of which there is one.
    StreamCreation,
    /// H3_CLOSED_CRITICAL_STREAM: a stream ended that lasts as long as the connection.
    ClosedCriticalStream,
    /// H3_FRAME_UNEXPECTED: a frame that does not belong where it is.
    FrameUnexpected,
    /// H3_FRAME_ERROR: a frame that is cut off, or wrong in itself.
    Frame,
    /// H3_EXCESSIVE_LOAD: more than a client has any reason to send.
    ExcessiveLoad,
    /// H3_ID_ERROR: a session's number that can be none.
    Id,
    /// H3_SETTINGS_ERROR: settings that contradict themselves or HTTP/3.
    Settings,
    /// H3_MISSING_SETTINGS: the control stream begins with something else.
    MissingSettings,
    /// H3_REQUEST_REJECTED: nothing was done about it, and it may be tried again.
    RequestRejected,
    /// H3_REQUEST_INCOMPLETE: a request that ended before it was whole.
    RequestIncomplete,
    /// H3_MESSAGE_ERROR: a message that is malformed.
    Message,
    /// QPACK_DECOMPRESSION_FAILED: fields that cannot be read, or that refer to a table that was not offered.
    Decompression,
    /// QPACK_ENCODER_STREAM_ERROR: entries for a table that was not offered.
    EncoderStream,
    /// QPACK_DECODER_STREAM_ERROR: word of entries that nobody sent.
    DecoderStream,
    /// WT_BUFFERED_STREAM_REJECTED: a stream of a session that there will not be.
    StreamRejected,
    /// WT_SESSION_GONE: a stream of a session that is over.
    SessionGone,
}

impl ErrorCode {
    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Datagram => 0x33,
            Self::NoError => 0x100,
            Self::StreamCreation => 0x103,
            Self::ClosedCriticalStream => 0x104,
            Self::FrameUnexpected => 0x105,
            Self::Frame => 0x106,
            Self::ExcessiveLoad => 0x107,
            Self::Id => 0x108,
            Self::Settings => 0x109,
            Self::MissingSettings => 0x10a,
            Self::RequestRejected => 0x10b,
            Self::RequestIncomplete => 0x10d,
            Self::Message => 0x10e,
            Self::Decompression => 0x200,
            Self::EncoderStream => 0x201,
            Self::DecoderStream => 0x202,
            Self::StreamRejected => 0x3994_bd84,
            Self::SessionGone => 0x170d_7b68,
        }
    }
}

/// The client broke the rules of HTTP/3: the connection has to be closed with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// What to close with.
    pub code: ErrorCode,
    /// For a person.
    pub reason: &'static str,
}

impl Error {
    pub(crate) const fn new(code: ErrorCode, reason: &'static str) -> Self {
        Self { code, reason }
    }
}
