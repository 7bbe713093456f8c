//! Weights that another program has written: chunks that are not runs of the tensor, attributes that claim too much.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use corallite_file::hdf5::types::VarLenUnicode;
use corallite_file::hdf5::{Dataset, Group, SimpleExtents};
use corallite_file::{Buffer, Mode, write_chunk};
use corallite_weights::{
    Dtype, Error, Hdf5Options, Hdf5Store, Unwatched, WeightHash, WeightStore, content_hash, coral_hash,
};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The attributes that coral-ml writes.
fn describe(dataset: &Dataset, key: &WeightHash, dtype: &str, shape: &[i64]) -> Outcome {
    let texts = [
        ("name", "foreign"),
        ("dtype", dtype),
        ("layer_type", ""),
        ("model_name", ""),
        ("compression_info", "{}"),
        ("hash", key.as_str()),
    ];
    for (name, text) in texts {
        let text: VarLenUnicode = text.parse().map_err(|_| "a text with a NUL")?;
        dataset.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
    }
    dataset.new_attr::<i64>().shape(shape.len()).create("shape")?.write_raw(shape)?;
    Ok(())
}

/// A store into whose /weights libhdf5 has written, opened for reading.
fn store_with(write: impl FnOnce(&Group) -> Outcome) -> Outcome<Hdf5Store> {
    let buffer = Buffer::new();
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    write(&store.storage().file()?.group("weights")?)?;
    store.storage().flush()?;
    store.close()?;
    Ok(Hdf5Store::open_source(buffer, Hdf5Options::new().mode(Mode::Read))?)
}

fn floats(count: usize) -> (Vec<f32>, Vec<u8>) {
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (values, bytes)
}

/// What is damaged, by key.
fn damaged(store: &Hdf5Store) -> Outcome<Vec<String>> {
    Ok(store.verify(&Unwatched)?.damaged.into_iter().map(|damage| damage.name).collect())
}

