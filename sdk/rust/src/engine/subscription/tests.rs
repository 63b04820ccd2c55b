//! What a reader sees, answer by answer.

use std::time::Duration;

use millrace_protocol::client::Subscribed;
use millrace_protocol::id::{ChannelId, Producer, ProducerSequence};

use super::*;

const QUEUE: QueueLimits = QueueLimits { messages_max: 8, bytes_max: 1_000 };
const BACKOFF: BackoffLimits = BackoffLimits { first: Duration::from_millis(100), max: Duration::from_secs(20) };

struct Bench {
    subscription: Subscription,
    random: Random,
    now: Instant,
}

impl Bench {
    fn new(start: Start) -> Self {
        Self { subscription: Subscription::new(start, QUEUE, BACKOFF), random: Random::new(1), now: Instant::now() }
    }

    /// Live behind offset 10 of epoch 1.
    fn live() -> Self {
        let mut bench = Self::new(Start::Live);
        bench.answer(Mode::Read, at(1, 10), Recovery::None);
        bench
    }

    fn answer(&mut self, mode: Mode, head: Position, recovery: Recovery) {
        self.answer_of(HistoryClass::Durable, mode, head, recovery);
    }

    fn answer_of(&mut self, history: HistoryClass, mode: Mode, position: Position, recovery: Recovery) {
        let channel = ChannelId::new(1).unwrap();
        let answer = Subscribed { name: "c", channel, position, history, can_publish: true, recovery };
        self.subscription.subscribed(self.now, mode, &answer, &mut self.random);
    }

    fn push(&mut self, positions: &[Position]) {
        for &position in positions {
            self.subscription.message(self.now, &message(position), &mut self.random);
        }
    }

    fn page(&mut self, positions: &[Position], more: bool) {
        assert!(self.subscription.page_wanted(self.now).is_some());
        self.subscription.page_asked(self.now);
        assert_eq!(self.subscription.page_wanted(self.now), None, "one page at a time");
        let messages: Vec<_> = positions.iter().copied().map(message).collect();
        self.subscription.page(&messages, more);
    }

    fn after(&self) -> u64 {
        self.subscription.page_wanted(self.now).unwrap().after
    }

    fn events(&mut self) -> Vec<String> {
        let mut events = vec![];
        while let Some(event) = self.subscription.poll_event() {
            events.push(match event {
                Event::Message(message) => format!("{}/{}", message.position.epoch, message.position.offset),
                Event::Reset { reason, position } => format!("{reason} {}/{}", position.epoch, position.offset),
                Event::Skipped(Skipped::SlowConsumer { first, last }) => {
                    format!("skipped {} to {}", first.offset, last.offset)
                }
                other => format!("{other:?}"),
            });
        }
        events
    }
}

fn at(epoch: u32, offset: u64) -> Position {
    Position { epoch: Epoch::new(epoch).unwrap(), offset }
}

fn message(position: Position) -> wire::Message<'static> {
    wire::Message {
        channel: ChannelId::new(1).unwrap(),
        position,
        time_ms: 0,
        user: "",
        producer: Producer::new(1).unwrap(),
        sequence: ProducerSequence::FIRST,
        body: &[7; 100],
    }
}

#[test]
fn each_message_comes_once() {
    let mut bench = Bench::live();
    bench.push(&[at(1, 9), at(1, 10), at(1, 11), at(1, 11), at(1, 12), at(1, 11)]);
    assert_eq!(bench.events(), ["1/11", "1/12"]);
    assert_eq!(bench.subscription.start(), wire::Start::After(at(1, 12)));
}

#[test]
fn a_gap_is_read_from_the_history() {
    let mut bench = Bench::live();
    bench.push(&[at(1, 13)]);
    assert_eq!((bench.subscription.wanted(), bench.after()), (Mode::Attach, 10));
    bench.push(&[at(1, 14)]);
    bench.page(&[at(1, 11), at(1, 12), at(1, 13)], true);
    assert_eq!(bench.subscription.wanted(), Mode::Read, "there is room: the node sends the rest");
    assert_eq!(bench.subscription.start(), wire::Start::After(at(1, 13)));
    bench.answer(Mode::Read, at(1, 15), Recovery::Whole);
    bench.push(&[at(1, 14), at(1, 15)]);
    assert_eq!(bench.events(), ["1/11", "1/12", "1/13", "1/14", "1/15"]);
}

