use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn producer(number: u64) -> Producer {
    Producer::new(number).unwrap()
}

fn sequence(number: u64) -> ProducerSequence {
    ProducerSequence::new(number).unwrap()
}

fn offset(number: u64) -> Offset {
    Offset::new(number).unwrap()
}

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).unwrap()
}

fn message(name: &str, of: u64, number: u64) -> NewMessage {
    let body = Bytes::from(format!("{name}/{of}/{number}"));
    NewMessage { user: user(name), producer: producer(of), sequence: sequence(number), time_ms: 0, body }
}

struct Append {
    view: HomeView,
    messages: Vec<NewMessage>,
}

fn view(term: u64, epoch_number: u32, next_offset: u64) -> HomeView {
    HomeView { term: Term(term), epoch: epoch(epoch_number), next_offset: offset(next_offset) }
}

fn append(term: u64, epoch_number: u32, next_offset: u64, messages: Vec<NewMessage>) -> Append {
    Append { view: view(term, epoch_number, next_offset), messages }
}

/// A channel as a store would keep it: what a plan says is put, nothing else.
#[derive(Default)]
struct Channel {
    head: Option<ChannelHead>,
    rows: HashMap<(UserId, Producer), ProducerRow>,
    messages: Vec<(Epoch, Offset, NewMessage)>,
}

impl Channel {
    fn open(&mut self, term: u64, history: HistoryClass) -> Result<ChannelHead, HomeError> {
        let head = self.head.unwrap_or(ChannelHead::empty(history)).open(Term(term), history)?;
        self.head = Some(head);
        Ok(head)
    }

    fn append(&mut self, append: &Append) -> Result<Vec<AppendOutcome>, HomeError> {
        let batch = Batch::new(&append.messages);
        let key = |&(user, producer): &(&UserId, Producer)| (user.clone(), producer);
        let rows = batch.producers().iter().map(|known| self.rows.get(&key(known)).cloned()).collect();
        let plan = batch.plan(append.view, self.head.as_ref(), rows)?;
        for (at, message) in plan.stored(&append.messages) {
            self.messages.push((plan.head.epoch, at, message.clone()));
        }
        for (index, row, change) in plan.rows() {
            let before = self.rows.insert(key(&batch.producers()[index]), row.clone());
            assert_eq!(before.is_none(), change == RowChange::New);
        }
        assert_eq!(plan.is_empty(), self.head == Some(plan.head));
        self.head = Some(plan.head);
        Ok(plan.outcomes)
    }
}

#[test]
fn a_durable_channel_takes_each_message_once() {
    let mut channel = Channel::default();
    channel.open(1, HistoryClass::Durable).unwrap();
    let mut check = |expected_offset, messages: Vec<NewMessage>, expect: &[AppendOutcome]| {
        assert_eq!(channel.append(&append(1, 1, expected_offset, messages)).unwrap(), expect);
    };
    use AppendOutcome::{Duplicate, OutOfOrder, Stored};
    check(
        1,
        vec![message("ann", 1, 1), message("bob", 1, 1), message("ann", 1, 2)],
        &[Stored(offset(1)), Stored(offset(2)), Stored(offset(3))],
    );
    // The retry of a whole pipeline learns every place; a gap waits for what is missing.
    check(
        4,
        vec![message("ann", 1, 1), message("ann", 1, 2), message("ann", 1, 3), message("bob", 1, 3)],
        &[
            Duplicate(Some(offset(1))),
            Duplicate(Some(offset(3))),
            Stored(offset(4)),
            OutOfOrder { expected: sequence(2) },
        ],
    );
    // Another run of the same user, and another user's run of the same number, count for themselves.
    check(
        5,
        vec![message("ann", 2, 2), message("ann", 2, 1), message("cy", 1, 1)],
        &[OutOfOrder { expected: sequence(1) }, Stored(offset(5)), Stored(offset(6))],
    );
    // Twice in one batch.
    check(7, vec![message("cy", 1, 2), message("cy", 1, 2)], &[Stored(offset(7)), Duplicate(Some(offset(7)))]);
    check(8, vec![], &[]);
}

