//! Checks with one weight at a time: what goes in comes out, and keys mean one content.

use super::data::{Source, bytes, comes_back, dtypes, is_there, key, lazy, small, tensor};
use super::{Check, Outcome, ensure, ok, refused, same};
use crate::dtype::{ByteOrder, Dtype};
use crate::error::Error;
use crate::store::WeightStore;
use crate::tensor::WeightTensor;

pub(super) const CHECKS: &[Check<dyn WeightStore>] = &[
    Check { name: "every dtype in both byte orders comes back bit for bit", run: every_dtype },
    Check { name: "0-d tensors come back", run: zero_d },
    Check { name: "empty tensors come back", run: empty },
    Check { name: "NaN payloads and negative zero come back", run: nan_payloads },
    Check { name: "large tensors of odd sizes come back", run: large },
    Check { name: "eight dimensions come back", run: many_dimensions },
    Check { name: "all metadata comes back", run: metadata },
    Check { name: "unicode, empty and long names come back", run: names },
    Check { name: "rows of a loaded weight are its rows", run: rows },
    Check { name: "lazy tensors are stored", run: lazy_source },
    Check { name: "a failing or lying source stores nothing", run: bad_source },
    Check { name: "dtype, byte order and shape are part of the identity", run: identity },
    Check { name: "a caller's key loads like any other", run: caller_key },
    Check { name: "storing equal content again changes nothing", run: idempotent },
    Check { name: "other content under a taken key is a conflict", run: conflict },
    Check { name: "another dtype or shape under a taken key is a conflict", run: conflict_of_form },
    Check { name: "a weight stored under another's content hash is not taken for it", run: impostor },
    Check { name: "delete removes exactly one weight, once", run: delete },
    Check { name: "bytes handed out stay as they were after delete", run: outlives_delete },
    Check { name: "absent keys are no errors", run: absent },
];

fn every_dtype(store: &dyn WeightStore) -> Outcome {
    for (seed, dtype) in (1u64..).zip(dtypes()) {
        let len = ok("byte_len", dtype.byte_len(&[12, 20]))?;
        comes_back(store, &tensor("w", &[12, 20], dtype, bytes(len as usize, seed))?, None)?;
    }
    Ok(())
}

fn zero_d(store: &dyn WeightStore) -> Outcome {
    for dtype in dtypes() {
        if let Some(size) = dtype.item_size() {
            comes_back(store, &tensor("scalar", &[], dtype, bytes(size, 3))?, None)?;
        }
    }
    Ok(())
}

fn empty(store: &dyn WeightStore) -> Outcome {
    for dtype in dtypes() {
        for shape in [&[0][..], &[3, 0, 2], &[0, 0]] {
            comes_back(store, &tensor("empty", shape, dtype, vec![])?, None)?;
        }
    }
    Ok(())
}

fn nan_payloads(store: &dyn WeightStore) -> Outcome {
    let singles = [0x7f80_0001u32, 0xffc0_1234, 0x7fff_ffff, 0x8000_0000, 0, 1, 0xff80_0000];
    let data: Vec<u8> = singles.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    comes_back(store, &tensor("f32", &[7], Dtype::F32, data.clone())?, None)?;
    comes_back(store, &tensor("big", &[7], Dtype::F32.with_byte_order(ByteOrder::Big), data.clone())?, None)?;
    comes_back(store, &tensor("bf16", &[14], Dtype::BF16, data.clone())?, None)?;
    comes_back(store, &tensor("f16", &[14], Dtype::F16, data.clone())?, None)?;
    comes_back(store, &tensor("f8", &[28], Dtype::F8_E4M3FNUZ, data.clone())?, None)?;
    // Not 0 and 1 only: the bytes come back, whatever they are.
    comes_back(store, &tensor("bool", &[28], Dtype::BOOL, data)?, None)
}

fn large(store: &dyn WeightStore) -> Outcome {
    comes_back(store, &tensor("noise", &[1_048_583, 3], Dtype::U8, bytes(3_145_749, 1))?, None)?;
    let floats: Vec<u8> =
        bytes(700_001, 2).iter().flat_map(|&b| ((f32::from(b) - 127.5) / 999.0).to_le_bytes()).collect();
    comes_back(store, &tensor("floats", &[700_001], Dtype::F32, floats)?, None)?;
    comes_back(store, &tensor("zeros", &[3, 1, 333_333], Dtype::F16, vec![0; 1_999_998])?, None)
}

