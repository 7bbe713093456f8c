//! How weights are stored: what `show`, `stats` and `diff` tell of them.

use std::collections::BTreeMap;

use corallite_file::Snapshot;
use corallite_file::hdf5::{Group, Result as H5Result};

use super::stored::Stored;
use super::{Hdf5Store, WeightStore, library};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::hash::WeightHash;

/// How a weight is stored.
///
/// ```
/// use corallite_weights::{Dtype, Hdf5Options, Hdf5Store, WeightStore, WeightTensor};
/// let store = Hdf5Store::memory(Hdf5Options::new())?;
/// let key = store.store(&WeightTensor::new("w", vec![4096], Dtype::F32, vec![0; 16384])?, None)?;
/// let encoding = store.encoding(&key)?.expect("just stored");
/// assert!(encoding.stored_bytes < encoding.length);
/// assert_eq!((encoding.base, encoding.chain), (None, 0));
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The tensor's element type.
    pub dtype: Dtype,
    /// Bytes of the tensor.
    pub length: u64,
    /// Bytes that its data takes in the file, without its attributes.
    pub stored_bytes: u64,
    /// The filters of its dataset, in the order in which they were applied: `shuffle`, `deflate(1)`.
    pub filters: Vec<String>,
    /// The number of chunks; `None` when it is stored in one piece.
    pub chunks: Option<u64>,
    /// How differences are made, for a weight that is stored as the difference to another: `zigzag`, `zigzag_by_exponent`.
    pub delta_type: Option<&'static str>,
    /// The weight that it is stored as the difference to.
    pub base: Option<WeightHash>,
    /// How many deltas lie one on another; 0 for a weight that is stored whole.
    pub chain: usize,
}

impl Encoding {
    fn of(stored: &Stored) -> Self {
        Self {
            dtype: stored.dtype(),
            length: stored.length,
            stored_bytes: stored.stored_bytes(),
            filters: stored.filters(),
            chunks: stored.chunk_count(),
            delta_type: stored.description.delta.as_ref().map(|delta| delta.delta_type()),
            base: stored.base().map(|base| base.key.clone()),
            chain: stored.chain(),
        }
    }
}

impl Hdf5Store {
    /// How a weight is stored; `None` when there is none under this key. Reads no data.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`](crate::Error::Damaged) when its attributes, or those of what it is a difference to, are.
    pub fn encoding(&self, key: &WeightHash) -> Result<Option<Encoding>> {
        encoding(self.snapshot()?.as_ref(), key)
    }

    /// How every weight is stored; damaged ones come with their error.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering.
    pub fn encodings(&self) -> Result<BTreeMap<WeightHash, Result<Encoding>>> {
        let snapshot = self.snapshot()?;
        let mut all = BTreeMap::new();
        for key in self.list_weights()? {
            if let Some(found) = encoding(snapshot.as_ref(), &key).transpose() {
                all.insert(key, found);
            }
        }
        Ok(all)
    }

    /// Bytes that the data of a dataset, or of all datasets below a group, takes in the file, without headers, indexes and
    /// attributes; 0 when there is no such object.
    ///
    /// ```
    /// use corallite_weights::{Compression, Dtype, Hdf5Options, Hdf5Store, WeightStore, WeightTensor};
    /// let store = Hdf5Store::memory(Hdf5Options::new().compression(Compression::None))?;
    /// store.store(&WeightTensor::new("w", vec![1000], Dtype::U8, vec![7; 1000])?, None)?;
    /// assert_eq!(store.data_bytes("weights")?, 1000);
    /// assert_eq!(store.data_bytes("checkpoints")?, 0);
    /// # Ok::<(), corallite_weights::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn data_bytes(&self, path: &str) -> Result<u64> {
        let snapshot = self.snapshot()?;
        let file = snapshot.file();
        if !file.link_exists(path) {
            return Ok(0);
        }
        let found = match file.dataset(path) {
            Ok(dataset) => Ok(library::stored_bytes(&dataset)),
            Err(_) => file.group(path).and_then(|group| data_below(&group, 1)),
        };
        found.map_err(|error| snapshot.explain(&format!("look through /{path}"), &error).into())
    }
}

/// A group below another below another has data; what lies deeper is nothing that a store has, and may be a circle.
const DEEPEST: usize = 3;

fn data_below(group: &Group, depth: usize) -> H5Result<u64> {
    let mut bytes = 0;
    for name in group.member_names()? {
        bytes += match group.dataset(&name) {
            Ok(dataset) => library::stored_bytes(&dataset),
            Err(_) if depth < DEEPEST => data_below(&group.group(&name)?, depth + 1)?,
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

fn encoding(snapshot: &Snapshot, key: &WeightHash) -> Result<Option<Encoding>> {
    Ok(Stored::find(snapshot, snapshot.file(), key)?.as_ref().map(Encoding::of))
}
