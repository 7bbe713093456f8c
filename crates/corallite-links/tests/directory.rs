//! The directory and its buckets show every key once, wherever its partition is, and say what is damaged.

mod common;

use std::collections::BTreeMap;
use std::ops::Range;

use common::scene::{self, BUCKET, Files, apply, open, options, regions, store};
use common::{Model, Outcome, Random, change, key};
use corallite_file::{Mode, SimulatedDisk};
use corallite_links::{AsyncCIDStore, Bucket, CIDStore, Change, DirectoryForm, Durability, E, Error, HashEntry};

/// The entries of all buckets; fails when a key comes twice, or when a bucket contradicts itself or the directory.
fn entries(store: &CIDStore) -> Outcome<BTreeMap<E, HashEntry>> {
    let directory = store.directory()?;
    let mut all = BTreeMap::new();
    let (mut count, mut last) = (0, None);
    for bucket in directory.buckets() {
        let bucket = bucket?;
        count += 1;
        let id = bucket.id();
        let follows = match last.replace(id) {
            Some(last) if last.partition == id.partition => id.number == last.number + 1,
            _ => id.number == 0,
        };
        assert!(follows, "{id} after {last:?}");
        assert!(bucket.local_depth() <= directory.global_depth(), "{bucket:?}");
        assert!(bucket.used() <= bucket.capacity() && bucket.capacity() == 120 * (1 + bucket.overflow_buckets()));
        assert!(
            bucket.entries().is_sorted_by_key(|entry| entry.key) && bucket.sorted_count() == bucket.entries().len()
        );
        assert_eq!(bucket.spill(), bucket.spills().next().map(|(_, pointer)| pointer));
        for entry in bucket.entries() {
            if all.insert(entry.key, *entry).is_some() {
                return Err(format!("{} comes twice", entry.key).into());
            }
        }
    }
    assert_eq!(count, directory.num_buckets()?);
    Ok(all)
}

/// Fails unless the buckets have the keys of the model, each in the bucket that is its, with the entry that it has alone.
fn assert_shows(store: &CIDStore, model: &Model) -> Outcome {
    let found = entries(store)?;
    if !found.keys().eq(model.keys()) {
        let missing = model.keys().filter(|key| !found.contains_key(key)).count();
        return Err(format!("{missing} of {} keys are missing, {} are there", model.len(), found.len()).into());
    }
    let directory = store.directory()?;
    for (index, (key, values)) in model.iter().enumerate() {
        let entry = found[key];
        assert_eq!(Some(entry), store.get_entry(*key)?, "{key}");
        match entry.spill {
            None => assert_eq!(entry.inline(), values, "{key}"),
            Some(_) => assert!(entry.inline().is_empty()),
        }
        assert!(entry.spill.is_some() || values.len() <= 4, "{key}");
        if index % 20 == 0 {
            let bucket = directory.bucket_of(*key)?;
            assert_eq!(bucket.get(*key), Some(&entry));
            assert!(bucket.get(E::from_str("absent")).is_none());
        }
    }
    directory.bucket_of(E::from_str("absent"))?;
    Ok(())
}

fn filled(store: &CIDStore, count: usize, keys: u64) -> Outcome<Model> {
    let mut model = Model::new();
    let mut random = Random::new(7);
    let changes: Vec<Change> = (0..count).map(|_| change(&mut random, keys)).collect();
    for some in changes.chunks(5000) {
        apply(store, &mut model, some, Durability::Buffered)?;
    }
    Ok(model)
}

