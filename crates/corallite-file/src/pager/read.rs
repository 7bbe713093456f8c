//! Reading: the writer's view and snapshots.

use std::sync::{Arc, OnceLock};

use super::{GUARD, Pager, SIGNATURE, Shared, SnapshotUse, Transaction, Writer};
use crate::disk::{Mapping, read_or_zero};
use crate::error::{Error, Result};
use crate::journal::{Place, check_page};
use crate::page::{CommitNumber, PAGE_LEN, PAGE_SIZE, PageNumber};

/// A commit held readable, with everything it refers to, for as long as this lives.
#[derive(Debug)]
pub(crate) struct View {
    pager: Arc<Pager>,
    commit: CommitNumber,
    eoa: u64,
    /// The file as a whole, mapped when the first map is asked for. Only pinned parts of it are looked at.
    whole: OnceLock<Option<Mapping>>,
}

impl View {
    pub(crate) fn pager(&self) -> &Arc<Pager> {
        &self.pager
    }

    pub(crate) fn commit(&self) -> CommitNumber {
        self.commit
    }

    pub(crate) fn eoa(&self) -> u64 {
        self.eoa
    }

    /// Fills `buffer` with the bytes at `offset` as the commit has them.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let shared = self.pager.shared.read();
        self.pager.read_commit(&shared, self.commit, offset, buffer)
    }

    /// Maps bytes that the file itself holds as this commit has them. `None` when the journal has some of them, or when
    /// the disk cannot map.
    pub(crate) fn map(&self, offset: u64, length: u64) -> Result<Option<Pinned>> {
        let pager = &self.pager;
        let end = offset.checked_add(length).filter(|&end| end <= self.eoa).ok_or_else(|| {
            Error::damaged(&pager.path, offset, format!("{length} bytes were asked for, past the end of the data"))
        })?;
        let shared = pager.shared.read();
        let (first, last) = (PageNumber::containing(offset), PageNumber(end.div_ceil(PAGE_SIZE)));
        // A page whose image is not in the file yet, or was there and is not (or soon not) any more, cannot be mapped.
        for (page, place) in shared.versions.range(first, last, self.commit) {
            let stays = [Some(shared.applied), shared.applying]
                .into_iter()
                .flatten()
                .all(|commit| shared.versions.lookup(page, commit) == Some(place));
            if place != Place::File && !stays {
                return Ok(None);
            }
        }
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let id = {
            let mut readers = pager.readers.lock();
            let id = readers.next_pin;
            readers.next_pin += 1;
            readers.pins.insert(id, (offset, end));
            id
        };
        let pin = Pin { pager: Arc::clone(pager), id };
        // One map of everything costs less than many; where it fails or is too short, the part is mapped by itself.
        let whole = self.whole.get_or_init(|| {
            let length = usize::try_from(self.eoa.min(pager.file.len().ok()?)).ok()?;
            pager.file.map(0, length).ok().flatten()
        });
        let part = whole.as_ref().and_then(|whole| whole.part(usize::try_from(offset).ok()?, length));
        let mapping = match part {
            Some(part) => Some(part),
            None => pager.file.map(offset, length).map_err(pager.io("map"))?,
        };
        Ok(mapping.map(|mapping| Pinned { mapping, _pin: pin }))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let mut readers = self.pager.readers.lock();
        if let Some(used) = readers.snapshots.get_mut(&self.commit) {
            used.count -= 1;
            if used.count == 0 {
                readers.snapshots.remove(&self.commit);
            }
        }
    }
}

#[derive(Debug)]
struct Pin {
    pager: Arc<Pager>,
    id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pager.readers.lock().pins.remove(&self.id);
    }
}

/// Mapped bytes whose place in the file is not reused while this lives.
#[derive(Debug)]
pub(crate) struct Pinned {
    // Fields are dropped in this order: the map goes before the pin that protects it.
    mapping: Mapping,
    _pin: Pin,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        self.mapping.as_ref()
    }
}

impl Pager {
    /// The newest commit, held readable.
    pub(crate) fn view(self: &Arc<Self>) -> View {
        // Under the lock that publishing takes, so that nothing of this commit is given up in between.
        let shared = self.shared.read();
        let commit = shared.committed.number;
        let eoa = shared.committed.eoa;
        let mut readers = self.readers.lock();
        readers.snapshots.entry(commit).or_insert(SnapshotUse { count: 0, eoa }).count += 1;
        View { pager: Arc::clone(self), commit, eoa, whole: OnceLock::new() }
    }

