//! Whatever the files hold: what is answered is right, or an error says what is wrong with which file.

#![allow(clippy::expect_used, clippy::panic)] // the workspace lints exempt test functions, but not their helpers

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::scene::{self, BUCKET, Files, RECORD, Scene, log, open, options, regions, store};
use common::{Model, Outcome, Random, difference, key};
use corallite_file::{Mode, SimulatedDisk};
use corallite_links::{CIDStore, Change, DirectoryForm, Durability, E, Error};
use proptest::prelude::*;
use twox_hash::{XxHash3_64, XxHash3_128};

fn scene(live: bool) -> &'static (Scene, Model) {
    static SCENES: [OnceLock<(Scene, Model)>; 2] = [OnceLock::new(), OnceLock::new()];
    SCENES[usize::from(live)].get_or_init(|| scene::small(live).expect("a store can be made"))
}

fn divided() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| scene::divided().expect("a store can be made"))
}

/// An error names the file and what is wrong with it.
fn is_named(error: &Error) -> Outcome {
    let text = error.to_string();
    if text.contains("/disk/links.h5") { Ok(()) } else { Err(format!("the error names no file: {text}").into()) }
}

/// Whether every answer of a store is that of one of `allowed`, or an error; how many errors there were.
fn ask(links: &CIDStore, allowed: &[&Model]) -> Outcome<usize> {
    let mut left: Vec<&Model> = allowed.to_vec();
    let mut errors = 0;
    let mut agree = |what: &str, right: &dyn Fn(&Model) -> bool| -> Outcome {
        left.retain(|model| right(model));
        if left.is_empty() { Err(format!("{what} is wrong").into()) } else { Ok(()) }
    };
    let mut missed = |error: Error| -> Outcome {
        errors += 1;
        is_named(&error)
    };
    let none = Vec::new();
    for key in (0..1100).map(key) {
        match links.get(key) {
            Ok(values) => agree(&format!("{key}: {values:?}"), &|model| values == *model.get(&key).unwrap_or(&none))?,
            Err(error) => missed(error)?,
        }
        match links.contains(key, E::new(7)) {
            Ok(found) => agree(&format!("{key} contains 7"), &|model| {
                found == model.get(&key).is_some_and(|values| values.contains(&E::new(7)))
            })?,
            Err(error) => missed(error)?,
        }
    }
    let mut all = Model::new();
    let mut whole = true;
    for entry in links.snapshot()?.iter() {
        match entry {
            Ok((key, values)) => _ = all.insert(key, values.into()),
            Err(error) => {
                whole = false;
                missed(error)?;
            }
        }
    }
    if whole {
        agree("what a snapshot has", &|model| all == *model)?;
    }
    let (mut keys, mut whole) = (Vec::new(), true);
    for bucket in links.directory()?.buckets() {
        match bucket {
            Ok(bucket) => keys.extend(bucket.entries().iter().map(|entry| entry.key)),
            Err(error) => {
                whole = false;
                missed(error)?;
            }
        }
    }
    if whole {
        keys.sort_unstable();
        agree("what the buckets have", &|model| keys.iter().eq(model.keys()))?;
    }
    match links.count() {
        Ok(count) => agree(&format!("the count of {count}"), &|model| count == model.len() as u64)?,
        Err(error) => missed(error)?,
    }
    Ok(errors)
}

