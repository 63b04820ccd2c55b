//! Files that change, files that are wrong, and what handshakes see of it.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use tempfile::TempDir;

use super::*;

/// A certificate authority for one test, and a folder to keep files in.
pub(crate) struct Authority {
    pub(crate) folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("issuer");
        Self { folder: tempfile::tempdir().expect("folder"), issuer }
    }

    /// Writes a new certificate for localhost and its key.
    pub(crate) fn write_leaf(&self, not_after: (i32, u8, u8)) -> TlsConfig {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let config = TlsConfig::new(self.path("node.pem"), self.path("node.key"));
        std::fs::write(&config.certificate, certificate.pem()).expect("write");
        std::fs::write(&config.key, key.serialize_pem()).expect("write");
        config
    }

    pub(crate) fn write_ca(&self) -> PathBuf {
        let path = self.path("ca.pem");
        std::fs::write(&path, self.issuer.pem()).expect("write");
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("root");
        roots
    }

    /// A client that trusts this authority and shows a certificate of `identity`.
    pub(crate) fn client(&self, identity: Option<&Self>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots());
        let Some(identity) = identity else { return builder.with_no_client_auth() };
        let params = CertificateParams::new(vec!["sdk".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &identity.issuer).expect("certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("key");
        builder.with_client_auth_cert(vec![certificate.der().clone()], key).expect("identity")
    }
}

/// A whole handshake in memory; gives both ends.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from("localhost").expect("name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("client");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("server");
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() || client.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        server.read_tls(&mut bytes.as_slice()).expect("memory");
        server.process_new_packets()?;
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        client.read_tls(&mut bytes.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    Ok((client, server))
}

fn leaf(client: &ClientConnection) -> Vec<u8> {
    client.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
}

fn resumed(server: &ServerConnection) -> bool {
    server.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}

