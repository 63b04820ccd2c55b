//! What TLS costs a running node: memory for each idle session, and processor time for each handshake.
//!
//! ```text
//! millrace dev --json --ephemeral-ports --set data.shards=1 > ready.json &
//! cargo run --release -p millrace-data --example tls-cost -- ready.json PID 1000 9000
//! ```
//!
//! Memory is the slope of the process's private memory between two populations, so that what the node takes at its start does not
//! count. All clients are here, and their memory is not looked at. Only for a node on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, SUBPROTOCOL, Start, Subscribe, VERSION, encode_client,
};
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest};
use millrace_protocol::ws::{Opcode, encode};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Failure = Box<dyn std::error::Error>;

/// Of each measurement of processor time.
const HANDSHAKES: u32 = 3_000;

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ready, pid, few, many] = arguments.as_slice() else {
        return Err("tls-cost READY.json PID FEW MANY".into());
    };
    let ready: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(ready)?)?;
    let text = |field: &str| ready[field].as_str().ok_or_else(|| format!("no {field}"));
    let clear: SocketAddr = text("url")?.trim_start_matches("ws://").parse()?;
    let sealed: SocketAddr = text("tls_url")?.trim_start_matches("wss://").parse()?;
    let (ca, token) = (CertificateDer::from_pem_file(text("ca")?)?, text("token")?);
    let (few, many): (usize, usize) = (few.parse()?, many.parse()?);
    let config = || -> Result<Arc<ClientConfig>, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    };

    let connect = |wire: &mut dyn Wire| session(wire, token);
    let memory = |name: &str, dial: &dyn Fn() -> Result<Box<dyn Wire>, Failure>| -> Result<(), Failure> {
        let mut kept = Vec::new();
        let mut grow = |to: usize| -> Result<u64, Failure> {
            while kept.len() < to {
                let mut wire = dial()?;
                connect(&mut *wire)?;
                kept.push(wire);
            }
            private_bytes(pid)
        };
        let (before, after) = (grow(few)?, grow(many)?);
        println!("{name}: {} B for each idle session, {few} to {many}", (after - before) / (many - few) as u64);
        Ok(())
    };
    let resuming = config()?;
    memory("wss", &|| Ok(Box::new(shaken(sealed, &resuming)?)))?;

    let time = |name: &str, each: &dyn Fn() -> Result<(), Failure>| -> Result<(), Failure> {
        let before = cpu_ticks(pid)?;
        for _ in 0..HANDSHAKES {
            each()?;
        }
        let spent_us = (cpu_ticks(pid)? - before) * 10_000;
        let each_us = spent_us as f64 / f64::from(HANDSHAKES);
        println!("{name}: {each_us:.1} µs of the node's processor each, so {:.0}/s on a core", 1e6 / each_us);
        Ok(())
    };
    let fresh = config()?;
    time("TCP alone, opened and closed", &|| {
        TcpStream::connect(sealed)?;
        Ok(())
    })?;
    time("whole handshake, opened and closed", &|| {
        // A client without tickets.
        let mut config = ClientConfig::clone(&fresh);
        config.resumption = rustls::client::Resumption::disabled();
        shaken(sealed, &Arc::new(config))?;
        Ok(())
    })?;
    time("resumed handshake, opened and closed", &|| {
        let mut stream = shaken(sealed, &resuming)?;
        // The ticket for the next one comes with the first answer.
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })?;
    time("the same request without TLS", &|| {
        let mut stream = TcpStream::connect(clear)?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })
}

fn shaken(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Failure> {
    let tls = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
    let mut stream = StreamOwned::new(tls, TcpStream::connect(address)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// A session with one subscription.
fn session(wire: &mut dyn Wire, token: &str) -> Result<(), Failure> {
    let request = ClientRequest {
        host: "node",
        target: "/v1/connect",
        subprotocols: &[SUBPROTOCOL],
        nonce: *b"0123456789abcdef",
    };
    let (mut handshake, head) = ClientHandshake::new(&request)?;
    wire.write_all(&head)?;
    let mut buffer = [0; 4096];
    loop {
        let bytes = wire.read(&mut buffer)?;
        if bytes == 0 {
            return Err("the node closed".into());
        }
        if handshake.feed(&buffer[..bytes])?.is_some() {
            break;
        }
    }
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        token,
        agent: "tls-cost",
        subscriptions: vec![Subscribe { channel: "general", start: Start::Live }],
    };
    let (mut payload, mut frame) = (Vec::new(), Vec::new());
    encode_client(&ClientFrame { request: 1, body: ClientBody::Hello(hello) }, &mut payload);
    encode::frame(Opcode::Binary, &payload, Some([1, 2, 3, 4]), &mut frame);
    wire.write_all(&frame)?;
    // Welcome, and then what was subscribed: each in a frame of its own.
    let mut frames = Vec::new();
    while !holds(&frames, 2) {
        let bytes = wire.read(&mut buffer)?;
        if bytes == 0 {
            return Err("the node closed".into());
        }
        frames.extend_from_slice(&buffer[..bytes]);
    }
    Ok(())
}

/// Whether so many whole frames of a server are there; all are shorter than 64 KiB.
fn holds(mut bytes: &[u8], frames: usize) -> bool {
    for _ in 0..frames {
        let (head, length) = match *bytes {
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [_, length, ..] if length < 126 => (2, usize::from(length)),
            _ => return false,
        };
        match bytes.get(head + length..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    true
}

fn private_bytes(pid: &str) -> Result<u64, Failure> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).ok_or("no Private_Dirty")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? * 1024)
}

/// User and system time, in hundredths of a second.
fn cpu_ticks(pid: &str) -> Result<u64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().ok_or("no stat")?.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
