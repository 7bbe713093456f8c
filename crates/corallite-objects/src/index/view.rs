//! Looking things up in an index.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

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
    fn keys_of(&self, part: &str) -> Range {
        Range::prefix(&format!("{}{part}\0", self.prefix))
    }

    fn hits(&self, range: &Range) -> Result<Hits<'_>> {
        let entries = self.of.keeper.backend.entries_in(range)?;
        Ok(Hits { view: self, entries, also: Vec::new(), within: None, ahead: None, run: VecDeque::new() })
    }

    /// The parts of the entries that an object with a value has all of. The first is the longest: of words that is, as a rule,
    /// the rarest.
    fn parts_of(&self, value: &Value) -> Vec<String> {
        let mut parts: Vec<String> = self.index.indexing().look_up(value).iter().map(encode::value).collect();
        parts.sort_by_key(|part| Reverse(part.len()));
        parts
    }

    /// The objects that have a value, by their ids; of an index of [`Keywords`](super::Indexing::Keywords) those that have all
    /// words of a text.
    ///
    /// # Errors
    ///
    /// What the backends report, now or while going on; so all the others.
    pub fn get(&self, value: impl Into<Value>) -> Result<Hits<'_>> {
        let mut parts = self.parts_of(&value.into()).into_iter();
        let first = parts.next().unwrap_or_default();
        Ok(Hits { also: parts.collect(), ..self.hits(&self.keys_of(&first))? })
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
        let value = value.into();
        match self.parts_of(&value).as_slice() {
            [part] if !self.of.keeper.verifies() => self.of.keeper.backend.count_in(&self.keys_of(part)),
            _ => self.get(value)?.oids().try_fold(0, |count, oid| oid.map(|_| count + 1)),
        }
    }

    /// The values there are, in order, each once. A text of more than some 480 bytes is cut, and ends with `…`; those that begin
    /// alike are in no order then.
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

    /// Objects by their values, in order. An object that has several of them shows once for each. For the order of texts that
    /// begin with the same 476 bytes their objects are read, and their ids held in memory.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn list(&self, limits: &Limits) -> Result<impl Iterator<Item = Result<StoredObject>>> {
        let (start, end) = (limits.start.as_ref(), limits.end.as_ref());
        let within = Within {
            start: start.map(|value| self.whole(value)),
            end: end.map(|value| self.whole(value)),
            prefix: String::new(),
            is_reversed: limits.order == Order::Descending,
        };
        let hits = self.hits(&self.range(start, end, limits.order))?;
        Ok(Hits { within: Some(within), ..hits }.take(limits.count.unwrap_or(usize::MAX)))
    }

    /// The ids of objects by their values. Of other values than one there may be too many: the objects of texts that begin as
    /// long limits do.
    pub(crate) fn oids_between(
        &self,
        start: Option<&Value>,
        end: Option<&Value>,
        order: Order,
    ) -> Result<impl Iterator<Item = Result<String>>> {
        let range = match (start, end) {
            (Some(start), Some(end)) if start == end => self.keys_of(&encode::cut(self.whole(start))),
            _ => self.range(start, end, order),
        };
        Ok(self.hits(&range)?.oids())
    }

    fn whole(&self, value: &Value) -> String {
        encode::whole(&self.index.indexing().query(value))
    }

    /// What has all values between two, and of what is in order by its beginning only all that begins like them.
    fn range(&self, start: Option<&Value>, end: Option<&Value>, order: Order) -> Range {
        let Range { mut from, mut to, .. } = Range::prefix(&self.prefix);
        if let Some(start) = start.map(|value| self.whole(value)) {
            from = match encode::beginning(&start) {
                Some(beginning) => format!("{}{beginning}", self.prefix),
                None => format!("{}{start}\0", self.prefix),
            };
        }
        if let Some(end) = end.map(|value| self.whole(value)) {
            to = match encode::beginning(&end) {
                Some(beginning) => Range::prefix(&format!("{}{beginning}", self.prefix)).to,
                // What begins with the value and a NUL has that value.
                None => Some(format!("{}{end}\u{1}", self.prefix)),
            };
        }
        Range { from, to, is_reversed: order == Order::Descending }
    }

    /// The objects that have a text that begins with this one, in the order of the texts; see [`IndexView::list`]. Of an index of
    /// [`Keywords`](super::Indexing::Keywords) those that have a word that does.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`].
    pub fn prefix(&self, text: &str) -> Result<Hits<'_>> {
        let prefix = self.whole(&text.into());
        let begins = encode::beginning(&prefix).unwrap_or(&prefix);
        let hits = self.hits(&Range::prefix(&format!("{}{begins}", self.prefix)))?;
        Ok(Hits { within: Some(Within { prefix, ..Within::default() }), ..hits })
    }
}

