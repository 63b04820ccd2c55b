//! Attacks on TLS over TCP.

use std::io::Write;
use std::net::TcpStream;

use crate::world::{GROWTH_MAX, Random, World};

#[test]
fn fuzzed_first_records() {
    let world = World::new();
    let (address, mut random) = (world.node.tls, Random(2));
    world.attacked("fuzzed first records of TLS", GROWTH_MAX, || {
        let Ok(mut stream) = TcpStream::connect(address) else { return 0 };
        let mut record = vec![0; 5 + random.below(600)];
        record.iter_mut().for_each(|byte| *byte = random.byte());
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
