//! Reading coral's dictionaries (JSON objects) field by field, with errors that name the field, and
//! measuring JSON as Python writes it.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object that should describe an `of`.
pub(crate) struct Dict<'a> {
    of: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Dict<'a> {
    pub(crate) fn new(of: &'static str, value: &'a Value) -> Result<Self> {
        match value.as_object() {
            Some(map) => Ok(Self { of, map }),
            None => Err(Error::InvalidDict { of, problem: "it is not a dictionary".into() }),
        }
    }

    pub(crate) fn from_map(of: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { of, map }
    }

    pub(crate) fn wrong(&self, field: &str, want: &str) -> Error {
        Error::InvalidDict { of: self.of, problem: format!("`{field}` has to be {want}") }
    }

    /// A field that may be missing or null.
    pub(crate) fn optional(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn field(&self, field: &str) -> Result<&'a Value> {
        self.optional(field).ok_or_else(|| self.wrong(field, "present"))
    }

    pub(crate) fn text(&self, field: &str) -> Result<&'a str> {
        self.field(field)?.as_str().ok_or_else(|| self.wrong(field, "text"))
    }

    pub(crate) fn optional_text(&self, field: &str) -> Result<Option<&'a str>> {
        self.optional(field).map(|value| value.as_str().ok_or_else(|| self.wrong(field, "text"))).transpose()
    }

    pub(crate) fn optional_map(&self, field: &str) -> Result<Option<Map<String, Value>>> {
        self.optional(field)
            .map(|value| value.as_object().cloned().ok_or_else(|| self.wrong(field, "a dictionary")))
            .transpose()
    }

    pub(crate) fn number(&self, field: &str, default: f64) -> Result<f64> {
        self.optional(field).map_or(Ok(default), |value| value.as_f64().ok_or_else(|| self.wrong(field, "a number")))
    }

    pub(crate) fn count(&self, field: &str, default: u64) -> Result<u64> {
        self.optional(field)
            .map_or(Ok(default), |value| value.as_u64().ok_or_else(|| self.wrong(field, "a whole number")))
    }

    pub(crate) fn shape(&self, field: &str) -> Result<Vec<u64>> {
        let dims = self.field(field)?.as_array();
        dims.and_then(|dims| dims.iter().map(Value::as_u64).collect())
            .ok_or_else(|| self.wrong(field, "a list of whole numbers"))
    }

    /// Refuses fields outside `known`, as Python refuses unknown keyword arguments.
    pub(crate) fn only(&self, known: &[&str]) -> Result<()> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::InvalidDict { of: self.of, problem: format!("`{key}` is not a field of it") }),
            None => Ok(()),
        }
    }
}

/// The length of `value` as Python's `json.dumps` writes it: `", "` and `": "` between parts, ASCII only.
pub(crate) fn python_json_len(value: &Value) -> usize {
    match value {
        Value::Null => 4,
        Value::Bool(flag) => 5 - usize::from(*flag),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => python_float_len(float),
            _ => number.to_string().len(),
        },
        Value::String(text) => python_text_len(text),
        Value::Array(items) => 2 + items.iter().map(python_json_len).sum::<usize>() + 2 * items.len().saturating_sub(1),
        Value::Object(map) => {
            let fields: usize = map.iter().map(|(key, value)| python_text_len(key) + 2 + python_json_len(value)).sum();
            2 + fields + 2 * map.len().saturating_sub(1)
        }
    }
}

fn python_text_len(text: &str) -> usize {
    let escaped = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        ' '..='\u{7f}' => 1,
        _ => 6 * c.len_utf16(),
    };
    2 + text.chars().map(escaped).sum::<usize>()
}

/// Python's `repr` of a float is the shortest that reads back, like Rust's, but turns to exponents
/// below 1e-4 and from 1e16 on, with at least two exponent digits and a sign.
fn python_float_len(float: f64) -> usize {
    if float == 0.0 {
        return format!("{float:?}").len();
    }
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific.len() };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            digits.len() + 2 + exponent.unsigned_abs().to_string().len().max(2)
        }
        _ => {
            let plain = format!("{float}");
            if plain.contains('.') { plain.len() } else { plain.len() + 2 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths from `len(json.dumps(x))`, Python 3.11.
    #[test]
    fn json_is_measured_as_python_writes_it() {
        for (json, want) in [
            ("1e-06", 5),
            ("1e16", 5),
            ("1.5e300", 8),
            ("0.0001", 6),
            ("1.5e-5", 7),
            ("0.00012345", 10),
            ("123456.0", 8),
            ("-0.0", 4),
            ("1e15", 18),
            ("[1, 2]", 6),
            ("[]", 2),
            ("{}", 2),
            (r#"{"a": true, "b": null}"#, 22),
            (r#""é""#, 8),
            (r#""😀""#, 14),
            (r#""a\n\"\u0001""#, 13),
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(python_json_len(&value), want, "{json}");
        }
    }
}