#[test]
fn buckets_of_loaded_partitions_show_every_key_once_with_its_cells() -> Outcome {
    // Many partitions of a few buckets, and one of more buckets than are read at once.
    for (partition_bytes, several) in [(64 << 10, true), (16 << 20, false)] {
        let disk = SimulatedDisk::new();
        let store = open(&disk, Mode::Append, options().partition_bytes(partition_bytes))?;
        let model = filled(&store, 60_000, 20_000)?;
        let directory = store.directory()?;
        let statistics = store.statistics()?;
        assert_eq!((directory.partitions() as u64, statistics.partitions), (statistics.loaded, statistics.loaded));
        assert_eq!((directory.partitions() > 1, directory.form()), (several, statistics.directory));
        assert!(directory.num_buckets()? > 200, "{statistics:?}");
        assert_shows(&store, &model)?;
        for bucket in directory.buckets() {
            let bucket = bucket?;
            let cells = |entry: &HashEntry| if entry.spill.is_some() { 1 } else { entry.inline().len() as u32 };
            assert_eq!(bucket.used(), bucket.entries().iter().map(cells).sum::<u32>());
        }
    }
    Ok(())
}

#[test]
fn buckets_in_the_file_show_every_key_once_in_every_form_of_the_directory() -> Outcome {
    for (partition_bytes, keys, form) in [
        (4 << 20, 2000, DirectoryForm::Attribute),
        (256 << 10, 20_000, DirectoryForm::Dataset),
        (32 << 10, 20_000, DirectoryForm::Sharded),
    ] {
        let disk = SimulatedDisk::new();
        let store = open(&disk, Mode::Append, options().partition_bytes(partition_bytes))?;
        let model = filled(&store, 3 * keys as usize, keys)?;
        store.close()?;
        let store = open(&disk, Mode::Read, options())?;
        assert_eq!((store.statistics()?.loaded, store.directory()?.form()), (0, Some(form)));
        assert_shows(&store, &model)?;
        assert!(store.directory()?.buckets().all(|bucket| bucket.is_ok_and(|bucket| bucket.used() > 0)));
    }
    Ok(())
}

#[test]
fn changes_beside_a_file_are_in_its_buckets() -> Outcome {
    // A killed store: its partition is in the file, changes are in runs and in the log.
    let (scene, _) = scene::small(true)?;
    let store = open(&scene.disk(), Mode::Read, options())?;
    assert!(store.recovered().is_some_and(|recovered| recovered.batches > 0));
    assert_shows(&store, &scene.model)?;
    // One that is written to, with too little memory to load anything.
    let (scene, _) = scene::small(false)?;
    let mut model = scene.model.clone();
    let store = open(&scene.disk(), Mode::Append, options().memory(1 << 20))?;
    let before = entries(&store)?;
    let mut changes = vec![Change::delete(key(3)), Change::delete_value(key(1), model[&key(1)][0])];
    changes.extend((0..6).map(|value| Change::insert(key(5001), E::new(value))));
    changes.extend(model[&key(2)].iter().skip(2).map(|value| Change::delete_value(key(2), *value)));
    // Enough of them that most keys of the file share a list of the overlay with one.
    changes.extend((6000..6800).map(|number| Change::insert(key(number), E::new(number.into()))));
    apply(&store, &mut model, &changes, Durability::Buffered)?;
    assert_eq!(store.statistics()?.loaded, 0);
    assert_shows(&store, &model)?;
    let after = entries(&store)?;
    let spill = |number| after[&key(number)].spill.map(|pointer| pointer.reference);
    assert_eq!((spill(5001), spill(2), after.contains_key(&key(3))), (Some(u64::MAX), None, false));
    let changed: Vec<E> = changes.iter().map(|change| change.key).collect();
    for (key, entry) in before.iter().filter(|(key, _)| !changed.contains(key)) {
        assert_eq!(after.get(key), Some(entry), "{key} did not change");
    }
    assert!(before.len() > 500);
    Ok(())
}

