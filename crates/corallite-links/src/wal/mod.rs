//! The write-ahead log, `models.h5-wal`.
//!
//! It owns one file: an HDF5 file that is laid out once and stays valid whatever happens, in which a ring of 64-byte
//! records is written past libhdf5. A write is a *batch*: its change records, then a commit record with a MAC that
//! chains to the batch before. A batch is in the log whole or not at all. Records are numbered by [`Lsn`]; a
//! [`Position`] is a number with the MAC before it, enough to go on reading or writing from there.
//!
//! ```text
//!   confirmed             durable       written       prepared         confirmed + capacity
//!   | the store's file    | synced      | handed to   | encoded        |
//!   | has everything      |             | the system  |                |
//!   | before              |             |             |                |
//! ```
//!
//! The log never overwrites a record from `confirmed` on: a batch that does not fit is refused, and room is made by
//! whoever brings the changes into the store's file and then calls [`Wal::truncate`]. The confirmed position lies in
//! the store's file, which is the authority; the log's own header has a hint of it. The log never looks into changes,
//! never writes to the store's file and never repairs: what a crash left of batches that no sync confirmed is dropped,
//! and damage to anything older is an error.
//!
//! After a failed write or sync nobody knows what of it is on the disk, and a second sync that succeeds proves nothing
//! (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020): the log takes no more writes
//! until it is opened again. Opening does not trust the system's cache either: before the first write, records that no
//! sync is known to have confirmed are written once more, and what was dropped is zeroed, and both are synced.

mod append;
mod audit;
mod format;
mod metrics;
mod reader;
mod replay;
mod ring;
mod skeleton;
mod sparse;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use corallite_file::{Access, Disk};
use parking_lot::{Mutex, RwLock};
use zerocopy::IntoBytes;

pub use append::{Prepared, Stamp};
pub use audit::{Audit, Finding};
pub use format::{LOG_FORMAT_VERSION, Record};
pub use metrics::WalMetrics;
pub use replay::ReplayReport;

use crate::error::{Error, Result};
use append::{Pool, Upkeep};
use format::{LSN_LIMIT, PAGE, RECORD, SLOTS_AT, Slot, log_of};
use ring::Ring;

/// A place in the log: the number of a record since the store was made, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of the chain between two batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The record that comes next.
    pub lsn: Lsn,
    /// The MAC of the batch before it.
    pub mac: [u8; 16],
}

/// What an append promises when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The batch survives `kill -9` and power loss, and so does everything appended before.
    Durable,
    /// The batch was handed to the operating system: it survives `kill -9`, and power loss only once a later
    /// [`Wal::sync`], [`Wal::flush`] or durable append returned. After power loss it is there whole or not at all, and
    /// never without the batches before it.
    Buffered,
}

/// A log to be created.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Records that it holds at once, commit records included; rounded up to whole pages of 64.
    pub capacity: u64,
    /// The key of the MACs.
    pub key: [u8; 32],
    /// The id of the store. Its first eight bytes are in every record.
    pub store: [u8; 16],
}

/// A log to be opened.
#[derive(Clone, Debug)]
pub struct WalSource {
    /// The key of the MACs.
    pub key: [u8; 32],
    /// The id of the store.
    pub store: [u8; 16],
    /// The position that the store's file confirms; `None` to go by the hint in the log, which may lag behind.
    pub from: Option<Position>,
    /// Keep the good beginning of a damaged log and give up the rest, instead of [`Error::DamagedLog`].
    pub salvage: bool,
    /// Never write to the file.
    pub read_only: bool,
}

/// What [`Wal::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the batches begin.
    pub start: Position,
    /// Where they end, and the next one will be written.
    pub end: Position,
    /// Good batches.
    pub batches: u64,
    /// Their change records.
    pub records: u64,
    /// Records after the end that were dropped: what a crash left of batches that no sync confirmed, and what is of transactions
    /// that the store's file does not have.
    pub dropped: u64,
    /// Those of the batches that were made from changes in the store's file, in order.
    pub adopted: Vec<Adopted>,
    /// With [`WalSource::salvage`], the damage after which everything was given up.
    pub damage: Option<Damage>,
}

/// A batch that was made from changes which a transaction of the store's file brought; see [`Changes`](crate::Changes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The token of these changes, which is never 0.
    pub token: u64,
    /// The batch's first record.
    pub start: Lsn,
    /// The first record after it.
    pub end: Lsn,
}

/// Damage that cost acknowledged records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first record that is lost.
    pub from: Lsn,
    /// The first record that is not known to be lost.
    pub to: Lsn,
    /// The byte of the file at which what does not agree lies.
    pub offset: u64,
    /// What does not agree.
    pub problem: String,
}

