//! The bare sender itself: one thread, one epoll set, one send per socket of the room and turn, alone or in batches.

mod batch;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use slab::Slab;

use super::Ring;
use crate::dialect::bare::{ENTER, SEND, frame};
use crate::raw::ring::SendRing;

const LISTENER: u64 = u64::MAX;
const READ_BYTES: usize = 256 << 10;
/// Largest message of a client: there are no strangers here, only this program.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

struct Connection {
    socket: OwnedFd,
    /// What came of a message that is not whole yet.
    input: Vec<u8>,
    /// What found no room in the socket.
    unsent: Vec<u8>,
    /// It is in the batch that is being collected.
    is_batched: bool,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    /// Frames of this turn.
    frames: Vec<u8>,
}

/// Serves until it is killed; says its address first.
///
/// # Errors
/// From the operating system.
pub(crate) fn serve(ring: Ring) -> Result<()> {
    let (mut server, address) = Loop::new(ring)?;
    println!("{address}");
    std::io::stdout().flush()?;
    let mut ready = Vec::with_capacity(256);
    loop {
        server.turn(&mut ready)?;
    }
}

struct Loop {
    set: OwnedFd,
    listener: TcpListener,
    connections: Slab<Connection>,
    rooms: Vec<Room>,
    /// Rooms with frames in this turn.
    busy: BTreeSet<usize>,
    /// Knows each connection's socket by the connection's number; `None` sends one by one.
    ring: Option<SendRing>,
    buffer: Vec<u8>,
}

impl Loop {
    /// For the thread that makes it.
    fn new(ring: Ring) -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
        rustix::net::listen(&listener, 4096).context("listen")?;
        listener.set_nonblocking(true).context("listen without waiting")?;
        let address = listener.local_addr()?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&set, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let ring = match ring {
            Ring::Send => None,
            Ring::Uring => Some(SendRing::new().context("make a ring")?),
        };
        let (connections, rooms, busy, buffer) = (Slab::new(), Vec::new(), BTreeSet::new(), vec![0; READ_BYTES]);
        Ok((Self { set, listener, connections, rooms, busy, ring, buffer }, address))
    }

    /// Waits for events, takes them, then sends what they brought; `ready` is a buffer.
    fn turn(&mut self, ready: &mut Vec<epoll::Event>) -> Result<()> {
        ready.clear();
        match epoll::wait(&self.set, rustix::buffer::spare_capacity(ready), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for event in ready {
            match event.data.u64() {
                LISTENER => self.accept()?,
                id => self.read(usize::try_from(id)?, event.flags, &mut buffer)?,
            }
        }
        self.buffer = buffer;
        self.send_all();
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            sockopt::set_tcp_nodelay(&socket, true)?;
            let slot = self.connections.vacant_entry();
            if let Some(ring) = &self.ring {
                ring.put(u32::try_from(slot.key())?, &socket).context("make a connection known to the ring")?;
            }
            let data = EventData::new_u64(slot.key() as u64);
            epoll::add(&self.set, socket.as_fd(), data, EventFlags::IN)?;
            slot.insert(Connection { socket, input: Vec::new(), unsent: Vec::new(), is_batched: false });
        }
        Ok(())
    }

    fn read(&mut self, id: usize, flags: EventFlags, buffer: &mut [u8]) -> Result<()> {
        let Some(connection) = self.connections.get_mut(id) else { return Ok(()) };
        if flags.contains(EventFlags::OUT) {
            let unsent = std::mem::take(&mut connection.unsent);
            epoll::modify(&self.set, connection.socket.as_fd(), EventData::new_u64(id as u64), EventFlags::IN)?;
            write(&self.set, id, connection, &unsent);
        }
        if !flags.contains(EventFlags::IN) {
            return Ok(());
        }
        let count = match recv(&connection.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => 0,
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => 0,
        };
        if count == 0 {
            if let Some(ring) = &self.ring {
                ring.remove(u32::try_from(id)?).context("make the ring forget a connection")?;
            }
            self.connections.remove(id);
            for room in &mut self.rooms {
                room.members.retain(|&member| member != id);
            }
            return Ok(());
        }
        connection.input.extend_from_slice(&buffer[..count]);
        let mut input = std::mem::take(&mut connection.input);
        let mut taken = 0;
        while let Some((message, length)) = whole(&input[taken..]) {
            self.take(id, message);
            taken += length;
        }
        input.drain(..taken);
        anyhow::ensure!(input.len() <= MESSAGE_BYTES_MAX, "a message is larger than {MESSAGE_BYTES_MAX} bytes");
        if let Some(connection) = self.connections.get_mut(id) {
            connection.input = input;
        }
        Ok(())
    }

    fn take(&mut self, id: usize, message: &[u8]) {
        let Some((&[kind, a, b, c, d], payload)) = message.split_first_chunk::<5>() else { return };
        let room = u32::from_le_bytes([a, b, c, d]) as usize;
        if self.rooms.len() <= room {
            self.rooms.resize_with(room + 1, Room::default);
        }
        match kind {
            ENTER => {
                self.rooms[room].members.push(id);
                let mut answer = Vec::new();
                frame(&[], &mut answer);
                write(&self.set, id, &mut self.connections[id], &answer);
            }
            SEND => {
                frame(payload, &mut self.rooms[room].frames);
                self.busy.insert(room);
            }
            _ => {}
        }
    }

    fn send_all(&mut self) {
        let busy = std::mem::take(&mut self.busy);
        if let Some(ring) = &mut self.ring {
            let rooms = busy.iter().map(|&room| &self.rooms[room]);
            batch::send_all(ring, &self.set, &mut self.connections, rooms);
        } else {
            for room in busy.iter().map(|&room| &self.rooms[room]) {
                for &member in &room.members {
                    if let Some(connection) = self.connections.get_mut(member) {
                        write(&self.set, member, connection, &room.frames);
                    }
                }
            }
        }
        for room in busy {
            self.rooms[room].frames.clear();
        }
    }
}

/// Sends, and keeps what finds no room until there is some.
fn write(set: &OwnedFd, id: usize, connection: &mut Connection, bytes: &[u8]) {
    if !connection.unsent.is_empty() {
        connection.unsent.extend_from_slice(bytes);
        return;
    }
    let sent = send(&connection.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or_default();
    keep(set, id, connection, &bytes[sent..]);
}

/// Keeps what was not sent, and waits for room.
fn keep(set: &OwnedFd, id: usize, connection: &mut Connection, rest: &[u8]) {
    if rest.is_empty() {
        return;
    }
    connection.unsent.extend_from_slice(rest);
    let flags = EventFlags::IN | EventFlags::OUT;
    // One that is gone says so when it is read.
    let _ = epoll::modify(set, connection.socket.as_fd(), EventData::new_u64(id as u64), flags);
}

/// The first whole message of the input, without its length, and the bytes that it takes.
fn whole(input: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = input.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some((rest.get(..length)?, 4 + length))
}

#[cfg(test)]
mod tests;
