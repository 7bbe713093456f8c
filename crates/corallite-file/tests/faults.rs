//! A disk that is full or fails at any moment: an error says so, nothing acknowledged is lost, and what cannot go on
//! after the fault is gone goes on after opening again.

mod common;

use std::collections::BTreeMap;

use common::crash::Promise;
use common::model::{self, Model, difference};
use common::scene::{Scene, change, direct, on, scene};
use common::{Outcome, Random};
use corallite_file::{Error, Fault, LossMode, Mode, SimulatedDisk, Storage};

/// When the disk begins to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Opening,
    Changing,
    Closing,
}

/// What a session under a fault came to.
struct Session {
    disk: SimulatedDisk,
    commits: BTreeMap<u64, Model>,
    acknowledged: u64,
    failed: bool,
}

impl Session {
    /// Opens, commits twice and closes, with the fault from `moment` on; whatever fails must leave the last commit.
    fn run(scene: &Scene, moment: Moment, fault: Fault) -> Outcome<Self> {
        let disk = SimulatedDisk::with_files(scene.files.clone());
        let full = matches!(fault, Fault::Capacity(_));
        let (commits, acknowledged) = (scene.commits.clone(), scene.newest);
        let mut session = Self { disk, commits, acknowledged, failed: false };
        let storage = on(&session.disk);
        if moment == Moment::Opening {
            session.disk.inject(Some(fault));
        }
        if let Err(error) = storage.open(Mode::ReadWrite, false) {
            session.failed = true;
            is_named(&error)?;
            session.disk.inject(None);
            return Ok(session);
        }
        if moment == Moment::Changing {
            session.disk.inject(Some(fault));
        }
        session.work(&storage, full)?;
        if moment == Moment::Closing {
            session.disk.inject(Some(fault));
        }
        if let Err(error) = storage.close() {
            session.failed = true;
            is_named(&error)?;
        }
        session.disk.inject(None);
        Ok(session)
    }

    fn work(&mut self, storage: &Storage, full: bool) -> Outcome {
        let mut model = self.commits[&self.acknowledged].clone();
        let outcome = change(storage, &mut model, 9).and_then(|()| Ok(storage.flush()?));
        self.after(storage, outcome.map(drop), &model, full)?;
        if !storage.is_open() {
            return Ok(());
        }
        let mut model = self.commits[&self.acknowledged].clone();
        let outcome = direct(storage, &mut model, 10);
        self.after(storage, outcome, &model, full)
    }

