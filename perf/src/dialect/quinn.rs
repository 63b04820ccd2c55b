//! Rooms over quinn: bytes are sent to all who are in a room, as `subject/quinn` does it. No tokens, no history; one who is alone in a room
//! hears an echo.
//!
//! A message is framed as one of Cap'n Proto: a zero (`u32`, little-endian), the number of words of 8 bytes behind it (`u32`), and these
//! words. The first holds a kind, and 4 bytes further a room (`u32`): 0 enters it, which is answered by a message on the room's stream;
//! 1 sends the message to all who are in it, as it is. What a payload leaves of the last word is filled with zeros.

use anyhow::{Result, bail};

use super::{Dialect, Event, Outbox, Session, Upgrade};

pub(crate) const ENTER: u8 = 0;
pub(crate) const SEND: u8 = 1;

/// Bytes before the payload: the table, and the word of kind and room.
pub(crate) const HEAD_BYTES: usize = 16;

pub(crate) struct Quinn;

/// A whole message.
pub(crate) fn message(kind: u8, room: u32, payload: &[u8]) -> Vec<u8> {
    let words = u32::try_from(1 + payload.len().div_ceil(8)).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(8 + words as usize * 8);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&words.to_le_bytes());
    message.extend_from_slice(&[kind, 0, 0, 0]);
    message.extend_from_slice(&room.to_le_bytes());
    message.extend_from_slice(payload);
    message.resize(8 + words as usize * 8, 0);
    message
}

/// Kind and room of a message.
pub(crate) fn head(message: &[u8]) -> Option<(u8, u32)> {
    let head: &[u8; HEAD_BYTES] = message.first_chunk()?;
    let [.., kind, _, _, _, a, b, c, d] = *head;
    Some((kind, u32::from_le_bytes([a, b, c, d])))
}

impl Dialect for Quinn {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        None
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        for &room in &session.plan.subscribe {
            out.binary(&message(ENTER, room, &[]));
        }
        session.joined = u32::try_from(session.plan.publish.len()).unwrap_or(u32::MAX);
        if session.is_ready() {
            out.event(Event::Ready);
        }
    }

    fn receive(&self, session: &mut Session, message: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        match head(message) {
            Some((ENTER, _)) => {
                session.joined += 1;
                if session.is_ready() {
                    out.event(Event::Ready);
                }
            }
            Some((SEND, _)) if stamps > 0 => {}
            _ => bail!("a message that is none: {message:?}"),
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, _: u32, payload: &[u8], out: &mut Outbox<'_>) {
        out.binary(&message(SEND, session.plan.publish[place], payload));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Framing, Plan};

    #[test]
    fn a_message_is_framed_as_one_of_capn_proto() {
        let sent = message(SEND, 7, b"123456789");
        let words: Vec<u64> =
            sent.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        assert_eq!((words.len(), words[0] >> 32, words[1]), (4, 3, 7 << 32 | 1));
        assert_eq!(head(&sent), Some((SEND, 7)));
        let mut reader = millrace_protocol::stream::FrameReader::new();
        reader.push(bytes::Bytes::from([&sent[..], &message(ENTER, 8, b"")].concat()));
        assert_eq!(reader.front(100).expect("a frame"), Some(&sent[..]));
        reader.pop();
        assert_eq!(head(reader.front(100).expect("a frame").expect("whole")), Some((ENTER, 8)));
    }

    #[test]
    fn a_client_is_ready_when_it_is_in_all_its_rooms() {
        let mut session = Session::new(0, Plan { subscribe: vec![3, 4], publish: vec![3], ..Plan::default() });
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        let mut out = Outbox { framing: Framing::Stream, bytes: &mut bytes, events: &mut events };
        Quinn.begin(&mut session, &mut out);
        Quinn.receive(&mut session, &message(ENTER, 3, &[]), 0, &mut out).expect("entered");
        assert!(out.events.is_empty());
        Quinn.receive(&mut session, &message(ENTER, 4, &[]), 0, &mut out).expect("entered");
        assert_eq!(out.events[..], [Event::Ready]);
        Quinn.receive(&mut session, b"", 0, &mut out).expect_err("nothing");
        assert_eq!(bytes, [message(ENTER, 3, &[]), message(ENTER, 4, &[])].concat());
    }
}
