//! redb: a multimap table of `u128`.

use std::path::Path;

use anyhow::Result;
use redb::{Database, MultimapTableDefinition, ReadableDatabase};

use super::sorted;
use crate::engine::{Engine, Found, Pair, Reader, Settings};

const LINKS: MultimapTableDefinition<u128, u128> = MultimapTableDefinition::new("links");

pub(crate) struct Redb {
    database: Database,
}

impl Redb {
    pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let cache = usize::try_from(settings.cache_bytes)?;
        let path = folder.join("links.redb");
        let exists = path.exists();
        let database = Database::builder().set_cache_size(cache).create(path)?;
        if !exists {
            let transaction = database.begin_write()?;
            transaction.open_multimap_table(LINKS)?;
            transaction.commit()?;
        }
        Ok(Self { database })
    }
}

impl Engine for Redb {
    fn insert_batch(&self, pairs: &[Pair]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut links = transaction.open_multimap_table(LINKS)?;
            for (key, value) in sorted(pairs) {
                links.insert(key, value)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn delete_batch(&self, pairs: &[Pair]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut links = transaction.open_multimap_table(LINKS)?;
            for (key, value) in sorted(pairs) {
                links.remove(key, value)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn reader(&self) -> Result<Reader<'_>> {
        let links = self.database.begin_read()?.open_multimap_table(LINKS)?;
        Ok(Box::new(move |key| {
            let mut found = Found::default();
            for value in links.get(key)? {
                found.add(value?.value());
            }
            Ok(found)
        }))
    }

    fn compact(mut self: Box<Self>) -> Result<()> {
        while self.database.compact()? {}
        Ok(())
    }
}
