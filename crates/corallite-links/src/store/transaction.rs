//! Transactions: changes of many keys that happen together.

use parking_lot::MutexGuard;

use super::{CIDStore, Shared};
use crate::error::Result;
use crate::wal::Durability;
use crate::{Changes, E, Values};

/// Changes that become durable together, or not at all. While one is open no other write happens, so that what it reads
/// stays true until it commits; readers see none of it before. Dropped without [`Transaction::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Transaction<'a> {
    store: &'a CIDStore,
    turn: Turn<'a>,
    changes: Changes,
}

/// The turn, and whose it is.
#[derive(Debug)]
struct Turn<'a> {
    shared: &'a Shared,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.shared.transacting.lock() = None;
    }
}

impl CIDStore {
    /// Begins a transaction, once those of others are over. Until it ends, other writers wait.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Poisoned`](crate::Error::Poisoned);
    /// [`Error::Usage`](crate::Error::Usage) while another one of the same thread is open, as for everything else that would
    /// wait for it.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        self.shared.check_writable()?;
        self.shared.check_no_transaction()?;
        let turn = Turn { shared: &self.shared, _turn: self.shared.turn.lock() };
        *self.shared.transacting.lock() = Some(std::thread::current().id());
        Ok(Transaction { store: self, turn, changes: Changes::default() })
    }

    /// Whether this thread has a transaction of the links open.
    pub fn is_in_transaction(&self) -> bool {
        self.shared.check_no_transaction().is_err()
    }

    /// Runs `change` as one transaction: committed durably when it returns `Ok`, dropped when it returns `Err`.
    ///
    /// ```
    /// # use corallite_links::{CIDStore, E, Error};
    /// let store = CIDStore::memory()?;
    /// let (a, b, value) = (E::new(1), E::new(2), E::new(3));
    /// store.insert(a, value)?;
    /// store.transaction(|tx| {
    ///     if tx.delete((a, value))? {
    ///         tx.insert(b, value)?; // the value moves from one key to the other, or stays
    ///     }
    ///     Ok::<_, Error>(())
    /// })?;
    /// assert_eq!((store.get(a)?.len(), store.get(b)?.len()), (0, 1));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// That of `change`, or of the commit.
    pub fn transaction<T, F: From<crate::Error>>(
        &self,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, F>,
    ) -> Result<T, F> {
        let mut transaction = self.begin()?;
        let value = change(&mut transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

impl Transaction<'_> {
    /// The values of a key, with what this transaction did to them.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn get(&mut self, key: E) -> Result<Values> {
        self.changes.get(key, || self.store.get(key))
    }

    /// Links a value to a key; whether it was not yet.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn insert(&mut self, key: E, value: E) -> Result<bool> {
        self.changes.insert(key, value, || self.store.get(key))
    }

    /// Removes a key, or one value of it; whether there was anything. See [`CIDStore::delete`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn delete(&mut self, what: impl Into<super::Deletion>) -> Result<bool> {
        let what = what.into();
        self.changes.delete(what, || self.store.get(what.change().key))
    }

    /// Makes the changes, durably.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::batch_insert`].
    pub fn commit(self) -> Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let shared = &self.store.shared;
        let outcome = shared.commit_one(&self.changes.into_changes(), Durability::Durable);
        drop(self.turn);
        shared.after(outcome).map(drop)
    }

    /// Drops the changes.
    pub fn abort(self) {}
}
