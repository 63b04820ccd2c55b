//! A server's bytes, cut where its frames end.

use millrace_protocol::client::{ServerBody, decode_server};
use millrace_protocol::ws::{Limits, Opcode, Role, decode_header};

/// Largest frame of a server, and some.
const MESSAGE_BYTES_MAX: u32 = 2 << 20;
/// What stands before a frame on a stream and tells its length.
const TABLE_BYTES: usize = 8;
/// How a stream of WebTransport begins that goes in one direction.
const WEB_STREAM: u64 = 0x54;

/// Bytes that belong together.
#[derive(Debug, PartialEq, Eq)]
pub struct Unit {
    /// As they came.
    pub bytes: Vec<u8>,
    /// What kind of frame; `other` if it is none of the protocol.
    pub name: &'static str,
    /// The body of a message, if it is text.
    pub text: Option<String>,
    /// The frame of the protocol, if it is whole.
    pub payload: Option<Vec<u8>>,
}

/// Cuts. Feed it everything in order.
#[derive(Debug, Default)]
pub struct Frames {
    waiting: Vec<u8>,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The head of the HTTP answer to a WebSocket.
    #[default]
    Head,
    /// Frames in messages of a WebSocket.
    Messages,
    /// What kind of stream of HTTP/3 it is.
    Kind,
    /// Frames one behind another.
    Frames,
    /// Not, or no longer, understood: bytes go through.
    Raw,
}

impl Frames {
    fn at(stage: Stage) -> Self {
        Self { waiting: Vec::new(), stage }
    }

    /// Of a stream that has nothing but frames.
    pub fn stream() -> Self {
        Self::at(Stage::Frames)
    }

    /// Of a stream of the server in HTTP/3, which may be one of a WebTransport session.
    pub fn web_stream() -> Self {
        Self::at(Stage::Kind)
    }

    /// Of bytes that go through as they are.
    pub fn raw() -> Self {
        Self::at(Stage::Raw)
    }

    /// The frames that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Unit> {
        self.waiting.extend_from_slice(bytes);
        let mut units = Vec::new();
        while let Some(unit) = self.next() {
            units.push(unit);
        }
        units
    }

    /// What is no whole frame at the end.
    pub fn rest(self) -> Vec<u8> {
        self.waiting
    }

    fn next(&mut self) -> Option<Unit> {
        if self.waiting.is_empty() {
            return None;
        }
        match self.stage {
            Stage::Head => {
                let end = self.waiting.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
                let upgraded = self.waiting.starts_with(b"HTTP/1.1 101");
                self.stage = if upgraded { Stage::Messages } else { Stage::Raw };
                Some(self.take(end))
            }
            Stage::Messages => {
                let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX };
                let (header, header_bytes) = match decode_header(&self.waiting, Role::Client, &limits) {
                    Ok(header) => header?,
                    Err(_) => return self.give_up(),
                };
                let end = header_bytes + usize::try_from(header.payload_bytes).ok()?;
                if self.waiting.len() < end {
                    return None;
                }
                let mut unit = self.take(end);
                if header.opcode == Opcode::Binary && header.fin {
                    understand(&mut unit, header_bytes);
                }
                Some(unit)
            }
            Stage::Kind => {
                let (kind, kind_bytes) = varint(&self.waiting)?;
                if kind != WEB_STREAM {
                    return self.give_up();
                }
                let (_session, session_bytes) = varint(&self.waiting[kind_bytes..])?;
                self.stage = Stage::Frames;
                Some(self.take(kind_bytes + session_bytes))
            }
            Stage::Frames => {
                let table = self.waiting.first_chunk::<TABLE_BYTES>()?;
                let [a, b, c, d, words @ ..] = *table;
                let words = u32::from_le_bytes(words);
                if [a, b, c, d] != [0; 4] || words > MESSAGE_BYTES_MAX / 8 {
                    return self.give_up();
                }
                let end = TABLE_BYTES + 8 * usize::try_from(words).ok()?;
                if self.waiting.len() < end {
                    return None;
                }
                let mut unit = self.take(end);
                understand(&mut unit, 0);
                Some(unit)
            }
            Stage::Raw => Some(self.take(self.waiting.len())),
        }
    }

    fn give_up(&mut self) -> Option<Unit> {
        self.stage = Stage::Raw;
        self.next()
    }

    fn take(&mut self, end: usize) -> Unit {
        Unit { bytes: self.waiting.drain(..end).collect(), name: "other", text: None, payload: None }
    }
}

/// A datagram of the server. In HTTP/3 it names its session first.
pub(super) fn datagram(bytes: &[u8], is_web: bool) -> Unit {
    let head = if is_web { varint(bytes).map_or(bytes.len(), |(_, head)| head) } else { 0 };
    let mut unit = Unit { bytes: bytes.to_vec(), name: "other", text: None, payload: None };
    understand(&mut unit, head);
    unit
}

/// An integer of QUIC (RFC 9000 §16) and its length; `None` if it is not whole.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
    Some((value, len))
}

fn understand(unit: &mut Unit, header_bytes: usize) {
    let payload = unit.bytes[header_bytes..].to_vec();
    if let Ok(frame) = decode_server(&payload) {
        let (name, text) = match &frame.body {
            ServerBody::Welcome(_) => ("welcome", None),
            ServerBody::Subscribed(_) => ("subscribed", None),
            ServerBody::Unsubscribed { .. } => ("unsubscribed", None),
            ServerBody::Published(_) => ("published", None),
            ServerBody::Message(message) => ("message", std::str::from_utf8(message.body).ok().map(str::to_owned)),
            ServerBody::Page { .. } => ("page", None),
            ServerBody::Refreshed { .. } => ("refreshed", None),
            ServerBody::Error { .. } => ("error", None),
            ServerBody::Ping => ("ping", None),
            ServerBody::GoAway { .. } => ("go-away", None),
            ServerBody::Skipped { .. } => ("skipped", None),
            ServerBody::Read { .. } => ("read", None),
            ServerBody::Unknown => ("unknown", None),
        };
        unit.name = name;
        unit.text = text;
    }
    unit.payload = Some(payload);
}
