//! Pages of lists: `?limit=` and an opaque `?cursor=`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_domain::PAGE_MAX;

use super::fields::{self, Fields};

/// Entries of a page if nobody says.
const LIMIT_DEFAULT: u32 = 50;

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageQuery {
    /// At most so many entries, 1 to 100.
    pub(crate) limit: u32,
    /// What the last page ended with.
    pub(crate) cursor: Option<String>,
}

impl PageQuery {
    /// Reads `limit` and `cursor`.
    pub(crate) fn read(fields: &mut Fields) -> Option<Self> {
        let limit = limit(fields);
        let cursor = fields.optional("cursor", |value| decode(&fields::string(value)?).ok_or_else(bad_cursor));
        Some(Self { limit: limit?, cursor: cursor? })
    }

    /// The cursor as what it was made of.
    pub(crate) fn after<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, super::problem::Problem> {
        self.cursor
            .as_deref()
            .map(|cursor| parse(cursor).ok_or_else(|| super::problem::Problem::field("?cursor", bad_cursor())))
            .transpose()
    }
}

/// Reads `limit`.
pub(crate) fn limit(fields: &mut Fields) -> Option<u32> {
    let limit = fields.optional("limit", fields::digits(1..=u64::from(PAGE_MAX)))?;
    Some(limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(LIMIT_DEFAULT))
}

pub(crate) fn bad_cursor() -> String {
    "is no cursor of this list; take it from the page before".to_owned()
}

/// Makes a cursor. Clients are not to look inside, so that it may change.
pub(crate) fn encode(end: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("1{end}"))
}

/// Takes a cursor apart; `None` if it is none.
pub(crate) fn decode(cursor: &str) -> Option<String> {
    if cursor.len() > 1024 {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    Some(text.strip_prefix('1')?.to_owned())
}

/// The cursor behind a page that was asked for with one entry more than `limit`; drops that entry.
pub(crate) fn cut<T>(entries: &mut Vec<T>, limit: u32, end: impl FnOnce(&T) -> String) -> Option<String> {
    let limit = limit as usize;
    if entries.len() <= limit {
        return None;
    }
    entries.truncate(limit);
    entries.last().map(|last| encode(&end(last)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_read_back(end in ".{0,100}") {
            prop_assert_eq!(decode(&encode(&end)), Some(end));
        }

        #[test]
        fn strangers_cursors_are_refused_or_read(cursor in ".{0,200}") {
            let _ = decode(&cursor);
        }
    }

    #[test]
    fn a_page_has_a_cursor_if_more_follows() {
        let mut entries = vec![1, 2, 3];
        assert_eq!(cut(&mut entries, 3, i32::to_string), None);
        let cursor = cut(&mut entries, 2, i32::to_string).unwrap();
        assert_eq!((decode(&cursor).as_deref(), &entries[..]), (Some("2"), &[1, 2][..]));
    }
}
