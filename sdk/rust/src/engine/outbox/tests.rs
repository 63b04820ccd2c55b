//! The outbox against a channel that checks sequences, over connections that break anywhere.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(60);
const LIMITS: BackoffLimits = BackoffLimits { first: Duration::from_millis(100), max: Duration::from_secs(20) };

fn outbox() -> (Outbox, Random, Instant) {
    (Outbox::new(Producer::new(1).unwrap(), LIMITS), Random::new(1), Instant::now())
}

fn fill(outbox: &mut Outbox, tickets: std::ops::Range<usize>) {
    tickets.for_each(|ticket| outbox.push(ticket, Bytes::from(ticket.to_string()), None));
}

/// Sends everything that is ready; sequences and bodies.
fn send_all(outbox: &mut Outbox, now: Instant) -> Vec<(u64, String)> {
    let mut sent = vec![];
    while let Some(outgoing) = outbox.send_next(now) {
        sent.push((outgoing.sequence.get(), String::from_utf8(outgoing.body.to_vec()).unwrap()));
    }
    sent
}

fn sequence(number: u64) -> ProducerSequence {
    ProducerSequence::new(number).unwrap()
}

fn refuse(outbox: &mut Outbox, random: &mut Random, now: Instant, number: u64, code: Code) -> Option<GivenUp> {
    let given_up = outbox.refused(now, sequence(number), code.number(), Duration::ZERO, random);
    outbox.answered(now, random);
    given_up
}

fn ack(outbox: &mut Outbox, random: &mut Random, now: Instant, number: u64) -> Option<Ticket> {
    let ticket = outbox.acknowledged(outbox.producer(), sequence(number));
    outbox.answered(now, random);
    ticket
}

fn numbered(rows: &[(u64, &str)]) -> Vec<(u64, String)> {
    rows.iter().map(|&(sequence, body)| (sequence, body.to_owned())).collect()
}

#[test]
fn a_refusal_for_good_leaves_no_gap() {
    let (mut outbox, mut random, now) = outbox();
    fill(&mut outbox, 1..5);
    assert_eq!(send_all(&mut outbox, now), numbered(&[(1, "1"), (2, "2"), (3, "3"), (4, "4")]));
    assert_eq!(ack(&mut outbox, &mut random, now, 1), Some(1));
    let given_up = refuse(&mut outbox, &mut random, now, 2, Code::TooLarge);
    assert_eq!(given_up, Some(GivenUp { ticket: 2, uncertain: false }));
    fill(&mut outbox, 5..6);
    assert_eq!(send_all(&mut outbox, now), [], "answers to 3 and 4 are under way");
    assert_eq!(refuse(&mut outbox, &mut random, now, 3, Code::OutOfOrder), None);
    assert_eq!(refuse(&mut outbox, &mut random, now, 4, Code::Blocked), None);
    let now = now + LIMITS.first;
    assert_eq!(send_all(&mut outbox, now), numbered(&[(2, "3"), (3, "4"), (4, "5")]));
}

#[test]
fn a_pause_is_kept_and_everything_after_goes_again() {
    let (mut outbox, mut random, now) = outbox();
    fill(&mut outbox, 1..4);
    send_all(&mut outbox, now);
    let wait = Duration::from_secs(3);
    assert_eq!(outbox.refused(now, sequence(1), Code::RateLimited.number(), wait, &mut random), None);
    outbox.answered(now, &mut random);
    refuse(&mut outbox, &mut random, now, 2, Code::Blocked);
    refuse(&mut outbox, &mut random, now, 3, Code::Blocked);
    assert_eq!(outbox.resume_at(), Some(now + wait));
    assert_eq!(send_all(&mut outbox, now + wait - Duration::from_millis(1)), []);
    // A node that has enough gets few at first, and more with each that it takes.
    let now = now + wait;
    assert_eq!(send_all(&mut outbox, now), numbered(&[(1, "1")]));
    assert_eq!(ack(&mut outbox, &mut random, now, 1), Some(1));
    assert_eq!(send_all(&mut outbox, now), numbered(&[(2, "2"), (3, "3")]));
}