/// Opens what may be damaged, asks it everything, and where it may be written, writes, maintains, closes, and asks again.
/// Returns how much of that gave an error.
fn right_or_reported(files: &Files, mode: Mode, allowed: &[&Model]) -> Outcome<usize> {
    let disk = SimulatedDisk::with_files(files.clone());
    let mut errors = 0;
    let links = match open(&disk, mode, options()) {
        Ok(links) => links,
        Err(error) => return is_named(&error).map(|()| 1),
    };
    errors += ask(&links, allowed)?;
    if mode == Mode::Read {
        return Ok(errors);
    }
    // New keys, so that what is acknowledged is known although what else is there is not.
    let added: Vec<Change> = (5000..5040).map(|number| Change::insert(key(number), E::new(number.into()))).collect();
    let acknowledged = links.apply(&added, Durability::Durable);
    let outcomes = [
        links.background_maintenance().map(drop),
        links.gc().map(drop),
        links.checkpoint().map(drop),
        links.migrate_directory().map(drop),
        links.close(),
    ];
    for error in outcomes
        .into_iter()
        .chain([acknowledged.as_ref().map(drop).map_err(|_| Error::Closed { path: store().into() })])
        .filter_map(Result::err)
    {
        errors += 1;
        is_named(&error)?;
    }
    let links = match open(&disk, Mode::Append, options()) {
        Ok(links) => links,
        Err(error) => return is_named(&error).map(|()| errors + 1),
    };
    let with: Vec<Model> = allowed.iter().map(|model| with(model, &added)).collect();
    let mut allowed: Vec<&Model> = with.iter().collect();
    if acknowledged.is_err() {
        // Changes that were applied where others could not be are in the log all the same.
        return Ok(errors);
    }
    allowed.dedup();
    Ok(errors + ask(&links, &allowed).map_err(|error| format!("reopened: {error}"))?)
}

fn with(model: &Model, changes: &[Change]) -> Model {
    let mut model = model.clone();
    changes.iter().for_each(|change| _ = common::expect(&mut model, change));
    model
}

/// Damages `path` in each of the ways, and says how many of them were noticed.
fn damaged(
    scene: &Scene,
    path: &Path,
    ways: impl Iterator<Item = (String, Box<dyn Fn(&mut Vec<u8>)>)>,
    allowed: &[&Model],
) -> Outcome<usize> {
    let mut random = Random::new(3);
    let mut noticed = 0;
    for (what, damage) in ways {
        let mut files = scene.files.clone();
        damage(files.get_mut(path).ok_or("no such file")?);
        let mode = random.pick(&[Mode::Read, Mode::Read, Mode::Append]);
        let errors = right_or_reported(&files, mode, allowed).map_err(|error| format!("{what}, {mode}: {error}"))?;
        noticed += usize::from(errors > 0);
    }
    Ok(noticed)
}

type Way = (String, Box<dyn Fn(&mut Vec<u8>)>);

fn flip(place: usize, bit: u32) -> Way {
    (format!("bit {bit} of byte {place} flipped"), Box::new(move |bytes| bytes[place] ^= 1 << bit))
}

fn flips(range: Range<usize>, count: usize, seed: u64) -> impl Iterator<Item = Way> {
    let mut random = Random::new(seed);
    let length = range.len() as u64;
    (0..count).map(move |_| flip(range.start + random.below(length) as usize, random.below(8) as u32))
}

#[test]
fn a_flipped_bit_anywhere_in_the_file_is_reported_or_harmless() -> Outcome {
    let (scene, _) = scene(false);
    let length = scene.files[store()].len();
    damaged(scene, store(), flips(0..length, 150, 1), &[&scene.model])?;
    let regions = regions(&scene.files)?;
    assert!(regions.len() >= 6 && regions.keys().any(|name| name.contains("run_")), "{regions:?}");
    for (name, range) in regions.iter().filter(|(name, _)| !name.starts_with("/buckets")) {
        let noticed = damaged(scene, store(), flips(range.clone(), 25, 2), &[&scene.model]);
        // Every byte of these counts; of a value set only those asked for do, and here all are.
        let noticed = noticed.map_err(|error| format!("{name}: {error}"))?;
        assert_eq!(noticed, 25, "{name}");
    }
    Ok(())
}

#[test]
fn what_is_overwritten_or_cut_off_is_reported_or_harmless() -> Outcome {
    let (scene, _) = scene(false);
    let length = scene.files[store()].len();
    let mut random = Random::new(9);
    let cuts = (0..40).map(|_| {
        let to = random.below(length as u64) as usize;
        (format!("cut to {to} bytes"), Box::new(move |bytes: &mut Vec<u8>| bytes.truncate(to)) as _)
    });
    damaged(scene, store(), cuts, &[&scene.model])?;
    let mut random = Random::new(10);
    let pages = (0..80).map(|_| {
        let (at, fill) = (random.below(length as u64 - 512) as usize, random.pick(&[0, 0xff, 0x41]));
        (
            format!("512 bytes from {at} on are {fill}"),
            Box::new(move |bytes: &mut Vec<u8>| bytes[at..at + 512].fill(fill)) as _,
        )
    });
    damaged(scene, store(), pages, &[&scene.model])?;
    Ok(())
}

