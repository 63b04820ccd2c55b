use super::*;

#[test]
fn blocks_become_steps() {
    let text = "# T\n\n```sh server\nserve\n```\n\nThen:\n\n```text\nready …\n\nyes\n```\n\n## Own\n\n### Go\n\nInto `a/b.go`:\n\n\
        ```go\npackage a\n```\n\n### Rust\n\n```sh\ncargo run\n```\n```text interleaved\none\ntwo\n```\n## End\n```sh\nls\n```\n";
    let steps = parse(text).unwrap();
    let seen: Vec<_> = steps.iter().map(|s| (s.line, s.alternative.as_deref(), s.action.clone(), &*s.body)).collect();
    assert_eq!(
        seen,
        [
            (4, None, Action::Serve, "serve\n"),
            (22, Some("Go"), Action::Write("a/b.go".into()), "package a\n"),
            (28, Some("Rust"), Action::Run, "cargo run\n"),
            (36, None, Action::Run, "ls\n"),
        ]
    );
    assert_eq!(
        steps[0].shown,
        Some(Shown { lines: vec!["ready …".into(), String::new(), "yes".into()], order: Order::Exact })
    );
    assert_eq!(steps[2].shown, Some(Shown { lines: vec!["one".into(), "two".into()], order: Order::Interleaved }));
    assert_eq!(alternatives(&steps), ["Go", "Rust"]);
}

#[test]
fn what_would_not_be_executed_is_an_error() {
    let check = |text: &str, expect: &str| {
        let error = format!("{:#}", parse(text).unwrap_err());
        assert!(error.contains(expect), "{text:?}: {error}");
    };
    check("```\nx\n```\n", "nobody knows how to execute \"\"");
    check("```python\nx\n```\n", "nobody knows how to execute \"python\"");
    check("```sh servre\nx\n```\n", "nobody knows");
    check("text\n```sh\nx\n", "line 2: the block is not closed");
    check("```sh\n```sh\n```\n", "a fence within a block");
    check("- list\n  ```sh\n  x\n  ```\n", "line 2: a fence that is not");
    check("~~~sh\nx\n~~~\n", "line 1: a fence that is not");
    check("```text\nx\n```\n", "it follows no command");
    check("```sh\nx\n```\n```text\nx\n```\n```text\ny\n```\n", "shows something else already");
    check("```sh\nx\n```\n```text\n```\n", "it is empty");
    check("### A\n```sh\nx\n```\n### B\n```text\nx\n```\n", "another section");
    check("`a.go`:\n```go\nx\n```\n```text\nx\n```\n", "it follows a file");
    check("Some words\n```go\nx\n```\n", "does not end in a file's name");
    check("`../a.go`:\n```go\nx\n```\n", "no name of a file below");
    check("`/a.go`:\n```go\nx\n```\n", "no name of a file below");
}

#[test]
fn an_ellipsis_stands_for_something() {
    let check = |shown, line, expect| assert_eq!(matches(shown, line), expect, "{shown:?} {line:?}");
    check("a", "a", true);
    check("a", "ab", false);
    check("a…", "ab", true);
    check("a…", "a", false);
    check("…b", "aöb", true);
    check("…b", "b", false);
    check("…-…", "1-2", true);
    check("…-…", "1-", false);
    check("x…y…z", "x1y2y3z", true);
    check("x…y…z", "x1y2y3", false);
    check("", "a", false);
}

#[test]
fn order_is_held() {
    let check = |order, lines: &[&str], expect| {
        let shown = Shown { lines: ["s", "a", "b"].map(str::to_owned).to_vec(), order };
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        assert_eq!(shown.begins_with(&lines), expect, "{order:?} {lines:?}");
    };
    check(Order::Exact, &[], true);
    check(Order::Exact, &["s", "a"], true);
    check(Order::Exact, &["a", "s"], false);
    check(Order::Exact, &["s", "a", "b", "c"], false);
    for lines in [&["s", "a", "b"], &["a", "s", "b"], &["a", "b", "s"]] {
        check(Order::Interleaved, lines, true);
    }
    for lines in [&["b", "a", "s"], &["s", "b", "a"], &["a", "a", "s"], &["s", "s", "a"]] {
        check(Order::Interleaved, lines, false);
    }
    check(Order::Interleaved, &["a", "b"], true);
    check(Order::Interleaved, &["s", "a", "b", "b"], false);
}
