//! The partitions in memory against a plain model.

use std::path::Path;
use std::sync::Arc;

use super::{Engine, Writer};
use crate::hash::Seed;
use crate::{Change, E, Operation, Values};

#[allow(dead_code, unreachable_pub, reason = "the integration tests use more of it")]
#[path = "../../tests/common/model.rs"]
mod model;

use model::{Model, Random, expect};

fn engine() -> (Engine, Writer) {
    let engine = Engine::new(Path::new("test"), Seed([11, 12]), u64::MAX, Arc::default()).unwrap();
    let mut writer = Writer::default();
    engine.begin(&mut writer).unwrap();
    (engine, writer)
}

fn check(engine: &Engine, writer: &Writer, model: &Model) {
    let mut values = Values::default();
    for (key, wanted) in model {
        engine.values(*key, &mut values).unwrap();
        assert_eq!(values.as_slice(), wanted, "{key}");
    }
    let mut found: Model = Model::new();
    let (mut keys, mut pairs) = (0, 0);
    for owned in writer.partitions.iter().flatten() {
        let hot = owned.hot.as_ref().unwrap();
        keys += hot.keys;
        pairs += hot.pairs;
        for (key, values) in engine.content(owned).unwrap() {
            assert!(found.insert(key, values.into()).is_none(), "{key} is there twice");
        }
    }
    assert_eq!(found.len(), model.len());
    assert_eq!(&found, model);
    assert_eq!(keys, model.len() as u64);
    assert_eq!(pairs, model.values().map(|values| values.len() as u64).sum::<u64>());
}

fn work(keys: impl Fn(&mut Random) -> E, steps: usize, seed: u64) -> (Engine, Writer, Model) {
    let (engine, mut writer) = engine();
    let mut random = Random::new(seed);
    let mut model = Model::new();
    for step in 0..steps {
        let key = keys(&mut random);
        let variety = if random.below(50) == 0 { 3000 } else { 8 };
        let value = E::new(u128::from(random.below(variety)));
        // It grows, shrinks, and grows again.
        let deletes = if (steps / 2..steps * 3 / 4).contains(&step) { 85 } else { 25 };
        let change = match random.below(100) {
            roll if roll >= deletes => Change::insert(key, value),
            roll if roll >= deletes / 3 => Change::delete_value(key, value),
            _ => Change::delete(key),
        };
        let moved = engine.apply(&mut writer, &[change], 0).unwrap();
        assert_eq!(moved, expect(&mut model, &change), "step {step}: {change:?}");
        if step % (steps / 5) == 0 {
            check(&engine, &writer, &model);
        }
    }
    check(&engine, &writer, &model);
    (engine, writer, model)
}

#[test]
fn random_changes_do_what_a_plain_map_does() {
    for seed in 0..3 {
        work(|random| E::new(u128::from(random.below(20_000)) << 64), 200_000, seed);
    }
}

#[test]
fn few_keys_with_many_values_do_what_a_plain_map_does() {
    work(|random| E::new(u128::from(random.below(40))), 100_000, 9);
}

#[test]
fn merging_partitions_and_buckets_changes_no_answer() {
    let (engine, mut writer, mut model) = work(|random| E::new(u128::from(random.next())), 300_000, 4);
    assert!(writer.count() > 1);
    let keys: Vec<E> = model.keys().copied().collect();
    for key in keys.iter().skip(keys.len() / 20) {
        let change = Change::delete(*key);
        engine.apply(&mut writer, &[change], 0).unwrap();
        expect(&mut model, &change);
    }
    let before: u64 = writer.allocator.bytes();
    for id in 0..writer.partitions.len() {
        let Writer { allocator, partitions, events, .. } = &mut writer;
        let Some(owned) = &mut partitions[id] else { continue };
        let mut arena = crate::arena::Arena { memory: &engine.memory, allocator };
        let slot = Some(engine.memory.slot(id as u32));
        owned.hot.as_mut().unwrap().merge(&mut arena, slot, engine.seed, events).unwrap();
    }
    check(&engine, &writer, &model);
    assert!(writer.allocator.bytes() < before / 4, "{} of {before}", writer.allocator.bytes());
    engine.join(&mut writer);
    assert_eq!(writer.count(), 1);
    check(&engine, &writer, &model);
}

