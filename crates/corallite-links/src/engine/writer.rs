//! What only the writer knows and does: loading, dividing, joining and unloading partitions.

use super::{Content, Engine, Frozen};
use crate::arena::{Allocator, Arena, OutOfMemory};
use crate::change::Change;
use crate::error::Result;
use crate::format::{ChangeRecord, PartitionRecord};
use crate::hot::{Events, Hot};
use crate::image::NotLoaded;
use crate::overlay::Overlay;
use crate::{E, Lsn};

/// Buckets from which on a partition is divided, where nothing else is asked for: 4 MiB.
pub(crate) const PARTITION_BUCKETS: u32 = 1024;
/// The table may have this many entries for each partition before large partitions are left whole.
const ENTRIES_PER_PARTITION: usize = 8;
/// A partition is folded when its changes have grown beyond its image by one part in this many.
pub(crate) const FOLD_PART: u64 = 4;

/// The writer's side of a partition.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) id: u32,
    pub(crate) skip: u8,
    pub(crate) prefix: u64,
    pub(crate) hot: Option<Hot>,
    /// Changes of a hot partition that the file does not hold, unless it will be folded anyway.
    pub(crate) pending: Vec<Change>,
    /// Whether it differs from what the file holds.
    pub(crate) is_dirty: bool,
    /// Whether only a new image will do.
    pub(crate) must_fold: bool,
    /// What the file says of it.
    pub(crate) record: Option<PartitionRecord>,
    /// The newest snapshot that it was frozen for.
    pub(crate) frozen: u64,
}

/// The writer's own state.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) allocator: Allocator,
    /// By id; `None` for numbers that are free.
    pub(crate) partitions: Vec<Option<Box<Owned>>>,
    pub(crate) events: Events,
    /// The first record that was not applied yet.
    pub(crate) applied: Lsn,
    pub(crate) next_run: u32,
    pub(crate) snapshots: super::freeze::Snapshots,
    /// Deletions since the deletion log was cleared, with their time.
    pub(crate) deletions: Vec<ChangeRecord>,
    /// While a checkpoint is under way, partitions stay what they are.
    pub(crate) is_frozen: bool,
    /// Bytes of cold partitions in the file.
    pub(crate) cold_bytes: u64,
    /// The partition from which on the next ones to unload are looked for.
    unload_next: usize,
}

impl Owned {
    pub(crate) fn image_bytes(&self) -> u64 {
        self.record.map_or(0, |record| {
            u64::from(record.buckets.get()) * crate::bucket::BYTES as u64
                + record.set_units.get() * crate::set::UNIT as u64
        })
    }

    /// Changes that lie in runs.
    pub(crate) fn stored_changes(&self) -> u64 {
        self.record.map_or(0, |record| record.slices.iter().map(|slice| u64::from(slice.count.get())).sum())
    }

    /// Whether this many changes, besides those in runs, are better folded than kept.
    pub(crate) fn wants_fold(&self, changes: usize) -> bool {
        let bytes = (self.stored_changes() + changes as u64) * size_of::<ChangeRecord>() as u64;
        self.record.is_none() || bytes * FOLD_PART > self.image_bytes()
    }

    /// Notes a change of a hot partition.
    pub(crate) fn note(&mut self, change: Change) {
        self.is_dirty = true;
        if self.must_fold {
            return;
        }
        self.pending.push(change);
        if self.wants_fold(self.pending.len()) {
            self.must_fold = true;
            self.pending = Vec::new();
        }
    }
}

impl Writer {
    pub(crate) fn owned(&mut self, id: u32) -> Option<&mut Owned> {
        self.partitions.get_mut(id as usize).and_then(Option::as_deref_mut)
    }

    pub(crate) fn put(&mut self, owned: Owned) {
        let id = owned.id as usize;
        while self.partitions.len() <= id {
            self.partitions.push(None);
        }
        self.partitions[id] = Some(Box::new(owned));
    }

