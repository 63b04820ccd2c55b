//! The small text protocol of the peers that bring none: `ws` and uWebSockets. Its description is in `perf/peers/rooms.mjs`.

use anyhow::{Context, Result, bail};

use super::token::{Tokens, channel};
use super::{Dialect, Event, Outbox, Session, Upgrade};

pub(crate) struct Rooms {
    pub(crate) tokens: Tokens,
}

impl Dialect for Rooms {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        Some(Upgrade { target: "/".to_owned(), subprotocols: Vec::new() })
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        out.text(&format!("auth {}", self.tokens.sign(session.number)));
        for &number in &session.plan.subscribe {
            out.text(&format!("join {}", channel(number)));
        }
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        if stamps > 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(message).context("the server says what is no text")?;
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "ack" => {
                let number = rest.parse().with_context(|| format!("the server says {text:?}"))?;
                out.event(Event::Acknowledged { number });
                return Ok(());
            }
            "ok" => session.joined += u32::try_from(session.plan.publish.len())?,
            "joined" => session.joined += 1,
            _ => bail!("the server says {text:?}"),
        }
        if session.is_ready() {
            out.event(Event::Ready);
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        let (channel, payload) = (channel(session.plan.publish[place]), String::from_utf8_lossy(payload));
        out.text(&format!("pub {number} {channel} {payload}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recording, plan};
    use super::*;

    #[test]
    fn a_client_joins_publishes_and_is_answered() {
        let dialect = Rooms { tokens: Tokens::new(2_000_000_000) };
        let mut client = Recording::begin(&dialect, plan(&[0, 1], &[5]));
        let sent = client.sent();
        assert!(sent[0].starts_with("auth ey"), "{sent:?}");
        assert_eq!(sent[1..], ["join room-0", "join room-1"]);
        assert_eq!(client.receive("ok"), []);
        assert_eq!(client.receive("joined room-0"), []);
        assert_eq!(client.receive("joined room-1"), [Event::Ready]);
        client.publish(0, 3, "mr:~0000000000000001");
        assert_eq!(client.sent(), ["pub 3 room-5 mr:~0000000000000001"]);
        assert_eq!(client.receive("msg mr:~0000000000000009"), []);
        assert_eq!(client.receive("ack 3"), [Event::Acknowledged { number: 3 }]);
        client.fail("error not authenticated", "not authenticated");
        client.fail("ack x", "ack x");
    }
}
