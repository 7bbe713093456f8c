//! Checking a value against its type.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::{Type, Violation, compare, compare_times, password, time};
use crate::key;

/// How deep a value may be nested; deeper ones are refused rather than recursed into.
const DEEPEST: usize = 64;

impl Type {
    /// Checks a value and gives it in the form in which it is kept.
    ///
    /// # Errors
    ///
    /// The place, the value, and the rule it breaks.
    pub fn accept(&self, value: Value) -> Result<Value, Violation> {
        self.check(value, true, 0)
    }

    /// Checks a value that was kept, and gives it back: a password is its hash already.
    ///
    /// # Errors
    ///
    /// As [`Type::accept`].
    pub fn accept_stored(&self, value: Value) -> Result<Value, Violation> {
        self.check(value, false, 0)
    }

    fn check(&self, value: Value, is_new: bool, depth: usize) -> Result<Value, Violation> {
        if depth > DEEPEST {
            return Err(Violation { rule: format!("nested deeper than {DEEPEST}"), ..refused(&value, "") });
        }
        let is_allowed = match (self, &value) {
            (Self::Any, _) => depth_of(&value) <= DEEPEST,
            (Self::Bool, Value::Bool(_))
            | (Self::String | Self::Html | Self::Markdown | Self::RichText, Value::String(_)) => true,
            (Self::Integer, Value::Number(number)) => number.is_i64() || number.is_u64(),
            (Self::Positive, Value::Number(number)) => number.is_u64(),
            (Self::Number, Value::Number(_)) => true,
            (Self::Float, Value::Number(number)) => {
                let float = number.as_f64().and_then(Number::from_f64).ok_or_else(|| refused(&value, "not finite"))?;
                return Ok(Value::Number(float));
            }
            (Self::Line, Value::String(text)) => {
                !text.contains(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'])
            }
            (Self::Email, Value::String(text)) => email_address::EmailAddress::is_valid(text),
            (Self::Url, Value::String(text)) => url::Url::parse(text).is_ok(),
            (Self::Date, Value::String(text)) => time::is_date(text),
            (Self::Time, Value::String(text)) => time::is_time(text),
            (Self::DateTime, Value::String(text)) => time::is_date_time(text),
            (Self::Binary, Value::String(text)) => STANDARD.decode(text).is_ok(),
            (Self::Password, Value::String(text)) if is_new => return Ok(password::hash(text).into()),
            (Self::Password, Value::String(text)) => password::is_hash(text),
            (Self::Enum(values), _) => values.contains(&value),
            (Self::List(of), Value::Array(_)) => {
                let Value::Array(items) = value else { return Err(refused(&value, "not a list")) };
                let items = items.into_iter().enumerate();
                return items
                    .map(|(at, item)| {
                        of.check(item, is_new, depth + 1).map_err(|violation| violation.within(format!("item {at}")))
                    })
                    .collect();
            }
            (Self::Tuple(types), Value::Array(items)) if items.len() == types.len() => {
                let Value::Array(items) = value else { return Err(refused(&value, "not a tuple")) };
                let items = items.into_iter().zip(types).enumerate();
                return items
                    .map(|(at, (item, of))| {
                        of.check(item, is_new, depth + 1).map_err(|violation| violation.within(format!("item {at}")))
                    })
                    .collect();
            }
            (Self::Map(fields), Value::Object(_)) => {
                let Value::Object(items) = value else { return Err(refused(&value, "not a map")) };
                return map(fields, items, is_new, depth);
            }
            (Self::OneOf(types), _) => {
                let mut last = None;
                for of in types {
                    match of.check(value.clone(), is_new, depth + 1) {
                        Ok(value) => return Ok(value),
                        Err(violation) => last = Some(violation),
                    }
                }
                // With one type that could have fitted, its own complaint says more.
                return Err(match (last, types.as_slice()) {
                    (Some(violation), [_]) => violation,
                    _ => self.refuse(&value),
                });
            }
            (Self::Reference(collection), _) => {
                return reference(collection, &value).ok_or_else(|| self.refuse(&value));
            }
            (Self::Range(low, high, of), _) => {
                let value = of.check(value, is_new, depth + 1)?;
                let order = if of.has_times(&[]) { compare_times } else { compare };
                let is_inside = order(low, &value).is_le() && order(&value, high).is_le();
                return if is_inside { Ok(value) } else { Err(self.refuse(&value)) };
            }
            _ => false,
        };
        if is_allowed { Ok(value) } else { Err(self.refuse(&value)) }
    }

    fn refuse(&self, value: &Value) -> Violation {
        let rule = match self {
            Self::OneOf(types) => {
                let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                format!("none of: {}", types.join("; "))
            }
            _ => format!("not {self}"),
        };
        let mut violation = refused(value, &rule);
        if self.is_secret() {
            violation.value = format!("{} that is not shown", kind(value));
        }
        violation
    }
}

impl Violation {
    fn within(mut self, place: String) -> Self {
        self.place = if self.place.is_empty() { place } else { format!("{} of {place}", self.place) };
        self
    }
}

/// What the type allows, as it follows "not".
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Bool => "true or false",
            Self::Integer => "a whole number of 64 bits",
            Self::Positive => "a whole number of 0 or more",
            Self::Float | Self::Number => "a number",
            Self::String | Self::Html | Self::Markdown | Self::RichText => "a text",
            Self::Line => "a text of one line",
            Self::Email => "an e-mail address",
            Self::Password => "a text to be kept as a hash",
            Self::Url => "an absolute URL",
            Self::Date => "a date like 2025-01-15",
            Self::Time => "a time like 12:30:00",
            Self::DateTime => "a date and time like 2025-01-15T12:30:00Z",
            Self::Binary => "base64",
            Self::Any => "JSON nested less deep",
            Self::List(of) => return write!(f, "a list of {of}"),
            Self::Tuple(types) => {
                let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                return write!(f, "a list of {}: {}", types.len(), types.join("; "));
            }
            Self::OneOf(types) => {
                let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                return f.write_str(&types.join(", or "));
            }
            Self::Map(fields) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                return write!(f, "a map of {}", names.join(", "));
            }
            Self::Enum(values) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                return write!(f, "one of {}", values.join(", "));
            }
            Self::Reference(collection) => return write!(f, "an id of {collection}, or its \"oid\" and \"type\""),
            Self::Range(low, high, of) => return write!(f, "{of} from {low} to {high}"),
        };
        f.write_str(text)
    }
}

