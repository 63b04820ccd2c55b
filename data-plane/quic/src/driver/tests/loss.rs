//! One client in eight channels, over a path that loses some of what it is sent: who waits for what was lost, and for how long.

use std::collections::BTreeMap;

use super::*;

const CHANNELS: u64 = 8;
/// Of all channels together: 160 a second.
const EVERY: Duration = Duration::from_micros(6250);
const DELAY: Duration = Duration::from_millis(20);
/// Words of a message of the first channel, which are 900 bytes, and of the others.
const WORDS: (u32, u32) = (113, 21);
/// What the first channel's datagrams have at least.
const FIRST_BYTES: usize = 900;

/// Latencies in milliseconds, sorted.
struct Seen {
    first: Vec<u64>,
    others: Vec<u64>,
    stats: Stats,
}

fn share(of: &[u64], share: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    let place = ((of.len() - 1) as f64 * share).round() as usize;
    of[place]
}

/// Sends for so long, one message after the other to each channel in turn.
fn chat(seed: u64, loses_from_bytes: usize, loss_percent: u64, time: Duration, every: Duration) -> Seen {
    let mut world = World::new(seed, 1, Limits::default(), Link { delay: DELAY, ..Link::default() });
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    for place in 0..CHANNELS {
        assert!(world.offer(Place::Opening(channel(1 + place)), frame(u64::MAX, 5)));
    }
    world.run_until("all channels are there", |world| world.client.streams.len() as u64 == CHANNELS);
    world.run_for(Duration::from_secs(1));
    world.link = Link { loss_percent, loses_from_bytes, ..world.link };
    let (began, mut sent) = (world.now, Vec::new());
    let mut taken = BTreeMap::new();
    let mut seen = Seen { first: Vec::new(), others: Vec::new(), stats: Stats::default() };
    while seen.first.len() + seen.others.len() < sent.len() || world.now < began + time {
        let due = began + every * u32::try_from(sent.len()).unwrap();
        if due <= world.now && due < began + time {
            let (number, place) = (sent.len() as u64, sent.len() as u64 % CHANNELS);
            let words = if place == 0 { WORDS.0 } else { WORDS.1 };
            sent.push(world.now);
            assert!(world.offer(Place::Channel(channel(1 + place)), frame(number, words)));
        }
        assert!(world.now < began + time + Duration::from_secs(20), "something never came");
        world.run_for(Duration::from_millis(1));
        for (stream, frames) in &world.client.streams {
            let taken = taken.entry(*stream).or_insert(1);
            for frame in frames.iter().skip(*taken) {
                let number = number(frame);
                let latency = world.now - sent[usize::try_from(number).unwrap()];
                let of = if number.is_multiple_of(CHANNELS) { &mut seen.first } else { &mut seen.others };
                of.push(u64::try_from(latency.as_millis()).unwrap());
            }
            *taken = frames.len();
        }
    }
    seen.first.sort_unstable();
    seen.others.sort_unstable();
    seen.stats = world.stats();
    seen
}

/// In a hundred.
fn late(of: &[u64]) -> usize {
    of.iter().filter(|&&latency| latency > 30).count() * 100 / of.len()
}

/// A channel's lost messages are nothing to the others.
#[test]
fn loss_on_one_channel_keeps_the_latency_of_the_others() {
    const TIME: Duration = Duration::from_secs(30);
    let of = |seen: &Seen| [share(&seen.others, 0.5), share(&seen.others, 0.99)];
    let quiet = chat(1, FIRST_BYTES, 0, TIME, EVERY);
    assert_eq!((of(&quiet), quiet.stats.losses), ([20, 20], 0));
    for seed in 1..=3 {
        let lossy = chat(seed, FIRST_BYTES, 5, TIME, EVERY);
        assert!((15..60).contains(&lossy.stats.losses), "seed {seed}: {:?}", lossy.stats);
        assert_eq!(of(&lossy), of(&quiet), "seed {seed}: {:?}", lossy.stats);
        // Known to be lost by three later ones, a round trip after those were sent, and then on its way once more.
        let first = [share(&lossy.first, 0.9), share(&lossy.first, 0.99)];
        assert!(first[0] == 20 && (60..120).contains(&first[1]), "seed {seed}: {first:?}");
    }
}

/// If any datagram may be lost, those wait whose own was lost: five in a hundred, and not who comes behind them.
#[test]
fn loss_on_the_path_delays_what_was_lost_and_nothing_else() {
    let lossy = chat(4, 0, 5, Duration::from_secs(30), EVERY);
    let late = [late(&lossy.first), late(&lossy.others)];
    assert!(late.iter().all(|late| (2..=7).contains(late)), "{late:?} %, {:?}", lossy.stats);
    assert!(share(&lossy.others, 0.99) < 120, "{}", share(&lossy.others, 0.99));
}

/// Who says little has nothing behind it whose arrival tells of the loss.
#[test]
fn a_lost_message_with_nothing_behind_it_comes_after_a_probe() {
    let lossy = chat(5, 0, 5, Duration::from_secs(200), Duration::from_millis(500));
    let (common, most) = (share(&lossy.others, 0.98), share(&lossy.others, 1.0));
    // The time of a probe, its round trip, and the way of what was lost; once more if that was lost, too.
    assert!(
        lossy.stats.losses >= 10 && (100..150).contains(&common) && most < 600,
        "{common}, {most}, {:?}",
        lossy.stats
    );
}
