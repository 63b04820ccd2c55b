//! What a subject speaks inside its messages: how to enter, to join, to publish. Pure: the load generator moves the bytes.

pub(crate) mod bare;
pub(crate) mod centrifuge;
pub(crate) mod ejabberd;
pub(crate) mod millrace;
pub(crate) mod nats;
pub(crate) mod nchan;
pub(crate) mod quinn;
#[cfg(test)]
mod recorded;
pub(crate) mod rooms;
pub(crate) mod socketio;
pub(crate) mod token;

use std::collections::VecDeque;

use anyhow::Result;
use millrace_protocol::ws::{Opcode, encode};

/// The load need not hide what it sends from proxies, so one masking key serves.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Messages of a page of history.
pub(crate) const PAGE: u32 = 50;

/// One protocol. Shared by all clients of a subject; what a client alone knows is in its [`Session`].
pub(crate) trait Dialect: Send + Sync {
    /// How a connection becomes a WebSocket; `None` if messages flow at once, framed all the same.
    fn upgrade(&self, session: &Session) -> Option<Upgrade>;

    /// Channels that one client can be in, to read and to write together.
    fn channels_max(&self) -> usize {
        usize::MAX
    }

    /// The connection is open: says who the client is, and joins its channels if that needs no answer first.
    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>);

    /// A message has come. `stamps` payloads were found in it and are counted already; a dialect that never mixes them with anything else
    /// returns at once if there are any.
    ///
    /// # Errors
    /// When the subject refuses something: the run cannot go on.
    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()>;

    /// Publishes a payload to the channel in this place of the plan's `publish`. `number` is told back in [`Event::Acknowledged`].
    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>);

    /// Asks for a page of [`PAGE`] messages of the channel in this place of the plan, just before an offset, or the newest if that is 0;
    /// [`Event::Page`] answers with the same number. `false` if the subject has none.
    fn history(&self, session: &mut Session, place: usize, before: u64, number: u32, out: &mut Outbox<'_>) -> bool {
        let _ = (session, place, before, number, out);
        false
    }
}

/// Path and subprotocol of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) target: String,
    pub(crate) subprotocols: Vec<&'static str>,
}

/// What a client is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Channels to subscribe to, by number.
    pub(crate) subscribe: Vec<u32>,
    /// Channels to publish to, by number.
    pub(crate) publish: Vec<u32>,
    /// Where each subscription goes on from; empty: from now on. As long as `subscribe` otherwise.
    pub(crate) resume: Vec<Mark>,
    /// Which of the run's tokens it proves itself with, where the subject gave out any; `None`: that of the owner of all channels, as an
    /// application server would. Peers sign a token for each client.
    pub(crate) token: Option<u32>,
}

/// A place in a channel, in the subject's own terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) epoch: u32,
    pub(crate) offset: u64,
}

/// A client's state, kept by its dialect.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Unique among all clients of this program.
    pub(crate) number: u32,
    pub(crate) plan: Plan,
    /// Channels joined so far, of those in the plan.
    pub(crate) joined: u32,
    /// Where it joined each: by the order of the plan's `subscribe`, then `publish`.
    pub(crate) marks: Vec<Mark>,
    /// What the subject calls each channel of the plan: by the order of `subscribe`, then `publish`.
    pub(crate) handles: Vec<u64>,
    /// Messages sent to each channel so far: by the order of the plan's `publish`.
    pub(crate) sent: Vec<u64>,
    /// Publishes that wait for their acknowledgement, where the subject answers in order and names none.
    pub(crate) unanswered: VecDeque<u32>,
    /// Steps of the login behind it.
    pub(crate) step: u8,
}

impl Session {
    pub(crate) fn new(number: u32, plan: Plan) -> Self {
        let channels = plan.subscribe.len() + plan.publish.len();
        let sent = vec![0; plan.publish.len()];
        Self {
            number,
            plan,
            marks: vec![Mark::default(); channels],
            handles: vec![0; channels],
            sent,
            ..Self::default()
        }
    }

    /// Joined everything that it was meant to.
    pub(crate) fn is_ready(&self) -> bool {
        self.joined as usize == self.plan.subscribe.len() + self.plan.publish.len()
    }

    /// What the subject calls the channel in this place of the plan's `publish`.
    pub(crate) fn publish_handle(&self, place: usize) -> u64 {
        self.handles[self.plan.subscribe.len() + place]
    }
}

/// What stands around a message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The head of a WebSocket frame.
    WebSocket,
    /// Nothing: on a stream a message tells its own length.
    Stream,
}

/// Where a dialect puts what it sends and what it has learned.
pub(crate) struct Outbox<'a> {
    pub(crate) framing: Framing,
    pub(crate) bytes: &'a mut Vec<u8>,
    pub(crate) events: &'a mut Vec<Event>,
}

/// What a message told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// All channels of the plan are joined.
    Ready,
    /// The subject takes nobody now, ends, and asks to be tried again after so long.
    Busy { after_ms: u32 },
    /// The publish of this number is accepted, with the subject's guarantee behind it.
    Acknowledged { number: u32 },
    /// The page of history that was asked for with this number came, with so many messages.
    Page {
        number: u32,
        messages: u32,
        /// Offsets of the first and the last of them, if these and all between them are there in their order; `None` if not, or if there
        /// are none.
        offsets: Option<(u64, u64)>,
    },
}

impl Outbox<'_> {
    /// A text message.
    pub(crate) fn text(&mut self, message: &str) {
        self.put(Opcode::Text, message.as_bytes());
    }

    /// A binary message.
    pub(crate) fn binary(&mut self, message: &[u8]) {
        self.put(Opcode::Binary, message);
    }

    fn put(&mut self, opcode: Opcode, message: &[u8]) {
        match self.framing {
            Framing::WebSocket => encode::frame(opcode, message, Some(MASK), self.bytes),
            Framing::Stream => self.bytes.extend_from_slice(message),
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}
