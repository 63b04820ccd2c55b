//! Echoes WebSocket messages, text as text and binary as binary, compressed for who offers that: a door for outside conformance
//! suites to the codec.
//!
//! `cargo run -p millrace-protocol --example ws-echo -- --port 9001`, then point the suite at `ws://127.0.0.1:9001/`.
//! It listens on 127.0.0.1 alone, one thread for each connection, and prints its address once it listens.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use millrace_protocol::ws::deflate::{Deflater, Inflater, Window};
use millrace_protocol::ws::handshake::{Endpoint, ServerHandshake};
use millrace_protocol::ws::{Decoder, Event, Header, Limits, MessageKind, Opcode, Role, encode};

const USAGE: &str = "usage: ws-echo [--port N] [--message-bytes-max N] [--subprotocol NAME]...

  --port N               TCP port on 127.0.0.1; 0, the default, takes a free one
  --message-bytes-max N  largest message; default 16777216 (16 MiB)
  --subprotocol NAME     sub-protocol to speak; may come again; default: any client, none chosen

Prints `listening on ws://127.0.0.1:PORT/` and serves until it is killed.";

/// A connection over this number waits to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// A peer that neither sends nor reads for so long is cut off.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long we wait for a peer to read our close frame and hang up.
const LINGER_MAX: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 64 * 1024;

struct Options {
    port: u16,
    limits: Limits,
    subprotocols: Vec<String>,
}

fn main() -> ExitCode {
    let options = match parse(env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot listen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options { port: 0, limits: Limits { message_bytes_max: 16 << 20 }, subprotocols: vec![] };
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            return Ok(None);
        }
        let value = args.next().ok_or_else(|| format!("{flag} is unknown or has no value"))?;
        let number = || value.parse().map_err(|_| format!("{flag} {value}: no number in range"));
        match flag.as_str() {
            "--port" => options.port = value.parse().map_err(|_| format!("--port {value}: not 0 to 65535"))?,
            "--message-bytes-max" => options.limits.message_bytes_max = number()?,
            "--subprotocol" => options.subprotocols.push(value),
            _ => return Err(format!("{flag} is unknown")),
        }
    }
    Ok(Some(options))
}

fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
    println!("listening on ws://{}/", listener.local_addr()?);
    let options = Arc::new(options);
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        // Out of descriptors, or the peer is gone already: the next one may fare better.
        let Ok(connection) = connection else { continue };
        while open.load(Ordering::Acquire) >= CONNECTIONS_MAX {
            thread::sleep(Duration::from_millis(5));
        }
        open.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(Arc::clone(&open));
        let options = Arc::clone(&options);
        thread::Builder::new().spawn(move || {
            let _slot = slot;
            // A peer may hang up at any moment; there is nobody to tell.
            let _ = echo(connection, &options);
        })?;
    }
    Ok(())
}

/// Gives a place back, even if its thread panics.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn echo(mut connection: TcpStream, options: &Options) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(SILENCE_MAX))?;
    connection.set_write_timeout(Some(SILENCE_MAX))?;
    let mut buffer = vec![0; READ_BYTES];
    let Some(Upgraded { mut start, mut end, window }) = shake_hands(&mut connection, &mut buffer, options)? else {
        return hang_up(connection, &mut buffer);
    };
    let mut compression = window.map(|window| (Inflater::new(), Deflater::new(window)));

    let mut decoder = Decoder::new(Role::Server, options.limits);
    let mut replies = Vec::new();
    loop {
        let ended = answer(&mut decoder, compression.as_mut(), &mut buffer[start..end], &mut replies);
        connection.write_all(&replies)?;
        replies.clear();
        // One big message must not cost its size for as long as the connection lives.
        replies.shrink_to(READ_BYTES);
        if ended {
            return hang_up(connection, &mut buffer);
        }
        (start, end) = (0, read(&mut connection, &mut buffer)?);
        if end == 0 {
            return Ok(());
        }
    }
}

/// Where in the buffer the first frames are, and what was agreed to.
struct Upgraded {
    start: usize,
    end: usize,
    window: Option<Window>,
}

