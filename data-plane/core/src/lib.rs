//! Everything that a shard of a data node decides, pure: no socket, no clock, no randomness.
//!
//! A [`Shard`] is fed with `handle_*`, works in turns, and says what to do. The shell's loop:
//! 1. take every ready event (bounded) and feed it: [`handle_connected`](Shard::handle_connected),
//!    [`handle_frame`](Shard::handle_frame), [`handle_hop`](Shard::handle_hop), [`handle_control`](Shard::handle_control),
//!    [`handle_timeout`](Shard::handle_timeout), …;
//! 2. [`end_turn`](Shard::end_turn);
//! 3. carry out [`poll_action`](Shard::poll_action) until `None`, writing each flushed session's [`Outbound`] once and reporting
//!    it with [`handle_written`](Shard::handle_written);
//! 4. for each other shard, while its ring has room: [`poll_hop`](Shard::poll_hop), then one wake;
//! 5. if [`has_work`](Shard::has_work) take another turn, else wait for an event or for [`poll_timeout`](Shard::poll_timeout).
//!
//! A hop that finds no room stays in the core, which bounds it: a full ring needs no call.
//!
//! Modules in reading order: `session`, `user`, `outbound` and `rate_limit` (one session); `subscription` and `replay` (a
//! channel's sessions on one shard); `grant` (what users may do) and `reads` (how far they have read); `admission` (who may begin); `home` (the one place that orders a channel); `run` (encoded
//! messages) and `compression` (what becomes of them for who agreed to it); `incident` and `agent` (what operators ask for); `hop` (between shards); `wheel`, `arena`, `recent`, `seeded` (time and memory); `shard` (routes and keeps time).
#![forbid(unsafe_code)]

mod action;
mod admission;
mod agent;
mod arena;
mod backplane;
mod barring;
mod compression;
mod config;
mod grant;
mod home;
mod homes;
mod hop;
mod id;
mod incident;
mod links;
mod outbound;
mod rate_limit;
mod reads;
mod recent;
mod replay;
mod run;
mod seeded;
mod session;
mod shard;
mod stats;
mod subscription;
mod token;
mod user;
mod wheel;

pub use action::{Action, ControlEvent, Drain, Written};
pub use compression::Compress;
pub use config::{Config, ConfigError, HomeConfig, Rate};
pub use hop::Hop;
pub use id::{Now, SLOTS, SessionKey, ShardIndex, home_of};
pub use outbound::{Lanes, Outbound, Place, Taken};
pub use run::Run;
pub use shard::{Findings, Shard};
pub use stats::Stats;
pub use token::{VerifiedToken, VerifyToken};