#[test]
fn an_outdated_home_is_refused() {
    let mut channel = Channel::default();
    let one = || vec![message("ann", 1, 1)];
    assert_eq!(channel.append(&append(1, 1, 1, one())), Err(HomeError::NotOpen));
    channel.open(2, HistoryClass::Durable).unwrap();
    let mut check = |request: Append, expect: HomeError| {
        assert_eq!(channel.append(&request), Err(expect));
        assert!(channel.messages.is_empty());
    };
    check(append(1, 1, 1, one()), HomeError::Term { theirs: Term(1), ours: Term(2) });
    check(append(3, 1, 1, one()), HomeError::Term { theirs: Term(3), ours: Term(2) });
    check(append(2, 2, 1, one()), HomeError::Epoch { theirs: epoch(2), ours: epoch(1) });
    check(append(2, 1, 2, one()), HomeError::Offset { theirs: offset(2), ours: offset(1) });
    assert_eq!(channel.open(1, HistoryClass::Durable), Err(HomeError::Term { theirs: Term(1), ours: Term(2) }));
    channel.append(&append(2, 1, 1, one())).unwrap();

    let current = view(2, 1, 2);
    let head = channel.head.unwrap();
    assert!(head.close(view(2, 1, 1)).is_err());
    assert!(head.close(view(1, 1, 2)).is_err());
    channel.head = Some(head.close(current).unwrap());
    assert_eq!(channel.append(&append(2, 1, 2, vec![message("ann", 1, 2)])), Err(HomeError::NotOpen));
    let code = |theirs, ours| HomeError::Term { theirs: Term(theirs), ours: Term(ours) }.code();
    assert_eq!((code(1, 2), code(2, 1)), (Code::Fenced, Code::UnknownOutcome));
    assert_eq!((HomeError::NotOpen.code(), HomeError::NoHistory.code()), (Code::UnknownOutcome, Code::NoHistory));
}

/// Only a windowed channel whose home vanished begins a new epoch, and its offsets go on.
#[test]
fn an_epoch_ends_with_lost_history() {
    let check = |history, closed: bool, expect: (u32, u64)| {
        let mut channel = Channel::default();
        channel.open(1, history).unwrap();
        channel.append(&append(1, 1, 1, vec![message("ann", 1, 1), message("ann", 1, 2)])).unwrap();
        if closed {
            channel.head = Some(channel.head.unwrap().close(view(1, 1, 3)).unwrap());
        }
        let head = channel.open(2, history).unwrap();
        assert_eq!((head.epoch.get(), head.epoch_first_offset.get()), expect, "{history:?} {closed}");
        assert_eq!((head.next_offset, head.first_offset), (offset(3), offset(1)));
    };
    check(HistoryClass::Durable, true, (1, 1));
    check(HistoryClass::Durable, false, (1, 1));
    check(HistoryClass::Windowed, true, (1, 1));
    check(HistoryClass::Windowed, false, (2, 3));
}

#[test]
fn a_windowed_channel_stores_what_was_delivered() {
    let mut channel = Channel::default();
    channel.open(1, HistoryClass::Windowed).unwrap();
    // The home had forgotten ann and let her begin again.
    let batch = vec![message("ann", 1, 1), message("ann", 1, 2), message("ann", 1, 1), message("bob", 1, 7)];
    let outcomes = channel.append(&append(1, 1, 1, batch)).unwrap();
    assert_eq!(outcomes, (1..=4).map(|at| AppendOutcome::Stored(offset(at))).collect::<Vec<_>>());
    let last = |name| channel.rows[&(user(name), producer(1))].last().get();
    assert_eq!((last("ann"), last("bob")), (1, 7));
}

