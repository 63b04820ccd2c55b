//! What delivering counts. Labels are closed: nothing of a tenant or an endpoint.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// By the status of its answer.
    Status,
    Timeout,
    Resolve,
    /// Requests may not go there.
    Address,
    Connect,
    Tls,
    /// In the middle of request or answer.
    Broken,
}

impl Fault {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Resolve => "resolve",
            Self::Address => "address",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Broken => "broken",
        }
    }
}

pub(super) struct Metrics {
    attempts: IntCounterVec,
    seconds: Histogram,
    delay: Histogram,
    /// Events that were given up.
    pub(super) failed: IntCounter,
    disabled: IntCounterVec,
    pub(super) waiting: IntGauge,
    pub(super) under_way: IntGauge,
    /// Rows that were read to find what can be told.
    pub(super) looked_rows: IntCounter,
    /// Webhooks that are delivered for at this moment.
    pub(super) active: IntGauge,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let failed = IntCounter::new(
            "millrace_webhook_failed_total",
            "Events of webhooks that were given up after their last attempt",
        )?;
        registry.register(Box::new(failed.clone()))?;
        let looked_rows = IntCounter::new(
            "millrace_webhook_looked_rows_total",
            "Rows that were read to find what can be told to webhooks",
        )?;
        registry.register(Box::new(looked_rows.clone()))?;
        Ok(Self {
            looked_rows,
            attempts: counters(
                "millrace_webhook_attempts_total",
                "Requests of webhooks, by what became of them",
                "result",
            )?,
            seconds: histogram(
                "millrace_webhook_attempt_seconds",
                "From the begin of a webhook's request to its answer",
                vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            )?,
            delay: histogram(
                "millrace_webhook_delay_seconds",
                "From an event to its delivery",
                vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 86_400.0],
            )?,
            failed,
            disabled: counters(
                "millrace_webhook_disabled_total",
                "Webhooks that were turned off by themselves, by reason",
                "reason",
            )?,
            waiting: gauge(
                "millrace_webhook_waiting_events",
                "Events that wait for webhooks which are delivered for, messages aside",
            )?,
            under_way: gauge("millrace_webhook_requests", "Requests of webhooks that are under way")?,
            active: gauge("millrace_webhook_active", "Webhooks that are delivered for")?,
        })
    }

    pub(super) fn attempt(&self, fault: Option<Fault>, elapsed: Duration) {
        self.attempts.with_label_values(&[fault.map_or("delivered", Fault::word)]).inc();
        self.seconds.observe(elapsed.as_secs_f64());
    }

    pub(super) fn delivered(&self, event_ms: i64, now_ms: i64) {
        let delay = u64::try_from(now_ms.saturating_sub(event_ms)).unwrap_or_default();
        self.delay.observe(Duration::from_millis(delay).as_secs_f64());
    }

    pub(super) fn disabled(&self, reason: &str) {
        self.disabled.with_label_values(&[reason]).inc();
    }
}
