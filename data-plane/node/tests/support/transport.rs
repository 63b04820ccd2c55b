//! What carries the frames of the tests' clients. The same tests run over each transport, one process for each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millrace_data::{DataNode, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::PATIENCE;
use super::quic::{QuicClient, Trust};

/// Names the transport of a process's tests.
pub(crate) const VARIABLE: &str = "MILLRACE_TEST_TRANSPORT";

/// What carries a client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Ws,
    Wss,
    Quic,
    Web,
}

/// All of them.
pub(crate) const TRANSPORTS: &[Transport] = &[Transport::Ws, Transport::Wss, Transport::Quic, Transport::Web];

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
            Self::Web => "webtransport",
        }
    }

    /// Tests that are of another transport alone: how a WebSocket begins, is framed, compressed and reset, and of TCP.
    pub(crate) fn skips(self) -> &'static [&'static str] {
        match self {
            Self::Ws | Self::Wss => &[],
            Self::Quic | Self::Web => &[
                "compression::",
                "door::a_hello",
                "door::silent",
                "door::who_dawdles",
                "drain::a_node_that_is_dropped",
                "garbage::",
                "handshake::",
                "limits::",
                "slow_reader::a_reader_that_never",
                "slow_reader::a_stuck",
                "websocket::",
            ],
        }
    }

    /// That of this process.
    pub(crate) fn here() -> Self {
        let Ok(name) = std::env::var(VARIABLE) else { return Self::Ws };
        *TRANSPORTS.iter().find(|transport| transport.name() == name).expect("a transport of the table")
    }
}

/// Where clients of this process's transport connect.
pub(crate) fn door(node: &DataNode) -> SocketAddr {
    match Transport::here() {
        Transport::Ws => node.client_address,
        Transport::Wss => node.client_tls_address.expect("the node listens for TLS"),
        Transport::Quic | Transport::Web => node.client_quic_address.expect("the node takes clients by QUIC"),
    }
}

/// A connection's two directions.
pub(crate) enum Wire {
    Clear(TcpStream),
    Sealed(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Carries frames as they are: there is no WebSocket. WebTransport is around its streams, if that is the transport.
    Quic(Box<QuicClient>),
}

/// Connects over this process's transport.
pub(crate) fn dial(address: SocketAddr) -> Wire {
    match Transport::here() {
        Transport::Ws => Wire::Clear(dial_tcp(address)),
        Transport::Wss => Wire::sealed(address, &client_config()),
        Transport::Quic => Wire::Quic(Box::new(QuicClient::open(&Trust::of_the_table(), address))),
        Transport::Web => Wire::Quic(Box::new(QuicClient::open(&Trust::of_the_table().over_web(), address))),
    }
}

/// Connects and says nothing.
pub(crate) fn dial_tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("write timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

impl Wire {
    /// Connects over TLS; the handshake comes with the first byte that is written or read.
    pub(crate) fn sealed(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("client");
        Self::Sealed(Box::new(StreamOwned::new(tls, dial_tcp(address))))
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Clear(stream) => stream,
            Self::Sealed(stream) => &stream.sock,
            Self::Quic(_) => panic!("a test of TCP over QUIC"),
        }
    }

    pub(crate) fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            // Who reads from it says how long.
            Self::Quic(_) => Ok(()),
            _ => self.tcp().set_read_timeout(time),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Quic(client) => client.local_addr(),
            _ => self.tcp().local_addr(),
        }
    }

    /// Says no more, as the transport has it.
    pub(crate) fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if let Self::Quic(client) = self {
            return client.try_finish();
        }
        if let Self::Sealed(stream) = self {
            stream.conn.send_close_notify();
            // The node may have closed its socket meanwhile.
            let _ = stream.flush();
        }
        self.tcp().shutdown(how)
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer),
            Self::Sealed(stream) => match stream.read(buffer) {
                // Who is cut off is not told so by TLS; to these tests it is an end like that of TCP.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
            Self::Quic(_) => Err(ErrorKind::Unsupported.into()),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Sealed(stream) => stream.write(bytes),
            Self::Quic(client) => client.try_send(bytes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Sealed(stream) => stream.flush(),
            Self::Quic(_) => Ok(()),
        }
    }
}

/// The certificate of the tests' nodes. Made once for all processes and runs.
pub(crate) fn tls_config() -> TlsConfig {
    let folder = folder();
    TlsConfig::new(folder.join("node.pem"), folder.join("node.key"))
}

/// A client that trusts it. Each has a memory of tickets of its own.
pub(crate) fn client_config() -> Arc<ClientConfig> {
    let ca = CertificateDer::from_pem_file(root()).expect("the tests' root");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

/// What clients have to trust.
pub(crate) fn root() -> PathBuf {
    folder().join("ca.pem")
}

/// Root and certificate of the tests' nodes, and the node's key.
pub(crate) fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("millrace-node-tls");
        if !place.join("node.key").exists() {
            let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("issuer");
            let key = KeyPair::generate().expect("key");
            let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            let leaf = params.signed_by(&key, &issuer).expect("certificate");
            for (name, text) in [("ca.pem", issuer.pem()), ("node.pem", leaf.pem()), ("node.key", key.serialize_pem())]
            {
                std::fs::write(new.path().join(name), text).expect("write");
            }
            // Whole or not at all: another process may be making the same. The first one's stays.
            let _ = std::fs::rename(new.path(), &place);
        }
        place
    });
    made.clone()
}
