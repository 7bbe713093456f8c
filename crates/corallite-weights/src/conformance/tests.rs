//! The suite passes on a good store and notices every way in which a store can be bad.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::delta::Delta;
use crate::error::Result;
use crate::hash::WeightHash;
use crate::memory::MemoryStore;
use crate::store::{DeltaStorageInfo, StorageInfo};
use crate::tensor::{WeightMetadata, WeightTensor};
use crate::{ByteOrder, Dtype, Error};

#[test]
fn the_memory_store_keeps_every_promise() {
    let report = run(&|| Box::new(MemoryStore::new()));
    assert_eq!(report.passed.len(), weights::CHECKS.len() + weights_many::CHECKS.len());
    report.into_result().unwrap();
    let report = run_deltas(&|| Box::new(MemoryStore::new()));
    assert_eq!(report.passed.len(), deltas::CHECKS.len());
    report.into_result().unwrap();
}

/// One broken promise each.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    FlipsABit,
    LosesByteOrder,
    CanonicalisesNan,
    DropsLayerType,
    LosesEmptyNames,
    TrustsKeys,
    ComparesBytesOnly,
    OverwritesMetadata,
    OverwritesContent,
    IgnoresCallerKeys,
    DeletesNothing,
    DeleteAlwaysTrue,
    UnsortedList,
    HalfABatch,
    ReversesBatches,
    LoadBatchFails,
    MetadataOfAnother,
    CountsWrong,
    WrongRatio,
    UsableAfterClose,
    CloseTwiceFails,
    ForgetsStoreRef,
    DeltaForgetsMetadata,
    DeltaOverwrites,
    DeltaUnchecked,
    DeltaUnsorted,
    DeltaKeeps,
    DeltaCountsWrong,
    DeltaStoresOtherTypeAsRaw,
}

use Fault::*;

struct Broken {
    fault: Fault,
    inner: MemoryStore,
    closed: AtomicBool,
}

impl Broken {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// What a faulty store makes of a weight on its way in.
    fn twist(&self, weight: &WeightTensor) -> Result<WeightTensor> {
        let mut data = weight.data()?.to_vec();
        let mut metadata = weight.metadata().clone();
        match self.fault {
            FlipsABit if data.len() > 1_000_000 => data[1_000_000] ^= 1,
            LosesByteOrder => metadata.dtype = metadata.dtype.with_byte_order(ByteOrder::Little),
            CanonicalisesNan if metadata.dtype == Dtype::F32 => {
                for float in data.as_chunks_mut::<4>().0 {
                    if f32::from_le_bytes(*float).is_nan() {
                        *float = f32::NAN.to_le_bytes();
                    }
                }
            }
            DropsLayerType => metadata.layer_type = None,
            LosesEmptyNames if metadata.name.is_empty() => metadata.name = "unnamed".into(),
            _ => {}
        }
        WeightTensor::from_metadata(metadata, data)
    }
}

impl WeightStore for Broken {
    fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        let key = match hash_key.filter(|_| !self.has(IgnoresCallerKeys)) {
            Some(key) => key.clone(),
            None => weight.content_hash()?,
        };
        if let Some(present) = self.inner.load(&key)? {
            let equal_bytes = present.data()? == weight.data()?;
            if self.has(TrustsKeys) || self.has(ComparesBytesOnly) && equal_bytes {
                return Ok(key);
            }
            if self.has(OverwritesContent) || self.has(OverwritesMetadata) && present.same_content(weight)? {
                self.inner.delete(&key)?;
            }
        }
        self.inner.store(&self.twist(weight)?, Some(&key))
    }

    fn load(&self, hash_key: &WeightHash) -> Result<Option<WeightTensor>> {
        let loaded = self.inner.load(hash_key)?;
        match loaded {
            Some(weight) if self.has(ForgetsStoreRef) => {
                Ok(Some(WeightTensor::from_metadata(weight.metadata().clone(), weight.data()?)?))
            }
            other => Ok(other),
        }
    }

    fn exists(&self, hash_key: &WeightHash) -> Result<bool> {
        self.inner.exists(hash_key)
    }

    fn delete(&self, hash_key: &WeightHash) -> Result<bool> {
        match self.fault {
            DeletesNothing => self.inner.exists(hash_key),
            DeleteAlwaysTrue => self.inner.delete(hash_key).map(|_| true),
            _ => self.inner.delete(hash_key),
        }
    }

    fn list_weights(&self) -> Result<Vec<WeightHash>> {
        let mut keys = self.inner.list_weights()?;
        if self.has(UnsortedList) {
            keys.reverse();
        }
        Ok(keys)
    }

    fn get_metadata(&self, hash_key: &WeightHash) -> Result<Option<WeightMetadata>> {
        let metadata = self.inner.get_metadata(hash_key)?;
        Ok(metadata.map(|m| if self.has(MetadataOfAnother) { WeightMetadata { name: "x".into(), ..m } } else { m }))
    }

    fn store_batch(&self, weights: &[(String, WeightTensor)]) -> Result<Vec<(String, WeightHash)>> {
        if self.has(HalfABatch) {
            return weights.iter().map(|(name, weight)| Ok((name.clone(), self.store(weight, None)?))).collect();
        }
        let mut keys = self.inner.store_batch(weights)?;
        if self.has(ReversesBatches) {
            keys.reverse();
        }
        Ok(keys)
    }

    fn load_batch(&self, hash_keys: &[WeightHash]) -> Result<BTreeMap<WeightHash, WeightTensor>> {
        let loaded = self.inner.load_batch(hash_keys)?;
        match hash_keys.iter().find(|key| !loaded.contains_key(*key)) {
            Some(key) if self.has(LoadBatchFails) => Err(Error::NotFound { what: key.to_string() }),
            _ => Ok(loaded),
        }
    }

    fn get_storage_info(&self) -> Result<StorageInfo> {
        let mut info = self.inner.get_storage_info()?;
        match self.fault {
            CountsWrong => info.total_bytes += info.total_weights,
            WrongRatio => info.compression_ratio = 1.0,
            _ => {}
        }
        Ok(info)
    }

    fn close(&self) -> Result<()> {
        let was_closed = self.closed.swap(true, Ordering::Relaxed);
        match self.fault {
            CloseTwiceFails if was_closed => Err(Error::Closed),
            UsableAfterClose => Ok(()),
            _ => self.inner.close(),
        }
    }
}

