//! Checks of delta stores.

use super::data::{bytes, key};
use super::{Check, Outcome, ensure, ok, refused, same};
use crate::delta::{Delta, DeltaType};
use crate::dtype::{ByteOrder, Dtype};
use crate::error::Error;
use crate::store::DeltaStore;

pub(super) const CHECKS: &[Check<dyn DeltaStore>] = &[
    Check { name: "every kind of delta comes back whole", run: round_trip },
    Check { name: "storing an equal delta again changes nothing", run: idempotent },
    Check { name: "another delta under a taken key is a conflict", run: conflict },
    Check { name: "a delta whose parts do not fit is refused", run: mismatch },
    Check { name: "delete_delta removes exactly one delta, once", run: delete },
    Check { name: "list_deltas gives every key, sorted", run: listing },
    Check { name: "delta figures add up", run: figures },
];

fn delta(seed: u64) -> std::result::Result<Delta, String> {
    let metadata = serde_json::json!({"scale": 1e-6, "offset": -0.5, "bits": 8, "note": "é\n", "shape": [2, 3]});
    Ok(Delta {
        delta_type: DeltaType::Int8Quantized,
        data: bytes(24, seed).into(),
        data_dtype: Dtype::I8,
        data_shape: vec![4, 6],
        metadata: metadata.as_object().cloned().unwrap_or_default(),
        original_shape: vec![4, 6],
        original_dtype: Dtype::F32,
        reference_hash: key("reference")?,
        compression_ratio: 0.625,
    })
}

fn round_trip(store: &dyn DeltaStore) -> Outcome {
    let kinds = ["float32_raw", "int8_quantized", "int16_quantized", "sparse", "compressed", "zigzag", "未来"];
    let mut deltas = Vec::new();
    for (seed, kind) in (1u64..).zip(kinds) {
        deltas.push(Delta { delta_type: kind.into(), ..delta(seed)? });
    }
    let big = Dtype::F32.with_byte_order(ByteOrder::Big);
    deltas.push(Delta { data_dtype: big, data_shape: vec![3, 2], original_dtype: big, ..delta(20)? });
    deltas.push(Delta { data: vec![].into(), data_shape: vec![0, 2], metadata: Default::default(), ..delta(21)? });
    deltas.push(Delta { data: bytes(4, 1).into(), data_dtype: Dtype::F32, data_shape: vec![], ..delta(22)? });
    deltas.push(Delta { compression_ratio: -3.5, original_shape: vec![], original_dtype: Dtype::BF16, ..delta(23)? });
    for (i, delta) in deltas.iter().enumerate() {
        let key = key(&format!("delta {i}"))?;
        same("the key", ok("store_delta", store.store_delta(delta, &key))?, key.clone())?;
        same("load_delta", ok("load_delta", store.load_delta(&key))?.as_ref(), Some(delta))?;
        ensure(ok("delta_exists", store.delta_exists(&key))?, || "a stored delta does not exist".into())?;
    }
    Ok(())
}

fn idempotent(store: &dyn DeltaStore) -> Outcome {
    let key = key("d")?;
    for _ in 0..2 {
        same("the key", ok("store_delta", store.store_delta(&delta(1)?, &key))?, key.clone())?;
    }
    same("list_deltas", ok("list_deltas", store.list_deltas())?, vec![key])
}

fn conflict(store: &dyn DeltaStore) -> Outcome {
    let key = key("d")?;
    ok("store_delta", store.store_delta(&delta(1)?, &key))?;
    let others = [
        delta(2)?,
        Delta { original_shape: vec![6, 4], ..delta(1)? },
        Delta { delta_type: DeltaType::Sparse, ..delta(1)? },
        Delta { metadata: Default::default(), ..delta(1)? },
    ];
    for other in others {
        let result = store.store_delta(&other, &key);
        refused("storing another delta", result, |error| matches!(error, Error::Conflict { .. }))?;
    }
    same("load_delta", ok("load_delta", store.load_delta(&key))?, Some(delta(1)?))
}

fn mismatch(store: &dyn DeltaStore) -> Outcome {
    let broken = Delta { data_shape: vec![5, 6], ..delta(1)? };
    let result = store.store_delta(&broken, &key("d")?);
    refused("storing it", result, |error| matches!(error, Error::ShapeMismatch { .. }))?;
    same("list_deltas", ok("list_deltas", store.list_deltas())?, vec![])
}

fn delete(store: &dyn DeltaStore) -> Outcome {
    let (gone, kept) = (key("gone")?, key("kept")?);
    ensure(!ok("delete_delta", store.delete_delta(&gone))?, || "an absent delta was deleted".into())?;
    ok("store_delta", store.store_delta(&delta(1)?, &gone))?;
    ok("store_delta", store.store_delta(&delta(2)?, &kept))?;
    ensure(ok("delete_delta", store.delete_delta(&gone))?, || "deleting says there was none".into())?;
    ensure(!ok("delete_delta", store.delete_delta(&gone))?, || "deleting again says there was one".into())?;
    ensure(!ok("delta_exists", store.delta_exists(&gone))?, || "a deleted delta exists".into())?;
    same("load_delta", ok("load_delta", store.load_delta(&gone))?, None)?;
    same("the other delta", ok("load_delta", store.load_delta(&kept))?, Some(delta(2)?))
}

fn listing(store: &dyn DeltaStore) -> Outcome {
    let mut keys = Vec::new();
    for name in ["z", "A", "é", "10", "9"] {
        keys.push(ok("store_delta", store.store_delta(&delta(1)?, &key(name)?))?);
    }
    keys.sort();
    same("list_deltas", ok("list_deltas", store.list_deltas())?, keys)
}

fn figures(store: &dyn DeltaStore) -> Outcome {
    let info = ok("get_delta_storage_info", store.get_delta_storage_info())?;
    same("figures without deltas", (info.total_deltas, info.total_delta_bytes), (0, 0))?;
    ok("store_delta", store.store_delta(&delta(1)?, &key("a")?))?;
    ok("store_delta", store.store_delta(&delta(2)?, &key("b")?))?;
    let info = ok("get_delta_storage_info", store.get_delta_storage_info())?;
    same("figures", (info.total_deltas, info.total_delta_bytes), (2, 48))
}