#[test]
fn spilled_keys_have_a_pointer_each_and_a_bucket_the_first() -> Outcome {
    let disk = SimulatedDisk::new();
    let links = open(&disk, Mode::Append, options())?;
    let mut model = Model::new();
    let sizes = [(1, 5), (2, 64), (3, 300), (4, 4), (5, 1)];
    let changes: Vec<Change> = sizes
        .into_iter()
        .flat_map(|(number, count)| (0..count).map(move |value| Change::insert(key(number), E::new(value))))
        .collect();
    apply(&links, &mut model, &changes, Durability::Buffered)?;
    let expected: Vec<E> = model.iter().filter(|(_, values)| values.len() > 4).map(|(key, _)| *key).collect();
    let check = |links: &CIDStore, is_stored: bool| -> Outcome {
        assert_shows(links, &model)?;
        let bucket: Bucket = links.directory()?.bucket_of(key(1))?;
        let (keys, pointers): (Vec<E>, Vec<_>) = bucket.spills().unzip();
        assert_eq!((keys, bucket.spill()), (expected.clone(), pointers.first().copied()));
        assert_eq!(bucket.used(), 3 + 4 + 1);
        let sorted = |number| bucket.get(key(number)).and_then(|entry| entry.spill).map(|spill| spill.sorted_count);
        assert_eq!((sorted(3).is_some_and(|sorted| sorted > 0), sorted(4)), (true, None));
        assert!(pointers.iter().all(|pointer| (pointer.checksum != 0) == is_stored));
        Ok(())
    };
    check(&links, false)?;
    links.close()?;
    check(&open(&disk, Mode::Read, options())?, true)
}

#[test]
fn keys_that_share_their_hash_bits_are_in_one_bucket_with_its_overflow_buckets() -> Outcome {
    // The hash of `docs/links.md` under the seed of the tests.
    fn hash(key: u64) -> u64 {
        const ROUND: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |left: u64, right: u64| {
            let product = u128::from(left) * u128::from(right);
            product as u64 ^ (product >> 64) as u64
        };
        let first = fold(1, key ^ 2 ^ ROUND);
        fold(first ^ 2, key.rotate_left(32) ^ ROUND) ^ first.rotate_left(23)
    }
    let disk = SimulatedDisk::new();
    let links = open(&disk, Mode::Append, options())?;
    let mut model = Model::new();
    let colliding: Vec<Change> = (0..)
        .filter(|key| hash(*key) >> 48 == 0)
        .take(300)
        .map(|key| Change::insert(E::new(key.into()), E::new(1)))
        .collect();
    apply(&links, &mut model, &colliding, Durability::Buffered)?;
    let others: Vec<Change> = (0..500).map(|number| Change::insert(key(number), E::new(2))).collect();
    apply(&links, &mut model, &others, Durability::Buffered)?;
    let check = |links: &CIDStore| -> Outcome {
        assert_shows(links, &model)?;
        let bucket = links.directory()?.bucket_of(colliding[0].key)?;
        assert!(colliding.iter().all(|change| bucket.get(change.key).is_some()));
        assert!((2..5).contains(&bucket.overflow_buckets()) && bucket.used() >= 300, "{bucket:?}");
        Ok(())
    };
    check(&links)?;
    links.close()?;
    check(&open(&disk, Mode::Read, options())?)
}

/// The file with a bit flipped in one of its datasets.
fn flipped(files: &Files, region: &str, at: impl Fn(&Range<usize>) -> usize) -> Outcome<Files> {
    let place = at(regions(files)?.get(region).ok_or("there is no such dataset")?);
    let mut files = files.clone();
    files.get_mut(store()).ok_or("no file")?[place] ^= 4;
    Ok(files)
}

/// The keys of the buckets that can be read, and the places of the others.
fn readable(links: &CIDStore) -> Outcome<(Vec<E>, Vec<String>)> {
    let (mut keys, mut damaged) = (Vec::new(), Vec::new());
    for bucket in links.directory()?.buckets() {
        match bucket {
            Ok(bucket) => keys.extend(bucket.entries().iter().map(|entry| entry.key)),
            Err(Error::Damaged { path, place, .. }) if path == store() => damaged.push(place),
            Err(error) => return Err(error.into()),
        }
    }
    keys.sort_unstable();
    Ok((keys, damaged))
}

