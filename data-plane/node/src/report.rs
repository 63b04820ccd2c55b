//! What a node tells about itself: each shard's numbers, taken between two turns, and how they are shown.

use std::fmt::Write as _;

use millrace_protocol::node::LatencyCounts;
use prometheus::{Encoder, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use serde_json::json;

use crate::machine::Usage;
use crate::tls::{CertificateStatus, Tls};

/// Defines counters and gauges of a shard's shell, with their help texts. What ends in `_total` only ever rises.
macro_rules! shell_stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a shard's shell counts, beside what its core counts.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub(crate) struct ShellStats {
            $($(#[doc = $doc])+ pub(crate) $name: u64,)+
        }

        impl ShellStats {
            fn rows(&self) -> Vec<Row> {
                vec![$(Row { name: stringify!($name), help: concat!($($doc),+), value: self.$name },)+]
            }
        }
    };
}

shell_stats! {
    /// Turns taken.
    turns_total,
    /// Connections accepted.
    connections_accepted_total,
    /// Connections answered with 503 because the node had as many as it may have.
    connections_refused_full_total,
    /// Connections ended because the shard had as many sessions as it may have.
    connections_refused_busy_total,
    /// Times accepting paused because no descriptor or memory was left.
    accept_pauses_total,
    /// Connections refused because too many had not signed in, of their address or of all.
    strangers_refused_total,
    /// Connections ended for newcomers' sake because they had not signed in for long.
    strangers_ended_total,
    /// Requests upgraded to WebSocket.
    upgrades_total,
    /// Requests refused before they became a WebSocket.
    http_refused_total,
    /// WebSocket connections ended because the peer broke the framing or a size limit.
    ws_errors_total,
    /// WebSocket connections ended because of a text message.
    text_messages_total,
    /// WebSocket connections ended because there was no room for more unfinished input.
    input_room_ends_total,
    /// WebSocket pings answered.
    ws_pings_total,
    /// WebSocket pings not answered because the peer read none of the answers.
    ws_pings_dropped_total,
    /// Bytes read from clients.
    read_bytes_total,
    /// Writes to clients: one system call each, or one for a batch of them.
    writes_total,
    /// Bytes written to clients.
    written_bytes_total,
    /// Writes that did not take everything.
    short_writes_total,
    /// Batches of writes to different clients.
    write_batches_total,
    /// Connections reset because the peer had not closed when its linger time was over.
    resets_total,
    /// Connections that agreed to compression.
    compression_agreed_total,
    /// Frames that were compressed: once, whoever receives them.
    compressed_frames_total,
    /// Bytes of frames that compressing was tried on.
    compress_plain_bytes_total,
    /// Bytes that became of them.
    compress_bytes_total,
    /// Time spent compressing, in microseconds.
    compress_us_total,
    /// Bytes made of compressed messages from clients.
    inflated_bytes_total,
    /// Times another shard's ring was full.
    ring_full_total,
    /// TLS handshakes that came to their end.
    tls_handshakes_total,
    /// Those of them that resumed a session by a ticket.
    tls_resumed_total,
    /// Connections that ended before their TLS handshake did, for no reason that was told.
    tls_handshakes_abandoned_total,
    /// Connections to the listener over TLS that spoke HTTP in clear.
    tls_failures_clear_http_total,
    /// Connections to the listener over TLS whose first bytes were no TLS.
    tls_failures_not_tls_total,
    /// TLS handshakes that failed because nothing was in common: version, cipher or protocol.
    tls_failures_incompatible_total,
    /// TLS handshakes that failed because the client showed no certificate that is taken here.
    tls_failures_certificate_total,
    /// TLS connections that the client ended with an alert: most likely it does not trust the certificate.
    tls_failures_alert_total,
    /// TLS connections that ended because what came was malformed, or changed on its way.
    tls_failures_malformed_total,
    /// TLS connections that ended because more came than any handshake or record takes.
    tls_failures_oversize_total,
    /// Connections over TLS now, in whatever state.
    tls_connections,
    /// Connections that have not signed in.
    strangers,
    /// Connections that were told why they end and have not gone yet.
    parting,
    /// Bytes of unfinished requests and frames from clients.
    unfinished_bytes,
    /// Frames for the control plane that wait for room in the ring.
    control_backlog,
    /// QUIC connections now, those included that are being opened or closed.
    quic_connections,
    /// QUIC handshakes under way, and connections of failed ones that are not gone yet.
    quic_half_open,
    /// Datagrams of QUIC handshakes that wait for their part of a turn.
    quic_waiting,
    /// Datagrams of QUIC handshakes lost because too many waited, of their network or of all.
    quic_waiting_full_total,
    /// QUIC handshakes completed.
    quic_handshakes_total,
    /// QUIC handshakes that came to nothing.
    quic_handshakes_failed_total,
    /// Clients that were asked to show their address before a QUIC handshake.
    quic_retries_total,
    /// QUIC clients refused because the shard had as many connections as it may have, or stops.
    quic_refused_total,
    /// First packets left without an answer because of too many handshakes under way.
    quic_ignored_total,
    /// Datagrams that belonged to no connection of this node.
    quic_strays_total,
    /// Datagrams passed on to the shard that they belonged to.
    quic_forwarded_total,
    /// Datagrams lost because the ring to their shard was full.
    quic_forward_full_total,
    /// Stateless resets sent.
    quic_resets_total,
    /// Answers to strangers that found no room to wait for the socket.
    quic_responses_dropped_total,
    /// Times a QUIC client came from another address and was followed.
    quic_migrations_total,
    /// QUIC connections lost without a sign of life.
    quic_timed_out_total,
    /// Times that a QUIC connection lost datagrams on their way to its client.
    quic_losses_total,
    /// Those of them before which the connection's window had held something back.
    quic_losses_at_window_total,
    /// Those of them that lasted, so that the connection began anew.
    quic_collapses_total,
    /// Bytes of datagrams lost on their way to clients.
    quic_lost_bytes_total,
    /// QUIC connections ended because the peer broke the rules of frames on streams.
    quic_faults_total,
    /// Sessions over WebTransport now, and HTTP/3 connections on which one may be opened.
    webtransport_connections,
    /// WebTransport sessions opened.
    webtransport_sessions_total,
    /// Requests over HTTP/3 that were answered with a refusal.
    webtransport_refused_total,
    /// HTTP/3 connections ended because the client broke its rules.
    webtransport_faults_total,
    /// QUIC datagrams of clients that held nothing that may come in one.
    quic_datagrams_ignored_total,
    /// Datagrams received.
    udp_received_total,
    /// Bytes of datagrams received.
    udp_received_bytes_total,
    /// Datagrams sent.
    udp_sent_total,
    /// Bytes of datagrams sent.
    udp_sent_bytes_total,
    /// Sends of datagrams, one system call each.
    udp_sends_total,
    /// Datagrams that could not be sent.
    udp_send_errors_total,
}