impl DeltaStore for Broken {
    fn store_delta(&self, delta: &Delta, delta_hash: &WeightHash) -> Result<WeightHash> {
        let mut delta = delta.clone();
        match self.fault {
            DeltaForgetsMetadata => delta.metadata.clear(),
            DeltaOverwrites => drop(self.inner.delete_delta(delta_hash)?),
            DeltaUnchecked => delta.data_shape = vec![delta.data.len() as u64],
            DeltaStoresOtherTypeAsRaw if matches!(delta.delta_type, crate::DeltaType::Other(_)) => {
                delta.delta_type = crate::DeltaType::Float32Raw;
            }
            _ => {}
        }
        self.inner.store_delta(&delta, delta_hash)
    }

    fn load_delta(&self, delta_hash: &WeightHash) -> Result<Option<Delta>> {
        self.inner.load_delta(delta_hash)
    }

    fn delta_exists(&self, delta_hash: &WeightHash) -> Result<bool> {
        self.inner.delta_exists(delta_hash)
    }

    fn delete_delta(&self, delta_hash: &WeightHash) -> Result<bool> {
        if self.has(DeltaKeeps) { self.inner.delta_exists(delta_hash) } else { self.inner.delete_delta(delta_hash) }
    }

    fn list_deltas(&self) -> Result<Vec<WeightHash>> {
        let mut keys = self.inner.list_deltas()?;
        if self.has(DeltaUnsorted) {
            keys.reverse();
        }
        Ok(keys)
    }

    fn get_delta_storage_info(&self) -> Result<DeltaStorageInfo> {
        let info = self.inner.get_delta_storage_info()?;
        let extra = u64::from(self.has(DeltaCountsWrong)) * info.total_deltas;
        Ok(DeltaStorageInfo { total_delta_bytes: info.total_delta_bytes + extra, ..info })
    }
}

fn broken(fault: Fault) -> Broken {
    Broken { fault, inner: MemoryStore::new(), closed: AtomicBool::new(false) }
}

fn failed(report: Report) -> Vec<&'static str> {
    report.failures.iter().map(|failure| failure.check).collect()
}

#[test]
fn every_broken_promise_of_weights_is_noticed() {
    for (fault, check) in [
        (FlipsABit, "large tensors of odd sizes come back"),
        (LosesByteOrder, "every dtype in both byte orders comes back bit for bit"),
        (CanonicalisesNan, "NaN payloads and negative zero come back"),
        (DropsLayerType, "all metadata comes back"),
        (LosesEmptyNames, "unicode, empty and long names come back"),
        (TrustsKeys, "other content under a taken key is a conflict"),
        (TrustsKeys, "a weight stored under another's content hash is not taken for it"),
        (ComparesBytesOnly, "another dtype or shape under a taken key is a conflict"),
        (OverwritesMetadata, "storing equal content again changes nothing"),
        (OverwritesContent, "other content under a taken key is a conflict"),
        (IgnoresCallerKeys, "a caller's key loads like any other"),
        (DeletesNothing, "delete removes exactly one weight, once"),
        (DeleteAlwaysTrue, "absent keys are no errors"),
        (UnsortedList, "list_weights gives every key, sorted"),
        (HalfABatch, "a batch with a conflict stores nothing"),
        (HalfABatch, "a batch with a failing source stores nothing"),
        (ReversesBatches, "store_batch keeps names and order"),
        (LoadBatchFails, "load_batch leaves absent keys out"),
        (MetadataOfAnother, "all metadata comes back"),
        (CountsWrong, "storage figures add up"),
        (WrongRatio, "storage figures add up"),
        (UsableAfterClose, "a closed store refuses every call, and closing again is fine"),
        (CloseTwiceFails, "a closed store refuses every call, and closing again is fine"),
        (ForgetsStoreRef, "0-d tensors come back"),
    ] {
        let failed = failed(run(&move || Box::new(broken(fault))));
        assert!(failed.contains(&check), "{fault:?} was noticed only by {failed:?}");
    }
}

#[test]
fn every_broken_promise_of_deltas_is_noticed() {
    for (fault, check) in [
        (DeltaForgetsMetadata, "every kind of delta comes back whole"),
        (DeltaStoresOtherTypeAsRaw, "every kind of delta comes back whole"),
        (DeltaOverwrites, "another delta under a taken key is a conflict"),
        (DeltaUnchecked, "a delta whose parts do not fit is refused"),
        (DeltaKeeps, "delete_delta removes exactly one delta, once"),
        (DeltaUnsorted, "list_deltas gives every key, sorted"),
        (DeltaCountsWrong, "delta figures add up"),
    ] {
        let failed = failed(run_deltas(&move || Box::new(broken(fault))));
        assert!(failed.contains(&check), "{fault:?} was noticed only by {failed:?}");
    }
}
