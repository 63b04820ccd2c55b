//! What waits in a session's queue, taken by a transport that has a stream for each channel. A stream that takes nothing holds up
//! its own channel only: what waits behind it for others goes past.

use std::rc::Rc;

use bytes::Bytes;
use millrace_protocol::ChannelId;

use super::{Control, ControlKind, Outbound, Segment, len32};
use crate::run::{Run, payloads};
use crate::wheel::Tick;

/// Where a frame goes on a transport with lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The one stream for everything that belongs to no channel's.
    Control,
    /// The channel's new stream, of which it is the first frame. One that the channel has ends with what it was given before.
    Opening(ChannelId),
    /// The channel's stream.
    Channel(ChannelId),
    /// The channel's stream, of which it is the last frame; the control stream if the channel has none.
    Closing(ChannelId),
    /// The control stream. A stream that the channel has ends with what it was given before.
    Attached(ChannelId),
}

impl Place {
    /// Whose frame it is, if it is a channel's.
    pub fn channel(self) -> Option<ChannelId> {
        match self {
            Self::Control => None,
            Self::Opening(channel) | Self::Channel(channel) | Self::Closing(channel) | Self::Attached(channel) => {
                Some(channel)
            }
        }
    }
}

/// What is in order: each channel, and the control stream.
type Lane = Option<ChannelId>;

/// What became of a frame that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was taken.
    Whole,
    /// It was refused: its lane has not taken all that it was given before.
    LaneFull,
    /// It was refused: the transport holds as much as it may of what others have not taken, most of it of this channel; without one, of
    /// the control stream.
    FullOf(Option<ChannelId>),
}

/// A transport with lanes, as it takes frames.
pub trait Lanes {
    /// Takes a frame, whole and without a transport's header, or refuses it. Of a lane that was refused, nothing more is offered in
    /// this pass.
    fn take(&mut self, place: Place, frame: impl FnOnce() -> Bytes) -> Taken;
}

/// What a queue towards a transport with lanes knows of them.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Lanes of which something waits that was refused, since when nothing of them was taken.
    lanes: Vec<(Lane, Tick)>,
}

impl Outbound {
    /// A queue towards a transport with lanes.
    pub(crate) fn in_lanes() -> Self {
        Self { held: Some(Box::default()), ..Self::default() }
    }

    /// The channel's stream takes nothing at present.
    pub(crate) fn holds(&self, channel: ChannelId) -> bool {
        self.held.as_ref().is_some_and(|held| held.lanes.iter().any(|&(lane, _)| lane == Some(channel)))
    }

    /// Channels whose streams take nothing at present.
    pub(crate) fn held_channels(&self) -> Vec<ChannelId> {
        self.held.iter().flat_map(|held| &held.lanes).filter_map(|&(lane, _)| lane).collect()
    }

    /// Since when the lane that waits longest takes nothing.
    pub(super) fn held_since(&self) -> Option<Tick> {
        self.held.as_ref()?.lanes.iter().map(|&(_, since)| since).min()
    }

    /// Offers everything that waits, in order.
    pub(crate) fn offer(&mut self, now: Tick, lanes: &mut impl Lanes) {
        debug_assert!(self.written == 0, "frames are taken whole");
        self.flushing = false;
        let mut pass = Pass::default();
        if self.rest.is_empty() {
            if self.front.as_mut().is_some_and(|front| pass.offer(front, lanes)) {
                self.front = None;
            }
        } else {
            self.release_front();
            self.rest.retain_mut(|segment| !pass.offer(segment, lanes));
            self.fill_front();
            self.shrink();
        }
        self.data_bytes -= pass.data_bytes;
        self.control_bytes -= pass.control_bytes;
        self.control_frames -= pass.control_frames;
        let Some(held) = &mut self.held else { return };
        let before = std::mem::take(&mut held.lanes);
        let since = |lane: Lane| {
            let held = before.iter().find(|&&(other, _)| other == lane).map(|&(_, since)| since);
            held.filter(|_| !pass.moved.contains(&lane)).unwrap_or(now)
        };
        held.lanes = pass.refused.iter().map(|&lane| (lane, since(lane))).collect();
    }
}

