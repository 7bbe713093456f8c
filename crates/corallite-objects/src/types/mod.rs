//! What a property may hold.
//!
//! A value is JSON ([`serde_json::Value`]). [`Type::accept`] checks one and gives it in the form in which it is kept: a
//! password hashed, a float of an integer as float, everything else as it is. Null is no value of any type but
//! [`Type::Any`]; setting a property to null clears it.
//!
//! ```
//! use corallite_objects::types::Type;
//! use serde_json::json;
//!
//! let roles = Type::list(Type::one_of([Type::Enum(vec![json!("admin"), json!("reader")]), Type::Email]));
//! assert_eq!(roles.accept(json!(["admin", "ann@example.org"]))?, json!(["admin", "ann@example.org"]));
//! let refused = roles.accept(json!(["admin", 3])).unwrap_err();
//! assert_eq!(refused.to_string(), "item 1 is 3, which is none of: one of \"admin\", \"reader\"; an e-mail address");
//! # Ok::<(), corallite_objects::types::Violation>(())
//! ```

mod check;
mod password;
#[cfg(feature = "sanitize")]
mod sanitize;
mod time;

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use check::kind;
pub use password::verify as verify_password;
#[cfg(feature = "sanitize")]
pub use sanitize::sanitize;
pub use time::date_time;
pub(crate) use time::is_date;

/// What a property may hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// A whole number of 64 bits.
    Integer,
    /// A whole number that is not negative.
    Positive,
    /// A finite number, kept as floating point.
    Float,
    /// A number, whole or not, kept as it is.
    Number,
    /// Any text.
    String,
    /// Text without a line break.
    Line,
    /// An e-mail address, as RFC 5321 has it.
    Email,
    /// Text that is kept as its argon2id hash only, and never exported.
    Password,
    /// An absolute URL.
    Url,
    /// HTML. It is kept as it is; see [`sanitize`].
    Html,
    /// Markdown.
    Markdown,
    /// HTML as an editor makes it. It is kept as it is; see [`sanitize`].
    RichText,
    /// A date, `2025-01-15` (ISO 8601).
    Date,
    /// A time of day, `12:30` or `12:30:00.25` (ISO 8601).
    Time,
    /// A date with a time, with or without an offset: `2025-01-15T12:30:00Z` (ISO 8601).
    DateTime,
    /// Bytes, as base64 text (RFC 4648, padded).
    Binary,
    /// Any JSON, null included.
    Any,
    /// Any number of values of one type.
    List(Box<Type>),
    /// As many values as types, in this order.
    Tuple(Vec<Type>),
    /// A value of the first type that allows it.
    OneOf(Vec<Type>),
    /// Named values; each may be missing.
    Map(Vec<(String, Type)>),
    /// One of some values.
    Enum(Vec<Value>),
    /// An object of a collection, by its id or as `{"oid": …, "type": …}`, kept in the second form. Nothing looks whether
    /// it exists: that is what relations are for.
    Reference(String),
    /// A value of a type between two others, these included: numbers, texts, or times, which are compared as points in time.
    Range(Value, Value, Box<Type>),
}

impl Type {
    /// [`Type::List`].
    pub fn list(of: Type) -> Self {
        Self::List(Box::new(of))
    }

    /// [`Type::Tuple`].
    pub fn tuple(of: impl IntoIterator<Item = Type>) -> Self {
        Self::Tuple(of.into_iter().collect())
    }

    /// [`Type::OneOf`].
    pub fn one_of(types: impl IntoIterator<Item = Type>) -> Self {
        Self::OneOf(types.into_iter().collect())
    }

    /// [`Type::Map`].
    pub fn map<N: Into<String>>(fields: impl IntoIterator<Item = (N, Type)>) -> Self {
        Self::Map(fields.into_iter().map(|(name, of)| (name.into(), of)).collect())
    }

    /// [`Type::Enum`].
    pub fn enumeration<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Self {
        Self::Enum(values.into_iter().map(Into::into).collect())
    }

    /// [`Type::Reference`].
    pub fn reference(collection: impl Into<String>) -> Self {
        Self::Reference(collection.into())
    }

    /// [`Type::Range`].
    pub fn range(low: impl Into<Value>, high: impl Into<Value>, of: Type) -> Self {
        Self::Range(low.into(), high.into(), Box::new(of))
    }