/// One shard's numbers.
#[derive(Debug, Clone)]
pub(crate) struct ShardReport {
    /// `io_uring` or `epoll`: what the shard waits with.
    pub(crate) driver: &'static str,
    /// The processor it is pinned to.
    pub(crate) processor: Option<usize>,
    /// User and system time of its thread, µs.
    pub(crate) cpu_us: u64,
    /// Items in the fullest ring that leads to it.
    pub(crate) ring_items: usize,
    /// Places in a ring.
    pub(crate) ring_slots: usize,
    pub(crate) core: millrace_core::Stats,
    pub(crate) shell: ShellStats,
}

/// What there is to tell of the node's certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CertificateReport {
    pub(crate) status: CertificateStatus,
    pub(crate) reloads: u64,
    pub(crate) reload_failures: u64,
}

impl CertificateReport {
    pub(crate) fn of(tls: &Tls) -> Self {
        let (reloads, reload_failures) = tls.reloads();
        Self { status: tls.status(), reloads, reload_failures }
    }
}

/// A node's state and numbers, at one time.
#[derive(Debug, Clone)]
pub(crate) struct NodeReport {
    pub(crate) node: String,
    /// The control link's term, if it is up.
    pub(crate) term: Option<u64>,
    /// The control plane has told all keys to verify tokens with since the link came up.
    pub(crate) synced: bool,
    pub(crate) draining: bool,
    pub(crate) connections: u64,
    pub(crate) connections_max: u64,
    /// `None` if the node has none.
    pub(crate) certificate: Option<CertificateReport>,
    /// By index; `None` for a shard that did not answer in time.
    pub(crate) shards: Vec<Option<ShardReport>>,
    pub(crate) usage: Usage,
}

