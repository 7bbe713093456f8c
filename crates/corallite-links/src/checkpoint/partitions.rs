//! Bringing single partitions into a checkpoint: folded into a new image, or with their changes appended to the run.

use std::collections::BTreeMap;

use parking_lot::MutexGuard;
use twox_hash::XxHash3_64;

use super::output::Output;
use super::run::Run;
use super::{Checkpoint, Fold, Update};
use crate::arena::{Allocator, Arena, OutOfMemory, TABLE_BITS};
use crate::bucket::{self, Home};
use crate::change::Change;
use crate::engine::Writer;
use crate::error::Result;
use crate::format::{self, PartitionRecord, SliceRecord};
use crate::hot::{Copy, Hot};
use crate::image::directory_sum;
use crate::set;

/// Partitions divided out of one cold partition in one checkpoint, at most.
const MOST_PARTS: usize = 64;

impl Checkpoint<'_> {
    /// Brings one partition into the commit.
    pub(super) fn take(
        &self,
        (id, crowded): (u32, bool),
        run: &mut Run,
        directories: &mut BTreeMap<u32, Vec<u32>>,
        output: &mut Output<'_>,
    ) -> Result<Option<Update>> {
        let earlier = self.earlier(id);
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
            if owned.must_fold || earlier.is_none() || self.fold != Fold::Grown || owned.record.is_none() {
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
            let earlier = earlier.unwrap_or_default();
            return Ok(Some(Update::Hot(run.append(base, &earlier, &pending))));
        }
        let partition = engine.partition(id);
        // Read first: reading puts what the file holds before what waits, and so moves what is counted here. A partition that
        // cannot be read stays as it is, and whoever needs to read it is told.
        let _ = engine.read_cold(&partition);
        let is_full = base.is_full();
        let (folds, waiting) = {
            let cold = partition.cold.read();
            let waiting = cold.overlay.len() - cold.overlay.stored;
            let is_unread = is_full && !cold.is_read;
            (owned.wants_fold(waiting) || is_unread || crowded || self.fold != Fold::Grown, waiting)
        };
        if folds {
            match engine.load_apart(&mut writer, id) {
                Ok(Some(hot)) => return self.fold_cold(writer, base, hot, directories, output).map(Some),
                Ok(None) => return Ok(None),
                // What is not loaded cannot go with the old groups.
                Err(error) if self.fold == Fold::Anew => return Err(error),
                // A damaged partition takes further changes in runs, as long as there may be more of them.
                Err(error) if is_full || waiting == 0 => return Err(error),
                Err(_) => {}
            }
        }
        let cold = partition.cold.read();
        let (stored, changes) = cold.overlay.changes().split_at(cold.overlay.stored);
        let (stored, changes) = (if is_full { stored.to_vec() } else { Vec::new() }, changes.to_vec());
        let length = cold.overlay.len();
        drop(cold);
        drop(writer);
        Ok(Some(Update::Appended(run.append(base, &stored, &changes), length)))
    }

    /// What a hot partition has in runs, where it can have no further slice there and all are to become one; `None` when they
    /// cannot be read.
    fn earlier(&self, id: u32) -> Option<Vec<Change>> {
        let record = self.writer.lock().owned(id).filter(|owned| owned.hot.is_some() && !owned.must_fold)?.record?;
        if !record.is_full() || self.fold != Fold::Grown {
            return Some(Vec::new());
        }
        self.engine.source.read().as_ref()?.slices(&record).ok()
    }

    /// A partition as it goes into the file: as it is, or, where everything is made small, with full buckets.
    pub(super) fn copy_of(&self, hot: &Hot, allocator: &mut Allocator) -> Copy {
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

    pub(super) fn fold_one(
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
    pub(super) fn fold_cold(
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
}
