//! Bytes that are no frame, or one that only a later version knows, written word by word: no encoder of ours would.

use millrace_protocol::code::Code;

/// What a decoder must make of the bytes.
pub(crate) enum Expect {
    /// The connection ends with this code.
    Refused(Code),
    /// The frame is well formed, its `request` is this, and what it says is for a later version.
    Unknown { request: u32 },
}

/// Table, then the segment.
fn framed(words: &[[u8; 8]]) -> Vec<u8> {
    let count = u32::try_from(words.len()).expect("a few words");
    [&[0; 4], &count.to_le_bytes()[..], &words.concat()].concat()
}

/// A pointer to a struct `offset` words after the pointer's end.
fn to_struct(offset: u8, data_words: u8, pointers: u8) -> [u8; 8] {
    [offset << 2, 0, 0, 0, data_words, 0, pointers, 0]
}

/// A pointer to a list of so many bytes.
fn to_bytes(offset: u8, bytes: u8) -> [u8; 8] {
    [offset << 2 | 1, 0, 0, 0, bytes << 3 | 2, bytes >> 5, 0, 0]
}

/// The data word of both frames: request, then the member of the union.
fn frame(request: u8, member: u8) -> [u8; 8] {
    [request, 0, 0, 0, member, 0, 0, 0]
}

