//! The golden vectors in `sdk/conformance/vectors/` are what this crate encodes and how it decodes. `BLESS=1` writes them.

#[path = "vectors/frames.rs"]
mod frames;
#[path = "vectors/invalid.rs"]
mod invalid;
#[path = "vectors/meaning.rs"]
mod meaning;

use std::path::Path;

use invalid::Expect;
use meaning::hex;
use millrace_protocol::client::{decode_client, decode_server, encode_client, encode_server};
use millrace_protocol::{Code, FrameError};
use serde_json::{Value, json};

/// One line for each vector, so that a difference reads well.
fn file(root: &str, frames: &[String], refused: &[String]) -> String {
    let (frames, refused) = (frames.join(",\n"), refused.join(",\n"));
    let head = format!("\"schema\": \"client.capnp\",\n\"root\": \"{root}\"");
    format!("{{\n{head},\n\"frames\": [\n{frames}\n],\n\"refused\": [\n{refused}\n]\n}}\n")
}

fn frame_line(name: &str, bytes: &[u8], meaning: &Value) -> String {
    format!("  {{\"name\": \"{name}\", \"hex\": \"{}\", \"meaning\": {meaning}}}", hex(bytes))
}

fn refused_line(name: &str, bytes: &[u8], code: Code) -> String {
    let number = code.number();
    format!("  {{\"name\": \"{name}\", \"hex\": \"{}\", \"code\": {number}, \"error\": \"{code}\"}}", hex(bytes))
}

fn compare(name: &str, expect: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/conformance/vectors").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, expect).expect("write vectors");
    }
    let found = std::fs::read_to_string(&path).expect("read vectors");
    for (expect, found) in expect.lines().zip(found.lines()) {
        assert_eq!(found, expect, "{name}: `BLESS=1 cargo test -p millrace-protocol --test vectors` writes it anew");
    }
    assert!(found == expect, "{name} has another number of vectors");
}

fn is_refused_cut_anywhere(name: &str, bytes: &[u8], decode: impl Fn(&[u8]) -> Option<FrameError>) {
    for end in 0..bytes.len() {
        let error = decode(&bytes[..end]).unwrap_or_else(|| panic!("{name} decodes, cut at {end}"));
        assert_eq!(error.code(), Code::BadFrame, "{name} cut at {end}: {error}");
    }
}

/// Vectors of bytes that only a decoder meets: checks what it makes of each, and sorts them.
fn sort(
    cases: Vec<(&'static str, Vec<u8>, Expect)>,
    decode: impl Fn(&[u8]) -> Result<Value, FrameError>,
) -> (Vec<String>, Vec<String>) {
    let (mut unknown, mut refused) = (Vec::new(), Vec::new());
    for (name, bytes, expect) in cases {
        match (decode(&bytes), expect) {
            (Ok(found), Expect::Unknown { request }) => {
                let meaning = json!({ "request": request, "unknown": null });
                assert_eq!(found, meaning, "{name}");
                unknown.push(frame_line(name, &bytes, &meaning));
            }
            (Err(error), Expect::Refused(code)) => {
                assert_eq!(error.code(), code, "{name}: {error}");
                refused.push(refused_line(name, &bytes, code));
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
    (unknown, refused)
}

#[test]
fn client_vectors_hold() {
    let mut good = Vec::new();
    for (name, frame) in frames::client() {
        let mut bytes = Vec::new();
        encode_client(&frame, &mut bytes);
        assert_eq!(decode_client(&bytes).expect(name), frame, "{name}");
        is_refused_cut_anywhere(name, &bytes, |bytes| decode_client(bytes).err());
        good.push(frame_line(name, &bytes, &meaning::client(&frame)));
    }
    let (unknown, refused) = sort(invalid::client(), |bytes| decode_client(bytes).map(|frame| meaning::client(&frame)));
    good.extend(unknown);
    compare("client.json", &file("ClientFrame", &good, &refused));
}

#[test]
fn server_vectors_hold() {
    let mut good = Vec::new();
    for (name, frame) in frames::server() {
        let mut bytes = Vec::new();
        encode_server(&frame, &mut bytes);
        assert_eq!(decode_server(&bytes).expect(name), frame, "{name}");
        is_refused_cut_anywhere(name, &bytes, |bytes| decode_server(bytes).err());
        good.push(frame_line(name, &bytes, &meaning::server(&frame)));
    }
    let (unknown, refused) = sort(invalid::server(), |bytes| decode_server(bytes).map(|frame| meaning::server(&frame)));
    good.extend(unknown);
    compare("server.json", &file("ServerFrame", &good, &refused));
}

/// Another Cap'n Proto lays the same frames out in another order: what it wrote means the same to us.
#[test]
fn frames_that_another_implementation_wrote_decode() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/conformance/vectors/foreign.json");
    let foreign: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("read vectors")).expect("vectors are JSON");
    let bytes_of = |root: &str, name: &str| -> Vec<u8> {
        let digits = foreign[root][name].as_str().unwrap_or_else(|| panic!("{name} is missing: see the README there"));
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
            .collect()
    };
    for (name, frame) in frames::client() {
        assert_eq!(decode_client(&bytes_of("ClientFrame", name)).expect(name), frame, "{name}");
    }
    for (name, frame) in frames::server() {
        assert_eq!(decode_server(&bytes_of("ServerFrame", name)).expect(name), frame, "{name}");
    }
}

#[test]
fn names_of_vectors_are_unique() {
    let check = |names: Vec<&str>| {
        let mut sorted = names;
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "{sorted:?}");
    };
    check(frames::client().iter().map(|case| case.0).chain(invalid::client().iter().map(|case| case.0)).collect());
    check(frames::server().iter().map(|case| case.0).chain(invalid::server().iter().map(|case| case.0)).collect());
}
