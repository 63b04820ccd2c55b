//! A server's bytes, cut where its frames end.

use millrace_protocol::client::{ServerBody, decode_server};
use millrace_protocol::ws::{Limits, Opcode, Role, decode_header};

/// Largest frame of a server, and some.
const MESSAGE_BYTES_MAX: u32 = 2 << 20;

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
    /// The head of the HTTP answer.
    #[default]
    Head,
    Frames,
    /// No longer understood: bytes go through.
    Raw,
}

impl Frames {
    /// The frames that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Unit> {
        self.waiting.extend_from_slice(bytes);
        let mut units = Vec::new();
        while let Some(unit) = self.next() {
            units.push(unit);
        }
        units
    }

    fn next(&mut self) -> Option<Unit> {
        if self.waiting.is_empty() {
            return None;
        }
        match self.stage {
            Stage::Head => {
                let end = self.waiting.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
                let upgraded = self.waiting.starts_with(b"HTTP/1.1 101");
                self.stage = if upgraded { Stage::Frames } else { Stage::Raw };
                Some(self.take(end))
            }
            Stage::Frames => {
                let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX };
                let (header, header_bytes) = match decode_header(&self.waiting, Role::Client, &limits) {
                    Ok(header) => header?,
                    Err(_) => {
                        self.stage = Stage::Raw;
                        return self.next();
                    }
                };
                let end = header_bytes + usize::try_from(header.payload_bytes).ok()?;
                if self.waiting.len() < end {
                    return None;
                }
                let mut unit = self.take(end);
                if header.opcode == Opcode::Binary && header.fin {
                    name(&mut unit, header_bytes);
                }
                Some(unit)
            }
            Stage::Raw => Some(self.take(self.waiting.len())),
        }
    }

    fn take(&mut self, end: usize) -> Unit {
        Unit { bytes: self.waiting.drain(..end).collect(), name: "other", text: None, payload: None }
    }
}

fn name(unit: &mut Unit, header_bytes: usize) {
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