/// Where in a bucket its states lie.
const STATES: Range<usize> = 136..256;

#[test]
fn one_flipped_bit_of_a_state_is_corrected_and_counted_and_two_are_reported() -> Outcome {
    let (scene, _) = scene(false);
    let bucket = regions(&scene.files)?["/buckets/00000000"].start;
    for at in [STATES.start, STATES.start + 3, STATES.start + 77, STATES.end - 1] {
        for bit in 0..8 {
            let mut files = scene.files.clone();
            let bytes = files.get_mut(store()).ok_or("no file")?;
            bytes[bucket + at] ^= 1 << bit;
            let links = open(&SimulatedDisk::with_files(files.clone()), Mode::Append, options())?;
            assert_eq!(difference(&links, &scene.model)?, None);
            assert_eq!(links.get_metrics().ecc_corrections, 1, "byte {at} bit {bit}");
            // What is written anew is right.
            links.compact()?;
            links.close()?;
            let bytes = files.get_mut(store()).ok_or("no file")?;
            bytes[bucket + at] ^= (2 << (bit % 7)) | u8::from(bit == 7);
            let links = open(&SimulatedDisk::with_files(files), Mode::Read, options())?;
            let found = links.verify()?;
            assert!(found.len() == 1 && found[0].contains("/buckets/00000000, bucket 0"), "{found:?}");
            assert!(ask(&links, &[&scene.model])? > 0);
        }
    }
    Ok(())
}

