//! That limits are measured, and stand beside the figures that they limit.

use super::*;
use crate::report::{ACKNOWLEDGED, CPU_PER_CONNECT, CPU_PER_DELIVERY, Entry, LATENCY, Metric, PAGE, POST};
use crate::subject::bare;

/// Every probe of this list runs on every machine that the tests run on.
#[test]
fn limits_are_measured() {
    let (subject, load) = Cores::sensible().expect("a core");
    let folder = tempfile::tempdir().expect("a folder");
    let limits = measure(Place { subject: &subject, load: &load, folder: folder.path() }, &|what| panic!("{what}"));
    let names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
    let expected = [
        SYSTEM_CALL,
        TCP_SEND,
        UDP_SEND,
        UDP_SEND_GSO,
        UDP_SEND_SEALED,
        ACCEPT,
        WAKE_COST,
        WAKE_DELAY,
        SEAL_MESSAGE,
        SEAL_PACKET,
        FLUSH_P50,
        FLUSH_P99,
    ];
    assert_eq!(names, expected);
    for limit in &limits {
        assert!(limit.low > 0.0 && limit.low <= limit.value && limit.value <= limit.high, "{limit:?}");
    }
    let left = std::fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(left, 0, "nothing is left in the folder");
}

#[test]
fn one_that_cannot_be_measured_is_told_and_left_out() {
    let (subject, load) = Cores::sensible().expect("a core");
    let folder = tempfile::tempdir().expect("a folder");
    let gone = folder.path().join("gone");
    let told = std::cell::RefCell::new(Vec::new());
    let limits = measure(Place { subject: &subject, load: &load, folder: &gone }, &|what| {
        told.borrow_mut().push(what.to_owned());
    });
    assert!(!limits.iter().any(|limit| limit.name.starts_with("fdatasync")), "{limits:?}");
    let told = told.into_inner();
    assert!(matches!(&told[..], [one] if one.contains("fdatasync") && one.contains("gone")), "{told:?}");
}

const DURABLE: &str = "on disk before it is acknowledged, exactly once";

fn report() -> Report {
    let limit = |name: &str, value, unit: &str| Limit {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        low: value,
        high: value,
    };
    let text = r#"{
        "format": 1, "started": 0, "command": "", "subject_cores": "0", "load_cores": "1", "interrupted": false,
        "machine": { "processor": "", "cores": 2, "memory_bytes": 1, "kernel": "", "system": "" },
        "subjects": [], "missing": [], "figures": [], "failures": []
    }"#;
    // A file from before there were limits.
    let mut report: Report = serde_json::from_str(text).expect("older files are read");
    report.limits = vec![limit(TCP_SEND, 2.0, "µs"), limit(FLUSH_P50, 500.0, "µs"), limit(ACCEPT, 4000.0, "ns")];
    report
}

fn check(subject: &str, guarantee: &str, metric: Metric, value: f64, expect: Option<&str>) {
    let mut report = report();
    let entry = Entry { scenario: "", subject, guarantee, point: &[], number: 1, load_bound: false };
    report.record(&entry, metric, value);
    let found = beside(&report, &report.figures[0]).map(|beside| beside.to_string());
    assert_eq!(found.as_deref(), expect, "{subject}, {}", metric.name);
}

#[test]
fn figures_stand_beside_the_limit_that_they_have_by_nature() {
    check("millrace", DURABLE, ACKNOWLEDGED, 40_000.0, Some("20 per fdatasync of 4 KiB, p50"));
    check("millrace", DURABLE, LATENCY[0].0, 1.25, Some("2.50 × fdatasync of 4 KiB, p50"));
    check("millrace", "at most once", LATENCY[0].0, 1.25, None);
    // A page waits for no disk, and a post for whoever is away.
    check("millrace", DURABLE, PAGE[0].0, 1.25, None);
    check("millrace", DURABLE, POST[0].0, 1.25, None);
    check("millrace", "", CPU_PER_CONNECT, 44.0, Some("11 × accept and close"));
    check("millrace", "", CPU_PER_DELIVERY, 7.0, Some("3.50 × tcp send, 170 B"));
    check(bare::NAME, "", CPU_PER_DELIVERY, 7.0, None);
}

#[test]
fn the_bare_sender_of_the_same_run_is_the_better_limit() {
    let mut report = report();
    for subject in [bare::NAME, "millrace"] {
        let entry = Entry { scenario: "", subject, guarantee: "", point: &[], number: 1, load_bound: false };
        report.record(&entry, CPU_PER_DELIVERY, 7.0);
    }
    assert_eq!(beside(&report, &report.figures[1]), None);
    assert!(report.limit_of(&report.figures[1]).is_some());
}
