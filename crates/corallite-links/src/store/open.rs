//! Opening a store, and recovering what a crash left in its log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use corallite_file::{Access, Mode, Options, Storage};
use parking_lot::{Condvar, Mutex, RwLock};

use super::adopt::Found;
use super::{Background, CIDStore, Shared};
use crate::E;
use crate::arena::TABLE_BITS;
use crate::checkpoint::{Fold, Identity};
use crate::engine::{Engine, Replayed, Share, Writer};
use crate::error::{Error, Result};
use crate::format::PartitionRecord;
use crate::hash::Seed;
use crate::metrics::Metrics;
use crate::options::LinksOptions;
use crate::source::{Contents, Source};
use crate::wal::{Lsn, Position, Recovered, ReplayReport, Wal, WalSource};

/// Most threads that replay a log.
const REPLAY_THREADS: usize = 4;
/// Fewer records than this are replayed sooner by one thread.
const RECORDS_PER_THREAD: u64 = 1 << 15;

/// Attempts of a reader while a writer of another process moves the log on.
const ATTEMPTS: usize = 20;

impl CIDStore {
    /// Opens the store at `path` for reading and writing; creates it when absent.
    ///
    /// # Errors
    ///
    /// Those of [`Storage::open`] and [`CIDStore::with_storage`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Mode::Append, LinksOptions::default())
    }

    /// Opens the store at `path` for reading: what it held at this moment, the log included.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Mode::Read, LinksOptions::default())
    }

    /// Opens the store at `path` with a mode and settings.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: Mode, options: LinksOptions) -> Result<Self> {
        // Checkpoints are no versions that anyone goes back to, and what they replace should be free soon.
        let storage = Storage::with_options(path.as_ref(), Options::new().history(0));
        Self::on_storage(storage, mode, options)
    }

    /// Opens the store on a storage that is not open yet, and that is closed with the store.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub fn on_storage(storage: Storage, mode: Mode, options: LinksOptions) -> Result<Self> {
        storage.open(mode, false)?;
        let storage = Arc::new(storage);
        match Self::start(Arc::clone(&storage), options, true) {
            Ok(store) => Ok(store),
            Err(error) => {
                // The first error is the one to report.
                let _ = storage.abandon();
                Err(error)
            }
        }
    }

    /// A store in memory, which goes with the value.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn memory() -> Result<Self> {
        let storage = Storage::with_options(corallite_file::Source::Memory, Options::new().history(0));
        Self::on_storage(storage, Mode::Append, LinksOptions::default().log_bytes(1 << 20))
    }

    /// Opens the links of an open storage, which stays open when the store is closed. With a storage that is open for
    /// writing, what a crash left in the log is recovered.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when what the file says of the links does not agree, [`Error::DamagedLog`] when acknowledged
    /// records of the log are lost, [`Error::ForeignLog`] when the log beside the file is not its own.
    pub fn with_storage(storage: Arc<Storage>, options: LinksOptions) -> Result<Self> {
        Self::start(storage, options, false)
    }

    fn start(storage: Arc<Storage>, options: LinksOptions, owns_storage: bool) -> Result<Self> {
        let mut attempt = 1;
        let shared = loop {
            match Shared::open(Arc::clone(&storage), options.clone(), owns_storage) {
                // A writer of another process may have made a checkpoint between our looking at its file and at its log.
                Err(Error::ForeignLog { .. } | Error::DamagedLog { .. } | Error::MissingLog { .. })
                    if !storage.is_writable() && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                    storage
                        .refresh()
                        .map(drop)
                        .or_else(|_| storage.close().and_then(|()| storage.open(Mode::Read, false)))?;
                }
                outcome => break Arc::new(outcome?),
            }
        };
        let background = match shared.options.background && shared.is_writable() {
            true => Some(Background::start(&shared)?),
            false => None,
        };
        Ok(Self { shared, background: Mutex::new(background) })
    }
}

/// Where a store's log lies.
pub(crate) fn log_path(storage: &Storage) -> Result<PathBuf> {
    let path = storage.path();
    let resolved = storage.disk().resolve(path).map_err(|error| Error::io("resolve", path, error))?;
    let mut name = resolved.into_os_string();
    name.push("-wal");
    Ok(name.into())
}

