//! The main job as a person does it: one terminal follows a channel, another pipes a real text into it.

mod support;

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use support::{Dev, Owned, text};

const PATIENCE: Duration = Duration::from_secs(120);

/// What carries the frames, and where the server says that it is reached by that; the terminal speaks no WebTransport.
const TRANSPORTS: [(&str, &str); 3] = [("ws", "url"), ("wss", "tls_url"), ("quic", "quic_url")];

/// Every line arrives once, in order, byte for byte, over each transport.
#[test]
fn a_text_of_many_languages_goes_from_one_terminal_to_another() {
    let text = text(10_000);
    let lines = text.iter().filter(|&&byte| byte == b'\n').count().to_string();
    let mut dev = Dev::start(&[]);
    let path = |dev: &Dev, name: String| dev.folder.path().join(name);
    let input = path(&dev, "sent.txt".to_owned());
    std::fs::write(&input, &text).unwrap();
    for (transport, field) in TRANSPORTS {
        let url = dev.ready[field].as_str().expect("the server tells where it is").to_owned();
        dev.output(&["channel", "create", transport, "--owner", "alice"]);
        let output = path(&dev, format!("{transport}.txt"));
        let mut tail = dev.command(&["tail", transport, "--count", &lines, "--url", &url]);
        let tail = tail.stdout(File::create(&output).unwrap()).stderr(Stdio::piped()).spawn().unwrap();
        let mut tail = Owned(tail);
        tail.await_stderr(&format!("following {transport}"));
        let mut send = dev.command(&["send", transport, "--url", &url]);
        let send = send.stdin(File::open(&input).unwrap()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(Owned(send).finish(PATIENCE).success(), "{url}");
        assert!(tail.finish(PATIENCE).success(), "{url}");
        let received = std::fs::read(&output).unwrap();
        assert_eq!(received.len(), text.len(), "{url}");
        assert!(received == text, "the text arrived changed over {url}");
    }

    // The same from the store, after a restart that nobody was warned of.
    dev.restart();
    for (transport, _) in TRANSPORTS {
        let stored = dev.output(&["history", transport, "--after", "0", "--limit", &lines, "--format", "raw"]);
        assert!(stored.as_bytes() == text, "the history of what went over {transport} differs from what was sent");
    }
}

/// A line that no message may hold ends the command before any line behind it is sent.
#[test]
fn a_line_that_is_too_large_stops_what_is_behind_it() {
    let dev = Dev::start(&[]);
    let input = dev.folder.path().join("input.txt");
    std::fs::write(&input, [&b"a\n"[..], &[b'x'; 16_385], b"\nb\n"].concat()).unwrap();
    let send = dev.command(&["send", "general"]).stdin(File::open(&input).unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&send.stderr).into_owned();
    assert!(!send.status.success());
    for part in ["line 2", "16385 bytes", "16384", "after 1 acknowledged"] {
        assert!(said.contains(part), "{part} is missing in {said:?}");
    }
    let stored = dev.output(&["history", "general", "--after", "0", "--format", "raw"]);
    assert_eq!(stored, "a\n");
}
