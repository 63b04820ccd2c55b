//! The protocol of NATS inside WebSocket messages, core or with JetStream's acknowledgements.
//!
//! Lines end with CRLF; `MSG` and `HMSG` are followed by as many bytes as they say, and CRLF. A WebSocket message holds any number of whole
//! ones. JetStream answers a publish with a message to the subject that the publish named for that.
//!
//! Source: <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

use anyhow::{Context, Result, bail};
use memchr::memmem;

use super::token::SECRET;
use super::{Dialect, Event, Outbox, Session, Upgrade};

/// How a publish is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// By the answer to a ping that follows it: the server has handled it by then.
    Ping,
    /// By JetStream, when it is stored.
    Stored,
}

pub(crate) struct Nats {
    pub(crate) acknowledgement: Acknowledgement,
}

/// The subject of a channel.
fn subject(number: u32) -> String {
    format!("room.{number}")
}

/// What every client says first.
pub(crate) fn connect() -> String {
    format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\",\"protocol\":1,\"headers\":true,\
         \"no_responders\":true,\"auth_token\":\"{SECRET}\"}}\r\n"
    )
}

/// One operation of the server's.
#[derive(Debug, PartialEq, Eq)]
enum Operation<'a> {
    Message { subject: &'a str, body: &'a [u8] },
    Ping,
    Pong,
    Other(&'a str),
}

/// Takes one operation off the front.
fn operation<'a>(input: &mut &'a [u8]) -> Result<Option<Operation<'a>>> {
    if input.is_empty() {
        return Ok(None);
    }
    let end = memmem::find(input, b"\r\n").context("a line without its end")?;
    let line = std::str::from_utf8(&input[..end]).context("a line that is no text")?;
    let mut rest = &input[end + 2..];
    let mut words = line.split_ascii_whitespace();
    let operation = match words.next() {
        Some("MSG" | "HMSG") => {
            let subject = words.next().context("a message without a subject")?;
            let size: usize =
                words.next_back().and_then(|size| size.parse().ok()).context("a message without a size")?;
            let body = rest.get(..size).context("a message that is cut short")?;
            rest = rest.get(size + 2..).context("a message without its end")?;
            Operation::Message { subject, body }
        }
        Some("PING") => Operation::Ping,
        Some("PONG") => Operation::Pong,
        _ => Operation::Other(line),
    };
    *input = rest;
    Ok(Some(operation))
}

impl Nats {
    fn pong(session: &mut Session, out: &mut Outbox<'_>) {
        if session.is_ready() {
            if let Some(number) = session.unanswered.pop_front() {
                out.event(Event::Acknowledged { number });
            }
        } else {
            let channels = session.plan.subscribe.len() + session.plan.publish.len();
            session.joined = u32::try_from(channels).unwrap_or(u32::MAX);
            out.event(Event::Ready);
        }
    }
}