/// A node that leaves gaps without end is not asked without end.
#[test]
fn gaps_in_a_row_are_paced() {
    let mut bench = Bench::live();
    let mut waits = vec![];
    for round in 2..8 {
        bench.push(&[at(1, round * 10)]);
        waits.extend(bench.subscription.retry_at().map(|at| at - bench.now));
        bench.now += BACKOFF.max;
        bench.page(&[], false);
        assert_eq!(bench.events(), [format!("position-too-old 1/{}", round * 10)]);
        bench.subscription.taken(1, 0);
    }
    assert_eq!(waits.len(), 5, "the first is asked for at once");
    assert!(waits.iter().max().unwrap() > &BACKOFF.first);

    waits.clear();
    let mut bench = Bench::live();
    for _ in 0..6 {
        bench.answer(Mode::Read, at(1, 10), Recovery::Reload(Code::PositionTooOld.number()));
        waits.extend(bench.subscription.retry_at().map(|at| at - bench.now));
        bench.now += BACKOFF.max;
        bench.page(&[], false);
    }
    assert_eq!(waits.len(), 5, "the first is asked for at once");
    assert!(waits.iter().max().unwrap() > &BACKOFF.first);
}

#[test]
fn an_old_position_is_filled_from_the_history() {
    let mut bench = Bench::new(Start::After(at(1, 2)));
    bench.answer(Mode::Read, at(1, 50), Recovery::Reload(Code::PositionTooOld.number()));
    assert_eq!(bench.after(), 2);
    bench.page(&[at(1, 3)], true);
    bench.page(&[at(1, 4)], false);
    assert_eq!(bench.events(), ["1/3", "1/4"]);
    assert_eq!(bench.subscription.start(), wire::Start::After(at(1, 4)));
}

#[test]
fn a_hole_in_the_store_is_told() {
    let mut bench = Bench::new(Start::After(at(1, 2)));
    bench.answer(Mode::Read, at(1, 50), Recovery::Reload(Code::PositionTooOld.number()));
    bench.page(&[at(1, 40), at(1, 41)], false);
    assert_eq!(bench.events(), ["position-too-old 1/39", "1/40", "1/41"]);

    let mut bench = Bench::new(Start::After(at(1, 2)));
    bench.answer(Mode::Read, at(1, 50), Recovery::Reload(Code::PositionTooOld.number()));
    bench.page(&[], false);
    assert_eq!(bench.events(), ["position-too-old 1/50"]);
    assert_eq!(bench.subscription.start(), wire::Start::After(at(1, 50)));
}

#[test]
fn lost_history_is_told() {
    let check = |recovery, expect: &[&str]| {
        let mut bench = Bench::new(Start::After(at(1, 60)));
        bench.answer(Mode::Read, at(2, 50), recovery);
        bench.push(&[at(2, 51)]);
        assert_eq!(bench.events(), expect);
    };
    check(Recovery::Reload(Code::EpochChanged.number()), &["epoch-changed 2/50", "2/51"]);
    check(Recovery::Reload(Code::PositionAhead.number()), &["position-ahead 2/50", "2/51"]);
    check(Recovery::Reload(4_399), &["epoch-changed 2/50", "2/51"]);
    check(Recovery::None, &["epoch-changed 2/50", "2/51"]);

    let mut bench = Bench::live();
    bench.push(&[at(2, 9), at(2, 10), at(1, 11)]);
    assert_eq!(bench.events(), ["epoch-changed 2/8", "2/9", "2/10"]);
}

#[test]
fn everything_that_is_kept_can_be_read() {
    let mut bench = Bench::new(Start::AfterOffset(0));
    assert_eq!(bench.subscription.wanted(), Mode::Attach);
    bench.answer(Mode::Attach, at(3, 6), Recovery::None);
    bench.page(&[at(1, 4), at(1, 5), at(3, 6)], false);
    assert_eq!(bench.events(), ["1/4", "1/5", "epoch-changed 3/5", "3/6"]);

    // From a place in the middle, what is missing is told.
    let mut bench = Bench::new(Start::AfterOffset(2));
    bench.answer(Mode::Attach, at(1, 6), Recovery::None);
    bench.page(&[at(1, 4), at(1, 5), at(1, 6)], false);
    assert_eq!(bench.events(), ["position-too-old 1/3", "1/4", "1/5", "1/6"]);

    // An empty channel, and a place that does not exist yet.
    let mut bench = Bench::new(Start::AfterOffset(0));
    bench.answer(Mode::Attach, at(1, 0), Recovery::None);
    bench.page(&[], false);
    assert_eq!(bench.subscription.start(), wire::Start::After(at(1, 0)));
    let mut bench = Bench::new(Start::AfterOffset(9));
    bench.answer(Mode::Attach, at(1, 3), Recovery::None);
    assert_eq!(bench.events(), ["position-ahead 1/3"]);
    assert_eq!(bench.subscription.wanted(), Mode::Read);
}

#[test]
fn what_the_node_skipped_is_told_once() {
    let mut bench = Bench::live();
    let skip = |bench: &mut Bench, first, last| {
        bench.subscription.skipped(bench.now, first, last, &mut Random::new(1));
    };
    skip(&mut bench, at(1, 11), at(1, 13));
    bench.push(&[at(1, 14)]);
    skip(&mut bench, at(1, 12), at(1, 14));
    skip(&mut bench, at(1, 14), at(1, 16));
    assert_eq!(bench.events(), ["skipped 11 to 13", "1/14", "skipped 15 to 16"]);
    skip(&mut bench, at(1, 19), at(1, 20));
    assert_eq!((bench.events(), bench.after()), (vec![], 16), "17 and 18 are missing without a word");
}