#[test]
fn a_damaged_bucket_is_reported_with_its_place_and_the_others_are_read() -> Outcome {
    let (scene, _) = scene(false);
    let range = regions(&scene.files)?["/buckets/00000000"].clone();
    let mut files = scene.files.clone();
    files.get_mut(store()).ok_or("no file")?[range.start + BUCKET + 2000] ^= 4;
    let links = open(&SimulatedDisk::with_files(files), Mode::Read, options())?;
    let (mut right, mut wrong) = (0, 0);
    for (key, values) in &scene.model {
        match links.get(*key) {
            Ok(found) => {
                assert_eq!(found, *values);
                right += 1;
            }
            Err(Error::Damaged { path, place, .. }) => {
                assert_eq!((path.as_path(), place.as_str()), (store(), "/buckets/00000000, bucket 1"));
                wrong += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    assert!(right > 10 && wrong > 10, "{right} {wrong}");
    Ok(())
}

#[test]
fn a_sound_bucket_in_the_place_of_another_is_reported() -> Outcome {
    let (scene, _) = scene(false);
    let range = regions(&scene.files)?["/buckets/00000000"].clone();
    let count = range.len() / BUCKET;
    for (first, second) in (0..count).flat_map(|first| (0..first).map(move |second| (first, second))) {
        let mut files = scene.files.clone();
        let buckets = &mut files.get_mut(store()).ok_or("no file")?[range.clone()];
        let (low, high) = buckets.split_at_mut(first * BUCKET);
        low[second * BUCKET..][..BUCKET].swap_with_slice(&mut high[..BUCKET]);
        let errors = right_or_reported(&files, Mode::Read, &[&scene.model]);
        let errors = errors.map_err(|error| format!("{first} and {second} swapped: {error}"))?;
        assert!(errors > 0, "{first} and {second}");
    }
    Ok(())
}

#[test]
fn most_keys_that_are_not_there_are_answered_without_their_bucket() -> Outcome {
    let (scene, _) = scene(false);
    let range = regions(&scene.files)?["/buckets/00000000"].clone();
    let mut files = scene.files.clone();
    // Whoever reads a bucket is told that it is damaged.
    files.get_mut(store()).ok_or("no file")?[range].iter_mut().for_each(|byte| *byte ^= 1);
    let links = open(&SimulatedDisk::with_files(files), Mode::Read, options())?;
    let answered = (0..2000_u64).filter(|number| links.get(E::from_parts(u64::MAX, *number)).is_ok()).count();
    assert!((1700..2000).contains(&answered), "{answered}");
    // All but what came after the image.
    let refused = scene.model.keys().filter(|key| links.get(**key).is_err()).count();
    assert!(refused > scene.model.len() / 2, "{refused} of {}", scene.model.len());
    Ok(())
}

#[test]
fn a_sound_dataset_in_the_place_of_another_is_reported() -> Outcome {
    let scene = divided();
    let regions = regions(&scene.files)?;
    for within in ["/buckets/", "/values/"] {
        let both: Vec<&Range<usize>> =
            regions.iter().filter(|(name, _)| name.starts_with(within)).map(|(_, range)| range).collect();
        let [first, second] = both[..] else { return Err(format!("{regions:?}").into()) };
        let mut files = scene.files.clone();
        let bytes = files.get_mut(store()).ok_or("no file")?;
        let (one, other) = (bytes[first.clone()].to_vec(), bytes[second.clone()].to_vec());
        let length = one.len().min(other.len());
        bytes[first.start..][..length].copy_from_slice(&other[..length]);
        bytes[second.start..][..length].copy_from_slice(&one[..length]);
        let errors = right_or_reported(&files, Mode::Append, &[&scene.model]);
        assert!(errors.map_err(|error| format!("{within}: {error}"))? > 0, "{within}");
    }
    Ok(())
}

#[test]
fn an_older_version_of_a_dataset_is_reported_or_harmless() -> Outcome {
    // Two states of one store whose datasets have the same names and, most of them, the same sizes.
    let (scene, _) = scene(false);
    let mut newer = scene.clone();
    let disk = newer.disk();
    let links = open(&disk, Mode::Append, options())?;
    let replaced: Vec<Change> = (5..60)
        .flat_map(|number| {
            let value = scene.model.get(&key(number)).and_then(|values| values.first().copied()).unwrap_or(E::MIN);
            [Change::delete_value(key(number), value), Change::insert(key(number), E::new(999))]
        })
        .collect();
    scene::apply(&links, &mut newer.model, &replaced, Durability::Durable)?;
    links.migrate_directory()?;
    links.close()?;
    *newer.main() = disk.read(store()).ok_or("no file")?;
    let (old, new) = (regions(&scene.files)?, regions(&newer.files)?);
    let mut tried = 0;
    for (name, range) in &new {
        let Some(before) = old.get(name) else { continue };
        let length = before.len().min(range.len());
        let mut files = newer.files.clone();
        let older = scene.files[store()][before.start..][..length].to_vec();
        files.get_mut(store()).ok_or("no file")?[range.start..][..length].copy_from_slice(&older);
        if files == newer.files {
            continue;
        }
        let errors = right_or_reported(&files, Mode::Read, &[&newer.model]);
        assert!(errors.map_err(|error| format!("{name}: {error}"))? > 0, "{name}");
        tried += 1;
    }
    assert_eq!(tried, 5, "{new:?}");
    Ok(())
}

#[test]
fn a_damaged_directory_is_reported_in_the_form_of_a_dataset() -> Outcome {
    let scene = divided();
    let range = regions(&scene.files)?["/dir"].clone();
    let links = open(&scene.disk(), Mode::Read, options())?;
    assert_eq!(links.statistics()?.directory, Some(DirectoryForm::Dataset));
    assert_eq!(damaged(scene, store(), flips(range, 8, 4), &[&scene.model])?, 8);
    Ok(())
}

#[test]
fn a_damaged_shard_of_the_directory_is_reported() -> Outcome {
    let disk = SimulatedDisk::new();
    let links = open(&disk, Mode::Append, options().log_bytes(128 << 20))?;
    let mut number = 0;
    while links.statistics()?.partitions <= 16 {
        let many: Vec<Change> = (number..number + 100_000).map(|n| Change::insert(key(n), E::new(n.into()))).collect();
        links.apply(&many, Durability::Buffered)?;
        number += 100_000;
    }
    assert_eq!(links.migrate_directory()?, DirectoryForm::Sharded);
    links.close()?;
    let mut files = Files::from([(store().to_owned(), disk.read(store()).ok_or("no file")?)]);
    let shards: Vec<_> = regions(&files)?.into_iter().filter(|(name, _)| name.starts_with("/dir/shard_")).collect();
    assert!(shards.len() > 16);
    let mut random = Random::new(6);
    for (name, range) in shards.iter().step_by(6) {
        let at = range.start + random.below(range.len() as u64) as usize;
        files.get_mut(store()).ok_or("no file")?[at] ^= 1 << random.below(8);
        let links = open(&SimulatedDisk::with_files(files.clone()), Mode::Read, options())?;
        let (mut right, mut reported) = (0, 0);
        for n in 0..500_u64 {
            match links.get(key(n)) {
                Ok(values) => {
                    assert_eq!(values, [E::new(n.into())]);
                    right += 1;
                }
                Err(error) => {
                    is_named(&error)?;
                    assert!(matches!(&error, Error::Damaged { place, .. } if place.contains("directory")), "{error}");
                    reported += 1;
                }
            }
        }
        assert!(right > 100 && reported > 3, "{name}: {right} {reported}");
    }
    Ok(())
}

#[test]
fn a_flipped_bit_in_the_log_is_reported_or_harmless() -> Outcome {
    let (scene, _) = scene(true);
    let bytes = &scene.files[log()];
    let header = bytes.windows(8).position(|window| window == b"CORALWAL").ok_or("no header")?;
    let region = u64::from_le_bytes(bytes[header + 24..header + 32].try_into()?) as usize;
    let live = live_records(bytes, region);
    assert_eq!(live.len(), 6 * 31 + 1, "six batches, their commit records, and the mark that they were synced");
    let (last, mark) = (live[5 * 31], live[6 * 31]);
    assert_eq!(damaged(scene, log(), flips(live[0]..mark, 120, 7), &[&scene.model])?, 120);
    assert_eq!(damaged(scene, log(), flips(mark..mark + 64, 60, 8), &[&scene.model])?, 0);
    damaged(scene, log(), flips(header..header + 4096, 60, 9), &[&scene.model])?;
    damaged(scene, log(), flips(0..region, 40, 10), &[&scene.model])?;
    let cut = |to: usize| -> Way { (format!("cut to {to}"), Box::new(move |bytes| bytes.truncate(to))) };
    let cuts = [0, 7, 100, header, header + 100, region, last].map(cut);
    assert_eq!(damaged(scene, log(), cuts.into_iter(), &[&scene.model])?, 7);
    Ok(())
}

/// Where the records lie that the store's file does not hold: in a new log, all up to the first that was never written.
fn live_records(bytes: &[u8], region: usize) -> Vec<usize> {
    let written = |at: &usize| bytes[*at..at + 64] != [0; 64];
    let all: Vec<usize> = (region..bytes.len() - 63).step_by(64).take_while(written).collect();
    let commits: Vec<usize> = (0..all.len()).filter(|index| bytes[all[*index]] & 15 == 15).collect();
    let first = commits.len().checked_sub(7).map_or(0, |index| commits[index] + 1);
    all[first..].to_vec()
}

#[test]
fn the_log_of_another_store_or_of_another_time_is_refused() -> Outcome {
    let (scene, _) = scene(true);
    // Another store with the same history, whose records have the same numbers.
    let (other, _) = scene::small(true)?;
    let mut files = scene.files.clone();
    files.insert(log().to_owned(), other.files[log()].clone());
    for mode in [Mode::Read, Mode::Append] {
        let outcome = open(&SimulatedDisk::with_files(files.clone()), mode, options());
        assert!(matches!(outcome, Err(Error::ForeignLog { .. })), "{outcome:?}");
    }
    // The store as it was before the log went on to where it is.
    let disk = scene.disk();
    let links = open(&disk, Mode::Append, options())?;
    for number in 0..700_u64 {
        let many: Vec<Change> = (0..30).map(|n| Change::insert(key(n), E::new(u128::from(number)))).collect();
        links.apply(&many, Durability::Buffered)?;
    }
    let mut files = scene.files.clone();
    files.insert(log().to_owned(), disk.read(log()).ok_or("no log")?);
    drop(links);
    let outcome = open(&SimulatedDisk::with_files(files), Mode::Append, options());
    assert!(matches!(outcome, Err(Error::ForeignLog { .. })), "{outcome:?}");
    Ok(())
}

#[test]
fn compaction_keeps_what_can_be_read_of_a_damaged_partition() -> Outcome {
    // Too little memory to load the partition, so that maintenance does not look at it.
    let options = || options().memory(1 << 20).log_bytes(1 << 20);
    let disk = SimulatedDisk::new();
    let links = open(&disk, Mode::Append, options())?;
    let all: Vec<Change> = (0..20_000).map(|number| Change::insert(key(number), E::new(number.into()))).collect();
    all.chunks(2000).try_for_each(|changes| links.apply(changes, Durability::Durable).map(drop))?;
    links.close()?;
    let mut files = Files::from([(store().to_owned(), disk.read(store()).ok_or("no file")?)]);
    let regions = regions(&files)?;
    let (_, buckets) = regions.iter().find(|(name, _)| name.starts_with("/buckets/")).ok_or("no buckets")?;
    files.get_mut(store()).ok_or("no file")?[buckets.end - 1000] ^= 1;
    let disk = SimulatedDisk::with_files(files);
    let readable = |links: &CIDStore| {
        let is_right = |number: &u64| links.get(key(*number)).is_ok_and(|values| values == [E::new((*number).into())]);
        (0..20_000).filter(is_right).count()
    };
    let links = open(&disk, Mode::Append, options())?;
    let before = readable(&links);
    assert!((10_000..20_000).contains(&before), "{before}");
    links.apply(&[Change::insert(key(1 << 40), E::new(1))], Durability::Durable)?;
    assert!(matches!(links.compact(), Err(Error::Damaged { .. })));
    links.checkpoint()?;
    assert_eq!(readable(&links), before);
    drop(links);
    let links = open(&disk, Mode::Append, options())?;
    assert_eq!(readable(&links), before);
    assert_eq!(links.get(key(1 << 40))?, [E::new(1)]);
    Ok(())
}

#[test]
fn a_missing_log_is_reported_and_salvage_opens_what_the_file_holds() -> Outcome {
    let (scene, _) = scene(true);
    let mut files = scene.files.clone();
    files.remove(log());
    for mode in [Mode::Read, Mode::Append] {
        let outcome = open(&SimulatedDisk::with_files(files.clone()), mode, options());
        assert!(matches!(&outcome, Err(Error::MissingLog { .. })), "{outcome:?}");
    }
    let disk = SimulatedDisk::with_files(files);
    let links = open(&disk, Mode::Append, options().salvage(true))?;
    // What was in the log is gone; what comes now is kept.
    let added: Vec<Change> = (5000..5300).map(|number| Change::insert(key(number), E::new(number.into()))).collect();
    links.apply(&added, Durability::Durable)?;
    let left = Files::from([
        (store().to_owned(), disk.read(store()).ok_or("no file")?),
        (log().to_owned(), disk.read(log()).ok_or("no log")?),
    ]);
    let links = open(&SimulatedDisk::with_files(left), Mode::Read, options())?;
    assert!((5000..5300).all(|number| links.get(key(number)).is_ok_and(|values| values == [E::new(number.into())])));
    Ok(())
}

/// The largest piece of memory that was asked for at once.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watched;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// `length` bytes of `bytes` from `start` on, if that is a part of them.
fn part(bytes: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(length)?)
}

fn sum(bytes: &[u8]) -> [u8; 8] {
    XxHash3_64::oneshot(bytes).to_le_bytes()
}

/// Makes every checksum right, from the inside out, so that what the structures say is believed. The offsets are those of
/// `docs/links.md`.
fn forge(file: &mut [u8], regions: &BTreeMap<String, Range<usize>>) -> Option<()> {
    let (links, records) = (regions.get("/nodes/links")?.clone(), regions.get("/nodes/partitions")?.clone());
    for record in records.clone().step_by(RECORD) {
        let id = u32_at(file, record)?;
        for slice in (record + 80..record + RECORD).step_by(16) {
            let (run, start, count) = (u32_at(file, slice)?, u32_at(file, slice + 4)?, u32_at(file, slice + 8)?);
            let run = regions.get(&format!("/nodes/run_{run:08x}")).map(|range| &file[range.clone()]);
            let changes = run.and_then(|run| part(run, start as usize * 40, count as usize * 40));
            let sum = crc32c::crc32c(changes.unwrap_or_default());
            file[slice + 12..slice + 16].copy_from_slice(&sum.to_le_bytes());
        }
        if let Some(directory) = regions.get("/dir") {
            let (bits, start) = (file[record + 5] & 31, u32_at(file, record + 44)? as usize);
            let entries = part(&file[directory.clone()], start * 4, 4 << bits).unwrap_or_default();
            let sum = sum(entries);
            file[record + 56..record + 64].copy_from_slice(&sum);
        }
        let image = crc32c::crc32c(&file[record + 64..record + 72]);
        let Some(buckets) = regions.get(&format!("/buckets/{id:08x}")).cloned() else { continue };
        for (bucket, index) in buckets.step_by(BUCKET).zip(0_u32..) {
            for slot in (0..120).filter(|slot| (1..128).contains(&file[bucket + 16 + slot])).collect::<Vec<_>>() {
                let value = bucket + 256 + slot * 32 + 16;
                let Some(sets) = regions.get(&format!("/values/{id:08x}")).cloned() else { continue };
                let Some(set) = (u64_at(file, value + 8)? as usize).checked_mul(16).map(|at| sets.start + at) else {
                    continue;
                };
                let Some(capacity) = u32_at(file, set + 20).map(|capacity| capacity as usize) else { continue };
                let more = if capacity > 64 { capacity.div_ceil(2) + capacity.div_ceil(64) } else { 0 };
                let length = (6 + 2 * capacity + more).div_ceil(2) * 16;
                let Some(body) = part(&file[..sets.end], set + 16, length - 16) else { continue };
                let sum = XxHash3_128::oneshot(body).to_le_bytes();
                file[set..set + 16].copy_from_slice(&sum);
                file[value..value + 8].copy_from_slice(&sum[..8]);
            }
            let home = crc32c::crc32c_append(image, &index.to_le_bytes());
            let bytes = &mut file[bucket..bucket + BUCKET];
            bytes[12..16].fill(0);
            let sum = crc32c::crc32c_append(home, bytes);
            bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        }
        let tags = regions.get(&format!("/nodes/tags_{id:08x}")).map_or(&[][..], |range| &file[range.clone()]);
        let sum = sum(tags);
        file[record + 72..record + 80].copy_from_slice(&sum);
    }
    let deletions = regions.get("/nodes/deletions").map_or(&[][..], |range| &file[range.clone()]);
    let sums = [(112, sum(&file[records])), (120, sum(deletions))];
    for (at, sum) in sums {
        file[links.start + at..links.start + at + 8].copy_from_slice(&sum);
    }
    let whole = sum(&file[links.start..links.end - 8]);
    file[links.end - 8..links.end].copy_from_slice(&whole);
    Some(())
}

/// Uses everything of a store that lies; nothing of it is right, and nothing may panic, hang, or take all memory.
fn use_all(files: Files) {
    for mode in [Mode::Read, Mode::Append] {
        let disk = SimulatedDisk::with_files(files.clone());
        let Ok(links) = open(&disk, mode, options()) else { continue };
        for key in (0..40).map(key) {
            let _ = (links.get(key), links.contains(key, E::new(7)), links.get_entry(key));
        }
        if let Ok(snapshot) = links.snapshot() {
            snapshot.iter().for_each(drop);
        }
        if let Ok(directory) = links.directory() {
            directory.buckets().for_each(drop);
            let _ = (directory.num_buckets(), directory.bucket_of(key(1)));
        }
        let _ = (links.statistics(), links.verify(), links.debug_dump());
        if mode == Mode::Read {
            continue;
        }
        for number in 0..12 {
            let changes = [
                Change::delete(key(number)),
                Change::delete_value(key(number + 12), E::new(7)),
                Change::insert(key(number + 24), E::new(u128::from(number))),
            ];
            let _ = links.apply(&changes, Durability::Buffered);
        }
        let _ = (links.background_maintenance(), links.gc(), links.statistics(), links.checkpoint(), links.compact());
        let _ = links.close();
    }
}

fn odd() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..5_u64,
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(1 << 31),
        Just(1 << 60),
        Just((1 << 22) - 1),
        100..5000_u64,
        any::<u64>(),
    ]
}

