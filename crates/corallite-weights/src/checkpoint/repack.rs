//! Storing everything anew: other codecs, other bases, the same weights.
//!
//! Weights are rewritten in the order in which checkpoints were added, a part of a checkpoint in each commit, each commit a
//! whole store. What is stored as a difference refers only to weights of checkpoints that were dealt with before, so that no
//! circle can arise, and an interruption at any point leaves every weight readable.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Checkpoint, Checkpoints, latest};
use crate::error::{Error, Result};
use crate::filter::Compression;
use crate::hash::WeightHash;
use crate::hdf5_store::stored::Stored;
use crate::hdf5_store::write::New;
use crate::hdf5_store::{Bases, Damage, Description, Unwatched, Watch, WeightTransaction, stop_if_cancelled};
use crate::store::WeightStore;

/// Bytes of tensors that are rewritten in one commit, if nothing is said.
const BATCH: u64 = 128 << 20;

/// How often what lies at the file's end is moved, at most.
const PASSES: usize = 3;

/// How a store is repacked.
#[derive(Clone, Copy)]
pub struct RepackOptions<'a> {
    compression: Option<Compression>,
    longest_chain: Option<usize>,
    batch_bytes: u64,
    watch: &'a dyn Watch,
}

impl std::fmt::Debug for RepackOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("RepackOptions");
        out.field("compression", &self.compression).field("longest_chain", &self.longest_chain).finish_non_exhaustive()
    }
}

impl Default for RepackOptions<'_> {
    fn default() -> Self {
        Self { compression: None, longest_chain: None, batch_bytes: BATCH, watch: &Unwatched }
    }
}

impl<'a> RepackOptions<'a> {
    /// The store's compression and longest chain, unwatched.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compresses this way instead of the store's.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Lets so many deltas lie one on another; 0 stores every weight whole.
    #[must_use]
    pub fn longest_chain(mut self, deltas: usize) -> Self {
        self.longest_chain = Some(deltas);
        self
    }

    /// Bytes of tensors to rewrite in one commit: 128 MiB if nothing is said. They are held in memory meanwhile; a tensor that
    /// is larger has a commit of its own.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Reports to `watch` and stops when it says so.
    #[must_use]
    pub fn watch(mut self, watch: &'a dyn Watch) -> Self {
        self.watch = watch;
        self
    }
}

/// What [`Checkpoints::repack`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepackReport {
    /// Weights looked at.
    pub weights: u64,
    /// Those that were written anew; the others are stored that way already.
    pub rewritten: u64,
    /// Those written as deltas.
    pub deltas: u64,
    /// Bytes that all weights' data took before.
    pub bytes_before: u64,
    /// Bytes that it takes now.
    pub bytes_after: u64,
    /// Weights that are damaged and were left as they are.
    pub damaged: Vec<Damage>,
}

