//! `docs/sdk-conformance.md`: which SDK holds which scenario over which transport. Written by the runner, compared by it with every run.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::drivers::DriverSpec;
use crate::play::Outcome;
use crate::scenario::Scenario;
use crate::suite::Report;
use crate::transport::Transport;

const HEAD: &str = "\
# What each SDK holds

Every SDK plays the same scenarios against a real server, through the same runner (`sdk/conformance/`), over each transport that it has. A cell
names the transports over which the last run of `cargo xtask sdk-conformance` passed; *not supported* names what the SDK does not have. This
page is written by `cargo xtask sdk-conformance --write` and compared with the outcome of every run, so it cannot say more than was seen.

`ws` is WebSocket in the clear, `wss` on TLS, `quic` a stream for each channel on QUIC, and `webtransport` the same within HTTP/3.

";
const NOT_OVER: &str = "\n## Not over every transport\n\n";
const ADVICE: &str = "run `cargo xtask sdk-conformance --write`";

/// Over what a scenario is played with this SDK.
fn played(scenario: &Scenario, driver: &DriverSpec) -> Vec<Transport> {
    driver.transports.iter().copied().filter(|transport| !scenario.not_over.contains_key(transport)).collect()
}

/// What the page says of an SDK that holds a scenario over these.
fn held(transports: &[Transport]) -> String {
    match transports {
        [] => "–".into(),
        some => some.iter().map(|transport| transport.name()).collect::<Vec<_>>().join(", "),
    }
}

fn not_supported(missing: &[String]) -> String {
    format!("not supported: {}", missing.join(", "))
}

fn head(drivers: &BTreeMap<String, DriverSpec>) -> String {
    let titles: Vec<&str> = drivers.values().map(|driver| driver.title.as_str()).collect();
    format!("| scenario | what holds | {} |\n|---|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()))
}

/// Why what is missing in cells is missing.
fn notes(scenarios: &[Scenario]) -> String {
    let mut notes = String::new();
    for scenario in scenarios {
        for (transport, reason) in &scenario.not_over {
            notes.push_str(&format!("- *{}*, `{transport}`: {reason}\n", scenario.title));
        }
    }
    if notes.is_empty() { notes } else { format!("{NOT_OVER}{notes}") }
}

/// The page of a whole run.
///
/// # Errors
/// If something failed or is missing.
pub fn page(scenarios: &[Scenario], drivers: &BTreeMap<String, DriverSpec>, reports: &[Report]) -> Result<String> {
    let mut page = format!("{HEAD}{}", head(drivers));
    for scenario in scenarios {
        page.push_str(&format!("| {} | {} |", scenario.title, scenario.about));
        for (sdk, driver) in drivers {
            page.push_str(&format!(" {} |", cell(scenario, sdk, driver, reports)?));
        }
        page.push('\n');
    }
    page.push_str(&notes(scenarios));
    Ok(page)
}

fn cell(scenario: &Scenario, sdk: &str, driver: &DriverSpec, reports: &[Report]) -> Result<String> {
    let transports = played(scenario, driver);
    for &transport in &transports {
        let is_it =
            |report: &&Report| (&*report.sdk, report.transport, &report.scenario) == (sdk, transport, &scenario.name);
        match reports.iter().find(is_it).map(|report| &report.outcome) {
            Some(Outcome::Passed) => {}
            // It is the SDK that lacks it, whatever carries its frames.
            Some(Outcome::NotSupported(missing)) => return Ok(not_supported(missing)),
            Some(Outcome::Failed { .. }) => bail!("a page is not written of a run that failed"),
            None => bail!("{sdk} has not run {} over {transport}", scenario.name),
        }
    }
    Ok(held(&transports))
}

/// Compares the page with what was run: every scenario, every SDK and each of its transports is on it, and no cell says something else
/// than was seen.
///
/// # Errors
/// Says the first difference, and what to do.
pub fn check(
    page: &str,
    scenarios: &[Scenario],
    drivers: &BTreeMap<String, DriverSpec>,
    reports: &[Report],
) -> Result<()> {
    let mut rows = page.lines().filter(|line| line.starts_with("| ")).map(cells);
    let Some(head) = rows.next() else { bail!("there is no table: {ADVICE}") };
    let titles: Vec<&str> = drivers.values().map(|driver| driver.title.as_str()).collect();
    ensure!(head.get(2..) == Some(&titles[..]), "the table is of {:?}, there is {titles:?}: {ADVICE}", head.get(2..));
    let rows: Vec<Vec<&str>> = rows.collect();
    let named: Vec<&str> = rows.iter().filter_map(|row| row.first().copied()).collect();
    let wanted: Vec<&str> = scenarios.iter().map(|scenario| scenario.title.as_str()).collect();
    ensure!(named == wanted, "the table's scenarios are {named:?}, there is {wanted:?}: {ADVICE}");
    for (row, scenario) in rows.iter().zip(scenarios) {
        let name = &scenario.name;
        ensure!(row.get(1) == Some(&scenario.about.as_str()), "{name}: its words have changed: {ADVICE}");
        ensure!(row.len() == 2 + titles.len(), "{name}: the row has {} cells: {ADVICE}", row.len());
        for ((sdk, driver), said) in drivers.iter().zip(&row[2..]) {
            let whole = held(&played(scenario, driver));
            let is_outcome = *said == whole || said.starts_with("not supported: ");
            ensure!(is_outcome, "{name} with {sdk}: the page says {said:?}, to be held is {whole:?}: {ADVICE}");
            for report in reports.iter().filter(|report| report.sdk == *sdk && report.scenario == *name) {
                let seen = match &report.outcome {
                    Outcome::Passed => whole.clone(),
                    Outcome::NotSupported(missing) => not_supported(missing),
                    // It is told elsewhere, and says nothing about what the SDK has.
                    Outcome::Failed { .. } => continue,
                };
                let transport = report.transport;
                ensure!(
                    seen == *said,
                    "{name} with {sdk}: the page says {said:?}, the run over {transport} {seen:?}: {ADVICE}"
                );
            }
        }
    }
    let notes = notes(scenarios);
    let told = page.split_once(NOT_OVER).map_or(String::new(), |(_, told)| format!("{NOT_OVER}{told}"));
    ensure!(told == notes, "the reasons have changed why a scenario is not played over a transport: {ADVICE}");
    Ok(())
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests;
