//! A client that speaks the protocol and nothing else: it retries nothing, so tests see what the node did.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use millrace_protocol::client::{
    ClientBody, ClientFrame, HistoryRange, HistoryRequest, Publish, Published, SUBPROTOCOL, ServerBody, Start,
    Subscribe, VERSION, decode_server, encode_client,
};
use millrace_protocol::ws::deflate::Inflater;
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest, ResponseError};
use millrace_protocol::ws::{Decoder, Event, Limits, Opcode, Role, close, encode};
use millrace_protocol::{ChannelId, Code, Position, Producer, ProducerSequence, SessionId};

use quinn::ConnectionError;

use super::PATIENCE;
use super::quic::Got as QuicGot;
use super::transport::{Wire, dial, dial_tcp};

/// With compression or without.
type Handshake = fn(&ClientRequest<'_>) -> Result<(ClientHandshake, Vec<u8>), ResponseError>;

/// A connection to a node, before or after its hello: a WebSocket, or whatever else this process's transport is.
pub(crate) struct Client {
    pub(crate) stream: Wire,
    decoder: Decoder,
    /// There if compression was agreed to.
    pub(crate) inflater: Option<Inflater>,
    /// What was read and decoded and not asked for yet.
    got: std::collections::VecDeque<Got>,
    request: u32,
}

/// What came from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Frame(Frame),
    Pong(Vec<u8>),
    Close(u16, String),
    /// The node closed its side.
    End,
    /// The connection was reset.
    Reset,
}

/// Server frames, owned, as far as these tests look at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Welcome { session: SessionId, subscriptions_max: u32 },
    Subscribed { request: u32, channel: ChannelId, position: Position, whole: bool, reload: u16 },
    Published { request: u32, published: Published },
    Message(Message),
    Page { offsets: Vec<u64>, more: bool },
    Error { request: u32, code: u16 },
    GoAway { code: u16, after_ms: u32 },
    Unsubscribed { code: u16 },
    Other,
}

/// A message as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) channel: ChannelId,
    pub(crate) position: Position,
    pub(crate) body: Vec<u8>,
}

/// What a client says first.
pub(crate) struct Hello<'a> {
    pub(crate) token: &'a str,
    pub(crate) subscriptions: Vec<Subscribe<'a>>,
}

/// Sends bytes over this process's transport and reads everything until the node closes.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    exchange_over(dial(address), request)
}

/// The same in clear.
pub(crate) fn exchange_tcp(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    exchange_over(dial_tcp(address), request)
}

fn exchange_over(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read to the end");
    answer
}

/// Status and body of an HTTP answer.
pub(crate) fn parse_answer(answer: &[u8]) -> (u16, String) {
    let answer = String::from_utf8_lossy(answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status, body.unwrap_or_default())
}

