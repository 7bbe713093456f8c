//! [`DeletionLog`] and [`BackgroundGC`]: what was deleted, and who cleans up after it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::DELETIONS;
use crate::format::ChangeRecord;
use crate::{CIDStore, E, Error, Result};

/// A deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletionEntry {
    /// The key.
    pub key: E,
    /// The value; zero when the key went with all its values.
    pub value: E,
    /// When, in nanoseconds since 1970.
    pub nanos: u64,
}

/// The deletions since garbage was last collected.
///
/// Every deletion that is committed is in it, and it survives a crash: checkpoints store it in `/nodes/deletions`, and
/// recovery adds the deletions of the log. It holds 65,536 of them; when it is full, collecting garbage looks at everything.
#[derive(Clone, Copy, Debug)]
pub struct DeletionLog<'a> {
    store: &'a CIDStore,
}

impl<'a> DeletionLog<'a> {
    pub(crate) fn new(store: &'a CIDStore) -> Self {
        Self { store }
    }

    /// Notes a deletion, so that the key is looked at when garbage is collected. Deletions of the store note themselves.
    pub fn append(&self, key_high: u64, key_low: u64, value_high: u64, value_low: u64) {
        let mut writer = self.store.shared().writer.lock();
        if writer.deletions.len() < DELETIONS {
            let (key, value) = (E::from_parts(key_high, key_low), E::from_parts(value_high, value_low));
            let operation = crate::wal::Stamp::now().nanos.into();
            writer.deletions.push(ChangeRecord { operation, key: key.to_hdf5(), value: value.to_hdf5() });
        }
    }

    /// All entries, the oldest first.
    pub fn scan(&self) -> Vec<DeletionEntry> {
        let entry = |record: &ChangeRecord| DeletionEntry {
            key: E::from_hdf5(record.key),
            value: E::from_hdf5(record.value),
            nanos: record.operation.get(),
        };
        self.store.shared().writer.lock().deletions.iter().map(entry).collect()
    }

    /// Whether it may have forgotten deletions.
    pub fn is_full(&self) -> bool {
        self.store.shared().writer.lock().deletions.len() >= DELETIONS
    }

    /// Forgets all entries. The file learns of it with the next checkpoint; until then a crash brings them back, which costs
    /// only a look at their keys.
    pub fn clear(&self) {
        self.store.shared().writer.lock().deletions.clear();
    }

    pub(crate) fn clear_first(&self, count: usize) {
        let mut writer = self.store.shared().writer.lock();
        let count = count.min(writer.deletions.len());
        writer.deletions.drain(..count);
    }
}

/// A thread that collects garbage from time to time; see [`CIDStore::gc`].
///
/// ```
/// use corallite_links::{BackgroundGC, CIDStore, E};
/// use std::{sync::Arc, time::Duration};
///
/// let store = Arc::new(CIDStore::memory()?);
/// let gc = BackgroundGC::start(&store, Duration::from_secs(60))?;
/// store.insert(E::new(1), E::new(2))?;
/// store.delete(E::new(1))?;
/// gc.stop()?; // ends the thread; dropping it does too
/// # Ok::<(), corallite_links::Error>(())
/// ```
///
/// It may be stopped, or the process killed, at any moment: what was not collected is still in the deletion log.
#[derive(Debug)]
pub struct BackgroundGC {
    stop_event: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl BackgroundGC {
    /// Starts collecting garbage every `interval`. The thread does not keep the store open.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], and [`Error::Io`] when there is no thread to be had.
    pub fn start(store: &Arc<CIDStore>, interval: Duration) -> Result<Self> {
        store.shared().check_writable()?;
        let stop_event = Arc::new((Mutex::new(false), Condvar::new()));
        let (event, weak) = (Arc::clone(&stop_event), Arc::downgrade(store));
        let thread = std::thread::Builder::new()
            .name("links-gc".to_owned())
            .spawn(move || {
                loop {
                    {
                        let mut stop = event.0.lock();
                        if !*stop {
                            event.1.wait_for(&mut stop, interval);
                        }
                        if *stop {
                            return Ok(());
                        }
                    }
                    match weak.upgrade().map(|store| store.gc()) {
                        Some(Ok(_)) => {}
                        None | Some(Err(Error::Closed { .. })) => return Ok(()),
                        Some(Err(error)) => return Err(error),
                    }
                }
            })
            .map_err(|error| Error::io("start a thread for", store.path(), error))?;
        Ok(Self { stop_event, thread: Some(thread) })
    }

    /// Asks the thread to end, waits for it, and says what ended it.
    ///
    /// # Errors
    ///
    /// What kept it from collecting garbage, if anything did.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        *self.stop_event.0.lock() = true;
        self.stop_event.1.notify_all();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        if thread.thread().id() == std::thread::current().id() {
            return Ok(());
        }
        thread.join().unwrap_or(Ok(()))
    }
}

impl Drop for BackgroundGC {
    fn drop(&mut self) {
        // Whoever needs to know calls `stop`.
        let _ = self.end();
    }
}