fn refused(value: &Value, rule: &str) -> Violation {
    // Not the whole of a value that may be large.
    let text = match value {
        Value::String(text) if text.len() > 400 => format!("\"{}\"", key::shorten(text)),
        Value::Array(items) if items.len() > 20 => format!("a list of {} items", items.len()),
        Value::Object(items) if items.len() > 20 => format!("a map of {} items", items.len()),
        _ if depth_of(value) > DEEPEST => kind(value).to_owned(),
        _ => key::shorten(&value.to_string()),
    };
    Violation { place: String::new(), value: text, rule: rule.to_owned() }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// How deep a value is nested, without recursion: it may come from anywhere.
fn depth_of(value: &Value) -> usize {
    let (mut deepest, mut left) = (0, vec![(value, 0)]);
    while let Some((value, depth)) = left.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(items) => left.extend(items.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    deepest
}

fn map(fields: &[(String, Type)], items: Map<String, Value>, is_new: bool, depth: usize) -> Result<Value, Violation> {
    let mut accepted = Map::new();
    for (name, value) in items {
        let Some((_, of)) = fields.iter().find(|(field, _)| *field == name) else {
            let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            let rule = format!("not expected; there may be {}", names.join(", "));
            let mut violation = refused(&value, &rule);
            if fields.iter().any(|(_, of)| of.is_secret()) {
                violation.value = format!("{} that is not shown", kind(&value));
            }
            return Err(violation.within(name));
        };
        let value = of.check(value, is_new, depth + 1).map_err(|violation| violation.within(name.clone()))?;
        accepted.insert(name, value);
    }
    Ok(Value::Object(accepted))
}

fn reference(collection: &str, value: &Value) -> Option<Value> {
    let oid = match value {
        Value::String(oid) => oid,
        Value::Object(fields) => {
            let is_of_it = fields.get("type").and_then(Value::as_str) == Some(collection);
            fields.get("oid").and_then(Value::as_str).filter(|_| is_of_it && fields.len() == 2)?
        }
        _ => return None,
    };
    key::check(oid).ok()?;
    Some(serde_json::json!({ "oid": oid, "type": collection }))
}
