//! What the shell adds to what the core knows of sessions: where their peers are.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use millrace_core::{Findings, Now};
use millrace_protocol::node::{Inspect, Inspected};
use rustix::net::getpeername;

use super::Shard;

impl Shard {
    pub(super) fn inspect(&self, now: Now, question: &Inspect) -> Inspected {
        let Findings { mut inspected, keys } = self.core.inspect(now, question);
        for (session, key) in inspected.sessions.iter_mut().zip(keys) {
            let connection = self.connections.get(key.index()).and_then(Option::as_ref);
            if let Some(connection) = connection.filter(|connection| connection.session == key) {
                session.remote = peer_of(&connection.fd);
            } else if let Some(remote) = self.quic.as_ref().and_then(|quic| quic.remote(key)) {
                session.remote = remote.to_string();
            }
        }
        inspected
    }
}

/// Address and port of a socket's peer; empty if it has gone.
fn peer_of(fd: impl AsFd) -> String {
    let peer = getpeername(fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
    peer.map_or_else(String::new, |peer| peer.to_string())
}
