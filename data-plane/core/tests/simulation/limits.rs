//! Small limits, so that all of them are met.

use std::time::Duration;

use millrace_core::{Config, HomeConfig, Rate};

use super::random::Random;

/// Small limits, so that all of them are met.
pub(crate) fn config(random: &mut Random) -> Config {
    let ms = Duration::from_millis;
    let size = |random: &mut Random, small: u32, large: u32| {
        if random.chance(500) { small } else { large }
    };
    Config {
        node: "simulated".into(),
        sessions_max: 50,
        handshake_timeout: ms(300),
        heartbeat: ms(400),
        payload_bytes_max: 256,
        subscriptions_max: 20,
        beginning_max: size(random, 4, 2_000),
        queue_bytes_max: size(random, 2_000, 12_000),
        control_frames_max: size(random, 40, 400),
        requests_in_flight_max: size(random, 12, 200),
        history_requests_max: 2,
        publish_rate: Rate { per_second: size(random, 60, 5_000), burst: 20 },
        request_rate: Rate { per_second: size(random, 100, 5_000), burst: 30 },
        page_messages_max: size(random, 3, 50),
        page_bytes_max: 900,
        replay_messages_max: u64::from(size(random, 30, 100_000)),
        compress_from_bytes: size(random, 0, 200),
        compress_turn_bytes_max: size(random, 500, 100_000),
        grants_max: size(random, 2, 1_000),
        mark_delay: Duration::from_millis(50),
        marks_max: 8,
        incidents_max: 4,
        hop_requests_max: size(random, 20, 1_000),
        hop_deliveries_max: size(random, 2, 100),
        home: HomeConfig {
            homes_max: 100,
            waiting_messages_max: size(random, 8, 500),
            waiting_bytes_max: 6_000,
            batch_messages_max: size(random, 2, 50),
            batch_bytes_max: 1_000,
            window_messages_max: size(random, 3, 60),
            window_bytes_max: 8_000,
            producers_max: 1_000,
            joins_waiting_max: size(random, 3, 100),
            write_behind: ms(60),
            write_behind_max: ms(300),
            idle_timeout: ms(500),
            hold: ms(700),
            retry: ms(40),
            open_batch_max: size(random, 1, 100),
        },
    }
}
