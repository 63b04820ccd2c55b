//! Socket.IO over its WebSocket transport.
//!
//! A message is a packet of Engine.IO: a digit (0 open, 2 ping, 3 pong, 4 message), and within 4 a packet of Socket.IO: a digit (0 connect,
//! 1 disconnect, 2 event, 3 acknowledgement, 4 refused), a number if it wants to be or is acknowledged, JSON.
//!
//! Source: <https://socket.io/docs/v4/socket-io-protocol/>.

use anyhow::{Context, Result, bail};

use super::token::{Tokens, channel};
use super::{Dialect, Event, Outbox, Session, Upgrade};

pub(crate) struct SocketIo {
    pub(crate) tokens: Tokens,
}

impl Dialect for SocketIo {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        Some(Upgrade { target: "/socket.io/?EIO=4&transport=websocket".to_owned(), subprotocols: Vec::new() })
    }

    fn begin(&self, _: &mut Session, _: &mut Outbox<'_>) {
        // The server speaks first.
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        if stamps > 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(message).context("the server says what is no text")?;
        let (kind, rest) = text.split_at_checked(if text.starts_with('4') { 2 } else { 1 }).unwrap_or((text, ""));
        match kind {
            "0" => out.text(&format!(r#"40{{"token":"{}"}}"#, self.tokens.sign(session.number))),
            "2" => out.text("3"),
            "40" => {
                for (place, &number) in session.plan.subscribe.iter().enumerate() {
                    out.text(&format!(r#"42{place}["join","{}"]"#, channel(number)));
                }
                session.joined += u32::try_from(session.plan.publish.len())?;
                if session.is_ready() {
                    out.event(Event::Ready);
                }
            }
            "43" if session.is_ready() => {
                let number = rest.split_once('[').and_then(|(number, _)| number.parse().ok());
                let number = number.with_context(|| format!("the server says {text:?}"))?;
                out.event(Event::Acknowledged { number });
            }
            "43" => {
                session.joined += 1;
                if session.is_ready() {
                    out.event(Event::Ready);
                }
            }
            _ => bail!("the server says {text:?}"),
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        let (channel, payload) = (channel(session.plan.publish[place]), String::from_utf8_lossy(payload));
        out.text(&format!(r#"42{number}["publish","{channel}","{payload}"]"#));
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recording, plan};
    use super::*;

    const OPEN: &str =
        r#"0{"sid":"a4d8m24S7n6n42lDAAAA","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":65536}"#;

    #[test]
    fn a_client_connects_joins_and_publishes() {
        let dialect = SocketIo { tokens: Tokens::new(2_000_000_000) };
        let mut client = Recording::begin(&dialect, plan(&[8], &[8]));
        assert_eq!(client.sent(), [""; 0]);
        assert_eq!(client.receive(OPEN), []);
        assert!(client.sent()[0].starts_with(r#"40{"token":"ey"#));
        assert_eq!(client.receive(r#"40{"sid":"ZA5dMpqUuZPcbR40AAAA"}"#), []);
        assert_eq!(client.sent(), [r#"420["join","room-8"]"#]);
        assert_eq!(client.receive("430[]"), [Event::Ready]);
        client.publish(0, 10, "mr:~0000000000000000");
        assert_eq!(client.sent(), [r#"4210["publish","room-8","mr:~0000000000000000"]"#]);
        assert_eq!(client.receive(r#"42["message","mr:~0000000000000000"]"#), []);
        assert_eq!(client.receive("4310[]"), [Event::Acknowledged { number: 10 }]);
    }

    #[test]
    fn a_ping_is_answered_and_a_refusal_is_an_error() {
        let dialect = SocketIo { tokens: Tokens::new(2_000_000_000) };
        let mut client = Recording::begin(&dialect, plan(&[], &[1]));
        client.receive("2");
        assert_eq!(client.sent(), ["3"]);
        client.fail(r#"44{"message":"not authenticated"}"#, "not authenticated");
        for nonsense in ["", "4", "é", "41", "9x"] {
            client.fail(nonsense, "the server says");
        }
    }
}
