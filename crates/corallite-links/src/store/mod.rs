//! [`CIDStore`]: opening, closing, and what its parts share.

mod adopt;
#[cfg(feature = "async")]
mod asynchronous;
mod background;
mod commit;
#[cfg(feature = "async")]
mod committer;
mod iterate;
mod maintain;
mod open;
mod read;
mod transaction;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use corallite_file::Storage;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::checkpoint::{Checkpoint, CheckpointReport, Fold, Identity};
use crate::engine::{Engine, Writer};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::options::LinksOptions;
use crate::wal::{Adopted, Position, Recovered, Wal};
use crate::{E, metrics::Metrics};

#[cfg(feature = "async")]
pub use asynchronous::{AsyncBuckets, AsyncCIDStore, AsyncDirectory, AsyncPairs, AsyncSnapshot, AsyncValueSet};
pub use iterate::{Pairs, Snapshot};
pub use maintain::{Maintenance, Statistics, Tuning};
pub use transaction::Transaction;
pub use write::Deletion;

use background::{Background, LogThread};
use commit::Request;

/// A multi-map from 128-bit ids to sets of 128-bit ids, in an HDF5 file.
///
/// ```
/// use corallite_links::{CIDStore, E};
///
/// # let directory = tempfile::tempdir()?;
/// let store = CIDStore::open(directory.path().join("links.h5"))?;
/// store.insert(E::from_str("base"), E::from_str("apache-2.0"))?; // durable when it returns
/// store.insert(E::from_str("base"), E::from_str("english"))?;
/// assert_eq!(store.get(E::from_str("base"))?, [E::from_str("apache-2.0"), E::from_str("english")]);
/// assert!(store.delete((E::from_str("base"), E::from_str("english")))?);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It may be used from any number of threads. Reads of what is loaded take no lock. A write that is applied may be seen by
/// readers a moment before it is durable; it is acknowledged when it is.
pub struct CIDStore {
    shared: Arc<Shared>,
    background: Mutex<Option<Background>>,
}

impl fmt::Debug for CIDStore {
    /// Only which store it is: all of it would be gigabytes.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CIDStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// What the store's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) options: LinksOptions,
    pub(crate) storage: Arc<Storage>,
    /// Whether the storage is closed with the links.
    owns_storage: bool,
    /// Whether the storage was open for writing when the links were opened.
    was_writable: bool,
    pub(crate) engine: Engine,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) identity: Identity,
    /// The log, once there is something to log.
    pub(crate) log: RwLock<Option<Arc<Wal>>>,
    /// Where the log goes on when it is created.
    log_start: Mutex<Position>,
    group: Group<Request, Result<u64>>,
    #[cfg(feature = "async")]
    committer: committer::Committer,
    /// Held while a batch is logged and applied, so that between two holders everything logged is applied.
    turn: Mutex<()>,
    /// The thread whose [`Transaction`](crate::Transaction) has the turn.
    transacting: Mutex<Option<ThreadId>>,
    /// Held while garbage is collected.
    collecting: Mutex<()>,
    /// Held by the one checkpoint that is under way.
    checkpointing: Mutex<()>,
    /// Why nothing more is written.
    failure: Mutex<Option<String>>,
    /// Set with the turn: nothing is committed from then on.
    is_closing: AtomicBool,
    /// Whether there is a log, or is about to be one.
    logs: AtomicBool,
    /// Whether the file says so.
    file_has_log: AtomicBool,
    is_closed: AtomicBool,
    pub(crate) metrics: Metrics,
    recovered: Mutex<Option<Recovered>>,
    wanted: Mutex<bool>,
    wake: Condvar,
    log_thread: LogThread,
    log_path: PathBuf,
    /// The batch of the newest pending changes of the file that are known to be in the log.
    adopted: Mutex<Option<Adopted>>,
    /// Bytes written by checkpoints since the file layer was last asked to reuse what they freed.
    freed: Mutex<u64>,
}

/// Bytes of checkpoints after which freed space is reclaimed.
const RECLAIM: u64 = 64 << 20;

