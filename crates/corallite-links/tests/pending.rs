//! Changes of links that a transaction of the store's file brings: there with it, whole and once, or not at all.
//!
//! Each transaction here also leaves a group in the file, as weights would be, so that a test sees which of them the file has.

#![allow(clippy::expect_used)] // the workspace lints exempt test functions, but not their helpers

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::scene::{self, Files, log, options, regions, store};
use common::{Model, Outcome, Random, assert_same, change, difference, expect, key};
use corallite_file::{CrashImage, Fault, LossMode, Mode, Options, SimulatedDisk, Storage};
use corallite_links::{
    CIDStore, Change, Changes, Durability, E, Error, LinksOptions, Operation, Pending, Values, has_pending,
};

const MARKS: &str = "/marks";

fn small() -> LinksOptions {
    options().log_bytes(64 << 10)
}

fn open_file(disk: &SimulatedDisk, mode: Mode) -> Outcome<Arc<Storage>> {
    let storage = Storage::on_disk(Arc::new(disk.clone()), store(), Options::new().history(0));
    storage.open(mode, false)?;
    Ok(Arc::new(storage))
}

fn open_links(storage: &Arc<Storage>, options: LinksOptions) -> Result<CIDStore, Error> {
    CIDStore::with_storage(Arc::clone(storage), options)
}

/// What a disk would have after a crash of the program alone.
fn files(disk: &SimulatedDisk) -> Files {
    disk.crash(disk.changes(), LossMode::ALL[0], 0).files
}

/// How many transactions the file has.
fn marks(storage: &Storage) -> Outcome<u64> {
    if !storage.contains(MARKS)? {
        return Ok(0);
    }
    Ok(storage.file()?.group(MARKS)?.len())
}

fn gather(changes: &mut Changes, change: &Change, stored: impl FnOnce() -> Result<Values, Error>) -> Outcome<bool> {
    Ok(match change.operation {
        Operation::Insert => changes.insert(change.key, change.value, stored)?,
        Operation::DeleteValue => changes.delete((change.key, change.value), stored)?,
        Operation::DeleteKey => changes.delete(change.key, stored)?,
    })
}

/// Commits changes with the file. Without open links, what is stored is that of `model`.
fn commit(storage: &Storage, links: Option<&CIDStore>, model: &mut Model, changes: &[Change]) -> Outcome<Pending> {
    let none = Vec::new();
    storage.transaction(|tx| -> Outcome<Pending> {
        let mut gathered = Changes::default();
        for change in changes {
            let key = change.key;
            let stored = || match links {
                Some(links) => links.get(key),
                None => Ok(model.get(&key).unwrap_or(&none).iter().copied().collect()),
            };
            gather(&mut gathered, change, stored)?;
        }
        let group = tx.storage().create_group(MARKS)?;
        group.create_group(&group.len().to_string())?;
        changes.iter().for_each(|change| _ = expect(model, change));
        Ok(gathered.write(tx, links)?)
    })
}

fn inserts(from: u64, count: u64) -> Vec<Change> {
    (from..from + count).map(|number| Change::insert(key(number), E::new(u128::from(number)))).collect()
}

/// Work that was done, and the disk that remembers every step of it.
struct Recorded {
    disk: SimulatedDisk,
    /// What the links held, and how many transactions the file had, after each step. All steps are durable.
    states: Vec<(Model, u64)>,
}

impl Recorded {
    fn new() -> Self {
        Self { disk: SimulatedDisk::new(), states: vec![(Model::new(), 0)] }
    }

    fn done(&mut self, model: &Model, marks: u64) {
        self.states.push((model.clone(), marks));
        self.disk.mark(self.states.len() as u64 - 1);
    }

