//! Checkpoints: bringing what changed into the store's file, in one commit with the position of the log.
//!
//! A partition with few changes has them appended to the commit's *run*, one sequential write for all partitions; one that
//! has grown by about a quarter is *folded*: written anew, to a new place. Nothing in the file is changed in place.
//!
//! While a checkpoint is under way partitions are neither divided nor joined, loaded nor unloaded. The writer is kept out only
//! while a partition is copied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use corallite_file::{DataLayout, DatasetWriter, NewDataset, Storage, Transaction, encode_datatype};
use hdf5_metno::types::TypeDescriptor;
use hdf5_metno::{Datatype, Group};
use parking_lot::{Mutex, MutexGuard};
use twox_hash::XxHash3_64;
use zerocopy::IntoBytes;

use crate::arena::{Allocator, Arena, OutOfMemory, TABLE_BITS};
use crate::bucket::{self, Home};
use crate::change::Change;
use crate::engine::{Engine, Writer};
use crate::error::{Error, Result};
use crate::format::{
    self, ChangeRecord, DELETIONS, DIRECTORY, DirectoryForm, PARTITIONS, PartitionRecord, STATE, SliceRecord,
    StateRecord,
};
use crate::hot::{Copy, Hot};
use crate::image::{Image, directory_sum};
use crate::set;
use crate::source::Source;
use crate::wal::{Lsn, Position, Wal};

/// Directory entries up to which one partition's directory is an attribute.
const ATTRIBUTE_ENTRIES: usize = 256;
/// Partitions up to which the directory is one dataset.
const DATASET_PARTITIONS: usize = 16;
/// Partitions divided out of one cold partition in one checkpoint, at most.
const MOST_PARTS: usize = 64;

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

struct Types {
    bucket: Vec<u8>,
    id: Vec<u8>,
    entry: Vec<u8>,
    change: Vec<u8>,
    tags: Vec<u8>,
    partition: Vec<u8>,
    state: Vec<u8>,
}

impl Types {
    fn new() -> hdf5_metno::Result<Self> {
        let encode = |of: TypeDescriptor| encode_datatype(Datatype::from_descriptor(&of)?.id());
        Ok(Self {
            bucket: encode(format::bucket_type())?,
            id: encode(format::id_type())?,
            entry: encode(format::entry_type())?,
            change: encode(format::change_type())?,
            tags: encode(format::tags_type())?,
            partition: encode(format::partition_type())?,
            state: encode(format::state_type())?,
        })
    }
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
}

/// The datasets of one commit.
struct Output<'a> {
    transaction: &'a Transaction<'a>,
    datasets: DatasetWriter<'a>,
    types: &'a Types,
    groups: Groups,
    bytes: u64,
    /// Numbers of partitions that others were divided into.
    taken: BTreeSet<u32>,
}

struct Groups {
    root: Group,
    config: Group,
    nodes: Group,
    buckets: Group,
    values: Group,
    /// The directory's group, when it is made anew.
    directory: Option<Group>,
}

impl Output<'_> {
    fn explain(&self, action: &str, error: &hdf5_metno::Error) -> Error {
        self.transaction.explain(action, error).into()
    }

    /// Removes what is there by this name, if anything is.
    fn remove(&self, group: &Group, name: &str) -> Result<()> {
        if group.link_exists(name) {
            group.unlink(name).map_err(|error| self.explain(&format!("remove {name}"), &error))?;
        }
        Ok(())
    }

    /// Replaces a dataset.
    fn put(&mut self, group: &Group, name: &str, datatype: &[u8], item_size: usize, bytes: &[u8]) -> Result<()> {
        self.remove(group, name)?;
        let offset = if bytes.is_empty() {
            None
        } else {
            let offset = self.transaction.allocate(bytes.len() as u64)?;
            self.transaction.write_at(offset, bytes)?;
            Some(offset)
        };
        let dims = [(bytes.len() / item_size) as u64];
        let layout = DataLayout::Contiguous(offset);
        let item_size = item_size as u32;
        self.datasets.create(group, name, &NewDataset { datatype, item_size, dims: &dims, layout, attributes: &[] })?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes a partition's buckets with their tags, and its value sets; the directory is written later, in the form that
    /// fits.
    fn put_image(&mut self, id: u32, image: &Image, tags: &[u8]) -> Result<()> {
        let name = format::partition_name(id);
        let (buckets, values) = (self.groups.buckets.clone(), self.groups.values.clone());
        let types = self.types;
        let nodes = self.groups.nodes.clone();
        self.put(&nodes, &format::tags_name(id), &types.tags, bucket::TAG_BYTES, tags)?;
        self.put(&buckets, &name, &types.bucket, bucket::BYTES, &image.buckets)?;
        if image.sets.is_empty() {
            self.remove(&values, &name)
        } else {
            self.put(&values, &name, &types.id, set::UNIT, &image.sets)
        }
    }
}

