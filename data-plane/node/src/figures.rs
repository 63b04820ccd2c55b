//! A node's numbers as the control plane asks for them, for operators who look.

use millrace_core::{SLOTS, Stats};
use millrace_protocol::node::{NodeFigures, ShardFigures};

use crate::report::{NodeReport, ShardReport, ShellStats};

/// The report in the link's words. `started_ms` is Unix time.
pub(crate) fn figures(report: &NodeReport, started_ms: i64) -> NodeFigures {
    let shards = report.shards.len();
    // They have no descriptors, and so no part of what descriptors bound.
    let over_quic: u64 = report.shards.iter().flatten().map(|shard| shard.shell.quic_connections).sum();
    NodeFigures {
        version: env!("CARGO_PKG_VERSION").into(),
        started_ms,
        draining: report.draining,
        connections: small(report.connections + over_quic),
        connections_max: small(report.connections_max),
        // Whole ms: what is lost is below the resolution of the system's own count.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a process's CPU time, never negative"
        )]
        cpu_ms: (report.usage.cpu_seconds * 1000.0) as u64,
        resident_bytes: report.usage.resident_bytes,
        shards: report
            .shards
            .iter()
            .enumerate()
            .map(|(index, shard)| of_shard(index, shards, shard.as_ref()))
            .collect(),
    }
}

fn of_shard(index: usize, shards: usize, report: Option<&ShardReport>) -> ShardFigures {
    let slots = slots_of(index, shards);
    let Some(ShardReport { core, shell, cpu_us, ring_items, ring_slots, .. }) = report else {
        return ShardFigures { slots, ..ShardFigures::default() };
    };
    let Stats { sessions, subscriptions, channels, homes, queued_bytes, .. } = *core;
    let ShellStats { turns_total, written_bytes_total, ring_full_total, .. } = *shell;
    ShardFigures {
        answers: true,
        slots,
        sessions: small(sessions),
        subscriptions: small(subscriptions),
        channels: small(channels),
        homes: small(homes),
        queued_bytes,
        ring_items: small(*ring_items as u64),
        ring_slots: small(*ring_slots as u64),
        cpu_us: *cpu_us,
        turns: turns_total,
        deliveries: core.deliveries_total,
        publishes: core.publishes_total,
        accepted: core.messages_accepted_total,
        written_bytes: written_bytes_total,
        opened: core.sessions_opened_total,
        closed: core.sessions_closed_total,
        refused: core.refused_total,
        slow_consumers: core.slow_consumers_total,
        skipped: core.skipped_total,
        resumes: core.resumes_total,
        reloads: core.resumes_refused_total,
        ring_full: ring_full_total,
        publish_ack: core.publish_ack,
        delivery: core.delivery,
    }
}

/// How many slots are a shard's, in a node that holds all.
fn slots_of(index: usize, shards: usize) -> u16 {
    let slots = usize::try_from(SLOTS).unwrap_or(0);
    u16::try_from((0..slots).filter(|slot| slot % shards == index).count()).unwrap_or(u16::MAX)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Usage;

    #[test]
    fn a_shard_that_does_not_answer_still_has_its_slots() {
        let shell = ShellStats { turns_total: 5, ..ShellStats::default() };
        let shard = ShardReport {
            driver: "epoll",
            processor: None,
            cpu_us: 7,
            ring_items: 3,
            ring_slots: 16,
            core: Stats::default(),
            shell,
        };
        let report = NodeReport {
            node: "n1".into(),
            term: Some(1),
            synced: true,
            draining: true,
            connections: 3,
            certificate: None,
            connections_max: u64::from(u32::MAX) + 1,
            shards: vec![Some(shard), None, None],
            usage: Usage { cpu_seconds: 1.25, resident_bytes: 4096, descriptors: 9, udp_drops: 4 },
        };
        let told = figures(&report, 9);
        assert_eq!((told.started_ms, told.draining, told.cpu_ms), (9, true, 1250));
        assert_eq!((told.connections, told.connections_max), (3, u32::MAX));
        let seen = told.shards.iter().map(|shard| (shard.answers, shard.slots, shard.turns)).collect::<Vec<_>>();
        assert_eq!(seen, [(true, 342, 5), (false, 341, 0), (false, 341, 0)]);
        assert_eq!(told.shards.iter().map(|shard| u64::from(shard.slots)).sum::<u64>(), SLOTS);
        assert_eq!((told.shards[0].cpu_us, told.shards[0].ring_items, told.shards[0].ring_slots), (7, 3, 16));
    }
}