fn many_dimensions(store: &dyn WeightStore) -> Outcome {
    comes_back(store, &tensor("deep", &[2, 1, 3, 1, 2, 2, 1, 5], Dtype::I16, bytes(240, 4))?, None)
}

fn metadata(store: &dyn WeightStore) -> Outcome {
    let mut metadata = small(1)?.metadata().clone();
    metadata.layer_type = Some("Linear / 线性".into());
    metadata.model_name = Some("MiniLM".into());
    let info = serde_json::json!({"bits": 8, "scale": 0.125, "nested": {"é": [null, true, "x\"\n"]}});
    metadata.compression_info = info.as_object().cloned().unwrap_or_default();
    comes_back(store, &ok("a tensor", WeightTensor::from_metadata(metadata, bytes(128, 1)))?, None)
}

fn names(store: &dyn WeightStore) -> Outcome {
    let long = "layer.".repeat(2000);
    for (seed, name) in (1u64..).zip(["", "层.0.权重", "a/b", ".", "emoji 🪸", " spaces ", "e\u{301}", long.as_str()])
    {
        comes_back(store, &tensor(name, &[8], Dtype::U8, bytes(8, seed))?, None)?;
    }
    Ok(())
}

fn rows(store: &dyn WeightStore) -> Outcome {
    let weight = tensor("rows", &[1000, 300], Dtype::F32, bytes(1_200_000, 6))?;
    let key = ok("store", store.store(&weight, None))?;
    let loaded = ok("load", store.load(&key))?.ok_or("load gives nothing")?;
    for range in [0..1, 0..0, 999..1000, 437..881, 0..1000, 1000..1000] {
        let got = ok("rows", loaded.rows(range.clone()))?;
        let want = ok("rows", weight.rows(range.clone()))?;
        ensure(ok("rows", got.same_content(&want))?, || format!("rows {range:?} differ"))?;
    }
    ensure(loaded.rows(999..1001).is_err(), || "rows beyond the end were given".into())
}

fn lazy_source(store: &dyn WeightStore) -> Outcome {
    comes_back(store, &lazy(1000, Source(Some(bytes(1000, 9).into())))?, None)
}

fn bad_source(store: &dyn WeightStore) -> Outcome {
    for (what, source) in [("failing", Source(None)), ("short", Source(Some(bytes(999, 1).into())))] {
        let weight = lazy(1000, source)?;
        let results = [store.store(&weight, None), store.store(&weight, Some(&key("mine")?))];
        ensure(results.iter().all(Result::is_err), || format!("a {what} source was stored"))?;
    }
    same("weights afterwards", ok("list_weights", store.list_weights())?, vec![])
}

fn identity(store: &dyn WeightStore) -> Outcome {
    let data = bytes(16, 5);
    let forms = [
        tensor("w", &[4], Dtype::F32, data.clone())?,
        tensor("w", &[4], Dtype::F32.with_byte_order(ByteOrder::Big), data.clone())?,
        tensor("w", &[4], Dtype::I32, data.clone())?,
        tensor("w", &[2, 2], Dtype::F32, data.clone())?,
        tensor("w", &[4, 1], Dtype::F32, data)?,
    ];
    for form in &forms {
        ok("store", store.store(form, None))?;
    }
    same("different weights", ok("list_weights", store.list_weights())?.len(), forms.len())?;
    forms.iter().try_for_each(|form| is_there(store, &ok("content_hash", form.content_hash())?, form))
}

fn caller_key(store: &dyn WeightStore) -> Outcome {
    let long = "k".repeat(255);
    let names = ["mine", "0123456789abcdef", "层 1", " ", "a.b", "...", "-", "%2F", "é", "e\u{301}", long.as_str()];
    for (seed, name) in (1u64..).zip(names) {
        comes_back(store, &small(seed)?, Some(&key(name)?))?;
    }
    comes_back(store, &small(1)?, Some(&key("the same content twice")?))?;
    same("weights", ok("list_weights", store.list_weights())?.len(), names.len() + 1)
}

