//! Appending to a journal.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use zerocopy::IntoBytes;

use super::format::{
    CommitRecord, DirectRun, FRAME_HEADER_LEN, FRAMES_START, FrameHeader, FrameKind, Header, MARKS_AT, Marks,
    SAME_FREE, WRITER_AT, WriterRecord,
};
use super::{CommitState, Contents};
use crate::disk::{Disk, DiskFile};
use crate::page::{CommitNumber, PAGE_LEN, PageNumber};
use crate::space::FreeExtent;

/// Frames are gathered in memory and written in pieces of about this many bytes.
const BUFFER: usize = 1 << 20;

/// What a commit frame says.
pub(crate) struct CommitBody<'a> {
    pub(crate) number: CommitNumber,
    pub(crate) eoa: u64,
    pub(crate) time: u64,
    /// `None`: the same as the commit before.
    pub(crate) free: Option<&'a [FreeExtent]>,
    /// Pages with older images here that were written directly, sorted.
    pub(crate) direct: &'a [PageNumber],
    /// The oldest commit that can be rolled back to from now on.
    pub(crate) oldest: CommitNumber,
    /// What was written directly lies before this offset.
    pub(crate) direct_end: u64,
}

/// The journal of an open file, positioned at its end.
///
/// What was appended since the last [`Journal::seal`] belongs to a commit that has not happened; [`Journal::reset`]
/// forgets it.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: u64,
    end: u64,
    chain: u64,
    sealed_end: u64,
    sealed_chain: u64,
    pending: Vec<u8>,
}

impl Journal {
    /// Continues a journal that was read.
    pub(crate) fn resume(file: Arc<dyn DiskFile>, contents: &Contents) -> Self {
        let (end, chain) = (contents.end, contents.chain);
        Self { file, salt: contents.salt, end, chain, sealed_end: end, sealed_chain: chain, pending: Vec::new() }
    }

    /// Begins a journal in `file`, which must be empty, with `base` as its first commit.
    pub(crate) fn begin(file: Arc<dyn DiskFile>, path: &Path, base: &CommitState) -> io::Result<Self> {
        let salt = fresh_salt(path);
        file.write_at(0, Header::new(salt).as_bytes())?;
        let mut journal = Self {
            file,
            salt,
            end: FRAMES_START,
            chain: salt,
            sealed_end: FRAMES_START,
            sealed_chain: salt,
            pending: Vec::new(),
        };
        journal.append_commit(&CommitBody {
            number: base.number,
            eoa: base.eoa,
            time: base.time,
            free: Some(&base.free),
            direct: &[],
            oldest: base.number,
            direct_end: base.direct_end,
        })?;
        journal.seal();
        Ok(journal)
    }

    /// Bytes in the journal.
    pub(crate) fn len(&self) -> u64 {
        self.end
    }

    /// Appends the image of a page as commit `commit` leaves it; returns the frame's offset.
    pub(crate) fn append_page(
        &mut self,
        commit: CommitNumber,
        page: PageNumber,
        image: &[u8; PAGE_LEN],
    ) -> io::Result<u64> {
        self.append(FrameKind::Page, commit, page, image)
    }

    /// Appends the image of a page as it was before `commit`; returns the frame's offset.
    pub(crate) fn append_before(
        &mut self,
        commit: CommitNumber,
        page: PageNumber,
        image: &[u8; PAGE_LEN],
    ) -> io::Result<u64> {
        self.append(FrameKind::Before, commit, page, image)
    }

