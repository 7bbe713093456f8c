//! Streams.

use std::io::{Read, Seek, SeekFrom, Write};

use super::data::{entries, get, get_stream, keys_of, noise, odd_keys, put, put_stream, streams};
use super::{Check, Outcome, ok, refused, same};
use crate::Error;
use crate::backend::{Backend, BackendExt, Durability, EventKind};

pub(super) const CHECKS: &[Check] = &[
    ("a stream is read back as it was written, whatever the pieces", read_back),
    ("a stream replaces the one before when it is finished", replaced),
    ("a stream that is dropped leaves nothing, and the old one stays", dropped),
    ("a stream can be read from any place", sought),
    ("one who reads a stream is not given another's bytes", replaced_while_read),
    ("a stream and a value of the same key do not know of each other", independent),
    ("every key can have a stream, and is listed", every_key),
    ("a stream can be given to another key, in the place of that one's", renamed),
    ("where a stream has a file, it holds the stream and nothing else", path),
];

fn read_back(backend: &dyn Backend) -> Outcome {
    for (number, (length, piece)) in [
        (0, 1),
        (1, 1),
        (1_000, 7),
        (262_144, 262_144),
        (262_145, 100_000),
        (5_000_000, 70_001),
        (3_000_000, 3_000_000),
    ]
    .into_iter()
    .enumerate()
    {
        let (key, bytes) = (format!("F.{number}"), noise(length, number as u64));
        put_stream(backend, &key, &bytes, piece)?;
        same(&format!("{length} bytes"), get_stream(backend, &key)?.is_some_and(|found| found == bytes), true)?;
    }
    same("one that is not there", get_stream(backend, "F.x")?, None)
}

fn replaced(backend: &dyn Backend) -> Outcome {
    for (number, length) in [3_000_000, 10, 0, 700_000, 699_999].into_iter().enumerate() {
        let bytes = noise(length, number as u64);
        let mut stream = ok("beginning", backend.write_stream("F.1"))?;
        ok("writing", stream.write_all(&bytes))?;
        ok("flushing", stream.flush())?;
        let before = get_stream(backend, "F.1")?.map(|bytes| bytes.len());
        let old = [None, Some(3_000_000), Some(10), Some(0), Some(700_000)][number];
        same("the old one, until it is finished", before, old)?;
        ok("finishing", stream.finish(Durability::Durable))?;
        same("the new one", get_stream(backend, "F.1")?.is_some_and(|found| found == bytes), true)?;
    }
    same("the streams", streams(backend, "")?, ["F.1"])?;
    same("removing it", ok("removing", backend.remove_stream("F.1"))?, true)?;
    same("removing it again", ok("removing", backend.remove_stream("F.1"))?, false)?;
    same("it", get_stream(backend, "F.1")?, None)?;
    same("the streams", streams(backend, "")?, Vec::<String>::new())
}

fn dropped(backend: &dyn Backend) -> Outcome {
    put_stream(backend, "F.1", b"old", 1)?;
    for key in ["F.1", "F.2"] {
        for length in [0, 5, 3_000_000] {
            let mut stream = ok("beginning", backend.write_stream(key))?;
            ok("writing", stream.write_all(&noise(length, 1)))?;
        }
    }
    same("the old one", get_stream(backend, "F.1")?.as_deref(), Some(b"old".as_slice()))?;
    same("the other one", get_stream(backend, "F.2")?, None)?;
    same("the streams", streams(backend, "")?, ["F.1"])
}

fn sought(backend: &dyn Backend) -> Outcome {
    let bytes = noise(1_000_000, 3);
    put_stream(backend, "F.1", &bytes, 33_333)?;
    let mut stream = ok("opening", backend.read_stream("F.1"))?.ok_or("it is not there")?;
    same("its length", stream.length(), 1_000_000)?;
    for (seek, at) in [
        (SeekFrom::Start(262_140), 262_140),
        (SeekFrom::Start(524_288), 524_288),
        (SeekFrom::End(-10), 999_990),
        (SeekFrom::Start(0), 0),
        (SeekFrom::Current(600_000), 600_020),
        (SeekFrom::Current(-300_000), 300_040),
        (SeekFrom::End(0), 1_000_000),
    ] {
        same(&format!("where {seek:?} leads"), ok("seeking", stream.seek(seek))?, at)?;
        let mut part = Vec::new();
        ok("reading", (&mut stream).take(20).read_to_end(&mut part))?;
        let at = usize::try_from(at).map_err(|error| error.to_string())?;
        same(&format!("the bytes after {seek:?}"), part, &bytes[at..bytes.len().min(at + 20)])?;
    }
    ok("seeking behind the end", stream.seek(SeekFrom::Start(2_000_000)))?;
    same("how much there is behind the end", ok("reading", stream.read(&mut [0; 10]))?, 0)?;
    same("whether one can seek before the start", stream.seek(SeekFrom::Current(-3_000_000)).is_err(), true)
}

