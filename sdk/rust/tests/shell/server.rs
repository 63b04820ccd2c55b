//! The model node behind real sockets, for each transport: a WebSocket server from the project's own codec, in the clear or on TLS,
//! and QUIC beside it. It breaks connections at any byte when told to.

mod quic;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, SUBPROTOCOL};
use millrace_protocol::ws::deflate::{Deflater, Inflater};
use millrace_protocol::ws::handshake::{Endpoint, ServerHandshake};
use millrace_protocol::ws::{Decoder, Event, Feed, Header, Limits, Opcode, Role, encode};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Authority;
use crate::node::{Dice, Node};

const ENDPOINT: Endpoint<'_> = Endpoint { path: Some("/v1/connect"), subprotocols: &[SUBPROTOCOL] };

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Ws,
    Wss,
    Quic,
}

/// A server that stops when it is dropped.
pub(crate) struct Server {
    transport: Transport,
    address: SocketAddr,
    quic: quinn::Endpoint,
    tls: Arc<ServerConfig>,
    ca: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    node: Node,
    /// Counts connections; only the newest has a session.
    connections: u64,
    /// Connections break after so many bytes, drawn below this.
    cut_below: Option<u64>,
    dice: Dice,
    /// Frames are left unread.
    is_stalled: bool,
    handshakes: Vec<HandshakeKind>,
    /// What carried each connection on which a client spoke.
    sessions: Vec<Transport>,
    early_sessions: usize,
    compressed: Compressed,
}

/// Bytes on the wire of messages that were compressed, and of the same before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Compressed {
    pub(crate) sent: usize,
    pub(crate) sent_from: usize,
    /// Of those that came, only what they became is known.
    pub(crate) received_to: u64,
}

impl Shared {
    /// A client speaks on a new connection: its number, and the bytes that it may carry.
    fn begin(&self, transport: Transport, is_early: bool) -> (u64, Budget) {
        let mut state = self.state.lock().unwrap();
        state.connections += 1;
        state.sessions.push(transport);
        state.early_sessions += usize::from(is_early);
        state.node.accept();
        let cut_below = state.cut_below;
        let begun = (state.connections, Budget(cut_below.map(|below| state.dice.below(below))));
        drop(state);
        self.changed.notify_waiters();
        begun
    }
}

impl Server {
    pub(crate) async fn start(seed: u64, transport: Transport) -> Self {
        let authority = Authority::new("authority");
        let tls = authority.server("localhost");
        Self::new(seed, transport, authority.pem(), tls).await
    }

    /// By `wss`, and by QUIC.
    pub(crate) async fn start_both(seed: u64) -> Self {
        Self::start(seed, Transport::Wss).await
    }

    /// With TLS of the test's own.
    pub(crate) async fn start_with(seed: u64, transport: Transport, tls: Arc<ServerConfig>) -> Self {
        Self::new(seed, transport, String::new(), tls).await
    }

    async fn new(seed: u64, transport: Transport, ca: String, tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            node: Node::new(seed),
            connections: 0,
            cut_below: None,
            dice: Dice(seed),
            is_stalled: false,
            handshakes: vec![],
            sessions: vec![],
            early_sessions: 0,
            compressed: Compressed::default(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        let mut tasks = JoinSet::new();
        let acceptor = (transport != Transport::Ws).then(|| TlsAcceptor::from(tls.clone()));
        tasks.spawn(accept(listener, acceptor, shared.clone()));
        let quic = quinn::Endpoint::server(quic::config(&tls), "127.0.0.1:0".parse().unwrap()).unwrap();
        tasks.spawn(quic::accept(quic.clone(), shared.clone()));
        Self { transport, address, quic, tls, ca, shared, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        self.url_of(self.transport)
    }

    pub(crate) fn url_of(&self, transport: Transport) -> String {
        match transport {
            Transport::Ws => format!("ws://{}", self.address),
            Transport::Wss => format!("wss://localhost:{}", self.address.port()),
            Transport::Quic => format!("quic://localhost:{}", self.udp_address().port()),
        }
    }

    pub(crate) fn udp_address(&self) -> SocketAddr {
        self.quic.local_addr().unwrap()
    }

    /// QUIC tickets that were given are good for nothing from now on.
    pub(crate) fn forget_tickets(&self) {
        self.quic.set_server_config(Some(quic::config(&self.tls)));
    }

    /// What carried each connection on which a client spoke.
    pub(crate) fn sessions(&self) -> Vec<Transport> {
        self.state().sessions.clone()
    }

    /// How many of them began with early data.
    pub(crate) fn early_sessions(&self) -> usize {
        self.state().early_sessions
    }

    /// What was compressed on all connections.
    pub(crate) fn compressed(&self) -> Compressed {
        self.state().compressed
    }

    /// Who signed its certificate.
    pub(crate) fn ca(&self) -> String {
        self.ca.clone()
    }

    pub(crate) fn node<T>(&self, change: impl FnOnce(&mut Node) -> T) -> T {
        let result = change(&mut self.state().node);
        self.shared.changed.notify_waiters();
        result
    }

    /// From the next connection on, each breaks after less than so many bytes.
    pub(crate) fn cut_below(&self, bytes: Option<u64>) {
        self.state().cut_below = bytes;
    }

    /// Stops reading frames, or goes on.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.state().is_stalled = is_stalled;
        self.shared.changed.notify_waiters();
    }

    /// Ends the session without a word.
    pub(crate) fn hang_up(&self) {
        self.state().connections += 1;
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn connections(&self) -> u64 {
        self.state().connections
    }

    /// How TLS began on each connection.
    pub(crate) fn handshakes(&self) -> Vec<HandshakeKind> {
        self.state().handshakes.clone()
    }

    /// Waits until the model is as expected.
    pub(crate) async fn until(&self, mut expect: impl FnMut(&Node) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if expect(&self.state().node) {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), shared.clone());
        // A connection that ends early is what the tests are for.
        connections.spawn(async move {
            match tls {
                None => drop(serve(stream, Transport::Ws, &shared).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        shared.state.lock().unwrap().handshakes.extend(stream.get_ref().1.handshake_kind());
                        drop(serve(stream, Transport::Wss, &shared).await);
                    }
                }
            }
        });
        while connections.try_join_next().is_some_and(|result| result.is_ok()) {}
    }
}

