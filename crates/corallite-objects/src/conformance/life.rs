//! Events, clearing, syncing, closing, and opening again.

use std::io::Write;

use super::data::{entries, get, get_stream, keys_of, noise, odd_keys, odd_values, put, put_stream, streams};
use super::{Check, Open, Outcome, ReopenCheck, ok, refused, same};
use crate::Error;
use crate::backend::{Backend, BackendExt, Change, Durability, Event, EventKind, Expect, Range};

pub(super) const CHECKS: &[Check] = &[
    ("those who watch are told of every change, in order, and of no other", events),
    ("clear removes everything, and one can go on", clear),
    ("sync can be called at any time", sync),
    ("whoever uses a closed backend is told so", closed),
    ("an open stream does not keep a backend from being closed", closed_with_streams),
];

pub(super) const REOPEN_CHECKS: &[ReopenCheck] = &[
    ("everything is there after opening again", reopened),
    ("nothing comes back that was removed", removed),
    ("an unfinished stream is not there after opening again", unfinished),
    ("one that is dropped without being closed keeps what was synced", not_closed),
];

fn events(backend: &dyn Backend) -> Outcome {
    let all = backend.watch("");
    let some = backend.watch("B.");
    drop(backend.watch("A."));
    ok("adding", backend.add("A.1", b"{}"))?;
    refused("adding it again", backend.add("A.1", b"{}"), |_| true)?;
    ok("updating", backend.update("A.1", b"[]"))?;
    let add = Change { key: "B.1", value: Some(b"{}".as_slice()), expect: Expect::Absent };
    let failing = Change { key: "B.2", expect: Expect::Present, ..add };
    refused("a failing batch", backend.write(&[add, failing], Durability::Durable), |_| true)?;
    let batch = [add, Change { key: "A.1", value: None, expect: Expect::Present }];
    ok("a batch", backend.write(&batch, Durability::Durable))?;
    put_stream(backend, "B.1", b"stream", 1)?;
    drop(ok("beginning", backend.write_stream("B.9"))?);
    ok("removing a stream", backend.remove_stream("B.1"))?;
    ok("removing no stream", backend.remove_stream("B.1"))?;
    put(backend, "B.1", b"[]")?;
    ok("clearing", backend.clear())?;
    let event = |(key, kind): (&str, EventKind)| Event { key: key.to_owned(), kind };
    let want = [
        ("A.1", EventKind::Added),
        ("A.1", EventKind::Updated),
        ("B.1", EventKind::Added),
        ("A.1", EventKind::Removed),
        ("B.1", EventKind::Stream),
        ("B.1", EventKind::Stream),
        ("B.1", EventKind::Updated),
        ("", EventKind::Cleared),
    ]
    .map(event);
    let told: Vec<Event> = std::iter::from_fn(|| all.try_next()).collect();
    same("the events", &told, want.as_slice())?;
    let told: Vec<Event> = std::iter::from_fn(|| some.try_next()).collect();
    let want: Vec<Event> = want.into_iter().filter(|event| !event.key.starts_with('A')).collect();
    same("the events of a prefix", told, want)
}

fn clear(backend: &dyn Backend) -> Outcome {
    for round in 0..2 {
        for key in odd_keys() {
            put(backend, &key, b"{}")?;
        }
        for key in ["A.1", "B/1", "long".repeat(200).as_str()] {
            put_stream(backend, key, &noise(300_000, round), 100_000)?;
        }
        ok("clearing", backend.clear())?;
        same("the keys", keys_of(backend, "")?, Vec::<String>::new())?;
        same("the streams", streams(backend, "")?, Vec::<String>::new())?;
        same("a stream", get_stream(backend, "A.1")?, None)?;
        same("a value", get(backend, "A.1")?, None)?;
    }
    ok("clearing what is empty", backend.clear())
}

fn sync(backend: &dyn Backend) -> Outcome {
    ok("syncing nothing", backend.sync())?;
    for number in 0..300 {
        put(backend, &format!("A.{number}"), b"{}")?;
        if number % 50 == 0 {
            ok("syncing", backend.sync())?;
        }
    }
    ok("removing", backend.remove("A.7"))?;
    put_stream(backend, "F.1", b"stream", 1)?;
    ok("syncing", backend.sync())?;
    ok("syncing again", backend.sync())
}

