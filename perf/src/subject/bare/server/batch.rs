//! A turn's sends in batches of io_uring.

use std::os::fd::OwnedFd;

use slab::Slab;

use super::{Connection, Room, keep};
use crate::raw::ring::{BATCH, SendRing};

/// Sends each room's frames to all its members.
pub(super) fn send_all<'a>(
    ring: &mut SendRing,
    set: &OwnedFd,
    connections: &mut Slab<Connection>,
    rooms: impl Iterator<Item = &'a Room>,
) {
    let mut batch: Vec<(u32, &[u8])> = Vec::with_capacity(BATCH);
    for room in rooms {
        for &member in &room.members {
            let Some(connection) = connections.get(member) else { continue };
            // One that is in two rooms must not get the second's frames behind a part of the first's.
            if batch.len() == BATCH || connection.is_batched {
                submit(ring, set, connections, &mut batch);
            }
            let Some(connection) = connections.get_mut(member) else { continue };
            if connection.unsent.is_empty() {
                connection.is_batched = true;
                // The ring knows each connection, so its number fits.
                batch.push((u32::try_from(member).unwrap_or(u32::MAX), &room.frames));
            } else {
                connection.unsent.extend_from_slice(&room.frames);
            }
        }
    }
    submit(ring, set, connections, &mut batch);
}

fn submit(ring: &mut SendRing, set: &OwnedFd, connections: &mut Slab<Connection>, batch: &mut Vec<(u32, &[u8])>) {
    for (&(member, bytes), &sent) in batch.iter().zip(ring.send(batch)) {
        let member = member as usize;
        if let Some(connection) = connections.get_mut(member) {
            connection.is_batched = false;
            keep(set, member, connection, &bytes[sent..]);
        }
    }
    batch.clear();
}