/// What a checkpoint changes in the writer's books once it is committed.
struct Done {
    updates: Vec<(u32, Update)>,
    records: Vec<PartitionRecord>,
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
        let mut run: Vec<u8> = Vec::new();
        let mut report = CheckpointReport::default();
        let run_number = self.writer.lock().next_run;
        let mut overlay_bytes = self.engine.overlay_bytes();
        let was_crowded = self.is_crowded(overlay_bytes);
        for id in ids {
            started.push(*id);
            let crowded = was_crowded && overlay_bytes > self.engine.limit / 8;
            let update = self.take((*id, crowded), run_number, &mut run, &mut directories, &mut output)?;
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
        }
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
        if !run.is_empty() {
            output.put(&nodes, &format::run_name(run_number), &types.change, size_of::<ChangeRecord>(), &run)?;
        }
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
            next_run: (run_number + u32::from(!run.is_empty())).into(),
            deletions: (deletions.len() as u32).into(),
            partitions_sum: XxHash3_64::oneshot(ordered.as_bytes()).into(),
            deletions_sum: XxHash3_64::oneshot(deletions.as_bytes()).into(),
            sum: 0.into(),
        }
        .seal();
        output.put(&nodes, STATE, &types.state, size_of::<StateRecord>(), state.as_bytes())?;
        end_groups(transaction, &renewed)?;
        report.bytes = output.bytes;
        Ok(Done { updates, records: ordered, report })
    }

    /// Brings one partition into the commit.
    fn take(
        &self,
        (id, crowded): (u32, bool),
        run_number: u32,
        run: &mut Vec<u8>,
        directories: &mut BTreeMap<u32, Vec<u32>>,
        output: &mut Output<'_>,
    ) -> Result<Option<Update>> {
        let mut writer = self.writer.lock();
        let applied = writer.applied;
        let engine = self.engine;
        let Some(owned) = writer.owned(id) else { return Ok(None) };
        let (skip, prefix) = (owned.skip, owned.prefix);
        let base = PartitionRecord {
            id: id.into(),
            skip,
            prefix: prefix.into(),
            applied: applied.0.into(),
            ..owned.record.unwrap_or_default()
        };
        if owned.hot.is_some() {
            owned.is_dirty = false;
            // Changes that came while the last slice was being written were held against the record before it.
            let is_full = usize::from(base.slices_count) >= format::SLICES;
            if owned.must_fold || is_full || self.fold != Fold::Grown || owned.record.is_none() {
                owned.must_fold = false;
                owned.pending = Vec::new();
                let Writer { allocator, partitions, .. } = &mut *writer;
                let hot = partitions.get(id as usize).and_then(Option::as_ref).and_then(|owned| owned.hot.as_ref());
                let Some(copy) = hot.map(|hot| self.copy_of(hot, allocator)) else { return Ok(None) };
                drop(writer);
                return self.fold_one(base, copy, directories, output).map(|record| Some(Update::Hot(record)));
            }
            let pending = std::mem::take(&mut owned.pending);
            drop(writer);
            return self.append(base, run_number, run, &pending).map(|record| Some(Update::Hot(record)));
        }
        let partition = engine.partition(id);
        // Read first: reading puts what the file holds before what waits, and so moves what is counted here. A partition that
        // cannot be read stays as it is, and whoever needs to read it is told.
        let _ = engine.read_cold(&partition);
        let (folds, waiting) = {
            let cold = partition.cold.read();
            let waiting = cold.overlay.len() - cold.overlay.stored;
            (owned.wants_fold(waiting) || crowded || self.fold != Fold::Grown, waiting)
        };
        if folds {
            match engine.load_apart(&mut writer, id) {
                Ok(Some(hot)) => return self.fold_cold(writer, base, hot, directories, output).map(Some),
                Ok(None) => return Ok(None),
                // A damaged partition takes further changes in runs, as long as there may be more of them.
                Err(error) if usize::from(base.slices_count) >= format::SLICES || waiting == 0 => return Err(error),
                Err(_) => {}
            }
        }
        let cold = partition.cold.read();
        let changes = cold.overlay.changes()[cold.overlay.stored..].to_vec();
        let length = cold.overlay.len();
        drop(cold);
        drop(writer);
        let record = self.append(base, run_number, run, &changes)?;
        Ok(Some(Update::Appended(record, length)))
    }

    /// A partition as it goes into the file: as it is, or, where everything is made small, with full buckets.
    fn copy_of(&self, hot: &Hot, allocator: &mut Allocator) -> Copy {
        let engine = self.engine;
        let mut arena = Arena { memory: &engine.memory, allocator };
        let packs = matches!(self.fold, Fold::Anew | Fold::Beyond(_));
        match packs.then(|| hot.pack(&mut arena, engine.seed, bucket::CELLS)) {
            Some(Ok(packed)) => {
                let copy = packed.copy(&engine.memory);
                packed.free_buckets(&mut arena);
                copy
            }
            // Without memory for a second copy it is stored as it is.
            Some(Err(OutOfMemory)) | None => hot.copy(&engine.memory),
        }
    }

    /// Appends changes to the run, and a slice of them to the record.
    fn append(
        &self,
        mut record: PartitionRecord,
        run_number: u32,
        run: &mut Vec<u8>,
        changes: &[Change],
    ) -> Result<PartitionRecord> {
        if changes.is_empty() {
            return Ok(record);
        }
        let Some(place) = record.slices.get_mut(usize::from(record.slices_count)) else {
            let place = format!("partition {:08x}", record.id.get());
            return Err(Error::damaged(
                self.engine.path(),
                place,
                "it has no room for more changes, and was not folded",
            ));
        };
        let start = run.len();
        for change in changes {
            run.extend_from_slice(ChangeRecord::from(*change).as_bytes());
        }
        *place = SliceRecord {
            run: run_number.into(),
            start: ((start / size_of::<ChangeRecord>()) as u32).into(),
            count: (changes.len() as u32).into(),
            sum: crc32c::crc32c(&run[start..]).into(),
        };
        record.slices_count += 1;
        Ok(record)
    }

    fn fold_one(
        &self,
        base: PartitionRecord,
        copy: Copy,
        directories: &mut BTreeMap<u32, Vec<u32>>,
        output: &mut Output<'_>,
    ) -> Result<PartitionRecord> {
        let id = base.id.get();
        let mut image = copy.into_image();
        let mut record = PartitionRecord {
            directory_bits: image.directory.len().ilog2() as u8,
            slices_count: 0,
            slices: [SliceRecord::default(); format::SLICES],
            keys: image.keys.into(),
            pairs: image.pairs.into(),
            buckets: ((image.buckets.len() / bucket::BYTES) as u32).into(),
            set_units: ((image.sets.len() / set::UNIT) as u64).into(),
            directory_sum: directory_sum(&image.directory).into(),
            ..base
        };
        let name = record.name_image();
        record.image = name.into();
        let mut tags = vec![0; image.buckets.len() / bucket::BYTES * bucket::TAG_BYTES];
        let buckets = image.buckets.as_chunks_mut().0;
        for ((bytes, tags), index) in buckets.iter_mut().zip(tags.as_chunks_mut().0).zip(0..) {
            bucket::seal(bytes, Home::new(name, index));
            bucket::tags_of(bytes, tags);
        }
        record.tags_sum = XxHash3_64::oneshot(&tags).into();
        output.put_image(id, &image, &tags)?;
        directories.insert(id, image.directory);
        Ok(record)
    }

    /// Folds a cold partition that was loaded apart, dividing it where it has become large.
    fn fold_cold(
        &self,
        mut writer: MutexGuard<'_, Writer>,
        base: PartitionRecord,
        hot: Hot,
        directories: &mut BTreeMap<u32, Vec<u32>>,
        output: &mut Output<'_>,
    ) -> Result<Update> {
        let engine = self.engine;
        let folded = engine.partition(base.id.get()).cold.read().overlay.len();
        // Numbers given out in this checkpoint are not in the writer's books yet.
        let free = writer.free_ids(MOST_PARTS + output.taken.len());
        let mut free = free.into_iter().filter(|id| !output.taken.contains(id)).collect::<Vec<u32>>().into_iter();
        let mut parts = vec![(base, hot)];
        let mut index = 0;
        while index < parts.len() {
            let (record, hot) = &mut parts[index];
            let divides = hot.buckets > engine.partition_buckets && u32::from(record.skip) < TABLE_BITS;
            let Some(id) = free.next().filter(|_| divides) else {
                index += 1;
                continue;
            };
            let mut arena = Arena { memory: &engine.memory, allocator: &mut writer.allocator };
            let upper = hot.divide(&mut arena, engine.seed).map_err(|OutOfMemory| engine.out_of_memory())?;
            record.skip += 1;
            record.prefix = (record.prefix.get() << 1).into();
            let upper_record = PartitionRecord {
                id: id.into(),
                skip: record.skip,
                prefix: (record.prefix.get() | 1).into(),
                ..*record
            };
            // All keys on one side: dividing does not help.
            if hot.keys == 0 || upper.keys == 0 {
                index += 1;
            }
            output.taken.insert(id);
            parts.push((upper_record, upper));
        }
        let copies: Vec<(PartitionRecord, Copy)> =
            parts.iter().map(|(record, hot)| (*record, self.copy_of(hot, &mut writer.allocator))).collect();
        for (_, hot) in parts {
            hot.free(&mut Arena { memory: &engine.memory, allocator: &mut writer.allocator });
        }
        drop(writer);
        let mut records = Vec::with_capacity(copies.len());
        for (record, copy) in copies {
            records.push(self.fold_one(record, copy, directories, output)?);
        }
        Ok(Update::Folded(folded, records))
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

    /// Writes the directory in the form that fits, and enters into the records where each partition's begins.
    fn write_directory(
        &self,
        output: &mut Output<'_>,
        records: &mut [PartitionRecord],
        directories: &BTreeMap<u32, Vec<u32>>,
    ) -> Result<DirectoryForm> {
        let form = match &*records {
            [one] if 1 << one.directory_bits <= ATTRIBUTE_ENTRIES => DirectoryForm::Attribute,
            few if few.len() <= DATASET_PARTITIONS => DirectoryForm::Dataset,
            _ => DirectoryForm::Sharded,
        };
        let source = self.engine.source.read();
        let before = source.as_ref().map(Source::form);
        let known = |record: &PartitionRecord| -> Result<Vec<u32>> {
            match (directories.get(&record.id.get()), &*source) {
                (Some(directory), _) => Ok(directory.clone()),
                (None, Some(source)) => source.directory(record),
                (None, None) => Ok(Vec::new()),
            }
        };
        // Read before anything is removed.
        let mut all = Vec::new();
        if form != DirectoryForm::Sharded || before != Some(DirectoryForm::Sharded) || self.fold == Fold::Anew {
            for record in records.iter() {
                all.push(known(record)?);
            }
        }
        let (root, config) = (output.groups.root.clone(), output.groups.config.clone());
        let renewed = output.groups.directory.clone();
        if before != Some(form) {
            output.remove(&root, DIRECTORY)?;
        }
        let types = output.types;
        if config.attr(DIRECTORY).is_ok() {
            config.delete_attr(DIRECTORY).map_err(|error| output.explain("replace the directory", &error))?;
        }
        let write_entries =
            |entries: &[u32]| -> Vec<u8> { entries.iter().flat_map(|entry| entry.to_le_bytes()).collect() };
        match form {
            DirectoryForm::Attribute => {
                let entries = all.pop().unwrap_or_default();
                config
                    .new_attr_builder()
                    .with_data(&entries)
                    .create(DIRECTORY)
                    .map_err(|error| output.explain("write the directory", &error))?;
                records[0].directory_start = 0.into();
            }
            DirectoryForm::Dataset => {
                let mut entries = Vec::new();
                for (record, directory) in records.iter_mut().zip(&all) {
                    record.directory_start = (entries.len() as u32).into();
                    entries.extend_from_slice(directory);
                }
                output.put(&root, DIRECTORY, &types.entry, 4, &write_entries(&entries))?;
            }
            DirectoryForm::Sharded => {
                let is_new = renewed.is_some();
                let group = match renewed.map_or_else(|| root.group(DIRECTORY), Ok) {
                    Ok(group) => group,
                    Err(_) => root.create_group(DIRECTORY).map_err(|error| output.explain("create /dir", &error))?,
                };
                if before == Some(form) && !is_new {
                    for (id, directory) in directories {
                        output.put(&group, &format::shard_name(*id), &types.entry, 4, &write_entries(directory))?;
                    }
                    let kept: BTreeSet<String> =
                        records.iter().map(|record| format::shard_name(record.id.get())).collect();
                    let names = group.member_names();
                    let names = names.map_err(|error| output.explain("list /dir", &error))?;
                    for name in names.iter().filter(|name| !kept.contains(*name)) {
                        output.remove(&group, name)?;
                    }
                } else {
                    for (record, directory) in records.iter().zip(&all) {
                        let name = format::shard_name(record.id.get());
                        output.put(&group, &name, &types.entry, 4, &write_entries(directory))?;
                    }
                }
                records.iter_mut().for_each(|record| record.directory_start = 0.into());
            }
        }
        Ok(form)
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
        if done.records.iter().any(|record| record.slices.iter().any(|slice| slice.run.get() == writer.next_run)) {
            writer.next_run += 1;
        }
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

/// The groups that a compaction makes anew, and what the links' members of them are called after.
const RENEWED: [(&str, &str); 3] =
    [(Storage::BUCKETS_GROUP, ""), (Storage::VALUES_GROUP, ""), (DIRECTORY_GROUP, "shard_")];
const DIRECTORY_GROUP: &str = "/dir";

/// The name that a group has until it takes the place of the old one.
fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// Begins groups anew where nothing but links is in them: what libhdf5 keeps of a group lies wherever the end of the file was
/// when it grew. The old ones go last, so that nothing is put into the room that they give back. Says which.
fn begin_groups(transaction: &Transaction<'_>) -> Result<Vec<&'static str>> {
    let explain = |error| Error::from(transaction.explain("renew the links' groups", &error));
    let file = transaction.file();
    let mut renewed = Vec::new();
    for (name, prefix) in RENEWED {
        let Ok(group) = file.group(name) else { continue };
        let is_ours = |name: &String| {
            name.strip_prefix(prefix).is_some_and(|id| id.len() == 8 && u32::from_str_radix(id, 16).is_ok())
        };
        if group.member_names().map_err(explain)?.iter().all(is_ours) {
            file.create_group(&new_name(name)).map_err(explain)?;
            renewed.push(name);
        }
    }
    Ok(renewed)
}

/// Puts the new groups into the places of the old ones.
fn end_groups(transaction: &Transaction<'_>, renewed: &[&str]) -> Result<()> {
    let explain = |error| Error::from(transaction.explain("renew the links' groups", &error));
    let file = transaction.file();
    for name in renewed {
        let new = new_name(name);
        if *name == DIRECTORY_GROUP && file.group(&new).map_err(explain)?.is_empty() {
            file.unlink(&new).map_err(explain)?;
            continue;
        }
        if file.link_exists(name) {
            file.unlink(name).map_err(explain)?;
        }
        file.relink(&new, name).map_err(explain)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::format::SLICES;
    use crate::{CIDStore, Change, E, LinksOptions};

    #[test]
    fn a_partition_whose_slices_filled_up_while_changes_came_is_folded() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("links.h5");
        let options = LinksOptions::new().background(false);
        let store = CIDStore::open_with(&path, corallite_file::Mode::Append, options)?;
        let many: Vec<(E, E)> = (0..2000).map(|number| (E::new(number), E::new(1))).collect();
        store.batch_insert(&many)?;
        store.checkpoint()?;
        for number in 0..SLICES as u128 {
            store.insert(E::new(number), E::new(2))?;
            assert_eq!(store.checkpoint()?.appended, 1);
        }
        store.insert(E::new(7), E::new(3))?;
        {
            // As when this came between the taking of the last slice and its commit.
            let mut writer = store.shared().writer.lock();
            let owned = writer.owned(0).ok_or("no partition")?;
            owned.must_fold = false;
            owned.pending = vec![Change::insert(E::new(7), E::new(3))];
        }
        assert_eq!(store.checkpoint()?.folded, 1);
        let reader = CIDStore::open_read_only(&path)?;
        assert_eq!(reader.get(E::new(7))?, [E::new(1), E::new(3)]);
        Ok(())
    }
}
