//! Whatever is cut, lost, retried or restarted: each message is stored once, and what was acknowledged stands where it was said to.

use std::collections::HashMap;

use millrace_protocol::node::{AppendOutcome, ChannelAppend, Head, HistoryRange, ReadHistory};
use millrace_store::{FjallConfig, open_fjall};

use super::faulty::{Fate, FaultyStore};
use super::home::append;
use super::*;

const CHANNELS: u64 = 3;
const PRODUCERS: [(&str, u64); 3] = [("ann", 1), ("ann", 2), ("bob", 1)];
const MESSAGES: u64 = 60;

/// A small generator: a seed gives the same run each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The homes of a data node and the clients behind them.
#[derive(Default)]
struct Homes {
    heads: HashMap<u64, Head>,
    /// Channel, index of the producer → next sequence that is not acknowledged.
    next: HashMap<(u64, usize), u64>,
    acknowledged: HashMap<(u64, usize, u64), Option<Offset>>,
}

impl Homes {
    fn next(&self, channel: u64, producer: usize) -> u64 {
        self.next.get(&(channel, producer)).copied().unwrap_or(1)
    }

    fn done(&self) -> bool {
        (1..=CHANNELS).all(|channel| (0..PRODUCERS.len()).all(|producer| self.next(channel, producer) > MESSAGES))
    }

    async fn open(&mut self, node: &mut FakeNode) {
        let channels = (1..=CHANNELS).map(channel_id).collect();
        let NodeBody::HomesOpened(opened) = node.call(NodeBody::OpenHomes(channels)).await else { panic!("no answer") };
        self.heads = opened.into_iter().map(|(channel, head)| (channel.get(), head.unwrap())).collect();
    }

    /// Pipelines of some producers, now and then beginning with what is acknowledged already or ahead of what is due.
    fn batch(&self, random: &mut Random, channel: u64) -> Vec<NewMessage> {
        let mut messages = Vec::new();
        for _ in 0..1 + random.below(3) {
            let producer = usize::try_from(random.below(PRODUCERS.len() as u64)).unwrap();
            let next = self.next(channel, producer);
            let begin = match random.below(8) {
                0 => next.saturating_sub(random.below(4)).max(1),
                1 => next + 1,
                _ => next,
            };
            let (name, run) = PRODUCERS[producer];
            let end = (begin + 1 + random.below(5)).min(MESSAGES + 1);
            messages.extend((begin..end).map(|sequence| message(name, run, sequence)));
        }
        messages
    }

    fn take(&mut self, append: &ChannelAppend, result: Result<Vec<AppendOutcome>, Refusal>) -> Result<(), Refusal> {
        let channel = append.channel.get();
        for (message, outcome) in append.messages.iter().zip(result?) {
            let producer = PRODUCERS
                .iter()
                .position(|(name, run)| message.user.as_str() == *name && message.producer.get() == *run)
                .unwrap();
            let sequence = message.sequence.get();
            let place = match outcome {
                AppendOutcome::Stored(place) => {
                    self.heads.get_mut(&channel).unwrap().next_offset = place.next();
                    Some(place)
                }
                AppendOutcome::Duplicate(place) => place,
                AppendOutcome::OutOfOrder { expected } => {
                    assert!(expected < message.sequence);
                    continue;
                }
            };
            let known = self.acknowledged.entry((channel, producer, sequence)).or_insert(place);
            assert!(place.is_none() || known.is_none() || *known == place, "a message has one place");
            let next = self.next.entry((channel, producer)).or_insert(1);
            *next = (*next).max(sequence + 1);
        }
        Ok(())
    }
}

/// When a run lets its world be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    BeforeAppend,
    BeforeOpen,
    Cut,
}

