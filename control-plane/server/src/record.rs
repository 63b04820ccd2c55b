//! What the control plane keeps in its store: one module per kind of record, each with its encoding and its reads and writes
//! inside a transaction. Rules are in `millrace-domain`; when a transaction begins and ends is the caller's business.
//!
//! A value is one version byte and a payload. A record that expires has the Unix time in ms of its end in the eight bytes
//! after the version, so that the sweep need not know what it sweeps.

pub(crate) mod head;
pub(crate) mod key;
pub(crate) mod message;
pub(crate) mod producer;
