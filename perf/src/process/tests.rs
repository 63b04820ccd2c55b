//! That nothing which a subject spends is missed.

use std::io::{BufRead, BufReader, Read, Write};

use super::*;

/// Keeps a core busy until this thread has used so much CPU time.
fn burn(time: Duration) {
    let began = Turns::of_this_thread().ran;
    while Turns::of_this_thread().ran - began < time {
        std::hint::spin_loop();
    }
}

#[test]
fn a_process_ends_with_its_children() {
    let script = "tail -f /dev/null & echo $!; wait";
    let mut command = Command::new("sh");
    let mut owned =
        Owned::start(command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped())).expect("start");
    let mut output = BufReader::new(owned.stdout().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("the child's number");
    let grandchild: u32 = line.trim().parse().expect("a number");
    let family = Family::of(vec![owned.id()]);
    assert!(family.members().contains(&grandchild), "{:?}", family.members());
    let since_they_began = family.books().expect("they run").since(&Books::default());
    assert!(since_they_began.total > Duration::ZERO);
    assert!(private_bytes(&family.members()).expect("they run") > 0);
    drop(owned);
    // Both held the other end of it.
    assert_eq!(output.read_to_string(&mut line).expect("the end"), 0);
    family.books().expect_err("they are gone");
}

#[test]
fn threads_that_have_ended_are_counted() {
    let family = Family::of(vec![std::process::id()]);
    let before = family.books().expect("this process runs");
    let spent = Duration::from_millis(60);
    std::thread::spawn(move || burn(spent)).join().expect("it ends");
    let cpu = family.books_after(&before).expect("this process runs").since(&before);
    assert!(cpu.total >= spent, "{cpu:?}");
}

/// A shell that is told by line when to go on, and says what it did by line.
struct Shell {
    owned: Owned,
    input: std::process::ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut owned = Owned::start(&mut command).expect("start");
        let (input, output) = (owned.0.stdin.take().expect("piped"), BufReader::new(owned.stdout().expect("piped")));
        Self { owned, input, output }
    }

    /// One step, until the shell says that it is done.
    fn step(&mut self) {
        self.input.write_all(b"\n").expect("it reads");
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).expect("it answers") > 0);
    }
}

/// About a tenth of a second of a shell's time.
const COUNT: &str = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";

#[test]
fn children_that_were_started_later_are_counted_whether_or_not_they_have_ended() {
    for (script, what) in [
        (format!("read x; ({COUNT}); echo; read x"), "ended"),
        (format!("read x; ({COUNT}; echo; exec tail -f /dev/null) & read x; wait"), "runs"),
    ] {
        let mut shell = Shell::start(&script);
        let family = Family::of(vec![shell.owned.id()]);
        let before = family.books().expect("it runs");
        shell.step();
        let cpu = family.books_after(&before).expect("it runs").since(&before);
        assert!(cpu.total >= Duration::from_millis(20), "{what}: {cpu:?}");
    }
}

/// What a child had used before the first reading comes back when it is waited for; it was not used in between.
#[test]
fn what_an_ended_child_had_used_before_is_not_counted_again() {
    let script = format!("({COUNT}; {COUNT}; echo; read x) & wait; echo; read x");
    // A child in the background reads from nowhere unless it is given the shell's own input.
    let script = script.replace("read x) &", "read x <&3) &");
    let mut shell = Shell::start(&format!("exec 3<&0; {script}"));
    let mut line = String::new();
    shell.output.read_line(&mut line).expect("the child has counted");
    let family = Family::of(vec![shell.owned.id()]);
    let before = family.books().expect("they run");
    assert!(before.since(&Books::default()).total >= Duration::from_millis(40));
    shell.step();
    let after = family.books_after(&before).expect("the parent runs");
    assert!(after.0.len() < before.0.len(), "the child has ended");
    let cpu = after.since(&before);
    assert!(cpu.total < Duration::from_millis(30), "{cpu:?}");
}

#[test]
fn a_thread_that_shares_its_core_has_waited_for_it() {
    let (core, _) = crate::machine::Cores::sensible().expect("a core");
    let spent = Duration::from_millis(150);
    let work = || {
        core.pin().expect("it may be used");
        let began = Turns::of_this_thread();
        burn(spent);
        Turns::of_this_thread().since(began)
    };
    let (one, other) = std::thread::scope(|scope| {
        let (one, other) = (scope.spawn(work), scope.spawn(work));
        (one.join().expect("it ends"), other.join().expect("it ends"))
    });
    assert!(one.ran >= spent && other.ran >= spent);
    assert!(one.waited + other.waited >= spent / 3, "{one:?} {other:?}");
}

#[test]
fn one_who_says_nothing_is_not_waited_for_forever() {
    let said = |script: &str| {
        let mut owned = Owned::start(Command::new("sh").args(["-c", script]).stdout(Stdio::piped())).expect("start");
        owned.first_line(Duration::from_millis(200)).map_err(|error| error.to_string())
    };
    let silent = said("exec tail -f /dev/null").expect_err("it says nothing");
    assert!(silent.contains("200ms"), "{silent}");
    let half = said("printf half; exec tail -f /dev/null").expect_err("no line");
    assert!(half.contains("half"), "{half}");
    let endless = said("exec tr '\\0' x < /dev/zero").expect_err("no line");
    assert!(endless.contains("64 KiB"), "{endless}");
    assert_eq!(said("echo one; exec tail -f /dev/null").as_deref(), Ok("one\n"));
    assert_eq!(said("exit 3").as_deref(), Ok(""), "the end says it, too");
}

#[test]
fn a_program_that_does_not_end_is_named() {
    let mut command = Command::new("tail");
    let error = output_of(command.args(["-f", "/dev/null"]), Duration::from_millis(200)).expect_err("it goes on");
    assert!(error.to_string().contains("tail"), "{error}");
    let said = output_of(Command::new("sh").args(["-c", "echo out; echo err >&2"]), Duration::from_secs(30));
    assert_eq!(said.expect("it ends"), "out\nerr");
}
