//! Writing inside a transaction: what goes to memory, to the journal early, or straight to its place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::{Pager, Transaction, Writer};
use crate::disk::{DiskFile, read_or_zero};
use crate::error::{Error, Result};
use crate::journal::{Contents, Journal, parse, replace};
use crate::page::{PAGE_LEN, PAGE_SIZE, Page, PageNumber, zero_page};
use crate::space::{Horizon, Use};

/// Directly written data is handed to the disk in pieces of this many bytes.
const WRITE_BACK: usize = 512 << 10;

/// Pages that lie next to each other are written together, up to this many bytes.
pub(super) const RUN: usize = 1 << 20;

impl Pager {
    /// Writes `bytes` at `offset` as part of the running transaction. A handle of an older `epoch` writes nothing.
    pub(crate) fn write(&self, epoch: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut writer = self.writer()?;
        if writer.epoch != epoch || bytes.is_empty() {
            return Ok(());
        }
        let outcome = self.write_bytes(&mut writer, offset, bytes);
        if outcome.is_err() {
            // libhdf5 does not always pass a failed write on; a commit that lacks it must not happen.
            self.doom(&mut writer, &outcome);
        }
        outcome
    }

    fn doom<T>(&self, writer: &mut Writer, outcome: &Result<T>) {
        if let (Err(error), Some(transaction)) = (outcome, &mut writer.transaction) {
            transaction.doomed.get_or_insert_with(|| error.to_string());
        }
    }

    pub(super) fn write_bytes(&self, writer: &mut Writer, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or_else(|| Error::damaged(&self.path, offset, "an address points past any possible end of the file"))?;
        self.begin(writer)?;
        let mut at = offset;
        while at < end {
            let page = PageNumber::containing(at);
            let stop = end.min(page.end());
            if stop - at == PAGE_SIZE
                && let Some(length) = self.direct_run(writer, page, end)
            {
                let from = (at - offset) as usize;
                self.write_direct(writer, page, &bytes[from..from + length as usize])?;
                at += length;
                continue;
            }
            let image = self.dirty_page(writer, page, stop - at < PAGE_SIZE)?;
            let source = &bytes[(at - offset) as usize..(stop - offset) as usize];
            image[(at - page.start()) as usize..(stop - page.start()) as usize].copy_from_slice(source);
            at = stop;
        }
        self.spill_if_large(writer)
    }

    /// Bytes of whole pages from `page` to `end` that may go straight to their place.
    fn direct_run(&self, writer: &Writer, page: PageNumber, end: u64) -> Option<u64> {
        let transaction = writer.transaction.as_ref()?;
        let mut last = page;
        while last.end() <= end && last.0 != 0 && transaction.is_direct(last) {
            last = last.next();
        }
        (last > page).then(|| last.start() - page.start())
    }

    /// Writes whole pages to their place.
    fn write_direct(&self, writer: &mut Writer, page: PageNumber, bytes: &[u8]) -> Result<()> {
        self.begin_journal(writer)?;
        // In pieces, so that the disk is busy with one while the next is copied.
        for (start, piece) in (page.start()..).step_by(WRITE_BACK).zip(bytes.chunks(WRITE_BACK)) {
            self.file.write_at(start, piece).map_err(self.io("write"))?;
            if piece.len() == WRITE_BACK {
                self.file.begin_write_back(start, piece.len() as u64);
            }
        }
        let Some(transaction) = &mut writer.transaction else { return Ok(()) };
        transaction.wrote_direct = true;
        transaction.direct_end = transaction.direct_end.max(page.start() + bytes.len() as u64);
        let last = PageNumber(page.0 + (bytes.len() / PAGE_LEN) as u64);
        if !transaction.dirty.is_empty() {
            let stale: Vec<PageNumber> = transaction.dirty.range(page..last).map(|(&page, _)| page).collect();
            for page in stale {
                transaction.dirty.remove(&page);
            }
        }
        transaction.direct_known.extend(self.shared.read().versions.known(page, last));
        Ok(())
    }