impl Checkpoints<'_> {
    /// Stores every weight anew, with the codec asked for and the base of which the difference is smallest. In place and
    /// safe at any point: the work is done in many commits, of which each leaves a whole store; when it is interrupted, the
    /// part that was done stays done. Earlier commits can not be rolled back to afterwards, since they would keep the space.
    ///
    /// Takes memory for [`batch_bytes`](RepackOptions::batch_bytes) of tensors, or for the largest tensor. Weights that are damaged stay as they are and are
    /// reported.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedCheckpoint`] when it cannot be known which weights belong together, [`Error::Cancelled`], and whatever
    /// keeps a commit from happening.
    pub fn repack(&self, options: RepackOptions<'_>) -> Result<RepackReport> {
        let mut report = RepackReport { bytes_before: self.stored_bytes()?, ..RepackReport::default() };
        let mut done: HashSet<WeightHash> = HashSet::new();
        let mut earlier: Vec<Checkpoint> = Vec::new();
        let all = self.store.list_weights()?;
        let checkpoints: Vec<Checkpoint> = {
            let snapshot = self.store.snapshot()?;
            let count = super::record::names(snapshot.as_ref(), snapshot.file())?.len();
            let mut found = latest(snapshot.as_ref(), snapshot.file(), count)?;
            if found.len() != count {
                // Which one, and why.
                self.list()?.iter().try_for_each(|info| self.get(&info.name).map(drop))?;
            }
            found.reverse();
            found
        };
        for checkpoint in checkpoints {
            let keys: Vec<WeightHash> = checkpoint.tensors().iter().map(|tensor| tensor.key.clone()).collect();
            let recent: Vec<Checkpoint> = earlier.iter().rev().take(Bases::RECENT).cloned().collect();
            self.repack_all(&keys, &recent, &mut done, options, &mut report)?;
            earlier.push(checkpoint);
        }
        // What no checkpoint has, such as a base that only differences need.
        self.repack_all(&all, &[], &mut done, options, &mut report)?;
        self.give_up_versions()?;
        self.move_down(&all, options)?;
        report.bytes_after = self.stored_bytes()?;
        Ok(report)
    }

    /// Repacks weights, some in each commit.
    fn repack_all(
        &self,
        keys: &[WeightHash],
        recent: &[Checkpoint],
        done: &mut HashSet<WeightHash>,
        options: RepackOptions<'_>,
        report: &mut RepackReport,
    ) -> Result<()> {
        let mut keys = keys.iter().filter(|key| done.insert((*key).clone())).peekable();
        while keys.peek().is_some() {
            stop_if_cancelled(options.watch)?;
            self.store.transaction(|transaction| {
                let transaction = transaction.with_compression(options.compression.unwrap_or(self.store.compression()));
                let transaction = match options.longest_chain {
                    Some(deltas) => transaction.with_longest_chain(deltas),
                    None => transaction,
                };
                let damaged: HashSet<WeightHash> =
                    report.damaged.iter().filter_map(|damage| WeightHash::new(&damage.name).ok()).collect();
                let transaction = transaction.without(damaged);
                let mut batch = Batch::default();
                while let Some(key) = keys.next_if(|_| batch.bytes < options.batch_bytes.max(1)) {
                    batch.read(&transaction, key, report)?;
                }
                batch.rewrite(&transaction, &transaction.bases(recent), options.watch, report)
            })?;
            // Else every commit's old data would stay until the last.
            self.give_up_versions()?;
        }
        Ok(())
    }

    /// Moves what lies at the file's end into the free space before it, so that the file becomes as short as what it holds.
    fn move_down(&self, keys: &[WeightHash], options: RepackOptions<'_>) -> Result<()> {
        for _ in 0..PASSES {
            let storage = self.store.storage();
            let (length, free) = (self.store.file_bytes()?, storage.free_bytes()?);
            let enough = length - free.min(length);
            if free < length / 16 {
                return Ok(());
            }
            let snapshot = self.store.snapshot()?;
            let mut beyond = Vec::new();
            for key in keys {
                let found = Stored::find(snapshot.as_ref(), snapshot.file(), key);
                if let Ok(Some(stored)) = found
                    && stored.end() > enough
                {
                    beyond.push((stored.end(), key.clone()));
                }
            }
            drop(snapshot);
            // The last ones first: they are what makes it long.
            beyond.sort_unstable_by_key(|(end, _)| std::cmp::Reverse(*end));
            let mut keys = beyond.into_iter().map(|(_, key)| key).peekable();
            while keys.peek().is_some() {
                stop_if_cancelled(options.watch)?;
                self.store.transaction(|transaction| {
                    let mut batch = Batch::default();
                    let mut ignored = RepackReport::default();
                    while let Some(key) = keys.next_if(|_| batch.bytes < options.batch_bytes.max(1)) {
                        batch.read(transaction, &key, &mut ignored)?;
                    }
                    let compression = options.compression.unwrap_or(self.store.compression());
                    batch.rewrite_as_is(&transaction.with_compression(compression))
                })?;
                self.give_up_versions()?;
            }
            if self.store.file_bytes()? >= length {
                return Ok(());
            }
        }
        Ok(())
    }

    fn stored_bytes(&self) -> Result<u64> {
        Ok(self.store.encodings()?.values().flatten().map(|encoding| encoding.stored_bytes).sum())
    }
}

/// Weights that are rewritten in one commit.
#[derive(Default)]
struct Batch {
    stored: Vec<Stored>,
    new: Vec<New>,
    descriptions: Vec<Description>,
    bytes: u64,
}