    /// Numbers that no partition has.
    pub(crate) fn free_ids(&self, count: usize) -> Vec<u32> {
        let holes = self.partitions.iter().enumerate().filter(|(_, owned)| owned.is_none()).map(|(id, _)| id as u32);
        holes.chain(self.partitions.len() as u32..).take(count).collect()
    }

    fn free_id(&self) -> u32 {
        self.free_ids(1).first().copied().unwrap_or(u32::MAX)
    }

    pub(crate) fn count(&self) -> usize {
        self.partitions.iter().flatten().count()
    }
}

impl Engine {
    /// The first partition of a store without links.
    pub(crate) fn begin(&self, writer: &mut Writer) -> Result<()> {
        let mut arena = Arena { memory: &self.memory, allocator: &mut writer.allocator };
        let hot = Hot::new(&mut arena, 0).map_err(|OutOfMemory| self.out_of_memory())?;
        self.add_partition(0);
        self.memory.slot(0).set_place(Some(hot.place()));
        self.partition(0).cold.write().is_read = true;
        writer.put(Owned { hot: Some(hot), must_fold: true, ..Owned::default() });
        self.enter(0, 0, 0);
        Ok(())
    }

    /// Adds a partition that the file holds.
    pub(crate) fn adopt(&self, writer: &mut Writer, record: PartitionRecord) {
        let id = record.id.get();
        self.add_partition(id);
        self.partition(id).cold.write().record = Some(record);
        writer.put(Owned {
            id,
            skip: record.skip,
            prefix: record.prefix.get(),
            record: Some(record),
            ..Owned::default()
        });
        self.enter(id, record.skip, record.prefix.get());
    }

    /// Loads a cold partition with its overlay, without showing it to readers.
    pub(crate) fn load_apart(&self, writer: &mut Writer, id: u32) -> Result<Option<Hot>> {
        let partition = self.partition(id);
        self.read_cold(&partition)?;
        let Writer { allocator, partitions, events, .. } = writer;
        let Some(owned) = partitions.get(id as usize).and_then(Option::as_ref) else { return Ok(None) };
        let mut arena = Arena { memory: &self.memory, allocator };
        let cold = partition.cold.read();
        let loaded = match &cold.image {
            Some(image) => image.load(&mut arena, self.seed, owned.prefix),
            None => Hot::new(&mut arena, owned.skip).map_err(NotLoaded::from),
        };
        let mut hot = loaded.map_err(|problem| match problem {
            NotLoaded::Flawed(flaw) => self.flawed(flaw),
            NotLoaded::OutOfMemory => self.out_of_memory(),
        })?;
        for change in cold.overlay.changes() {
            let hash = self.seed.hash(change.key);
            if hot.apply(&mut arena, None, self.seed, hash, change, events).is_err() {
                hot.free(&mut arena);
                return Err(self.out_of_memory());
            }
        }
        Ok(Some(hot))
    }

    /// Loads a cold partition.
    pub(crate) fn load(&self, writer: &mut Writer, id: u32) -> Result<()> {
        let Some(hot) = self.load_apart(writer, id)? else { return Ok(()) };
        let image_bytes = writer.owned(id).map_or(0, |owned| owned.image_bytes());
        writer.cold_bytes = writer.cold_bytes.saturating_sub(image_bytes);
        let partition = self.partition(id);
        let mut cold = partition.cold.write();
        let overlay = std::mem::take(&mut cold.overlay);
        self.count_overlay(overlay.bytes(), 0);
        // Read anew, should it be unloaded; until then nothing keeps the image's place in the file.
        cold.image = None;
        cold.is_read = false;
        let slot = self.memory.slot(id);
        let changing = slot.change();
        slot.set_place(Some(hot.place()));
        drop(changing);
        if let Some(owned) = writer.owned(id) {
            owned.pending.clear();
            if !owned.must_fold {
                owned.pending.extend_from_slice(&overlay.changes()[overlay.stored.min(overlay.len())..]);
                if owned.wants_fold(owned.pending.len()) && !owned.pending.is_empty() {
                    owned.must_fold = true;
                    owned.pending = Vec::new();
                }
            }
            owned.hot = Some(hot);
        }
        Ok(())
    }

