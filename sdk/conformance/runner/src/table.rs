//! `docs/sdk-conformance.md`: which SDK holds which scenario. Written by the runner, compared by it with every whole run.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::drivers::DriverSpec;
use crate::play::Outcome;
use crate::scenario::Scenario;
use crate::suite::Report;

const HEAD: &str = "\
# What each SDK holds

Every SDK plays the same scenarios against a real server, through the same runner (`sdk/conformance/`). *Yes* means that the last run of
`cargo xtask sdk-conformance` passed; *not supported* names what the SDK does not have. This page is written by
`cargo xtask sdk-conformance --write` and compared with the outcome of every run, so it cannot say more than was seen.

";

/// What the page says of one scenario and one SDK.
fn cell(outcome: &Outcome) -> Result<String> {
    Ok(match outcome {
        Outcome::Passed => "yes".into(),
        Outcome::NotSupported(missing) => format!("not supported: {}", missing.join(", ")),
        Outcome::Failed { .. } => bail!("a page is not written of a run that failed"),
    })
}

/// The page of a whole run.
///
/// # Errors
/// If something failed or is missing.
pub fn page(scenarios: &[Scenario], drivers: &BTreeMap<String, DriverSpec>, reports: &[Report]) -> Result<String> {
    let mut page = HEAD.to_owned();
    let titles: Vec<&str> = drivers.values().map(|driver| driver.title.as_str()).collect();
    page.push_str(&format!(
        "| scenario | what holds | {} |\n|---|---|{}\n",
        titles.join(" | "),
        "---|".repeat(titles.len())
    ));
    for scenario in scenarios {
        page.push_str(&format!("| {} | {} |", scenario.title, scenario.about));
        for sdk in drivers.keys() {
            let report = reports.iter().find(|report| report.sdk == *sdk && report.scenario == scenario.name);
            let Some(report) = report else { bail!("{sdk} has not run {}", scenario.name) };
            page.push_str(&format!(" {} |", cell(&report.outcome)?));
        }
        page.push('\n');
    }
    Ok(page)
}

/// Compares the page with what was run: every scenario and every SDK is on it, and no cell says something else than was seen.
///
/// # Errors
/// Says the first difference, and what to do.
pub fn check(
    page: &str,
    scenarios: &[Scenario],
    drivers: &BTreeMap<String, DriverSpec>,
    reports: &[Report],
) -> Result<()> {
    let advice = "run `cargo xtask sdk-conformance --write`";
    let mut rows = page.lines().filter(|line| line.starts_with("| ")).map(cells);
    let Some(head) = rows.next() else { bail!("there is no table: {advice}") };
    let titles: Vec<&str> = drivers.values().map(|driver| driver.title.as_str()).collect();
    ensure!(head.get(2..) == Some(&titles[..]), "the table is of {:?}, there is {titles:?}: {advice}", head.get(2..));
    let rows: Vec<Vec<&str>> = rows.collect();
    let named: Vec<&str> = rows.iter().filter_map(|row| row.first().copied()).collect();
    let wanted: Vec<&str> = scenarios.iter().map(|scenario| scenario.title.as_str()).collect();
    ensure!(named == wanted, "the table's scenarios are {named:?}, there is {wanted:?}: {advice}");
    for (row, scenario) in rows.iter().zip(scenarios) {
        ensure!(row.get(1) == Some(&scenario.about.as_str()), "{}: its words have changed: {advice}", scenario.name);
        ensure!(row.len() == 2 + titles.len(), "{}: the row has {} cells: {advice}", scenario.name, row.len());
        for (sdk, said) in drivers.keys().zip(&row[2..]) {
            ensure!(*said == "yes" || said.starts_with("not supported: "), "{}: {said:?} is no outcome", scenario.name);
            let report = reports.iter().find(|report| report.sdk == *sdk && report.scenario == scenario.name);
            if let Some(report) = report
                && let Ok(seen) = cell(&report.outcome)
            {
                ensure!(
                    seen == *said,
                    "{} with {sdk}: the page says {said:?}, the run {seen:?}: {advice}",
                    scenario.name
                );
            }
        }
    }
    Ok(())
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests;
