//! Millrace's wire formats, pure: bytes in, types out, and back.
//!
//! Both planes and every SDK meet here and nowhere else. In reading order:
//! - [`id`]: the names and numbers that everything is called by;
//! - [`code`]: error codes, whose range says what to do next;
//! - [`client`]: frames between a client and a data node (`schema/client.capnp`, `SPEC.md`);
//! - [`node`]: frames of the control link (`schema/node.capnp`);
//! - [`stream`]: frames on a byte stream, such as one of QUIC;
//! - [`ws`]: the WebSocket codec, RFC 6455.
#![forbid(unsafe_code)]

pub mod client;
pub mod code;
mod error;
mod generated;
pub mod id;
pub mod node;
mod segment;
pub mod stream;
pub mod ws;

pub use code::Code;
pub use error::FrameError;
pub use id::{
    ChannelId, ChannelName, Epoch, Offset, Position, Producer, ProducerSequence, SessionId, TenantId, Term, UserId,
};