    /// Unloads a hot partition of which the file has an image; what changed since becomes its overlay.
    pub(crate) fn unload(&self, writer: &mut Writer, id: u32) -> bool {
        let Writer { allocator, partitions, cold_bytes, .. } = writer;
        let Some(owned) = partitions.get_mut(id as usize).and_then(Option::as_mut) else { return false };
        if owned.must_fold || owned.record.is_none() {
            return false;
        }
        let Some(hot) = owned.hot.take() else { return false };
        let partition = self.partition(id);
        let mut cold = partition.cold.write();
        *cold = super::Cold { record: owned.record, ..super::Cold::default() };
        for change in std::mem::take(&mut owned.pending) {
            cold.overlay.push(self.seed.hash(change.key), change);
        }
        self.count_overlay(0, cold.overlay.bytes());
        *cold_bytes += owned.image_bytes();
        let slot = self.memory.slot(id);
        let changing = slot.change();
        slot.set_place(None);
        hot.free(&mut Arena { memory: &self.memory, allocator });
        drop(changing);
        true
    }

    /// Whether another partition may be loaded.
    pub(crate) fn may_load(&self, writer: &Writer) -> bool {
        let room = u64::from(self.partition_buckets) * crate::bucket::BYTES as u64;
        !writer.is_frozen
            && self.bytes(writer) + room <= self.limit
            && writer.allocator.bytes() + room <= self.hot_limit(writer)
    }

    /// How much may be hot: everything if everything fits, else half, so that overlays have room to gather changes.
    fn hot_limit(&self, writer: &Writer) -> u64 {
        if writer.allocator.bytes() + writer.cold_bytes <= self.limit { self.limit } else { self.limit / 2 }
    }

    /// Forgets what was read of cold partitions that did not change, where overlays take much of the memory: their changes are
    /// in the file, and are read again when they are needed.
    pub(crate) fn forget_read(&self, writer: &Writer) {
        if writer.is_frozen || self.overlay_bytes() <= self.limit / 4 {
            return;
        }
        for owned in writer.partitions.iter().flatten().filter(|owned| owned.hot.is_none() && !owned.is_dirty) {
            let partition = self.partition(owned.id);
            let mut cold = partition.cold.write();
            if cold.is_read && cold.overlay.len() == cold.overlay.stored {
                self.count_overlay(cold.overlay.bytes(), 0);
                *cold = super::Cold { record: cold.record, ..super::Cold::default() };
            }
        }
    }

    /// Unloads partitions until memory is within its limit.
    pub(crate) fn make_room(&self, writer: &mut Writer) {
        self.forget_read(writer);
        writer.cold_bytes = writer
            .partitions
            .iter()
            .flatten()
            .filter(|owned| owned.hot.is_none())
            .map(|owned| owned.image_bytes())
            .sum();
        let count = writer.partitions.len();
        for _ in 0..count {
            if self.bytes(writer) <= self.limit && writer.allocator.bytes() <= self.hot_limit(writer) {
                break;
            }
            let id = writer.unload_next % count;
            writer.unload_next = id + 1;
            self.unload(writer, id as u32);
        }
    }

