//! `millrace-perf report`: a page, plots or a table from a report that was written before.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::{Report, file, markdown, plots};

/// What to make.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct Arguments {
    /// A report.json
    #[arg(value_name = "REPORT")]
    report: PathBuf,
    /// Write report.html into this folder
    #[arg(long, value_name = "FOLDER", group = "what")]
    out: Option<PathBuf>,
    /// Write each plot as an SVG of its own into this folder
    #[arg(long, value_name = "FOLDER", group = "what")]
    svg: Option<PathBuf>,
    /// Print the result table as Markdown
    #[arg(long, group = "what")]
    markdown: bool,
}

/// Makes what was asked for.
///
/// # Errors
/// When the report cannot be read, or what is made of it cannot be written.
pub(crate) fn render(arguments: &Arguments) -> Result<()> {
    let report = file::read(&arguments.report)?;
    if let Some(folder) = &arguments.out {
        page(&report, folder)?;
    }
    if let Some(folder) = &arguments.svg {
        for chart in plots::sections(&report).iter().flat_map(|section| section.shown.iter().chain(&section.more)) {
            write(folder, &format!("{}.svg", chart.name), &chart.file())?;
        }
    }
    if arguments.markdown {
        print!("{}", markdown::markdown(&report));
    }
    Ok(())
}

/// Writes the page of a report into a folder.
///
/// # Errors
/// When the folder or the file cannot be written.
pub(crate) fn page(report: &Report, folder: &Path) -> Result<()> {
    let mut report = report.clone();
    file::clean(&mut report);
    write(folder, "report.html", &super::page::page(&report))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
impl Arguments {
    pub(super) fn for_test(report: PathBuf, out: PathBuf, svg: PathBuf) -> Self {
        Self { report, out: Some(out), svg: Some(svg), markdown: false }
    }
}