/// Bytes that a connection may still carry.
struct Budget(Option<u64>);

impl Budget {
    /// How much of `len` may pass, and whether the connection breaks then.
    fn take(&mut self, len: usize) -> (usize, bool) {
        let Some(left) = &mut self.0 else { return (len, false) };
        let passes = (*left).min(len as u64);
        *left -= passes;
        (usize::try_from(passes).unwrap(), *left == 0)
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    transport: Transport,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut handshake = ServerHandshake::new();
    let mut input = vec![0; 16 << 10];
    let mut request = loop {
        let len = stream.read(&mut input).await?;
        match handshake.feed(&input[..len], &ENDPOINT) {
            Ok(Some(request)) => break request,
            Ok(None) => {}
            Err(error) => return stream.write_all(&error.response()).await,
        }
    };
    let mut compressor = request.agree().map(|agreed| (Inflater::new(), Deflater::new(agreed.window)));
    stream.write_all(&request.response()).await?;
    stream.flush().await?;

    // Whoever connects and says nothing takes no session from another.
    let first = stream.read(&mut input).await?;
    let (number, mut budget) = shared.begin(transport, false);
    let (passes, mut breaks_then) = budget.take(first);
    if passes == 0 {
        return forget_session(number, shared);
    }
    // Read, and not taken.
    let mut held = input[..passes].to_vec();
    let limits = Limits { message_bytes_max: u32::try_from(CLIENT_FRAME_BYTES_MAX).unwrap() };
    let mut decoder = Decoder::new(Role::Server, limits);
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !held.is_empty() && !shared.state.lock().unwrap().is_stalled {
            let inflater = compressor.as_mut().map(|(inflater, _)| inflater);
            if take_in(&mut decoder, inflater, &mut std::mem::take(&mut held), number, shared) || breaks_then {
                return forget_session(number, shared);
            }
            shared.changed.notify_waiters();
        }
        let (output, closing, is_stalled) = {
            let mut state = shared.state.lock().unwrap();
            if state.connections != number {
                return Ok(());
            }
            let mut output = vec![];
            while let Some(frame) = state.node.out.pop_front() {
                // Whatever shrinks, so that clients meet it often.
                match compressor.as_mut().and_then(|(_, deflater)| deflater.deflate(&frame)) {
                    Some(shorter) => {
                        let header = Header { compressed: true, ..Header::whole(Opcode::Binary, shorter.len(), None) };
                        output.extend_from_slice(&header.encode());
                        output.extend_from_slice(shorter);
                        state.compressed.sent += shorter.len();
                        state.compressed.sent_from += frame.len();
                    }
                    None => encode::frame(Opcode::Binary, &frame, None, &mut output),
                }
            }
            (output, state.node.closing, state.is_stalled)
        };
        let (passes, breaks) = budget.take(output.len());
        stream.write_all(&output[..passes]).await?;
        stream.flush().await?;
        if breaks {
            return Ok(());
        }
        if let Some(code) = closing {
            let mut output = vec![];
            encode::close(Some(code.number()), "closing", None, &mut output);
            stream.write_all(&output).await?;
            stream.flush().await?;
            while stream.read(&mut input).await? > 0 {}
            return Ok(());
        }
        tokio::select! {
            () = &mut changed => {}
            len = stream.read(&mut input), if !is_stalled && held.is_empty() => {
                let (passes, breaks) = budget.take(len?);
                if passes == 0 {
                    return forget_session(number, shared);
                }
                // It may have been stalled meanwhile.
                held.extend_from_slice(&input[..passes]);
                breaks_then = breaks;
            }
        }
    }
}

/// A connection has ended, for the application, too.
fn forget_session(number: u64, shared: &Shared) -> std::io::Result<()> {
    let mut state = shared.state.lock().unwrap();
    if state.connections == number {
        state.node.session.clear();
    }
    drop(state);
    shared.changed.notify_waiters();
    Ok(())
}

/// Gives frames to the model; `true` once the client closes.
fn take_in(
    decoder: &mut Decoder,
    mut inflater: Option<&mut Inflater>,
    input: &mut [u8],
    number: u64,
    shared: &Shared,
) -> bool {
    let before = inflater.as_ref().map_or(0, |inflater| inflater.inflated_bytes());
    let is_over = take_frames(
        match &mut inflater {
            Some(inflater) => decoder.feed_deflated(input, inflater),
            None => decoder.feed(input),
        },
        number,
        shared,
    );
    let after = inflater.map_or(0, |inflater| inflater.inflated_bytes());
    shared.state.lock().unwrap().compressed.received_to += after - before;
    is_over
}

fn take_frames(mut feed: Feed<'_, '_>, number: u64, shared: &Shared) -> bool {
    while let Some(event) = feed.next_event().unwrap() {
        let mut state = shared.state.lock().unwrap();
        match event {
            Event::Message { payload, .. } if state.connections == number => state.node.receive(payload),
            Event::Message { payload, .. } => state.node.straggle(payload),
            Event::Close { .. } => return true,
            Event::Ping(_) | Event::Pong(_) => {}
        }
    }
    false
}
