//! A session's queue towards its transport: bytes ready to write, bounded.
//!
//! Messages are shared with every other queue they wait in and counted here as if they were not; replies are this session's
//! own. The bound on bytes is for messages and pages; control frames are exempt from it and bounded in count.

mod lanes;

use std::collections::VecDeque;
use std::rc::Rc;

use millrace_protocol::client::{ServerBody, ServerFrame};
use millrace_protocol::ws::deflate::Window;
use millrace_protocol::{ChannelId, Position};

pub use self::lanes::{Lanes, Place, Taken};
use crate::run::{Run, encode_frame, frame_end};
use crate::wheel::Tick;

/// Control frames are joined into one buffer up to this size, in bytes.
const CONTROL_JOINED_BYTES: usize = 4 << 10;

/// A session's queue towards its transport. Empty, it owns no heap memory.
#[derive(Debug, Default)]
pub struct Outbound {
    front: Option<Segment>,
    rest: VecDeque<Segment>,
    /// Bytes of `front` that are written.
    written: u32,
    /// Unwritten bytes of runs and pages: what the bound is for.
    data_bytes: u32,
    /// Unwritten bytes of control frames.
    control_bytes: u32,
    control_frames: u32,
    blocked: bool,
    /// The transport agreed to compression.
    pub(crate) window: Option<Window>,
    /// When the transport last took something, or was first blocked.
    stalled_since: Tick,
    /// A `Flush` is under way for it.
    pub(crate) flushing: bool,
    /// Only there for a transport with a stream for each channel.
    held: Option<Box<lanes::Held>>,
}

#[derive(Debug)]
enum Segment {
    Run(Rc<Run>),
    Control(Box<Control>),
}

#[derive(Debug)]
struct Control {
    bytes: Vec<u8>,
    frames: u32,
    kind: ControlKind,
}

/// What control frames are. The four about a channel's lane are for transports that have lanes; to others they are plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlKind {
    /// Short frames, joined.
    Plain,
    /// `subscribed`, which messages are to follow.
    Opening(ChannelId),
    /// `unsubscribed`.
    Closing(ChannelId),
    /// Another word about the channel, in order with its messages.
    Channel(ChannelId),
    /// `subscribed`, which no messages follow, or a word about such a channel.
    Attached(ChannelId),
    /// A page of history, for this request: counts as data.
    Page { channel: ChannelId, request: u32 },
    /// Stands for messages that were dropped; grows while it waits.
    Skipped { channel: ChannelId, first: Position, last: Position },
}

/// Messages that a full queue dropped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) messages: u64,
    /// What a mark says that was put into the queue now.
    pub(crate) range: Option<(Position, Position)>,
    /// It took the place of an earlier one: the client was to hear of it already.
    pub(crate) goes_on: bool,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Run(run) => &run.bytes,
            Self::Control(control) => &control.bytes,
        }
    }
}

