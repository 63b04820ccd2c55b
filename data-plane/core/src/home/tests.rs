//! One home without a shard around it: what it asks of the control plane and what it sends to shards, step by step.

use std::sync::Arc;

use millrace_protocol::code::Refusal;
use millrace_protocol::node::{AppendOutcome, ChannelAppend, Head, History, HistoryRange, StoredMessage};
use millrace_protocol::{Offset, ProducerSequence, Term};

use super::*;
use crate::SessionKey;
use crate::hop::{JoinStart, Outcome, Ticket};
use crate::run::encode_stored;

const HOME: ShardIndex = ShardIndex(0);
const FAR: ShardIndex = ShardIndex(1);

struct Bench {
    config: Config,
    now_ms: u64,
    links: Links,
    backplane: Backplane,
    wants: Wants,
    scratch: Vec<u8>,
    stats: Stats,
    home: Home,
}

fn offset(n: u64) -> Offset {
    Offset::new(n).unwrap()
}

fn epoch(n: u32) -> Epoch {
    Epoch::new(n).unwrap()
}

fn head(history: HistoryClass, epoch: Epoch, next: u64) -> Head {
    Head {
        epoch,
        next_offset: offset(next),
        first_offset: Offset::FIRST,
        epoch_first_offset: Offset::FIRST,
        history,
        producers: Vec::new(),
    }
}

fn message(sequence: u64) -> NewMessage {
    NewMessage {
        user: UserId::new("ann").unwrap(),
        producer: Producer::new(5).unwrap(),
        sequence: ProducerSequence::new(sequence).unwrap(),
        time_ms: 0,
        body: format!("message {sequence}").into(),
    }
}

fn stored(of: Epoch, offsets: impl IntoIterator<Item = u64>) -> Vec<Arc<StoredMessage>> {
    offsets.into_iter().map(|n| Arc::new(StoredMessage { epoch: of, offset: offset(n), message: message(n) })).collect()
}

impl Bench {
    /// A home that has asked for its lease.
    fn new(history: HistoryClass) -> Self {
        let config = Config { page_messages_max: 3, hop_deliveries_max: 2, ..Config::default() };
        let key = HomeKey { channel: ChannelId::new(1024).unwrap(), life: 1 };
        let mut backplane = Backplane::new(HOME);
        backplane.up(Term(1));
        Self {
            now_ms: 1_000,
            links: Links::new(HOME, 2, config.hop_deliveries_max, config.hop_requests_max),
            backplane,
            wants: Wants::default(),
            scratch: Vec::new(),
            stats: Stats::default(),
            home: Home::new(key, history, 1_000),
            config,
        }
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Home, &mut Context<'_>) -> R) -> R {
        let mut context = Context {
            config: &self.config,
            now_ms: self.now_ms,
            unix_ms: 1_700_000_000_000,
            draining: false,
            hasher: Seeded::new(1),
            links: &mut self.links,
            backplane: &mut self.backplane,
            wants: &mut self.wants,
            scratch: &mut self.scratch,
            stats: &mut self.stats,
        };
        act(&mut self.home, &mut context)
    }

