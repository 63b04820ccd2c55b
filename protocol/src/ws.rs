//! The WebSocket codec, RFC 6455: the opening handshake and the framing of both sides. Pure: the shell owns sockets,
//! clocks, randomness and the order of writes.
//!
//! In reading order:
//! - [`handshake`]: from HTTP/1.1 to WebSocket, §4;
//! - [`header`]: one frame header, both ways, §5.2;
//! - [`mask()`]: exclusive-or with the masking key, §5.3;
//! - [`decoder`]: bytes in, messages and control frames out, §5.4 to §5.6 and §8.1;
//! - [`encode`]: whole frames into a buffer;
//! - [`deflate`]: compressed messages, RFC 7692;
//! - [`close`]: close codes and the payload of a close frame, §5.5.1 and §7.4.
//!
//! The one extension is permessage-deflate, and only where both sides ask for it; without it every reserved bit is an error.
//!
//! ```
//! use millrace_protocol::ws::{Decoder, Event, Limits, Opcode, Role, encode};
//!
//! let mut wire = Vec::new();
//! encode::frame(Opcode::Text, b"hi", Some([1, 2, 3, 4]), &mut wire);
//!
//! let mut decoder = Decoder::new(Role::Server, Limits { message_bytes_max: 65_536 });
//! let mut replies = Vec::new();
//! let mut feed = decoder.feed(&mut wire);
//! while let Some(event) = feed.next_event()? {
//!     match event {
//!         Event::Message { payload, .. } => encode::frame(Opcode::Binary, payload, None, &mut replies),
//!         Event::Ping(payload) => encode::frame(Opcode::Pong, payload, None, &mut replies),
//!         Event::Pong(_) => {}
//!         Event::Close { code, .. } => encode::close(code, "", None, &mut replies),
//!     }
//! }
//! assert_eq!(replies, [0x82, 2, b'h', b'i']);
//! # Ok::<(), millrace_protocol::ws::WsError>(())
//! ```

pub mod close;
pub mod decoder;
pub mod deflate;
pub mod encode;
pub mod error;
pub mod handshake;
pub mod header;
pub mod mask;

pub use decoder::{Decoder, Event, Feed, MessageKind};
pub use error::WsError;
pub use header::{HEADER_BYTES_MAX, Header, HeaderBytes, MaskKey, Opcode, decode_header};
pub use mask::mask;

/// Which side of the connection we are. A client masks what it sends, a server does not (§5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We accept connections: what comes in must be masked.
    Server,
    /// We open connections: what comes in must not be masked.
    Client,
}

/// What a peer may cost us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, in bytes of payload over all its fragments. A connection holds at most this, and one frame
    /// header and one control frame, and only while a message is partly here.
    pub message_bytes_max: u32,
}
