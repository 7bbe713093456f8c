//! Earlier commits: listing them, going back to one, giving them up; and readers moving to newer ones.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{CommitInfo, Mode, Open, Snapshot, Storage, close_file, commit, explain};
use crate::error::{Error, Result};
use crate::page::CommitNumber;
use crate::pager::Pager;

impl Storage {
    /// Makes the state of an earlier commit the newest one, as a new commit; the states between stay reachable as long
    /// as they are kept. Uncommitted changes are thrown away. Returns the new commit's number.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchCommit`] when `version` is not among [`Storage::versions`].
    pub fn rollback_to_version(&self, version: CommitNumber) -> Result<CommitNumber> {
        let _turn = self.turn.lock();
        self.roll_back()?;
        self.with(|open| {
            let known = open.pager.commits();
            if version == open.pager.committed().number {
                return Ok(());
            }
            match (known.first(), known.last()) {
                (Some(oldest), Some(newest)) if !known.iter().any(|commit| commit.number == version) => {
                    Err(Error::NoSuchCommit {
                        path: self.path().to_owned(),
                        wanted: version,
                        oldest: oldest.number,
                        newest: newest.number,
                    })
                }
                _ => Ok(()),
            }
        })?;
        let mut state = self.state.write();
        let Some(open) = state.take() else { return Err(Error::Closed { path: self.path().to_owned() }) };
        let Open { pager, file, mode, swmr, .. } = open;
        if version == pager.committed().number {
            *state = Some(Open { pager, file, mode, swmr, snapshot: Mutex::new(None) });
            return Ok(version);
        }
        pager.rollback();
        close_file(file);
        let outcome = Self::restore(&pager, version);
        if outcome.is_err() {
            pager.rollback();
        }
        let file = Self::writer_file(&pager)?;
        *state = Some(Open { pager, file, mode, swmr, snapshot: Mutex::new(None) });
        outcome
    }

    fn restore(pager: &Arc<Pager>, version: CommitNumber) -> Result<CommitNumber> {
        pager.restore(version)?;
        // The file says which commit it is, so even one that takes it back is not the same.
        let file = Self::writer_file(pager)?;
        let outcome = commit(pager, &file);
        // What libhdf5 writes when it closes the file belongs to no transaction.
        pager.rollback();
        close_file(file);
        outcome
    }

    /// The commits that [`Storage::rollback_to_version`] takes, oldest first; the last is the current one. How many
    /// are kept is set by [`Options::history`](crate::Options::history).
    pub fn versions(&self) -> Result<Vec<CommitInfo>> {
        self.with(|open| {
            let commits = open.pager.commits();
            Ok(commits
                .iter()
                .map(|commit| CommitInfo { number: commit.number, time: commit.time, bytes: commit.eoa })
                .collect())
        })
    }

    /// The newest commit of this file, as far as this opening knows.
    pub fn version(&self) -> Result<CommitNumber> {
        self.with(|open| Ok(open.pager.committed().number))
    }

    /// The newest commit that programs reading the file itself see. It is older than [`Storage::version`] while they
    /// keep the file open.
    pub fn applied_version(&self) -> Result<CommitNumber> {
        self.with(|open| Ok(open.pager.applied()))
    }

    /// Bytes within the file that hold nothing, as of the last commit: what is added next goes there first, as far as no
    /// earlier commit that can be rolled back to has them. Of very many pieces the smallest are not counted.
    pub fn free_bytes(&self) -> Result<u64> {
        self.with(|open| Ok(open.pager.committed().free.iter().map(|extent| extent.length).sum()))
    }

    /// What is wrong with the bytes behind the end of the HDF5 data, if anything; data is never there.
    pub fn trailer_problem(&self) -> Result<Option<String>> {
        self.with(|open| Ok(open.pager.trailer_problem().map(str::to_owned)))
    }

    /// The last commit, held for reading while this process goes on writing. Cheap when nothing was committed since
    /// the last call.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.with(|open| {
            let mut held = open.snapshot.lock();
            if let Some(snapshot) = &*held
                && (open.mode == Mode::Read || snapshot.version() == open.pager.committed().number)
            {
                return Ok(Arc::clone(snapshot));
            }
            let snapshot = Arc::new(Snapshot::of(&open.pager)?);
            *held = Some(Arc::clone(&snapshot));
            Ok(snapshot)
        })
    }

    /// Moves a reader opened with `swmr` to the newest commit; returns its number. Handles reached from the file before
    /// are closed. If the file cannot be opened again, the storage is closed and the error returned.
    pub fn refresh(&self) -> Result<CommitNumber> {
        let _turn = self.turn.lock();
        let mut state = self.state.write();
        match state.as_ref() {
            None => return Err(Error::Closed { path: self.path().to_owned() }),
            Some(open) if open.mode != Mode::Read => return Ok(open.pager.committed().number),
            Some(open) if !open.swmr => {
                let problem = "refresh needs a reader opened with swmr".to_owned();
                return Err(Error::Usage { path: self.path().to_owned(), problem });
            }
            Some(_) => {}
        }
        // The old lock goes first, so that a waiting writer can apply its commits.
        drop(state.take());
        let open = self.open_state(Mode::Read, true)?;
        let number = open.pager.committed().number;
        *state = Some(open);
        Ok(number)
    }

    /// Gives up all earlier commits, which makes the space of what was deleted reusable at once and cuts the file
    /// where its end is free.
    pub fn expire_versions(&self) -> Result<()> {
        let _turn = self.turn.lock();
        self.with(|open| {
            open.file.flush().map_err(|error| explain(&open.pager, "write out its metadata", &error))?;
            if open.pager.has_changes() {
                let problem = "expire_versions needs a committed state; call flush or rollback first".to_owned();
                return Err(Error::Usage { path: self.path().to_owned(), problem });
            }
            open.snapshot.lock().take();
            if open.pager.committed().eoa == 0 { Ok(()) } else { open.pager.expire_history() }
        })
    }

    /// Closes and opens the HDF5 file between two transactions, so that space freed in this session can be handed out
    /// from any page. Handles reached from the file before are closed.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] while changes are pending.
    pub fn reclaim(&self) -> Result<()> {
        let _turn = self.turn.lock();
        let pending = self.with(|open| {
            open.file.flush().map_err(|error| explain(&open.pager, "write out its metadata", &error))?;
            Ok(open.pager.has_changes())
        })?;
        if pending {
            let problem = "reclaim needs a committed state; call flush or rollback first".to_owned();
            return Err(Error::Usage { path: self.path().to_owned(), problem });
        }
        self.roll_back()
    }
}
