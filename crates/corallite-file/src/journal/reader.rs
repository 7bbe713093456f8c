//! Reading a journal that may have been cut anywhere, or damaged.
//!
//! Frames are accepted as long as their checksums chain. The first frame that does not fit ends the journal: it is
//! what a crash left of a commit that was never acknowledged, unless the marks say that a later commit was durable,
//! which is damage and reported as such.

use std::io;
use std::path::Path;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::format::{
    CommitRecord, DirectRun, FORMAT_VERSION, FRAME_HEADER_LEN, FRAMES_START, FrameHeader, FrameKind, Header, MARKS_AT,
    Marks, SAME_FREE, WRITER_AT, WriterRecord, sum,
};
use super::{CommitState, Contents, Place, Version, Versions};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::page::{CommitNumber, PAGE_LEN, PAGE_SIZE, PageNumber};
use crate::space::FreeExtent;

/// Reads forward through a part of a file with one buffer.
struct Source<'a> {
    file: &'a dyn DiskFile,
    /// Added to every offset: where the journal begins in the file.
    start: u64,
    length: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

const READ_AHEAD: u64 = 1 << 20;

impl Source<'_> {
    /// The bytes at `offset`, or `None` when the journal ends before.
    fn get(&mut self, offset: u64, count: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(count).filter(|&end| end <= self.length) else {
            return Ok(None);
        };
        let held = self.buffer_at + self.buffer.len() as u64;
        if offset < self.buffer_at || end > held {
            let want = count.max(READ_AHEAD).min(self.length - offset) as usize;
            self.buffer.resize(want, 0);
            self.buffer_at = offset;
            let found = self.file.read_at(self.start + offset, &mut self.buffer)?;
            self.buffer.truncate(found);
            if (found as u64) < count {
                return Ok(None);
            }
        }
        let from = (offset - self.buffer_at) as usize;
        Ok(Some(&self.buffer[from..from + count as usize]))
    }
}

/// Reads the journal that `file` is. `None` when none was begun. The writer may be appending to it meanwhile.
pub(crate) fn parse(file: &dyn DiskFile, path: &Path) -> Result<Option<Contents>> {
    // The marks before the length: what they say is durable was written before they were, so it lies within.
    let marks = read_marks(file, path, 0)?;
    let length = file.len().map_err(|source| Error::io("read the length of", path, source))?;
    parse_frames(file, path, 0, length, marks)
}

/// Reads the packed journal in `file` from `start` on, `length` bytes.
pub(crate) fn parse_trailer(file: &dyn DiskFile, path: &Path, start: u64, length: u64) -> Result<Option<Contents>> {
    let marks = read_marks(file, path, start)?;
    parse_frames(file, path, start, length, marks)
}

fn read_marks(file: &dyn DiskFile, path: &Path, start: u64) -> Result<Option<Marks>> {
    let mut bytes = [0; size_of::<Marks>()];
    let found = file.read_at(start + MARKS_AT, &mut bytes).map_err(|source| Error::io("read", path, source))?;
    Ok(Marks::read_from_bytes(&bytes).ok().filter(|_| found == bytes.len()))
}

fn parse_frames(
    file: &dyn DiskFile,
    path: &Path,
    start: u64,
    length: u64,
    marks: Option<Marks>,
) -> Result<Option<Contents>> {
    let fail = |source| Error::io("read", path, source);
    let mut source = Source { file, start, length, buffer: Vec::new(), buffer_at: 0 };
    let header = source.get(0, size_of::<Header>() as u64).map_err(fail)?;
    let header = header.and_then(|bytes| Header::read_from_bytes(bytes).ok());
    let Some(header) = header.filter(Header::is_intact) else {
        // Frames are written only after the header was synced, so without frames there is nothing to lose.
        return if length <= FRAMES_START {
            Ok(None)
        } else {
            Err(Error::damaged(
                path,
                start,
                "the journal's header does not match its checksum, so commits may be lost; restore both files from a backup",
            ))
        };
    };
    if header.version > FORMAT_VERSION {
        let (found, supported) = (header.version.into(), FORMAT_VERSION.into());
        return Err(Error::NewerFormat { path: path.to_owned(), what: "journal", found, supported });
    }
    if header.version == 0 || u64::from(header.page_size) != PAGE_SIZE {
        return Err(Error::damaged(path, start, format!("the journal has pages of {} bytes", header.page_size)));
    }
    let marks = marks.filter(|marks| marks.is_intact(header.salt));

    let mut reading = Reading {
        base: None,
        commits: Vec::new(),
        versions: Versions::default(),
        open: Vec::new(),
        end: FRAMES_START,
        chain: header.salt,
    };
    let (mut offset, mut chain) = (FRAMES_START, header.salt);
    while let Some(frame) = source.get(offset, FRAME_HEADER_LEN as u64).map_err(fail)? {
        let Ok(frame) = FrameHeader::read_from_bytes(frame) else { break };
        if frame.chain != frame.expected_chain(chain) {
            break;
        }
        let payload = source.get(offset + FRAME_HEADER_LEN as u64, frame.length.into()).map_err(fail)?;
        let Some(payload) = payload.filter(|payload| sum(payload) == frame.payload_sum) else { break };
        chain = frame.chain;
        let next = offset + FRAME_HEADER_LEN as u64 + u64::from(frame.length);
        if !reading.accept(offset, &frame, payload, next) {
            break;
        }
        offset = next;
    }
    let durable = marks.map_or(0, |marks| marks.durable);
    let reached = reading.commits.last().or(reading.base.as_ref()).map_or(0, |commit| commit.number.0);
    if reached < durable {
        let problem = format!(
            "commit {} was durable, but the journal can be read only up to commit {reached}; restore both files from a backup, or move the journal away to accept the loss",
            durable
        );
        return Err(Error::damaged(path, start + offset, problem));
    }
    let Some(base) = reading.base else { return Ok(None) };
    Ok(Some(Contents {
        base,
        commits: reading.commits,
        versions: reading.versions,
        applied: marks.map(|marks| CommitNumber(marks.applied)),
        end: reading.end,
        chain: reading.chain,
        salt: header.salt,
    }))
}

