//! Checks with many weights: listing, batches, figures, threads, and the closed store.

use std::collections::BTreeSet;

use super::data::{Source, bytes, comes_back, is_there, key, lazy, same_weight, small, tensor};
use super::{Check, Outcome, ensure, ok, refused, same};
use crate::dtype::Dtype;
use crate::error::Error;
use crate::store::{StorageInfo, WeightStore};
use crate::tensor::WeightTensor;

pub(super) const CHECKS: &[Check<dyn WeightStore>] = &[
    Check { name: "list_weights gives every key, sorted", run: listing },
    Check { name: "store_batch keeps names and order", run: batch_order },
    Check { name: "an empty batch is fine", run: batch_empty },
    Check { name: "equal content in a batch has one key", run: batch_duplicates },
    Check { name: "a batch with a conflict stores nothing", run: batch_conflict },
    Check { name: "a batch with a failing source stores nothing", run: batch_source },
    Check { name: "load_batch leaves absent keys out", run: load_batch },
    Check { name: "storage figures add up", run: storage_info },
    Check { name: "threads may store and load at the same time", run: threads },
    Check { name: "a closed store refuses every call, and closing again is fine", run: closed },
];

type Batch = Vec<(String, WeightTensor)>;

fn batch(seeds: impl IntoIterator<Item = u64>) -> std::result::Result<Batch, String> {
    seeds.into_iter().map(|seed| Ok((format!("name{seed}"), small(seed)?))).collect()
}

fn listing(store: &dyn WeightStore) -> Outcome {
    let mut keys = Vec::new();
    for seed in 1..40 {
        keys.push(ok("store", store.store(&small(seed)?, None))?);
    }
    for name in ["z", "A", "é", "10", "9"] {
        keys.push(ok("store", store.store(&small(1)?, Some(&key(name)?)))?);
    }
    keys.sort();
    same("list_weights", ok("list_weights", store.list_weights())?, keys)
}

fn batch_order(store: &dyn WeightStore) -> Outcome {
    let mut weights = batch([5, 3, 9, 1, 7])?;
    let big = tensor("big", &[1_500_000], Dtype::U8, bytes(1_500_000, 8))?;
    weights.insert(2, ("zuerst".into(), big));
    let got = ok("store_batch", store.store_batch(&weights))?;
    let want = weights.iter().map(|(name, weight)| Ok((name.clone(), ok("content_hash", weight.content_hash())?)));
    same("the names and keys", &got, &want.collect::<std::result::Result<Vec<_>, String>>()?)?;
    got.iter().zip(&weights).try_for_each(|((_, key), (_, weight))| is_there(store, key, weight))
}

fn batch_empty(store: &dyn WeightStore) -> Outcome {
    same("store_batch", ok("store_batch", store.store_batch(&[]))?, vec![])?;
    same("load_batch", ok("load_batch", store.load_batch(&[]))?.len(), 0)
}

fn batch_duplicates(store: &dyn WeightStore) -> Outcome {
    let present = small(4)?;
    ok("store", store.store(&present, None))?;
    let got = ok("store_batch", store.store_batch(&batch([1, 2, 1, 4])?))?;
    same("results", got.len(), 4)?;
    same("the keys of equal content", &got[0].1, &got[2].1)?;
    same("weights", ok("list_weights", store.list_weights())?.len(), 3)?;
    is_there(store, &got[0].1, &small(1)?)?;
    is_there(store, &got[3].1, &present)
}

fn batch_conflict(store: &dyn WeightStore) -> Outcome {
    let key = ok("content_hash", small(3)?.content_hash())?;
    ok("store", store.store(&small(1)?, Some(&key)))?;
    let result = store.store_batch(&batch([2, 3, 4])?);
    refused("a batch with a conflict", result, |error| matches!(error, Error::Conflict { .. }))?;
    same("weights afterwards", ok("list_weights", store.list_weights())?, vec![key.clone()])?;
    is_there(store, &key, &small(1)?)?;
    ok("a batch afterwards", store.store_batch(&batch([2, 4])?))?;
    same("weights in the end", ok("list_weights", store.list_weights())?.len(), 3)
}

