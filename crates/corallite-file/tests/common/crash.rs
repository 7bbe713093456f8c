//! The checks of a disk that lost power.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corallite_file::{Buffer, CrashImage, LossMode, Mode, Options, SimulatedDisk, Storage};

use super::model::{self, Model, Object, difference};
use super::work::{Work, random_options};
use super::{Outcome, Random, store};

const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";

/// What must hold after a power loss.
pub struct Promise<'a> {
    /// The content of each commit.
    pub commits: &'a BTreeMap<u64, Model>,
    /// The newest commit that was acknowledged.
    pub acknowledged: u64,
    /// The commit that may have been in flight, at most.
    pub newest: u64,
}

impl Promise<'_> {
    /// All that is promised for the disk that `image` shows.
    pub fn check(&self, image: &CrashImage, random: &mut Random, deep: bool) -> Outcome {
        self.foreign_reader(image).map_err(|error| format!("as a foreign reader: {error}"))?;
        self.reader(image).map_err(|error| format!("reading: {error}"))?;
        if deep {
            let recovered = self.writer(image, random).map_err(|error| format!("writing: {error}"))?;
            self.crash_in_recovery(image, recovered, random).map_err(|error| format!("in the recovery: {error}"))?;
        }
        Ok(())
    }

    /// A file that looks like HDF5 is a whole commit to a program that knows nothing of the journal.
    fn foreign_reader(&self, image: &CrashImage) -> Outcome {
        let Some(main) = image.files.get(store()).filter(|bytes| bytes.starts_with(SIGNATURE)) else { return Ok(()) };
        let storage = Storage::new(Buffer::from(main.clone()));
        storage.open(Mode::Read, false)?;
        let file = storage.file()?;
        let number = model::own_number(&file)?;
        if number > self.newest {
            return Err(format!("shows commit {number}, which is newer than {}", self.newest).into());
        }
        self.same(&model::read(&file)?, number)
    }

    fn same(&self, found: &Model, number: u64) -> Outcome {
        let wanted = self.commits.get(&number).ok_or_else(|| format!("commit {number} was never made"))?;
        difference(found, wanted).map_or(Ok(()), |what| Err(format!("commit {number}: {what}").into()))
    }

    fn allowed(&self, number: u64) -> Outcome {
        if (self.acknowledged..=self.newest).contains(&number) {
            return Ok(());
        }
        Err(format!("is at commit {number}, not one of {} to {}", self.acknowledged, self.newest).into())
    }

    fn reader(&self, image: &CrashImage) -> Outcome {
        let storage = on(&disk(image), &quick());
        match storage.open(Mode::Read, false) {
            // Before the first acknowledged commit there need not be anything to read.
            Err(_) if self.acknowledged == 0 => return Ok(()),
            outcome => outcome?,
        }
        self.allowed(storage.version()?.0)?;
        self.same(&model::read(&storage.file()?)?, storage.version()?.0)
    }

    /// Recovers, rolls back to every kept commit, and goes on; returns the commit found.
    fn writer(&self, image: &CrashImage, random: &mut Random) -> Outcome<u64> {
        let disk = disk(image);
        let storage = on(&disk, &random_options(random));
        storage.open(Mode::Append, false)?;
        let found = storage.version()?.0;
        // Where there was nothing, opening commits a new file.
        if self.acknowledged > 0 || found > 1 {
            self.allowed(found)?;
        }
        self.same(&model::read(&storage.file()?)?, found)?;
        // The oldest kept commit, which is the most endangered one, and any other.
        let kept: Vec<u64> = storage.versions()?.iter().map(|commit| commit.number.0).collect();
        let kept = BTreeSet::from([kept[0], kept[random.below(kept.len())]]);

        let mut after = self.commits.get(&found).cloned().unwrap_or_default();
        go_on(&storage, &mut after, found + 1)?;
        storage.close()?;
        storage.open(Mode::ReadWrite, false)?;
        let now = model::read(&storage.file()?)?;
        if let Some(what) = difference(&now, &after) {
            return Err(format!("after the commit that follows: {what}").into());
        }
        drop(storage);

        for number in kept.into_iter().filter(|&number| number != found) {
            let storage = on(&self::disk(image), &quick().history(1000));
            storage.open(Mode::ReadWrite, false)?;
            let to = corallite_file::CommitNumber(number);
            storage.rollback_to_version(to).map_err(|error| format!("to version {number}: {error}"))?;
            self.same(&model::read(&storage.file()?).map_err(|error| format!("at version {number}: {error}"))?, number)
                .map_err(|error| format!("rolled back to it: {error}"))?;
            storage.close()?;
            storage.open(Mode::Read, false)?;
            self.same(&model::read(&storage.file()?)?, number)?;
        }
        Ok(found)
    }

    /// Power fails again while the first loss is being recovered from.
    fn crash_in_recovery(&self, image: &CrashImage, found: u64, random: &mut Random) -> Outcome {
        let disk = disk(image);
        let storage = on(&disk, &random_options(random));
        storage.open(Mode::Append, false)?;
        disk.mark(found);
        let mut commits = self.commits.clone();
        let mut after = commits.get(&found).cloned().unwrap_or_default();
        go_on(&storage, &mut after, found + 1)?;
        disk.mark(found + 1);
        commits.insert(found + 1, after);
        storage.close()?;
        for _ in 0..3 {
            let cut = random.below(disk.changes() + 1);
            let mode = random.pick(&LossMode::ALL);
            let again = disk.crash(cut, mode, random.next());
            // A commit that only the opening above made is promised once that returned.
            let acknowledged = again.last_mark.unwrap_or(if self.acknowledged == 0 { 0 } else { found });
            let promise = Promise { commits: &commits, acknowledged, newest: found + 1 };
            promise
                .foreign_reader(&again)
                .and_then(|()| promise.reader(&again))
                .and_then(|()| promise.writer(&again, random))
                .map_err(|error| format!("cut {cut}, {mode:?}: {error}"))?;
        }
        Ok(())
    }
}

