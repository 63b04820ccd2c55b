//! Reports are read with suspicion, and what is made of them is well-formed whatever they hold.

use super::chart::Chart;
use super::*;

const EXAMPLE: &str = include_str!("../../example/report.json");

fn charts(report: &Report) -> Vec<Chart> {
    plots::sections(report).into_iter().flat_map(|section| section.shown.into_iter().chain(section.more)).collect()
}

/// Parses what has to be XML, and checks that no number in it is none.
fn check_xml(text: &str) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error}"));
    for node in document.descendants() {
        for attribute in node.attributes().filter(|attribute| attribute.name().len() <= 6) {
            let value = attribute.value();
            assert!(!value.contains("NaN") && !value.contains("inf"), "{}: {value}", attribute.name());
        }
    }
}

/// A page is HTML; but for its empty elements and attributes it is XML, too.
fn check_page(text: &str) {
    let meta = text.find("<meta").zip(text.find("<title>")).map(|(from, to)| text[from..to].to_owned());
    let text = text.replacen(&meta.expect("a head"), "", 1).replace("<details open>", "<details>");
    check_xml(&text);
}

#[test]
fn the_example_gives_its_plots_under_stable_names() {
    let names: Vec<String> = charts(&example()).into_iter().map(|chart| chart.name).collect();
    assert_eq!(
        names,
        [
            "fanout-latency-p50-by-rate",
            "fanout-latency-p99-by-rate",
            "fanout-latency-p99-to-limit-by-rate",
            "fanout-cpu-per-delivery-by-rate",
            "fanout-cpu-per-delivery-to-limit-by-rate",
            "fanout-saturation-deliveries-at-saturation",
            "fanout-saturation-deliveries-at-saturation-to-limit",
            "idle-memory-per-session",
            "idle-cpu-per-session-and-second",
        ]
    );
}

/// Where a token is known or not, or a reader reads or not, nothing lies between: no line.
#[test]
fn flags_are_held_fixed_and_not_plotted_along() {
    let mut report = example();
    report.figures.retain(|figure| figure.metric == "latency p50");
    for figure in &mut report.figures {
        let rate = figure.point.remove("rate").expect("a rate");
        figure.point.insert("token known".to_owned(), if rate > 1.0 { 1.0 } else { 0.0 });
    }
    let names = |report: &Report| charts(report).into_iter().map(|chart| chart.name).collect::<Vec<_>>();
    assert_eq!(names(&report), ["fanout-latency-p50-token-known-0", "fanout-latency-p50-token-known-1"]);
    for figure in &mut report.figures {
        let name = if figure.point.remove("token known") == Some(1.0) { "reads" } else { "never reads" };
        figure.point.insert(name.to_owned(), 1.0);
    }
    assert_eq!(names(&report), ["fanout-latency-p50-never-reads-1", "fanout-latency-p50-reads-1"]);
}