fn idempotent(store: &dyn WeightStore) -> Outcome {
    let first = small(1)?;
    let mut renamed = first.clone();
    renamed.set_name("another name");
    for given in [None, Some(key("mine")?)] {
        let key = ok("store", store.store(&first, given.as_ref()))?;
        same("the second key", ok("store again", store.store(&renamed, given.as_ref()))?, key.clone())?;
        is_there(store, &key, &first)?;
    }
    same("weights", ok("list_weights", store.list_weights())?.len(), 2)
}

fn conflict(store: &dyn WeightStore) -> Outcome {
    let key = key("mine")?;
    ok("store", store.store(&small(1)?, Some(&key)))?;
    let mut close = bytes(128, 1);
    close[127] ^= 1;
    for other in [small(2)?, tensor("w1", &[4, 8], Dtype::F32, close)?] {
        let result = store.store(&other, Some(&key));
        refused("storing other content", result, |error| matches!(error, Error::Conflict { .. }))?;
    }
    is_there(store, &key, &small(1)?)
}

fn conflict_of_form(store: &dyn WeightStore) -> Outcome {
    let key = key("mine")?;
    ok("store", store.store(&small(1)?, Some(&key)))?;
    let big = Dtype::F32.with_byte_order(ByteOrder::Big);
    for (shape, dtype) in [(&[4, 8][..], Dtype::I32), (&[8, 4], Dtype::F32), (&[32], Dtype::F32), (&[4, 8], big)] {
        let result = store.store(&tensor("w1", shape, dtype, bytes(128, 1))?, Some(&key));
        refused("storing another form", result, |error| matches!(error, Error::Conflict { .. }))?;
    }
    is_there(store, &key, &small(1)?)
}

fn impostor(store: &dyn WeightStore) -> Outcome {
    let (impostor, real) = (small(1)?, small(2)?);
    let key = ok("content_hash", real.content_hash())?;
    comes_back(store, &impostor, Some(&key))?;
    refused("storing the real one", store.store(&real, None), |error| matches!(error, Error::Conflict { .. }))?;
    is_there(store, &key, &impostor)
}

fn delete(store: &dyn WeightStore) -> Outcome {
    let (gone, kept) = (small(1)?, small(2)?);
    let gone_key = ok("store", store.store(&gone, None))?;
    let kept_key = ok("store", store.store(&kept, None))?;
    ensure(ok("delete", store.delete(&gone_key))?, || "deleting a weight says there was none".into())?;
    ensure(!ok("delete again", store.delete(&gone_key))?, || "deleting again says there was one".into())?;
    ensure(!ok("exists", store.exists(&gone_key))?, || "a deleted weight exists".into())?;
    ensure(ok("load", store.load(&gone_key))?.is_none(), || "a deleted weight loads".into())?;
    ensure(ok("get_metadata", store.get_metadata(&gone_key))?.is_none(), || "a deleted weight has metadata".into())?;
    same("list_weights", ok("list_weights", store.list_weights())?, vec![kept_key.clone()])?;
    is_there(store, &kept_key, &kept)?;
    // The key is free again, also for other content.
    comes_back(store, &small(3)?, Some(&gone_key))
}

fn outlives_delete(store: &dyn WeightStore) -> Outcome {
    let weight = tensor("w", &[300_000], Dtype::U8, bytes(300_000, 1))?;
    let key = ok("store", store.store(&weight, None))?;
    let data = ok("data", ok("load", store.load(&key))?.ok_or("load gives nothing")?.data())?;
    ok("delete", store.delete(&key))?;
    for seed in 2..6 {
        ok("store", store.store(&tensor("w", &[300_000], Dtype::U8, bytes(300_000, seed))?, None))?;
    }
    ensure(data == ok("data", weight.data())?, || "the bytes changed after the weight was deleted".into())
}

fn absent(store: &dyn WeightStore) -> Outcome {
    for key in [key("nobody")?, ok("content_hash", small(1)?.content_hash())?] {
        ensure(!ok("exists", store.exists(&key))?, || "an absent key exists".into())?;
        ensure(!ok("delete", store.delete(&key))?, || "an absent key was deleted".into())?;
        ensure(ok("load", store.load(&key))?.is_none(), || "an absent key loads".into())?;
        ensure(ok("get_metadata", store.get_metadata(&key))?.is_none(), || "an absent key has metadata".into())?;
    }
    same("list_weights", ok("list_weights", store.list_weights())?, vec![])
}
