//! QUIC for a shard: one endpoint with its connections and timers, connection ids that say which shard a connection is on, and how
//! a session's frames go on streams. No socket, no clock, no thread: datagrams and time go in, datagrams and events come out.
//!
//! The protocol itself is `quinn-proto`'s; nothing here but [`Driver`] touches it.
//!
//! In reading order: [`Limits`], [`Keys`] and [`Server`] (what all shards share); `cid`, [`route`] and [`steering`]
//! (which shard a datagram belongs to); `admission` (Retry under load); `congestion` (how much may be on its way); `handshake` (TLS,
//! while it lasts); `wheel`; [`Driver`] (connections); [`Session`] (frames on
//! streams, `SPEC.md` §1.2); `web` (HTTP/3 around them, §1.3).
#![forbid(unsafe_code)]

mod admission;
mod cid;
mod config;
mod congestion;
mod driver;
mod handshake;
mod protocol;
mod route;
mod session;
mod steering;
mod web;
mod wheel;

pub use cid::{CID_BYTES, CidKey, SHARDS_MAX};
pub use config::{KeyError, Keys, Limits, NoSuite, Server};
pub use driver::{Driver, End, Event, Key, Outgoing, Read, Stats, Write};
pub use protocol::Protocol;
pub use quinn_proto::{EcnCodepoint, StreamId};
pub use route::{Route, Stage, route};
pub use session::{Input, Session};
pub use steering::{Instruction, steering};
pub use web::WebCounts;
