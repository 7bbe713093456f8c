//! RocksDB: composite keys without values, Bloom filters on the id, no compression.

use std::path::Path;

use anyhow::Result;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, SliceTransform, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};

use super::{composite, memtable_bytes, sorted, value_of};
use crate::engine::{Engine, Found, Pair, Reader, Settings};

pub(crate) struct Rocksdb {
    database: DB,
}

impl Rocksdb {
    pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_hyper_clock_cache(usize::try_from(settings.cache_bytes)?, 0));
        blocks.set_bloom_filter(10.0, false);
        blocks.set_whole_key_filtering(false);

        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::None);
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(16));
        options.set_memtable_prefix_bloom_ratio(0.1);
        options.set_write_buffer_size(usize::try_from(memtable_bytes(settings))?);
        options.set_max_write_buffer_number(4);
        options.increase_parallelism(2);
        Ok(Self { database: DB::open(&options, folder)? })
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.database.write_opt(batch, &options)?)
    }
}

impl Engine for Rocksdb {
    fn insert_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for pair in sorted(pairs) {
            batch.put(composite(pair), []);
        }
        self.write(batch)
    }

    fn delete_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for pair in sorted(pairs) {
            batch.delete(composite(pair));
        }
        self.write(batch)
    }

    /// One iterator that seeks again and again: the cheapest read the crate offers.
    fn reader(&self) -> Result<Reader<'_>> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        options.set_verify_checksums(false);
        let mut iterator = self.database.raw_iterator_opt(options);
        Ok(Box::new(move |key| {
            let prefix = key.to_be_bytes();
            let mut found = Found::default();
            iterator.seek(prefix);
            while let Some(composite) = iterator.key().filter(|composite| composite.starts_with(&prefix)) {
                found.add(value_of(composite)?);
                iterator.next();
            }
            iterator.status()?;
            Ok(found)
        }))
    }

    fn settle(&self) -> Result<()> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        Ok(self.database.wait_for_compact(&options)?)
    }

    fn compact(self: Box<Self>) -> Result<()> {
        self.settle()?;
        self.database.compact_range::<&[u8], &[u8]>(None, None);
        Ok(())
    }
}
