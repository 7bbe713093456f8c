//! Committing changes: into the log, and to the partitions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use crate::change::Change;
use crate::checkpoint::Fold;
use crate::error::{Error, Result};
use crate::wal::{Durability, Position, Prepared, Stamp, Wal, WalOptions};

/// Changes from which on the log is written on another thread while they are applied.
const OVERLAP: usize = 256;

const RECORD_BYTES: u64 = 64;

/// The part of the log that requests of several callers may fill as one batch.
const BATCH_PART: u64 = 4;

/// Changes that are committed together.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) changes: Vec<Change>,
    pub(super) durability: Durability,
}

/// A commit that panics may have done half of its work: nothing is written after it.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&self.0.lost());
        }
    }
}

impl Shared {
    /// Commits changes, with those of others where these come at the same time. Says how many pairs came or went.
    pub(crate) fn commit(&self, changes: &[Change], durability: Durability) -> Result<u64> {
        self.check_writable()?;
        if changes.is_empty() {
            return Ok(0);
        }
        self.check_no_transaction()?;
        if let Some(outcome) = self.group.lead_alone(|| {
            let _turn = self.turn.lock();
            self.commit_one(changes, durability)
        }) {
            return self.after(outcome);
        }
        let request = Request { changes: changes.to_vec(), durability };
        let outcome = self.group.submit(request, |requests| self.commit_group(&requests));
        self.after(outcome.unwrap_or_else(|| Err(self.lost())))
    }

    /// The outcome of a request whose committer panicked.
    pub(super) fn lost(&self) -> Error {
        let cause = "the thread that wrote this change panicked, and the change may be there or not".to_owned();
        Error::Poisoned { path: self.path.clone(), cause }
    }

    /// Commits requests of several callers, as few batches as the log has room for. One outcome for each, in order.
    pub(super) fn commit_group(&self, requests: &[Request]) -> Vec<Result<u64>> {
        let capacity = self.log().map_or(self.options.log_bytes / RECORD_BYTES, |log| log.capacity());
        let most = usize::try_from(capacity / BATCH_PART).unwrap_or(usize::MAX);
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut left = requests;
        while !left.is_empty() {
            let mut size = 0;
            let fit = left.iter().take_while(|request| {
                size += request.changes.len();
                size <= most
            });
            // One that is larger than that goes alone.
            let (batch, rest) = left.split_at(fit.count().max(1));
            self.commit_batch(batch, &mut outcomes);
            left = rest;
        }
        outcomes
    }

    fn commit_batch(&self, requests: &[Request], outcomes: &mut Vec<Result<u64>>) {
        let durable = requests.iter().any(|request| request.durability == Durability::Durable);
        let durability = if durable { Durability::Durable } else { Durability::Buffered };
        let parts: Vec<&[Change]> = requests.iter().map(|request| request.changes.as_slice()).collect();
        let turn = self.turn.lock();
        let outcome = self.commit_held(&parts, durability, Stamp::now());
        drop(turn);
        match outcome {
            Ok(moved) => outcomes.extend(moved),
            Err(error) => {
                outcomes.extend((1..requests.len()).map(|_| Err(error.again(&self.path))));
                outcomes.push(Err(error));
            }
        }
    }

    /// Commits the changes of one caller, who has the turn.
    pub(super) fn commit_one(&self, changes: &[Change], durability: Durability) -> Result<u64> {
        self.commit_held(&[changes], durability, Stamp::now())?.pop().unwrap_or(Ok(0))
    }

    /// What is to be done once a commit is over.
    pub(super) fn after(&self, outcome: Result<u64>) -> Result<u64> {
        let Some(log) = self.log() else { return outcome };
        if log.used() * 2 >= log.capacity() {
            if self.options.background {
                self.want_checkpoint();
            } else if outcome.is_ok()
                && !self.storage.is_in_transaction()
                && let Some(one) = self.checkpointing.try_lock()
                && let Some(turn) = self.turn.try_lock()
            {
                // The changes are durable; whoever needs the log's room will be told why there is none.
                let _ = self.write_checkpoint(&one, turn, Fold::Grown);
            }
        }
        outcome
    }

