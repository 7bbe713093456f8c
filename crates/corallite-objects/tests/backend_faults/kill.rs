//! Processes that are killed, that meet, and that find no space.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use corallite_objects::Error;
use corallite_objects::backend::{Backend, BackendExt, Change, Durability, Expect, Range};

use super::{child, document, noise, open, place, put, put_stream, stream, task};

/// How long a stream of the child is. The dbm backend writes it in more than one transaction.
const STREAM: usize = 4_400_000;

/// What the child stores under a number, before it says so.
fn store(backend: &dyn Backend, number: usize) {
    match number % 5 {
        0 => put_stream(backend, &format!("F.{number}"), &noise(STREAM, number)).unwrap(),
        1 => {
            let key = format!("Buffered.{number}");
            backend.write(&[put(&key, &document(number))], Durability::Buffered).unwrap();
            backend.sync().unwrap();
        }
        _ => {
            let keys = [0, 1, 2].map(|part| format!("Batch.{number}.{part}"));
            let value = document(number);
            let mut changes: Vec<Change<'_>> = keys.iter().map(|key| put(key, &value)).collect();
            let counter = number.to_string();
            changes.push(put("Counter.1", counter.as_bytes()));
            backend.write(&changes, Durability::Durable).unwrap();
        }
    }
}

#[test]
#[ignore = "is run by the others in a process of its own, which they kill"]
fn writer() {
    let Some((kind, place)) = task() else { return };
    let first: usize = std::env::var("CORALLITE_FIRST").unwrap().parse().unwrap();
    let backend = open(&kind, &place).unwrap();
    // It is never finished.
    let mut endless = backend.write_stream("F.endless").unwrap();
    endless.write_all(&noise(STREAM, 1)).unwrap();
    endless.flush().unwrap();
    for number in first.. {
        store(&*backend, number);
        writeln!(std::io::stdout(), "stored {number}").unwrap();
    }
}

/// Runs a writer until it has stored so many, kills it, and says what it stored last.
fn killed_writer(kind: &str, place: &Path, first: usize, acknowledged: usize) -> usize {
    let mut command = child("kill::writer", kind, place);
    let mut writer = command.env("CORALLITE_FIRST", first.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut stored = lines.filter_map(|line| line.unwrap().split_once("stored ")?.1.trim().parse().ok());
    let last = stored.by_ref().take(acknowledged).last().expect("the writer stored nothing");
    writer.kill().unwrap();
    writer.wait().unwrap();
    // It may have said more before it died.
    stored.last().unwrap_or(last)
}

/// Checks that all that was acknowledged is there, and nothing is there in part.
fn check(backend: &dyn Backend, last: usize) {
    let entries: BTreeMap<_, _> = backend.entries_in(&Range::default()).unwrap().map(|entry| entry.unwrap()).collect();
    for number in 0..=last {
        match number % 5 {
            0 => assert_eq!(stream(backend, &format!("F.{number}")), Some(noise(STREAM, number)), "stream {number}"),
            1 => assert_eq!(entries[&format!("Buffered.{number}")], document(number)),
            _ => (0..3).for_each(|part| assert_eq!(entries[&format!("Batch.{number}.{part}")], document(number))),
        }
    }
    for (key, value) in &entries {
        let Some(number) = key.split('.').nth(1).and_then(|number| number.parse().ok()) else { panic!("{key}") };
        if key.starts_with("Counter.") {
            let counter: usize = std::str::from_utf8(value).unwrap().parse().unwrap();
            assert!(counter + 2 >= last, "the counter is {counter}, {last} was acknowledged");
        } else {
            assert_eq!(*value, document(number), "{key}");
        }
        if backend.is_atomic() && key.starts_with("Batch.") {
            assert!(
                (0..3).all(|part| entries.contains_key(&format!("Batch.{number}.{part}"))),
                "half of batch {number}"
            );
        }
    }
    for key in backend.streams("").unwrap() {
        let key = key.unwrap();
        let number = key.strip_prefix("F.").unwrap().parse().expect("a stream that was not finished");
        assert_eq!(stream(backend, &key), Some(noise(STREAM, number)));
    }
}

fn temporaries(place: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(place.join("directory/.corallite")) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("tmp-")).count()
}

fn kill_loop(kind: &str) {
    let place = place();
    let mut first = 0;
    for acknowledged in [1, 4, 7, 2, 12] {
        let last = killed_writer(kind, place.path(), first, acknowledged);
        assert_eq!(temporaries(place.path()) > 0, kind == "directory", "the unfinished stream has a temporary file");
        let backend = open(kind, place.path()).unwrap();
        assert_eq!(temporaries(place.path()), 0);
        check(&*backend, last);
        backend.close().unwrap();
        // The number after it may be stored; storing it again is the same.
        first = last + 1;
    }
}

