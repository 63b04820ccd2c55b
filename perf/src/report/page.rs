//! The page: everything of a report in one file, without scripts and without another origin. Every text goes through the template's escaping.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{self, Chart, Form, Mark};
use super::plots::{self, Section};
use super::words;
use crate::limit::{self, Limit};
use crate::print::number;
use crate::report::{Against, Better, Figure, Report};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let sections = plots::sections(report);
    let names: Vec<&str> = sections.iter().map(|section| section.scenario.as_str()).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Millrace perf: " (names.join(", ")) }
                style { (PreEscaped(STYLE)) (PreEscaped(chart::STYLE)) }
            }
            body {
                (header(report))
                main {
                    @for section in &sections { (plots_of(report, section)) }
                    (all_figures(report, &names))
                    (surroundings(report))
                    (caution(report))
                }
                footer { "Written by millrace-perf " (env!("CARGO_PKG_VERSION")) ", report format " (report.format) "." }
            }
        }
    };
    page.into_string()
}

fn header(report: &Report) -> Markup {
    let load_bound = report.figures.iter().filter(|figure| figure.load_bound > 0).count();
    html! {
        header {
            p.brand { "Millrace perf" }
            h1 { "What was measured" }
            p.machine {
                time { (words::time(report.started)) } " · " (report.machine.processor) ", " (count(report.machine.cores, "core")) " · subjects on core "
                (report.subject_cores) ", load on core " (report.load_cores)
            }
            ul.badges {
                @if report.interrupted { li.warn { "interrupted: what was measured by then" } }
                @if !report.failures.is_empty() { li.warn { a href="#failures" { (count(report.failures.len(), "failure")) } } }
                @if !report.missing.is_empty() { li { a href="#missing" { (count(report.missing.len(), "subject")) " missing" } } }
                @if load_bound > 0 { li { (count(load_bound, "figure")) " load-bound" } }
                li { a href="#figures" { (count(report.figures.len(), "figure")) } }
                li { a href="#caution" { "what not to conclude" } }
            }
        }
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn plots_of(report: &Report, section: &Section) -> Markup {
    let title = report.scenarios.get(&section.scenario);
    html! {
        section {
            h2 { (section.scenario) @if let Some(title) = title { span { (title) } } }
            @if section.shown.is_empty() { p { "Nothing to plot; the figures are in the table." } }
            div.plots { @for chart in &section.shown { (plot(chart)) } }
            @if !section.more.is_empty() {
                details.more {
                    summary { (count(section.more.len(), "more plot")) " with other values of what is held fixed" }
                    div.plots { @for chart in &section.more { (plot(chart)) } }
                }
            }
        }
    }
}

fn plot(chart: &Chart) -> Markup {
    html! {
        figure id=(chart.name) {
            div.canvas { (chart.inline()) }
            figcaption {
                @if chart.has_load_bound() {
                    p.hint { "Hollow: the load generator was at its limit; the subject is at least this good." }
                }
                details { summary { "Values of this plot" } (plot_table(chart)) }
            }
        }
    }
}

/// The plot's values as a table.
fn plot_table(chart: &Chart) -> Markup {
    let cell = |mark: Option<&Mark>| match mark {
        Some(mark) => html! {
            td.number { (number(mark.median)) span.spread { (number(mark.low)) "–" (number(mark.high)) } }
        },
        None => html! { td.number { "–" } },
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "Values of " (chart.title) } {
            table {
                caption { (chart.title) ", " (chart.unit) ": median, lowest–highest run" }
                @match &chart.form {
                    Form::Lines { x_label, series } => {
                        @let xs = chart.xs();
                        thead {
                            tr { th scope="col" { "Subject" } @for x in &xs { th.number scope="col" { (number(*x)) } } }
                        }
                        tbody {
                            @for series in series {
                                tr {
                                    th scope="row" { (series.subject) }
                                    @for x in &xs { (cell(series.points.iter().find(|(at, _)| at == x).map(|(_, mark)| mark))) }
                                }
                            }
                        }
                        tfoot { tr { td colspan=(xs.len() + 1) { "Columns: " (x_label) } } }
                    }
                    Form::Bars(bars) => {
                        thead { tr { th scope="col" { "Subject" } th scope="col" { "Guarantee" } th.number scope="col" { (chart.unit) } } }
                        tbody {
                            @for bar in bars {
                                tr { th scope="row" { (bar.subject) } td { (bar.guarantee) } (cell(Some(&bar.mark))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn all_figures(report: &Report, scenarios: &[&str]) -> Markup {
    html! {
        section #figures {
            h2 { "Every figure" span { "medians of the runs; the ratio is the median of ratios of runs of the same minute" } }
            @for scenario in scenarios {
                details open {
                    summary { (scenario) }
                    div.scroll tabindex="0" role="region" aria-label={ "Figures of " (scenario) } {
                        table.all {
                            thead {
                                tr {
                                    th scope="col" { "Figure" } th scope="col" { "Subject" } th.number scope="col" { "Median" }
                                    th.number scope="col" { "Lowest–highest" } th scope="col" { "Unit" } th.number scope="col" { "Runs" }
                                    th.number scope="col" { "× limit" } th scope="col" { "Guarantee" }
                                }
                            }
                            @for (point, figures) in words::by_point(report, scenario) {
                                tbody {
                                    tr { th.point scope="rowgroup" colspan="8" { (point) } }
                                    @for figure in figures { (figure_row(report, figure)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn figure_row(report: &Report, figure: &Figure) -> Markup {
    let (low, high) = figure.spread();
    html! {
        tr.own[figure.subject == "millrace"].explains[figure.better == Better::Neither] {
            td { (figure.metric) @match figure.better {
                Better::Lower => span.better title="lower is better" { "↓" },
                Better::Higher => span.better title="higher is better" { "↑" },
                Better::Neither => "",
            } }
            th scope="row" { (figure.subject) }
            td.number {
                (number(figure.median()))
                @if figure.load_bound > 0 { span.bound { "load-bound in " (figure.load_bound) " of " (figure.runs.len()) } }
            }
            td.number { (number(low)) "–" (number(high)) }
            td { (figure.unit) }
            td.number { (figure.runs.len()) }
            td.number {
                @match report.against(figure) {
                    Some(Against::Ratio(ratio)) => (ratio.to_string().replace(" × limit", "")),
                    Some(unknown) => span.spread { (unknown.to_string()) },
                    None => "",
                }
                @if let Some(beside) = limit::beside(report, figure) { span.spread { (beside) } }
            }
            td { (figure.guarantee) }
        }
    }
}

fn surroundings(report: &Report) -> Markup {
    let machine = &report.machine;
    html! {
        section {
            h2 { "How it was measured" }
            dl {
                dt { "Command" } dd { code { (report.command) } }
                dt { "Processor" } dd { (machine.processor) ", " (count(machine.cores, "core")) }
                dt { "Memory" } dd { (number(gibibytes(machine.memory_bytes))) " GiB" }
                dt { "System" } dd { (machine.system) ", Linux " (machine.kernel) }
                dt { "Cores" } dd { "subjects on " (report.subject_cores) ", load generator on " (report.load_cores) }
                @for subject in &report.subjects { dt { (subject.name) } dd { (subject.version) } }
            }
            (limits(&report.limits))
            @if !report.missing.is_empty() {
                h3 #missing { "Missing subjects" }
                dl {
                    @for subject in &report.missing {
                        dt { (subject.name) } dd {
                            (subject.missing.why)
                            @if !subject.missing.install.is_empty() { "; install it with " code { (subject.missing.install) } }
                        }
                    }
                }
            }
            @if !report.failures.is_empty() {
                h3 #failures { "Failures" }
                ul { @for failure in &report.failures { li { pre { (failure) } } } }
            }
        }
    }
}

fn limits(limits: &[Limit]) -> Markup {
    html! {
        @if !limits.is_empty() {
            h3 { "What this machine can do at best" }
            div.scroll tabindex="0" role="region" aria-label="Limits of the machine" {
                table {
                    thead {
                        tr {
                            th scope="col" { "Limit" } th.number scope="col" { "Median" }
                            th.number scope="col" { "Lowest–highest round" } th scope="col" { "Unit" }
                        }
                    }
                    tbody {
                        @for limit in limits {
                            tr {
                                th scope="row" { (limit.name) } td.number { (number(limit.value)) }
                                td.number { (number(limit.low)) "–" (number(limit.high)) } td { (limit.unit) }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "read to a tenth of a GiB")]
fn gibibytes(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 10.0).round() / 10.0
}

fn caution(report: &Report) -> Markup {
    html! {
        section #caution {
            h2 { "What not to conclude" }
            ul { @for (what, why) in words::cautions(report) { li { strong { (what) } " " (why) } } }
        }
    }
}
