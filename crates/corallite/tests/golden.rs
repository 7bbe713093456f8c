//! Files of every format version that was ever released open and read the same for ever.
//!
//! `v1/closed.h5` was closed cleanly and has a trailer with history. `v1/waiting.h5` and its journal hold a commit that
//! a reader kept from being applied. `v2/deltas.h5` has weights that are stored as deltas, under every compression. `cargo test -p corallite --test golden -- --ignored` writes new ones, which is
//! done once for each new format version, into a new folder.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use corallite::Store;
use corallite::file::{CommitNumber, Mode, Storage};
use corallite::weights::{
    Checkpoints, Delta, DeltaStore, DeltaType, Dtype, Hdf5Options, Unwatched, WeightHash, WeightStore, WeightTensor,
    safetensors,
};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(version)
}

fn values(count: u32) -> Vec<u8> {
    (0..count).flat_map(|index| (index as f32 * 0.25 - 3.0).to_le_bytes()).collect()
}

fn tensors() -> Outcome<Vec<WeightTensor>> {
    Ok(vec![
        WeightTensor::new("dense.weight", vec![24, 40], Dtype::F32, values(960))?,
        WeightTensor::new("dense.bias", vec![24], Dtype::F32, values(24))?,
        WeightTensor::new("half", vec![8, 8], Dtype::BF16, values(32))?,
        WeightTensor::new("scalar", vec![], Dtype::I64, 42_i64.to_le_bytes().to_vec())?,
        WeightTensor::new("empty", vec![0, 3], Dtype::F64, Vec::new())?,
    ])
}

fn model(directory: &Path) -> Outcome<PathBuf> {
    let path = directory.join("model.safetensors");
    let metadata = [("format".to_owned(), "pt".to_owned())];
    safetensors::write(std::fs::File::create(&path)?, &tensors()?, &metadata)?;
    Ok(path)
}

fn fill(store: &Store, directory: &Path) -> Outcome {
    store.checkpoints().add("base", model(directory)?)?;
    let mine = WeightHash::new("mine")?;
    store.weights().store(&WeightTensor::new("mine", vec![300], Dtype::F32, values(300))?, Some(&mine))?;
    store.weights().store_delta(&delta(&mine)?, &WeightHash::new("delta")?)?;
    Ok(())
}

fn delta(reference: &WeightHash) -> Outcome<Delta> {
    Ok(Delta {
        delta_type: DeltaType::Sparse,
        data: values(12).into(),
        data_dtype: Dtype::F32,
        data_shape: vec![12],
        metadata: serde_json::from_str(r#"{"scale": 0.5}"#)?,
        original_shape: vec![300],
        original_dtype: Dtype::F32,
        reference_hash: reference.clone(),
        compression_ratio: 0.25,
    })
}

fn check(store: &Store, expected: &Path) -> Outcome {
    let found = store.verify(&Unwatched)?;
    assert!(found.damaged.is_empty(), "{:?}", found.damaged);
    let out = tempfile::tempdir()?;
    let exported = out.path().join("out");
    store.checkpoints().export("base", &exported)?;
    assert_eq!(std::fs::read(exported)?, std::fs::read(expected)?);
    let mine = WeightHash::new("mine")?;
    assert_eq!(store.weights().load(&mine)?.unwrap().data()?, values(300));
    assert_eq!(store.weights().load_delta(&WeightHash::new("delta")?)?, Some(delta(&mine)?));
    Ok(())
}

/// A layer after some steps of training: values of many sizes, of which each step changes the smaller ones in more bits.
fn trained(step: u32, dtype: Dtype) -> Outcome<WeightTensor> {
    let count = if dtype == Dtype::F32 { 80_000 } else { 6000 };
    let noise = |index: u32, seed: u32| {
        (index ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b).rotate_left(13) >> 16
    };
    let size = |index: u32| noise(index, 7) % 12;
    let value = |index: u32| (1.0 + (index % 7) as f32 / 8.0) * 2_f32.powi(-(size(index) as i32));
    let change = |index: u32| (noise(index, step) % 16 * step.min(1)) << size(index);
    let data: Vec<u8> = match dtype {
        Dtype::F32 | Dtype::I32 => {
            (0..count).flat_map(|index| (value(index).to_bits() + change(index)).to_le_bytes()).collect()
        }
        _ => {
            let bits = |index| (value(index).to_bits() >> 16) as u16 + change(index) as u16 % 8;
            (0..count).flat_map(|index| bits(index).to_le_bytes()).collect()
        }
    };
    Ok(WeightTensor::new(dtype.to_string(), vec![u64::from(count) / 100, 100], dtype, data)?)
}

/// The model files of the store with deltas, by checkpoint.
fn run(directory: &Path) -> Outcome<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for step in 0..5 {
        let path = directory.join(format!("step-{step}.safetensors"));
        let tensors = [trained(step, Dtype::F32)?, trained(step, Dtype::BF16)?, trained(step, Dtype::I32)?];
        safetensors::write(std::fs::File::create(&path)?, &tensors, &[])?;
        files.push((format!("step-{step}"), path));
    }
    Ok(files)
}