fn closed(backend: &dyn Backend) -> Outcome {
    put(backend, "A.1", b"{}")?;
    put_stream(backend, "F.1", b"stream", 1)?;
    ok("closing", backend.close())?;
    ok("closing again", backend.close())?;
    let is_closed = |error: &Error| matches!(error, Error::Closed { .. });
    refused("get", backend.get("A.1"), is_closed)?;
    refused("has", backend.has("A.1"), is_closed)?;
    refused(
        "keys_in",
        backend.keys_in(&Range::default()).and_then(|keys| keys.collect::<Result<Vec<_>, _>>()),
        is_closed,
    )?;
    refused("entries_in", backend.entries_in(&Range::default()).map(|_| ()), is_closed)?;
    refused("count_in", backend.count_in(&Range::default()), is_closed)?;
    refused("write", backend.add("A.2", b"{}"), is_closed)?;
    refused("an empty write", backend.write(&[], Durability::Buffered), is_closed)?;
    refused("read_stream", backend.read_stream("F.1"), is_closed)?;
    refused("write_stream", backend.write_stream("F.1").map(|_| ()), is_closed)?;
    refused("remove_stream", backend.remove_stream("F.1"), is_closed)?;
    refused("rename_stream", backend.rename_stream("F.1", "F.2", Durability::Buffered), is_closed)?;
    refused("streams", backend.streams("").map(|_| ()), is_closed)?;
    refused("sync", backend.sync(), is_closed)?;
    refused("clear", backend.clear(), is_closed)?;
    same("path", backend.path("F.1"), None)?;
    ok("closing once more", backend.close())
}

fn closed_with_streams(backend: &dyn Backend) -> Outcome {
    put_stream(backend, "F.1", &noise(1_000_000, 1), 100_000)?;
    let _read = ok("opening", backend.read_stream("F.1"))?;
    let mut finished = ok("beginning", backend.write_stream("F.2"))?;
    ok("writing", finished.write_all(&noise(1_000_000, 2)))?;
    let mut keys = ok("listing", backend.keys_in(&Range::default()))?;
    ok("closing", backend.close())?;
    // What comes of them is an end or an error, and no panic.
    let _ = keys.next();
    let finished = finished.finish(Durability::Durable);
    refused("finishing a stream", finished, |error| matches!(error, Error::Closed { .. }))
}

fn reopened(open: &Open) -> Outcome {
    let (keys, values) = (odd_keys(), odd_values());
    let backend = ok("opening", open())?;
    for (key, value) in keys.iter().zip(values.iter().cycle()) {
        put(&*backend, key, value)?;
        put_stream(&*backend, key, key.as_bytes(), 100)?;
    }
    put_stream(&*backend, "F.1", &noise(2_000_000, 1), 100_000)?;
    let before = entries(&*backend)?;
    ok("closing", backend.close())?;
    drop(backend);
    for _ in 0..2 {
        let backend = ok("opening again", open())?;
        same("the values", &entries(&*backend)?, &before)?;
        for key in &keys {
            same(&format!("the stream of {key:?}"), get_stream(&*backend, key)?.as_deref(), Some(key.as_bytes()))?;
        }
        let found = get_stream(&*backend, "F.1")?;
        same("a long stream", found.is_some_and(|found| found == noise(2_000_000, 1)), true)?;
        same("how many streams there are", streams(&*backend, "")?.len(), keys.len() + 1)?;
        ok("closing", backend.close())?;
    }
    Ok(())
}

fn removed(open: &Open) -> Outcome {
    let backend = ok("opening", open())?;
    put(&*backend, "A.1", b"{}")?;
    put(&*backend, "A.2", b"{}")?;
    put_stream(&*backend, "A.1", b"stream", 1)?;
    ok("removing", backend.remove("A.1"))?;
    ok("removing", backend.remove_stream("A.1"))?;
    ok("closing", backend.close())?;
    drop(backend);
    let backend = ok("opening again", open())?;
    same("the keys", keys_of(&*backend, "")?, ["A.2"])?;
    same("the streams", streams(&*backend, "")?, Vec::<String>::new())?;
    ok("clearing", backend.clear())?;
    ok("closing", backend.close())?;
    drop(backend);
    let backend = ok("opening once more", open())?;
    same("the keys", keys_of(&*backend, "")?, Vec::<String>::new())
}

fn unfinished(open: &Open) -> Outcome {
    let backend = ok("opening", open())?;
    put_stream(&*backend, "F.1", b"old", 1)?;
    let mut stream = ok("beginning", backend.write_stream("F.1"))?;
    ok("writing", stream.write_all(&noise(3_000_000, 1)))?;
    ok("closing", backend.close())?;
    drop(stream);
    drop(backend);
    let backend = ok("opening again", open())?;
    same("the old one", get_stream(&*backend, "F.1")?.as_deref(), Some(b"old".as_slice()))?;
    same("the streams", streams(&*backend, "")?, ["F.1"])
}

fn not_closed(open: &Open) -> Outcome {
    let backend = ok("opening", open())?;
    put(&*backend, "A.1", b"{}")?;
    put_stream(&*backend, "F.1", b"stream", 1)?;
    ok("syncing", backend.sync())?;
    drop(backend);
    let backend = ok("opening again", open())?;
    same("the keys", keys_of(&*backend, "")?, ["A.1"])?;
    same("the stream", get_stream(&*backend, "F.1")?.as_deref(), Some(b"stream".as_slice()))
}