    /// Every kind of step once.
    fn scripted() -> Outcome<Self> {
        let mut work = Self::new();
        let mut model = Model::new();
        let storage = open_file(&work.disk, Mode::Append)?;
        work.done(&model, 0);
        // Before there are links.
        let first = commit(&storage, None, &mut model, &inserts(0, 5))?;
        work.done(&model, 1);
        let links = open_links(&storage, small())?;
        links.adopt(first)?;
        let apply = |work: &mut Self, links: &CIDStore, model: &mut Model, changes: &[Change], marks| -> Outcome {
            changes.iter().for_each(|change| _ = expect(model, change));
            links.apply(changes, Durability::Durable)?;
            work.done(model, marks);
            Ok(())
        };
        apply(&mut work, &links, &mut model, &[Change::delete(key(0))], 1)?;
        links.checkpoint()?;
        // What a transaction brought, and what comes after it before a checkpoint.
        let second = [Change::insert(key(0), E::new(7)), Change::delete(key(1)), Change::insert(key(9), E::new(9))];
        let pending = commit(&storage, Some(&links), &mut model, &second)?;
        work.done(&model, 2);
        links.adopt(pending)?;
        apply(&mut work, &links, &mut model, &[Change::delete(key(9)), Change::insert(key(1), E::new(1))], 2)?;
        let pending = commit(&storage, Some(&links), &mut model, &[Change::insert(key(9), E::new(10))])?;
        work.done(&model, 3);
        links.adopt(pending)?;
        apply(&mut work, &links, &mut model, &[Change::delete_value(key(9), E::new(10))], 3)?;
        // More than the log holds.
        let pending = commit(&storage, Some(&links), &mut model, &inserts(100, 1500))?;
        work.done(&model, 4);
        links.adopt(pending)?;
        apply(&mut work, &links, &mut model, &[Change::delete(key(200))], 4)?;
        links.checkpoint()?;
        let pending = commit(&storage, Some(&links), &mut model, &[Change::insert(key(200), E::new(2))])?;
        work.done(&model, 5);
        links.adopt(pending)?;
        links.close()?;
        storage.close()?;
        Ok(work)
    }

