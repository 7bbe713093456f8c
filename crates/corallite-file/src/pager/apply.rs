//! Moving commits from the journal into the file.
//!
//! Other programs read the file without knowing of the journal, so it changes only under the exclusive lock, and
//! while it is half changed its signature is hidden, durably, so that not even a power loss can make it look whole.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::write::runs;
use super::{GUARD, Pager, SIGNATURE, Shared, Writer};
use crate::disk::{Lock, read_or_zero};
use crate::error::{Error, Result};
use crate::journal::{Place, check_page};
use crate::page::{PAGE_LEN, PAGE_SIZE, Page, PageNumber};

/// Bytes of page images gathered before they are written.
const BATCH: usize = 256;

impl Pager {
    /// Applies what waits if nobody is in the way, and keeps the journal short. Failures only delay: the commits are
    /// in the journal.
    pub(super) fn settle(&self, writer: &mut Writer, recent: &BTreeMap<PageNumber, Page>) {
        match self.apply(writer, recent) {
            Ok(true) => {}
            Ok(false) => return,
            // Room may be found before the next commit.
            Err(Error::DiskFull { .. }) => return,
            Err(error) => {
                writer
                    .poison
                    .get_or_insert(format!("its last commit is in the journal but could not be applied ({error})"));
                return;
            }
        }
        let large = writer.journal.as_ref().is_some_and(|journal| journal.len() > self.limits.journal_bytes);
        if large {
            // Not packing costs room, nothing else; a failure that does more poisons by itself.
            let _ = self.pack_journal(writer);
        }
    }

    /// Applies waiting commits, waiting up to `wait` for other programs' readers. `Ok(true)`: the file holds the newest
    /// commit.
    pub(crate) fn apply_within(&self, wait: Duration) -> Result<bool> {
        let mut writer = self.writer()?;
        let until = Instant::now() + wait;
        loop {
            if self.apply(&mut writer, &BTreeMap::new())? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn apply(&self, writer: &mut Writer, recent: &BTreeMap<PageNumber, Page>) -> Result<bool> {
        let Some(journal) = &writer.journal else { return Ok(true) };
        let (pages, committed, length, half_way) = {
            let mut shared = self.shared.write();
            if shared.applied == shared.committed.number {
                return Ok(true);
            }
            // From here on no page that is going to change can be mapped.
            let newest = shared.committed.number;
            let half_way = shared.applying.replace(newest);
            let pages: Vec<(PageNumber, u64)> = shared
                .versions
                .changed(shared.applied, shared.committed.number)
                .filter_map(|(page, place)| match place {
                    Place::Journal(frame) => Some((page, frame)),
                    Place::File => None,
                })
                .collect();
            (pages, shared.committed.clone(), self.physical_end(&shared), half_way)
        };
        let later = || {
            self.shared.write().applying = half_way;
            Ok(false)
        };
        if self.touches_pins(writer, &pages, recent)? {
            return later();
        }
        if !self.file.try_lock(Lock::Exclusive).map_err(self.io("lock"))? {
            self.lock_shared_again()?;
            return later();
        }
        let image = |page: PageNumber, frame: u64| -> Result<Page> {
            if let Some(image) = recent.get(&page) {
                return Ok(image.clone());
            }
            let mut image = crate::page::zero_page();
            check_page(journal.file.as_ref(), &self.journal_path, frame, page, &mut image)?;
            Ok(image)
        };
        let outcome = self.apply_pages(&pages, image, length);
        self.lock_shared_again()?;
        outcome?;
        let mut shared = self.shared.write();
        shared.applied = committed.number;
        shared.applying = None;
        shared.applied_eoa = committed.eoa;
        self.drop_history(&mut shared, committed.oldest);
        drop(shared);
        // A hint; see `Journal::mark`.
        let _ = journal.mark(committed.number, committed.number);
        Ok(true)
    }

    fn apply_pages(
        &self,
        pages: &[(PageNumber, u64)],
        image: impl Fn(PageNumber, u64) -> Result<Page>,
        length: u64,
    ) -> Result<()> {
        self.file.write_at(0, &GUARD).map_err(self.io("write"))?;
        self.file.sync().map_err(self.io("sync"))?;
        for batch in pages.chunks(BATCH) {
            let mut images = Vec::with_capacity(batch.len());
            for &(page, frame) in batch {
                let mut image = image(page, frame)?;
                if page == PageNumber(0) {
                    image[..GUARD.len()].copy_from_slice(&GUARD);
                }
                images.push((page, image));
            }
            for (first, bytes) in runs(&images) {
                self.file.write_at(first.start(), &bytes).map_err(self.io("write"))?;
            }
        }
        if self.file.len().map_err(self.io("read the length of"))? != length {
            self.file.set_len(length).map_err(self.io("cut"))?;
        }
        self.file.sync().map_err(self.io("sync"))?;
        // Not synced: if this is lost, the journal still has everything, and the next open applies it again.
        self.file.write_at(0, &SIGNATURE).map_err(self.io("write"))
    }

    /// Where the file may be cut: behind everything that can still be read.
    pub(super) fn physical_end(&self, shared: &Shared) -> u64 {
        let readers = self.readers.lock();
        let kept = shared.history.iter().map(|commit| commit.eoa);
        let read = readers.snapshots.values().map(|snapshot| snapshot.eoa);
        let mapped = readers.pins.values().map(|&(_, end)| end);
        kept.chain(read).chain(mapped).fold(shared.committed.eoa, u64::max)
    }

    /// Whether applying would change bytes that a map of this process shows. That happens only when a mapped weight was
    /// deleted and libhdf5 reused its place; neighbours on the same page are written with the bytes they have.
    fn touches_pins(
        &self,
        writer: &Writer,
        pages: &[(PageNumber, u64)],
        recent: &BTreeMap<PageNumber, Page>,
    ) -> Result<bool> {
        let pins: Vec<(u64, u64)> = self.readers.lock().pins.values().copied().collect();
        if pins.is_empty() {
            return Ok(false);
        }
        let Some(journal) = &writer.journal else { return Ok(false) };
        for &(page, frame) in pages {
            for &(start, end) in &pins {
                let (from, to) = (start.max(page.start()), end.min(page.end()));
                if from >= to {
                    continue;
                }
                let mut new = crate::page::zero_page();
                match recent.get(&page) {
                    Some(image) => new.copy_from_slice(image.as_slice()),
                    None => check_page(journal.file.as_ref(), &self.journal_path, frame, page, &mut new)?,
                }
                let mut old = [0; PAGE_LEN];
                read_or_zero(self.file.as_ref(), page.start(), &mut old).map_err(self.io("read"))?;
                let range = (from % PAGE_SIZE) as usize..((to - 1) % PAGE_SIZE + 1) as usize;
                if new[range.clone()] != old[range] {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Converting a lock may lose it; nobody else may write to the file while this process has it open.
    pub(super) fn lock_shared_again(&self) -> Result<()> {
        let until = Instant::now() + self.limits.lock_wait;
        while !self.file.try_lock(Lock::Shared).map_err(self.io("lock"))? {
            if Instant::now() >= until {
                return Err(self.io("lock")(io::ErrorKind::WouldBlock.into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
