//! Mirrors that fail, and are repaired.

use std::sync::Arc;

use corallite_objects::backend::{
    Backend, BackendExt, DbmBackend, DirectoryBackend, MemoryBackend, MultiBackend, Range,
};

use super::{noise, put_stream, stream};

/// Everything in a backend.
fn all(backend: &dyn Backend) -> Vec<(String, Vec<u8>)> {
    let values = backend.entries_in(&Range::default()).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = values.map(|(key, value)| (key, value.to_vec())).collect();
    for key in backend.streams("").unwrap() {
        let key = key.unwrap();
        all.push((format!("stream {key}"), stream(backend, &key).unwrap()));
    }
    all
}

#[test]
fn a_mirror_that_fails_is_named_and_the_others_get_what_was_written() {
    let place = tempfile::tempdir().unwrap();
    let first = Arc::new(MemoryBackend::new());
    let directory = Arc::new(DirectoryBackend::open(place.path().join("directory")).unwrap());
    let dbm = Arc::new(DbmBackend::open(place.path().join("file.dbm")).unwrap());
    let multi = MultiBackend::new(vec![first.clone(), directory.clone(), dbm.clone()]).unwrap();
    multi.add("A.1", b"{}").unwrap();
    put_stream(&multi, "A.1", b"stream").unwrap();
    assert_eq!(all(&*first), all(&*directory));
    assert_eq!(all(&*first), all(&*dbm));

    let obstacle = place.path().join("directory/A/2.json");
    std::fs::create_dir(&obstacle).unwrap();
    let error = multi.add("A.2", b"{}").unwrap_err().to_string();
    assert!(error.contains("mirror to the directory") && error.contains("resync()"), "{error}");
    assert!(first.has("A.2").unwrap() && dbm.has("A.2").unwrap());
    assert!(multi.add("A.2", b"{}").is_err(), "the first one decides");

    let obstacle_of_stream = place.path().join("directory/A/3.data");
    std::fs::create_dir(&obstacle_of_stream).unwrap();
    let error = put_stream(&multi, "A.3", &noise(1_000_000, 3)).unwrap_err().to_string();
    assert!(error.contains("mirror to the directory"), "{error}");
    assert_eq!(all(&*first), all(&*dbm));

    assert!(multi.resync().is_err());
    std::fs::remove_dir(obstacle).unwrap();
    std::fs::remove_dir(obstacle_of_stream).unwrap();
    multi.resync().unwrap();
    assert_eq!(all(&*first), all(&*directory));
}

#[test]
fn resync_gives_mirrors_what_they_lack_and_takes_what_they_have_too_much() {
    let place = tempfile::tempdir().unwrap();
    let first = Arc::new(MemoryBackend::new());
    let directory = Arc::new(DirectoryBackend::open(place.path()).unwrap());
    let memory = Arc::new(MemoryBackend::new());
    for number in 0..1_300 {
        let key = format!("A.{number:04}");
        first.add(&key, b"{}").unwrap();
        match number % 3 {
            0 => memory.add(&key, b"[]").unwrap(),
            1 => memory.add(&format!("{key}-foreign"), b"{}").unwrap(),
            _ => {}
        }
    }
    directory.add("A.0001", b"{}").unwrap();
    directory.add("B.1", b"{}").unwrap();
    std::fs::write(place.path().join("A/0001.json"), "damaged").unwrap();
    for (key, length) in [("F.1", 700_000), ("F.2", 0), ("F.3", 10)] {
        put_stream(&*first, key, &noise(length, 1)).unwrap();
    }
    put_stream(&*memory, "F.1", &noise(700_000, 2)).unwrap();
    put_stream(&*memory, "F.4", b"foreign").unwrap();
    put_stream(&*directory, "F.3", b"").unwrap();
    let multi = MultiBackend::new(vec![first.clone(), directory.clone(), memory.clone()]).unwrap();
    for _ in 0..2 {
        multi.resync().unwrap();
        assert_eq!(all(&*first), all(&*directory));
        assert_eq!(all(&*first), all(&*memory));
    }
    let events = memory.watch("");
    multi.resync().unwrap();
    assert_eq!(events.try_next(), None, "what is equal is not written");
    assert!(MultiBackend::new(Vec::new()).is_err());
}
