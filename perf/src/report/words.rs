//! What pages and tables say alike: points, times, cautions.

use std::time::{Duration, UNIX_EPOCH};

use crate::print::number;
use crate::report::{self, Figure, Report};
use crate::transport::{OVER_QUIC, OVER_WSS};

/// A Unix time as date and minute, UTC.
pub(crate) fn time(seconds: u64) -> String {
    // Later than the year 9999 is no time at which anything was measured.
    let seconds = seconds.min(253_402_300_799);
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    // 2026-11-22T14:40:00Z: seconds say nothing here.
    format!("{} {} UTC", &time[..10], &time[11..16])
}

/// A point in words.
pub(crate) fn point(figure: &Figure) -> String {
    let words: Vec<String> = figure.point.iter().map(|(name, value)| value_of(name, *value)).collect();
    if words.is_empty() { "as a whole".to_owned() } else { words.join(" · ") }
}

/// A point's value as people say it.
pub(crate) fn value_of(name: &str, value: f64) -> String {
    let (text, is_one) = (number(value), value == 1.0);
    match name {
        "payload" => format!("{text} B"),
        "rate" => format!("{text} {}/s", if is_one { "message" } else { "messages" }),
        "channels" | "subscribers" | "sessions" | "publishers" | "users" | "messages" | "shards" if is_one => {
            format!("{text} {}", name.trim_end_matches('s'))
        }
        "deliveries" => format!("{text} deliveries/s"),
        "channels each" if is_one => "1 channel each".to_owned(),
        "core percent" => format!("{text} % of a core"),
        "depth" => format!("depth {text}"),
        "loss" => format!("{text} % loss"),
        "path loss" => format!("{text} % loss of the path"),
        "from sessions" => format!("from {text} sessions"),
        "to sessions" => format!("to {text} sessions"),
        "token known" => (if is_one { "known token" } else { "new token" }).to_owned(),
        // A flag that is set: of the slow reader, or who comes.
        OVER_WSS
        | OVER_QUIC
        | "reads"
        | "never reads"
        | "new user with an eddsa token"
        | "new user with an hs256 token" => name.to_owned(),
        _ => format!("{text} {name}"),
    }
}

/// What varies along an axis.
pub(crate) fn axis(name: &str) -> String {
    match name {
        "rate" => "messages per second".to_owned(),
        "payload" => "bytes of payload".to_owned(),
        "subscribers" => "subscribers of a channel".to_owned(),
        _ => name.to_owned(),
    }
}

/// With a capital, as a title begins.
pub(crate) fn sentence(text: &str) -> String {
    if let Some(rest) = text.strip_prefix("cpu") {
        return format!("CPU{rest}");
    }
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Scenarios in the order in which they were measured.
pub(crate) fn scenarios(report: &Report) -> Vec<&str> {
    in_order(report.figures.iter().map(|figure| figure.scenario.as_str()))
}

/// Figures of a scenario by point, and of a point by metric, so that subjects stand below each other.
pub(crate) fn by_point<'a>(report: &'a Report, scenario: &str) -> Vec<(String, Vec<&'a Figure>)> {
    let figures: Vec<&Figure> = report.figures.iter().filter(|figure| figure.scenario == scenario).collect();
    let metrics = in_order(figures.iter().map(|figure| figure.metric.as_str()));
    let points = in_order(figures.iter().map(|figure| &figure.point));
    points
        .into_iter()
        .map(|point| {
            let mut here: Vec<&Figure> = figures.iter().copied().filter(|figure| figure.point == *point).collect();
            here.sort_by_key(|figure| metrics.iter().position(|metric| *metric == figure.metric));
            (here.first().map_or_else(String::new, |figure| self::point(figure)), here)
        })
        .collect()
}

/// Each value once, where it came first.
pub(crate) fn in_order<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut known = Vec::new();
    for value in values {
        if !known.contains(&value) {
            known.push(value);
        }
    }
    known
}

/// More than this share of a core, in percent, that is somebody else's is worth a word.
const NOISE_MAX: f64 = 10.0;