/// Stored, its acknowledgement lost, then refused for good: its number must not be given to another message, which the
/// channel would take for a duplicate.
#[test]
fn a_number_that_may_be_stored_is_not_given_again() {
    let (mut outbox, mut random, now) = outbox();
    let producer = outbox.producer();
    fill(&mut outbox, 1..3);
    send_all(&mut outbox, now);
    outbox.disconnected(now, LINGER, &mut random);
    send_all(&mut outbox, now);
    let given_up = refuse(&mut outbox, &mut random, now, 1, Code::Archived);
    assert_eq!(given_up, Some(GivenUp { ticket: 1, uncertain: true }));
    let given_up = refuse(&mut outbox, &mut random, now, 2, Code::Archived);
    assert_eq!(given_up, Some(GivenUp { ticket: 2, uncertain: true }));
    fill(&mut outbox, 3..4);
    assert_eq!(send_all(&mut outbox, now), numbered(&[(3, "3")]));
    // 1 and 2 may still come from the first connection, and 3 behind them.
    refuse(&mut outbox, &mut random, now, 3, Code::OutOfOrder);
    let now = now + LIMITS.first;
    assert_eq!(send_all(&mut outbox, now), numbered(&[(3, "3")]));
    refuse(&mut outbox, &mut random, now, 3, Code::OutOfOrder);
    let now = now + LINGER;
    assert_eq!(send_all(&mut outbox, now), numbered(&[(3, "3")]));
    refuse(&mut outbox, &mut random, now, 3, Code::OutOfOrder);
    assert_ne!(outbox.producer(), producer);
    assert_eq!(send_all(&mut outbox, now + LIMITS.max), numbered(&[(1, "3")]));
}

/// 2 is refused for good, then the connection breaks: a late 3 must not follow a 2 that was given to the third message.
#[test]
fn a_straggler_is_not_stored_twice() {
    let (mut outbox, mut random, now) = outbox();
    let producer = outbox.producer();
    fill(&mut outbox, 1..4);
    send_all(&mut outbox, now);
    refuse(&mut outbox, &mut random, now, 2, Code::TooLarge).unwrap();
    outbox.disconnected(now, LINGER, &mut random);
    assert_eq!(send_all(&mut outbox, now), numbered(&[(1, "1")]), "1 may be stored under its number");
    ack(&mut outbox, &mut random, now, 1);
    assert_ne!(outbox.producer(), producer);
    assert_eq!(send_all(&mut outbox, now), numbered(&[(1, "3")]));
}

/// "Out of order" is as old as its request: a straggler may have been stored while the answer waited to be read.
#[test]
fn a_late_answer_is_no_news() {
    let (mut outbox, mut random, now) = outbox();
    let producer = outbox.producer();
    fill(&mut outbox, 1..3);
    send_all(&mut outbox, now);
    outbox.disconnected(now, LINGER, &mut random);
    send_all(&mut outbox, now);
    let now = now + LINGER;
    refuse(&mut outbox, &mut random, now, 1, Code::Archived).unwrap();
    refuse(&mut outbox, &mut random, now, 2, Code::OutOfOrder);
    assert_eq!(outbox.producer(), producer);
    assert_eq!(send_all(&mut outbox, now + LIMITS.max), numbered(&[(2, "2")]));
}

/// A channel that takes a number has all before it.
#[test]
fn what_a_later_number_proves_stored_keeps_its_number() {
    let (mut outbox, mut random, now) = outbox();
    fill(&mut outbox, 1..3);
    send_all(&mut outbox, now);
    outbox.disconnected(now, LINGER, &mut random);
    fill(&mut outbox, 3..4);
    send_all(&mut outbox, now);
    refuse(&mut outbox, &mut random, now, 1, Code::Archived).unwrap();
    refuse(&mut outbox, &mut random, now, 2, Code::OutOfOrder);
    // Meanwhile 1 and 2 came from the first connection.
    assert_eq!(ack(&mut outbox, &mut random, now, 3), Some(3));
    assert_eq!(send_all(&mut outbox, now), numbered(&[(2, "2")]));
}

#[test]
fn a_producer_that_was_forgotten_begins_anew() {
    let (mut outbox, mut random, now) = outbox();
    let producer = outbox.producer();
    fill(&mut outbox, 1..4);
    send_all(&mut outbox, now);
    ack(&mut outbox, &mut random, now, 1);
    refuse(&mut outbox, &mut random, now, 2, Code::OutOfOrder);
    refuse(&mut outbox, &mut random, now, 3, Code::OutOfOrder);
    assert_ne!(outbox.producer(), producer);
    assert_eq!(outbox.acknowledged(producer, sequence(2)), None, "of the earlier producer");
    assert_eq!(send_all(&mut outbox, now + LIMITS.first), numbered(&[(1, "2"), (2, "3")]));
}

