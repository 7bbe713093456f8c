//! A weight's bytes a piece at a time, for comparing weights that need not fit into memory.

use std::fmt;
use std::sync::Arc;

use corallite_file::Snapshot;

use super::Hdf5Store;
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::hash::{ContentHasher, CoralHasher, WeightHash};
use crate::tensor::WeightMetadata;

/// So many bytes are read at a time: enough chunks for every core. A piece ends where a chunk does, and may be longer.
const PIECE: u64 = 16 << 20;

/// A weight's bytes in order, some mebibytes at a time; made by [`Hdf5Store::pieces`].
///
/// They are those of the commit it was made in, even if the weight is deleted meanwhile. They are verified on the way:
/// when the content is not what its hash says, the last piece is an error instead. A piece need not end where an element
/// does. Nothing follows an error.
pub struct Pieces {
    snapshot: Arc<Snapshot>,
    stored: Stored,
    /// Where the next piece begins.
    at: u64,
    /// `None` once it has been compared.
    hasher: Option<Hasher>,
}

enum Hasher {
    Content(Box<ContentHasher>, WeightHash),
    Coral(Box<CoralHasher>),
    /// For a key of a caller's that says nothing of the content.
    None,
}

impl Hasher {
    fn of(stored: &Stored) -> Self {
        let WeightMetadata { dtype, shape, .. } = stored.metadata();
        let expected = match &stored.description.content_hash {
            Some(hash) => Some(hash),
            None => Some(&stored.key).filter(|key| key.is_content_hash()),
        };
        match expected {
            Some(hash) => Self::Content(Box::new(ContentHasher::new(*dtype, shape)), hash.clone()),
            None if stored.is_verifiable() => Self::Coral(Box::new(CoralHasher::new(*dtype, shape))),
            None => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Content(hasher, _) => {
                hasher.update(bytes);
            }
            Self::Coral(hasher) => hasher.update(bytes),
            Self::None => {}
        }
    }

    /// The hash of the content, when it is another than it should be.
    fn other_than_expected(self, key: &WeightHash) -> Option<WeightHash> {
        let (found, expected) = match &self {
            Self::Content(hasher, expected) => (hasher.finish(), expected),
            Self::Coral(hasher) => (hasher.finish(), key),
            Self::None => return None,
        };
        (found != *expected).then_some(found)
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("key", &self.stored.key).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Pieces {
    /// What is known of the weight.
    pub fn metadata(&self) -> &WeightMetadata {
        self.stored.metadata()
    }

    /// Where the piece that begins at `self.at` ends.
    fn end(&self) -> u64 {
        let length = self.stored.length;
        let end = (self.at + PIECE).min(length);
        match self.stored.chunks() {
            _ if self.stored.is_read_whole() => length,
            // Whole chunks, so that none is decoded twice.
            Some(chunks) if end < length => chunks.get(chunks.covering(&(self.at..end)).end - 1).range.end,
            // What only libhdf5 can read it reads whole.
            None if self.stored.contiguous().is_none() => length,
            _ => end,
        }
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let mut piece = None;
        if self.at < self.stored.length {
            let end = self.end();
            let bytes = self.stored.read(self.snapshot.as_ref(), self.at..end)?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
            }
            self.at = end;
            piece = Some(bytes);
        }
        if self.at == self.stored.length
            && let Some(found) = self.hasher.take().and_then(|hasher| hasher.other_than_expected(&self.stored.key))
        {
            let base = self.stored.base().map(|base| format!("; it is stored as a delta of `{}`", base.key));
            let problem = format!("its content hashes to {found}{}", base.unwrap_or_default());
            return Err(Error::Damaged { key: self.stored.key.clone(), problem });
        }
        Ok(piece)
    }
}

impl Iterator for Pieces {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.read();
        if piece.is_err() {
            (self.at, self.hasher) = (self.stored.length, None);
        }
        piece.transpose()
    }
}

impl Hdf5Store {
    /// A weight's bytes, a piece at a time: what needs all of them and not all at once stays small in memory. `None` when
    /// there is no such weight.
    ///
    /// ```
    /// use corallite_weights::{Dtype, Hdf5Options, Hdf5Store, WeightStore, WeightTensor};
    /// let store = Hdf5Store::memory(Hdf5Options::new())?;
    /// let key = store.store(&WeightTensor::new("w", vec![40 << 20], Dtype::U8, vec![1; 40 << 20])?, None)?;
    /// let (mut count, mut sum) = (0, 0);
    /// for piece in store.pieces(&key)?.expect("just stored") {
    ///     count += 1;
    ///     sum += piece?.iter().map(|&value| u64::from(value)).sum::<u64>();
    /// }
    /// assert!(count > 1);
    /// assert_eq!(sum, 40 << 20);
    /// # Ok::<(), corallite_weights::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when its attributes are; that its data is, a piece says.
    pub fn pieces(&self, key: &WeightHash) -> Result<Option<Pieces>> {
        let Some((snapshot, stored)) = self.find(key)? else { return Ok(None) };
        let hasher = Some(Hasher::of(&stored));
        Ok(Some(Pieces { snapshot, stored, at: 0, hasher }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::filter::Compression;
    use crate::hdf5_store::Hdf5Options;
    use crate::store::WeightStore;
    use crate::tensor::WeightTensor;

    fn noise(length: usize) -> Vec<u8> {
        (0..length as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    #[test]
    fn the_pieces_together_are_the_weight() {
        for compression in [Compression::default(), Compression::None] {
            let store = Hdf5Store::memory(Hdf5Options::new().compression(compression)).unwrap();
            for length in [0, 1, 600, PIECE as usize - 1, PIECE as usize, 2 * PIECE as usize + 17] {
                let bytes = noise(length);
                let weight = WeightTensor::new("w", vec![length as u64], Dtype::U8, bytes.clone()).unwrap();
                let key = store.store(&weight, None).unwrap();
                let pieces: Vec<Vec<u8>> = store.pieces(&key).unwrap().unwrap().collect::<Result<_>>().unwrap();
                assert!(pieces.concat() == bytes, "{compression} {length}");
                assert!(pieces.iter().all(|piece| piece.len() as u64 <= 2 * PIECE), "{compression} {length}");
                assert!(pieces.len() as u64 >= (length as u64).div_ceil(2 * PIECE), "{compression} {length}");
            }
            assert!(store.pieces(&WeightHash::new("none").unwrap()).unwrap().is_none());
        }
    }

    #[test]
    fn content_that_is_not_what_its_hash_says_ends_with_an_error() {
        let store = Hdf5Store::memory(Hdf5Options::new()).unwrap();
        let weight = WeightTensor::new("w", vec![2 * PIECE], Dtype::U8, noise(2 * PIECE as usize)).unwrap();
        let key = store.store(&weight, None).unwrap();
        let mut pieces = store.pieces(&key).unwrap().unwrap();
        pieces.hasher = Some(Hasher::Content(Box::new(ContentHasher::new(Dtype::I8, &[2 * PIECE])), key.clone()));
        let found: Vec<Result<Vec<u8>>> = pieces.collect();
        let (last, before) = found.split_last().unwrap();
        assert!(matches!(last, Err(Error::Damaged { key: damaged, .. }) if *damaged == key), "{last:?}");
        assert!(before.iter().all(Result::is_ok));
    }
}
