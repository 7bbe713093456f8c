//! The pager: which bytes of the file each reader and the writer see, and how a commit becomes durable.
//!
//! libhdf5 reads and writes through it and never touches the disk. One writer changes pages in memory (and in places
//! nobody can read); [`Pager::commit`] makes them durable through the journal, then applies them to the file when no
//! reader of another process holds it. Readers of this process see the commit they began with, from the journal's
//! images where the file has moved on.
//!
//! Locks are taken in the order `writer`, `shared`, `readers`; libhdf5 is never called while one is held. `shared` is
//! held for reading during a read of the file, so that an image is published before the page under it is overwritten.

mod apply;
mod commit;
mod history;
mod open;
mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::journal::{CommitState, Journal, Versions};
use crate::page::{CommitNumber, PAGE_SIZE, Page, PageNumber};
use crate::space::{Horizon, SafePages, Space};

pub(crate) use open::OpenAs;
pub(crate) use read::{Pinned, View};

/// What stands in the place of the HDF5 signature while pages are being applied.
pub(crate) const GUARD: [u8; 8] = *b"CORALMID";
/// The first eight bytes of an HDF5 file.
pub(crate) const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// Sizes and times the pager keeps to.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Commits before the newest that can be rolled back to.
    pub(crate) history: usize,
    /// Bytes of page images kept for them.
    pub(crate) history_bytes: u64,
    /// Journal size from which on it is packed.
    pub(crate) journal_bytes: u64,
    /// Bytes of changed pages held in memory.
    pub(crate) dirty_bytes: usize,
    /// How long to wait for other programs' locks.
    pub(crate) lock_wait: Duration,
}

/// What readers share.
#[derive(Debug)]
struct Shared {
    journal: Option<Arc<dyn DiskFile>>,
    versions: Versions,
    committed: CommitState,
    /// Older commits that can still be read, oldest first.
    history: Vec<CommitState>,
    /// The newest commit that the file itself holds.
    applied: CommitNumber,
    applied_eoa: u64,
    /// The commit that the file is being brought to, or was when that failed half-way.
    applying: Option<CommitNumber>,
}

/// Who reads what in this process.
#[derive(Debug, Default)]
struct Readers {
    snapshots: BTreeMap<CommitNumber, SnapshotUse>,
    pins: HashMap<u64, (u64, u64)>,
    next_pin: u64,
}

#[derive(Debug)]
struct SnapshotUse {
    count: usize,
    eoa: u64,
}

/// The writer's own state.
#[derive(Debug)]
struct Writer {
    /// The file whose lock makes this process the writer.
    lock_file: Arc<dyn DiskFile>,
    /// Begun with the first change.
    journal: Option<Journal>,
    /// A packed journal behind the end of the file, to be copied out before anything overwrites it.
    trailer: Option<(u64, u64)>,
    /// Whether this opening created the file.
    created: bool,
    /// Commits made by this opening.
    commits: u64,
    /// Handles of libhdf5 opened before the last rollback are of an older epoch; what they write is dropped.
    epoch: u64,
    poison: Option<String>,
    /// The end of allocation as the transaction sees it.
    eoa: u64,
    space: Space,
    transaction: Option<Transaction>,
}

/// What a transaction has changed.
#[derive(Debug)]
struct Transaction {
    /// What can be read while this transaction runs.
    horizon: Horizon,
    safe: SafePages,
    /// The file is being written anew: the committed content is not seen.
    fresh: bool,
    /// Why this transaction cannot be committed any more.
    doomed: Option<String>,
    dirty: BTreeMap<PageNumber, Page>,
    /// Changed pages already in the journal, by frame offset.
    spilled: HashMap<PageNumber, u64>,
    /// Pages whose image before this transaction is in the journal since this transaction began.
    before: HashSet<PageNumber>,
    before_frames: Vec<(PageNumber, u64)>,
    /// Directly written pages of which the journal holds older images.
    direct_known: BTreeSet<PageNumber>,
    wrote_direct: bool,
    /// Where the last of it ends.
    direct_end: u64,
}

/// The pages of one file.
#[derive(Debug)]
pub(crate) struct Pager {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    journal_path: PathBuf,
    file: Arc<dyn DiskFile>,
    limits: Limits,
    shared: RwLock<Shared>,
    readers: Mutex<Readers>,
    writer: Option<Mutex<Writer>>,
    /// What went wrong below libhdf5, which can only say that something did.
    failure: Mutex<Option<Error>>,
    /// What `verify` should say about the bytes behind the end of the file.
    trailer_problem: Option<String>,
}

impl Pager {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    /// The newest commit.
    pub(crate) fn committed(&self) -> CommitState {
        self.shared.read().committed.clone()
    }

    /// The newest commit that other programs see.
    pub(crate) fn applied(&self) -> CommitNumber {
        self.shared.read().applied
    }

    pub(crate) fn trailer_problem(&self) -> Option<&str> {
        self.trailer_problem.as_deref()
    }

    /// Numbers the state without commits: what a file without journal and trailer says of itself.
    pub(crate) fn adopt_number(&self, number: CommitNumber) {
        let mut shared = self.shared.write();
        if shared.committed.number == CommitNumber(0) && shared.journal.is_none() {
            shared.committed.number = number;
            shared.applied = number;
        }
    }

    /// Remembers why an operation inside libhdf5 failed.
    pub(crate) fn note_failure(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
    }

    /// Why the last operation inside libhdf5 failed, if it was our doing.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().take()
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.writer.as_ref().ok_or_else(|| Error::ReadOnly { path: self.path.clone() })?;
        let writer = writer.lock();
        match &writer.poison {
            Some(cause) => Err(Error::Poisoned { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(writer),
        }
    }

    /// The oldest commit whose pages must stay readable.
    fn oldest_needed(&self, shared: &Shared) -> CommitNumber {
        let kept = shared.history.first().map_or(shared.committed.number, |commit| commit.number);
        let read = self.readers.lock().snapshots.keys().next().copied().unwrap_or(kept);
        kept.min(read).min(shared.applied)
    }

    /// The end of what any readable state, reader or map can touch. Page 0 always counts: the superblock of a new file
    /// must appear as atomically as any other.
    fn frozen_end(&self, shared: &Shared) -> u64 {
        let readers = self.readers.lock();
        let kept = shared.history.iter().map(|commit| commit.eoa);
        let read = readers.snapshots.values().map(|snapshot| snapshot.eoa);
        let mapped = readers.pins.values().map(|&(_, end)| end);
        kept.chain(read).chain(mapped).chain([shared.committed.eoa, shared.applied_eoa]).fold(PAGE_SIZE, u64::max)
    }

    fn io(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::io(action, &self.path, source)
    }

    fn journal_io(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::io(action, &self.journal_path, source)
    }
}

impl Transaction {
    /// Whether `page` may be written to its place before the commit.
    fn is_direct(&self, page: PageNumber) -> bool {
        page.start() >= self.horizon.end || self.safe.contains(page)
    }
}
