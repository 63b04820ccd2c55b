//! JSON as it is written: a key that stands twice in an object is found, and not just the last of its values taken.
//!
//! Which of two values counts differs between parsers (RFC 8259 §4), so somebody in front of us may have checked the other one.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::fields::escape;

/// Most keys that are named.
const REPEATED_MAX: usize = 16;

/// A JSON text, and JSON pointers (RFC 6901) to the keys that stand twice in it, the first 16 of them.
///
/// # Errors
/// As `serde_json` says where it stops being JSON.
pub(crate) fn parse(text: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let (mut pointer, mut repeated) = (String::new(), Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Reader { pointer: &mut pointer, repeated: &mut repeated }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, repeated))
}

struct Reader<'a> {
    /// To the value that is read.
    pointer: &'a mut String,
    repeated: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn inner(&mut self) -> Reader<'_> {
        Reader { pointer: self.pointer, repeated: self.repeated }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        let outer = self.pointer.len();
        loop {
            self.pointer.push_str(&format!("/{}", array.len()));
            let item = items.next_element_seed(self.inner())?;
            self.pointer.truncate(outer);
            match item {
                Some(item) => array.push(item),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let outer = self.pointer.len();
        while let Some(key) = entries.next_key::<String>()? {
            self.pointer.push('/');
            self.pointer.push_str(&escape(&key));
            let value = entries.next_value_seed(self.inner())?;
            let is_repeated = object.insert(key, value).is_some();
            if is_repeated && self.repeated.len() < REPEATED_MAX && !self.repeated.contains(self.pointer) {
                self.repeated.push(self.pointer.clone());
            }
            self.pointer.truncate(outer);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repeated_keys_are_named_wherever_they_stand() {
        let check = |text: &str, expect: &[&str]| {
            let (value, repeated) = parse(text.as_bytes()).unwrap();
            assert_eq!((value, &repeated[..]), (serde_json::from_str(text).unwrap(), expect_owned(expect).as_slice()));
        };
        check("7", &[]);
        check(r#"{"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}"#, &[]);
        check(r#"{"a": 1, "b": 2, "a": 1, "a": 3}"#, &["/a"]);
        // Not as they are written but as they are meant.
        check(r#"{"a": 1, "\u0061": 2}"#, &["/a"]);
        check(r#"{"a/~": [0, {"b": 1, "b": {"c": 1, "c": 2}}]}"#, &["/a~1~0/1/b/c", "/a~1~0/1/b"]);
        let many: Vec<_> = (0..100).map(|n| format!("\"{n}\":0,\"{n}\":0")).collect();
        let (_, repeated) = parse(format!("{{{}}}", many.join(",")).as_bytes()).unwrap();
        assert_eq!(repeated.len(), REPEATED_MAX);
    }

    fn expect_owned(expect: &[&str]) -> Vec<String> {
        expect.iter().map(|&pointer| pointer.to_owned()).collect()
    }

    proptest! {
        /// All else is as `serde_json` reads it.
        #[test]
        fn values_are_as_elsewhere(text in r#"[\[\]{}:,"a1.e\-+ \\u0tfnrl]{0,24}"#) {
            let ours = parse(text.as_bytes()).map(|(value, _)| value).map_err(|error| error.to_string());
            let theirs = serde_json::from_slice::<Value>(text.as_bytes()).map_err(|error| error.to_string());
            prop_assert_eq!(ours, theirs);
        }
    }
}
