//! A client over QUIC, made of quinn on a runtime of its own: as independent of the node's driver as one in Rust can be.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millrace_data::{Config, QuicAddress, TlsConfig};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, Publish, Published, SUBPROTOCOL, Start, Subscribe, VERSION, encode_client,
};
use millrace_protocol::stream::FrameReader;
use millrace_protocol::{ChannelId, Code, Position, Producer, ProducerSequence};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::client::{Frame, Message, frame};
use super::{PATIENCE, config, transport};

const FRAME_BYTES_MAX: usize = 1 << 20;

/// A certificate for tests, and the clients that trust it.
pub(crate) struct Trust {
    /// None for the certificate that all transports share.
    folder: Option<Arc<TempDir>>,
    client: ClientConfig,
    /// What the node sends is frames.
    is_ours: bool,
}

impl Trust {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
        std::fs::write(folder.path().join("node.pem"), made.cert.pem()).expect("write");
        std::fs::write(folder.path().join("node.key"), made.signing_key.serialize_pem()).expect("write");
        let client = client(&folder.path().join("node.pem"), SUBPROTOCOL.as_bytes());
        Self { folder: Some(Arc::new(folder)), client, is_ours: true }
    }

    /// For nodes with the certificate that all transports of the table share.
    pub(crate) fn of_the_table() -> Self {
        Self {
            folder: None,
            client: client(&transport::folder().join("ca.pem"), SUBPROTOCOL.as_bytes()),
            is_ours: true,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(transport::folder, |folder| folder.path().to_owned()).join(name)
    }

    /// The same, for clients of another protocol.
    pub(crate) fn speaking(&self, protocol: &[u8]) -> Self {
        Self { folder: self.folder.clone(), client: client(&self.path("node.pem"), protocol), is_ours: false }
    }

    /// A node with this certificate that takes clients by QUIC.
    pub(crate) fn config(&self) -> Config {
        let tls = TlsConfig::new(self.path("node.pem"), self.path("node.key"));
        Config { tls: Some(tls), client_quic_address: QuicAddress::At(([127, 0, 0, 1], 0).into()), ..config() }
    }
}

fn client(root: &Path, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(root).expect("certificate");
    roots.add(root).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls.enable_early_data = true;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("cipher suite")))
}

/// That of all clients of the process.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
    })
}

/// First packets of so many clients, which go no further.
pub(crate) fn first_packets(trust: &Trust, count: usize) -> Vec<Vec<u8>> {
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("socket");
    nobody.set_read_timeout(Some(PATIENCE)).expect("read timeout");
    let address = nobody.local_addr().expect("address");
    let _guard = runtime().enter();
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("endpoint");
    let mut packets: Vec<Vec<u8>> = Vec::new();
    // One that is dropped may begin with its end.
    let mut connecting = Vec::new();
    let mut buffer = [0; 2048];
    while packets.len() < count {
        connecting.push(endpoint.connect_with(trust.client.clone(), address, "localhost").expect("connect"));
        let bytes = nobody.recv(&mut buffer).expect("a first packet");
        // The id that the client chose, without which it would be one that was sent again.
        if packets.iter().all(|packet| packet[6..14] != buffer[6..14]) {
            packets.push(buffer[..bytes].to_vec());
        }
    }
    packets
}

/// A client that speaks the protocol over QUIC and nothing else.
pub(crate) struct QuicClient {
    endpoint: Endpoint,
    pub(crate) connection: Connection,
    control: SendStream,
    beside: Vec<SendStream>,
    got: Receiver<Got>,
    passed: VecDeque<Got>,
    request: u32,
    /// Whether what was sent before the handshake was done was taken.
    pub(crate) early: bool,
}

/// What came from the node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Got {
    /// A frame; from a channel's stream if the number is not 0.
    Frame(Frame, u64),
    /// A stream is at its end.
    End(u64),
    /// The connection is.
    Closed(ConnectionError),
}

fn hello(token: &str) -> Vec<u8> {
    let body = ClientBody::Hello(Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        token,
        agent: "quic test",
        subscriptions: Vec::new(),
    });
    encoded(1, body)
}

fn encoded(request: u32, body: ClientBody<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_client(&ClientFrame { request, body }, &mut bytes);
    bytes
}