fn disk(image: &CrashImage) -> SimulatedDisk {
    SimulatedDisk::with_files(image.files.clone())
}

fn quick() -> Options {
    Options::new().lock_wait(Duration::from_millis(1))
}

fn on(disk: &SimulatedDisk, options: &Options) -> Storage {
    Storage::on_disk(Arc::new(disk.clone()), store(), options.clone())
}

/// One more commit, which must be the `expected`-th.
fn go_on(storage: &Storage, model: &mut Model, expected: u64) -> Outcome {
    let name = format!("later{expected}");
    storage.create_group(&name)?;
    let data: Vec<i32> = (0..3000).collect();
    storage.file()?.new_dataset_builder().with_data(&data).create(format!("{name}/data").as_str())?;
    model.insert(name.clone(), Object::default());
    model.insert(format!("{name}/data"), Object { data: Some(data), ..Object::default() });
    let number = storage.flush()?.0;
    if number == expected { Ok(()) } else { Err(format!("commit {number} follows, not {expected}").into()) }
}

/// Work that was done, and the disk that remembers every step of it.
pub struct Recorded {
    pub seed: u64,
    pub disk: SimulatedDisk,
    pub commits: BTreeMap<u64, Model>,
}

impl Recorded {
    /// Does the work of `seed` on a disk that `broken` may wrap.
    pub fn new(
        seed: u64,
        steps: usize,
        broken: impl FnOnce(SimulatedDisk) -> Arc<dyn corallite_file::Disk>,
    ) -> Outcome<Self> {
        let disk = SimulatedDisk::new();
        let work = Work::new(seed, broken(disk.clone()), disk.clone())?;
        let commits = work.run(steps).map_err(|error| format!("seed {seed}: {error}"))?;
        Ok(Self { seed, disk, commits })
    }

    /// Cuts the power after `cut` changes, in every way, and checks the promise.
    pub fn check_cut(&self, cut: usize) -> Outcome {
        let mut random = Random::new(self.seed ^ cut as u64);
        let deep = random.below(LossMode::ALL.len());
        for (index, mode) in LossMode::ALL.into_iter().enumerate() {
            let image = self.disk.crash(cut, mode, random.next());
            let acknowledged = image.last_mark.unwrap_or(0);
            let newest = (acknowledged + 1).min(*self.commits.keys().next_back().unwrap_or(&0));
            let promise = Promise { commits: &self.commits, acknowledged, newest };
            promise
                .check(&image, &mut random, index == deep)
                .map_err(|error| format!("seed {}, power lost after change {cut}, {mode:?}: {error}", self.seed))?;
        }
        Ok(())
    }
}

/// Files of a disk, for putting them on another.
pub fn files(disk: &SimulatedDisk) -> HashMap<PathBuf, Vec<u8>> {
    [super::store(), super::journal()]
        .into_iter()
        .filter_map(|path| Some((path.to_owned(), disk.read(path)?)))
        .collect()
}
