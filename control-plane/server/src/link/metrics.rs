//! What the link counts.

use millrace_protocol::Code;
use millrace_protocol::node::{AppendOutcome, NodeBody};
use prometheus::{
    Histogram, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use super::LinkEnd;

/// What a data node asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestKind {
    Authorize,
    OpenHomes,
    Append,
    ReadHistory,
    CloseHomes,
    MarkReads,
}

impl RequestKind {
    const ALL: [Self; 6] =
        [Self::Authorize, Self::OpenHomes, Self::Append, Self::ReadHistory, Self::CloseHomes, Self::MarkReads];

    const fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::OpenHomes => "open_homes",
            Self::Append => "append",
            Self::ReadHistory => "read_history",
            Self::CloseHomes => "close_homes",
            Self::MarkReads => "mark_reads",
        }
    }
}

pub(super) struct LinkMetrics {
    pub(super) up: IntGauge,
    pub(super) queue_bytes: IntGauge,
    pub(super) outdated: IntCounter,
    pub(super) append_conflicts: IntCounter,
    pub(super) lookups_repeated: IntCounter,
    ends: [IntCounter; LinkEnd::ALL.len()],
    requests: [Histogram; RequestKind::ALL.len()],
    changes: IntCounterVec,
    messages: [IntCounter; 3],
    refused: IntCounterVec,
}

impl LinkMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let ends = counters("millrace_control_link_ends_total", "Links that ended, by reason", "reason")?;
        let messages = counters(
            "millrace_control_append_messages_total",
            "Messages that homes appended, by what became of them",
            "outcome",
        )?;
        let seconds = HistogramOpts::new(
            "millrace_control_link_request_seconds",
            "From a data node's request to its answer being ready, by kind",
        )
        .buckets(prometheus::exponential_buckets(0.000_1, 2.0, 16)?);
        let seconds = HistogramVec::new(seconds, &["kind"])?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            up: gauge("millrace_control_link_up", "Whether a data node is linked")?,
            queue_bytes: gauge("millrace_control_link_queue_bytes", "Bytes that wait to be written to the data node")?,
            outdated: counter(
                "millrace_control_homes_outdated_total",
                "Requests of homes whose view of their channel was outdated",
            )?,
            append_conflicts: counter(
                "millrace_control_append_conflicts_total",
                "Appends that were run again because another transaction came first",
            )?,
            lookups_repeated: counter(
                "millrace_control_link_lookups_repeated_total",
                "Grants that were looked up again because a change overlapped",
            )?,
            ends: LinkEnd::ALL.map(|end| ends.with_label_values(&[end.name()])),
            requests: RequestKind::ALL.map(|kind| seconds.with_label_values(&[kind.name()])),
            changes: counters("millrace_control_link_changes_total", "Changes told to the data node, by kind", "kind")?,
            messages: ["stored", "duplicate", "out_of_order"].map(|outcome| messages.with_label_values(&[outcome])),
            refused: counters(
                "millrace_control_appends_refused_total",
                "Appends to a channel that were refused or whose outcome is unknown, by code",
                "code",
            )?,
        })
    }

    pub(super) fn ended(&self, end: LinkEnd) {
        self.ends[LinkEnd::ALL.iter().position(|other| *other == end).unwrap_or(0)].inc();
    }

    pub(super) fn request(&self, kind: RequestKind) -> HistogramTimer {
        self.requests[kind as usize].start_timer()
    }

    pub(super) fn change(&self, change: &NodeBody) {
        let kind = match change {
            NodeBody::Keys(_) => "keys",
            NodeBody::MemberChanged(_) => "member",
            NodeBody::ChannelChanged { .. } => "channel",
            NodeBody::TokensRevoked(_) => "revocation",
            NodeBody::ReadsMoved(_) => "reads",
            _ => "other",
        };
        self.changes.with_label_values(&[kind]).inc();
    }

    pub(super) fn appended(&self, outcomes: &[AppendOutcome]) {
        let mut counts = [0; 3];
        for outcome in outcomes {
            counts[match outcome {
                AppendOutcome::Stored(_) => 0,
                AppendOutcome::Duplicate(_) => 1,
                AppendOutcome::OutOfOrder { .. } => 2,
            }] += 1;
        }
        for (counter, count) in self.messages.iter().zip(counts) {
            counter.inc_by(count);
        }
    }

    pub(super) fn append_refused(&self, code: Code) {
        self.refused.with_label_values(&[code.to_string()]).inc();
    }
}
