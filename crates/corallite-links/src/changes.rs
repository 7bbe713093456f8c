//! [`Changes`]: changes that are gathered before they are made.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use corallite_file::Transaction;

use crate::change::{Change, Operation};
use crate::error::{Error, Result};
use crate::pending::{self, Pending};
use crate::{CIDStore, Deletion, E, Values};

/// Changes of links that are gathered, and see themselves. They become durable together with whatever else is in a
/// transaction of the store's file:
///
/// ```
/// use corallite_links::{CIDStore, Changes, E, Error};
///
/// let links = CIDStore::memory()?;
/// let (model, license) = (E::from_str("model"), E::from_str("apache-2.0"));
/// let pending = links.storage().transaction(|tx| {
///     let mut changes = Changes::default();
///     changes.insert(model, license, || links.get(model))?;
///     assert_eq!(changes.get(model, || links.get(model))?, [license]);
///     // ... and changes of weights, through `tx` ...
///     changes.write(tx, Some(&links))
/// })?; // here all of them became durable, or none
/// links.adopt(pending)?;
/// assert_eq!(links.get(model)?, [license]);
/// # Ok::<(), Error>(())
/// ```
///
/// `stored` is asked for the values that a key has without these changes, when they are needed for the first time; what it
/// says is remembered.
#[derive(Debug, Default)]
pub struct Changes {
    changes: Vec<Change>,
    /// The values of each key that was looked at, with the changes.
    seen: HashMap<E, Vec<E>>,
}

impl Changes {
    fn values(&mut self, key: E, stored: impl FnOnce() -> Result<Values>) -> Result<&mut Vec<E>> {
        Ok(match self.seen.entry(key) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(unseen) => unseen.insert(Vec::from(stored()?)),
        })
    }

    /// The values of a key, with the changes.
    ///
    /// # Errors
    ///
    /// That of `stored`.
    pub fn get(&mut self, key: E, stored: impl FnOnce() -> Result<Values>) -> Result<Values> {
        Ok(self.values(key, stored)?.iter().copied().collect())
    }

    /// Links a value to a key; whether it was not yet.
    ///
    /// # Errors
    ///
    /// That of `stored`; nothing is changed then.
    pub fn insert(&mut self, key: E, value: E, stored: impl FnOnce() -> Result<Values>) -> Result<bool> {
        let values = self.values(key, stored)?;
        let is_new = !values.contains(&value);
        if is_new {
            values.push(value);
            self.changes.push(Change::insert(key, value));
        }
        Ok(is_new)
    }

    /// Removes a key, or one value of it; whether there was anything. See [`CIDStore::delete`].
    ///
    /// # Errors
    ///
    /// That of `stored`; nothing is changed then.
    pub fn delete(&mut self, what: impl Into<Deletion>, stored: impl FnOnce() -> Result<Values>) -> Result<bool> {
        let change = what.into().change();
        let values = self.values(change.key, stored)?;
        let before = values.len();
        match change.operation {
            Operation::DeleteKey => values.clear(),
            _ => values.retain(|value| *value != change.value),
        }
        let is_gone = values.len() < before;
        if is_gone {
            self.changes.push(change);
        }
        Ok(is_gone)
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Writes the changes into a transaction of the store's file, as `/nodes/pending`, and creates what is missing of the
    /// groups. They are made if and when the transaction is committed. Then hand the result to [`CIDStore::adopt`], of the
    /// open links or of links opened for it; should the program not get there, the next opening of the links does it.
    ///
    /// `links` are the open links of the file, where they are open. A file holds the changes of one transaction at a time, which
    /// must have been adopted when those of the next one are written: let transactions with links take turns until their
    /// changes are adopted.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the file has changes that `links` have not adopted, or when `links` are those of another file;
    /// [`Error::ReadOnly`], [`Error::Closed`] and [`Error::Poisoned`] when `links` would not take the changes;
    /// [`Error::TooLarge`] for 2³² - 1 changes or more; what the file layer reports. Nothing was written then.
    pub fn write(self, transaction: &Transaction<'_>, links: Option<&CIDStore>) -> Result<Pending> {
        let Self { changes, .. } = self;
        if changes.is_empty() {
            return Ok(Pending::default());
        }
        let path = transaction.storage().path();
        // The log counts the changes of a batch in 32 bits; it grows to whatever is less.
        let most = u64::from(u32::MAX);
        if changes.len() as u64 >= most {
            return Err(Error::TooLarge { path: path.to_owned(), records: changes.len() as u64 + 1, capacity: most });
        }
        let usage = |problem: &str| Err(Error::Usage { path: path.to_owned(), problem: problem.to_owned() });
        if let Some(links) = links {
            if !std::ptr::eq(transaction.storage(), links.storage().as_ref()) {
                return usage(
                    "the links are those of another file; write their changes into a transaction of that one",
                );
            }
            links.shared().check_writable()?;
        }
        if let Some(token) = pending::token_in(transaction)?
            && !links.is_some_and(|links| links.shared().has_adopted(token))
        {
            return usage(
                "an earlier transaction has changed links, and they have not taken that over yet; open the links for writing, \
                 or let them adopt it, and then begin this transaction again",
            );
        }
        pending::write(transaction, changes)
    }
}