impl Dialect for Nats {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        Some(Upgrade { target: "/".to_owned(), subprotocols: Vec::new() })
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        let mut commands = connect();
        for (place, &number) in session.plan.subscribe.iter().enumerate() {
            commands.push_str(&format!("SUB {} {}\r\n", subject(number), place + 1));
        }
        if self.acknowledgement == Acknowledgement::Stored && !session.plan.publish.is_empty() {
            commands.push_str(&format!("SUB _INBOX.{}.* 0\r\n", session.number));
        }
        // Its answer says that all before it is done.
        commands.push_str("PING\r\n");
        out.binary(commands.as_bytes());
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        // What subscribers mostly get; only a ping may hide among it, and no payload has one.
        if stamps > 0 && session.plan.publish.is_empty() {
            if memmem::find(message, b"PING\r\n").is_some() {
                out.binary(b"PONG\r\n");
            }
            return Ok(());
        }
        let mut input = message;
        while let Some(operation) = operation(&mut input)? {
            match operation {
                Operation::Ping => out.binary(b"PONG\r\n"),
                Operation::Pong => Self::pong(session, out),
                Operation::Message { subject, body } => {
                    let Some(inbox) = subject.strip_prefix("_INBOX.") else { continue };
                    let number = inbox.split_once('.').and_then(|(_, number)| number.parse().ok());
                    let number = number.with_context(|| format!("an answer to {subject}"))?;
                    if !body.starts_with(b"{\"stream\":") {
                        bail!("the server did not store a message: {}", String::from_utf8_lossy(body));
                    }
                    out.event(Event::Acknowledged { number });
                }
                Operation::Other(line) if line.starts_with("-ERR") => bail!("the server says {line}"),
                Operation::Other(_) => {}
            }
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        let subject = subject(session.plan.publish[place]);
        let mut message = match self.acknowledgement {
            Acknowledgement::Ping => format!("PUB {subject} {}\r\n", payload.len()),
            Acknowledgement::Stored => {
                format!("PUB {subject} _INBOX.{}.{number} {}\r\n", session.number, payload.len())
            }
        }
        .into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        if self.acknowledgement == Acknowledgement::Ping {
            message.extend_from_slice(b"PING\r\n");
            session.unanswered.push_back(number);
        }
        out.binary(&message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recording, plan};
    use super::*;

    const INFO: &str =
        "INFO {\"server_id\":\"NDEY5J\",\"version\":\"2.15.2\",\"headers\":true,\"auth_required\":true} \r\n";
    const PAYLOAD: &str = "mr:~0000000000000001";

    #[test]
    fn a_subscriber_is_ready_with_the_pong_after_its_channels() {
        let dialect = Nats { acknowledgement: Acknowledgement::Ping };
        let mut client = Recording::begin(&dialect, plan(&[0, 3], &[]));
        let sent = client.sent();
        let (_, after) = sent[0].split_once("}\r\n").expect("CONNECT first");
        assert_eq!(after, "SUB room.0 1\r\nSUB room.3 2\r\nPING\r\n");
        assert_eq!(client.receive(INFO), []);
        assert_eq!(client.receive(&format!("PONG\r\n{INFO}")), [Event::Ready]);
    }

    #[test]
    fn pings_are_answered_alone_and_among_messages() {
        let dialect = Nats { acknowledgement: Acknowledgement::Ping };
        let mut client = Recording::begin(&dialect, plan(&[0], &[]));
        client.receive("PONG\r\n");
        client.sent();
        let message = format!("MSG room.0 1 20\r\n{PAYLOAD}\r\n");
        for (bytes, pongs) in [("PING\r\n".to_owned(), 1), (format!("{message}PING\r\n{message}"), 1), (message, 0)] {
            assert_eq!(client.receive(&bytes), []);
            assert_eq!(client.sent(), vec!["PONG\r\n"; pongs], "{bytes}");
        }
    }

    #[test]
    fn core_acknowledges_with_the_pong() {
        let dialect = Nats { acknowledgement: Acknowledgement::Ping };
        let mut client = Recording::begin(&dialect, plan(&[], &[2]));
        assert_eq!(client.receive("PONG\r\n"), [Event::Ready]);
        client.sent();
        client.publish(0, 7, PAYLOAD);
        client.publish(0, 8, PAYLOAD);
        assert_eq!(client.sent(), vec![format!("PUB room.2 20\r\n{PAYLOAD}\r\nPING\r\n"); 2]);
        let both = [Event::Acknowledged { number: 7 }, Event::Acknowledged { number: 8 }];
        assert_eq!(client.receive("PONG\r\nPONG\r\n"), both);
    }

    #[test]
    fn jetstream_acknowledges_what_it_stored() {
        let dialect = Nats { acknowledgement: Acknowledgement::Stored };
        let mut client = Recording::begin(&dialect, plan(&[], &[2]));
        assert!(client.sent()[0].ends_with("SUB _INBOX.7.* 0\r\nPING\r\n"));
        assert_eq!(client.receive("PONG\r\n"), [Event::Ready]);
        client.publish(0, 7, PAYLOAD);
        assert_eq!(client.sent(), [format!("PUB room.2 _INBOX.7.7 20\r\n{PAYLOAD}\r\n")]);
        let stored = "MSG _INBOX.7.7 0 26\r\n{\"stream\":\"rooms\",\"seq\":1}\r\n";
        assert_eq!(client.receive(stored), [Event::Acknowledged { number: 7 }]);
        client.fail("HMSG _INBOX.7.8 0 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", "did not store");
        client.fail("MSG _INBOX.7.8 0 20\r\n{\"error\":{\"code\":500}\r\n", "did not store");
    }

    #[test]
    fn what_breaks_the_protocol_is_an_error() {
        let dialect = Nats { acknowledgement: Acknowledgement::Ping };
        let mut client = Recording::begin(&dialect, plan(&[], &[2]));
        for (message, reason) in [
            ("-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
            ("PONG", "without its end"),
            ("MSG room.0 1 20\r\nshort\r\n", "cut short"),
            ("MSG room.0 1 5\r\nshort", "without its end"),
            ("MSG\r\n", "without a subject"),
            ("MSG room.0 1 x\r\n", "without a size"),
        ] {
            client.fail(message, reason);
        }
    }
}
