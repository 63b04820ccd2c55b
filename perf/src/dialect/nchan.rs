//! nchan: a WebSocket is one channel's, named by its path, to read, to write, or both. Messages are bare; a publish is answered by counts.

use anyhow::{Context, Result, ensure};

use super::token::channel;
use super::{Dialect, Event, Outbox, Session, Upgrade};

pub(crate) struct Nchan {
    /// First part of the paths: it chooses how much is kept.
    pub(crate) class: &'static str,
}

impl Dialect for Nchan {
    fn channels_max(&self) -> usize {
        1
    }

    fn upgrade(&self, session: &Session) -> Option<Upgrade> {
        let (verb, number) = match (session.plan.subscribe.first(), session.plan.publish.first()) {
            (Some(number), Some(_)) => ("both", number),
            (Some(number), None) => ("sub", number),
            (None, Some(number)) => ("pub", number),
            (None, None) => ("sub", &0),
        };
        Some(Upgrade { target: format!("/{}/{verb}/{}", self.class, channel(*number)), subprotocols: Vec::new() })
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        // The answer to the upgrade says that it has joined.
        session.joined = u32::try_from(session.plan.subscribe.len() + session.plan.publish.len()).unwrap_or(u32::MAX);
        out.event(Event::Ready);
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        if stamps > 0 {
            return Ok(());
        }
        ensure!(message.starts_with(b"queued messages: "), "the server says {:?}", String::from_utf8_lossy(message));
        // In the order of the publishes; it names none.
        let number = session.unanswered.pop_front().context("an answer to nothing")?;
        out.event(Event::Acknowledged { number });
        Ok(())
    }

    fn publish(&self, session: &mut Session, _: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        session.unanswered.push_back(number);
        out.text(&String::from_utf8_lossy(payload));
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recording, plan};
    use super::*;

    #[test]
    fn a_path_names_channel_and_purpose() {
        let dialect = Nchan { class: "live" };
        let target = |plan| dialect.upgrade(&Session::new(0, plan)).expect("a WebSocket").target;
        assert_eq!(target(plan(&[3], &[])), "/live/sub/room-3");
        assert_eq!(target(plan(&[], &[4])), "/live/pub/room-4");
        assert_eq!(target(plan(&[5], &[5])), "/live/both/room-5");
    }

    #[test]
    fn publishes_are_acknowledged_in_their_order() {
        let dialect = Nchan { class: "live" };
        let mut client = Recording::begin(&dialect, plan(&[], &[4]));
        assert_eq!(client.events(), [Event::Ready]);
        client.publish(0, 5, "mr:~0000000000000000");
        client.publish(0, 9, "mr:~0000000000000001");
        assert_eq!(client.sent(), ["mr:~0000000000000000", "mr:~0000000000000001"]);
        let answer = "queued messages: 1\r\nlast requested: 0 sec. ago\r\nactive subscribers: 5\r\nlast message id: 1795357348:0";
        assert_eq!(client.receive(answer), [Event::Acknowledged { number: 5 }]);
        assert_eq!(client.receive(answer), [Event::Acknowledged { number: 9 }]);
        client.fail(answer, "an answer to nothing");
        client.fail("what?", "what?");
    }
}
