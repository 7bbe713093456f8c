//! Checkpoints: bringing what changed into the store's file, in one commit with the position of the log.
//!
//! A partition with few changes has them appended to the commit's *run*, one sequential write for all partitions; when it has
//! as many slices of runs as its record may name, they become one slice of the new run. One that has grown by about a quarter is
//! *folded*: written anew, to a new place. Nothing in the file is changed in place.
//!
//! While a checkpoint is under way partitions are neither divided nor joined, loaded nor unloaded. The writer is kept out only
//! while a partition is copied.

mod directory;
mod groups;
mod output;
mod partitions;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use corallite_file::{Storage, Transaction};
use parking_lot::Mutex;
use twox_hash::XxHash3_64;
use zerocopy::IntoBytes;

use self::groups::{DIRECTORY_GROUP, begin_groups, end_groups, new_name};
use self::output::{Groups, Output, Types};
use self::run::Run;
use crate::engine::{Engine, Writer};
use crate::error::{Error, Result};
use crate::format::{self, ChangeRecord, DELETIONS, PARTITIONS, PartitionRecord, STATE, StateRecord};
use crate::pending;
use crate::source::Source;
use crate::wal::{Adopted, Lsn, Position, Wal};

/// What of the changes is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    /// Partitions that have grown enough.
    Grown,
    /// Everything that is not an image yet.
    Everything,
    /// Every partition, changed or not.
    Anew,
    /// Partitions whose images lie, in part, beyond this offset of the file.
    Beyond(u64),
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Partitions written anew.
    pub folded: u64,
    /// Partitions whose changes were appended to a run.
    pub appended: u64,
    /// Bytes written for them.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

/// A partition as the commit will have it.
enum Update {
    /// A hot partition.
    Hot(PartitionRecord),
    /// A cold one whose first so many changes are in the file.
    Appended(PartitionRecord, usize),
    /// A cold one whose first so many changes went into images.
    Folded(usize, Vec<PartitionRecord>),
}

/// What stays the same from one checkpoint to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) store: crate::E,
    pub(crate) log_key: [u8; 32],
}

/// Writes one checkpoint.
pub(crate) struct Checkpoint<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) writer: &'a Mutex<Writer>,
    pub(crate) storage: &'a Storage,
    pub(crate) identity: Identity,
    pub(crate) fold: Fold,
    pub(crate) log: Option<&'a Wal>,
    /// Whether the file is to say that there is a log.
    pub(crate) has_log: bool,
    /// The newest batch of pending changes, as of the log's position: the file needs those no more once it holds this batch.
    pub(crate) adopted: Option<Adopted>,
}

/// What a checkpoint changes in the writer's books once it is committed.
struct Done {
    updates: Vec<(u32, Update)>,
    records: Vec<PartitionRecord>,
    next_run: u32,
    report: CheckpointReport,
}

