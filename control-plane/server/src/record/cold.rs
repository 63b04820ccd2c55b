//! Encoding of records that are read now and then: a version byte, then JSON. An expiring one has its end in between.

use bytes::{BufMut, Bytes, BytesMut};
use millrace_store::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is written. A reader refuses others: a newer control node has written them.
const VERSION: u8 = 1;

/// Encodes a record.
pub(crate) fn encode(record: &impl Serialize) -> Bytes {
    finish(BytesMut::from(&[VERSION][..]), record)
}

/// Encodes a record that ends at a Unix time in ms.
pub(crate) fn encode_expiring(expires_ms: i64, record: &impl Serialize) -> Bytes {
    let mut bytes = BytesMut::from(&[VERSION][..]);
    bytes.put_i64(expires_ms);
    finish(bytes, record)
}

fn finish(bytes: BytesMut, record: &impl Serialize) -> Bytes {
    let mut writer = bytes.writer();
    serde_json::to_writer(&mut writer, record).expect("records have string keys and memory does not fail");
    writer.into_inner().freeze()
}

/// Decodes a record. `what` names it in the error.
///
/// # Errors
/// [`StoreError::Damaged`] if it is of another version or shape.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, value: &[u8]) -> Result<T, StoreError> {
    match value.split_first() {
        Some((&VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| StoreError::Damaged(format!("{what}: {error}")))
        }
        Some((version, _)) => Err(StoreError::Damaged(format!("{what} has version {version}, known is {VERSION}"))),
        None => Err(StoreError::Damaged(format!("{what} is empty"))),
    }
}

/// Decodes an expiring record; also gives its end. One that has ended is for the caller to ignore.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_expiring<T: DeserializeOwned>(what: &str, value: &[u8]) -> Result<(i64, T), StoreError> {
    let expires_ms = expires_ms(value).ok_or_else(|| StoreError::Damaged(format!("{what} is cut short")))?;
    let json = [&value[..1], &value[9..]].concat();
    Ok((expires_ms, decode(what, &json)?))
}

/// The end of an expiring record of any kind.
pub(crate) fn expires_ms(value: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(*value.get(1..)?.first_chunk::<8>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_others_are_refused() {
        let record = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(decode::<Vec<String>>("x", &encode(&record)).unwrap(), record);
        let expiring = encode_expiring(77, &record);
        assert_eq!(expires_ms(&expiring), Some(77));
        assert_eq!(decode_expiring::<Vec<String>>("x", &expiring).unwrap(), (77, record.clone()));

        let mut newer = encode(&record).to_vec();
        newer[0] = 2;
        for damaged in [&newer[..], b"", b"\x01", b"\x01[1"] {
            assert!(matches!(decode::<Vec<String>>("x", damaged), Err(StoreError::Damaged(_))), "{damaged:?}");
        }
        assert!(matches!(decode_expiring::<Vec<String>>("x", b"\x01abc"), Err(StoreError::Damaged(_))));
    }
}
