//! What only the file itself shows.

use std::io::Write;

use redb::{Builder, ReadableTableMetadata, TableDefinition};

use super::*;
use crate::backend::BackendExt;

/// How many chunks there are, and how many streams that nobody has.
fn left(backend: &DbmBackend) -> (u64, u64) {
    let count = |database: &Database| {
        let transaction = database.begin_read()?;
        Ok((transaction.open_table(CHUNKS)?.len()?, transaction.open_table(UNFINISHED)?.len()?))
    };
    backend.run("count", count).unwrap()
}

fn put_stream(backend: &DbmBackend, key: &str, length: usize) {
    let mut stream = backend.write_stream(key).unwrap();
    stream.write_all(&vec![7; length]).unwrap();
    stream.finish(Durability::Durable).unwrap();
}

#[test]
fn nothing_is_left_of_streams_that_were_removed_replaced_dropped_or_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.dbm");
    let backend = DbmBackend::open(&path).unwrap();
    for length in [100, 10_000_000, 0, 1_000_000] {
        put_stream(&backend, "F.1", length);
        assert_eq!(left(&backend), ((length as u64).div_ceil(256 * 1024 - 256), 0));
    }
    put_stream(&backend, "F.2", 10_000_000);
    backend.rename_stream("F.2", "F.1", Durability::Durable).unwrap();
    drop(backend.write_stream("F.2").map(|mut stream| stream.write_all(&[7; 9_000_000])).unwrap());
    assert_eq!(left(&backend), (39, 0));
    let mut interrupted = backend.write_stream("F.2").unwrap();
    interrupted.write_all(&[7; 9_000_000]).unwrap();
    backend.remove_stream("F.1").unwrap();
    // A killed process drops nothing.
    std::mem::forget(interrupted);
    assert_eq!(left(&backend), (32, 1));
    backend.clear().unwrap();
    assert_eq!(left(&backend), (32, 1), "a stream that is being written is none to clear");
    drop(backend);
    assert_eq!(left(&DbmBackend::open(&path).unwrap()), (0, 0));
}

#[test]
fn a_file_of_another_program_or_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.dbm");
    let write = |name: &str, version: u64| {
        let database = Builder::new().create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(TableDefinition::<&str, u64>::new(name))
            .unwrap()
            .insert("corallite format", version)
            .unwrap();
        transaction.commit().unwrap();
    };
    write("theirs", 1);
    let error = DbmBackend::open(&path).unwrap_err().to_string();
    assert!(error.contains("another program's, with the tables [theirs]"), "{error}");
    write("about", 2);
    let error = DbmBackend::open(&path).unwrap_err().to_string();
    assert!(error.contains("newer program"), "{error}");
}

#[test]
fn a_value_that_is_not_what_was_written_is_reported_with_its_key_and_can_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let backend = DbmBackend::open(folder.path().join("file.dbm")).unwrap();
    for key in ["A.1", "A.2", "A.3"] {
        backend.add(key, b"{}").unwrap();
    }
    let damage = |transaction: &WriteTransaction| {
        transaction.open_table(VALUES)?.insert(b"A.2".as_slice(), b"bad {}".as_slice())?;
        Ok(())
    };
    backend.commit("damage", damage, |()| ()).unwrap();
    let error = backend.get("A.2").unwrap_err();
    assert!(matches!(&error, Error::Malformed { key, .. } if key == "A.2"), "{error}");
    let entries: Vec<_> = backend.entries_in(&Range::default()).unwrap().map(|entry| entry.is_ok()).collect();
    assert_eq!(entries, [true, false, true]);
    backend.update("A.2", b"{}").unwrap();
    assert_eq!(backend.get("A.2").unwrap().unwrap(), b"{}".as_slice());
}

#[test]
fn a_panic_of_redb_becomes_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let backend = DbmBackend::open(folder.path().join("file.dbm")).unwrap();
    let error = backend.run("read", |_| -> std::result::Result<(), Failure> { panic!("a page is bad") }).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }));
    assert!(error.to_string().contains("file.dbm") && error.to_string().contains("a page is bad"), "{error}");
    backend.add("A.1", b"{}").unwrap();
}
