//! What a data node is told at start, and why it may refuse to start.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use millrace_core::ConfigError;
use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, ENDPOINTS_MAX};
use millrace_token::KeyRingLimits;

pub use crate::shard::admission::AdmissionLimits;

use crate::tls::{TlsConfig, TlsError};

/// A data node's addresses, limits and times. Plain: whoever reads files and flags fills it in.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect. Default 127.0.0.1:7400. Port 0 lets the system choose; all shards share the port.
    pub client_address: SocketAddr,
    /// Where clients connect over TLS, with the certificate of [`Config::tls`]. Default `None`: nowhere. Port 0 as above.
    pub client_tls_address: Option<SocketAddr>,
    /// The node's certificate. Default `None`: there is none.
    pub tls: Option<TlsConfig>,
    /// Where clients connect by QUIC, with the certificate of [`Config::tls`]. Default [`QuicAddress::WithTls`].
    pub client_quic_address: QuicAddress,
    /// Limits of QUIC, for the node as a whole.
    pub quic: QuicLimits,
    /// Who finds the shard of a datagram whose client has changed its address. Default [`Steering::Kernel`].
    pub quic_steering: Steering,
    /// Metrics and health, in clear and without a login: not for the open internet. Default 127.0.0.1:7401.
    pub admin_address: SocketAddr,
    /// URLs under which clients reach this node, at most 16, told to the control plane and to clients that are sent away.
    /// Default none: the one they came by.
    pub endpoints: Vec<String>,
    /// Shards, one thread each, at most 256. Default `None`: one for each processor that this process may use,
    /// a quota of its control group considered.
    pub shards: Option<NonZeroU16>,
    /// Whether each shard stays on one processor. Default [`Pinning::Pinned`].
    pub pinning: Pinning,
    /// Most client connections of the node; the one above it is answered with 503. Default `None`: the limit of open
    /// descriptors less an eighth (64 to 1,024) for everything else. One descriptor and about 5 KiB of kernel memory each.
    pub connections_max: Option<u32>,
    /// How long a connection that was told why it ends may take to read that. Default 5 s.
    pub linger: Duration,
    /// Places of each ring between two threads, at least 16. Default 1,024. There are `shards` times `shards + 1` rings, of
    /// up to 256 bytes for each place.
    pub ring_slots: usize,
    /// Bytes of requests and frames that have come in part, of all connections of a shard together; half of it is for those who
    /// have not sent a whole frame yet, half for the others. Nobody may hold more than half of what is left of theirs; who needs
    /// more is told to come back later. Default 64 MiB, at least 1 MiB.
    pub unfinished_bytes_max: usize,
    /// Connections of a shard that have not signed in, in all and of one address.
    pub admission: AdmissionLimits,
    /// Whether WebSocket clients that offer compression (RFC 7692) get it. Default [`Compressing::On`]; from which size on is
    /// `core.compress_from_bytes`. Up to 3 MiB for each shard, nothing for a connection.
    pub compression: Compressing,
    /// What a shard takes in before it acts on it. More joins more output to one write, at the price of latency.
    pub turn: TurnLimits,
    /// Limits of the keys and revocations that every shard holds.
    pub keys: KeyRingLimits,
    /// Limits and times of what a shard decides; with the node's name.
    pub core: millrace_core::Config,
}

/// Where clients connect by QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicAddress {
    /// On the port of the listener over TLS, by UDP; nowhere if there is none.
    WithTls,
    /// Here. Port 0 lets the system choose.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// Who finds the shard that a datagram belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// A program of ours in the kernel, if it takes it; what still lands on another shard is passed on.
    Kernel,
    /// The shards, which pass on to each other.
    Shards,
}

/// Limits of QUIC, for the node as a whole; each shard has its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuicLimits {
    /// Connections, those included that are being opened or closed. No descriptor is needed for one, but about 20 KiB. Default 65,536.
    pub connections_max: u32,
    /// Handshakes under way above which a client has to show its address first (Retry), which costs it a round trip. Default 1,024.
    pub retry_above_half_open: u32,
    /// Handshakes under way above which nothing is answered any more. Default 8,192, of about 28 KiB each.
    pub half_open_max: u32,
    /// Clients that are remembered so that they may send at once when they come back. Default 16,384, of about 0.4 KiB each.
    pub remembered_max: u32,
}

