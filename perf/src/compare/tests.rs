//! Whole reports against each other.

use super::*;
use crate::report::example;

/// The example with every run of some figures changed.
fn changed(is_changed: impl Fn(&Figure) -> bool, factor: f64) -> Report {
    let mut report = example();
    for figure in report.figures.iter_mut().filter(|figure| is_changed(figure)) {
        figure.runs.iter_mut().for_each(|run| *run *= factor);
    }
    report
}

/// Much alike runs: what the example's own noise hides is not what these tests are about.
fn steady(mut report: Report) -> Report {
    for figure in &mut report.figures {
        let median = figure.median();
        let scatter = [0.995, 1.0, 1.004, 0.998, 1.006];
        figure.runs = scatter.iter().map(|scatter| median * scatter).collect();
        figure.numbers = (1..).take(scatter.len()).collect();
        (figure.load_bound, figure.load_bound_in) = (0, Vec::new());
    }
    report
}

fn verdict(comparison: &Comparison<'_>, subject: &str, metric: &str) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = comparison
        .pairs
        .iter()
        .filter(|pair| pair.subject == subject && pair.metric == metric)
        .map(|pair| pair.verdict)
        .collect();
    verdicts.dedup();
    verdicts
}

#[test]
fn a_report_is_no_worse_than_itself() {
    let report = example();
    let comparison = compare(&report, &report, Asked::default(), 5.0);
    assert_eq!((comparison.regressions, comparison.improvements), (0, 0));
    assert_eq!(comparison.pairs.len(), report.figures.len());
    assert!(comparison.only_in_old.is_empty() && comparison.only_in_new.is_empty());
    assert!(comparison.machine_differs.is_empty() && comparison.notes.len() == 2, "{:?}", comparison.notes);
}

#[test]
fn what_got_worse_is_told_from_what_got_better_and_from_the_others() {
    let is_cpu = |figure: &Figure| figure.subject == "millrace" && figure.metric == "cpu per delivery";
    let old = steady(example());
    let new = steady(changed(is_cpu, 1.15));
    let comparison = compare(&old, &new, Asked::default(), 5.0);
    assert_eq!(verdict(&comparison, "millrace", "cpu per delivery"), [Verdict::Regression]);
    assert_eq!(verdict(&comparison, "nats", "cpu per delivery"), [Verdict::Unchanged]);
    assert_eq!(comparison.regressions, 2, "one at each rate");
    let back = compare(&new, &old, Asked::default(), 5.0);
    assert_eq!(verdict(&back, "millrace", "cpu per delivery"), [Verdict::Improvement]);
    assert_eq!((back.regressions, back.improvements), (0, 2));
    // Less than the effect that was asked for.
    assert_eq!(compare(&old, &new, Asked::default(), 20.0).regressions, 0);
    // Of other subjects only.
    let nats = Asked { subjects: &["nats".to_owned()], ..Asked::default() };
    assert_eq!(compare(&old, &new, nats, 5.0).regressions, 0);
}

#[test]
fn where_more_is_better_less_is_worse() {
    let is_saturation = |figure: &Figure| figure.subject == "millrace" && figure.metric == "deliveries at saturation";
    let comparison_of = |factor| {
        let (old, new) = (steady(example()), steady(changed(is_saturation, factor)));
        verdict(&compare(&old, &new, Asked::default(), 5.0), "millrace", "deliveries at saturation")
    };
    assert_eq!(comparison_of(0.8), [Verdict::Regression]);
    assert_eq!(comparison_of(1.2), [Verdict::Improvement]);
}

#[test]
fn a_slower_machine_is_no_regression() {
    let (old, new) = (steady(example()), steady(changed(|figure| figure.unit == "µs" || figure.unit == "ms", 1.3)));
    let comparison = compare(&old, &new, Asked::default(), 5.0);
    assert_eq!(verdict(&comparison, "millrace", "cpu per delivery"), [Verdict::MachineMoved]);
    assert!(
        comparison.limit_moved.iter().any(|moved| moved.metric == "cpu per delivery" && moved.worse_percent > 29.0)
    );
    // Where the report has no limit, nobody can tell the machine from the code.
    assert_eq!(verdict(&comparison, "millrace", "cpu per session and second"), [Verdict::Regression]);
}

#[test]
fn on_another_machine_only_the_distance_to_the_limit_counts() {
    let old = steady(example());
    let is_cpu = |figure: &Figure| figure.metric == "cpu per delivery";
    let mut new = steady(changed(is_cpu, 0.4));
    new.machine.processor = "another".to_owned();
    let comparison = compare(&old, &new, Asked::default(), 5.0);
    assert_eq!(comparison.machine_differs.len(), 1);
    assert_eq!(verdict(&comparison, "millrace", "cpu per delivery"), [Verdict::Unchanged]);
    assert_eq!(verdict(&comparison, "millrace", "memory per session"), [Verdict::NotComparable]);
    let is_own = |figure: &Figure| figure.subject == "millrace" && figure.metric == "cpu per delivery";
    let mut worse = steady(changed(is_own, 1.3));
    worse.machine.cores = 64;
    let comparison = compare(&old, &worse, Asked::default(), 5.0);
    assert_eq!(verdict(&comparison, "millrace", "cpu per delivery"), [Verdict::Regression]);
}

