//! [`Storage`]: an HDF5 file, opened, committed, rolled back and closed.

mod guard;
mod layout;
mod options;
mod pages;
mod snapshot;
mod transaction;
mod versions;

use std::path::Path;
use std::sync::Arc;

use hdf5_metno::{File, Group};
use parking_lot::{Mutex, RwLock};

use crate::disk::{Buffer, Disk, MemoryDisk, OsDisk};
use crate::error::{Error, Result};
use crate::object::superblock;
use crate::page::CommitNumber;
use crate::pager::{OpenAs, Pager};
use crate::vfd::{self, Target};

pub use guard::StorageGuard;
pub use layout::FORMAT_VERSION;
pub use options::{Mode, Options, Recognize, Source};
pub use pages::CommitPages;
pub use snapshot::{Mapped, Snapshot};
use transaction::Held;
pub use transaction::Transaction;

/// A commit that can be rolled back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its number.
    pub number: CommitNumber,
    /// When it was made, in nanoseconds since 1970; 0 when unknown.
    pub time: u64,
    /// The length of the HDF5 file at that commit, in bytes.
    pub bytes: u64,
}

/// What [`Storage::apply_insert`] and [`Storage::apply_delete`] call: the owner of a write-ahead log binds its
/// replay here.
pub trait Replay: Send + Sync {
    /// Applies a logged insertion of `value` under `key` to the storage's running transaction. Must be idempotent.
    fn insert(&self, storage: &Storage, key: u128, value: u128) -> Result<()>;

    /// Applies a logged deletion of `key` and all its values. Must be idempotent.
    fn delete(&self, storage: &Storage, key: u128) -> Result<()>;
}

/// What a path in the file names.
#[derive(Clone, Debug)]
pub enum Item {
    /// A group.
    Group(Group),
    /// A dataset.
    Dataset(hdf5_metno::Dataset),
}

/// A transactional HDF5 file: on a path, in a [`Buffer`], or in memory.
///
/// A new `Storage` is closed; [`Storage::open`] opens it. All methods may be called from any thread. Changes made
/// through [`Storage::file`] and the groups and datasets reached from it belong to the running transaction and become
/// durable with [`Storage::flush`]. For changes from several threads use [`Storage::transaction`], which takes turns.
#[derive(Debug)]
pub struct Storage {
    source: Source,
    options: Options,
    disk: Arc<dyn Disk>,
    /// Held through a transaction, so that one ends before the next begins.
    turn: Mutex<()>,
    /// The thread whose transaction is under way.
    holder: Mutex<Option<Held>>,
    state: RwLock<Option<Open>>,
    replay: RwLock<Option<ReplayTarget>>,
}

struct ReplayTarget(Arc<dyn Replay>);

impl std::fmt::Debug for ReplayTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplayTarget")
    }
}

#[derive(Debug)]
struct Open {
    pager: Arc<Pager>,
    file: File,
    mode: Mode,
    swmr: bool,
    /// A reader's own commit; a writer's last commit, opened when first asked for.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
}

impl Storage {
    /// The group of settings: `format_version`, `version_string`, `commit`.
    pub const CONFIG_GROUP: &'static str = "/config";
    /// The group of nodes.
    pub const NODES_GROUP: &'static str = "/nodes";
    /// The group of value sets.
    pub const VALUES_GROUP: &'static str = "/values";
    /// The group of buckets.
    pub const BUCKETS_GROUP: &'static str = "/buckets";

    /// A storage on `source`, not yet open, with default [`Options`].
    pub fn new(source: impl Into<Source>) -> Self {
        Self::with_options(source, Options::default())
    }

    /// A storage on `source`, not yet open.
    pub fn with_options(source: impl Into<Source>, options: Options) -> Self {
        let source = source.into();
        let disk: Arc<dyn Disk> = match &source {
            Source::Path(_) => Arc::new(OsDisk),
            Source::Buffer(buffer) => {
                let disk = MemoryDisk::new();
                disk.insert(source.path(), buffer.clone());
                Arc::new(disk)
            }
            Source::Memory => Arc::new(MemoryDisk::new()),
        };
        Self::on_disk(disk, source, options)
    }

    /// A storage on a disk of the caller's, for tests that inject faults.
    pub fn on_disk(disk: Arc<dyn Disk>, source: impl Into<Source>, options: Options) -> Self {
        Self {
            source: source.into(),
            options,
            disk,
            turn: Mutex::new(()),
            holder: Mutex::new(None),
            state: RwLock::new(None),
            replay: RwLock::new(None),
        }
    }

