//! Bounded queues between the threads of a node, and how a sleeping thread is woken.
//!
//! Every ordered pair of endpoints (the shards and the backplane) has its own single-producer, single-consumer ring. A
//! full ring hands the item back: the caller decides, nobody ever blocks. All that a turn pushed is followed by at most
//! one wake per destination, and only if that one sleeps: the wake-up is an interrupt and costs more than the whole turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes one thread. That thread waits on the bell's eventfd among its other descriptors.
///
/// Protocol: the sleeper calls [`Doorbell::sleep`], looks at its rings once more, then waits; the producer pushes, then
/// calls [`Doorbell::ring`]. The full fences on both sides see to it that either the sleeper finds the item or the
/// producer finds the flag.
#[derive(Debug)]
pub(crate) struct Doorbell {
    asleep: AtomicBool,
    fd: OwnedFd,
}

impl Doorbell {
    /// # Errors
    /// From `eventfd`: no descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { asleep: AtomicBool::new(false), fd })
    }

    /// Wakes the owner if it sleeps. Call it after pushing.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            // Only a counter at its maximum refuses the write, and then the owner is being woken anyway.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Announces that the owner is about to wait. It must look at its rings once more before it does.
    pub(crate) fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake: producers need not wake it.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Takes the wakes back that have been seen, so that the descriptor is not ready any more.
    pub(crate) fn drain(&self) {
        let mut count = [0_u8; 8];
        // Empty is no error here: the bell may be drained without having been rung.
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sending end of a ring.
pub(crate) struct Outlet<T> {
    producer: rtrb::Producer<T>,
    bell: Arc<Doorbell>,
    pushed: bool,
}

impl<T> Outlet<T> {
    /// Puts an item in, without waking anybody yet.
    ///
    /// # Errors
    /// The item itself, if the ring is full.
    pub(crate) fn push(&mut self, item: T) -> Result<(), T> {
        match self.producer.push(item) {
            Ok(()) => {
                self.pushed = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(item)) => Err(item),
        }
    }

    /// Whether a push would succeed.
    pub(crate) fn has_room(&self) -> bool {
        !self.producer.is_full()
    }

    /// Wakes the receiver if anything was pushed since the last call and it sleeps.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.bell.ring();
        }
    }
}

/// Receiving end of a ring.
pub(crate) struct Inlet<T> {
    consumer: rtrb::Consumer<T>,
}

impl<T> Inlet<T> {
    /// The oldest item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.consumer.pop().ok()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }

    /// Items that wait, and places for them.
    pub(crate) fn fill(&self) -> (usize, usize) {
        (self.consumer.slots(), self.consumer.buffer().capacity())
    }

    /// Whether nothing will ever come any more: the sender is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.consumer.is_abandoned()
    }
}

/// A ring of `slots` items whose receiver is woken by `bell`. Memory is taken as the ring first fills.
pub(crate) fn ring<T>(slots: usize, bell: &Arc<Doorbell>) -> (Outlet<T>, Inlet<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(slots);
    (Outlet { producer, bell: Arc::clone(bell), pushed: false }, Inlet { consumer })
}

/// What one shard holds of the mesh: `H` goes between shards, `D` down from the backplane, `U` up to it.
pub(crate) struct ShardRings<H, D, U> {
    /// Rung by whoever pushed to this shard.
    pub(crate) bell: Arc<Doorbell>,
    /// To each shard, by its index; `None` at the own one.
    pub(crate) to_shards: Vec<Option<Outlet<H>>>,
    /// From each shard, by its index; `None` at the own one.
    pub(crate) from_shards: Vec<Option<Inlet<H>>>,
    /// To the backplane.
    pub(crate) up: Outlet<U>,
    /// From the backplane.
    pub(crate) down: Inlet<D>,
}

impl<H, D, U> ShardRings<H, D, U> {
    /// Whether no ring towards this shard holds anything.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.down.is_empty() && self.from_shards.iter().flatten().all(Inlet::is_empty)
    }

    /// Items in the fullest ring towards this shard, and places in one.
    pub(crate) fn fill(&self) -> (usize, usize) {
        let from_shards = self.from_shards.iter().flatten().map(Inlet::fill);
        from_shards.fold(self.down.fill(), |(items, slots), (other, _)| (items.max(other), slots))
    }

    /// Wakes everyone that was given something since the last call, once.
    pub(crate) fn flush(&mut self) {
        self.to_shards.iter_mut().flatten().for_each(Outlet::flush);
        self.up.flush();
    }
}

/// What the backplane holds of the mesh.
pub(crate) struct BackplaneRings<D, U> {
    /// Rung by shards.
    pub(crate) bell: Arc<Doorbell>,
    /// To each shard, by its index.
    pub(crate) down: Vec<Outlet<D>>,
    /// From each shard, by its index.
    pub(crate) up: Vec<Inlet<U>>,
}

