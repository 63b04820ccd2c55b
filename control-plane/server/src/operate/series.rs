//! A node's numbers over time: what is counted becomes what happens in a second. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_protocol::node::{LatencyCounts, NodeFigures, ShardFigures};
use serde::Serialize;
use utoipa::ToSchema;

use super::STEPS_MAX;

/// Defines a sample and its columns, with their descriptions.
macro_rules! samples {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A node's or a shard's numbers at one time; NaN where there is none.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub(crate) struct Sample {
            pub(crate) time_ms: i64,
            $(pub(crate) $name: f32,)+
        }

        impl Sample {
            /// Without a number.
            pub(crate) const fn empty(time_ms: i64) -> Self {
                Self { time_ms, $($name: f32::NAN,)+ }
            }
        }

        /// Numbers over time: lists of the same length, one entry for each step that the node answered in. Null where there is no number.
        #[derive(Serialize, ToSchema)]
        #[schema(as = NodeSeries)]
        pub(crate) struct SeriesView {
            /// Unix time, ms; ascending.
            pub(crate) time_ms: Vec<i64>,
            $($(#[doc = $doc])+ pub(crate) $name: Vec<Option<f32>>,)+
        }

        impl SeriesView {
            pub(crate) fn new<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
                let mut view = Self { time_ms: Vec::new(), $($name: Vec::new(),)+ };
                for sample in samples {
                    view.time_ms.push(sample.time_ms);
                    $(view.$name.push(shown(sample.$name));)+
                }
                view
            }
        }
    };
}

samples! {
    /// Sessions, in whatever state.
    sessions,
    /// Subscriptions, in whatever state.
    subscriptions,
    /// Homes in memory.
    homes,
    /// Bytes that wait in the queues of all sessions.
    queued_bytes,
    /// Messages put into the queues of sessions, in a second.
    deliveries_per_s,
    /// Publishes of sessions, in a second.
    publishes_per_s,
    /// Messages that homes took, in a second.
    messages_per_s,
    /// Bytes written to clients, in a second.
    written_bytes_per_s,
    /// Sessions that began, in a second.
    opened_per_s,
    /// Sessions that ended, in a second.
    closed_per_s,
    /// Requests refused, in a second.
    refused_per_s,
    /// Messages dropped for slow sessions, in a second.
    skipped_per_s,
    /// Processors used: 1 is one of them all the time.
    cpu,
    /// Mean CPU time of a turn, µs.
    turn_us,
    /// How full the fullest ring between threads was: 1 is full.
    ring,
    /// Median time that the control node took for an append, in the step, ms; of the whole node only.
    append_p50_ms,
    /// 99th percentile of the same.
    append_p99_ms,
    /// Median time from a session's publish to its acknowledgement in the session's queue, in the step, ms.
    ack_p50_ms,
    /// 99th percentile of the same.
    ack_p99_ms,
    /// Median time from a publish to the message in the queue of a session that is live, in the step, ms.
    delivery_p50_ms,
    /// 99th percentile of the same.
    delivery_p99_ms,
}

/// A number as it is shown: three decimals, and null for none.
pub(crate) fn shown(number: f32) -> Option<f32> {
    number.is_finite().then(|| if number.abs() < 1e4 { (number * 1000.0).round() / 1000.0 } else { number })
}

/// The newest samples, bounded.
#[derive(Default)]
pub(crate) struct Series(VecDeque<Sample>);

impl Series {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.0.len() >= STEPS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Those of this time and after.
    pub(crate) fn since(&self, time_ms: i64) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.time_ms >= time_ms)
    }

    pub(crate) fn newest(&self) -> Option<&Sample> {
        self.0.back()
    }
}

/// What a node's figures come to, and each shard's, given those of so long before. Without those, or if the node began anew in between, there are no
/// rates; a shard that did not answer has no numbers, and is missing in those of the node.
pub(super) fn sample(
    time_ms: i64,
    before: Option<(Duration, &NodeFigures)>,
    now: &NodeFigures,
) -> (Sample, Vec<Sample>) {
    let before = before.filter(|(elapsed, before)| !elapsed.is_zero() && before.started_ms == now.started_ms);
    let seconds = before.map_or(f64::NAN, |(elapsed, _)| elapsed.as_secs_f64());
    let mut sum = (ShardFigures::default(), ShardFigures::default());
    let mut shards = Vec::with_capacity(now.shards.len());
    for (index, shard) in now.shards.iter().enumerate() {
        let earlier = before.and_then(|(_, before)| before.shards.get(index)).filter(|earlier| earlier.answers);
        if !shard.answers {
            shards.push(Sample::empty(time_ms));
            continue;
        }
        shards.push(between(time_ms, seconds, earlier, shard));
        // Counters count in the sum only if they count on both sides.
        add(&mut sum.0, earlier.unwrap_or(shard));
        add(&mut sum.1, shard);
    }
    let mut whole = between(time_ms, seconds, before.map(|_| &sum.0), &sum.1);
    whole.cpu = before.map_or(f32::NAN, |(_, before)| rate(now.cpu_ms, before.cpu_ms, seconds * 1000.0));
    (whole, shards)
}

