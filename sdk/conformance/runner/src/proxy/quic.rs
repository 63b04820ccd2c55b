//! The network of a client over QUIC, for scenarios that do something to its connections: who is in the middle is an end of the client's
//! connection, has another one to the server, and carries each stream and datagram between them. Streams have the same numbers on both
//! sides, so that HTTP/3 and WebTransport go through as they are.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn::congestion::CubicConfig;
use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Incoming, ReadError, RecvStream, SendStream,
    TokioRuntime, TransportConfig, VarInt, WriteError,
};
use socket2::Socket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::frames::{Frames, datagram};
use super::traffic::Traffic;
use super::{Hold, Upstream, datagrams, runtime};
use crate::scenario::Condition;
use crate::transport::Transport;
use crate::trust::{NAME, Trust};

/// What a stream of the server may hold here, and all of them: little, so that a client that does not read is soon felt.
const STREAM_WINDOW: u32 = 16 << 10;
const WINDOW: u32 = 64 << 10;
/// Streams that a client may open: one, or those of HTTP/3.
const STREAMS: u32 = 16;
const CHUNK_BYTES: usize = 16 << 10;
/// A server that is gone says nothing, and is given up after this.
const SERVER_IDLE: Duration = Duration::from_secs(10);
const SERVER_KEEP_ALIVE: Duration = Duration::from_secs(1);
const CLIENT_IDLE: Duration = Duration::from_secs(90);
/// Above anything that is ever on its way here: quinn does not send the end of a connection while data waits for congestion control.
const CONGESTION_WINDOW: u64 = 16 << 20;
/// What the server said before it closed may take so long to be taken.
const LINGER: Duration = Duration::from_secs(2);
/// An end that means nothing but that the connection is gone.
const GONE: VarInt = VarInt::from_u32(0);

/// See the module. Its connections end with it.
pub(super) struct Middle {
    pub(super) address: SocketAddr,
    endpoint: Endpoint,
    shared: Arc<Shared>,
    _beside: Socket,
}

struct Shared {
    state: Mutex<State>,
    upstream: Upstream,
    traffic: Arc<Traffic>,
    /// Towards the server.
    out: Endpoint,
    is_web: bool,
}

#[derive(Default)]
struct State {
    is_down: bool,
    next: u64,
    connections: BTreeMap<u64, Held>,
}

/// What can be done to a connection.
struct Held {
    client: Connection,
    server: Connection,
    hold: watch::Sender<Hold>,
    inject: mpsc::UnboundedSender<Vec<u8>>,
}

impl Middle {
    pub(super) fn start(
        transport: Transport,
        upstream: Upstream,
        traffic: Arc<Traffic>,
        trust: &Trust,
    ) -> Result<Self> {
        let (socket, beside) = datagrams()?;
        let address = socket.local_addr().context("the proxy's address")?;
        let mut server = trust.quic_server(transport)?;
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(STREAMS.into())
            .max_concurrent_uni_streams(STREAMS.into())
            .send_window(WINDOW.into())
            .congestion_controller_factory(uncongested())
            .max_idle_timeout(Some(IdleTimeout::try_from(CLIENT_IDLE)?));
        server.transport_config(Arc::new(config));
        let mut client = trust.quic_client(transport)?;
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(STREAM_WINDOW.into())
            .receive_window(WINDOW.into())
            .congestion_controller_factory(uncongested())
            .keep_alive_interval(Some(SERVER_KEEP_ALIVE))
            .max_idle_timeout(Some(IdleTimeout::try_from(SERVER_IDLE)?));
        client.transport_config(Arc::new(config));

        let runtime = runtime()?;
        let _inside = runtime.enter();
        let mut out = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).context("a port towards the server")?;
        out.set_default_client_config(client);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
            .context("listen as a proxy")?;
        let is_web = transport == Transport::WebTransport;
        let shared = Arc::new(Shared { state: Mutex::default(), upstream, traffic, out, is_web });
        runtime.spawn(accept(endpoint.clone(), shared.clone()));
        Ok(Self { address, endpoint, shared, _beside: beside })
    }

    /// # Errors
    /// If it is that the client moves: here the way ends.
    pub(super) fn set(&self, condition: Condition) -> Result<()> {
        let mut state = self.shared.lock();
        let held = match condition {
            Condition::Cut | Condition::Down => {
                state.is_down |= condition == Condition::Down;
                for (_, connection) in std::mem::take(&mut state.connections) {
                    connection.client.close(GONE, b"cut");
                    connection.server.close(GONE, b"cut");
                }
                return Ok(());
            }
            Condition::Up => {
                state.is_down = false;
                return Ok(());
            }
            Condition::Hold => Hold::Everything,
            Condition::HoldAnswers => Hold::Answers,
            Condition::Release => Hold::Nothing,
            Condition::Move => bail!("the connection that could move ends here"),
        };
        for connection in state.connections.values() {
            connection.hold.send_replace(held);
        }
        Ok(())
    }

    /// # Errors
    /// If there is no connection.
    pub(super) fn inject(&self, frame: &[u8]) -> Result<()> {
        let state = self.shared.lock();
        let Some(connection) = state.connections.values().next_back() else { bail!("there is no connection") };
        connection.inject.send(frame.to_vec()).ok().context("the connection has ended")
    }
}