impl<D, U> Drop for BackplaneRings<D, U> {
    /// Shards without a backplane end, so they must notice.
    fn drop(&mut self) {
        for outlet in self.down.drain(..) {
            let bell = Arc::clone(&outlet.bell);
            drop(outlet);
            bell.ring();
        }
    }
}

impl<D, U> BackplaneRings<D, U> {
    /// Whether no shard has sent anything.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.up.iter().all(Inlet::is_empty)
    }
}

/// Both halves of a full mesh.
pub(crate) type Mesh<H, D, U> = (Vec<ShardRings<H, D, U>>, BackplaneRings<D, U>);

/// All rings of a node with `shards` shards.
///
/// # Errors
/// From `eventfd`: no descriptor is left.
pub(crate) fn mesh<H, D, U>(shards: usize, slots: usize) -> io::Result<Mesh<H, D, U>> {
    let bells = (0..shards).map(|_| Ok(Arc::new(Doorbell::new()?))).collect::<io::Result<Vec<_>>>()?;
    let backplane_bell = Arc::new(Doorbell::new()?);
    let mut backplane = BackplaneRings { bell: Arc::clone(&backplane_bell), down: Vec::new(), up: Vec::new() };
    let mut rings: Vec<ShardRings<H, D, U>> = Vec::with_capacity(shards);
    for bell in &bells {
        let (down_outlet, down) = ring(slots, bell);
        let (up, up_inlet) = ring(slots, &backplane_bell);
        backplane.down.push(down_outlet);
        backplane.up.push(up_inlet);
        rings.push(ShardRings { bell: Arc::clone(bell), to_shards: Vec::new(), from_shards: Vec::new(), up, down });
    }
    // Receivers are visited in ascending order for each sender and the other way round, so pushing keeps index = shard.
    for sender in 0..shards {
        for (receiver, bell) in bells.iter().enumerate() {
            let (outlet, inlet) = if sender == receiver {
                (None, None)
            } else {
                let (outlet, inlet) = ring(slots, bell);
                (Some(outlet), Some(inlet))
            };
            rings[sender].to_shards.push(outlet);
            rings[receiver].from_shards.push(inlet);
        }
    }
    Ok((rings, backplane))
}

/// One shard's rings for what it passes on to other shards, beside the mesh: they may be full without holding anything up.
pub(crate) struct Forwards<T> {
    to: Vec<Option<Outlet<T>>>,
    from: Vec<Option<Inlet<T>>>,
    /// Which of them is asked first.
    turn: usize,
}

impl<T> Forwards<T> {
    /// Passes an item on; `false` if there is no room for it.
    pub(crate) fn push(&mut self, to: u16, item: T) -> bool {
        let outlet = self.to.get_mut(usize::from(to)).and_then(Option::as_mut);
        outlet.is_some_and(|outlet| outlet.push(item).is_ok())
    }

    /// The next item, of all shards in turn.
    pub(crate) fn pop(&mut self) -> Option<T> {
        for _ in 0..self.from.len() {
            self.turn = (self.turn + 1) % self.from.len();
            if let Some(item) = self.from[self.turn].as_mut().and_then(Inlet::pop) {
                return Some(item);
            }
        }
        None
    }

    /// Whether nothing waits.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.from.iter().flatten().all(Inlet::is_empty)
    }

    /// Wakes everyone that was given something since the last call, once.
    pub(crate) fn flush(&mut self) {
        self.to.iter_mut().flatten().for_each(Outlet::flush);
    }
}

