//! Clients that mean harm, at full rate, beside clients that do not: nothing crashes, memory is bounded, and who is inside is served.
//!
//! Each attack lasts half a second; `MILLRACE_HOSTILE_SECONDS` says otherwise, as `cargo xtask hostile` does. What was seen is printed.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millrace_data::{AdmissionLimits, Config, DataNode, QuicLimits};
use millrace_protocol::client::Start;
use millrace_protocol::node::HistoryClass;
use rustls::quic::{Suite, Version};
use rustls::{CipherSuite, Side, SupportedCipherSuite};

use crate::support::quic::{QuicClient, Trust, first_packets};
use crate::support::{Client, Control, metric, node, stop, until};

/// How long a message may take to come back, however hard the node is attacked: far less than any client's patience, and far more than
/// a busy machine needs.
const LATENCY_MAX: Duration = Duration::from_secs(5);
/// What attacks may make the node grow by. The process has the clients of the test as well.
const GROWTH_MAX: f64 = 64.0 * 1_048_576.0;
/// The same of handshakes that are answered with a Retry.
const HALF_OPEN_GROWTH_MAX: f64 = 10.0 * 1_048_576.0;

fn duration() -> Duration {
    let seconds = std::env::var("MILLRACE_HOSTILE_SECONDS").ok().map(|text| text.parse().expect("seconds"));
    seconds.map_or(Duration::from_millis(500), Duration::from_secs)
}

/// SplitMix64, by a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }
}

/// A node of one shard, so that everybody meets everybody, and two clients who talk to each other.
struct World {
    control: Control,
    trust: Trust,
    node: DataNode,
}

impl World {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(change: impl FnOnce(Config) -> Config) -> Self {
        let (control, trust) = (Control::new(), Trust::new());
        control.channel("general", HistoryClass::None, &["ann"]);
        // All attackers have the address of the witnesses.
        let admission = AdmissionLimits { places_max: 8_192, address_places_max: u32::MAX };
        let config = change(Config { shards: NonZeroU16::new(1), admission, ..trust.config() });
        let node = node(&control, config);
        Self { control, trust, node }
    }

    fn address(&self) -> SocketAddr {
        self.node.client_quic_address.expect("QUIC")
    }

    /// Attacks until the time is over, while witnesses over WebSocket and QUIC say something and hear it. `attack` is called again and
    /// again, and gives how much it did. The process may grow by so many bytes.
    fn attacked(&self, what: &str, growth_max: f64, mut attack: impl FnMut() -> u64 + Send) {
        let token = self.control.token("ann");
        let mut over_ws = Client::connect(self.node.client_address, &token);
        let mut over_quic = QuicClient::connect(&self.trust, self.address(), &token);
        let (channel, _) = over_ws.subscribe("general", Start::Live);
        over_quic.subscribe("general", Start::Live);
        let resident = || metric(&self.node, "process_resident_memory_bytes");
        let before = resident();
        let (done, attacks) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut latencies = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    attacks.fetch_add(attack(), Ordering::Relaxed);
                }
            });
            let until = Instant::now() + duration();
            let mut sequence = 0;
            while Instant::now() < until {
                sequence += 1;
                let began = Instant::now();
                over_ws.publish(channel, 1, sequence, b"still here");
                assert_eq!(over_ws.message().body, b"still here");
                assert_eq!(over_quic.message().body, b"still here");
                latencies.push(began.elapsed());
            }
            done.store(true, Ordering::Relaxed);
        });
        latencies.sort_unstable();
        let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
        let grown = resident() - before;
        println!(
            "{what}: {} in {:?}; {} messages heard by both witnesses, p50 {:?}, p99 {:?}, longest {:?}; {:.1} MiB more than before",
            attacks.load(Ordering::Relaxed),
            duration(),
            latencies.len(),
            at(50),
            at(99),
            at(100),
            grown / f64::from(1 << 20)
        );
        assert!(attacks.load(Ordering::Relaxed) > 0, "{what}: nobody attacked");
        assert!(at(100) < LATENCY_MAX, "{what}: {:?}", at(100));
        assert!(grown < growth_max, "{what}: {grown} bytes more");
        over_quic.finish();
        assert_eq!(over_quic.closed(), Ok((0, String::new())), "{what}");
    }

    fn end(self) {
        until("nothing is left of them", || metric(&self.node, "millrace_data_sessions") == 0.0);
        stop(self.node);
    }
}

