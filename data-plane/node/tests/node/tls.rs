//! TLS itself: how it begins and ends, what is refused and counted, certificates that change, and strangers on its port.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use millrace_data::{Config, DataNode, TlsConfig};
use millrace_protocol::Code;
use millrace_protocol::client::Start;
use millrace_protocol::node::HistoryClass;
use millrace_protocol::ws::Opcode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::transport::client_config;
use crate::support::{
    Client, Control, Frame, Got, Wire, admin, config, dial_tcp, metric, node, parse_answer, stop, tls_config, until,
};

fn over_tls(node: &DataNode) -> SocketAddr {
    node.client_tls_address.expect("the node listens for TLS")
}

/// A TLS stream with its handshake done, or why that is not so.
fn shake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<StreamOwned<ClientConnection, std::net::TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).expect("client"), dial_tcp(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

#[test]
fn last_words_are_sealed_and_followed_by_the_end() {
    let control = Control::new();
    let node = node(&control, config());
    let mut client = Client::open_over(Wire::sealed(over_tls(&node), &client_config()));
    client.hello(crate::support::Hello { token: "no token", subscriptions: Vec::new() });
    assert_eq!(client.closed_with(), Some(Code::BadToken));
    drop(client);

    // TLS tells an end from a cut: this reads to the end.
    let mut stream = shake(over_tls(&node), client_config()).expect("handshake");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end that was told");
    assert_eq!(parse_answer(&answer).0, 404);
    until("both are gone", || metric(&node, "millrace_data_tls_connections") == 0.0);
    assert_eq!(metric(&node, "millrace_data_tls_handshakes_total"), 2.0);
    assert_eq!(metric(&node, "millrace_data_tls_handshakes_abandoned_total"), 0.0);
    stop(node);
}

#[test]
fn a_handshake_that_fails_is_told_and_counted() {
    let control = Control::new();
    let mut config = config();
    config.core.handshake_timeout = Duration::from_millis(300);
    let node = node(&control, config);
    let address = over_tls(&node);
    let failures = |reason: &str| metric(&node, &format!("millrace_data_tls_failures_{reason}_total"));

    let (status, body) = parse_answer(&crate::support::exchange_tcp(address, b"GET /v1/connect HTTP/1.1\r\n\r\n"));
    assert_eq!((status, body.contains("wss://")), (400, true), "{body}");
    assert_eq!(failures("clear_http"), 1.0);

    assert_eq!(crate::support::exchange_tcp(address, b"\x82\x80\0\0\0\0"), b"");
    assert_eq!(failures("not_tls"), 1.0);

    let mut other = client_config();
    Arc::make_mut(&mut other).alpn_protocols = vec![b"h2".to_vec()];
    let error = shake(address, other).map(drop).expect_err("no protocol in common").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    assert_eq!(failures("incompatible"), 1.0);

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(RootCertStore::empty());
    let stranger = builder.with_no_client_auth();
    let error = shake(address, Arc::new(stranger)).map(drop).expect_err("an unknown root").to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    until("its alert is read", || failures("alert") == 1.0);

    // A record that was changed, in a session.
    let client = Client::connect_over(Wire::sealed(address, &client_config()), &control.token("ann"));
    let mut socket = client.stream.tcp();
    socket.write_all(&[&[23, 3, 3, 0, 20][..], &[7; 20]].concat()).expect("write");
    until("it is noticed", || failures("malformed") == 1.0);
    drop(client);

    // Who says nothing, or stops in the middle of a hello, is cut in time.
    let mut silent = dial_tcp(address);
    let mut slow = dial_tcp(address);
    slow.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).expect("write");
    for stream in [&mut silent, &mut slow] {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("a plain end");
        assert_eq!(answer, b"");
    }
    until("everybody is gone", || metric(&node, "millrace_data_connections") == 0.0);
    assert_eq!(metric(&node, "millrace_data_unfinished_bytes"), 0.0);
    assert_eq!(metric(&node, "millrace_data_tls_handshakes_abandoned_total"), 2.0);
    stop(node);
}

/// Tickets are made and opened by any shard: the kernel sends whoever comes back to either.
#[test]
fn sessions_resume_on_any_shard() {
    let control = Control::new();
    let node = node(&control, config());
    let config = client_config();
    let on_shards = |name: &str| -> Vec<f64> {
        let (_, text) = admin(&node, "/metrics");
        let of = |shard| format!("millrace_data_{name}{{shard=\"{shard}\"}} ");
        let value = |shard| text.lines().find_map(|line| line.strip_prefix(&of(shard)).map(str::to_owned));
        [0, 1].into_iter().map(|shard| value(shard).expect("a metric").parse().expect("a number")).collect()
    };
    let mut whole = 0.0;
    while on_shards("tls_resumed_total").contains(&0.0) {
        let mut client = Client::connect_over(Wire::sealed(over_tls(&node), &config), &control.token("ann"));
        client.send_ws(Opcode::Close, b"");
        assert_eq!(client.next(), Got::Close(1005, String::new()));
        let handshakes: f64 = on_shards("tls_handshakes_total").iter().sum();
        assert!(handshakes < 64.0, "all on one shard");
        whole = handshakes - on_shards("tls_resumed_total").iter().sum::<f64>();
    }
    assert_eq!(whole, 1.0, "only the first had to show everything");
    stop(node);
}

