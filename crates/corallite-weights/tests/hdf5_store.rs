//! What the HDF5 store promises beyond the conformance suite.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use corallite_file::Options;
use corallite_weights::{
    Checkpoints, Compression, Dtype, Error, Hdf5Options, Hdf5Store, Unwatched, WeightHash, WeightStore, WeightTensor,
    conformance, content_hash, safetensors,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn floats(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5).to_le_bytes()
        })
        .collect()
}

fn tensor(name: &str, shape: &[u64], seed: u32) -> WeightTensor {
    let count: u64 = shape.iter().product();
    WeightTensor::new(name, shape, Dtype::F32, floats(count as usize, seed)).unwrap()
}

fn compressions() -> Vec<Compression> {
    ["planes", "gzip:1", "gzip:4", "gzip:9", "zstd", "lzf", "none"].map(|text| text.parse().unwrap()).to_vec()
}

#[test]
fn it_passes_the_conformance_suite_with_every_compression() -> Outcome {
    for compression in compressions() {
        let options = Hdf5Options::new().compression(compression);
        conformance::run(&|| Box::new(Hdf5Store::memory(options.clone()).unwrap())).into_result()?;
        conformance::run_deltas(&|| Box::new(Hdf5Store::memory(options.clone()).unwrap())).into_result()?;
    }
    Ok(())
}

#[test]
fn rows_are_read_without_the_rest() -> Outcome {
    for compression in compressions() {
        let store = Hdf5Store::memory(Hdf5Options::new().compression(compression))?;
        let weight = tensor("w", &[1000, 700], 7);
        let key = store.store(&weight, None)?;
        for rows in [0..1, 999..1000, 130..131, 373..380, 0..1000, 5..5] {
            let part = store.load_rows(&key, rows.clone())?.unwrap();
            let range = rows.start as usize * 2800..rows.end as usize * 2800;
            assert_eq!(part.data()?, weight.data()?.slice(range), "{compression} {rows:?}");
        }
        assert!(store.load_rows(&key, 999..1001).is_err());
    }
    Ok(())
}

#[test]
fn uncompressed_weights_are_mapped_and_outlive_their_deletion() -> Outcome {
    let directory = tempfile::tempdir()?;
    let options = Hdf5Options::new().compression(Compression::None).storage(Options::new().history(0));
    let store = Hdf5Store::open(directory.path().join("w.h5"), options)?;
    let weight = tensor("w", &[512, 300], 3);
    let key = store.store(&weight, None)?;
    let mapped = store.load_mapped(&key)?.unwrap();
    let lazy = store.load_lazy(&key)?.unwrap();
    assert_eq!(mapped.data()?, weight.data()?);
    assert!(store.delete(&key)?);
    store.storage().reclaim()?;
    for seed in 10..16 {
        let other = store.store(&tensor("other", &[512, 300], seed), None)?;
        store.delete(&other)?;
    }
    assert_eq!(mapped.data()?, weight.data()?);
    assert_eq!(lazy.data()?, weight.data()?);
    Ok(())
}

#[test]
fn a_checkpoint_comes_back_byte_for_byte_and_shares_its_weights() -> Outcome {
    let directory = tempfile::tempdir()?;
    let store = Hdf5Store::open(directory.path().join("w.h5"), Hdf5Options::new())?;
    let shared = tensor("shared", &[700, 500], 1);
    let path = |name: &str| directory.path().join(name);
    for (name, seed) in [("one", 10), ("two", 20)] {
        let weights = [
            shared.clone(),
            tensor("own", &[300, 200], seed),
            tensor("scalar", &[], seed),
            tensor("empty", &[0, 3], 1),
        ];
        let metadata = [("format".to_owned(), "pt".to_owned())];
        safetensors::write(std::fs::File::create(path(name))?, &weights, &metadata)?;
    }
    let checkpoints = Checkpoints::new(&store);
    checkpoints.add("one", path("one"))?;
    let before = store.get_storage_info()?;
    let two = checkpoints.add("two", path("two"))?;
    let after = store.get_storage_info()?;
    assert_eq!(after.total_weights, before.total_weights + 2, "only what is new was stored");
    assert!(after.compressed_bytes - before.compressed_bytes < 300 * 200 * 4 + 100);
    for name in ["one", "two"] {
        checkpoints.export(name, path("out"))?;
        assert_eq!(std::fs::read(path("out"))?, std::fs::read(path(name))?);
    }
    assert_eq!(two.metadata(), [("format".to_owned(), "pt".to_owned())]);
    assert!(matches!(checkpoints.add("two", path("two")), Err(Error::AlreadyExists { .. })));
    assert!(matches!(store.delete(two.weight("own").unwrap()), Err(Error::InUse { .. })));

    let kept = store.store(&shared, None)?;
    assert!(checkpoints.remove("one")? && checkpoints.remove("two")? && !checkpoints.remove("two")?);
    let report = checkpoints.gc(&corallite_weights::Unwatched)?;
    assert!(report.weights >= 4, "{report:?}");
    assert_eq!(store.list_weights()?, [kept], "what was stored for its own sake stays");
    assert!(store.verify(&corallite_weights::Unwatched)?.damaged.is_empty());
    Ok(())
}

