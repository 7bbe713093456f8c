//! Maintenance: compaction, merging, collecting garbage. None of it changes any answer, whenever it runs.

use std::collections::HashSet;
use std::time::Duration;

use super::CIDStore;
use crate::arena::{Arena, OutOfMemory};
use crate::checkpoint::Fold;
use crate::engine::{Engine, Writer};
use crate::entry::MULTI_VALUE_THRESHOLD;
use crate::error::{Error, Result};
use crate::format::DirectoryForm;
use crate::hash::Hash;
use crate::hot::{Events, Hot};
use crate::source::Source;
use crate::{DeletionLog, E, LinksMetrics};

/// How often a compaction moves what lies too far behind, at most.
const PASSES: usize = 8;

/// What maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Buckets joined with their buddies.
    pub merged_buckets: u64,
    /// Partitions joined with their buddies.
    pub merged_partitions: u64,
    /// Tombstones removed from value sets.
    pub tombstones: u64,
    /// Value sets moved back into their buckets.
    pub demoted: u64,
    /// Value sets whose regions were merged.
    pub sorted: u64,
    /// Partitions written anew.
    pub folded: u64,
    /// Deletions that the deletion log held.
    pub deletions: u64,
}

/// What a store holds, and what it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Keys with at least one value.
    pub keys: u64,
    /// Pairs.
    pub pairs: u64,
    /// Partitions, and how many of them are loaded.
    pub partitions: u64,
    /// Loaded partitions.
    pub loaded: u64,
    /// Buckets of loaded partitions and of images in the file.
    pub buckets: u64,
    /// Bytes of loaded partitions and of changes to others.
    pub memory: u64,
    /// Bytes of the images in the file.
    pub image_bytes: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Records in the log that the file does not hold.
    pub log_records: u64,
    /// Bits of the table of partitions.
    pub table_bits: u32,
    /// How the directory is stored; `None` when nothing is.
    pub directory: Option<DirectoryForm>,
}

/// What [`CIDStore::auto_tune`] recommends to who gathers changes before writing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Changes to put into one batch.
    pub batch_size: usize,
    /// How long to gather changes before a batch is written.
    pub flush_interval: Duration,
}

impl Engine {
    /// Loads a partition if it is not and may be, and hands it over with what is needed to change it.
    fn with_hot<T>(
        &self,
        writer: &mut Writer,
        id: u32,
        change: impl FnOnce(&mut Hot, &mut Arena<'_>, &mut Events) -> Result<T, OutOfMemory>,
    ) -> Result<Option<T>> {
        let loaded =
            writer.partitions.get(id as usize).and_then(Option::as_ref).is_some_and(|owned| owned.hot.is_some());
        if !loaded {
            self.forget_read(writer);
            if !self.may_load(writer) {
                return Ok(None);
            }
            self.load(writer, id)?;
        }
        // Only now: what is not changed need not be copied for snapshots.
        self.freeze(writer, id);
        let Writer { allocator, partitions, events, .. } = writer;
        let Some(hot) = partitions.get_mut(id as usize).and_then(Option::as_mut).and_then(|owned| owned.hot.as_mut())
        else {
            return Ok(None);
        };
        let mut arena = Arena { memory: &self.memory, allocator };
        change(hot, &mut arena, events).map(Some).map_err(|OutOfMemory| self.out_of_memory())
    }

    fn route_key(&self, key: E) -> (u32, Hash) {
        let hash = self.seed.hash(key);
        (self.route(hash), hash)
    }
}

impl CIDStore {
    /// Removes the tombstones of one key's value set and merges its regions; how many tombstones there were.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn compact_key(&self, key: E) -> Result<u64> {
        self.shared.check_writable()?;
        let engine = &self.shared.engine;
        let mut writer = self.shared.writer.lock();
        let (id, hash) = engine.route_key(key);
        let removed = engine.with_hot(&mut writer, id, |hot, arena, _| hot.compact_key(arena, hash, key))?;
        Ok(removed.unwrap_or(0).into())
    }

