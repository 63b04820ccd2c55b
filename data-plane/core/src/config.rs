//! Limits and times of a shard.

use std::time::Duration;

use millrace_protocol::client::{PAGE_BODY_BYTES_MAX, PAGE_MESSAGES_MAX, PAYLOAD_BYTES_CAP, SUBSCRIPTIONS_CAP};

/// Limits and times of a shard; the same for every shard of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the node, told to clients. Default `local`.
    pub node: String,
    /// Most connections of this shard. Default 100,000; a connection that only idles costs about 600 bytes here.
    pub sessions_max: u32,
    /// A connection without a hello after this ends. Default 10 s.
    pub handshake_timeout: Duration,
    /// A session is pinged after this long without a frame from the client, and ended after twice as long. Default 25 s.
    pub heartbeat: Duration,
    /// Largest body of a message, in bytes. Default 16 KiB, at most [`PAYLOAD_BYTES_CAP`].
    pub payload_bytes_max: u32,
    /// Most subscriptions of a session. Default 1,000, at most [`SUBSCRIPTIONS_CAP`].
    pub subscriptions_max: u32,
    /// Most sessions whose hello is not answered in full yet. Above half of it only those may begin who come back, with a position;
    /// others are told when to come. Default 2,048.
    pub beginning_max: u32,
    /// Most bytes that wait in a session's queue, counting what it shares with others. Default 256 KiB.
    pub queue_bytes_max: u32,
    /// Most control frames (replies, errors, pings) that wait in a session's queue; at this the session ends. Default 4,096.
    pub control_frames_max: u32,
    /// Most requests of a session that wait for an answer. Default 1,024.
    pub requests_in_flight_max: u32,
    /// Most requests for history of a session that wait their turn. Default 16.
    pub history_requests_max: u32,
    /// Publishes of a session.
    pub publish_rate: Rate,
    /// All other requests of a session, `pong` aside.
    pub request_rate: Rate,
    /// Most messages of a page of replay or history. Default 256.
    pub page_messages_max: u32,
    /// Most bytes of a page of replay or history; one message always fits. Default 64 KiB.
    pub page_bytes_max: u32,
    /// A position further behind than so many messages is refused with `PositionTooOld`. Default 100,000.
    pub replay_messages_max: u64,
    /// Messages and pages of at least so many bytes are compressed for sessions that agreed to it. Default 1 KiB.
    pub compress_from_bytes: u32,
    /// Most bytes that are compressed in a turn; what is over goes out as it is. Default 256 KiB, about 2 ms.
    pub compress_turn_bytes_max: u32,
    /// Grants kept in memory. Default 65,536, about 10 MiB.
    pub grants_max: u32,
    /// A client's mark of how far its user has read leaves for the control plane this long after the first one that waits. Default
    /// 200 ms.
    pub mark_delay: Duration,
    /// Users and channels whose marks may wait. Default 65,536, about 100 bytes each.
    pub marks_max: u32,
    /// Sessions that ended, and as many other things that went wrong, which are remembered for operators. Default 256 of each, about
    /// 150 bytes each.
    pub incidents_max: u32,
    /// Requests to one other shard, or to a shard's own homes, that wait for an answer. Default 8,192.
    pub hop_requests_max: u32,
    /// Live batches that wait for another shard; above it the shard lags. Default 1,024.
    pub hop_deliveries_max: u32,
    /// Limits of each channel's home.
    pub home: HomeConfig,
}