fn batch_source(store: &dyn WeightStore) -> Outcome {
    for source in [Source(None), Source(Some(bytes(9, 1).into()))] {
        let mut weights = batch([1, 2])?;
        weights.push(("bad".into(), lazy(10, source)?));
        ensure(store.store_batch(&weights).is_err(), || "a batch with a bad source was stored".into())?;
        same("weights afterwards", ok("list_weights", store.list_weights())?, vec![])?;
    }
    Ok(())
}

fn load_batch(store: &dyn WeightStore) -> Outcome {
    let first = ok("store", store.store(&small(1)?, None))?;
    let second = ok("store", store.store(&small(2)?, Some(&key("mine")?)))?;
    let asked = [second.clone(), key("nobody")?, first.clone(), second.clone()];
    let got = ok("load_batch", store.load_batch(&asked))?;
    let keys: BTreeSet<_> = got.keys().cloned().collect();
    same("the keys", keys, BTreeSet::from([first.clone(), second.clone()]))?;
    for (key, want) in [(first, small(1)?), (second, small(2)?)] {
        same_weight(got.get(&key).ok_or("a key is missing")?, &key, &want)?;
    }
    Ok(())
}

fn storage_info(store: &dyn WeightStore) -> Outcome {
    let info = ok("get_storage_info", store.get_storage_info())?;
    same("weights, bytes of an empty store", (info.total_weights, info.total_bytes), (0, 0))?;
    same("the ratio of an empty store", info.compression_ratio, 0.0)?;
    ok("store", store.store(&small(1)?, None))?;
    ok("store", store.store(&tensor("zeros", &[100_000], Dtype::F32, vec![0; 400_000])?, None))?;
    ok("store", store.store(&tensor("empty", &[0], Dtype::F32, vec![])?, None))?;
    let info = ok("get_storage_info", store.get_storage_info())?;
    same("weights and bytes", (info.total_weights, info.total_bytes), (3, 400_128))?;
    let ratio = StorageInfo::ratio(info.compressed_bytes, info.total_bytes);
    same("the ratio", info.compression_ratio, ratio)?;
    ensure(info.compressed_bytes > 0, || "128 bytes of noise are stored in 0 bytes".into())?;
    let dict = info.to_dict();
    let fields = "filepath file_size total_weights total_bytes compressed_bytes compression_ratio compression";
    fields.split(' ').try_for_each(|field| ensure(dict.get(field).is_some(), || format!("to_dict lacks {field}")))
}

fn threads(store: &dyn WeightStore) -> Outcome {
    let work = |thread: u64| -> Outcome {
        for round in 0..10 {
            // Half of the weights are the thread's own, half are stored by all.
            let own = small(100 + thread * 100 + round)?;
            comes_back(store, &own, None)?;
            comes_back(store, &small(1 + round)?, None)?;
            ok("list_weights", store.list_weights())?;
            if round % 3 == 0 {
                let key = ok("content_hash", own.content_hash())?;
                ensure(ok("delete", store.delete(&key))?, || "a thread's own weight was gone".into())?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(thread))).collect();
        handles.into_iter().try_for_each(|handle| handle.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })?;
    same("weights in the end", ok("list_weights", store.list_weights())?.len(), 4 * 6 + 10)
}

fn closed(store: &dyn WeightStore) -> Outcome {
    let weight = small(1)?;
    let key = ok("store", store.store(&weight, None))?;
    let held = ok("load", store.load(&key))?.ok_or("load gives nothing")?;
    let data = ok("data", held.data())?;
    ok("close", store.close())?;
    ok("close again", store.close())?;
    let is_closed: fn(&Error) -> bool = |error| matches!(error, Error::Closed);
    refused("store", store.store(&weight, None), is_closed)?;
    refused("load", store.load(&key), is_closed)?;
    refused("exists", store.exists(&key), is_closed)?;
    refused("delete", store.delete(&key), is_closed)?;
    refused("list_weights", store.list_weights(), is_closed)?;
    refused("get_metadata", store.get_metadata(&key), is_closed)?;
    refused("store_batch", store.store_batch(&batch([1])?), is_closed)?;
    refused("load_batch", store.load_batch(std::slice::from_ref(&key)), is_closed)?;
    refused("get_storage_info", store.get_storage_info(), is_closed)?;
    ensure(data == ok("data", weight.data())?, || "bytes handed out changed when the store was closed".into())
}
