//! What the Cap'n Proto compiler makes of `schema/`, checked in so that nobody needs the compiler to build.
//!
//! Not for editing: `BLESS=1 cargo test -p millrace-protocol --test generated` writes it anew, and the same test without
//! `BLESS` compares.
#![allow(
    clippy::all,
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "generated"
)]

#[rustfmt::skip]
pub(crate) mod client_capnp;
#[rustfmt::skip]
pub(crate) mod node_capnp;