#[test]
fn what_cannot_be_judged_is_not() {
    let old = steady(example());
    let mut new = steady(changed(|figure| figure.subject == "millrace", 2.0));
    for figure in &mut new.figures {
        match (figure.subject.as_str(), figure.metric.as_str()) {
            ("millrace", "latency p50") => (figure.load_bound, figure.load_bound_in) = (1, vec![1]),
            ("millrace", "latency p99") => {
                figure.runs.truncate(2);
                figure.numbers.truncate(2);
            }
            ("millrace", "cpu per delivery") => figure.guarantee = "less".to_owned(),
            ("millrace", "memory per session") => figure.better = Better::Neither,
            _ => {}
        }
    }
    let comparison = compare(&old, &new, Asked::default(), 5.0);
    for (metric, expect) in [
        ("latency p50", Verdict::LoadBound),
        ("latency p99", Verdict::TooFewRuns),
        ("cpu per delivery", Verdict::NotComparable),
        ("memory per session", Verdict::NotJudged),
    ] {
        assert_eq!(verdict(&comparison, "millrace", metric), [expect], "{metric}");
    }
    assert_eq!(verdict(&comparison, "bare send", "cpu per delivery"), [Verdict::NotJudged]);
    let text = print::text(&old, &new, &comparison, true);
    for part in ["Load-bound:", "Too few runs:", "the guarantee is another", "neither way is better"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn figures_of_one_side_are_named() {
    let old = steady(example());
    let mut new = old.clone();
    let gone = new.figures.pop().expect("a figure");
    let mut added = gone.clone();
    added.metric = "something new".to_owned();
    new.figures.push(added);
    let comparison = compare(&old, &new, Asked::default(), 5.0);
    assert!(comparison.only_in_old.len() == 1 && comparison.only_in_old[0].contains(&gone.metric));
    assert!(comparison.only_in_new.len() == 1 && comparison.only_in_new[0].contains("something new"));
}

/// A report with some of millrace's figures load-bound.
fn bound(mut report: Report) -> Report {
    for figure in report.figures.iter_mut().filter(|figure| is_saturation(figure)) {
        (figure.load_bound, figure.load_bound_in) = (1, vec![1]);
    }
    report
}

fn is_saturation(figure: &Figure) -> bool {
    figure.subject == "millrace" && figure.metric == "deliveries at saturation"
}

/// What a bound bounds is on one side of it: a verdict in that direction holds, and all else is told, loudly.
#[test]
fn a_bound_on_one_side_is_judged_as_far_as_it_goes() {
    let (same, worse, better) =
        (steady(example()), steady(changed(is_saturation, 0.8)), steady(changed(is_saturation, 1.3)));
    for (old, new, expect, is_open) in [
        (bound(same.clone()), worse.clone(), Verdict::Regression, false),
        (bound(same.clone()), same.clone(), Verdict::LoadBound, true),
        (bound(same.clone()), better.clone(), Verdict::LoadBound, true),
        (same.clone(), bound(worse.clone()), Verdict::LoadBound, true),
        (same.clone(), bound(same.clone()), Verdict::Unchanged, false),
        (same.clone(), bound(better), Verdict::Improvement, false),
        (bound(same), bound(worse), Verdict::LoadBound, false),
    ] {
        let comparison = compare(&old, &new, Asked::default(), 5.0);
        assert_eq!(verdict(&comparison, "millrace", "deliveries at saturation"), [expect]);
        assert_eq!(!comparison.unjudged.is_empty(), is_open, "{expect:?}: {:?}", comparison.unjudged);
    }
}

#[test]
fn a_subject_that_is_gone_is_not_passed_over() {
    let old = steady(example());
    let mut new = old.clone();
    new.figures.retain(|figure| figure.subject != "millrace" || figure.scenario != "idle");
    let comparison = compare(&old, &new, Asked::default(), 5.0);
    assert_eq!(comparison.gone, ["millrace in idle"]);
    assert_eq!(comparison.unjudged.len(), 2, "{:?}", comparison.unjudged);
    let text = print::text(&old, &new, &comparison, false);
    assert!(text.contains("GONE") && text.contains("millrace in idle") && text.contains("NOT JUDGED"), "{text}");
    let fanout = ["fanout".to_owned()];
    let asked = Asked { scenarios: &fanout, ..Asked::default() };
    assert!(compare(&old, &new, asked, 5.0).unjudged.is_empty(), "idle was not asked for");
    // The limit is nobody's regression.
    new = old.clone();
    new.figures.retain(|figure| figure.subject != "bare send");
    assert!(compare(&old, &new, Asked::default(), 5.0).unjudged.is_empty());
}

#[test]
fn the_exit_code_tells_worse_from_trouble() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, report: &Report| {
        let path = folder.path().join(name);
        std::fs::write(&path, serde_json::to_string(report).expect("JSON")).expect("write");
        path
    };
    let old = write("old.json", &steady(example()));
    let worse = write("new.json", &steady(changed(|figure| figure.subject == "millrace", 1.3)));
    let code = |old: &PathBuf, new: &PathBuf| {
        let arguments = Arguments {
            old: old.clone(),
            new: new.clone(),
            subject: Vec::new(),
            scenario: Vec::new(),
            effect: 5.0,
            json: true,
            all: false,
        };
        format!("{:?}", run(&arguments))
    };
    let expect = |code: u8| format!("{:?}", ExitCode::from(code));
    assert_eq!(code(&old, &old), expect(0));
    assert_eq!(code(&old, &worse), expect(1));
    let mut less = steady(example());
    less.figures.retain(|figure| figure.subject != "millrace");
    assert_eq!(code(&old, &write("less.json", &less)), expect(3));
    assert_eq!(code(&write("bound.json", &bound(steady(example()))), &old), expect(3));
    assert_eq!(code(&old, &folder.path().join("none.json")), expect(2));
}