impl QuicClient {
    /// Connects and says nothing.
    pub(crate) fn open(trust: &Trust, address: SocketAddr) -> Self {
        Self::try_open(trust, address, &[], false).expect("connect")
    }

    /// Opens a session.
    pub(crate) fn connect(trust: &Trust, address: SocketAddr, token: &str) -> Self {
        let mut client = Self::try_open(trust, address, &hello(token), false).expect("connect");
        client.wait("welcome", |frame| matches!(frame, Frame::Welcome { .. }).then_some(()));
        client
    }

    /// Opens a session, and asks for it before the handshake is done if the client was here before.
    pub(crate) fn connect_early(trust: &Trust, address: SocketAddr, token: &str) -> Self {
        let mut client = Self::try_open(trust, address, &hello(token), true).expect("connect");
        client.wait("welcome", |frame| matches!(frame, Frame::Welcome { .. }).then_some(()));
        client
    }

    pub(crate) fn try_open(
        trust: &Trust,
        address: SocketAddr,
        first: &[u8],
        early: bool,
    ) -> Result<Self, ConnectionError> {
        let (tell, got) = channel();
        let (endpoint, connection, control, early) = runtime().block_on(async {
            let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("endpoint");
            endpoint.set_default_client_config(trust.client.clone());
            let connecting = endpoint.connect(address, "localhost").expect("connect");
            let (connection, accepted) = match connecting.into_0rtt() {
                Ok((connection, accepted)) if early => (connection, Some(accepted)),
                Ok((connection, accepted)) => {
                    accepted.await;
                    (connection, None)
                }
                Err(connecting) => (connecting.await?, None),
            };
            let (mut control, replies) = connection.open_bi().await?;
            control.write_all(first).await.expect("write");
            if trust.is_ours {
                tokio::spawn(read_stream(replies, 0, tell.clone()));
                tokio::spawn(read_streams(connection.clone(), tell));
            } else {
                tokio::spawn(pass_over(replies));
            }
            let early = match accepted {
                Some(accepted) => accepted.await,
                None => false,
            };
            Ok::<_, ConnectionError>((endpoint, connection, control, early))
        })?;
        let request = 1;
        let (beside, passed) = (Vec::new(), VecDeque::new());
        Ok(Self { endpoint, connection, control, beside, got, passed, request, early })
    }

    /// Goes on from another socket, without a word to the node: as behind a NAT that has forgotten, or in another network.
    pub(crate) fn move_on(&self) {
        let _guard = runtime().enter();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
        self.endpoint.rebind(socket).expect("rebind");
    }

    /// Hears nothing any more and says nothing, not even that something came; the node is not told.
    pub(crate) fn fall_silent(&self) {
        let _guard = runtime().enter();
        // A socket whose datagrams go nowhere, and to which none come.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
        socket.connect("127.0.0.1:9").expect("connect");
        self.endpoint.rebind(socket).expect("rebind");
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        runtime().block_on(self.control.write_all(bytes)).expect("write");
    }