/// Until the head is whole; `None` if the request was refused.
fn shake_hands(connection: &mut TcpStream, buffer: &mut [u8], options: &Options) -> io::Result<Option<Upgraded>> {
    let subprotocols: Vec<_> = options.subprotocols.iter().map(String::as_str).collect();
    let endpoint = Endpoint { path: None, subprotocols: &subprotocols };
    let mut handshake = ServerHandshake::new();
    loop {
        let len = read(connection, buffer)?;
        if len == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match handshake.feed(&buffer[..len], &endpoint) {
            Ok(None) => {}
            Ok(Some(mut request)) => {
                let window = request.agree().map(|agreement| agreement.window);
                connection.write_all(&request.response())?;
                return Ok(Some(Upgraded { start: request.consumed, end: len, window }));
            }
            Err(error) => {
                connection.write_all(&error.response())?;
                return Ok(None);
            }
        }
    }
}

/// Appends what the input calls for to `replies`; true if the conversation is over.
fn answer(
    decoder: &mut Decoder,
    compression: Option<&mut (Inflater, Deflater)>,
    input: &mut [u8],
    replies: &mut Vec<u8>,
) -> bool {
    let (mut feed, mut deflater) = match compression {
        None => (decoder.feed(input), None),
        Some((inflater, deflater)) => (decoder.feed_deflated(input, inflater), Some(deflater)),
    };
    loop {
        match feed.next_event() {
            Ok(None) => return false,
            Ok(Some(Event::Message { kind, payload })) => {
                let opcode = if kind == MessageKind::Text { Opcode::Text } else { Opcode::Binary };
                match deflater.as_mut().and_then(|deflater| deflater.deflate(payload)) {
                    None => encode::frame(opcode, payload, None, replies),
                    Some(shorter) => {
                        let header = Header { compressed: true, ..Header::whole(opcode, shorter.len(), None) };
                        replies.extend_from_slice(&header.encode());
                        replies.extend_from_slice(shorter);
                    }
                }
            }
            Ok(Some(Event::Ping(payload))) => encode::frame(Opcode::Pong, payload, None, replies),
            Ok(Some(Event::Pong(_))) => {}
            Ok(Some(Event::Close { code, .. })) => {
                encode::close(code, "", None, replies);
                return true;
            }
            Err(error) => {
                encode::close(Some(error.close_code()), &error.to_string(), None, replies);
                return true;
            }
        }
    }
}

/// Ends our direction, then waits a bounded time for the peer to end theirs: closing a socket with unread input resets
/// the connection, and the peer would lose our last words (RFC 6455 §7.1.1).
fn hang_up(mut connection: TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    connection.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + LINGER_MAX;
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        connection.set_read_timeout(Some(left))?;
        if read(&mut connection, buffer)? == 0 {
            break;
        }
    }
    Ok(())
}

fn read(connection: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match connection.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Option<Options>, String> {
        parse(args.iter().map(|&arg| arg.into()))
    }

    #[test]
    fn options_are_checked() {
        let found = options(&["--port", "9001", "--message-bytes-max", "5", "--subprotocol", "a"]).unwrap().unwrap();
        assert_eq!((found.port, found.limits.message_bytes_max, found.subprotocols), (9001, 5, vec!["a".to_owned()]));
        assert!(options(&["--help"]).unwrap().is_none());
        for wrong in [&["--port"][..], &["--port", "70000"], &["--what", "x"], &["--message-bytes-max", "-1"]] {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_frame_gets_its_answer() {
        let check = |frames: &[(Opcode, &[u8])], expect: &[u8], over: bool| {
            let mut wire = vec![];
            frames.iter().for_each(|(opcode, payload)| encode::frame(*opcode, payload, Some([1, 2, 3, 4]), &mut wire));
            let mut replies = vec![];
            let mut decoder = Decoder::new(Role::Server, Limits { message_bytes_max: 100 });
            assert_eq!(answer(&mut decoder, None, &mut wire, &mut replies), over, "{frames:?}");
            assert!(replies.starts_with(expect), "{frames:?}: {replies:?}");
        };
        check(&[(Opcode::Text, b"a"), (Opcode::Binary, b"b")], b"\x81\x01a\x82\x01b", false);
        check(&[(Opcode::Ping, b"p"), (Opcode::Pong, b"q")], b"\x8a\x01p", false);
        check(&[(Opcode::Close, b"\x0f\xa0why")], &[0x88, 2, 0x0f, 0xa0], true);
        check(&[(Opcode::Close, b""), (Opcode::Text, b"late")], &[0x88, 0], true);
        check(&[(Opcode::Text, b"\xff")], b"\x88\x19\x03\xeftext is not valid UTF-8", true);
    }
}
