//! Rooms of XMPP (Multi-User Chat) over WebSocket, as ejabberd serves them.
//!
//! Login: open, authenticate with PLAIN (the password is a token), open again, bind; then a presence for each room. A room sends a client its
//! own presence with status 110 when it has joined. Who publishes must be in the room, and gets a copy: that is its acknowledgement.
//! Nothing is parsed as XML: the server's stanzas are searched for what tells them apart, which no payload has.
//!
//! Source: RFC 7395, XEP-0045 §7.2.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;

use super::token::{Tokens, channel, user};
use super::{Dialect, Event, Outbox, Session, Upgrade};

const OPEN: &str = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>";
const ROOMS: &str = "conference.localhost";

pub(crate) struct Ejabberd {
    pub(crate) tokens: Tokens,
}

fn has(message: &[u8], what: &str) -> bool {
    memmem::find(message, what.as_bytes()).is_some()
}

/// The value of an attribute of the outermost element.
fn attribute<'a>(message: &'a [u8], name: &str) -> Option<&'a str> {
    let tag = message.split(|&byte| byte == b'>').next()?;
    let start = memmem::find(tag, format!(" {name}='").as_bytes())? + name.len() + 3;
    let value = tag.get(start..)?.split(|&byte| byte == b'\'').next()?;
    std::str::from_utf8(value).ok()
}