#[test]
fn other_content_under_a_taken_key_is_a_conflict() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let key = WeightHash::new("mine")?;
    store.store(&tensor("a", &[100, 100], 1), Some(&key))?;
    store.store(&tensor("renamed", &[100, 100], 1), Some(&key))?;
    assert!(matches!(store.store(&tensor("a", &[100, 100], 2), Some(&key)), Err(Error::Conflict { .. })));
    assert_eq!(store.load(&key)?.unwrap().name(), "a");
    Ok(())
}

#[test]
fn readers_see_the_last_commit_while_a_batch_is_stored() -> Outcome {
    let directory = tempfile::tempdir()?;
    let store = Hdf5Store::open(directory.path().join("w.h5"), Hdf5Options::new())?;
    let first = tensor("first", &[400, 400], 1);
    let key = store.store(&first, None)?;
    let batch: Vec<(String, WeightTensor)> =
        (0..24).map(|index| (format!("w{index}"), tensor("w", &[512, 512], 2 * index + 11))).collect();
    let last =
        batch.last().map(|(_, weight)| content_hash(weight.dtype(), weight.shape(), &weight.data().unwrap())).unwrap();
    std::thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| store.store_batch(&batch).unwrap());
        let mut reads = 0;
        while !writer.is_finished() {
            let count = store.list_weights()?.len();
            assert!(count == 1 || count == 25, "half a batch: {count}");
            assert_eq!(store.load(&key)?.unwrap().data()?, first.data()?);
            reads += 1;
        }
        assert!(reads > 0);
        writer.join().unwrap();
        Ok(())
    })?;
    assert!(store.exists(&last)?);
    Ok(())
}

#[test]
fn every_dtype_and_shape_is_verified_after_reopening() -> Outcome {
    let directory = tempfile::tempdir()?;
    for compression in compressions() {
        let path = directory.path().join(format!("{compression}.h5"));
        let store = Hdf5Store::open(&path, Hdf5Options::new().compression(compression))?;
        let mut weights = Vec::new();
        for dtype in Dtype::ALL {
            for shape in [vec![], vec![0], vec![3, 0, 2], vec![24], vec![5, 48], vec![300, 48, 7]] {
                let Ok(length) = dtype.byte_len(&shape) else { continue };
                let bytes: Vec<u8> =
                    floats(length as usize / 4 + 1, length as u32).into_iter().take(length as usize).collect();
                weights.push((format!("{dtype} {shape:?}"), WeightTensor::new("t", shape, dtype, bytes)?));
            }
        }
        let keys = store.store_batch(&weights)?;
        store.close()?;
        let store = Hdf5Store::open(&path, Hdf5Options::new().mode("r".parse()?))?;
        assert!(store.verify(&corallite_weights::Unwatched)?.damaged.is_empty());
        for ((name, weight), (_, key)) in weights.iter().zip(&keys) {
            let loaded = store.load(key)?.unwrap();
            assert_eq!((loaded.dtype(), loaded.shape()), (weight.dtype(), weight.shape()), "{name}");
            assert_eq!(loaded.data()?, weight.data()?, "{compression} {name}");
        }
    }
    Ok(())
}

#[test]
fn weights_under_keys_of_the_callers_cannot_be_exchanged() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let (a, b) = (WeightHash::new("key-a")?, WeightHash::new("key-b")?);
    for (key, value) in [(&a, 1_u8), (&b, 2)] {
        store.store(&WeightTensor::new("w", vec![4], Dtype::U8, vec![value; 4])?, Some(key))?;
    }
    let group = store.storage().file()?.group("weights")?;
    for (from, to) in [("key-a", "kept"), ("key-b", "key-a"), ("kept", "key-b")] {
        group.relink(from, to)?;
    }
    store.storage().flush()?;
    assert!(matches!(store.load(&a), Err(Error::Damaged { .. })));
    assert_eq!(store.verify(&Unwatched)?.damaged.len(), 2);
    Ok(())
}

#[test]
fn a_new_store_whose_first_transaction_fails_goes_on() {
    let store = Hdf5Store::memory(Hdf5Options::new()).unwrap();
    let weight = WeightTensor::new("w", vec![2], Dtype::U8, vec![1, 2]).unwrap();
    let failed: Result<(), Error> = store.transaction(|_| Err(Error::Cancelled));
    assert!(failed.is_err());
    let key = store.store(&weight, None).unwrap();
    assert_eq!(store.load(&key).unwrap().unwrap().data().unwrap(), weight.data().unwrap());
}
