//! The sender, with readers that are slower than it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use super::*;

const ROOMS: u32 = 2;
const MESSAGES: u32 = 40;
const PAYLOAD_BYTES: usize = 200_000;

fn message(kind: u8, room: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + payload.len()).expect("short");
    [&length.to_le_bytes()[..], &[kind], &room.to_le_bytes(), payload].concat()
}

/// A payload that tells its room and number, and is different everywhere.
fn payload(room: u32, number: u32) -> Vec<u8> {
    let mut payload = [room.to_le_bytes(), number.to_le_bytes()].concat();
    let start = room * 7 + number;
    payload.extend((start..).take(PAYLOAD_BYTES).map(|n| u8::try_from(n % 251).expect("below 256")));
    payload
}

/// Reads everything that rooms were sent, frame by frame, and compares each.
fn read_all(mut client: &TcpStream) {
    let mut next = [0; ROOMS as usize];
    for _ in 0..ROOMS * MESSAGES {
        let mut header = [0; 10];
        client.read_exact(&mut header).expect("a header");
        assert_eq!(header[..2], [0x82, 127], "a long binary frame begins here");
        let length = u64::from_be_bytes(header[2..].try_into().expect("8 bytes"));
        let mut found = vec![0; usize::try_from(length).expect("short")];
        client.read_exact(&mut found).expect("a payload");
        let room = u32::from_le_bytes(found[..4].try_into().expect("4 bytes"));
        let number = &mut next[room as usize];
        assert_eq!(found, payload(room, *number), "message {number} of room {room}");
        *number += 1;
    }
}

/// The client is in all rooms and reads nothing until all is sent: most sends are short ones, or find no room at all.
fn check(ring: Ring) {
    let (mut server, address) = Loop::new(ring).expect("start");
    let mut client = TcpStream::connect(address).expect("connect");
    socket2::SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("take little at once");
    let client = thread::spawn(move || {
        for room in 0..ROOMS {
            client.write_all(&message(ENTER, room, &[])).expect("enter");
            let mut answer = [0; 2];
            client.read_exact(&mut answer).expect("entered");
        }
        for number in 0..MESSAGES {
            // Together, so that some turns have frames for both rooms.
            let both: Vec<u8> = (0..ROOMS).flat_map(|room| message(SEND, room, &payload(room, number))).collect();
            client.write_all(&both).expect("send");
        }
        read_all(&client);
    });
    let mut ready = Vec::with_capacity(16);
    let (mut most_unsent, mut has_come) = (0, false);
    loop {
        server.turn(&mut ready).expect("a turn");
        most_unsent =
            server.connections.iter().map(|(_, connection)| connection.unsent.len()).fold(most_unsent, usize::max);
        has_come |= !server.connections.is_empty();
        if has_come && server.connections.is_empty() {
            break;
        }
    }
    client.join().expect("the client read all");
    assert!(most_unsent > 0, "sends were short");
}

#[test]
fn short_sends_lose_nothing() {
    check(Ring::Send);
}

#[test]
fn short_sends_of_a_batch_lose_nothing() {
    if let Err(error) = SendRing::new() {
        return eprintln!("no io_uring here: {error}");
    }
    check(Ring::Uring);
}