/// One look at everything that waits.
#[derive(Default)]
struct Pass {
    /// Lanes that take nothing.
    refused: Vec<Lane>,
    /// Lanes that others keep from taking something.
    kept_out: Vec<Lane>,
    /// Lanes that took something; told only of those that come to be refused.
    moved: Vec<Lane>,
    data_bytes: u32,
    control_bytes: u32,
    control_frames: u32,
}

impl Pass {
    /// Offers a segment; whether all of it was taken. What was taken of it is gone from it.
    fn offer(&mut self, segment: &mut Segment, lanes: &mut impl Lanes) -> bool {
        match segment {
            Segment::Run(run) => {
                let place = Place::Channel(run.channel);
                let bytes = &run.bytes;
                let (end, frames) = self.offer_frames(place, bytes, lanes, |from, to| bytes.slice(from..to));
                self.data_bytes += len32(end);
                if end > 0 && end < run.len() {
                    let first = if run.first == 0 { 0 } else { run.first + u64::from(frames) };
                    let rest =
                        Run { bytes: run.bytes.slice(end..), first, count: run.count - frames, ..Run::clone(run) };
                    *run = Rc::new(rest);
                    return false;
                }
                end == run.len()
            }
            Segment::Control(control) => self.offer_control(control, lanes),
        }
    }

    fn offer_control(&mut self, control: &mut Control, lanes: &mut impl Lanes) -> bool {
        let place = match control.kind {
            ControlKind::Plain => Place::Control,
            ControlKind::Page { .. } => {
                // Long, and needed no more: handed over instead of copied.
                let whole = &mut control.bytes;
                let bytes = len32(whole.len());
                let payload = payloads(whole).next().map_or(0, <[u8]>::len);
                let taken = self.ask(Place::Control, lanes, || {
                    let header = whole.len() - payload;
                    Bytes::from(std::mem::take(whole)).slice(header..)
                });
                if taken {
                    self.data_bytes += bytes;
                    self.control_frames += 1;
                }
                return taken;
            }
            ControlKind::Skipped { channel, .. } | ControlKind::Channel(channel) => Place::Channel(channel),
            ControlKind::Opening(channel) => Place::Opening(channel),
            ControlKind::Closing(channel) => Place::Closing(channel),
            ControlKind::Attached(channel) => Place::Attached(channel),
        };
        let bytes = &control.bytes;
        let (end, frames) = self.offer_frames(place, bytes, lanes, |from, to| Bytes::copy_from_slice(&bytes[from..to]));
        self.control_bytes += len32(end);
        self.control_frames += frames;
        if end < control.bytes.len() {
            control.bytes.drain(..end);
            control.frames -= frames;
            return false;
        }
        true
    }

    /// Offers frame by frame; gives the end of what was taken, and its number of frames.
    fn offer_frames(
        &mut self,
        place: Place,
        bytes: &[u8],
        lanes: &mut impl Lanes,
        cut: impl Fn(usize, usize) -> Bytes,
    ) -> (usize, u32) {
        let (mut end, mut frames) = (0, 0);
        for payload in payloads(bytes) {
            let from = end + crate::run::header_len(payload.len());
            let to = from + payload.len();
            if !self.ask(place, lanes, || cut(from, to)) {
                break;
            }
            end = to;
            frames += 1;
        }
        (end, frames)
    }

