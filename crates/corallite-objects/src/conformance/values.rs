//! One value, and batches of them.

use super::data::{entries, get, keys_of, noise, odd_keys, odd_values, put};
use super::{Check, Outcome, ok, refused, same};
use crate::Error;
use crate::backend::{Backend, BackendExt, Change, Durability, Expect};

pub(super) const CHECKS: &[Check] = &[
    ("a value is read back as it was written", read_back),
    ("adding, updating and removing need a key to be absent or present, and change nothing otherwise", expectations),
    ("a change may expect one value, and is told what there is instead", expected_value),
    ("a batch is done in order, and not at all when one expectation fails", batches),
    ("every key is kept apart from every other", every_key),
    ("every value is kept byte for byte", every_value),
    ("values of some megabytes are kept", large_values),
    ("an empty key and one of more than 1,024 bytes are refused", bad_keys),
];

fn read_back(backend: &dyn Backend) -> Outcome {
    same("an absent key", get(backend, "A.1")?, None)?;
    same("whether it is there", ok("has", backend.has("A.1"))?, false)?;
    ok("adding", backend.add("A.1", b"{\"a\":1}"))?;
    same("an added value", get(backend, "A.1")?.as_deref(), Some(b"{\"a\":1}".as_slice()))?;
    same("whether it is there", ok("has", backend.has("A.1"))?, true)?;
    ok("updating", backend.update("A.1", b"other"))?;
    same("an updated value", get(backend, "A.1")?.as_deref(), Some(b"other".as_slice()))?;
    ok("removing", backend.remove("A.1"))?;
    same("a removed value", get(backend, "A.1")?, None)?;
    same("the keys", keys_of(backend, "")?, Vec::<String>::new())
}

fn expectations(backend: &dyn Backend) -> Outcome {
    ok("adding", backend.add("A.1", b"first"))?;
    refused("adding it again", backend.add("A.1", b"second"), |error| matches!(error, Error::Exists { .. }))?;
    refused("updating another", backend.update("A.2", b"second"), |error| matches!(error, Error::Absent { .. }))?;
    refused("removing another", backend.remove("A.2"), |error| matches!(error, Error::Absent { .. }))?;
    same("all there is", entries(backend)?, [("A.1".to_owned(), b"first".as_slice().into())])?;
    let change = Change { key: "A.2", value: None, expect: Expect::Anything };
    ok("removing what may be absent", backend.write(&[change], Durability::Durable))?;
    put(backend, "A.1", b"second")?;
    put(backend, "A.2", b"second")?;
    same("a value set whatever there was", get(backend, "A.1")?.as_deref(), Some(b"second".as_slice()))?;
    let change = Change { key: "A.2", value: None, expect: Expect::Absent };
    let result = backend.write(&[change], Durability::Durable);
    refused("removing what has to be absent", result, |error| matches!(error, Error::Exists { .. }))?;
    same("it", get(backend, "A.2")?.as_deref(), Some(b"second".as_slice()))
}

fn expected_value(backend: &dyn Backend) -> Outcome {
    let swap =
        |key, old, new| backend.write(&[Change { key, value: new, expect: Expect::Value(old) }], Durability::Durable);
    ok("adding", backend.add("A.1", b"1"))?;
    ok("a swap", swap("A.1", b"1".as_slice(), Some(b"2".as_slice())))?;
    match swap("A.1", b"1", Some(b"3")) {
        Err(Error::Changed { key, found, .. }) => {
            same("the key it names", key, "A.1")?;
            same("what it found", found.as_deref(), Some(b"2".as_slice()))?;
        }
        other => return Err(format!("a swap of another value: {other:?}")),
    }
    same("the value", get(backend, "A.1")?.as_deref(), Some(b"2".as_slice()))?;
    match swap("A.2", b"", Some(b"3")) {
        Err(Error::Changed { found: None, .. }) => {}
        other => return Err(format!("a swap of an absent value: {other:?}")),
    }
    refused("removing another value", swap("A.1", b"", None), |error| matches!(error, Error::Changed { .. }))?;
    ok("removing the value", swap("A.1", b"2", None))?;
    same("all there is", entries(backend)?, Vec::new())
}

