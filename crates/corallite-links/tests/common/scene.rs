//! Stores to be damaged: what they hold, and where in their files what lies.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corallite_file::hdf5::Group;
use corallite_file::{Mode, Options, SimulatedDisk, Storage, contiguous_offset};
use corallite_links::{CIDStore, Change, Durability, E, LinksOptions};

use super::{Model, Outcome, Random, change, expect, key};

pub type Files = HashMap<PathBuf, Vec<u8>>;

pub const BUCKET: usize = 4096;
pub const RECORD: usize = 144;

pub fn store() -> &'static Path {
    Path::new("/disk/links.h5")
}

pub fn log() -> &'static Path {
    Path::new("/disk/links.h5-wal")
}

pub fn options() -> LinksOptions {
    LinksOptions::new().memory(1 << 30).log_bytes(1 << 20).background(false).seed([1, 2])
}

pub fn open(disk: &SimulatedDisk, mode: Mode, options: LinksOptions) -> corallite_links::Result<CIDStore> {
    let storage = Storage::on_disk(Arc::new(disk.clone()), store(), Options::new().history(0));
    CIDStore::on_storage(storage, mode, options)
}

/// The files of a store, and what it holds.
#[derive(Clone, Debug)]
pub struct Scene {
    pub files: Files,
    pub model: Model,
}

impl Scene {
    pub fn disk(&self) -> SimulatedDisk {
        SimulatedDisk::with_files(self.files.clone())
    }

    pub fn main(&mut self) -> &mut Vec<u8> {
        self.files.entry(store().to_owned()).or_default()
    }
}

/// Does changes to a store and to its model.
pub fn apply(store: &CIDStore, model: &mut Model, changes: &[Change], durability: Durability) -> Outcome {
    changes.iter().for_each(|change| _ = expect(model, change));
    store.apply(changes, durability)?;
    Ok(())
}

fn files_of(disk: &SimulatedDisk) -> Files {
    let names = ["", "-wal", "-journal"].map(|suffix| PathBuf::from(format!("{}{suffix}", store().display())));
    names.into_iter().filter_map(|name| disk.read(&name).map(|bytes| (name, bytes))).collect()
}

/// One partition with value sets small and large, changes in two runs, and deletions. Closed, or killed with batches in
/// its log; then `before` is what it held before the last of them.
pub fn small(live: bool) -> Outcome<(Scene, Model)> {
    let disk = SimulatedDisk::new();
    let mut model = Model::new();
    let mut random = Random::new(5);
    let links = open(&disk, Mode::Append, options())?;
    let mut all = Vec::new();
    for (number, count) in
        [(0, 5), (1, 64), (2, 65), (3, 300), (4, 1)].into_iter().chain((5..700).map(|n| (n, 1 + n % 4)))
    {
        all.extend((0..count).map(|value| Change::insert(key(number), E::new(u128::from(value * 7 + number)))));
    }
    apply(&links, &mut model, &all, Durability::Durable)?;
    links.checkpoint()?;
    for _ in 0..2 {
        let some: Vec<Change> = (0..40).map(|_| change(&mut random, 800)).collect();
        apply(&links, &mut model, &some, Durability::Durable)?;
        links.checkpoint()?;
    }
    let mut before = model.clone();
    if !live {
        links.close()?;
        return Ok((Scene { files: files_of(&disk), model }, before));
    }
    for _ in 0..6 {
        before = model.clone();
        let some: Vec<Change> = (0..30).map(|_| change(&mut random, 800)).collect();
        apply(&links, &mut model, &some, Durability::Durable)?;
    }
    let scene = Scene { files: files_of(&disk), model };
    drop(links);
    Ok((scene, before))
}

/// A closed store of few keys in more than one partition, which takes many keys to divide.
pub fn divided() -> Outcome<Scene> {
    const KEPT: u64 = 1000;
    let disk = SimulatedDisk::new();
    let links = open(&disk, Mode::Append, options().log_bytes(32 << 20))?;
    let mut model = Model::new();
    let all: Vec<Change> = (0..100_000).map(|number| Change::insert(key(number), key(number))).collect();
    links.apply(&all, Durability::Buffered)?;
    let gone: Vec<Change> = (KEPT..100_000).map(|number| Change::delete(key(number))).collect();
    links.apply(&gone, Durability::Buffered)?;
    all[..KEPT as usize].iter().for_each(|change| _ = expect(&mut model, change));
    let sets: Vec<Change> =
        (0..2000).map(|number| Change::insert(key(number % 10), E::new(u128::from(number)))).collect();
    apply(&links, &mut model, &sets, Durability::Buffered)?;
    if links.statistics()?.partitions < 2 {
        return Err("it takes more keys to divide a partition".into());
    }
    links.deletion_log().clear();
    links.close()?;
    Ok(Scene { files: files_of(&disk), model })
}

/// Where the contiguous datasets of a store's file lie.
pub fn regions(files: &Files) -> Outcome<BTreeMap<String, Range<usize>>> {
    fn visit(group: &Group, found: &mut BTreeMap<String, Range<usize>>) -> Outcome {
        for dataset in group.datasets()? {
            if let Some(offset) = contiguous_offset(&dataset) {
                found.insert(dataset.name(), offset as usize..(offset + dataset.storage_size()) as usize);
            }
        }
        group.groups()?.iter().try_for_each(|group| visit(group, found))
    }
    let disk = SimulatedDisk::with_files(files.clone());
    let storage = Storage::on_disk(Arc::new(disk), store(), Options::new().history(0));
    storage.open(Mode::Read, false)?;
    let mut found = BTreeMap::new();
    visit(&storage.file()?.group("/")?, &mut found)?;
    Ok(found)
}