    fn publish(&mut self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            let request = u32::try_from(sequence).unwrap();
            let session = SessionKey { index: 0, generation: 1 };
            let origin = Origin::Session { shard: FAR, session, request };
            let (channel, history) = (self.home.key.channel, self.home.history);
            let publish = Publish { channel, history, origin, message: message(sequence), since: Instant::now() };
            self.with(|home, context| home.publish(context, publish));
        }
    }

    fn join(&mut self, start: JoinStart) {
        let ticket = Ticket { session: None, number: 1, reserved: false };
        let (channel, history) = (self.home.key.channel, self.home.history);
        let join = Box::new(Join { channel, history, ticket, start });
        self.with(|home, context| home.join(context, FAR, join));
    }

    fn opened(&mut self, epoch: Epoch, next: u64) {
        assert!(self.wants.opens.pop_front().is_some(), "it asked for its lease");
        let head = head(self.home.history, epoch, next);
        self.with(|home, context| home.handle_opened(context, Ok(head)));
    }

    fn offer(&mut self) -> Option<ChannelAppend> {
        self.with(Home::offer)
    }

    fn appended(&mut self, result: Result<Vec<AppendOutcome>, Code>) {
        let result = result.map_err(|code| Refusal::new(code, ""));
        self.with(|home, context| home.handle_appended(context, result));
    }

    /// Answers the read under way with these offsets.
    fn read(&mut self, expect: HistoryRange, of: Epoch, offsets: impl IntoIterator<Item = u64>) {
        let (key, number, read) = self.wants.reads.pop_front().expect("it reads");
        assert_eq!((key, read.range), (self.home.key, expect));
        let history = History { channel: key.channel, messages: stored(of, offsets), more: false };
        self.with(|home, context| home.handle_history(context, number, Ok(history)));
    }

    /// What the far shard hears, in short.
    fn far(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.links.poll(FAR))
            .map(|hop| match hop.0 {
                HopBody::Live(run) => format!("live {}-{} in {}", run.first, run.last, run.epoch),
                HopBody::Acks(acks) => {
                    let of = |outcome: Outcome| match outcome {
                        Outcome::Accepted(position) => format!("{}", position.offset),
                        Outcome::Duplicate(position) => format!("{} again", position.offset),
                        Outcome::OutOfOrder { expected } => format!("not before {expected}"),
                        Outcome::Refused { code, .. } => format!("{code}"),
                    };
                    let acks: Vec<_> = acks.acks.iter().map(|ack| of(ack.outcome)).collect();
                    format!("acks {}", acks.join(", "))
                }
                HopBody::Joined(joined) => match joined.result {
                    Ok(catch) => {
                        let runs: Vec<_> = catch.runs.iter().map(|run| format!("{}-{}", run.first, run.last)).collect();
                        let refused = catch.refused.map(|code| format!(" {code}")).unwrap_or_default();
                        let live = if catch.live { " live" } else { "" };
                        format!("joined [{}] at {}{refused}{live}", runs.join(" "), catch.position.offset)
                    }
                    Err(code) => format!("join refused {code}"),
                },
                HopBody::Lagged(_) => "lagged".into(),
                HopBody::Gone(_, code) => format!("gone {code}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn ok(offsets: impl IntoIterator<Item = u64>) -> Result<Vec<AppendOutcome>, Code> {
    Ok(offsets.into_iter().map(|n| AppendOutcome::Stored(offset(n))).collect())
}

fn at(epoch: Epoch, offset: u64) -> Position {
    Position { epoch, offset }
}

#[test]
fn a_durable_batch_is_delivered_and_acknowledged_after_its_commit() {
    let mut bench = Bench::new(HistoryClass::Durable);
    bench.join(JoinStart::Tail);
    bench.publish([1, 2]);
    assert_eq!(bench.offer(), None, "not before it is open");
    bench.opened(epoch(1), 8);
    assert_eq!(bench.far(), ["joined [] at 7 live"]);
    let append = bench.offer().unwrap();
    assert_eq!((append.expected_offset, append.messages.len(), append.term), (offset(8), 2, Term(1)));
    bench.publish([3]);
    assert_eq!(bench.offer(), None, "one append at a time");
    assert_eq!(bench.far(), [""; 0], "nothing before the commit");
    bench.appended(ok([8, 9]));
    assert_eq!(bench.far(), ["live 8-9 in 1", "acks 8, 9"]);
    let append = bench.offer().unwrap();
    assert_eq!((append.expected_offset, append.messages.len()), (offset(10), 1));
}

#[test]
fn an_unknown_outcome_is_found_out() {
    let check = |landed: bool| {
        let mut bench = Bench::new(HistoryClass::Durable);
        bench.join(JoinStart::Tail);
        bench.opened(epoch(1), 1);
        bench.publish([1, 2]);
        bench.offer().unwrap();
        bench.appended(Err(Code::UnknownOutcome));
        bench.publish([3]);
        assert_eq!(bench.offer(), None);
        bench.far();
        if landed {
            bench.opened(epoch(1), 3);
            bench.read(HistoryRange::After(0), epoch(1), [1, 2]);
            assert_eq!(bench.far(), ["live 1-2 in 1"]);
        } else {
            bench.opened(epoch(1), 1);
        }
        let append = bench.offer().unwrap();
        assert_eq!(append.messages.len(), 2, "the same batch, as it was");
        if landed {
            let again = |n| AppendOutcome::Duplicate(Some(offset(n)));
            bench.appended(Ok(vec![again(1), again(2)]));
            assert_eq!(bench.far(), ["acks 1 again, 2 again"]);
        } else {
            bench.appended(ok([1, 2]));
            assert_eq!(bench.far(), ["live 1-2 in 1", "acks 1, 2"]);
        }
        assert_eq!(bench.offer().unwrap().expected_offset, offset(3));
    };
    check(true);
    check(false);
}

#[test]
fn a_fenced_home_ends_when_the_channel_has_a_newer_one() {
    let mut bench = Bench::new(HistoryClass::Durable);
    bench.join(JoinStart::Tail);
    bench.opened(epoch(1), 1);
    bench.publish([1]);
    bench.offer().unwrap();
    bench.publish([2]);
    bench.far();
    bench.appended(Err(Code::Fenced));
    assert!(bench.wants.opens.pop_front().is_some());
    bench.with(|home, context| home.handle_opened(context, Err(Refusal::new(Code::Fenced, ""))));
    assert_eq!(bench.far(), ["acks unknown-outcome", "acks fenced", "gone fenced"]);
    assert_eq!(bench.home.state, State::Dead);
}

#[test]
fn interest_begins_with_the_page_that_reaches_the_tail() {
    let mut bench = Bench::new(HistoryClass::Durable);
    bench.join(JoinStart::Peek);
    bench.opened(epoch(1), 1);
    bench.publish(1..=5);
    bench.offer().unwrap();
    bench.appended(ok(1..=5));
    bench.far();
    // A page has three messages here.
    bench.join(JoinStart::Resume(at(epoch(1), 0)));
    bench.join(JoinStart::Continue(at(epoch(1), 3)));
    bench.publish([6]);
    bench.offer().unwrap();
    bench.appended(ok([6]));
    assert_eq!(bench.far(), ["joined [1-3] at 3", "joined [4-5] at 5 live", "live 6-6 in 1", "acks 6"]);
    let check = |bench: &mut Bench, start: JoinStart, expect: &str| {
        bench.join(start);
        assert_eq!(bench.far(), [expect], "{start:?}");
    };
    check(&mut bench, JoinStart::Resume(at(epoch(1), 6)), "joined [] at 6 live");
    check(&mut bench, JoinStart::Resume(at(epoch(1), 7)), "joined [] at 6 position-ahead live");
    check(&mut bench, JoinStart::Resume(at(epoch(2), 2)), "joined [] at 6 position-ahead live");
    check(&mut bench, JoinStart::Continue(at(epoch(2), 2)), "join refused position-ahead");
    bench.config.replay_messages_max = 4;
    check(&mut bench, JoinStart::Resume(at(epoch(1), 1)), "joined [] at 6 position-too-old live");
    check(&mut bench, JoinStart::Continue(at(epoch(1), 1)), "joined [2-4] at 4");
}

#[test]
fn what_the_window_lacks_is_read_and_kept() {
    let mut bench = Bench::new(HistoryClass::Durable);
    bench.join(JoinStart::Resume(at(epoch(1), 5)));
    bench.opened(epoch(1), 8);
    bench.join(JoinStart::Resume(at(epoch(1), 6)));
    assert_eq!(bench.far(), [""; 0], "one read at a time");
    bench.read(HistoryRange::After(5), epoch(1), [6, 7]);
    assert_eq!(bench.far(), ["joined [6-7] at 7 live", "joined [7-7] at 7 live"], "the second from memory");
    // What is stored no longer is refused, not skipped.
    bench.join(JoinStart::Resume(at(epoch(1), 2)));
    bench.read(HistoryRange::After(2), epoch(1), [5]);
    assert_eq!(bench.far(), ["joined [] at 7 position-too-old live"]);
}

#[test]
fn a_shard_whose_ring_is_full_lags() {
    let mut bench = Bench::new(HistoryClass::None);
    bench.join(JoinStart::Tail);
    for sequence in 1..=4 {
        bench.publish([sequence]);
        bench.offer();
    }
    let heard: Vec<_> = bench.far().into_iter().filter(|heard| !heard.starts_with("acks")).collect();
    assert_eq!(heard, ["joined [] at 0 live", "live 0-0 in 1", "live 0-0 in 1", "lagged"]);
}

#[test]
fn a_windowed_home_goes_on_in_a_new_epoch_without_loss() {
    let mut bench = Bench::new(HistoryClass::Windowed);
    bench.join(JoinStart::Tail);
    bench.opened(epoch(1), 1);
    bench.publish([1, 2, 4]);
    assert_eq!(bench.offer(), None, "written behind");
    assert_eq!(bench.far(), ["joined [] at 0 live", "live 1-2 in 1", "acks 1, 2, not before 3"]);
    bench.now_ms += 250;
    bench.with(Home::handle_timeout);
    assert_eq!(bench.offer().unwrap().messages.len(), 2);
    bench.publish([3]);
    bench.offer();
    // The first append landed, and nobody knows; the third message is not stored.
    bench.appended(Err(Code::UnknownOutcome));
    bench.opened(epoch(2), 3);
    bench.publish([4]);
    assert_eq!(bench.offer(), None, "first it sees what landed");
    bench.read(HistoryRange::After(0), epoch(1), [1, 2]);
    bench.now_ms += 250;
    let append = bench.offer().unwrap();
    assert_eq!((append.epoch, append.expected_offset, append.messages.len()), (epoch(2), offset(3), 2));
    bench.far();
    bench.join(JoinStart::Resume(at(epoch(1), 1)));
    assert_eq!(bench.far(), ["joined [2-2 3-4] at 4 live"], "positions of the old epoch still count");
}

#[test]
fn a_windowed_home_whose_channel_another_node_wrote_to_says_so() {
    let mut bench = Bench::new(HistoryClass::Windowed);
    bench.join(JoinStart::Tail);
    bench.opened(epoch(1), 1);
    bench.publish([1]);
    bench.offer();
    bench.far();
    bench.with(Home::handle_link_down);
    bench.with(Home::handle_link_up);
    bench.opened(epoch(3), 5);
    assert_eq!(bench.far(), ["lagged"]);
    bench.join(JoinStart::Continue(at(epoch(1), 1)));
    assert_eq!(bench.far(), ["join refused epoch-changed"]);
}

/// A resume that reads from the store while the lease is away must not be called whole when that turns out to be gone.
#[test]
fn a_read_that_meets_the_loss_of_a_channel_is_judged_anew() {
    let mut bench = Bench::new(HistoryClass::Windowed);
    bench.join(JoinStart::Tail);
    bench.opened(epoch(1), 8);
    bench.far();
    bench.with(Home::handle_link_down);
    bench.with(Home::handle_link_up);
    bench.join(JoinStart::Resume(at(epoch(1), 5)));
    let (_, number, read) = bench.wants.reads.pop_front().unwrap();
    assert_eq!(read.range, HistoryRange::After(5));
    // Another node had the channel meanwhile, and lost some of what this one had delivered.
    bench.opened(epoch(3), 7);
    assert_eq!(bench.far(), ["lagged", "joined [] at 6 epoch-changed live"]);
    let history = History { channel: read.channel, messages: stored(epoch(2), [6]), more: false };
    bench.with(|home, context| home.handle_history(context, number, Ok(history)));
    assert_eq!(bench.far(), [""; 0], "the answer is nobody's");
}

#[test]
fn who_waits_too_long_is_told_and_the_home_goes_on() {
    let mut bench = Bench::new(HistoryClass::Durable);
    bench.join(JoinStart::Tail);
    bench.opened(epoch(1), 1);
    bench.publish([1]);
    bench.offer().unwrap();
    bench.publish([2]);
    bench.with(Home::handle_link_down);
    bench.far();
    bench.now_ms += 10_000;
    bench.with(Home::handle_timeout);
    assert_eq!(bench.far(), ["acks unknown-outcome", "acks unavailable"]);
    bench.with(Home::handle_link_up);
    bench.opened(epoch(1), 2);
    bench.read(HistoryRange::After(0), epoch(1), [1]);
    assert_eq!(bench.far(), ["live 1-1 in 1"], "it had landed, and everyone sees it");
}

#[test]
fn a_home_that_nobody_uses_closes() {
    let mut bench = Bench::new(HistoryClass::Windowed);
    bench.join(JoinStart::Tail);
    bench.opened(epoch(1), 1);
    bench.now_ms += 31_000;
    bench.with(Home::handle_timeout);
    assert_eq!(bench.home.state, State::Open, "somebody listens");
    bench.with(|home, context| home.leave(context, FAR));
    bench.now_ms += 31_000;
    assert_eq!(bench.with(|home, context| home.poll_timeout(context)), Some(bench.now_ms - 1_000));
    bench.with(Home::handle_timeout);
    assert_eq!((bench.home.state, bench.wants.closes.len()), (State::Closing, 1));
    // Somebody comes while it closes: a new life begins.
    bench.publish([1]);
    bench.with(Home::handle_closed);
    bench.opened(epoch(1), 1);
    bench.offer();
    assert_eq!(bench.far().last().unwrap(), "acks 1");
}

/// The store counts bodies; what goes into a queue is bounded as it is encoded.
#[test]
fn a_page_from_the_store_is_bounded_in_encoded_bytes_and_messages() {
    let one = encode_stored(ChannelId::new(1024).unwrap(), &stored(epoch(1), [1]), &mut Vec::new())[0].len();
    let check = |bytes_max: usize, read: u64, expect: &str| {
        let mut bench = Bench::new(HistoryClass::Durable);
        bench.config.page_bytes_max = u32::try_from(bytes_max).unwrap();
        bench.join(JoinStart::Resume(at(epoch(1), 40)));
        bench.opened(epoch(1), 100);
        bench.read(HistoryRange::After(40), epoch(1), 41..41 + read);
        assert_eq!(bench.far(), [expect], "{bytes_max} {read}");
    };
    check(9 * one, 3, "joined [41-43] at 43");
    check(2 * one, 3, "joined [41-42] at 42");
    check(one - 1, 3, "joined [41-41] at 41");
    check(9 * one, 5, "joined [41-43] at 43");
}
