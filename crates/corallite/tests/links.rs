//! Links in a store: what closing, going back and weights do to them.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

use std::path::{Path, PathBuf};

use corallite::file::{self, CommitNumber};
use corallite::links::{Durability, LinksOptions};
use corallite::weights::{Dtype, Unwatched, WeightStore, WeightTensor};
use corallite::{E, Error, LinksInfo, Store};

const KEY: E = E::new(1);

fn log(path: &Path) -> PathBuf {
    path.with_extension("h5-wal")
}

fn weight(value: u8) -> WeightTensor {
    WeightTensor::new("w", vec![4], Dtype::U8, vec![value; 4]).unwrap()
}

fn open(path: &Path) -> Store {
    Store::open(path).unwrap().links_options(LinksOptions::new().log_bytes(64 << 10))
}

fn values(store: &Store) -> Vec<u128> {
    store.links().unwrap().get(KEY).unwrap().iter().map(|value| value.number()).collect()
}

/// Copies a store that is being written, as a crash would leave it: links 1 and 2 in the file, 3 in the log.
fn crashed(folder: &Path) -> PathBuf {
    let (path, copy) = (folder.join("written.h5"), folder.join("store.h5"));
    let store = open(&path);
    for value in [1, 2] {
        store.links().unwrap().insert(KEY, E::new(value)).unwrap();
    }
    store.close().unwrap();
    let store = open(&path);
    store.links().unwrap().insert(KEY, E::new(3)).unwrap();
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(log(&path), log(&copy)).unwrap();
    copy
}

#[test]
fn a_closed_store_is_one_file_with_its_weights_and_links() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.h5");
    let store = open(&path);
    assert!(!store.has_links().unwrap());
    let key = store.weights().store(&weight(1), None).unwrap();
    store.links().unwrap().insert(KEY, E::new(1)).unwrap();
    store.weights().store(&weight(2), None).unwrap();
    store.links().unwrap().insert(KEY, E::new(2)).unwrap();
    assert!(log(&path).exists());
    store.close().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let store = Store::open_read_only(&path).unwrap();
    assert_eq!(values(&store), [1, 2]);
    assert!(store.weights().load(&key).unwrap().is_some());
    let info = store.info().unwrap();
    assert_eq!((info.weights, info.links), (2, Some(LinksInfo { keys: 1, pairs: 2 })));
    assert!(store.verify(&Unwatched).unwrap().damaged.is_empty());
}

#[test]
fn a_store_used_for_weights_has_no_links_and_leaves_a_log_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.h5");
    let store = Store::open(&path).unwrap();
    store.weights().store(&weight(1), None).unwrap();
    assert_eq!(store.info().unwrap().links, None);
    store.close().unwrap();
    assert!(!log(&path).exists());

    let path = crashed(folder.path());
    let before = std::fs::read(log(&path)).unwrap();
    let store = Store::open(&path).unwrap();
    store.weights().store(&weight(1), None).unwrap();
    store.close().unwrap();
    assert_eq!(std::fs::read(log(&path)).unwrap(), before);
    let store = Store::open(&path).unwrap();
    assert_eq!(values(&store), [1, 2, 3]);
    store.close().unwrap();
    assert!(!log(&path).exists());
}

#[test]
fn a_rollback_brings_back_the_links_of_that_commit_and_keeps_those_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(folder.path());
    let mut store = open(&path);
    let written = store.storage().version().unwrap();
    store.rollback(written).unwrap();
    assert_eq!(values(&store), [1, 2]);
    assert!(!log(&path).exists());
    let commits: Vec<CommitNumber> =
        store.storage().versions().unwrap().into_iter().map(|commit| commit.number).collect();
    // After it came the state that was gone back to, and the note that its log was given up.
    let recovered = commits[commits.len() - 3];
    store.links().unwrap().insert(KEY, E::new(4)).unwrap();
    assert_eq!(values(&store), [1, 2, 4]);
    store.rollback(recovered).unwrap();
    assert_eq!(values(&store), [1, 2, 3]);
    store.close().unwrap();
    assert_eq!(values(&Store::open_read_only(&path).unwrap()), [1, 2, 3]);
}

#[test]
fn a_rollback_is_refused_while_somebody_holds_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(folder.path());
    let mut store = open(&path);
    let version = store.storage().version().unwrap();
    let held = store.links().unwrap().wal().unwrap();
    assert!(matches!(store.rollback(version), Err(Error::File(file::Error::Usage { .. }))));
    drop(held);
    assert_eq!(values(&store), [1, 2, 3]);
}

#[test]
fn links_that_need_a_checkpoint_within_a_transaction_are_refused_and_nothing_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store.h5"));
    store.links().unwrap().insert(KEY, E::new(1)).unwrap();
    let outcome: Result<u64, Error> = store.storage().transaction(|transaction| {
        assert!(transaction.storage().is_in_transaction());
        // More than the log has room for, so that a checkpoint is needed, which would wait for this transaction.
        for number in 0..2000 {
            store.links()?.insert(E::new(number), E::new(9))?;
        }
        Ok(0)
    });
    assert!(matches!(&outcome, Err(error) if error.to_string().contains("within a transaction")), "{outcome:?}");
    store.links().unwrap().insert(KEY, E::new(2)).unwrap();
    assert!(values(&store).ends_with(&[2]));
    store.close().unwrap();
}

#[test]
fn links_and_weights_are_written_by_threads_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.h5");
    let store = open(&path);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 0..40 {
                store.weights().store(&weight(value), None).unwrap();
            }
        });
        scope.spawn(|| {
            // More than the log holds, so that there are checkpoints between the commits of weights.
            for batch in 0..40 {
                let changes: Vec<_> =
                    (0..100).map(|value| corallite::links::Change::insert(KEY, E::new(batch * 100 + value))).collect();
                store.links().unwrap().apply(&changes, Durability::Durable).unwrap();
            }
        });
    });
    store.close().unwrap();
    let store = Store::open_read_only(&path).unwrap();
    assert_eq!(store.weights().list_weights().unwrap().len(), 40);
    assert_eq!(values(&store), (0..4000).collect::<Vec<u128>>());
}