impl Shared {
    fn open(storage: Arc<Storage>, options: LinksOptions, owns_storage: bool) -> Result<Self> {
        let path = storage.path().to_owned();
        let log_path = log_path(&storage)?;
        let corrections = Arc::new(AtomicU64::new(0));
        let snapshot = storage.snapshot()?;
        let (source, contents) = Source::open(&path, snapshot, Arc::clone(&corrections))?;
        let seed = match (&contents, options.seed) {
            (Some(contents), _) => contents.state.seed.map(|half| half.get()),
            (None, Some(seed)) => seed,
            (None, None) => [E::random(), E::random()].map(|id| id.high() ^ id.low()),
        };
        let found = Found::read(&source, options.salvage)?;
        let identity = match &contents {
            Some(contents) => Identity { store: E::from_hdf5(contents.state.store), log_key: contents.state.log_key },
            None => Identity { store: E::random(), log_key: options.log_key.map_or_else(random_key, |_| [0; 32]) },
        };
        let mut engine = Engine::new(&path, Seed(seed), options.memory, corrections)
            .map_err(|error| Error::io("get memory for the links of", &path, error))?;
        engine.partition_buckets = (options.partition_bytes / crate::bucket::BYTES as u64) as u32;
        let mut writer = Writer::default();
        let mut start = Position::default();
        match &contents {
            None => engine.begin(&mut writer)?,
            Some(contents) => {
                check_partitions(&path, contents)?;
                contents.partitions.iter().for_each(|record| engine.adopt(&mut writer, *record));
                writer.next_run = contents.state.next_run.get();
                writer.deletions = source.deletions(&contents.state)?;
                start = Position { lsn: Lsn(contents.state.log_position.get()), mac: contents.state.log_mac };
            }
        }
        writer.applied = start.lsn;
        let is_new = contents.is_none();
        let has_log = contents.as_ref().is_some_and(|contents| contents.state.has_log == 1);
        *engine.source.write() = (!is_new).then_some(source);
        let shared = Self {
            path,
            options,
            owns_storage,
            was_writable: storage.is_writable(),
            engine,
            writer: Mutex::new(writer),
            identity,
            log: RwLock::default(),
            log_start: Mutex::new(start),
            group: Default::default(),
            #[cfg(feature = "async")]
            committer: Default::default(),
            turn: Mutex::default(),
            transacting: Mutex::default(),
            collecting: Mutex::default(),
            checkpointing: Mutex::default(),
            failure: Mutex::default(),
            is_closing: AtomicBool::new(false),
            logs: AtomicBool::new(has_log),
            file_has_log: AtomicBool::new(has_log),
            is_closed: AtomicBool::new(false),
            metrics: Metrics::default(),
            recovered: Mutex::default(),
            wanted: Mutex::default(),
            wake: Condvar::new(),
            log_thread: Default::default(),
            log_path,
            adopted: Mutex::default(),
            freed: Mutex::default(),
            storage,
        };
        shared.recover(is_new, start, &found)?;
        shared.adopt_found(found)?;
        shared.engine.make_room(&mut shared.writer.lock());
        Ok(shared)
    }

    /// The key of the log's MACs.
    pub(super) fn log_key(&self) -> [u8; 32] {
        self.options.log_key.unwrap_or(self.identity.log_key)
    }

