//! Clients that mean harm, at full rate, beside clients that do not: nothing crashes, memory is bounded, and who is inside is served.
//!
//! Each attack has the machine for itself as far as this suite goes, and a node in a process of its own: its memory is neither that of
//! the clients nor that of other tests. Each lasts half a second; `MILLRACE_HOSTILE_SECONDS` says otherwise, as `cargo xtask hostile`
//! does. What was seen is printed.

mod initial;
mod process;
mod quic;
#[path = "../support/world.rs"]
#[expect(dead_code, unused_imports, reason = "attackers need less of it than the tests of the node")]
mod support;
mod tls;
mod webtransport;
mod world;

/// That of production: how much of what is freed goes back to the system is the allocator's, and these tests measure it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
