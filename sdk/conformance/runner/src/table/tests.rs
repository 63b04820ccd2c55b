use std::path::Path;
use std::time::Duration;

use super::*;

fn drivers() -> BTreeMap<String, DriverSpec> {
    toml::from_str("[go]\ntitle = \"Go\"\nrun = [\"x\"]\n[rust]\ntitle = \"Rust\"\nrun = [\"x\"]").unwrap()
}

fn scenarios() -> Vec<Scenario> {
    ["one", "two"]
        .map(|name| {
            Scenario::parse(name, &format!("title = \"The {name}\"\nabout = \"It is {name}.\"\nsteps = []")).unwrap()
        })
        .to_vec()
}

fn reports() -> Vec<Report> {
    let report = |sdk: &str, scenario: &str, outcome| Report {
        sdk: sdk.into(),
        scenario: scenario.into(),
        outcome,
        elapsed: Duration::ZERO,
    };
    vec![
        report("go", "one", Outcome::Passed),
        report("go", "two", Outcome::NotSupported(vec!["lazy".into(), "pause".into()])),
        report("rust", "one", Outcome::Passed),
        report("rust", "two", Outcome::Passed),
    ]
}

/// The page in the repository has every scenario and every SDK, in these words.
#[test]
fn the_page_in_the_repository_is_of_these_scenarios() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let scenarios = Scenario::load_all(&root.join("sdk/conformance/scenarios")).unwrap();
    let drivers = DriverSpec::load_all(&root.join("sdk/conformance/drivers.toml")).unwrap();
    let page = std::fs::read_to_string(root.join("docs/sdk-conformance.md")).unwrap();
    check(&page, &scenarios, &drivers, &[]).unwrap();
}

#[test]
fn a_page_says_what_was_seen() {
    let page = page(&scenarios(), &drivers(), &reports()).unwrap();
    assert!(page.contains("| scenario | what holds | Go | Rust |\n|---|---|---|---|\n"), "{page}");
    assert!(page.contains("| The one | It is one. | yes | yes |\n"), "{page}");
    assert!(page.contains("| The two | It is two. | not supported: lazy, pause | yes |\n"), "{page}");
    check(&page, &scenarios(), &drivers(), &reports()).unwrap();
    // A run of one SDK, on a machine without the tools of the others, says nothing about those.
    check(&page, &scenarios(), &drivers(), &reports()[..1]).unwrap();
}

#[test]
fn a_page_that_says_something_else_is_refused() {
    let page = page(&scenarios(), &drivers(), &reports()).unwrap();
    let refused = |page: &str, expect: &str| {
        let error = check(page, &scenarios(), &drivers(), &reports()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    refused(&page.replace("not supported: lazy, pause", "yes"), "the page says \"yes\", the run \"not supported");
    refused(&page.replacen(" yes |", " not supported: lazy |", 1), "the run \"yes\"");
    refused(&page.replacen(" yes |", " maybe |", 1), "is no outcome");
    refused(&page.replace("It is two.", "It is more."), "its words have changed");
    refused(
        &page.replace("| The two | It is two. | not supported: lazy, pause | yes |\n", ""),
        "the table's scenarios",
    );
    refused(&page.replace(" Go |", " Zig |"), "the table is of");
    refused("no table", "there is no table");
}

#[test]
fn no_page_is_written_of_what_was_not_seen() {
    let mut reports = reports();
    reports[3].outcome = Outcome::Failed { faults: Vec::new(), detail: String::new() };
    assert!(page(&scenarios(), &drivers(), &reports).is_err());
    reports.pop();
    assert!(page(&scenarios(), &drivers(), &reports).is_err());
}
