//! Keys in order.

use super::data::{entries, get, keys, keys_of, odd_keys, put};
use super::{Check, Outcome, ensure, ok, same};
use crate::backend::{Backend, Change, Durability, Expect, Range};

pub(super) const CHECKS: &[Check] = &[
    ("keys come in the order of their bytes", order),
    ("a prefix has all keys that begin with it and no other", prefixes),
    ("a range has its keys, in both directions, and counts them", ranges),
    ("entries are the keys with their values", values),
    ("what is not changed meanwhile shows exactly once", changing),
];

fn order(backend: &dyn Backend) -> Outcome {
    let mut some = odd_keys();
    // Not in the order in which they are to come.
    some.reverse();
    let (first, second) = some.split_at(some.len() / 2);
    for key in second.iter().chain(first) {
        put(backend, key, b"{}")?;
    }
    let listed = keys_of(backend, "")?;
    ensure(listed.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()), || format!("not in order: {listed:?}"))?;
    some.reverse();
    same("the keys", listed, some)
}

fn prefixes(backend: &dyn Backend) -> Outcome {
    let all = odd_keys();
    for key in &all {
        put(backend, key, b"{}")?;
    }
    let long = "k".repeat(299);
    for prefix in [
        "A", "A.", "Ab.", "Account.", "account.", "a", "a.", "x", "x.", ".", "..", "/", "é", "🦀", "Long.", "Long.x",
        &long, "nothing", "nothing.",
    ] {
        let want: Vec<String> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        same(&format!("the keys of {prefix:?}"), keys_of(backend, prefix)?, want)?;
    }
    Ok(())
}

fn ranges(backend: &dyn Backend) -> Outcome {
    let mut all: Vec<String> = (0..600).map(|number| format!("A.{number:03}")).collect();
    all.extend(["A", "Ab.1", "Ab.2", "B.1", "a.1", "é.1"].map(str::to_owned));
    all.sort();
    for key in &all {
        put(backend, key, b"{}")?;
    }
    let bounds = [
        "",
        "A",
        "A.",
        "A.0",
        "A.255",
        "A.256",
        "A.2560",
        "A.599",
        "A.599\0",
        "A/",
        "Ab.1",
        "Ab.2",
        "C",
        "é",
        "\u{10ffff}",
    ];
    for from in bounds {
        for to in bounds.map(Some).into_iter().chain([None]) {
            let range = Range { from: from.to_owned(), to: to.map(str::to_owned), is_reversed: false };
            let mut want: Vec<String> = all.iter().filter(|key| range.contains(key)).cloned().collect();
            same(&format!("{range:?}"), &keys(backend, &range)?, &want)?;
            same(&format!("the count of {range:?}"), ok("counting", backend.count_in(&range))?, want.len() as u64)?;
            want.reverse();
            let range = range.reversed();
            same(&format!("{range:?}"), &keys(backend, &range)?, &want)?;
            same(&format!("the count of {range:?}"), ok("counting", backend.count_in(&range))?, want.len() as u64)?;
        }
    }
    let mut first = ok("listing", backend.keys_in(&Range::prefix("A.").reversed()))?;
    same("the first in reverse", first.next().and_then(|key| key.ok()).as_deref(), Some("A.599"))
}

fn values(backend: &dyn Backend) -> Outcome {
    let all = odd_keys();
    for key in &all {
        put(backend, key, key.as_bytes())?;
    }
    let want: Vec<_> = all.iter().map(|key| (key.clone(), key.as_bytes().to_vec().into())).collect();
    same("the entries", &entries(backend)?, &want)?;
    let reversed = ok("listing", backend.entries_in(&Range::default().reversed()))?;
    let reversed: Vec<_> = ok("listing", reversed.collect())?;
    same("the entries in reverse", reversed.iter().rev().collect::<Vec<_>>(), want.iter().collect::<Vec<_>>())
}

fn changing(backend: &dyn Backend) -> Outcome {
    let kept: Vec<String> = (0..700).map(|number| format!("A.{number:03}")).collect();
    for key in &kept {
        put(backend, key, b"{}")?;
        put(backend, &format!("{key}-gone"), b"{}")?;
    }
    for range in [Range::prefix("A."), Range::default(), Range::prefix("A.").reversed()] {
        let mut found = Vec::new();
        for (number, entry) in ok("listing", backend.entries_in(&range))?.enumerate() {
            let (key, value) = ok("going on", entry)?;
            if kept.contains(&key) {
                same("its value", value, b"{}".as_slice())?;
                found.push(key);
            }
            put(backend, &format!("A.{:03}-new", number % 700), b"{}")?;
            let gone = format!("A.{:03}-gone", (number * 7) % 700);
            if get(backend, &gone)?.is_some() {
                let change = Change { key: &gone, value: None, expect: Expect::Present };
                ok("removing", backend.write(&[change], Durability::Buffered))?;
            }
        }
        if range.is_reversed {
            found.reverse();
        }
        same("those that were left alone", &found, &kept)?;
    }
    Ok(())
}