impl Shared {
    fn is_writable(&self) -> bool {
        self.storage.is_writable()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed { path: self.path.clone() });
        }
        Ok(())
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        // Before the other question: a file that failed is not open for writing any more either.
        if let Some(cause) = &*self.failure.lock() {
            return Err(Error::Poisoned { path: self.path.clone(), cause: cause.clone() });
        }
        if self.is_writable() {
            return Ok(());
        }
        let path = self.path.clone();
        // A commit that failed on another thread ends writing before that thread has noted why.
        if self.was_writable {
            let cause = self.failure.lock().clone();
            let cause = cause.unwrap_or_else(|| "its file is not open for writing any more".to_owned());
            return Err(Error::Poisoned { path, cause });
        }
        Err(Error::ReadOnly { path })
    }

    /// From now on nothing is written.
    fn fail(&self, error: &Error) {
        self.failure.lock().get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn log(&self) -> Option<Arc<Wal>> {
        self.log.read().clone()
    }

    /// Refuses what would wait for the turn that a transaction of the same thread has.
    pub(super) fn check_no_transaction(&self) -> Result<()> {
        if *self.transacting.lock() == Some(std::thread::current().id()) {
            let problem = "this would wait for a transaction of the same thread; commit or drop that first".to_owned();
            return Err(Error::Usage { path: self.path.clone(), problem });
        }
        Ok(())
    }

    /// Waits until no other checkpoint is under way.
    ///
    /// # Errors
    ///
    /// Within a transaction of the same thread, which whoever writes a checkpoint would wait for.
    pub(super) fn one_checkpoint(&self) -> Result<MutexGuard<'_, ()>> {
        if self.storage.is_in_transaction() {
            let problem = "the links need a checkpoint, which cannot be written within a transaction of the same thread; \
                           change them before or after it";
            return Err(corallite_file::Error::Usage { path: self.path.clone(), problem: problem.to_owned() }.into());
        }
        Ok(self.checkpointing.lock())
    }

    /// Brings everything that was logged until now into the file, and frees the log's room.
    pub(crate) fn checkpoint(&self, fold: Fold) -> Result<CheckpointReport> {
        self.check_no_transaction()?;
        loop {
            let one = self.one_checkpoint()?;
            // Whoever has the turn may be waiting for a checkpoint, and then writes it.
            if let Some(turn) = self.turn.try_lock_for(Duration::from_millis(5)) {
                return self.write_checkpoint(&one, turn, fold);
            }
        }
    }

    /// A checkpoint of what was committed before `turn` was taken, which is given back as soon as that is noted.
    fn write_checkpoint<T>(&self, _one: &MutexGuard<'_, ()>, turn: T, fold: Fold) -> Result<CheckpointReport> {
        self.check_writable()?;
        let log = self.log();
        let position = log.as_ref().map_or_else(|| *self.log_start.lock(), |log| log.position());
        let checkpoint = Checkpoint {
            engine: &self.engine,
            writer: &self.writer,
            storage: &self.storage,
            identity: self.identity,
            fold,
            log: log.as_deref(),
            has_log: self.logs.load(Ordering::Acquire),
            adopted: *self.adopted.lock(),
        };
        let outcome = checkpoint.run(|_| {
            drop(turn);
            position
        });
        match outcome {
            Ok((report, position)) => {
                *self.log_start.lock() = position;
                if let Some(log) = self.log() {
                    log.truncate(position)?;
                }
                self.file_has_log.store(checkpoint.has_log, Ordering::Release);
                self.metrics.checkpointed(&report);
                self.reclaim(&report);
                Ok(report)
            }
            Err(error) => {
                self.metrics.checkpoint_failed();
                if !self.is_writable() || matches!(error, Error::Poisoned { .. }) {
                    self.fail(&error);
                }
                Err(error)
            }
        }
    }

    /// Lets the file layer hand out what was freed, from time to time.
    fn reclaim(&self, report: &CheckpointReport) {
        let mut freed = self.freed.lock();
        *freed += report.bytes;
        if *freed > RECLAIM {
            *freed = 0;
            // Only space is at stake.
            let _ = self.storage.reclaim();
        }
    }

    /// Asks the background thread for a checkpoint.
    fn want_checkpoint(&self) {
        *self.wanted.lock() = true;
        self.wake.notify_all();
    }
}

