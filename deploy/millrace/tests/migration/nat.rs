//! A router of the client that forgets: what the server sees as the client's port is another one from then on.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// For one client. Its threads end with the process.
pub(crate) struct Nat {
    inside: Arc<UdpSocket>,
    state: Arc<Mutex<State>>,
}

struct State {
    server: SocketAddr,
    outside: Arc<UdpSocket>,
    /// Where the client sends from.
    client: Option<SocketAddr>,
}

impl Nat {
    pub(crate) fn start(server: SocketAddr) -> Result<Self> {
        let inside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind inside")?);
        let state = State { server, outside: outside(server)?, client: None };
        let nat = Self { inside, state: Arc::new(Mutex::new(state)) };
        nat.bring_back();
        let (inside, state) = (Arc::clone(&nat.inside), Arc::clone(&nat.state));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok((len, from)) = inside.recv_from(&mut buffer) {
                let outside = {
                    let mut state = lock(&state);
                    state.client = Some(from);
                    Arc::clone(&state.outside)
                };
                // A datagram may be lost.
                let _ = outside.send(&buffer[..len]);
            }
        });
        Ok(nat)
    }

    /// Where the client finds the server.
    pub(crate) fn port(&self) -> Result<u16> {
        Ok(self.inside.local_addr().context("ask for the port")?.port())
    }

    /// The server sees another port from now on, and the old one leads nowhere.
    pub(crate) fn rebind(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.outside = outside(state.server)?;
        drop(state);
        self.bring_back();
        Ok(())
    }

    /// Takes answers to the socket of now back to the client, until there is another one.
    fn bring_back(&self) {
        let (inside, state) = (Arc::clone(&self.inside), Arc::clone(&self.state));
        let outside = Arc::clone(&lock(&state).outside);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(len) = outside.recv(&mut buffer) {
                let state = lock(&state);
                if !Arc::ptr_eq(&state.outside, &outside) {
                    // What came late to the old port is lost, as it would be at a router.
                    return;
                }
                let client = state.client;
                drop(state);
                if let Some(client) = client {
                    let _ = inside.send_to(&buffer[..len], client);
                }
            }
        });
    }
}

fn outside(server: SocketAddr) -> Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind outside")?;
    socket.connect(server).context("name the server")?;
    Ok(Arc::new(socket))
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