struct Row {
    name: &'static str,
    help: &'static str,
    value: u64,
}

/// The core's numbers. Their documentation is the help text's longer form.
fn core_rows(stats: &millrace_core::Stats) -> Vec<Row> {
    macro_rules! rows {
        ($($name:ident: $help:literal,)+) => {
            vec![$(Row { name: stringify!($name), help: $help, value: stats.$name },)+]
        };
    }
    rows! {
        sessions_opened_total: "Sessions accepted.",
        sessions_closed_total: "Sessions ended, for whatever reason.",
        slow_consumers_total: "Sessions ended because they read too slowly.",
        heartbeat_timeouts_total: "Sessions ended because nothing was heard of them.",
        handshake_timeouts_total: "Connections without a hello in time.",
        token_ends_total: "Sessions ended because their token expired or was revoked.",
        frames_in_total: "Frames from clients.",
        bad_frames_total: "Frames from clients that could not be decoded.",
        publishes_total: "Publishes from sessions that reached a home's shard.",
        messages_accepted_total: "Messages accepted by homes of this shard.",
        duplicates_total: "Publishes that had been accepted before.",
        refused_total: "Requests refused, for whatever reason.",
        rate_limited_total: "Requests refused because the session asked too often.",
        busy_total: "Requests refused because a bound of this shard was reached.",
        deliveries_total: "Messages put into the queues of sessions.",
        outbound_bytes_total: "Bytes put into the queues of sessions.",
        outbound_saved_bytes_total: "Bytes that compression kept out of the queues of sessions.",
        compress_passed_over_total: "Frames not compressed because the turn had no time left for them.",
        skipped_total: "Messages dropped for a slow session under the policy skip.",
        ephemeral_dropped_total: "Messages without history dropped because a shard was too busy.",
        fallbacks_total: "Live subscriptions put back to replaying because their queue was full in a burst.",
        lagged_total: "Times a shard's interest in a channel was dropped because its ring was full.",
        resumes_total: "Subscriptions that asked to resume.",
        resumes_refused_total: "Resumes refused: the client reloads.",
        replay_bytes_total: "Bytes sent again to subscriptions that resume.",
        pages_from_window_total: "Pages of history answered from memory.",
        pages_from_store_total: "Pages of history read from the store.",
        appends_total: "Appends sent to the control plane.",
        appends_failed_total: "Appends whose outcome was not known, or refused.",
        homes_opened_total: "Homes opened.",
        homes_fenced_total: "Homes that another node took.",
        grants_cached_total: "Grants found in memory.",
        grants_asked_total: "Grants asked of the control plane.",
        marks_total: "Marks of read positions from clients that move them.",
        marks_sent_total: "Marks of read positions sent to the control plane.",
        hops_out_total: "Hops to other shards.",
        hellos_resume_total: "Hellos taken of clients that come back with a position.",
        hellos_login_total: "Hellos taken of clients that bring none.",
        hellos_resume_busy_total: "Hellos with a position that were told to come later.",
        hellos_login_busy_total: "Hellos without one that were told to come later.",
        hellos_put_off_total: "Hellos without one that had to wait while a crowd came back.",
        put_off: "Hellos that wait for that now.",
        beginning: "Sessions whose hello is not answered in full yet.",
        sessions: "Connections now, in whatever state.",
        subscriptions: "Subscriptions now, in whatever state.",
        homes: "Homes in memory now.",
        channels: "Channels that sessions of this shard use now.",
        queued_bytes: "Bytes in the queues of all sessions now.",
        grants: "Grants in memory now.",
    }
}