impl Batch {
    /// Reads a weight and checks it.
    fn read(&mut self, transaction: &WeightTransaction<'_>, key: &WeightHash, report: &mut RepackReport) -> Result<()> {
        let read = || -> Result<Option<(Stored, Vec<u8>)>> {
            let Some(stored) = Stored::find(transaction.inner, transaction.file(), key)? else { return Ok(None) };
            let data = stored.read(transaction.inner, 0..stored.length)?;
            stored.verify_bytes(&data)?;
            Ok(Some((stored, data)))
        };
        let (stored, data) = match read() {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
            Err(error) if error.is_of_one_weight() => {
                let problem = match error {
                    Error::Damaged { problem, .. } => problem,
                    other => other.to_string(),
                };
                report.damaged.push(Damage { kind: "weight", name: key.to_string(), label: None, problem });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.bytes += stored.length;
        report.weights += 1;
        let description = Description { delta: None, ..stored.description.clone() };
        self.new.push(New {
            key: key.clone(),
            dtype: stored.dtype(),
            shape: stored.metadata().shape.clone(),
            data: data.into(),
            place: None,
            base: None,
            description: Arc::new(description.clone()),
        });
        self.descriptions.push(description);
        self.stored.push(stored);
        Ok(())
    }

    /// Writes everything to another place.
    fn rewrite_as_is(self, transaction: &WeightTransaction<'_>) -> Result<()> {
        let chosen = self.stored.iter().map(Stored::chosen).collect();
        transaction.put_aside(self.new.iter().map(|weight| &weight.key))?;
        transaction.write(self.new, self.descriptions, chosen, &Unwatched)?;
        transaction.drop_aside()
    }

    /// Writes anew what is better stored in another way.
    fn rewrite(
        self,
        transaction: &WeightTransaction<'_>,
        bases: &Bases<'_>,
        watch: &dyn Watch,
        report: &mut RepackReport,
    ) -> Result<()> {
        let mut chosen = transaction.choose(bases, &self.new, &self.descriptions, watch)?;
        // Others may have stored weights anew meanwhile, as differences to some of these.
        let keys: HashSet<&WeightHash> = self.new.iter().map(|weight| &weight.key).collect();
        for (chosen, weight) in chosen.iter_mut().zip(&self.new) {
            chosen.take_if(|chosen| {
                !transaction.may_be_delta(&weight.key)
                    || chosen.base.and_its_bases().any(|base| keys.contains(&base.key))
            });
        }
        let (mut new, mut descriptions, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (((weight, description), stored), chosen) in
            self.new.into_iter().zip(self.descriptions).zip(&self.stored).zip(chosen)
        {
            let is_same = chosen.as_ref().map(|chosen| &chosen.delta) == stored.description.delta.as_ref()
                && stored.is_written_with(transaction.compression);
            if is_same {
                watch.advance(weight.data.len() as u64);
                continue;
            }
            new.push(weight);
            descriptions.push(description);
            kept.push(chosen);
        }
        transaction.put_aside(new.iter().map(|weight| &weight.key))?;
        let tally = transaction.write(new, descriptions, kept, watch)?;
        transaction.drop_aside()?;
        report.rewritten += tally.new;
        report.deltas += tally.deltas;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hdf5_store::{Hdf5Options, Hdf5Store};
    use crate::safetensors::{self, SafetensorsFile};
    use crate::{Dtype, WeightTensor};

    /// Two checkpoints of one tensor, of which the second is a delta.
    fn store() -> (Hdf5Store, WeightHash, Vec<u8>) {
        let store = Hdf5Store::memory(Hdf5Options::new()).unwrap();
        let mut data: Vec<u8> = (0..400_000_u32).flat_map(|index| (index as f32).sin().to_le_bytes()).collect();
        let mut last = None;
        for name in ["a", "b"] {
            let weight = WeightTensor::new("w", vec![400_000], Dtype::F32, data.clone()).unwrap();
            let mut model = Vec::new();
            safetensors::write(&mut model, &[weight], &[]).unwrap();
            let file = SafetensorsFile::from_bytes(model).unwrap();
            let added = store.transaction(|transaction| transaction.add_checkpoint(name, &file, &Unwatched)).unwrap();
            last = added.checkpoint.weight("w").cloned();
            if name == "a" {
                data.iter_mut().step_by(40).for_each(|byte| *byte ^= 3);
            }
        }
        (store, last.unwrap(), data)
    }

    #[test]
    fn what_is_moved_is_the_same_in_whatever_chunks_it_is_written() {
        for compression in [Compression::None, Compression::default()] {
            let (store, key, data) = store();
            assert_eq!(store.encoding(&key).unwrap().unwrap().chain, 1);
            store
                .transaction::<_, Error>(|transaction| {
                    let mut batch = Batch::default();
                    batch.read(transaction, &key, &mut RepackReport::default())?;
                    // As a program would have written it that cuts chunks in another way.
                    if let Some(delta) = &mut batch.stored[0].description.delta {
                        delta.chunk = vec![1000];
                    }
                    batch.rewrite_as_is(&transaction.with_compression(compression))
                })
                .unwrap();
            assert!(store.load(&key).unwrap().unwrap().data().unwrap() == data, "{compression}");
            let chain = usize::from(compression != Compression::None);
            assert_eq!(store.encoding(&key).unwrap().unwrap().chain, chain);
            assert!(store.verify(&Unwatched).unwrap().damaged.is_empty());
        }
    }
}