#[test]
fn runs_from_outside_are_checked() {
    let run = |first, at, count| Run { sequence: sequence(first), offset: offset(at), count };
    let check =
        |runs: Vec<Run>, expect: bool| assert_eq!(ProducerRow::from_runs(runs.clone()).is_some(), expect, "{runs:?}");
    check(vec![run(1, 1, 1)], true);
    check(vec![run(3, 9, 2), run(5, 20, 1)], true);
    check(vec![], false);
    check(vec![run(1, 1, 0)], false);
    check(vec![run(1, 1, 0), run(1, 1, 1)], false);
    check(vec![run(1, 1, 2), run(4, 9, 1)], false);
    check(vec![run(u64::MAX, 1, 2)], false);
    check(vec![run(1, u64::MAX, 2)], false);
    check((1..=9).map(|at| run(at, at * 2, 1)).collect(), false);
}

/// What a producer and its client may do, and what the network does to it.
#[derive(Debug, Clone)]
enum Step {
    /// A home appends a batch: for each part a producer, how far behind its last stored sequence it begins, and how many it sends.
    Append { batch: Vec<(usize, u64, u64)>, answered: bool },
    /// The link is cut; another opens the channel.
    Takeover,
    /// An outdated home appends.
    Stale { producer: usize },
    /// The home opens the channel again under its term.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let part = (0..4usize, 0..5u64, 1..5u64);
    prop_oneof![
        6 => (prop::collection::vec(part, 1..5), any::<bool>()).prop_map(|(batch, answered)| Step::Append { batch, answered }),
        1 => Just(Step::Takeover),
        1 => (0..4usize).prop_map(|producer| Step::Stale { producer }),
        1 => Just(Step::Reopen),
    ]
}

const PRODUCERS: [(&str, u64); 4] = [("ann", 1), ("ann", 2), ("bob", 1), ("bob", 9)];

proptest! {
    /// Whatever is retried, pipelined, cut or fenced: each message is stored at most once, offsets are contiguous, every producer's order holds,
    /// and every outcome says what the slow model, a search through all stored messages, says.
    #[test]
    fn exactly_once_in_any_interleaving(steps in prop::collection::vec(step(), 1..60)) {
        let mut channel = Channel::default();
        let mut term = 1;
        // What the home believes; not touched when an answer is lost.
        let mut believed = channel.open(term, HistoryClass::Durable).unwrap();
        for step in steps {
            match step {
                Step::Append { batch, answered } => {
                    let mut messages = Vec::new();
                    for (who, behind, count) in batch {
                        let (name, run) = PRODUCERS[who];
                        let next = stored_of(&channel, who) + 1;
                        let begin = (next + 2).saturating_sub(behind).max(1);
                        messages.extend((begin..begin + count).map(|number| message(name, run, number)));
                    }
                    let request = append(term, believed.epoch.get(), believed.next_offset.get(), messages);
                    let before = channel.messages.clone();
                    match channel.append(&request) {
                        Ok(outcomes) => {
                            prop_assert_eq!(believed.next_offset.get(), before.len() as u64 + 1);
                            check_outcomes(&before, &request, &outcomes, &channel);
                            if answered {
                                believed = channel.head.unwrap();
                            }
                        }
                        Err(error) => {
                            // Only a lost answer makes the home's view outdated.
                            let outdated = matches!(error, HomeError::Offset { .. });
                            prop_assert!(outdated);
                            prop_assert!(believed.next_offset < channel.head.unwrap().next_offset);
                            prop_assert_eq!(&channel.messages, &before);
                            believed = channel.open(term, HistoryClass::Durable).unwrap();
                        }
                    }
                }
                Step::Takeover => {
                    term += 1;
                    believed = channel.open(term, HistoryClass::Durable).unwrap();
                }
                Step::Reopen => believed = channel.open(term, HistoryClass::Durable).unwrap(),
                Step::Stale { producer: who } => {
                    let (name, run) = PRODUCERS[who];
                    let next = stored_of(&channel, who) + 1;
                    let at = channel.head.unwrap().next_offset.get();
                    let request = append(term - 1, 1, at, vec![message(name, run, next)]);
                    let refused = matches!(channel.append(&request), Err(HomeError::Term { .. }));
                    prop_assert!(refused);
                }
            }
            for (index, (of, at, _)) in channel.messages.iter().enumerate() {
                prop_assert_eq!((of.get(), at.get()), (1, index as u64 + 1));
            }
            for who in 0..PRODUCERS.len() {
                let sequences: Vec<_> = of_producer(&channel, who).map(|(_, stored)| stored.sequence.get()).collect();
                prop_assert_eq!(&sequences, &(1..=sequences.len() as u64).collect::<Vec<_>>());
            }
        }
    }

    /// A row answers for as many runs as it keeps, and never wrongly.
    #[test]
    fn a_row_knows_its_last_runs(gaps in prop::collection::vec(1..3u64, 1..60)) {
        let mut places = vec![5];
        let mut row = ProducerRow::new(sequence(1), offset(5));
        for gap in gaps {
            let at = places[places.len() - 1] + gap;
            places.push(at);
            row.accept(sequence(places.len() as u64), offset(at));
            prop_assert_eq!(row.last_offset().get(), at);
            prop_assert_eq!(row.last().get(), places.len() as u64);
            let again = ProducerRow::from_runs(row.runs().to_vec());
            prop_assert_eq!(again.as_ref(), Some(&row));
            for (index, place) in places.iter().enumerate() {
                let known = row.offset(sequence(index as u64 + 1));
                let recent = places.len() - index <= PRODUCER_RUNS_MAX;
                prop_assert!(known == Some(offset(*place)) || (known.is_none() && !recent));
            }
            prop_assert_eq!(row.offset(sequence(places.len() as u64 + 1)), None);
        }
    }
}

