//! The state machine against rustls' own client, in memory: in pieces of any size, with nonsense in between, to its end.

use std::io::{Read, Write};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion};

use super::*;
use crate::tls::tests::Authority;
use crate::tls::{Profile, Tls, TlsConfig};

/// A client and our end, and what our end said in clear.
struct Pair {
    client: ClientConnection,
    ours: TlsSession,
    clear: Vec<u8>,
    /// What the client got in clear.
    received: Vec<u8>,
    /// What became of the last input, and whether a handshake came to its end with any.
    opened: Opened,
    established: Option<bool>,
    sealed: Sealed,
}

impl Pair {
    fn new(client: ClientConfig, server: &Arc<ServerConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("client");
        client.set_buffer_limit(None);
        Self {
            client,
            ours: TlsSession::new(Arc::clone(server)),
            clear: Vec::new(),
            received: Vec::new(),
            opened: Opened::GoOn,
            established: None,
            sealed: Sealed::default(),
        }
    }

    /// Gives our end these bytes as a socket would.
    fn feed(&mut self, bytes: &[u8]) {
        let mut input = [self.ours.unfinished(), bytes].concat();
        let mut clear = vec![0; input.len()];
        let (opened, clear_bytes) = self.ours.open(&mut input, &mut clear, &mut self.sealed);
        self.clear.extend_from_slice(&clear[..clear_bytes]);
        if let Opened::Established { resumed } = opened {
            self.established = Some(resumed);
        }
        self.opened = opened;
    }

    /// What the client has to send.
    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    /// Gives the client what our end has sealed.
    fn answer(&mut self) -> Result<(), Error> {
        let mut bytes = self.sealed.bytes();
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).expect("memory");
            self.client.process_new_packets()?;
            // "Would block" is the end of what there is.
            let _ = self.client.reader().read_to_end(&mut self.received);
        }
        self.sealed.clear();
        Ok(())
    }

    /// Carries bytes both ways, the client's in pieces of this size, until neither has any.
    fn run(&mut self, piece: usize) -> Result<(), Error> {
        loop {
            let bytes = self.client_bytes();
            if bytes.is_empty() && self.sealed.is_empty() {
                return Ok(());
            }
            for part in bytes.chunks(piece) {
                self.feed(part);
                if matches!(self.opened, Opened::Failed(_) | Opened::End) {
                    return self.answer();
                }
            }
            self.answer()?;
        }
    }

    /// What the client got in clear since it was last asked.
    fn received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Seals as the shard does, in steps.
    fn say(&mut self, clear: &[u8]) {
        for part in clear.chunks(SEAL_BYTES_MAX) {
            assert!(self.ours.seal(part, &mut self.sealed));
            self.answer().expect("the client takes it");
        }
    }
}

fn server(authority: &Authority, config: impl FnOnce(TlsConfig) -> TlsConfig) -> Arc<ServerConfig> {
    let tls = Tls::load(config(authority.write_leaf((2050, 1, 1)))).expect("load");
    tls.server_config(Profile::WEBSOCKET).expect("config")
}

/// Bytes that differ from each other.
fn text(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

#[test]
fn everything_may_come_in_pieces_of_any_size() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let said = text(40_000);
    for piece in [1, 2, 3, 5, 7, 64, 333, 4096, 1 << 20] {
        let mut pair = Pair::new(authority.client(None), &server);
        pair.client.writer().write_all(b"early").expect("it waits for the handshake");
        pair.run(piece).expect("handshake");
        assert_eq!(pair.established, Some(false), "pieces of {piece}");
        pair.client.writer().write_all(&said).expect("write");
        pair.run(piece).expect("data");
        assert!(pair.clear == [b"early", said.as_slice()].concat(), "pieces of {piece}");
        pair.say(&said);
        assert!(pair.received() == said, "pieces of {piece}");
        // Nothing is under way, so nothing is kept.
        assert_eq!((pair.ours.unfinished.capacity(), pair.ours.unsent.capacity()), (0, 0));
    }
}

#[test]
fn handshake_messages_may_come_in_many_records() {
    let authority = Authority::new();
    let server = server(&authority, |config| TlsConfig { client_ca: Some(authority.write_ca()), ..config });
    for piece in [1, 37, 38, 1 << 20] {
        let mut client = authority.client(Some(&authority));
        client.max_fragment_size = Some(37);
        let mut pair = Pair::new(client, &server);
        pair.run(piece).expect("handshake");
        assert_eq!(pair.established, Some(false), "pieces of {piece}");
        pair.client.writer().write_all(b"in").expect("write");
        pair.run(piece).expect("data");
        pair.say(b"out");
        assert_eq!((pair.received(), pair.clear), (b"out".to_vec(), b"in".to_vec()));
    }
}

