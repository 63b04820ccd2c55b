//! What a run does before and around measuring.

use clap::Parser;

use super::*;
use crate::report::{CPU_PER_DELIVERY, Entry};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    run: Arguments,
}

fn arguments(line: &str) -> Arguments {
    let words = ["millrace-perf"].into_iter().chain(line.split(' '));
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).run
}

#[test]
fn a_panic_is_the_failure_of_one_run() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let error = without_panic(|| panic!("no such {}", "client")).expect_err("it panicked");
    std::panic::set_hook(hook);
    assert!(error.to_string().contains("no such client"), "{error}");
    without_panic(|| Ok(())).expect("nothing happened");
    assert_eq!(without_panic(|| Err(anyhow!("refused"))).expect_err("refused").to_string(), "refused");
}

#[test]
fn two_files_of_the_same_name_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fanout.toml");
    std::fs::write(&path, "title = 'x'\nruns = 1\n[idle]\nchannels = 1\npopulations = [1, 2]\nhold = '1s'\n")
        .expect("write");
    let both = arguments(&format!("fanout {}", path.display()));
    let error = scenarios(&both).expect_err("both are called fanout").to_string();
    assert!(error.contains("two scenarios are called fanout"), "{error}");
    assert_eq!(scenarios(&arguments("fanout idle")).expect("two scenarios").len(), 2);
    scenarios(&arguments("fanout idle --only rate=20")).expect_err("idle has no rates");
}

#[test]
fn a_report_in_parts_is_one_report_with_runs_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("fanout --append --out {}", folder.path().display());
    let seats = Seats::new(None, None).expect("cores");
    let part = |subject: &str, runs: u32| {
        let arguments = arguments(&line);
        let mut report = begin(&arguments, &scenarios(&arguments).expect("fanout"), &seats).expect("a report");
        let earlier = report.runs_of("fanout");
        for number in 1..=runs {
            for subject in ["bare send", subject] {
                let number = earlier + number;
                let entry = Entry { scenario: "fanout", subject, guarantee: "", point: &[], number, load_bound: false };
                report.record(&entry, CPU_PER_DELIVERY, f64::from(number) * if subject == "nats" { 2.0 } else { 1.0 });
            }
        }
        std::fs::write(folder.path().join("report.json"), serde_json::to_string(&report).expect("JSON"))
            .expect("write");
    };
    part("nats", 2);
    part("millrace", 3);
    let mut report = report::read(&folder.path().join("report.json")).expect("a report");
    let numbers: Vec<&[u32]> = report.figures.iter().map(|figure| &figure.numbers[..]).collect();
    assert_eq!(numbers, [&[1, 2, 3, 4, 5][..], &[1, 2], &[3, 4, 5]]);
    assert_eq!(report.figures[1].ratios_to(&report.figures[0]), [2.0, 2.0]);
    assert_eq!(report.figures[2].ratios_to(&report.figures[0]), [1.0, 1.0, 1.0], "each beside its own minutes");
    report.machine.processor = "another".to_owned();
    std::fs::write(folder.path().join("report.json"), serde_json::to_string(&report).expect("JSON")).expect("write");
    let arguments = arguments(&line);
    begin(&arguments, &scenarios(&arguments).expect("fanout"), &seats).expect_err("two machines are no report");
}