fn check_run(store: &Store, directory: &Path) -> Outcome {
    assert_eq!(store.verify(&Unwatched)?.damaged, []);
    for (name, expected) in run(directory)? {
        let out = directory.join("out");
        store.checkpoints().export(&name, &out)?;
        assert_eq!(std::fs::read(out)?, std::fs::read(expected)?, "{name}");
    }
    let encodings: Vec<_> = store.weights().encodings()?.into_values().collect::<Result<_, _>>()?;
    for delta_type in ["zigzag", "zigzag_by_exponent"] {
        assert!(encodings.iter().any(|encoding| encoding.delta_type == Some(delta_type)), "{delta_type}");
    }
    for filter in ["deflate(1)", "deflate(9)", "lzf", "zstd"] {
        assert!(encodings.iter().any(|encoding| encoding.filters.iter().any(|name| name == filter)), "{filter}");
    }
    assert!(encodings.iter().any(|encoding| encoding.chain == 2));
    Ok(())
}

#[test]
fn a_version_2_store_with_deltas_is_read_and_written() -> Outcome {
    let (directory, path) = copy("v2", "deltas.h5")?;
    check_run(&Store::open_read_only(&path)?, directory.path())?;
    let store = Store::open(&path)?;
    check_run(&store, directory.path())?;
    let tensors = [trained(7, Dtype::F32)?];
    let file = directory.path().join("next.safetensors");
    safetensors::write(std::fs::File::create(&file)?, &tensors, &[])?;
    store.checkpoints().add("next", &file)?;
    check_run(&store, directory.path())?;
    Ok(store.close()?)
}

#[test]
#[ignore = "writes the golden files of the present format version"]
fn write_golden_files_of_version_2() -> Outcome {
    let folder = folder("v2");
    std::fs::create_dir_all(&folder)?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("deltas.h5");
    let compressions = ["planes", "none", "gzip:9", "lzf", "zstd"];
    for ((name, file), compression) in run(scratch.path())?.into_iter().zip(compressions) {
        let store = Store::open_with(&path, Hdf5Options::new().compression(compression.parse()?).longest_chain(2))?;
        store.checkpoints().add(&name, &file)?;
        store.close()?;
    }
    check_run(&Store::open_read_only(&path)?, scratch.path())?;
    std::fs::copy(&path, folder.join("deltas.h5"))?;
    Ok(())
}

/// A copy that may be written to.
fn copy(version: &str, name: &str) -> Outcome<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    for entry in std::fs::read_dir(folder(version))? {
        let entry = entry?;
        std::fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
    }
    let path = directory.path().join(name);
    Ok((directory, path))
}

#[test]
fn a_version_1_store_is_read_written_and_rolled_back() -> Outcome {
    let (directory, path) = copy("v1", "closed.h5")?;
    let expected = model(directory.path())?;
    check(&Store::open_read_only(&path)?, &expected)?;
    let store = Store::open(&path)?;
    check(&store, &expected)?;
    assert!(store.checkpoints().remove("base")?);
    store.close()?;
    let storage = Storage::new(path.as_path());
    storage.open(Mode::ReadWrite, false)?;
    let kept = storage.versions()?;
    assert!(kept.len() >= 3, "{kept:?}");
    storage.rollback_to_version(CommitNumber(kept[kept.len() - 1].number.0 - 1))?;
    storage.close()?;
    check(&Store::open_read_only(&path)?, &expected)
}

#[test]
fn a_version_1_journal_is_replayed() -> Outcome {
    let (directory, path) = copy("v1", "waiting.h5")?;
    let expected = model(directory.path())?;
    let journal = directory.path().join("waiting.h5-journal");
    assert!(journal.exists());
    check(&Store::open_read_only(&path)?, &expected)?;
    let store = Store::open(&path)?;
    check(&store, &expected)?;
    store.close()?;
    assert!(!journal.exists());
    check(&Store::open_read_only(&path)?, &expected)
}

#[test]
#[ignore = "writes the golden files of the present format version"]
fn write_golden_files() -> Outcome {
    let folder = folder("v1");
    std::fs::create_dir_all(&folder)?;
    let scratch = tempfile::tempdir()?;
    let closed = scratch.path().join("closed.h5");
    let store = Store::open(&closed)?;
    fill(&store, scratch.path())?;
    store.close()?;
    std::fs::copy(&closed, folder.join("closed.h5"))?;

    let waiting = scratch.path().join("waiting.h5");
    let store = Store::open_with(&waiting, Hdf5Options::new())?;
    let reader = Store::open_read_only(&waiting)?;
    fill(&store, scratch.path())?;
    assert_eq!(Checkpoints::new(store.weights()).list()?.len(), 1);
    for name in ["waiting.h5", "waiting.h5-journal"] {
        std::fs::copy(scratch.path().join(name), folder.join(name))?;
    }
    drop(reader);
    store.close()?;
    Ok(())
}