    /// Reads what commit `at` has.
    pub(super) fn read_commit(&self, shared: &Shared, at: CommitNumber, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = self.end_of(offset, buffer.len())?;
        let (first, last) = (PageNumber::containing(offset), PageNumber(end.div_ceil(PAGE_SIZE)));
        let mut known = shared.versions.range(first, last, at).peekable();
        // A page that one image covers wholly is not worth reading from the file first.
        let covered = last.0 - first.0 == 1 && matches!(known.peek(), Some((_, Place::Journal(_))));
        if !covered {
            read_or_zero(self.file.as_ref(), offset, buffer).map_err(self.io("read"))?;
            show_signature(offset, buffer);
        }
        for (page, place) in known {
            if let Place::Journal(frame) = place {
                let journal = shared.journal.as_deref().ok_or_else(|| self.lost_journal())?;
                let mut image = [0; PAGE_LEN];
                check_page(journal, &self.journal_path, frame, page, &mut image)?;
                overlay(offset, buffer, page, &image);
            }
        }
        Ok(())
    }

    fn lost_journal(&self) -> Error {
        Error::Poisoned { path: self.path.clone(), cause: "its journal is not open".to_owned() }
    }

    fn end_of(&self, offset: u64, length: usize) -> Result<u64> {
        offset
            .checked_add(length as u64)
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or_else(|| Error::damaged(&self.path, offset, "an address points past any possible end of the file"))
    }

    /// Reads what the writer sees: its own changes over the last commit.
    pub(crate) fn read_as_writer(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let writer = self.writer()?;
        self.read_transaction(&writer, offset, buffer)
    }

    pub(super) fn read_transaction(&self, writer: &Writer, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let shared = self.shared.read();
        let Some(transaction) = &writer.transaction else {
            return self.read_commit(&shared, shared.committed.number, offset, buffer);
        };
        let end = self.end_of(offset, buffer.len())?;
        let (first, last) = (PageNumber::containing(offset), PageNumber(end.div_ceil(PAGE_SIZE)));
        if transaction.fresh {
            self.read_fresh(transaction, offset, buffer)?;
        } else {
            self.read_commit(&shared, shared.committed.number, offset, buffer)?;
            for &page in transaction.direct_known.range(first..last) {
                let mut image = [0; PAGE_LEN];
                read_or_zero(self.file.as_ref(), page.start(), &mut image).map_err(self.io("read"))?;
                overlay(offset, buffer, page, &image);
            }
        }
        if !transaction.spilled.is_empty() {
            let journal = writer.journal.as_ref().ok_or_else(|| self.lost_journal())?;
            for page in (first.0..last.0).map(PageNumber) {
                if let Some(&frame) = transaction.spilled.get(&page) {
                    let mut image = [0; PAGE_LEN];
                    check_page(journal.file.as_ref(), &self.journal_path, frame, page, &mut image)?;
                    overlay(offset, buffer, page, &image);
                }
            }
        }
        for (&page, image) in transaction.dirty.range(first..last) {
            overlay(offset, buffer, page, image);
        }
        Ok(())
    }

    /// The old content is not there for a file being written anew; what this transaction wrote past it is.
    fn read_fresh(&self, transaction: &Transaction, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let boundary = transaction.horizon.end.next_multiple_of(PAGE_SIZE);
        let hidden = (boundary.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        buffer[..hidden].fill(0);
        read_or_zero(self.file.as_ref(), offset + hidden as u64, &mut buffer[hidden..]).map_err(self.io("read"))
    }
}

/// While commits are applied, the file's signature is hidden from other programs; this one looks through that.
fn show_signature(offset: u64, buffer: &mut [u8]) {
    let Some(from) = usize::try_from(offset).ok().filter(|&from| from < GUARD.len()) else { return };
    let count = buffer.len().min(GUARD.len() - from);
    if buffer[..count] == GUARD[from..from + count] {
        buffer[..count].copy_from_slice(&SIGNATURE[from..from + count]);
    }
}

/// Copies the part of a page that `buffer`, which holds the bytes at `offset`, asks for.
fn overlay(offset: u64, buffer: &mut [u8], page: PageNumber, image: &[u8; PAGE_LEN]) {
    let from = offset.max(page.start());
    let to = (offset + buffer.len() as u64).min(page.end());
    if from < to {
        let target = (from - offset) as usize..(to - offset) as usize;
        let source = (from - page.start()) as usize..(to - page.start()) as usize;
        buffer[target].copy_from_slice(&image[source]);
    }
}
