//! Bytes in, messages and control frames out (RFC 6455 §5.4 to §5.6, §8.1): joins fragments and reads, unmasks, checks UTF-8.
//!
//! The shell reads into a buffer that its connections share; a frame that is whole in it is unmasked and handed out in
//! place. What is partly here waits in the decoder's spill, which exists only as long: an idle connection owns no buffer. What
//! inflates compressed messages is the caller's, one for any number of connections.

use std::ops::Range;

use super::deflate::Inflater;
use super::header::{CONTROL_BYTES_MAX, Extension, HEADER_BYTES_MAX, decode_header_with};
use super::{Header, Limits, MaskKey, Opcode, Role, WsError, close, mask};

/// The receiving half of one connection, at most 64 bytes while idle.
///
/// After a close frame or an error it ignores whatever follows (§5.5.1, §7.1.7).
#[derive(Debug)]
pub struct Decoder {
    /// The message so far, `message_bytes` long, then what is here of the frame under way: the bytes of its header while
    /// the header is not whole, then its payload, unmasked.
    spill: Vec<u8>,
    stage: Stage,
    /// Kind of the message under way, from its first fragment to its last.
    message: Option<MessageKind>,
    /// That message is compressed.
    compressed: bool,
    /// Payload of the whole frames of the message under way.
    message_bytes: u32,
    /// How much of a text message under way is known to be UTF-8; the rest is an unfinished character.
    text_bytes: u32,
    limits: Limits,
    role: Role,
}

/// Where in a frame the input stands.
#[derive(Debug)]
enum Stage {
    Header,
    Payload { frame: Frame, missing: u32 },
    Ended,
}

/// What the decoder keeps of a [`Header`] whose payload is not whole.
#[derive(Debug, Clone, Copy)]
struct Frame {
    payload_bytes: u32,
    mask_key: Option<MaskKey>,
    opcode: Opcode,
    fin: bool,
    compressed: bool,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// What a peer said. It borrows from the input or the decoder until the next call.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message, its fragments joined.
    Message {
        /// Text or binary.
        kind: MessageKind,
        /// The bytes; valid UTF-8 if it is text.
        payload: &'a [u8],
    },
    /// To be answered with a pong of the same payload. Only the newest needs an answer (§5.5.3).
    Ping(&'a [u8]),
    /// An answer to a ping, or unasked for.
    Pong(&'a [u8]),
    /// The peer closes and sends nothing more. Answer with a close frame unless one was sent; then the server closes the
    /// connection (§7.1.1).
    Close {
        /// Why, one that may be sent ([`close::is_sendable`]); `None` if the frame had no payload.
        code: Option<u16>,
        /// For a person; often empty.
        reason: &'a str,
    },
}

impl Decoder {
    /// A decoder for the bytes after the handshake.
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            spill: Vec::new(),
            stage: Stage::Header,
            message: None,
            compressed: false,
            message_bytes: 0,
            text_bytes: 0,
            limits,
            role,
        }
    }

    /// Takes in what was read. Call [`Feed::next_event`] until it returns `None` or an error, else what was not taken in
    /// is lost; [`Feed::consumed`] says where a caller who must stop earlier goes on.
    pub fn feed<'d, 'i>(&'d mut self, input: &'i mut [u8]) -> Feed<'d, 'i> {
        Feed { decoder: self, inflater: None, input, consumed: 0, spent: Spent::Nothing }
    }

    /// As [`feed`](Self::feed), on a connection that agreed to compression without context takeover: its messages come out
    /// inflated. `inflater` keeps nothing of one message for the next, so any number of connections share it.
    pub fn feed_deflated<'d, 'i>(&'d mut self, input: &'i mut [u8], inflater: &'d mut Inflater) -> Feed<'d, 'i> {
        Feed { decoder: self, inflater: Some(inflater), input, consumed: 0, spent: Spent::Nothing }
    }

    /// Bytes of heap that it holds: 0 unless a frame or a message is partly here.
    pub fn heap_bytes(&self) -> usize {
        self.spill.capacity()
    }

