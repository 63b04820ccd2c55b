//! One client of the load generator over a WebSocket, in clear or over TLS: connecting, upgrading, open.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest};
use millrace_protocol::ws::{Decoder, Event as WsEvent, Limits, Role};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::tls::Tls;
use super::{Got, Options, Sent, Turn};
use crate::dialect::{Dialect, Event, Framing, Outbox, Session};
use crate::transport::Trust;

/// Ports of one source address, and addresses, in turn: named, because the system searches long for a free one behind thousands of
/// connections that it has not forgotten yet.
const PORTS: std::ops::Range<u16> = 32_768..60_000;
const ADDRESSES: u32 = 250;
const MESSAGE_BYTES_MAX: u32 = 16 << 20;

pub(super) struct Client {
    socket: OwnedFd,
    phase: Phase,
    decoder: Decoder,
    tls: Option<Box<Tls>>,
    /// What waits to be sent, in clear.
    output: Vec<u8>,
    /// What waits to be sent as it is: the output itself, or what TLS made of it.
    wire: Vec<u8>,
    /// Bytes of it that are sent.
    sent: usize,
    pub(super) session: Session,
}

enum Phase {
    Connecting,
    Upgrading(ClientHandshake),
    Open,
}

impl Client {
    pub(super) fn connect(
        target: SocketAddr,
        trust: Option<&Trust>,
        session: Session,
        options: Options,
    ) -> Result<Self> {
        let socket = if target.ip().is_loopback() && target.is_ipv4() {
            let source = source(session.number);
            match begin(target, Some(source), options) {
                // One that somebody else has is passed over, and one whose last connection to this very server has ended just now.
                Err(error) if [Errno::ADDRINUSE, Errno::ADDRNOTAVAIL].contains(&errno(&error)) => {
                    begin(target, Some(SocketAddr::new(source.ip(), 0)), options)?
                }
                begun => begun?,
            }
        } else {
            begin(target, None, options)?
        };
        Ok(Self {
            socket: socket.into(),
            phase: Phase::Connecting,
            decoder: Decoder::new(Role::Client, Limits { message_bytes_max: MESSAGE_BYTES_MAX }),
            tls: trust.map(|trust| Tls::new(trust).map(Box::new)).transpose()?,
            output: Vec::new(),
            wire: Vec::new(),
            sent: 0,
            session,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Connecting)
    }

    pub(super) fn has_output(&self) -> bool {
        self.sent < self.wire.len() || !self.output.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// The connection ends as one that the network has lost: nothing is said, and the kernel forgets it at once.
    pub(super) fn cut(&self) {
        // Where that is refused it ends a little later.
        let _ = SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Takes what the socket has; calls `delivered` for each payload.
    pub(super) fn serve(&mut self, turn: &mut Turn<'_>, mut delivered: impl FnMut(u64)) -> Result<Got> {
        if matches!(self.phase, Phase::Connecting) {
            return self.connected(turn.dialect, turn.events);
        }
        let count = match rustix::net::recv(&self.socket, &mut *turn.buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(Got::Closed { code: None, reason: "without a word".to_owned() }),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Got::Input),
            Err(error) => return Ok(Got::Closed { code: None, reason: error.to_string() }),
        };
        let input = match &mut self.tls {
            None => &mut turn.buffer[..count],
            Some(tls) => {
                turn.plain.clear();
                tls.open(&turn.buffer[..count], turn.plain)?;
                &mut turn.plain[..]
            }
        };
        let mut input = &mut *input;
        if let Phase::Upgrading(handshake) = &mut self.phase {
            let accepted = match handshake.feed(input) {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return Ok(Got::Input),
                Err(error) => return Ok(Got::Closed { code: None, reason: format!("no WebSocket: {error}") }),
            };
            input = &mut input[accepted.consumed..];
            self.phase = Phase::Open;
            let mut out = Outbox { framing: Framing::WebSocket, bytes: &mut self.output, events: turn.events };
            turn.dialect.begin(&mut self.session, &mut out);
        }
        let mut feed = self.decoder.feed(input);
        while let Some(event) = feed.next_event().context("read a WebSocket frame")? {
            match event {
                WsEvent::Message { payload, .. } => {
                    let out = Outbox { framing: Framing::WebSocket, bytes: &mut self.output, events: turn.events };
                    let (dialect, stamps, found) = (turn.dialect, turn.stamps, &mut *turn.found);
                    super::take(dialect, stamps, found, &mut self.session, payload, out, &mut delivered)?;
                }
                WsEvent::Ping(payload) => {
                    let opcode = millrace_protocol::ws::Opcode::Pong;
                    millrace_protocol::ws::encode::frame(opcode, payload, Some([1, 2, 3, 4]), &mut self.output);
                }
                WsEvent::Pong(_) => {}
                WsEvent::Close { code, reason } => return Ok(Got::Closed { code, reason: reason.to_owned() }),
            }
        }
        Ok(Got::Input)
    }

    fn connected(&mut self, dialect: &dyn Dialect, events: &mut Vec<Event>) -> Result<Got> {
        if let Err(error) = rustix::net::sockopt::socket_error(&self.socket).context("ask the socket")? {
            return Ok(Got::Closed { code: None, reason: format!("not connected: {error}") });
        }
        match dialect.upgrade(&self.session) {
            Some(upgrade) => {
                let request = ClientRequest {
                    host: "localhost",
                    target: &upgrade.target,
                    subprotocols: &upgrade.subprotocols,
                    nonce: [7; 16],
                };
                let (handshake, bytes) = ClientHandshake::new(&request).context("make the request")?;
                self.output.extend_from_slice(&bytes);
                self.phase = Phase::Upgrading(handshake);
            }
            None => {
                self.phase = Phase::Open;
                let mut out = Outbox { framing: Framing::WebSocket, bytes: &mut self.output, events };
                dialect.begin(&mut self.session, &mut out);
            }
        }
        Ok(Got::Input)
    }

    /// The session, and where it puts what it sends.
    pub(super) fn speak<'a>(&'a mut self, events: &'a mut Vec<Event>) -> (&'a mut Session, Outbox<'a>) {
        (&mut self.session, Outbox { framing: Framing::WebSocket, bytes: &mut self.output, events })
    }

    pub(super) fn flush(&mut self) -> Result<Sent> {
        loop {
            while self.sent < self.wire.len() {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match rustix::net::send(&self.socket, &self.wire[self.sent..], flags) {
                    Ok(count) => self.sent += count,
                    Err(Errno::AGAIN) => return Ok(Sent::Later),
                    Err(Errno::INTR) => {}
                    // What the peer had to say about it is read first.
                    Err(Errno::PIPE | Errno::CONNRESET) => {
                        self.output = Vec::new();
                        break;
                    }
                    Err(error) => return Err(error).context("send"),
                }
            }
            // Nothing is kept: thousands of clients share the machine with the subject.
            (self.wire, self.sent) = (Vec::new(), 0);
            match &mut self.tls {
                None => self.wire = std::mem::take(&mut self.output),
                Some(tls) => {
                    tls.seal(&self.output, &mut self.wire)?;
                    self.output = Vec::new();
                }
            }
            if self.wire.is_empty() {
                return Ok(Sent::All);
            }
        }
    }
}

/// Begins to connect, from an address of its own if one is given.
fn begin(target: SocketAddr, source: Option<SocketAddr>, options: Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = options.receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // A port whose last connection still waits to be forgotten will do.
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    match socket.connect(&target.into()) {
        Err(error) if errno(&error) != Errno::INPROGRESS => Err(error),
        _ => Ok(socket),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Where a client of this number connects from. Each process of this program has addresses of its own, in turn: users do not share one.
fn source(number: u32) -> SocketAddr {
    let ports = u32::from(PORTS.end - PORTS.start);
    let [_, high, low, _] = Ipv4Addr::from(std::process::id() << 8).octets();
    let address = u8::try_from(1 + number % ADDRESSES).unwrap_or(1);
    let port = u16::try_from(u32::from(PORTS.start) + (number / ADDRESSES) % ports).unwrap_or(PORTS.start);
    (Ipv4Addr::new(127, high, low, address), port).into()
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
