//! A router between a client and a server, for UDP: it forgets, it changes its mind, it blocks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// A router that stops when it is dropped.
pub(crate) struct Nat {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Who of outside speaks for whom of inside.
    flows: HashMap<SocketAddr, Flow>,
    is_blocked: bool,
    /// So is what comes from a new address.
    blocks_new: bool,
    /// Addresses of inside that ever sent.
    seen: usize,
}

struct Flow {
    outside: Arc<UdpSocket>,
    /// Brings answers back.
    _back: JoinSet<()>,
    is_dead: bool,
}

impl Nat {
    /// In front of a server.
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = inside.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(inside, server, state.clone()));
        Self { address, state, _tasks: tasks }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server sees every client at a new address from now on, and the old ones lead nowhere.
    pub(crate) fn rebind(&self) {
        self.state.lock().unwrap().flows.clear();
    }

    /// Nothing of what was open goes through any more; only a client that comes from a new address does.
    pub(crate) fn forget(&self) {
        self.state.lock().unwrap().flows.values_mut().for_each(|flow| flow.is_dead = true);
    }

    /// Nothing goes through any more.
    pub(crate) fn block(&self) {
        self.state.lock().unwrap().is_blocked = true;
    }

    /// Nothing new goes through any more.
    pub(crate) fn block_new(&self) {
        self.state.lock().unwrap().blocks_new = true;
    }

    /// From how many addresses clients have come.
    pub(crate) fn seen(&self) -> usize {
        self.state.lock().unwrap().seen
    }
}

async fn forward(inside: Arc<UdpSocket>, server: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 64 << 10];
    let mut known = std::collections::HashSet::new();
    loop {
        let Ok((len, client)) = inside.recv_from(&mut buffer).await else { continue };
        if known.insert(client) {
            state.lock().unwrap().seen += 1;
        }
        let is_new = !state.lock().unwrap().flows.contains_key(&client);
        if is_new {
            let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            let mut back = JoinSet::new();
            back.spawn(answer(outside.clone(), inside.clone(), client, state.clone()));
            let mut state = state.lock().unwrap();
            let is_dead = state.blocks_new;
            state.flows.insert(client, Flow { outside, _back: back, is_dead });
        }
        let outside = {
            let state = state.lock().unwrap();
            let flow = state.flows.get(&client).filter(|flow| !flow.is_dead && !state.is_blocked);
            flow.map(|flow| flow.outside.clone())
        };
        if let Some(outside) = outside {
            let _ = outside.send_to(&buffer[..len], server).await;
        }
    }
}

async fn answer(outside: Arc<UdpSocket>, inside: Arc<UdpSocket>, client: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok((len, _)) = outside.recv_from(&mut buffer).await else { continue };
        let is_open = {
            let state = state.lock().unwrap();
            state.flows.get(&client).is_some_and(|flow| !flow.is_dead) && !state.is_blocked
        };
        if is_open {
            let _ = inside.send_to(&buffer[..len], client).await;
        }
    }
}
