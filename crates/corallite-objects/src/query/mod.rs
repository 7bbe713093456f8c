//! Finding objects by a condition: `tags = "best" and loss < 2`.
//!
//! ```text
//! condition   and or not ( )
//!             NAME = VALUE    also == != < <= > >=
//!             NAME ~ TEXT     the text occurs in it, upper and lower case alike
//!             NAME in (VALUE, VALUE)
//!             NAME is null    NAME is not null
//!             NAME            it is true
//! NAME        a property; a field of one, `config.lr`; a relation, which has its targets' ids; oid; updated
//! VALUE       "text" 'text' 12 -1.5e3 true false null
//! ```
//!
//! A list has a value if one of its items has. `!=` is true for what has no value. Numbers, texts and times are compared with
//! their like only; times, also within the types of lists and the like, as points in time. An index is used where one answers a part of the condition; every answer is compared with the whole.

mod condition;
mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::backend::Range;
use crate::class::Class;
use crate::document::Document;
use crate::error::Result;
use crate::index::{Index, IndexView, Indexing, ObjectIndexes, ObjectView, Order};
use crate::key;
use crate::object::StoredObject;
use crate::storage::{ObjectStorage, Shared};
use crate::types::{compare, compare_times, is_date};

use condition::{Comparison, Condition, Operator, first_within};

/// A query that is being put together.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{Class, Indexes, Indexing, MemoryBackend, ObjectStorage, Type};
/// use serde_json::json;
///
/// let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
/// let run = Class::new("Run").property("loss", Type::Float).property("tags", Type::list(Type::Line));
/// storage.register(run.index("tags", Indexing::Normalize))?;
/// Indexes::attach(&storage, Arc::clone(storage.backend()))?;
/// for (loss, tag) in [(2.5, "best"), (1.5, "best"), (0.5, "worst")] {
///     storage.create("Run", json!({"loss": loss, "tags": [tag]}))?.save()?;
/// }
/// let query = storage.find("Run", "tags = 'best' and loss < 3")?.sort("-loss").limit(5);
/// assert_eq!(query.explain()?.to_string(), "index Run.by.tags = \"best\"; then the condition; then sorted by -loss");
/// let losses: Vec<_> = query.run()?.iter().map(|run| run.get("loss")).collect();
/// assert_eq!(losses, [Some(json!(2.5)), Some(json!(1.5))]);
/// # Ok::<(), corallite_objects::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Query {
    shared: Arc<Shared>,
    class: Arc<Class>,
    condition: Condition,
    sort: Vec<Sort>,
    limit: Option<usize>,
}

/// What is sorted by.
#[derive(Clone, Debug)]
struct Sort {
    name: String,
    /// The fields of the property's value, outermost first.
    fields: Vec<String>,
    order: Order,
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.fields.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

/// How a query is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    /// All objects of the class are looked at.
    pub is_scan: bool,
    rest: Vec<String>,
}

/// One look-up in an index.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    index: String,
    from: Option<Value>,
    to: Option<Value>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self
            .steps
            .iter()
            .map(|step| match (&step.from, &step.to) {
                (Some(from), Some(to)) if from == to => format!("index {} = {from}", step.index),
                (Some(from), Some(to)) => format!("index {} from {from} to {to}", step.index),
                (Some(from), None) => format!("index {} from {from}", step.index),
                (None, Some(to)) => format!("index {} to {to}", step.index),
                (None, None) => format!("index {}", step.index),
            })
            .collect();
        if self.is_scan {
            parts = vec!["all objects".to_owned()];
        }
        let first = parts.join(" and ");
        let all: Vec<&str> = std::iter::once(first.as_str()).chain(self.rest.iter().map(String::as_str)).collect();
        f.write_str(&all.join("; then "))
    }
}

impl ObjectStorage {
    /// The objects of a class that a condition is true of; see [the module](self). An empty condition is true of all.
    ///
    /// # Errors
    ///
    /// [`Error::Query`](crate::Error::Query) with the place, [`Error::Unknown`](crate::Error::Unknown) for the class or a name
    /// that it does not have.
    pub fn find(&self, class: &str, condition: &str) -> Result<Query> {
        let class = self.shared.class(class)?;
        let condition = parse::parse(condition)?;
        condition.check(&class)?;
        Ok(Query { shared: Arc::clone(&self.shared), class, condition, sort: Vec::new(), limit: None })
    }
}

impl Query {
    /// Sorts by a property, or a field of one (`metrics.loss`), from its smallest value on, with a `-` before it from its greatest; after what it is sorted by
    /// already. Objects without a value come last. Equals are in the order of their ids.
    pub fn sort(mut self, by: &str) -> Self {
        let (name, order) = match by.strip_prefix('-') {
            Some(name) => (name, Order::Descending),
            None => (by, Order::Ascending),
        };
        let mut fields = name.split('.').map(str::to_owned);
        let name = fields.next().unwrap_or_default();
        self.sort.push(Sort { name, fields: fields.collect(), order });
        self
    }

