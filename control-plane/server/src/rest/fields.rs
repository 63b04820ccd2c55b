//! Reads the fields of a request and collects **everything** that is wrong with them, so that a caller mends them in one go.

use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_domain::Metadata;
use millrace_domain::word::Word;
use serde_json::{Map, Value};

use super::problem::{FieldError, Problem};

/// A body that can be read from fields.
pub(crate) trait Request: Sized {
    /// Reads all fields, also behind a wrong one; `None` if one that it cannot do without is wrong. What it leaves unread is unknown.
    fn read(fields: &mut Fields) -> Option<Self>;
}

/// The fields of an object, or the parameters of a request.
pub(crate) struct Fields {
    object: Map<String, Value>,
    /// What stands before the name of a field: a JSON pointer and a slash, or a question mark.
    prefix: String,
    errors: Vec<FieldError>,
}

impl Fields {
    /// The fields of a body, and pointers to those that stand twice in it.
    ///
    /// # Errors
    /// A body that is no object.
    pub(crate) fn of_body(body: Value, repeated: Vec<String>) -> Result<Self, Problem> {
        let twice = |field| FieldError { field, message: "is given twice".into() };
        let errors = repeated.into_iter().map(twice).collect();
        match body {
            Value::Object(object) => Ok(Self { object, prefix: "/".into(), errors }),
            other => Err(Problem::field("", format!("is {}, an object is needed", type_of(&other)))),
        }
    }

    /// The parameters of a query; all are text.
    pub(crate) fn of_query(parameters: Vec<(String, String)>) -> Self {
        let mut fields = Self { object: Map::new(), prefix: "?".into(), errors: Vec::new() };
        for (name, value) in parameters {
            if fields.object.insert(name.clone(), Value::String(value)).is_some() {
                fields.error(&name, "is given twice");
            }
        }
        fields
    }

    /// A field that must be there.
    pub(crate) fn required<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        match self.take(name) {
            Some(value) => self.checked(name, read(value)),
            None => {
                self.error(name, "is missing");
                None
            }
        }
    }

    /// A field that may be missing or null.
    pub(crate) fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.take(name) {
            Some(Value::Null) | None => Some(None),
            Some(value) => self.checked(name, read(value)).map(Some),
        }
    }

    /// A field that may be missing, which leaves a thing as it is, or null, which takes it away.
    pub(crate) fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<Option<Option<T>>> {
        match self.take(name) {
            None => Some(None),
            Some(Value::Null) => Some(Some(None)),
            Some(value) => self.checked(name, read(value)).map(|value| Some(Some(value))),
        }
    }

    /// A list of objects; missing or null is empty.
    pub(crate) fn list<T: Request>(&mut self, name: &str, max: usize) -> Option<Vec<T>> {
        let items = match self.take(name) {
            None | Some(Value::Null) => return Some(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.error(name, format!("is {}, an array is needed", type_of(&other)));
                return None;
            }
        };
        if items.len() > max {
            self.error(name, format!("has {} entries, limit is {max}", items.len()));
            return None;
        }
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let pointer = format!("{}{}/{index}", self.prefix, escape(name));
            match item {
                Value::Object(object) => {
                    let mut fields = Self { object, prefix: format!("{pointer}/"), errors: Vec::new() };
                    let item = T::read(&mut fields);
                    fields.note_unknown();
                    self.errors.append(&mut fields.errors);
                    read.extend(item);
                }
                other => {
                    let message = format!("is {}, an object is needed", type_of(&other));
                    self.errors.push(FieldError { field: pointer, message });
                }
            }
        }
        Some(read)
    }

    /// Notes that a field is wrong.
    pub(crate) fn error(&mut self, name: &str, message: impl Into<String>) {
        let name = if self.prefix == "?" { name.to_owned() } else { escape(name) };
        self.errors.push(FieldError { field: format!("{}{name}", self.prefix), message: message.into() });
    }

    /// Takes what was read if nothing is wrong.
    ///
    /// # Errors
    /// Every field that is wrong or unknown.
    pub(crate) fn finish<T>(mut self, read: Option<T>) -> Result<T, Problem> {
        self.note_unknown();
        match read {
            Some(read) if self.errors.is_empty() => Ok(read),
            _ => Err(Problem::fields(self.errors)),
        }
    }

    fn note_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.object) {
            self.error(&name, "is unknown");
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name)
    }

    fn checked<T>(&mut self, name: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.error(name, message)).ok()
    }
}

/// As RFC 6901 §3 wants it.
pub(crate) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A string.
pub(crate) fn string(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("is {}, a string is needed", type_of(&other))),
    }
}

/// A string that its type checks, such as a name.
pub(crate) fn text<T: std::str::FromStr<Err: std::fmt::Display>>(value: Value) -> Result<T, String> {
    string(value)?.parse().map_err(|error: T::Err| error.to_string())
}

/// One of a closed set of words.
pub(crate) fn word<T: Word>(value: Value) -> Result<T, String> {
    T::from_word(&string(value)?).ok_or_else(|| format!("is none of {}", T::list()))
}

/// Metadata.
pub(crate) fn metadata(value: Value) -> Result<Metadata, String> {
    match value {
        Value::Object(object) => Metadata::new(object).map_err(|error| error.to_string()),
        other => Err(format!("is {}, an object is needed", type_of(&other))),
    }
}