/// Rings from each shard to each other one, which their bells wake.
pub(crate) fn forwards<T>(bells: &[Arc<Doorbell>], slots: usize) -> Vec<Forwards<T>> {
    let mut all: Vec<Forwards<T>> =
        bells.iter().map(|_| Forwards { to: Vec::new(), from: Vec::new(), turn: 0 }).collect();
    for sender in 0..bells.len() {
        for (receiver, bell) in bells.iter().enumerate() {
            let pair = (sender != receiver).then(|| ring(slots, bell));
            let (outlet, inlet) = pair.unzip();
            all[sender].to.push(outlet);
            all[receiver].from.push(inlet);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn is_rung(bell: &Doorbell) -> bool {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&now)).expect("poll") == 1
    }

    #[test]
    fn a_full_ring_hands_the_item_back() {
        let bell = Arc::new(Doorbell::new().expect("eventfd"));
        let (mut outlet, mut inlet) = ring(2, &bell);
        assert_eq!(outlet.push(1), Ok(()));
        assert_eq!(outlet.push(2), Ok(()));
        assert_eq!(outlet.push(3), Err(3));
        assert_eq!(inlet.fill(), (2, 2));
        assert_eq!(inlet.pop(), Some(1));
        assert_eq!(outlet.push(3), Ok(()));
        assert_eq!((inlet.pop(), inlet.pop(), inlet.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let bell = Arc::new(Doorbell::new().expect("eventfd"));
        let (mut outlet, _inlet) = ring(8, &bell);
        outlet.push(1).expect("room");
        outlet.flush();
        assert!(!is_rung(&bell), "the owner is awake");

        bell.sleep();
        outlet.flush();
        assert!(!is_rung(&bell), "nothing was pushed since the last flush");

        outlet.push(2).expect("room");
        outlet.flush();
        assert!(is_rung(&bell));
        bell.drain();
        outlet.push(3).expect("room");
        outlet.flush();
        assert!(!is_rung(&bell), "the first wake took the flag");
    }

    #[test]
    fn a_mesh_joins_every_pair() {
        let (mut shards, mut backplane) = mesh::<(usize, usize), usize, usize>(3, 4).expect("mesh");
        for (sender, shard) in shards.iter_mut().enumerate() {
            for (receiver, outlet) in shard.to_shards.iter_mut().enumerate() {
                match outlet {
                    Some(outlet) => outlet.push((sender, receiver)).expect("room"),
                    None => assert_eq!(sender, receiver),
                }
            }
            shard.up.push(sender).expect("room");
            backplane.down[sender].push(sender).expect("room");
        }
        assert!(!backplane.nothing_waits());
        assert!(shards.iter().all(|shard| shard.fill() == (1, 4)));
        for (receiver, shard) in shards.iter_mut().enumerate() {
            assert_eq!(backplane.up[receiver].pop(), Some(receiver));
            assert_eq!(shard.down.pop(), Some(receiver));
            for (sender, inlet) in shard.from_shards.iter_mut().enumerate() {
                match inlet {
                    Some(inlet) => assert_eq!(inlet.pop(), Some((sender, receiver))),
                    None => assert_eq!(sender, receiver),
                }
            }
            assert!(shard.nothing_waits());
        }
        assert!(backplane.nothing_waits());
    }

    #[test]
    fn what_is_passed_on_reaches_its_shard_or_is_refused() {
        let bells: Vec<_> = (0..3).map(|_| Arc::new(Doorbell::new().expect("eventfd"))).collect();
        let mut shards = forwards::<(u16, u16)>(&bells, 2);
        for (from, to) in [(0, 2), (0, 2), (1, 2), (2, 0)] {
            assert!(shards[usize::from(from)].push(to, (from, to)));
        }
        assert!(!shards[0].push(2, (0, 2)), "the ring is full");
        assert!(!shards[0].push(0, (0, 0)) && !shards[0].push(3, (0, 3)), "there is none");
        let mut came = Vec::new();
        while let Some(item) = shards[2].pop() {
            came.push(item);
        }
        came.sort_unstable();
        assert_eq!(came, [(0, 2), (0, 2), (1, 2)]);
        assert!(shards[2].nothing_waits() && !shards[0].nothing_waits() && shards[1].nothing_waits());
        bells[0].sleep();
        shards[2].flush();
        assert!(is_rung(&bells[0]));
    }

    #[test]
    fn a_shard_notices_that_the_backplane_is_gone() {
        let (shards, backplane) = mesh::<(), (), ()>(2, 4).expect("mesh");
        assert!(shards.iter().all(|shard| !shard.down.is_abandoned()));
        shards.iter().for_each(|shard| shard.bell.sleep());
        drop(backplane);
        assert!(shards.iter().all(|shard| shard.down.is_abandoned() && is_rung(&shard.bell)));
    }

    /// Two threads that both sleep whenever they find nothing must never miss each other: a lost wake hangs this test.
    #[test]
    fn sleepers_never_miss_an_item() {
        const ROUNDS: u32 = 20_000;
        let (there_bell, back_bell) =
            (Arc::new(Doorbell::new().expect("eventfd")), Arc::new(Doorbell::new().expect("eventfd")));
        let (mut there, mut there_inlet) = ring(4, &there_bell);
        let (mut back, mut back_inlet) = ring(4, &back_bell);
        let receive = |inlet: &mut Inlet<u32>, bell: &Doorbell| loop {
            if let Some(item) = inlet.pop() {
                return item;
            }
            bell.sleep();
            if inlet.is_empty() {
                let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
                let ready = poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&limit)).expect("poll");
                assert_eq!(ready, 1, "a wake was lost");
            }
            bell.awake();
            bell.drain();
        };
        let echo = thread::spawn(move || {
            for _ in 0..ROUNDS {
                let item = receive(&mut there_inlet, &there_bell);
                back.push(item).expect("one item is under way");
                back.flush();
            }
        });
        for round in 0..ROUNDS {
            there.push(round).expect("one item is under way");
            there.flush();
            assert_eq!(receive(&mut back_inlet, &back_bell), round);
        }
        echo.join().expect("echo thread");
    }
}