#[test]
fn room_is_counted_in_messages_and_bytes() {
    let mut bench = Bench::live();
    bench.push(&(11..30).map(|offset| at(1, offset)).collect::<Vec<_>>());
    assert_eq!(bench.events().len(), 8);
    assert_eq!(bench.subscription.page_wanted(bench.now), None);
    assert!(bench.subscription.take_starved());
    assert!(!bench.subscription.take_starved(), "told once");
    bench.subscription.taken(3, 300);
    assert_eq!(bench.subscription.page_wanted(bench.now), None);
    bench.subscription.taken(1, 100);
    assert_eq!(bench.subscription.page_wanted(bench.now), Some(PageWanted { after: 18, messages_max: 4 }));

    let queue = QueueLimits { messages_max: 100, bytes_max: 250 };
    let mut bench = Bench { subscription: Subscription::new(Start::Live, queue, BACKOFF), ..Bench::live() };
    bench.answer(Mode::Read, at(1, 0), Recovery::None);
    bench.push(&(1..30).map(|offset| at(1, offset)).collect::<Vec<_>>());
    assert_eq!(bench.events().len(), 3, "the one that reaches the limit still goes");
    bench.subscription.taken(1, 100);
    assert_eq!(bench.subscription.page_wanted(bench.now), None);
    bench.subscription.taken(1, 100);
    assert_eq!(bench.subscription.page_wanted(bench.now), Some(PageWanted { after: 3, messages_max: 99 }));
}

#[test]
fn without_history_what_has_no_room_is_dropped_and_told() {
    let mut bench = Bench::new(Start::Live);
    bench.answer_of(HistoryClass::None, Mode::Read, at(1, 0), Recovery::None);
    bench.push(&[at(1, 0); 12]);
    assert_eq!(bench.events().len(), 8);
    assert!(bench.subscription.take_starved());
    bench.subscription.taken(4, 400);
    bench.push(&[at(1, 0)]);
    assert_eq!(bench.events(), ["Skipped(QueueFull { messages: 4 })", "1/0"]);
    assert_eq!((bench.subscription.wanted(), bench.subscription.start()), (Mode::Read, wire::Start::Live));
    bench.subscription.disconnected();
    bench.answer_of(HistoryClass::None, Mode::Read, at(1, 0), Recovery::None);
    assert_eq!(bench.events(), ["Skipped(Interrupted)"]);
}

/// There is nothing to read from the start, and nothing is missing for that.
#[test]
fn without_history_every_start_is_live() {
    let mut bench = Bench::new(Start::AfterOffset(0));
    assert_eq!(bench.subscription.wanted(), Mode::Attach);
    bench.answer_of(HistoryClass::None, Mode::Attach, at(1, 0), Recovery::None);
    assert_eq!((bench.events(), bench.subscription.wanted()), (vec![], Mode::Read));
    bench.answer_of(HistoryClass::None, Mode::Read, at(1, 0), Recovery::None);
    assert_eq!(bench.events(), [] as [&str; 0]);
    bench.subscription.disconnected();
    bench.answer_of(HistoryClass::None, Mode::Read, at(1, 0), Recovery::None);
    assert_eq!(bench.events(), ["Skipped(Interrupted)"]);
}

#[test]
fn a_change_of_rights_is_told_and_never_piles_up() {
    let mut bench = Bench::live();
    bench.subscription.note_can_publish(true);
    bench.subscription.note_can_publish(false);
    assert_eq!(bench.events(), ["CanPublish(false)"]);
    for index in 0..1_001 {
        bench.subscription.note_can_publish(index % 2 == 0);
    }
    assert_eq!(bench.events().len(), 7, "as many as have room");
    bench.subscription.taken(8, 0);
    assert_eq!(bench.events(), [] as [&str; 0], "the last that was told still holds");
}

#[test]
fn a_page_that_cannot_be_had_is_tried_again_or_given_up() {
    let mut bench = Bench::live();
    bench.push(&[at(1, 13)]);
    bench.subscription.page_asked(bench.now);
    let busy = Error::refused(Code::RateLimited.number(), "", 3_000);
    bench.subscription.page_refused(bench.now, &busy, &mut Random::new(1));
    assert_eq!(bench.subscription.page_wanted(bench.now), None);
    bench.now += Duration::from_secs(3);
    assert_eq!(bench.after(), 10);
    bench.subscription.page_asked(bench.now);
    let never = Error::refused(Code::NoHistory.number(), "", 0);
    bench.subscription.page_refused(bench.now, &never, &mut Random::new(1));
    assert_eq!(bench.events(), ["position-too-old 1/13"]);
    assert_eq!(bench.subscription.wanted(), Mode::Read);
}
