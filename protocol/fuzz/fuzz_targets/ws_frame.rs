//! A WebSocket byte stream of either side, in reads of any size: the same events and the same end as in one read, within the
//! limit, and each event again from its own encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_protocol::ws::deflate::Inflater;
use millrace_protocol::ws::header::CONTROL_BYTES_MAX;
use millrace_protocol::ws::{Decoder, Event, Limits, MessageKind, Opcode, Role, WsError, close, encode};
use millrace_protocol_fuzz::stream_and_reads;

#[derive(Debug, PartialEq)]
enum Said {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Broke(WsError),
}

/// With compression or without.
fn listen<'a>(role: Role, limits: Limits, deflated: bool, reads: impl Iterator<Item = &'a [u8]>) -> Vec<Said> {
    let mut decoder = Decoder::new(role, limits);
    let mut inflater = deflated.then(Inflater::new);
    let mut said = Vec::new();
    for read in reads {
        let mut read = read.to_vec();
        let mut feed = match &mut inflater {
            None => decoder.feed(&mut read),
            Some(inflater) => decoder.feed_deflated(&mut read, inflater),
        };
        loop {
            said.push(match feed.next_event() {
                Ok(None) => break,
                Ok(Some(Event::Message { kind, payload })) => {
                    assert!(payload.len() <= limits.message_bytes_max as usize);
                    assert!(kind == MessageKind::Binary || std::str::from_utf8(payload).is_ok());
                    Said::Message(kind, payload.to_vec())
                }
                Ok(Some(Event::Ping(payload))) => Said::Ping(payload.to_vec()),
                Ok(Some(Event::Pong(payload))) => Said::Pong(payload.to_vec()),
                Ok(Some(Event::Close { code, reason })) => {
                    assert!(code.is_none_or(close::is_sendable));
                    Said::Close(code, reason.to_owned())
                }
                Err(error) => {
                    assert!(close::is_sendable(error.close_code()));
                    Said::Broke(error)
                }
            });
        }
        drop(feed);
        let bound = limits.message_bytes_max as usize + CONTROL_BYTES_MAX;
        assert!(decoder.heap_bytes() <= bound, "{} bytes are held", decoder.heap_bytes());
    }
    let end = said.iter().position(|said| matches!(said, Said::Close(..) | Said::Broke(_)));
    assert!(end.is_none_or(|end| end + 1 == said.len()), "nothing follows the end");
    said
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let Some((stream, reads)) = stream_and_reads(input) else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let message_bytes_max = [0, 1, 125, 126, 1_000, 65_535, 65_536, 1 << 20][usize::from(choice >> 1 & 7)];
    let limits = Limits { message_bytes_max };
    let deflated = choice & 16 != 0;
    let whole = listen(role, limits, deflated, std::iter::once(stream));
    assert_eq!(listen(role, limits, deflated, reads), whole, "how it was cut must not matter");

    let key = (role == Role::Server).then_some([0xa5, 0, 0x5a, 0xff]);
    let mut again = Vec::new();
    for said in &whole {
        match said {
            Said::Message(MessageKind::Text, payload) => encode::frame(Opcode::Text, payload, key, &mut again),
            Said::Message(MessageKind::Binary, payload) => encode::frame(Opcode::Binary, payload, key, &mut again),
            Said::Ping(payload) => encode::frame(Opcode::Ping, payload, key, &mut again),
            Said::Pong(payload) => encode::frame(Opcode::Pong, payload, key, &mut again),
            Said::Close(code, reason) => encode::close(*code, reason, key, &mut again),
            Said::Broke(_) => {}
        }
    }
    let mut expect = whole;
    expect.retain(|said| !matches!(said, Said::Broke(_)));
    assert_eq!(listen(role, limits, deflated, std::iter::once(&again[..])), expect, "encoded, it says the same");
});