#[test]
fn chunks_of_any_shape_are_read_and_verified() -> Outcome {
    let (values, bytes) = floats(10 * 10 * 4);
    let shape = [10_u64, 10, 4];
    let ours = content_hash(Dtype::F32, &shape, &bytes);
    let corals = coral_hash(Dtype::F32, &shape, &bytes);
    // Blocks, blocks that stick out over the edge, and runs with a filter that is not written here.
    let chunks = [(5, 5, 4), (3, 4, 3), (10, 10, 1), (2, 10, 4)];
    for chunk in chunks {
        for filtered in [false, true] {
            let store = store_with(|weights| {
                for key in [&ours, &corals] {
                    let builder = weights.new_dataset::<f32>().shape((10, 10, 4)).chunk(chunk);
                    let builder = if filtered { builder.shuffle().deflate(4).fletcher32() } else { builder };
                    let dataset = builder.create(key.as_str())?;
                    dataset.write_raw(&values)?;
                    describe(&dataset, key, "float32", &[10, 10, 4])?;
                }
                Ok(())
            })?;
            let found = store.verify(&Unwatched)?;
            assert_eq!((found.verified, found.unverifiable, found.damaged), (2, 0, vec![]), "{chunk:?}");
            for key in [&ours, &corals] {
                for loaded in [store.load(key)?, store.load_lazy(key)?, store.load_mapped(key)?] {
                    let loaded = loaded.unwrap();
                    assert_eq!((loaded.name(), loaded.dtype(), loaded.shape()), ("foreign", Dtype::F32, &shape[..]));
                    assert!(loaded.data()? == bytes, "{chunk:?}");
                }
                for rows in [0..1, 4..7, 9..10, 0..10, 3..3] {
                    let part = store.load_rows(key, rows.clone())?.unwrap();
                    assert!(
                        part.data()? == bytes[rows.start as usize * 160..rows.end as usize * 160],
                        "{chunk:?} {rows:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn attributes_that_do_not_fit_the_dataset_are_damage() -> Outcome {
    let (values, bytes) = floats(100);
    let key = content_hash(Dtype::F32, &[10, 10], &bytes);
    let mine = WeightHash::new("says nothing about the content")?;
    // A larger and a smaller tensor, another rank, no size at all, elements of another size.
    let sizes: [(&str, &[i64]); 5] = [
        ("float32", &[10, 11]),
        ("float32", &[10, 9]),
        ("float32", &[]),
        ("float32", &[-10, -10]),
        ("float64", &[10, 5]),
    ];
    // The same size: only the key tells.
    let kinds: [(&str, &[i64]); 3] = [("float32", &[5, 20]), ("float32", &[100]), ("int32", &[10, 10])];
    let claims =
        sizes.iter().flat_map(|claim| [(&mine, claim), (&key, claim)]).chain(kinds.iter().map(|claim| (&key, claim)));
    for (key, &(dtype, shape)) in claims {
        for chunk in [None, Some((5, 5)), Some((2, 10))] {
            let store = store_with(|weights| {
                let builder = weights.new_dataset::<f32>().shape((10, 10));
                let dataset = match chunk {
                    Some(chunk) => builder.chunk(chunk).deflate(4).create(key.as_str())?,
                    None => builder.create(key.as_str())?,
                };
                dataset.write_raw(&values)?;
                describe(&dataset, key, dtype, shape)
            })?;
            let loaded = store.load(key);
            assert!(matches!(loaded, Err(Error::Damaged { .. })), "{key} {chunk:?} {dtype} {shape:?}: {loaded:?}");
            assert_eq!(damaged(&store)?, [key.as_str()], "{chunk:?} {dtype} {shape:?}");
        }
    }
    Ok(())
}

/// What is claimed is compared with what is stored before any memory is asked for, or a damaged number could bring the
/// program down.
#[test]
fn a_size_that_cannot_be_is_refused_before_memory_is_taken_for_it() -> Outcome {
    let key = WeightHash::new("claims much")?;
    // A gibibyte would be there to be had, a pebibyte would not.
    for (rows, columns) in [(1_usize << 14, 1_usize << 16), (1 << 24, 1 << 26)] {
        // Runs, which are read here, and blocks, which libhdf5 reads.
        for chunk in [(1, 1 << 16), (5, 5)] {
            for stored in [false, true] {
                let store = store_with(|weights| {
                    // The index of chunks that can become more does not take room for those that are not there.
                    let extents = SimpleExtents::resizable([rows, columns]);
                    let dataset = weights.new_dataset::<u8>().shape(extents).chunk(chunk).create(key.as_str())?;
                    if stored {
                        write_chunk(&dataset, &[0, 0], 0, &vec![7; chunk.0 * chunk.1])?;
                    }
                    describe(&dataset, &key, "uint8", &[rows as i64, columns as i64])
                })?;
                let outcomes = [store.load(&key), store.load_mapped(&key), store.load_rows(&key, 0..rows as u64)];
                for loaded in outcomes.into_iter().chain([store.load_lazy(&key)?.unwrap().data().map(|_| None)]) {
                    let problem = loaded.expect_err("there is nothing to read").to_string();
                    assert!(problem.contains("which its stored data cannot be"), "{rows} {chunk:?}: {problem}");
                }
                assert_eq!(damaged(&store)?, [key.as_str()]);
            }
        }
    }
    Ok(())
}

#[test]
fn a_shape_whose_size_overflows_is_damage() -> Outcome {
    let key = WeightHash::new("overflows")?;
    for shape in [&[i64::MAX, i64::MAX][..], &[1 << 62, 4], &[i64::MAX]] {
        let store = store_with(|weights| {
            let dataset = weights.new_dataset::<f64>().shape((10, 10)).chunk((5, 5)).create(key.as_str())?;
            describe(&dataset, &key, "float64", shape)
        })?;
        assert!(store.load(&key).is_err(), "{shape:?}");
        assert_eq!(damaged(&store)?, [key.as_str()]);
    }
    Ok(())
}