    /// The path, or a name for what has none.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The disk that the file is on, for companion files.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The buffer a storage was made on.
    pub fn buffer(&self) -> Option<&Buffer> {
        match &self.source {
            Source::Buffer(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// Opens the file, recovering what an interrupted session left, and makes sure of the core groups when writing.
    ///
    /// With mode `r` the newest commit is read, from open to close. With `swmr`, a reader moves to the newest commit
    /// when [`Storage::refresh`] is called. A file that exists but has no bytes opens as a new one in `a`. A new
    /// file is committed with its core groups; mode `w` replaces the old content by that commit, which can be rolled back.
    ///
    /// # Errors
    ///
    /// See [`Error`]; the file is not changed when opening fails, except that what a crash left half applied may have been
    /// finished before.
    pub fn open(&self, mode: Mode, swmr: bool) -> Result<()> {
        let _turn = self.turn.lock();
        let mut state = self.state.write();
        if state.is_some() {
            return Err(Error::AlreadyOpen { path: self.path().to_owned() });
        }
        *state = Some(self.open_state(mode, swmr)?);
        Ok(())
    }

    fn open_state(&self, mode: Mode, swmr: bool) -> Result<Open> {
        let how = match mode {
            Mode::Read => OpenAs::Reader,
            Mode::ReadWrite => OpenAs::Writer,
            Mode::Write | Mode::Append => OpenAs::WriterOrCreate,
            Mode::Exclusive => OpenAs::WriterOfNew,
        };
        if mode == Mode::Read && matches!(self.source, Source::Memory) {
            return Err(Error::NotFound { path: self.path().to_owned() });
        }
        let path = self.disk.resolve(self.path()).map_err(|error| Error::io("resolve", self.path(), error))?;
        if mode == Mode::Read && Pager::is_half_applied(self.disk.as_ref(), &path) {
            self.finish_applying(&path);
        }
        let pager = Pager::open(Arc::clone(&self.disk), &path, how, self.options.limits())?;
        match self.open_on(&pager, mode, swmr) {
            Ok(open) => Ok(open),
            Err(error) => {
                pager.give_up();
                Err(error)
            }
        }
    }

    /// Finishes what a program that crashed began to write into the file, which no other HDF5 program can open until
    /// then. Whatever keeps it from happening is no error: the commits are read from the journal as they are.
    fn finish_applying(&self, path: &Path) {
        // How many earlier commits are kept is the writer's business.
        let options = self.options.clone().history(u32::MAX as usize).history_bytes(u64::MAX);
        let limits = options.lock_wait(std::time::Duration::ZERO).limits();
        let Ok(pager) = Pager::open(Arc::clone(&self.disk), path, OpenAs::Writer, limits) else { return };
        match self.open_on(&pager, Mode::ReadWrite, false) {
            Ok(Open { pager, file, .. }) => {
                pager.rollback();
                close_file(file);
                let _ = pager.close(false);
            }
            Err(_) => pager.give_up(),
        }
    }

    fn open_on(&self, pager: &Arc<Pager>, mode: Mode, swmr: bool) -> Result<Open> {
        if matches!(mode, Mode::Read | Mode::ReadWrite) && pager.committed().eoa == 0 {
            return Err(Error::Empty { path: self.path().to_owned() });
        }
        if mode == Mode::Read {
            let mut snapshot = Snapshot::of(pager)?;
            layout::check(pager, snapshot.file(), self.options.adopt)?;
            layout::number(pager, snapshot.file());
            if snapshot.version() != pager.committed().number {
                snapshot = Snapshot::of(pager)?;
            }
            let snapshot = Arc::new(snapshot);
            let file = snapshot.file().clone();
            return Ok(Open { pager: Arc::clone(pager), file, mode, swmr, snapshot: Mutex::new(Some(snapshot)) });
        }
        let existing = pager.committed().eoa > 0;
        let file = if existing && mode != Mode::Write {
            {
                // Looked at read-only first: a newer or foreign file must not be touched, not even by recovery.
                let snapshot = Snapshot::of(pager)?;
                layout::check(pager, snapshot.file(), self.options.adopt)?;
                layout::number(pager, snapshot.file());
            }
            pager.apply_within(self.options.limits().lock_wait.min(std::time::Duration::from_millis(200)))?;
            Self::writer_file(pager)?
        } else {
            pager.begin_fresh()?;
            Self::new_file(pager)?
        };
        layout::ensure(pager, &file)?;
        if !existing || mode == Mode::Write {
            // So that there is something to read from the beginning. It does not count as a change: see `abandon`.
            commit(pager, &file)?;
            pager.mark_unused();
        }
        Ok(Open { pager: Arc::clone(pager), file, mode, swmr, snapshot: Mutex::new(None) })
    }

    fn writer_file(pager: &Arc<Pager>) -> Result<File> {
        let target = Target::Writer { pager: Arc::clone(pager), epoch: pager.epoch() };
        vfd::open(target).map_err(|error| explain(pager, "open the file", &error))
    }

    fn new_file(pager: &Arc<Pager>) -> Result<File> {
        let target = Target::Writer { pager: Arc::clone(pager), epoch: pager.epoch() };
        vfd::create(target).map_err(|error| explain(pager, "create the file", &error))
    }

    fn with<T>(&self, body: impl FnOnce(&Open) -> Result<T>) -> Result<T> {
        match &*self.state.read() {
            Some(open) => body(open),
            None => Err(Error::Closed { path: self.path().to_owned() }),
        }
    }

    /// Whether the storage is open.
    pub fn is_open(&self) -> bool {
        self.state.read().is_some()
    }

    /// Whether the storage is open for writing.
    pub fn is_writable(&self) -> bool {
        self.state.read().as_ref().is_some_and(|open| open.pager.is_writable())
    }

    /// The HDF5 file: the running transaction's when open for writing, else the commit being read. After a rollback
    /// the file and everything reached from it is closed, and this gives the new one.
    pub fn file(&self) -> Result<File> {
        self.with(|open| Ok(open.file.clone()))
    }

    /// Commits what has changed since the last commit, durably. Without changes nothing is written and the number of
    /// the last commit returned.
    ///
    /// # Errors
    ///
    /// When the disk is full or fails, the transaction is rolled back: the file is at its last commit and open.
    pub fn flush(&self) -> Result<CommitNumber> {
        let _turn = self.turn.lock();
        self.commit()
    }

    /// Throws away what has changed since the last commit.
    pub fn rollback(&self) -> Result<()> {
        let _turn = self.turn.lock();
        self.roll_back()
    }

    fn commit(&self) -> Result<CommitNumber> {
        let outcome = self.with(|open| {
            let pager = &open.pager;
            if !pager.is_writable() {
                return Err(Error::ReadOnly { path: self.path().to_owned() });
            }
            let number = commit(pager, &open.file)?;
            // Holding on to an older commit would keep its space from being reused.
            open.snapshot.lock().take();
            Ok(number)
        });
        if let Err(error) = &outcome
            && !matches!(error, Error::Closed { .. } | Error::ReadOnly { .. })
        {
            // The first error is the one to report; if rolling back fails too, later calls say so.
            let _ = self.roll_back();
        }
        outcome
    }

    fn roll_back(&self) -> Result<()> {
        let mut state = self.state.write();
        let Some(open) = state.take() else { return Err(Error::Closed { path: self.path().to_owned() }) };
        if !open.pager.is_writable() {
            *state = Some(open);
            return Ok(());
        }
        let Open { pager, file, mode, swmr, snapshot } = open;
        pager.rollback();
        close_file(file);
        pager.take_failure();
        if let Some(error) = pager.is_poisoned() {
            return Err(error);
        }
        // A file whose first commit is still to come begins again.
        let file = if pager.committed().eoa == 0 {
            pager.begin_fresh()?;
            Self::new_file(&pager)?
        } else {
            Self::writer_file(&pager)?
        };
        layout::ensure(&pager, &file)?;
        *state = Some(Open { pager, file, mode, swmr, snapshot });
        Ok(())
    }

    /// Closes the file, committing what is pending. The file then stands alone, without a journal, unless readers of
    /// other programs still hold an older commit.
    pub fn close(&self) -> Result<()> {
        let _turn = self.turn.lock();
        if !self.is_open() {
            return Ok(());
        }
        let outcome = if self.is_writable() { self.commit().map(drop) } else { Ok(()) };
        self.end(outcome, false)
    }

    /// Closes the file without committing what is pending. A file that this opening created is removed if nothing was
    /// committed to it since.
    pub fn abandon(&self) -> Result<()> {
        let _turn = self.turn.lock();
        self.end(Ok(()), true)
    }

    fn end(&self, outcome: Result<()>, remove_unused: bool) -> Result<()> {
        let Some(open) = self.state.write().take() else { return outcome };
        let Open { pager, file, snapshot, .. } = open;
        snapshot.lock().take();
        pager.rollback();
        close_file(file);
        outcome.and(pager.close(remove_unused))
    }

    /// Creates a group and those above it, and returns it; an existing one is returned as it is.
    pub fn create_group(&self, name: &str) -> Result<Group> {
        self.with(|open| layout::group(&open.pager, &open.file, name))
    }

    /// The `/buckets` group.
    pub fn buckets(&self) -> Result<Group> {
        self.with(|open| {
            open.file.group(Self::BUCKETS_GROUP).map_err(|error| explain(&open.pager, "open /buckets", &error))
        })
    }

    /// What `item`, a path from the root, names. [`Error::Hdf5`] when nothing does.
    pub fn get(&self, item: &str) -> Result<Item> {
        self.with(|open| {
            if let Ok(group) = open.file.group(item) {
                return Ok(Item::Group(group));
            }
            open.file
                .dataset(item)
                .map(Item::Dataset)
                .map_err(|error| explain(&open.pager, &format!("open {item}"), &error))
        })
    }

    /// Whether `item`, a path from the root, names something.
    pub fn contains(&self, item: &str) -> Result<bool> {
        self.with(|open| layout::exists(&open.pager, &open.file, item))
    }

    /// Binds what a log's replay calls; replaces an earlier one.
    pub fn bind_replay(&self, target: Arc<dyn Replay>) {
        *self.replay.write() = Some(ReplayTarget(target));
    }

    /// Replays a logged insertion through the bound [`Replay`].
    pub fn apply_insert(&self, key: u128, value: u128) -> Result<()> {
        self.replay_target()?.insert(self, key, value)
    }

    /// Replays a logged deletion through the bound [`Replay`].
    pub fn apply_delete(&self, key: u128) -> Result<()> {
        self.replay_target()?.delete(self, key)
    }

    fn replay_target(&self) -> Result<Arc<dyn Replay>> {
        let bound = self.replay.read();
        let target = bound.as_ref().ok_or_else(|| Error::NoReplayTarget { path: self.path().to_owned() })?;
        Ok(Arc::clone(&target.0))
    }

    /// What an error of libhdf5 on this file really was: the disk's error below it, when there was one.
    pub fn explain(&self, action: &str, error: &hdf5_metno::Error) -> Error {
        match &*self.state.read() {
            Some(open) => explain(&open.pager, action, error),
            None => Error::hdf5(self.path(), action, error),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // Like leaving a scope in h5py: what is pending is committed. Whoever needs to know calls `close`.
        let _ = self.close();
    }
}

/// Commits what libhdf5 and the pager hold, if anything.
fn commit(pager: &Pager, file: &File) -> Result<CommitNumber> {
    let flush = || file.flush().map_err(|error| explain(pager, "write out its metadata", &error));
    flush()?;
    if let Some(error) = pager.take_failure() {
        return Err(error);
    }
    if !pager.has_changes() {
        return Ok(pager.committed().number);
    }
    layout::set_commit(pager, file, pager.committed().number.next())?;
    flush()?;
    if let Some(error) = pager.take_failure() {
        return Err(error);
    }
    pager.shrink()?;
    // What was allocated and given up here, libhdf5 has not heard of.
    let mut superblock = [0; superblock::LENGTH];
    pager.read_as_writer(0, &mut superblock)?;
    if superblock::set_end(&mut superblock, pager.eoa()) {
        pager.write(pager.epoch(), 0, &superblock)?;
    }
    let sections = vfd::free_sections(file).map_err(|error| explain(pager, "list its free space", &error))?;
    pager.commit(sections)
}

/// libhdf5's error, or the pager's behind it.
fn explain(pager: &Pager, action: &str, error: &hdf5_metno::Error) -> Error {
    pager.take_failure().unwrap_or_else(|| Error::hdf5(pager.path(), action, error))
}

fn close_file(file: File) {
    // What it still writes is dropped by its epoch, so an error has no consequence.
    let _ = file.close();
}