    /// The bytes of the spill that belong to whole fragments.
    fn joined(&self) -> usize {
        self.message_bytes as usize
    }

    /// The most that the spill ever holds: a message, and the header or the payload of a control frame.
    fn spill_bytes_max(&self) -> usize {
        self.limits.message_bytes_max as usize + CONTROL_BYTES_MAX
    }

    /// What must hold between frames.
    fn admit(&self, header: &Header) -> Result<Frame, WsError> {
        match (header.opcode, self.message) {
            (Opcode::Continuation, None) => return Err(WsError::ContinuationUnexpected),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(WsError::ContinuationExpected),
            _ => {}
        }
        let before = if header.opcode.is_control() { 0 } else { self.message_bytes };
        let max = self.limits.message_bytes_max;
        let bytes = header.payload_bytes.saturating_add(u64::from(before));
        let fits = header.opcode.is_control() || bytes <= u64::from(max);
        match u32::try_from(header.payload_bytes) {
            Ok(payload_bytes) if fits => {
                let Header { fin, compressed, opcode, mask_key, .. } = *header;
                Ok(Frame { payload_bytes, mask_key, opcode, fin, compressed })
            }
            _ => Err(WsError::MessageTooBig { bytes, max }),
        }
    }

    /// Appends to the spill. It grows by doubling, but never past `end`, the most that can be needed: a peer costs no
    /// more than twice what it has sent, and no more than it may send.
    fn push(&mut self, bytes: &[u8], end: usize) {
        let needed = self.spill.len() + bytes.len();
        if needed > self.spill.capacity() {
            let target = (self.spill.capacity() * 2).min(end).max(needed);
            self.spill.reserve_exact(target - self.spill.len());
        }
        self.spill.extend_from_slice(bytes);
    }

    /// Checks what came in of a text message. A character may be unfinished unless the message is `whole`.
    fn check_text(&mut self, whole: bool) -> Result<(), WsError> {
        let checked = self.text_bytes as usize;
        let valid = match simdutf8::compat::from_utf8(&self.spill[checked..]) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() && !whole => error.valid_up_to(),
            Err(_) => return Err(WsError::InvalidUtf8),
        };
        self.text_bytes = u32::try_from(checked + valid).unwrap_or(u32::MAX);
        Ok(())
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.spill = Vec::new();
        self.message = None;
        self.message_bytes = 0;
    }
}

/// One read's worth of input on its way through a [`Decoder`].
#[must_use = "what was read is lost unless its events are taken"]
#[derive(Debug)]
pub struct Feed<'d, 'i> {
    decoder: &'d mut Decoder,
    inflater: Option<&'d mut Inflater>,
    input: &'i mut [u8],
    consumed: usize,
    spent: Spent,
}

/// What the last event borrowed from the spill, to be given up before anything else happens.
#[derive(Debug, Clone, Copy)]
enum Spent {
    Nothing,
    Control,
    Message,
}

/// A whole frame or message, and where its payload is.
struct Found {
    what: What,
    place: Place,
    compressed: bool,
}

#[derive(Clone, Copy)]
enum What {
    Message(MessageKind),
    Control(Opcode),
}

enum Place {
    Input(Range<usize>),
    Spill(usize),
}