/// Adds a histogram of each shard, in the text format of Prometheus. Bounds are whole doublings: half of those that are counted with, and as good
/// for whoever looks at hours.
fn histogram<'a>(text: &mut String, name: &str, help: &str, shards: impl Iterator<Item = (usize, &'a LatencyCounts)>) {
    // Writing into a string cannot fail.
    let _ = write!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} histogram\n");
    for (shard, counts) in shards {
        let mut count = 0;
        for (index, (bound_us, more)) in counts.buckets().enumerate() {
            count += more;
            if let Some(bound_us) = bound_us.filter(|_| index.is_multiple_of(2)) {
                let bound = seconds(bound_us);
                let _ = writeln!(text, "{PREFIX}{name}_bucket{{shard=\"{shard}\",le=\"{bound}\"}} {count}");
            }
        }
        let _ = writeln!(text, "{PREFIX}{name}_bucket{{shard=\"{shard}\",le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{PREFIX}{name}_sum{{shard=\"{shard}\"}} {}", seconds(counts.sum_us()));
        let _ = writeln!(text, "{PREFIX}{name}_count{{shard=\"{shard}\"}} {count}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below three centuries")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Every metric's name begins with this.
const PREFIX: &str = "millrace_data_";

impl NodeReport {
    /// All numbers in the text format of Prometheus, each with its shard: whoever scrapes adds them up.
    ///
    /// # Errors
    /// From the encoder; only a bug brings one.
    pub(crate) fn metrics(&self) -> Result<String, prometheus::Error> {
        let registry = Registry::new();
        for (index, shard) in self.shards.iter().enumerate() {
            let label = index.to_string();
            let Some(shard) = shard else { continue };
            for row in core_rows(&shard.core).into_iter().chain(shard.shell.rows()) {
                row.register(&registry, &label)?;
            }
        }
        let answering = self.shards.iter().flatten().count() as u64;
        for (name, help, value) in [
            ("link_up", "1 while the control link is up.", u64::from(self.term.is_some())),
            ("link_term", "Term of the control link, 0 while it is down.", self.term.unwrap_or_default()),
            ("draining", "1 from the moment the node was told to stop.", u64::from(self.draining)),
            ("shards", "Shards of this node.", self.shards.len() as u64),
            ("shards_answering", "Shards that answered this scrape in time.", answering),
            ("connections", "Client connections now.", self.connections),
            ("connections_max", "Client connections above which a new one is refused.", self.connections_max),
        ] {
            whole_process(&registry, &format!("{PREFIX}{name}"), help, value as f64)?;
        }
        if let Some(certificate) = self.certificate {
            for (name, help, value) in [
                (
                    "certificate_not_after_seconds",
                    "Unix time after which clients refuse the certificate that is in force.",
                    certificate.status.not_after as f64,
                ),
                (
                    "certificate_reloads_total",
                    "Times the certificate's files were read again and put in force.",
                    certificate.reloads as f64,
                ),
                (
                    "certificate_reload_failures_total",
                    "Times the certificate's files were read again and could not be used.",
                    certificate.reload_failures as f64,
                ),
            ] {
                whole_process(&registry, &format!("{PREFIX}{name}"), help, value)?;
            }
        }
        let usage = self.usage;
        for (name, help, value) in [
            ("process_cpu_seconds_total", "User and system time of the process.", usage.cpu_seconds),
            ("process_resident_memory_bytes", "Resident memory of the process.", usage.resident_bytes as f64),
            (
                "millrace_data_udp_drops_total",
                "Datagrams that the system dropped for lack of room in the sockets for QUIC.",
                usage.udp_drops as f64,
            ),
            ("process_open_fds", "Open descriptors of the process.", usage.descriptors as f64),
        ] {
            whole_process(&registry, name, help, value)?;
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        let mut text = String::from_utf8_lossy(&text).into_owned();
        let shards = || (0..).zip(&self.shards).filter_map(|(index, shard)| Some((index, &shard.as_ref()?.core)));
        histogram(
            &mut text,
            "publish_ack_seconds",
            "From a session's publish to its acknowledgement in the session's queue, of those that were accepted.",
            shards().map(|(index, core)| (index, &core.publish_ack)),
        );
        histogram(
            &mut text,
            "delivery_seconds",
            "From a publish to the message in the queues of live sessions, once for each of them.",
            shards().map(|(index, core)| (index, &core.delivery)),
        );
        Ok(text)
    }

    /// Why the process should be restarted, or `None`.
    pub(crate) fn unhealthy(&self) -> Option<String> {
        let stuck = self.shards.iter().position(Option::is_none)?;
        Some(format!("shard {stuck} does not answer"))
    }

    /// Why the node should get no new clients now, or `None`.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.draining {
            return Some("the node is stopping".into());
        }
        if self.term.is_none() {
            return Some("the control link is down".into());
        }
        if !self.synced {
            return Some("the control plane has not told all keys yet".into());
        }
        self.unhealthy()
    }

    /// What this node is and does, as JSON.
    pub(crate) fn json(&self) -> String {
        let shards = self.shards.iter().enumerate().map(|(index, shard)| match shard {
            None => json!({ "shard": index, "answers": false }),
            Some(shard) => json!({
                "shard": index,
                "answers": true,
                "driver": shard.driver,
                "processor": shard.processor,
                "sessions": shard.core.sessions,
                "subscriptions": shard.core.subscriptions,
                "channels": shard.core.channels,
                "homes": shard.core.homes,
                "queued_bytes": shard.core.queued_bytes,
            }),
        });
        let node = json!({
            "node": self.node,
            "version": env!("CARGO_PKG_VERSION"),
            "state": if self.draining { "draining" } else { "running" },
            "link": { "up": self.term.is_some(), "term": self.term },
            "connections": self.connections,
            "connections_max": self.connections_max,
            "resident_bytes": self.usage.resident_bytes,
            "certificate": self.certificate.map(|CertificateReport { status, .. }| {
                let sha256: String = status.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({ "not_after_seconds": status.not_after, "sha256": sha256 })
            }),
            "shards": shards.collect::<Vec<_>>(),
        });
        format!("{node:#}\n")
    }
}