/// A message whose fate is unknown is refused, which bars those behind it, and is given up.
#[test]
fn a_session_that_bars_for_a_message_given_up_is_left() {
    let (mut outbox, mut random, now) = outbox();
    outbox.push(1, Bytes::from_static(b"1"), Some(now + LINGER));
    outbox.push(2, Bytes::from_static(b"2"), None);
    send_all(&mut outbox, now);
    outbox.disconnected(now, LINGER, &mut random);
    send_all(&mut outbox, now);
    refuse(&mut outbox, &mut random, now, 1, Code::Busy);
    refuse(&mut outbox, &mut random, now, 2, Code::Blocked);
    assert!(!outbox.take_stuck(), "the first is tried again");
    let now = now + LINGER;
    assert_eq!(outbox.expire(now, &mut random), Some(GivenUp { ticket: 1, uncertain: true }));
    assert_eq!(send_all(&mut outbox, now), numbered(&[(2, "2")]));
    refuse(&mut outbox, &mut random, now, 2, Code::Blocked);
    assert!(outbox.take_stuck());
    outbox.disconnected(now, LINGER, &mut random);
    assert_eq!(send_all(&mut outbox, now + LIMITS.max), numbered(&[(2, "2")]));
}

#[test]
fn time_passes_for_sent_and_unsent_messages() {
    let (mut outbox, mut random, now) = outbox();
    let later = now + Duration::from_secs(1);
    outbox.push(1, Bytes::from_static(b"1"), Some(now));
    outbox.push(2, Bytes::from_static(b"2"), Some(now));
    outbox.push(3, Bytes::from_static(b"3"), Some(later));
    outbox.send_next(now).unwrap();
    assert_eq!(outbox.expire(now, &mut random), Some(GivenUp { ticket: 1, uncertain: true }));
    assert_eq!(outbox.expire(now, &mut random), Some(GivenUp { ticket: 2, uncertain: false }));
    assert_eq!(outbox.expire(now, &mut random), None);
    assert_eq!(send_all(&mut outbox, now), [], "the answer to 1 is under way");
    assert_eq!(ack(&mut outbox, &mut random, now, 1), None);
    assert_eq!(send_all(&mut outbox, now), numbered(&[(2, "3")]));
    assert_eq!(outbox.oldest_sent(), Some(now));
    assert_eq!(outbox.give_up_next(), Some(GivenUp { ticket: 3, uncertain: true }));
    assert_eq!(outbox.give_up_next(), None);
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    producer: Producer,
    sequence: ProducerSequence,
    ticket: usize,
}

/// A channel home: takes `last + 1`, knows duplicates, refuses the rest.
#[derive(Default)]
struct Home {
    last: HashMap<Producer, u64>,
    stored: Vec<usize>,
}

impl Home {
    /// A frame whose sender is gone.
    fn arrive(&mut self, frame: Frame) {
        let _ = self.offer(frame);
    }

