//! What the API counts.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of the API. Labels are closed: routes, methods and classes of status.
pub(crate) struct Metrics {
    answers: IntCounterVec,
    seconds: HistogramVec,
    rate_limited: IntCounter,
    connections: IntGauge,
    requests: IntGauge,
}

/// A request under way; counted until it is dropped.
pub(crate) struct UnderWay(IntGauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let answers = IntCounterVec::new(
            Opts::new("millrace_rest_answers_total", "Requests answered, by route, method and class of status"),
            &["route", "method", "status"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("millrace_rest_answer_seconds", "Time from the headers of a request to its answer")
                .buckets(vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            &["route", "method"],
        )?;
        let rate_limited =
            IntCounter::new("millrace_rest_rate_limited_total", "Requests refused because their caller made too many")?;
        let connections = IntGauge::new("millrace_rest_connections", "Connections that are open")?;
        let requests = IntGauge::new("millrace_rest_requests", "Requests that are under way")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(answers.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(rate_limited.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self { answers, seconds, rate_limited, connections, requests })
    }

    /// A request was answered; `route` is its template, empty for none.
    pub(crate) fn answered(&self, route: &str, method: &Method, status: StatusCode, elapsed: Duration) {
        let route = if route.is_empty() { "none" } else { route };
        let class = match status.as_u16() {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        // Strangers invent methods; labels are for those that exist.
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
            _ => "other",
        };
        self.answers.with_label_values(&[route, method, class]).inc();
        self.seconds.with_label_values(&[route, method]).observe(elapsed.as_secs_f64());
    }

    /// A request begins.
    pub(crate) fn begin(&self) -> UnderWay {
        self.requests.inc();
        UnderWay(self.requests.clone())
    }

    pub(crate) fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// So many connections more.
    pub(crate) fn connected(&self, change: i64) {
        self.connections.add(change);
    }
}
