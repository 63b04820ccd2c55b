//! A client as thin as can be: the load must cost less than the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millrace_protocol::client::{
    self, ClientBody, ClientFrame, Hello, Publish, ServerBody, ServerFrame, Start, Subscribe, decode_server,
    encode_client,
};
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest};
use millrace_protocol::ws::{Decoder, Event, Limits, Opcode, Role, encode};
use millrace_protocol::{ChannelId, Position, Producer, ProducerSequence};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::server::Server;

/// Longer than this without an answer is a fault, not a figure.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ports of one source address that are used before the next of 127.0.0.0/8 is.
const PORTS_PER_ADDRESS: u32 = 10_000;
/// The load need not hide what it sends from proxies, so one masking key serves.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    decoder: Decoder,
    input: Vec<u8>,
    output: Vec<u8>,
    frame: Vec<u8>,
}

/// A channel by number, and where it stood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined {
    pub(crate) channel: ChannelId,
    pub(crate) position: Position,
}

impl Wire {
    /// As [`session`](Self::session) with a receive buffer so small that the system hides little of not reading.
    pub(crate) async fn narrow_session(
        server: &Server,
        number: u32,
        subscriptions: Vec<Subscribe<'_>>,
    ) -> Result<(Self, Vec<Joined>)> {
        let socket = TcpSocket::new_v4().context("make a socket")?;
        socket.set_recv_buffer_size(4096).context("set SO_RCVBUF")?;
        let mut wire = Self::open_on(socket, server.address, number).await?;
        let joined = wire.hello(server.token(), subscriptions).await?;
        Ok((wire, joined))
    }

    /// Connects and upgrades; `number` spreads connections over source addresses.
    pub(crate) async fn open(server: SocketAddr, number: u32) -> Result<Self> {
        Self::open_on(TcpSocket::new_v4().context("make a socket")?, server, number).await
    }