/// Rooms of a plan, each once.
fn rooms(session: &Session) -> Vec<u32> {
    let mut rooms: Vec<u32> = session.plan.subscribe.iter().chain(&session.plan.publish).copied().collect();
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// A message, with spaces in it as they came; `None` if it says nothing of the client's own.
fn own_number(session: &Session, message: &[u8]) -> Option<u32> {
    let (_, nick) = attribute(message, "from")?.split_once('/')?;
    (nick == user(session.number)).then(|| attribute(message, "id")?.parse().ok())?
}

impl Ejabberd {
    /// The step of the login that this message completes.
    fn login(&self, session: &mut Session, message: &[u8], out: &mut Outbox<'_>) -> Result<()> {
        match session.step {
            // Features of the bare stream => authenticate.
            0 if has(message, "<mechanism>PLAIN<") => {
                let secret = format!("\0{}\0{}", user(session.number), self.tokens.sign(session.number));
                let secret = BASE64_STANDARD.encode(secret);
                out.text(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>"));
            }
            // Authenticated => a new stream.
            1 if message.starts_with(b"<success") => out.text(OPEN),
            // Features of that => bind; the server chooses the resource.
            2 if has(message, "<bind ") => out.text(
                "<iq xmlns='jabber:client' type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
            ),
            // Bound => join.
            3 if has(message, "<jid>") => {
                let nick = user(session.number);
                for room in rooms(session) {
                    out.text(&format!(
                        "<presence xmlns='jabber:client' to='{}@{ROOMS}/{nick}'><x xmlns='http://jabber.org/protocol/muc'>\
                         <history maxstanzas='0'/></x></presence>",
                        channel(room)
                    ));
                }
            }
            // Half an answer: the other half follows.
            _ if message.starts_with(b"<open ") => return Ok(()),
            step => bail!("the server says in step {step} of the login: {}", String::from_utf8_lossy(message)),
        }
        session.step += 1;
        Ok(())
    }
}

impl Dialect for Ejabberd {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        Some(Upgrade { target: "/ws".to_owned(), subprotocols: vec!["xmpp"] })
    }

    fn begin(&self, _: &mut Session, out: &mut Outbox<'_>) {
        out.text(OPEN);
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        if stamps > 0 {
            if !session.plan.publish.is_empty()
                && let Some(number) = own_number(session, message)
            {
                out.event(Event::Acknowledged { number });
            }
            return Ok(());
        }
        if session.step < 4 {
            return self.login(session, message, out);
        }
        if has(message, " type='error'") || message.starts_with(b"<close") {
            bail!("the server says {}", String::from_utf8_lossy(message));
        }
        // Joined, by the room's word; a room also sends its capabilities, and its subject.
        if !session.is_ready() && message.starts_with(b"<presence") && has(message, "<status code='110'/>") {
            let from = attribute(message, "from").context("a presence from nobody")?;
            let planned = session.plan.subscribe.iter().chain(&session.plan.publish);
            let places = planned.filter(|&&number| from.starts_with(&format!("{}@", channel(number)))).count();
            session.joined += u32::try_from(places)?;
            if session.is_ready() {
                out.event(Event::Ready);
            }
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, number: u32, payload: &[u8], out: &mut Outbox<'_>) {
        let (room, payload) = (channel(session.plan.publish[place]), String::from_utf8_lossy(payload));
        out.text(&format!(
            "<message xmlns='jabber:client' to='{room}@{ROOMS}' type='groupchat' id='{number}'><body>{payload}</body></message>"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recording, plan};
    use super::*;

    const OPENED: &str = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1151960639029710347' version='1.0' xml:lang='en' from='localhost'/>";
    const MECHANISMS: &str = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>";
    const BIND: &str = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session></stream:features>";
    const BOUND: &str = "<iq xmlns='jabber:client' type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>user-7@localhost/5662</jid></bind></iq>";
    const CAPABILITIES: &str = "<presence xmlns='jabber:client' to='user-7@localhost/5662' from='room-3@conference.localhost' id='13833447931922448117'><c ver='yyBlbjrRG+7OE4iOc3ol9JiXzEM=' node='http://www.process-one.net/en/ejabberd/' hash='sha-1' xmlns='http://jabber.org/protocol/caps'/></presence>";
    const JOINED: &str = "<presence xmlns='jabber:client' xml:lang='en' to='user-7@localhost/5662' from='room-3@conference.localhost/user-7'><x xmlns='http://jabber.org/protocol/muc#user'><item jid='user-7@localhost/5662' role='participant' affiliation='none'/><status code='110'/></x></presence>";
    const SUBJECT: &str = "<message xmlns='jabber:client' to='user-7@localhost/5662' from='room-3@conference.localhost' type='groupchat'><subject/></message>";

    fn dialect() -> Ejabberd {
        Ejabberd { tokens: Tokens::new(2_000_000_000) }
    }

    #[test]
    fn a_login_ends_in_the_room() {
        let dialect = dialect();
        let mut client = Recording::begin(&dialect, plan(&[3], &[]));
        assert_eq!(client.sent(), [OPEN]);
        let mut answer = |message: &str| {
            assert_eq!(client.receive(message), []);
            client.sent().pop().unwrap_or_default()
        };
        assert_eq!(answer(OPENED), "");
        assert!(
            answer(MECHANISMS).starts_with("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHVz")
        );
        assert_eq!(answer("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"), OPEN);
        assert_eq!(answer(OPENED), "");
        assert!(answer(BIND).contains("<bind xmlns="));
        assert!(answer(BOUND).contains("to='room-3@conference.localhost/user-7'"));
        assert_eq!(answer(CAPABILITIES), "");
        assert_eq!(client.receive(JOINED), [Event::Ready]);
        assert_eq!(client.receive(SUBJECT), []);
    }

    #[test]
    fn the_own_copy_is_the_acknowledgement() {
        let dialect = dialect();
        let mut client = Recording::begin(&dialect, plan(&[3], &[3]));
        for message in [OPENED, MECHANISMS, "<success/>", OPENED, BIND, BOUND, CAPABILITIES] {
            client.receive(message);
        }
        let sent = client.sent();
        assert_eq!(sent.iter().filter(|message| message.starts_with("<presence")).count(), 1, "one room: {sent:?}");
        assert_eq!(client.receive(JOINED), [Event::Ready], "both places of it");
        client.publish(0, 11, "mr:~0000000000000001");
        let expected = "<message xmlns='jabber:client' to='room-3@conference.localhost' type='groupchat' id='11'><body>mr:~0000000000000001</body></message>";
        assert_eq!(client.sent(), [expected]);
        let copy = |nick: &str| {
            format!(
                "<message xmlns='jabber:client' xml:lang='en' to='user-7@localhost/5662' from='room-3@conference.localhost/{nick}' type='groupchat' id='11'><body>mr:~0000000000000001</body></message>"
            )
        };
        assert_eq!(client.receive(&copy("user-70")), []);
        assert_eq!(client.receive(&copy("user-7")), [Event::Acknowledged { number: 11 }]);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let dialect = dialect();
        let mut client = Recording::begin(&dialect, plan(&[3], &[]));
        for message in [OPENED, MECHANISMS] {
            client.receive(message);
        }
        client.fail("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>", "not-authorized");
        for message in ["<success/>", OPENED, BIND, BOUND] {
            client.receive(message);
        }
        client.fail("<presence from='room-3@conference.localhost' type='error'><error/></presence>", "error");
        client.fail("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>", "close");
    }
}
