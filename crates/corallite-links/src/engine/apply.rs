//! Applying changes.

use super::{Ahead, Engine, Partition, Writer};
use crate::arena::{Arena, OutOfMemory, Slot};
use crate::change::{Change, Operation};
use crate::error::Result;
use crate::format::ChangeRecord;
use crate::hash::{Hash, Seed};
use crate::hot::{Events, Hot};
use crate::wal::{Lsn, Record};

/// A cold partition is loaded when deletions are more than one for so many of its keys.
const KEYS_PER_DELETION: u64 = 8;
/// Deletions that the deletion log holds; more are forgotten, and then everything is looked at.
pub(crate) const DELETIONS: usize = 1 << 16;

impl Hot {
    /// Applies a change; says how many pairs came or went.
    pub(crate) fn apply(
        &mut self,
        arena: &mut Arena<'_>,
        slot: Option<Slot<'_>>,
        seed: Seed,
        hash: Hash,
        change: &Change,
        events: &mut Events,
    ) -> Result<u64, OutOfMemory> {
        let Change { operation, key, value } = *change;
        Ok(match operation {
            Operation::Insert => u64::from(self.insert(arena, slot, seed, (hash, key, value), events)?),
            Operation::DeleteValue => u64::from(self.remove_value(arena, hash, key, value)),
            Operation::DeleteKey => self.remove(arena, hash, key),
        })
    }
}

