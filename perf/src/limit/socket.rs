//! One system call on one socket of the loopback interface, its other end drained by another core that never sleeps: nobody is woken.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use socket2::SockRef;

use super::clock::cpu_ns;
use super::seal::Sealer;
use super::{ACCEPT, Place, Rounds, TCP_SEND, UDP_SEND, UDP_SEND_GSO, UDP_SEND_SEALED};
use crate::raw::udp;

/// A small chat message as it is on the wire.
const MESSAGE_BYTES: usize = 170;
/// A packet of video.
const PACKET_BYTES: u16 = 1_200;
/// A small chat message in a packet of QUIC: frame, headers and tag.
const SMALL_PACKET_BYTES: usize = 250;
/// Packets of one call: as many as one IP packet before segmentation can hold.
const PACKETS: u16 = u16::MAX / PACKET_BYTES - 1;
/// Small enough for every receive buffer.
const BURST_BYTES: usize = 120 << 10;
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
const CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

/// One small message on a TCP connection.
pub(super) fn tcp_send(place: Place<'_>) -> Result<Rounds> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
    let sender = TcpStream::connect(listener.local_addr()?).context("connect")?;
    sender.set_nodelay(true)?;
    let (receiver, _) = listener.accept().context("accept")?;
    let ns = burst(place, &sender, &receiver, MESSAGE_BYTES, |_| Ok(()))?;
    Ok(vec![(TCP_SEND, "µs", ns.into_iter().map(|ns| ns / 1e3).collect())])
}

/// One packet.
pub(super) fn udp_send(place: Place<'_>) -> Result<Rounds> {
    let (sender, receiver) = udp_pair()?;
    Ok(vec![(UDP_SEND, "ns", burst(place, &sender, &receiver, PACKET_BYTES.into(), |_| Ok(()))?)])
}

/// One small packet, sealed first.
pub(super) fn udp_send_sealed(place: Place<'_>) -> Result<Rounds> {
    let ((sender, receiver), mut sealer) = (udp_pair()?, Sealer::new()?);
    let ns = burst(place, &sender, &receiver, SMALL_PACKET_BYTES, |data| sealer.seal(data))?;
    Ok(vec![(UDP_SEND_SEALED, "ns", ns)])
}

/// Each of many packets that are sent with one call, to a receiver that takes them together.
pub(super) fn udp_send_gso(place: Place<'_>) -> Result<Rounds> {
    let (sender, receiver) = udp_pair()?;
    udp::segment(&sender, PACKET_BYTES).context("segmentation offload")?;
    udp::receive_together(&receiver).context("receive offload")?;
    let ns = burst(place, &sender, &receiver, usize::from(PACKET_BYTES) * usize::from(PACKETS), |_| Ok(()))?;
    Ok(vec![(UDP_SEND_GSO, "ns", ns.into_iter().map(|ns| ns / f64::from(PACKETS)).collect())])
}

fn udp_pair() -> Result<(UdpSocket, UdpSocket)> {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind");
    let (sender, receiver) = (bind()?, bind()?);
    sender.connect(receiver.local_addr()?)?;
    receiver.connect(sender.local_addr()?)?;
    SockRef::from(&receiver).set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    Ok((sender, receiver))
}

/// CPU time of one send of `bytes`, and what is done to them before it: bursts that fit the receiver's buffer, each drained before the next.
fn burst(
    place: Place<'_>,
    sender: &impl AsFd,
    receiver: &(impl AsFd + Sync),
    bytes: usize,
    mut before: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<Vec<f64>> {
    let sends = (BURST_BYTES / bytes).clamp(1, 64);
    let mut data = vec![b'x'; bytes];
    let (received, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| {
            place.load.pin()?;
            let mut buffer = vec![0; 64 << 10];
            while !is_over.load(Ordering::Acquire) {
                match recv(receiver, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((count, _)) => drop(received.fetch_add(count as u64, Ordering::Release)),
                    Err(Errno::AGAIN) => std::thread::yield_now(),
                    Err(error) => return Err(error).context("receive"),
                }
            }
            Ok(())
        });
        let mut sent = 0;
        let burst = || {
            for _ in 0..sends {
                before(&mut data)?;
                let count = send(sender, &data, SendFlags::NOSIGNAL).context("send")?;
                ensure!(count == bytes, "a short send of {count} bytes");
            }
            Ok(())
        };
        let drained = || {
            sent += (sends * bytes) as u64;
            let began = Instant::now();
            while received.load(Ordering::Acquire) < sent {
                ensure!(began.elapsed() < PATIENCE, "what is sent does not arrive");
                std::thread::yield_now();
            }
            Ok(())
        };
        let ns = cpu_ns(sends as u64, burst, drained);
        is_over.store(true, Ordering::Release);
        drain.join().unwrap_or_else(|_| bail!("the receiver panicked"))?;
        ns
    })
}

/// Taking one connection, making it ready for small messages, and closing it.
pub(super) fn accept(place: Place<'_>) -> Result<Rounds> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
    rustix::net::listen(&listener, 4096).context("listen")?;
    let address = listener.local_addr()?;
    let (ask, asked) = mpsc::channel();
    let (give, given) = mpsc::channel();
    std::thread::scope(|scope| {
        let clients = scope.spawn(move || {
            place.load.pin()?;
            let connect = || {
                let stream = TcpStream::connect(address).context("connect")?;
                // Closing, it leaves nothing behind in the kernel.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                Ok(stream)
            };
            while asked.recv().is_ok() {
                let streams = (0..CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
                if give.send(streams).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let connected = || {
            ask.send(()).context("ask for connections")?;
            given.recv().context("get connections")
        };
        let mut waiting = connected()?;
        let take = || {
            for _ in 0..CONNECTIONS {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = accept_with(&listener, flags).context("accept")?;
                sockopt::set_tcp_nodelay(&socket, true)?;
            }
            Ok(())
        };
        let again = || {
            waiting.clear();
            waiting = connected()?;
            Ok(())
        };
        let ns = cpu_ns(CONNECTIONS as u64, take, again);
        drop(ask);
        clients.join().unwrap_or_else(|_| bail!("the client panicked"))?;
        Ok(vec![(ACCEPT, "µs", ns?.into_iter().map(|ns| ns / 1e3).collect())])
    })
}
