//! Items of a kind, a length and a value, one behind another: HTTP/3's frames and, within them, capsules.

use crate::varint;

/// What to do with the value of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treat {
    /// Collect it. Whoever says so has bounded its length.
    Keep,
    /// Pass it on as it comes.
    Pass,
    /// Throw it away.
    Skip,
}

/// Something of an item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The whole value of one that was to be kept.
    Whole(u64, Vec<u8>),
    /// Some of one that is passed on.
    Bytes(&'a [u8]),
}

/// Reads items however they are cut. Owns heap memory only within an item that is kept.
#[derive(Debug, Default)]
pub(crate) struct Items {
    head: [u8; 16],
    head_len: usize,
    item: Option<Item>,
}

#[derive(Debug)]
struct Item {
    kind: u64,
    left: u64,
    treat: Treat,
    kept: Vec<u8>,
}

impl Items {
    /// The next part of what is in `input`, which is consumed; `None` when there is none. `treat` is asked for each item, by its kind
    /// and length.
    pub(crate) fn next<'a, E>(
        &mut self,
        input: &mut &'a [u8],
        mut treat: impl FnMut(u64, u64) -> Result<Treat, E>,
    ) -> Result<Option<Part<'a>>, E> {
        loop {
            let Some(item) = &mut self.item else {
                let head = &self.head[..self.head_len];
                let whole = varint::decode(head).and_then(|(kind, len)| Some((kind, varint::decode(&head[len..])?.0)));
                if let Some((kind, left)) = whole {
                    self.head_len = 0;
                    let treat = treat(kind, left)?;
                    self.item = Some(Item { kind, left, treat, kept: Vec::new() });
                } else {
                    let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
                    // Two numbers have at most 16 bytes.
                    self.head[self.head_len] = byte;
                    self.head_len += 1;
                    *input = rest;
                }
                continue;
            };
            let take = usize::try_from(item.left).unwrap_or(usize::MAX).min(input.len());
            let (value, rest) = input.split_at(take);
            *input = rest;
            item.left -= take as u64;
            if item.treat == Treat::Keep {
                item.kept.extend_from_slice(value);
            }
            let is_passed = item.treat == Treat::Pass;
            if let Some(item) = self.item.take_if(|item| item.left == 0)
                && item.treat == Treat::Keep
            {
                return Ok(Some(Part::Whole(item.kind, item.kept)));
            }
            if is_passed && !value.is_empty() {
                return Ok(Some(Part::Bytes(value)));
            }
            if self.item.is_some() {
                return Ok(None);
            }
        }
    }

    /// Whether it stands between two items.
    pub(crate) fn is_between(&self) -> bool {
        self.head_len == 0 && self.item.is_none()
    }

    /// Bytes that it keeps.
    pub(crate) fn held_bytes(&self) -> usize {
        self.item.as_ref().map_or(0, |item| item.kept.len())
    }
}

/// Appends an item.
pub(crate) fn encode(kind: u64, value: &[u8], out: &mut Vec<u8>) {
    varint::encode(kind, out);
    varint::encode(value.len() as u64, out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Kept, passed and skipped by kind modulo 3.
    fn treat(kind: u64, _: u64) -> Result<Treat, Infallible> {
        Ok([Treat::Keep, Treat::Pass, Treat::Skip][usize::try_from(kind % 3).unwrap()])
    }

    proptest! {
        #[test]
        fn items_are_found_however_they_are_cut(
            items in prop::collection::vec((0..200_u64, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (kind, value) in &items {
                encode(*kind, value, &mut bytes);
            }
            let (mut kept, mut passed) = (Vec::new(), Vec::new());
            let (mut reader, mut rest, mut cuts) = (Items::default(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (mut input, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = later;
                while let Some(part) = reader.next(&mut input, treat).unwrap() {
                    match part {
                        Part::Whole(kind, value) => kept.push((kind, value)),
                        Part::Bytes(some) => passed.extend_from_slice(some),
                    }
                }
                prop_assert!(input.is_empty());
            }
            prop_assert!(reader.is_between());
            let of = |rest: u64| items.iter().filter(move |(kind, _)| kind % 3 == rest).cloned();
            prop_assert_eq!(kept, of(0).collect::<Vec<_>>());
            prop_assert_eq!(passed, of(1).flat_map(|(_, value)| value).collect::<Vec<_>>());
        }
    }
}