    /// Divides a hot partition that has become large, unless that would not help.
    pub(crate) fn divide(&self, writer: &mut Writer, id: u32) -> Result<()> {
        let count = writer.count();
        let upper_id = writer.free_id();
        let Writer { allocator, partitions, events, is_frozen, .. } = writer;
        let Some(owned) = partitions.get_mut(id as usize).and_then(Option::as_mut) else { return Ok(()) };
        if *is_frozen {
            return Ok(());
        }
        let skip = u32::from(owned.skip);
        let grows = skip >= self.table_bits();
        if grows && (2_usize << self.table_bits()) > ENTRIES_PER_PARTITION * count + 64
            || upper_id >= self.memory.most_partitions()
        {
            return Ok(());
        }
        let Some(hot) = &mut owned.hot else { return Ok(()) };
        self.add_partition(upper_id);
        let (slot, upper_slot) = (self.memory.slot(id), self.memory.slot(upper_id));
        let changing = (slot.change(), upper_slot.change());
        let mut arena = Arena { memory: &self.memory, allocator };
        let divided = hot.divide(&mut arena, self.seed);
        slot.set_place(Some(hot.place()));
        let upper = divided.map_err(|OutOfMemory| self.out_of_memory())?;
        upper_slot.set_place(Some(upper.place()));
        owned.skip += 1;
        owned.prefix <<= 1;
        owned.must_fold = true;
        owned.is_dirty = true;
        owned.pending = Vec::new();
        let new = Owned {
            id: upper_id,
            skip: owned.skip,
            prefix: owned.prefix | 1,
            hot: Some(upper),
            is_dirty: true,
            must_fold: true,
            frozen: owned.frozen,
            ..Owned::default()
        };
        events.splits += 1;
        self.enter(upper_id, new.skip, new.prefix);
        *self.partition(upper_id).cold.write() = super::Cold::default();
        drop(changing);
        writer.put(new);
        Ok(())
    }

    /// Joins hot partitions with their buddies where both are small; says how many are gone.
    pub(crate) fn join(&self, writer: &mut Writer) -> u64 {
        let mut joined = 0;
        if writer.is_frozen {
            return 0;
        }
        loop {
            let small = |owned: &Owned| {
                owned.hot.as_ref().is_some_and(|hot| hot.buckets <= self.partition_buckets / 4) && owned.skip > 0
            };
            let candidates: Vec<(u32, u8, u64)> = writer
                .partitions
                .iter()
                .flatten()
                .filter(|owned| small(owned) && owned.prefix & 1 == 1)
                .map(|owned| (owned.id, owned.skip, owned.prefix))
                .collect();
            let before = joined;
            for (upper_id, skip, prefix) in candidates {
                let buddy = writer.partitions.iter().flatten();
                let mut buddy = buddy.filter(|other| other.skip == skip && other.prefix == prefix - 1 && small(other));
                let Some(lower_id) = buddy.next().map(|owned| owned.id) else { continue };
                joined += u64::from(self.join_two(writer, lower_id, upper_id));
            }
            if joined == before {
                break;
            }
        }
        if joined > 0 {
            self.shrink_table();
        }
        joined
    }

    fn join_two(&self, writer: &mut Writer, lower_id: u32, upper_id: u32) -> bool {
        self.freeze(writer, lower_id);
        self.freeze(writer, upper_id);
        let Some(mut upper) = writer.partitions[upper_id as usize].take() else { return false };
        let Writer { allocator, partitions, events, .. } = writer;
        let Some(lower) = partitions[lower_id as usize].as_mut() else { return false };
        let (Some(low), Some(high)) = (&mut lower.hot, &mut upper.hot) else { return false };
        let (slot, upper_slot) = (self.memory.slot(lower_id), self.memory.slot(upper_id));
        let changing = (slot.change(), upper_slot.change());
        let done = low.join(&mut Arena { memory: &self.memory, allocator }, high);
        slot.set_place(Some(low.place()));
        if !done {
            upper_slot.set_place(Some(high.place()));
            drop(changing);
            writer.partitions[upper_id as usize] = Some(upper);
            return false;
        }
        upper_slot.set_place(None);
        lower.skip -= 1;
        lower.prefix >>= 1;
        lower.is_dirty = true;
        lower.must_fold = true;
        lower.pending = Vec::new();
        events.merges += 1;
        let (skip, prefix) = (lower.skip, lower.prefix);
        self.enter(lower_id, skip, prefix);
        *self.partition(upper_id).cold.write() = super::Cold::default();
        drop(changing);
        true
    }