fn of_producer(channel: &Channel, who: usize) -> impl Iterator<Item = (Offset, &NewMessage)> {
    let (name, run) = PRODUCERS[who];
    channel
        .messages
        .iter()
        .filter(move |(_, _, stored)| stored.user.as_str() == name && stored.producer.get() == run)
        .map(|(_, at, stored)| (*at, stored))
}

fn stored_of(channel: &Channel, who: usize) -> u64 {
    of_producer(channel, who).count() as u64
}

/// The slow model: every outcome follows from a search through what was stored before and what the batch stored already.
fn check_outcomes(
    before: &[(Epoch, Offset, NewMessage)],
    request: &Append,
    outcomes: &[AppendOutcome],
    after: &Channel,
) {
    let mut stored = before.to_vec();
    for (message, outcome) in request.messages.iter().zip(outcomes) {
        let same = |candidate: &&(Epoch, Offset, NewMessage)| {
            candidate.2.user == message.user && candidate.2.producer == message.producer
        };
        let last = stored.iter().filter(same).map(|(_, _, one)| one.sequence.get()).max().unwrap_or(0);
        let place = stored.iter().filter(same).find(|one| one.2.sequence == message.sequence).map(|one| one.1);
        match *outcome {
            AppendOutcome::Stored(at) => {
                assert_eq!((message.sequence.get(), at.get()), (last + 1, stored.len() as u64 + 1));
                stored.push((Epoch::FIRST, at, message.clone()));
            }
            AppendOutcome::Duplicate(at) => {
                assert!(place.is_some() && (at.is_none() || at == place));
                assert!(at.is_some() || last - message.sequence.get() >= PRODUCER_RUNS_MAX as u64);
            }
            AppendOutcome::OutOfOrder { expected } => {
                assert!(message.sequence > expected);
                assert_eq!(expected.get(), last + 1);
            }
        }
    }
    assert_eq!(stored, after.messages);
}
