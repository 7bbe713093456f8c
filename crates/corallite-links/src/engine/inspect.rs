//! Looking at buckets and entries, in the documents' form. People do that, and rarely: it keeps the writer out, so that what
//! is looked at belongs together.

use std::ops::Range;

use super::{Cold, Engine, Owned, Writer, entry};
use crate::E;
use crate::bucket::{self, Hit, Words};
use crate::directory::{Bucket, BucketId};
use crate::entry::{HashEntry, MULTI_VALUE_THRESHOLD, SpillPointer};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::hot::Hot;
use crate::image::{Flaw, StoredImage, directory_sum};

/// Buckets of one partition, those that could not be read as errors.
pub(crate) type Looked = Vec<Result<Bucket>>;

/// Consecutive directory entries that name the same bucket.
struct Run {
    /// Its place among the partition's runs.
    number: u32,
    entries: Range<usize>,
    /// The bucket's first block.
    head: u32,
}

/// The buckets of a directory. How many entries a bucket has is nobody's business but theirs.
fn runs(count: usize, entry: impl Fn(usize) -> u32) -> impl Iterator<Item = Run> {
    let (mut at, mut number) = (0, 0..);
    std::iter::from_fn(move || {
        let start = at;
        let head = (start < count).then(|| entry(start))?;
        at = (start..count).find(|index| entry(*index) != head).unwrap_or(count);
        Some(Run { number: number.next()?, entries: start..at, head })
    })
}

/// Where the runs of a partition lie among all hashes.
#[derive(Clone, Copy)]
struct Hashes {
    prefix: u64,
    skip: u32,
    bits: u32,
}

impl Hashes {
    /// The smallest hash of a directory entry; beyond all hashes for the one after the last of them.
    fn start(self, index: usize) -> u128 {
        ((u128::from(self.prefix) << self.bits) + index as u128) << (64 - self.skip - self.bits)
    }

    fn of(self, run: &Run) -> Range<u128> {
        self.start(run.entries.start)..self.start(run.entries.end)
    }
}

/// The hash at which something begins; `None` beyond all of them.
fn begin(start: u128) -> Option<u64> {
    u64::try_from(start).ok()
}

/// What the blocks of one bucket hold.
#[derive(Default)]
struct Blocks {
    count: u32,
    used: u32,
    depth: u32,
    version: u32,
    /// Each key by its first cell, so that it comes once.
    keys: Vec<E>,
}

impl Blocks {
    fn add<W: Words>(&mut self, block: W) {
        let head = bucket::head(block);
        if self.count == 0 {
            (self.depth, self.version) = (head.depth.into(), head.version);
        }
        self.count += 1;
        bucket::for_each(block, |Hit { slot, inline }| {
            self.used += 1;
            if !inline || bucket::order(block, slot) == 0 {
                self.keys.push(bucket::key(block, slot));
            }
        });
    }

    fn bucket(self, id: BucketId, skip: u32, mut entries: Vec<HashEntry>) -> Bucket {
        entries.sort_unstable_by_key(|entry| entry.key);
        // In a file that lies, a key may be there twice.
        entries.dedup_by_key(|entry| entry.key);
        let Self { count, used, depth, version, .. } = self;
        Bucket { id, entries, used, blocks: count.max(1), local_depth: skip + depth, version }
    }
}

impl Owned {
    /// Bits of the hash that choose among the entries of the directory, those of the prefix included.
    pub(crate) fn depth(&self) -> u32 {
        let stored = || self.record.map_or(0, |record| record.directory_bits);
        u32::from(self.skip) + u32::from(self.hot.as_ref().map_or_else(stored, |hot| hot.bits))
    }

    fn hashes(&self, bits: u32) -> Hashes {
        Hashes { prefix: self.prefix, skip: self.skip.into(), bits }
    }
}

