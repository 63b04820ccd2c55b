//! Counts what passed and failed over all runners, and ends with one line that says so.

/// Tests by outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
}

impl Tally {
    /// A check without a count of its own, such as clippy.
    pub(crate) fn check(&mut self, name: &str, outcome: &anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// Reads the closing line of `cargo test` (`test result: ok. 3 passed; 0 failed; …`) or of our own suites
    /// (`3 passed, 0 failed`); other lines count nothing.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ").map_or(rest, |(_, counts)| counts),
            None if line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(" passed, ") => line,
            None => return,
        };
        for part in counts.split([';', ',']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" | "skipped" => self.ignored += number,
                _ => {}
            }
        }
    }

    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Adds what another has counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
    }

    pub(crate) fn print(&self) {
        if self.passed + self.failed == 0 {
            return;
        }
        println!();
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        if self.ignored > 0 {
            println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.ignored);
        } else {
            println!("{} passed, {} failed", self.passed, self.failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let check = |line: &str, passed, failed, ignored| {
            let mut tally = Tally::default();
            tally.line(line);
            assert_eq!((tally.passed, tally.failed, tally.ignored), (passed, failed, ignored), "{line}");
        };
        check(
            "test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.01s",
            12,
            1,
            2,
        );
        check("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 3, 2, 0);
        check("41 passed, 0 failed", 41, 0, 0);
        check("test foo ... ok", 0, 0, 0);
        check("running 3 tests", 0, 0, 0);
    }
}