    /// Gives at most so many.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// How it will be answered.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn explain(&self) -> Result<Plan> {
        Ok(self.plan().0)
    }

    fn plan(&self) -> (Plan, Option<Vec<Access>>) {
        let accesses = self.shared.keeper.get().and_then(|keeper| {
            let of = ObjectIndexes {
                shared: Arc::clone(&self.shared),
                keeper: Arc::clone(keeper),
                class: Arc::clone(&self.class),
            };
            access(&of, &self.condition)
        });
        let mut rest = Vec::new();
        if !matches!(self.condition, Condition::True) {
            rest.push("the condition".to_owned());
        }
        if !self.sort.is_empty() {
            let sign = |order: &Order| if *order == Order::Descending { "-" } else { "" };
            let names: Vec<String> = self.sort.iter().map(|by| format!("{}{by}", sign(&by.order))).collect();
            rest.push(format!("sorted by {}", names.join(", ")));
        }
        let steps = accesses.iter().flatten().map(|access| Step {
            index: format!("{}.by.{}", self.class.name(), access.name),
            from: access.from.clone(),
            to: access.to.clone(),
        });
        (Plan { steps: steps.collect(), is_scan: accesses.is_none(), rest }, accesses)
    }

    /// The ids of the stored objects that it is true of; for those that are damaged an error: in its place, and where it is
    /// sorted at the end.
    fn matches(&self) -> Result<Vec<Result<String>>> {
        for Sort { name, .. } in &self.sort {
            condition::check_name(&self.class, name)?;
        }
        if self.limit == Some(0) {
            return Ok(Vec::new());
        }
        let (backend, location) = (&self.shared.backend, || self.shared.backend.location());
        // With the values that it is sorted by.
        let mut found: Vec<Result<(Vec<Value>, String)>> = Vec::new();
        let mut left = if self.sort.is_empty() { self.limit } else { None };
        // Says whether that was enough.
        let mut look = |oid: &str, bytes: &[u8]| -> bool {
            let document = match Document::from_bytes(&self.class, oid, bytes, &location) {
                Ok(document) => document,
                Err(error) => {
                    found.push(Err(error));
                    return false;
                }
            };
            let view = ObjectView { oid, document: &document };
            if self.condition.is_true(&self.class, view) {
                let value = |Sort { name, fields, .. }: &Sort| first_within(&self.class, view, name, fields);
                found.push(Ok((self.sort.iter().map(value).collect(), oid.to_owned())));
                left = left.map(|left| left.saturating_sub(1));
            }
            left == Some(0)
        };
        match self.plan().1 {
            Some(accesses) => {
                let mut oids = BTreeSet::new();
                for Access { view, from, to, .. } in &accesses {
                    for oid in view.oids_between(from.as_ref(), to.as_ref(), Order::Ascending)? {
                        oids.insert(oid?);
                    }
                }
                for oid in oids {
                    if let Some(bytes) = backend.get(&self.class.key(&oid))?
                        && look(&oid, &bytes)
                    {
                        break;
                    }
                }
            }
            None => {
                for entry in backend.entries_in(&Range::prefix(&key::prefix(self.class.collection())))? {
                    let (key, bytes) = entry?;
                    if let Some((_, oid)) = key::split(&key)
                        && look(oid, &bytes)
                    {
                        break;
                    }
                }
            }
        }
        if self.sort.is_empty() {
            return Ok(found.into_iter().map(|one| one.map(|(_, oid)| oid)).collect());
        }
        let (mut sorted, mut damaged) = (Vec::with_capacity(found.len()), Vec::new());
        for one in found {
            match one {
                Ok(one) => sorted.push(one),
                Err(error) => damaged.push(Err(error)),
            }
        }
        sorted.sort_by(|(one, _), (other, _)| {
            let orders =
                one.iter().zip(other).zip(&self.sort).map(|((one, other), Sort { name, fields, order })| {
                    match (one.is_null(), other.is_null()) {
                        (false, false) if *order == Order::Descending => {
                            compare_as(&self.class, name, fields, other, one)
                        }
                        (false, false) => compare_as(&self.class, name, fields, one, other),
                        (one, other) => one.cmp(&other),
                    }
                });
            orders.into_iter().find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        });
        sorted.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(sorted.into_iter().map(|(_, oid)| Ok(oid)).chain(damaged).collect())
    }

    /// The objects of which it is true as they are stored. An object that somebody has, with changes that are not saved, is given
    /// with these. [`Query::each`] gives those that are not damaged, too, when one is.
    ///
    /// # Errors
    ///
    /// What the backends report, and the first damaged object that is looked at.
    pub fn run(&self) -> Result<Vec<StoredObject>> {
        self.each()?.collect()
    }

    /// The objects, each loaded when it is come to, and an error for each damaged one that is looked at: in its place, or at the
    /// end of those that are sorted. It counts for no [limit](Query::limit).
    ///
    /// # Errors
    ///
    /// What the backends report.
    pub fn each(&self) -> Result<impl Iterator<Item = Result<StoredObject>> + use<>> {
        let (shared, class) = (Arc::clone(&self.shared), Arc::clone(&self.class));
        // One that is removed meanwhile is left out.
        Ok(self.matches()?.into_iter().filter_map(move |oid| match oid {
            Ok(oid) => shared.load(&class, &oid).transpose(),
            Err(error) => Some(Err(error)),
        }))
    }

    /// How many there are.
    ///
    /// # Errors
    ///
    /// As [`Query::run`].
    pub fn count(&self) -> Result<usize> {
        self.matches()?.into_iter().try_fold(0, |count, one| one.map(|_| count + 1))
    }
}

