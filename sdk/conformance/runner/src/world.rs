//! What a scenario plays on: a deployment, seen by whoever runs an application on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;

use crate::judge::Stored;
use crate::ledger::Position;
use crate::transport::Transport;

/// A deployment with the channels of one scenario. [`real::Tenant`](crate::real::Tenant) is a real one; tests put a model in its place.
pub trait World: Send + Sync {
    /// Where clients connect now over this transport; `None` while nothing listens there.
    fn address(&self, transport: Transport) -> Option<SocketAddr>;

    /// An access token for a user. `kind` is a life such as `1h` or `1500ms`, or what is wrong with the token: `expired`, `forged`,
    /// `of:USER` (another user's).
    ///
    /// # Errors
    /// If there is no such kind.
    fn token(&self, user: &str, kind: &str) -> Result<String>;

    /// Publishes as an application server does, and returns once the message is accepted: its place, if it has one.
    ///
    /// # Errors
    /// If it is not.
    fn publish(&self, channel: &str, user: &str, body: &[u8]) -> Result<Option<Position>>;

    /// All messages of every channel that keeps them.
    ///
    /// # Errors
    /// If they cannot be read.
    fn stored(&self) -> Result<BTreeMap<String, Vec<Stored>>>;

    /// Does something that clients hear of.
    ///
    /// # Errors
    /// If it cannot be done.
    fn act(&self, act: &Act<'_>) -> Result<()>;

    /// One of the data node's counters, summed over its shards.
    ///
    /// # Errors
    /// If there is no such counter.
    fn counter(&self, name: &str) -> Result<f64>;

    /// The last lines of the server's log, for a person.
    fn log(&self) -> String;
}

/// What an application server or an operator does.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Makes a user a member with this role, or gives a member this role.
    SetMember {
        /// Of which channel.
        channel: &'a str,
        /// Who.
        user: &'a str,
        /// `owner`, `moderator`, `member` or `reader`.
        role: &'a str,
    },
    /// Removes a member.
    RemoveMember {
        /// From which channel.
        channel: &'a str,
        /// Who.
        user: &'a str,
    },
    /// Archives a channel.
    Archive {
        /// Which.
        channel: &'a str,
    },
    /// Revokes all tokens of a user.
    Revoke {
        /// Whose.
        user: &'a str,
    },
    /// SIGKILL.
    Kill {
        /// `dev`, `control` or `data`.
        node: &'a str,
    },
    /// SIGTERM; returns when the process has ended.
    Stop {
        /// As above.
        node: &'a str,
    },
    /// Starts a node that was killed or stopped; returns when it is ready.
    Start {
        /// As above.
        node: &'a str,
    },
}