#[test]
fn both_versions_are_spoken_and_sessions_resumed() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let check = |version: &'static SupportedProtocolVersion| {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("version");
        let client = builder.with_root_certificates(authority.roots()).with_no_client_auth();
        for resumed in [false, true] {
            let mut pair = Pair::new(client.clone(), &server);
            pair.run(1 << 20).expect("handshake");
            assert_eq!(pair.established, Some(resumed), "{version:?}");
            pair.client.writer().write_all(&text(100_000)).expect("write");
            pair.run(1500).expect("data");
            assert!(pair.clear == text(100_000));
            pair.say(&text(100_000));
            assert!(pair.received() == text(100_000));
        }
    };
    check(&rustls::version::TLS13);
    check(&rustls::version::TLS12);
}

#[test]
fn keys_may_be_updated_at_any_time() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let mut pair = Pair::new(authority.client(None), &server);
    pair.run(1 << 20).expect("handshake");
    for round in 0..8 {
        pair.client.refresh_traffic_keys().expect("after the handshake");
        if round % 2 == 0 {
            pair.client.writer().write_all(b"new").expect("write");
        }
        pair.run(3).expect("update");
        // Ours goes out with what is sealed next.
        pair.say(b"newer");
    }
    assert_eq!((pair.clear, pair.client.is_handshaking()), (b"new".repeat(4), false));
}

#[test]
fn the_end_is_told_both_ways() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let mut pair = Pair::new(authority.client(None), &server);
    pair.run(1 << 20).expect("handshake");
    pair.ours.keep_unsent(b"");
    assert!(pair.ours.seal(b"waits ", &mut pair.sealed));
    pair.ours.keep_unsent(pair.sealed.bytes());
    pair.sealed.clear();
    pair.sealed.push(&pair.ours.last_words(b"last words"));
    pair.answer().expect("they are sealed");
    assert_eq!(pair.received(), b"waits last words");
    assert_eq!(pair.client.reader().read(&mut [0]).expect("an end that was told"), 0);
    assert!(!pair.ours.seal(b"no more", &mut pair.sealed));

    let mut pair = Pair::new(authority.client(None), &server);
    pair.run(1 << 20).expect("handshake");
    pair.client.writer().write_all(b"bye").expect("write");
    pair.client.send_close_notify();
    pair.run(1 << 20).expect("the end");
    assert_eq!((pair.opened, pair.clear.as_slice()), (Opened::End, &b"bye"[..]));
    // It may still be told something.
    pair.sealed.push(&pair.ours.last_words(b"bye"));
    pair.answer().expect("sealed");
    assert_eq!(pair.received(), b"bye");
}

#[test]
fn what_a_socket_did_not_take_waits_in_order() {
    let mut ours = TlsSession::new(server(&Authority::new(), |config| config));
    ours.keep_unsent(b"abcdef");
    ours.handle_sent(4);
    ours.keep_unsent(b"ghi");
    assert_eq!(ours.unsent(), b"efghi");
    ours.handle_sent(5);
    assert_eq!((ours.unsent(), ours.unsent.capacity()), (&b""[..], 0));
}

#[test]
fn first_bytes_that_are_no_tls_cost_nothing() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let check = |first: &[u8], expect: Opened| {
        let mut pair = Pair::new(authority.client(None), &server);
        pair.feed(first);
        assert_eq!(pair.opened, expect, "{first:?}");
        let answer = String::from_utf8_lossy(pair.sealed.bytes()).into_owned();
        assert_eq!(answer.contains("wss://"), expect == Opened::Failed(Failure::ClearHttp), "{answer}");
        assert!(!matches!(pair.ours.state, State::Shaking(_)), "{first:?}");
    };
    check(b"GET / HTTP/1.1\r\n\r\n", Opened::Failed(Failure::ClearHttp));
    check(b"SSH-2.0-x\r\n", Opened::Failed(Failure::NotTls));
    check(b"G", Opened::Failed(Failure::NotTls));
    check(&[22, 2], Opened::Failed(Failure::NotTls));
    check(&[23, 3, 1, 0, 5], Opened::Failed(Failure::NotTls));
    check(&[22, 3, 1, 0, 0], Opened::Failed(Failure::NotTls));
    check(&[22, 3, 1, 0x40, 1], Opened::Failed(Failure::NotTls));
    check(&[22], Opened::GoOn);
    check(&[22, 3, 1, 0x40], Opened::GoOn);
}

