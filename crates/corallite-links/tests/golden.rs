//! Stores of every version of the links' layout that was ever released open and answer the same for ever.
//!
//! `links-v*/closed.h5` was closed cleanly. `links-v*/waiting.h5` was killed: its log has batches that the file does not.
//! `links-v2/packed.h5` was compacted: its buckets have ranges of directory entries of any length.
//! `v3/pending.h5` has changes of a transaction of the file and no links yet. `v3/adopted.h5` was killed: its log has the changes of a
//! transaction that the file has too, and what came after.
//! `cargo test -p corallite-links --test golden -- --ignored` writes new ones, which is done once for each new version, into
//! a new folder.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use common::{Model, Outcome, assert_same, expect, key};
use corallite_file::{Mode, Options, Storage};
use corallite_links::{
    CIDStore, Change, Changes, DeletionEntry, DirectoryForm, Durability, E, LINKS_FORMAT_VERSION, LinksOptions,
    Operation, Pending, has_pending,
};

fn folder(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../testdata/golden/links-v{version}"))
}

fn options() -> LinksOptions {
    LinksOptions::new().log_bytes(64 << 10).memory(16 << 20).background(false).seed([1, 2])
}

/// What is in the images, then in a run, then in the log of the store that was killed.
fn history() -> [Vec<Change>; 3] {
    let insert = |number: u64, value: u64| Change::insert(key(number), E::from_parts(value, !number));
    let images = (0..150).flat_map(|number| {
        let count = match number {
            0 => 64,
            1 => 65,
            2 => 200,
            _ => 1 + number % 6,
        };
        (0..count).map(move |value| insert(number, value))
    });
    let extremes = [E::MIN, E::MAX].map(|id| Change::insert(id, id));
    let run =
        [Change::delete(key(3)), Change::delete_value(key(2), E::from_parts(7, !2)), insert(2, 1000), insert(999, 1)];
    let log = [insert(998, 1), Change::delete(key(4)), insert(3, 5), insert(0, 64)];
    [images.chain(extremes).collect(), run.into(), log.into()]
}

fn model(parts: usize) -> Model {
    let mut model = Model::new();
    history()[..parts].iter().flatten().for_each(|change| _ = expect(&mut model, change));
    model
}

fn check(store: &CIDStore, parts: usize) -> Outcome {
    assert_same(store, &model(parts))?;
    assert_eq!(store.verify()?, Vec::<String>::new());
    assert_eq!(store.statistics()?.directory, Some(DirectoryForm::Attribute));
    let deletions: Vec<DeletionEntry> = store.deletion_log().scan();
    let expected: Vec<Change> = history()[..parts]
        .concat()
        .into_iter()
        .filter(|change| *change != Change::insert(change.key, change.value))
        .collect();
    let found: Vec<(E, E)> = deletions.iter().map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(found, expected.iter().map(|change| (change.key, change.value)).collect::<Vec<_>>());
    Ok(())
}

/// Copies that may be written to.
fn copies(version: u32) -> Outcome<tempfile::TempDir> {
    copies_of(&folder(version))
}

fn copies_of(folder: &Path) -> Outcome<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        std::fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
    }
    Ok(directory)
}

#[test]
fn a_store_of_every_version_is_read_and_written() -> Outcome {
    for version in 1..=LINKS_FORMAT_VERSION {
        let directory = copies(version)?;
        let path = directory.path().join("closed.h5");
        check(&CIDStore::open_read_only(&path)?, 2)?;
        let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
        check(&store, 2)?;
        store.apply(&history()[2], Durability::Durable)?;
        store.close()?;
        check(&CIDStore::open_read_only(&path)?, 3)?;
        let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
        store.compact()?;
        assert_same(&store, &model(3))?;
    }
    Ok(())
}

#[test]
fn a_log_of_every_version_is_replayed() -> Outcome {
    for version in 1..=LINKS_FORMAT_VERSION {
        let directory = copies(version)?;
        let path = directory.path().join("waiting.h5");
        check(&CIDStore::open_read_only(&path)?, 3)?;
        let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
        let recovered = store.recovered().unwrap();
        assert_eq!((recovered.batches, recovered.records, recovered.dropped), (2, 4, 0));
        check(&store, 3)?;
        store.close()?;
        assert!(!directory.path().join("waiting.h5-wal").exists());
        check(&CIDStore::open_read_only(&path)?, 3)?;
    }
    Ok(())
}

#[test]
fn a_small_log_that_a_crash_left_gives_way_to_a_larger_one() -> Outcome {
    let directory = copies(LINKS_FORMAT_VERSION)?;
    let path = directory.path().join("waiting.h5");
    let store = CIDStore::open_with(&path, Mode::ReadWrite, options().log_bytes(4 << 20))?;
    let more: Vec<Change> = (0..5000).map(|number| Change::insert(key(number), E::MAX)).collect();
    store.apply(&more, Durability::Durable)?;
    let mut expected = model(3);
    more.iter().for_each(|change| _ = expect(&mut expected, change));
    // As a crash would leave it now.
    let copy = directory.path().join("copy.h5");
    std::fs::copy(&path, &copy)?;
    std::fs::copy(directory.path().join("waiting.h5-wal"), directory.path().join("copy.h5-wal"))?;
    assert_same(&store, &expected)?;
    store.close()?;
    let copy = CIDStore::open_with(&copy, Mode::ReadWrite, options())?;
    assert_eq!(copy.recovered().map(|recovered| recovered.records), Some(5000));
    assert_same(&copy, &expected)
}

