//! The bare sender itself: one thread, one epoll set, one `send` per socket of the room and turn.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use slab::Slab;

use super::Ring;
use crate::dialect::bare::{ENTER, SEND, frame};

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
pub(crate) fn serve(_: Ring) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
    rustix::net::listen(&listener, 4096).context("listen")?;
    listener.set_nonblocking(true).context("listen without waiting")?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&set, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut loops = Loop { set, listener, connections: Slab::new(), rooms: Vec::new(), busy: BTreeSet::new() };
    let mut ready = Vec::with_capacity(256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        ready.clear();
        match epoll::wait(&loops.set, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
        for event in &ready {
            match event.data.u64() {
                LISTENER => loops.accept()?,
                id => loops.read(usize::try_from(id)?, event.flags, &mut buffer)?,
            }
        }
        loops.send_all();
    }
}

struct Loop {
    set: OwnedFd,
    listener: TcpListener,
    connections: Slab<Connection>,
    rooms: Vec<Room>,
    /// Rooms with frames in this turn.
    busy: BTreeSet<usize>,
}

impl Loop {
    fn accept(&mut self) -> Result<()> {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            sockopt::set_tcp_nodelay(&socket, true)?;
            let slot = self.connections.vacant_entry();
            let data = EventData::new_u64(slot.key() as u64);
            epoll::add(&self.set, socket.as_fd(), data, EventFlags::IN)?;
            slot.insert(Connection { socket, input: Vec::new(), unsent: Vec::new() });
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
        for room in std::mem::take(&mut self.busy) {
            let room = &mut self.rooms[room];
            for &member in &room.members {
                if let Some(connection) = self.connections.get_mut(member) {
                    write(&self.set, member, connection, &room.frames);
                }
            }
            room.frames.clear();
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
    if sent < bytes.len() {
        connection.unsent.extend_from_slice(&bytes[sent..]);
        let flags = EventFlags::IN | EventFlags::OUT;
        // One that is gone says so when it is read.
        let _ = epoll::modify(set, connection.socket.as_fd(), EventData::new_u64(id as u64), flags);
    }
}

/// The first whole message of the input, without its length, and the bytes that it takes.
fn whole(input: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = input.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some((rest.get(..length)?, 4 + length))
}