impl Engine {
    /// Applies changes in order, as of `nanos`; says how many pairs came or went. Insertions into cold partitions count as
    /// one each, as nobody looks whether the pair was there.
    pub(crate) fn apply(&self, writer: &mut Writer, changes: &[Change], nanos: u64) -> Result<u64> {
        let hashes: Vec<Hash> = changes.iter().map(|change| self.seed.hash(change.key)).collect();
        let mut moved = 0;
        let mut failed = None;
        let mut ahead = Ahead::new(self, &hashes);
        for (index, (change, hash)) in changes.iter().zip(&hashes).enumerate() {
            ahead.step(index);
            match self.apply_one(writer, *hash, change, nanos) {
                Ok(count) => moved += count,
                // The others are as durable as this one, and must be applied too.
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(moved), Err)
    }

    #[inline]
    fn apply_one(&self, writer: &mut Writer, hash: Hash, change: &Change, nanos: u64) -> Result<u64> {
        let id = self.route(hash);
        if writer.snapshots.newest() > 0 {
            self.freeze(writer, id);
        }
        if change.operation != Operation::Insert {
            self.note_deletion(writer, change, nanos);
        }
        if self.memory.slot(id).place().is_none() {
            // Loading a partition costs as much as some thousand deletions out of its image do. Insertions are different:
            // only a loaded partition tells at once whether a pair is new. One that cannot be loaded takes changes all the
            // same; whoever reads it is told why.
            let loads = change.operation == Operation::Insert && self.may_load(writer) && self.load(writer, id).is_ok();
            if !loads {
                return self.apply_cold(writer, id, hash, change);
            }
        }
        let Writer { allocator, partitions, events, .. } = &mut *writer;
        let Some(owned) = partitions.get_mut(id as usize).and_then(Option::as_mut) else { return Ok(0) };
        let Some(hot) = &mut owned.hot else { return Ok(0) };
        let mut arena = Arena { memory: &self.memory, allocator };
        let moved = hot
            .apply(&mut arena, Some(self.memory.slot(id)), self.seed, hash, change, events)
            .map_err(|OutOfMemory| self.out_of_memory())?;
        let is_large = hot.buckets > self.partition_buckets;
        if moved > 0 {
            owned.note(*change);
        }
        if is_large {
            self.divide(writer, id)?;
        }
        Ok(moved)
    }

    fn apply_cold(&self, writer: &mut Writer, id: u32, hash: Hash, change: &Change) -> Result<u64> {
        let partition = self.partition(id);
        // Whether something is deleted is known only to who looks; a partition that cannot be read takes the change all the
        // same.
        let moved = match change.operation {
            Operation::Insert => Ok(1),
            _ => self.count_deleted(&partition, hash, change),
        };
        if matches!(moved, Ok(0)) {
            return Ok(0);
        }
        let mut cold = partition.cold.write();
        let before = cold.overlay.bytes();
        cold.overlay.push(hash, *change);
        self.count_overlay(before, cold.overlay.bytes());
        let waiting = cold.overlay.len() as u64;
        let keys = cold.record.map_or(0, |record| record.keys.get());
        drop(cold);
        if let Some(owned) = writer.owned(id) {
            owned.is_dirty = true;
        }
        if waiting > keys / KEYS_PER_DELETION && self.may_load(writer) {
            // It can wait; what is in the overlay counts.
            let _ = self.load(writer, id);
        }
        moved
    }

    fn count_deleted(&self, partition: &Partition, hash: Hash, change: &Change) -> Result<u64> {
        let mut cold = partition.cold.read();
        if !cold.is_read {
            drop(cold);
            self.read_cold(partition)?;
            cold = partition.cold.read();
        }
        match change.operation {
            Operation::DeleteKey => self.cold_values(&cold, hash, change.key).map(|values| values.len() as u64),
            _ => self.cold_contains(&cold, hash, change.key, change.value).map(u64::from),
        }
    }

    /// Puts logged changes where they belong, without loading anything, unless the file holds them already: those of one
    /// share of the partitions, so that several threads can do this for one log.
    pub(crate) fn replay(&self, writer: &Writer, records: &[Record], share: Share, replayed: &mut Replayed) {
        for record in records {
            let Some(change) = record.change() else { continue };
            let hash = self.seed.hash(change.key);
            let id = self.route(hash);
            if id % share.of != share.number {
                continue;
            }
            let owned = writer.partitions.get(id as usize).and_then(Option::as_deref);
            let stored = owned.and_then(|owned| owned.record).map_or(0, |record| record.applied.get());
            if record.lsn().0 < stored {
                continue;
            }
            if change.operation != Operation::Insert && replayed.deletions.len() < DELETIONS {
                replayed.deletions.push((record.lsn(), deletion(&change, record.nanos())));
            }
            // Nothing is loaded before the log was replayed.
            let partition = self.partition(id);
            let mut cold = partition.cold.write();
            let before = cold.overlay.bytes();
            cold.overlay.push(hash, change);
            let after = cold.overlay.bytes();
            drop(cold);
            if after != before {
                self.count_overlay(before, after);
            }
            let changed = &mut replayed.changed;
            changed.resize(changed.len().max(id as usize + 1), false);
            changed[id as usize] = true;
        }
    }

    fn note_deletion(&self, writer: &mut Writer, change: &Change, nanos: u64) {
        if writer.deletions.len() < DELETIONS {
            writer.deletions.push(deletion(change, nanos));
        }
    }
}

fn deletion(change: &Change, nanos: u64) -> ChangeRecord {
    ChangeRecord { operation: nanos.into(), key: change.key.to_hdf5(), value: change.value.to_hdf5() }
}

/// One of several shares of the partitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) number: u32,
    pub(crate) of: u32,
}

/// What replaying changed for the writer.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// By partition.
    changed: Vec<bool>,
    deletions: Vec<(Lsn, ChangeRecord)>,
}

impl Writer {
    /// Takes over what the shares of a replay changed.
    pub(crate) fn adopt_replayed(&mut self, shares: Vec<Replayed>) {
        let mut deletions = Vec::new();
        for share in shares {
            for (id, _) in (0..).zip(share.changed).filter(|(_, changed)| *changed) {
                if let Some(owned) = self.owned(id) {
                    owned.is_dirty = true;
                }
            }
            deletions.extend(share.deletions);
        }
        deletions.sort_unstable_by_key(|(lsn, _)| *lsn);
        let room = DELETIONS.saturating_sub(self.deletions.len());
        self.deletions.extend(deletions.into_iter().take(room).map(|(_, deletion)| deletion));
    }
}
