//! Compressed twins of runs and pages, for sessions whose transport agreed to compression: made when the first of them needs
//! one, shared by all that agreed to the same window, and only as many in a turn as clients can wait for.
//!
//! A frame may always go out as it is, so whatever there is no time for, or gains nothing, does.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use millrace_protocol::ws::deflate::Window;

use crate::run::{Run, push_plain};

/// Compresses frames; the shell's, which may weigh what it costs.
pub trait Compress {
    /// Appends a whole WebSocket frame, header and all, that says `payload` in fewer bytes for who keeps `window`, and says
    /// that it did; or leaves `out` as it is.
    fn compress(&mut self, window: Window, payload: &[u8], out: &mut Vec<u8>) -> bool;
}

/// Twins of pages that are kept, as many clients may resume with the same one: places, and bytes of them.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Makes twins, and keeps those that may be asked for again.
pub(crate) struct Twins {
    compressor: Option<Box<dyn Compress>>,
    /// Payloads below this are left.
    from_bytes: usize,
    turn_bytes_max: usize,
    /// Bytes that may still be compressed in this turn.
    left_bytes: usize,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    scratch: Vec<u8>,
    /// Frames that were left for lack of time.
    pub(crate) passed_over_total: u64,
}

/// The twin of a part of a home's window.
struct Kept {
    /// Held, so that no other bytes come to lie at its address.
    plain: Bytes,
    window: Window,
    twin: Rc<Run>,
}

/// The twins of one run, as far as anybody needs them.
pub(crate) type OfRun = [Option<Rc<Run>>; Window::COUNT];

impl Twins {
    pub(crate) fn new(from_bytes: u32, turn_bytes_max: u32) -> Self {
        Self {
            compressor: None,
            from_bytes: from_bytes as usize,
            turn_bytes_max: turn_bytes_max as usize,
            left_bytes: turn_bytes_max as usize,
            kept: VecDeque::new(),
            kept_bytes: 0,
            scratch: Vec::new(),
            passed_over_total: 0,
        }
    }

    pub(crate) fn compress_with(&mut self, compressor: Box<dyn Compress>) {
        self.compressor = Some(compressor);
    }

    /// The time of the turn is over.
    pub(crate) fn end_turn(&mut self) {
        self.left_bytes = self.turn_bytes_max;
    }