/// Enough keys for several buckets, of which packing makes ranges of odd lengths.
fn many() -> Vec<(E, E)> {
    (1000..2500).map(|number| (key(number), E::from_parts(number, 7))).collect()
}

#[test]
fn a_packed_store_is_read_and_written() -> Outcome {
    for version in 2..=LINKS_FORMAT_VERSION {
        let directory = copies(version)?;
        let path = directory.path().join("packed.h5");
        let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
        assert_eq!(store.verify()?, Vec::<String>::new());
        let mut expected = model(2);
        many().into_iter().for_each(|(key, value)| _ = expect(&mut expected, &Change::insert(key, value)));
        assert_same(&store, &expected)?;
        // Full buckets are split in the middle of their ranges.
        let more: Vec<Change> = many().into_iter().map(|(key, value)| Change::insert(value, key)).collect();
        more.chunks(500).try_for_each(|changes| store.apply(changes, Durability::Durable).map(drop))?;
        more.iter().for_each(|change| _ = expect(&mut expected, change));
        assert_same(&store, &expected)?;
    }
    Ok(())
}

fn pending_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/v3")
}

/// What a transaction of the file brings, and what comes after it.
fn of_transaction() -> [Vec<Change>; 2] {
    let mut transaction: Vec<Change> = (0..20).map(|number| Change::insert(key(2000 + number), key(number))).collect();
    transaction.extend([
        Change::delete(key(2003)),
        Change::delete_value(key(2004), key(4)),
        Change::insert(E::MAX, E::MIN),
    ]);
    [transaction, vec![Change::delete(key(2005)), Change::insert(key(2003), E::MAX)]]
}

fn with_transaction(storage: &Storage, links: Option<&CIDStore>) -> Outcome<Pending> {
    storage.transaction(|tx| {
        let mut changes = Changes::default();
        for Change { operation, key, value } in of_transaction()[0].clone() {
            let stored = || links.map_or_else(|| Ok([].into_iter().collect()), |links| links.get(key));
            match operation {
                Operation::Insert => changes.insert(key, value, stored)?,
                Operation::DeleteValue => changes.delete((key, value), stored)?,
                Operation::DeleteKey => changes.delete(key, stored)?,
            };
        }
        Ok(changes.write(tx, links)?)
    })
}

#[test]
fn changes_of_a_transaction_are_made_once() -> Outcome {
    for (name, parts) in [("pending.h5", 1), ("adopted.h5", 2)] {
        let directory = copies_of(&pending_folder())?;
        let path = directory.path().join(name);
        let mut expected = if parts == 1 { Model::new() } else { model(2) };
        of_transaction()[..parts].concat().iter().for_each(|change| _ = expect(&mut expected, change));
        assert_same(&CIDStore::open_read_only(&path)?, &expected)?;
        let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
        assert_same(&store, &expected)?;
        assert_eq!(store.recovered().map(|found| found.adopted.len()), (parts == 2).then_some(1));
        assert!(has_pending(store.storage())?);
        store.checkpoint()?;
        assert!(!has_pending(store.storage())?);
        store.close()?;
        assert_same(&CIDStore::open_read_only(&path)?, &expected)?;
    }
    Ok(())
}

#[test]
#[ignore = "writes the golden files of changes in transactions"]
fn write_golden_files_of_transactions() -> Outcome {
    let folder = pending_folder();
    std::fs::create_dir_all(&folder)?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("pending.h5");
    let storage = Storage::with_options(path.as_path(), Options::new().history(0));
    storage.open(Mode::Append, false)?;
    let _ = with_transaction(&storage, None)?;
    storage.close()?;
    std::fs::copy(&path, folder.join("pending.h5"))?;
    let path = scratch.path().join("adopted.h5");
    let [images, run, _] = history();
    let store = CIDStore::open_with(&path, Mode::Append, options())?;
    store.apply(&images, Durability::Durable)?;
    store.checkpoint()?;
    store.apply(&run, Durability::Durable)?;
    let pending = with_transaction(store.storage(), Some(&store))?;
    store.adopt(pending)?;
    store.apply(&of_transaction()[1], Durability::Durable)?;
    for name in ["adopted.h5", "adopted.h5-wal"] {
        std::fs::copy(scratch.path().join(name), folder.join(name))?;
    }
    Ok(())
}

#[test]
#[ignore = "writes the golden files of the present version"]
fn write_golden_files() -> Outcome {
    let folder = folder(LINKS_FORMAT_VERSION);
    std::fs::create_dir_all(&folder)?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("waiting.h5");
    let [images, run, log] = history();
    let store = CIDStore::open_with(&path, Mode::Append, options())?;
    store.apply(&images, Durability::Durable)?;
    store.checkpoint()?;
    store.apply(&run, Durability::Durable)?;
    store.close()?;
    std::fs::copy(&path, folder.join("closed.h5"))?;
    let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
    log.chunks(2).try_for_each(|batch| store.apply(batch, Durability::Durable).map(drop))?;
    for name in ["waiting.h5", "waiting.h5-wal"] {
        std::fs::copy(scratch.path().join(name), folder.join(name))?;
    }
    let path = scratch.path().join("packed.h5");
    std::fs::copy(folder.join("closed.h5"), &path)?;
    let store = CIDStore::open_with(&path, Mode::ReadWrite, options())?;
    many().chunks(500).try_for_each(|pairs| store.batch_insert(pairs).map(drop))?;
    store.compact()?;
    store.close()?;
    std::fs::copy(&path, folder.join("packed.h5"))?;
    Ok(())
}
