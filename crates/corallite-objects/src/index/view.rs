//! Looking things up in an index.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::encode::{self, index_prefix};
use super::{Index, Keeper, ObjectView};
use crate::backend::{Entries, Range};
use crate::class::Class;
use crate::document::Document;
use crate::error::Result;
use crate::object::StoredObject;
use crate::storage::Shared;

/// The indexes of one class.
#[derive(Clone, Debug)]
pub struct ObjectIndexes {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) class: Arc<Class>,
}

impl ObjectIndexes {
    /// One of them.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`](crate::Error::Unknown); [`Error::Usage`](crate::Error::Usage) for one that is not whole in a backend that
    /// cannot be written.
    pub fn by(&self, index: &str) -> Result<IndexView> {
        let declared = Arc::clone(self.class.known_index(index)?);
        if !self.keeper.is_built(&self.class, index) {
            let name = self.class.name();
            let problem =
                format!("the index {name}.by.{index} is not built; open the store for writing once, which does that");
            return Err(crate::Error::Usage(problem));
        }
        let prefix = index_prefix(self.class.collection(), index);
        Ok(IndexView { of: self.clone(), index: declared, prefix })
    }
}

/// An index that is looked things up in. Arguments are treated as the index treats values.
#[derive(Clone, Debug)]
pub struct IndexView {
    of: ObjectIndexes,
    index: Arc<Index>,
    prefix: String,
}

/// The order of what is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Smallest value first.
    #[default]
    Ascending,
    /// Greatest value first.
    Descending,
}

/// What [`IndexView::list`] lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// The smallest value.
    pub start: Option<Value>,
    /// The greatest value.
    pub end: Option<Value>,
    /// How many objects at most.
    pub count: Option<usize>,
    /// Which first.
    pub order: Order,
}

impl IndexView {
    fn keys_of(&self, value: &Value) -> Range {
        let part = encode::value(&self.index.indexing().query(value));
        Range::prefix(&format!("{}{part}\0", self.prefix))
    }

    fn hits(&self, range: &Range) -> Result<Hits<'_>> {
        Ok(Hits { view: self, entries: self.of.keeper.backend.entries_in(range)? })
    }

    /// The objects that have a value, by their ids.
    ///
    /// # Errors
    ///
    /// What the backends report, now or while going on; so all the others.
    pub fn get(&self, value: impl Into<Value>) -> Result<Hits<'_>> {
        self.hits(&self.keys_of(&value.into()))
    }

    /// One of the objects that have a value, the first being number 0.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn one(&self, value: impl Into<Value>, number: usize) -> Result<Option<StoredObject>> {
        self.get(value)?.nth(number).transpose()
    }

    /// Whether an object has a value.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn has(&self, value: impl Into<Value>) -> Result<bool> {
        Ok(self.get(value)?.oids().next().transpose()?.is_some())
    }

    /// How many objects have a value.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn count(&self, value: impl Into<Value>) -> Result<u64> {
        if self.of.keeper.verifies() {
            return self.get(value)?.oids().try_fold(0, |count, oid| oid.map(|_| count + 1));
        }
        self.of.keeper.backend.count_in(&self.keys_of(&value.into()))
    }

    /// The values there are, in order, each once. A text of more than some 480 bytes is cut, and ends with `…`.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn keys(&self) -> Result<impl Iterator<Item = Result<Value>>> {
        let mut last: Option<String> = None;
        let mut hits = self.hits(&Range::prefix(&self.prefix))?;
        Ok(std::iter::from_fn(move || {
            loop {
                let part = match hits.step()? {
                    Ok((part, _)) => part,
                    Err(error) => return Some(Err(error)),
                };
                if last.as_ref() != Some(&part) {
                    let value = encode::decode(&part).unwrap_or_default();
                    last = Some(part);
                    return Some(Ok(value));
                }
            }
        }))
    }

    /// Objects by their values, in order. An object that has several of them shows once for each.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn list(&self, limits: &Limits) -> Result<impl Iterator<Item = Result<StoredObject>>> {
        let range = self.range(limits.start.as_ref(), limits.end.as_ref(), limits.order);
        Ok(self.hits(&range)?.take(limits.count.unwrap_or(usize::MAX)))
    }

    /// The ids of objects by their values, in order.
    pub(crate) fn oids_between(
        &self,
        start: Option<&Value>,
        end: Option<&Value>,
        order: Order,
    ) -> Result<impl Iterator<Item = Result<String>>> {
        Ok(self.hits(&self.range(start, end, order))?.oids())
    }

    fn range(&self, start: Option<&Value>, end: Option<&Value>, order: Order) -> Range {
        let part = |value: &Value| encode::value(&self.index.indexing().query(value));
        let from = start.map_or(self.prefix.clone(), |value| format!("{}{}\0", self.prefix, part(value)));
        let whole = Range::prefix(&self.prefix);
        // What begins with the value and a NUL has that value.
        let to = end.map_or(whole.to, |value| Some(format!("{}{}\u{1}", self.prefix, part(value))));
        Range { from, to, is_reversed: order == Order::Descending }
    }

    /// The objects that have a text that begins with this one, in the order of the texts.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn prefix(&self, text: &str) -> Result<Hits<'_>> {
        let part = encode::value(&self.index.indexing().query(&text.into()));
        self.hits(&Range::prefix(&format!("{}{part}", self.prefix)))
    }
}

/// Objects that an index leads to.
pub struct Hits<'a> {
    view: &'a IndexView,
    entries: Entries<'a>,
}

impl<'a> Hits<'a> {
    /// Their ids only, which are not loaded unless the index may have entries too many.
    pub fn oids(mut self) -> impl Iterator<Item = Result<String>> + use<'a> {
        std::iter::from_fn(move || Some(self.step()?.map(|(_, oid)| oid)))
    }

    /// The next entry that is true: its value's part, and its oid.
    fn step(&mut self) -> Option<Result<(String, String)>> {
        loop {
            let (key, value) = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let Some((part, oid)) = encode::split(&self.view.prefix, &key, &value) else { continue };
            if self.view.of.keeper.verifies() {
                match self.holds(part, oid) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => return Some(Err(error)),
                }
            }
            return Some(Ok((part.to_owned(), oid.to_owned())));
        }
    }

    fn holds(&self, part: &str, oid: &str) -> Result<bool> {
        let ObjectIndexes { shared, class, .. } = &self.view.of;
        let bytes: Option<Bytes> = shared.backend.get(&class.key(oid))?;
        let Some(bytes) = bytes else { return Ok(false) };
        let document = Document::from_bytes(class, oid, &bytes, &|| shared.backend.location())?;
        Ok(self.view.index.keys(ObjectView { oid, document: &document }).iter().any(|key| key == part))
    }
}

impl Iterator for Hits<'_> {
    type Item = Result<StoredObject>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let oid = match self.step()? {
                Ok((_, oid)) => oid,
                Err(error) => return Some(Err(error)),
            };
            let of = &self.view.of;
            // What was removed since the entry was read is no answer.
            if let Some(found) = of.shared.load(&of.class, &oid).transpose() {
                return Some(found);
            }
        }
    }
}

impl std::fmt::Debug for Hits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hits").field("view", &self.view).finish_non_exhaustive()
    }
}
