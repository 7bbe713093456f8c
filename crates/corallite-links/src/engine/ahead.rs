//! Loading ahead what a batch of reads or changes will need: what bounds them is waiting for memory, one wait for the directory
//! entry, one for the bucket's tags, one for the cell, one for the value set. Stages that run some operations ahead of each
//! other wait for all of these at once. They are hints: what changes meanwhile costs a wait, nothing else.

use super::Engine;
use crate::bucket;
use crate::hash::Hash;

/// How many operations ahead the stages are.
const DIRECTORY: usize = 24;
const TAGS: usize = 16;
const CELL: usize = 9;
const SET: usize = 4;
/// A power of two larger than [`TAGS`].
const KEPT: usize = 32;

/// The stages of one batch.
#[derive(Debug)]
pub(crate) struct Ahead<'a> {
    engine: &'a Engine,
    hashes: &'a [Hash],
    /// The buckets that the second stage found, for the others; 0 for none.
    buckets: [u32; KEPT],
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(engine: &'a Engine, hashes: &'a [Hash]) -> Self {
        Self { engine, hashes, buckets: [0; KEPT] }
    }

    /// To be called before the operation with this number, for each in turn.
    #[inline]
    pub(crate) fn step(&mut self, number: usize) {
        let Self { engine, hashes, .. } = *self;
        let memory = &engine.memory;
        let place_of = |hash: &Hash| {
            let place = memory.slot(engine.route(*hash)).place()?;
            Some((memory.directory(place.directory), hash.index(u32::from(place.skip), u32::from(place.bits))))
        };
        if let Some((entries, index)) = hashes.get(number + DIRECTORY).and_then(place_of) {
            entries.prefetch(index);
        }
        if let Some(hash) = hashes.get(number + TAGS) {
            let bucket = place_of(hash).map_or(0, |(entries, index)| entries.get(index));
            self.buckets[(number + TAGS) % KEPT] = bucket;
            bucket::prefetch_tags(memory.bucket(bucket), *hash);
        }
        let bucket_of = |ahead: usize| memory.bucket(self.buckets[(number + ahead) % KEPT]);
        if let Some(hash) = hashes.get(number + CELL) {
            bucket::prefetch_cell(bucket_of(CELL), *hash);
        }
        if let Some(hash) = hashes.get(number + SET)
            && let Some(unit) = bucket::guess_set(bucket_of(SET), *hash)
        {
            memory.set(unit).prefetch();
        }
    }
}
