//! Listening sockets, one per shard on one port: the kernel spreads connections over them by a hash of the addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that wait to be accepted, per shard; the kernel caps it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Bytes that the system holds for a connection before the network takes them. Without a bound it takes megabytes of what a session has
/// not read, where they are neither counted against its queue nor seen to be late. It is no bound on what is in flight.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Binds one listener per shard to `address`. With port 0 the system chooses one port for all.
///
/// # Errors
/// From the operating system; [`io::ErrorKind::AddrInUse`] also if another process shares its port out in the same way.
pub(crate) fn bind(address: SocketAddr, shards: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // SO_REUSEPORT would let a second node of the same user take half of the connections in silence.
        drop(socket(address, Sharing::Exclusive)?);
    }
    let first = TcpListener::from(socket(address, Sharing::Shared)?);
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(socket(address, Sharing::Shared)?.into());
    }
    // Listening begins when all are bound: a port that is half there would lose the connections hashed to the rest.
    for listener in &listeners {
        rustix::net::listen(listener, BACKLOG)?;
    }
    Ok(listeners)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Shared)?;
    // Connections inherit both. A turn writes everything it has at once: nothing is gained by waiting for more.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// What an attempt to accept brought.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection and where it comes from: non-blocking, closed on exec, without Nagle's delay.
    Connection(OwnedFd, IpAddr),
    /// Nobody waits.
    Nobody,
    /// The process or the machine has no descriptor or memory for another one; whoever waits goes on waiting.
    NoDescriptors,
}

/// The listener of one shard.
pub(crate) struct Listener {
    socket: TcpListener,
}

impl Listener {
    pub(crate) fn new(socket: TcpListener) -> Self {
        Self { socket }
    }

    /// Takes one connection.
    ///
    /// # Errors
    /// From the operating system, if the listener itself is broken.
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        loop {
            match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((connection, peer)) => {
                    // A TCP listener has no others.
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
                    return Ok(Accepted::Connection(connection, address));
                }
                Err(Errno::AGAIN) => return Ok(Accepted::Nobody),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return Ok(Accepted::NoDescriptors);
                }
                // Linux passes errors of the connection that is to be accepted on to accept(2): that one is gone.
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::PERM
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::NONET
                    | Errno::NOPROTOOPT
                    | Errno::OPNOTSUPP
                    | Errno::TIMEDOUT,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn all_shards_share_the_port_that_the_system_chose() {
        let listeners = bind(any_port(), 3).expect("bind");
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().expect("address").port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|&port| port != 0 && port == ports[0]), "{ports:?}");
    }

    #[test]
    fn a_port_that_is_in_use_is_refused_even_if_shared() {
        let first = bind(any_port(), 2).expect("bind");
        let address = first[0].local_addr().expect("address");
        assert_eq!(bind(address, 2).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(address, 2).expect("free again");
    }

    #[test]
    fn accepting_never_waits() {
        let listener = Listener::new(bind(any_port(), 1).expect("bind").remove(0));
        assert!(matches!(listener.accept(), Ok(Accepted::Nobody)));
        let peer = TcpStream::connect(listener.socket.local_addr().expect("address")).expect("connect");
        let Ok(Accepted::Connection(connection, address)) = listener.accept() else { panic!("somebody waits") };
        assert_eq!(address, Ipv4Addr::LOCALHOST);
        let options = socket2::SockRef::from(&connection);
        assert!(options.tcp_nodelay().expect("option"));
        assert_eq!(options.tcp_notsent_lowat().expect("option"), UNSENT_BYTES_MAX);
        assert_eq!(rustix::io::read(&connection, &mut [0_u8; 1]), Err(Errno::AGAIN));
        drop(peer);
    }
}