impl Client {
    /// Opens a WebSocket.
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::open_over(dial(address))
    }

    /// Opens a WebSocket on a connection.
    pub(crate) fn open_over(stream: Wire) -> Self {
        Self::upgrade(stream, ClientHandshake::new)
    }

    /// Opens a WebSocket and offers compression.
    pub(crate) fn open_deflated(address: SocketAddr) -> Self {
        Self::open_deflated_over(dial(address))
    }

    /// Opens a WebSocket on a connection and offers compression.
    pub(crate) fn open_deflated_over(stream: Wire) -> Self {
        Self::upgrade(stream, ClientHandshake::offering_deflate)
    }

    fn upgrade(mut stream: Wire, handshake: Handshake) -> Self {
        let decoder = Decoder::new(Role::Client, Limits { message_bytes_max: 4 << 20 });
        if let Wire::Quic(_) = stream {
            return Self { stream, decoder, inflater: None, got: std::collections::VecDeque::new(), request: 0 };
        }
        let request = ClientRequest {
            host: "node",
            target: "/v1/connect",
            subprotocols: &[SUBPROTOCOL],
            nonce: *b"0123456789abcdef",
        };
        let (mut handshake, head) = handshake(&request).expect("handshake");
        stream.write_all(&head).expect("write");
        let mut buffer = [0; 4096];
        loop {
            let bytes = stream.read(&mut buffer).expect("read");
            assert!(bytes > 0, "the node closed during the handshake");
            if let Some(accepted) = handshake.feed(&buffer[..bytes]).expect("handshake") {
                assert_eq!(accepted.subprotocol.as_deref(), Some(SUBPROTOCOL));
                assert_eq!(accepted.consumed, bytes, "a node speaks after the hello only");
                let inflater = accepted.deflate.then(Inflater::new);
                let got = std::collections::VecDeque::new();
                return Self { stream, decoder, inflater, got, request: 0 };
            }
        }
    }

    /// Opens a session.
    pub(crate) fn connect(address: SocketAddr, token: &str) -> Self {
        Self::connect_over(dial(address), token)
    }

    /// Opens a session on a connection.
    pub(crate) fn connect_over(stream: Wire, token: &str) -> Self {
        let mut client = Self::open_over(stream);
        client.hello(Hello { token, subscriptions: Vec::new() });
        client.wait("welcome", |frame| matches!(frame, Frame::Welcome { .. }).then_some(()));
        client
    }

    /// Sends a hello; its requests count as number 1.
    pub(crate) fn hello(&mut self, hello: Hello<'_>) {
        self.request = 1;
        let hello = millrace_protocol::client::Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: 0,
            token: hello.token,
            agent: "test",
            subscriptions: hello.subscriptions,
        };
        self.send(&ClientFrame { request: 1, body: ClientBody::Hello(hello) });
    }

    pub(crate) fn send(&mut self, frame: &ClientFrame<'_>) {
        let mut payload = Vec::new();
        encode_client(frame, &mut payload);
        match self.stream {
            Wire::Quic(_) => self.send_raw(&payload),
            _ => self.send_ws(Opcode::Binary, &payload),
        }
    }

    pub(crate) fn send_ws(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode::frame(opcode, payload, Some([7, 11, 13, 17]), &mut bytes);
        self.send_raw(&bytes);
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("write");
    }

    fn ask(&mut self, body: ClientBody<'_>) -> u32 {
        self.request += 1;
        let request = self.request;
        self.send(&ClientFrame { request, body });
        request
    }

    /// Subscribes and waits for the answer.
    pub(crate) fn subscribe(&mut self, channel: &str, start: Start) -> (ChannelId, Position) {
        let asked = self.ask(ClientBody::Subscribe(Subscribe { channel, start }));
        self.wait("subscribed", |frame| match frame {
            Frame::Subscribed { request, channel, position, .. } if *request == asked => Some((*channel, *position)),
            Frame::Error { request, code } if *request == asked => panic!("subscribe was refused with {code}"),
            _ => None,
        })
    }

    /// Asks for a subscription that must be refused with this code, before anything else comes.
    pub(crate) fn subscribe_refused(&mut self, channel: &str, expect: Code) {
        let request = self.ask(ClientBody::Subscribe(Subscribe { channel, start: Start::Live }));
        assert_eq!(self.next(), Got::Frame(Frame::Error { request, code: expect.number() }));
    }

    /// Sends a message without waiting for anything; returns the request's number.
    pub(crate) fn publish(&mut self, channel: ChannelId, producer: u64, sequence: u64, body: &[u8]) -> u32 {
        let producer = Producer::new(producer).expect("not 0");
        let sequence = ProducerSequence::new(sequence).expect("not 0");
        self.ask(ClientBody::Publish(Publish { channel, producer, sequence, body }))
    }

    /// Waits for the acknowledgement of a publish.
    pub(crate) fn acknowledged(&mut self, asked: u32) -> Published {
        self.wait("published", |frame| match frame {
            Frame::Published { request, published } if *request == asked => Some(*published),
            Frame::Error { request, code } if *request == asked => panic!("publish was refused with {code}"),
            _ => None,
        })
    }

    /// Waits for the answer to a publish: its acknowledgement or the code of a refusal.
    pub(crate) fn answered(&mut self, asked: u32) -> Result<Published, u16> {
        self.wait("an answer", |frame| match frame {
            Frame::Published { request, published } if *request == asked => Some(Ok(*published)),
            Frame::Error { request, code } if *request == asked => Some(Err(*code)),
            _ => None,
        })
    }

    /// Waits for the next message.
    pub(crate) fn message(&mut self) -> Message {
        self.wait("message", |frame| match frame {
            Frame::Message(message) => Some(message.clone()),
            _ => None,
        })
    }

    /// Reads a page of history: offsets, and whether there is more.
    pub(crate) fn history(&mut self, channel: ChannelId, range: HistoryRange, messages_max: u32) -> (Vec<u64>, bool) {
        self.ask(ClientBody::History(HistoryRequest { channel, messages_max, range }));
        self.wait("page", |frame| match frame {
            Frame::Page { offsets, more } => Some((offsets.clone(), *more)),
            Frame::Error { code, .. } => panic!("history was refused with {code}"),
            _ => None,
        })
    }

    /// Asks something that needs nothing, and waits for the answer: the node serves this session.
    pub(crate) fn is_served(&mut self) {
        let channel = ChannelId::new(u64::MAX).expect("not 0");
        let asked = self.ask(ClientBody::Unsubscribe { channel });
        self.wait("an answer", |frame| match frame {
            Frame::Error { request, .. } => (*request == asked).then_some(()),
            _ => None,
        });
    }

    /// Takes frames until one is what is waited for. What it passes over is kept for later.
    pub(crate) fn wait<T>(&mut self, what: &str, mut take: impl FnMut(&Frame) -> Option<T>) -> T {
        let mut passed = Vec::new();
        loop {
            match self.next() {
                Got::Frame(frame) => match take(&frame) {
                    Some(found) => {
                        passed.into_iter().rev().for_each(|got| self.got.push_front(got));
                        return found;
                    }
                    None => passed.push(Got::Frame(frame)),
                },
                Got::Pong(_) => {}
                end => panic!("waited for {what}, passed over {passed:?}, then came {end:?}"),
            }
        }
    }

    /// Waits for the close frame, passing over everything else, and then for the end of the stream.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next() {
                Got::Close(code, reason) if matches!(self.stream, Wire::Quic(_)) => {
                    assert_eq!(self.next(), Got::End, "after the end");
                    return (code, reason);
                }
                Got::Close(code, reason) => {
                    // A well-behaved client answers, then waits for the end.
                    let mut reply = Vec::new();
                    let code_to_send = Some(code).filter(|&code| close::is_sendable(code));
                    encode::close(code_to_send, "", Some([1, 2, 3, 4]), &mut reply);
                    // The node may have closed its socket meanwhile.
                    let _ = self.stream.write_all(&reply);
                    let _ = self.stream.shutdown(Shutdown::Write);
                    assert_eq!(self.next(), Got::End, "after the close frame");
                    return (code, reason);
                }
                Got::Frame(_) | Got::Pong(_) => {}
                end => panic!("waited for a close frame, then came {end:?}"),
            }
        }
    }

    /// The code of the close frame, as one of ours.
    pub(crate) fn closed_with(&mut self) -> Option<Code> {
        Code::from_number(self.closed().0)
    }

    /// The code of a close frame that is there already, or comes in this time.
    pub(crate) fn closed_within(&mut self, time: Duration) -> Option<u16> {
        while let Ok(()) = self.try_read(time) {
            match self.got.pop_front() {
                Some(Got::Close(code, _)) => return Some(code),
                Some(Got::End | Got::Reset) => return None,
                _ => {}
            }
        }
        None
    }

    /// The next thing that the node says. Pings are answered.
    pub(crate) fn next(&mut self) -> Got {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(got) = self.got.pop_front() {
                return got;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the node says nothing");
            self.try_read(left.max(Duration::from_millis(1))).expect("read");
        }
    }

    /// Reads once, waiting for so long. What comes is in `got`, with the end.
    fn try_read(&mut self, time: Duration) -> std::io::Result<()> {
        if let Wire::Quic(client) = &mut self.stream {
            match client.next_within(time).ok_or(ErrorKind::TimedOut)? {
                QuicGot::Frame(frame, _) => self.got.push_back(Got::Frame(frame)),
                QuicGot::Ping | QuicGot::End(_) => {}
                QuicGot::Closed(ConnectionError::ApplicationClosed(close)) => {
                    let code = u16::try_from(close.error_code.into_inner()).expect("a code of the protocol");
                    let reason = String::from_utf8_lossy(&close.reason).into_owned();
                    self.got.extend([Got::Close(code, reason), Got::End]);
                }
                QuicGot::Closed(_) => self.got.push_back(Got::Reset),
            }
            return Ok(());
        }
        self.stream.set_read_timeout(Some(time))?;
        let mut buffer = [0; 64 << 10];
        let bytes = match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.got.push_back(Got::End);
                return Ok(());
            }
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.got.push_back(Got::Reset);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut pings = 0;
        let mut feed = match &mut self.inflater {
            None => self.decoder.feed(&mut buffer[..bytes]),
            Some(inflater) => self.decoder.feed_deflated(&mut buffer[..bytes], inflater),
        };
        while let Some(event) = feed.next_event().expect("the node's frames are well formed") {
            match event {
                Event::Message { payload, .. } => match frame(payload) {
                    None => pings += 1,
                    Some(frame) => self.got.push_back(Got::Frame(frame)),
                },
                Event::Ping(_) => {}
                Event::Pong(payload) => self.got.push_back(Got::Pong(payload.to_vec())),
                Event::Close { code, reason } => {
                    self.got.push_back(Got::Close(code.unwrap_or(1005), reason.to_owned()));
                }
            }
        }
        drop(feed);
        for _ in 0..pings {
            self.send(&ClientFrame { request: 0, body: ClientBody::Pong });
        }
        Ok(())
    }
}

