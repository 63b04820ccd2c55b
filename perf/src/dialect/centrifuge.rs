//! The JSON protocol of Centrifuge, and so of Centrifugo.
//!
//! Commands and replies are JSON objects, several of them in a message on lines of their own. A reply carries its command's `id`; a push has
//! none. An empty object is the server's ping and the client's pong.
//!
//! Source: <https://centrifugal.dev/docs/transports/client_protocol>.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::token::{Tokens, channel};
use super::{Dialect, Event, Mark, Outbox, Session, Upgrade};

/// Commands of the login have smaller ids, publishes their number added to this.
const PUBLISH: u32 = 1 << 20;
const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;

/// Begins the names of channels that keep nothing.
pub(crate) const LIVE: &str = "live";
/// Begins the names of channels whose newest messages are kept.
pub(crate) const RECOVER: &str = "recover";

pub(crate) struct Centrifuge {
    tokens: Tokens,
    /// What channel names begin with: it chooses how much is kept.
    namespace: &'static str,
    /// Names of epochs, which a [`Mark`] has only a number for: the place in here, from 1.
    epochs: Mutex<Vec<String>>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    id: u32,
    error: Option<Refusal>,
    #[serde(borrow)]
    subscribe: Option<Subscribed<'a>>,
    publish: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Subscribed<'a> {
    epoch: Option<&'a str>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    recovered: bool,
}

impl Centrifuge {
    pub(crate) fn new(tokens: Tokens, namespace: &'static str) -> Self {
        Self { tokens, namespace, epochs: Mutex::default() }
    }

    fn channel(&self, number: u32) -> String {
        format!("{}:{}", self.namespace, channel(number))
    }

    /// The number of an epoch's name.
    fn epoch(&self, name: &str) -> u32 {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let place = epochs.iter().position(|known| known == name).unwrap_or_else(|| {
            epochs.push(name.to_owned());
            epochs.len() - 1
        });
        u32::try_from(place + 1).unwrap_or(u32::MAX)
    }

    fn reply(&self, session: &mut Session, line: &[u8], out: &mut Outbox<'_>) -> Result<()> {
        let reply: Reply<'_> = serde_json::from_slice(line)
            .with_context(|| format!("the server says {:?}", String::from_utf8_lossy(line)))?;
        if let Some(Refusal { code, message }) = reply.error {
            bail!("the server says {code}: {message}");
        }
        if reply.publish.is_some() {
            out.event(Event::Acknowledged { number: reply.id.wrapping_sub(PUBLISH) });
        } else if let Some(subscribed) = reply.subscribe {
            let place = (reply.id - SUBSCRIBE) as usize;
            ensure!(session.plan.resume.is_empty() || subscribed.recovered, "the server has not kept what was missed");
            let epoch = subscribed.epoch.map_or(0, |name| self.epoch(name));
            session.marks[place] = Mark { epoch, offset: subscribed.offset };
            session.joined += 1;
            ready(session, out);
        } else if reply.id == CONNECT {
            session.joined += u32::try_from(session.plan.publish.len())?;
            ready(session, out);
        }
        Ok(())
    }
}

fn ready(session: &Session, out: &mut Outbox<'_>) {
    if session.is_ready() {
        out.event(Event::Ready);
    }
}