    /// The twin of a live run, made once for all who agreed to the window.
    pub(crate) fn of_live<'t>(&mut self, twins: &'t mut OfRun, window: Window, run: &Rc<Run>) -> &'t Rc<Run> {
        twins[window.index()].get_or_insert_with(|| match self.compressed(window, &run.bytes) {
            (Some(bytes), _) => Rc::new(Run { bytes, ..Run::clone(run) }),
            (None, _) => Rc::clone(run),
        })
    }

    /// The twin of a run that is read again. When a crowd comes back, many read the same.
    pub(crate) fn of_page(&mut self, window: Window, run: Run) -> Rc<Run> {
        let same = |kept: &&Kept| {
            kept.window == window && kept.plain.as_ptr() == run.bytes.as_ptr() && kept.plain.len() == run.bytes.len()
        };
        if let Some(kept) = self.kept.iter().find(same) {
            return Rc::clone(&kept.twin);
        }
        let plain = run.bytes.clone();
        let (bytes, finished) = self.compressed(window, &plain);
        let twin = Rc::new(match bytes {
            Some(bytes) => Run { bytes, ..run },
            None => run,
        });
        if finished {
            self.keep(Kept { plain, window, twin: Rc::clone(&twin) });
        }
        twin
    }

    /// A page of history, one frame with its header; it is this session's own.
    pub(crate) fn page(&mut self, window: Window, page: Vec<u8>) -> Vec<u8> {
        match self.compressed(window, &page) {
            (Some(bytes), _) => bytes.into(),
            (None, _) => page,
        }
    }

    /// Frames, those compressed that are worth it; `None` if none was. And whether the time sufficed for all.
    fn compressed(&mut self, window: Window, frames: &[u8]) -> (Option<Bytes>, bool) {
        let Some(compressor) = &mut self.compressor else { return (None, true) };
        let (mut gained, mut finished) = (false, true);
        self.scratch.clear();
        for payload in crate::run::payloads(frames) {
            if payload.len() >= self.from_bytes {
                if payload.len() > self.left_bytes {
                    self.passed_over_total += 1;
                    finished = false;
                } else {
                    self.left_bytes -= payload.len();
                    if compressor.compress(window, payload, &mut self.scratch) {
                        gained = true;
                        continue;
                    }
                }
            }
            push_plain(&mut self.scratch, payload);
        }
        (gained.then(|| Bytes::copy_from_slice(&self.scratch)), finished)
    }

    fn keep(&mut self, kept: Kept) {
        self.kept_bytes += kept.bytes();
        self.kept.push_back(kept);
        while self.kept.len() > KEPT_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.bytes();
        }
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.plain.len() + self.twin.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::run::tests::run;

    /// Says everything in one byte, and counts what it was asked.
    struct Shouts(Rc<Cell<usize>>);

    impl Compress for Shouts {
        fn compress(&mut self, window: Window, _payload: &[u8], out: &mut Vec<u8>) -> bool {
            self.0.set(self.0.get() + 1);
            out.extend([0xc2, 1, window.bits()]);
            true
        }
    }

    fn twins(from_bytes: u32, turn_bytes_max: u32) -> (Twins, Rc<Cell<usize>>) {
        let asked = Rc::new(Cell::new(0));
        let mut twins = Twins::new(from_bytes, turn_bytes_max);
        twins.compress_with(Box::new(Shouts(Rc::clone(&asked))));
        (twins, asked)
    }

    #[test]
    fn a_live_run_is_compressed_once_for_each_window() {
        let (mut twins, asked) = twins(200, 1 << 20);
        let plain = Rc::new(run(1, &[500, 10, 500]));
        let mut of_run = OfRun::default();
        let first = Rc::clone(twins.of_live(&mut of_run, Window::Large, &plain));
        assert_eq!((first.first, first.last, first.count), (1, 3, 3));
        let sizes: Vec<usize> = first.frames().map(<[u8]>::len).collect();
        let short = plain.frames().nth(1).unwrap();
        assert_eq!(sizes, [1, short.len(), 1], "what is short stays as it is");
        assert_eq!(first.frames().nth(1), Some(short));
        assert!(Rc::ptr_eq(twins.of_live(&mut of_run, Window::Large, &plain), &first));
        assert_eq!(asked.get(), 2);
        twins.of_live(&mut of_run, Window::Small, &plain);
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn what_gains_nothing_is_shared_with_those_who_agreed_to_nothing() {
        let (mut twins, asked) = twins(10_000, 1 << 20);
        let plain = Rc::new(run(1, &[500]));
        let mut of_run = OfRun::default();
        assert!(Rc::ptr_eq(twins.of_live(&mut of_run, Window::Large, &plain), &plain));
        assert_eq!(twins.page(Window::Large, vec![0x82, 1, 7]), [0x82, 1, 7]);
        assert_eq!(asked.get(), 0);
    }

    #[test]
    fn a_crowd_that_resumes_the_same_page_costs_one() {
        let (mut twins, asked) = twins(1, 1 << 20);
        let window = run(1, &[500, 500]);
        let first = twins.of_page(Window::Large, window.clone());
        for _ in 0..10 {
            assert!(Rc::ptr_eq(&twins.of_page(Window::Large, window.clone()), &first));
        }
        assert_eq!(asked.get(), 2);
        twins.of_page(Window::Medium, window.clone());
        twins.of_page(Window::Large, window.part(1, 9, 9_999).unwrap());
        assert_eq!(asked.get(), 5, "another window, another part");
        let bytes = |twins: &Twins| twins.kept.iter().map(Kept::bytes).sum::<usize>();
        for offset in 0..2 * KEPT_MAX as u64 {
            twins.of_page(Window::Large, run(1 + offset, &[30_000]));
            assert_eq!(bytes(&twins), twins.kept_bytes);
            assert!(twins.kept.len() <= KEPT_MAX && twins.kept_bytes <= KEPT_BYTES_MAX);
        }
    }

    #[test]
    fn a_turn_takes_no_longer_than_it_may() {
        let (mut twins, asked) = twins(1, 1_400);
        let plain = Rc::new(run(1, &[500, 500, 500]));
        let twin = Rc::clone(twins.of_live(&mut OfRun::default(), Window::Large, &plain));
        assert_eq!((asked.get(), twins.passed_over_total), (2, 1));
        assert_eq!(twin.frames().nth(2), plain.frames().nth(2));
        twins.of_page(Window::Large, Run::clone(&plain));
        assert_eq!((asked.get(), twins.kept.len()), (2, 0), "what was not finished is not kept");
        twins.end_turn();
        twins.of_page(Window::Large, run(1, &[500]));
        assert_eq!((asked.get(), twins.kept.len()), (3, 1));
    }
}