    async fn open_on(socket: TcpSocket, server: SocketAddr, number: u32) -> Result<Self> {
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number / PORTS_PER_ADDRESS);
        socket2::SockRef::from(&socket).set_reuse_address(true).context("set SO_REUSEADDR")?;
        socket.bind((source, 0).into()).context("bind the source address")?;
        let mut stream = timeout(PATIENCE, socket.connect(server)).await?.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let host = server.to_string();
        let request =
            ClientRequest { host: &host, target: "/v1/connect", subprotocols: &[client::SUBPROTOCOL], nonce: [7; 16] };
        let (mut handshake, bytes) = ClientHandshake::new(&request).context("make the request")?;
        stream.write_all(&bytes).await.context("send the request")?;
        let mut buffer = [0; 1024];
        loop {
            let count = timeout(PATIENCE, stream.read(&mut buffer)).await?.context("read the response")?;
            ensure!(count > 0, "the server closed in the handshake");
            if let Some(accepted) = handshake.feed(&buffer[..count]).context("upgrade")? {
                ensure!(accepted.consumed == count, "the server spoke before hello");
                break;
            }
        }
        let decoder = Decoder::new(Role::Client, Limits { message_bytes_max: 1 << 20 });
        Ok(Self { stream, decoder, input: Vec::new(), output: Vec::new(), frame: Vec::new() })
    }

    /// Opens a session with all its subscriptions in one frame, and waits until each has begun.
    pub(crate) async fn session(
        server: &Server,
        number: u32,
        subscriptions: Vec<Subscribe<'_>>,
    ) -> Result<(Self, Vec<Joined>)> {
        let mut wire = Self::open(server.address, number).await?;
        let joined = wire.hello(server.token(), subscriptions).await?;
        Ok((wire, joined))
    }

    /// Opens the session and waits until every subscription has begun; in the order in which they were asked for.
    pub(crate) async fn hello(&mut self, token: &str, subscriptions: Vec<Subscribe<'_>>) -> Result<Vec<Joined>> {
        let names: Vec<String> = subscriptions.iter().map(|subscribe| subscribe.channel.to_owned()).collect();
        self.send_hello(token, subscriptions).await?;
        let mut joined: Vec<Option<Joined>> = vec![None; names.len()];
        let mut missing = names.len();
        self.until(|frame| {
            if let ServerBody::Subscribed(s) = &frame.body
                && let Some(place) = names.iter().position(|name| name == s.name)
            {
                missing -= usize::from(joined[place].is_none());
                joined[place] = Some(Joined { channel: s.channel, position: s.position });
            }
            missing == 0
        })
        .await?;
        Ok(joined.into_iter().flatten().collect())
    }

    /// Sends the first frame and waits for nothing.
    pub(crate) async fn send_hello(&mut self, token: &str, subscriptions: Vec<Subscribe<'_>>) -> Result<()> {
        let hello = Hello {
            version_min: client::VERSION,
            version_max: client::VERSION,
            features: 0,
            token,
            agent: "millrace-perf",
            subscriptions,
        };
        self.queue(1, ClientBody::Hello(hello));
        self.flush().await
    }

    /// Writes a publish into the output; [`flush`](Self::flush) sends it.
    pub(crate) fn publish(&mut self, request: u32, channel: ChannelId, producer: Producer, sequence: u64, body: &[u8]) {
        let sequence = ProducerSequence::new(sequence).expect("sequences count from 1");
        self.queue(request, ClientBody::Publish(Publish { channel, producer, sequence, body }));
    }

    fn queue(&mut self, request: u32, body: ClientBody<'_>) {
        self.frame.clear();
        encode_client(&ClientFrame { request, body }, &mut self.frame);
        encode::frame(Opcode::Binary, &self.frame, Some(MASK), &mut self.output);
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        timeout(PATIENCE, self.stream.write_all(&self.output)).await?.context("write")?;
        self.output.clear();
        Ok(())
    }

    /// Reads frames until `done` says so.
    pub(crate) async fn until(&mut self, mut done: impl FnMut(&ServerFrame<'_>) -> bool) -> Result<()> {
        let mut ended = false;
        while !ended {
            timeout(PATIENCE, self.read_once(&mut |frame| ended |= done(frame)))
                .await
                .context("wait for the server")??;
        }
        Ok(())
    }

    /// Reads what is there, at least one byte, and hands every whole frame on. Answers pings.
    pub(crate) async fn read_once(&mut self, on_frame: &mut impl FnMut(&ServerFrame<'_>)) -> Result<()> {
        // Held only while something is read: thousands of connections share the machine with the server.
        self.input.resize(64 << 10, 0);
        let count = self.stream.read(&mut self.input).await.context("read")?;
        ensure!(count > 0, "the server closed the connection");
        let mut ping = false;
        {
            let mut feed = self.decoder.feed(&mut self.input[..count]);
            while let Some(event) = feed.next_event().context("read a WebSocket frame")? {
                match event {
                    Event::Message { payload, .. } => {
                        let frame = decode_server(payload).context("read a frame")?;
                        match &frame.body {
                            ServerBody::Ping => ping = true,
                            ServerBody::Error { code, message, .. } => bail!("the server says {code}: {message}"),
                            _ => on_frame(&frame),
                        }
                    }
                    Event::Close { code, reason } => bail!("the server closed with {code:?} {reason}"),
                    Event::Ping(_) | Event::Pong(_) => {}
                }
            }
        }
        if ping {
            self.queue(0, ClientBody::Pong);
            self.flush().await?;
        }
        Ok(())
    }

    /// Reads until the server closes with this code; how many messages of the channel came before it.
    pub(crate) async fn until_closed(&mut self, expected: u16, channel: ChannelId) -> Result<u64> {
        let mut messages = 0;
        loop {
            self.input.resize(64 << 10, 0);
            let count = timeout(PATIENCE, self.stream.read(&mut self.input)).await?.context("read")?;
            ensure!(count > 0, "the server closed without saying why");
            let mut feed = self.decoder.feed(&mut self.input[..count]);
            while let Some(event) = feed.next_event().context("read a WebSocket frame")? {
                match event {
                    Event::Message { payload, .. } => {
                        let frame = decode_server(payload).context("read a frame")?;
                        let ours = matches!(&frame.body, ServerBody::Message(message) if message.channel == channel);
                        messages += u64::from(ours);
                    }
                    Event::Close { code, reason } => {
                        ensure!(code == Some(expected), "closed with {code:?} {reason}, expected {expected}");
                        return Ok(messages);
                    }
                    Event::Ping(_) | Event::Pong(_) => {}
                }
            }
        }
    }

    /// Gives its read buffer back, for connections that only wait.
    pub(crate) fn rest(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
        self.frame = Vec::new();
    }
}

/// Interest from now on.
pub(crate) fn live(channel: &str) -> Subscribe<'_> {
    Subscribe { channel, start: Start::Live }
}

/// No messages, only the right to publish.
pub(crate) fn attach(channel: &str) -> Subscribe<'_> {
    Subscribe { channel, start: Start::Attach }
}

/// A run of a sender.
pub(crate) fn producer(number: u64) -> Producer {
    Producer::new(number + 1).expect("not 0")
}
