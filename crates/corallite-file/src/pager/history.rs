//! Keeping a bounded number of older commits, and closing into one file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::open::{SUPERBLOCK_BYTES, superblock_sum};
use super::{Pager, Shared, Writer};
use crate::disk::{Access, Disk, DiskFile, Lock, MemoryDisk, read_or_zero};
use crate::error::{Error, Result};
use crate::journal::{
    CommitBody, CommitState, FOOTER_LEN, Footer, Journal, Place, ReplaceError, Version, Versions, check_page, replace,
};
use crate::page::{CommitNumber, PAGE_LEN, PAGE_SIZE, PageNumber};
use zerocopy::IntoBytes;

/// A kept image costs its page and a frame header.
const IMAGE_BYTES: u64 = PAGE_SIZE + 40;

impl Pager {
    /// Forgets the commits before `until`, except those a reader may hold. Unless the journal says so too (see
    /// [`CommitState::oldest`]), it must be packed next: after a crash it would still offer them.
    pub(super) fn drop_history(&self, shared: &mut Shared, until: CommitNumber) {
        let read = self.readers.lock().snapshots.keys().next().copied();
        while let Some(oldest) = shared.history.first().map(|commit| commit.number)
            && oldest < until
            && oldest < shared.applied
            && read.is_none_or(|read| oldest < read)
        {
            shared.history.remove(0);
        }
    }

    /// Gives up all older commits, so that what they referred to can be reused.
    pub(crate) fn expire_history(&self) -> Result<()> {
        let mut writer = self.writer()?;
        self.begin_journal(&mut writer)?;
        if !self.is_applied() {
            return Ok(());
        }
        let history = self.shared.read().history.clone();
        self.drop_history(&mut self.shared.write(), CommitNumber(u64::MAX));
        if let Err(error) = self.pack_journal(&mut writer) {
            // The journal still offers them.
            self.shared.write().history = history;
            return Err(self.journal_io("pack")(error));
        }
        self.cut_file()
    }

    fn is_applied(&self) -> bool {
        let shared = self.shared.read();
        shared.applied == shared.committed.number
    }

    /// Returns room behind the end of the data to the file system.
    fn cut_file(&self) -> Result<()> {
        let end = self.physical_end(&self.shared.read());
        if self.file.len().map_err(self.io("read the length of"))? > end
            && self.file.try_lock(Lock::Exclusive).map_err(self.io("lock"))?
        {
            self.file.set_len(end).map_err(self.io("cut"))?;
        }
        self.lock_shared_again()
    }

    /// Replaces the journal by one that holds only what is still needed. All commits must have been applied.
    pub(super) fn pack_journal(&self, writer: &mut Writer) -> io::Result<()> {
        let Some(journal) = &writer.journal else { return Ok(()) };
        if !self.is_applied() {
            return Ok(());
        }
        // The signature of the last apply must be durable before the journal that could restore it goes.
        self.file.sync()?;
        let mut versions = Versions::default();
        let (states, packed) = {
            let mut shared = self.shared.write();
            let history = shared.history.clone();
            self.bound_history(&mut shared);
            let states: Vec<CommitState> = shared.history.iter().chain([&shared.committed]).cloned().collect();
            let shared = parking_lot::RwLockWriteGuard::downgrade(shared);
            let packed = replace(self.disk.as_ref(), &self.journal_path, |file| {
                let mut new = Journal::begin(file, &self.journal_path, &states[0])?;
                self.pack_into(&mut new, &states, &shared.versions, journal.file.as_ref(), &mut versions)?;
                new.write_out()?;
                Ok(new)
            });
            drop(shared);
            match packed {
                Ok(packed) => (states, packed),
                Err(error) => {
                    self.shared.write().history = history;
                    return Err(self.replace_failed(writer, error));
                }
            }
        };
        let newest = states.last().map(|state| state.number).unwrap_or_default();
        packed.mark(newest, newest)?;
        let mut shared = self.shared.write();
        shared.journal = Some(Arc::clone(&packed.file));
        shared.versions = versions;
        writer.lock_file = Arc::clone(&packed.file);
        writer.journal = Some(packed);
        Ok(())
    }

