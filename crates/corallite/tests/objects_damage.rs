//! Damaged pages are reported, with their place, and never become a wrong answer, a panic or an endless loop.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use common::{Keys, Model, Outcome, Random, batch, difference, key, open_on, write};
use corallite::StoreBackend;
use corallite::file::{Mode, Options, SimulatedDisk, contiguous_offset};
use corallite::objects::backend::{Backend, Durability, Range};
use twox_hash::XxHash3_64;

const PAGE: usize = 4096;

fn path() -> &'static Path {
    Path::new("/disk/store.h5")
}

/// A store's bytes, what it holds, and where its pages are, with their kinds.
struct Scene {
    bytes: Vec<u8>,
    model: Model,
    pages: Vec<(u32, usize, u8)>,
    file: Vec<u8>,
    /// Where the file's bytes are.
    file_offset: usize,
}

fn scene() -> Scene {
    let disk = SimulatedDisk::new();
    let (storage, backend) = open_on(&disk, path(), Mode::Append, Options::new().history(0)).unwrap();
    let mut random = Random::new(11);
    let mut model = Model::new();
    for _ in 0..40 {
        let changes = batch(&mut random, Keys::Mixed, 3000, 200, &mut model);
        write(&backend, &changes, Durability::Durable).unwrap();
    }
    let mut stream = backend.write_stream("a/file").unwrap();
    let file = random.bytes(1_500_000);
    std::io::Write::write_all(&mut stream, &file).unwrap();
    stream.finish(Durability::Durable).unwrap();
    // Leaves pages in the free list.
    let changes: Vec<_> = (0..400).map(|number| (key(Keys::Mixed, number * 5 + 3), None)).collect();
    changes.iter().for_each(|(key, _)| _ = model.remove(key));
    write(&backend, &changes, Durability::Durable).unwrap();
    backend.close().unwrap();
    let snapshot = storage.snapshot().unwrap();
    let mut offsets = Vec::new();
    for name in snapshot.file().group("/objects/pages").unwrap().member_names().unwrap() {
        let dataset = snapshot.file().dataset(&format!("/objects/pages/{name}")).unwrap();
        let start = contiguous_offset(&dataset).unwrap() as usize;
        offsets.extend((0..dataset.shape()[0]).map(|row| start + row * PAGE));
    }
    let file_offset = contiguous_offset(&snapshot.file().dataset("/files/a%2Ffile").unwrap()).unwrap() as usize;
    drop(snapshot);
    storage.close().unwrap();
    let bytes = disk.read(path()).unwrap();
    let count = u32::from_le_bytes(bytes[offsets[0] + 64..][..4].try_into().unwrap());
    let pages: Vec<(u32, usize, u8)> =
        (0..count).zip(offsets).map(|(number, offset)| (number, offset, bytes[offset + 16])).collect();
    Scene { bytes, model, pages, file, file_offset }
}

fn with_bytes(bytes: &[u8]) -> SimulatedDisk {
    SimulatedDisk::with_files(HashMap::from([(path().to_owned(), bytes.to_vec())]))
}

fn problems(disk: &SimulatedDisk) -> Outcome<Vec<String>> {
    let storage = corallite::file::Storage::on_disk(std::sync::Arc::new(disk.clone()), path(), Options::new());
    storage.open(Mode::Read, false)?;
    Ok(StoreBackend::verify(&storage)?)
}

#[test]
fn a_flipped_bit_in_a_page_of_any_kind_is_reported_with_page_and_offset() {
    let scene = scene();
    assert_eq!(problems(&with_bytes(&scene.bytes)).unwrap(), Vec::<String>::new());
    let mut kinds: BTreeMap<u8, u32> = BTreeMap::new();
    let mut random = Random::new(12);
    let mut reported = 0;
    for &(number, offset, kind) in &scene.pages {
        if kinds.get(&kind).is_some_and(|&seen| seen >= 25) {
            continue;
        }
        *kinds.entry(kind).or_default() += 1;
        let mut bytes = scene.bytes.clone();
        bytes[offset + random.below(PAGE as u64) as usize] ^= 1 << random.below(8);
        let disk = with_bytes(&bytes);
        let found = problems(&disk).unwrap();
        // Pages that only the free list has are not read.
        if let Some(problem) = found.first() {
            assert!(problem.contains(&format!("page {number} ")) && problem.contains(&offset.to_string()), "{problem}");
            reported += 1;
        }
        match open_on(&disk, path(), Mode::Read, Options::new())
            .and_then(|(_, backend)| difference(&backend, &scene.model))
        {
            Ok(difference) => assert_eq!(difference, None),
            Err(error) => assert!(error.to_string().contains(&format!("page {number} ")), "{error}"),
        }
    }
    assert!(kinds.keys().copied().eq(1..=5), "{kinds:?}");
    assert!(reported > 50, "{reported} of {kinds:?}");
}

