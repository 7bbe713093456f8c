//! The tree in the file does what a sorted map does.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

mod common;

use std::sync::Arc;

use common::{Keys, Model, Outcome, Random, batch, difference, key, write};
use corallite::StoreBackend;
use corallite::file::{Mode, Source, Storage};
use corallite::objects::backend::{Backend, Change, Durability, Expect, Range};

fn storage() -> Arc<Storage> {
    let storage = Storage::new(Source::Memory);
    storage.open(Mode::Append, false).unwrap();
    Arc::new(storage)
}

fn check(backend: &StoreBackend, model: &Model) {
    assert_eq!(difference(backend, model).unwrap(), None);
    let mut reversed: Vec<String> =
        backend.keys_in(&Range::default().reversed()).unwrap().collect::<Result<_, _>>().unwrap();
    reversed.reverse();
    assert!(reversed.iter().eq(model.keys()));
}

fn sound(storage: &Storage) {
    assert_eq!(StoreBackend::verify(storage).unwrap(), Vec::<String>::new());
}

fn random_work(seed: u64, keys: Keys, count: u64, steps: usize) -> Outcome {
    let storage = storage();
    let mut random = Random::new(seed);
    let mut model = Model::new();
    let mut backend = StoreBackend::with_cache(Arc::clone(&storage), 1 << 18)?;
    for step in 0..steps {
        let most = random.pick(&[1, 30, 300]);
        let changes = batch(&mut random, keys, count, most, &mut model);
        let durability = if random.one_in(2) { Durability::Durable } else { Durability::Buffered };
        write(&backend, &changes, durability)?;
        for _ in 0..5 {
            let key = key(keys, random.below(count));
            assert_eq!(backend.get(&key)?.as_deref(), model.get(&key).map(Vec::as_slice), "step {step}");
            assert_eq!(backend.has(&key)?, model.contains_key(&key));
        }
        let (from, to) = (key(keys, random.below(count)), key(keys, random.below(count)));
        let range = Range { from: from.clone(), to: Some(to.clone()), is_reversed: random.one_in(2) };
        let found: Vec<String> = backend.keys_in(&range)?.collect::<Result<_, _>>()?;
        let mut wanted: Vec<String> =
            if from < to { model.range(from..to).map(|(key, _)| key.clone()).collect() } else { Vec::new() };
        if range.is_reversed {
            wanted.reverse();
        }
        assert_eq!(found, wanted, "step {step}");
        if random.one_in(10) {
            check(&backend, &model);
            backend.sync()?;
            sound(&storage);
        }
        if random.one_in(15) {
            backend.close()?;
            backend = StoreBackend::with_cache(Arc::clone(&storage), 1 << 18)?;
            check(&backend, &model);
        }
    }
    // And away with all of it, in an order of its own.
    let mut keys: Vec<String> = model.keys().cloned().collect();
    keys.sort_by_key(|key| Random::new(key.len() as u64 ^ seed).next());
    for part in keys.chunks(97) {
        let changes: Vec<(String, Option<Vec<u8>>)> = part.iter().map(|key| (key.clone(), None)).collect();
        changes.iter().for_each(|(key, _)| _ = model.remove(key));
        write(&backend, &changes, Durability::Buffered)?;
    }
    check(&backend, &model);
    backend.sync()?;
    sound(&storage);
    Ok(())
}

#[test]
fn random_changes_leave_what_they_leave_in_a_sorted_map() {
    for (seed, keys, count) in
        [(1, Keys::Short, 3000), (2, Keys::Long, 800), (3, Keys::Mixed, 2000), (4, Keys::Short, 20)]
    {
        random_work(seed, keys, count, 200).unwrap();
    }
}

#[test]
fn keys_in_order_fill_pages_in_both_directions() {
    for is_descending in [false, true] {
        let storage = storage();
        let backend = StoreBackend::with_storage(Arc::clone(&storage)).unwrap();
        let mut model = Model::new();
        let before = storage.pages().unwrap().bytes();
        for part in 0..40_u64 {
            let numbers = (0..500).map(|number| part * 500 + number);
            let numbers: Vec<u64> =
                numbers.map(|number| if is_descending { 1_000_000 - number } else { number }).collect();
            let keys: Vec<String> = numbers.iter().map(|number| format!("Account.{number:032}")).collect();
            for key in &keys {
                // One by one, as an application would.
                let change = Change { key, value: Some(b"0123456789"), expect: Expect::Absent };
                backend.write(&[change], Durability::Buffered).unwrap();
                model.insert(key.clone(), b"0123456789".to_vec());
            }
        }
        backend.sync().unwrap();
        check(&backend, &model);
        sound(&storage);
        // 20,000 keys that differ in few bytes, 10 bytes each: about 20 with what a cell needs. The datasets double.
        let bytes = storage.pages().unwrap().bytes() - before;
        assert!(bytes < 112 * 4096 + 100_000, "{bytes} bytes for {}", model.len());
    }
}

#[test]
fn values_and_keys_of_every_length_come_back() {
    let storage = storage();
    let backend = StoreBackend::with_storage(Arc::clone(&storage)).unwrap();
    let mut random = Random::new(5);
    let mut model = Model::new();
    for length in (1..=1024).step_by(13).chain([1023, 1024]) {
        let key = "k".repeat(length);
        let value = random.bytes(length % 7 * length);
        write(&backend, &[(key.clone(), Some(value.clone()))], Durability::Buffered).unwrap();
        model.insert(key, value);
    }
    for length in [0, 1, 991, 992, 993, 4063, 4064, 4065, 8128, 8129, 100_000, 3_000_000] {
        let (key, value) = (format!("v{length}"), random.bytes(length));
        write(&backend, &[(key.clone(), Some(value.clone()))], Durability::Durable).unwrap();
        model.insert(key, value);
    }
    check(&backend, &model);
    sound(&storage);
    backend.close().unwrap();
    let backend = StoreBackend::with_cache(Arc::clone(&storage), 1 << 16).unwrap();
    check(&backend, &model);
    backend.clear().unwrap();
    check(&backend, &Model::new());
    sound(&storage);
}

#[test]
fn room_of_what_was_removed_is_used_again() {
    let storage = storage();
    let backend = StoreBackend::with_storage(Arc::clone(&storage)).unwrap();
    let mut random = Random::new(6);
    let mut lengths = Vec::new();
    for _ in 0..8 {
        let filled: Vec<(String, Option<Vec<u8>>)> =
            (0..2000).map(|number| (key(Keys::Mixed, number), Some(random.bytes(150)))).collect();
        write(&backend, &filled, Durability::Durable).unwrap();
        let emptied: Vec<(String, Option<Vec<u8>>)> = filled.into_iter().map(|(key, _)| (key, None)).collect();
        write(&backend, &emptied, Durability::Durable).unwrap();
        sound(&storage);
        lengths.push(storage.pages().unwrap().bytes());
    }
    assert_eq!(lengths[1], lengths[7], "{lengths:?}");
}
