//! UDP sockets, one for each shard on one port, and how datagrams are taken from and given to one of them.
//!
//! The kernel spreads datagrams by a hash of the addresses, or, where it takes the program, by what a datagram's connection id
//! says. The group's order is the order of binding: all sockets are bound here, and stay for the life of the process.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::BytesMut;
use millrace_quic::{CidKey, EcnCodepoint, Outgoing, steering};
use nix::libc::{sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What the kernel holds of datagrams that nobody has taken yet. Acknowledgements of a broadcast come in one burst, and each small
/// datagram counts as more than a kilobyte.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Datagrams taken with one call, each perhaps a train of them.
const BATCH: usize = 16;
/// The longest train.
const TRAIN_BYTES_MAX: usize = 64 << 10;
/// What a datagram weighs at least, in bytes read: so many small ones take as long as a large read.
pub(crate) const DATAGRAM_WORK_BYTES: u64 = 512;

/// Binds a socket for each shard to `address`, and asks the kernel to steer by the key if there is one. With port 0 the system chooses one port.
///
/// # Errors
/// From the operating system; [`io::ErrorKind::AddrInUse`] also if another process shares its port out in the same way.
pub(crate) fn bind(address: SocketAddr, shards: usize, key: Option<&CidKey>) -> io::Result<Vec<UdpSocket>> {
    if address.port() != 0 {
        // SO_REUSEPORT would let a second node of the same user take half of the datagrams in silence.
        drop(socket(address, false)?);
    }
    let first = socket(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(socket(address, true)?);
    }
    if shards > 1
        && let Some(key) = key
        && let Err(error) = steer(&sockets[0], key)
    {
        // Shards forward to each other what lands on the wrong one.
        tracing::info!(%error, "datagrams are not steered by the kernel");
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    // Above the system's limit where the process may, else up to it.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    }
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn steer(socket: &UdpSocket, key: &CidKey) -> io::Result<()> {
    let mut program: Vec<sock_filter> = steering(key)
        .into_iter()
        .map(|step| sock_filter { code: step.code, jt: step.jump_true, jf: step.jump_false, k: step.k })
        .collect();
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The kernel copies the program before the call returns.
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?)
}

/// A datagram that came.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    /// The address of ours that it came to.
    pub(crate) to: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) data: BytesMut,
}

/// One shard's socket.
pub(crate) struct UdpPort {
    socket: UdpSocket,
    state: UdpSocketState,
    buffer: Box<[u8]>,
    /// What the socket did not take.
    unsent: Option<(Outgoing, Vec<u8>)>,
    /// Datagrams that could not be sent, for whatever reason.
    pub(crate) send_errors: u64,
    /// Sends.
    pub(crate) sends: u64,
}

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Done,
    /// It waits for the socket to take more.
    Blocked,
}

impl UdpPort {
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let buffer = vec![0; BATCH * TRAIN_BYTES_MAX].into_boxed_slice();
        Ok(Self { socket, state, buffer, unsent: None, send_errors: 0, sends: 0 })
    }

    /// Takes what has come, until that weighs so many bytes; one more call of the system may go over. Gives what it weighed. A
    /// level-triggered poller tells of the rest.
    pub(crate) fn receive(&mut self, work_bytes_max: u64, mut take: impl FnMut(Datagram)) -> u64 {
        let mut work_bytes = 0;
        while work_bytes < work_bytes_max {
            let mut metas = [RecvMeta::default(); BATCH];
            let mut pieces = self.buffer.chunks_exact_mut(TRAIN_BYTES_MAX);
            let mut pieces: [IoSliceMut<'_>; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
            // An error is of an earlier send, and the next call goes on.
            let Ok(count) = self.state.recv((&self.socket).into(), &mut pieces, &mut metas) else { break };
            for (meta, piece) in metas[..count].iter().zip(&pieces) {
                let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
                for data in piece[..meta.len].chunks(meta.stride.max(1)) {
                    work_bytes += DATAGRAM_WORK_BYTES.max(data.len() as u64);
                    take(Datagram { from: meta.addr, to: meta.dst_ip, ecn, data: BytesMut::from(data) });
                }
            }
            if count < BATCH {
                break;
            }
        }
        work_bytes
    }

    /// Whether something waits for the socket: nothing more may be sent before [`resume`](Self::resume).
    pub(crate) fn is_blocked(&self) -> bool {
        self.unsent.is_some()
    }

    /// The socket takes more: sends what waited.
    pub(crate) fn resume(&mut self) -> Sent {
        match self.unsent.take() {
            None => Sent::Done,
            Some((transmit, bytes)) => self.send(transmit, &bytes),
        }
    }

    /// Sends one datagram, or several that the transmit says how to cut. Copies them if the socket takes nothing now.
    pub(crate) fn send(&mut self, transmit: Outgoing, bytes: &[u8]) -> Sent {
        let contents = &bytes[..transmit.size];
        self.sends += 1;
        match self.try_send(&transmit, contents, transmit.segment_size) {
            Ok(()) => Sent::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.unsent = Some((transmit, contents.to_vec()));
                Sent::Blocked
            }
            // Drivers that say that they cut trains and then do not; quinn-udp asks for no more after the first.
            Err(_) if transmit.segment_size.is_some_and(|size| size < contents.len()) => {
                for piece in contents.chunks(transmit.segment_size.unwrap_or(1).max(1)) {
                    // Lost if it fails again, as any datagram may be.
                    self.send_errors += u64::from(self.try_send(&transmit, piece, None).is_err());
                }
                Sent::Done
            }
            Err(_) => {
                self.send_errors += 1;
                Sent::Done
            }
        }
    }

    fn try_send(&self, transmit: &Outgoing, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let ecn = transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8));
        let transmit =
            Transmit { destination: transmit.destination, ecn, contents, segment_size, src_ip: transmit.src_ip };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key() -> CidKey {
        CidKey::new(*b"8 bytes.")
    }

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn all_shards_share_one_port_and_nobody_else_does() {
        let sockets = bind(any_port(), 3, Some(&key())).expect("bind");
        let address = sockets[0].local_addr().expect("address");
        assert!(sockets.iter().all(|socket| socket.local_addr().expect("address") == address));
        assert_eq!(bind(address, 2, Some(&key())).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        bind(address, 2, Some(&key())).expect("free again");
    }

    #[test]
    fn trains_are_cut_and_put_together() {
        let mut ports: Vec<UdpPort> =
            (0..2).map(|_| UdpPort::new(bind(any_port(), 1, None).expect("bind").remove(0)).expect("port")).collect();
        let to = ports[1].socket.local_addr().expect("address");
        let bytes: Vec<u8> = (0..3000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let transmit = Outgoing {
            destination: to,
            ecn: Some(EcnCodepoint::Ect0),
            size: bytes.len(),
            segment_size: Some(1200),
            src_ip: None,
        };
        assert_eq!(ports[0].send(transmit, &bytes), Sent::Done);
        let from = ports[0].socket.local_addr().expect("address");
        let mut came = Vec::new();
        while came.len() < 3 {
            ports[1].receive(u64::MAX, |datagram| came.push(datagram));
        }
        let lens: Vec<usize> = came.iter().map(|datagram| datagram.data.len()).collect();
        assert_eq!(lens, [1200, 1200, 600]);
        for datagram in &came {
            assert_eq!(datagram.from, from);
        }
        assert_eq!(came.iter().flat_map(|datagram| &datagram.data).copied().collect::<Vec<u8>>(), bytes);
        assert!(!ports[0].is_blocked());
    }
}
