//! Frames out. They are made when the connection takes them, so what waits is small and says what holds then.

use std::time::Instant;

use millrace_protocol::client::{
    ClientBody, ClientFrame, FEATURE_READ_POSITIONS, Hello, HistoryRange, HistoryRequest, Publish, Subscribe, VERSION,
    encode_client,
};
use millrace_protocol::id::{ChannelId, Position};

use super::channel::{Attach, Channel};
use super::subscription::Mode;
use super::{Engine, Key, REQUESTS_MAX, Request};

/// Messages of one channel in a row, when others wait as well.
const MESSAGES_PER_TURN: usize = 16;

/// A frame to send that is no message.
#[derive(Debug)]
pub(super) enum Control {
    Hello { request: u32, keys: Vec<Key> },
    Subscribe { key: Key, request: u32 },
    Unsubscribe { channel: ChannelId, request: u32 },
    History { key: Key, request: u32, range: HistoryRange, messages_max: u32 },
    MarkRead { key: Key, request: u32, position: Position },
    Refresh { request: u32 },
    Pong,
}

impl Engine {
    /// Appends the next frame to `out`; `false` if there is none.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        while let Some(control) = self.control.pop_front() {
            if self.encode_control(&control, out) {
                return true;
            }
        }
        self.encode_message(now, out)
    }

    /// `false` if what it was about is gone.
    fn encode_control(&self, control: &Control, out: &mut Vec<u8>) -> bool {
        let token;
        let (request, body) = match control {
            Control::Hello { request, keys } => {
                token = self.token();
                let channels = keys.iter().filter_map(|key| self.channels.get(key));
                let hello = Hello {
                    version_min: VERSION,
                    version_max: VERSION,
                    features: FEATURE_READ_POSITIONS,
                    token: &token,
                    agent: &self.config.agent,
                    subscriptions: channels.filter_map(subscribe).collect(),
                };
                (*request, ClientBody::Hello(hello))
            }
            Control::Subscribe { key, request } => match self.channels.get(key).and_then(subscribe) {
                Some(subscribe) => (*request, ClientBody::Subscribe(subscribe)),
                None => return false,
            },
            Control::Unsubscribe { channel, request } => (*request, ClientBody::Unsubscribe { channel: *channel }),
            Control::History { key, request, range, messages_max } => {
                let Some(channel) = self.channels.get(key).and_then(|channel| channel.number) else { return false };
                let history = HistoryRequest { channel, messages_max: *messages_max, range: *range };
                (*request, ClientBody::History(history))
            }
            Control::MarkRead { key, request, position } => {
                let Some(channel) = self.channels.get(key).and_then(|channel| channel.number) else { return false };
                (*request, ClientBody::MarkRead { channel, position: *position })
            }
            Control::Refresh { request } => {
                token = self.token();
                (*request, ClientBody::Refresh { token: &token })
            }
            Control::Pong => (0, ClientBody::Pong),
        };
        encode_client(&ClientFrame { request, body }, out);
        true
    }

    /// The next message of the channels that have any, in turns.
    fn encode_message(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        if !self.is_open() || self.requests.len() >= REQUESTS_MAX {
            return false;
        }
        while let Some(&key) = self.ready.front() {
            let request = self.request_number();
            let Some(channel) = self.channels.get_mut(&key) else {
                self.ready.pop_front();
                continue;
            };
            let attached = matches!(channel.attach, Attach::On(_));
            let sent = channel.number.filter(|_| attached).and_then(|number| {
                let outgoing = channel.outbox.send_next(now)?;
                let (producer, sequence) = (outgoing.producer, outgoing.sequence);
                let publish = Publish { channel: number, producer, sequence, body: outgoing.body };
                encode_client(&ClientFrame { request, body: ClientBody::Publish(publish) }, out);
                Some(sequence)
            });
            if let Some(sequence) = sent {
                self.requests.insert(request, Request::Publish(key, sequence));
                channel.turn = (channel.turn + 1) % MESSAGES_PER_TURN;
                if channel.turn == 0 {
                    self.ready.rotate_left(1);
                }
                return true;
            }
            channel.is_listed = false;
            channel.turn = 0;
            self.ready.pop_front();
        }
        false
    }
}

/// What to ask for a channel, as it stands.
fn subscribe(channel: &Channel) -> Option<Subscribe<'_>> {
    let Attach::Asked { mode, .. } = channel.attach else { return None };
    let start = match (mode, &channel.subscription) {
        (Mode::Read, Some(subscription)) => subscription.start(),
        _ => millrace_protocol::client::Start::Attach,
    };
    Some(Subscribe { channel: &channel.name, start })
}