/// Changes of `width` bytes somewhere in one of the datasets: which, where, and to what.
fn lies() -> impl Strategy<Value = Vec<(prop::sample::Index, prop::sample::Index, usize, u64)>> {
    let width = prop::sample::select(vec![1_usize, 2, 4, 8]);
    prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), width, odd()), 1..6)
}

fn lying(scene: &Scene, lies: &[(prop::sample::Index, prop::sample::Index, usize, u64)]) -> Option<Files> {
    let regions = regions(&scene.files).ok()?;
    let mut files = scene.files.clone();
    let file = files.get_mut(store())?;
    let places: Vec<&Range<usize>> = regions.values().collect();
    for (region, at, width, value) in lies {
        let region = region.get(&places);
        // Aligned as fields are, and more often where the structures are than in the last cells.
        let length = if region.len() > 2 * BUCKET && at.index(2) == 0 { 512 } else { region.len() };
        let at = region.start + at.index(length) / width * width;
        file.get_mut(at..at + width)?.copy_from_slice(&value.to_le_bytes()[..*width]);
    }
    forge(file, &regions)?;
    Some(files)
}

#[test]
fn the_checksums_that_the_tests_forge_are_those_of_the_store() -> Outcome {
    for scene in [&scene(false).0, divided()] {
        assert_eq!(lying(scene, &[]).ok_or("a dataset is missing")?, scene.files);
    }
    Ok(())
}