    /// After a failure that may have put a new journal in the old one's place, nothing can be written any more.
    pub(super) fn replace_failed(&self, writer: &mut Writer, error: ReplaceError) -> io::Error {
        if error.replaced {
            writer.poison.get_or_insert(format!("its journal could not be replaced ({})", error.source));
        }
        error.source
    }

    /// Drops the oldest commits while the images kept for rolling back take too much room.
    fn bound_history(&self, shared: &mut Shared) {
        while !shared.history.is_empty() {
            let images: usize = shared
                .history
                .iter()
                .skip(1)
                .chain([&shared.committed])
                .map(|state| shared.versions.made_by(state.number).filter(|(_, place)| *place != Place::File).count())
                .sum();
            // Twice: each page may need the image before as well.
            if 2 * images as u64 * IMAGE_BYTES <= self.limits.history_bytes {
                break;
            }
            let before = shared.history.len();
            let until = shared.history[0].number.next();
            self.drop_history(shared, until);
            if shared.history.len() == before {
                break;
            }
        }
    }

    /// Writes the commits after `states[0]`, with every image needed to read any of `states`.
    fn pack_into(
        &self,
        new: &mut Journal,
        states: &[CommitState],
        old: &Versions,
        old_file: &dyn DiskFile,
        versions: &mut Versions,
    ) -> io::Result<()> {
        let Some((base, later)) = states.split_first() else { return Ok(()) };
        let mut image = [0; PAGE_LEN];
        let mut previous_free = &base.free;
        for state in later {
            let mut direct = Vec::new();
            let made: BTreeMap<PageNumber, Place> = old.made_by(state.number).collect();
            for (page, place) in made {
                let Place::Journal(frame) = place else {
                    if versions.knows(page) {
                        direct.push(page);
                        versions.insert(page, Version { commit: state.number, place });
                    }
                    continue;
                };
                if !versions.knows(page)
                    && let Some(Place::Journal(before)) = old.lookup(page, base.number)
                {
                    check_page(old_file, &self.journal_path, before, page, &mut image).map_err(io::Error::other)?;
                    let at = new.append_before(state.number, page, &image)?;
                    versions.insert(page, Version { commit: base.number, place: Place::Journal(at) });
                }
                check_page(old_file, &self.journal_path, frame, page, &mut image).map_err(io::Error::other)?;
                let at = new.append_page(state.number, page, &image)?;
                versions.insert(page, Version { commit: state.number, place: Place::Journal(at) });
            }
            let free = (state.free != *previous_free).then_some(&*state.free);
            new.append_commit(&CommitBody {
                number: state.number,
                eoa: state.eoa,
                time: state.time,
                free,
                direct: &direct,
                oldest: base.number,
                direct_end: state.direct_end,
            })?;
            new.seal();
            previous_free = &state.free;
        }
        Ok(())
    }

