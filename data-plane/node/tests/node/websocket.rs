//! The WebSocket around the frames: what ends it and with which code.

use millrace_protocol::Code;
use millrace_protocol::client::CLIENT_FRAME_BYTES_MAX;
use millrace_protocol::ws::{Opcode, encode};

use crate::support::{Client, Control, Got, config, door, metric, node, stop, until};

#[test]
fn what_breaks_the_framing_ends_with_its_close_code() {
    let control = Control::new();
    let node = node(&control, config());
    let token = control.token("ann");
    let check = |what: &str, bytes: &[u8], code: u16| {
        for hello in [false, true] {
            let mut client = match hello {
                true => Client::connect(door(&node), &token),
                false => Client::open(door(&node)),
            };
            client.send_raw(bytes);
            assert_eq!(client.closed().0, code, "{what}");
        }
    };
    let masked = |opcode, payload: &[u8]| {
        let mut bytes = Vec::new();
        encode::frame(opcode, payload, Some([5, 6, 7, 8]), &mut bytes);
        bytes
    };
    check("text", &masked(Opcode::Text, b"hello"), 1003);
    check("text that is not UTF-8", &masked(Opcode::Text, &[0xff]), 1007);
    check("not masked", &[0x82, 1, 0], 1002);
    check("reserved bit", &[0xc2, 0x80, 0, 0, 0, 0], 1002);
    check("reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], 1002);
    check("close code that nobody sends", &masked(Opcode::Close, &1005_u16.to_be_bytes()), 1002);
    let over = u64::try_from(CLIENT_FRAME_BYTES_MAX + 1).expect("small").to_be_bytes();
    check("oversize, by its header alone", &[&[0x82, 0xff][..], &over, &[0; 4]].concat(), 1009);
    let half = vec![0; CLIENT_FRAME_BYTES_MAX / 2 + 1];
    let mut fragments = masked(Opcode::Binary, &half);
    fragments[0] = 0x02;
    fragments.extend(masked(Opcode::Continuation, &half));
    check("oversize, in fragments", &fragments, 1009);
    check("no Cap'n Proto", &masked(Opcode::Binary, b"\xff\xff\xff\xff"), Code::BadFrame.number());
    assert_eq!(metric(&node, "millrace_data_text_messages_total"), 2.0);
    assert_eq!(metric(&node, "millrace_data_ws_errors_total"), 14.0);
    until("every connection is gone", || metric(&node, "millrace_data_connections") == 0.0);
    stop(node);
}

#[test]
fn pings_are_answered_and_a_close_is_returned() {
    let control = Control::new();
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    for payload in [&b""[..], b"a", &[7; 125]] {
        client.send_ws(Opcode::Ping, payload);
        assert_eq!(client.next(), Got::Pong(payload.to_vec()));
    }
    client.send_ws(Opcode::Pong, b"unasked");
    client.send_ws(Opcode::Close, &[&4242_u16.to_be_bytes()[..], b"bye"].concat());
    assert_eq!(client.next(), Got::Close(4242, String::new()));
    assert_eq!(client.next(), Got::End);

    let mut client = Client::connect(door(&node), &control.token("ann"));
    client.send_ws(Opcode::Close, b"");
    assert_eq!(client.next(), Got::Close(1005, String::new()));
    assert_eq!(client.next(), Got::End);
    stop(node);
}

/// Only the newest of a burst of pings must be answered, and a client that reads nothing gets no pile of answers.
#[test]
fn a_burst_of_pings_costs_one_answer_at_a_time() {
    let control = Control::new();
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    let mut burst = Vec::new();
    for number in 0..1000_u16 {
        encode::frame(Opcode::Ping, &number.to_be_bytes(), Some([1, 1, 1, 1]), &mut burst);
    }
    client.send_raw(&burst);
    let mut answers = 0;
    loop {
        let Got::Pong(payload) = client.next() else { panic!("a pong") };
        answers += 1;
        if payload == 999_u16.to_be_bytes() {
            break;
        }
    }
    assert!(answers < 1000, "{answers} answers");
    assert_eq!(metric(&node, "millrace_data_ws_pings_total"), 1000.0);
    stop(node);
}
