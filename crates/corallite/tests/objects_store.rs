//! Objects in a store: beside weights, for several threads and other programs, and across rollbacks.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use corallite::file::hdf5;
use corallite::objects::Error;
use corallite::objects::backend::{Backend, BackendExt, Change, Durability, EventKind, Expect, Range};
use corallite::weights::{Dtype, Unwatched, WeightStore, WeightTensor};
use corallite::{Store, StoreBackend};

fn weight(value: u8) -> WeightTensor {
    WeightTensor::new("w", vec![4], Dtype::U8, vec![value; 4]).unwrap()
}

fn open(folder: &Path) -> Store {
    Store::open(folder.join("store.h5")).unwrap()
}

fn put(backend: &dyn Backend, key: &str, value: &[u8], durability: Durability) {
    backend.write(&[Change { key, value: Some(value), expect: Expect::Anything }], durability).unwrap();
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7 % 251) as u8).collect()
}

fn write_file(backend: &dyn Backend, key: &str, content: &[u8]) {
    let mut stream = backend.write_stream(key).unwrap();
    // In parts that fit nothing.
    content.chunks(77_777).for_each(|part| stream.write_all(part).unwrap());
    stream.finish(Durability::Durable).unwrap();
}

fn read_file(backend: &dyn Backend, key: &str) -> Vec<u8> {
    let (mut stream, mut content) = (backend.read_stream(key).unwrap().unwrap(), Vec::new());
    std::io::Read::read_to_end(&mut stream, &mut content).unwrap();
    content
}

#[test]
fn one_commit_has_weights_and_objects_or_neither() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    put(objects.as_ref(), "Run.0", b"{}", Durability::Durable);
    let attempt = |value: u8, fails: bool| {
        let batch = objects.begin().unwrap();
        let outcome = store.weights().transaction(|weights| {
            weights.store(&weight(value), None)?;
            // What would wait for this very transaction is refused.
            let refused = objects.add("Run.9", b"{}").unwrap_err();
            assert!(matches!(refused, Error::Usage(_)), "{refused}");
            let _joined = batch.join();
            objects.add(&format!("Run.{value}"), b"{}").unwrap();
            write_file(objects.as_ref(), "log/part", &bytes(9 << 20));
            assert!(objects.rename_stream("log/part", &format!("log/{value}"), Durability::Durable).unwrap());
            // Seen inside, not outside.
            assert!(objects.has(&format!("Run.{value}")).unwrap());
            assert_eq!(objects.keys("Run.").unwrap().count(), 2);
            assert_eq!(read_file(objects.as_ref(), &format!("log/{value}")), bytes(9 << 20));
            assert!(objects.read_stream("log/part").unwrap().is_none());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    assert!(!objects.has(&format!("Run.{value}")).unwrap());
                    assert!(objects.read_stream(&format!("log/{value}")).unwrap().is_none());
                });
            });
            if fails {
                return Err(corallite::weights::Error::Cancelled);
            }
            Ok(batch.write_out(weights.storage_transaction())?)
        });
        match outcome {
            Ok(()) => batch.publish(),
            Err(_) => drop(batch),
        }
    };
    let version = store.storage().version().unwrap();
    attempt(1, true);
    assert_eq!(store.storage().version().unwrap(), version);
    assert_eq!(objects.keys("Run.").unwrap().count(), 1);
    assert_eq!(objects.streams("").unwrap().count(), 0);
    let subscription = objects.watch("Run.");
    attempt(1, false);
    assert_eq!(store.storage().version().unwrap().0, version.0 + 1);
    assert_eq!(subscription.try_next().unwrap().kind, EventKind::Added);
    assert!(objects.has("Run.1").unwrap());
    assert_eq!(store.weights().list_weights().unwrap().len(), 1);
    let mut read = Vec::new();
    objects.read_stream("log/1").unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes(9 << 20));
    assert!(store.verify(&Unwatched).unwrap().damaged.is_empty());
    drop(objects);
    store.close().unwrap();
    let store = open(folder.path());
    assert!(store.objects_backend().unwrap().has("Run.1").unwrap());
}