fn batches(backend: &dyn Backend) -> Outcome {
    let set = |key, value, expect| Change { key, value: Some(value), expect };
    let first: [Change<'_>; 3] = [
        set("A.1", b"1", Expect::Absent),
        set("A.2", b"2", Expect::Anything),
        Change { key: "A.3", value: None, expect: Expect::Anything },
    ];
    ok("a batch", backend.write(&first, Durability::Durable))?;
    ok("an empty batch", backend.write(&[], Durability::Durable))?;
    let before = entries(backend)?;
    same("its entries", before.len(), 2)?;
    let bad = [
        set("A.9", b"9", Expect::Present),
        set("A.1", b"9", Expect::Absent),
        set("A.1", b"9", Expect::Value(b"7")),
        set("", b"9", Expect::Anything),
    ];
    for bad in bad {
        for position in 0..3 {
            let mut changes = vec![
                set("A.4", b"4", Expect::Absent),
                Change { key: "A.1", value: None, expect: Expect::Present },
                set("A.2", b"22", Expect::Value(b"2")),
            ];
            changes.insert(position, bad);
            refused("a batch with a failing expectation", backend.write(&changes, Durability::Durable), |_| true)?;
            same("what there is after it", &entries(backend)?, &before)?;
        }
    }
    // Expectations are of what there is before the batch.
    let twice = [
        set("A.5", b"a", Expect::Absent),
        set("A.5", b"b", Expect::Absent),
        Change { key: "A.1", value: None, expect: Expect::Present },
        set("A.1", b"again", Expect::Value(b"1")),
        set("A.2", b"gone", Expect::Anything),
        Change { key: "A.2", value: None, expect: Expect::Present },
    ];
    ok("a batch that changes keys twice", backend.write(&twice, Durability::Buffered))?;
    let want = [("A.1".to_owned(), b"again".as_slice().into()), ("A.5".to_owned(), b"b".as_slice().into())];
    same("what there is after it", entries(backend)?, want)?;
    let keys: Vec<String> = (0..1_000).map(|number| format!("B.{number:04}")).collect();
    let many: Vec<Change<'_>> = keys.iter().map(|key| set(key, key.as_bytes(), Expect::Anything)).collect();
    ok("a batch of 1,000", backend.write(&many, Durability::Buffered))?;
    same("its keys", keys_of(backend, "B.")?, keys)
}

fn every_key(backend: &dyn Backend) -> Outcome {
    let keys = odd_keys();
    for key in &keys {
        put(backend, key, format!("{key:?}").as_bytes())?;
    }
    for key in &keys {
        let what = format!("the value of {key:?}");
        same(&what, get(backend, key)?.as_deref(), Some(format!("{key:?}").as_bytes()))?;
        same(&what, ok("has", backend.has(key))?, true)?;
    }
    let listed = keys_of(backend, "")?;
    if let Some((listed, key)) = listed.iter().zip(&keys).find(|(listed, key)| listed != key) {
        return Err(format!("{listed:?} is listed instead of {key:?}"));
    }
    same("how many are listed", listed.len(), keys.len())?;
    let (gone, left): (Vec<_>, Vec<_>) = keys.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    for (_, key) in &gone {
        ok(&format!("removing {key:?}"), backend.remove(key))?;
    }
    same("those that are left", keys_of(backend, "")?, left.into_iter().map(|(_, key)| key).collect::<Vec<_>>())
}

fn every_value(backend: &dyn Backend) -> Outcome {
    let values = odd_values();
    for (number, value) in values.iter().enumerate() {
        put(backend, &format!("V.{number:03}"), value)?;
    }
    for (number, value) in values.iter().enumerate() {
        let key = format!("V.{number:03}");
        let shown: String = String::from_utf8_lossy(value).chars().take(40).collect();
        same(&format!("{shown:?}"), get(backend, &key)?.as_deref(), Some(value.as_slice()))?;
        // The same bytes are what it compares with.
        let change = Change { key: &key, value: Some(b"{}"), expect: Expect::Value(value) };
        ok(&format!("a swap of {shown:?}"), backend.write(&[change], Durability::Buffered))?;
    }
    Ok(())
}

fn large_values(backend: &dyn Backend) -> Outcome {
    let bytes = noise(5_000_000, 1);
    let text = format!("{{\"text\":\"{}\"}}", "ab ".repeat(1_700_000));
    put(backend, "L.bytes", &bytes)?;
    put(backend, "L.text", text.as_bytes())?;
    same("5 MB of bytes", get(backend, "L.bytes")?.is_some_and(|value| value == bytes), true)?;
    same("5 MB of JSON", get(backend, "L.text")?.is_some_and(|value| value == text.as_bytes()), true)?;
    put(backend, "L.bytes", b"")?;
    same("an empty value in its place", get(backend, "L.bytes")?.as_deref(), Some(b"".as_slice()))
}

fn bad_keys(backend: &dyn Backend) -> Outcome {
    for key in ["".to_owned(), "k".repeat(1_025), "é".repeat(513)] {
        let is_key = |error: &Error| matches!(error, Error::Key { .. });
        refused("adding to it", backend.add(&key, b""), is_key)?;
        for expect in [Expect::Anything, Expect::Present, Expect::Value(b"")] {
            let change = Change { key: &key, value: None, expect };
            refused("changing it", backend.write(&[change], Durability::Buffered), is_key)?;
        }
        refused("a stream of it", backend.write_stream(&key).map(|_| ()), is_key)?;
        same("its value", get(backend, &key)?, None)?;
        same("its stream", ok("opening a stream", backend.read_stream(&key))?.is_some(), false)?;
        same("removing its stream", ok("removing a stream", backend.remove_stream(&key))?, false)?;
        same("its path", backend.path(&key), None)?;
    }
    same("all there is", keys_of(backend, "")?, Vec::<String>::new())
}
