//! The tensors that the checks store.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Outcome, ensure, ok, same};
use crate::dtype::{ByteOrder, Dtype};
use crate::error::{Error, Result};
use crate::hash::WeightHash;
use crate::store::WeightStore;
use crate::tensor::{WeightMetadata, WeightSource, WeightTensor};

/// Bytes that do not repeat soon; the same for the same seed.
pub(super) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn tensor(
    name: &str,
    shape: &[u64],
    dtype: Dtype,
    data: impl Into<Bytes>,
) -> std::result::Result<WeightTensor, String> {
    ok("making a tensor", WeightTensor::new(name, shape, dtype, data))
}

/// A small tensor that differs for each `seed`.
pub(super) fn small(seed: u64) -> std::result::Result<WeightTensor, String> {
    tensor(&format!("w{seed}"), &[4, 8], Dtype::F32, bytes(128, seed))
}

pub(super) fn key(text: &str) -> std::result::Result<WeightHash, String> {
    ok("making a key", WeightHash::new(text))
}

/// Every dtype in both byte orders.
pub(super) fn dtypes() -> impl Iterator<Item = Dtype> {
    Dtype::ALL.into_iter().flat_map(|dtype| {
        let big = dtype.with_byte_order(ByteOrder::Big);
        std::iter::once(dtype).chain((big != dtype).then_some(big))
    })
}

/// Stores `weight`, and checks that all of it comes back under the key.
pub(super) fn comes_back(store: &dyn WeightStore, weight: &WeightTensor, given: Option<&WeightHash>) -> Outcome {
    let what = weight.to_string();
    let key = ok(&what, store.store(weight, given))?;
    let want = match given {
        Some(given) => given.clone(),
        None => ok(&what, weight.content_hash())?,
    };
    same(&format!("the key of {what}"), &key, &want)?;
    is_there(store, &key, weight)
}

/// Checks that `weight` is what the store holds under `key`.
pub(super) fn is_there(store: &dyn WeightStore, key: &WeightHash, weight: &WeightTensor) -> Outcome {
    let what = weight.to_string();
    ensure(ok("exists", store.exists(key))?, || format!("{what} was stored and does not exist"))?;
    let loaded = ok("load", store.load(key))?.ok_or_else(|| format!("{what} was stored and load gives nothing"))?;
    same_weight(&loaded, key, weight)?;
    let metadata = ok("get_metadata", store.get_metadata(key))?;
    same("get_metadata", metadata.as_ref(), Some(loaded.metadata()))
}

/// Checks that `loaded` is `weight` as a store gives it back under `key`.
pub(super) fn same_weight(loaded: &WeightTensor, key: &WeightHash, weight: &WeightTensor) -> Outcome {
    let what = weight.to_string();
    let want = WeightMetadata { hash: Some(key.clone()), ..weight.metadata().clone() };
    same("the loaded metadata", loaded.metadata(), &want)?;
    same("store_ref", loaded.store_ref(), Some(key))?;
    let (got, want) = (ok("data of a loaded weight", loaded.data())?, ok("data", weight.data())?);
    ensure(got == want, || match got.iter().zip(&want).position(|(a, b)| a != b) {
        Some(at) => format!("{what}: byte {at} is {} instead of {}", got[at], want[at]),
        None => format!("{what}: {} bytes instead of {}", got.len(), want.len()),
    })
}

/// A source that delivers its bytes, or fails.
pub(super) struct Source(pub(super) Option<Bytes>);

impl WeightSource for Source {
    fn read(&self) -> Result<Bytes> {
        self.0.clone().ok_or(Error::Cancelled)
    }

    fn read_rows(&self, _rows: Range<u64>) -> Result<Bytes> {
        self.read()
    }
}

/// A lazy `U8` tensor of `len` elements over a source.
pub(super) fn lazy(len: u64, source: Source) -> std::result::Result<WeightTensor, String> {
    ok("a lazy tensor", WeightTensor::lazy(WeightMetadata::new("lazy", [len], Dtype::U8), Arc::new(source)))
}
