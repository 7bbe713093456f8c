//! Handing the live batches on, when the store is opened.

use std::path::Path;

use super::format::Record;
use super::ring::{Ring, View};
use super::{Lsn, Position, Wal};
use crate::error::{Error, Result};

/// What [`Wal::replay`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Batches handed on.
    pub batches: u64,
    /// Their change records.
    pub records: u64,
    /// The end of the last batch handed on.
    pub end: Position,
}

impl Wal {
    /// Hands the live batches to `each` in order, without their commit records, until `limit` changes were handed on
    /// (the batch that reaches the limit is handed on whole).
    ///
    /// The records were checked when the log was opened. `each` must not call [`Wal::truncate`], which is refused.
    ///
    /// # Errors
    ///
    /// Those of `each`, and [`Error::Io`].
    pub fn replay(&self, limit: Option<u64>, each: impl FnMut(&[Record]) -> Result<()>) -> Result<ReplayReport> {
        self.replay_before(None, limit, each)
    }

    /// The same of the batches before `until`, at which one must begin.
    pub(crate) fn replay_before(
        &self,
        until: Option<Lsn>,
        limit: Option<u64>,
        mut each: impl FnMut(&[Record]) -> Result<()>,
    ) -> Result<ReplayReport> {
        let _replaying = self.replaying.read_recursive();
        let (from, to) = {
            let state = self.state.lock();
            (state.confirmed, state.written.lsn)
        };
        let to = until.map_or(to, |until| until.min(to));
        let limit = limit.unwrap_or(u64::MAX);
        let mut report = ReplayReport { end: from, ..ReplayReport::default() };
        if limit == 0 {
            return Ok(report);
        }
        walk(&self.ring, &self.path, from.lsn, to, |changes, commit| {
            report.end = Position { lsn: Lsn(commit.lsn().0 + 1), mac: commit.mac() };
            each(changes)?;
            report.batches += 1;
            report.records += changes.len() as u64;
            Ok(report.records < limit)
        })?;
        Ok(report)
    }
}

/// Walks the batches between two positions, until `each` has enough.
fn walk(
    ring: &Ring,
    path: &Path,
    from: Lsn,
    to: Lsn,
    mut each: impl FnMut(&[Record], &Record) -> Result<bool>,
) -> Result<()> {
    let io = |source| Error::io("read", path, source);
    let mut view = View::mapped(ring);
    // The beginning of a batch whose records do not lie together.
    let mut begun: Vec<Record> = Vec::new();
    let mut at = from;
    while at < to {
        let run = view.run(at, to).map_err(io)?;
        let mut rest = run;
        while let Some(changes) = rest.iter().position(Record::is_commit) {
            let (batch, after) = rest.split_at(changes + 1);
            let more = if begun.is_empty() {
                each(&batch[..changes], &batch[changes])?
            } else {
                begun.extend_from_slice(&batch[..changes]);
                let more = each(&begun, &batch[changes])?;
                begun.clear();
                more
            };
            if !more {
                return Ok(());
            }
            rest = after;
        }
        begun.extend_from_slice(rest);
        at.0 += run.len() as u64;
    }
    Ok(())
}
