//! A client over QUIC, made of quinn on a runtime of its own: as independent of the node's driver as one in Rust can be.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use millrace_data::{Config, QuicAddress, TlsConfig};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, Publish, Published, SUBPROTOCOL, Start, Subscribe, VERSION, encode_client,
};
use millrace_protocol::stream::FrameReader;
use millrace_protocol::{ChannelId, Code, Position, Producer, ProducerSequence};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendDatagramError, SendStream, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::client::{Frame, Message, frame};
use super::{PATIENCE, config, transport, web};

const FRAME_BYTES_MAX: usize = 1 << 20;
/// What is read of a stream at a time.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Frames that a client takes before its test does: what comes then waits in its streams, as with a client that is slow.
const FRAMES_MAX: usize = 64;

/// A certificate for tests, and the clients that trust it.
pub(crate) struct Trust {
    /// None for the certificate that all transports share.
    folder: Option<Arc<TempDir>>,
    client: ClientConfig,
    layer: Layer,
}

/// What is between QUIC and frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Nothing,
    Web,
    /// The test writes what there is, and what comes is passed over.
    Raw,
}

impl Trust {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
        std::fs::write(folder.path().join("node.pem"), made.cert.pem()).expect("write");
        std::fs::write(folder.path().join("node.key"), made.signing_key.serialize_pem()).expect("write");
        let client = client(&folder.path().join("node.pem"), SUBPROTOCOL.as_bytes());
        Self { folder: Some(Arc::new(folder)), client, layer: Layer::Nothing }
    }

    /// For nodes with the certificate that all transports of the table share.
    pub(crate) fn of_the_table() -> Self {
        Self { folder: None, client: client(&transport::root(), SUBPROTOCOL.as_bytes()), layer: Layer::Nothing }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(transport::folder, |folder| folder.path().to_owned()).join(name)
    }

    /// What clients have to trust.
    fn root(&self) -> PathBuf {
        self.folder.as_ref().map_or_else(transport::root, |folder| folder.path().join("node.pem"))
    }

    /// The same, for clients of another protocol.
    pub(crate) fn speaking(&self, protocol: &[u8]) -> Self {
        Self { folder: self.folder.clone(), client: client(&self.root(), protocol), layer: Layer::Raw }
    }

    /// The same, for clients that open a session of WebTransport.
    pub(crate) fn over_web(&self) -> Self {
        Self { layer: Layer::Web, ..self.speaking(b"h3") }
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
pub(crate) fn runtime() -> &'static Runtime {
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
    /// The session's, if it is one of WebTransport.
    pub(crate) request: Option<web::Request>,
    got: Receiver<Got>,
    passed: VecDeque<Got>,
    asked: u32,
    /// Whether what was sent before the handshake was done was taken.
    pub(crate) early: bool,
}

/// What came from the node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Got {
    /// A frame; from a channel's stream if the number is not 0.
    Frame(Frame, u64),
    /// The node asks whether somebody is there.
    Ping,
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
        let (tell, got) = channel(FRAMES_MAX);
        let (endpoint, connection, control, request, early) = runtime().block_on(async {
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
            let request = match trust.layer {
                Layer::Nothing | Layer::Raw => None,
                Layer::Web => {
                    let (request, answer) = web::open(&connection).await?;
                    tokio::spawn(read_end(answer, connection.clone(), tell.clone()));
                    Some(request)
                }
            };
            let (mut control, replies) = connection.open_bi().await?;
            let session = request.as_ref().map(|request| request.id);
            let first = [&session.map(web::stream_prefix).unwrap_or_default(), first].concat();
            // Who finds no place may hear of it by now.
            control.write_all(&first).await.map_err(|_| connection.close_reason().unwrap_or(ConnectionError::Reset))?;
            if trust.layer == Layer::Raw {
                tokio::spawn(pass_over(replies));
            } else {
                tokio::spawn(read_stream(replies, 0, tell.clone()));
                tokio::spawn(read_streams(connection.clone(), session, tell));
            }
            let early = match accepted {
                Some(accepted) => accepted.await,
                None => false,
            };
            Ok::<_, ConnectionError>((endpoint, connection, control, request, early))
        })?;
        let (beside, passed) = (Vec::new(), VecDeque::new());
        Ok(Self { endpoint, connection, control, beside, request, got, passed, asked: 1, early })
    }

    /// Goes on from another socket, without a word to the node: as behind a NAT that has forgotten, or in another network.
    pub(crate) fn move_on(&self) {
        self.go_on_from(UdpSocket::bind("127.0.0.1:0").expect("socket"));
    }

    /// Goes on from this socket.
    pub(crate) fn go_on_from(&self, socket: UdpSocket) {
        let _guard = runtime().enter();
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

    /// Sends a datagram, once there is room for it, if the node has not ended the connection.
    pub(crate) fn send_datagram(&self, bytes: Vec<u8>) -> Result<(), SendDatagramError> {
        let prefix = self.request.as_ref().map(|request| web::datagram_prefix(request.id)).unwrap_or_default();
        let datagram = [prefix, bytes].concat().into();
        runtime().block_on(self.connection.send_datagram_wait(datagram))
    }

    pub(crate) fn ask(&mut self, body: ClientBody<'_>) -> u32 {
        self.asked += 1;
        let request = self.asked;
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
                Got::Frame(..) | Got::Ping | Got::End(_) => {}
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

    /// What came, or comes in this time. Pings are answered.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Got> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match runtime().block_on(async { tokio::time::timeout(left, self.got.recv()).await }).ok()?? {
                // The node may have ended it meanwhile.
                Got::Ping => drop(self.try_send(&encoded(0, ClientBody::Pong))),
                got => return Some(got),
            }
        }
    }
}

async fn read_streams(connection: Connection, session: Option<u64>, tell: Sender<Got>) {
    loop {
        match connection.accept_uni().await {
            Ok(mut stream) => {
                let (id, tell) = (u64::from(VarInt::from(stream.id())), tell.clone());
                tokio::spawn(async move {
                    match session {
                        Some(session) if !web::enters(&mut stream, session).await => pass_over(stream).await,
                        _ => read_stream(stream, id, tell).await,
                    }
                });
            }
            Err(error) => {
                let _ = tell.send(Got::Closed(error)).await;
                return;
            }
        }
    }
}

/// Tells how the session ends, if it does in the words of WebTransport.
async fn read_end(answer: web::Answer, connection: Connection, tell: Sender<Got>) {
    if let Some(closed) = answer.closed().await {
        let _ = tell.send(Got::Closed(closed)).await;
        connection.close(web::NO_ERROR, &[]);
    }
}

async fn read_stream(mut stream: RecvStream, id: u64, tell: Sender<Got>) {
    let mut reader = FrameReader::new();
    while let Ok(Some(chunk)) = stream.read_chunk(CHUNK_BYTES_MAX, true).await {
        reader.push(chunk.bytes);
        while let Some(bytes) = reader.front(FRAME_BYTES_MAX).expect("the node's frames are well formed") {
            let got = frame(bytes).map_or(Got::Ping, |frame| Got::Frame(frame, id));
            reader.pop();
            if tell.send(got).await.is_err() {
                return;
            }
        }
    }
    let _ = tell.send(Got::End(id)).await;
}

/// Reads what holds no frames.
async fn pass_over(mut stream: RecvStream) {
    while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
}
