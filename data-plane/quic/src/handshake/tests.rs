//! Both sides of a handshake, without a connection around them.

use bytes::BytesMut;
use quinn_proto::crypto::ClientConfig as _;
use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::pki_types::PrivateKeyDer;

use super::*;

fn config(alpn: &[&[u8]]) -> (Arc<Handshakes>, Arc<QuicClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = Protocol::OFFERED.iter().map(|name| name.to_vec()).collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    (Arc::new(Handshakes::new(Arc::new(tls)).unwrap()), Arc::new(QuicClientConfig::try_from(client).unwrap()))
}

/// None, so that all are at their defaults.
fn params() -> TransportParameters {
    TransportParameters::read(Side::Client, &mut Cursor::new([0_u8; 0])).expect("there may be none")
}

/// Both sides talk until neither has anything to say. Gives how often the server said that the client's choice is known, and the last keys
/// of each side.
fn shake(server: &mut dyn Session, client: &mut dyn Session) -> (usize, Option<Keys>, Option<Keys>) {
    let (mut known, mut of_server, mut of_client) = (0, None, None);
    for _ in 0..8 {
        for side in [Side::Client, Side::Server] {
            loop {
                let mut bytes = Vec::new();
                let (from, to) =
                    if side == Side::Client { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
                let keys = from.write_handshake(&mut bytes);
                if bytes.is_empty() && keys.is_none() {
                    break;
                }
                if !bytes.is_empty() {
                    let told = to.read_handshake(&bytes).expect("the other side's words");
                    known += usize::from(told && side == Side::Client);
                }
                let last = if side == Side::Client { &mut of_client } else { &mut of_server };
                *last = keys.or(last.take());
            }
        }
    }
    (known, of_server, of_client)
}

fn check_crosses(seal: &dyn PacketKey, open: &dyn PacketKey) {
    let mut packet = b"head and what follows".to_vec();
    packet.resize(packet.len() + seal.tag_len(), 0);
    seal.encrypt(7, &mut packet, 4);
    let mut payload = BytesMut::from(&packet[4..]);
    open.decrypt(7, b"head", &mut payload).expect("the other side's key");
    assert_eq!(&payload[..], b" and what follows");
    assert!(open.decrypt(8, b"head", &mut BytesMut::from(&packet[4..])).is_err());
}

#[test]
fn nothing_of_a_handshake_stays_but_what_key_updates_need() {
    for (alpn, expect) in [(Protocol::OFFERED, Protocol::Millrace), (&[b"h3"], Protocol::Http3)] {
        let (server_config, client_config) = config(alpn);
        let params = params();
        let mut server = server_config.start_session(1, &params);
        let mut client = client_config.start_session(1, "localhost", &params).unwrap();
        assert!(server.is_handshaking() && server.handshake_data().is_none());
        let (known, of_server, of_client) = shake(&mut *server, &mut *client);
        assert_eq!(known, 1, "the client's choice is told once");
        assert!(!server.is_handshaking() && !client.is_handshaking());
        let chosen = server.handshake_data().expect("known").downcast::<Chosen>().expect("of this kind");
        assert_eq!(chosen.0, Some(expect));

        let (of_server, of_client) = (of_server.expect("keys").packet, of_client.expect("keys").packet);
        check_crosses(&*of_server.local, &*of_client.remote);
        check_crosses(&*of_client.local, &*of_server.remote);
        for _ in 0..3 {
            let (of_server, of_client) = (server.next_1rtt_keys().unwrap(), client.next_1rtt_keys().unwrap());
            check_crosses(&*of_server.local, &*of_client.remote);
            check_crosses(&*of_client.local, &*of_server.remote);
        }
        assert!(server.export_keying_material(&mut [0; 32], b"label", b"").is_err(), "it went with the handshake");
        assert_eq!(server.transport_parameters(), Ok(None));
    }
}

/// RFC 9001 §6: a KeyUpdate of TLS, or anything else of it, is `unexpected_message`.
#[test]
fn tls_after_the_handshake_is_an_error() {
    let (server_config, client_config) = config(Protocol::OFFERED);
    let params = params();
    let mut server = server_config.start_session(1, &params);
    let mut client = client_config.start_session(1, "localhost", &params).unwrap();
    shake(&mut *server, &mut *client);
    const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
    let error = server.read_handshake(&KEY_UPDATE).expect_err("forbidden");
    assert_eq!(error.code, TransportErrorCode::crypto(UNEXPECTED_MESSAGE));
    let mut bytes = Vec::new();
    assert!(server.write_handshake(&mut bytes).is_none() && bytes.is_empty());
}

#[test]
fn a_handshake_that_fails_tells_the_alert() {
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
    let hello = |alpn: &[&[u8]]| {
        let (server_config, client_config) = config(alpn);
        let mut client = client_config.start_session(1, "localhost", &params()).unwrap();
        let mut hello = Vec::new();
        client.write_handshake(&mut hello);
        (server_config.start_session(1, &params()), hello)
    };
    for (alpn, words, expect) in [
        (&[&b"another"[..]][..], None, NO_APPLICATION_PROTOCOL),
        (&[], None, NO_APPLICATION_PROTOCOL),
        (Protocol::OFFERED, Some(KEY_UPDATE), UNEXPECTED_MESSAGE),
    ] {
        let (mut server, hello) = hello(alpn);
        let words = words.map_or(hello, |words| words.to_vec());
        let error = server.read_handshake(&words).expect_err("a refusal");
        assert_eq!(error.code, TransportErrorCode::crypto(expect), "{error}");
        assert!(server.is_handshaking());
    }
}