    /// Random steps, beside checkpoints of another thread.
    fn random(seed: u64) -> Outcome<Self> {
        let mut random = Random::new(seed);
        let mut work = Self::new();
        let mut model = Model::new();
        let storage = open_file(&work.disk, Mode::Append)?;
        let mut marks = 0;
        let sessions = 1 + random.below(3);
        for _ in 0..sessions {
            let links = open_links(&storage, small())?;
            let is_over = AtomicBool::new(false);
            let beside = random.one_in(2);
            std::thread::scope(|scope| -> Outcome {
                let folding = scope.spawn(|| {
                    while beside && !is_over.load(Ordering::Acquire) {
                        links.checkpoint().expect("a checkpoint can be written");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                let mut steps = || -> Outcome {
                    for _ in 0..6 {
                        let most = random.pick(&[3, 40, 400]);
                        let changes: Vec<Change> =
                            (0..1 + random.below(most)).map(|_| change(&mut random, 30)).collect();
                        if random.one_in(2) {
                            let pending = commit(&storage, Some(&links), &mut model, &changes)?;
                            marks += 1;
                            work.done(&model, marks);
                            links.adopt(pending)?;
                        } else {
                            changes.iter().for_each(|change| _ = expect(&mut model, change));
                            links.apply(&changes, Durability::Durable)?;
                            work.done(&model, marks);
                        }
                        if random.one_in(5) {
                            links.checkpoint()?;
                        }
                    }
                    Ok(())
                };
                let worked = steps();
                is_over.store(true, Ordering::Release);
                worked.and(folding.join().map_err(|_| "the folding thread panicked".into()))
            })?;
            if random.one_in(2) {
                links.close()?;
            }
        }
        storage.close()?;
        Ok(work)
    }

    fn check_cut(&self, cut: usize, seed: u64) -> Outcome {
        let mut random = Random::new(seed ^ cut as u64);
        for mode in LossMode::ALL {
            let image = self.disk.crash(cut, mode, random.next());
            self.check(&image, &mut random)
                .map_err(|error| format!("seed {seed}, power lost after change {cut}, {mode:?}: {error}"))?;
        }
        Ok(())
    }

    fn check(&self, image: &CrashImage, random: &mut Random) -> Outcome {
        let marked = image.last_mark.map_or(0, |mark| mark as usize);
        let disk = SimulatedDisk::with_files(image.files.clone());
        if marked > 0 || open_file(&disk, Mode::Read).is_ok() {
            let storage = open_file(&disk, Mode::Read)?;
            let links = open_links(&storage, small()).map_err(|error| format!("reading: {error}"))?;
            self.find(&storage, &links, marked).map_err(|error| format!("reading: {error}"))?;
        }
        // It goes on: what is there is removed again, some of it in a transaction, and must stay so after a second loss.
        let storage = open_file(&disk, Mode::Append)?;
        let links = open_links(&storage, small())?;
        let mut model = self.find(&storage, &links, marked)?;
        let gone: Vec<Change> = model.keys().filter(|_| random.one_in(2)).map(|key| Change::delete(*key)).collect();
        gone.iter().for_each(|change| _ = expect(&mut model, change));
        links.apply(&gone, Durability::Durable)?;
        if random.one_in(2) {
            let changes: Vec<Change> = (0..20).map(|_| change(random, 30)).collect();
            let pending = commit(&storage, Some(&links), &mut model, &changes)?;
            if random.one_in(2) {
                links.adopt(pending)?;
            }
        }
        let acknowledged = disk.changes() as u64;
        match random.below(3) {
            0 => drop(links.checkpoint()?),
            1 => links.close()?,
            _ => drop(links),
        }
        drop(storage);
        for _ in 0..2 {
            let cut = acknowledged + random.below(disk.changes() as u64 + 1 - acknowledged);
            let again = disk.crash(cut as usize, random.pick(&LossMode::ALL), random.next());
            let storage = open_file(&SimulatedDisk::with_files(again.files), Mode::Append)?;
            let links = open_links(&storage, small()).map_err(|error| format!("after a second loss: {error}"))?;
            if let Some(what) = difference(&links, &model)? {
                return Err(format!("after a second loss: {what}").into());
            }
        }
        Ok(())
    }

    /// The state that a store is in, if it is one of those allowed, in the file and in the links.
    fn find(&self, storage: &Storage, links: &CIDStore, marked: usize) -> Outcome<Model> {
        let problems = links.verify()?;
        if !problems.is_empty() {
            return Err(problems.concat().into());
        }
        let marks = marks(storage)?;
        let mut reasons = Vec::new();
        for step in (marked..=marked + 1).filter(|step| *step < self.states.len()) {
            let (model, expected) = &self.states[step];
            match difference(links, model)? {
                None if marks == *expected => return Ok(model.clone()),
                None => reasons.push(format!("step {step}: the file has {marks} transactions, not {expected}")),
                Some(what) => reasons.push(format!("step {step}: {what}")),
            }
        }
        Err(format!("it is in no state that is allowed: {reasons:?}").into())
    }
}

#[test]
fn a_power_loss_at_any_moment_leaves_file_and_links_of_the_same_transactions() -> Outcome {
    let work = Recorded::scripted()?;
    (0..=work.disk.changes()).try_for_each(|cut| work.check_cut(cut, 0))
}

#[test]
fn a_power_loss_beside_checkpoints_halves_and_doubles_no_transaction() -> Outcome {
    let cuts = std::env::var("CORALLITE_PENDING_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 0..cuts {
        let work = Recorded::random(seed)?;
        let mut random = Random::new(seed);
        for _ in 0..8 {
            work.check_cut(random.below(work.disk.changes() as u64 + 1) as usize, seed)?;
        }
    }
    Ok(())
}

#[test]
fn gathered_changes_see_themselves_and_ask_once_for_what_is_stored() -> Outcome {
    let mut random = Random::new(3);
    let mut model = Model::new();
    (0..100).for_each(|_| _ = expect(&mut model, &change(&mut random, 10)));
    let stored = model.clone();
    let mut asked: HashMap<E, u32> = HashMap::new();
    let mut changes = Changes::default();
    assert!(changes.is_empty());
    let mut effective = 0;
    for _ in 0..500 {
        let change = change(&mut random, 10);
        let mut answer = |key: E| {
            *asked.entry(key).or_default() += 1;
            Ok(stored.get(&key).into_iter().flatten().copied().collect())
        };
        let moved = expect(&mut model, &change) > 0;
        assert_eq!(gather(&mut changes, &change, || answer(change.key))?, moved);
        effective += usize::from(moved);
        let none = Vec::new();
        assert_eq!(
            changes.get(change.key, || answer(change.key))?,
            *model.get(&change.key).unwrap_or(&none).as_slice()
        );
    }
    assert_eq!(changes.len(), effective);
    assert!(asked.values().all(|count| *count == 1) && asked.len() == 10);
    let failing = || Err(Error::Closed { path: store().to_owned() });
    assert!(changes.insert(E::MAX, E::MAX, failing).is_err());
    assert_eq!(changes.len(), effective);
    Ok(())
}

#[test]
fn changes_are_in_the_file_until_a_checkpoint_and_then_in_the_links() -> Outcome {
    let disk = SimulatedDisk::new();
    let storage = open_file(&disk, Mode::Append)?;
    let mut model = Model::new();
    let version = |storage: &Storage| -> Outcome<i64> {
        Ok(storage.file()?.group(Storage::CONFIG_GROUP)?.attr("format_version")?.read_scalar::<i64>()?)
    };
    // Nothing is written for nothing.
    links_free(&storage)?;
    assert_eq!((has_pending(&storage)?, version(&storage)?), (false, 1));
    let pending = commit(&storage, None, &mut model, &inserts(0, 3))?;
    assert_eq!((has_pending(&storage)?, version(&storage)?), (true, 3));
    let reader = open_file(&SimulatedDisk::with_files(files(&disk)), Mode::Read)?;
    let read = open_links(&reader, small())?;
    assert_same(&read, &model)?;
    read.close()?;
    let links = open_links(&storage, small())?;
    assert_same(&links, &model)?;
    links.adopt(pending)?;
    assert_eq!(links.wal().map(|log| log.used()), Some(4));
    assert!(has_pending(&storage)?);
    links.checkpoint()?;
    assert!(!has_pending(&storage)?);
    let pending = commit(&storage, Some(&links), &mut model, &inserts(5, 3))?;
    links.adopt(pending)?;
    links.close()?;
    assert!(!has_pending(&storage)? && disk.read(log()).is_none());
    let links = open_links(&storage, small())?;
    assert_same(&links, &model)
}

/// A transaction with no changes of links.
fn links_free(storage: &Storage) -> Outcome {
    let pending = commit(storage, None, &mut Model::new(), &[])?;
    let other = CIDStore::memory()?;
    Ok(other.adopt(pending)?)
}

#[test]
fn changes_that_opening_has_made_are_not_made_again() -> Outcome {
    for reopened in [false, true] {
        for replaced in [false, true] {
            let disk = SimulatedDisk::new();
            let storage = open_file(&disk, Mode::Append)?;
            let mut model = Model::new();
            let pending = commit(&storage, None, &mut model, &inserts(0, 3))?;
            let mut links = open_links(&storage, small())?;
            links.delete(key(1))?;
            model.remove(&key(1));
            if reopened {
                links.close()?;
                links = open_links(&storage, small())?;
            }
            if replaced {
                let next = commit(&storage, Some(&links), &mut model, &inserts(10, 2))?;
                links.adopt(next)?;
            }
            links.adopt(pending)?;
            assert_same(&links, &model)?;
        }
    }
    Ok(())
}

#[test]
fn a_transaction_that_fails_leaves_no_changes() -> Outcome {
    let storage = open_file(&SimulatedDisk::new(), Mode::Append)?;
    let links = open_links(&storage, small())?;
    let failed = storage.transaction(|tx| -> Outcome<Pending> {
        let mut changes = Changes::default();
        changes.insert(key(1), key(2), || links.get(key(1)))?;
        let pending = changes.write(tx, Some(&links))?;
        // Not committed yet.
        assert!(matches!(links.adopt(pending), Err(Error::Usage { .. })));
        Err("changed my mind".into())
    });
    assert!(failed.is_err());
    assert!(!has_pending(&storage)?);
    // Even where somebody keeps what was written.
    let mut kept = None;
    let failed = storage.transaction(|tx| -> Outcome {
        let mut changes = Changes::default();
        changes.insert(key(1), key(2), || links.get(key(1)))?;
        kept = Some(changes.write(tx, Some(&links))?);
        Err("changed my mind".into())
    });
    assert!(failed.is_err());
    links.adopt(kept.ok_or("it was written")?)?;
    assert_same(&links, &Model::new())
}

#[test]
fn changes_that_nobody_adopted_are_not_overwritten() -> Outcome {
    let disk = SimulatedDisk::new();
    let storage = open_file(&disk, Mode::Append)?;
    let mut model = Model::new();
    let first = commit(&storage, None, &mut model, &inserts(0, 3))?;
    let refused = commit(&storage, None, &mut model.clone(), &inserts(5, 1)).err().ok_or("it was overwritten")?;
    assert!(refused.to_string().contains("open the links"), "{refused}");
    let links = open_links(&storage, small())?;
    let second = commit(&storage, Some(&links), &mut model, &inserts(5, 1))?;
    let refused = commit(&storage, Some(&links), &mut model.clone(), &inserts(6, 1));
    assert!(refused.err().ok_or("it was overwritten")?.to_string().contains("let them adopt it"));
    links.adopt(second)?;
    links.adopt(first)?;
    assert_same(&links, &model)?;
    let other = CIDStore::memory()?;
    let refused = commit(&storage, Some(&other), &mut model.clone(), &inserts(6, 1));
    assert!(refused.err().ok_or("it was written")?.to_string().contains("another file"));
    assert_eq!(marks(&storage)?, 2);
    Ok(())
}

#[test]
fn more_changes_than_the_log_holds_are_adopted_as_one_batch() -> Outcome {
    for opened in [true, false] {
        let disk = SimulatedDisk::new();
        let storage = open_file(&disk, Mode::Append)?;
        let mut model = Model::new();
        let links = open_links(&storage, small())?;
        links.insert(key(1), E::new(1))?;
        expect(&mut model, &Change::insert(key(1), E::new(1)));
        let capacity = links.wal().ok_or("it has a log")?.capacity();
        let links = if opened {
            let pending = commit(&storage, Some(&links), &mut model, &inserts(10, 3 * capacity))?;
            links.adopt(pending)?;
            links
        } else {
            drop(links);
            let _ = commit(&storage, None, &mut model, &inserts(10, 3 * capacity))?;
            open_links(&storage, small())?
        };
        assert_same(&links, &model)?;
        let log = links.wal().ok_or("it has a log")?;
        assert!(log.capacity() > 3 * capacity);
        assert_eq!((log.metrics().batches, log.metrics().records), (1, 3 * capacity + 1));
        drop(log);
        let copy = open_file(&SimulatedDisk::with_files(files(&disk)), Mode::Append)?;
        let again = open_links(&copy, small())?;
        assert_same(&again, &model)?;
    }
    Ok(())
}

#[test]
fn a_checkpoint_that_began_before_a_batch_leaves_its_changes_in_the_file() -> Outcome {
    let disk = SimulatedDisk::new();
    let storage = open_file(&disk, Mode::Append)?;
    let links = open_links(&storage, small())?;
    let mut model = Model::new();
    links.batch_insert(&[(key(1), E::new(1))])?;
    expect(&mut model, &Change::insert(key(1), E::new(1)));
    std::thread::scope(|scope| -> Outcome {
        let (begun, wait) = std::sync::mpsc::channel();
        let pending = storage.transaction(|tx| -> Outcome<Pending> {
            let mut changes = Changes::default();
            changes.insert(key(1), E::new(2), || links.get(key(1)))?;
            expect(&mut model, &Change::insert(key(1), E::new(2)));
            let pending = changes.write(tx, Some(&links))?;
            let links = &links;
            // It notes the log's position, and waits for this transaction.
            scope.spawn(move || begun.send(links.checkpoint().map(drop)));
            std::thread::sleep(Duration::from_millis(200));
            Ok(pending)
        })?;
        wait.recv()??;
        assert!(has_pending(&storage)?);
        links.adopt(pending)?;
        Ok(())
    })?;
    links.delete((key(1), E::new(2)))?;
    expect(&mut model, &Change::delete_value(key(1), E::new(2)));
    let copy = open_file(&SimulatedDisk::with_files(files(&disk)), Mode::Append)?;
    assert_same(&open_links(&copy, small())?, &model)?;
    links.checkpoint()?;
    assert!(!has_pending(&storage)?);
    Ok(())
}

/// A file of one commit, and a log that has gone on.
fn older_file() -> Outcome<(Files, Model, Model)> {
    let disk = SimulatedDisk::new();
    let storage = open_file(&disk, Mode::Append)?;
    let links = open_links(&storage, small())?;
    let mut model = Model::new();
    links.insert(key(50), E::new(1))?;
    expect(&mut model, &Change::insert(key(50), E::new(1)));
    let pending = commit(&storage, Some(&links), &mut model, &inserts(0, 3))?;
    links.adopt(pending)?;
    let mut older = files(&disk);
    let before = model.clone();
    let pending = commit(&storage, Some(&links), &mut model, &inserts(1, 9))?;
    links.adopt(pending)?;
    links.insert(key(51), E::new(1))?;
    older.insert(log().to_owned(), disk.read(log()).ok_or("it has a log")?);
    Ok((older, before, model))
}

#[test]
fn a_log_that_is_ahead_of_its_file_is_read_up_to_the_files_transactions() -> Outcome {
    let (files, before, _) = older_file()?;
    let disk = SimulatedDisk::with_files(files.clone());
    let reader = open_file(&disk, Mode::Read)?;
    assert_same(&open_links(&reader, small())?, &before)?;
    drop(reader);
    // A writer would lose what was acknowledged.
    let storage = open_file(&disk, Mode::Append)?;
    let refused = open_links(&storage, small()).err().ok_or("it was opened")?;
    assert!(matches!(refused, Error::ForeignLog { .. }), "{refused}");
    // Unless it is a copy, and knows.
    let links = open_links(&storage, small().cut_log(true))?;
    assert_same(&links, &before)?;
    assert_eq!(links.recovered().map(|found| (found.batches, found.dropped)), Some((2, 10)));
    links.insert(key(1), E::MAX)?;
    drop(links);
    drop(storage);
    let mut expected = before;
    expect(&mut expected, &Change::insert(key(1), E::MAX));
    let storage = open_file(&disk, Mode::Append)?;
    assert_same(&open_links(&storage, small())?, &expected)
}

#[test]
fn a_damaged_byte_of_pending_changes_is_reported() -> Outcome {
    let disk = SimulatedDisk::new();
    let storage = open_file(&disk, Mode::Append)?;
    let mut model = Model::new();
    let links = open_links(&storage, small())?;
    links.insert(key(50), E::new(1))?;
    links.checkpoint()?;
    let _ = commit(&storage, Some(&links), &mut model, &inserts(0, 3))?;
    // They are nobody's to remove.
    links.close()?;
    storage.close()?;
    let files = files(&disk);
    let range = regions(&files)?.get("/nodes/pending").ok_or("it is not there")?.clone();
    assert_eq!(range.len(), 4 * 40);
    for at in range {
        let mut files = files.clone();
        files.get_mut(store()).ok_or("no file")?[at] ^= 1 << (at % 8);
        for mode in [Mode::Read, Mode::Append] {
            let storage = open_file(&SimulatedDisk::with_files(files.clone()), mode)?;
            let refused = open_links(&storage, small()).err().ok_or(format!("byte {at} was not missed"))?;
            let text = refused.to_string();
            assert!(matches!(refused, Error::Damaged { .. }) && text.contains("/nodes/pending"), "{text}");
        }
        // Given up, they do not come back.
        let disk = SimulatedDisk::with_files(files);
        let storage = open_file(&disk, Mode::Append)?;
        let links = open_links(&storage, small().salvage(true))?;
        assert!(links.verify()?.iter().any(|problem| problem.contains("/nodes/pending")));
        assert!(links.get(key(1))?.is_empty());
        links.insert(key(60), E::new(1))?;
        links.close()?;
        assert!(!has_pending(&storage)?, "byte {at}");
        assert_eq!(open_links(&storage, small())?.count()?, 2);
    }
    Ok(())
}

#[test]
fn changes_that_could_not_be_adopted_come_with_the_next_opening() -> Outcome {
    let mut failed = 0;
    for at in 0..6 {
        for count in [2, 2000] {
            let disk = SimulatedDisk::new();
            let storage = open_file(&disk, Mode::Append)?;
            let mut model = Model::new();
            let links = open_links(&storage, small())?;
            links.insert(key(50), E::new(1))?;
            expect(&mut model, &Change::insert(key(50), E::new(1)));
            let pending = commit(&storage, Some(&links), &mut model, &inserts(0, count))?;
            disk.inject(Some(Fault::FailWrite(at)));
            let outcome = links.adopt(pending);
            disk.inject(None);
            if outcome.is_err() {
                failed += 1;
                // Nothing gets ahead of them.
                assert!(matches!(links.insert(key(1), E::new(9)), Err(Error::Poisoned { .. })));
                assert!(links.close().is_err());
            } else {
                drop(links);
            }
            drop(storage);
            let storage = open_file(&disk, Mode::Append)?;
            assert_same(&open_links(&storage, small())?, &model)?;
        }
    }
    assert!(failed > 2, "{failed}");
    Ok(())
}

#[test]
fn a_store_that_is_one_file_keeps_its_pending_changes() -> Outcome {
    // `scene` writes stores without any.
    let (scene, _) = scene::small(false)?;
    let disk = scene.disk();
    let storage = open_file(&disk, Mode::Append)?;
    let mut model = scene.model.clone();
    assert!(!has_pending(&storage)?);
    let pending = commit(&storage, None, &mut model, &[Change::delete(key(3)), Change::insert(key(3), E::new(1))])?;
    drop(pending);
    storage.close()?;
    for mode in [Mode::Read, Mode::Append, Mode::Read] {
        let storage = open_file(&disk, mode)?;
        let links = open_links(&storage, small())?;
        assert_same(&links, &model)?;
        links.close()?;
        storage.close()?;
    }
    Ok(())
}