const CHANGE_CIPHER_SPEC_BYTES: usize = 6;

/// Every byte of a client's two flights, changed: an end with a reason, or a handshake that does not care; never a panic.
#[test]
fn a_changed_byte_is_no_trouble() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let hello = Pair::new(authority.client(None), &server).client_bytes();
    let mut failed = 0;
    for at in 0..hello.len() {
        let mut pair = Pair::new(authority.client(None), &server);
        let mut changed = hello.clone();
        changed[at] ^= 0x55;
        for part in changed.chunks(100) {
            pair.feed(part);
        }
        failed += usize::from(matches!(pair.opened, Opened::Failed(_)));
    }
    assert!(failed > hello.len() / 4, "{failed} of {}", hello.len());

    let mut flight = 0;
    let mut at = 0;
    while at == 0 || at < flight {
        let mut pair = Pair::new(authority.client(None), &server);
        let hello = pair.client_bytes();
        pair.feed(&hello);
        pair.answer().expect("our flight");
        let mut changed = pair.client_bytes();
        flight = changed.len();
        changed[at] ^= 0x55;
        pair.feed(&changed);
        // Versions in headers mean nothing any more, and before the record that counts stands one that means nothing at all.
        let counts = at >= CHANGE_CIPHER_SPEC_BYTES + RECORD_HEADER_BYTES;
        assert!(!counts || pair.established.is_none(), "byte {at}");
        at += 1;
    }
    assert!(flight > 50);
}

#[test]
fn a_record_that_was_changed_ends_it_with_an_alert() {
    let authority = Authority::new();
    let server = server(&authority, |config| config);
    let mut pair = Pair::new(authority.client(None), &server);
    pair.run(1 << 20).expect("handshake");
    pair.client.writer().write_all(b"hello").expect("write");
    let mut bytes = pair.client_bytes();
    *bytes.last_mut().expect("a record") ^= 1;
    pair.feed(&bytes);
    assert_eq!(pair.opened, Opened::Failed(Failure::Malformed));
    let alert = pair.answer().expect_err("an alert");
    assert_eq!(alert, Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    assert!(pair.ours.last_words(b"more").is_empty());
}

/// A hello that goes on for ever, in records that are right, is cut before it takes much.
#[test]
fn an_endless_handshake_is_cut() {
    let server = server(&Authority::new(), |config| config);
    let mut pair = Pair::new(Authority::new().client(None), &server);
    // A client hello of 65,000 bytes, as its header says.
    let first = [&[22, 3, 1, 0, 8, 1, 0, 0xfd, 0xe8][..], &[3, 3, 0, 0]].concat();
    pair.feed(&first);
    let mut fed = first.len();
    while pair.opened == Opened::GoOn {
        let record = [&[22, 3, 1, 4, 0][..], &[0; 1024]].concat();
        pair.feed(&record);
        fed += record.len();
        assert!(fed <= HANDSHAKE_BYTES_MAX + record.len());
        assert!(pair.ours.unfinished().len() <= UNFINISHED_BYTES_MAX);
    }
    assert_eq!(pair.opened, Opened::Failed(Failure::Oversize));
    assert_eq!(pair.ours.unfinished.capacity(), 0);
}

#[test]
fn why_a_handshake_failed_is_told() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let check = |server: &Arc<ServerConfig>, client: ClientConfig, expect: Failure, alert: bool| {
        let mut pair = Pair::new(client, server);
        let said = pair.run(1 << 20);
        if let Err(Error::InvalidCertificate(_)) = said {
            // The client tells us why it goes.
            let bytes = pair.client_bytes();
            pair.feed(&bytes);
        }
        assert_eq!(pair.opened, Opened::Failed(expect));
        assert_eq!(matches!(said, Err(Error::AlertReceived(_))), alert, "{expect:?}: {said:?}");
    };
    let open = server(&authority, |config| config);
    let mut other_protocol = authority.client(None);
    other_protocol.alpn_protocols = vec![b"h2".to_vec()];
    check(&open, other_protocol, Failure::Incompatible, true);
    check(&open, stranger.client(None), Failure::Alert, false);
    let closed = server(&authority, |config| TlsConfig { client_ca: Some(authority.write_ca()), ..config });
    check(&closed, authority.client(None), Failure::Certificate, true);
    check(&closed, authority.client(Some(&stranger)), Failure::Certificate, true);
}