fn uncongested() -> Arc<CubicConfig> {
    let mut config = CubicConfig::default();
    config.initial_window(CONGESTION_WINDOW);
    Arc::new(config)
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.endpoint.close(GONE, b"");
        self.shared.out.close(GONE, b"");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.spawn(serve(shared.clone(), incoming));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let is_down = shared.lock().is_down;
    let Some(to) = (!is_down).then(|| (shared.upstream)()).flatten() else { return incoming.refuse() };
    let Ok(accepted) = incoming.accept() else { return };
    let Ok(reached) = shared.out.connect(to, NAME) else { return };
    let (client, server) = match tokio::join!(accepted, reached) {
        (Ok(client), Ok(server)) => (client, server),
        (Ok(client), Err(error)) => return end(&client, &error),
        (Err(error), Ok(server)) => return end(&server, &error),
        (Err(_), Err(_)) => return,
    };
    let (hold, held) = watch::channel(Hold::Nothing);
    let (inject, injected) = mpsc::unbounded_channel();
    let number = {
        let mut state = shared.lock();
        if state.is_down {
            client.close(GONE, b"down");
            return server.close(GONE, b"down");
        }
        state.next += 1;
        let number = state.next;
        state.connections.insert(number, Held { client: client.clone(), server: server.clone(), hold, inject });
        number
    };
    let pair = Pair { client, server, shared: shared.clone(), held };
    pair.carry(injected).await;
    shared.lock().connections.remove(&number);
}

/// Ends one connection as the other one has ended.
fn end(connection: &Connection, error: &ConnectionError) {
    match error {
        ConnectionError::ApplicationClosed(close) => connection.close(close.error_code, &close.reason),
        _ => connection.close(GONE, b""),
    }
}

/// Both connections, as each of the tasks that carry has them.
#[derive(Clone)]
struct Pair {
    client: Connection,
    server: Connection,
    shared: Arc<Shared>,
    held: watch::Receiver<Hold>,
}

/// Held by everybody who still has something of the server's.
type Alive = mpsc::Sender<Infallible>;