impl Default for QuicLimits {
    fn default() -> Self {
        Self { connections_max: 65_536, retry_above_half_open: 1024, half_open_max: 8192, remembered_max: 16_384 }
    }
}

/// Whether a shard stays on one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// One processor for each shard, while there are enough; as `Floating` under a quota of a control group.
    Pinned,
    /// Wherever the system puts it; for processors that are shared with others.
    Floating,
}

/// Whether messages are compressed for clients that offer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compressing {
    /// Who offers it gets it: messages of a certain size on, compressed once whatever the number of receivers.
    On,
    /// Offers are declined.
    Off,
}

/// What a shard takes in before it acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnLimits {
    /// Ready descriptors. Default 256.
    pub events_max: usize,
    /// Bytes read from clients; a single read of up to 64 KiB may go over. Default 256 KiB.
    pub read_bytes_max: usize,
    /// Items from each ring. Default 256.
    pub ring_items_max: usize,
    /// Connections accepted at each listener. Default 32.
    pub accepts_max: usize,
    /// Steps of TLS handshakes; each whole one takes two, and 50 to 100 µs in all. Default 16. Who has no connection yet waits for
    /// the next turn, so that a storm of them costs those who have one not more than that.
    pub handshakes_max: usize,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self { events_max: 256, read_bytes_max: 256 << 10, ring_items_max: 256, accepts_max: 32, handshakes_max: 16 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_address: (Ipv4Addr::LOCALHOST, 7400).into(),
            client_tls_address: None,
            tls: None,
            client_quic_address: QuicAddress::WithTls,
            quic: QuicLimits::default(),
            quic_steering: Steering::Kernel,
            admin_address: (Ipv4Addr::LOCALHOST, 7401).into(),
            endpoints: Vec::new(),
            shards: None,
            pinning: Pinning::Pinned,
            connections_max: None,
            linger: Duration::from_secs(5),
            ring_slots: 1024,
            unfinished_bytes_max: 64 << 20,
            admission: AdmissionLimits::default(),
            compression: Compressing::On,
            turn: TurnLimits::default(),
            keys: KeyRingLimits::default(),
            core: millrace_core::Config::default(),
        }
    }
}

