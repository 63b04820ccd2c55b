//! The model node behind a real socket: a WebSocket server from the project's own codec. It breaks connections at any
//! byte when told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, SUBPROTOCOL};
use millrace_protocol::ws::handshake::{Endpoint, ServerHandshake};
use millrace_protocol::ws::{Decoder, Event, Limits, Opcode, Role, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::node::{Dice, Node};

const ENDPOINT: Endpoint<'_> = Endpoint { path: Some("/v1/connect"), subprotocols: &[SUBPROTOCOL] };

/// A server that stops when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
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
}

impl Server {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state =
            State { node: Node::new(seed), connections: 0, cut_below: None, dice: Dice(seed), is_stalled: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Self { address, shared, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
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

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        // A connection that ends early is what the tests are for.
        connections.spawn(async move { drop(serve(stream, &shared).await) });
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

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut handshake = ServerHandshake::new();
    let mut input = vec![0; 16 << 10];
    let request = loop {
        let len = stream.read(&mut input).await?;
        match handshake.feed(&input[..len], &ENDPOINT) {
            Ok(Some(request)) => break request,
            Ok(None) => {}
            Err(error) => return stream.write_all(&error.response()).await,
        }
    };
    stream.write_all(&request.response()).await?;

    let (number, mut budget) = {
        let mut state = shared.state.lock().unwrap();
        state.connections += 1;
        state.node.accept();
        let cut_below = state.cut_below;
        (state.connections, Budget(cut_below.map(|below| state.dice.below(below))))
    };
    shared.changed.notify_waiters();
    let limits = Limits { message_bytes_max: u32::try_from(CLIENT_FRAME_BYTES_MAX).unwrap() };
    let mut decoder = Decoder::new(Role::Server, limits);
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (output, closing, is_stalled) = {
            let mut state = shared.state.lock().unwrap();
            if state.connections != number {
                return Ok(());
            }
            let mut output = vec![];
            while let Some(frame) = state.node.out.pop_front() {
                encode::frame(Opcode::Binary, &frame, None, &mut output);
            }
            (output, state.node.closing, state.is_stalled)
        };
        let (passes, breaks) = budget.take(output.len());
        stream.write_all(&output[..passes]).await?;
        if breaks {
            return Ok(());
        }
        if let Some(code) = closing {
            let mut output = vec![];
            encode::close(Some(code.number()), "closing", None, &mut output);
            stream.write_all(&output).await?;
            while stream.read(&mut input).await? > 0 {}
            return Ok(());
        }
        tokio::select! {
            () = &mut changed => {}
            len = stream.read(&mut input), if !is_stalled => {
                let (passes, breaks) = budget.take(len?);
                if passes == 0 || take_in(&mut decoder, &mut input[..passes], number, shared) || breaks {
                    // Gone for the application, too.
                    let mut state = shared.state.lock().unwrap();
                    if state.connections == number {
                        state.node.session.clear();
                    }
                    drop(state);
                    shared.changed.notify_waiters();
                    return Ok(());
                }
                shared.changed.notify_waiters();
            }
        }
    }
}

/// Gives frames to the model; `true` once the client closes.
fn take_in(decoder: &mut Decoder, input: &mut [u8], number: u64, shared: &Shared) -> bool {
    let mut feed = decoder.feed(input);
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