/// An authority for one test, and its files.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("issuer");
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("write");
        Self { folder, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_leaf(&self) -> TlsConfig {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        // For so few days that browsers take it by its hash.
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - day).into();
        params.not_after = (SystemTime::now() + 9 * day).into();
        let key = KeyPair::generate().expect("key");
        let leaf = params.signed_by(&key, &self.issuer).expect("certificate");
        let config = TlsConfig {
            check_interval: Duration::from_millis(100),
            ..TlsConfig::new(self.path("node.pem"), self.path("node.key"))
        };
        replace(&config.certificate, &leaf.pem());
        replace(&config.key, &key.serialize_pem());
        config
    }

    /// A client that trusts this authority, with a certificate of `identity`.
    fn client(&self, identity: Option<&Self>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        let Some(identity) = identity else { return Arc::new(builder.with_no_client_auth()) };
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["sdk".to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &identity.issuer).expect("certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
        Arc::new(builder.with_client_auth_cert(vec![leaf.der().clone()], key).expect("identity"))
    }
}

/// As a careful tool does it: nobody sees half a file.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("write");
    std::fs::rename(&new, path).expect("rename");
}

#[test]
fn a_new_certificate_comes_into_force_under_open_connections() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let authority = Authority::new();
    let node = node(&control, Config { tls: Some(authority.write_leaf()), ..config() });
    let leaf = |node: &DataNode| {
        let stream = shake(over_tls(node), authority.client(None)).expect("handshake");
        stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
    };
    let mut client =
        Client::connect_over(Wire::sealed(over_tls(&node), &authority.client(None)), &control.token("ann"));
    client.subscribe("general", Start::Live);
    let first = leaf(&node);
    let status = node.certificate().expect("it has one");
    assert_eq!(control.certificate_hashes(), [status.sha256]);

    // By itself, when the files change.
    authority.write_leaf();
    until("the new one is in force", || node.certificate() != Some(status));
    let second = leaf(&node);
    assert_ne!(second, first);

    // By order; and a bad one is refused.
    authority.write_leaf();
    node.reload_certificates().expect("a good one");
    let third = leaf(&node);
    assert_ne!(third, second);
    let shown = node.certificate().expect("it has one").sha256;
    until("the control plane knows", || control.certificate_hashes() == [shown]);
    let failures = metric(&node, "millrace_data_certificate_reload_failures_total");
    std::fs::write(authority.path("node.key"), "nothing").expect("write");
    let error = node.reload_certificates().expect_err("no key").to_string();
    assert!(error.contains("node.key"), "{error}");
    assert!(metric(&node, "millrace_data_certificate_reload_failures_total") > failures);
    assert_eq!(leaf(&node), third);
    let not_after = node.certificate().expect("it has one").not_after;
    assert_eq!(metric(&node, "millrace_data_certificate_not_after_seconds"), not_after as f64);

    // All the time, the first connection was there.
    let request = client.publish(channel, 5, 1, b"still here");
    client.acknowledged(request);
    assert_eq!(client.message().body, b"still here");
    stop(node);
}