impl Row {
    fn register(&self, registry: &Registry, shard: &str) -> Result<(), prometheus::Error> {
        // One family serves all shards: the registry merges families that agree in name, help and kind.
        let options = Opts::new(format!("{PREFIX}{}", self.name), self.help).const_label("shard", shard);
        if self.name.ends_with("_total") {
            let counter = IntCounterVec::new(options, &[])?;
            counter.with_label_values::<&str>(&[]).inc_by(self.value);
            registry.register(Box::new(counter))
        } else {
            let gauge = IntGaugeVec::new(options, &[])?;
            gauge.with_label_values::<&str>(&[]).set(i64::try_from(self.value).unwrap_or(i64::MAX));
            registry.register(Box::new(gauge))
        }
    }
}

fn whole_process(registry: &Registry, name: &str, help: &str, value: f64) -> Result<(), prometheus::Error> {
    if name.ends_with("_total") {
        let counter = prometheus::CounterVec::new(Opts::new(name, help), &[])?;
        counter.with_label_values::<&str>(&[]).inc_by(value);
        return registry.register(Box::new(counter));
    }
    let gauge = GaugeVec::new(Opts::new(name, help), &[])?;
    gauge.with_label_values::<&str>(&[]).set(value);
    registry.register(Box::new(gauge))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shard(turns: u64) -> ShardReport {
        let shell = ShellStats { turns_total: turns, parting: 2, ..ShellStats::default() };
        let core = millrace_core::Stats::default();
        ShardReport { driver: "epoll", processor: Some(0), cpu_us: 1, ring_items: 0, ring_slots: 16, core, shell }
    }

    fn report() -> NodeReport {
        NodeReport {
            node: "n1".into(),
            term: Some(7),
            synced: true,
            draining: false,
            connections: 3,
            connections_max: 10,
            certificate: None,
            shards: vec![Some(shard(5)), Some(shard(6))],
            usage: Usage { cpu_seconds: 1.5, resident_bytes: 4096, descriptors: 9, udp_drops: 4 },
        }
    }

    #[test]
    fn metrics_name_the_shard_and_the_kind() {
        let text = report().metrics().expect("encode");
        for line in [
            "# TYPE millrace_data_turns_total counter",
            "millrace_data_turns_total{shard=\"0\"} 5",
            "millrace_data_turns_total{shard=\"1\"} 6",
            "# TYPE millrace_data_parting gauge",
            "millrace_data_parting{shard=\"1\"} 2",
            "millrace_data_sessions{shard=\"0\"} 0",
            "millrace_data_link_term 7",
            "millrace_data_connections_max 10",
            "process_cpu_seconds_total 1.5",
            "millrace_data_udp_drops_total 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("# HELP millrace_data_turns_total").count(), 1);
    }

    #[test]
    fn latencies_are_cumulative_and_of_each_shard() {
        let mut slow = shard(1);
        slow.core.publish_ack.record(Duration::from_micros(20), 2);
        slow.core.publish_ack.record(Duration::from_micros(900), 1);
        slow.core.publish_ack.record(Duration::from_secs(60), 1);
        let text = NodeReport { shards: vec![None, Some(slow)], ..report() }.metrics().expect("encode");
        for line in [
            "# TYPE millrace_data_publish_ack_seconds histogram",
            "millrace_data_publish_ack_seconds_bucket{shard=\"1\",le=\"0.000016\"} 0",
            "millrace_data_publish_ack_seconds_bucket{shard=\"1\",le=\"0.000032\"} 2",
            "millrace_data_publish_ack_seconds_bucket{shard=\"1\",le=\"0.000512\"} 2",
            "millrace_data_publish_ack_seconds_bucket{shard=\"1\",le=\"0.001024\"} 3",
            "millrace_data_publish_ack_seconds_bucket{shard=\"1\",le=\"+Inf\"} 4",
            "millrace_data_publish_ack_seconds_sum{shard=\"1\"} 60.00094",
            "millrace_data_publish_ack_seconds_count{shard=\"1\"} 4",
            "millrace_data_delivery_seconds_count{shard=\"1\"} 0",
        ] {
            assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line}\n{text}");
        }
        assert!(!text.contains("_seconds_count{shard=\"0\"}"), "a shard that does not answer has none");
    }

    #[test]
    fn trouble_is_named() {
        assert_eq!((report().unhealthy(), report().unready()), (None, None));
        let stuck = NodeReport { shards: vec![Some(shard(1)), None], ..report() };
        assert_eq!(stuck.unhealthy().as_deref(), Some("shard 1 does not answer"));
        assert!(stuck.metrics().expect("encode").contains("millrace_data_shards_answering 1"));
        let cut = NodeReport { term: None, ..report() };
        assert_eq!(cut.unhealthy(), None);
        assert_eq!(cut.unready().as_deref(), Some("the control link is down"));
        let early = NodeReport { synced: false, ..report() };
        assert_eq!(early.unready().as_deref(), Some("the control plane has not told all keys yet"));
        let draining = NodeReport { draining: true, ..report() };
        assert_eq!(draining.unready().as_deref(), Some("the node is stopping"));
    }

    #[test]
    fn the_node_is_shown_as_json() {
        let node: serde_json::Value = serde_json::from_str(&report().json()).expect("JSON");
        assert_eq!(node["link"]["term"], 7);
        assert_eq!(node["shards"][1]["driver"], "epoll");
        assert_eq!(node["state"], "running");
    }
}
