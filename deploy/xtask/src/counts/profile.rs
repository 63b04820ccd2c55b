//! What callgrind writes, as far as it is needed: the inclusive cost of functions whose name begins with `counted_`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Instructions of each counted function and all that it called, by the function's name without `counted_`.
///
/// Shape: lines. `fn=NAME` begins a function's block; a line that begins with a digit or a sign is a position and a cost, of its own or,
/// behind `calls=`, of the function it called and all below. Names are written out (`--compress-strings=no`).
///
/// # Errors
/// If the file has no instruction counts or a cost that is no number.
///
/// Source: the Callgrind format specification of the Valgrind manual.
pub(super) fn counted(text: &str) -> Result<BTreeMap<String, u64>> {
    ensure!(text.lines().any(|line| line.trim() == "events: Ir"), "callgrind has counted no instructions");
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            current = counted_name(name);
        } else if let Some(name) = &current
            && line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*'))
        {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            *totals.entry(name.clone()).or_default() += cost.with_context(|| format!("a cost in {line:?}"))?;
        }
    }
    Ok(totals)
}

/// `program::counted_flush`, with or without a hash behind it, is `flush`; what is inside of such a function is not.
fn counted_name(name: &str) -> Option<String> {
    let (_, rest) = name.split_once("counted_")?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    let is_whole = !behind.contains('{') && !behind.contains('<');
    (is_whole && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_and_called_instructions_add_up() {
        let text = "version: 1\nevents: Ir\n\nfl=main.rs\nfn=program::counted_flush\n10 5\n11 7\n\
            cfn=program::other\ncalls=2 0x10\n12 100\n13 1\n\nfn=program::other\n20 100\n\n\
            fn=program::counted_flush::h0123456789abcdef\n10 1\n\n\
            fn=program::counted_publish\nfi=lib.rs\n1 4\nfe=main.rs\n+2 6\n\ntotals: 124\n";
        let expect = [("flush".to_owned(), 114), ("publish".to_owned(), 10)];
        assert_eq!(counted(text).expect("well formed"), expect.into());
    }

    #[test]
    fn what_is_no_count_is_an_error() {
        counted("version: 1\nevents: Dr\nfn=counted_a\n1 2\n").expect_err("other events");
        counted("events: Ir\nfn=counted_a\n1 many\n").expect_err("no number");
    }

    #[test]
    fn only_whole_functions_are_counted() {
        for (name, expect) in [
            ("program::counted_small_rooms", Some("small_rooms")),
            ("program::counted_a::h0123456789abcdef", Some("a")),
            ("counted_a", Some("a")),
            ("program::counted_a::{{closure}}", None),
            ("program::main", None),
            ("counted_", None),
        ] {
            assert_eq!(counted_name(name).as_deref(), expect, "{name}");
        }
    }
}