/// A first packet in which something is wrong.
fn fuzzed(random: &mut Random, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = packets[random.below(packets.len())].clone();
    match random.below(5) {
        0 => packet.truncate(random.below(packet.len())),
        1 => packet[random.below(60)] = random.next().to_le_bytes()[0],
        2 => (0..8).for_each(|n| packet[6 + n] = random.next().to_le_bytes()[0]),
        3 => packet.iter_mut().skip(random.below(1200)).for_each(|byte| *byte = random.next().to_le_bytes()[0]),
        _ => packet[1..5].copy_from_slice(&random.next().to_le_bytes()[..4]),
    }
    packet
}

#[test]
fn fuzzed_first_packets_of_quic() {
    let world = World::new();
    let packets = first_packets(&world.trust, 16);
    let (address, mut random) = (world.address(), Random(1));
    let socket = UdpSocket::bind("127.0.0.2:0").expect("socket");
    world.attacked("fuzzed first packets of QUIC", GROWTH_MAX, || {
        for _ in 0..64 {
            // One that finds no room in the socket is lost, as in a network.
            let _ = socket.send_to(&fuzzed(&mut random, &packets), address);
        }
        64
    });
    world.end();
}

#[test]
fn fuzzed_first_records_of_tls() {
    let world = World::new();
    let address = world.node.client_tls_address.expect("TLS");
    let mut random = Random(2);
    world.attacked("fuzzed first records of TLS", GROWTH_MAX, || {
        let Ok(mut stream) = TcpStream::connect(address) else { return 0 };
        let mut record = vec![0; 5 + random.below(600)];
        record.iter_mut().for_each(|byte| *byte = random.next().to_le_bytes()[0]);
        if random.below(4) > 0 {
            let len = u16::try_from(record.len() - 5).expect("small").to_be_bytes();
            record[..5].copy_from_slice(&[0x16, 3, 1, len[0], len[1]]);
        }
        // The node may have ended it.
        let _ = stream.write_all(&record);
        1
    });
    world.end();
}

/// The beginning of a handshake, which can be sent again as that of another client.
struct Beginning {
    scid_and_token: Vec<u8>,
    number: u64,
    payload: Vec<u8>,
    suite: Suite,
}

/// Where the id of a first packet begins, behind its first byte and its version.
const DCID: usize = 6;
/// What seals a packet, behind it.
const TAG_BYTES: usize = 16;

impl Beginning {
    /// Opens a recorded first packet, which is sealed with keys that anybody can know (RFC 9001 §5.2).
    fn of(packet: &[u8]) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let suite = provider.cipher_suites.iter().find_map(|suite| match suite {
            SupportedCipherSuite::Tls13(suite) if suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256 => {
                suite.quic_suite()
            }
            _ => None,
        });
        let suite = suite.expect("the suite of first packets");
        let mut packet = packet.to_vec();
        let dcid_end = DCID + usize::from(packet[5]);
        let keys = suite.keys(&packet[DCID..dcid_end], Side::Server, Version::V1);
        // Its own id, a token of no bytes, and a length of two bytes that takes up the rest.
        let scid_end = dcid_end + 1 + usize::from(packet[dcid_end]);
        assert_eq!(packet[scid_end], 0, "no token");
        let number_at = scid_end + 3;
        let (front, back) = packet.split_at_mut(number_at + 4);
        let (first, rest) = front.split_first_mut().expect("a packet");
        keys.remote.header.decrypt_in_place(&back[..16], first, &mut rest[number_at - 1..]).expect("protected");
        let number_len = usize::from(packet[0] & 3) + 1;
        let number = packet[number_at..number_at + number_len].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let (header, payload) = packet.split_at_mut(number_at + number_len);
        let mut payload = keys.remote.packet.decrypt_in_place(number, header, payload).expect("sealed").to_vec();
        // The ids to come may be shorter, and a first datagram has to have 1,200 bytes (RFC 9000 §14.1).
        payload.resize(payload.len() + 20, 0);
        Self { scid_and_token: header[dcid_end..=scid_end].to_vec(), number, payload, suite }
    }

    /// As of a client that chose this id.
    fn from(&self, dcid: u64) -> Vec<u8> {
        let dcid = dcid.to_be_bytes();
        let keys = self.suite.keys(&dcid, Side::Client, Version::V1);
        let number = u32::try_from(self.number).expect("a first packet").to_be_bytes();
        let mut packet = vec![0xC3, 0, 0, 0, 1, 8];
        packet.extend_from_slice(&dcid);
        packet.extend_from_slice(&self.scid_and_token);
        let len = u16::try_from(number.len() + self.payload.len() + TAG_BYTES).expect("a packet") | 0x4000;
        packet.extend_from_slice(&len.to_be_bytes());
        let number_at = packet.len();
        packet.extend_from_slice(&number);
        let mut payload = self.payload.clone();
        let tag = keys.local.packet.encrypt_in_place(self.number, &packet, &mut payload).expect("sealed");
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(tag.as_ref());
        let (front, back) = packet.split_at_mut(number_at + 4);
        let (first, rest) = front.split_first_mut().expect("a packet");
        keys.local.header.encrypt_in_place(&back[..16], first, &mut rest[number_at - 1..]).expect("protected");
        packet
    }
}