    fn recover(&self, is_new: bool, start: Position, found: &Found) -> Result<()> {
        let disk = Arc::clone(self.storage.disk());
        match disk.open(&self.log_path, Access::Read) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return self.go_without_log(start);
            }
            Err(error) => return Err(Error::io("open", &self.log_path, error)),
        }
        if is_new {
            let problem = "the store has no links, and the log has records for some".to_owned();
            return Err(Error::ForeignLog { path: self.log_path.clone(), problem });
        }
        if self.identity.log_key == [0; 32] && self.options.log_key.is_none() {
            let problem = "its log was written with a key that the caller keeps; give it to open the store".to_owned();
            return Err(Error::Usage { path: self.path.clone(), problem });
        }
        let source = WalSource {
            key: self.log_key(),
            store: self.identity.store.into(),
            from: Some(start),
            salvage: self.options.salvage,
            read_only: !self.is_writable(),
        };
        let (log, mut recovered) = Wal::open(disk, &self.log_path, &source)?;
        let cut = self.cut(found, &recovered)?;
        if let Found::Pending(pending) = found {
            let batch = recovered.adopted.iter().find(|batch| batch.token == pending.token);
            *self.adopted.lock() = batch.copied();
        }
        let mut writer = self.writer.lock();
        let (report, replayed) = self.replay(&log, &writer, cut, recovered.records)?;
        if let Some(cut) = cut {
            recovered.dropped += recovered.end.lsn.0 - cut.0;
            (recovered.batches, recovered.records) = (report.batches, report.records);
        }
        writer.adopt_replayed(replayed);
        writer.applied = log.position().lsn;
        drop(writer);
        self.metrics.replayed(&report);
        *self.recovered.lock() = Some(recovered);
        let end = log.position();
        *self.log_start.lock() = end;
        *self.log.write() = Some(Arc::new(log));
        self.logs.store(true, Ordering::Release);
        self.check_end(end.lsn, "it ends too early")?;
        if cut.is_some() && self.is_writable() {
            // What was left out must not be found by the next opening, beside what comes.
            self.checkpoint(Fold::Grown)?;
        }
        Ok(())
    }

    /// Where the part of the log begins that is of transactions which this commit of the file does not have yet: a reader, and
    /// a copy of the file, are older than the log that they find. Their part of the log is that before.
    fn cut(&self, found: &Found, recovered: &Recovered) -> Result<Option<Lsn>> {
        let cut = found.cut(recovered);
        match cut {
            Some(lsn) if self.is_writable() && !self.options.cut_log && !self.options.salvage => {
                let problem = format!(
                    "the store's file is older than its log: from record {lsn} on, the log has links of a transaction that the file does not have; was the file restored from a backup?"
                );
                Err(Error::ForeignLog { path: self.log_path.clone(), problem })
            }
            _ => Ok(cut),
        }
    }

    /// Hands the log's changes to the engine, on several threads where they are many.
    fn replay(
        &self,
        log: &Wal,
        writer: &Writer,
        cut: Option<Lsn>,
        records: u64,
    ) -> Result<(ReplayReport, Vec<Replayed>)> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(REPLAY_THREADS);
        let of = if records < RECORDS_PER_THREAD { 1 } else { threads as u32 };
        let share = |number| {
            let mut replayed = Replayed::default();
            let report = log.replay_before(cut, None, |records| {
                self.engine.replay(writer, records, Share { number, of }, &mut replayed);
                Ok(())
            })?;
            Ok((report, replayed))
        };
        std::thread::scope(|scope| {
            let spawn = |number| std::thread::Builder::new().spawn_scoped(scope, move || share(number));
            let others: Vec<_> = (1..of).map(|number| (number, spawn(number))).collect();
            let (report, first) = share(0)?;
            let mut all = vec![first];
            for (number, other) in others {
                // A thread that could not be had is done without.
                let (_, replayed) = match other {
                    Ok(thread) => thread.join().unwrap_or_else(|_| Err(self.lost()))?,
                    Err(_) => share(number)?,
                };
                all.push(replayed);
            }
            Ok((report, all))
        })
    }

    /// Opens without a log, if the file does not say that there is one.
    fn go_without_log(&self, start: Position) -> Result<()> {
        if self.file_has_log.load(Ordering::Acquire) && !self.options.salvage {
            // For a reader, a writer may just have closed the store: then a newer commit says so, and is looked for.
            return Err(Error::MissingLog { path: self.log_path.clone() });
        }
        self.check_end(start.lsn, "it is missing")
    }

    /// Checks that the log goes as far as the partitions. Where it does not, it was lost: some partitions hold batches of
    /// which others do not have their part, and new records would get numbers that count as applied.
    fn check_end(&self, end: Lsn, problem: &str) -> Result<()> {
        let mut writer = self.writer.lock();
        let records = writer.partitions.iter().flatten().filter_map(|owned| owned.record);
        let applied = Lsn(records.map(|record| record.applied.get()).max().unwrap_or(0));
        if applied <= end {
            return Ok(());
        }
        if !self.options.salvage {
            let (path, problem) = (self.log_path.clone(), problem.to_owned());
            return Err(Error::DamagedLog { path, from: end, to: applied, offset: 0, problem });
        }
        for owned in writer.partitions.iter_mut().flatten() {
            let Some(record) = &mut owned.record else { continue };
            record.applied = record.applied.get().min(end.0).into();
            if owned.hot.is_none() {
                self.engine.partition(owned.id).cold.write().record = Some(*record);
            }
        }
        drop(writer);
        // The file must say so before the numbers are used again.
        if self.is_writable() { self.checkpoint(Fold::Grown).map(drop) } else { Ok(()) }
    }
}

/// A key that nobody guesses: two UUIDv4 have 244 random bits.
fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&<[u8; 16]>::from(E::random()));
    key[16..].copy_from_slice(&<[u8; 16]>::from(E::random()));
    blake3::derive_key("corallite links 2026 log key", &key)
}

/// Checks that the partitions cover every hash once; anything may be in a file.
fn check_partitions(path: &Path, contents: &Contents) -> Result<()> {
    let damaged = |record: &PartitionRecord, problem: &str| {
        Err(Error::damaged(path, format!("/nodes/partitions, partition {:08x}", record.id.get()), problem))
    };
    if contents.state.next_run.get() > u32::MAX / 2 {
        return Err(Error::damaged(path, "/nodes/links", "its numbers are out of range"));
    }
    let mut expected: u128 = 0;
    let mut ids = std::collections::HashSet::new();
    for record in &contents.partitions {
        let skip = u32::from(record.skip);
        if skip > TABLE_BITS
            || record.id.get() >= 1 << TABLE_BITS
            || !ids.insert(record.id.get())
            || u32::from(record.directory_bits) > crate::arena::DIRECTORY_BITS
            || usize::from(record.slices_count) > crate::format::SLICES
            || !record.counts_are_possible()
        {
            return damaged(record, "its numbers are out of range");
        }
        if u128::from(record.prefix.get()) << (64 - skip) != expected {
            return damaged(record, "it does not begin where the one before it ends");
        }
        expected += 1 << (64 - skip);
    }
    match contents.partitions.last() {
        Some(last) if expected != 1 << 64 => damaged(last, "it is the last, and does not reach to the end"),
        Some(_) => Ok(()),
        None => Err(Error::damaged(path, "/nodes/partitions", "there are none")),
    }
}
