//! Connections that are over for us but not for their peer: what is left to tell them is written, our side is shut, and what
//! they still send is thrown away until they close too. A socket closed with unread input would take the last words with it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, send, shutdown, sockopt};
use slab::Slab;

use super::admission::{Admission, Place};
use super::connection::SEND_FLAGS;
use crate::poller::{Interest, Poller};

/// Tokens whose lower half is at least this belong to the shell, not to sessions.
pub(super) const TOKENS_FROM: u32 = 1 << 31;

/// Whose connection it was, for the count of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It had a place among the node's connections, and has it until it is gone.
    Counted,
    /// The same, and it had not signed in: it also keeps its place at the door, because its descriptor is there as before. Then what
    /// the door knows it by, which its token here takes the place of.
    Stranger(Place, u64),
    /// It was refused for lack of a place.
    Refused,
}

/// What became of parting connections in a step.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Gone {
    /// Places that are free again.
    pub(super) counted: u32,
    /// Connections reset because their peer had not closed in time.
    pub(super) resets: u64,
}

struct Peer {
    fd: OwnedFd,
    rest: Vec<u8>,
    sent: usize,
    origin: Origin,
    token: u64,
}

/// All parting connections of a shard.
pub(super) struct Parting {
    peers: Slab<Peer>,
    /// All linger equally long, so this is in the order of deadlines.
    deadlines: VecDeque<(Instant, u64)>,
    linger: Duration,
    /// Makes tokens of used places differ.
    generation: u32,
    refused: usize,
}

impl Parting {
    pub(super) fn new(linger: Duration) -> Self {
        Self { peers: Slab::new(), deadlines: VecDeque::new(), linger, generation: 0, refused: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// How many of them never had a place.
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    /// When [`Parting::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.front().map(|&(deadline, _)| deadline)
    }

    /// Whether a number that the door knows is one of these.
    pub(super) fn is_token(who: u64) -> bool {
        who & u64::from(TOKENS_FROM) != 0
    }

    /// Takes a connection over, with the last bytes for its peer. `interest` is what the poller waits for on it now, `None` if
    /// it does not know it yet.
    #[expect(clippy::too_many_arguments, reason = "a connection is what its shard knows of it")]
    pub(super) fn insert(
        &mut self,
        now: Instant,
        poller: &Poller,
        door: &mut Admission,
        fd: OwnedFd,
        rest: Vec<u8>,
        origin: Origin,
        interest: Option<Interest>,
    ) -> Gone {
        let entry = self.peers.vacant_entry();
        self.generation = self.generation.wrapping_add(1);
        let Ok(place) = u32::try_from(entry.key()) else { return gone(origin, door) };
        let token = u64::from(self.generation) << 32 | u64::from(TOKENS_FROM | place);
        let mut peer = Peer { fd, rest, sent: 0, origin, token };
        let Ok(next) = peer.write() else { return gone(origin, door) };
        let known = match interest {
            // The token changes too, so even the same interest must be told.
            Some(_) => poller.change(&peer.fd, token, next),
            None => poller.add(&peer.fd, token, next),
        };
        if known.is_err() {
            return gone(origin, door);
        }
        if let Origin::Stranger(place, who) = origin {
            door.rename(place, who, token);
            peer.origin = Origin::Stranger(place, token);
        }
        entry.insert(peer);
        self.refused += usize::from(origin == Origin::Refused);
        self.deadlines.push_back((now + self.linger, token));
        Gone::default()
    }

    /// A parting connection can be written to or read from.
    pub(super) fn handle_ready(
        &mut self,
        poller: &Poller,
        door: &mut Admission,
        token: u64,
        buffer: &mut [u8],
    ) -> Gone {
        let Some(key) = self.key_of(token) else { return Gone::default() };
        let peer = &mut self.peers[key];
        let alive = if peer.sent < peer.rest.len() {
            match peer.write() {
                Ok(Interest::Read) => poller.change(&peer.fd, token, Interest::Read).is_ok(),
                Ok(_) => true,
                Err(_) => false,
            }
        } else {
            peer.discard(buffer)
        };
        if alive { Gone::default() } else { self.remove(key, door) }
    }

    /// Ends those who had long enough.
    pub(super) fn handle_timeout(&mut self, now: Instant, door: &mut Admission) -> Gone {
        let mut all = Gone::default();
        while let Some(&(deadline, token)) = self.deadlines.front()
            && deadline <= now
        {
            self.deadlines.pop_front();
            let gone = self.end(token, door);
            all.resets += gone.resets;
            all.counted += gone.counted;
        }
        all
    }

    /// Ends one at once, if it is there: somebody else needs its place.
    pub(super) fn end(&mut self, token: u64, door: &mut Admission) -> Gone {
        let Some(key) = self.key_of(token) else { return Gone::default() };
        // What the kernel still holds for it is thrown away instead of kept for minutes. Who has read everything and only
        // did not close sees the end that came before.
        let _ = sockopt::set_socket_linger(&self.peers[key].fd, Some(Duration::ZERO));
        Gone { resets: 1, ..self.remove(key, door) }
    }

    fn key_of(&self, token: u64) -> Option<usize> {
        let place = usize::try_from(token & u64::from(TOKENS_FROM - 1)).ok()?;
        self.peers.get(place).filter(|peer| peer.token == token).map(|_| place)
    }

    fn remove(&mut self, key: usize, door: &mut Admission) -> Gone {
        let origin = self.peers.remove(key).origin;
        self.refused -= usize::from(origin == Origin::Refused);
        // Who closes in time leaves an entry behind; at the front it would only wake the shard for nothing.
        while let Some(&(_, token)) = self.deadlines.front()
            && self.key_of(token).is_none()
        {
            self.deadlines.pop_front();
        }
        gone(origin, door)
    }
}

/// It is not there any more.
fn gone(origin: Origin, door: &mut Admission) -> Gone {
    if let Origin::Stranger(place, who) = origin {
        door.leave(place, who);
    }
    Gone { counted: u32::from(origin != Origin::Refused), resets: 0 }
}

impl Peer {
    /// Writes what is left. When all is written our side is shut: the peer sees the end behind our last words.
    fn write(&mut self) -> Result<Interest, Errno> {
        while self.sent < self.rest.len() {
            match send(&self.fd, &self.rest[self.sent..], SEND_FLAGS) {
                Ok(bytes) => self.sent += bytes,
                Err(Errno::AGAIN) => return Ok(Interest::Write),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.rest = Vec::new();
        self.sent = 0;
        shutdown(&self.fd, Shutdown::Write)?;
        Ok(Interest::Read)
    }

    /// Throws input away, a buffer full at a time. `false` when there will be no more.
    fn discard(&self, buffer: &mut [u8]) -> bool {
        match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, bytes)) => bytes > 0,
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
