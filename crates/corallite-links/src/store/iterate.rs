//! Iterating over a store as it was at one moment.

use std::sync::Arc;

use super::CIDStore;
use crate::engine::{Content, Frozen, Kept};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::{E, Values};

/// A store as it was when the snapshot was made. Making one costs nothing; each partition that changes while it lives is
/// copied once.
#[derive(Debug)]
pub struct Snapshot<'a> {
    pub(super) store: &'a CIDStore,
    pub(super) kept: Arc<Kept>,
}

/// Keys with their values, one partition after the other; within it in no order that means anything.
#[derive(Debug)]
pub struct Pairs<'a> {
    snapshot: &'a Snapshot<'a>,
    /// The smallest hash of the next partition; `None` when there is none.
    next: Option<u64>,
    current: std::vec::IntoIter<(E, Values)>,
}

impl CIDStore {
    /// The store as it is now, however it changes afterwards. All of a transaction or a batch is in it, or nothing.
    ///
    /// ```
    /// # use corallite_links::{CIDStore, E};
    /// let store = CIDStore::memory()?;
    /// store.batch_insert(&[(E::new(1), E::new(10)), (E::new(1), E::new(11)), (E::new(2), E::new(20))])?;
    /// let snapshot = store.snapshot()?;
    /// store.delete(E::new(1))?;
    /// let mut pairs = 0;
    /// for entry in snapshot.iter() {
    ///     let (_key, values) = entry?;
    ///     pairs += values.len();
    /// }
    /// assert_eq!(pairs, 3);
    /// # Ok::<(), corallite_links::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; [`Error::Usage`] while a transaction of the same thread is open.
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        self.shared.check_open()?;
        self.shared.check_no_transaction()?;
        // Between two batches.
        let _turn = self.shared.turn.lock();
        let kept = self.shared.writer.lock().snapshots.begin();
        Ok(Snapshot { store: self, kept })
    }
}

impl Snapshot<'_> {
    /// Every key with its values.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs { snapshot: self, next: Some(0), current: Vec::new().into_iter() }
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = Result<E>> {
        self.iter().map(|entry| entry.map(|(key, _)| key))
    }

    /// Every key with each of its values.
    pub fn pairs(&self) -> impl Iterator<Item = Result<(E, E)>> {
        self.iter().flat_map(|entry| {
            let (pairs, error) = match entry {
                Ok((key, values)) => (values.into_iter().map(|value| (key, value)).collect(), None),
                Err(error) => (Vec::new(), Some(error)),
            };
            pairs.into_iter().map(Ok).chain(error.map(Err))
        })
    }

    /// The values that a key had.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn get(&self, key: E) -> Result<Values> {
        let engine = &self.store.shared.engine;
        let hash = engine.seed.hash(key);
        // Held, so that the partition does not change between finding it unchanged and reading it.
        let writer = self.store.shared.writer.lock();
        let Some(frozen) = self.frozen(hash) else { return self.store.get(key) };
        drop(writer);
        let content = content(&frozen, self.store)?;
        let found = content.binary_search_by_key(&key, |(other, _)| *other);
        Ok(found.map_or_else(|_| Values::default(), |index| content[index].1.clone()))
    }

    fn frozen(&self, hash: Hash) -> Option<Arc<Frozen>> {
        self.kept.partitions.lock().iter().find(|frozen| frozen.covers(hash)).map(Arc::clone)
    }

    /// The content of the partition that a hash belonged to, and the smallest hash of the next one.
    pub(super) fn partition(&self, hash: Hash) -> Result<(Content, Option<u64>)> {
        let shared = &self.store.shared;
        shared.check_open()?;
        let after = |skip: u8, prefix: u64| match skip {
            0 => None,
            skip => ((prefix + 1) as u128 * (1 << (64 - u32::from(skip)))).try_into().ok(),
        };
        let writer = shared.writer.lock();
        if let Some(frozen) = self.frozen(hash) {
            drop(writer);
            return Ok((content(&frozen, self.store)?.to_vec(), after(frozen.skip, frozen.prefix)));
        }
        let owned = writer.partitions.get(shared.engine.route(hash) as usize).and_then(Option::as_ref);
        let Some(owned) = owned else { return Ok((Vec::new(), None)) };
        Ok((shared.engine.content(owned)?, after(owned.skip, owned.prefix)))
    }
}

fn content<'a>(frozen: &'a Frozen, store: &CIDStore) -> Result<&'a [(E, Values)]> {
    match &frozen.content {
        Ok(content) => Ok(content),
        Err(error) => Err(Error::damaged(store.path(), "a partition that a snapshot needs", error.to_string())),
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<(E, Values)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.current.next() {
                return Some(Ok(entry));
            }
            let hash = Hash(self.next.take()?);
            match self.snapshot.partition(hash) {
                Ok((content, next)) => {
                    self.current = content.into_iter();
                    self.next = next;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