impl Checkpoint<'_> {
    /// Writes the checkpoint. `position` tells the log's position at a moment when the writer is held.
    ///
    /// # Errors
    ///
    /// When the disk is full or fails; the file is then at its last commit, and the links in memory are as they were.
    pub(crate) fn run(&self, position: impl FnOnce(&Writer) -> Position) -> Result<(CheckpointReport, Position)> {
        let begun = Instant::now();
        let (position, ids) = {
            let mut writer = self.writer.lock();
            writer.is_frozen = true;
            let mut ids: Vec<u32> =
                writer.partitions.iter().flatten().filter(|owned| self.concerns(owned)).map(|owned| owned.id).collect();
            if self.is_crowded(self.engine.overlay_bytes()) {
                // The largest overlays are folded first: that frees the most memory for what is written.
                ids.sort_by_key(|id| std::cmp::Reverse(self.engine.partition(*id).cold.read().overlay.len()));
            }
            (position(&writer), ids)
        };
        let mut started = Vec::new();
        let outcome = self.storage.transaction(|transaction| self.write(transaction, position, &ids, &mut started));
        match outcome {
            Ok(done) => {
                let mut report = done.report;
                // The file has gone on, and the books have not: another checkpoint would store what they say.
                self.settle(done).map_err(|error| Error::Poisoned {
                    path: self.engine.path().to_owned(),
                    cause: format!("what a checkpoint wrote cannot be read ({error})"),
                })?;
                report.duration = begun.elapsed();
                Ok((report, position))
            }
            Err(error) => {
                // What was taken out of the lists of pending changes is now only in the partitions themselves.
                let mut writer = self.writer.lock();
                for id in started {
                    if let Some(owned) = writer.owned(id) {
                        owned.is_dirty = true;
                        owned.must_fold = owned.hot.is_some();
                        owned.pending = Vec::new();
                    }
                }
                writer.is_frozen = false;
                Err(error)
            }
        }
    }

    /// Whether overlays take so much memory that they have to be folded, grown or not.
    fn is_crowded(&self, overlay_bytes: u64) -> bool {
        overlay_bytes > self.engine.limit / 4
    }

    fn concerns(&self, owned: &crate::engine::Owned) -> bool {
        match self.fold {
            Fold::Grown => owned.is_dirty || owned.record.is_none(),
            Fold::Everything => owned.is_dirty || owned.record.is_none() || owned.stored_changes() > 0,
            Fold::Anew => true,
            Fold::Beyond(offset) => {
                let source = self.engine.source.read();
                let end = owned.record.and_then(|record| source.as_ref()?.image_end(&record).ok()?);
                end.is_some_and(|end| end > offset)
            }
        }
    }

    fn write(
        &self,
        transaction: &Transaction<'_>,
        position: Position,
        ids: &[u32],
        started: &mut Vec<u32>,
    ) -> Result<Done> {
        let explain = |action: &'static str| {
            move |error: hdf5_metno::Error| -> Error { transaction.explain(action, &error).into() }
        };
        let file = transaction.file();
        let types = Types::new().map_err(explain("describe the links' types"))?;
        let renewed = if self.fold == Fold::Anew { begin_groups(transaction)? } else { Vec::new() };
        let current = |name: &'static str| if renewed.contains(&name) { new_name(name) } else { name.to_owned() };
        let group = |name: &str| file.group(name).map_err(explain("open a group of the links"));
        let groups = Groups {
            root: group("/")?,
            config: group(Storage::CONFIG_GROUP)?,
            nodes: group(Storage::NODES_GROUP)?,
            buckets: group(&current(Storage::BUCKETS_GROUP))?,
            values: group(&current(Storage::VALUES_GROUP))?,
            directory: renewed.contains(&DIRECTORY_GROUP).then(|| group(&current(DIRECTORY_GROUP))).transpose()?,
        };
        let datasets = transaction.create_datasets()?;
        let mut output = Output { transaction, datasets, types: &types, groups, bytes: 0, taken: BTreeSet::new() };

        let mut updates = Vec::with_capacity(ids.len());
        let mut directories: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut run = Run::new(self.writer.lock().next_run);
        let mut report = CheckpointReport::default();
        let mut overlay_bytes = self.engine.overlay_bytes();
        let was_crowded = self.is_crowded(overlay_bytes);
        for id in ids {
            started.push(*id);
            let crowded = was_crowded && overlay_bytes > self.engine.limit / 8;
            let update = self.take((*id, crowded), &mut run, &mut directories, &mut output)?;
            if let Some(Update::Folded(..)) = &update {
                let partition = self.engine.partition(*id);
                overlay_bytes = overlay_bytes.saturating_sub(partition.cold.read().overlay.bytes());
            }
            match &update {
                Some(Update::Appended(..)) => report.appended += 1,
                Some(Update::Hot(record)) if !directories.contains_key(&record.id.get()) => report.appended += 1,
                Some(_) => report.folded += 1,
                None => {}
            }
            updates.extend(update.map(|update| (*id, update)));
            if run.is_long() {
                run.write(&mut output)?;
            }
        }
        run.write(&mut output)?;
        let (before, next_partition, deletions) = {
            let writer = self.writer.lock();
            let records: Vec<PartitionRecord> =
                writer.partitions.iter().flatten().filter_map(|owned| owned.record).collect();
            (records, writer.partitions.len() as u32, writer.deletions.clone())
        };
        let mut records: BTreeMap<u32, PartitionRecord> =
            before.iter().map(|record| (record.id.get(), *record)).collect();
        let live = self.writer.lock().partitions.iter().flatten().map(|owned| owned.id).collect::<BTreeSet<_>>();
        let gone: Vec<u32> = self.stored_ids(&output)?.into_iter().filter(|id| !live.contains(id)).collect();
        for (_, update) in &updates {
            match update {
                Update::Hot(record) | Update::Appended(record, _) => {
                    records.insert(record.id.get(), *record);
                }
                Update::Folded(_, parts) => {
                    parts.iter().for_each(|record| _ = records.insert(record.id.get(), *record));
                }
            }
        }
        let mut ordered: Vec<PartitionRecord> = records.into_values().collect();
        // Batches since `position` may be in some partitions here and not in others. Unless the log has them, a power loss
        // would leave halves of them, and their records' numbers would be given to others.
        let newest = ordered.iter().map(|record| Lsn(record.applied.get())).max().unwrap_or_default();
        let newest = newest.min(self.writer.lock().applied);
        if let Some(log) = self.log.filter(|_| newest > position.lsn) {
            log.secure(newest)?;
        }
        ordered.sort_by_key(|record| record.prefix.get() << (64 - u32::from(record.skip)).min(63));
        let nodes = output.groups.nodes.clone();
        self.remove_gone(&output, &gone, &ordered)?;
        let form = self.write_directory(&mut output, &mut ordered, &directories)?;
        output.put(&nodes, PARTITIONS, &types.partition, size_of::<PartitionRecord>(), ordered.as_bytes())?;
        output.put(&nodes, DELETIONS, &types.change, size_of::<ChangeRecord>(), deletions.as_bytes())?;
        let state = StateRecord {
            version: format::LINKS_FORMAT_VERSION.into(),
            directory_form: form as u8,
            has_log: self.has_log.into(),
            reserved: [0; 2],
            store: self.identity.store.to_hdf5(),
            seed: self.engine.seed.0.map(Into::into),
            log_key: self.identity.log_key,
            log_position: position.lsn.0.into(),
            log_mac: position.mac,
            partitions: (ordered.len() as u32).into(),
            next_partition: next_partition.into(),
            next_run: run.number().into(),
            deletions: (deletions.len() as u32).into(),
            partitions_sum: XxHash3_64::oneshot(ordered.as_bytes()).into(),
            deletions_sum: XxHash3_64::oneshot(deletions.as_bytes()).into(),
            sum: 0.into(),
        }
        .seal();
        output.put(&nodes, STATE, &types.state, size_of::<StateRecord>(), state.as_bytes())?;
        self.check_images(&output, &ordered)?;
        self.remove_pending(transaction, position)?;
        end_groups(transaction, &renewed)?;
        report.bytes = output.bytes;
        Ok(Done { updates, records: ordered, next_run: run.number(), report })
    }

    /// Removes pending changes whose batch lies before the log's position, and thus in the file. A later transaction may have
    /// left others since, and this checkpoint may have begun before the batch was appended: those stay.
    fn remove_pending(&self, transaction: &Transaction<'_>, position: Position) -> Result<()> {
        let Some(batch) = self.adopted.filter(|batch| batch.end <= position.lsn) else { return Ok(()) };
        if pending::token_in(transaction)? == Some(batch.token) {
            pending::remove(transaction)?;
        }
        Ok(())
    }

    /// Before old groups go: whatever the records name is in the new ones.
    fn check_images(&self, output: &Output<'_>, records: &[PartitionRecord]) -> Result<()> {
        let is_there = |record: &&PartitionRecord| {
            let name = format::partition_name(record.id.get());
            (record.buckets.get() == 0 || output.groups.buckets.link_exists(&name))
                && (record.set_units.get() == 0 || output.groups.values.link_exists(&name))
        };
        match records.iter().find(|record| !is_there(record)) {
            Some(record) => {
                let place = format!("partition {:08x}", record.id.get());
                Err(Error::damaged(self.engine.path(), place, "its image is not where the checkpoint puts it"))
            }
            None => Ok(()),
        }
    }

    /// The partitions that the file has.
    fn stored_ids(&self, output: &Output<'_>) -> Result<Vec<u32>> {
        let names = output.groups.buckets.member_names();
        let names = names.map_err(|error| output.explain("list /buckets", &error))?;
        Ok(names.iter().filter_map(|name| u32::from_str_radix(name, 16).ok()).collect())
    }

    /// Removes the datasets of partitions that were joined with others, and runs that no partition needs.
    fn remove_gone(&self, output: &Output<'_>, gone: &[u32], records: &[PartitionRecord]) -> Result<()> {
        let kept: BTreeSet<u32> = records.iter().map(|record| record.id.get()).collect();
        for id in gone.iter().filter(|id| !kept.contains(id)) {
            output.remove(&output.groups.buckets, &format::partition_name(*id))?;
            output.remove(&output.groups.values, &format::partition_name(*id))?;
            output.remove(&output.groups.nodes, &format::tags_name(*id))?;
        }
        let needed: BTreeSet<String> = records
            .iter()
            .flat_map(|record| record.slices.iter().take(record.slices_count.into()))
            .map(|slice| format::run_name(slice.run.get()))
            .collect();
        let names = output.groups.nodes.member_names();
        let names = names.map_err(|error| output.explain("list /nodes", &error))?;
        for name in names.iter().filter(|name| name.starts_with("run_") && !needed.contains(*name)) {
            output.remove(&output.groups.nodes, name)?;
        }
        Ok(())
    }

    /// Enters into the books what was committed.
    fn settle(&self, done: Done) -> Result<()> {
        let engine = self.engine;
        let snapshot = self.storage.snapshot()?;
        let (source, _) = Source::open(engine.path(), snapshot, std::sync::Arc::clone(&engine.corrections))?;
        let mut writer = self.writer.lock();
        let mut current = engine.source.write();
        let committed: BTreeMap<u32, PartitionRecord> =
            done.records.iter().map(|record| (record.id.get(), *record)).collect();
        let final_record = |id: u32| committed.get(&id).copied();
        writer.next_run = done.next_run;
        for (id, update) in done.updates {
            match update {
                Update::Hot(record) => {
                    if let Some(owned) = writer.owned(id) {
                        owned.record = final_record(id).or(Some(record));
                    }
                }
                Update::Appended(record, length) => {
                    let record = final_record(id).unwrap_or(record);
                    let partition = engine.partition(id);
                    let mut cold = partition.cold.write();
                    cold.record = Some(record);
                    cold.overlay.stored = length;
                    let is_dirty = cold.overlay.len() > length;
                    drop(cold);
                    if let Some(owned) = writer.owned(id) {
                        owned.record = Some(record);
                        owned.is_dirty = is_dirty;
                    }
                }
                Update::Folded(folded, records) => {
                    let records: Vec<PartitionRecord> =
                        records.iter().map(|record| final_record(record.id.get()).unwrap_or(*record)).collect();
                    engine.replace_cold(&mut writer, id, folded, &records);
                }
            }
        }
        // Where directories begin has changed for all of them.
        for record in &done.records {
            let id = record.id.get();
            if let Some(owned) = writer.owned(id)
                && owned.record.is_some()
            {
                owned.record = Some(*record);
                let is_cold = owned.hot.is_none();
                if is_cold {
                    engine.partition(id).cold.write().record = Some(*record);
                }
            }
        }
        *current = Some(source);
        drop(current);
        writer.is_frozen = false;
        engine.make_room(&mut writer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::format::SLICES;
    use crate::{CIDStore, E, LinksOptions};

    fn with_full_slices(path: &std::path::Path) -> Result<(CIDStore, Vec<E>), Box<dyn std::error::Error>> {
        let options = LinksOptions::new().background(false);
        let store = CIDStore::open_with(path, corallite_file::Mode::Append, options)?;
        let many: Vec<(E, E)> = (0..2000).map(|number| (E::new(number), E::new(1))).collect();
        store.batch_insert(&many)?;
        store.checkpoint()?;
        let keys: Vec<E> = (0..SLICES as u128).map(E::new).collect();
        for key in &keys {
            store.insert(*key, E::new(2))?;
            assert_eq!(store.checkpoint()?.appended, 1);
        }
        Ok((store, keys))
    }

    fn slices(store: &CIDStore) -> Option<Vec<(u32, u32)>> {
        let record = store.shared().writer.lock().owned(0)?.record?;
        let used = record.slices.iter().take(record.slices_count.into());
        Some(used.map(|slice| (slice.run.get(), slice.count.get())).collect())
    }

    #[test]
    fn full_slices_become_one_whether_the_partition_is_loaded_or_not() -> Result<(), Box<dyn std::error::Error>> {
        for is_hot in [true, false] {
            let directory = tempfile::tempdir()?;
            let path = directory.path().join("links.h5");
            let (mut store, keys) = with_full_slices(&path)?;
            if !is_hot {
                drop(store);
                let options = LinksOptions::new().background(false).memory(1 << 20);
                store = CIDStore::open_with(&path, corallite_file::Mode::Append, options)?;
            }
            assert_eq!(slices(&store), Some(vec![(0, 1), (1, 1), (2, 1), (3, 1)]));
            store.insert(E::new(7), E::new(3))?;
            assert_eq!(store.shared().writer.lock().owned(0).map(|owned| owned.hot.is_some()), Some(is_hot));
            assert_eq!(store.checkpoint()?.appended, 1);
            assert_eq!(slices(&store), Some(vec![(4, 5)]));
            let file = hdf5_metno::File::open(&path)?;
            let runs = file.group("/nodes")?.member_names()?.into_iter().filter(|name| name.starts_with("run_"));
            assert_eq!(runs.count(), 1);
            let reader = CIDStore::open_read_only(&path)?;
            assert_eq!(reader.get(E::new(7))?, [E::new(1), E::new(3)]);
            for key in keys {
                assert_eq!(reader.get(key)?, [E::new(1), E::new(2)]);
            }
        }
        Ok(())
    }

    #[test]
    fn a_loaded_partition_whose_slices_cannot_be_read_is_folded() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("links.h5");
        let (store, keys) = with_full_slices(&path)?;
        if let Some(record) = store.shared().writer.lock().owned(0).and_then(|owned| owned.record.as_mut()) {
            record.slices[2].sum = 0.into();
        }
        store.insert(E::new(7), E::new(3))?;
        assert_eq!(store.checkpoint()?.folded, 1);
        assert_eq!(slices(&store), Some(Vec::new()));
        let reader = CIDStore::open_read_only(&path)?;
        assert_eq!(reader.get(E::new(7))?, [E::new(1), E::new(3)]);
        for key in keys {
            assert_eq!(reader.get(key)?, [E::new(1), E::new(2)]);
        }
        Ok(())
    }
}
