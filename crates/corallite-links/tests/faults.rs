//! A disk that is full or fails at any moment: an error says so, nothing acknowledged is lost, what is read meanwhile is
//! right, and after opening again everything goes on.

mod common;

use common::scene::{self, Scene, open, options, store};
use common::{Model, Outcome, Random, assert_same, change, difference, expect, key};
use corallite_file::{Fault, LossMode, Mode, SimulatedDisk};
use corallite_links::{CIDStore, Change, Durability, E, Error, LinksOptions};

fn small_log() -> LinksOptions {
    options().log_bytes(64 << 10)
}

fn is_named(error: &Error) -> Outcome {
    let text = error.to_string();
    if text.contains("/disk/links.h5") { Ok(()) } else { Err(format!("the error names no file: {text}").into()) }
}

/// A session with a fault from some moment on.
struct Session {
    disk: SimulatedDisk,
    fault: Fault,
    /// What was acknowledged.
    model: Model,
    /// The same with batches that were refused, which may be there all the same.
    besides: Vec<Model>,
    /// What it held before batches that were acknowledged as buffered, which a power loss may cost.
    unsynced: Vec<Model>,
    failed: bool,
}

impl Session {
    fn run(scene: &Scene, fault: Fault, at: u64, background: bool) -> Outcome<Self> {
        let disk = scene.disk();
        let mut session =
            Self { disk, fault, model: scene.model.clone(), besides: Vec::new(), unsynced: Vec::new(), failed: false };
        if at == 0 {
            session.disk.inject(Some(fault));
        }
        match open(&session.disk, Mode::Append, small_log().background(background)) {
            Ok(links) => session.work(links, at)?,
            Err(error) => session.note(&error)?,
        }
        session.disk.inject(None);
        Ok(session)
    }

    /// An error says which file, and of a full disk that it is full.
    fn note(&mut self, error: &Error) -> Outcome {
        self.failed = true;
        let full = matches!(error, Error::DiskFull { .. } | Error::File(corallite_file::Error::DiskFull { .. }));
        // Once the log has failed it says that it did.
        if matches!(self.fault, Fault::Capacity(_)) && !full && !matches!(error, Error::Poisoned { .. }) {
            return Err(format!("a full disk gives {error}").into());
        }
        is_named(error)
    }

    fn work(&mut self, links: CIDStore, at: u64) -> Outcome {
        let mut random = Random::new(1);
        for step in 1..12 {
            if step == at {
                self.disk.inject(Some(self.fault));
            }
            let outcome = match step {
                4 | 8 => links.checkpoint().map(drop),
                6 => links.gc().and_then(|_| links.compact()).map(drop),
                9 => links.flush(),
                _ => {
                    let count = random.pick(&[3, 300, 600]);
                    let changes: Vec<Change> = (0..count).map(|_| change(&mut random, 900)).collect();
                    let durability = if step % 3 == 0 { Durability::Buffered } else { Durability::Durable };
                    if !self.apply(&links, &changes, durability)? {
                        break;
                    }
                    Ok(())
                }
            };
            match outcome {
                Ok(()) if matches!(step, 4 | 6 | 8 | 9) => self.unsynced.clear(),
                Ok(()) => {}
                Err(error) => self.note(&error)?,
            }
            assert_same(&links, &self.model).map_err(|error| format!("step {step}: {error}"))?;
        }
        links.close().or_else(|error| self.note(&error))
    }

    /// Whether a batch was committed.
    fn apply(&mut self, links: &CIDStore, changes: &[Change], durability: Durability) -> Outcome<bool> {
        let mut after = self.model.clone();
        changes.iter().for_each(|change| _ = expect(&mut after, change));
        let Err(error) = links.apply(changes, durability) else {
            let before = std::mem::replace(&mut self.model, after);
            match durability {
                Durability::Durable => self.unsynced.clear(),
                Durability::Buffered => self.unsynced.push(before),
            }
            return Ok(true);
        };
        self.note(&error)?;
        // What is read is one or the other, and whole.
        let mut seen = self.model.clone();
        if difference(links, &seen)?.is_some() {
            seen = after.clone();
            assert_same(links, &seen).map_err(|what| format!("after {error}: {what}"))?;
        }
        // A log that failed takes nothing more. One that had no room does, where there is any.
        let next = Change::insert(key(7777), E::new(1));
        expect(&mut seen, &next);
        let poisoned = links.wal().is_some_and(|log| matches!(log.flush(), Err(Error::Poisoned { .. })));
        match links.apply(&[next], Durability::Durable) {
            Ok(_) if poisoned => return Err("a store whose log failed takes writes".into()),
            Ok(_) => (self.model, self.besides) = (seen, Vec::new()),
            Err(again) => {
                self.note(&again)?;
                if poisoned && !matches!(again, Error::Poisoned { .. }) {
                    return Err(format!("a store whose log failed says: {again}").into());
                }
                self.besides = vec![after, seen];
            }
        }
        Ok(false)
    }

