//! The counts that are expected, as they stand in the repository.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

/// More than this in either direction is to be looked at, in percent.
const CHANGE_MAX: u64 = 5;

/// What counts depend on besides the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) rustc: String,
    pub(super) target: String,
    pub(super) libc: String,
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} for {} with {}", self.rustc, self.target, self.libc)
    }
}

/// Counts by path, and where they are from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Baseline {
    pub(super) environment: Environment,
    pub(super) counts: BTreeMap<String, u64>,
}

/// A count beside what was expected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judgement {
    count: u64,
    /// `None` if the baseline has no such path.
    pub(super) expected: Option<u64>,
}

impl Baseline {
    pub(super) fn judge(&self, name: &str, count: u64) -> Judgement {
        Judgement { count, expected: self.counts.get(name).copied() }
    }

    /// The file.
    pub(super) fn to_text(&self) -> String {
        let Environment { rustc, target, libc } = &self.environment;
        let mut text = format!(
            "# Instructions of the hot paths, written by `cargo xtask counts --bless`; what each is of, the command without it says.\n\
             # `cargo xtask test` fails where a count is more than {CHANGE_MAX} % away, if it runs with the same tools.\n\n\
             [environment]\nrustc = \"{rustc}\"\ntarget = \"{target}\"\nlibc = \"{libc}\"\n\n[counts]\n"
        );
        for (name, count) in &self.counts {
            text.push_str(&format!("{name} = {count}\n"));
        }
        text
    }
}

impl FromStr for Baseline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().context("read TOML")?;
        let section = |name: &str| {
            let section = table.get(name).and_then(toml::Value::as_table);
            section.with_context(|| format!("there is no [{name}]"))
        };
        let environment = section("environment")?;
        let text = |name: &str| {
            let value = environment.get(name).and_then(toml::Value::as_str);
            Ok::<_, Error>(value.with_context(|| format!("[environment] has no {name}"))?.to_owned())
        };
        let environment = Environment { rustc: text("rustc")?, target: text("target")?, libc: text("libc")? };
        let count = |(name, value): (&String, &toml::Value)| {
            let count = value.as_integer().and_then(|count| u64::try_from(count).ok());
            let count = count.with_context(|| format!("{name} is no count"))?;
            ensure!(count > 0, "{name} is 0");
            Ok((name.clone(), count))
        };
        let counts = section("counts")?.iter().map(count).collect::<Result<_>>()?;
        Ok(Self { environment, counts })
    }
}

impl Judgement {
    /// Change since the baseline, in percent.
    pub(super) fn change(&self) -> Option<f64> {
        let expected = self.expected?;
        // Counts are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "percent are read to a digit")]
        let (count, expected) = (self.count as f64, expected as f64);
        Some((count / expected - 1.0) * 100.0)
    }

    pub(super) fn outcome(&self) -> Result<()> {
        let (change, expected) = self.change().zip(self.expected).context("it is not in the baseline")?;
        ensure!(
            self.count.abs_diff(expected) * 100 <= expected * CHANGE_MAX,
            "{} instructions, {expected} in the baseline ({change:+.1} %, {CHANGE_MAX} % are allowed)",
            self.count
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        let environment = Environment {
            rustc: "1.95.0".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            libc: "glibc 2.36".to_owned(),
        };
        Baseline { environment, counts: [("flush".to_owned(), 1_000), ("publish".to_owned(), 7)].into() }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(baseline().to_text().parse::<Baseline>().expect("TOML"), baseline());
    }

    #[test]
    fn what_is_no_baseline_is_refused() {
        let good = baseline().to_text();
        for (from, to) in [
            ("[counts]", ""),
            ("rustc =", "compiler ="),
            ("= 7", "= -7"),
            ("= 7", "= 0"),
            ("= 7", "= \"7\""),
            ("= 7", "="),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            bad.parse::<Baseline>().expect_err(&bad);
        }
    }

    #[test]
    fn five_percent_either_way_are_allowed() {
        for (count, is_allowed) in [(1_000, true), (1_050, true), (1_051, false), (950, true), (949, false)] {
            assert_eq!(baseline().judge("flush", count).outcome().is_ok(), is_allowed, "{count}");
        }
        baseline().judge("append", 1_000).outcome().expect_err("no such path");
    }
}