impl Pair {
    /// Carries everything until one of them has ended, and then ends the other.
    async fn carry(mut self, injected: mpsc::UnboundedReceiver<Vec<u8>>) {
        let (alive, mut gone) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().both_ways(alive.downgrade(), injected));
        tasks.spawn(self.clone().open_up());
        tasks.spawn(self.clone().open_down(alive));
        tasks.spawn(self.clone().datagrams_from_client());
        tasks.spawn(self.clone().datagrams_from_server());
        let (client, server) = (self.client.clone(), self.server.clone());
        let error = tokio::select! {
            error = client.closed() => return end(&server, &error),
            error = server.closed() => error,
        };
        // What came before the end is given to the client before the end is.
        let given = async {
            self.free(|hold| hold == Hold::Nothing).await;
            tokio::time::timeout(LINGER, gone.recv()).await
        };
        tokio::select! {
            _ = client.closed() => {}
            _ = given => end(&client, &error),
        }
    }

    /// Waits until `is_free` says so; for ever if the connection is cut.
    async fn free(&mut self, is_free: impl Fn(Hold) -> bool) {
        if self.held.wait_for(|hold| is_free(*hold)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Streams that the client opens both ways. The session's frames are on the first, and with HTTP/3 on the one behind the request.
    async fn both_ways(self, alive: mpsc::WeakSender<Infallible>, injected: mpsc::UnboundedReceiver<Vec<u8>>) {
        let mut injected = Some(injected);
        let mut pumps = JoinSet::new();
        let mut is_request = self.shared.is_web;
        while let Ok((to_client, from_client)) = self.client.accept_bi().await {
            let Ok((to_server, from_server)) = self.server.open_bi().await else { break };
            pumps.spawn(self.clone().up(from_client, to_server));
            let (frames, injected) =
                if is_request { (Frames::raw(), None) } else { (Frames::stream(), injected.take()) };
            pumps.spawn(self.clone().down(from_server, to_client, frames, injected, alive.upgrade()));
            is_request = false;
        }
        while pumps.join_next().await.is_some() {}
    }

    async fn open_up(self) {
        let mut pumps = JoinSet::new();
        while let Ok(from_client) = self.client.accept_uni().await {
            let Ok(to_server) = self.server.open_uni().await else { break };
            pumps.spawn(self.clone().up(from_client, to_server));
        }
        while pumps.join_next().await.is_some() {}
    }

    async fn open_down(self, alive: Alive) {
        let mut pumps = JoinSet::new();
        while let Ok(from_server) = self.server.accept_uni().await {
            let Ok(to_client) = self.client.open_uni().await else { break };
            let frames = if self.shared.is_web { Frames::web_stream() } else { Frames::stream() };
            pumps.spawn(self.clone().down(from_server, to_client, frames, None, Some(alive.clone())));
        }
        drop(alive);
        while pumps.join_next().await.is_some() {}
    }

    /// From the client to the server, as it comes.
    async fn up(mut self, mut from: RecvStream, mut to: SendStream) {
        let stopped = until_stopped(&to);
        tokio::pin!(stopped);
        loop {
            self.free(|hold| hold != Hold::Everything).await;
            let read = tokio::select! {
                read = from.read_chunk(CHUNK_BYTES, true) => read,
                code = &mut stopped => return stop(&mut from, code),
            };
            self.free(|hold| hold != Hold::Everything).await;
            match read {
                Ok(Some(chunk)) => match to.write_chunk(chunk.bytes).await {
                    Ok(()) => {}
                    Err(WriteError::Stopped(code)) => return stop(&mut from, code),
                    Err(_) => break,
                },
                Ok(None) => return finish(&mut to),
                Err(ReadError::Reset(code)) => return reset(&mut to, code),
                Err(_) => break,
            }
        }
        // A stream that is dropped ends well, and this one has not.
        self.server.closed().await;
    }

    /// From the server to the client, frame by frame.
    async fn down(
        mut self,
        mut from: RecvStream,
        mut to: SendStream,
        mut frames: Frames,
        mut injected: Option<mpsc::UnboundedReceiver<Vec<u8>>>,
        alive: Option<Alive>,
    ) {
        let mut swapped = None;
        let stopped = until_stopped(&to);
        tokio::pin!(stopped);
        loop {
            // Not even read: what a server sends meets a full window.
            self.free(|hold| hold == Hold::Nothing).await;
            let injection = async {
                match &mut injected {
                    Some(injected) => injected.recv().await,
                    None => None,
                }
            };
            let read = tokio::select! {
                read = from.read_chunk(CHUNK_BYTES, true) => read,
                Some(frame) = injection => {
                    if to.write_all(&frame).await.is_err() {
                        break;
                    }
                    continue;
                }
                code = &mut stopped => return stop(&mut from, code),
            };
            self.free(|hold| hold == Hold::Nothing).await;
            let written = match read {
                Ok(Some(chunk)) => {
                    let units = frames.feed(&chunk.bytes);
                    to.write_all(&self.shared.traffic.pass(units, &mut swapped)).await
                }
                Ok(None) => {
                    let mut rest = swapped.take().unwrap_or_default();
                    rest.extend(frames.rest());
                    if to.write_all(&rest).await.is_ok() {
                        finish(&mut to);
                    }
                    return;
                }
                Err(ReadError::Reset(code)) => return reset(&mut to, code),
                Err(_) => break,
            };
            match written {
                Ok(()) => {}
                Err(WriteError::Stopped(code)) => return stop(&mut from, code),
                Err(_) => break,
            }
        }
        drop(alive);
        // As above.
        self.client.closed().await;
    }

    async fn datagrams_from_client(mut self) {
        while let Ok(bytes) = self.client.read_datagram().await {
            self.free(|hold| hold != Hold::Everything).await;
            // One that finds no room is lost, as datagrams may be.
            let _ = self.server.send_datagram(bytes);
        }
    }

    async fn datagrams_from_server(mut self) {
        while let Ok(bytes) = self.server.read_datagram().await {
            self.free(|hold| hold == Hold::Nothing).await;
            let unit = datagram(&bytes, self.shared.is_web);
            self.shared.traffic.pass(vec![unit], &mut None);
            // As above.
            let _ = self.client.send_datagram(bytes);
        }
    }
}

/// With which code the reader wants no more of a stream, if it does.
fn until_stopped(stream: &SendStream) -> impl Future<Output = VarInt> + use<> {
    let stopped = stream.stopped();
    async {
        match stopped.await {
            Ok(Some(code)) => code,
            _ => std::future::pending().await,
        }
    }
}

/// The reader wants no more. One that has ended meanwhile is as good, here and below.
fn stop(stream: &mut RecvStream, code: VarInt) {
    let _ = stream.stop(code);
}

fn finish(stream: &mut SendStream) {
    let _ = stream.finish();
}

fn reset(stream: &mut SendStream, code: VarInt) {
    let _ = stream.reset(code);
}