    fn ask(&mut self, place: Place, lanes: &mut impl Lanes, frame: impl FnOnce() -> Bytes) -> bool {
        let lane = place.channel();
        if self.refused.contains(&lane) || self.kept_out.contains(&lane) {
            return false;
        }
        match lanes.take(place, frame) {
            Taken::Whole => {
                if !self.moved.contains(&lane) {
                    self.moved.push(lane);
                }
                return true;
            }
            Taken::LaneFull => self.refused.push(lane),
            // Who is slow is not who finds no room for that.
            Taken::FullOf(other) => {
                self.kept_out.push(lane);
                if !self.refused.contains(&other) {
                    self.refused.push(other);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use millrace_protocol::client::{HistoryClass, Recovery};
    use millrace_protocol::client::{ServerBody, ServerFrame, Subscribed, decode_server};
    use millrace_protocol::{Epoch, Position};

    use super::*;
    use crate::run::tests::run_of;

    /// A transport whose lanes take so many frames each.
    #[derive(Default)]
    struct Streams {
        room: HashMap<Lane, usize>,
        /// What this one has not taken fills the whole.
        full_of: Option<Lane>,
        got: Vec<(Place, String)>,
    }

    impl Lanes for Streams {
        fn take(&mut self, place: Place, frame: impl FnOnce() -> Bytes) -> Taken {
            let room = self.room.entry(place.channel()).or_insert(usize::MAX);
            if *room == 0 {
                return Taken::LaneFull;
            }
            if let Some(other) = self.full_of.filter(|&other| other != place.channel()) {
                return Taken::FullOf(other);
            }
            *room -= 1;
            self.got.push((place, told(&frame())));
            Taken::Whole
        }
    }

    fn told(frame: &[u8]) -> String {
        match decode_server(frame).unwrap().body {
            ServerBody::Message(message) => format!("{}", message.position.offset),
            ServerBody::Skipped { first, last, .. } => format!("skipped {}-{}", first.offset, last.offset),
            ServerBody::Subscribed(_) => "subscribed".into(),
            ServerBody::Unsubscribed { .. } => "unsubscribed".into(),
            ServerBody::Ping => "ping".into(),
            other => format!("{other:?}"),
        }
    }

    fn channel(number: u64) -> ChannelId {
        ChannelId::new(number).unwrap()
    }

    fn subscribed(channel: ChannelId) -> ServerFrame<'static> {
        let position = Position { epoch: Epoch::FIRST, offset: 0 };
        let (history, recovery) = (HistoryClass::Durable, Recovery::None);
        let body = Subscribed { name: "x", channel, position, history, can_publish: true, recovery };
        ServerFrame { request: 2, body: ServerBody::Subscribed(body) }
    }

    const PING: ServerFrame<'static> = ServerFrame { request: 0, body: ServerBody::Ping };

    fn queue() -> Outbound {
        let mut outbound = Outbound::in_lanes();
        let mut scratch = Vec::new();
        for number in [1, 2] {
            let opening = ControlKind::Opening(channel(number));
            outbound.push_control(&mut scratch, &subscribed(channel(number)), opening);
        }
        outbound.push_control(&mut scratch, &PING, ControlKind::Plain);
        outbound.push_control(&mut scratch, &PING, ControlKind::Plain);
        outbound.push_run(&Rc::new(run_of(1, 4, &[10, 20, 30])));
        outbound.push_run(&Rc::new(run_of(2, 7, &[10])));
        outbound.push_page(channel(1), 9, {
            let mut page = Vec::new();
            crate::run::encode_frame(&mut scratch, &mut page, &PING);
            page
        });
        outbound.push_run(&Rc::new(run_of(1, 7, &[5])));
        let body = ServerBody::Unsubscribed { channel: channel(2), code: 0, reason: "" };
        let closing = ControlKind::Closing(channel(2));
        outbound.push_control(&mut scratch, &ServerFrame { request: 5, body }, closing);
        outbound
    }

    fn of(streams: &Streams, lane: Lane) -> Vec<&str> {
        streams.got.iter().filter(|(place, _)| place.channel() == lane).map(|(_, told)| &**told).collect()
    }

    #[test]
    fn everything_is_taken_in_order_where_there_is_room() {
        let (mut outbound, mut streams) = (queue(), Streams::default());
        outbound.offer(5, &mut streams);
        assert_eq!(of(&streams, None), ["ping", "ping", "ping"]);
        assert_eq!(of(&streams, Some(channel(1))), ["subscribed", "4", "5", "6", "7"]);
        assert_eq!(of(&streams, Some(channel(2))), ["subscribed", "7", "unsubscribed"]);
        assert!(outbound.is_empty());
        assert_eq!((outbound.queued_bytes(), outbound.control_frames(), outbound.held_since()), (0, 0, None));
        assert_eq!(streams.got[0].0, Place::Opening(channel(1)));
        assert_eq!(streams.got.last().unwrap().0, Place::Closing(channel(2)));
    }

    #[test]
    fn a_lane_without_room_is_passed() {
        let (mut outbound, mut streams) = (queue(), Streams::default());
        streams.room = [(None, 1), (Some(channel(1)), 2)].into();
        outbound.offer(5, &mut streams);
        assert_eq!(of(&streams, None), ["ping"]);
        assert_eq!(of(&streams, Some(channel(1))), ["subscribed", "4"]);
        assert_eq!(of(&streams, Some(channel(2))), ["subscribed", "7", "unsubscribed"]);
        assert_eq!((outbound.holds(channel(1)), outbound.holds(channel(2))), (true, false));
        assert_eq!((outbound.held_since(), outbound.control_frames()), (Some(5), 2));

        // Nothing more is taken of channel 1, so it stands since then; control goes on.
        streams.room = [(None, 1), (Some(channel(1)), 0)].into();
        outbound.offer(8, &mut streams);
        assert_eq!(outbound.held.as_ref().unwrap().lanes, [(Some(channel(1)), 5), (None, 8)]);
        streams.room.insert(Some(channel(1)), 1);
        outbound.offer(9, &mut streams);
        assert_eq!(outbound.held.as_ref().unwrap().lanes, [(Some(channel(1)), 9), (None, 8)]);

        streams.room.clear();
        outbound.offer(10, &mut streams);
        assert_eq!(of(&streams, Some(channel(1))), ["subscribed", "4", "5", "6", "7"]);
        assert_eq!(of(&streams, None), ["ping", "ping", "ping"]);
        assert_eq!((outbound.queued_bytes(), outbound.control_frames(), outbound.is_empty()), (0, 0, true));
        assert_eq!((outbound.held_since(), outbound.rest.capacity()), (None, 0));
    }

    /// A channel whose frames find no room because of another one's is not the slow one.
    #[test]
    fn who_fills_the_transport_is_held_and_not_who_finds_it_full() {
        let (mut outbound, mut streams) = (Outbound::in_lanes(), Streams::default());
        outbound.push_run(&Rc::new(run_of(1, 4, &[10])));
        outbound.push_run(&Rc::new(run_of(1, 5, &[10])));
        streams.full_of = Some(Some(channel(2)));
        outbound.offer(5, &mut streams);
        assert_eq!(of(&streams, Some(channel(1))), [] as [&str; 0]);
        assert_eq!((outbound.holds(channel(1)), outbound.holds(channel(2))), (false, true));
        assert_eq!((outbound.held_channels(), outbound.held_since()), (vec![channel(2)], Some(5)));
        streams.full_of = None;
        outbound.offer(6, &mut streams);
        assert_eq!(of(&streams, Some(channel(1))), ["4", "5"]);
        assert_eq!((outbound.held_since(), outbound.is_empty()), (None, true));
    }

    /// What is dropped of a run that was taken in part is told with the right offsets.
    #[test]
    fn a_mark_covers_the_rest_of_a_run() {
        let (mut outbound, mut streams) = (Outbound::in_lanes(), Streams::default());
        outbound.push_run(&Rc::new(run_of(1, 4, &[10, 20, 30])));
        streams.room.insert(Some(channel(1)), 1);
        outbound.offer(5, &mut streams);
        let run = Rc::new(run_of(1, 7, &[40]));
        let skipped = outbound.push_skipping(&mut Vec::new(), &run, 0);
        assert_eq!(skipped.messages, 3);
        streams.room.clear();
        outbound.offer(6, &mut streams);
        assert_eq!(of(&streams, Some(channel(1))), ["4", "skipped 5-7"]);
        assert_eq!((outbound.queued_bytes(), outbound.is_empty()), (0, true));
    }
}