impl Dialect for Centrifuge {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        Some(Upgrade { target: "/connection/websocket".to_owned(), subprotocols: Vec::new() })
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        let mut commands =
            format!(r#"{{"id":{CONNECT},"connect":{{"token":"{}"}}}}"#, self.tokens.sign(session.number));
        let epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, (place, &number)) in (SUBSCRIBE..).zip(session.plan.subscribe.iter().enumerate()) {
            let _ = write!(commands, "\n{{\"id\":{id},\"subscribe\":{{\"channel\":\"{}\"", self.channel(number));
            if let Some(mark) = session.plan.resume.get(place) {
                let epoch = (mark.epoch as usize).checked_sub(1).and_then(|place| epochs.get(place));
                let epoch = epoch.map_or("", String::as_str);
                let _ = write!(commands, r#","recover":true,"epoch":"{epoch}","offset":{}"#, mark.offset);
            }
            commands.push_str("}}");
        }
        out.text(&commands);
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        // What subscribers mostly get; only a ping may hide among it.
        if stamps > 0 && session.is_ready() && session.plan.publish.is_empty() {
            if message.starts_with(b"{}") || memmem::find(message, b"\n{}").is_some() {
                out.text("{}");
            }
            return Ok(());
        }
        for line in message.split(|&byte| byte == b'\n') {
            match line {
                b"" => {}
                b"{}" => out.text("{}"),
                _ if line.starts_with(b"{\"push\"") => {}
                _ => self.reply(session, line, out)?,
            }
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        let (id, channel) = (number.wrapping_add(PUBLISH), self.channel(session.plan.publish[place]));
        let payload = String::from_utf8_lossy(payload);
        out.text(&format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":"{payload}"}}}}"#));
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recording, plan};
    use super::*;

    fn dialect(namespace: &'static str) -> Centrifuge {
        Centrifuge::new(Tokens::new(2_000_000_000), namespace)
    }

    #[test]
    fn a_subscriber_is_ready_with_its_last_channel() {
        let dialect = dialect(LIVE);
        let mut client = Recording::begin(&dialect, plan(&[0, 1], &[]));
        let sent = client.sent();
        let lines: Vec<&str> = sent[0].lines().collect();
        assert!(lines[0].starts_with(r#"{"id":1,"connect":{"token":"ey"#), "{sent:?}");
        assert_eq!(
            lines[1..],
            [r#"{"id":2,"subscribe":{"channel":"live:room-0"}}"#, r#"{"id":3,"subscribe":{"channel":"live:room-1"}}"#]
        );
        let connected = r#"{"id":1,"connect":{"client":"c1bb17cb-a0ad-41eb-9165-68018801df68","ping":25,"pong":true}}"#;
        assert_eq!(client.receive(&format!("{connected}\n{{\"id\":2,\"subscribe\":{{}}}}")), []);
        assert_eq!(client.receive(r#"{"id":3,"subscribe":{}}"#), [Event::Ready]);
    }

    #[test]
    fn a_ping_is_answered_alone_and_among_publications() {
        let dialect = dialect(LIVE);
        let mut client = Recording::begin(&dialect, plan(&[0], &[]));
        client.receive("{\"id\":1,\"connect\":{\"client\":\"c\"}}\n{\"id\":2,\"subscribe\":{}}");
        client.sent();
        let push = r#"{"push":{"channel":"live:room-0","pub":{"data":"mr:~0000000000000001"}}}"#;
        for (message, pongs) in [
            ("{}".to_owned(), 1),
            (format!("{push}\n{{}}"), 1),
            (format!("{{}}\n{push}"), 1),
            (format!("{push}\n{push}"), 0),
        ] {
            assert_eq!(client.receive(&message), []);
            assert_eq!(client.sent(), vec!["{}"; pongs], "{message}");
        }
    }

    #[test]
    fn a_publish_is_acknowledged_by_its_number() {
        let dialect = dialect(LIVE);
        let mut client = Recording::begin(&dialect, plan(&[], &[4]));
        assert_eq!(client.receive(r#"{"id":1,"connect":{"client":"c"}}"#), [Event::Ready]);
        client.sent();
        client.publish(0, 12, "mr:~0000000000000001");
        let expected = r#"{"id":1048588,"publish":{"channel":"live:room-4","data":"mr:~0000000000000001"}}"#;
        assert_eq!(client.sent(), [expected]);
        assert_eq!(client.receive(r#"{"id":1048588,"publish":{}}"#), [Event::Acknowledged { number: 12 }]);
    }

    #[test]
    fn a_mark_is_sent_back_as_the_server_named_it() {
        let dialect = dialect(RECOVER);
        let mut client = Recording::begin(&dialect, plan(&[0], &[]));
        let subscribed = r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"UUqOmReU","positioned":true,"offset":3}}"#;
        assert_eq!(client.receive(&format!("{{\"id\":1,\"connect\":{{}}}}\n{subscribed}")), [Event::Ready]);
        let mark = client.session().marks[0];
        let mut resumed = plan(&[0], &[]);
        resumed.resume = vec![mark];
        let mut client = Recording::begin(&dialect, resumed);
        let sent = client.sent();
        let expected =
            r#"{"id":2,"subscribe":{"channel":"recover:room-0","recover":true,"epoch":"UUqOmReU","offset":3}}"#;
        assert_eq!(sent[0].lines().nth(1), Some(expected));
        client.fail(r#"{"id":2,"subscribe":{"epoch":"UUqOmReU","recovered":false,"offset":900}}"#, "has not kept");
    }

    #[test]
    fn a_refusal_is_an_error() {
        let dialect = dialect(LIVE);
        let mut client = Recording::begin(&dialect, plan(&[0], &[]));
        client.fail(r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#, "103: permission denied");
        client.fail("nonsense", "nonsense");
    }
}