#[test]
fn a_forged_number_of_any_record_gives_an_answer_or_an_error() -> Outcome {
    let scene = &scene(false).0;
    let regions = regions(&scene.files)?;
    for name in ["/nodes/links", "/nodes/partitions"] {
        let region = regions[name].clone();
        for at in region.clone().step_by(4) {
            for (width, value) in [(4, u64::MAX), (8, u64::MAX), (4, 0), (8, 1 << 59), (1, 22), (4, (1 << 22) - 1)] {
                let mut files = scene.files.clone();
                let file = files.get_mut(store()).ok_or("no file")?;
                let width = width.min(region.end - at);
                file[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                forge(file, &regions);
                use_all(files);
            }
        }
    }
    assert!(LARGEST.load(Ordering::Relaxed) < 1 << 31, "{LARGEST:?} bytes at once");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forged_content_gives_an_answer_or_an_error(lies in lies(), larger in prop::bool::weighted(0.1)) {
        let scene = if larger { divided() } else { &scene(false).0 };
        if let Some(files) = lying(scene, &lies) {
            use_all(files);
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < 1 << 31, "{LARGEST:?} bytes at once");
    }
}

#[test]
fn a_log_that_ends_before_what_partitions_hold_is_reported_and_its_numbers_are_used_again_safely() -> Outcome {
    let mut files = scene(false).0.files.clone();
    let regions = regions(&files)?;
    // The position of the log after which a batch is in one partition, and perhaps not in another.
    let record = regions["/nodes/partitions"].start;
    let file = files.get_mut(store()).ok_or("no file")?;
    let applied = u64_at(file, record + 16).ok_or("no record")? + 300;
    file[record + 16..record + 24].copy_from_slice(&applied.to_le_bytes());
    forge(file, &regions);
    for mode in [Mode::Read, Mode::Append] {
        let outcome = open(&SimulatedDisk::with_files(files.clone()), mode, options());
        let reported = matches!(&outcome, Err(Error::DamagedLog { to, .. }) if to.0 == applied);
        assert!(reported, "{mode:?}: {outcome:?}");
    }
    let disk = SimulatedDisk::with_files(files);
    let links = open(&disk, Mode::Append, options().salvage(true))?;
    let added: Vec<Change> = (5000..5050).map(|n| Change::insert(key(n), E::new(n.into()))).collect();
    links.apply(&added, Durability::Durable)?;
    let left = Files::from([
        (store().to_owned(), disk.read(store()).ok_or("no file")?),
        (log().to_owned(), disk.read(log()).ok_or("no log")?),
    ]);
    let links = open(&SimulatedDisk::with_files(left), Mode::Append, options())?;
    assert!((5000..5050).all(|n| links.get(key(n)).is_ok_and(|values| values == [E::new(n.into())])));
    Ok(())
}
