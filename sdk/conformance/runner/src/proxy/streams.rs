//! The network between one client and the server: a proxy that can cut, hold, lose, double and reorder.
//!
//! It understands as much of the protocol as it needs to name the frames that a server sends; bytes that it does not understand go through
//! as they are. A connection costs two threads.

mod frames;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use millrace_protocol::ws;
use socket2::{Domain, Socket, Type};

pub use self::frames::{Frames, Unit};
use crate::scenario::{Condition, How};

/// What the system may keep for us of what a server sends: little, so that a client that does not read is soon felt.
const RECEIVE_BYTES: usize = 16 << 10;
const CONNECT: Duration = Duration::from_secs(10);

/// Where the server is at the moment, if anywhere.
pub type Upstream = Arc<dyn Fn() -> Option<SocketAddr> + Send + Sync>;

/// See the module. Its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    upstream: Upstream,
}

#[derive(Default)]
struct State {
    is_down: bool,
    is_over: bool,
    next: u64,
    connections: BTreeMap<u64, Connection>,
    tampers: Vec<(String, How)>,
    /// Frames that came by, by name.
    counts: BTreeMap<&'static str, usize>,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    hold: Hold,
    /// A message that waits for the next one.
    swapped: Option<Vec<u8>>,
    /// One direction has ended.
    is_half: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
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
    pub fn start(upstream: Upstream) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen as a proxy")?;
        let address = listener.local_addr().context("the proxy's address")?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), upstream });
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

    /// Where its client connects.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Changes what the network does.
    pub fn set(&self, condition: Condition) {
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
        }
        self.shared.changed.notify_all();
    }

    /// What becomes of the next message with this text.
    pub fn tamper(&self, text: &str, how: How) {
        self.shared.lock().tampers.push((text.to_owned(), how));
    }

    /// Sends a frame to the client as if the server had.
    ///
    /// # Errors
    /// If there is no connection.
    pub fn inject(&self, frame: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        ws::encode::frame(ws::Opcode::Binary, frame, None, &mut bytes);
        let mut state = self.shared.lock();
        let Some(connection) = state.connections.values_mut().next_back() else { bail!("there is no connection") };
        connection.client.write_all(&bytes).context("inject a frame")
    }

    /// Waits until so many frames of this name came by.
    ///
    /// # Errors
    /// If they do not come in time.
    pub fn until_seen(&self, name: &str, count: usize, deadline: Instant) -> Result<()> {
        let mut state = self.shared.lock();
        loop {
            let seen = state.counts.get(name).copied().unwrap_or(0);
            if seen >= count {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{seen} of {count} {name} frames came by in time");
            }
            state = self.shared.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
    }
}

impl Drop for Proxy {
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
    Ok(Connection { client, server, hold: Hold::Nothing, swapped: None, is_half: false })
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
    let mut frames = Frames::default();
    let mut buffer = [0; 16 << 10];
    let is_held = |hold| hold != Hold::Nothing;
    loop {
        // Not even read: what a server sends meets a full window.
        drop(shared.go_on(number, is_held));
        let count = server.read(&mut buffer)?;
        let Some(mut state) = shared.go_on(number, is_held) else { return Ok(()) };
        let bytes = state.pass(number, frames.feed(&buffer[..count]));
        shared.changed.notify_all();
        let client = state.connections.get(&number).and_then(|one| one.client.try_clone().ok());
        let Some(mut client) = client else { return Ok(()) };
        drop(state);
        if count == 0 {
            return client.shutdown(Shutdown::Write);
        }
        client.write_all(&bytes)?;
    }
}

impl State {
    /// What of these frames goes on, and in which order.
    fn pass(&mut self, number: u64, units: Vec<Unit>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for unit in units {
            *self.counts.entry(unit.name).or_default() += 1;
            let tampered = unit.text.as_ref().and_then(|text| self.tampers.iter().position(|(of, _)| of == text));
            let how = tampered.map(|index| self.tampers.remove(index).1);
            let Some(connection) = self.connections.get_mut(&number) else { return bytes };
            match how {
                Some(How::Drop) => {}
                Some(How::Double) => {
                    bytes.extend_from_slice(&unit.bytes);
                    bytes.extend_from_slice(&unit.bytes);
                }
                Some(How::Swap) => connection.swapped = Some(unit.bytes),
                None => {
                    bytes.extend_from_slice(&unit.bytes);
                    if unit.text.is_some() {
                        bytes.extend(connection.swapped.take().into_iter().flatten());
                    }
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
