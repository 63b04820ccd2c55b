//! UDP sockets that many QUIC connections share: batches of receives, trains of sends.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams taken with one call, each perhaps a train of them.
const BATCH: usize = 32;
/// The longest train.
const TRAIN_BYTES_MAX: usize = 64 << 10;
/// What the kernel holds while the load generator is at something else: a broadcast comes in one burst.
const BUFFER_BYTES: usize = 8 << 20;
/// Sockets on the loopback interface: each is of a network of its own (/24), as users are.
const LOOPBACK_SOCKETS: u8 = 32;

/// Sockets for connections to this server.
///
/// # Errors
/// From the operating system.
pub(super) fn bind(server: SocketAddr) -> io::Result<Vec<Port>> {
    match server {
        SocketAddr::V4(address) if address.ip().is_loopback() => {
            let [_, high, low, _] = Ipv4Addr::from(std::process::id() << 8).octets();
            let source = |number| SocketAddr::from((Ipv4Addr::new(127, high, low ^ number, 1), 0));
            (0..LOOPBACK_SOCKETS).map(|number| Port::bind(source(number))).collect()
        }
        SocketAddr::V4(_) => Ok(vec![Port::bind((Ipv4Addr::UNSPECIFIED, 0).into())?]),
        SocketAddr::V6(_) => Ok(vec![Port::bind((Ipv6Addr::UNSPECIFIED, 0).into())?]),
    }
}

/// Where datagrams are taken to.
pub(super) struct Landing(Box<[u8]>);

impl Landing {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * TRAIN_BYTES_MAX].into())
    }
}

/// One socket.
pub(super) struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    /// What the socket did not take.
    unsent: Option<(Transmit, Vec<u8>)>,
}

impl Port {
    fn bind(source: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(source), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        // Above the system's limit where the process may, else up to it.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
            socket.set_recv_buffer_size(BUFFER_BYTES)?;
        }
        socket.bind(&source.into())?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, unsent: None })
    }

    /// Takes up to a batch of what has come; whether there may be more.
    pub(super) fn receive(
        &self,
        landing: &mut Landing,
        mut take: impl FnMut(SocketAddr, Option<EcnCodepoint>, BytesMut),
    ) -> bool {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut pieces = landing.0.chunks_exact_mut(TRAIN_BYTES_MAX);
        let mut pieces: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
        // An error is of an earlier send, and the next call goes on.
        let Ok(count) = self.state.recv((&self.socket).into(), &mut pieces, &mut metas) else { return false };
        for (meta, piece) in metas[..count].iter().zip(&pieces) {
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            for data in piece[..meta.len].chunks(meta.stride.max(1)) {
                take(meta.addr, ecn, BytesMut::from(data));
            }
        }
        count == BATCH
    }

    /// Whether something waits for the socket; tries to send it first.
    pub(super) fn is_blocked(&mut self) -> bool {
        if let Some((transmit, bytes)) = self.unsent.take() {
            self.send(transmit, &bytes);
        }
        self.unsent.is_some()
    }

    /// Sends one datagram, or several that the transmit says how to cut. What cannot be sent for another reason than a full socket is
    /// lost, as any datagram may be.
    pub(super) fn send(&mut self, transmit: Transmit, bytes: &[u8]) {
        let contents = &bytes[..transmit.size];
        let ecn = transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8));
        let (destination, segment_size, src_ip) = (transmit.destination, transmit.segment_size, transmit.src_ip);
        let datagram = quinn_udp::Transmit { destination, ecn, contents, segment_size, src_ip };
        if let Err(error) = self.state.try_send((&self.socket).into(), &datagram)
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.unsent = Some((transmit, contents.to_vec()));
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