/// Which values are listed, as they would be in keys of any length.
#[derive(Default)]
struct Within {
    start: Option<String>,
    end: Option<String>,
    prefix: String,
    is_reversed: bool,
}

impl Within {
    fn has(&self, whole: &str) -> bool {
        self.start.as_deref().is_none_or(|start| start <= whole)
            && self.end.as_deref().is_none_or(|end| whole <= end)
            && whole.starts_with(&self.prefix)
    }
}

/// An entry: its value's part, and its oid.
type Entry = (String, String);

/// Objects that an index leads to.
pub struct Hits<'a> {
    view: &'a IndexView,
    entries: Entries<'a>,
    /// The parts of other entries that an object must have too.
    also: Vec<String>,
    /// Which values are meant, and that they are given in order; otherwise all entries are, as they come.
    within: Option<Within>,
    /// An entry that was read and not given yet.
    ahead: Option<Entry>,
    /// Entries whose values begin alike, in order.
    run: VecDeque<Result<Entry>>,
}

impl<'a> Hits<'a> {
    /// Their ids only, which are not loaded unless the index may have entries too many.
    pub fn oids(mut self) -> impl Iterator<Item = Result<String>> + use<'a> {
        std::iter::from_fn(move || Some(self.step()?.map(|(_, oid)| oid)))
    }

    /// The next entry that is meant.
    fn step(&mut self) -> Option<Result<Entry>> {
        let Some(within) = self.within.take() else { return self.entry() };
        let next = self.step_within(&within);
        self.within = Some(within);
        next
    }

    fn step_within(&mut self, within: &Within) -> Option<Result<Entry>> {
        loop {
            if let Some(next) = self.run.pop_front() {
                return Some(next);
            }
            let (part, oid) = match self.ahead.take().map(Ok).or_else(|| self.entry())? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            match encode::beginning(&part).map(str::to_owned) {
                None if within.has(&part) => return Some(Ok((part, oid))),
                None => {}
                Some(beginning) => self.read_run(&beginning, (part, oid), within),
            }
        }
    }

    /// Reads the entries that begin like one, and puts them in the order of their values.
    fn read_run(&mut self, beginning: &str, first: Entry, within: &Within) {
        let (mut found, mut next) = (Vec::new(), Some(Ok(first)));
        while let Some(entry) = next {
            match entry {
                Ok((part, oid)) if encode::beginning(&part) == Some(beginning) => match self.whole_of(&part, &oid) {
                    // What was changed since the entry was read is no answer.
                    Ok(whole) => found.extend(whole.filter(|whole| within.has(whole)).map(|whole| (whole, oid, part))),
                    Err(error) => self.run.push_back(Err(error)),
                },
                Ok(other) => {
                    self.ahead = Some(other);
                    break;
                }
                Err(error) => self.run.push_back(Err(error)),
            }
            next = self.entry();
        }
        found.sort_unstable();
        if within.is_reversed {
            found.reverse();
        }
        self.run.extend(found.into_iter().map(|(_, oid, part)| Ok((part, oid))));
    }

    /// The next entry that is true, and whose object has the others too.
    fn entry(&mut self) -> Option<Result<Entry>> {
        loop {
            let (key, value) = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let Some((part, oid)) = encode::split(&self.view.prefix, &key, &value) else { continue };
            match self.is_answer(part, oid) {
                Ok(true) => return Some(Ok((part.to_owned(), oid.to_owned()))),
                Ok(false) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn is_answer(&self, part: &str, oid: &str) -> Result<bool> {
        let IndexView { of, prefix, .. } = self.view;
        for other in &self.also {
            if !of.keeper.backend.has(&encode::entry(prefix, other, oid).0)? {
                return Ok(false);
            }
        }
        if !of.keeper.verifies() {
            return Ok(true);
        }
        let keys: Vec<String> = self.wholes(oid)?.into_iter().map(encode::cut).collect();
        Ok(std::iter::once(part)
            .chain(self.also.iter().map(String::as_str))
            .all(|part| keys.iter().any(|key| key == part)))
    }

    /// The whole of an entry's value; `None` if its object does not have it (any more).
    fn whole_of(&self, part: &str, oid: &str) -> Result<Option<String>> {
        if !encode::is_cut(part) {
            return Ok(Some(part.to_owned()));
        }
        Ok(self.wholes(oid)?.into_iter().find(|whole| encode::cut(whole.clone()) == part))
    }

    /// The values that an object has now; none if it is not there.
    fn wholes(&self, oid: &str) -> Result<Vec<String>> {
        let ObjectIndexes { shared, class, .. } = &self.view.of;
        let Some(bytes) = shared.backend.get(&class.key(oid))? else { return Ok(Vec::new()) };
        let document = Document::from_bytes(class, oid, &bytes, &|| shared.backend.location())?;
        Ok(self.view.index.wholes(ObjectView { oid, document: &document }).collect())
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
