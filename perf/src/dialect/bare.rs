//! The bare sender's: no handshake and no names, only rooms by number. It is the limit, not a protocol.
//!
//! A client's message begins with a kind: 0 and a room (`u32`, little-endian) to enter it, answered by an empty message; 1, a room and a
//! payload to send the payload to all who are in it. The server speaks WebSocket frames, so that receiving costs the same as elsewhere; a
//! client's messages are a length (`u32`) and so many bytes.

use anyhow::Result;
use millrace_protocol::ws::Opcode;

use super::{Dialect, Event, Outbox, Session, Upgrade};

pub(crate) const ENTER: u8 = 0;
pub(crate) const SEND: u8 = 1;

pub(crate) struct Bare;

fn message(kind: u8, room: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(5 + payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&room.to_le_bytes());
    out.extend_from_slice(payload);
}

/// The WebSocket frame that carries a payload, as [`Bare`]'s server sends it.
pub(crate) fn frame(payload: &[u8], out: &mut Vec<u8>) {
    millrace_protocol::ws::encode::frame(Opcode::Binary, payload, None, out);
}

impl Dialect for Bare {
    fn upgrade(&self, _: &Session) -> Option<Upgrade> {
        None
    }

    fn begin(&self, session: &mut Session, out: &mut Outbox<'_>) {
        for room in &session.plan.subscribe {
            message(ENTER, *room, &[], out.bytes);
        }
        session.joined = u32::try_from(session.plan.publish.len()).unwrap_or(u32::MAX);
        if session.is_ready() {
            out.event(Event::Ready);
        }
    }

    fn receive(&self, session: &mut Session, _: &[u8], stamps: u32, out: &mut Outbox<'_>) -> Result<()> {
        if stamps == 0 && !session.is_ready() {
            session.joined += 1;
            if session.is_ready() {
                out.event(Event::Ready);
            }
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, place: usize, _: u32, payload: &[u8], out: &mut Outbox<'_>) {
        message(SEND, session.plan.publish[place], payload, out.bytes);
    }
}
