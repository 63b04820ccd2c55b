//! The client's side of WebTransport, as much of it as one session needs: another reading of RFC 9114, RFC 9204, RFC 9297 and the draft
//! than the node's.

use bytes::Bytes;
use quinn::{ApplicationClose, Connection, ConnectionError, RecvStream, SendStream, VarInt};

/// Frames of HTTP/3.
const DATA: u64 = 0x0;
const HEADERS: u64 = 0x1;
/// CLOSE_WEBTRANSPORT_SESSION.
const CLOSE: u64 = 0x2843;
/// What a unidirectional stream of a session begins with.
const SESSION_UNI: u64 = 0x54;
/// QPACK's prefix of a section without a dynamic table, then `:status: 200` of the static one (RFC 9204 §4.5.1, appendix A).
const STATUS_200: &[u8] = &[0, 0, 0xd9];
/// H3_NO_ERROR.
pub(crate) const NO_ERROR: VarInt = VarInt::from_u32(0x100);

/// The kind of a control stream, and settings: datagrams, and WebTransport of draft 2.
pub(crate) const CONTROL: &[u8] = b"\0\x04\x07\x33\x01\xab\x60\x37\x42\x01";

/// Appends a number of 1, 2, 4 or 8 bytes (RFC 9000 §16).
pub(crate) fn number(value: u64, to: &mut Vec<u8>) {
    match value {
        0..0x40 => to.extend_from_slice(&value.to_be_bytes()[7..]),
        0x40..0x4000 => to.extend_from_slice(&(value | 0x4000).to_be_bytes()[6..]),
        0x4000..0x4000_0000 => to.extend_from_slice(&(value | 0x8000_0000).to_be_bytes()[4..]),
        _ => to.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Appends a frame or a capsule: kind, length, value.
pub(crate) fn item(kind: u64, value: &[u8], to: &mut Vec<u8>) {
    number(kind, to);
    number(value.len() as u64, to);
    to.extend_from_slice(value);
}

/// The request that opens a session, in one frame. Every field is spelled out (RFC 9204 §4.5.6).
pub(crate) fn request() -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "webtransport"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/v1/connect"),
        ("sec-webtransport-http3-draft02", "1"),
    ];
    let mut section = vec![0, 0];
    for (name, value) in fields {
        let name_bytes = u8::try_from(name.len()).expect("short");
        match name_bytes {
            0..7 => section.push(0x20 | name_bytes),
            _ => section.extend([0x27, name_bytes - 7]),
        }
        section.extend_from_slice(name.as_bytes());
        section.push(u8::try_from(value.len()).expect("short"));
        section.extend_from_slice(value.as_bytes());
    }
    let mut frame = Vec::new();
    item(HEADERS, &section, &mut frame);
    frame
}

/// What a bidirectional stream of a session begins with.
pub(crate) fn stream_prefix(session: u64) -> Vec<u8> {
    let mut prefix = Vec::new();
    number(0x41, &mut prefix);
    number(session, &mut prefix);
    prefix
}

/// What a datagram of a session begins with (RFC 9297 §2.1).
pub(crate) fn datagram_prefix(session: u64) -> Vec<u8> {
    let mut prefix = Vec::new();
    number(session / 4, &mut prefix);
    prefix
}

/// What keeps a session open.
pub(crate) struct Request {
    /// The session's number.
    pub(crate) id: u64,
    _control: SendStream,
    pub(crate) stream: SendStream,
}

/// Opens a session on a connection whose protocol is HTTP/3.
pub(crate) async fn open(connection: &Connection) -> Result<(Request, Answer), ConnectionError> {
    let lost = || connection.close_reason().unwrap_or(ConnectionError::Reset);
    let mut control = connection.open_uni().await?;
    control.write_all(CONTROL).await.map_err(|_| lost())?;
    let (mut stream, answer) = connection.open_bi().await?;
    stream.write_all(&request()).await.map_err(|_| lost())?;
    let mut answer = Answer { stream: answer, bytes: Vec::new() };
    let (kind, section) = answer.next().await.ok_or_else(lost)?;
    assert_eq!((kind, section.get(..STATUS_200.len())), (HEADERS, Some(STATUS_200)), "{section:02x?}");
    let id = VarInt::from(stream.id()).into_inner();
    Ok((Request { id, _control: control, stream }, answer))
}

/// Frames of the node on the stream of a request.
pub(crate) struct Answer {
    stream: RecvStream,
    bytes: Vec<u8>,
}

impl Answer {
    /// The next frame, whole; `None` at the end.
    async fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        loop {
            if let Some((kind, value, len)) = front(&self.bytes) {
                let value = value.to_vec();
                self.bytes.drain(..len);
                return Some((kind, value));
            }
            let chunk = self.stream.read_chunk(usize::MAX, true).await.ok()??;
            self.bytes.extend_from_slice(&chunk.bytes);
        }
    }

    /// Waits until the node has closed the session in its words; `None` if it is lost without them. The client is to close the
    /// connection then.
    pub(crate) async fn closed(mut self) -> Option<ConnectionError> {
        let mut capsules = Vec::new();
        while let Some((kind, value)) = self.next().await {
            assert_eq!(kind, DATA, "a session's stream has DATA alone");
            capsules.extend_from_slice(&value);
            while let Some((kind, value, len)) = front(&capsules) {
                if kind == CLOSE {
                    let (code, reason) = value.split_first_chunk().expect("a code");
                    let error_code = VarInt::from_u32(u32::from_be_bytes(*code));
                    let reason = Bytes::copy_from_slice(reason);
                    return Some(ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason }));
                }
                capsules.drain(..len);
            }
        }
        None
    }
}

/// The first frame or capsule: its kind, its value, and how long it is, once it is whole.
fn front(bytes: &[u8]) -> Option<(u64, &[u8], usize)> {
    let (kind, a) = decode(bytes)?;
    let (len, b) = decode(&bytes[a..])?;
    let end = a + b + usize::try_from(len).ok()?;
    Some((kind, bytes.get(a + b..end)?, end))
}

fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = 1 << (bytes.first()? >> 6);
    let number = bytes.get(..len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    Some((number & (u64::MAX >> (66 - 8 * len)), len))
}

/// Reads what a unidirectional stream begins with: whether it is the session's.
pub(crate) async fn enters(stream: &mut RecvStream, session: u64) -> bool {
    let mut expect = Vec::new();
    number(SESSION_UNI, &mut expect);
    number(session, &mut expect);
    let mut prefix = vec![0; expect.len()];
    // The node's control stream is longer.
    stream.read_exact(&mut prefix).await.is_ok() && prefix == expect
}
