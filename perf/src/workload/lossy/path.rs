//! A path between a client and a server that takes time and loses packets: when each piece goes on (pure), and the proxy that does it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::load::Target;
use crate::transport::Way;

/// Longer than the other side takes to be asked whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const BUFFER_BYTES: usize = 64 << 10;

/// What a path does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// Of the packets that can be hit, 0 to 1.
    pub(super) loss: f64,
    /// Packets from this size on can be.
    pub(super) hit_bytes_min: usize,
    /// Packets of the client can be hit, too; of a byte stream they carry little more than acknowledgements, which the kernel makes good.
    pub(super) both_ways: bool,
    /// In each direction.
    pub(super) delay: Duration,
    /// What a lost packet of a byte stream costs it and all behind it.
    pub(super) retransmission: Duration,
}

/// What flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Each piece by itself; a lost one is gone.
    Datagrams,
    /// In order; a lost one is late, and with it all behind it.
    Bytes,
}

/// One direction: decides what is lost, by a seed.
struct Fate {
    path: Path,
    flow: Flow,
    random: u64,
    last: Option<Instant>,
    lost: u64,
}

impl Fate {
    fn new(path: Path, flow: Flow, seed: u64) -> Self {
        Self { path, flow, random: seed ^ 0x9e37_79b9_7f4a_7c15, last: None, lost: 0 }
    }

    /// From the client.
    fn back(path: Path, flow: Flow, seed: u64) -> Self {
        let loss = if path.both_ways && flow == Flow::Datagrams { path.loss } else { 0.0 };
        Self::new(Path { loss, ..path }, flow, seed.rotate_left(32))
    }

    /// When a piece of this size goes on; `None` if never.
    fn of(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let is_lost = bytes >= self.path.hit_bytes_min && self.draw() < self.path.loss;
        self.lost += u64::from(is_lost);
        let on = now + self.path.delay;
        match self.flow {
            Flow::Datagrams => (!is_lost).then_some(on),
            Flow::Bytes => {
                let on = if is_lost { on + self.path.retransmission } else { on };
                let on = self.last.map_or(on, |last| last.max(on));
                self.last = Some(on);
                Some(on)
            }
        }
    }

    /// From 0 to 1.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

/// A path for one client, on a thread of its own that ends with this value.
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    lost: AtomicU64,
}

