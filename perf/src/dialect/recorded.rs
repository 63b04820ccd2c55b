//! A client without a network: what it sends is read back as text, what the subject once sent is given to it. For tests of dialects.

use millrace_protocol::ws::{Decoder, Event as WsEvent, Limits, Role};

use super::{Dialect, Event, Framing, Outbox, Plan, Session};
use crate::stamp::Stamps;

pub(super) struct Recording<'a> {
    dialect: &'a dyn Dialect,
    session: Session,
    bytes: Vec<u8>,
    events: Vec<Event>,
}

/// A plan without a place to go on from.
pub(super) fn plan(subscribe: &[u32], publish: &[u32]) -> Plan {
    Plan { subscribe: subscribe.to_vec(), publish: publish.to_vec(), ..Plan::default() }
}

impl<'a> Recording<'a> {
    /// The seventh client of a fleet, just connected.
    pub(super) fn begin(dialect: &'a dyn Dialect, plan: Plan) -> Self {
        let mut client = Self { dialect, session: Session::new(7, plan), bytes: Vec::new(), events: Vec::new() };
        let mut out = Outbox { framing: Framing::WebSocket, bytes: &mut client.bytes, events: &mut client.events };
        dialect.begin(&mut client.session, &mut out);
        client
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Takes a message and returns what it told, with what was told before and not asked for.
    pub(super) fn receive(&mut self, message: &str) -> Vec<Event> {
        self.handle(message).unwrap_or_else(|error| panic!("{message}: {error:#}"));
        std::mem::take(&mut self.events)
    }

    /// Takes a message that has to end the run with this in the error.
    pub(super) fn fail(&mut self, message: &str, reason: &str) {
        let error = format!("{:#}", self.handle(message).expect_err(message));
        assert!(error.contains(reason), "{message}: {error}");
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn publish(&mut self, place: usize, number: u32, payload: &str) {
        let mut out = Outbox { framing: Framing::WebSocket, bytes: &mut self.bytes, events: &mut self.events };
        self.dialect.publish(&mut self.session, place, number, payload.as_bytes(), &mut out);
    }

    /// What it has sent since it was asked last, one text per message.
    pub(super) fn sent(&mut self) -> Vec<String> {
        let mut decoder = Decoder::new(Role::Server, Limits { message_bytes_max: 1 << 20 });
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut feed = decoder.feed(&mut bytes);
        let mut messages = Vec::new();
        while let Some(event) = feed.next_event().expect("frames that a server reads") {
            let WsEvent::Message { payload, .. } = event else { panic!("no control frames") };
            messages.push(String::from_utf8(payload.to_vec()).expect("text"));
        }
        messages
    }

    fn handle(&mut self, message: &str) -> anyhow::Result<()> {
        let stamps = Stamps::new().each(message.as_bytes(), |_| {});
        let mut out = Outbox { framing: Framing::WebSocket, bytes: &mut self.bytes, events: &mut self.events };
        self.dialect.receive(&mut self.session, message.as_bytes(), stamps, &mut out)
    }
}
