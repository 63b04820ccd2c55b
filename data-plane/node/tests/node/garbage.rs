//! Bytes of strangers, at every stage: nothing panics, nothing stays, everyone else goes on.

use std::io::{Read, Write};
use std::net::Shutdown;

use millrace_protocol::ws::{Opcode, encode};

use crate::support::{Client, Control, Got, Wire, config, dial, door, metric, node, stop, until};

/// SplitMix64: enough to be different each time and the same for one seed.
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

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max + 1);
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Sends what the node takes of it and reads to whatever end there is.
fn throw(mut stream: Wire, bytes: &[u8]) {
    // The node may end it at any byte.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn garbage_at_every_stage_leaves_nothing_behind() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let control = Control::new();
    let node = node(&control, config());
    let token = control.token("ann");
    let mut witness = Client::connect(door(&node), &token);
    const HEAD: &[u8] = b"GET /v1/connect HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\
        Sec-WebSocket-Protocol: millrace.v1\r\n\r\n";
    for round in 0..60 {
        // From the first byte.
        throw(dial(door(&node)), &random.bytes(2000));
        // A head that is cut or mangled.
        let mut head = HEAD.to_vec();
        let at = random.below(head.len());
        match round % 3 {
            0 => head.truncate(at),
            1 => head[at] = random.next().to_le_bytes()[0],
            _ => head.splice(at..at, random.bytes(9000)).for_each(drop),
        }
        throw(dial(door(&node)), &head);
        // Behind a good head: no frames at all, then frames of anything.
        throw(dial(door(&node)), &[HEAD, &random.bytes(3000)].concat());
        let mut frames = HEAD.to_vec();
        for _ in 0..random.below(8) {
            let opcode = [Opcode::Binary, Opcode::Text, Opcode::Continuation, Opcode::Ping][random.below(4)];
            encode::frame(opcode, &random.bytes(120), Some([3, 1, 4, 1]), &mut frames);
        }
        throw(dial(door(&node)), &frames);
        // In a session.
        let client = Client::connect(door(&node), &token);
        throw(client.stream, &random.bytes(3000));
    }
    until(&format!("nobody is left (seed {seed})"), || metric(&node, "millrace_data_connections") == 1.0);
    until("no session is left", || metric(&node, "millrace_data_sessions") == 1.0);
    witness.send_ws(Opcode::Ping, b"well");
    assert_eq!(witness.next(), Got::Pong(b"well".to_vec()));
    stop(node);
}