impl Proxy {
    pub(super) fn start(target: &Target, path: Path, seed: u64) -> Result<Self> {
        let (server, shared) = (target.address, Arc::<Shared>::default());
        let told = Arc::clone(&shared);
        let (address, thread) = if matches!(target.way, Way::Quic(_)) {
            let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the path")?;
            let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the path")?;
            back.connect(server).context("name the server")?;
            let address = front.local_addr()?;
            let fates = [Fate::back(path, Flow::Datagrams, seed), Fate::new(path, Flow::Datagrams, seed)];
            (address, std::thread::spawn(move || carry(&mut Udp { front, back, client: None }, fates, &told)))
        } else {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the path")?;
            let address = listener.local_addr()?;
            let fates = [Fate::back(path, Flow::Bytes, seed), Fate::new(path, Flow::Bytes, seed)];
            let serve = move || {
                // Who ends it before anybody came connects once.
                let Ok((front, _)) = listener.accept() else { return };
                let Ok(back) = TcpStream::connect(server) else { return };
                carry(&mut Tcp { front, back }, fates, &told);
            };
            (address, std::thread::spawn(serve))
        };
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where the client goes.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Packets so far, on their way to the client.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // One that still waits for its client is woken by one; one that serves another does not notice.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both ends of a path.
trait Ends {
    /// What the client has sent; an error of its kind if nothing waits.
    fn read_client(&mut self, buffer: &mut [u8]) -> std::io::Result<usize>;
    fn read_server(&mut self, buffer: &mut [u8]) -> std::io::Result<usize>;
    fn write_client(&mut self, piece: &[u8]) -> std::io::Result<()>;
    fn write_server(&mut self, piece: &[u8]) -> std::io::Result<()>;
    fn wait(&self, time: Duration);
    fn set_nonblocking(&self) -> std::io::Result<()>;
}

struct Udp {
    front: UdpSocket,
    back: UdpSocket,
    client: Option<SocketAddr>,
}

impl Ends for Udp {
    fn read_client(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let (count, from) = self.front.recv_from(buffer)?;
        self.client = Some(from);
        Ok(count)
    }

    fn read_server(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.back.recv(buffer)
    }

    fn write_client(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.client.map_or(Ok(()), |client| self.front.send_to(piece, client).map(|_| ()))
    }

    fn write_server(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.back.send(piece).map(|_| ())
    }

    fn wait(&self, time: Duration) {
        wait(&mut [PollFd::new(&self.front, PollFlags::IN), PollFd::new(&self.back, PollFlags::IN)], time);
    }

    fn set_nonblocking(&self) -> std::io::Result<()> {
        self.front.set_nonblocking(true)?;
        self.back.set_nonblocking(true)
    }
}

struct Tcp {
    front: TcpStream,
    back: TcpStream,
}

impl Ends for Tcp {
    fn read_client(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.front.read(buffer)
    }

    fn read_server(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.back.read(buffer)
    }

    fn write_client(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.front.write_all(piece)
    }

    fn write_server(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.back.write_all(piece)
    }

    fn wait(&self, time: Duration) {
        wait(&mut [PollFd::new(&self.front, PollFlags::IN), PollFd::new(&self.back, PollFlags::IN)], time);
    }

    fn set_nonblocking(&self) -> std::io::Result<()> {
        self.front.set_nodelay(true)?;
        self.back.set_nodelay(true)?;
        self.front.set_nonblocking(true)?;
        self.back.set_nonblocking(true)
    }
}

fn wait(ends: &mut [PollFd<'_>], time: Duration) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: time.min(LOOK_EVERY).subsec_nanos().into() };
    // Whatever came of it, both ends are asked next.
    let _ = poll(ends, Some(&timeout));
}

/// Carries until it is over, or an end is. Fates are those of the way from the client, and to it.
fn carry(ends: &mut impl Ends, [mut there, mut back]: [Fate; 2], shared: &Shared) {
    if ends.set_nonblocking().is_err() {
        return;
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut up, mut down) = (Queue::new(), Queue::new());
    while !shared.is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let came = take(
            &mut buffer,
            |buffer| ends.read_client(buffer),
            |piece| up.extend(there.of(now, piece.len()).map(|on| (on, piece))),
        );
        let went = take(
            &mut buffer,
            |buffer| ends.read_server(buffer),
            |piece| down.extend(back.of(now, piece.len()).map(|on| (on, piece))),
        );
        shared.lost.store(back.lost, Ordering::Relaxed);
        let now = Instant::now();
        let sent = give(&mut up, now, |piece| ends.write_server(piece))
            && give(&mut down, now, |piece| ends.write_client(piece));
        if !came || !went || !sent {
            return;
        }
        let next = [up.front(), down.front()].into_iter().flatten().map(|(on, _)| *on).min();
        ends.wait(next.map_or(LOOK_EVERY, |next| next.saturating_duration_since(Instant::now())));
    }
}

type Queue = VecDeque<(Instant, Vec<u8>)>;

/// Takes all that waits; `false` at the end.
fn take(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    mut on: impl FnMut(Vec<u8>),
) -> bool {
    loop {
        match read(buffer) {
            // A datagram is never empty here.
            Ok(0) => return false,
            Ok(count) => on(buffer[..count].to_vec()),
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

/// Gives on what is due; `false` if it finds nobody. Rates are low: a full socket is a fault.
fn give(queue: &mut Queue, now: Instant, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> bool {
    while let Some((_, piece)) = queue.pop_front_if(|(on, _)| *on <= now) {
        if write(&piece).is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: Path = Path {
        loss: 0.05,
        hit_bytes_min: 900,
        both_ways: false,
        delay: Duration::from_millis(20),
        retransmission: Duration::from_millis(50),
    };

    /// Delays of 2,000 pieces, one a millisecond, of which every fourth is large; by whether it was large.
    fn delays(flow: Flow, path: Path, seed: u64) -> (Vec<Option<Duration>>, Vec<Option<Duration>>, u64) {
        let (began, mut fate) = (Instant::now(), Fate::new(path, flow, seed));
        let (mut hit, mut others) = (Vec::new(), Vec::new());
        for number in 0..2_000 {
            let now = began + Duration::from_millis(number);
            let of = if number % 4 == 0 { &mut hit } else { &mut others };
            let bytes = if number % 4 == 0 { 950 } else { 200 };
            of.push(fate.of(now, bytes).map(|on| on - now));
        }
        (hit, others, fate.lost)
    }

    #[test]
    fn datagrams_of_others_are_never_late_and_bytes_behind_a_lost_one_are() {
        let (hit, others, lost) = delays(Flow::Datagrams, PATH, 1);
        assert!(others.iter().all(|delay| *delay == Some(PATH.delay)));
        let gone = hit.iter().filter(|delay| delay.is_none()).count();
        assert!(gone as u64 == lost && (10..=45).contains(&gone), "{gone} of 500 at 5 %");
        let (hit, others, lost) = delays(Flow::Bytes, PATH, 1);
        assert_eq!(lost, gone as u64, "the same seed hits the same");
        assert!(hit.iter().chain(&others).all(Option::is_some), "nothing of a stream is ever gone");
        let late = others.iter().flatten().filter(|delay| **delay > PATH.delay).count();
        assert!(
            late > 400 && others.iter().flatten().max() > Some(&(PATH.delay * 3)),
            "{late} of 1,500 wait for others"
        );
    }

    #[test]
    fn a_path_without_loss_only_takes_time() {
        for flow in [Flow::Datagrams, Flow::Bytes] {
            let (hit, others, lost) = delays(flow, Path { loss: 0.0, ..PATH }, 7);
            assert!(hit.iter().chain(&others).all(|delay| *delay == Some(PATH.delay)) && lost == 0, "{flow:?}");
        }
        for (both_ways, flow, expect) in
            [(false, Flow::Datagrams, 0), (true, Flow::Bytes, 0), (true, Flow::Datagrams, 1)]
        {
            let mut fate = Fate::back(Path { both_ways, ..PATH }, flow, 7);
            let lost = (0..200).filter(|_| fate.of(Instant::now(), 950).is_none()).count();
            assert_eq!(lost.min(1), expect, "from the client, {flow:?}");
        }
        assert_ne!(
            delays(Flow::Datagrams, PATH, 1).0,
            delays(Flow::Datagrams, PATH, 2).0,
            "another seed, other losses"
        );
    }
}
