//! What a condition says, and whether it is true of an object.

use std::cmp::Ordering;

use serde_json::Value;

use super::{compare_as, has_times};
use crate::class::{Class, is_name};
use crate::error::{Error, Result};
use crate::index::ObjectView;
use crate::types::{Type, is_point_in_time};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    True,
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Comparison),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    pub(super) name: String,
    /// The fields of the property's value, outermost first.
    pub(super) fields: Vec<String>,
    pub(super) operator: Operator,
    pub(super) values: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
    In,
    IsNull,
    IsTrue,
}

impl Condition {
    /// Whether the class has all that it names.
    pub(super) fn check(&self, class: &Class) -> Result<()> {
        match self {
            Self::True => Ok(()),
            Self::And(all) | Self::Or(all) => all.iter().try_for_each(|one| one.check(class)),
            Self::Not(one) => one.check(class),
            Self::Compare(comparison) => {
                check_name(class, &comparison.name)?;
                comparison.check(class)
            }
        }
    }

    pub(super) fn is_true(&self, class: &Class, view: ObjectView<'_>) -> bool {
        match self {
            Self::True => true,
            Self::And(all) => all.iter().all(|one| one.is_true(class, view)),
            Self::Or(all) => all.iter().any(|one| one.is_true(class, view)),
            Self::Not(one) => !one.is_true(class, view),
            Self::Compare(comparison) => comparison.is_true(class, view),
        }
    }
}

/// Whether the class has what is compared or sorted by.
pub(super) fn check_name(class: &Class, name: &str) -> Result<()> {
    if class.properties().get(name).is_some_and(|property| property.of.is_secret()) {
        let class = class.name();
        return Err(Error::Usage(format!("{class}.{name} holds passwords, which nothing is compared with")));
    }
    if class.has(name) || class.is_open && is_name(name) || matches!(name, "oid" | "updated") {
        return Ok(());
    }
    let known = class.properties().keys().chain(class.relations().keys()).map(String::as_str);
    Err(Error::unknown(class.name(), "property", name, known.chain(["oid", "updated"])))
}

/// The values that a name has in an object: of a list its items.
pub(super) fn values_of(class: &Class, view: ObjectView<'_>, name: &str) -> Vec<Value> {
    if let Some(value) = view.get(name) {
        return match value {
            Value::Array(items) => items.clone(),
            value => vec![value.clone()],
        };
    }
    match name {
        "oid" => vec![view.oid().into()],
        "updated" if !class.has("updated") => view.update_time("oid").map(Value::from).into_iter().collect(),
        _ => view.targets(name).iter().map(|target| target.oid.clone().into()).collect(),
    }
}

/// The first value of a field within a property.
pub(super) fn first_within(class: &Class, view: ObjectView<'_>, name: &str, fields: &[String]) -> Value {
    let values = values_of(class, view, name);
    let values = fields.iter().fold(values.iter().collect(), |values, field| within(values, field));
    values.first().map(|value| (*value).clone()).unwrap_or_default()
}

fn within<'a>(values: Vec<&'a Value>, field: &str) -> Vec<&'a Value> {
    let found = values.into_iter().filter_map(|value| value.get(field));
    found
        .flat_map(|value| match value {
            Value::Array(items) => items.iter().collect(),
            value => vec![value],
        })
        .collect()
}

impl Comparison {
    /// A time is compared with times: anything else would be found nowhere, or be no order.
    fn check(&self, class: &Class) -> Result<()> {
        let of = class.properties().get(&self.name).map(|property| &property.of);
        let is_time = matches!(of, Some(Type::Date | Type::Time | Type::DateTime)) && self.fields.is_empty();
        let is_order = !matches!(self.operator, Operator::Contains | Operator::IsNull | Operator::IsTrue);
        let wrong = |value: &&Value| value.as_str().is_none_or(|text| !is_point_in_time(text)) && !value.is_null();
        match self.values.iter().find(wrong).filter(|_| is_time && is_order) {
            None => Ok(()),
            Some(value) => Err(Error::Usage(format!(
                "{}.{} is compared with times, as \"2026-01-31\" or \"2026-01-31T12:00:00Z\", not with {value}",
                class.name(),
                self.name
            ))),
        }
    }

    fn is_true(&self, class: &Class, view: ObjectView<'_>) -> bool {
        let values = values_of(class, view, &self.name);
        let values = self.fields.iter().fold(values.iter().collect(), |values, field| within(values, field));
        match self.operator {
            Operator::IsNull => values.iter().all(|value| value.is_null()),
            Operator::IsTrue => values.contains(&&Value::Bool(true)),
            _ => values.iter().any(|value| self.values.iter().any(|wanted| self.holds(class, value, wanted))),
        }
    }

    fn holds(&self, class: &Class, value: &Value, wanted: &Value) -> bool {
        if let (Operator::Contains, Some(value), Some(wanted)) = (self.operator, value.as_str(), wanted.as_str()) {
            return value.to_lowercase().contains(&wanted.to_lowercase());
        }
        let is_alike = std::mem::discriminant(value) == std::mem::discriminant(wanted);
        if !is_alike {
            return false;
        }
        // Where there can be both, a time is not compared with another text.
        if let (Some(one), Some(other), true) =
            (value.as_str(), wanted.as_str(), has_times(class, &self.name, &self.fields))
            && is_point_in_time(one) != is_point_in_time(other)
        {
            return false;
        }
        let order = compare_as(class, &self.name, &self.fields, value, wanted);
        match self.operator {
            Operator::Equal | Operator::In => order == Ordering::Equal,
            Operator::Less => order == Ordering::Less,
            Operator::AtMost => order != Ordering::Greater,
            Operator::Greater => order == Ordering::Greater,
            Operator::AtLeast => order != Ordering::Less,
            Operator::Contains | Operator::IsNull | Operator::IsTrue => false,
        }
    }
}
