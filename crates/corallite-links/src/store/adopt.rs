//! Adopting changes that a transaction of the store's file brought: into the log, exactly once, and to the partitions.
//!
//! What the file has in `/nodes/pending` is either in the live log, as the batch with its token, or nowhere else: a checkpoint
//! removes it in the commit that brings this batch into the file, and nothing else takes its place before it is in the
//! log. So what is not in the file any more has been adopted.

use super::{CIDStore, Shared};
use crate::error::{Error, Result};
use crate::pending::Pending;
use crate::source::Source;
use crate::wal::{Adopted, Durability, Lsn, Recovered, Stamp};

/// What opening found in the file.
#[derive(Debug, Default)]
pub(super) enum Found {
    /// No pending changes.
    #[default]
    Nothing,
    /// Changes that may be in the log.
    Pending(Pending),
    /// Damaged ones, which seem to have this token, and are given up.
    GivenUp(u64),
}

impl Found {
    /// Reads the pending changes of a commit. Damaged ones are given up with `salvage`.
    pub(super) fn read(source: &Source, salvage: bool) -> Result<Self> {
        match source.pending() {
            Ok(Some(pending)) => Ok(Self::Pending(pending)),
            Ok(None) => Ok(Self::Nothing),
            Err(Error::Damaged { .. }) if salvage => Ok(Self::GivenUp(source.pending_token()?.unwrap_or(0))),
            Err(error) => Err(error),
        }
    }

    /// The first record of the log that this commit of the file has nothing to do with, because it is of a later transaction:
    /// the pending changes of a commit are those of the newest transaction before it, and where there are none, all before it
    /// lie before the log's position.
    pub(super) fn cut(&self, recovered: &Recovered) -> Option<Lsn> {
        let mut adopted = recovered.adopted.iter();
        match self {
            Self::Nothing => adopted.next().map(|batch| batch.start),
            // Without it in the log, nothing later is there either.
            Self::Pending(pending) => {
                adopted.find(|batch| batch.token == pending.token)?;
                adopted.next().map(|batch| batch.start)
            }
            Self::GivenUp(_) => None,
        }
    }
}

impl CIDStore {
    /// Makes the changes that a transaction of the store's file brought: they are in the log, durably, when this returns, and
    /// are seen by everybody. Call it once the transaction is committed, before other changes of links are to follow them.
    /// It does nothing when opening the links has made them already.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] within a transaction of the same thread. After any other error the changes are as durable as before,
    /// in the file, and opening the links again makes them; until then the store takes no more writes
    /// ([`Error::Poisoned`]), so that nothing gets ahead of them.
    pub fn adopt(&self, pending: Pending) -> Result<()> {
        if pending.changes.is_empty() {
            return Ok(());
        }
        let shared = &self.shared;
        shared.check_no_transaction()?;
        if shared.storage.is_in_transaction() {
            let problem = "changes of links cannot be adopted before the transaction that brings them is committed; \
                           return them from it"
                .to_owned();
            return Err(Error::Usage { path: shared.path.clone(), problem });
        }
        let turn = shared.turn.lock();
        let outcome = shared.check_writable().and_then(|()| shared.adopt(&pending));
        drop(turn);
        shared.after(outcome).map(drop)
    }
}

impl Shared {
    /// Whether pending changes with this token are in the log or, by now, in the file.
    pub(crate) fn has_adopted(&self, token: u64) -> bool {
        self.adopted.lock().is_some_and(|batch| batch.token == token)
    }

    /// Commits pending changes of the file, unless that was done; the caller has the turn.
    fn adopt(&self, pending: &Pending) -> Result<u64> {
        if self.has_adopted(pending.token) {
            return Ok(0);
        }
        let moved = self.snapshot_token().and_then(|token| match token {
            Some(token) if token == pending.token => self.bring_in(pending).map(Some),
            // Somebody else has: those who opened the links before and have closed them.
            _ => Ok(None),
        });
        match moved {
            Ok(moved) => moved.unwrap_or(Ok(0)),
            // Whoever closes the store leaves them to the next one who opens it.
            Err(error @ Error::Closed { .. }) => Err(error),
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// The token of the pending changes in the newest commit.
    fn snapshot_token(&self) -> Result<Option<u64>> {
        let snapshot = self.storage.snapshot()?;
        Source::bare(&self.path, snapshot, self.engine.corrections.clone()).pending_token()
    }

    /// Appends pending changes to the log as one batch, durably, and applies them. What applying them says comes second: they
    /// are adopted either way.
    fn bring_in(&self, pending: &Pending) -> Result<Result<u64>> {
        let stamp = Stamp { token: pending.token, ..Stamp::now() };
        let moved = self.commit_held(&[&pending.changes], Durability::Durable, stamp)?.pop().unwrap_or(Ok(0));
        let end = self.log().map_or(Lsn(0), |log| log.position().lsn);
        let start = Lsn(end.0.saturating_sub(pending.changes.len() as u64 + 1));
        *self.adopted.lock() = Some(Adopted { token: pending.token, start, end });
        Ok(moved)
    }

    /// Makes the changes that opening found in the file and not in the log: durably, or for a reader in memory.
    pub(super) fn adopt_found(&self, found: Found) -> Result<()> {
        let pending = match found {
            Found::Nothing => return Ok(()),
            Found::GivenUp(token) => {
                // The next checkpoint removes them.
                *self.adopted.lock() = Some(Adopted { token, start: Lsn(0), end: Lsn(0) });
                return Ok(());
            }
            Found::Pending(pending) => pending,
        };
        if self.has_adopted(pending.token) {
            return Ok(());
        }
        let moved = if self.is_writable() {
            let _turn = self.turn.lock();
            self.bring_in(&pending)?
        } else {
            self.engine.apply(&mut self.writer.lock(), &pending.changes, Stamp::now().nanos)
        };
        match moved {
            Err(error @ Error::Io { .. }) => Err(error),
            // Whoever reads a damaged partition is told.
            _ => Ok(()),
        }
    }
}