    /// Makes the store as small as it can be: value sets without tombstones, buckets and partitions merged, every partition
    /// written anew and close together, free space given back. A file that is the links' own cannot go back to earlier
    /// commits afterwards. In one that they share with others these stay, and space comes free as they expire, unless
    /// [`LinksOptions::expires_versions`](crate::LinksOptions::expires_versions) says otherwise.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`] and [`CIDStore::checkpoint`].
    pub fn compact(&self) -> Result<Maintenance> {
        let _one = self.shared.collecting.lock();
        let log = self.deletion_log();
        let deletions = log.scan().len() as u64;
        let mut done = Maintenance { deletions, ..self.background_maintenance()? };
        // Everything was looked at, and so was what the deletion log named.
        log.clear_first(done.deletions as usize);
        // What is written anew goes to free space near the beginning: first everything, then what came to lie beyond the size
        // that would do.
        let expires = self.shared.options.expires_versions.unwrap_or(self.shared.owns_storage);
        let mut fold = Fold::Anew;
        let mut best = u64::MAX;
        for pass in 0..PASSES {
            // What a commit frees can be given back by the next one.
            for fold in [fold, Fold::Grown] {
                let report = self.shared.checkpoint(fold)?;
                done.folded = done.folded.max(report.folded);
                // Space is all that is at stake; what cannot be given back now is reused later.
                if expires {
                    let _ = self.shared.storage.expire_versions();
                }
                let _ = self.shared.storage.reclaim();
            }
            if !expires {
                // What was there before stays for those who may go back to it.
                break;
            }
            let (file, images) = self.sizes();
            let enough = images + images / 16 + (256 << 10);
            // With holes that nothing fits into, it only goes back and forth from some pass on.
            if file <= enough || pass > 2 && file <= best {
                break;
            }
            best = best.min(file);
            fold = Fold::Beyond(enough);
        }
        Ok(done)
    }

    /// Length of the file, and of the images in it.
    fn sizes(&self) -> (u64, u64) {
        let images = self.shared.writer.lock().partitions.iter().flatten().map(|owned| owned.image_bytes()).sum();
        (self.shared.engine.source.read().as_ref().map_or(0, |source| source.snapshot.bytes()), images)
    }