impl CIDStore {
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The store's path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The file layer below.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.shared.storage
    }

    /// The id of the store, which its log carries too.
    pub fn id(&self) -> E {
        self.shared.identity.store
    }

    /// What recovery found in the log when the store was opened; `None` when there was no log.
    pub fn recovered(&self) -> Option<Recovered> {
        self.shared.recovered.lock().clone()
    }

    /// The log, once something was written.
    pub fn wal(&self) -> Option<Arc<Wal>> {
        self.shared.log()
    }

    /// Brings everything written until now into the file, in one commit. It happens by itself before the log is full, and at
    /// closing.
    ///
    /// # Errors
    ///
    /// What the file layer reports, [`corallite_file::Error::DiskFull`] among it; nothing is lost then.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.shared.checkpoint(Fold::Grown)
    }

    /// Makes [`Durability::Buffered`](crate::Durability::Buffered) writes durable.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::flush`].
    pub fn flush(&self) -> Result<()> {
        self.shared.check_writable()?;
        match self.shared.log() {
            Some(log) => log.flush().inspect_err(|error| self.shared.fail(error)),
            None => Ok(()),
        }
    }

    /// Closes the store: everything is in its file, and the log is gone. A store that is dropped is closed too, but cannot say
    /// whether that worked.
    ///
    /// # Errors
    ///
    /// When the last checkpoint fails, and [`Error::Poisoned`] when writing failed before. The log then stays, and opening the
    /// store again recovers from it.
    pub fn close(self) -> Result<()> {
        self.end()
    }

    /// Closes the store for everybody who shares it; the first call does.
    fn end(&self) -> Result<()> {
        let shared = &self.shared;
        #[cfg(feature = "async")]
        shared.committer.stop();
        let mut background = self.background.lock();
        if let Some(background) = background.take() {
            background.stop(shared);
        }
        if shared.is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            let _turn = shared.turn.lock();
            shared.is_closing.store(true, Ordering::Release);
        }
        let outcome = shared.finish();
        shared.is_closed.store(true, Ordering::Release);
        let log = shared.log.write().take();
        let outcome = match (outcome, log) {
            (Ok(true), Some(log)) => match Arc::try_unwrap(log) {
                Ok(log) => log.remove(),
                // Somebody else still holds the log; it is empty, and is reused or removed the next time.
                Err(_) => Ok(()),
            },
            (outcome, _) => outcome.map(drop),
        };
        if shared.owns_storage {
            // What cannot be committed any more is in the log.
            let closed = if outcome.is_ok() { shared.storage.close() } else { shared.storage.abandon() };
            return outcome.and(closed.map_err(Error::from));
        }
        outcome
    }
}

impl Shared {
    /// The last checkpoint; whether the log is not needed any more.
    fn finish(&self) -> Result<bool> {
        if let Some(cause) = &*self.failure.lock() {
            return Err(Error::Poisoned { path: self.path.clone(), cause: cause.clone() });
        }
        if !self.is_writable() {
            return Ok(false);
        }
        let nothing = {
            let writer = self.writer.lock();
            let logged = self.log().is_some_and(|log| log.used() > 0);
            let noted = self.file_has_log.load(Ordering::Acquire);
            !noted && !logged && !writer.partitions.iter().flatten().any(|owned| owned.is_dirty)
        };
        if nothing {
            return Ok(true);
        }
        // What follows is in the file alone.
        self.logs.store(false, Ordering::Release);
        self.checkpoint(Fold::Grown).map(|_| true)
    }
}

impl Drop for CIDStore {
    fn drop(&mut self) {
        // Whoever needs to know calls `close`.
        let _ = self.end();
    }
}
