//! fjall: composite keys without values, no compression.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::{composite, memtable_bytes, sorted, value_of};
use crate::engine::{Engine, Found, Pair, Reader, Settings};

/// Looks at the background that must find it idle: a flush queues a compaction only when it ends.
const IDLE_LOOKS: u32 = 3;

pub(crate) struct Fjall {
    database: Database,
    links: Keyspace,
}

impl Fjall {
    pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let database = Database::builder(folder).cache_size(settings.cache_bytes).open()?;
        // 64 MiB is the largest memtable its documentation recommends.
        let memtable = memtable_bytes(settings).min(64 << 20);
        let links = database.keyspace("links", || KeyspaceCreateOptions::default().max_memtable_size(memtable))?;
        Ok(Self { database, links })
    }

    fn batch(&self, pairs: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), pairs).durability(Some(PersistMode::SyncData))
    }
}

impl Engine for Fjall {
    fn insert_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = self.batch(pairs.len());
        for pair in sorted(pairs) {
            batch.insert(&self.links, composite(pair), []);
        }
        Ok(batch.commit()?)
    }

    fn delete_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = self.batch(pairs.len());
        for pair in sorted(pairs) {
            batch.remove(&self.links, composite(pair));
        }
        Ok(batch.commit()?)
    }

    fn reader(&self) -> Result<Reader<'_>> {
        Ok(Box::new(move |key| {
            let mut found = Found::default();
            for entry in self.links.prefix(key.to_be_bytes()) {
                found.add(value_of(&entry.key()?)?);
            }
            Ok(found)
        }))
    }

    fn settle(&self) -> Result<()> {
        self.links.rotate_memtable_and_wait()?;
        let mut idle = 0;
        while idle < IDLE_LOOKS {
            let busy = self.links.sealed_memtable_count() > 0
                || self.database.outstanding_flushes() > 0
                || self.database.active_compactions() > 0;
            idle = if busy { 0 } else { idle + 1 };
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn compact(self: Box<Self>) -> Result<()> {
        self.settle()?;
        Ok(self.links.major_compact()?)
    }
}