#[test]
fn a_damaged_bucket_is_an_error_and_those_after_it_follow() -> Outcome {
    let (scene, _) = scene::small(false)?;
    // The same without changes beside the image, which would be another way to come by the damage.
    let mut whole = scene.clone();
    let disk = whole.disk();
    let links = open(&disk, Mode::Append, options())?;
    links.compact()?;
    links.close()?;
    *whole.main() = disk.read(store()).ok_or("no file")?;
    for scene in [scene, whole] {
        let files = flipped(&scene.files, "/buckets/00000000", |range| range.start + BUCKET + 2000)?;
        // Read from the file, by a writer too, which cannot load the partition.
        for mode in [Mode::Read, Mode::Append] {
            let links = open(&SimulatedDisk::with_files(files.clone()), mode, options())?;
            let (keys, damaged) = readable(&links)?;
            assert_eq!(damaged, ["/buckets/00000000, bucket 1"]);
            let (right, wrong): (Vec<E>, Vec<E>) = scene.model.keys().partition(|key| links.get(**key).is_ok());
            assert_eq!(keys, right);
            assert!(right.len() > 100 && wrong.len() > 20, "{} {}", right.len(), wrong.len());
            let directory = links.directory()?;
            assert!(wrong.iter().all(|key| matches!(directory.bucket_of(*key), Err(Error::Damaged { .. }))));
            assert!(right.iter().all(|key| directory.bucket_of(*key).is_ok_and(|bucket| bucket.get(*key).is_some())));
            assert_eq!(directory.num_buckets()?, directory.buckets().count() as u64);
        }
    }
    Ok(())
}

#[test]
fn a_damaged_value_set_makes_its_bucket_an_error() -> Outcome {
    let (scene, _) = scene::small(false)?;
    let files = flipped(&scene.files, "/values/00000000", |range| range.start + 100)?;
    let links = open(&SimulatedDisk::with_files(files), Mode::Read, options())?;
    let (keys, damaged) = readable(&links)?;
    assert!(damaged.len() == 1 && damaged[0].starts_with("/values/00000000, unit "), "{damaged:?}");
    assert!(keys.len() < scene.model.len() && keys.len() > 100, "{}", keys.len());
    Ok(())
}

#[test]
fn a_damaged_directory_is_an_error_for_its_partition_and_the_others_follow() -> Outcome {
    let scene = scene::divided()?;
    let files = flipped(&scene.files, "/dir", |range| range.start)?;
    let links = open(&SimulatedDisk::with_files(files), Mode::Read, options())?;
    let (keys, damaged) = readable(&links)?;
    assert!(damaged.len() == 1 && damaged[0].starts_with("the directory of partition "), "{damaged:?}");
    let right: Vec<E> = scene.model.keys().copied().filter(|key| links.get(*key).is_ok()).collect();
    assert_eq!(keys, right);
    assert!(keys.len() > 100 && keys.len() < scene.model.len() - 100);
    let directory = links.directory()?;
    assert!(matches!(directory.num_buckets(), Err(Error::Damaged { .. })));
    let wrong = scene.model.keys().find(|key| links.get(**key).is_err()).ok_or("all are right")?;
    assert!(matches!(directory.bucket_of(*wrong), Err(Error::Damaged { .. })));
    Ok(())
}

