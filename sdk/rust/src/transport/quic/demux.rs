//! Which frames of a QUIC connection's streams come next. Pure: chunks of streams in, frames out.
//!
//! Streams are independent, so that loss on one holds back no other. Three things need an order all the same:
//! - nothing of a channel is handed out before the node's first word on the control stream, which is its welcome;
//! - a stream belongs to the channel that its first frame, the answer to a subscription, names;
//! - of several streams of one channel, a later one is read when the earlier ones have ended.
//!
//! A stream that has to wait is not read, so that QUIC's flow control bounds what it holds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use millrace_protocol::client::{SERVER_FRAME_BYTES_MAX, ServerBody, decode_server};
use millrace_protocol::id::ChannelId;
use millrace_protocol::stream::FrameReader;

use crate::error::Error;

/// Names a stream of one connection.
pub(super) type Key = u64;
/// The stream that the client opened.
pub(super) const CONTROL: Key = 0;

#[derive(Debug)]
pub(super) struct Demux {
    streams: HashMap<Key, Stream>,
    /// Streams of each channel, in the order in which they named it; only the first is read.
    turns: HashMap<ChannelId, VecDeque<Key>>,
    last_key: Key,
    /// The node has spoken on the control stream.
    is_greeted: bool,
    /// Streams that waited and may be read now.
    released: Vec<Key>,
}

#[derive(Debug)]
struct Stream {
    reader: FrameReader,
    of: Of,
    is_finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Control,
    /// Its first frame has not come.
    Unknown,
    Channel(ChannelId),
}

/// Streams that are not as the protocol has them.
#[derive(Debug, thiserror::Error)]
enum StreamFault {
    #[error("the control stream ended")]
    ControlEnded,
    #[error("a channel's stream does not begin with the answer to a subscription")]
    NoSubscription,
    #[error("a stream ended within a frame")]
    Torn,
}

fn fault(fault: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Protocol(Arc::new(fault))
}

impl Demux {
    /// With its control stream.
    pub(super) fn new() -> Self {
        let control = Stream { reader: FrameReader::new(), of: Of::Control, is_finished: false };
        Self {
            streams: HashMap::from([(CONTROL, control)]),
            turns: HashMap::new(),
            last_key: CONTROL,
            is_greeted: false,
            released: Vec::new(),
        }
    }

    /// A stream that the node opened.
    pub(super) fn open(&mut self) -> Key {
        self.last_key += 1;
        self.streams.insert(self.last_key, Stream { reader: FrameReader::new(), of: Of::Unknown, is_finished: false });
        self.last_key
    }

    /// How many streams there are, the control stream left out.
    pub(super) fn open_streams(&self) -> usize {
        self.streams.len() - 1
    }

    /// Bytes of a stream, and hands out the frames that may be. Nothing more of that stream is to be read unless
    /// [`Self::may_read`] says so.
    pub(super) fn feed(&mut self, key: Key, chunk: Bytes, handle: &mut impl FnMut(&[u8])) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&key) else { return Ok(()) };
        stream.reader.push(chunk);
        self.run(key, handle)
    }

    /// The end of a stream.
    pub(super) fn finish(&mut self, key: Key, handle: &mut impl FnMut(&[u8])) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&key) else { return Ok(()) };
        stream.is_finished = true;
        self.run(key, handle)
    }

    /// Whether a stream's next bytes are wanted.
    pub(super) fn may_read(&self, key: Key) -> bool {
        let Some(stream) = self.streams.get(&key) else { return false };
        match stream.of {
            Of::Control => true,
            Of::Unknown => self.is_greeted,
            Of::Channel(channel) => self.is_first(channel, key),
        }
    }

    /// A stream that waited, and whose next bytes are wanted now.
    pub(super) fn poll_released(&mut self) -> Option<Key> {
        self.released.pop()
    }

    fn is_first(&self, channel: ChannelId, key: Key) -> bool {
        self.turns.get(&channel).and_then(VecDeque::front) == Some(&key)
    }

    /// Hands out a stream's frames, and those of the streams that waited for it.
    fn run(&mut self, key: Key, handle: &mut impl FnMut(&[u8])) -> Result<(), Error> {
        let mut runnable = VecDeque::from([key]);
        while let Some(key) = runnable.pop_front() {
            let was_greeted = self.is_greeted;
            let next = self.run_one(key, handle)?;
            if self.is_greeted && !was_greeted {
                let mut waiting: Vec<Key> = self.streams.keys().copied().filter(|&key| key != CONTROL).collect();
                waiting.sort_unstable();
                self.released.extend(&waiting);
                runnable.extend(waiting);
            }
            if let Some(next) = next {
                self.released.push(next);
                runnable.push_back(next);
            }
        }
        Ok(())
    }

    /// The stream whose turn it is now, if this one ended and another one of its channel waited.
    fn run_one(&mut self, key: Key, handle: &mut impl FnMut(&[u8])) -> Result<Option<Key>, Error> {
        while self.may_read(key) {
            let Some(stream) = self.streams.get_mut(&key) else { return Ok(None) };
            let Some(frame) = stream.reader.front(SERVER_FRAME_BYTES_MAX).map_err(fault)? else {
                return self.end(key);
            };
            match stream.of {
                Of::Control => self.is_greeted = true,
                Of::Channel(_) => {}
                Of::Unknown => match decode_server(frame).map_err(fault)?.body {
                    ServerBody::Subscribed(answer) => {
                        stream.of = Of::Channel(answer.channel);
                        let turns = self.turns.entry(answer.channel).or_default();
                        turns.push_back(key);
                        if turns.len() > 1 {
                            return Ok(None);
                        }
                    }
                    // It is ignored, as everywhere.
                    ServerBody::Unknown => {}
                    _ => return Err(fault(StreamFault::NoSubscription)),
                },
            }
            handle(frame);
            stream.reader.pop();
        }
        Ok(None)
    }

    /// A stream has no whole frame more: forgets it, if it has ended.
    fn end(&mut self, key: Key) -> Result<Option<Key>, Error> {
        let Some(stream) = self.streams.get(&key).filter(|stream| stream.is_finished) else { return Ok(None) };
        if stream.reader.held_bytes() > 0 {
            return Err(fault(StreamFault::Torn));
        }
        let of = stream.of;
        self.streams.remove(&key);
        match of {
            Of::Control => Err(fault(StreamFault::ControlEnded)),
            Of::Unknown => Ok(None),
            Of::Channel(channel) => {
                let Some(turns) = self.turns.get_mut(&channel) else { return Ok(None) };
                turns.pop_front();
                let next = turns.front().copied();
                if next.is_none() {
                    self.turns.remove(&channel);
                }
                Ok(next)
            }
        }
    }
}

#[cfg(test)]
mod tests;
