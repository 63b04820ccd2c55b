//! The network between one client and the server: a proxy that can cut, hold, lose, double and reorder, over each transport.
//!
//! How much of it is real depends on what a scenario does to the client ([`Touch`]). Where nothing is done to connections, the client and the
//! server have theirs to themselves: bytes of TLS and datagrams go through as they are. Where connections are cut or held, it knows those
//! of TCP by their bytes and has to be an end of those of QUIC. Where frames are touched, it is an end of TLS as well. It
//! understands as much of the protocol as it needs to name the frames that a server sends; what it does not understand goes through.
//!
//! - `streams`: TCP, with threads;
//! - `seal`: TLS on both sides of it;
//! - `relay`: datagrams, as they are;
//! - `quic`: an end of QUIC on both sides, under WebTransport as well;
//! - `traffic`, `frames`: what is done to frames, and where they end.

mod frames;
mod quic;
mod relay;
mod seal;
mod streams;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

pub use self::frames::{Frames, Unit};
use self::quic::Middle;
use self::relay::Relay;
use self::seal::Seal;
use self::streams::Streams;
use self::traffic::Traffic;
use crate::scenario::{Condition, How, Touch};
use crate::transport::Transport;
use crate::trust::Trust;

/// Tries to find a port that is free for both TCP and UDP.
const PORT_TRIES: usize = 32;

/// Where the server is at the moment, if anywhere.
pub type Upstream = Arc<dyn Fn() -> Option<SocketAddr> + Send + Sync>;

/// See the module. Its connections end with it.
pub struct Proxy {
    transport: Transport,
    way: Way,
    traffic: Arc<Traffic>,
}

enum Way {
    Streams(Streams),
    Sealed { front: Seal, inner: Streams, _back: Seal },
    Relay(Relay),
    Middle(Middle),
}

/// What stays on the way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Nothing,
    Answers,
    Everything,
}

impl Proxy {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// If the system has none.
    pub fn start(transport: Transport, touch: Touch, upstream: Upstream, trust: &Arc<Trust>) -> Result<Self> {
        let traffic = Arc::<Traffic>::default();
        let way = match (transport, touch) {
            (Transport::Ws, _) => Way::Streams(Streams::start(upstream, traffic.clone(), Frames::default)?),
            (Transport::Wss, Touch::Frames) => {
                let back = Seal::back(trust, upstream)?;
                let to = back.address;
                let inner = Streams::start(Arc::new(move || Some(to)), traffic.clone(), Frames::default)?;
                let front = Seal::front(trust, inner.address)?;
                Way::Sealed { front, inner, _back: back }
            }
            (Transport::Wss, _) => Way::Streams(Streams::start(upstream, traffic.clone(), Frames::raw)?),
            (Transport::Quic | Transport::WebTransport, Touch::Nothing) => Way::Relay(Relay::start(upstream)?),
            (Transport::Quic | Transport::WebTransport, _) => {
                Way::Middle(Middle::start(transport, upstream, traffic.clone(), trust)?)
            }
        };
        Ok(Self { transport, way, traffic })
    }

    /// Where its client connects.
    pub fn url(&self) -> String {
        let address = match &self.way {
            Way::Streams(streams) => streams.address,
            Way::Sealed { front, .. } => front.address,
            Way::Relay(relay) => relay.address,
            Way::Middle(middle) => middle.address,
        };
        format!("{}://{address}", self.transport.scheme())
    }

    /// Changes what the network does.
    ///
    /// # Errors
    /// If connections of this kind know no such thing.
    pub fn set(&self, condition: Condition) -> Result<()> {
        match &self.way {
            Way::Streams(streams) | Way::Sealed { inner: streams, .. } => streams.set(condition),
            Way::Relay(relay) => relay.set(condition),
            Way::Middle(middle) => middle.set(condition),
        }
    }

    /// What becomes of the next message with this text.
    pub fn tamper(&self, text: &str, how: How) {
        self.traffic.tamper(text, how);
    }

    /// Sends a frame to the client as if the server had.
    ///
    /// # Errors
    /// If there is no connection.
    pub fn inject(&self, frame: &[u8]) -> Result<()> {
        match &self.way {
            Way::Streams(streams) | Way::Sealed { inner: streams, .. } => streams.inject(frame),
            Way::Middle(middle) => middle.inject(frame),
            Way::Relay(_) => bail!("who passes datagrams on cannot say anything"),
        }
    }

    /// Waits until so many frames of this name came by.
    ///
    /// # Errors
    /// If they do not come in time.
    pub fn until_seen(&self, name: &str, count: usize, deadline: Instant) -> Result<()> {
        self.traffic.until_seen(name, count, deadline)
    }
}

/// What carries proxies that are not threads of their own.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        built.map_err(|error| error.to_string())
    });
    made.as_ref().map_err(|error| anyhow::anyhow!("start what carries proxies: {error}"))
}

/// A UDP socket, and its port's number of TCP, at which nobody listens as long as that lives: a client that tries WebSocket beside
/// WebTransport must not find somebody else's.
fn datagrams() -> Result<(UdpSocket, Socket)> {
    for _ in 0..PORT_TRIES {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for datagrams")?;
        let address = socket.local_addr().context("its address")?;
        let beside = Socket::new(Domain::IPV4, Type::STREAM, None).context("a socket")?;
        if beside.bind(&address.into()).is_ok() {
            return Ok((socket, beside));
        }
    }
    bail!("no port is free for both TCP and UDP")
}

#[cfg(test)]
mod tests;