#[test]
fn other_programs_see_files_as_datasets_of_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    // In one place, in several, and at the bounds between.
    let lengths = [0, 1, 4096, 1 << 20, 8 << 20, (8 << 20) + 1, 9 << 20, 20_000_001];
    for length in lengths {
        write_file(objects.as_ref(), &format!("models/{length}.bin"), &bytes(length));
    }
    for length in lengths {
        let mut stream = objects.read_stream(&format!("models/{length}.bin")).unwrap().unwrap();
        assert_eq!(stream.length(), length as u64);
        let mut read = Vec::new();
        stream.read_to_end(&mut read).unwrap();
        assert!(read == bytes(length), "{length}");
        if length > 3 {
            let mut two = [0; 2];
            stream.seek(SeekFrom::End(-3)).unwrap();
            stream.read_exact(&mut two).unwrap();
            assert_eq!(two, bytes(length)[length - 3..length - 1]);
        }
    }
    assert!(store.verify(&Unwatched).unwrap().damaged.is_empty());
    drop(objects);
    store.close().unwrap();
    let file = hdf5::File::open(folder.path().join("store.h5")).unwrap();
    for length in lengths {
        let dataset = file.dataset(&format!("/files/models%2F{length}.bin")).unwrap();
        assert!(dataset.read_raw::<u8>().unwrap() == bytes(length), "{length}");
    }
    assert_eq!(file.dataset("/objects/pages/00000000").unwrap().shape(), [16, 4096]);
}

#[test]
fn a_removed_or_replaced_file_can_still_be_read_by_who_had_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    write_file(objects.as_ref(), "a", &bytes(3 << 20));
    let mut held = objects.read_stream("a").unwrap().unwrap();
    write_file(objects.as_ref(), "a", b"short");
    assert!(objects.remove_stream("a").unwrap());
    assert!(!objects.remove_stream("a").unwrap());
    for number in 0..12_u8 {
        write_file(objects.as_ref(), "b", &vec![number; 3 << 20]);
    }
    let mut read = Vec::new();
    held.read_to_end(&mut read).unwrap();
    assert!(read == bytes(3 << 20));
    assert!(objects.read_stream("a").unwrap().is_none());
}

#[test]
fn threads_that_read_see_whole_batches_while_one_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    // More than the cache holds, so that pages come from the file again and again.
    let objects = Arc::new(StoreBackend::with_cache(Arc::clone(store.weights().storage()), 1 << 17).unwrap());
    let batch = |round: u32, durability| {
        let texts: Vec<(String, Vec<u8>)> = (0..200_u32)
            .map(|number| (format!("Account.{:03}", number), [round.to_le_bytes().as_slice(), &bytes(4500)].concat()))
            .collect();
        let changes: Vec<Change<'_>> =
            texts.iter().map(|(key, value)| Change { key, value: Some(value), expect: Expect::Anything }).collect();
        objects.write(&changes, durability).unwrap();
    };
    batch(0, Durability::Durable);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut newest = 0;
                while !is_over.load(Ordering::Acquire) {
                    // 200 keys are one block, and a block is of one state.
                    let rounds: Vec<u32> = objects
                        .entries_in(&Range::prefix("Account."))
                        .unwrap()
                        .map(|entry| u32::from_le_bytes(entry.unwrap().1[..4].try_into().unwrap()))
                        .collect();
                    assert_eq!(rounds.len(), 200);
                    assert!(rounds.iter().all(|round| *round == rounds[0]), "{rounds:?}");
                    assert!(rounds[0] >= newest);
                    newest = rounds[0];
                    let one = objects.get("Account.077").unwrap().unwrap();
                    assert!(u32::from_le_bytes(one[..4].try_into().unwrap()) >= newest);
                }
            });
        }
        for round in 1..60 {
            batch(round, if round % 3 == 0 { Durability::Buffered } else { Durability::Durable });
            if round % 10 == 0 {
                store.weights().store(&weight(round as u8), None).unwrap();
            }
        }
        is_over.store(true, Ordering::Release);
    });
    objects.close().unwrap();
}

