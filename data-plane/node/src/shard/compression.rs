//! What a shard's connections share to compress and to inflate messages: its memory is the shard's, whatever their number.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use millrace_core::Compress;
use millrace_protocol::ws::deflate::{Deflater, Inflater, Window};
use millrace_protocol::ws::{Header, Opcode};

/// One for each shard that compresses.
pub(super) struct Compression {
    pub(super) inflater: Inflater,
    spent: Rc<Spent>,
}

/// What compressing has cost and gained.
#[derive(Default)]
pub(super) struct Spent {
    pub(super) frames: Cell<u64>,
    pub(super) plain_bytes: Cell<u64>,
    pub(super) bytes: Cell<u64>,
    pub(super) ns: Cell<u64>,
}

impl Compression {
    /// With the half that the core compresses by.
    pub(super) fn new() -> (Self, Box<dyn Compress>) {
        let spent = Rc::<Spent>::default();
        let press = Press { deflaters: [const { None }; Window::COUNT], spent: Rc::clone(&spent) };
        (Self { inflater: Inflater::new(), spent }, Box::new(press))
    }

    pub(super) fn spent(&self) -> &Spent {
        &self.spent
    }
}

struct Press {
    /// Made when the first who agreed to the window is sent something.
    deflaters: [Option<Deflater>; Window::COUNT],
    spent: Rc<Spent>,
}

impl Compress for Press {
    fn compress(&mut self, window: Window, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let begun = Instant::now();
        let deflater = self.deflaters[window.index()].get_or_insert_with(|| Deflater::new(window));
        let shorter = deflater.deflate(payload);
        if let Some(shorter) = shorter {
            let header = Header { compressed: true, ..Header::whole(Opcode::Binary, shorter.len(), None) };
            out.extend_from_slice(&header.encode());
            out.extend_from_slice(shorter);
        }
        let add = |counter: &Cell<u64>, more: u64| counter.set(counter.get() + more);
        let Spent { frames, plain_bytes, bytes, ns } = &*self.spent;
        add(frames, u64::from(shorter.is_some()));
        add(plain_bytes, payload.len() as u64);
        add(bytes, shorter.map_or(payload.len(), <[u8]>::len) as u64);
        add(ns, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(0));
        shorter.is_some()
    }
}