fn number(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// A pointer right before its list of `count` structs of one word each.
fn list_of_words(count: u32) -> Vec<[u8; 8]> {
    let mut list = list_without_size(count);
    list[0][4..].copy_from_slice(&(count << 3 | 7).to_le_bytes());
    list[1][4] = 1;
    list.resize(2 + usize::try_from(count).expect("a few"), number(0));
    list
}

/// The same of structs that take no room: the tag says how many, and none is there.
fn list_without_size(count: u32) -> Vec<[u8; 8]> {
    let mut tag = number(0);
    tag[..4].copy_from_slice(&(count << 2).to_le_bytes());
    vec![[1, 0, 0, 0, 7, 0, 0, 0], tag]
}

const ROOT: [u8; 8] = [0, 0, 0, 0, 1, 0, 1, 0];

/// A publish of two bytes, to be spoilt.
fn publish() -> Vec<[u8; 8]> {
    let body = *b"hi\0\0\0\0\0\0";
    vec![ROOT, frame(7, 3), to_struct(0, 3, 1), number(1), number(2), number(3), to_bytes(0, 2), body]
}

fn spoilt(good: &[[u8; 8]], word: usize, with: [u8; 8]) -> Vec<u8> {
    let mut words = good.to_vec();
    words[word] = with;
    framed(&words)
}

fn cut(good: &[[u8; 8]], bytes: usize) -> Vec<u8> {
    let mut frame = framed(good);
    frame.truncate(bytes);
    frame
}

/// Framing and structure, the same for frames of both directions: the root of either is one data word and one pointer.
fn either() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let bad = || Expect::Refused(Code::BadFrame);
    let last = framed(&[ROOT, frame(7, 6), number(0)]);
    let table = |segments_less_one: u8| {
        let mut frame = last.clone();
        frame[0] = segments_less_one;
        frame
    };
    vec![
        ("nothing", Vec::new(), bad()),
        ("half-a-table", vec![0, 0, 0, 0], bad()),
        ("table-alone", vec![0; 8], bad()),
        ("no-words", [vec![0; 8], vec![0; 8]].concat(), bad()),
        ("segment-missing", vec![0, 0, 0, 0, 3, 0, 0, 0], bad()),
        ("segment-short", last[..last.len() - 8].to_vec(), bad()),
        ("segment-short-of-a-byte", last[..last.len() - 1].to_vec(), bad()),
        ("byte-after-the-segment", [&last[..], &[0]].concat(), bad()),
        ("word-after-the-segment", [&last[..], &[0; 8]].concat(), bad()),
        ("two-segments", [&[1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &last[8..]].concat(), bad()),
        ("two-segments-announced", table(1), bad()),
        ("no-segments", [&[0xff; 4], &last[4..]].concat(), bad()),
        ("text-instead-of-a-frame", b"{\"type\":\"hello\",\"v\":1}\n\n".to_vec(), bad()),
        ("root-beyond-the-segment", framed(&[to_struct(2, 1, 1), frame(7, 6), number(0)]), bad()),
        ("root-before-the-segment", framed(&[[0xf8, 0xff, 0xff, 0xff, 1, 0, 1, 0], frame(7, 6), number(0)]), bad()),
        ("root-is-a-list", framed(&[to_bytes(0, 8), frame(7, 6), number(0)]), bad()),
        ("root-is-a-capability", framed(&[[3, 0, 0, 0, 0, 0, 0, 0], frame(7, 6), number(0)]), bad()),
        ("root-in-another-segment", framed(&[[2, 0, 0, 0, 1, 0, 0, 0], frame(7, 6), number(0)]), bad()),
        (
            "member-to-come",
            framed(&[ROOT, frame(7, 200), to_struct(0, 1, 0), number(1)]),
            Expect::Unknown { request: 7 },
        ),
    ]
}

pub(crate) fn client() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let bad = || Expect::Refused(Code::BadFrame);
    let invalid = || Expect::Refused(Code::Invalid);
    let publish = publish();
    // Frame, then a subscribe with a name of two bytes; the union's member is the word's low half.
    let subscribe = |start: u64, name: [u8; 8], text: &[u8; 8]| {
        framed(&[ROOT, frame(7, 1), to_struct(0, 1, 2), number(start), name, number(0), *text])
    };
    let hello = |subscriptions: &[[u8; 8]]| {
        let head = [ROOT, frame(7, 0), to_struct(0, 2, 3), [1, 0, 1, 0, 0, 0, 0, 0], number(0), number(0), number(0)];
        framed(&[&head, subscriptions].concat())
    };
    // Channel, and the pointer to the position right behind it.
    let mark_read = |channel: u64, epoch: u64| {
        let head = [ROOT, frame(7, 7), to_struct(0, 1, 1), number(channel), to_struct(0, 2, 0)];
        framed(&[&head, &[number(epoch), number(42)][..]].concat())
    };
    let mut agent = vec![ROOT, frame(7, 0), to_struct(0, 2, 3), [1, 0, 1, 0, 0, 0, 0, 0], number(0), number(0)];
    agent.extend([to_bytes(1, 130), number(0)]);
    agent.extend([*b"aaaaaaaa"; 16]);
    agent.push(*b"a\0\0\0\0\0\0\0");
    let mut vectors = either();
    vectors.extend([
        ("member-missing", spoilt(&publish, 2, number(0)), invalid()),
        ("member-is-a-list", spoilt(&publish, 2, to_bytes(0, 8)), bad()),
        ("member-beyond-the-segment", spoilt(&publish, 2, to_struct(9, 3, 1)), bad()),
        ("publish-channel-0", spoilt(&publish, 3, number(0)), invalid()),
        ("publish-producer-0", spoilt(&publish, 4, number(0)), invalid()),
        ("publish-sequence-0", spoilt(&publish, 5, number(0)), invalid()),
        ("publish-body-beyond-the-segment", spoilt(&publish, 6, to_bytes(0, 9)), bad()),
        ("publish-body-of-bits", spoilt(&publish, 6, [1, 0, 0, 0, 17, 0, 0, 0]), bad()),
        ("publish-body-is-a-struct", spoilt(&publish, 6, to_struct(0, 1, 0)), bad()),
        ("publish-cut-in-the-body", cut(&publish, 68), bad()),
        ("unsubscribe-channel-0", framed(&[ROOT, frame(7, 2), to_struct(0, 1, 0), number(0)]), invalid()),
        ("history-channel-0", framed(&[ROOT, frame(7, 4), to_struct(0, 1, 0), number(0)]), invalid()),
        (
            // Channel, then messagesMax and the member, then the offset.
            "history-before-0",
            framed(&[ROOT, frame(7, 4), to_struct(0, 3, 0), number(1), [50, 0, 0, 0, 1, 0, 0, 0], number(0)]),
            invalid(),
        ),
        (
            "history-range-to-come",
            framed(&[ROOT, frame(7, 4), to_struct(0, 3, 0), number(1), [50, 0, 0, 0, 9, 0, 0, 0], number(0)]),
            Expect::Unknown { request: 7 },
        ),
        ("subscribe-name-not-utf8", subscribe(0, to_bytes(1, 3), b"\xc3\x28\0\0\0\0\0\0"), bad()),
        ("subscribe-name-not-terminated", subscribe(0, to_bytes(1, 2), b"hi!\0\0\0\0\0"), bad()),
        ("subscribe-after-epoch-0", subscribe(1, to_bytes(1, 3), b"hi\0\0\0\0\0\0"), invalid()),
        ("subscribe-start-to-come", subscribe(3, to_bytes(1, 3), b"hi\0\0\0\0\0\0"), Expect::Unknown { request: 7 }),
        ("hello-list-before-the-segment", hello(&[[0xfd, 0xff, 0xff, 0x7f, 7, 0, 0, 0], number(0)]), bad()),
        ("hello-subscriptions-1001", hello(&list_of_words(1_001)), Expect::Refused(Code::TooLarge)),
        ("hello-subscriptions-without-size", hello(&list_without_size((1 << 29) - 1)), bad()),
        ("hello-agent-129-bytes", framed(&agent), Expect::Refused(Code::TooLarge)),
        ("mark-read-channel-0", mark_read(0, 1), invalid()),
        ("mark-read-epoch-0", mark_read(1, 0), invalid()),
        (
            "refresh-token-is-a-struct",
            framed(&[ROOT, frame(7, 5), to_struct(0, 0, 1), ROOT, number(0), number(0)]),
            bad(),
        ),
    ]);
    vectors
}