/// The order of two values of a property, or of a field within it; of times as points in time.
fn compare_as(class: &Class, name: &str, fields: &[String], one: &Value, other: &Value) -> std::cmp::Ordering {
    if has_times(class, name, fields) { compare_times(one, other) } else { compare(one, other) }
}

/// Whether a property, or a field within it, has dates or times.
fn has_times(class: &Class, name: &str, fields: &[String]) -> bool {
    class.properties().get(name).is_some_and(|property| property.of.has_times(fields))
}

/// Whether a property is compared with these values as an index does it. Times that are equal can be written otherwise; only
/// dates are in the order of their texts, and only among themselves.
fn is_as_indexed(class: &Class, comparison: &Comparison) -> bool {
    let of = class.properties().get(&comparison.name).map(|property| &property.of);
    of.is_none_or(|of| {
        let are_dates = || comparison.values.iter().all(|value| value.as_str().is_some_and(is_date));
        !of.has_times(&[]) || of.has_dates_only() && are_dates()
    })
}

/// A part of an index that has all objects a condition can be true of.
struct Access {
    name: String,
    view: IndexView,
    from: Option<Value>,
    to: Option<Value>,
}

impl Access {
    fn is_one_value(&self) -> bool {
        self.from.is_some() && self.from == self.to
    }
}

/// The parts of indexes that together have all objects a condition can be true of; `None` where only a scan has.
fn access(of: &ObjectIndexes, condition: &Condition) -> Option<Vec<Access>> {
    match condition {
        Condition::And(all) => {
            // One value is a better bet than a range, and a range than several.
            let found = all.iter().filter_map(|one| access(of, one));
            found.min_by_key(|accesses| (accesses.len() > 1, !accesses.iter().all(Access::is_one_value)))
        }
        Condition::Or(all) => {
            let found: Option<Vec<_>> = all.iter().map(|one| access(of, one)).collect();
            Some(found?.into_iter().flatten().collect())
        }
        Condition::Compare(comparison) => access_of(of, comparison),
        Condition::True | Condition::Not(_) => None,
    }
}

fn access_of(of: &ObjectIndexes, comparison: &Comparison) -> Option<Vec<Access>> {
    let is_over = |index: &Index, exactly: bool| {
        let by = index.indexing();
        let finds_equals =
            matches!(by, Indexing::Value | Indexing::Normalize | Indexing::NoAccents | Indexing::Keyword);
        index.property() == Some(comparison.name.as_str())
            && if exactly { *by == Indexing::Value } else { finds_equals }
    };
    // Relations are compared by ids, and indexed by keys.
    if !comparison.fields.is_empty()
        || !is_as_indexed(&of.class, comparison)
        || of.class.relations().contains_key(&comparison.name)
    {
        return None;
    }
    let exactly = !matches!(comparison.operator, Operator::Equal | Operator::In);
    let is_usable = |name: &str| of.by(name).is_ok();
    let mut indexes = of.class.indexes.iter();
    let (name, _) = indexes.find(|(name, index)| is_over(index, exactly) && is_usable(name))?;
    let make = |from: Option<&Value>, to: Option<&Value>| {
        Some(Access { name: name.clone(), view: of.by(name).ok()?, from: from.cloned(), to: to.cloned() })
    };
    let first = comparison.values.first()?;
    match comparison.operator {
        // What has no value is in no index.
        _ if comparison.values.iter().any(|value| value.is_null() || value.is_array() || value.is_object()) => None,
        Operator::Equal | Operator::In => {
            comparison.values.iter().map(|value| make(Some(value), Some(value))).collect()
        }
        Operator::Less | Operator::AtMost => Some(vec![make(None, Some(first))?]),
        Operator::Greater | Operator::AtLeast => Some(vec![make(Some(first), None)?]),
        Operator::Contains | Operator::IsNull | Operator::IsTrue => None,
    }
}
