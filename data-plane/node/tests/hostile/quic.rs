//! Attacks on QUIC.

use std::net::{Ipv4Addr, UdpSocket};

use millrace_data::QuicLimits;
use millrace_protocol::client::Start;

use crate::initial::Beginning;
use crate::process::Node;
use crate::support::Client;
use crate::support::quic::{QuicClient, first_packets};
use crate::world::{GROWTH_MAX, Random, World, is_long};

/// What handshakes may make the node grow by that are answered with a Retry.
const HALF_OPEN_GROWTH_MAX: f64 = 10.0 * 1_048_576.0;

/// A first packet in which something is wrong.
fn fuzzed(random: &mut Random, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = packets[random.below(packets.len())].clone();
    match random.below(5) {
        0 => packet.truncate(random.below(packet.len())),
        1 => packet[random.below(60)] = random.byte(),
        2 => (0..8).for_each(|n| packet[6 + n] = random.byte()),
        3 => packet.iter_mut().skip(random.below(1200)).for_each(|byte| *byte = random.byte()),
        _ => packet[1..5].copy_from_slice(&random.next().to_le_bytes()[..4]),
    }
    packet
}

#[test]
fn fuzzed_first_packets() {
    let world = World::new();
    let packets = first_packets(&world.trust, 16);
    let (address, mut random) = (world.node.quic, Random(1));
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

/// Sockets in thirty networks.
fn sockets() -> Vec<UdpSocket> {
    (2..32_u8).map(|n| UdpSocket::bind((Ipv4Addr::new(127, 0, n, 1), 0)).expect("socket")).collect()
}

/// Begins handshakes that never go on, each as another client, from many networks; until so many were seen by the node.
fn begin_handshakes(world: &World, what: &str, growth_max: f64) {
    let expect = if is_long() { 100_000.0 } else { 1_000.0 };
    let beginning = Beginning::of(&first_packets(&world.trust, 1)[0]);
    let (address, mut random, sockets) = (world.node.quic, Random(3), sockets());
    let mut at = 0;
    let seen = |node: &Node| node.of("quic_retries_total") + node.of("quic_half_open");
    world.attacked_until(
        what,
        growth_max,
        |node| seen(node) >= expect,
        || {
            for _ in 0..32 {
                at = (at + 1) % sockets.len();
                let _ = sockets[at].send_to(&beginning.from(random.next()), address);
            }
            32
        },
    );
    println!(
        "  {} were answered with a Retry, {} are under way; {} found no room in the node, {} none in its socket",
        world.node.of("quic_retries_total"),
        world.node.of("quic_half_open"),
        world.node.of("quic_waiting_full_total"),
        world.node.of("udp_drops_total"),
    );
    assert!(seen(&world.node) >= expect);
}

/// Where everybody has to show an address, handshakes that are begun cost nothing that is kept.
#[test]
fn half_open_handshakes() {
    let world = World::with(&QuicLimits { retry_above_half_open: 0, ..QuicLimits::default() });
    begin_handshakes(&world, "half-open handshakes, with Retry", HALF_OPEN_GROWTH_MAX);
    assert_eq!(world.node.of("quic_half_open"), 0.0);
    world.end();
}

/// The same with the limits of production: some are begun, up to a bound.
#[test]
fn half_open_handshakes_within_the_limits() {
    let world = World::new();
    begin_handshakes(&world, "half-open handshakes", GROWTH_MAX);
    let half_open = world.node.of("quic_half_open");
    assert!(half_open > 0.0 && half_open <= 1_024.0, "{half_open}");
    world.end();
}

/// Handshakes that fail at once, as something is wrong in what was sealed well: they count until they are gone.
#[test]
fn handshakes_that_fail() {
    let world = World::new();
    let beginning = Beginning::of(&first_packets(&world.trust, 1)[0]);
    let (address, mut random, sockets) = (world.node.quic, Random(6), sockets());
    let mut at = 0;
    world.attacked("handshakes that fail", GROWTH_MAX, || {
        for _ in 0..32 {
            at = (at + 1) % sockets.len();
            let id = random.next();
            // Within the frame that holds the client's first message, or its header.
            let spoiled = beginning.spoiled(id, |payload| payload[random.below(100)] = random.byte());
            let _ = sockets[at].send_to(&spoiled, address);
        }
        32
    });
    let (half_open, failed) = (world.node.of("quic_half_open"), world.node.of("quic_handshakes_failed_total"));
    println!("  {half_open} are under way or not gone, {failed} have failed");
    assert!(half_open <= 1_024.0 && failed > 0.0, "{half_open}, {failed}");
    world.end();
}

/// Streams that are opened and broken off, by one connection after the other: the first is one too many.
#[test]
fn a_flood_of_resets() {
    let world = World::new();
    let address = world.node.quic;
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
    let connect = || QuicClient::connect(&world.trust, world.node.quic, &world.control.token("ann"));
    let mut client = connect();
    world.attacked("datagrams that say nothing", GROWTH_MAX, || {
        let sent = (0..64).take_while(|_| client.send_datagram(vec![7; 64]).is_ok()).count();
        if sent < 64 {
            // Who never answers a ping is ended after a while.
            client = connect();
        }
        sent as u64
    });
    println!("  {} came and were ignored", world.node.of("quic_datagrams_ignored_total"));
    assert!(world.node.of("quic_datagrams_ignored_total") > 0.0);
    drop(client);
    world.end();
}

/// A socket whose datagrams go nowhere, and to which none come.
fn nowhere() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.connect("127.0.0.1:9").expect("connect");
    socket
}

/// Who opens a session and reads, but acknowledges nothing: its socket is closed to what comes.
#[test]
fn clients_that_acknowledge_nothing() {
    let world = World::new();
    let token = world.control.token("ann");
    let deaf: Vec<QuicClient> = (0..64)
        .map(|_| {
            let mut client = QuicClient::connect(&world.trust, world.node.quic, &token);
            client.subscribe("loud", Start::Live);
            client.go_on_from(nowhere());
            client
        })
        .collect();
    let mut writer = Client::connect(world.node.ws, &token);
    let (channel, _) = writer.subscribe("loud", Start::Attach);
    let mut sequence = 0;
    world.attacked("messages to clients that acknowledge nothing", GROWTH_MAX, || {
        let asked = writer.publish(channel, 2, sequence + 1, &[7; 2048]);
        // There is a limit to what one user may publish.
        let accepted = writer.answered(asked).is_ok();
        sequence += u64::from(accepted);
        accepted.into()
    });
    println!(
        "  {} sessions are left, of {} was let go; {} bytes wait for them",
        world.node.of("sessions"),
        world.node.of("slow_consumers_total"),
        world.node.of("queued_bytes"),
    );
    drop((deaf, writer));
    // Nobody tells the node that they are gone.
    world.node.stop();
}