    /// Commits changes as one batch; the caller has the turn. Says for each part how many pairs came or went, or why that
    /// is not known, which is no reason to fail the others.
    pub(super) fn commit_held(
        &self,
        parts: &[&[Change]],
        durability: Durability,
        stamp: Stamp,
    ) -> Result<Vec<Result<u64>>> {
        self.check_writable()?;
        if self.is_closing.load(Ordering::Acquire) {
            return Err(Error::Closed { path: self.path.clone() });
        }
        let _whole = FailOnPanic(self);
        let begun = Instant::now();
        let mut log = self.log_to_write()?;
        let joined;
        let changes: &[Change] = match parts {
            [one] => one,
            several => {
                joined = several.concat();
                &joined
            }
        };
        let count = changes.len() as u64;
        let mut capacity = self.options.log_bytes / RECORD_BYTES;
        if stamp.token != 0 {
            // They are durable already, and were not refused: the log has to hold them.
            capacity = capacity.max(count + 1);
        }
        if (log.capacity()..capacity).contains(&count) {
            log = self.replace_log(log, capacity)?;
        }
        let prepared = self.prepare(&log, changes, &stamp)?;
        let end = prepared.end();
        let apply = || -> Vec<Result<u64>> {
            let mut writer = self.writer.lock();
            let moved = parts.iter().map(|part| self.engine.apply(&mut writer, part, stamp.nanos)).collect();
            writer.applied = end.lsn;
            moved
        };
        let (written, moved) = match durability {
            Durability::Durable if changes.len() >= OVERLAP && self.options.background => {
                self.log_thread.write(&log, prepared, apply)
            }
            Durability::Durable => (log.write(&prepared).and_then(|()| log.sync()), apply()),
            Durability::Buffered => (log.write(&prepared), apply()),
        };
        self.metrics.committed(changes, begun.elapsed());
        if let Err(error) = written {
            self.fail(&error);
            return Err(error);
        }
        Ok(moved)
    }

    /// Encodes a batch, after a checkpoint where the log has no room.
    fn prepare(&self, log: &Wal, changes: &[Change], stamp: &Stamp) -> Result<Prepared> {
        loop {
            if let Some(prepared) = log.prepare(changes, stamp)? {
                return Ok(prepared);
            }
            self.metrics.log_full();
            self.checkpoint_in_turn()?;
        }
    }

    /// A checkpoint by whoever has the turn. One that is under way gives way where it waits for the turn, or has it behind
    /// itself.
    fn checkpoint_in_turn(&self) -> Result<()> {
        let Some(log) = self.log() else { return Ok(()) };
        let before = log.confirmed();
        // Waited for without a limit: who comes back to the end of the queue is overtaken for ever by two others.
        let one = self.one_checkpoint()?;
        if log.confirmed() != before {
            return Ok(());
        }
        self.write_checkpoint(&one, (), Fold::Grown).map(drop)
    }

    /// A log of this capacity, in place of a smaller one: of another opening, which was killed and had asked for less, or where
    /// one batch needs more. The caller has the turn.
    fn replace_log(&self, log: Arc<Wal>, capacity: u64) -> Result<Arc<Wal>> {
        let position = log.position();
        // Another checkpoint may have ended meanwhile, and begun before the last batch.
        for _ in 0..2 {
            if log.confirmed() != position {
                self.checkpoint_in_turn()?;
            }
        }
        if log.confirmed() != position {
            return Ok(log);
        }
        // The new one takes the place of the old one, which the file needs no more, at once.
        let larger = Arc::new(self.create_log(position, capacity)?);
        *self.log.write() = Some(Arc::clone(&larger));
        Ok(larger)
    }

    fn create_log(&self, start: Position, capacity: u64) -> Result<Wal> {
        let options = WalOptions { capacity, key: self.log_key(), store: self.identity.store.into() };
        let disk = Arc::clone(self.storage.disk());
        Wal::create(disk, &self.log_path, Some(&self.path), &options, start)
    }

    /// The log, created when it is first needed: with it the file gets the identity that the log refers to.
    fn log_to_write(&self) -> Result<Arc<Wal>> {
        if let Some(log) = self.log() {
            return Ok(log);
        }
        if self.engine.source.read().is_none() {
            // The file gets the identity that its log refers to.
            let one = self.one_checkpoint()?;
            self.write_checkpoint(&one, (), Fold::Grown)?;
        }
        let start = *self.log_start.lock();
        let log = self.create_log(start, self.options.log_bytes / RECORD_BYTES)?;
        let log = Arc::new(log);
        *self.log.write() = Some(Arc::clone(&log));
        self.logs.store(true, Ordering::Release);
        if !self.file_has_log.load(Ordering::Acquire) {
            // Before the first record, the file says that it is not whole without its log.
            let one = self.one_checkpoint()?;
            self.write_checkpoint(&one, (), Fold::Grown)?;
        }
        self.want_checkpoint();
        Ok(log)
    }
}