#[test]
fn what_a_killed_process_was_told_is_durable_is_in_the_directory_and_nothing_is_half_there() {
    kill_loop("directory");
}

#[test]
fn what_a_killed_process_was_told_is_durable_is_in_the_dbm_file_and_nothing_is_half_there() {
    kill_loop("dbm");
}

const INCREMENTS: usize = 40;

#[test]
#[ignore = "is run by the others, in several processes at once"]
fn incrementer() {
    let Some((kind, place)) = task() else { return };
    let backend = open(&kind, &place).unwrap_or_else(|error| panic!("{error}"));
    let mut done = 0;
    while done < INCREMENTS {
        let old = backend.get("A.counter").unwrap().unwrap();
        let new = (String::from_utf8_lossy(&old).parse::<usize>().unwrap() + 1).to_string();
        let swap = Change { key: "A.counter", value: Some(new.as_bytes()), expect: Expect::Value(&old) };
        match backend.write(&[swap], Durability::Buffered) {
            Ok(()) => done += 1,
            Err(Error::Changed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_counter_that_several_processes_swap_in_a_directory_loses_no_increment() {
    let place = place();
    let backend = open("directory", place.path()).unwrap();
    backend.add("A.counter", b"0").unwrap();
    // While others come and go, a temporary file of this one stays.
    let mut begun = backend.write_stream("F.1").unwrap();
    begun.write_all(&noise(1_000_000, 1)).unwrap();
    let children: Vec<_> = (0..4)
        .map(|_| child("kill::incrementer", "directory", place.path()).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(backend.get("A.counter").unwrap().unwrap(), (4 * INCREMENTS).to_string().as_bytes());
    begun.finish(Durability::Durable).unwrap();
    assert_eq!(stream(&*backend, "F.1"), Some(noise(1_000_000, 1)));
}

#[test]
fn a_dbm_file_that_another_process_has_open_is_refused_and_says_so() {
    let place = place();
    let backend = open("dbm", place.path()).unwrap();
    backend.add("A.counter", b"0").unwrap();
    let output = child("kill::incrementer", "dbm", place.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(text.contains("file.dbm: it is open already") && text.contains("close it there first"), "{text}");
    assert_eq!(backend.get("A.counter").unwrap().unwrap(), b"0".as_slice());
}

#[test]
#[ignore = "is run by the others, in a process that may write small files only"]
fn limited() {
    let Some((kind, place)) = task() else { return };
    let backend = open(&kind, &place).unwrap();
    backend.add("A.1", b"old").unwrap();
    put_stream(&*backend, "F.1", b"old").unwrap();
    let long = noise(30_000_000, 1);
    let error = backend.update("A.1", &long).unwrap_err().to_string();
    assert!(error.contains(place.to_str().unwrap()), "{error}");
    assert!(error.contains("too large") || error.contains("space"), "{error}");
    // After such an error redb has to open its file again.
    backend.close().unwrap_or(());
    drop(backend);
    let backend = open(&kind, &place).unwrap();
    assert_eq!(backend.get("A.1").unwrap().unwrap(), b"old".as_slice());
    {
        let mut begun = backend.write_stream("F.1").unwrap();
        assert!(begun.write_all(&long).is_err() || begun.finish(Durability::Durable).is_err());
    }
    backend.close().unwrap_or(());
    drop(backend);
    let backend = open(&kind, &place).unwrap();
    assert_eq!(stream(&*backend, "F.1").unwrap(), b"old");
    backend.update("A.1", b"new").unwrap();
}

#[test]
fn where_there_is_no_space_an_error_says_so_and_the_old_values_stay() {
    for kind in ["directory", "dbm"] {
        let place = place();
        let plain = child("kill::limited", kind, place.path());
        let mut limited = std::process::Command::new("bash");
        // What is written beyond the limit fails instead of killing the process.
        limited
            .args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$0\" \"$@\""])
            .arg(plain.get_program())
            .args(plain.get_args());
        limited.env("CORALLITE_CHILD", place.path()).env("CORALLITE_KIND", kind);
        let output = limited.output().unwrap();
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        let backend = open(kind, place.path()).unwrap();
        assert_eq!(backend.get("A.1").unwrap().unwrap(), b"new".as_slice());
        assert_eq!(stream(&*backend, "F.1").unwrap(), b"old");
        assert_eq!(temporaries(place.path()), 0);
    }
}