/// A whole number in a range.
pub(crate) fn number(range: RangeInclusive<u64>) -> impl FnOnce(Value) -> Result<u64, String> {
    move |value| within(&range, value.as_u64())
}

/// A whole number in a range as a parameter has it: in digits.
pub(crate) fn digits(range: RangeInclusive<u64>) -> impl FnOnce(Value) -> Result<u64, String> {
    move |value| {
        let digits = value.as_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        within(&range, digits.and_then(|digits| digits.parse().ok()))
    }
}

fn within(range: &RangeInclusive<u64>, number: Option<u64>) -> Result<u64, String> {
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("is no whole number from {} to {}", range.start(), range.end()))
}

/// Bytes in standard base64 with padding.
pub(crate) fn base64(value: Value) -> Result<Vec<u8>, String> {
    STANDARD.decode(string(value)?).map_err(|error| format!("is no base64: {error}"))
}

/// Strings of 1 to `bytes_max` bytes, `max` at most.
pub(crate) fn strings(max: usize, bytes_max: usize) -> impl FnOnce(Value) -> Result<Vec<String>, String> {
    move |value| {
        let Value::Array(items) = value else { return Err(format!("is {}, an array is needed", type_of(&value))) };
        if items.len() > max {
            return Err(format!("has {} entries, limit is {max}", items.len()));
        }
        items.into_iter().map(|item| short(bytes_max)(item)).collect()
    }
}

/// A string of 1 to `bytes_max` bytes without control characters.
pub(crate) fn short(bytes_max: usize) -> impl Fn(Value) -> Result<String, String> {
    move |value| {
        let text = string(value)?;
        match text.len() {
            0 => Err("is empty".to_owned()),
            len if len > bytes_max => Err(format!("is {len} bytes, limit is {bytes_max}")),
            _ if text.chars().any(char::is_control) => Err("has a control character".to_owned()),
            _ => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::node::Role;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sample {
        name: String,
        limit: Option<u64>,
        note: Option<Option<String>>,
        parts: Vec<Part>,
    }

    #[derive(Debug, PartialEq)]
    struct Part(Role);

    impl Request for Part {
        fn read(fields: &mut Fields) -> Option<Self> {
            fields.required("role", word).map(Self)
        }
    }

    impl Request for Sample {
        fn read(fields: &mut Fields) -> Option<Self> {
            let name = fields.required("name", short(8));
            let limit = fields.optional("limit", number(1..=9));
            let note = fields.nullable("note", string);
            let parts = fields.list("parts", 2);
            Some(Self { name: name?, limit: limit?, note: note?, parts: parts? })
        }
    }

    fn read(body: Value) -> Result<Sample, Vec<(String, String)>> {
        let problem = |problem: Problem| {
            let bytes = futures_util::FutureExt::now_or_never(axum::body::to_bytes(
                problem.render("x").into_body(),
                usize::MAX,
            ));
            let body: Value = serde_json::from_slice(&bytes.unwrap().unwrap()).unwrap();
            let errors = body["errors"].as_array().unwrap().iter();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            errors.map(|error| (text(&error["field"]), text(&error["message"]))).collect::<Vec<_>>()
        };
        let mut fields = Fields::of_body(body, Vec::new()).map_err(problem)?;
        let sample = Sample::read(&mut fields);
        fields.finish(sample).map_err(problem)
    }

    #[test]
    fn good_fields_are_read() {
        let sample = read(json!({"name": "x", "note": null, "parts": [{"role": "owner"}]})).unwrap();
        assert_eq!(sample, Sample { name: "x".into(), limit: None, note: Some(None), parts: vec![Part(Role::Owner)] });
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let check = |body: Value, expect: &[(&str, &str)]| {
            let errors = read(body).unwrap_err();
            let errors = errors.iter().map(|(field, message)| (&**field, &**message)).collect::<Vec<_>>();
            assert_eq!(errors, expect);
        };
        check(json!([]), &[("", "is an array, an object is needed")]);
        check(
            json!({"limit": 10, "note": 1, "extra/~": 0, "parts": [{"role": "king"}, {"role": "owner", "x": 1}]}),
            &[
                ("/name", "is missing"),
                ("/limit", "is no whole number from 1 to 9"),
                ("/note", "is a number, a string is needed"),
                ("/parts/0/role", "is none of owner, moderator, member, reader"),
                ("/parts/1/x", "is unknown"),
                ("/extra~1~0", "is unknown"),
            ],
        );
        check(json!({"name": "x", "parts": [1]}), &[("/parts/0", "is a number, an object is needed")]);
        check(json!({"name": "x", "parts": [{}, {}, {}]}), &[("/parts", "has 3 entries, limit is 2")]);
        check(json!({"name": "a\u{7}"}), &[("/name", "has a control character")]);
        check(
            json!({"name": "123456789", "limit": -1}),
            &[("/name", "is 9 bytes, limit is 8"), ("/limit", "is no whole number from 1 to 9")],
        );
        for no_number in [json!("5"), json!(5.5), json!(true), json!([5])] {
            check(json!({"name": "x", "limit": no_number}), &[("/limit", "is no whole number from 1 to 9")]);
        }
    }

    #[test]
    fn parameters_have_numbers_in_digits() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(digits(0..=9)(Value::String(text.into())).ok(), expect, "{text}");
        };
        check("0", Some(0));
        check("009", Some(9));
        for wrong in ["10", "", "+5", "-5", "5.0", " 5", "99999999999999999999999"] {
            check(wrong, None);
        }
    }
}