/// A client that puts AES-256 first, as this library does, is not asked; one that has nothing else gets it.
#[test]
fn suites_that_hash_with_sha_384_come_last() {
    let authority = Authority::new();
    let tls = Tls::load(authority.write_leaf((2050, 1, 1))).expect("load");
    let server = tls.server_config(Profile::WEBSOCKET).expect("config");
    let client = authority.client(None);
    assert_eq!(client.crypto_provider().cipher_suites[0].suite(), CipherSuite::TLS13_AES_256_GCM_SHA384);
    let suite = |client: ClientConfig| {
        let (client, _) = shake(&Arc::new(client), &server).expect("handshake");
        client.negotiated_cipher_suite().map(|suite| suite.suite())
    };
    assert_eq!(suite(client), Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
    let mut only = aws_lc_rs::default_provider();
    only.cipher_suites.truncate(1);
    let builder =
        ClientConfig::builder_with_provider(Arc::new(only)).with_protocol_versions(&[&TLS13]).expect("TLS 1.3");
    let stubborn = builder.with_root_certificates(authority.roots()).with_no_client_auth();
    assert_eq!(suite(stubborn), Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
}

#[test]
fn a_new_certificate_is_seen_by_configurations_that_are_there() {
    let authority = Authority::new();
    let tls = Tls::load(authority.write_leaf((2050, 1, 1))).expect("load");
    let server = tls.server_config(Profile::WEBSOCKET).expect("config");
    let client = Arc::new(authority.client(None));
    let (first, _) = shake(&client, &server).expect("handshake");
    let before = tls.status();
    assert_eq!(before.not_after, 2_524_608_000);
    assert_eq!(aws_lc_rs_digest(&leaf(&first)), before.sha256);
    assert_eq!(tls.check_files().expect("look"), Checked::Unchanged);

    authority.write_leaf((2051, 1, 1));
    assert_eq!(tls.check_files().expect("look"), Checked::Reloaded);
    let (second, _) = shake(&Arc::new(authority.client(None)), &server).expect("handshake");
    assert_ne!(leaf(&first), leaf(&second));
    assert_ne!(tls.status(), before);
    assert_eq!(tls.reloads(), (1, 0));
}

fn aws_lc_rs_digest(bytes: &[u8]) -> [u8; 32] {
    ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().expect("32 bytes")
}

#[test]
fn what_is_wrong_with_a_file_is_said_and_changes_nothing() {
    let authority = Authority::new();
    let config = authority.write_leaf((2050, 1, 1));
    let config = TlsConfig { client_ca: Some(authority.write_ca()), ..config };
    let tls = Tls::load(config.clone()).expect("load");
    let before = tls.status();
    let read = |path: &Path| std::fs::read_to_string(path).expect("read");
    let (certificate, key, roots) =
        (read(&config.certificate), read(&config.key), read(config.client_ca.as_ref().expect("a path")));
    let other_key = KeyPair::generate().expect("key").serialize_pem();
    authority.write_leaf((2001, 1, 1));
    let (old_certificate, old_key) = (read(&config.certificate), read(&config.key));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mut failures = 0;
    let mut check = |files: [Option<&str>; 3], expect: &str| {
        let paths = [&config.certificate, &config.key, config.client_ca.as_ref().expect("a path")];
        for (path, text) in paths.into_iter().zip(files) {
            match text {
                Some(text) => std::fs::write(path, text).expect("write"),
                None => std::fs::remove_file(path).expect("remove"),
            }
        }
        let error = tls.reload().expect_err(expect).to_string();
        assert!(error.contains(expect), "{error:?} lacks {expect:?}");
        failures += 1;
        assert_eq!((tls.status(), tls.reloads()), (before, (0, failures)));
        let again = Tls::load(config.clone()).map(|_| ()).map_err(|error| error.to_string());
        // At a start, the one thing that is no reason to stay away is a certificate that has ended.
        assert_eq!(again.is_ok(), expect.contains("expired"), "{again:?}");
    };
    check([None, Some(&key), Some(&roots)], "certificate ");
    check([Some(""), Some(&key), Some(&roots)], "node.pem");
    check([Some(broken), Some(&key), Some(&roots)], "node.pem");
    check([Some(&certificate), None, Some(&roots)], "key ");
    check([Some(&certificate), Some(&certificate), Some(&roots)], "node.key");
    check([Some(&certificate), Some(&other_key), Some(&roots)], "is not the one that certificate");
    check([Some(&old_certificate), Some(&old_key), Some(&roots)], "expired");
    check([Some(&certificate), Some(&key), Some(&key)], "client CA");
    check([Some(&certificate), Some(&key), Some(broken)], "ca.pem");
}

/// A bad state is told once and not at every look.
#[test]
fn a_bad_file_is_told_once() {
    let authority = Authority::new();
    let config = authority.write_leaf((2050, 1, 1));
    let tls = Tls::load(config.clone()).expect("load");
    std::fs::write(&config.key, "nothing").expect("write");
    tls.check_files().expect_err("no key");
    assert_eq!(tls.check_files().expect("nothing new"), Checked::Unchanged);
    authority.write_leaf((2052, 1, 1));
    assert_eq!(tls.check_files().expect("look"), Checked::Reloaded);
    assert_eq!(tls.reloads(), (1, 1));
}

#[test]
fn tickets_are_good_for_every_configuration_of_the_node() {
    let authority = Authority::new();
    let tls = Tls::load(authority.write_leaf((2050, 1, 1))).expect("load");
    let client = Arc::new(authority.client(None));
    let (_, server) = shake(&client, &tls.server_config(Profile::WEBSOCKET).expect("config")).expect("handshake");
    assert!(!resumed(&server));
    let (_, server) = shake(&client, &tls.server_config(Profile::WEBSOCKET).expect("config")).expect("handshake");
    assert!(resumed(&server));
    // A new certificate is no reason to begin anew.
    authority.write_leaf((2051, 1, 1));
    tls.reload().expect("reload");
    let (_, server) = shake(&client, &tls.server_config(Profile::WEBSOCKET).expect("config")).expect("handshake");
    assert!(resumed(&server));
}

#[test]
fn only_clients_with_a_certificate_of_the_present_roots_get_in() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let config = TlsConfig { client_ca: Some(authority.write_ca()), ..authority.write_leaf((2050, 1, 1)) };
    let tls = Tls::load(config.clone()).expect("load");
    let remembered =
        Profile { resumption: Resumption::Remembered { sessions_max: 64 }, tls12: false, ..Profile::WEBSOCKET };
    for profile in [Profile::WEBSOCKET, remembered] {
        let server = tls.server_config(profile).expect("config");
        let known = Arc::new(authority.client(Some(&authority)));
        shake(&known, &server).expect("a known client");
        assert!(resumed(&shake(&known, &server).expect("it comes back").1));
        shake(&Arc::new(authority.client(None)), &server).expect_err("no certificate");
        shake(&Arc::new(authority.client(Some(&stranger))), &server).expect_err("a stranger's certificate");

        // Other roots: who was let in by the old ones does not come back, by a ticket neither.
        let roots = std::fs::read_to_string(stranger.write_ca()).expect("read");
        std::fs::write(config.client_ca.as_ref().expect("a path"), roots).expect("write");
        tls.reload().expect("reload");
        shake(&known, &server).expect_err("its root is gone");
        shake(&Arc::new(authority.client(Some(&stranger))), &server).expect("the new root's");
        authority.write_ca();
        tls.reload().expect("reload");
    }
}

#[test]
fn a_protocol_is_agreed_or_nothing_is() {
    let authority = Authority::new();
    let tls = Tls::load(authority.write_leaf((2050, 1, 1))).expect("load");
    let server = tls.server_config(Profile::WEBSOCKET).expect("config");
    let check = |offered: &[&[u8]], expect: Option<Option<&[u8]>>| {
        let mut client = authority.client(None);
        client.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let agreed = shake(&Arc::new(client), &server).ok();
        let agreed = agreed.as_ref().map(|(_, server)| server.alpn_protocol());
        assert_eq!(agreed, expect, "{offered:?}");
    };
    check(&[], Some(None));
    check(&[b"h2", b"http/1.1"], Some(Some(b"http/1.1")));
    check(&[b"h2"], None);
}