impl Engine {
    fn owned<'a>(&self, writer: &'a Writer, hash: Hash) -> Result<&'a Owned> {
        let owned = writer.partitions.get(self.route(hash) as usize).and_then(Option::as_deref);
        owned.ok_or_else(|| Error::damaged(&self.path, "/nodes/partitions", "none has the hash of a key"))
    }

    /// The canonical entry of a key; `None` for one that is absent.
    pub(crate) fn entry_of(&self, writer: &Writer, key: E) -> Result<Option<HashEntry>> {
        let hash = self.seed.hash(key);
        let owned = self.owned(writer, hash)?;
        if let Some(hot) = &owned.hot {
            return Ok(self.hot_entry(hot, hash, key));
        }
        let partition = self.partition(owned.id);
        self.read_cold(&partition)?;
        self.cold_entry(&partition.cold.read(), hash, key)
    }

    fn hot_entry(&self, hot: &Hot, hash: Hash, key: E) -> Option<HashEntry> {
        let (inline, spill, version) = hot.entry(&self.memory, hash, key);
        let spill = spill.map(|(unit, head)| SpillPointer { reference: unit, sorted_count: head.sorted, checksum: 0 });
        entry(key, &inline, spill, version)
    }

    fn cold_entry(&self, cold: &Cold, hash: Hash, key: E) -> Result<Option<HashEntry>> {
        if !cold.overlay.changes_key(hash, key) {
            return self.stored_entry(cold, hash, key);
        }
        let values = self.cold_values(cold, hash, key)?;
        if values.len() <= MULTI_VALUE_THRESHOLD {
            return Ok(entry(key, &values, None, 0));
        }
        // They will be a value set when the partition is folded, and are none yet.
        Ok(entry(key, &[], Some(SpillPointer { reference: u64::MAX, sorted_count: 0, checksum: 0 }), 0))
    }

    /// How many buckets the partition of a hash has, and the smallest hash after it. Nothing is loaded for that.
    pub(crate) fn count_buckets(&self, writer: &Writer, hash: Hash) -> Result<(u64, Option<u64>)> {
        let owned = self.owned(writer, hash)?;
        let count = match &owned.hot {
            Some(hot) => {
                let directory = self.memory.directory(hot.directory);
                runs(1 << hot.bits, |index| directory.get(index)).count()
            }
            None => {
                let directory = self.stored_directory(owned)?;
                runs(directory.len(), |index| directory[index]).count()
            }
        };
        Ok((count as u64, begin(owned.hashes(0).start(1))))
    }

    /// The directory of a cold partition, of which nothing is kept.
    fn stored_directory(&self, owned: &Owned) -> Result<Vec<u32>> {
        let source = self.source.read();
        let record = owned.record.filter(|record| record.buckets.get() > 0);
        let (Some(record), Some(source)) = (record, &*source) else { return Ok(vec![0]) };
        let directory = source.directory(&record)?;
        if directory_sum(&directory) != record.directory_sum.get() {
            let place = format!("the directory of partition {:08x}", owned.id);
            return Err(Error::damaged(&self.path, place, "its checksum does not agree"));
        }
        Ok(directory)
    }

    /// The buckets from the one of a hash on, up to `most` of its partition, with their keys of this and larger hashes; and
    /// the smallest hash after them.
    pub(crate) fn buckets(&self, writer: &Writer, from: Hash, most: usize) -> (Looked, Option<u64>) {
        let owned = match self.owned(writer, from) {
            Ok(owned) => owned,
            Err(error) => return (vec![Err(error)], None),
        };
        match self.look(owned, from, from, most) {
            Ok(found) => found,
            // Where the others of the partition begin is not known.
            Err(error) => (vec![Err(error)], begin(owned.hashes(0).start(1))),
        }
    }

    /// The bucket of a hash, with all its keys.
    pub(crate) fn bucket(&self, writer: &Writer, hash: Hash) -> Result<Bucket> {
        let (found, _) = self.look(self.owned(writer, hash)?, hash, Hash(0), 1)?;
        let found = found.into_iter().next();
        found.unwrap_or_else(|| {
            Err(Error::damaged(&self.path, "the directory", "it has no bucket for the hash of a key"))
        })
    }

    /// Up to `most` buckets from the one of `hash` on, with their keys of hashes from `from` on.
    fn look(&self, owned: &Owned, hash: Hash, from: Hash, most: usize) -> Result<(Looked, Option<u64>)> {
        if let Some(hot) = &owned.hot {
            let hashes = owned.hashes(hot.bits.into());
            let directory = self.memory.directory(hot.directory);
            let chosen = chosen(hashes, runs(1 << hot.bits, |index| directory.get(index)), hash, most);
            let next = chosen.last().and_then(|run| begin(hashes.of(run).end));
            return Ok((chosen.iter().map(|run| Ok(self.hot_bucket(owned, hot, run, from))).collect(), next));
        }
        let partition = self.partition(owned.id);
        self.read_cold(&partition)?;
        let cold = partition.cold.read();
        let directory = cold.image.as_ref().map_or(&[0][..], |image| &image.directory);
        let hashes = owned.hashes(directory.len().ilog2());
        let chosen = chosen(hashes, runs(directory.len(), |index| directory[index]), hash, most);
        let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else { return Ok((Vec::new(), None)) };
        let wanted = hashes.of(first).start.max(from.0.into())..hashes.of(last).end;
        let changed = self.changed_keys(&cold, &wanted);
        let found = chosen.iter().map(|run| {
            let within = hashes.of(run);
            let place = |hash: u128| changed.partition_point(|(changed, _)| u128::from(changed.0) < hash);
            self.cold_bucket(owned, &cold, run, &within, from, &changed[place(within.start)..place(within.end)])
        });
        Ok((found.collect(), begin(wanted.end)))
    }

    fn hot_bucket(&self, owned: &Owned, hot: &Hot, run: &Run, from: Hash) -> Bucket {
        let mut blocks = Blocks::default();
        let mut at = run.head;
        loop {
            let block = self.memory.bucket(at);
            blocks.add(block);
            at = bucket::next(block);
            if at == 0 {
                break;
            }
        }
        let keys = blocks.keys.iter().map(|key| (self.seed.hash(*key), *key)).filter(|(hash, _)| *hash >= from);
        let entries = keys.filter_map(|(hash, key)| self.hot_entry(hot, hash, key)).collect();
        blocks.bucket(BucketId { partition: owned.id, number: run.number }, owned.skip.into(), entries)
    }

    /// The keys with hashes in `wanted` that changed since the image was written, by hash.
    fn changed_keys(&self, cold: &Cold, wanted: &Range<u128>) -> Vec<(Hash, E)> {
        let keys = cold.overlay.changes().iter().map(|change| (self.seed.hash(change.key), change.key));
        let mut keys: Vec<(Hash, E)> = keys.filter(|(hash, _)| wanted.contains(&hash.0.into())).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn cold_bucket(
        &self,
        owned: &Owned,
        cold: &Cold,
        run: &Run,
        within: &Range<u128>,
        from: Hash,
        changed: &[(Hash, E)],
    ) -> Result<Bucket> {
        let mut blocks = Blocks::default();
        if let Some(image) = &cold.image {
            let version = read_blocks(image, run.head, &mut blocks).map_err(|flaw| self.flawed(flaw))?;
            blocks.version = version;
        }
        let mut entries = Vec::with_capacity(blocks.keys.len());
        for key in &blocks.keys {
            let hash = self.seed.hash(*key);
            // A bucket that is sound for itself may still be none of this directory's; anything may be in a file.
            let entry = if within.contains(&hash.0.into()) { self.stored_entry(cold, hash, *key)? } else { None };
            let Some(entry) = entry else {
                let place = format!("/buckets/{:08x}, bucket {}", owned.id, run.head);
                return Err(Error::damaged(&self.path, place, format!("the key {key} does not belong there")));
            };
            if hash >= from && changed.binary_search(&(hash, *key)).is_err() {
                entries.push(entry);
            }
        }
        for (hash, key) in changed {
            entries.extend(self.cold_entry(cold, *hash, *key)?);
        }
        Ok(blocks.bucket(BucketId { partition: owned.id, number: run.number }, owned.skip.into(), entries))
    }
}

/// The runs from the one of a hash on, `most` of them.
fn chosen(hashes: Hashes, runs: impl Iterator<Item = Run>, hash: Hash, most: usize) -> Vec<Run> {
    runs.skip_while(|run| hashes.of(run).end <= hash.0.into()).take(most).collect()
}

/// Reads the blocks of a bucket in the file; says the largest of their versions.
fn read_blocks(image: &StoredImage, head: u32, blocks: &mut Blocks) -> Result<u32, Flaw> {
    let mut version = 0;
    image.chain(head, |_, block| {
        version = bucket::head(block).version.max(version);
        blocks.add(block);
        Ok(())
    })?;
    Ok(version)
}
