//! What the control plane keeps in its store: one module per kind of record, each with its encoding and its reads and writes
//! inside a transaction. Rules are in `millrace-domain`; when a transaction begins and ends is the caller's business.
//!
//! A value is one version byte and a payload. A record that expires has the Unix time in ms of its end in the eight bytes
//! after the version, so that the sweep need not know what it sweeps.

pub(crate) mod api_key;
pub(crate) mod channel;
pub(crate) mod cold;
pub(crate) mod expiry;
pub(crate) mod head;
pub(crate) mod idempotency;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod member;
pub(crate) mod message;
pub(crate) mod producer;
pub(crate) mod refresh_token;
pub(crate) mod revocation;
pub(crate) mod signing_key;
pub(crate) mod tenant;
pub(crate) mod user;
pub(crate) mod webhook;
pub(crate) mod webhook_log;
pub(crate) mod webhook_queue;
