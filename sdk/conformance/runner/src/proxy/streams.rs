//! The network of a client over TCP. A connection costs two threads.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millrace_protocol::ws;
use socket2::{Domain, Socket, Type};

use super::traffic::Traffic;
use super::{Frames, Hold, Upstream};
use crate::scenario::Condition;

/// What the system may keep for us of what a server sends: little, so that a client that does not read is soon felt.
const RECEIVE_BYTES: usize = 16 << 10;
const CONNECT: Duration = Duration::from_secs(10);

/// See the module. Its connections end with it.
pub(super) struct Streams {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    upstream: Upstream,
    traffic: Arc<Traffic>,
    /// Cuts what the server sends on a new connection.
    frames: fn() -> Frames,
}

#[derive(Default)]
struct State {
    is_down: bool,
    is_over: bool,
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    hold: Hold,
    /// One direction has ended.
    is_half: bool,
}

impl Streams {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// If the system has none.
    pub(super) fn start(upstream: Upstream, traffic: Arc<Traffic>, frames: fn() -> Frames) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen as a proxy")?;
        let address = listener.local_addr().context("the proxy's address")?;
        let (state, changed) = Default::default();
        let shared = Arc::new(Shared { state, changed, upstream, traffic, frames });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.lock().is_over {
                    return;
                }
                if let Ok(client) = client {
                    accept(&accepting, client);
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// Changes what the network does.
    ///
    /// # Errors
    /// If connections of this kind know no such thing.
    pub(super) fn set(&self, condition: Condition) -> Result<()> {
        let mut state = self.shared.lock();
        match condition {
            Condition::Cut | Condition::Down => {
                state.is_down |= condition == Condition::Down;
                state.cut();
            }
            Condition::Up => state.is_down = false,
            Condition::Hold => state.connections.values_mut().for_each(|one| one.hold = Hold::Everything),
            Condition::HoldAnswers => state.connections.values_mut().for_each(|one| one.hold = Hold::Answers),
            Condition::Release => state.connections.values_mut().for_each(|one| one.hold = Hold::Nothing),
            Condition::Move => bail!("a connection over TCP ends with its address"),
        }
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Sends a frame to the client as if the server had.
    ///
    /// # Errors
    /// If there is no connection.
    pub(super) fn inject(&self, frame: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        ws::encode::frame(ws::Opcode::Binary, frame, None, &mut bytes);
        let mut state = self.shared.lock();
        let Some(connection) = state.connections.values_mut().next_back() else { bail!("there is no connection") };
        connection.client.write_all(&bytes).context("inject a frame")
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.is_over = true;
            state.cut();
        }
        self.shared.changed.notify_all();
        // Wakes the thread that accepts; if that fails it has gone.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    /// Both sides find their connection ended without a close frame.
    fn cut(&mut self) {
        for (_, connection) in std::mem::take(&mut self.connections) {
            // One that has ended already is as good.
            let _ = connection.client.shutdown(Shutdown::Both);
            let _ = connection.server.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Waits while `is_held` says so of this connection. `None` once the connection is over.
    fn go_on(&self, number: u64, is_held: impl Fn(Hold) -> bool) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            match state.connections.get(&number) {
                Some(connection) if !is_held(connection.hold) => return Some(state),
                Some(_) => state = self.changed.wait(state).expect("no holder panics"),
                None => return None,
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream) {
    let mut state = shared.lock();
    if state.is_down {
        return;
    }
    let Some(connection) = (shared.upstream)().and_then(|address| connect(client, address).ok()) else { return };
    let (Ok(client), Ok(server)) = (connection.client.try_clone(), connection.server.try_clone()) else { return };
    state.next += 1;
    let number = state.next;
    state.connections.insert(number, connection);
    drop(state);
    let (up, down) = (shared.clone(), shared.clone());
    std::thread::spawn(move || {
        let outcome = carry_up(&up, number, client);
        up.end(number, &outcome);
    });
    std::thread::spawn(move || {
        let outcome = carry_down(&down, number, server);
        down.end(number, &outcome);
    });
}

fn connect(client: TcpStream, address: SocketAddr) -> std::io::Result<Connection> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.connect_timeout(&address.into(), CONNECT)?;
    let server = TcpStream::from(socket);
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    Ok(Connection { client, server, hold: Hold::Nothing, is_half: false })
}

impl Shared {
    /// One direction is over. What still comes the other way goes on, unless this one broke.
    fn end(&self, number: u64, outcome: &std::io::Result<()>) {
        let mut state = self.lock();
        let Some(connection) = state.connections.get_mut(&number) else { return };
        if outcome.is_err() || std::mem::replace(&mut connection.is_half, true) {
            let _ = connection.client.shutdown(Shutdown::Both);
            let _ = connection.server.shutdown(Shutdown::Both);
            state.connections.remove(&number);
        }
    }
}

fn carry_up(shared: &Shared, number: u64, mut client: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let count = client.read(&mut buffer)?;
        let server = shared.go_on(number, |hold| hold == Hold::Everything);
        let server = server.and_then(|state| state.connections.get(&number)?.server.try_clone().ok());
        let Some(mut server) = server else { return Ok(()) };
        if count == 0 {
            return server.shutdown(Shutdown::Write);
        }
        server.write_all(&buffer[..count])?;
    }
}

fn carry_down(shared: &Shared, number: u64, mut server: TcpStream) -> std::io::Result<()> {
    let mut frames = (shared.frames)();
    let mut swapped = None;
    let mut buffer = [0; 16 << 10];
    let is_held = |hold| hold != Hold::Nothing;
    loop {
        // Not even read: what a server sends meets a full window.
        drop(shared.go_on(number, is_held));
        let count = server.read(&mut buffer)?;
        let Some(state) = shared.go_on(number, is_held) else { return Ok(()) };
        let bytes = shared.traffic.pass(frames.feed(&buffer[..count]), &mut swapped);
        let client = state.connections.get(&number).and_then(|one| one.client.try_clone().ok());
        let Some(mut client) = client else { return Ok(()) };
        drop(state);
        if count == 0 {
            return client.shutdown(Shutdown::Write);
        }
        client.write_all(&bytes)?;
    }
}