/// What a reader should not conclude, in short and why; what this report gives reason for comes first.
pub(crate) fn cautions(report: &Report) -> Vec<(String, String)> {
    let mut cautions: Vec<(String, &str)> = Vec::new();
    let fewest = report.figures.iter().map(|figure| figure.runs.len()).min().unwrap_or_default();
    if report.interrupted {
        cautions.push((
            "It was interrupted.".to_owned(),
            "Figures have fewer runs than their scenario asks for, or are not there.",
        ));
    }
    if fewest < 3 {
        cautions.push((
            format!("Some figures are of {fewest} run{}.", if fewest == 1 { "" } else { "s" }),
            "Their spread says little. Do not quote them; measure with --runs 5 or more.",
        ));
    }
    if !report.failures.is_empty() {
        cautions.push((
            "Some runs failed.".to_owned(),
            "A subject with failures may have been measured at its best moments only.",
        ));
    }
    if cores(&report.subject_cores).iter().any(|core| cores(&report.load_cores).contains(core)) {
        cautions.push((
            "Subject and load generator shared a core.".to_owned(),
            "Latency, rates and saturation are of both together. Only CPU time and memory are the subject's own.",
        ));
    }
    let is_noisy = |figure: &Figure| {
        [report::OTHERS.name, report::LOAD_WAITED.name].contains(&figure.metric.as_str())
            && figure.runs.iter().any(|share| *share > NOISE_MAX)
    };
    if report.figures.iter().any(is_noisy) {
        cautions.push((
            "Somebody else was at work.".to_owned(),
            "In some runs others used more than a tenth of the subject's cores, or kept the load generator from its own; the figures of that name say in which.",
        ));
    }
    if report.machine.cores <= 2 {
        cautions.push((
            "This machine has two cores or fewer.".to_owned(),
            "The kernel's network work for both sides runs on them, too. Saturation here is not that of a server with a network card and free cores.",
        ));
    }
    if report.figures.iter().any(|figure| figure.load_bound > 0) {
        cautions.push((
            "Load-bound figures are bounds.".to_owned(),
            "The load generator had no time left, so the subject is at least this good; how much better was not found out.",
        ));
    }
    cautions.extend([
        (
            "Different guarantees do not compare.".to_owned(),
            "A server that forgets a message when it is sent has less to do than one that keeps it. The guarantee stands beside each figure.",
        ),
        (
            "Loopback is not a network.".to_owned(),
            "No packet is lost, late or alone. Latencies here are those of the server and of the kernel, and nothing is said of users far away.",
        ),
        (
            "A peer's figure is of its settings here.".to_owned(),
            "They are meant to be what its makers advise for production, on one core, and are in perf/peers; who knows it well may do better.",
        ),
        (
            "Highest percentiles of short runs are few messages.".to_owned(),
            "At one message per second for five seconds p99 is the latency of a handful of messages to many subscribers.",
        ),
        (
            "The limit is that of this kernel's interface, not of physics.".to_owned(),
            "It is one send per socket from a loop that does nothing else; batches, offload or another kernel move it.",
        ),
    ]);
    cautions.into_iter().map(|(what, why)| (what, why.to_owned())).collect()
}

fn cores(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|core| !core.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    #[test]
    fn points_are_said_as_people_say_them() {
        for (name, value, text) in [
            ("rate", 1.0, "1 message/s"),
            ("rate", 100.0, "100 messages/s"),
            ("payload", 1024.0, "1,024 B"),
            ("deliveries", 30_000.0, "30,000 deliveries/s"),
            ("shards", 1.0, "1 shard"),
            ("core percent", 50.0, "50 % of a core"),
            ("new user with an hs256 token", 1.0, "new user with an hs256 token"),
            ("subscribers", 1.0, "1 subscriber"),
            ("channels", 1000.0, "1,000 channels"),
            ("side by side", 64.0, "64 side by side"),
            ("token known", 0.0, "new token"),
            ("never reads", 1.0, "never reads"),
            ("depth", 0.5, "depth 0.500"),
        ] {
            assert_eq!(value_of(name, value), text);
        }
    }

    #[test]
    fn times_are_minutes_and_nothing_is_too_late() {
        assert_eq!(time(0), "1970-01-01 00:00 UTC");
        assert_eq!(time(1_795_358_459), "2026-11-22 14:40 UTC");
        assert_eq!(time(u64::MAX), "9999-12-31 23:59 UTC");
    }

    #[test]
    fn cautions_begin_with_what_the_report_gives_reason_for() {
        let mut report = report::example();
        let has = |report: &Report, what: &str| cautions(report).iter().any(|(short, _)| short.contains(what));
        assert!(has(&report, "Some runs failed") && has(&report, "Load-bound") && has(&report, "two cores"));
        assert!(!has(&report, "shared a core") && !has(&report, "interrupted") && !has(&report, "are of"));
        report.load_cores = "2,0".to_owned();
        report.interrupted = true;
        let mut others = report.figures[0].clone();
        (others.metric, others.runs[1]) = (report::OTHERS.name.to_owned(), 12.0);
        assert!(!has(&report, "Somebody else"));
        report.figures.push(others);
        assert!(has(&report, "Somebody else"));
        report.figures[0].runs.truncate(1);
        assert!(cautions(&report)[0].0.contains("interrupted"));
        assert!(has(&report, "shared a core") && has(&report, "are of 1 run."));
    }
}