impl Damage {
    fn into_error(self, path: &Path) -> Error {
        let Self { from, to, offset, problem } = self;
        Error::DamagedLog { path: path.to_owned(), from, to, offset, problem }
    }
}

/// An open write-ahead log.
///
/// All methods may be called from any thread. Batches are written in the order in which they were prepared.
///
/// Locks are taken in this order: `chain`, `replaying`, `syncing`, `upkeep`, `state`. `state` is held for moments only,
/// so that [`Wal::free`] and [`Wal::metrics`] answer while others write and sync.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    ring: Ring,
    key: [u8; 32],
    log: u64,
    read_only: bool,
    pool: Arc<Pool>,
    /// Where the next batch will be prepared.
    chain: Mutex<Position>,
    /// Shared while records are handed out from a map of the file; exclusive to free them.
    replaying: RwLock<()>,
    /// Two syncs at once could hide a failure of the one from the other.
    syncing: Mutex<()>,
    /// Held while the file is written.
    upkeep: Mutex<Upkeep>,
    state: Mutex<State>,
}

/// How far things have come.
#[derive(Debug)]
struct State {
    confirmed: Position,
    durable: Lsn,
    written: Position,
    /// The end of what was prepared, which has its room already.
    prepared: Lsn,
    poisoned: Option<String>,
    metrics: WalMetrics,
}

impl Wal {
    /// Creates the log at `path` in place of what is there, with the permissions of `like`. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a capacity out of range, [`Error::DiskFull`] and [`Error::Io`].
    pub fn create(
        disk: Arc<dyn Disk>,
        path: &Path,
        like: Option<&Path>,
        options: &WalOptions,
        start: Position,
    ) -> Result<Self> {
        /// Larger files than any disk holds would only fail later.
        const LARGEST: u64 = 1 << 40;
        let capacity = options.capacity.checked_next_multiple_of(PAGE / RECORD).filter(|&slots| slots <= LARGEST);
        let (Some(capacity @ 1..), true) = (capacity, start.lsn.0 < LSN_LIMIT) else {
            let problem = format!("a log of {} records from record {} on cannot be made", options.capacity, start.lsn);
            return Err(Error::Usage { path: path.to_owned(), problem });
        };
        let (ring, header) = skeleton::create(disk.as_ref(), path, like, capacity, options.store, start)?;
        let upkeep = Upkeep {
            header,
            slot: Some((1, 0)),
            zeroed: Lsn(start.lsn.0 + capacity.min(skeleton::ZERO_STEP)),
            first: start.lsn,
            unsettled: None,
        };
        let state = State {
            confirmed: start,
            durable: start.lsn,
            written: start,
            prepared: start.lsn,
            poisoned: None,
            metrics: WalMetrics::default(),
        };
        Ok(Self::new(disk, path, ring, (options.key, options.store), false, upkeep, state))
    }