#[test]
fn keys_that_stay_come_once_while_buckets_and_partitions_are_split_and_merged() -> Outcome {
    let store = open(&SimulatedDisk::new(), Mode::Append, options().partition_bytes(64 << 10))?;
    let mut model = Model::new();
    let steady: Vec<Change> = (0..3000).map(|number| Change::insert(key(number), E::new(1))).collect();
    apply(&store, &mut model, &steady, Durability::Buffered)?;
    std::thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| -> corallite_links::Result<()> {
            for round in 0..6 {
                let numbers = 10_000 * (round + 1)..10_000 * (round + 2);
                let keys: Vec<E> = numbers.map(key).collect();
                for some in keys.chunks(500) {
                    store.batch_insert(&some.iter().map(|key| (*key, E::new(2))).collect::<Vec<_>>())?;
                }
                store.batch_delete(&keys)?;
                store.merge()?;
            }
            Ok(())
        });
        let mut rounds = 0;
        while !writer.is_finished() || rounds == 0 {
            let mut found: Vec<E> = Vec::new();
            for bucket in store.directory()?.buckets() {
                found.extend(bucket?.entries().iter().map(|entry| entry.key).filter(|key| model.contains_key(key)));
            }
            found.sort_unstable();
            if !found.iter().eq(model.keys()) {
                return Err(format!("round {rounds}: {} of {} keys", found.len(), model.len()).into());
            }
            rounds += 1;
        }
        Ok(writer.join().map_err(|_| "the writer panicked")??)
    })?;
    let metrics = store.get_metrics();
    assert!(metrics.splits > 100 && metrics.merges > 100, "{metrics:?}");
    Ok(())
}

#[test]
fn a_key_that_was_seen_is_not_seen_again_in_a_bucket_that_was_merged_with_others() -> Outcome {
    let store = open(&SimulatedDisk::new(), Mode::Append, options().log_bytes(8 << 20))?;
    let mut model = Model::new();
    let steady: Vec<Change> = (0..100).map(|number| Change::insert(key(number), E::new(1))).collect();
    apply(&store, &mut model, &steady, Durability::Buffered)?;
    let others: Vec<E> = (1000..40_000).map(key).collect();
    store.batch_insert(&others.iter().map(|key| (*key, E::new(2))).collect::<Vec<_>>())?;
    let directory = store.directory()?;
    assert!(directory.num_buckets()? > 300);
    let mut buckets = directory.buckets();
    let mut found: Vec<E> = Vec::new();
    // Nothing is locked while it is held.
    for (index, bucket) in buckets.by_ref().enumerate() {
        found.extend(bucket?.entries().iter().map(|entry| entry.key).filter(|key| model.contains_key(key)));
        if index == 0 {
            store.batch_delete(&others)?;
            store.merge()?;
            assert!(directory.num_buckets()? <= 4);
        }
    }
    found.sort_unstable();
    assert!(found.iter().eq(model.keys()), "{} of {} keys", found.len(), model.len());
    Ok(())
}

#[test]
fn tasks_see_the_same_buckets() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let disk = SimulatedDisk::new();
    let store = open(&disk, Mode::Append, options().partition_bytes(64 << 10))?;
    filled(&store, 20_000, 5000)?;
    let wanted: Vec<Bucket> = store.directory()?.buckets().collect::<Result<_, Error>>()?;
    let view = store.directory()?;
    let figures = (view.partitions(), view.global_depth(), view.form(), view.num_buckets()?);
    let store = AsyncCIDStore::from(store);
    runtime.block_on(async {
        let directory = store.directory().await?;
        let mut found = Vec::new();
        let mut buckets = directory.buckets();
        while let Some(bucket) = buckets.next().await {
            found.push(bucket?);
        }
        assert_eq!(found, wanted);
        let (partitions, depth, form) = (directory.partitions(), directory.global_depth(), directory.form());
        assert_eq!((partitions, depth, form, directory.num_buckets().await?), figures);
        let some = wanted[3].entries()[0].key;
        assert_eq!(directory.bucket_of(some).await?, wanted[3]);
        store.close().await?;
        assert!(matches!(directory.num_buckets().await, Err(Error::Closed { .. })));
        let mut buckets = directory.buckets();
        assert!(matches!(buckets.next().await, Some(Err(Error::Closed { .. }))));
        assert!(buckets.next().await.is_none());
        Ok(())
    })
}
