//! Checking the live records again.

use super::{Lsn, Position, Wal, reader};
use crate::error::{Error, Result};

/// What [`Wal::audit_hmac`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Live batches.
    pub batches: u64,
    /// Batches that were checked.
    pub checked: u64,
    /// Their change records.
    pub records: u64,
    /// What is wrong; empty when all is well.
    pub damaged: Vec<Finding>,
}

/// A batch that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The batch's first record.
    pub from: Lsn,
    /// The first record after it.
    pub to: Lsn,
    /// Where in the file its first record lies.
    pub offset: u64,
    /// What does not agree.
    pub problem: String,
}

impl Wal {
    /// Reads live records from the file again and checks that their MACs still chain: about
    /// `sample_size` batches spread over them, or all for 0. Writers go on meanwhile; batches that are given up meanwhile are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read.
    pub fn audit_hmac(&self, sample_size: usize) -> Result<Audit> {
        let io = |source| Error::io("read", &self.path, source);
        let (from, to) = {
            let state = self.state.lock();
            (state.confirmed, state.written.lsn)
        };
        let mut commits = reader::commits(&self.ring, from.lsn, to).map_err(io)?;
        // A damaged last commit record would hide its batch.
        if to > from.lsn && commits.last().is_none_or(|last| last.0 + 1 != to.0) {
            commits.push(Lsn(to.0 - 1));
        }
        let step = if sample_size == 0 { 1 } else { commits.len().div_ceil(sample_size).max(1) };
        let mut audit = Audit { batches: commits.len() as u64, ..Audit::default() };
        for index in (0..commits.len()).step_by(step) {
            let commit = commits[index];
            let previous = match index.checked_sub(1).map(|before| commits[before]) {
                None => from,
                Some(before) => {
                    let mac = reader::mac_at(&self.ring, before).map_err(io)?;
                    Position { lsn: Lsn(before.0 + 1), mac }
                }
            };
            let problem = reader::check_batch(&self.ring, &self.key, self.log, previous, commit).map_err(io)?;
            if self.state.lock().confirmed.lsn > from.lsn.max(Lsn(previous.lsn.0.saturating_sub(1))) {
                // Its room, or that of the batch before, may hold something newer by now.
                continue;
            }
            audit.checked += 1;
            audit.records += commit.0 - previous.lsn.0;
            if let Some(problem) = problem {
                let offset = self.ring.offset(previous.lsn);
                audit.damaged.push(Finding { from: previous.lsn, to: Lsn(commit.0 + 1), offset, problem });
            }
        }
        Ok(audit)
    }
}