    /// Sends bytes, unless the node has ended it.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        runtime().block_on(self.control.write_all(bytes)).map_err(io::Error::other)
    }

    /// Sends bytes on a unidirectional stream of their own, which stays open, if the node has not ended the connection.
    pub(crate) fn send_beside(&mut self, bytes: &[u8]) {
        let sent = runtime().block_on(async {
            let mut stream = self.connection.open_uni().await.ok()?;
            stream.write_all(bytes).await.ok()?;
            Some(stream)
        });
        self.beside.extend(sent);
    }

    /// Says goodbye.
    pub(crate) fn finish(&mut self) {
        self.control.finish().expect("finish");
    }

    /// The same, unless the node has ended it.
    pub(crate) fn try_finish(&mut self) -> io::Result<()> {
        self.control.finish().map_err(io::Error::other)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    pub(crate) fn break_off(&mut self) {
        self.control.reset(VarInt::from_u32(1)).expect("reset");
    }

    /// Sends a datagram.
    pub(crate) fn send_datagram(&self, bytes: Vec<u8>) {
        self.connection.send_datagram(bytes.into()).expect("datagram");
    }

    pub(crate) fn ask(&mut self, body: ClientBody<'_>) -> u32 {
        self.request += 1;
        let request = self.request;
        self.send_raw(&encoded(request, body));
        request
    }

    /// Subscribes and waits for the answer: the channel, its position, and the stream that it came on.
    pub(crate) fn subscribe(&mut self, channel: &str, start: Start) -> (ChannelId, Position, u64) {
        let asked = self.ask(ClientBody::Subscribe(Subscribe { channel, start }));
        self.wait_on("subscribed", |frame, stream| match frame {
            Frame::Subscribed { request, channel, position, .. } if *request == asked => {
                Some((*channel, *position, stream))
            }
            Frame::Error { request, code } if *request == asked => panic!("subscribe was refused with {code}"),
            _ => None,
        })
    }

    pub(crate) fn publish(&mut self, channel: ChannelId, producer: u64, sequence: u64, body: &[u8]) -> u32 {
        let producer = Producer::new(producer).expect("not 0");
        let sequence = ProducerSequence::new(sequence).expect("not 0");
        self.ask(ClientBody::Publish(Publish { channel, producer, sequence, body }))
    }

    pub(crate) fn acknowledged(&mut self, asked: u32) -> Published {
        self.wait("published", |frame| match frame {
            Frame::Published { request, published } if *request == asked => Some(*published),
            Frame::Error { request, code } if *request == asked => panic!("publish was refused with {code}"),
            _ => None,
        })
    }

    pub(crate) fn message(&mut self) -> Message {
        self.wait("message", |frame| match frame {
            Frame::Message(message) => Some(message.clone()),
            _ => None,
        })
    }

    pub(crate) fn wait<T>(&mut self, what: &str, mut take: impl FnMut(&Frame) -> Option<T>) -> T {
        self.wait_on(what, |frame, _| take(frame))
    }

    /// Takes frames until one is what is waited for. What it passes over is kept for later.
    pub(crate) fn wait_on<T>(&mut self, what: &str, mut take: impl FnMut(&Frame, u64) -> Option<T>) -> T {
        let mut passed = Vec::new();
        loop {
            let got = self.next();
            if let Got::Frame(frame, stream) = &got
                && let Some(found) = take(frame, *stream)
            {
                passed.into_iter().rev().for_each(|got| self.passed.push_front(got));
                return found;
            }
            assert!(!matches!(got, Got::Closed(_)), "waited for {what}, passed over {passed:?}, then {got:?}");
            passed.push(got);
        }
    }

    /// The code that the node closes with.
    pub(crate) fn closed(&mut self) -> Result<(u64, String), ConnectionError> {
        loop {
            match self.next() {
                Got::Closed(ConnectionError::ApplicationClosed(close)) => {
                    return Ok((close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned()));
                }
                Got::Closed(error) => return Err(error),
                Got::Frame(..) | Got::End(_) => {}
            }
        }
    }

    pub(crate) fn closed_with(&mut self) -> Option<Code> {
        let (code, _) = self.closed().expect("closed by the node's application");
        Code::from_number(u16::try_from(code).ok()?)
    }

    pub(crate) fn next(&mut self) -> Got {
        if let Some(got) = self.passed.pop_front() {
            return got;
        }
        self.next_within(PATIENCE).expect("the node says nothing")
    }

    /// What came, or comes in this time.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Got> {
        self.got.recv_timeout(time).ok()
    }
}

async fn read_streams(connection: Connection, tell: Sender<Got>) {
    loop {
        match connection.accept_uni().await {
            Ok(stream) => {
                let id = u64::from(VarInt::from(stream.id()));
                tokio::spawn(read_stream(stream, id, tell.clone()));
            }
            Err(error) => {
                let _ = tell.send(Got::Closed(error));
                return;
            }
        }
    }
}

async fn read_stream(mut stream: RecvStream, id: u64, tell: Sender<Got>) {
    let mut reader = FrameReader::new();
    while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
        reader.push(chunk.bytes);
        while let Some(bytes) = reader.front(FRAME_BYTES_MAX).expect("the node's frames are well formed") {
            if let Some(frame) = frame(bytes) {
                let _ = tell.send(Got::Frame(frame, id));
            }
            reader.pop();
        }
    }
    let _ = tell.send(Got::End(id));
}

/// Reads what holds no frames.
async fn pass_over(mut stream: RecvStream) {
    while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
}
