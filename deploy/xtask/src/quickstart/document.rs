//! Reads a document of which every fenced block is to be executed. Strict: what it does not understand is an error, so that no block
//! stands in the document without being executed.
//!
//! A section with subsections (`###`) offers alternatives: a reader takes one of them.

use anyhow::{Context, Result, bail, ensure};

/// What a reader does with a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Types it into the server's terminal: `sh server`.
    Serve,
    /// Types it into the own terminal: `sh`.
    Run,
    /// Puts it into a file, whose name in backquotes and a colon end the line before the block.
    Write(String),
}

/// In what order lines have to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Exact,
    /// The first may stand anywhere among the others, which keep theirs: two programs write to one terminal.
    Interleaved,
}

/// What is to be seen after a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) lines: Vec<String>,
    pub(super) order: Order,
}

/// A block, and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Of the block's first line of text, counted from 1.
    pub(super) line: usize,
    /// The subsection that it is in, if any.
    pub(super) alternative: Option<String>,
    pub(super) action: Action,
    pub(super) body: String,
    pub(super) shown: Option<Shown>,
}

const FENCE: &str = "```";

/// All blocks in their order.
///
/// # Errors
/// If a fence is indented, of tildes or not closed, or a block's language is unknown, or it is not said where it belongs.
pub(super) fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut alternative = None;
    let mut before = "";
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(info) = line.strip_prefix(FENCE) {
            let mut body = String::new();
            loop {
                let (_, line) = lines.next().with_context(|| format!("line {}: the block is not closed", index + 1))?;
                if line == FENCE {
                    break;
                }
                ensure!(!line.starts_with(FENCE), "line {}: a fence within a block", index + 1);
                body.push_str(line);
                body.push('\n');
            }
            block(&mut steps, info, before, body, alternative.as_ref())
                .map(|step| step.into_iter().for_each(|step| steps.push(Step { line: index + 2, ..step })))
                .with_context(|| format!("the block at line {}", index + 1))?;
        } else {
            let trimmed = line.trim_start();
            let fence = trimmed.starts_with(FENCE) || trimmed.starts_with("~~~") || trimmed.starts_with("> ```");
            ensure!(!fence, "line {}: a fence that is not three backquotes at the line's beginning", index + 1);
            if let Some(title) = line.strip_prefix("### ") {
                alternative = Some(title.trim().to_owned());
            } else if line.starts_with("## ") || line.starts_with("# ") {
                alternative = None;
            }
        }
        if !line.trim().is_empty() {
            before = line;
        }
    }
    Ok(steps)
}

/// A new step, or none if the block is what the last one shows.
fn block(
    steps: &mut [Step],
    info: &str,
    before: &str,
    body: String,
    alternative: Option<&String>,
) -> Result<Option<Step>> {
    let action = match info {
        "sh" => Action::Run,
        "sh server" => Action::Serve,
        "rust" | "ts" | "go" => Action::Write(file(before)?),
        "text" | "text interleaved" => {
            let order = if info == "text" { Order::Exact } else { Order::Interleaved };
            let last = steps.last_mut().context("it follows no command")?;
            ensure!(!matches!(last.action, Action::Write(_)), "it follows a file, which prints nothing");
            ensure!(last.alternative.as_ref() == alternative, "it is in another section than its command");
            ensure!(last.shown.is_none(), "its command shows something else already");
            let lines: Vec<String> = body.lines().map(str::to_owned).collect();
            ensure!(!lines.is_empty(), "it is empty");
            last.shown = Some(Shown { lines, order });
            return Ok(None);
        }
        _ => bail!("nobody knows how to execute {info:?}"),
    };
    Ok(Some(Step { line: 0, alternative: alternative.cloned(), action, body, shown: None }))
}

fn file(before: &str) -> Result<String> {
    let name = before.strip_suffix("`:").and_then(|rest| rest.rsplit_once('`')).map(|(_, name)| name);
    let name = name.context("the line before it does not end in a file's name in backquotes and a colon")?;
    let stays = !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    ensure!(stays, "{name:?} is no name of a file below the folder");
    Ok(name.to_owned())
}

/// The alternatives, in their order; each reader takes one.
pub(super) fn alternatives(steps: &[Step]) -> Vec<String> {
    let mut found: Vec<String> = steps.iter().filter_map(|step| step.alternative.clone()).collect();
    found.dedup();
    found
}

/// Whether a line is what the document shows: `…` stands for one character or more.
pub(super) fn matches(shown: &str, line: &str) -> bool {
    let Some((head, tail)) = shown.split_once('…') else { return shown == line };
    let Some(rest) = line.strip_prefix(head) else { return false };
    rest.char_indices().skip(1).map(|(at, _)| at).chain([rest.len()]).any(|at| at > 0 && matches(tail, &rest[at..]))
}

impl Shown {
    /// Whether these lines, so far, can become what is shown.
    pub(super) fn begins_with(&self, lines: &[String]) -> bool {
        let fits = |shown: &[&String]| {
            lines.len() <= shown.len() && lines.iter().zip(shown).all(|(line, shown)| matches(shown, line))
        };
        let mut shown: Vec<&String> = self.lines.iter().collect();
        if self.order == Order::Exact {
            return fits(&shown);
        }
        (0..shown.len()).any(|at| {
            let fits = fits(&shown);
            if at + 1 < shown.len() {
                shown.swap(at, at + 1);
            }
            fits
        })
    }
}

#[cfg(test)]
mod tests;