#[test]
fn a_packed_partition_has_the_same_content_in_full_buckets_and_splits_again() {
    let (engine, mut writer, mut model) = work(|random| E::new(u128::from(random.next())), 60_000, 5);
    let Writer { allocator, partitions, .. } = &mut writer;
    let owned = partitions[0].as_mut().unwrap();
    let mut arena = crate::arena::Arena { memory: &engine.memory, allocator };
    let packed = owned.hot.as_ref().unwrap().pack(&mut arena, engine.seed, crate::bucket::CELLS).unwrap();
    let cells = model.values().map(|values| if values.len() > 4 { 1 } else { values.len() }).sum::<usize>();
    assert!(packed.buckets as usize <= cells * 10 / 9 / crate::bucket::CELLS + 1, "{} for {cells}", packed.buckets);
    engine.memory.slot(0).set_place(Some(packed.place()));
    owned.hot.replace(packed).unwrap().free_buckets(&mut arena);
    owned.must_fold = true;
    check(&engine, &writer, &model);
    let mut random = Random::new(6);
    for _ in 0..60_000 {
        let change = Change::insert(E::new(u128::from(random.next())), E::new(1));
        assert_eq!(engine.apply(&mut writer, &[change], 0).unwrap(), expect(&mut model, &change));
    }
    check(&engine, &writer, &model);
}

/// Keys whose hashes have the same top bits under the seed of the tests, as someone who knows it could make them.
fn colliding(count: usize, bits: u32) -> Vec<E> {
    let seed = Seed([11, 12]);
    (0_u128..).map(E::new).filter(|key| seed.hash(*key).prefix(bits) == 0).take(count).collect()
}

#[test]
fn keys_that_share_their_hash_bits_neither_blow_up_the_directory_nor_split_without_end() {
    let keys = colliding(3000, 10);
    let (engine, mut writer) = engine();
    let mut model = Model::new();
    // They also have every value that makes bits 10 to 63 equal as often as these keys do.
    for (number, key) in keys.iter().enumerate() {
        let change = Change::insert(*key, E::new(number as u128));
        engine.apply(&mut writer, &[change], 0).unwrap();
        expect(&mut model, &change);
    }
    check(&engine, &writer, &model);
    let hot = writer.partitions[0].as_ref().unwrap().hot.as_ref().unwrap();
    assert!((1_usize << hot.bits) <= 8 * hot.buckets as usize + 8, "{} bits, {} buckets", hot.bits, hot.buckets);
    for key in &keys {
        assert_eq!(engine.apply(&mut writer, &[Change::delete(*key)], 0).unwrap(), 1);
    }
    check(&engine, &writer, &Model::new());
}

#[test]
fn sequential_keys_spread_like_random_ones() {
    let (engine, mut writer) = engine();
    let changes: Vec<Change> = (0..200_000_u128).map(|key| Change::insert(E::new(key << 64), E::new(1))).collect();
    engine.apply(&mut writer, &changes, 0).unwrap();
    let bytes = writer.allocator.bytes() as f64 / 200_000.0;
    assert!(bytes < 75.0, "{bytes} bytes a key");
}

#[test]
fn readers_beside_the_writer_see_each_key_with_all_or_part_of_its_values_in_order() {
    let (engine, mut writer) = engine();
    let done = std::sync::atomic::AtomicBool::new(false);
    let steady: Vec<E> = (0..500).map(|number| E::new(1 << 100 | number)).collect();
    let changes: Vec<Change> = steady
        .iter()
        .flat_map(|key| (0..key.low() % 9 + 1).map(|value| Change::insert(*key, E::new(u128::from(value)))))
        .collect();
    engine.apply(&mut writer, &changes, 0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (engine, done, steady) = (&engine, &done, &steady);
            scope.spawn(move || {
                let mut values = Values::default();
                let mut random = Random::new(thread);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    // A key that does not change is whole, whatever happens around it.
                    let key = steady[random.below(500) as usize];
                    engine.values(key, &mut values).unwrap();
                    let wanted: Vec<E> = (0..key.low() % 9 + 1).map(|value| E::new(u128::from(value))).collect();
                    assert_eq!(values.as_slice(), wanted, "{key}");
                    assert!(engine.contains(key, wanted[0]).unwrap());
                    // One that does is ascending: that is the order of insertion.
                    let key = E::new(u128::from(random.below(300)));
                    engine.values(key, &mut values).unwrap();
                    assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{key}: {values:?}");
                }
            });
        }
        let mut random = Random::new(77);
        for round in 0..60_u128 {
            for value in 0..12 {
                let changes: Vec<Change> = (0..300).map(|key| Change::insert(E::new(key), E::new(value))).collect();
                engine.apply(&mut writer, &changes, 0).unwrap();
            }
            let fresh: Vec<Change> =
                (0..2000).map(|key| Change::insert(E::new((round + 1) << 80 | key), E::new(key))).collect();
            engine.apply(&mut writer, &fresh, 0).unwrap();
            let deleted: Vec<Change> = (0..300)
                .map(|key| match random.below(2) {
                    0 => Change::delete(E::new(key)),
                    _ => Change::delete_value(E::new(key), E::new(u128::from(random.below(12)))),
                })
                .collect();
            engine.apply(&mut writer, &deleted, 0).unwrap();
            let all: Vec<Change> = (0..300).map(|key| Change::delete(E::new(key))).collect();
            engine.apply(&mut writer, &all, 0).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
