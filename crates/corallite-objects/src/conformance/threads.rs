//! Many threads at once.

use std::thread;

use super::data::{get, keys_of, noise, put, put_stream};
use super::{Check, Outcome, ok, same};
use crate::Error;
use crate::backend::{Backend, BackendExt, Change, Durability, Expect, Range};

const THREADS: usize = 8;

pub(super) const CHECKS: &[Check] = &[
    ("of many who add the same key, one succeeds", one_adds),
    ("a counter that many swap loses no increment", counter),
    ("many may write and read at once, and nothing is lost or mixed", all_at_once),
    ("streams that many write to one key are never mixed", mixed_streams),
];

/// Runs `work` in so many threads; the first failure is the outcome.
fn together(work: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS).map(|number| (number, &work)).collect();
        let handles: Vec<_> = handles.into_iter().map(|(number, work)| scope.spawn(move || work(number))).collect();
        handles.into_iter().try_for_each(|handle| handle.join().unwrap_or(Err("a thread panicked".to_owned())))
    })
}

fn one_adds(backend: &dyn Backend) -> Outcome {
    let won = parking_lot::Mutex::new(Vec::new());
    together(|thread| {
        for number in 0..20 {
            let key = format!("A.{number}");
            let value = thread.to_string();
            let change = Change { key: &key, value: Some(value.as_bytes()), expect: Expect::Absent };
            match backend.write(&[change], Durability::Buffered) {
                Ok(()) => won.lock().push((key, value)),
                Err(Error::Exists { .. }) => {}
                Err(error) => return Err(format!("adding failed: {error}")),
            }
        }
        Ok(())
    })?;
    let won = won.into_inner();
    same("how many additions succeeded", won.len(), 20)?;
    won.iter()
        .try_for_each(|(key, value)| same("the winner's value", get(backend, key)?.as_deref(), Some(value.as_bytes())))
}

fn counter(backend: &dyn Backend) -> Outcome {
    put(backend, "A.counter", b"0")?;
    together(|_| {
        for _ in 0..25 {
            loop {
                let old = get(backend, "A.counter")?.ok_or("the counter is gone")?;
                let number: u64 = ok("parsing", String::from_utf8_lossy(&old).parse())?;
                let new = (number + 1).to_string();
                let change = Change { key: "A.counter", value: Some(new.as_bytes()), expect: Expect::Value(&old) };
                match backend.write(&[change], Durability::Buffered) {
                    Ok(()) => break,
                    Err(Error::Changed { .. }) => {}
                    Err(error) => return Err(format!("a swap failed: {error}")),
                }
            }
        }
        Ok(())
    })?;
    same("the counter", get(backend, "A.counter")?.as_deref(), Some((THREADS * 25).to_string().as_bytes()))
}

fn all_at_once(backend: &dyn Backend) -> Outcome {
    together(|thread| {
        for number in 0..30 {
            let key = format!("A{thread}.{number:02}");
            ok(
                "adding",
                backend
                    .write(&[Change { key: &key, value: Some(b"{}"), expect: Expect::Absent }], Durability::Buffered),
            )?;
            // Whole values only, of one writer or another.
            let (value, shared) = (vec![b'a' + thread as u8; 3_000], format!("Shared.{}", number % 3));
            put(backend, &shared, &value)?;
            let found = get(backend, &shared)?.ok_or("a shared value is gone")?;
            same("whether it is whole", found.len() == 3_000 && found.iter().all(|byte| *byte == found[0]), true)?;
            if number % 10 == 0 {
                for entry in ok("listing", backend.entries_in(&Range::default()))? {
                    ok("going on", entry)?;
                }
            }
            if number % 2 == 1 {
                ok(
                    "removing",
                    backend.write(&[Change { key: &key, value: None, expect: Expect::Present }], Durability::Buffered),
                )?;
            }
        }
        Ok(())
    })?;
    for thread in 0..THREADS {
        let want: Vec<String> = (0..30).step_by(2).map(|number| format!("A{thread}.{number:02}")).collect();
        same("the keys of a thread", keys_of(backend, &format!("A{thread}."))?, want)?;
    }
    same("the shared keys", ok("counting", backend.keys("Shared."))?.count(), 3)
}

fn mixed_streams(backend: &dyn Backend) -> Outcome {
    together(|thread| {
        let bytes = noise(600_000, thread as u64);
        put_stream(backend, "F.1", &bytes, 50_000)?;
        put_stream(backend, &format!("F.own.{thread}"), &bytes, 50_000)?;
        let mut found = Vec::new();
        if let Some(mut stream) = ok("opening", backend.read_stream("F.1"))? {
            ok("reading", std::io::Read::read_to_end(&mut stream, &mut found))?;
        }
        same("whose it is", (0..THREADS).filter(|thread| noise(600_000, *thread as u64) == found).count(), 1)
    })?;
    for thread in 0..THREADS {
        let found = super::data::get_stream(backend, &format!("F.own.{thread}"))?;
        same("a thread's own", found.is_some_and(|found| found == noise(600_000, thread as u64)), true)?;
    }
    Ok(())
}
