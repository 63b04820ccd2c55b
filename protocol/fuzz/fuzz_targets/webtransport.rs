//! A client's HTTP/3 streams: whatever is on them, in whatever order and pieces. What comes of them does not depend on the pieces, and
//! no more is held than came.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_webtransport::{Action, Connection, Error};

/// Control stream with settings, and a request for a session, as a browser begins.
const CONTROL: &[u8] = b"\0\x04\x02\x33\x01";
const REQUEST: &[u8] = b"\x01\x2c\0\0\xcf\xd7\x50\x01a\x51\x0b/v1/connect\x27\x02:protocol\x0cwebtransport";

struct Client {
    connection: Connection,
    actions: Vec<Action>,
    /// Streams that are not to be handed in any more.
    left: Vec<u64>,
    came: usize,
}

impl Client {
    fn new(is_open: bool) -> Self {
        let mut client =
            Self { connection: Connection::new("/v1/connect"), actions: Vec::new(), left: Vec::new(), came: 0 };
        if is_open {
            client.send(2, CONTROL, usize::MAX).expect("settings are sound");
            client.send(0, REQUEST, usize::MAX).expect("a request is sound");
            assert_eq!(client.connection.session(), Some(0));
        }
        client
    }

    fn send(&mut self, stream: u64, bytes: &[u8], pieces: usize) -> Result<(), Error> {
        for piece in bytes.chunks(pieces) {
            self.came += piece.len();
            if self.left.contains(&stream) {
                continue;
            }
            let taken = self.connection.handle_bytes(stream, Bytes::copy_from_slice(piece));
            self.act();
            taken?;
        }
        Ok(())
    }

    fn end(&mut self, stream: u64, is_reset: bool) -> Result<(), Error> {
        if self.left.contains(&stream) || !self.connection.wants(stream) {
            return Ok(());
        }
        self.left.push(stream);
        let ended = if is_reset { self.connection.handle_reset(stream) } else { self.connection.handle_end(stream) };
        self.act();
        ended
    }

    fn act(&mut self) {
        while let Some(action) = self.connection.poll_action() {
            match action {
                Action::Stream { stream, .. } | Action::Stop { stream, .. } | Action::Reject { stream, .. } => {
                    self.left.push(stream);
                }
                other => self.actions.push(other),
            }
        }
        assert!(self.connection.held_bytes() <= self.came, "no more is held than came");
    }
}

/// Each step: stream and kind in a byte, a length, so many bytes.
fn run(mut input: &[u8], pieces: usize) -> (Vec<Action>, Vec<u64>, Option<Error>) {
    let Some((&first, rest)) = input.split_first() else { return Default::default() };
    input = rest;
    let mut client = Client::new(first & 1 == 1);
    while let [what, len, rest @ ..] = input {
        let stream = u64::from(what & 0x0f) * 2;
        let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        input = rest;
        let done = match what >> 4 {
            0 => client.end(stream, false),
            1 => client.end(stream, true),
            2 => {
                client.connection.handle_stopped(stream);
                client.act();
                Ok(())
            }
            3 => {
                let _ = client.connection.datagram(&Bytes::copy_from_slice(bytes));
                Ok(())
            }
            _ => client.send(stream, bytes, pieces),
        };
        if let Err(error) = done {
            return (client.actions, client.left, Some(error));
        }
    }
    (client.actions, client.left, None)
}

fuzz_target!(|input: &[u8]| {
    assert_eq!(run(input, usize::MAX), run(input, 1));
});