async fn run(seed: u64, mut world: World, mut disturb: impl AsyncFnMut(&mut Random, Moment, World) -> World) -> u32 {
    for channel in 1..=CHANNELS {
        world.channel(channel, HistoryClass::Durable).await;
    }
    let mut random = Random(seed);
    let mut homes = Homes::default();
    let mut node = world.node().await;
    homes.open(&mut node).await;
    let (mut cuts, mut rounds) = (0, 0);
    while !homes.done() {
        rounds += 1;
        assert!(rounds < 10_000, "seed {seed}: no progress");
        let appends: Vec<ChannelAppend> = (1..=CHANNELS)
            .map(|channel| append(&node, channel, &homes.heads[&channel], homes.batch(&mut random, channel)))
            .collect();
        world = disturb(&mut random, Moment::BeforeAppend, world).await;
        let id = node.send(NodeBody::Append(appends.clone())).await;
        if random.below(4) == 0 {
            // The link is cut before, while or after the append is stored; its answer is lost.
            for _ in 0..random.below(30) {
                tokio::task::yield_now().await;
            }
            cuts += 1;
            drop(node);
            world = disturb(&mut random, Moment::Cut, world).await;
            node = world.node().await;
            homes.open(&mut node).await;
            // The old home's frame arrives late, on whatever way.
            let NodeBody::Appended(late) = node.call(NodeBody::Append(appends)).await else { panic!("no answer") };
            for appended in late {
                assert_eq!(appended.result.unwrap_err().code, Code::Fenced, "seed {seed}");
            }
            continue;
        }
        let NodeBody::Appended(appended) = node.reply(id).await else { panic!("no answer") };
        let mut unknown = false;
        for (append, appended) in appends.iter().zip(appended) {
            if let Err(refusal) = homes.take(append, appended.result) {
                assert!(matches!(refusal.code, Code::UnknownOutcome | Code::Unavailable | Code::Busy), "{refusal:?}");
                unknown = true;
            }
        }
        world = disturb(&mut random, Moment::BeforeOpen, world).await;
        if unknown {
            homes.open(&mut node).await;
        }
    }
    for channel in 1..=CHANNELS {
        check_stored(seed, &mut node, channel, &homes).await;
    }
    cuts
}

async fn check_stored(seed: u64, node: &mut FakeNode, channel: u64, homes: &Homes) {
    let range = HistoryRange::After(0);
    let read = ReadHistory { channel: channel_id(channel), messages_max: 1000, bytes_max: 1 << 20, range };
    let NodeBody::History(history) = node.call(NodeBody::ReadHistory(read)).await else { panic!("no answer") };
    assert!(!history.more);
    let mut next = [1; PRODUCERS.len()];
    for (place, stored) in (1..).zip(&history.messages) {
        assert_eq!((stored.offset.get(), stored.epoch), (place, Epoch::FIRST), "seed {seed}: contiguous");
        let StoredParts { producer, sequence } = parts(&stored.message);
        assert_eq!(sequence, next[producer], "seed {seed}: each producer's messages once and in order");
        next[producer] += 1;
        let known = homes.acknowledged.get(&(channel, producer, sequence)).copied().flatten();
        assert!(known.is_none_or(|known| known == stored.offset), "seed {seed}: it stands where it was said to");
        let (name, run) = PRODUCERS[producer];
        assert_eq!(stored.message, message(name, run, sequence), "seed {seed}: byte for byte");
    }
    assert_eq!(next, [MESSAGES + 1; PRODUCERS.len()], "seed {seed}: nothing that was acknowledged is lost");
}

struct StoredParts {
    producer: usize,
    sequence: u64,
}

fn parts(message: &NewMessage) -> StoredParts {
    let same = |(name, run): &(&str, u64)| message.user.as_str() == *name && message.producer.get() == *run;
    StoredParts { producer: PRODUCERS.iter().position(same).unwrap(), sequence: message.sequence.get() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_links_that_are_cut() {
    let mut cuts = 0;
    for seed in 1..=12 {
        cuts += run(seed, World::new(), async |_, _, world| world).await;
    }
    assert!(cuts > 12, "links were cut {cuts} times");
}

#[tokio::test]
async fn with_a_store_that_does_not_know() {
    for seed in 1..=12 {
        let store = FaultyStore::new();
        let world = World::over(store.clone(), test_config());
        run(seed, world, async |random, moment, world| {
            store.forget_fates();
            if moment == Moment::BeforeAppend {
                let all = [Fate::Conflict, Fate::Fail, Fate::LostUnknown, Fate::WrittenUnknown];
                let some = (0..random.below(4)).map(|_| all[usize::try_from(random.below(4)).unwrap()]);
                store.next_commits(some.collect::<Vec<_>>());
            }
            world
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_control_node_that_restarts_on_fjall() {
    for seed in 1..=3 {
        let directory = tempfile::tempdir().unwrap();
        let open = || open_fjall(directory.path(), FjallConfig::default()).unwrap();
        run(seed, World::over(open(), test_config()), async |random, moment, world| {
            if moment != Moment::Cut || random.below(2) == 0 {
                return world;
            }
            world.server.stop();
            world.store.close().await.unwrap();
            drop(world);
            World::over(open(), test_config())
        })
        .await;
    }
}