impl Outbound {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    /// What waits, in order, in pieces to write with one vectored write; the first begins where the last write ended.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let front = self.front.iter().map(|segment| &segment.bytes()[self.written as usize..]);
        front.chain(self.rest.iter().map(Segment::bytes))
    }

    /// Bytes that wait.
    pub fn queued_bytes(&self) -> usize {
        self.data_bytes as usize + self.control_bytes as usize
    }

    /// The transport took no more at the last write.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The transport has a stream for each channel.
    pub(crate) fn is_in_lanes(&self) -> bool {
        self.held.is_some()
    }

    /// Since when the transport, or one of its lanes, takes nothing at all.
    pub(crate) fn stalled_since(&self) -> Option<Tick> {
        self.blocked.then_some(self.stalled_since).or_else(|| self.held_since())
    }

    pub(crate) fn data_bytes(&self) -> u32 {
        self.data_bytes
    }

    pub(crate) fn control_frames(&self) -> u32 {
        self.control_frames
    }

    /// Adds messages. The caller has made sure that they fit.
    pub(crate) fn push_run(&mut self, run: &Rc<Run>) {
        self.data_bytes += len32(run.len());
        self.push(Segment::Run(Rc::clone(run)));
    }

    /// Adds a page of a channel's history, with its transport header.
    pub(crate) fn push_page(&mut self, channel: ChannelId, request: u32, bytes: Vec<u8>) {
        self.data_bytes += len32(bytes.len());
        self.control_frames += 1;
        let kind = ControlKind::Page { channel, request };
        self.push(Segment::Control(Box::new(Control { bytes, frames: 1, kind })));
    }

    /// Adds a control frame; `scratch` is a buffer to encode in.
    pub(crate) fn push_control(&mut self, scratch: &mut Vec<u8>, frame: &ServerFrame<'_>, kind: ControlKind) {
        let kind = if self.held.is_some() { kind } else { ControlKind::Plain };
        self.control_frames += 1;
        let last = self.rest.back_mut().or(self.front.as_mut());
        if let Some(Segment::Control(control)) = last
            && (control.kind, kind) == (ControlKind::Plain, ControlKind::Plain)
            && control.bytes.len() < CONTROL_JOINED_BYTES
        {
            let before = control.bytes.len();
            encode_frame(scratch, &mut control.bytes, frame);
            control.frames += 1;
            self.control_bytes += len32(control.bytes.len() - before);
            return;
        }
        let mut bytes = Vec::new();
        encode_frame(scratch, &mut bytes, frame);
        self.control_bytes += len32(bytes.len());
        self.push(Segment::Control(Box::new(Control { bytes, frames: 1, kind })));
    }

    /// Drops what waits of the run's channel and the run itself where there is no room for it, and leaves a mark in place.
    /// The channel goes on with the newest.
    pub(crate) fn push_skipping(&mut self, scratch: &mut Vec<u8>, run: &Rc<Run>, bytes_max: u32) -> Skipped {
        let mut range: Option<(Position, Position)> = None;
        let mut skipped = Skipped::default();
        if !self.extend_mark(run) {
            self.drop_waiting(run.channel, &mut range, &mut skipped);
            if self.data_bytes + len32(run.len()) <= bytes_max {
                skipped.range = range;
                if let Some(range) = range {
                    self.push_mark(scratch, run.channel, range);
                }
                self.push_run(run);
                return skipped;
            }
            let first = Position { epoch: run.epoch, offset: run.first };
            let range = (range.map_or(first, |(first, _)| first), run.position());
            skipped.range = Some(range);
            self.push_mark(scratch, run.channel, range);
        } else {
            self.encode_last_mark(scratch);
        }
        skipped.messages += u64::from(run.count);
        skipped
    }

    /// Drops what waits of a channel and leaves a mark: the channel's lane takes nothing, and others need the room.
    pub(crate) fn skip_waiting(&mut self, scratch: &mut Vec<u8>, channel: ChannelId) -> Skipped {
        let (mut range, mut skipped) = (None, Skipped::default());
        self.drop_waiting(channel, &mut range, &mut skipped);
        skipped.range = range;
        if let Some(range) = range {
            self.push_mark(scratch, channel, range);
        }
        skipped
    }

    /// Tells that messages were lost without a queue being involved.
    pub(crate) fn push_mark(&mut self, scratch: &mut Vec<u8>, channel: ChannelId, (first, last): (Position, Position)) {
        self.control_frames += 1;
        let kind = ControlKind::Skipped { channel, first, last };
        self.push(Segment::Control(Box::new(Control { bytes: Vec::new(), frames: 1, kind })));
        self.encode_last_mark(scratch);
    }

    /// The last thing that waits is the channel's mark: it now covers the run too.
    fn extend_mark(&mut self, run: &Run) -> bool {
        // The front may be partly written, so it does not change.
        match self.rest.back_mut() {
            Some(Segment::Control(control)) => match &mut control.kind {
                ControlKind::Skipped { channel, last, .. } if *channel == run.channel => {
                    *last = run.position();
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn encode_last_mark(&mut self, scratch: &mut Vec<u8>) {
        let Some(Segment::Control(control)) = self.rest.back_mut().or(self.front.as_mut()) else { return };
        let ControlKind::Skipped { channel, first, last } = control.kind else { return };
        let before = control.bytes.len();
        control.bytes.clear();
        let frame = ServerFrame { request: 0, body: ServerBody::Skipped { channel, first, last } };
        encode_frame(scratch, &mut control.bytes, &frame);
        self.control_bytes = self.control_bytes + len32(control.bytes.len()) - len32(before);
    }

    fn drop_waiting(&mut self, channel: ChannelId, range: &mut Option<(Position, Position)>, skipped: &mut Skipped) {
        self.release_front();
        let mut cover = |first: Position, last: Position| {
            *range = Some((range.map_or(first, |(first, _)| first), last));
        };
        let (mut data, mut control_bytes, mut marks) = (0, 0, 0);
        self.rest.retain(|segment| match segment {
            Segment::Run(run) if run.channel == channel => {
                cover(Position { epoch: run.epoch, offset: run.first }, run.position());
                skipped.messages += u64::from(run.count);
                data += len32(run.len());
                false
            }
            Segment::Control(control) => match control.kind {
                ControlKind::Skipped { channel: of, first, last } if of == channel => {
                    cover(first, last);
                    control_bytes += len32(control.bytes.len());
                    marks += 1;
                    false
                }
                _ => true,
            },
            Segment::Run(_) => true,
        });
        self.data_bytes -= data;
        self.control_bytes -= control_bytes;
        self.control_frames -= marks;
        skipped.goes_on = marks > 0;
        self.fill_front();
    }

    /// An unwritten front can go too: it stands with the rest until [`fill_front`](Self::fill_front).
    fn release_front(&mut self) {
        if self.written == 0
            && let Some(front) = self.front.take()
        {
            self.rest.push_front(front);
        }
    }

    fn fill_front(&mut self) {
        if self.front.is_none() {
            self.front = self.rest.pop_front();
        }
    }

    /// Drops pages of a channel's history that are not written yet, because the session may not see them any more. Gives the requests that
    /// are thereby not answered.
    pub(crate) fn drop_pages(&mut self, channel: ChannelId) -> Vec<u32> {
        self.release_front();
        let (mut requests, mut data) = (Vec::new(), 0);
        self.rest.retain(|segment| match segment {
            Segment::Control(control) => match control.kind {
                ControlKind::Page { channel: of, request } if of == channel => {
                    requests.push(request);
                    data += len32(control.bytes.len());
                    self.control_frames -= 1;
                    false
                }
                _ => true,
            },
            Segment::Run(_) => true,
        });
        self.data_bytes -= data;
        self.fill_front();
        requests
    }

    /// Drops messages of a channel that are not written yet, because the session is to hear no more of it.
    pub(crate) fn drop_channel(&mut self, channel: ChannelId) {
        self.drop_waiting(channel, &mut None, &mut Skipped::default());
        // Of a run that is partly written only the frame under way goes out.
        if let Some(Segment::Run(run)) = &self.front
            && run.channel == channel
        {
            let end = frame_end(&run.bytes, self.written as usize);
            self.data_bytes -= len32(run.len() - end);
            let rest = Run { bytes: run.bytes.slice(..end), ..Run::clone(run) };
            self.front = Some(Segment::Run(Rc::new(rest)));
            if end == self.written as usize {
                self.written = 0;
                self.front = self.rest.pop_front();
            }
        }
    }

    /// Drops everything but the rest of a frame that is partly written: what follows is the transport's close.
    pub(crate) fn drop_all(&mut self) {
        self.rest = VecDeque::new();
        self.control_frames = 0;
        self.control_bytes = 0;
        self.data_bytes = 0;
        let Some(front) = self.front.take() else { return };
        if self.written == 0 {
            return;
        }
        let end = frame_end(front.bytes(), self.written as usize);
        let rest = front.bytes()[self.written as usize..end].to_vec();
        self.written = 0;
        if !rest.is_empty() {
            self.control_bytes = len32(rest.len());
            self.front = Some(Segment::Control(Box::new(Control { bytes: rest, frames: 0, kind: ControlKind::Plain })));
        }
    }

    /// The transport took `bytes` of what waits.
    pub(crate) fn advance(&mut self, now: Tick, bytes: usize, blocked: bool) {
        if bytes > 0 || !self.blocked {
            self.stalled_since = now;
        }
        self.blocked = blocked;
        self.flushing = false;
        let mut left = len32(bytes.min(self.queued_bytes()));
        while left > 0 {
            let Some(front) = &self.front else { break };
            let rest = len32(front.bytes().len()) - self.written;
            let step = left.min(rest);
            left -= step;
            match front {
                Segment::Run(_) => self.data_bytes -= step,
                Segment::Control(control) if matches!(control.kind, ControlKind::Page { .. }) => {
                    self.data_bytes -= step
                }
                Segment::Control(_) => self.control_bytes -= step,
            }
            if step < rest {
                self.written += step;
                break;
            }
            if let Segment::Control(control) = front {
                self.control_frames -= control.frames;
            }
            self.written = 0;
            self.front = self.rest.pop_front();
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
    }

    fn push(&mut self, segment: Segment) {
        if self.front.is_none() {
            self.front = Some(segment);
        } else {
            self.rest.push_back(segment);
        }
    }
}

/// A queue is bounded far below 4 GiB.
fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
