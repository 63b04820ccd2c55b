//! The server's side of WebTransport over HTTP/3 (draft-ietf-webtrans-http3, RFC 9114, RFC 9220, RFC 9297), as much of it as one
//! session on a connection of its own needs. Bytes of the client's streams go in, by the number that QUIC gives a stream; what to
//! write, what to refuse and which streams belong to the session come out.
//!
//! Not here: QUIC, flow control, time. A client is bounded by how many streams QUIC lets it open, and by [`Connection::held_bytes`].
//!
//! In reading order: [`varint`] and `items` (how everything is framed), `huffman` and `qpack` (fields of a request), `request` (who is
//! let in), `capsule`, `settings`, [`Connection`].
#![forbid(unsafe_code)]

mod capsule;
mod connection;
mod error;
mod huffman;
mod items;
mod qpack;
mod request;
mod settings;
pub mod varint;

pub use capsule::{CLOSE_REASON_BYTES_MAX, Close};
pub use connection::{Action, Connection, STREAMS_MAX};
pub use error::{Error, ErrorCode};
pub use request::{FIELDS_BYTES_MAX, Refusal};
pub use settings::OFFERED;
