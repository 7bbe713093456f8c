//! Corallite's links engine.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use corallite_links::{AsyncCIDStore, CIDStore, Change, Durability, E, LinksOptions, Values};

use crate::engine::{Durable, Engine, Found, Pair, Reader, Settings};

pub(crate) struct Corallite {
    store: Arc<CIDStore>,
    queue: AsyncCIDStore,
}

impl Corallite {
    pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let options = LinksOptions::new().memory(settings.cache_bytes);
        let store = CIDStore::open_with(folder.join("links.h5"), corallite_links::file::Mode::Append, options)?;
        let store = Arc::new(store);
        Ok(Self { queue: AsyncCIDStore::from(Arc::clone(&store)), store })
    }
}

impl Engine for Corallite {
    fn insert_batch(&self, pairs: &[Pair]) -> Result<()> {
        let changes: Vec<Change> =
            pairs.iter().map(|(key, value)| Change::insert(E::new(*key), E::new(*value))).collect();
        self.store.apply(&changes, Durability::Durable)?;
        Ok(())
    }

    fn delete_batch(&self, pairs: &[Pair]) -> Result<()> {
        let changes: Vec<Change> =
            pairs.iter().map(|(key, value)| Change::delete_value(E::new(*key), E::new(*value))).collect();
        self.store.apply(&changes, Durability::Durable)?;
        Ok(())
    }

    fn reader(&self) -> Result<Reader<'_>> {
        let mut values = Values::default();
        Ok(Box::new(move |key| {
            self.store.get_into(E::new(key), &mut values)?;
            let mut found = Found::default();
            values.iter().for_each(|value| found.add(value.number()));
            Ok(found)
        }))
    }

    fn settle(&self) -> Result<()> {
        self.store.checkpoint()?;
        Ok(())
    }

    /// A checkpoint that begins meanwhile has to wait for its turn to write the file; commits have not.
    fn without_checkpoints(&self, work: &dyn Fn() -> Result<()>) -> Result<()> {
        self.store.storage().transaction(|_| work())
    }

    fn replayed(&self) -> Option<u64> {
        Some(self.store.get_metrics().replayed)
    }

    fn compact(self: Box<Self>) -> Result<()> {
        let Self { store, queue } = *self;
        drop(queue);
        store.compact()?;
        let store = Arc::into_inner(store).context("the store is still in use")?;
        Ok(store.close()?)
    }

    fn insert_queued(&self, (key, value): Pair) -> Option<Durable> {
        let queue = self.queue.clone();
        Some(Box::pin(async move { Ok(queue.insert(E::new(key), E::new(value)).await?) }))
    }
}