    /// The disk, with room again or a new one with what is on it, has what was acknowledged.
    fn check(&self, random: &mut Random) -> Outcome {
        let durable = !matches!(self.fault, Fault::Capacity(_));
        let mode = if durable { random.pick(&LossMode::ALL) } else { LossMode::KeepAll };
        let lost = SimulatedDisk::with_files(self.disk.crash(self.disk.changes(), mode, random.next()).files);
        for (again, unsynced) in [(self.disk.clone(), &[][..]), (lost, &self.unsynced)] {
            let mut links = open(&again, Mode::Append, small_log()).map_err(|error| format!("reopening: {error}"))?;
            let mut found = None;
            let mut reasons = Vec::new();
            for model in [&self.model].into_iter().chain(&self.besides).chain(unsynced) {
                match difference(&links, model)? {
                    None => found = Some(model.clone()),
                    Some(what) => reasons.push(what),
                }
            }
            let mut found = found.ok_or_else(|| format!("reopened: {reasons:?}"))?;
            let more: Vec<Change> = (0..50).map(|_| change(random, 900)).collect();
            scene::apply(&links, &mut found, &more, Durability::Durable)?;
            links.close()?;
            links = open(&again, Mode::Read, small_log())?;
            assert_same(&links, &found)?;
            if links.verify()? != Vec::<String>::new() {
                return Err("it is damaged".into());
            }
        }
        Ok(())
    }
}

/// Runs sessions with each of these faults, from the beginning on and from later on, until some pass unnoticed.
fn until_unnoticed(faults: impl Fn(u64) -> Fault, most: u64, background: bool) -> Outcome<u64> {
    let (scene, _) = scene::small(false)?;
    let mut random = Random::new(3);
    let mut noticed = 0;
    for at in [0, 1, 5] {
        let mut unnoticed = 0;
        for number in 0.. {
            if number == most {
                return Err("the faults ran out before a session passed".into());
            }
            let fault = faults(number);
            let text = |error| format!("{fault:?} from step {at} on: {error}");
            let session = Session::run(&scene, fault, at, background).map_err(text)?;
            session.check(&mut random).map_err(text)?;
            noticed += u64::from(session.failed);
            unnoticed = if session.failed { 0 } else { unnoticed + 1 };
            if unnoticed > 5 {
                break;
            }
        }
    }
    Ok(noticed)
}

#[test]
fn a_full_disk_is_reported_and_costs_nothing_acknowledged() -> Outcome {
    let (scene, _) = scene::small(false)?;
    let length = scene.files[store()].len() as u64;
    // Up to the log's size each page counts; beyond, larger steps do.
    let room = |number: u64| if number < 12 { number * 3000 } else { (number - 8) * 30_000 };
    let noticed = until_unnoticed(|number| Fault::Capacity(length + room(number)), 80, false)?;
    assert!(noticed > 10, "{noticed}");
    Ok(())
}

#[test]
fn a_failing_sync_is_reported_and_ends_writing() -> Outcome {
    let noticed = until_unnoticed(Fault::FailSync, 150, false)?;
    assert!(noticed > 20, "{noticed}");
    Ok(())
}

#[test]
fn a_failing_write_is_reported_and_ends_writing() -> Outcome {
    let noticed = until_unnoticed(|number| Fault::FailWrite(number * 5), 150, false)?;
    assert!(noticed > 20, "{noticed}");
    Ok(())
}

#[test]
fn the_same_holds_beside_the_stores_own_threads() -> Outcome {
    let (scene, _) = scene::small(false)?;
    let length = scene.files[store()].len() as u64;
    let mut random = Random::new(8);
    let mut noticed = 0;
    for number in 0..24 {
        let fault = match number % 3 {
            0 => Fault::FailSync(random.below(40)),
            1 => Fault::FailWrite(random.below(120)),
            _ => Fault::Capacity(length + random.below(400_000)),
        };
        let text = |error| format!("{fault:?}: {error}");
        let session = Session::run(&scene, fault, random.below(6), true).map_err(text)?;
        session.check(&mut random).map_err(text)?;
        noticed += usize::from(session.failed);
    }
    assert!(noticed > 8, "{noticed}");
    Ok(())
}
