//! Encoded messages of one channel: made once by the home, shared by every queue that they wait in.

use std::time::Instant;

use bytes::Bytes;
use millrace_protocol::client::{Message, ServerBody, ServerFrame, encode_server};
use millrace_protocol::node::StoredMessage;
use millrace_protocol::{ChannelId, Epoch, Position};

/// A run of messages of one channel, in order and without gaps, each a `ServerFrame` ready for a WebSocket: a server's frame
/// header (binary, final, not masked) in front. [`frames`](Self::frames) strips it for another transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub(crate) bytes: Bytes,
    pub(crate) channel: ChannelId,
    pub(crate) epoch: Epoch,
    /// Offset of the first message; 0 in a channel without history.
    pub(crate) first: u64,
    /// Offset of the last message; 0 in a channel without history.
    pub(crate) last: u64,
    pub(crate) count: u32,
    /// When the first of those came that are known to have come lately.
    pub(crate) since: Option<Instant>,
}

impl Run {
    /// The payload of each frame in it.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        payloads(&self.bytes)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Behind its last message.
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.last }
    }

    /// The part of it up to and including `offset`.
    pub(crate) fn until(&self, offset: u64) -> Option<Self> {
        let messages_max = u32::try_from((offset + 1).saturating_sub(self.first)).unwrap_or(u32::MAX);
        self.part(self.first - 1, messages_max, usize::MAX)
    }

    /// The part of it after `offset`, of at most `messages_max` messages and `bytes_max` bytes; `None` when not even one fits.
    pub(crate) fn part(&self, after: u64, messages_max: u32, bytes_max: usize) -> Option<Self> {
        debug_assert!(self.first > 0, "a run without offsets has no parts");
        if after < self.first && self.count <= messages_max && self.bytes.len() <= bytes_max {
            return Some(self.clone());
        }
        let skip = after.saturating_add(1).saturating_sub(self.first);
        let (mut start, mut end, mut at, mut taken) = (0, 0, 0, 0);
        for (index, payload) in (0_u64..).zip(self.frames()) {
            at += header_len(payload.len()) + payload.len();
            if index < skip {
                start = at;
                end = at;
                continue;
            }
            if taken == messages_max || at - start > bytes_max {
                break;
            }
            taken += 1;
            end = at;
        }
        (taken > 0).then(|| {
            let first = self.first + skip;
            let last = first + u64::from(taken) - 1;
            Self { bytes: self.bytes.slice(start..end), first, last, count: taken, ..*self }
        })
    }
}

/// Collects the frames of a run.
pub(crate) struct RunBuilder {
    channel: ChannelId,
    epoch: Epoch,
    bytes: Vec<u8>,
    first: u64,
    last: u64,
    count: u32,
    since: Option<Instant>,
}

