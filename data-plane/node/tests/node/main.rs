//! A whole data node from outside: real sockets and threads, a small control plane in memory, clients that retry nothing.

mod admin;
mod compression;
mod door;
mod drain;
mod driver;
mod garbage;
mod handshake;
mod limits;
mod link;
mod messages;
mod operate;
mod oversize;
mod quic;
mod session;
mod slow_reader;
#[path = "../support/world.rs"]
mod support;
mod tls;
mod transport;
mod websocket;
