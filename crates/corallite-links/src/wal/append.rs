//! Adding batches: encoding, writing, syncing, and keeping the ring in shape for it.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use zerocopy::IntoBytes;

use super::format::{Common, Mac, RECORD, Record};
use super::skeleton::ZERO_STEP;
use super::{Durability, Lsn, Position, Wal};
use crate::change::Change;
use crate::error::{Error, Result};

/// Zeroed at once, while writers wait.
const ZERO_PIECE: u64 = (256 << 10) / RECORD;

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the records of a batch say besides their changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Unix time in nanoseconds.
    pub nanos: u64,
    /// The token of the changes in the store's file that the batch was made from, by which opening tells that the log has
    /// them. 0: of none.
    pub token: u64,
    /// Noted in every record.
    pub shard: u16,
}

impl Stamp {
    /// A batch of this moment.
    pub fn now() -> Self {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self { nanos: u64::try_from(nanos).unwrap_or(u64::MAX), ..Self::default() }
    }
}

/// A batch ready to be written with [`Wal::write`]. Its room is taken; [`Wal::abandon`] gives it back.
#[derive(Debug)]
pub struct Prepared {
    start: Position,
    end: Position,
    /// The MAC before, and the records.
    buffer: Vec<u8>,
    pool: Arc<Pool>,
}

impl Prepared {
    /// Where the batch begins.
    pub fn start(&self) -> Position {
        self.start
    }

    /// Where the next one begins.
    pub fn end(&self) -> Position {
        self.end
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[size_of_val(&self.start.mac)..]
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

/// Buffers to be used again.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    const KEPT: usize = 4;
    const LARGEST: usize = 16 << 20;

    fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_default()
    }

