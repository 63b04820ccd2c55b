//! The conformance suite of the SDKs: scenarios, played against a real server through an SDK's driver, and judged from outside.
//!
//! A scenario (`../scenarios/*.toml`) says what happens; a driver (`../DRIVER.md`) makes its SDK do the client's part and tells what it
//! hears; this crate plays everybody else (the server, the network, the application server) and judges. Most of the judgement needs no
//! word in a scenario: whatever happened, a reader saw exactly what is stored, in order, once; what was acknowledged is stored where the
//! SDK said, what was refused is not; and no bad news came that the scenario did not expect.
//!
//! Each scenario is played over each [`transport`] that an SDK has. In reading order: [`scenario`] is what is written; [`play`] carries it out on a [`world`] through a [`driver`], beside a [`host`] if drivers share one, with a [`proxy`] before each client; the [`ledger`] keeps
//! what was said, the [`judge`] compares that with what is stored; [`suite`] runs many and [`table`] shows the outcome.
//! `ledger` and `judge` are pure.
#![forbid(unsafe_code)]

pub mod driver;
pub mod drivers;
pub mod host;
pub mod judge;
pub mod ledger;
pub mod play;
pub mod proxy;
pub mod real;
pub mod rest;
pub mod scenario;
pub mod server;
pub mod suite;
pub mod table;
pub mod transcript;
pub mod transport;
pub mod trust;
pub mod world;