/// Limits and times of a channel's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeConfig {
    /// Homes of this shard. Default 1,000,000.
    pub homes_max: u32,
    /// Most messages that wait for their append, the batch under way aside. Default 4,096.
    pub waiting_messages_max: u32,
    /// Most bytes of them. Default 1 MiB.
    pub waiting_bytes_max: u32,
    /// Most messages of one append. Default 512, at most 4,096.
    pub batch_messages_max: u32,
    /// Most bytes of one append. Default 128 KiB.
    pub batch_bytes_max: u32,
    /// Most messages kept in memory for resumes. Default 512.
    pub window_messages_max: u32,
    /// Most bytes of them. Default 256 KiB.
    pub window_bytes_max: u32,
    /// A windowed channel's home remembers the last sequence of at least so many producers, those that published last, and of at most
    /// twice as many. Default 4,096.
    pub producers_max: u32,
    /// Joins and history requests that wait for the home to open or to read. Default 4,096.
    pub joins_waiting_max: u32,
    /// A windowed channel is written behind this long after its oldest message that is not stored. Default 200 ms.
    pub write_behind: Duration,
    /// A windowed channel whose oldest message is unstored for this long takes no more. Default 1 s.
    pub write_behind_max: Duration,
    /// A home that nobody has used for this long closes. Default 30 s.
    pub idle_timeout: Duration,
    /// Publishes that wait for a cut link are given up after this. Default 10 s.
    pub hold: Duration,
    /// First pause before a failed opening is tried again; it doubles up to `hold`. Default 100 ms.
    pub retry: Duration,
    /// Homes in one request to open them, or to give them back. Default 256.
    pub open_batch_max: u32,
}

/// A rate with a burst: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run, per second. At least 1, at most 1,000,000.
    pub per_second: u32,
    /// At once, after a pause. At least 1.
    pub burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: "local".into(),
            sessions_max: 100_000,
            handshake_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(25),
            payload_bytes_max: 16 << 10,
            subscriptions_max: 1_000,
            beginning_max: 2_048,
            queue_bytes_max: 256 << 10,
            control_frames_max: 4_096,
            requests_in_flight_max: 1_024,
            history_requests_max: 16,
            publish_rate: Rate { per_second: 5_000, burst: 10_000 },
            request_rate: Rate { per_second: 200, burst: 2_000 },
            page_messages_max: 256,
            page_bytes_max: 64 << 10,
            replay_messages_max: 100_000,
            compress_from_bytes: 1 << 10,
            compress_turn_bytes_max: 256 << 10,
            grants_max: 65_536,
            mark_delay: Duration::from_millis(200),
            marks_max: 65_536,
            incidents_max: 256,
            hop_requests_max: 8_192,
            hop_deliveries_max: 1_024,
            home: HomeConfig::default(),
        }
    }
}