fn replaced_while_read(backend: &dyn Backend) -> Outcome {
    let old = noise(2_000_000, 4);
    put_stream(backend, "F.1", &old, 1_000_000)?;
    let mut stream = ok("opening", backend.read_stream("F.1"))?.ok_or("it is not there")?;
    let mut bytes = vec![0; 1_000];
    ok("reading", stream.read_exact(&mut bytes))?;
    put_stream(backend, "F.1", &noise(2_000_000, 5), 1_000_000)?;
    ok("removing", backend.remove_stream("F.1"))?;
    put_stream(backend, "F.2", &noise(2_000_000, 6), 1_000_000)?;
    // An error is allowed, another's bytes are not.
    match stream.read_to_end(&mut bytes) {
        Ok(_) => same("whether it is the old one", bytes == old, true),
        Err(_) => Ok(()),
    }
}

fn independent(backend: &dyn Backend) -> Outcome {
    put_stream(backend, "F.1", b"stream", 2)?;
    same("the value", get(backend, "F.1")?, None)?;
    same("the keys", keys_of(backend, "")?, Vec::<String>::new())?;
    put(backend, "F.1", b"value")?;
    put(backend, "F.2", b"value")?;
    same("the streams", streams(backend, "")?, ["F.1"])?;
    same("removing the stream", ok("removing", backend.remove_stream("F.1"))?, true)?;
    same("the value", get(backend, "F.1")?.as_deref(), Some(b"value".as_slice()))?;
    put_stream(backend, "F.1", b"stream", 2)?;
    put(backend, "F.1", b"other")?;
    same("the stream", get_stream(backend, "F.1")?.as_deref(), Some(b"stream".as_slice()))?;
    same("how many values there are", entries(backend)?.len(), 2)
}

fn every_key(backend: &dyn Backend) -> Outcome {
    let keys = odd_keys();
    for key in &keys {
        put_stream(backend, key, key.as_bytes(), 100)?;
    }
    for key in &keys {
        same(&format!("the stream of {key:?}"), get_stream(backend, key)?.as_deref(), Some(key.as_bytes()))?;
    }
    for prefix in ["", "A.", "Account.", "a", "x.", "Long."] {
        let want: Vec<String> = keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        same(&format!("the streams of {prefix:?}"), streams(backend, prefix)?, want)?;
    }
    Ok(())
}

fn renamed(backend: &dyn Backend) -> Outcome {
    let long = noise(5_000_000, 1);
    let rename = |from, to| ok("renaming", backend.rename_stream(from, to, Durability::Durable));
    same("renaming nothing", rename("F.1", "F.2")?, false)?;
    for (from, to) in [("F.1", "F.2"), ("F.1", "F.2"), ("F.3", "G/other.4")] {
        put_stream(backend, from, &long, 1_000_000)?;
        put(backend, from, b"value")?;
        same("renaming", rename(from, to)?, true)?;
        same("the old one", get_stream(backend, from)?, None)?;
        same("the new one", get_stream(backend, to)?.is_some_and(|found| found == long), true)?;
        same("the value of the old one", get(backend, from)?.as_deref(), Some(b"value".as_slice()))?;
        same("the value of the new one", get(backend, to)?, None)?;
    }
    same("the streams", streams(backend, "")?, ["F.2", "G/other.4"])?;
    same("renaming to itself", rename("F.2", "F.2")?, true)?;
    same("it", get_stream(backend, "F.2")?.is_some_and(|found| found == long), true)?;
    let events = backend.watch("F.");
    rename("F.2", "F.3")?;
    rename("F.2", "F.3")?;
    let mut told: Vec<_> = std::iter::from_fn(|| events.try_next()).map(|event| (event.key, event.kind)).collect();
    // The order of different keys is not promised.
    told.sort_by(|one, other| one.0.cmp(&other.0));
    same("the events", told, [("F.2".to_owned(), EventKind::Stream), ("F.3".to_owned(), EventKind::Stream)])?;
    let result = backend.rename_stream("F.3", "", Durability::Durable);
    refused("an empty key", result, |error| matches!(error, Error::Key { .. }))?;
    same("the streams", streams(backend, "")?, ["F.3", "G/other.4"])
}

fn path(backend: &dyn Backend) -> Outcome {
    same("the file of no stream", backend.path("F.1"), None)?;
    put(backend, "F.1", b"value")?;
    same("the file of no stream", backend.path("F.1"), None)?;
    put_stream(backend, "F.1", b"stream", 2)?;
    match backend.path("F.1") {
        None => Ok(()),
        Some(path) => same("what is in the file", ok("reading the file", std::fs::read(path))?, b"stream"),
    }
}
