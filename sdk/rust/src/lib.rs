//! The Rust SDK of Millrace: chat channels over one connection that comes back by itself.
//!
//! ```no_run
//! use millrace_client::{Client, Event};
//!
//! # async fn example(token: String) -> Result<(), millrace_client::Error> {
//! let client = Client::builder("ws://127.0.0.1:7400").token(token).connect().await?;
//! let mut general = client.subscribe("general").await?;
//! general.send("hi").await?; // stored, once
//! while let Some(event) = general.next().await {
//!     if let Event::Message(message) = event {
//!         println!("{}: {}", message.user, message.text());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it takes care of:
//! - it reconnects, with jittered waits, and goes where a node that leaves sends it;
//! - every message sent is tried until it is acknowledged, stored once, and in order ([`Sender::send`]);
//! - every message of a subscription comes once and in order, whatever happened in between, or an [`Event`] says what did
//!   not come;
//! - how far the user has read is kept in step over all their devices ([`Channel::mark_read`], [`Channel::unread`]);
//! - nothing grows without bound: a slow reader costs its queue ([`Builder::queue`]), a fast sender waits for its
//!   window ([`Builder::window`]);
//! - every wait has a limit, and every [`Error`] says what to do next.
//!
//! In reading order: [`Client`] and [`Builder`]; [`Channel`], [`Sender`], [`Ticket`], [`History`]; [`Event`]; [`State`];
//! [`Error`]. Inside: `engine` is the pure core, `task` and `transport` give it a clock and a socket.
#![forbid(unsafe_code)]

mod builder;
mod channel;
mod client;
mod endpoint;
mod engine;
mod error;
mod event;
mod inbox;
mod places;
mod state;
mod task;
mod token;
mod transport;
mod window;

pub use millrace_protocol::client::HistoryClass;
pub use millrace_protocol::code::{Advice, Code};
pub use millrace_protocol::id::{Epoch, Offset, Position, Producer, ProducerSequence, SessionId};

pub use crate::builder::Builder;
pub use crate::channel::{Channel, History, Sender, Ticket};
pub use crate::client::Client;
pub use crate::endpoint::UrlError;
pub use crate::engine::subscription::Start;
pub use crate::error::{Awaited, Error};
pub use crate::event::{Event, Message, Page, Skipped, Unread};
pub use crate::state::{State, StateWatch, UnreadWatch};
pub use crate::transport::Compression;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
