//! Corallite's links engine.

use std::path::Path;

use anyhow::Result;
use corallite_links::{CIDStore, Change, Durability, E, LinksOptions, Values};

use crate::engine::{Engine, Found, Pair, Reader, Settings};

pub(crate) struct Corallite {
    store: CIDStore,
}

impl Corallite {
    pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let options = LinksOptions::new().memory(settings.cache_bytes);
        let store = CIDStore::open_with(folder.join("links.h5"), corallite_links::file::Mode::Append, options)?;
        Ok(Self { store })
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

    fn compact(self: Box<Self>) -> Result<()> {
        self.store.compact()?;
        Ok(self.store.close()?)
    }
}
