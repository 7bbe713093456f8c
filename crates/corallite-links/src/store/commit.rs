//! Committing changes: into the log, and to the partitions.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::change::Change;
use crate::checkpoint::Fold;
use crate::error::{Error, Result};
use crate::wal::{Durability, Prepared, Stamp, Wal, WalOptions};

/// Changes from which on the log is written on another thread while they are applied.
const OVERLAP: usize = 256;

/// Changes that are committed together.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) changes: Vec<Change>,
    pub(super) durability: Durability,
}

impl Shared {
    /// Commits changes, with those of others where these come at the same time. Says how many pairs came or went.
    pub(crate) fn commit(&self, changes: &[Change], durability: Durability) -> Result<u64> {
        self.check_writable()?;
        if changes.is_empty() {
            return Ok(0);
        }
        if let Some(outcome) = self.group.lead_alone(|| {
            let _turn = self.turn.lock();
            self.commit_held(&[changes], durability).map(|moved| moved[0])
        }) {
            return self.after(outcome);
        }
        let request = Request { changes: changes.to_vec(), durability };
        let outcome = self.group.submit(request, |requests| self.commit_group(&requests));
        self.after(outcome)
    }

    fn commit_group(&self, requests: &[Request]) -> Vec<Result<u64>> {
        let _turn = self.turn.lock();
        let durable = requests.iter().any(|request| request.durability == Durability::Durable);
        let durability = if durable { Durability::Durable } else { Durability::Buffered };
        let parts: Vec<&[Change]> = requests.iter().map(|request| request.changes.as_slice()).collect();
        match self.commit_held(&parts, durability) {
            Ok(moved) => moved.into_iter().map(Ok).collect(),
            // One that is too large must not keep the others from being committed.
            Err(Error::TooLarge { .. }) if requests.len() > 1 => {
                parts.iter().map(|part| self.commit_held(&[part], durability).map(|moved| moved[0])).collect()
            }
            Err(error) => {
                let failed = || Error::Poisoned { path: self.path.clone(), cause: error.to_string() };
                let mut outcomes: Vec<Result<u64>> = (1..requests.len()).map(|_| Err(failed())).collect();
                outcomes.insert(0, Err(error));
                outcomes
            }
        }
    }

    /// What is to be done once a commit is over.
    pub(super) fn after(&self, outcome: Result<u64>) -> Result<u64> {
        let Some(log) = self.log() else { return outcome };
        if log.used() * 2 >= log.capacity() {
            if self.options.background {
                self.want_checkpoint();
            } else if outcome.is_ok()
                && let Some(one) = self.checkpointing.try_lock()
                && let Some(turn) = self.turn.try_lock()
            {
                // The changes are durable; whoever needs the log's room will be told why there is none.
                let _ = self.write_checkpoint(&one, turn, Fold::Grown);
            }
        }
        outcome
    }

    /// Commits changes as one batch; the caller has the turn. Says for each part how many pairs came or went.
    pub(super) fn commit_held(&self, parts: &[&[Change]], durability: Durability) -> Result<Vec<u64>> {
        self.check_writable()?;
        let begun = Instant::now();
        let log = self.log_to_write()?;
        let joined;
        let changes: &[Change] = match parts {
            [one] => one,
            several => {
                joined = several.concat();
                &joined
            }
        };
        let stamp = Stamp::now();
        let prepared = self.prepare(&log, changes, &stamp)?;
        let end = prepared.end();
        let apply = || -> Result<Vec<u64>> {
            let mut writer = self.writer.lock();
            let mut moved = Vec::with_capacity(parts.len());
            let mut failed = None;
            for part in parts {
                match self.engine.apply(&mut writer, part, stamp.nanos) {
                    Ok(count) => moved.push(count),
                    Err(error) => {
                        moved.push(0);
                        failed.get_or_insert(error);
                    }
                }
            }
            writer.applied = end.lsn;
            failed.map_or(Ok(moved), Err)
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
        moved
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
        let one = self.checkpointing.lock();
        if log.confirmed() != before {
            return Ok(());
        }
        self.write_checkpoint(&one, (), Fold::Grown).map(drop)
    }

    /// The log, created when it is first needed: with it the file gets the identity that the log refers to.
    fn log_to_write(&self) -> Result<Arc<Wal>> {
        if let Some(log) = self.log() {
            return Ok(log);
        }
        let start = if self.engine.source.read().is_none() {
            let one = self.checkpointing.lock();
            self.write_checkpoint(&one, (), Fold::Grown)?;
            *self.log_start.lock()
        } else {
            *self.log_start.lock()
        };
        let options = WalOptions {
            capacity: self.options.log_bytes / 64,
            key: self.log_key(),
            store: self.identity.store.into(),
        };
        let disk = Arc::clone(self.storage.disk());
        let log = Wal::create(disk, &self.log_path, Some(&self.path), &options, start)?;
        let log = Arc::new(log);
        *self.log.write() = Some(Arc::clone(&log));
        self.want_checkpoint();
        Ok(log)
    }
}
