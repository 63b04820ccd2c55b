use std::path::Path;
use std::time::Duration;

use super::*;

fn drivers() -> BTreeMap<String, DriverSpec> {
    let text = "[go]\ntitle = \"Go\"\ntransports = [\"ws\"]\nrun = [\"x\"]\n\
                [rust]\ntitle = \"Rust\"\ntransports = [\"ws\", \"quic\"]\nrun = [\"x\"]";
    toml::from_str(text).unwrap()
}

fn scenarios() -> Vec<Scenario> {
    let parse = |name: &str, more: &str| {
        let text = format!("title = \"The {name}\"\nabout = \"It is {name}.\"\n{more}\nsteps = []");
        Scenario::parse(name, &text).unwrap()
    };
    vec![
        parse("one", ""),
        parse("two", "needs = [\"lazy\"]"),
        parse("three", "not_over = { ws = \"It is of QUIC.\", wss = \"As over `ws`.\" }"),
    ]
}

fn reports() -> Vec<Report> {
    let report = |sdk: &str, transport, scenario: &str, outcome| Report {
        sdk: sdk.into(),
        transport,
        scenario: scenario.into(),
        outcome,
        elapsed: Duration::ZERO,
    };
    vec![
        report("go", Transport::Ws, "one", Outcome::Passed),
        report("go", Transport::Ws, "two", Outcome::NotSupported(vec!["lazy".into(), "pause".into()])),
        report("rust", Transport::Ws, "one", Outcome::Passed),
        report("rust", Transport::Ws, "two", Outcome::Passed),
        report("rust", Transport::Quic, "one", Outcome::Passed),
        report("rust", Transport::Quic, "two", Outcome::Passed),
        report("rust", Transport::Quic, "three", Outcome::Passed),
    ]
}

/// The page in the repository has every scenario and every SDK with its transports, in these words.
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
    assert!(page.contains("| The one | It is one. | ws | ws, quic |\n"), "{page}");
    assert!(page.contains("| The two | It is two. | not supported: lazy, pause | ws, quic |\n"), "{page}");
    assert!(page.contains("| The three | It is three. | – | quic |\n"), "{page}");
    assert!(page.ends_with("- *The three*, `ws`: It is of QUIC.\n- *The three*, `wss`: As over `ws`.\n"), "{page}");
    check(&page, &scenarios(), &drivers(), &reports()).unwrap();
    // A run of one SDK over one transport, on a machine without the tools of the others, says nothing about those.
    check(&page, &scenarios(), &drivers(), &reports()[..1]).unwrap();
    check(&page, &scenarios(), &drivers(), &reports()[6..]).unwrap();
}

#[test]
fn a_page_that_says_something_else_is_refused() {
    let page = page(&scenarios(), &drivers(), &reports()).unwrap();
    let refused = |page: &str, expect: &str| {
        let error = check(page, &scenarios(), &drivers(), &reports()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    refused(&page.replace("not supported: lazy, pause", "ws"), "the page says \"ws\", the run over ws \"not supported");
    refused(&page.replacen(" ws, quic |", " not supported: lazy |", 1), "the run over ws \"ws, quic\"");
    refused(&page.replacen(" ws, quic |", " ws |", 1), "the page says \"ws\", to be held is \"ws, quic\"");
    refused(&page.replacen(" ws |", " ws, quic |", 1), "the page says \"ws, quic\", to be held is \"ws\"");
    refused(&page.replacen(" ws |", " maybe |", 1), "the page says \"maybe\"");
    refused(&page.replace("It is two.", "It is more."), "its words have changed");
    refused(
        &page.replace("| The two | It is two. | not supported: lazy, pause | ws, quic |\n", ""),
        "the table's scenarios",
    );
    refused(&page.replace("It is of QUIC.", "It is late."), "the reasons have changed");
    refused(&page.replace(" Go |", " Zig |"), "the table is of");
    refused("no table", "there is no table");
}

#[test]
fn no_page_is_written_of_what_was_not_seen() {
    let whole = reports();
    let mut failed = reports();
    failed[3].outcome = Outcome::Failed { faults: Vec::new(), detail: String::new() };
    assert!(page(&scenarios(), &drivers(), &failed).is_err());
    for missing in 0..whole.len() {
        let mut reports = reports();
        reports.remove(missing);
        assert!(page(&scenarios(), &drivers(), &reports).is_err(), "without {missing}");
    }
}