    /// Replaces a cold partition, whose first `folded` changes went into a new image, by what the file has now: itself, and
    /// the others that it was divided into.
    pub(crate) fn replace_cold(&self, writer: &mut Writer, id: u32, folded: usize, records: &[PartitionRecord]) {
        let Some((first, others)) = records.split_first() else { return };
        let partition = self.partition(id);
        let slot = self.memory.slot(id);
        let mut cold = partition.cold.write();
        let mut old = std::mem::take(&mut cold.overlay);
        self.count_overlay(old.bytes(), 0);
        old.forget(folded, self.seed, |_| true);
        let frozen = writer.owned(id).map_or(0, |owned| owned.frozen);
        let changing = slot.change();
        for record in std::iter::once(first).chain(others) {
            let belongs =
                |change: &&Change| self.seed.hash(change.key).prefix(u32::from(record.skip)) == record.prefix.get();
            let mut overlay = Overlay::default();
            for change in old.changes().iter().filter(belongs) {
                overlay.push(self.seed.hash(change.key), *change);
            }
            self.count_overlay(0, overlay.bytes());
            let new_id = record.id.get();
            let is_dirty = !overlay.is_empty();
            let new = super::Cold { record: Some(*record), overlay, ..super::Cold::default() };
            if new_id == id {
                *cold = new;
            } else {
                self.add_partition(new_id);
                *self.partition(new_id).cold.write() = new;
                self.enter(new_id, record.skip, record.prefix.get());
            }
            writer.put(Owned {
                id: new_id,
                skip: record.skip,
                prefix: record.prefix.get(),
                record: Some(*record),
                is_dirty,
                frozen,
                ..Owned::default()
            });
        }
        drop(changing);
    }

    /// Keeps what snapshots need of a partition that is about to change.
    pub(crate) fn freeze(&self, writer: &mut Writer, id: u32) {
        let Writer { partitions, snapshots, .. } = writer;
        let newest = snapshots.newest();
        let Some(owned) = partitions.get_mut(id as usize).and_then(Option::as_mut) else { return };
        if owned.frozen >= newest {
            return;
        }
        let after = std::mem::replace(&mut owned.frozen, newest);
        if !snapshots.any_after(after) {
            return;
        }
        let mut content = self.content(owned);
        if let Ok(content) = &mut content {
            content.sort_unstable_by_key(|(key, _)| *key);
        }
        snapshots.keep(after, Frozen { skip: owned.skip, prefix: owned.prefix, content });
    }

    /// All keys of a partition with their values.
    pub(crate) fn content(&self, owned: &Owned) -> Result<Content> {
        let mut content = Vec::new();
        if let Some(hot) = &owned.hot {
            content.reserve(hot.keys as usize);
            hot.for_each(&self.memory, self.seed, |key, values| content.push((key, values.iter().copied().collect())));
            return Ok(content);
        }
        self.cold_content(owned.id)
    }

    /// The same of a cold partition.
    pub(crate) fn cold_content(&self, id: u32) -> Result<Content> {
        let partition = self.partition(id);
        self.read_cold(&partition)?;
        let cold = partition.cold.read();
        let mut content = Content::new();
        if let Some(image) = &cold.image {
            let changed: std::collections::HashSet<E> = cold.overlay.keys().into_iter().collect();
            image
                .for_each(self.seed, |key, values| {
                    if !changed.contains(&key) {
                        content.push((key, values.iter().copied().collect()));
                    }
                })
                .map_err(|flaw| self.flawed(flaw))?;
        }
        for key in cold.overlay.keys() {
            let values = self.cold_values(&cold, self.seed.hash(key), key)?;
            if !values.is_empty() {
                content.push((key, crate::Values::from_vec(values)));
            }
        }
        Ok(content)
    }
}