/// What was understood so far.
struct Reading {
    base: Option<CommitState>,
    commits: Vec<CommitState>,
    versions: Versions,
    /// Images since the last commit frame, and whether they are from before it.
    open: Vec<(PageNumber, Version, bool)>,
    end: u64,
    chain: u64,
}

impl Reading {
    /// Takes in a frame whose checksums hold; `false` when it makes no sense where it is.
    fn accept(&mut self, offset: u64, frame: &FrameHeader, payload: &[u8], next: u64) -> bool {
        let commit = CommitNumber(frame.commit);
        let page = PageNumber(frame.page);
        let place = Place::Journal(offset);
        // No file reaches past this offset; a page that claims to lie there is none.
        if page.0 >= i64::MAX as u64 / PAGE_SIZE {
            return false;
        }
        match (FrameKind::from_number(frame.kind), &self.base) {
            (Some(FrameKind::Page), Some(_)) if payload.len() == PAGE_LEN => {
                self.open.push((page, Version { commit, place }, false));
                true
            }
            (Some(FrameKind::Before), Some(base)) if payload.len() == PAGE_LEN => {
                self.open.push((page, Version { commit: base.number, place }, true));
                true
            }
            (Some(FrameKind::Commit), _) => match self.commit(commit, payload) {
                Some(()) => {
                    self.end = next;
                    self.chain = frame.chain;
                    true
                }
                None => false,
            },
            _ => false,
        }
    }

    fn commit(&mut self, number: CommitNumber, payload: &[u8]) -> Option<()> {
        let (record, rest) = CommitRecord::read_from_prefix(payload).ok()?;
        let previous = self.commits.last().or(self.base.as_ref());
        let (free, rest): (Arc<[FreeExtent]>, &[u8]) = if record.free_count == SAME_FREE {
            (Arc::clone(&previous?.free), rest)
        } else {
            let count = usize::try_from(record.free_count).ok()?;
            let (free, rest) = rest.split_at_checked(count.checked_mul(size_of::<FreeExtent>())?)?;
            let free: Vec<FreeExtent> = free
                .chunks_exact(size_of::<FreeExtent>())
                .map(FreeExtent::read_from_bytes)
                .collect::<Result<_, _>>()
                .ok()?;
            if free.iter().any(|extent| extent.start.checked_add(extent.length).is_none_or(|end| end > record.eoa)) {
                return None;
            }
            (free.into(), rest)
        };
        let (oldest, direct_end) = (CommitNumber(record.oldest), record.direct_end);
        let state = CommitState { number, eoa: record.eoa, time: record.time, free, oldest, direct_end };
        match previous {
            None => self.base = Some(state),
            Some(previous) if number == previous.number.next() => {
                for (page, version, before) in self.open.drain(..) {
                    if before {
                        self.versions.insert_before(page, version.commit, version.place);
                    } else {
                        self.versions.insert(page, version);
                    }
                }
                for run in rest.chunks_exact(size_of::<DirectRun>()) {
                    let run = DirectRun::read_from_bytes(run).ok()?;
                    let end = run.first.checked_add(run.count).filter(|&end| end <= record.eoa.div_ceil(PAGE_SIZE))?;
                    // Only pages with older images here matter, which also bounds the work by the journal's size.
                    for page in self.versions.known(PageNumber(run.first), PageNumber(end)) {
                        self.versions.insert(page, Version { commit: number, place: Place::File });
                    }
                }
                self.commits.push(state);
            }
            Some(_) => return None,
        }
        Some(())
    }
}

/// Reads the page image of the frame at `offset` and checks it.
pub(crate) fn check_page(
    file: &dyn DiskFile,
    path: &Path,
    offset: u64,
    page: PageNumber,
    image: &mut [u8; PAGE_LEN],
) -> Result<()> {
    let mut header = [0; FRAME_HEADER_LEN];
    let fail = |source| Error::io("read", path, source);
    let found = file.read_at(offset, &mut header).map_err(fail)?;
    let got = file.read_at(offset + FRAME_HEADER_LEN as u64, image.as_mut_slice()).map_err(fail)?;
    match FrameHeader::read_from_bytes(header.as_bytes()) {
        Ok(frame)
            if found == FRAME_HEADER_LEN
                && got == PAGE_LEN
                && frame.page == page.0
                && frame.payload_sum == sum(image.as_slice()) =>
        {
            Ok(())
        }
        _ => {
            let problem = format!(
                "the image of page {} in the journal changed after it was written; restore both files from a backup",
                page.0
            );
            Err(Error::damaged(path, offset, problem))
        }
    }
}

/// The process id of the writer that has the journal open, when it can be read.
pub(crate) fn writer_pid(file: &dyn DiskFile) -> Option<u32> {
    let mut bytes = [0; size_of::<WriterRecord>()];
    let found = file.read_at(WRITER_AT, &mut bytes).ok()?;
    let record = WriterRecord::read_from_bytes(&bytes).ok()?;
    (found == bytes.len() && record.is_intact()).then(|| u32::try_from(record.pid).ok()).flatten()
}