    /// After a commit or its failure the storage shows exactly that, or says that it cannot.
    fn after(&mut self, storage: &Storage, outcome: Outcome, model: &Model, full: bool) -> Outcome {
        let next = self.acknowledged + 1;
        match outcome {
            Ok(()) => {
                self.commits.insert(next, model.clone());
                self.acknowledged = next;
                self.disk.mark(next);
            }
            Err(error) => {
                self.failed = true;
                // A change that libhdf5 did not take fails with its error; the commit must not happen either way.
                if let Some(error) = error.downcast_ref::<Error>() {
                    is_named(error)?;
                    if full && !matches!(error, Error::DiskFull { .. }) {
                        return Err(format!("a full disk gives {error}").into());
                    }
                }
                // The commit may have happened all the same when its sync failed.
                self.commits.entry(next).or_insert_with(|| model.clone());
                if storage.is_open() && storage.rollback().is_ok() {
                    self.commits.remove(&next);
                }
            }
        }
        match storage.file().map_err(Into::into).and_then(|file| model::read(&file)) {
            Ok(found) => self.is(&found, self.acknowledged),
            // The fault may be in the way of reading; what is not readable is not wrong.
            Err(_) if self.failed || storage.flush().is_err() => {
                self.failed = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn is(&self, found: &Model, number: u64) -> Outcome {
        difference(found, &self.commits[&number]).map_or(Ok(()), |what| Err(format!("commit {number}: {what}").into()))
    }

    /// The disk holds an allowed commit, now and after a power loss at the end.
    fn check(&self, random: &mut Random, deep: bool) -> Outcome {
        for mode in [LossMode::KeepAll, random.pick(&LossMode::ALL)] {
            let image = self.disk.crash(self.disk.changes(), mode, random.next());
            let newest = *self.commits.keys().next_back().unwrap_or(&0);
            let promise = Promise { commits: &self.commits, acknowledged: self.acknowledged, newest };
            promise.check(&image, random, deep).map_err(|error| format!("reopened, {mode:?}: {error}"))?;
        }
        Ok(())
    }
}

fn is_named(error: &Error) -> Outcome {
    let text = error.to_string();
    if text.contains("/disk/store.h5") { Ok(()) } else { Err(format!("the error names no file: {text}").into()) }
}

/// Runs a session for each fault until one passes without noticing any; returns how many were tried.
fn until_unnoticed(moment: Moment, hot: bool, faults: impl Iterator<Item = Fault>) -> Outcome<usize> {
    let scene = scene(hot)?;
    let mut random = Random::new(7);
    let (mut tried, mut unnoticed) = (0, 0);
    for fault in faults {
        let text = |error| format!("{fault:?} from {moment:?} on: {error}");
        let session = Session::run(&scene, moment, fault).map_err(text)?;
        session.check(&mut random, tried % 4 == 0).map_err(text)?;
        tried += 1;
        // Hints are written after the last thing that can fail, so once is not enough.
        unnoticed = if session.failed { 0 } else { unnoticed + 1 };
        if unnoticed > 12 {
            return Ok(tried);
        }
    }
    Err("the faults ran out before the session passed".into())
}

#[test]
fn a_write_that_fails_loses_nothing() -> Outcome {
    for hot in [false, true] {
        for moment in [Moment::Opening, Moment::Changing, Moment::Closing] {
            let tried = until_unnoticed(moment, hot, (0..2000).map(Fault::FailWrite))?;
            assert!(tried > 13, "{moment:?}: {tried}");
        }
    }
    Ok(())
}

#[test]
fn a_sync_that_fails_loses_nothing() -> Outcome {
    for hot in [false, true] {
        for moment in [Moment::Opening, Moment::Changing, Moment::Closing] {
            let tried = until_unnoticed(moment, hot, (0..2000).map(Fault::FailSync))?;
            assert!(tried > 13, "{moment:?}: {tried}");
        }
    }
    Ok(())
}

#[test]
fn a_full_disk_loses_nothing() -> Outcome {
    for hot in [false, true] {
        let used: usize = scene(hot)?.files.values().map(Vec::len).sum();
        for moment in [Moment::Opening, Moment::Changing, Moment::Closing] {
            // Steps that meet frames, pages and sectors at different places.
            let budgets = (0..4000).map(|step| Fault::Capacity(used as u64 + step * 2309));
            until_unnoticed(moment, hot, budgets)?;
        }
    }
    Ok(())
}

#[test]
fn after_a_full_disk_a_smaller_transaction_succeeds() -> Outcome {
    let scene = scene(false)?;
    let mut refused = 0;
    for step in 0..60 {
        let disk = SimulatedDisk::with_files(scene.files.clone());
        let storage = on(&disk);
        storage.open(Mode::ReadWrite, false)?;
        let mut model = scene.commits[&scene.newest].clone();
        direct(&storage, &mut model, 20)?;
        let used: usize = common::crash::files(&disk).values().map(Vec::len).sum();
        // Room for a small commit, not for the large one.
        disk.inject(Some(Fault::Capacity(used as u64 + 120_000 + step * 977)));
        for number in 30.. {
            let kept = model.clone();
            let outcome = change(&storage, &mut model, number).and_then(|()| direct(&storage, &mut model, number));
            if let Err(error) = outcome {
                assert!(matches!(error.downcast_ref(), Some(Error::DiskFull { .. })), "{error}");
                refused += 1;
                model = kept;
                break;
            }
        }
        assert!(storage.is_open());
        assert_eq!(difference(&model::read(&storage.file()?)?, &model), None);
        disk.inject(Some(Fault::Capacity(used as u64 + 120_000 + step * 977 + 60_000)));
        let small = storage.create_group("small")?;
        small.new_attr::<i64>().create("number")?.write_scalar(&1_i64)?;
        storage.flush()?;
        model.insert(
            "small".to_owned(),
            model::Object { attributes: BTreeMap::from([("number".to_owned(), model::Value::Number(1))]), data: None },
        );
        disk.inject(None);
        // As the journal has it, without the rest of what was refused.
        let image = disk.crash(disk.changes(), LossMode::KeepAll, 0);
        let again = on(&SimulatedDisk::with_files(image.files));
        again.open(Mode::Read, false)?;
        assert_eq!(difference(&model::read(&again.file()?)?, &model), None);
        storage.close()?;
        storage.open(Mode::Read, false)?;
        assert_eq!(difference(&model::read(&storage.file()?)?, &model), None);
    }
    assert_eq!(refused, 60);
    Ok(())
}