    fn put(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.lock();
        if kept.len() < Self::KEPT && buffer.capacity() <= Self::LARGEST {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

/// The state of the file besides its records.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// Where `/header` lies.
    pub(super) header: u64,
    /// The sequence and the place of the newest hint.
    pub(super) slot: Option<(u64, usize)>,
    /// In the first lap: slots of records before this one are zeroed or used.
    pub(super) zeroed: Lsn,
    /// The record that the file was made for: its first lap ends `capacity` later.
    pub(super) first: Lsn,
    /// After opening: from where on records are to be written again, and up to where, from the end of the good ones
    /// on, slots are to be zeroed.
    pub(super) unsettled: Option<(Lsn, Option<Lsn>)>,
}

impl Wal {
    /// Encodes `changes` as the next batch and takes room for it. `None` when the room is not there: bring the store's
    /// file up to date, [`Wal::truncate`], and try again.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when an empty log would not have the room either, [`Error::Poisoned`], [`Error::ReadOnly`].
    pub fn prepare(&self, changes: &[Change], stamp: &Stamp) -> Result<Option<Prepared>> {
        self.check_writable()?;
        let mut chain = self.chain.lock();
        let start = *chain;
        let count = changes.len() as u64;
        let commit = Lsn(start.lsn.0 + count);
        let end = Lsn(commit.0 + 1);
        let durable = {
            let mut state = self.state.lock();
            self.check_poison(&state)?;
            if count >= self.ring.capacity.min(u32::MAX.into()) {
                let (path, capacity) = (self.path.clone(), self.ring.capacity);
                return Err(Error::TooLarge { path, records: count + 1, capacity });
            }
            if self.ring.capacity - state.used() <= count {
                state.metrics.refused += 1;
                return Ok(None);
            }
            state.prepared = end;
            state.durable
        };

        let common = Common { shard: stamp.shard, nanos: stamp.nanos, log: self.log };
        let mut buffer = self.pool.take();
        buffer.reserve(size_of_val(&start.mac) + (changes.len() + 1) * size_of::<Record>());
        buffer.extend_from_slice(&start.mac);
        for (change, seq) in changes.iter().zip(start.lsn.0..) {
            buffer.extend_from_slice(Record::of_change(change, seq, common).as_bytes());
        }
        let lag = u32::try_from(commit.0 - durable.0).unwrap_or(u32::MAX);
        let mut record = Record::of_commit(commit.0, common, stamp.token, count as u32, lag);
        buffer.extend_from_slice(record.as_bytes());
        let mac = Mac::of(&self.key, &buffer);
        record.set_mac(mac);
        let without = buffer.len() - size_of::<Record>();
        buffer[without..].copy_from_slice(record.as_bytes());

        *chain = Position { lsn: end, mac };
        Ok(Some(Prepared { start, end: *chain, buffer, pool: Arc::clone(&self.pool) }))
    }

    /// Gives back the room of a batch that will not be written: the one prepared last.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when it was written, or others were prepared after it.
    pub fn abandon(&self, prepared: Prepared) -> Result<()> {
        let mut chain = self.chain.lock();
        let mut state = self.state.lock();
        if *chain != prepared.end || state.written.lsn > prepared.start.lsn {
            return Err(
                self.usage("only the batch that was prepared last can be abandoned, and only before it is written")
            );
        }
        *chain = prepared.start;
        state.prepared = prepared.start.lsn;
        Ok(())
    }

    /// Hands a batch to the operating system; see [`Durability::Buffered`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when a batch prepared before has not been written, [`Error::Poisoned`], and the failure that
    /// poisons the log.
    pub fn write(&self, prepared: &Prepared) -> Result<()> {
        let mut upkeep = self.upkeep.lock();
        {
            let state = self.state.lock();
            self.check_poison(&state)?;
            if prepared.start != state.written || !Arc::ptr_eq(&prepared.pool, &self.pool) {
                return Err(self.usage("batches are written once and in the order in which they were prepared"));
            }
        }
        self.settle(&mut upkeep)?;
        let (start, end) = (prepared.start.lsn, prepared.end);
        self.ring.write(start, prepared.bytes()).map_err(|error| self.poison("write to", error))?;
        let mut state = self.state.lock();
        state.written = end;
        state.metrics.batches += 1;
        state.metrics.records += end.lsn.0 - start.0;
        state.metrics.bytes += prepared.bytes().len() as u64;
        state.metrics.wraps += end.lsn.0 / self.ring.capacity - start.0 / self.ring.capacity;
        Ok(())
    }

    /// Makes everything durable that was written before the call.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`], [`Error::ReadOnly`], and the failure that poisons the log.
    pub fn sync(&self) -> Result<()> {
        self.check_writable()?;
        let _alone = self.syncing.lock();
        self.settle(&mut self.upkeep.lock())?;
        let written = {
            let state = self.state.lock();
            self.check_poison(&state)?;
            state.written.lsn
        };
        self.sync_to(written)?;
        self.mark(written);
        Ok(())
    }

    /// Leaves a mark behind what was synced, unless something was written there meanwhile.
    fn mark(&self, synced: Lsn) {
        let _alone = self.upkeep.lock();
        {
            let state = self.state.lock();
            let is_free = synced.0 - state.confirmed.lsn.0 < self.ring.capacity;
            if state.written.lsn != synced || !is_free || self.check_poison(&state).is_err() {
                return;
            }
        }
        let common = Common { shard: 0, nanos: Stamp::now().nanos, log: self.log };
        // Nothing depends on it but that later damage shows. A disk that fails will say so at the next write.
        let _ = self.ring.write(synced, Record::of_mark(synced.0, common).as_bytes());
    }

    fn sync_to(&self, written: Lsn) -> Result<()> {
        let begun = Instant::now();
        self.ring.file.sync().map_err(|error| self.poison("sync", error))?;
        let mut state = self.state.lock();
        state.durable = state.durable.max(written);
        state.metrics.synced(begun.elapsed());
        Ok(())
    }

    /// Prepares and writes a batch of this moment, and syncs it when asked to. Returns where it ends, or `None` when
    /// there is no room; see [`Wal::prepare`].
    ///
    /// # Errors
    ///
    /// Those of [`Wal::prepare`], [`Wal::write`] and [`Wal::sync`].
    pub fn append(&self, changes: &[Change], durability: Durability) -> Result<Option<Position>> {
        let Some(prepared) = self.prepare(changes, &Stamp::now())? else { return Ok(None) };
        self.write(&prepared)?;
        if durability == Durability::Durable {
            self.sync()?;
        }
        Ok(Some(prepared.end))
    }

    /// Makes every appended batch durable, [`Durability::Buffered`] ones included. Does nothing when they are.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::sync`].
    pub fn flush(&self) -> Result<()> {
        {
            let state = self.state.lock();
            self.check_poison(&state)?;
            if state.durable >= state.written.lsn {
                return Ok(());
            }
        }
        self.sync()
    }

    /// Waits until everything before `lsn` is written, which must have been prepared, and makes it durable.
    pub(crate) fn secure(&self, lsn: Lsn) -> Result<()> {
        loop {
            let written = {
                let state = self.state.lock();
                self.check_poison(&state)?;
                if state.durable >= lsn {
                    return Ok(());
                }
                state.written.lsn
            };
            if written >= lsn {
                return self.sync();
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }

    /// Zeroes the next 4 MiB of room that was never used, so that syncs there need not allocate; returns whether there
    /// is more. For a thread with nothing better to do: appends do not depend on it.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`], [`Error::ReadOnly`], and the failure that poisons the log.
    pub fn zero_ahead(&self) -> Result<bool> {
        self.check_writable()?;
        let mut left = ZERO_STEP;
        loop {
            let mut upkeep = self.upkeep.lock();
            let written = {
                let state = self.state.lock();
                self.check_poison(&state)?;
                state.written.lsn
            };
            self.settle(&mut upkeep)?;
            // Where the next record will be, a mark may lie.
            let from = upkeep.zeroed.max(Lsn(written.0 + 1));
            let end = Lsn(upkeep.first.0.saturating_add(self.ring.capacity));
            if from >= end || left == 0 {
                return Ok(from < end);
            }
            // In pieces, each under the lock: a batch that is written meanwhile must not be zeroed.
            let piece = ZERO_PIECE.min(left).min(end.0 - from.0);
            match self.ring.zero(from, piece) {
                // Whoever needs the room will be told.
                Err(error) if is_full(&error) => return Ok(false),
                outcome => outcome.map_err(|error| self.poison("write to", error))?,
            }
            upkeep.zeroed = Lsn(from.0 + piece);
            left -= piece;
        }
    }

    /// Before the first write after opening: makes sure of what was read and wipes what was dropped, durably.
    fn settle(&self, upkeep: &mut Upkeep) -> Result<()> {
        let Some((from, stale)) = upkeep.unsettled else { return Ok(()) };
        let end = {
            let state = self.state.lock();
            self.check_poison(&state)?;
            // Nothing was written yet, so this is the end of what was read. Records given up meanwhile need no care.
            (state.written.lsn, from.max(state.confirmed.lsn))
        };
        let (end, from) = end;
        self.ring.rewrite(from, end).map_err(|error| self.poison("write to", error))?;
        if let Some(stale) = stale {
            self.ring.zero(end, stale.0 - end.0).map_err(|error| self.poison("write to", error))?;
        }
        self.sync_to(end)?;
        upkeep.unsettled = None;
        Ok(())
    }
}
