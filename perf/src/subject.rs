//! What is measured: Millrace, a peer, or the bare limit. Each is started and stopped here, on loopback, with settings that are told.

pub(crate) mod bare;
pub(crate) mod centrifuge;
pub(crate) mod ejabberd;
pub(crate) mod javascript;
mod launch;
pub(crate) mod millrace;
pub(crate) mod nats;
pub(crate) mod nchan;
pub(crate) mod quinn;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::brake::Brake;
use crate::dialect::Dialect;
use crate::load::Target;
use crate::machine::Cores;
use crate::process::{Family, Owned};
use crate::transport::{Transport, Way};

/// Something that can be measured.
pub(crate) trait Subject {
    /// Its name in reports and on the command line.
    fn name(&self) -> &'static str;

    /// What it promises for this class of history, in a few words; `None` if it has no such class.
    fn guarantee(&self, history: History) -> Option<&'static str>;

    /// What carries its messages here.
    fn transports(&self) -> &'static [Transport] {
        &[Transport::Ws]
    }

    /// Whether a client can come back to a place in a channel and get what it missed.
    fn resumes(&self) -> bool {
        false
    }

    /// Whether it can be told how many shards to have.
    fn takes_shards(&self) -> bool {
        false
    }

    /// What is missing to run it here, with the command that installs it.
    fn missing(&self) -> Option<Missing>;

    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not start; what it said is in the error.
    fn start(&self, needs: &Needs) -> Result<Running>;
}

/// How much of what is published is kept. The same words as Millrace's own classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum History {
    /// Nothing: at most once.
    None,
    /// The newest messages, in memory.
    #[default]
    Windowed,
    /// Everything, on disk before it is acknowledged.
    Durable,
}

/// Why a subject cannot run here, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) why: String,
    /// A command; empty where none helps.
    pub(crate) install: String,
}

/// What a run needs of its subject.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    /// Channels 0 to this.
    pub(crate) channels: u32,
    pub(crate) history: History,
    /// Connections at once, at most.
    pub(crate) clients: u32,
    pub(crate) users: Users,
    pub(crate) algorithm: Algorithm,
    /// How clients come: one of the subject's own transports.
    pub(crate) transport: Transport,
    /// Where it runs; a subject of shards has one for each.
    pub(crate) cores: Cores,
}

/// Who the clients are, where a subject knows its users before they come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Users {
    /// By user: the channels that they are a member of. One more user owns all of them.
    pub(crate) channels: Vec<Vec<u32>>,
    /// Different tokens: number `n` is of user `n` modulo all users. At least one for each.
    pub(crate) tokens: u32,
}

impl Users {
    /// Each with one token.
    pub(crate) fn of(channels: Vec<Vec<u32>>) -> Self {
        let tokens = u32::try_from(channels.len()).unwrap_or(u32::MAX);
        Self { channels, tokens }
    }

    /// By channel: its members.
    pub(crate) fn members(&self, channels: u32) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); channels as usize];
        for (user, own) in self.channels.iter().enumerate() {
            for &channel in own {
                if let Some(members) = members.get_mut(channel as usize) {
                    members.push(user);
                }
            }
        }
        members
    }
}

/// What tokens are signed with, where a subject has a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    /// A signature that anybody can check.
    #[default]
    EdDsa,
    /// An HMAC over SHA-256 with a shared secret.
    Hs256,
}

/// A subject that runs; it ends with this value.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Arc<dyn Dialect>,
    /// How clients get there.
    pub(crate) way: Way,
    pub(crate) version: String,
    /// Its processes, whose CPU time and memory are told; none if it runs elsewhere.
    pub(crate) family: Family,
    /// Those of them that hold the sessions, where others do other work; the same as `family` otherwise.
    pub(crate) session_family: Family,
    /// The cores that only it is meant to use; `None` if they are not its own.
    pub(crate) cores: Option<Cores>,
    /// What takes a share of these cores from it.
    pub(crate) brake: Option<Brake>,
    /// What ends with it, in this order.
    #[expect(dead_code, reason = "held until the end")]
    pub(crate) owned: Vec<Owned>,
    /// Where it keeps its files; goes after them.
    #[expect(dead_code, reason = "held until the end")]
    pub(crate) folder: Option<tempfile::TempDir>,
}

impl Running {
    /// A subject of one process tree.
    pub(crate) fn one(address: SocketAddr, dialect: Arc<dyn Dialect>, version: String, owned: Owned) -> Self {
        let family = Family::of(vec![owned.id()]);
        let (session_family, owned) = (family.clone(), vec![owned]);
        let (way, cores, brake, folder) = (Way::Clear, None, None, None);
        Self { address, dialect, way, version, session_family, family, cores, brake, owned, folder }
    }

    /// Where clients go.
    pub(crate) fn target(&self) -> Target {
        Target { address: self.address, dialect: Arc::clone(&self.dialect), way: self.way.clone() }
    }
}

/// All subjects that this harness knows: limits, Millrace, peers.
pub(crate) fn all(server: &Path) -> Vec<Box<dyn Subject>> {
    vec![
        Box::new(bare::Bare { ring: bare::Ring::Send }),
        Box::new(bare::Bare { ring: bare::Ring::Uring }),
        Box::new(millrace::Millrace { binary: server.to_owned() }),
        Box::new(quinn::Quinn),
        Box::new(centrifuge::Centrifuge::Library),
        Box::new(centrifuge::Centrifuge::Centrifugo),
        Box::new(nats::Nats::Core),
        Box::new(nats::Nats::JetStream),
        Box::new(nchan::Nchan),
        Box::new(ejabberd::Ejabberd),
        Box::new(javascript::JavaScript::SocketIo),
        Box::new(javascript::JavaScript::Ws),
        Box::new(javascript::JavaScript::UWebSockets),
    ]
}

/// The Millrace binary to measure: the one that was named, or the one beside this program.
pub(crate) fn server_binary(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| {
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("millrace")));
        beside.unwrap_or_else(|| "millrace".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_by_channel_what_channels_are_by_user() {
        let users = Users::of(vec![vec![0, 2], vec![2], vec![]]);
        assert_eq!(users.tokens, 3);
        assert_eq!(users.members(4), [vec![0], vec![], vec![0, 1], vec![]]);
    }
}
