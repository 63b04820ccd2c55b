//! What encoding and decoding one frame costs: `cargo bench -p millrace-protocol --bench frame`. Prints the best of several
//! rounds, in ns; nothing is judged.

use std::hint::black_box;
use std::time::{Duration, Instant};

use millrace_protocol::client::{
    ClientBody, ClientFrame, Message, Publish, Published, ServerBody, ServerFrame, decode_client, decode_server,
    encode_client, encode_server,
};
use millrace_protocol::id::{ChannelId, Epoch, Offset, Position, Producer, ProducerSequence};

const ROUNDS: u32 = 20;
const ROUND: Duration = Duration::from_millis(50);

fn measure(what: &str, mut work: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut times = 0_u32;
        while start.elapsed() < ROUND {
            (0..100).for_each(|_| work());
            times += 100;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(times));
    }
    println!("{what:<44} {best:>8.0} ns");
}

fn main() {
    let channel = ChannelId::new(0x0102_0304_0506_0708).expect("not 0");
    let producer = Producer::new(7).expect("not 0");
    let sequence = ProducerSequence::FIRST;
    let position = Position::behind(Epoch::FIRST, Offset::FIRST);
    for body_bytes in [32, 200, 1_024, 16_384] {
        let body = vec![b'x'; body_bytes];
        let message = Message { channel, position, time_ms: 1, user: "alice", producer, sequence, body: &body };
        let frame = ServerFrame { request: 0, body: ServerBody::Message(message) };
        let mut out = Vec::new();
        encode_server(&frame, &mut out);
        measure(&format!("encode message, body of {body_bytes}, buffer kept"), || {
            out.clear();
            encode_server(black_box(&frame), &mut out);
        });
        measure(&format!("encode message, body of {body_bytes}, new buffer"), || {
            let mut out = Vec::new();
            encode_server(black_box(&frame), &mut out);
            black_box(out);
        });
        measure(&format!("decode message, body of {body_bytes}"), || {
            black_box(decode_server(black_box(&out)).expect("it was encoded"));
        });
    }
    let body = [b'x'; 200];
    let publish =
        ClientFrame { request: 1, body: ClientBody::Publish(Publish { channel, producer, sequence, body: &body }) };
    let mut out = Vec::new();
    encode_client(&publish, &mut out);
    measure("decode publish, body of 200", || {
        black_box(decode_client(black_box(&out)).expect("it was encoded"));
    });
    let published = Published { channel, producer, sequence, position, duplicate: false };
    let frame = ServerFrame { request: 1, body: ServerBody::Published(published) };
    measure("encode published, buffer kept", || {
        out.clear();
        encode_server(black_box(&frame), &mut out);
    });
}