#[test]
fn every_plot_is_an_accessible_svg_that_stands_alone() {
    for chart in charts(&example()) {
        let text = chart.file();
        check_xml(&text);
        let document = roxmltree::Document::parse(&text).expect("XML");
        let svg = document.root_element();
        assert!(svg.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
        let named = svg.attribute("aria-labelledby").expect("names").split(' ');
        for id in named {
            let node = document.descendants().find(|node| node.attribute("id") == Some(id)).expect(id);
            assert!(node.text().is_some_and(|text| text.len() > 5), "{id}");
        }
        assert!(text.contains("prefers-color-scheme: dark") && !text.contains("<script") && !text.contains("href"));
    }
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let report = example();
    let page = page::page(&report);
    check_page(&page);
    for absent in ["<script", "http:", "https:", " src=", "@import", "url("] {
        assert!(!page.contains(absent), "{absent}");
    }
    let values = plots::sections(&report).iter().flat_map(|section| &section.shown).count();
    assert_eq!(page.matches("<svg").count(), values);
    assert_eq!(page.matches("<tr class=\"").count(), report.figures.len());
    // What is missing, what failed, how it was made: all said, and escaped.
    for present in [
        "apt-get install libnginx-mod-nchan",
        "&lt;1000 bytes&gt; &amp; more",
        "millrace-perf run fanout",
        "AMD EPYC 7B13",
        "load-bound in 1 of 3",
        "resumes from memory, saved behind the acknowledgement",
        "What not to conclude",
    ] {
        assert!(page.contains(present), "{present}");
    }
}

#[test]
fn the_table_of_the_example_is_as_it_was() {
    assert_eq!(markdown::markdown(&example()), include_str!("../../example/report.md"));
}

#[test]
fn hostile_texts_stay_texts() {
    let hostile = "</title></svg><script>alert(1)</script>\u{1b}[31m\u{0}|`'\"&\n../../x";
    let mut report = example();
    report.command = hostile.to_owned();
    report.machine.processor = hostile.to_owned();
    report.failures = vec![hostile.to_owned()];
    for figure in &mut report.figures {
        figure.subject = format!("{}{hostile}", figure.subject);
        figure.scenario.push_str(hostile);
        figure.metric.push_str(hostile);
        figure.unit.push_str(hostile);
        figure.guarantee.push_str(hostile);
        figure.point = figure.point.iter().map(|(name, value)| (format!("{name}{hostile}"), *value)).collect();
    }
    let report = file::parse(&serde_json::to_string(&report).expect("JSON")).expect("still a report");
    let page = page::page(&report);
    check_page(&page);
    assert!(!page.contains("<script"));
    for chart in charts(&report) {
        check_xml(&chart.file());
        let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        assert!(chart.name.chars().all(is_plain) && !chart.name.is_empty(), "{}", chart.name);
    }
    let table = markdown::markdown(&report);
    let unescaped: Vec<&str> = table.lines().filter(|line| line.contains("<script")).collect();
    // The command stands as it is, fenced; it cannot end the fence.
    assert!(unescaped.len() == 1 && !unescaped[0].contains('`'), "{unescaped:?}");
    assert!(table.lines().filter(|line| line.starts_with('|')).count() > 10);
}

#[test]
fn odd_figures_are_drawn_all_the_same() {
    for values in
        [vec![0.0], vec![-5.0, 5.0], vec![1e300, 1e-300], vec![f64::MAX, f64::MIN_POSITIVE], vec![0.0, 0.0, 1e9]]
    {
        let mut report = example();
        for figure in &mut report.figures {
            figure.runs.clone_from(&values);
            figure.numbers = (1..).take(values.len()).collect();
            (figure.load_bound, figure.load_bound_in) = (1, vec![1]);
        }
        check_page(&page::page(&report));
        charts(&report).iter().for_each(|chart| check_xml(&chart.file()));
    }
    let mut empty = example();
    empty.figures.clear();
    check_page(&page::page(&empty));
}

#[test]
fn what_is_no_report_is_refused_with_its_reason() {
    let figure_of = |edit: &dyn Fn(&mut Report)| {
        let mut report = example();
        edit(&mut report);
        serde_json::to_string(&report).expect("JSON")
    };
    let unknown = EXAMPLE.replacen("\"format\": 2", "\"format\": 3", 1);
    for (text, reason) in [
        ("", "no report of millrace-perf"),
        ("{}", "missing field `format`"),
        ("[]", "no report of millrace-perf"),
        ("[1]", "no whole report"),
        (unknown.as_str(), "the report has format 3, this program reads formats 1 to 2"),
        ("{\"format\": 2}", "no whole report"),
        ("{\"format\": 0}", "the report has format 0"),
        (&figure_of(&|report| report.figures[0].numbers.clear()), "which runs its values are of"),
        (&figure_of(&|report| report.figures[0].numbers[0] = 0), "do not grow from 1"),
        (&figure_of(&|report| report.figures[0].numbers[0] = 9), "do not grow from 1"),
        (&figure_of(&|report| report.figures[0].load_bound = 1), "which runs were load-bound"),
        (&figure_of(&|report| report.figures[0].runs.clear()), "has no runs"),
        (&figure_of(&|report| report.figures[0].runs[0] = f64::NAN), "no whole report"),
        (&figure_of(&|report| report.figures[0].load_bound = 9), "more load-bound runs than runs"),
        (&figure_of(&|report| report.figures.push(report.figures[0].clone())), "twice at the same point"),
    ] {
        let error = format!("{:#}", file::parse(text).expect_err(reason));
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_report_survives_being_written_and_read() {
    let report = example();
    let text = serde_json::to_string(&report).expect("JSON");
    let again = file::parse(&text).expect("a report");
    assert_eq!(again.figures, report.figures);
    assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
    // Fields that a later program adds do not matter to this one.
    assert!(file::parse(&text.replacen('{', "{\"weather\": \"fine\",", 1)).is_ok());
}

/// Format 1 did not say which runs its values are of; what it meant is still understood.
#[test]
fn in_format_1_runs_pair_by_place_and_medians_where_a_run_is_missing() {
    let mut report = file::parse(&EXAMPLE.replacen("\"format\": 2", "\"format\": 1", 1)).expect("an older report");
    assert!(report.figures.iter().all(|figure| figure.numbers.is_empty() && figure.load_bound_in.is_empty()));
    report.figures.truncate(1);
    let mut own = report.figures[0].clone();
    own.subject = "millrace".to_owned();
    report.figures[0].runs = vec![1.0, 2.0, 4.0];
    own.runs = vec![2.0, 4.0, 8.0];
    let limit = report.limit_of(&own).expect("the limit");
    assert_eq!(own.ratios_to(limit), [2.0, 2.0, 2.0]);
    own.runs.pop();
    assert_eq!(own.ratios_to(limit), [1.0], "the lower of the two middle runs over the middle one");
    let mut other = limit.clone();
    other.runs = vec![0.0, 0.0];
    assert!(own.ratios_to(&other).is_empty());
    let mut bound = limit.clone();
    bound.load_bound = 1;
    assert!(own.ratios_to(&bound).is_empty(), "in which run it was is not known");
    assert_eq!(report.limit_of(limit), None, "the limit has none");
}

#[test]
fn a_folder_gets_one_file_per_plot_and_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    std::fs::write(&path, EXAMPLE).expect("write");
    let arguments = Arguments::for_test(path, folder.path().join("page"), folder.path().join("plots"));
    render(&arguments).expect("rendered");
    let names = |name: &str| std::fs::read_dir(folder.path().join(name)).expect("a folder").count();
    assert_eq!((names("page"), names("plots")), (1, charts(&example()).len()));
}
