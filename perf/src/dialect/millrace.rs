//! Millrace's own protocol.

use anyhow::{Result, bail};
use millrace_protocol::client::{
    self, ClientBody, ClientFrame, Hello, HistoryRange, HistoryRequest, Publish, ServerBody, Start, Subscribe,
    decode_server, encode_client,
};
use millrace_protocol::{ChannelId, Code, Epoch, Offset, Position, Producer, ProducerSequence};

use super::{Dialect, Event, Mark, Outbox, PAGE, Plan, Session, Upgrade};

/// Millrace over any transport.
pub(crate) struct Millrace {
    pub(crate) target: String,
    /// By the number that a plan names.
    pub(crate) tokens: Vec<String>,
    /// Of the user who owns all channels.
    pub(crate) owner: String,
    /// Names of the channels, by number.
    pub(crate) channels: Vec<String>,
    /// The transport acknowledges what it gets.
    pub(crate) acknowledges: bool,
    /// Drawn for the run, so that a cluster that knows an earlier one does not take these messages for its duplicates.
    pub(crate) producers: u64,
}

/// Subscriptions of one session: the most that the protocol has, and the server's default.
const SUBSCRIPTIONS_MAX: usize = 1_000;

impl Millrace {
    /// A plan that names a token which was not made comes without one, and is refused.
    fn token(&self, plan: &Plan) -> &str {
        plan.token.map_or(&self.owner, |number| self.tokens.get(number as usize).map_or("", String::as_str))
    }

    fn name(&self, channel: u32) -> &str {
        self.channels.get(channel as usize).map_or("", String::as_str)
    }

    fn subscriptions<'a>(&'a self, plan: &Plan) -> Vec<Subscribe<'a>> {
        let read = plan.subscribe.iter().enumerate().map(|(place, &channel)| {
            let start = plan.resume.get(place).map_or(Start::Live, |mark| Start::After(position(*mark)));
            Subscribe { channel: self.name(channel), start }
        });
        let write = plan
            .publish
            .iter()
            .filter(|channel| !plan.subscribe.contains(channel))
            .map(|&channel| Subscribe { channel: self.name(channel), start: Start::Attach });
        read.chain(write).collect()
    }
}

/// The first and the last of offsets that follow each other without a gap.
fn range(offsets: impl Iterator<Item = u64>) -> Option<(u64, u64)> {
    let mut range = None;
    for offset in offsets {
        range = match range {
            None => Some((offset, offset)),
            Some((first, last)) if last + 1 == offset => Some((first, offset)),
            Some(_) => return None,
        };
    }
    range
}

fn position(mark: Mark) -> Position {
    Position { epoch: Epoch::new(mark.epoch).unwrap_or(Epoch::FIRST), offset: mark.offset }
}

fn send(body: ClientBody<'_>, request: u32, out: &mut Outbox<'_>) {
    let mut frame = Vec::with_capacity(256);
    encode_client(&ClientFrame { request, body }, &mut frame);
    out.binary(&frame);
}

impl Dialect for Millrace {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        Some(Upgrade { target: self.target.clone(), subprotocols: vec![client::SUBPROTOCOL] })
    }

    fn channels_max(&self) -> usize {
        SUBSCRIPTIONS_MAX
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        let hello = Hello {
            version_min: client::VERSION,
            version_max: client::VERSION,
            features: 0,
            token: self.token(&session.plan),
            agent: "millrace-perf",
            subscriptions: self.subscriptions(&session.plan),
        };
        send(ClientBody::Hello(hello), 1, out);
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        let frame = decode_server(message)?;
        match frame.body {
            // The only frame but a message that carries payloads.
            ServerBody::Page { messages, .. } => {
                out.event(Event::Page {
                    number: frame.request.wrapping_sub(1),
                    messages: u32::try_from(messages.len()).unwrap_or(u32::MAX),
                    offsets: range(messages.iter().map(|message| message.position.offset)),
                });
            }
            _ if stamps > 0 => {}
            ServerBody::Subscribed(subscribed) => {
                let planned = session.plan.subscribe.iter().chain(&session.plan.publish);
                for (place, &channel) in planned.enumerate() {
                    if self.name(channel) == subscribed.name {
                        session.handles[place] = subscribed.channel.get();
                        let Position { epoch, offset } = subscribed.position;
                        session.marks[place] = Mark { epoch: epoch.get(), offset };
                        session.joined += 1;
                    }
                }
                if session.is_ready() {
                    out.event(Event::Ready);
                }
            }
            ServerBody::Published(_) => out.event(Event::Acknowledged { number: frame.request.wrapping_sub(1) }),
            // Over QUIC its acknowledgement is the answer.
            ServerBody::Ping if self.acknowledges => {}
            ServerBody::Ping => send(ClientBody::Pong, 0, out),
            ServerBody::Error { code, retry_after_ms, .. } if code == Code::Busy.number() && !session.is_ready() => {
                out.event(Event::Busy { after_ms: retry_after_ms });
            }
            ServerBody::Error { code, message, .. } => bail!("the server says {code}: {message}"),
            ServerBody::Unsubscribed { code, reason, .. } => {
                bail!("the server ended a subscription with {code}: {reason}")
            }
            ServerBody::GoAway { code, .. } => bail!("the server says that it goes away, code {code}"),
            _ => {}
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        let Some(channel) = ChannelId::new(session.publish_handle(place)) else { return };
        session.sent[place] += 1;
        let body = Publish {
            channel,
            producer: Producer::new(self.producers.wrapping_add(u64::from(session.number)) | 1 << 63).expect("not 0"),
            sequence: ProducerSequence::new(session.sent[place]).expect("counted from 1"),
            body: payload,
        };
        // Request 0 would stand for none.
        send(ClientBody::Publish(body), number.wrapping_add(1), out);
    }

    fn history(&self, session: &mut Session, place: usize, before: u64, number: u32, out: &mut Outbox<'_>) -> bool {
        let Some(channel) = ChannelId::new(session.handles[place]) else { return false };
        let range = Offset::new(before).map_or(HistoryRange::Newest, HistoryRange::Before);
        send(ClientBody::History(HistoryRequest { channel, messages_max: PAGE, range }), number.wrapping_add(1), out);
        true
    }
}
