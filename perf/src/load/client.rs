//! One client of the load generator: connecting, upgrading, open.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest};
use millrace_protocol::ws::{Decoder, Event as WsEvent, Limits, Role};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::dialect::{Dialect, Event, Outbox, Session};
use crate::stamp::Stamps;

/// Ports of one source address, and addresses, in turn: named, because the system searches long for a free one behind thousands of
/// connections that it has not forgotten yet.
const PORTS: std::ops::Range<u16> = 32_768..60_000;
const ADDRESSES: u32 = 250;
const MESSAGE_BYTES_MAX: u32 = 16 << 20;

/// How a client's socket differs from the rest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// The receive buffer: a small one hides little of not reading.
    pub(crate) receive_bytes: Option<usize>,
}

pub(crate) struct Client {
    socket: OwnedFd,
    phase: Phase,
    decoder: Decoder,
    output: Vec<u8>,
    /// Bytes of the output that are sent.
    sent: usize,
    pub(crate) session: Session,
}

enum Phase {
    Connecting,
    Upgrading(ClientHandshake),
    Open,
}

/// What serving a client ended with.
pub(crate) enum Got {
    /// Nothing to be said.
    Input,
    /// The connection ended.
    Closed { code: Option<u16>, reason: String },
}

/// Whether all output is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    All,
    /// The socket is full.
    Later,
}

impl Client {
    pub(crate) fn connect(target: SocketAddr, session: Session, options: Options) -> io::Result<Self> {
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
            output: Vec::new(),
            sent: 0,
            session,
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Connecting)
    }

    pub(crate) fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Takes what the socket has; calls `delivered` for each payload.
    pub(crate) fn serve(
        &mut self,
        dialect: &dyn Dialect,
        stamps: &Stamps,
        buffer: &mut [u8],
        events: &mut Vec<Event>,
        mut delivered: impl FnMut(u64),
    ) -> Result<Got> {
        if matches!(self.phase, Phase::Connecting) {
            self.connected(dialect, events)?;
            return Ok(Got::Input);
        }
        let count = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(Got::Closed { code: None, reason: "without a word".to_owned() }),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Got::Input),
            Err(error) => return Ok(Got::Closed { code: None, reason: error.to_string() }),
        };
        let mut input = &mut buffer[..count];
        if let Phase::Upgrading(handshake) = &mut self.phase {
            let Some(accepted) = handshake.feed(input).context("upgrade to a WebSocket")? else {
                return Ok(Got::Input);
            };
            input = &mut input[accepted.consumed..];
            self.phase = Phase::Open;
            dialect.begin(&mut self.session, &mut Outbox { bytes: &mut self.output, events });
        }
        let mut found = Vec::new();
        let mut feed = self.decoder.feed(input);
        while let Some(event) = feed.next_event().context("read a WebSocket frame")? {
            match event {
                WsEvent::Message { payload, .. } => {
                    found.clear();
                    let count = stamps.each(payload, |intended| found.push(intended));
                    let told = events.len();
                    let mut out = Outbox { bytes: &mut self.output, events };
                    dialect.receive(&mut self.session, payload, count, &mut out)?;
                    // What a page of history shows was delivered before; and a copy of what it has published itself, which some
                    // subjects send to everybody who is in a channel, is no delivery to who only writes.
                    let is_page = events[told..].iter().any(|event| matches!(event, Event::Page { .. }));
                    if !is_page && !self.session.plan.subscribe.is_empty() {
                        found.iter().for_each(|&intended| delivered(intended));
                    }
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

    fn connected(&mut self, dialect: &dyn Dialect, events: &mut Vec<Event>) -> Result<()> {
        if let Err(error) = rustix::net::sockopt::socket_error(&self.socket).context("ask the socket")? {
            bail!("connect: {error}");
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
                dialect.begin(&mut self.session, &mut Outbox { bytes: &mut self.output, events });
            }
        }
        Ok(())
    }

    pub(crate) fn publish(
        &mut self,
        dialect: &dyn Dialect,
        place: usize,
        number: u32,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) {
        let mut out = Outbox { bytes: &mut self.output, events };
        dialect.publish(&mut self.session, place, number, payload, &mut out);
    }

    pub(crate) fn history(
        &mut self,
        dialect: &dyn Dialect,
        place: usize,
        before: u64,
        number: u32,
        events: &mut Vec<Event>,
    ) -> bool {
        dialect.history(&mut self.session, place, before, number, &mut Outbox { bytes: &mut self.output, events })
    }

    pub(crate) fn flush(&mut self) -> Result<Sent> {
        while self.has_output() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.output[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(Sent::Later),
                Err(Errno::INTR) => {}
                // What the peer had to say about it is read first.
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(error) => return Err(error).context("send"),
            }
        }
        // Nothing is kept: thousands of clients share the machine with the subject.
        self.output = Vec::new();
        self.sent = 0;
        Ok(Sent::All)
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

/// Where a client of this number connects from. Each process of this program has addresses of its own, in turn.
fn source(number: u32) -> SocketAddr {
    let ports = u32::from(PORTS.end - PORTS.start);
    let [_, high, low, _] = Ipv4Addr::from(std::process::id() << 8).octets();
    let address = u8::try_from(1 + (number / ports) % ADDRESSES).unwrap_or(1);
    let port = u16::try_from(u32::from(PORTS.start) + number % ports).unwrap_or(PORTS.start);
    (Ipv4Addr::new(127, high, low, address), port).into()
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