    /// Opens the log at `path` and reads all of it. Nothing is written before the first append or sync.
    ///
    /// # Errors
    ///
    /// [`Error::NotALog`], [`Error::NewerFormat`]; [`Error::ForeignLog`] for the log of another store or one that has
    /// moved on from `source.from`; [`Error::DamagedLog`] when records that a sync had confirmed are not what was
    /// written. Damage to the last synced batch looks like the end of the log only where the mark behind it is lost too.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, source: &WalSource) -> Result<(Self, Recovered)> {
        let access = if source.read_only { Access::Read } else { Access::ReadWrite };
        let file = disk.open(path, access).map_err(|error| Error::io("open", path, error))?;
        let front = reader::front(file.as_ref(), path)?;
        let foreign = |problem: String| Error::ForeignLog { path: path.to_owned(), problem };
        if front.header.store != source.store {
            let hex: String = front.header.store.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(foreign(format!("its store has the id {hex}")));
        }
        let hint = front.hint.map(|(slot, _)| slot.position());
        let from = source.from.or(hint).ok_or_else(|| Error::NotALog {
            path: path.to_owned(),
            problem: "its header does not say where it begins; open it together with its store".to_owned(),
        })?;
        if from.lsn.0 >= LSN_LIMIT {
            return Err(foreign(format!("the store's file ends at the impossible record {}", from.lsn)));
        }
        let file = if source.read_only { reader::copy(file, path)? } else { file };
        let ring = Ring { file, region: front.header.region.get(), capacity: front.header.capacity.get() };
        let log = log_of(&source.store);
        let scan = reader::Scan {
            ring: &ring,
            path,
            key: &source.key,
            log,
            begins: Lsn(front.header.first.get()).max(hint.map_or(Lsn(0), |hint| hint.lsn)),
            salvage: source.salvage,
        };
        let found = scan.run(from)?;
        let unsettled =
            (found.durable < found.end.lsn || found.stale.is_some()).then_some((found.durable, found.stale));
        let upkeep = Upkeep {
            header: front.at,
            slot: front.hint.map(|(slot, index)| (slot.sequence.get(), index)),
            zeroed: found.end.lsn,
            first: Lsn(front.header.first.get()),
            unsettled,
        };
        let state = State {
            confirmed: from,
            durable: found.durable,
            written: found.end,
            prepared: found.end.lsn,
            poisoned: None,
            metrics: WalMetrics::default(),
        };
        let wal = Self::new(disk, path, ring, (source.key, source.store), source.read_only, upkeep, state);
        Ok((wal, found.recovered))
    }

    fn new(
        disk: Arc<dyn Disk>,
        path: &Path,
        ring: Ring,
        (key, store): ([u8; 32], [u8; 16]),
        read_only: bool,
        upkeep: Upkeep,
        state: State,
    ) -> Self {
        Self {
            disk,
            path: path.to_owned(),
            ring,
            key,
            log: log_of(&store),
            read_only,
            pool: Arc::default(),
            chain: Mutex::new(state.written),
            replaying: RwLock::new(()),
            syncing: Mutex::new(()),
            upkeep: Mutex::new(upkeep),
            state: Mutex::new(state),
        }
    }

    /// Gives up the records before `confirmed`, which the store's file must hold durably by now: their room is free for
    /// new ones. Notes the position in the log's header as a hint, which is not synced.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a position beyond what was written, or during a replay; [`Error::Poisoned`],
    /// [`Error::ReadOnly`] and what a failed write gives.
    pub fn truncate(&self, confirmed: Position) -> Result<()> {
        self.check_writable()?;
        let Some(_alone) = self.replaying.try_write() else {
            return Err(self.usage("records cannot be given up while they are replayed; truncate afterwards"));
        };
        let mut upkeep = self.upkeep.lock();
        {
            let state = self.state.lock();
            self.check_poison(&state)?;
            if confirmed.lsn > state.written.lsn {
                let problem =
                    format!("record {} was not written yet, only those before {}", confirmed.lsn, state.written.lsn);
                return Err(self.usage(&problem));
            }
            if confirmed.lsn <= state.confirmed.lsn {
                return Ok(());
            }
        }
        let (sequence, index) = upkeep.slot.map_or((1, 0), |(sequence, index)| (sequence.wrapping_add(1), 1 - index));
        let slot = Slot::new(sequence, confirmed, self.log);
        let written = self.ring.file.write_at(upkeep.header + SLOTS_AT[index], slot.as_bytes());
        written.map_err(|error| self.poison("write to", error))?;
        upkeep.slot = Some((sequence, index));
        let mut state = self.state.lock();
        state.confirmed = confirmed;
        state.durable = state.durable.max(confirmed.lsn);
        Ok(())
    }

    /// Removes the log's file, durably. For a clean end, when the store's file holds everything.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        self.check_writable()?;
        let Self { disk, path, .. } = self;
        disk.remove(&path).map_err(|error| Error::io("remove", &path, error))?;
        disk.sync_directory(&path).map_err(|error| Error::io("remove", &path, error))
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of what was written: where the store's file stands once it holds all of it.
    pub fn position(&self) -> Position {
        self.state.lock().written
    }

    /// Where the live records begin.
    pub fn confirmed(&self) -> Position {
        self.state.lock().confirmed
    }

    /// What lies before survives power loss.
    pub fn durable(&self) -> Lsn {
        self.state.lock().durable
    }

    /// Records that the log holds at once.
    pub fn capacity(&self) -> u64 {
        self.ring.capacity
    }

    /// Records that can be added, commit records included.
    pub fn free(&self) -> u64 {
        self.ring.capacity - self.used()
    }

    /// Records that are live, or prepared.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// What was done since the log was opened.
    pub fn metrics(&self) -> WalMetrics {
        let state = self.state.lock();
        WalMetrics { depth: state.written.lsn.0 - state.confirmed.lsn.0, ..state.metrics }
    }

    fn check_writable(&self) -> Result<()> {
        if self.read_only { Err(Error::ReadOnly { path: self.path.clone() }) } else { Ok(()) }
    }

    fn check_poison(&self, state: &State) -> Result<()> {
        match &state.poisoned {
            Some(cause) => Err(Error::Poisoned { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Takes no more writes from now on; the error for whoever saw the failure.
    fn poison(&self, action: &'static str, error: std::io::Error) -> Error {
        let mut state = self.state.lock();
        state.poisoned.get_or_insert_with(|| match action {
            "sync" => format!("a sync failed ({error}), after which another one proves nothing"),
            _ => format!("a write failed ({error})"),
        });
        Error::io(action, &self.path, error)
    }

    fn usage(&self, problem: &str) -> Error {
        Error::Usage { path: self.path.clone(), problem: problem.to_owned() }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.prepared.0 - self.confirmed.lsn.0
    }
}
