//! UDP sockets, one for each shard on one port, and how datagrams are taken from and given to one of them.
//!
//! The kernel spreads datagrams by a hash of the addresses, or, where it takes the program, by what a datagram's connection id
//! says. The group's order is the order of binding: all sockets are bound here, and stay for the life of the process.
//!
//! What is sent waits until there are some: `joint` gives them to the kernel with one call.

mod joint;

use std::collections::VecDeque;
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

/// Datagrams taken with one call, each perhaps a train of them; and given with one.
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
    /// To be sent: `taken` of these places.
    places: Vec<Place>,
    taken: usize,
    /// The system takes several datagrams with one call.
    joins: bool,
    /// What the socket did not take, in order.
    unsent: VecDeque<(Outgoing, Vec<u8>)>,
    /// Datagrams that could not be sent, for whatever reason.
    pub(crate) send_errors: u64,
    /// Sends.
    pub(crate) sends: u64,
}

/// A datagram, or several that the transmit says how to cut, on their way out. Keeps its memory.
#[derive(Default)]
struct Place {
    transmit: Option<Outgoing>,
    bytes: Vec<u8>,
}

/// What one call brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// What the datagrams weighed, in bytes read.
    pub(crate) work_bytes: u64,
    /// There may be more.
    pub(crate) goes_on: bool,
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
        let places = std::iter::repeat_with(Place::default).take(BATCH).collect();
        Ok(Self {
            socket,
            state,
            buffer,
            places,
            taken: 0,
            joins: true,
            unsent: VecDeque::new(),
            send_errors: 0,
            sends: 0,
        })
    }

    /// Takes some of what has come. A level-triggered poller tells of the rest.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Datagram)) -> Received {
        let mut work_bytes = 0;
        let mut metas = [RecvMeta::default(); BATCH];
        let mut pieces = self.buffer.chunks_exact_mut(TRAIN_BYTES_MAX);
        let mut pieces: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
        // An error is of an earlier send, and the next call goes on.
        let count = self.state.recv((&self.socket).into(), &mut pieces, &mut metas).unwrap_or(0);
        for (meta, piece) in metas[..count].iter().zip(&pieces) {
            // Nobody has this port: it is made up, and the system refuses to answer it.
            if meta.addr.port() == 0 {
                work_bytes += DATAGRAM_WORK_BYTES;
                continue;
            }
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            for data in piece[..meta.len].chunks(meta.stride.max(1)) {
                work_bytes += DATAGRAM_WORK_BYTES.max(data.len() as u64);
                take(Datagram { from: meta.addr, to: meta.dst_ip, ecn, data: BytesMut::from(data) });
            }
        }
        Received { work_bytes, goes_on: count == BATCH }
    }

    /// Whether something waits for the socket: nothing more may be sent before [`resume`](Self::resume).
    pub(crate) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The socket takes more: sends what waited.
    pub(crate) fn resume(&mut self) -> Sent {
        while let Some((transmit, bytes)) = self.unsent.pop_front() {
            if self.send(&transmit, &bytes) == Sent::Blocked {
                self.unsent.push_front((transmit, bytes));
                return Sent::Blocked;
            }
        }
        Sent::Done
    }

    /// Where the bytes of the next [`push`](Self::push) belong.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.places[self.taken].bytes
    }

    /// Sends what is in the buffer, one datagram or several that the transmit says how to cut: when there are some, or with the next
    /// [`flush`](Self::flush).
    pub(crate) fn push(&mut self, transmit: Outgoing) {
        self.places[self.taken].transmit = Some(transmit);
        self.taken += 1;
        if self.taken == self.places.len() {
            self.flush();
        }
    }

    /// Sends what was pushed. What the socket does not take now is kept.
    pub(crate) fn flush(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        let mut rest = &mut places[..std::mem::take(&mut self.taken)];
        while !rest.is_empty() {
            let joined = if self.joins && !self.is_blocked() { self.join(rest) } else { 0 };
            // The first one of the rest is not like others, or something is wrong with it, or the socket takes no more.
            let alone = usize::from(joined == 0);
            if let Some((transmit, bytes)) =
                rest.first_mut().filter(|_| alone > 0).and_then(|place| Some((place.transmit.take()?, &place.bytes)))
                && (self.is_blocked() || self.send(&transmit, bytes) == Sent::Blocked)
            {
                let bytes = bytes[..transmit.size].to_vec();
                self.unsent.push_back((transmit, bytes));
            }
            rest = &mut rest[joined + alone..];
        }
        self.places = places;
    }

    /// Sends those at the beginning that one call can; how many it took.
    fn join(&mut self, places: &[Place]) -> usize {
        let pieces = places.iter().map_while(|place| {
            let transmit = place.transmit.as_ref()?;
            Some((transmit, &place.bytes[..transmit.size]))
        });
        match joint::send(self.socket.as_fd(), pieces) {
            Ok(sent) => {
                self.sends += u64::from(sent > 0);
                sent
            }
            Err(error) => {
                // One by one the system may be told less.
                self.joins &= !joint::is_refused(&error);
                0
            }
        }
    }

    /// Sends one datagram, or several that the transmit says how to cut.
    fn send(&mut self, transmit: &Outgoing, bytes: &[u8]) -> Sent {
        let contents = &bytes[..transmit.size];
        self.sends += 1;
        match self.try_send(transmit, contents, transmit.segment_size) {
            Ok(()) => Sent::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            // Drivers that say that they cut trains and then do not; quinn-udp asks for no more after the first.
            Err(_) if transmit.segment_size.is_some_and(|size| size < contents.len()) => {
                for piece in contents.chunks(transmit.segment_size.unwrap_or(1).max(1)) {
                    // Lost if it fails again, as any datagram may be.
                    self.send_errors += u64::from(self.try_send(transmit, piece, None).is_err());
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
    use std::net::{Ipv4Addr, Ipv6Addr};

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
        ports[0].buffer().extend_from_slice(&bytes);
        ports[0].push(transmit);
        ports[0].flush();
        let from = ports[0].socket.local_addr().expect("address");
        let mut came = Vec::new();
        while came.len() < 3 {
            ports[1].receive(|datagram| came.push(datagram));
        }
        let lens: Vec<usize> = came.iter().map(|datagram| datagram.data.len()).collect();
        assert_eq!(lens, [1200, 1200, 600]);
        for datagram in &came {
            assert_eq!(datagram.from, from);
        }
        assert_eq!(came.iter().flat_map(|datagram| &datagram.data).copied().collect::<Vec<u8>>(), bytes);
        assert!(!ports[0].is_blocked());
    }

    /// One call or several: each datagram goes to its own address, whole, in order, from the address that it is to come from.
    #[test]
    fn datagrams_to_many_leave_together() {
        for (ours, other) in [
            (Ipv4Addr::LOCALHOST.into(), [127, 0, 0, 2].into()),
            (Ipv6Addr::LOCALHOST.into(), IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ] {
            let mut port = UdpPort::new(bind(SocketAddr::new(unspecified(ours), 0), 1, None).expect("bind").remove(0))
                .expect("port");
            let readers: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind((ours, 0)).expect("bind")).collect();
            let number = |n: usize| u8::try_from(n).expect("few");
            for n in 0..2 * BATCH + 3 {
                let to = readers[n % 3].local_addr().expect("address");
                // Every fifth is two datagrams in one, which goes alone.
                let (size, segment_size) = if n % 5 == 4 { (200, Some(100)) } else { (100, None) };
                let buffer = port.buffer();
                buffer.clear();
                buffer.extend(std::iter::repeat_n(number(n), size));
                let src_ip = [None, Some(ours), Some(other)][n % 2 + usize::from(n > BATCH) * (n % 2)];
                port.push(Outgoing { destination: to, ecn: Some(EcnCodepoint::Ect0), size, segment_size, src_ip });
            }
            port.flush();
            assert_eq!((port.send_errors, port.is_blocked()), (0, false));
            assert!(port.joins && port.sends < 20, "{} calls", port.sends);
            for (place, reader) in readers.iter().enumerate() {
                let mut expect: Vec<u8> = Vec::new();
                for n in (place..2 * BATCH + 3).step_by(3) {
                    expect.extend(std::iter::repeat_n(number(n), if n % 5 == 4 { 2 } else { 1 }));
                }
                for expect in expect {
                    let mut found = [0; 300];
                    let (count, from) = reader.recv_from(&mut found).expect("a datagram");
                    assert_eq!((count, found[0]), (100, expect));
                    let n = usize::from(expect);
                    let source = if n > BATCH && n % 2 == 1 { other } else { ours };
                    assert_eq!(from.ip(), source, "datagram {n}");
                }
            }
        }
    }

    fn unspecified(like: IpAddr) -> IpAddr {
        if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}