/// `None` for a ping.
pub(crate) fn frame(payload: &[u8]) -> Option<Frame> {
    let frame = decode_server(payload).expect("the node's frames decode");
    let request = frame.request;
    Some(match frame.body {
        ServerBody::Ping => return None,
        ServerBody::Welcome(welcome) => {
            Frame::Welcome { session: welcome.session, subscriptions_max: welcome.subscriptions_max }
        }
        ServerBody::Subscribed(subscribed) => {
            use millrace_protocol::client::Recovery;
            let reload = match subscribed.recovery {
                Recovery::Reload(code) => code,
                _ => 0,
            };
            Frame::Subscribed {
                request,
                channel: subscribed.channel,
                position: subscribed.position,
                whole: subscribed.recovery == Recovery::Whole,
                reload,
            }
        }
        ServerBody::Published(published) => Frame::Published { request, published },
        ServerBody::Message(message) => Frame::Message(Message {
            channel: message.channel,
            position: message.position,
            body: message.body.to_vec(),
        }),
        ServerBody::Page { messages, more, .. } => {
            Frame::Page { offsets: messages.iter().map(|message| message.position.offset).collect(), more }
        }
        ServerBody::Error { code, .. } => Frame::Error { request, code },
        ServerBody::GoAway { code, after_ms, .. } => Frame::GoAway { code, after_ms },
        ServerBody::Unsubscribed { code, .. } => Frame::Unsubscribed { code },
        _ => Frame::Other,
    })
}
