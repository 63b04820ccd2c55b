//! Instructions of the hot paths, counted by callgrind and compared with a baseline in the repository: unlike time they are the same on a
//! busy machine, so that a change of a few percent shows.
//!
//! `data-plane/core/examples/instructions` has each path in a function `counted_…`. Counts depend on the compiler, the target and the C
//! library (its allocator and memory functions are in them): with others than the baseline's they are told and not judged.

mod baseline;
mod profile;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

use baseline::{Baseline, Environment};

const BASELINE: &str = "perf/instructions.toml";

/// What to do with the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Compare them with the baseline.
    Compare,
    /// Make them the baseline.
    Bless,
}

/// A path that was run.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    name: String,
    times: u64,
    /// What a count is of, in words.
    of: String,
}

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally, counts: Counts) -> Result<()> {
    let outcome = count(workspace);
    let (ran, per_run) = match outcome {
        Ok(counted) => counted,
        Err(error) => {
            tally.check("instruction counts", &Err(error));
            return Ok(());
        }
    };
    let path = workspace.path(BASELINE);
    let environment = environment(workspace)?;
    if counts == Counts::Bless {
        let text = Baseline { environment, counts: per_run.into_iter().collect() }.to_text();
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("{BASELINE} is written: commit it with the reason why the counts changed");
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let baseline: Baseline = text.parse().with_context(|| format!("read {}", path.display()))?;
    judge(tally, &baseline, &environment, &ran, &per_run);
    Ok(())
}

/// Instructions of each path for each time that it ran, in the order of [`Ran`].
type PerRun = Vec<(String, u64)>;

/// Builds, runs, counts.
fn count(workspace: &Workspace) -> Result<(Vec<Ran>, PerRun)> {
    let mut build = workspace.cargo();
    build.args(["build", "--quiet", "--release", "--package", "millrace-core", "--example", "instructions"]);
    workspace.step("build the paths to count", &mut build)?;
    let folder = workspace.tools().join("counts");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    // Under a short name in its own folder: the stack begins behind the program's name, and what is aligned there must not depend on it.
    let program = workspace.target().join("release/examples/instructions");
    std::fs::copy(&program, folder.join("paths")).with_context(|| format!("copy {}", program.display()))?;
    eprintln!("\n== instruction counts");
    let began = Instant::now();
    let ran = run(&folder)?;
    let out = out_file(&folder);
    let text = std::fs::read_to_string(&out).with_context(|| format!("read {}", out.display()))?;
    let totals = profile::counted(&text)?;
    eprintln!("== instruction counts: {:.0} s", began.elapsed().as_secs_f32());
    let per_run = per_run(&ran, &totals)?;
    Ok((ran, per_run))
}

fn out_file(folder: &Path) -> PathBuf {
    folder.join("callgrind.out")
}

/// Runs the program under callgrind, in an environment of its own.
fn run(folder: &Path) -> Result<Vec<Ran>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.current_dir(folder).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    // The C library would choose its memory functions by the processor's abilities.
    valgrind.env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM");
    valgrind.args(["--tool=callgrind", "--toggle-collect=*counted_*", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.args(["--callgrind-out-file=callgrind.out", "--quiet", "./paths"]);
    let output = valgrind.stdin(Stdio::null()).output();
    let output = output.context("start valgrind (`cargo xtask setup` installs it)")?;
    ensure!(output.status.success(), "valgrind: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| ran(line).with_context(|| format!("the program printed {line:?}"))).collect()
}

fn ran(line: &str) -> Option<Ran> {
    let mut words = line.splitn(3, ' ');
    let (name, times, of) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    (times > 0).then(|| Ran { name: name.to_owned(), times, of: of.to_owned() })
}

/// Instructions for each time that a path ran.
fn per_run(ran: &[Ran], totals: &BTreeMap<String, u64>) -> Result<PerRun> {
    let each = ran.iter().map(|Ran { name, times, .. }| {
        let total = totals.get(name).with_context(|| format!("callgrind has not seen counted_{name}"))?;
        Ok((name.clone(), total / times))
    });
    let each = each.collect::<Result<Vec<_>>>()?;
    if let Some(name) = totals.keys().find(|name| !ran.iter().any(|ran| ran.name == **name)) {
        bail!("counted_{name} ran, but the program does not say how often");
    }
    Ok(each)
}

/// What the counts depend on besides the code.
fn environment(workspace: &Workspace) -> Result<Environment> {
    let rustc = workspace.command("rustc").arg("-vV").output().context("run rustc")?;
    let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim().to_owned()).with_context(|| format!("rustc -vV has no {name:?}"))
    };
    // Where there is no GNU C library, nothing answers.
    let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok().filter(|output| output.status.success());
    let libc = libc.map_or_else(|| "another".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    Ok(Environment { rustc: field("release:")?, target: field("host:")?, libc })
}

fn judge(tally: &mut Tally, baseline: &Baseline, here: &Environment, ran: &[Ran], per_run: &[(String, u64)]) {
    // One piece: another stage may print beside it.
    let mut table = format!("{:16} {:>12} {:>12} {:>8}  of", "path", "instructions", "baseline", "change");
    let is_same = baseline.environment == *here;
    let (mut failed, mut skipped) = (false, 0);
    for (Ran { name, of, .. }, &(_, count)) in ran.iter().zip(per_run) {
        let judgement = baseline.judge(name, count);
        let expected = judgement.expected.map_or_else(|| "none".to_owned(), |expected| expected.to_string());
        let change = judgement.change().map_or_else(String::new, |change| format!("{change:+.1} %"));
        let line = format!("\n{name:16} {count:>12} {expected:>12} {change:>8}  {of}");
        table.push_str(&line);
        if is_same {
            let outcome = judgement.outcome();
            failed |= outcome.is_err();
            tally.check(&format!("instructions of {name}"), &outcome);
        } else {
            skipped += 1;
        }
    }
    for name in baseline.counts.keys().filter(|name| !ran.iter().any(|ran| ran.name == **name)) {
        failed = true;
        let gone = Err(anyhow::anyhow!("the baseline has it, but there is no such path any more"));
        tally.check(&format!("instructions of {name}"), &gone);
    }
    println!("{table}");
    if skipped > 0 {
        println!("not judged: the baseline is of {}, and this is {here}", baseline.environment);
        tally.line(&format!("0 passed, 0 failed, {skipped} skipped"));
    }
    if failed {
        println!(
            "Where the instructions go: callgrind_annotate --inclusive=yes <target folder>/xtask/counts/callgrind.out\n\
             If the change is meant, or for the better: cargo xtask counts --bless, and commit {BASELINE} with the reason."
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_program_are_read() {
        let expect = Ran { name: "flush".to_owned(), times: 50, of: "turn of 1,001 sessions".to_owned() };
        assert_eq!(ran("flush 50 turn of 1,001 sessions"), Some(expect));
        for line in ["", "flush", "flush 50", "flush many times", "flush 0 turn"] {
            assert_eq!(ran(line), None, "{line:?}");
        }
    }

    #[test]
    fn every_path_is_divided_by_its_times_and_none_is_forgotten() {
        let ran = [Ran { name: "a".to_owned(), times: 50, of: "turn".to_owned() }];
        let totals = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 5_049)).collect::<BTreeMap<_, _>>();
        assert_eq!(per_run(&ran, &totals(&["a"])).expect("both know it"), [("a".to_owned(), 100)]);
        per_run(&ran, &totals(&[])).expect_err("not counted");
        per_run(&ran, &totals(&["a", "b"])).expect_err("not told");
    }

    fn tally_of(environment_of_baseline: &str, count: u64) -> Tally {
        let environment = |rustc: &str| Environment {
            rustc: rustc.to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            libc: "glibc 2.36".to_owned(),
        };
        let counts = [("a".to_owned(), 1_000)].into();
        let baseline = Baseline { environment: environment(environment_of_baseline), counts };
        let ran = [Ran { name: "a".to_owned(), times: 1, of: "turn".to_owned() }];
        let mut tally = Tally::default();
        judge(&mut tally, &baseline, &environment("1.95.0"), &ran, &[("a".to_owned(), count)]);
        tally
    }

    #[test]
    fn another_compiler_is_told_and_not_judged() {
        assert_eq!(tally_of("1.95.0", 1_000).failed(), 0);
        assert_eq!(tally_of("1.95.0", 2_000).failed(), 1);
        assert_eq!(tally_of("1.94.0", 2_000).failed(), 0);
    }

    #[test]
    fn a_path_that_is_gone_fails() {
        let environment = Environment { rustc: String::new(), target: String::new(), libc: String::new() };
        let baseline = Baseline { environment: environment.clone(), counts: [("a".to_owned(), 1)].into() };
        let mut tally = Tally::default();
        judge(&mut tally, &baseline, &environment, &[], &[]);
        assert_eq!(tally.failed(), 1);
    }
}