impl Feed<'_, '_> {
    /// The next message or control frame; `None` when the input is used up.
    ///
    /// # Errors
    /// [`WsError`] if the peer broke the protocol or a limit. The decoder has then ended and ignores the rest.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, WsError> {
        let found = match self.advance() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.give_up();
                return Err(error);
            }
        };
        if let What::Control(Opcode::Close) = found.what {
            return self.close(found.place).map(Some);
        }
        if let (What::Message(kind), true) = (found.what, found.compressed) {
            if let Err(error) = self.inflate(kind, found.place) {
                self.give_up();
                return Err(error);
            }
            let payload = self.inflater.as_deref().map_or(&[][..], Inflater::inflated);
            return Ok(Some(Event::Message { kind, payload }));
        }
        let payload = match found.place {
            Place::Input(range) => &self.input[range],
            Place::Spill(start) => &self.decoder.spill[start..],
        };
        Ok(Some(match found.what {
            What::Message(kind) => Event::Message { kind, payload },
            What::Control(Opcode::Ping) => Event::Ping(payload),
            What::Control(_) => Event::Pong(payload),
        }))
    }

    /// How much of the input needs not be fed again.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Inflates a message, so that it waits in the inflater. Its text is checked now that it shows.
    fn inflate(&mut self, kind: MessageKind, place: Place) -> Result<(), WsError> {
        let payload = match place {
            Place::Input(range) => &self.input[range],
            Place::Spill(start) => &self.decoder.spill[start..],
        };
        // Without one, no header with the bit comes this far.
        let inflater = self.inflater.as_deref_mut().ok_or(WsError::ReservedBits)?;
        let inflated = inflater.inflate(payload, self.decoder.limits.message_bytes_max)?;
        if kind == MessageKind::Text && simdutf8::basic::from_utf8(inflated).is_err() {
            return Err(WsError::InvalidUtf8);
        }
        Ok(())
    }

    /// A close frame ends the decoder. Its payload stays in the spill, if it is there, until the feed is dropped.
    fn close(&mut self, place: Place) -> Result<Event<'_>, WsError> {
        let spill = std::mem::take(&mut self.decoder.spill);
        self.give_up();
        self.decoder.spill = spill;
        let payload = match place {
            Place::Input(range) => &self.input[range],
            Place::Spill(start) => &self.decoder.spill[start..],
        };
        let (code, reason) = close::parse(payload)?;
        Ok(Event::Close { code, reason })
    }

    fn give_up(&mut self) {
        self.spent = Spent::Nothing;
        self.consumed = self.input.len();
        self.decoder.end();
    }

    fn advance(&mut self) -> Result<Option<Found>, WsError> {
        self.release();
        loop {
            match self.decoder.stage {
                Stage::Header => match self.take_header()? {
                    None => return Ok(None),
                    Some(frame) => {
                        if let Some(found) = self.take_in_place(frame)? {
                            return Ok(Some(found));
                        }
                        // Header => Payload: the payload is partly here, or a fragment to be joined.
                        self.decoder.stage = Stage::Payload { frame, missing: frame.payload_bytes };
                    }
                },
                Stage::Payload { frame, missing } => {
                    let missing = self.take_payload(frame, missing)?;
                    if missing > 0 {
                        self.decoder.stage = Stage::Payload { frame, missing };
                        return Ok(None);
                    }
                    // Payload => Header: the frame is whole.
                    self.decoder.stage = Stage::Header;
                    if let Some(found) = self.finish_frame(frame) {
                        return Ok(Some(found));
                    }
                }
                Stage::Ended => {
                    self.consumed = self.input.len();
                    return Ok(None);
                }
            }
        }
    }

    /// Decodes a header from the input, or from the spill if it began in an earlier read.
    fn take_header(&mut self) -> Result<Option<Frame>, WsError> {
        let extension = if self.inflater.is_some() { Extension::Deflate } else { Extension::None };
        let decoder = &mut *self.decoder;
        let decode =
            |input: &[u8], decoder: &Decoder| decode_header_with(input, decoder.role, &decoder.limits, extension);
        let rest = &self.input[self.consumed..];
        let joined = decoder.joined();
        let spilled = decoder.spill.len() - joined;
        if spilled == 0 {
            let Some((header, len)) = decode(rest, decoder)? else {
                decoder.push(rest, decoder.spill_bytes_max());
                self.consumed = self.input.len();
                return Ok(None);
            };
            self.consumed += len;
            return decoder.admit(&header).map(Some);
        }
        let taken = rest.len().min(HEADER_BYTES_MAX - spilled);
        decoder.push(&rest[..taken], decoder.spill_bytes_max());
        let Some((header, len)) = decode(&decoder.spill[joined..], decoder)? else {
            self.consumed += taken;
            return Ok(None);
        };
        self.consumed += len - spilled;
        decoder.spill.truncate(joined);
        decoder.admit(&header).map(Some)
    }

    /// A frame that is a whole message, or a control frame, and wholly in the input.
    fn take_in_place(&mut self, frame: Frame) -> Result<Option<Found>, WsError> {
        let what = match frame.opcode {
            Opcode::Text if frame.fin => What::Message(MessageKind::Text),
            Opcode::Binary if frame.fin => What::Message(MessageKind::Binary),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => return Ok(None),
            control => What::Control(control),
        };
        let start = self.consumed;
        let Some(payload) = self.input[start..].get_mut(..frame.payload_bytes as usize) else { return Ok(None) };
        if let Some(key) = frame.mask_key {
            mask(payload, key, 0);
        }
        if let What::Message(MessageKind::Text) = what
            && !frame.compressed
            && simdutf8::basic::from_utf8(payload).is_err()
        {
            return Err(WsError::InvalidUtf8);
        }
        self.consumed += payload.len();
        Ok(Some(Found { what, place: Place::Input(start..self.consumed), compressed: frame.compressed }))
    }

    /// Moves what the input has of the payload to the spill; returns how much is still missing.
    fn take_payload(&mut self, frame: Frame, missing: u32) -> Result<u32, WsError> {
        let decoder = &mut *self.decoder;
        let kind = match frame.opcode {
            Opcode::Text => Some(MessageKind::Text),
            Opcode::Binary => Some(MessageKind::Binary),
            _ => None,
        };
        if kind.is_some() {
            decoder.message = kind;
            decoder.compressed = frame.compressed;
        }
        let rest = &self.input[self.consumed..];
        let rest = &rest[..rest.len().min(missing as usize)];
        let start = decoder.spill.len();
        let whole = frame.fin && !frame.opcode.is_control();
        decoder.push(rest, if whole { start + missing as usize } else { decoder.spill_bytes_max() });
        self.consumed += rest.len();
        if let Some(key) = frame.mask_key {
            mask(&mut decoder.spill[start..], key, (frame.payload_bytes - missing) as usize);
        }
        let missing = missing - u32::try_from(rest.len()).unwrap_or(missing);
        if !frame.opcode.is_control() && decoder.message == Some(MessageKind::Text) && !decoder.compressed {
            decoder.check_text(frame.fin && missing == 0)?;
        }
        Ok(missing)
    }

    /// The frame's payload is whole in the spill: a control frame, a message, or one more fragment.
    fn finish_frame(&mut self, frame: Frame) -> Option<Found> {
        let decoder = &mut *self.decoder;
        if frame.opcode.is_control() {
            self.spent = Spent::Control;
            let place = Place::Spill(decoder.joined());
            return Some(Found { what: What::Control(frame.opcode), place, compressed: false });
        }
        decoder.message_bytes += frame.payload_bytes;
        if !frame.fin {
            return None;
        }
        self.spent = Spent::Message;
        let compressed = decoder.compressed;
        decoder.message.map(|kind| Found { what: What::Message(kind), place: Place::Spill(0), compressed })
    }

    /// Gives up what the last event borrowed from the spill.
    fn release(&mut self) {
        let decoder = &mut *self.decoder;
        match std::mem::replace(&mut self.spent, Spent::Nothing) {
            Spent::Nothing => {}
            Spent::Control => decoder.spill.truncate(decoder.joined()),
            Spent::Message => {
                decoder.spill.clear();
                decoder.message = None;
                decoder.message_bytes = 0;
                decoder.text_bytes = 0;
            }
        }
    }
}

impl Drop for Feed<'_, '_> {
    fn drop(&mut self) {
        self.release();
        if self.decoder.spill.is_empty() || matches!(self.decoder.stage, Stage::Ended) {
            self.decoder.spill = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
