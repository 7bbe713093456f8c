//! Objects of every format version that was ever released read the same for ever.
//!
//! `objects-v1/store.h5` was closed cleanly. `cargo test -p corallite --test objects_golden -- --ignored` writes a new one, which
//! is done once for each new format version, into a new folder.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use common::{Model, Outcome, Random, difference};
use corallite::Store;
use corallite::objects::backend::{Backend, BackendExt, Durability};
use corallite::weights::Unwatched;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/objects-v1/store.h5")
}

fn model() -> Model {
    let mut random = Random::new(2026);
    let mut model = Model::new();
    for number in 0..300 {
        model.insert(format!("Account.{number:032}"), random.bytes(number % 90));
    }
    model.insert("k".repeat(1024), random.bytes(992));
    model.insert("long".to_owned(), random.bytes(20_000));
    model.insert("@index.Account.by.name/ünï".to_owned(), Vec::new());
    model
}

fn file() -> Vec<u8> {
    (0..12_345_u32).flat_map(|number| number.to_le_bytes()).collect()
}

fn check(store: &Store) -> Outcome {
    let objects = store.objects_backend()?;
    assert_eq!(difference(objects.as_ref(), &model())?, None);
    let mut read = Vec::new();
    objects.read_stream("notes/a.bin")?.ok_or("the file is missing")?.read_to_end(&mut read)?;
    assert_eq!(read, file());
    assert_eq!(objects.streams("")?.count(), 1);
    assert!(store.verify(&Unwatched)?.damaged.is_empty());
    Ok(())
}

#[test]
fn objects_of_version_1_are_read_and_written() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.h5");
    std::fs::copy(golden(), &path)?;
    check(&Store::open_read_only(&path)?)?;
    let store = Store::open(&path)?;
    check(&store)?;
    let objects = store.objects_backend()?;
    objects.add("new", b"1")?;
    assert!(store.verify(&Unwatched)?.damaged.is_empty());
    objects.remove("new")?;
    check(&store)?;
    Ok(store.close()?)
}

#[test]
#[ignore = "writes the golden file of the present format version"]
fn write_golden_file() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.h5");
    let store = Store::open(&path)?;
    let objects = store.objects_backend()?;
    let changes: Vec<_> = model().into_iter().map(|(key, value)| (key, Some(value))).collect();
    for part in changes.chunks(100) {
        common::write(objects.as_ref(), part, Durability::Durable)?;
    }
    // What leaves pages in the free list.
    common::write(objects.as_ref(), &[("gone".to_owned(), Some(vec![1; 30_000]))], Durability::Durable)?;
    objects.remove("gone")?;
    let mut stream = objects.write_stream("notes/a.bin")?;
    stream.write_all(&file())?;
    stream.finish(Durability::Durable)?;
    check(&store)?;
    drop(objects);
    store.storage().expire_versions()?;
    store.close()?;
    std::fs::create_dir_all(golden().parent().ok_or("no folder")?)?;
    std::fs::copy(&path, golden())?;
    Ok(())
}
