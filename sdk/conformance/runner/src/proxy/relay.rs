//! Datagrams between a client and the server, as they are: the two have their QUIC connection to themselves. As a router does, it gives
//! each address of the client one of its own towards the server, and can give it another.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, bail};
use socket2::Socket;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinHandle};

use super::{Upstream, datagrams, runtime};
use crate::scenario::Condition;

/// Addresses of the client that are known; one more, and all are forgotten, as a router forgets.
const FLOWS_MAX: usize = 64;
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// See the module. Nothing comes through once it is dropped.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
    _beside: Socket,
}

struct Shared {
    socket: UdpSocket,
    upstream: Upstream,
    flows: Mutex<HashMap<SocketAddr, Flow>>,
}

/// One address of the client's.
struct Flow {
    socket: Arc<UdpSocket>,
    answers: JoinHandle<()>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl Relay {
    pub(super) fn start(upstream: Upstream) -> Result<Self> {
        let (socket, beside) = datagrams()?;
        let address = socket.local_addr().context("the relay's address")?;
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let shared = Arc::new(Shared { socket: taken(socket)?, upstream, flows: Mutex::default() });
        let task = runtime.spawn(carry(shared.clone())).abort_handle();
        Ok(Self { address, shared, task, _beside: beside })
    }

    /// # Errors
    /// If the condition is one of connections, which it does not know.
    pub(super) fn set(&self, condition: Condition) -> Result<()> {
        match condition {
            Condition::Move => self.shared.lock().clear(),
            other => bail!("who passes datagrams on knows nothing of connections: {other:?}"),
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.lock().clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Flow>> {
        self.flows.lock().expect("no holder panics")
    }

    fn flow(self: &Arc<Self>, client: SocketAddr) -> Result<Arc<UdpSocket>> {
        let mut flows = self.lock();
        if let Some(flow) = flows.get(&client) {
            return Ok(flow.socket.clone());
        }
        if flows.len() >= FLOWS_MAX {
            flows.clear();
        }
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a port towards the server")?;
        let socket = Arc::new(taken(socket)?);
        let answers = tokio::spawn(answer(socket.clone(), self.clone(), client));
        flows.insert(client, Flow { socket: socket.clone(), answers });
        Ok(socket)
    }
}

fn taken(socket: std::net::UdpSocket) -> Result<UdpSocket> {
    socket.set_nonblocking(true).context("a socket that does not block")?;
    UdpSocket::from_std(socket).context("take a socket")
}

async fn carry(shared: Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // What cannot be passed on is lost, as datagrams may be.
        let Ok((count, client)) = shared.socket.recv_from(&mut buffer).await else { continue };
        let Some(to) = (shared.upstream)() else { continue };
        if let Ok(socket) = shared.flow(client) {
            let _ = socket.send_to(&buffer[..count], to).await;
        }
    }
}

async fn answer(socket: Arc<UdpSocket>, shared: Arc<Shared>, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((count, _)) = socket.recv_from(&mut buffer).await else { continue };
        // As above.
        let _ = shared.socket.send_to(&buffer[..count], client).await;
    }
}