#[test]
fn a_flipped_bit_in_a_file_is_reported_by_reading_and_by_verify() {
    let scene = scene();
    let mut random = Random::new(13);
    for _ in 0..10 {
        let at = random.below(scene.file.len() as u64) as usize;
        let mut bytes = scene.bytes.clone();
        bytes[scene.file_offset + at] ^= 1 << random.below(8);
        let disk = with_bytes(&bytes);
        assert!(problems(&disk).unwrap()[0].contains("`a/file`"));
        let (_storage, backend) = open_on(&disk, path(), Mode::Read, Options::new()).unwrap();
        let mut read = Vec::new();
        let error = backend.read_stream("a/file").unwrap().unwrap().read_to_end(&mut read).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        assert_eq!(read, scene.file[..read.len()]);
    }
}

/// Does everything once; whatever comes of it, it ends.
fn use_all(disk: &SimulatedDisk, random: &mut Random) -> Outcome {
    let verified = problems(disk);
    let (_storage, backend) = open_on(disk, path(), Mode::Append, Options::new())?;
    let ascending = backend.entries_in(&Range::default())?.try_for_each(|entry| entry.map(drop));
    let descending = backend.keys_in(&Range::default().reversed())?.try_for_each(|entry| entry.map(drop));
    for _ in 0..20 {
        let key = key(Keys::Mixed, random.below(3000));
        let _ = backend.get(&key);
    }
    let mut model = Model::new();
    for _ in 0..3 {
        let changes = batch(random, Keys::Mixed, 3000, 100, &mut model);
        let _ = write(&backend, &changes, Durability::Durable);
    }
    if let Some(mut stream) = backend.read_stream("a/file")? {
        std::io::copy(&mut stream, &mut std::io::sink())?;
    }
    ascending.and(descending)?;
    match verified?.first() {
        None => Ok(()),
        Some(problem) => Err(problem.clone().into()),
    }
}

#[test]
fn pages_made_to_do_harm_do_none() {
    let scene = scene();
    let rounds = std::env::var("CORALLITE_FAULT_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(400_u64);
    let mut refused = 0;
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let mut bytes = scene.bytes.clone();
        for _ in 0..=random.below(3) {
            let (number, offset, _) = random.pick(&scene.pages);
            let page = &mut bytes[offset..offset + PAGE];
            if random.one_in(5) {
                // Another page in its place: it may refer to itself, or come twice.
                let (_, other, _) = random.pick(&scene.pages);
                let other = scene.bytes[other..other + PAGE].to_vec();
                page.copy_from_slice(&other);
            }
            for _ in 0..random.below(4) {
                let at = match random.below(3) {
                    0 => 8 + random.below(40),
                    1 => 32 + random.below(200),
                    _ => 8 + random.below(PAGE as u64 - 16),
                } as usize;
                let pages = scene.pages.len() as u64;
                let what = match random.below(4) {
                    0 => random.next().to_le_bytes()[..4].to_vec(),
                    1 => (random.below(pages) as u32).to_le_bytes().to_vec(),
                    2 => vec![0xff; 2],
                    _ => vec![random.next() as u8],
                };
                page[at..at + what.len()].copy_from_slice(&what);
            }
            let sum = XxHash3_64::oneshot_with_seed(number.into(), &page[8..]);
            page[..8].copy_from_slice(&sum.to_le_bytes());
        }
        refused += u32::from(use_all(&with_bytes(&bytes), &mut random).is_err());
    }
    assert!(u64::from(refused) > rounds / 2, "only {refused} of {rounds} were noticed");
}

#[test]
fn newer_pages_are_refused_and_the_rest_of_the_store_is_not() {
    let scene = scene();
    let mut bytes = scene.bytes.clone();
    let (_, offset, _) = scene.pages[0];
    bytes[offset + 40] = 2;
    let sum = XxHash3_64::oneshot_with_seed(0, &bytes[offset + 8..offset + PAGE]);
    bytes[offset..offset + 8].copy_from_slice(&sum.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.h5");
    std::fs::write(&path, bytes).unwrap();
    let store = corallite::Store::open(&path).unwrap();
    let error = store.objects_backend().unwrap_err().to_string();
    assert!(error.contains("objects format version 2") && error.contains("upgrade"), "{error}");
    corallite::weights::WeightStore::list_weights(store.weights()).unwrap();
    store.close().unwrap();
}