fn between(time_ms: i64, seconds: f64, before: Option<&ShardFigures>, now: &ShardFigures) -> Sample {
    let per_second =
        |count: fn(&ShardFigures) -> u64| before.map_or(f32::NAN, |before| rate(count(now), count(before), seconds));
    let more =
        |counts: fn(&ShardFigures) -> &LatencyCounts| before.and_then(|before| counts(now).since(counts(before)));
    let (ack, delivery) = (more(|shard| &shard.publish_ack), more(|shard| &shard.delivery));
    Sample {
        time_ms,
        sessions: float(now.sessions),
        subscriptions: float(now.subscriptions),
        homes: float(now.homes),
        queued_bytes: rate(now.queued_bytes, 0, 1.0),
        deliveries_per_s: per_second(|shard| shard.deliveries),
        publishes_per_s: per_second(|shard| shard.publishes),
        messages_per_s: per_second(|shard| shard.accepted),
        written_bytes_per_s: per_second(|shard| shard.written_bytes),
        opened_per_s: per_second(|shard| shard.opened),
        closed_per_s: per_second(|shard| shard.closed),
        refused_per_s: per_second(|shard| shard.refused),
        skipped_per_s: per_second(|shard| shard.skipped),
        cpu: per_second(|shard| shard.cpu_us) / 1e6,
        turn_us: per_second(|shard| shard.cpu_us) / per_second(|shard| shard.turns),
        ring: float(now.ring_items) / float(now.ring_slots),
        append_p50_ms: f32::NAN,
        append_p99_ms: f32::NAN,
        ack_p50_ms: quantile(ack.as_ref(), 0.5),
        ack_p99_ms: quantile(ack.as_ref(), 0.99),
        delivery_p50_ms: quantile(delivery.as_ref(), 0.5),
        delivery_p99_ms: quantile(delivery.as_ref(), 0.99),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a plot shows seven digits at most")]
fn quantile(counts: Option<&LatencyCounts>, q: f64) -> f32 {
    counts.and_then(|counts| counts.quantile_ms(q)).map_or(f32::NAN, |ms| ms as f32)
}

/// Sums, but for the fullest ring.
fn add(sum: &mut ShardFigures, shard: &ShardFigures) {
    sum.sessions += shard.sessions;
    sum.subscriptions += shard.subscriptions;
    sum.homes += shard.homes;
    sum.queued_bytes += shard.queued_bytes;
    sum.cpu_us += shard.cpu_us;
    sum.turns += shard.turns;
    sum.deliveries += shard.deliveries;
    sum.publishes += shard.publishes;
    sum.accepted += shard.accepted;
    sum.written_bytes += shard.written_bytes;
    sum.opened += shard.opened;
    sum.closed += shard.closed;
    sum.refused += shard.refused;
    sum.skipped += shard.skipped;
    sum.publish_ack.add(&shard.publish_ack);
    sum.delivery.add(&shard.delivery);
    sum.ring_items = sum.ring_items.max(shard.ring_items);
    sum.ring_slots = sum.ring_slots.max(shard.ring_slots);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a plot shows seven digits at most")]
fn rate(now: u64, before: u64, per: f64) -> f32 {
    // A counter that went back has begun anew.
    now.checked_sub(before).map_or(f32::NAN, |more| (more as f64 / per) as f32)
}

#[expect(clippy::cast_precision_loss, reason = "a plot shows seven digits at most")]
fn float(number: u32) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(answers: bool, deliveries: u64, cpu_us: u64, turns: u64) -> ShardFigures {
        let sessions = if answers { 5 } else { 0 };
        ShardFigures {
            answers,
            deliveries,
            cpu_us,
            turns,
            sessions,
            ring_items: 3,
            ring_slots: 12,
            ..ShardFigures::default()
        }
    }

    fn node(started_ms: i64, cpu_ms: u64, shards: Vec<ShardFigures>) -> NodeFigures {
        NodeFigures { started_ms, cpu_ms, shards, ..NodeFigures::default() }
    }

    #[test]
    fn counts_become_rates() {
        let before = node(1, 1000, vec![shard(true, 100, 10_000, 50), shard(true, 0, 0, 0)]);
        let now = node(1, 3000, vec![shard(true, 300, 1_010_000, 150), shard(true, 20, 40, 20)]);
        let (whole, shards) = sample(7, Some((Duration::from_secs(2), &before)), &now);
        assert_eq!((whole.time_ms, whole.sessions, whole.deliveries_per_s, whole.cpu), (7, 10.0, 110.0, 1.0));
        assert_eq!(whole.ring, 0.25);
        assert_eq!((shards[0].deliveries_per_s, shards[0].cpu, shards[0].turn_us), (100.0, 0.5, 10_000.0));
        assert_eq!((shards[1].deliveries_per_s, shards[1].turn_us), (10.0, 2.0));
    }

    #[test]
    fn without_a_before_there_are_no_rates() {
        let now = node(1, 3000, vec![shard(true, 300, 10, 10)]);
        let check = |before: Option<(u64, NodeFigures)>| {
            let before = before.as_ref().map(|(seconds, figures)| (Duration::from_secs(*seconds), figures));
            let (whole, shards) = sample(0, before, &now);
            assert_eq!((whole.sessions, shards[0].sessions), (5.0, 5.0));
            assert!(whole.deliveries_per_s.is_nan() && whole.cpu.is_nan() && shards[0].turn_us.is_nan());
        };
        check(None);
        check(Some((0, now.clone())));
        // The node began anew.
        check(Some((1, node(2, 0, vec![shard(true, 0, 0, 0)]))));
    }

    #[test]
    fn a_silent_shard_spoils_no_sum() {
        let at = |first: ShardFigures, second: ShardFigures| node(1, 0, vec![first, second]);
        let both = at(shard(true, 100, 0, 0), shard(true, 1000, 0, 0));
        let one = at(shard(true, 110, 0, 0), shard(false, 0, 0, 0));
        let second = Duration::from_secs(1);
        let (whole, shards) = sample(0, Some((second, &both)), &one);
        assert_eq!((whole.deliveries_per_s, whole.sessions), (10.0, 5.0));
        assert!(shards[1].sessions.is_nan());
        let (whole, shards) = sample(0, Some((second, &one)), &both);
        // What it counted while it was silent belongs to no second.
        assert!(whole.deliveries_per_s.is_nan() && shards[1].deliveries_per_s.is_nan(), "110 went back to 100");
        let later = at(shard(true, 130, 0, 0), shard(true, 2000, 0, 0));
        let (whole, shards) = sample(0, Some((second, &one)), &later);
        assert_eq!((whole.deliveries_per_s, whole.sessions), (20.0, 10.0));
        assert!(shards[1].deliveries_per_s.is_nan());
    }

    #[test]
    fn latencies_are_those_of_the_step() {
        let at = |counts: &[(u64, u64)]| {
            let mut shard = shard(true, 0, 0, 0);
            for &(ms, times) in counts {
                shard.publish_ack.record(Duration::from_millis(ms), times);
            }
            shard
        };
        let before = node(1, 0, vec![at(&[(1000, 50)]), at(&[])]);
        let now = node(1, 0, vec![at(&[(1000, 50), (2, 90)]), at(&[(50, 10)])]);
        let (whole, shards) = sample(0, Some((Duration::from_secs(1), &before)), &now);
        let check = |found: f32, least: f32, most: f32| assert!((least..most).contains(&found), "{found}");
        // What was slow before the step is not in it.
        check(shards[0].ack_p99_ms, 1.0, 2.1);
        check(whole.ack_p50_ms, 1.0, 2.1);
        check(whole.ack_p99_ms, 49.0, 66.0);
        assert!(whole.delivery_p50_ms.is_nan(), "nothing was delivered");
    }

    #[test]
    fn numbers_are_shown_with_three_decimals() {
        let check = |number: f32, expect: Option<f32>| assert_eq!(shown(number), expect);
        check(1.234_56, Some(1.235));
        check(123_456.7, Some(123_456.7));
        check(f32::NAN, None);
        check(f32::INFINITY, None);
        let mut sample = Sample::empty(3);
        sample.sessions = 2.0;
        let view = SeriesView::new([sample].iter());
        assert_eq!((view.time_ms, view.sessions, view.cpu), (vec![3], vec![Some(2.0)], vec![None]));
    }
}