impl Default for HomeConfig {
    fn default() -> Self {
        Self {
            homes_max: 1_000_000,
            waiting_messages_max: 4_096,
            waiting_bytes_max: 1 << 20,
            batch_messages_max: 512,
            batch_bytes_max: 128 << 10,
            window_messages_max: 512,
            window_bytes_max: 256 << 10,
            producers_max: 4_096,
            joins_waiting_max: 4_096,
            write_behind: Duration::from_millis(200),
            write_behind_max: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(30),
            hold: Duration::from_secs(10),
            retry: Duration::from_millis(100),
            open_batch_max: 256,
        }
    }
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, it must be {must}")]
pub struct ConfigError {
    /// Which field.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// What it must be.
    pub must: &'static str,
}

/// Room for everything of a message frame but its body: headers, ids, the longest user name.
pub(crate) const MESSAGE_OVERHEAD_BYTES: u32 = 512;

impl Config {
    /// Whether the limits can hold together.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |field, value: u64, must| Err(ConfigError { field, value, must });
        if u64::from(self.payload_bytes_max) > PAYLOAD_BYTES_CAP as u64 {
            return fail("payload_bytes_max", self.payload_bytes_max.into(), "at most 65,536");
        }
        if u64::from(self.subscriptions_max) > SUBSCRIPTIONS_CAP as u64 {
            return fail("subscriptions_max", self.subscriptions_max.into(), "at most 1,000");
        }
        let message = self.payload_bytes_max + MESSAGE_OVERHEAD_BYTES;
        if self.page_bytes_max < message || self.page_bytes_max as usize > PAGE_BODY_BYTES_MAX {
            return fail(
                "page_bytes_max",
                self.page_bytes_max.into(),
                "payload_bytes_max and 512 more at least, and at most 524,288",
            );
        }
        if self.page_messages_max == 0 || self.page_messages_max as usize > PAGE_MESSAGES_MAX {
            return fail("page_messages_max", self.page_messages_max.into(), "1 to 1,000");
        }
        if self.queue_bytes_max / 2 < self.page_bytes_max {
            return fail("queue_bytes_max", self.queue_bytes_max.into(), "at least twice page_bytes_max");
        }
        if self.home.batch_bytes_max < message {
            return fail("home.batch_bytes_max", self.home.batch_bytes_max.into(), "payload_bytes_max and 512 more");
        }
        // A batch of the shortest messages still fits into a frame of the control link, beside others.
        if self.home.batch_messages_max > 4_096 {
            return fail("home.batch_messages_max", self.home.batch_messages_max.into(), "at most 4,096");
        }
        if self.home.waiting_bytes_max < self.home.batch_bytes_max {
            return fail("home.waiting_bytes_max", self.home.waiting_bytes_max.into(), "at least batch_bytes_max");
        }
        for (field, rate) in [("publish_rate", self.publish_rate), ("request_rate", self.request_rate)] {
            if rate.per_second == 0 || rate.per_second > 1_000_000 || rate.burst == 0 {
                return fail(field, rate.per_second.into(), "1 to 1,000,000 per second with a burst");
            }
        }
        for (field, value) in [
            ("sessions_max", self.sessions_max),
            ("beginning_max", self.beginning_max / 2),
            ("control_frames_max", self.control_frames_max),
            ("requests_in_flight_max", self.requests_in_flight_max),
            ("grants_max", self.grants_max),
            ("marks_max", self.marks_max),
            ("hop_requests_max", self.hop_requests_max),
            ("hop_deliveries_max", self.hop_deliveries_max),
            ("home.homes_max", self.home.homes_max),
            ("home.waiting_messages_max", self.home.waiting_messages_max),
            ("home.batch_messages_max", self.home.batch_messages_max),
            ("home.producers_max", self.home.producers_max),
            ("home.open_batch_max", self.home.open_batch_max),
        ] {
            if value == 0 {
                return fail(field, 0, "at least 1");
            }
        }
        for (field, value) in [
            ("handshake_timeout", self.handshake_timeout),
            ("heartbeat", self.heartbeat),
            ("mark_delay", self.mark_delay),
            ("home.write_behind", self.home.write_behind),
            ("home.idle_timeout", self.home.idle_timeout),
            ("home.hold", self.home.hold),
            ("home.retry", self.home.retry),
        ] {
            if value < Duration::from_millis(1) || value > Duration::from_secs(24 * 3600) {
                let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
                return fail(field, ms, "1 ms to 24 hours");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_cannot_work_names_its_field() {
        let check = |change: fn(&mut Config), field: &str| {
            let mut config = Config::default();
            change(&mut config);
            assert_eq!(config.check().map_err(|error| error.field), Err(field), "{field}");
        };
        assert_eq!(Config::default().check(), Ok(()));
        check(|config| config.payload_bytes_max = 65_537, "payload_bytes_max");
        check(|config| config.subscriptions_max = 1_001, "subscriptions_max");
        check(|config| config.page_bytes_max = 16 << 10, "page_bytes_max");
        check(|config| config.queue_bytes_max = 64 << 10, "queue_bytes_max");
        check(|config| config.home.batch_messages_max = 4_097, "home.batch_messages_max");
        check(|config| config.publish_rate.burst = 0, "publish_rate");
        check(|config| config.sessions_max = 0, "sessions_max");
        check(|config| config.heartbeat = Duration::ZERO, "heartbeat");
    }
}