    /// Whether texts that it allows, or that it allows in these fields of maps, are dates or times, which are compared as points
    /// in time: its own, or those of the types it is made of.
    pub(crate) fn has_times(&self, fields: &[String]) -> bool {
        match self {
            Self::Date | Self::Time | Self::DateTime => fields.is_empty(),
            Self::List(of) | Self::Range(_, _, of) => of.has_times(fields),
            Self::Tuple(types) | Self::OneOf(types) => types.iter().any(|of| of.has_times(fields)),
            Self::Map(types) => fields
                .split_first()
                .is_some_and(|(field, rest)| types.iter().any(|(name, of)| name == field && of.has_times(rest))),
            _ => false,
        }
    }

    /// Whether it allows no texts but dates, which are in the order of their texts.
    pub(crate) fn has_dates_only(&self) -> bool {
        match self {
            Self::Date => true,
            Self::List(of) | Self::Range(_, _, of) => of.has_dates_only(),
            Self::OneOf(types) => types.iter().all(Self::has_dates_only),
            _ => false,
        }
    }

    /// Whether values of it are, or hold, passwords: these are never exported.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Password => true,
            Self::List(of) | Self::Range(_, _, of) => of.is_secret(),
            Self::Tuple(types) | Self::OneOf(types) => types.iter().any(Self::is_secret),
            Self::Map(fields) => fields.iter().any(|(_, of)| of.is_secret()),
            _ => false,
        }
    }
}

/// Why a value is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where in the value, `item 3 of name`; empty for the value itself.
    pub place: String,
    /// The value, shortened; never a password.
    pub value: String,
    /// What is allowed there.
    pub rule: String,
}

impl std::error::Error for Violation {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "it" } else { &self.place };
        write!(f, "{place} is {}, which is {}", self.value, self.rule)
    }
}

/// The order of two values in ranges and indexes: null, booleans, numbers, texts, then everything else by its JSON.
pub fn compare(one: &Value, other: &Value) -> Ordering {
    compare_by(one, other, &|one, other| one.cmp(other))
}

/// The same order, where texts that are dates or times come as points in time, before all other texts.
pub(crate) fn compare_times(one: &Value, other: &Value) -> Ordering {
    compare_by(one, other, &|one, other| match (time::order(one), time::order(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (None, None) => one.cmp(other),
        (one, _) => {
            if one.is_some() {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
    })
}

/// Whether a text is a date or a time.
pub(crate) fn is_point_in_time(text: &str) -> bool {
    time::order(text).is_some()
}

fn compare_by(one: &Value, other: &Value, texts: &dyn Fn(&str, &str) -> Ordering) -> Ordering {
    fn class(value: &Value) -> u8 {
        match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) => 4,
            Value::Object(_) => 5,
        }
    }
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::Number(one), Value::Number(other)) => compare_numbers(one, other),
        (Value::String(one), Value::String(other)) => texts(one, other),
        (Value::Array(one), Value::Array(other)) => {
            let unequal =
                one.iter().zip(other).map(|(one, other)| compare_by(one, other, texts)).find(|order| order.is_ne());
            unequal.unwrap_or_else(|| one.len().cmp(&other.len()))
        }
        (one, other) => class(one).cmp(&class(other)).then_with(|| one.to_string().cmp(&other.to_string())),
    }
}

fn compare_numbers(one: &serde_json::Number, other: &serde_json::Number) -> Ordering {
    let whole =
        |number: &serde_json::Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(one), None) => other.as_f64().map_or(Ordering::Equal, |other| compare_mixed(one, other)),
        (None, Some(other)) => one.as_f64().map_or(Ordering::Equal, |one| compare_mixed(other, one).reverse()),
        // Zero has two signs and one place in the order.
        (None, None) => (one.as_f64().unwrap_or(0.0) + 0.0).total_cmp(&(other.as_f64().unwrap_or(0.0) + 0.0)),
    }
}

/// A whole number against a finite one, exactly: beyond 2^53 not every whole number is a float.
fn compare_mixed(whole: i128, float: f64) -> Ordering {
    let floor = float.floor();
    whole.cmp(&(floor as i128)).then(if float > floor { Ordering::Less } else { Ordering::Equal })
}