/// Why a data node did not start. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operator's: somebody else listens there.
    #[error("{what} address {address} is in use: stop what listens there, or choose another address or port")]
    AddressInUse {
        /// `client`, `client TLS` or `admin`.
        what: &'static str,
        /// Which address.
        address: SocketAddr,
    },
    /// The operator's: the address cannot be listened on.
    #[error(
        "cannot listen on {what} address {address}: choose one of this machine, and a port above 1023 unless privileged"
    )]
    Bind {
        /// `client`, `client TLS` or `admin`.
        what: &'static str,
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The machine's: too few descriptors.
    #[error(
        "{needed} open descriptors are needed and the hard limit is {limit}: raise it (`ulimit -Hn`, LimitNOFILE= in a \
         systemd unit), or set connections_max lower"
    )]
    Descriptors {
        /// What is needed.
        needed: u64,
        /// What there is.
        limit: u64,
    },
    /// The operator's: the certificate cannot be used.
    #[error("the node's certificate cannot be used")]
    Tls(#[from] TlsError),
    /// The operator's: a listener for TLS has nothing to show.
    #[error("{what} {address} needs a certificate and its key")]
    NoCertificate {
        /// Which setting.
        what: &'static str,
        /// Where it would have listened.
        address: SocketAddr,
    },
    /// The operator's: a limit that cannot hold.
    #[error("limits are at odds")]
    Limits(#[from] ConfigError),
    /// The machine's: no thread, ring or event queue could be had.
    #[error("{what} could not be set up; is the machine out of memory, threads or descriptors?")]
    Setup {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Fewest connections with which a node starts.
const CONNECTIONS_MIN: u64 = 16;
const SHARDS_MAX: u16 = 256;
/// What a control node takes.
const NODE_NAME_BYTES_MAX: usize = 128;
/// Twice the largest frame for a stranger, whose half this is.
const UNFINISHED_BYTES_MIN: usize = 4 * CLIENT_FRAME_BYTES_MAX;
const RING_SLOTS_MIN: usize = 16;

/// Descriptors that connections must leave to everything else in the process: stores, links, logs; and for each shard its
/// queues, rings and those who are told that there is no place.
fn descriptors_reserved(limit: u64, shards: u16) -> u64 {
    (limit / 8).clamp(64, 1024) + 40 * u64::from(shards)
}

impl Config {
    /// Checks what can be checked without touching the machine.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.core.check()?;
        let fail = |field, value: usize, must| Err(ConfigError { field, value: value as u64, must });
        if self.core.node.is_empty() || self.core.node.len() > NODE_NAME_BYTES_MAX {
            return fail("length of core.node", self.core.node.len(), "1 to 128 bytes");
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return fail("number of endpoints", self.endpoints.len(), "at most 16");
        }
        if self.ring_slots < RING_SLOTS_MIN {
            return fail("ring_slots", self.ring_slots, "at least 16");
        }
        if self.unfinished_bytes_max < UNFINISHED_BYTES_MIN {
            return fail("unfinished_bytes_max", self.unfinished_bytes_max, "at least 1 MiB");
        }
        if let Some(shards) = self.shards
            && shards.get() > SHARDS_MAX
        {
            return fail("shards", shards.get().into(), "at most 256");
        }
        let turn = self.turn;
        let least = turn.events_max.min(turn.read_bytes_max).min(turn.ring_items_max).min(turn.accepts_max);
        if least.min(turn.handshakes_max) == 0 {
            return fail("turn", 0, "at least 1 in each field");
        }
        if self.quic.connections_max.min(self.quic.half_open_max) == 0 {
            return fail("quic", 0, "at least 1 connection and 1 handshake");
        }
        if self.admission.places_max.min(self.admission.address_places_max) == 0 {
            return fail("admission", 0, "at least 1 in each field");
        }
        if self.connections_max == Some(0) {
            return fail("connections_max", 0, "at least 1");
        }
        Ok(())
    }

    /// How many shards, given how many can run at once.
    pub(crate) fn shard_count(&self, parallelism: usize) -> u16 {
        let automatic = u16::try_from(parallelism.max(1)).unwrap_or(SHARDS_MAX).min(SHARDS_MAX);
        self.shards.map_or(automatic, NonZeroU16::get)
    }

    /// How many connections, given the limit of open descriptors.
    pub(crate) fn connection_limit(&self, descriptors: Option<u64>, shards: u16) -> Result<u32, StartError> {
        let Some(limit) = descriptors else { return Ok(self.connections_max.unwrap_or(u32::MAX)) };
        let room = limit.saturating_sub(descriptors_reserved(limit, shards));
        let wanted = self.connections_max.map_or(CONNECTIONS_MIN, u64::from);
        if wanted > room {
            return Err(StartError::Descriptors { needed: wanted + (limit - room), limit });
        }
        Ok(self.connections_max.unwrap_or_else(|| u32::try_from(room).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        let check = |connections_max: Option<u32>, descriptors: Option<u64>, expect: Result<u32, u64>| {
            let config = Config { connections_max, ..Config::default() };
            let limit = config.connection_limit(descriptors, 2).map_err(|error| match error {
                StartError::Descriptors { needed, .. } => needed,
                other => panic!("{other}"),
            });
            assert_eq!(limit, expect, "{connections_max:?} of {descriptors:?}");
        };
        check(None, Some(20_000), Ok(20_000 - 1024 - 80));
        check(None, Some(1024), Ok(1024 - 128 - 80));
        check(Some(100), Some(1024), Ok(100));
        check(Some(1000), Some(1024), Err(1000 + 128 + 80));
        check(None, Some(64), Err(16 + 64));
        check(None, None, Ok(u32::MAX));
    }

    #[test]
    fn limits_that_cannot_hold_are_named() {
        let check = |change: fn(&mut Config), field: &str| {
            let mut config = Config::default();
            change(&mut config);
            assert_eq!(config.check().map_err(|error| error.field), Err(field));
        };
        assert_eq!(Config::default().check(), Ok(()));
        check(|config| config.core.node = String::new(), "length of core.node");
        check(|config| config.endpoints = vec![String::new(); 17], "number of endpoints");
        check(|config| config.ring_slots = 1, "ring_slots");
        check(|config| config.unfinished_bytes_max = 1 << 19, "unfinished_bytes_max");
        check(|config| config.shards = NonZeroU16::new(257), "shards");
        check(|config| config.turn.accepts_max = 0, "turn");
        check(|config| config.connections_max = Some(0), "connections_max");
        check(|config| config.core.heartbeat = Duration::ZERO, "heartbeat");
    }
}