    /// The page in memory, for changing.
    pub(super) fn dirty_page<'a>(
        &self,
        writer: &'a mut Writer,
        page: PageNumber,
        partial: bool,
    ) -> Result<&'a mut Page> {
        let held = writer.transaction.as_ref().is_some_and(|transaction| transaction.dirty.contains_key(&page));
        let mut loaded = None;
        if !held {
            let mut image = zero_page();
            if partial {
                let unused = writer
                    .transaction
                    .as_ref()
                    .is_some_and(|transaction| page.start() >= transaction.horizon.end && !transaction.wrote_direct);
                if !unused {
                    self.read_transaction(writer, page.start(), image.as_mut_slice())?;
                }
            }
            loaded = Some(image);
        }
        let transaction = writer.transaction.as_mut().ok_or_else(|| self.no_transaction())?;
        Ok(transaction.dirty.entry(page).or_insert_with(|| loaded.unwrap_or_else(zero_page)))
    }

    fn no_transaction(&self) -> Error {
        Error::Poisoned { path: self.path.clone(), cause: "its transaction is gone".to_owned() }
    }

    /// Keeps memory bounded: moves changed pages out when there are too many.
    fn spill_if_large(&self, writer: &mut Writer) -> Result<()> {
        let large = writer
            .transaction
            .as_ref()
            .is_some_and(|transaction| transaction.dirty.len() * PAGE_LEN > self.limits.dirty_bytes);
        if !large {
            return Ok(());
        }
        self.begin_journal(writer)?;
        self.flush_direct(writer)?;
        self.log_dirty(writer)?;
        let transaction = writer.transaction.as_mut().ok_or_else(|| self.no_transaction())?;
        transaction.dirty.clear();
        Ok(())
    }

    /// Writes the changed pages that need no journal to their places, and drops them from memory.
    pub(super) fn flush_direct(&self, writer: &mut Writer) -> Result<()> {
        let Some(transaction) = &mut writer.transaction else { return Ok(()) };
        let direct: Vec<PageNumber> =
            transaction.dirty.keys().copied().filter(|&page| page.0 != 0 && transaction.is_direct(page)).collect();
        if direct.is_empty() {
            return Ok(());
        }
        let mut pages = Vec::with_capacity(direct.len());
        for page in direct {
            if let Some(image) = transaction.dirty.remove(&page) {
                pages.push((page, image));
            }
        }
        for run in runs(&pages) {
            self.write_direct(writer, run.0, &run.1)?;
        }
        Ok(())
    }

    /// Appends the changed pages to the journal, each with its image from before if the journal has none.
    pub(super) fn log_dirty(&self, writer: &mut Writer) -> Result<()> {
        let shared = self.shared.read();
        let number = shared.committed.number.next();
        let Writer { transaction, journal, .. } = writer;
        let (Some(transaction), Some(journal)) = (transaction, journal) else { return Err(self.no_transaction()) };
        for (&page, image) in &transaction.dirty {
            // Always kept: a reader may begin on the last commit at any time until this one is published.
            if !shared.versions.keeps(page) && transaction.before.insert(page) {
                let mut before = [0; PAGE_LEN];
                self.read_commit(&shared, shared.committed.number, page.start(), &mut before)?;
                let frame = journal.append_before(number, page, &before).map_err(self.journal_io("write"))?;
                transaction.before_frames.push((page, frame));
            }
            let frame = journal.append_page(number, page, image).map_err(self.journal_io("write"))?;
            transaction.spilled.insert(page, frame);
        }
        journal.write_out().map_err(self.journal_io("write"))
    }

    /// Starts a transaction unless one is running.
    pub(crate) fn begin_transaction(&self) -> Result<()> {
        let mut writer = self.writer()?;
        self.begin(&mut writer)
    }

    fn begin(&self, writer: &mut Writer) -> Result<()> {
        if writer.transaction.is_some() {
            return Ok(());
        }
        let shared = self.shared.read();
        let oldest = self.oldest_needed(&shared);
        let horizon = Horizon { oldest, end: self.frozen_end(&shared), now: shared.committed.number.next() };
        let pinned: Vec<(u64, u64)> = self.readers.lock().pins.values().copied().collect();
        writer.space.settle(oldest);
        writer.transaction = Some(Transaction {
            horizon,
            safe: writer.space.safe_pages(oldest, &pinned),
            fresh: false,
            doomed: None,
            dirty: BTreeMap::new(),
            spilled: HashMap::new(),
            before: HashSet::new(),
            before_frames: Vec::new(),
            direct_known: BTreeSet::new(),
            wrote_direct: false,
            direct_end: 0,
        });
        Ok(())
    }

    /// Starts a transaction that writes the whole file anew.
    pub(crate) fn begin_fresh(&self) -> Result<()> {
        let mut writer = self.writer()?;
        self.begin(&mut writer)?;
        writer.space = crate::space::Space::default();
        writer.eoa = 0;
        if let Some(transaction) = &mut writer.transaction {
            transaction.fresh = true;
            transaction.safe = crate::space::SafePages::default();
        }
        Ok(())
    }

    /// Makes sure that the journal exists, durably, before anything that needs it.
    pub(super) fn begin_journal(&self, writer: &mut Writer) -> Result<()> {
        if writer.journal.is_some() {
            return Ok(());
        }
        let made = match writer.trailer {
            Some((offset, length)) => replace(self.disk.as_ref(), &self.journal_path, |file| {
                self.copy_trailer(file, offset, length).map(|(journal, contents)| (journal, Some(contents)))
            }),
            None => {
                let base = self.shared.read().committed.clone();
                replace(self.disk.as_ref(), &self.journal_path, |file| {
                    Ok((Journal::begin(file, &self.journal_path, &base)?, None))
                })
            }
        };
        let (journal, packed) = match made {
            Ok(made) => made,
            Err(error) => return Err(self.journal_io("write")(self.replace_failed(writer, error))),
        };
        let mut shared = self.shared.write();
        if let Some(contents) = packed {
            shared.versions = contents.versions;
        }
        shared.journal = Some(Arc::clone(&journal.file));
        writer.lock_file = Arc::clone(&journal.file);
        writer.journal = Some(journal);
        writer.trailer = None;
        Ok(())
    }

    /// The packed journal goes on as it is.
    fn copy_trailer(&self, file: Arc<dyn DiskFile>, offset: u64, length: u64) -> io::Result<(Journal, Contents)> {
        let mut buffer = vec![0; RUN];
        let mut at = 0;
        while at < length {
            let count = buffer.len().min((length - at) as usize);
            read_or_zero(self.file.as_ref(), offset + at, &mut buffer[..count])?;
            file.write_at(at, &buffer[..count])?;
            at += count as u64;
        }
        let contents = parse(file.as_ref(), &self.journal_path)
            .map_err(io::Error::other)?
            .ok_or_else(|| io::Error::other("the record behind the end of the file cannot be read back"))?;
        Ok((Journal::resume(file, &contents), contents))
    }

    /// Finds room for `size` bytes.
    pub(crate) fn allocate(&self, epoch: u64, purpose: Use, size: u64) -> Result<u64> {
        let mut writer = self.writer()?;
        self.begin(&mut writer)?;
        let Writer { space, transaction, eoa, epoch: current, .. } = &mut *writer;
        space.cut(*eoa);
        let found = match transaction {
            Some(transaction) if *current == epoch => space.allocate(purpose, size, &transaction.horizon, eoa),
            _ => None,
        };
        found.ok_or_else(|| Error::damaged(&self.path, *eoa, format!("there is no room for {size} bytes")))
    }

    /// Lowers the end of allocation below free space that lies there.
    pub(crate) fn shrink(&self) -> Result<()> {
        let mut writer = self.writer()?;
        let Writer { space, transaction, eoa, .. } = &mut *writer;
        if transaction.as_ref().is_some_and(|transaction| !transaction.fresh) {
            space.cut(*eoa);
            *eoa = space.shrink(*eoa);
        }
        Ok(())
    }

    /// Takes back what [`Pager::allocate`] gave in this transaction.
    pub(crate) fn release(&self, offset: u64, size: u64) -> Result<()> {
        let mut writer = self.writer()?;
        let Writer { space, transaction, .. } = &mut *writer;
        if let Some(transaction) = transaction {
            space.release(offset, size, &transaction.horizon);
        }
        Ok(())
    }

    pub(crate) fn eoa(&self) -> u64 {
        self.writer.as_ref().map_or_else(|| self.shared.read().committed.eoa, |writer| writer.lock().eoa)
    }

    pub(crate) fn set_eoa(&self, epoch: u64, eoa: u64) -> Result<()> {
        let mut writer = self.writer()?;
        // Free space above is given up only when that matters: while it opens a file, libhdf5 sets the end to a few
        // bytes and back.
        if writer.epoch == epoch {
            writer.eoa = eoa;
        }
        Ok(())
    }

    /// The end of file that libhdf5 compares with the end of allocation.
    pub(crate) fn eof(&self) -> u64 {
        let Some(writer) = &self.writer else { return self.shared.read().committed.eoa };
        let writer = writer.lock();
        match &writer.transaction {
            Some(transaction) if transaction.fresh => writer.eoa,
            // An earlier commit that is being restored may be longer than the last one.
            Some(transaction) => writer.eoa.max(transaction.horizon.end),
            None => writer.eoa.max(self.shared.read().committed.eoa),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.lock().epoch)
    }
}

/// Joins neighbouring pages into runs of at most [`RUN`] bytes.
pub(super) fn runs(pages: &[(PageNumber, Page)]) -> impl Iterator<Item = (PageNumber, Vec<u8>)> + '_ {
    let mut rest = pages;
    std::iter::from_fn(move || {
        let (first, _) = rest.first()?;
        let count = rest
            .iter()
            .take(RUN / PAGE_LEN)
            .enumerate()
            .take_while(|(index, (page, _))| page.0 == first.0 + *index as u64)
            .count();
        let mut bytes = Vec::with_capacity(count * PAGE_LEN);
        for (_, image) in &rest[..count] {
            bytes.extend_from_slice(image.as_slice());
        }
        rest = &rest[count..];
        Some((*first, bytes))
    })
}
