//! Scans: bounds, directions, limits, own writes.

use bytes::Bytes;

use super::{Subject, bytes, committed, range};
use crate::{Direction, KeyRange, Transaction};

async fn keys(
    transaction: &mut Box<dyn Transaction>,
    start: &str,
    end: &str,
    direction: Direction,
    limit: u32,
) -> Vec<String> {
    let rows = transaction.scan(range(start, end), direction, limit).await.expect("scan");
    rows.iter()
        .map(|(key, _)| String::from_utf8_lossy(key.rsplit(|byte| *byte == b'/').next().unwrap_or(key)).into())
        .collect()
}

/// Half-open bounds, both directions, the limit from the right end.
pub async fn scans_go_both_ways_within_bounds(subject: &Subject) {
    subject
        .write(&["a", "b", "c", "d", "dd", "e"].map(|key| (key, Some("v"))).map(under("both/")).each_ref().map(row))
        .await;
    let mut transaction = subject.begin().await;
    for (start, end, limit, forward, backward) in [
        ("a", "z", 10, "a b c d dd e", "e dd d c b a"),
        ("b", "d", 10, "b c", "c b"),
        ("b", "dd", 10, "b c d", "d c b"),
        ("bb", "ddd", 10, "c d dd", "dd d c"),
        ("a", "z", 2, "a b", "e dd"),
        ("a", "z", 1, "a", "e"),
        ("f", "z", 10, "", ""),
        ("", "b", 10, "a", "a"),
    ] {
        let (from, to) = (format!("both/{start}"), format!("both/{end}"));
        for (direction, expect) in [(Direction::Forward, forward), (Direction::Backward, backward)] {
            let found = keys(&mut transaction, &from, &to, direction, limit).await;
            assert_eq!(found.join(" "), expect, "{start}..{end} {direction:?} limit {limit}");
        }
    }
}

fn under(prefix: &str) -> impl Fn((&str, Option<&'static str>)) -> (String, Option<&'static str>) + Copy {
    move |(key, value)| (format!("{prefix}{key}"), value)
}

fn row<'a>((key, value): &'a (String, Option<&'static str>)) -> (&'a str, Option<&'a str>) {
    (key, *value)
}

/// Own puts appear in their place, own removals hide rows, and the limit still gives full pages.
pub async fn scans_merge_own_writes(subject: &Subject) {
    subject.write(&["b", "d", "f", "h"].map(|key| (key, Some("old"))).map(under("merge/")).each_ref().map(row)).await;
    let mut transaction = subject.begin().await;
    for key in ["merge/a", "merge/d", "merge/e", "merge/i"] {
        transaction.put(bytes(key), bytes("new"));
    }
    for key in ["merge/b", "merge/f", "merge/x"] {
        transaction.delete(bytes(key));
    }
    for (start, end, limit, forward, backward) in [
        ("", "~", 10, "a d e h i", "i h e d a"),
        ("", "~", 3, "a d e", "i h e"),
        ("", "~", 1, "a", "i"),
        ("b", "e", 10, "d", "d"),
        ("b", "~", 2, "d e", "i h"),
        ("f", "h", 10, "", ""),
        ("e", "i", 2, "e h", "h e"),
    ] {
        let (from, to) = (format!("merge/{start}"), format!("merge/{end}"));
        for (direction, expect) in [(Direction::Forward, forward), (Direction::Backward, backward)] {
            let found = keys(&mut transaction, &from, &to, direction, limit).await;
            assert_eq!(found.join(" "), expect, "{start}..{end} {direction:?} limit {limit}");
        }
    }
    let rows = transaction.scan(range("merge/d", "merge/e"), Direction::Forward, 10).await.expect("scan");
    assert_eq!(rows, [(bytes("merge/d"), bytes("new"))]);
    committed(transaction.commit().await);
    let found = keys(&mut subject.begin().await, "merge/", "merge/~", Direction::Forward, 10).await;
    assert_eq!(found.join(" "), "a d e h i");
}

/// A scan sees what was there at `begin`.
pub async fn scans_see_the_snapshot(subject: &Subject) {
    subject.write(&[("stable/a", Some("1")), ("stable/b", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    subject.write(&[("stable/a", None), ("stable/b", Some("2")), ("stable/c", Some("2"))]).await;
    for direction in [Direction::Forward, Direction::Backward] {
        let mut rows = transaction.scan(range("stable/", "stable/~"), direction, 10).await.expect("scan");
        rows.sort();
        assert_eq!(rows, [(bytes("stable/a"), bytes("1")), (bytes("stable/b"), bytes("1"))], "{direction:?}");
    }
}

/// Bounds that hold nothing, also the wrong way round, and the limit zero.
pub async fn a_scan_of_nothing_is_empty(subject: &Subject) {
    subject.write(&[("nothing/a", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    transaction.put(bytes("nothing/b"), bytes("2"));
    for (start, end, limit) in
        [("nothing/a", "nothing/a", 10), ("nothing/b", "nothing/a", 10), ("nothing/a", "nothing/z", 0)]
    {
        for direction in [Direction::Forward, Direction::Backward] {
            let rows = transaction.scan(range(start, end), direction, limit).await.expect("scan");
            assert!(rows.is_empty(), "{start}..{end} {direction:?} limit {limit}: {rows:?}");
        }
    }
}

/// Keys order as bytes, whatever the bytes.
pub async fn any_bytes_are_keys(subject: &Subject) {
    let mut suffixes: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![0, 1], vec![0xFF], vec![0xFF, 0xFF]];
    suffixes.extend((1..=255).map(|byte| vec![byte, 0]));
    suffixes.sort();
    let key = |suffix: &[u8]| Bytes::from([b"bytes/\x01".as_slice(), suffix].concat());
    let mut transaction = subject.begin().await;
    for suffix in &suffixes {
        transaction.put(key(suffix), Bytes::copy_from_slice(suffix));
    }
    committed(transaction.commit().await);
    let mut transaction = subject.begin().await;
    let rows = transaction.scan(KeyRange::prefix(b"bytes/\x01"), Direction::Forward, 1000).await.expect("scan");
    let expect: Vec<_> = suffixes.iter().map(|suffix| (key(suffix), Bytes::copy_from_slice(suffix))).collect();
    assert_eq!(rows, expect);
    for suffix in &suffixes {
        assert_eq!(transaction.get(&key(suffix)).await.expect("get").as_deref(), Some(suffix.as_slice()));
    }
}

/// [`KeyRange::prefix`] also where the prefix ends in 0xFF.
pub async fn prefix_ranges_hold_exactly_the_prefix(subject: &Subject) {
    let keys: [&[u8]; 6] =
        [b"prefix/\xFE\xFF", b"prefix/\xFF", b"prefix/\xFF\x00", b"prefix/\xFF\xFF\xFF", b"prefix0", b"prefix0\x00"];
    let mut transaction = subject.begin().await;
    for key in keys {
        transaction.put(Bytes::from_static(key), bytes("v"));
    }
    committed(transaction.commit().await);
    let mut transaction = subject.begin().await;
    for (prefix, inside) in [(b"prefix/\xFF".as_slice(), 1..4), (b"prefix/", 0..4), (b"prefix0", 4..6)] {
        let rows = transaction.scan(KeyRange::prefix(prefix), Direction::Forward, 10).await.expect("scan");
        let found: Vec<_> = rows.iter().map(|(key, _)| key.as_ref()).collect();
        assert_eq!(found, &keys[inside], "{prefix:?}");
    }
}
