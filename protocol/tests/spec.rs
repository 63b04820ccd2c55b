//! `SPEC.md` says what the code does: its table of codes, its limits, and the bytes of its example.

use std::path::Path;

use millrace_protocol::client::{
    AGENT_BYTES_MAX, CLIENT_FRAME_BYTES_MAX, ENDPOINTS_MAX, PAGE_BODY_BYTES_MAX, PAGE_MESSAGES_MAX, PAYLOAD_BYTES_CAP,
    SERVER_FRAME_BYTES_MAX, SUBPROTOCOL, SUBSCRIPTIONS_CAP, TOKEN_BYTES_MAX, VERSION,
};
use millrace_protocol::code::{Advice, Code};
use millrace_protocol::id::NAME_BYTES_MAX;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Cells of a table's row, or `None` for another line.
fn cells(line: &str) -> Option<Vec<&str>> {
    Some(line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::trim).collect())
}

#[test]
fn the_table_of_codes_is_complete() {
    let spec = read("SPEC.md");
    let rows: Vec<_> = spec
        .lines()
        .skip_while(|line| *line != "| code | name | meaning |")
        .skip(2)
        .map_while(cells)
        .map(|row| row.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>())
        .collect();
    let expect: Vec<_> = Code::ALL
        .iter()
        .map(|code| vec![code.number().to_string(), code.to_string(), code.meaning().trim().to_owned()])
        .collect();
    assert_eq!(rows, expect);
}

#[test]
fn the_ranges_give_the_advice_of_the_code() {
    let spec = read("SPEC.md");
    let mut ranges = 0;
    for row in spec.lines().filter_map(cells) {
        let Some((from, to)) = row[0].split_once('–') else { continue };
        let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) else { continue };
        let advice = match row[1].split("**").nth(1) {
            Some("do not retry") => Advice::DoNotRetry,
            Some("retry") => Advice::Retry,
            Some("reconnect") => Advice::Reconnect,
            Some("reload") => Advice::Reload,
            Some("authenticate") => Advice::Authenticate,
            _ => continue,
        };
        ranges += 1;
        assert!((from..=to).all(|number| Advice::of(number) == advice), "{row:?}");
    }
    assert_eq!(ranges, 5);
}

#[test]
fn codes_that_the_text_names_exist() {
    let spec = read("SPEC.md");
    let mut seen = 0;
    let bytes = spec.as_bytes();
    for at in spec.match_indices('4').map(|(at, _)| at) {
        let is_code = at > 0
            && matches!(bytes[at - 1], b' ' | b'[' | b'(')
            && spec.get(at..at + 4).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            && bytes.get(at + 4).is_none_or(|next| matches!(next, b' ' | b']' | b')' | b',' | b':' | b'.' | b';'))
            && !spec[..at].ends_with("range ");
        if !is_code {
            continue;
        }
        let number: u16 = spec[at..at + 4].parse().expect("four digits");
        assert!(Code::from_number(number).is_some(), "SPEC.md names {number}, which is no code");
        seen += 1;
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn limits_are_those_of_the_code() {
    let spec = read("SPEC.md");
    let check = |limit: &str, expect: usize| {
        let row =
            spec.lines().filter_map(cells).find(|row| row[0] == limit).unwrap_or_else(|| panic!("no row {limit}"));
        assert_eq!(row[1].replace(',', ""), expect.to_string(), "{limit}");
    };
    check("body of a message", PAYLOAD_BYTES_CAP);
    check("subscriptions of a session, and in a hello", SUBSCRIPTIONS_CAP);
    check("name of a channel or a user", NAME_BYTES_MAX);
    check("token", TOKEN_BYTES_MAX);
    check("agent", AGENT_BYTES_MAX);
    check("messages of a page", PAGE_MESSAGES_MAX);
    check("bodies of a page, together", PAGE_BODY_BYTES_MAX);
    check("endpoints of a goAway", ENDPOINTS_MAX);
    check("frame from a client", CLIENT_FRAME_BYTES_MAX);
    check("frame from a node", SERVER_FRAME_BYTES_MAX);
    assert!(spec.contains(&format!("`{SUBPROTOCOL}`")));
    assert!(spec.starts_with(&format!("# The Millrace protocol, version {VERSION}\n")));
}

#[test]
fn the_worked_example_is_made_of_vectors() {
    let spec = read("SPEC.md");
    let mut examples = 0;
    for block in spec.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("a block has lines");
        let (block, _) = rest.split_once("```").expect("a block ends");
        // Two spaces part bytes from what they mean.
        let bytes: String = block
            .lines()
            .flat_map(|line| line.split("  ").next().unwrap_or_default().chars().filter(|c| !c.is_whitespace()))
            .collect();
        let (file, vector) = name.split_once('/').expect("file/vector");
        let vectors: serde_json::Value =
            serde_json::from_str(&read(&format!("../sdk/conformance/vectors/{file}.json"))).expect("vectors are JSON");
        let frames = vectors["frames"].as_array().expect("frames are a list");
        let found = frames.iter().find(|frame| frame["name"] == vector).unwrap_or_else(|| panic!("no vector {name}"));
        assert_eq!(found["hex"], bytes, "{name}");
        examples += 1;
    }
    assert_eq!(examples, 4);
}
