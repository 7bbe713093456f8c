//! Commit and rollback.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Pager, Transaction, Writer};
use crate::error::{Error, Result};
use crate::journal::{CommitBody, CommitState, Place, Version};
use crate::page::{CommitNumber, PAGE_LEN, PAGE_SIZE, PageNumber};
use crate::space::{FreeExtent, Space};

impl Pager {
    /// Whether the running transaction changed anything.
    pub(crate) fn has_changes(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| {
            let writer = writer.lock();
            writer.transaction.as_ref().is_some_and(|transaction| {
                transaction.fresh
                    || transaction.wrote_direct
                    || !transaction.dirty.is_empty()
                    || !transaction.spilled.is_empty()
            })
        })
    }

    /// Makes the running transaction durable and visible. libhdf5 must have been flushed; `sections` is what it holds
    /// as free. When this returns `Ok` the commit survives `kill -9` and power loss.
    ///
    /// # Errors
    ///
    /// On a full disk, or any failure before the journal is synced, nothing is committed and the caller must roll
    /// back. A failed sync poisons the pager, because what the disk then holds is unknown until it is read again
    /// (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    pub(crate) fn commit(&self, sections: Vec<(u64, u64)>) -> Result<CommitNumber> {
        let mut guard = self.writer()?;
        let writer = &mut *guard;
        let Some(transaction) = &writer.transaction else {
            return Ok(self.shared.read().committed.number);
        };
        if let Some(cause) = &transaction.doomed {
            return Err(Error::Poisoned { path: self.path.clone(), cause: cause.clone() });
        }
        self.begin_journal(writer)?;
        self.grow_last_page(writer)?;
        self.flush_direct(writer)?;
        self.log_dirty(writer)?;

        let number = self.shared.read().committed.number.next();
        writer.space.cut(writer.eoa);
        writer.space.set_lent(sections, number);
        let free: Arc<[FreeExtent]> = writer.space.recorded(writer.eoa).into();
        let body_free = (*free != *self.shared.read().committed.free).then_some(&*free);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as u64);
        let Writer { transaction: Some(transaction), journal: Some(journal), .. } = writer else {
            return Err(Error::Closed { path: self.path.clone() });
        };

        // What lies at its place must be durable before the commit that refers to it.
        if transaction.wrote_direct
            && let Err(error) = self.file.sync()
        {
            writer.poison = Some(format!("syncing it failed ({error})"));
            return Err(Error::io("sync", &self.path, error));
        }
        let direct: Vec<PageNumber> = transaction.direct_known.iter().copied().collect();
        let eoa = writer.eoa;
        let (oldest, direct_end) = {
            let shared = self.shared.read();
            // What stays reachable once this commit is published; after a crash no more than that is offered.
            let first = shared.history.first().unwrap_or(&shared.committed).number;
            let oldest = first.max(CommitNumber(number.0.saturating_sub(self.limits.history as u64)));
            (oldest, shared.committed.direct_end.max(transaction.direct_end).min(eoa))
        };
        let body = CommitBody { number, eoa, time, free: body_free, direct: &direct, oldest, direct_end };
        journal.append_commit(&body).map_err(self.journal_io("write"))?;
        if let Err(error) = journal.file.sync() {
            writer.poison =
                Some(format!("syncing its journal failed ({error}), so the last commit may or may not have happened"));
            return Err(Error::io("sync", &self.journal_path, error));
        }
        // The commit point. What follows can only be late.
        journal.seal();
        writer.commits += 1;
        let transaction = writer.transaction.take();
        let applied = self.shared.read().applied;
        if let Some(journal) = &writer.journal {
            // A hint; see `Journal::mark`.
            let _ = journal.mark(number, applied);
        }
        let state = CommitState { number, eoa, time, free, oldest, direct_end };
        if let Some(transaction) = &transaction {
            self.publish(state, transaction, &direct);
        }
        let recent = transaction.map(|transaction| transaction.dirty).unwrap_or_default();
        self.settle(writer, &recent);
        Ok(number)
    }

    /// When the file grows, the page that the last commit ended in becomes part of this one. Its image may hold bytes
    /// behind that end, which the file lost when it was cut there; logged anew, both agree again.
    fn grow_last_page(&self, writer: &mut Writer) -> Result<()> {
        let old = self.shared.read().committed.eoa;
        let page = PageNumber::containing(old);
        let Some(transaction) = &writer.transaction else { return Ok(()) };
        let known = transaction.spilled.contains_key(&page) || transaction.direct_known.contains(&page);
        if writer.eoa > old && !old.is_multiple_of(PAGE_SIZE) && !known && !transaction.fresh {
            self.dirty_page(writer, page, true)?;
        }
        Ok(())
    }

    /// Lets readers that begin from now on see the commit.
    fn publish(&self, state: CommitState, transaction: &Transaction, direct: &[PageNumber]) {
        let mut shared = self.shared.write();
        let base = shared.history.first().unwrap_or(&shared.committed).number;
        for &(page, frame) in &transaction.before_frames {
            shared.versions.insert_before(page, base, Place::Journal(frame));
        }
        for (&page, &frame) in &transaction.spilled {
            shared.versions.insert(page, Version { commit: state.number, place: Place::Journal(frame) });
        }
        for &page in direct {
            shared.versions.insert(page, Version { commit: state.number, place: Place::File });
        }
        let previous = std::mem::replace(&mut shared.committed, state);
        // Before the first commit there is no file that could be rolled back to.
        if previous.eoa > 0 {
            shared.history.push(previous);
        }
        let oldest = shared.committed.oldest;
        self.drop_history(&mut shared, oldest);
    }

    /// What was committed so far only made the file what an empty one is.
    pub(crate) fn mark_unused(&self) {
        if let Some(writer) = &self.writer {
            writer.lock().commits = 0;
        }
    }

    /// Throws the running transaction away: what libhdf5 still writes through handles opened before is dropped, and
    /// they must be closed. Poisoned pagers stay so.
    pub(crate) fn rollback(&self) {
        let Some(writer) = &self.writer else { return };
        let mut writer = writer.lock();
        writer.epoch += 1;
        writer.transaction = None;
        self.failure.lock().take();
        if let Some(journal) = &mut writer.journal
            && let Err(error) = journal.reset()
        {
            writer.poison.get_or_insert(format!("its journal cannot be cut ({error})"));
        }
        let committed = self.shared.read().committed.clone();
        writer.eoa = committed.eoa;
        writer.space = Space::new(&committed.free);
    }

    /// Puts the pages of commit `target` into a new transaction; the caller commits it. The state before stays a commit
    /// that can be rolled back to in turn.
    pub(crate) fn restore(&self, target: CommitNumber) -> Result<()> {
        let mut guard = self.writer()?;
        let writer = &mut *guard;
        let (state, pages, now) = {
            let shared = self.shared.read();
            let newest = shared.committed.number;
            let oldest = shared.history.first().map_or(newest, |commit| commit.number);
            let known = shared.history.iter().chain([&shared.committed]).find(|commit| commit.number == target);
            let Some(state) = known.cloned() else {
                return Err(Error::NoSuchCommit { path: self.path.clone(), wanted: target, oldest, newest });
            };
            if writer.journal.is_none() && writer.trailer.is_none() && target != newest {
                return Err(Error::NoSuchCommit { path: self.path.clone(), wanted: target, oldest, newest });
            }
            drop(shared);
            // A trailer's images are reachable once the journal has been begun from it.
            self.begin_journal(writer)?;
            let shared = self.shared.read();
            let pages: Vec<PageNumber> = shared.versions.changed(target, newest).map(|(page, _)| page).collect();
            (state, pages, newest.next())
        };
        for page in pages {
            if page.start() >= state.eoa {
                continue;
            }
            let mut image = [0; PAGE_LEN];
            {
                let shared = self.shared.read();
                self.read_commit(&shared, target, page.start(), &mut image)?;
            }
            let length = (state.eoa - page.start()).min(PAGE_SIZE) as usize;
            self.write_bytes(writer, page.start(), &image[..length])?;
        }
        // What was allocated since is free again, but the state being left still refers to it.
        let free: Vec<FreeExtent> = state.free.iter().map(|extent| FreeExtent { freed_at: now.0, ..*extent }).collect();
        writer.space = Space::new(&free);
        writer.eoa = state.eoa;
        Ok(())
    }

    /// The commits that can be rolled back to, oldest first, the current one last.
    pub(crate) fn commits(&self) -> Vec<CommitState> {
        let shared = self.shared.read();
        shared.history.iter().chain([&shared.committed]).cloned().collect()
    }
}