/// Handshakes that are begun and never go on. Where everybody has to show an address they cost nothing that is kept.
#[test]
fn half_open_handshakes() {
    let quic = QuicLimits { retry_above_half_open: 0, ..QuicLimits::default() };
    let world = World::with(|config| Config { quic, ..config });
    let beginning = Beginning::of(&first_packets(&world.trust, 1)[0]);
    let (address, mut random) = (world.address(), Random(3));
    let sockets: Vec<UdpSocket> =
        (2..32_u8).map(|n| UdpSocket::bind((Ipv4Addr::new(127, 0, n, 1), 0)).expect("socket")).collect();
    let mut at = 0;
    world.attacked("half-open handshakes, with Retry", HALF_OPEN_GROWTH_MAX, || {
        for _ in 0..32 {
            at = (at + 1) % sockets.len();
            let _ = sockets[at].send_to(&beginning.from(random.next()), address);
        }
        32
    });
    let of = |name: &str| metric(&world.node, &format!("millrace_data_{name}"));
    println!("  {} were answered with a Retry, {} lost", of("quic_retries_total"), of("quic_waiting_full_total"));
    assert!(of("quic_retries_total") > 0.0);
    assert_eq!(of("quic_half_open"), 0.0);
    world.end();
}

/// The same with the limits of production: some are begun, up to a bound.
#[test]
fn half_open_handshakes_within_the_limits() {
    let world = World::new();
    let beginning = Beginning::of(&first_packets(&world.trust, 1)[0]);
    let (address, mut random) = (world.address(), Random(4));
    let sockets: Vec<UdpSocket> =
        (2..32_u8).map(|n| UdpSocket::bind((Ipv4Addr::new(127, 0, n, 1), 0)).expect("socket")).collect();
    let mut at = 0;
    world.attacked("half-open handshakes", GROWTH_MAX, || {
        at = (at + 1) % sockets.len();
        let _ = sockets[at].send_to(&beginning.from(random.next()), address);
        1
    });
    let half_open = metric(&world.node, "millrace_data_quic_half_open");
    println!("  {half_open} are under way");
    assert!(half_open > 0.0 && half_open <= 1_024.0, "{half_open}");
    world.end();
}

/// Streams that are opened and broken off, by one connection after the other: the first is one too many.
#[test]
fn a_flood_of_resets() {
    let world = World::new();
    let address = world.address();
    world.attacked("broken streams", GROWTH_MAX, || {
        let Ok(mut client) = QuicClient::try_open(&world.trust, address, &[0; 4], false) else { return 0 };
        client.break_off();
        u64::from(client.closed().is_ok())
    });
    world.end();
}

#[test]
fn a_flood_of_datagrams() {
    let world = World::new();
    let client = QuicClient::connect(&world.trust, world.address(), &world.control.token("ann"));
    world.attacked("datagrams that say nothing", GROWTH_MAX, move || {
        (0..64).for_each(|_| client.send_datagram(vec![7; 64]));
        64
    });
    world.end();
}

/// Who opens a session and reads, but acknowledges nothing: its socket is closed to what comes.
#[test]
fn clients_that_acknowledge_nothing() {
    let world = World::new();
    let token = world.control.token("ann");
    let mut deaf: Vec<QuicClient> = (0..8)
        .map(|_| {
            let mut client = QuicClient::connect(&world.trust, world.address(), &token);
            client.subscribe("general", Start::Live);
            client.fall_silent();
            client
        })
        .collect();
    let mut writer = Client::connect(world.node.client_address, &token);
    let (channel, _) = writer.subscribe("general", Start::Attach);
    let mut sequence = 0;
    world.attacked("messages to clients that acknowledge nothing", GROWTH_MAX, || {
        sequence += 1;
        let asked = writer.publish(channel, 2, sequence, b"still here");
        writer.acknowledged(asked);
        1
    });
    deaf.clear();
    drop(writer);
    stop(world.node);
}