#[test]
fn with_client_roots_only_their_certificates_get_in() {
    let control = Control::new();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tls = TlsConfig { client_ca: Some(authority.path("ca.pem")), ..authority.write_leaf() };
    let node = node(&control, Config { tls: Some(tls), ..config() });
    let token = control.token("ann");
    let known = authority.client(Some(&authority));
    let mut client = Client::connect_over(Wire::sealed(over_tls(&node), &known), &token);
    client.send_ws(Opcode::Ping, b"in");
    assert_eq!(client.next(), Got::Pong(b"in".to_vec()));
    for refused in [authority.client(None), authority.client(Some(&stranger))] {
        // TLS 1.3 tells a client of it only after its own handshake is done.
        let error = shake(over_tls(&node), refused).and_then(|mut stream| stream.read(&mut [0; 1]).map(drop));
        let error = error.expect_err("no certificate that is taken").to_string();
        assert!(error.contains("received fatal alert"), "{error}");
    }
    assert_eq!(metric(&node, "millrace_data_tls_failures_certificate_total"), 2.0);

    // Other roots: tickets of who came in by the old ones are worth nothing.
    replace(&authority.path("ca.pem"), &stranger.issuer.pem());
    node.reload_certificates().expect("reload");
    let error = shake(over_tls(&node), known).and_then(|mut stream| stream.read(&mut [0; 1]).map(drop));
    assert!(error.is_err(), "it came in by a ticket");
    Client::connect_over(Wire::sealed(over_tls(&node), &authority.client(Some(&stranger))), &token);
    // Who was in stays in.
    client.send_ws(Opcode::Ping, b"still in");
    assert_eq!(client.next(), Got::Pong(b"still in".to_vec()));
    stop(node);
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// First packets of strangers, as many as a thread can send for two seconds: others are served, and nothing stays.
#[test]
fn a_flood_of_nonsense_leaves_others_alone() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::None, &["ann"]);
    let node = node(&control, config());
    let address = over_tls(&node);
    let mut client = Client::connect_over(Wire::sealed(address, &client_config()), &control.token("ann"));
    client.subscribe("general", Start::Live);
    // What a real client would begin with, to be mangled.
    let name = ServerName::try_from("localhost").expect("a name");
    let mut hello = Vec::new();
    ClientConnection::new(client_config(), name).expect("client").write_tls(&mut hello).expect("memory");
    let over = Arc::new(AtomicBool::new(false));
    let flood = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut state = 7;
            let mut sent = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let stream = dial_tcp(address);
                let mut bytes = hello.clone();
                match random(&mut state) % 4 {
                    0 => bytes.iter_mut().for_each(|byte| *byte = random(&mut state).to_le_bytes()[0]),
                    1 => {
                        for _ in 0..3 {
                            let at = usize::try_from(random(&mut state) % bytes.len() as u64).expect("small");
                            bytes[at] = random(&mut state).to_le_bytes()[0];
                        }
                    }
                    2 => bytes.truncate(usize::try_from(random(&mut state) % bytes.len() as u64).expect("small")),
                    // A whole one, and then no answer to what it gets.
                    _ => {}
                }
                let _ = (&stream).write_all(&bytes);
                if random(&mut state).is_multiple_of(2) {
                    // Gone with a reset, or with an end.
                    let _ = stream.shutdown(Shutdown::Write);
                }
                sent += 1;
            }
            sent
        })
    };
    let begun = std::time::Instant::now();
    let mut sequence = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        sequence += 1;
        let request = client.publish(channel, 5, sequence, b"calm");
        client.acknowledged(request);
        assert_eq!(client.message().body, b"calm");
    }
    over.store(true, Ordering::Relaxed);
    let sent = flood.join().expect("the flood ends");
    assert!(sent > 100 && sequence > 10, "{sent} strangers, {sequence} messages");
    until("nobody else is left", || metric(&node, "millrace_data_connections") == 1.0);
    assert_eq!(metric(&node, "millrace_data_tls_connections"), 1.0);
    assert_eq!(metric(&node, "millrace_data_unfinished_bytes"), 0.0);
    assert_eq!(metric(&node, "millrace_data_tls_handshakes_total"), 1.0);
    stop(node);
}

/// A reader that stalls in the middle of what was sealed gets every byte when it reads again.
#[test]
fn what_a_socket_did_not_take_is_read_later() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut reader = Client::connect_over(Wire::sealed(over_tls(&node), &client_config()), &control.token("ann"));
    reader.subscribe("general", Start::Live);
    let mut writer = Client::connect_over(Wire::sealed(over_tls(&node), &client_config()), &control.token("ann"));
    writer.subscribe("general", Start::Attach);
    let body = vec![9; 12 << 10];
    let mut sequence = 0;
    while metric(&node, "millrace_data_short_writes_total") == 0.0 {
        for _ in 0..16 {
            sequence += 1;
            let request = writer.publish(channel, 5, sequence, &body);
            writer.acknowledged(request);
        }
        assert!(sequence < 10_000, "the socket takes everything");
    }
    let stalled = sequence;
    for offset in 1..=stalled {
        let message = loop {
            match reader.next() {
                Got::Frame(Frame::Message(message)) => break message,
                Got::Frame(_) | Got::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((message.position.offset, message.body.len()), (offset, body.len()));
    }
    stop(node);
}

/// The certificate is there without the listener too: for other transports.
#[test]
fn a_certificate_alone_opens_no_listener() {
    let control = Control::new();
    let node = node(&control, Config { client_tls_address: None, tls: Some(tls_config()), ..config() });
    assert_eq!(node.client_tls_address, None);
    assert!(node.certificate().is_some());
    stop(node);
}