pub(crate) fn server() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let bad = || Expect::Refused(Code::BadFrame);
    let invalid = || Expect::Refused(Code::Invalid);
    let too_large = || Expect::Refused(Code::TooLarge);
    let published = |channel: u64, epoch: u64| {
        let head = [ROOT, frame(7, 3), to_struct(0, 4, 1), number(channel), number(2), number(3), number(0)];
        framed(&[&head, &[to_struct(0, 2, 0), number(epoch), number(42)][..]].concat())
    };
    let page = |messages: &[[u8; 8]]| {
        framed(&[&[ROOT, frame(7, 5), to_struct(0, 2, 1), number(1), number(0)], messages].concat())
    };
    let go_away = [ROOT, frame(0, 9), to_struct(0, 1, 1), number(4_200), [1, 0, 0, 0, 17 << 3 | 6, 0, 0, 0]];
    // Channel, then history and recovery's member; name; position.
    let subscribed = |classes: u64| {
        let head = [ROOT, frame(7, 1), to_struct(0, 2, 2), number(1), number(classes), number(0), to_struct(0, 1, 0)];
        framed(&[&head, &[number(1)][..]].concat())
    };
    let read = |channel: u64, epoch: u64| {
        let head = [ROOT, frame(0, 11), to_struct(0, 1, 1), number(channel), to_struct(0, 2, 0)];
        framed(&[&head, &[number(epoch), number(42)][..]].concat())
    };
    let error = [ROOT, frame(7, 7), to_struct(0, 1, 1), number(4_005), to_bytes(0, 3), *b"\xff\xfe\0\0\0\0\0\0"];
    let mut vectors = either();
    vectors.extend([
        ("published-channel-0", published(0, 1), invalid()),
        ("published-epoch-0", published(1, 0), invalid()),
        ("welcome-without-a-session", framed(&[ROOT, frame(1, 0), to_struct(0, 1, 0), number(1)]), invalid()),
        ("page-1001-messages", page(&list_of_words(1_001)), too_large()),
        ("page-messages-without-size", page(&list_without_size((1 << 29) - 1)), bad()),
        ("page-of-an-empty-message", page(&list_of_words(1)), invalid()),
        ("go-away-17-endpoints", framed(&[&go_away[..], &[[0; 8]; 17]].concat()), too_large()),
        ("subscribed-history-to-come", subscribed(9), Expect::Unknown { request: 7 }),
        ("error-message-not-utf8", framed(&error), bad()),
        ("read-channel-0", read(0, 1), invalid()),
        ("read-epoch-0", read(1, 0), invalid()),
    ]);
    vectors
}