    fn offer(&mut self, frame: Frame) -> Result<(), Code> {
        let last = self.last.entry(frame.producer).or_default();
        match frame.sequence.get() {
            sequence if sequence > *last + 1 => return Err(Code::OutOfOrder),
            sequence if sequence == *last + 1 => {
                *last = sequence;
                self.stored.push(frame.ticket);
            }
            _ => {}
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push,
    Send(u8),
    /// The channel reads what was sent so far, with a refusal for each message that a bit is set for.
    Serve {
        refuse: u16,
        code: usize,
    },
    /// The application reads answers, out of order if `swap`.
    Answer {
        count: u8,
        swap: bool,
    },
    Disconnect,
    /// What an earlier connection left arrives.
    Straggle,
    Expire,
}

const REFUSALS: [Code; 7] = [
    Code::RateLimited,
    Code::Busy,
    Code::Unavailable,
    Code::UnknownOutcome,
    Code::TooLarge,
    Code::Archived,
    Code::ReadOnly,
];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        4 => (1..6u8).prop_map(Step::Send),
        3 => (any::<u16>(), any::<u16>(), 0..REFUSALS.len()).prop_map(|(a, b, code)| Step::Serve { refuse: a & b, code }),
        4 => (1..8u8, any::<bool>()).prop_map(|(count, swap)| Step::Answer { count, swap }),
        2 => Just(Step::Disconnect),
        2 => Just(Step::Straggle),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is refused, lost or given up: what is acknowledged is stored once and in order, what was certainly not
    /// stored is not, and in the end everything left goes through.
    #[test]
    fn every_message_is_stored_once_in_order(steps in proptest::collection::vec(step(), 0..80)) {
        let (mut outbox, mut random, mut now) = outbox();
        let mut home = Home::default();
        let mut wire: VecDeque<Frame> = VecDeque::new();
        let mut answers = VecDeque::new();
        let mut stragglers: Vec<(Instant, VecDeque<Frame>)> = vec![];
        let mut pushed = 0;
        let (mut acknowledged, mut refused) = (vec![], vec![]);
        let calm = [Step::Send(99), Step::Serve { refuse: 0, code: 0 }, Step::Answer { count: 99, swap: false }];
        let ending = std::iter::once(Step::Disconnect).chain(calm.iter().cycle().take(3 * 100).cloned());
        for step in steps.into_iter().chain(ending) {
            now += Duration::from_secs(5);
            match step {
                Step::Push => {
                    pushed += 1;
                    outbox.push(pushed, Bytes::from(pushed.to_string()), Some(now + Duration::from_secs(600)));
                }
                Step::Send(count) => for _ in 0..count {
                    let Some(outgoing) = outbox.send_next(now) else { break };
                    let ticket = std::str::from_utf8(outgoing.body)?.parse()?;
                    wire.push_back(Frame { producer: outgoing.producer, sequence: outgoing.sequence, ticket });
                },
                Step::Serve { refuse, code } => {
                    for (index, frame) in wire.drain(..).enumerate() {
                        let unknown = REFUSALS[code] == Code::UnknownOutcome;
                        let refused = index < 16 && refuse & (1 << index) != 0;
                        let answer = match refused {
                            true if !unknown => Err(REFUSALS[code]),
                            true => home.offer(frame).and(Err(Code::UnknownOutcome)),
                            false => home.offer(frame),
                        };
                        answers.push_back((frame.producer, frame.sequence, answer));
                    }
                }
                Step::Straggle => {
                    stragglers.retain(|(until, _)| now < *until);
                    if !stragglers.is_empty() {
                        stragglers.remove(0).1.into_iter().for_each(|frame| home.arrive(frame));
                    }
                }
                Step::Answer { count, swap } => for _ in 0..count {
                    let answer = if swap { answers.pop_back() } else { answers.pop_front() };
                    match answer {
                        None => break,
                        Some((producer, number, Ok(()))) => {
                            acknowledged.extend(outbox.acknowledged(producer, number));
                            outbox.answered(now, &mut random);
                        }
                        Some((_, number, Err(code))) => {
                            refused.extend(refuse(&mut outbox, &mut random, now, number.get(), code));
                        }
                    }
                },
                Step::Disconnect => {
                    // The channel may have read what was sent, or reads it later, or never.
                    match random.below(3) {
                        0 => wire.drain(..).for_each(|frame| home.arrive(frame)),
                        1 => stragglers.push((now + LINGER, std::mem::take(&mut wire))),
                        _ => wire.clear(),
                    }
                    answers.clear();
                    outbox.disconnected(now, LINGER, &mut random);
                }
                Step::Expire => {
                    now += Duration::from_secs(300);
                    while let Some(given_up) = outbox.expire(now, &mut random) { refused.push(given_up); }
                }
            }
        }
        prop_assert!(outbox.is_empty(), "{outbox:?}");
        let mut once = home.stored.clone();
        once.sort_unstable();
        once.dedup();
        prop_assert_eq!(once.len(), home.stored.len(), "stored twice: {:?}", home.stored);
        // What was given up with an unknown fate may come late.
        let confirmed: Vec<_> = home.stored.iter().filter(|ticket| acknowledged.contains(ticket)).collect();
        prop_assert!(confirmed.is_sorted(), "reordered: {:?}", home.stored);
        for ticket in &acknowledged {
            prop_assert!(home.stored.contains(ticket), "{ticket} is acknowledged and not stored: {:?}", home.stored);
        }
        for GivenUp { ticket, uncertain } in &refused {
            prop_assert!(*uncertain || !home.stored.contains(ticket), "{ticket} is refused and stored");
        }
        let mut ended: Vec<_> = acknowledged.into_iter().chain(refused.iter().map(|given_up| given_up.ticket)).collect();
        ended.sort_unstable();
        prop_assert_eq!(ended, (1..=pushed).collect::<Vec<_>>());
    }
}