#[test]
fn a_reader_of_another_opening_sees_one_commit_until_it_closes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    put(objects.as_ref(), "a", b"1", Durability::Durable);
    put(objects.as_ref(), "buffered", b"1", Durability::Buffered);
    let reader = Store::open_read_only(folder.path().join("store.h5")).unwrap();
    let read = reader.objects_backend().unwrap();
    for round in 0..30_u8 {
        put(objects.as_ref(), "a", &[round; 2000], Durability::Durable);
    }
    assert_eq!(read.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(!read.has("buffered").unwrap());
    let refused = read.add("b", b"1").unwrap_err();
    assert!(refused.to_string().contains("read-only"), "{refused}");
    assert!(read.write_stream("f").is_err() && read.clear().is_err() && read.remove_stream("f").is_err());
    drop(read);
    reader.close().unwrap();
    let reader = Store::open_read_only(folder.path().join("store.h5")).unwrap();
    assert_eq!(reader.objects_backend().unwrap().get("a").unwrap().as_deref(), Some(&[29; 2000][..]));
    assert!(reader.objects_backend().unwrap().has("buffered").unwrap());
}

#[test]
fn going_back_to_a_version_takes_objects_back_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    let empty = store.storage().flush().unwrap();
    put(objects.as_ref(), "a", b"1", Durability::Durable);
    let first = store.storage().version().unwrap();
    put(objects.as_ref(), "a", b"2", Durability::Durable);
    put(objects.as_ref(), "b", b"2", Durability::Buffered);
    store.rollback(first).unwrap();
    assert_eq!(objects.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(!objects.has("b").unwrap());
    put(objects.as_ref(), "c", b"3", Durability::Durable);
    store.rollback(empty).unwrap();
    assert_eq!(objects.keys("").unwrap().count(), 0);
    put(objects.as_ref(), "d", b"4", Durability::Durable);
    assert!(store.verify(&Unwatched).unwrap().damaged.is_empty());
    // Past the store nobody tells the objects, which then notice.
    let second = store.storage().version().unwrap();
    put(objects.as_ref(), "e", b"5", Durability::Durable);
    store.storage().rollback_to_version(second).unwrap();
    let refused = objects.add("f", b"6").unwrap_err();
    assert!(refused.to_string().contains("rolled back"), "{refused}");
}

#[test]
fn a_closed_store_says_so_and_has_what_was_buffered() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    put(objects.as_ref(), "a", b"1", Durability::Buffered);
    store.close().unwrap();
    assert!(matches!(objects.get("a"), Err(Error::Closed { .. })));
    assert!(matches!(objects.add("b", b""), Err(Error::Closed { .. })));
    objects.close().unwrap();
    let store = open(folder.path());
    assert!(store.objects_backend().unwrap().has("a").unwrap());
    store.abandon().unwrap();
}

#[test]
fn a_store_without_objects_stays_without() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.weights().store(&weight(1), None).unwrap();
    let objects = store.objects_backend().unwrap();
    assert!(objects.get("a").unwrap().is_none());
    objects.sync().unwrap();
    drop(objects);
    store.gc().unwrap();
    assert!(!store.has_objects().unwrap());
    store.close().unwrap();
}

#[test]
fn threads_that_write_share_commits_and_each_hears_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let objects = store.objects_backend().unwrap();
    put(objects.as_ref(), "begun", b"", Durability::Durable);
    let before = store.storage().version().unwrap();
    let subscription = objects.watch("");
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let objects = &objects;
            scope.spawn(move || {
                for round in 0..40_u32 {
                    put(objects.as_ref(), &format!("own.{thread}.{round}"), b"1", Durability::Durable);
                    assert!(objects.has(&format!("own.{thread}.{round}")).unwrap());
                    // All want the same key, and one gets it.
                    let shared = objects.add(&format!("shared.{round}"), &thread.to_le_bytes());
                    match shared {
                        Ok(()) => {
                            let winner = objects.get(&format!("shared.{round}")).unwrap().unwrap();
                            assert_eq!(winner.as_ref(), thread.to_le_bytes());
                            objects.add(&format!("won.{round}"), b"").unwrap();
                        }
                        Err(error) => assert!(matches!(error, Error::Exists { .. }), "{error}"),
                    }
                }
            });
        }
    });
    let commits = store.storage().version().unwrap().0 - before.0;
    assert!(commits < 400, "{commits} commits");
    assert_eq!(objects.keys("own.").unwrap().count(), 320);
    assert_eq!(objects.keys("won.").unwrap().count(), 40);
    let mut told = 0;
    while subscription.try_next().is_some() {
        told += 1;
    }
    assert_eq!(told, 400);
    assert!(store.verify(&Unwatched).unwrap().damaged.is_empty());
}