impl RunBuilder {
    pub(crate) fn new(channel: ChannelId, epoch: Epoch) -> Self {
        Self { channel, epoch, bytes: Vec::new(), first: 0, last: 0, count: 0, since: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds the next message, and when it came, if that is known; `scratch` is a buffer to encode in.
    pub(crate) fn push(
        &mut self,
        scratch: &mut Vec<u8>,
        position: Position,
        message: &millrace_protocol::node::NewMessage,
        since: Option<Instant>,
    ) {
        debug_assert!(self.count == 0 || position.offset == 0 || position.offset == self.last + 1);
        let body = ServerBody::Message(Message {
            channel: self.channel,
            position,
            time_ms: message.time_ms,
            user: message.user.as_str(),
            producer: message.producer,
            sequence: message.sequence,
            body: &message.body,
        });
        encode_frame(scratch, &mut self.bytes, &ServerFrame { request: 0, body });
        if self.count == 0 {
            self.first = position.offset;
        }
        self.last = position.offset;
        self.count += 1;
        self.since = self.since.or(since);
    }

    pub(crate) fn finish(self) -> Option<Run> {
        let Self { channel, epoch, bytes, first, last, count, since } = self;
        (count > 0).then(|| Run { bytes: Bytes::from(bytes), channel, epoch, first, last, count, since })
    }
}

/// Runs of stored messages as they are read back: a new run where the epoch changes.
pub(crate) fn encode_stored(
    channel: ChannelId,
    messages: &[std::sync::Arc<StoredMessage>],
    scratch: &mut Vec<u8>,
) -> Vec<Run> {
    let mut runs = Vec::new();
    for chunk in messages.chunk_by(|a, b| a.epoch == b.epoch) {
        let mut run = RunBuilder::new(channel, chunk[0].epoch);
        for stored in chunk {
            run.push(scratch, stored.position(), &stored.message, None);
        }
        runs.extend(run.finish());
    }
    runs
}

/// The front of `runs`, which follow each other, after `offset`: at least one message if there is one, else at most `messages_max`
/// messages and `bytes_max` bytes, as they are encoded.
pub(crate) fn page_of<'a>(
    runs: impl IntoIterator<Item = &'a Run>,
    offset: u64,
    messages_max: u32,
    bytes_max: usize,
) -> Vec<Run> {
    let mut page: Vec<Run> = Vec::new();
    let (mut messages, mut bytes) = (messages_max, bytes_max);
    for run in runs {
        let part = match run.part(offset, messages, bytes) {
            Some(part) => part,
            None if page.is_empty() => match run.part(offset, 1, usize::MAX) {
                Some(part) => part,
                None => break,
            },
            None => break,
        };
        messages -= part.count.min(messages);
        bytes = bytes.saturating_sub(part.len());
        let whole = part.last == run.last;
        page.push(part);
        if !whole || messages == 0 {
            break;
        }
    }
    page
}

/// Appends a frame with a WebSocket server's header in front; `scratch` is a buffer to encode in.
pub(crate) fn encode_frame(scratch: &mut Vec<u8>, out: &mut Vec<u8>, frame: &ServerFrame<'_>) {
    scratch.clear();
    encode_server(frame, scratch);
    let (header, len) = header(scratch.len());
    out.reserve(len + scratch.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(scratch);
}

/// Appends a frame that is encoded, with a WebSocket server's header in front.
pub(crate) fn push_plain(out: &mut Vec<u8>, payload: &[u8]) {
    let (header, len) = header(payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(payload);
}

/// Final binary frame, not masked. Shape: opcode 1, length 1, 3 or 9, big-endian. Source: RFC 6455 §5.2.
fn header(payload: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = 0x82;
    if let Ok(short @ 0..=125) = u8::try_from(payload) {
        header[1] = short;
        (header, 2)
    } else if let Ok(medium) = u16::try_from(payload) {
        header[1] = 126;
        header[2..4].copy_from_slice(&medium.to_be_bytes());
        (header, 4)
    } else {
        header[1] = 127;
        header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
        (header, 10)
    }
}

pub(crate) const fn header_len(payload: usize) -> usize {
    match payload {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Payloads of frames that [`encode_frame`] wrote, or [`Compress`](crate::Compress). Ends early where the bytes are something else, which is a bug.
pub(crate) fn payloads(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&[_, short], _) = rest.split_first_chunk::<2>()?;
        let (start, len) = match short {
            126 => (4, u64::from(u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?)),
            short => (2, u64::from(short)),
        };
        let end = start + usize::try_from(len).ok()?;
        let payload = rest.get(start..end)?;
        rest = &rest[end..];
        Some(payload)
    })
}

/// Where the frame that contains byte `at` ends.
pub(crate) fn frame_end(bytes: &[u8], at: usize) -> usize {
    let mut end = 0;
    for payload in payloads(bytes) {
        if end >= at {
            break;
        }
        end += header_len(payload.len()) + payload.len();
    }
    end
}

#[cfg(test)]
pub(crate) mod tests {
    use millrace_protocol::client::decode_server;
    use millrace_protocol::node::NewMessage;
    use millrace_protocol::{Producer, ProducerSequence, UserId};

    use super::*;

    pub(crate) fn run(first: u64, sizes: &[usize]) -> Run {
        run_of(9, first, sizes)
    }

    pub(crate) fn run_of(channel: u64, first: u64, sizes: &[usize]) -> Run {
        let channel = ChannelId::new(channel).unwrap();
        let mut run = RunBuilder::new(channel, Epoch::FIRST);
        let mut scratch = Vec::new();
        for (index, &size) in (0..).zip(sizes) {
            let message = NewMessage {
                user: UserId::new("ann").unwrap(),
                producer: Producer::new(1).unwrap(),
                sequence: ProducerSequence::FIRST,
                time_ms: 5,
                body: vec![7; size].into(),
            };
            run.push(&mut scratch, Position { epoch: Epoch::FIRST, offset: first + index }, &message, None);
        }
        run.finish().unwrap()
    }

    fn offsets(run: &Run) -> Vec<u64> {
        run.frames()
            .map(|payload| match decode_server(payload).unwrap().body {
                ServerBody::Message(message) => message.position.offset,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn frames_of_every_header_size_are_found_again() {
        let run = run(4, &[0, 200, 65_536, 1]);
        assert_eq!(offsets(&run), [4, 5, 6, 7]);
        assert_eq!((run.first, run.last, run.count), (4, 7, 4));
        let check = |at: usize, expect: usize| assert_eq!(frame_end(&run.bytes, at), expect, "{at}");
        let first = run.frames().next().unwrap().len();
        let first_end = header_len(first) + first;
        check(0, 0);
        check(1, first_end);
        check(first_end, first_end);
        check(run.len() - 1, run.len());
        check(run.len(), run.len());
    }

    #[test]
    fn a_part_is_bounded_in_messages_and_bytes() {
        let run = run(10, &[100; 5]);
        let one = run.len() / 5;
        let check = |after: u64, messages: u32, bytes: usize, expect: &[u64]| {
            let part = run.part(after, messages, bytes);
            assert_eq!(part.as_ref().map(offsets).unwrap_or_default(), expect, "{after} {messages} {bytes}");
            if let Some(part) = part {
                assert_eq!((Some(&part.first), Some(&part.last)), (expect.first(), expect.last()));
            }
        };
        check(0, 9, 9999, &[10, 11, 12, 13, 14]);
        check(11, 9, 9999, &[12, 13, 14]);
        check(9, 2, 9999, &[10, 11]);
        check(11, 9, 2 * one, &[12, 13]);
        check(11, 9, one - 1, &[]);
        check(14, 9, 9999, &[]);
        check(11, 0, 9999, &[]);
    }
}