    /// Joins half-empty buckets and small partitions with their buddies.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn merge(&self) -> Result<Maintenance> {
        self.shared.check_writable()?;
        let mut done = Maintenance::default();
        for id in self.partition_ids() {
            let mut writer = self.shared.writer.lock();
            let engine = &self.shared.engine;
            let merged = engine.with_hot(&mut writer, id, |hot, arena, events| {
                let slot = Some(engine.memory.slot(id));
                hot.merge(arena, slot, engine.seed, events)
            })?;
            if let (Some(merged @ 1..), Some(owned)) = (merged, writer.owned(id)) {
                done.merged_buckets += merged;
                owned.is_dirty = true;
                owned.must_fold = true;
                owned.pending = Vec::new();
            }
        }
        done.merged_partitions = self.shared.engine.join(&mut self.shared.writer.lock());
        Ok(done)
    }

    fn partition_ids(&self) -> Vec<u32> {
        self.shared.writer.lock().partitions.iter().flatten().map(|owned| owned.id).collect()
    }

    /// Maintains the value sets of `keys`, or of all keys.
    fn maintain_sets(&self, only: Option<&HashSet<E>>) -> Result<Maintenance> {
        let mut done = Maintenance::default();
        let engine = &self.shared.engine;
        for id in self.partition_ids() {
            let mut writer = self.shared.writer.lock();
            let needed = match only {
                Some(keys) => keys.iter().any(|key| engine.route_key(*key).0 == id),
                None => true,
            };
            if !needed {
                continue;
            }
            let Some(spilled) = engine.with_hot(&mut writer, id, |hot, arena, _| Ok(hot.spilled_keys(arena.memory)))?
            else {
                continue;
            };
            for (key, head) in spilled.into_iter().filter(|(key, _)| only.is_none_or(|keys| keys.contains(key))) {
                let hash = engine.seed.hash(key);
                let slot = Some(engine.memory.slot(id));
                let outcome = engine.with_hot(&mut writer, id, |hot, arena, events| {
                    if head.live() as usize <= MULTI_VALUE_THRESHOLD {
                        let demoted = hot.demote_key(arena, slot, engine.seed, (hash, key), events)?;
                        return Ok((u64::from(head.tombstones), u64::from(demoted), 0));
                    }
                    let sorted = u64::from(head.sorted < head.len && head.tombstones == 0);
                    Ok((hot.compact_key(arena, hash, key)?.into(), 0, sorted))
                })?;
                let (tombstones, demoted, sorted) = outcome.unwrap_or_default();
                done.tombstones += tombstones;
                done.demoted += demoted;
                done.sorted += sorted;
                if demoted > 0
                    && let Some(owned) = writer.owned(id)
                {
                    owned.is_dirty = true;
                }
            }
        }
        Ok(done)
    }

    /// Collects garbage: what the deletion log names is compacted, demoted and merged; then the deletion log is cleared.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn gc(&self) -> Result<Maintenance> {
        self.shared.check_writable()?;
        let _one = self.shared.collecting.lock();
        let log = self.deletion_log();
        let entries = log.scan();
        let keys: HashSet<E> = entries.iter().map(|entry| entry.key).collect();
        // A log that is full has forgotten some.
        let all = log.is_full();
        let mut done =
            if keys.is_empty() && !all { Maintenance::default() } else { self.maintain_sets((!all).then_some(&keys))? };
        if !keys.is_empty() {
            let merged = self.merge()?;
            done.merged_buckets = merged.merged_buckets;
            done.merged_partitions = merged.merged_partitions;
        }
        done.deletions = entries.len() as u64;
        // Cleared last, and only of what was seen: a crash before leaves work that is done again, without harm.
        log.clear_first(entries.len());
        self.shared.metrics.collected(&done);
        self.log_event("gc", &[("deletions", done.deletions), ("tombstones", done.tombstones)]);
        Ok(done)
    }

    /// The same as [`CIDStore::gc`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::gc`].
    pub fn run_gc_once(&self) -> Result<Maintenance> {
        self.gc()
    }

    /// Merges the regions of all value sets, removes their tombstones, demotes what fits into buckets, and joins half-empty
    /// buckets and small partitions. Looks at everything that may be loaded.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn background_maintenance(&self) -> Result<Maintenance> {
        self.shared.check_writable()?;
        let sets = self.maintain_sets(None)?;
        let merged = self.merge()?;
        Ok(Maintenance { merged_buckets: merged.merged_buckets, merged_partitions: merged.merged_partitions, ..sets })
    }

    /// Moves a key's values from its value set back into its bucket if they fit; whether they were.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn demote_if_possible(&self, key: E) -> Result<bool> {
        self.shared.check_writable()?;
        let engine = &self.shared.engine;
        let mut writer = self.shared.writer.lock();
        let (id, hash) = engine.route_key(key);
        let demoted = engine.with_hot(&mut writer, id, |hot, arena, events| {
            hot.demote_key(arena, Some(engine.memory.slot(id)), engine.seed, (hash, key), events)
        })?;
        Ok(demoted == Some(true))
    }

    /// Moves a key's inline values to a value set, however few; whether there were any. [`ValueSet::promote`] does this.
    ///
    /// [`ValueSet::promote`]: crate::ValueSet::promote
    pub(crate) fn promote(&self, key: E) -> Result<bool> {
        self.shared.check_writable()?;
        let engine = &self.shared.engine;
        let mut writer = self.shared.writer.lock();
        let (id, hash) = engine.route_key(key);
        let promoted = engine.with_hot(&mut writer, id, |hot, arena, _| hot.promote_key(arena, hash, key))?;
        Ok(promoted == Some(true))
    }

    /// Stores the directory in the form that fits its size, and says which that is. It happens by itself with every checkpoint:
    /// an attribute while there is one partition with a small directory, one dataset for a few partitions, then a dataset for
    /// each.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::checkpoint`].
    pub fn migrate_directory(&self) -> Result<DirectoryForm> {
        self.shared.checkpoint(Fold::Everything)?;
        let source = self.shared.engine.source.read();
        let form = source.as_ref().map(Source::form);
        form.ok_or_else(|| Error::damaged(self.path(), "/nodes/links", "it is missing after a checkpoint"))
    }

    /// What the store holds and takes. Costs a look at each key that changed in a partition that is not loaded.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn statistics(&self) -> Result<Statistics> {
        self.shared.check_open()?;
        let engine = &self.shared.engine;
        let mut found = Statistics { table_bits: engine.table_bits(), ..Statistics::default() };
        for id in self.partition_ids() {
            let writer = self.shared.writer.lock();
            let Some(owned) = writer.partitions.get(id as usize).and_then(Option::as_ref) else { continue };
            found.partitions += 1;
            found.image_bytes += owned.image_bytes();
            if let Some(hot) = &owned.hot {
                found.loaded += 1;
                found.keys += hot.keys;
                found.pairs += hot.pairs;
                found.buckets += u64::from(hot.buckets);
                continue;
            }
            let (keys, pairs) = engine.count_cold(id)?;
            found.keys += keys;
            found.pairs += pairs;
            found.buckets += owned.record.map_or(0, |record| u64::from(record.buckets.get()));
        }
        engine.forget_read(&self.shared.writer.lock());
        found.memory = engine.bytes(&self.shared.writer.lock());
        found.log_records = self.shared.log().map_or(0, |log| log.used());
        let source = engine.source.read();
        found.file_bytes = source.as_ref().map_or(0, |source| source.snapshot.bytes());
        found.directory = source.as_ref().map(Source::form);
        Ok(found)
    }

    /// How many keys have a value.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn count(&self) -> Result<u64> {
        Ok(self.statistics()?.keys)
    }

    /// Checks every bucket, every value set, changes that a transaction of the file brought, and the log: what is damaged, in one sentence each.
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking.
    pub fn verify(&self) -> Result<Vec<String>> {
        self.shared.check_open()?;
        let engine = &self.shared.engine;
        let mut damaged = Vec::new();
        let records: Vec<_> =
            self.shared.writer.lock().partitions.iter().flatten().filter_map(|owned| owned.record).collect();
        let source = engine.source.read();
        for record in &records {
            let Some(source) = &*source else { break };
            let found = source.slices(record).map(drop).and_then(|()| {
                if record.buckets.get() == 0 {
                    return Ok(());
                }
                let image = source.image(record)?;
                let whole = image.check_structure(engine.seed, record.prefix.get());
                whole.and_then(|()| image.for_each(engine.seed, |_, _| ())).map_err(|flaw| source.flawed(flaw))
            });
            damaged.extend(found.err().map(|error| error.to_string()));
        }
        drop(source);
        let newest = Source::bare(self.path(), self.shared.storage.snapshot()?, engine.corrections.clone());
        damaged.extend(newest.pending().err().map(|error| error.to_string()));
        if let Some(log) = self.shared.log() {
            let audit = log.audit_hmac(usize::MAX)?;
            damaged.extend(audit.damaged.iter().map(|finding| {
                let (path, problem) = (log.path().display(), &finding.problem);
                format!(
                    "{path} is damaged from record {} to {} (byte {}): {problem}",
                    finding.from, finding.to, finding.offset
                )
            }));
        }
        Ok(damaged)
    }

    /// Recommends how to write, from [`get_metrics`](CIDStore::get_metrics) or from what changed in them since an earlier
    /// call.
    ///
    /// ```
    /// # use corallite_links::{CIDStore, E};
    /// let store = CIDStore::memory()?;
    /// store.insert(E::new(1), E::new(2))?;
    /// let tuning = store.auto_tune(&store.get_metrics());
    /// let pairs: Vec<_> = (0..1000).map(|number| (E::new(number), E::new(1))).collect();
    /// for batch in pairs.chunks(tuning.batch_size) {
    ///     store.batch_insert(batch)?;
    /// }
    /// # Ok::<(), corallite_links::Error>(())
    /// ```
    ///
    /// It changes nothing in the store, which waits for nobody: what comes while a batch is written makes up the next one. It
    /// tells a caller who can gather changes what is worth it:
    ///
    /// * `batch_size`: as many changes as ten syncs of the log take time for, so that waiting for the disk is a small part of
    ///   the whole; at least 64, at most an eighth of the log. It comes from `wal_syncs`, `wal_sync_nanos`, `commit_nanos`,
    ///   `inserts` and `deletes`. The time of a change has its part of the sync in it: while batches are small the answer is
    ///   careful, and it grows when it is followed.
    /// * `flush_interval`: two syncs, so that gathering does not delay a change by much more than its own sync.
    ///
    /// Where nothing was measured, a sync counts as 500 microseconds and a change as 300 nanoseconds.
    pub fn auto_tune(&self, metrics: &LinksMetrics) -> Tuning {
        let mean = |nanos: u64, count: u64| nanos.checked_div(count).map(Duration::from_nanos);
        let sync = mean(metrics.wal_sync_nanos, metrics.wal_syncs).unwrap_or(Duration::from_micros(500));
        let changes = metrics.inserts.saturating_add(metrics.deletes);
        let each = mean(metrics.commit_nanos, changes).unwrap_or(Duration::from_nanos(300));
        let batch = sync.as_nanos() * 10 / each.as_nanos().max(1);
        let most = self.shared.options.log_bytes / 64 / 8;
        let batch_size = usize::try_from(batch).unwrap_or(usize::MAX).clamp(64, most.max(64) as usize);
        Tuning { batch_size, flush_interval: sync.saturating_mul(2) }
    }

    /// Everything about every partition, as text for a person.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn debug_dump(&self) -> Result<String> {
        use std::fmt::Write;
        let statistics = self.statistics()?;
        let mut text = format!("{}\n{statistics:#?}\n", self.path().display());
        let writer = self.shared.writer.lock();
        for owned in writer.partitions.iter().flatten() {
            let prefix = if owned.skip == 0 {
                "every hash".to_owned()
            } else {
                format!("{:0width$b}", owned.prefix, width = owned.skip.into())
            };
            let _ = write!(text, "partition {:08x}, hashes {prefix}: ", owned.id);
            let _ = match &owned.hot {
                Some(hot) => write!(
                    text,
                    "loaded, {} keys, {} pairs, {} buckets, directory of {} bits, {} bytes of value sets, {} changes pending",
                    hot.keys,
                    hot.pairs,
                    hot.buckets,
                    hot.bits,
                    hot.set_units * 16,
                    owned.pending.len()
                ),
                None => {
                    let partition = self.shared.engine.partition(owned.id);
                    let waiting = partition.cold.read().overlay.len();
                    write!(text, "in the file, {waiting} changes in memory")
                }
            };
            let _ = match &owned.record {
                Some(record) => writeln!(
                    text,
                    "; stored with {} keys in {} buckets, {} changes in {} runs, up to record {}",
                    record.keys,
                    record.buckets,
                    owned.stored_changes(),
                    record.slices_count,
                    record.applied
                ),
                None => writeln!(text, "; not stored yet"),
            };
        }
        Ok(text)
    }

    /// The deletion log.
    pub fn deletion_log(&self) -> DeletionLog<'_> {
        DeletionLog::new(self)
    }
}

impl Engine {
    /// Keys and pairs of a cold partition.
    fn count_cold(&self, id: u32) -> Result<(u64, u64)> {
        let partition = self.partition(id);
        self.read_cold(&partition)?;
        let cold = partition.cold.read();
        let (mut keys, mut pairs) = cold.record.map_or((0, 0), |record| (record.keys.get(), record.pairs.get()));
        for key in cold.overlay.keys() {
            let hash = self.seed.hash(key);
            let mut before = Vec::new();
            if let Some(image) = &cold.image {
                image.values(hash, key, &mut before).map_err(|flaw| self.flawed(flaw))?;
            }
            let mut after = before.clone();
            cold.overlay.apply(hash, key, &mut after);
            // The file may say anything of how many there were.
            keys = (keys + u64::from(!after.is_empty())).saturating_sub(u64::from(!before.is_empty()));
            pairs = (pairs + after.len() as u64).saturating_sub(before.len() as u64);
        }
        Ok((keys, pairs))
    }
}