    /// Appends the end of a commit and writes everything out. The commit exists once the file is synced.
    pub(crate) fn append_commit(&mut self, body: &CommitBody<'_>) -> io::Result<()> {
        let mut runs: Vec<DirectRun> = Vec::new();
        for page in body.direct {
            match runs.last_mut() {
                Some(run) if run.first + run.count == page.0 => run.count += 1,
                _ => runs.push(DirectRun { first: page.0, count: 1 }),
            }
        }
        let record = CommitRecord {
            eoa: body.eoa,
            time: body.time,
            free_count: body.free.map_or(SAME_FREE, |free| free.len() as u64),
            direct_count: runs.len() as u64,
            oldest: body.oldest.0,
            direct_end: body.direct_end,
        };
        let mut payload = record.as_bytes().to_vec();
        payload.extend_from_slice(body.free.unwrap_or_default().as_bytes());
        payload.extend_from_slice(runs.as_bytes());
        self.append(FrameKind::Commit, body.number, PageNumber(0), &payload)?;
        self.write_out()
    }

    fn append(&mut self, kind: FrameKind, commit: CommitNumber, page: PageNumber, payload: &[u8]) -> io::Result<u64> {
        if u32::try_from(payload.len()).is_err() {
            return Err(io::Error::other("a journal frame would exceed 4 GiB"));
        }
        let at = self.end;
        let header = FrameHeader::new(self.chain, kind, commit.0, page.0, payload);
        self.pending.extend_from_slice(header.as_bytes());
        self.pending.extend_from_slice(payload);
        self.end += (FRAME_HEADER_LEN + payload.len()) as u64;
        self.chain = header.chain;
        if self.pending.len() >= BUFFER {
            self.write_out()?;
        }
        Ok(at)
    }

    /// Hands what was gathered to the file, so that it can be read back.
    pub(crate) fn write_out(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.file.write_at(self.end - self.pending.len() as u64, &self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// What was appended so far stays.
    pub(crate) fn seal(&mut self) {
        self.sealed_end = self.end;
        self.sealed_chain = self.chain;
    }

    /// Forgets what was appended since the last seal. The file is cut as well, so that a full disk has room again.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        let wrote = self.end - self.pending.len() as u64 > self.sealed_end;
        self.pending.clear();
        self.end = self.sealed_end;
        self.chain = self.sealed_chain;
        if wrote { self.file.set_len(self.end) } else { Ok(()) }
    }

    /// Notes how far things have come. Not synced: the marks only help to tell damage from a torn end and to skip
    /// work at the next open.
    pub(crate) fn mark(&self, durable: CommitNumber, applied: CommitNumber) -> io::Result<()> {
        self.file.write_at(MARKS_AT, Marks::new(self.salt, durable.0, applied.0).as_bytes())
    }
}

/// Writes this process's id where a second writer looks for it.
pub(crate) fn write_pid(file: &dyn DiskFile) -> io::Result<()> {
    file.write_at(WRITER_AT, WriterRecord::new(std::process::id()).as_bytes())
}

/// Why [`replace`] failed.
pub(crate) struct ReplaceError {
    pub(crate) source: io::Error,
    /// Whether the path may name the new journal already: then neither the old nor the new one is safe to go on with.
    pub(crate) replaced: bool,
}

/// Replaces the file at `path` by what `fill` writes, atomically and durably, so that a journal with frames is always
/// whole. The new file is locked first, so that the writer's lock is never free.
pub(crate) fn replace<T>(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(Arc<dyn DiskFile>) -> io::Result<T>,
) -> Result<T, ReplaceError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let prepare = || {
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&temporary, crate::disk::Access::CreateNew)?;
        disk.protect_like(&temporary, path)?;
        if !file.try_lock(crate::disk::Lock::Exclusive)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let filled = fill(Arc::clone(&file))?;
        write_pid(file.as_ref())?;
        file.sync()?;
        disk.rename(&temporary, path)?;
        Ok(filled)
    };
    let filled = prepare().map_err(|source| {
        // The old journal is still in place; what is left of the new one only takes room.
        let _ = disk.remove(&temporary);
        ReplaceError { source, replaced: false }
    })?;
    disk.sync_directory(path).map_err(|source| ReplaceError { source, replaced: true })?;
    Ok(filled)
}

fn fresh_salt(path: &Path) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write(path.as_os_str().as_encoded_bytes());
    hasher.write_u128(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos()));
    hasher.finish()
}