    /// Ends the writer's session: applies what waits, keeps history and free space behind the end of the file, and
    /// removes the journal. When readers of other programs keep commits from being applied, the journal stays, and
    /// the next opening applies it.
    pub(crate) fn close(&self, remove_unused: bool) -> Result<()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let mut writer = writer.lock();
        if writer.poison.is_some() {
            return Ok(());
        }
        writer.transaction = None;
        drop(writer);
        let applied = self.apply_within(self.limits.lock_wait.min(Duration::from_millis(500)))?;
        let mut writer = self.writer()?;
        if let Some(journal) = &mut writer.journal {
            journal.reset().map_err(self.journal_io("cut"))?;
        }
        if !applied || self.reads_what_is_free() {
            writer.poison = Some("it was closed".to_owned());
            return Ok(());
        }
        if remove_unused && writer.created && writer.commits == 0 {
            self.disk.remove(&self.path).map_err(self.io("remove"))?;
        } else if writer.journal.is_some() {
            self.write_trailer(&writer)?;
        }
        self.disk.remove(&self.journal_path).map_err(self.journal_io("remove"))?;
        self.disk.sync_directory(&self.journal_path).map_err(self.journal_io("sync the directory of"))?;
        writer.poison = Some("it was closed".to_owned());
        Ok(())
    }

    /// Whether a snapshot or map of this process shows what the next writer, who cannot know of it, would take for
    /// free space. Then that writer has to wait until it is gone.
    fn reads_what_is_free(&self) -> bool {
        let shared = self.shared.read();
        let readers = self.readers.lock();
        let older = readers.snapshots.keys().any(|&commit| commit < shared.committed.number);
        let freed = readers.pins.values().any(|&(start, end)| {
            shared.committed.free.iter().any(|free| free.start < end && start < free.start + free.length)
        });
        older || freed
    }

    /// Gives back what opening took, without touching what was there before: for an opening that is refused.
    pub(crate) fn give_up(&self) {
        let Some(writer) = &self.writer else { return };
        let mut writer = writer.lock();
        writer.transaction = None;
        writer.poison = Some("it was closed".to_owned());
        // What cannot be removed is an empty file, which the next opening takes.
        if writer.created {
            let _ = self.disk.remove(&self.path);
        }
        if writer.created || writer.journal.is_none() {
            let _ = self.disk.remove(&self.journal_path);
        }
    }

    fn write_trailer(&self, writer: &Writer) -> Result<()> {
        let Some(journal) = &writer.journal else { return Ok(()) };
        self.cut_file()?;
        let image = {
            let mut shared = self.shared.write();
            self.bound_history(&mut shared);
            self.packed_image(&shared, journal).map_err(self.journal_io("pack"))?
        };
        if let Some(image) = image {
            let mut start = [0; SUPERBLOCK_BYTES];
            read_or_zero(self.file.as_ref(), 0, &mut start).map_err(self.io("read"))?;
            let end =
                self.physical_end(&self.shared.read()).max(self.file.len().map_err(self.io("read the length of"))?);
            let offset = end.next_multiple_of(PAGE_SIZE);
            let footer = Footer::new(offset, &image, superblock_sum(&start));
            self.file.write_at(offset, &image).map_err(self.io("write"))?;
            self.file.write_at(offset + image.len() as u64, footer.as_bytes()).map_err(self.io("write"))?;
            debug_assert_eq!(footer.as_bytes().len(), FOOTER_LEN);
        }
        self.file.sync().map_err(self.io("sync"))
    }

    /// The packed journal as bytes; `None` when there is nothing worth keeping.
    fn packed_image(&self, shared: &Shared, journal: &Journal) -> io::Result<Option<Vec<u8>>> {
        let states: Vec<CommitState> = shared.history.iter().chain([&shared.committed]).cloned().collect();
        let newest = shared.committed.number;
        if states.len() == 1 && shared.committed.free.is_empty() {
            return Ok(None);
        }
        let memory = MemoryDisk::new();
        let path = Path::new("trailer");
        let file = memory.open(path, Access::CreateNew)?;
        let mut new = Journal::begin(file, path, &states[0])?;
        self.pack_into(&mut new, &states, &shared.versions, journal.file.as_ref(), &mut Versions::default())?;
        new.mark(newest, newest)?;
        Ok(memory.buffer(path).map(|buffer| buffer.to_vec()))
    }

    /// Moves a reader of another process's commits to the newest one: gives the lock back for a moment, so that a
    /// waiting writer can apply.
    pub(crate) fn is_poisoned(&self) -> Option<Error> {
        let writer = self.writer.as_ref()?.lock();
        let cause = writer.poison.clone()?;
        Some(Error::Poisoned { path: self.path.clone(), cause })
    }
}
