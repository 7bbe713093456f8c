//! Opening: locks, what an interrupted session left, and where the file ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use zerocopy::FromBytes;

use super::{GUARD, Limits, Pager, Readers, SIGNATURE, Shared, Writer};
use crate::disk::{Access, Disk, DiskFile, Lock, read_or_zero};
use crate::error::{Error, Result};
use crate::journal::{
    CommitState, Contents, FOOTER_LEN, Footer, JOURNAL_FORMAT_VERSION, Journal, Place, check_page, parse,
    parse_trailer, write_pid, writer_pid,
};
use crate::page::{CommitNumber, PAGE_LEN, PAGE_SIZE, PageNumber};
use crate::space::Space;

/// Bytes at the start of a file that hold the superblock in every version.
const SUPERBLOCK: usize = 96;

/// How many of the pages that a journal knows are compared with the file before it is believed to be the file's.
const CHECKED_PAGES: usize = 256;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenAs {
    /// One commit, from open to close.
    Reader,
    /// Reading and writing an existing file.
    Writer,
    /// Reading and writing; created when absent.
    WriterOrCreate,
    /// Reading and writing a file that must not exist.
    WriterOfNew,
}

impl Pager {
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path, how: OpenAs, limits: Limits) -> Result<Arc<Self>> {
        let journal_path = beside(path, "-journal");
        let opening = Opening { disk: disk.as_ref(), path, journal_path: &journal_path, wait: limits.lock_wait };
        let opened = if how == OpenAs::Reader { opening.reader()? } else { opening.writer(how)? };
        let Opened { file, lock_file, journal_file, contents, created } = opened;

        let state = opening.state(file.as_ref(), journal_file.as_deref(), contents);
        if state.is_err() && lock_file.is_some() {
            // Refused: what this opening made goes again.
            if journal_file.is_none() {
                let _ = disk.remove(&journal_path);
            }
            if created {
                let _ = disk.remove(path);
            }
        }
        let Recovered { committed, history, versions, applied, applied_eoa, journal, trailer, trailer_problem } =
            state?;

        let writer = match lock_file {
            None => None,
            Some(lock_file) => {
                let journal = journal.map(|contents| Journal::resume(Arc::clone(&lock_file), &contents));
                Some(Mutex::new(Writer {
                    lock_file,
                    journal,
                    trailer,
                    created,
                    commits: 0,
                    epoch: 0,
                    poison: None,
                    eoa: committed.eoa,
                    space: Space::new(&committed.free),
                    transaction: None,
                }))
            }
        };
        Ok(Arc::new(Self {
            disk: Arc::clone(&disk),
            path: path.to_owned(),
            journal_path,
            file,
            limits,
            shared: RwLock::new(Shared {
                journal: journal_file,
                versions,
                committed,
                history,
                applied,
                applied_eoa,
                applying: None,
            }),
            readers: Mutex::new(Readers::default()),
            writer,
            failure: Mutex::new(None),
            trailer_problem,
        }))
    }
}

impl Pager {
    /// Whether the file shows that a commit was being applied to it when its writer ended.
    pub(crate) fn is_half_applied(disk: &dyn Disk, path: &Path) -> bool {
        let mut start = [0; GUARD.len()];
        disk.open(path, Access::Read).is_ok_and(|file| file.read_at(0, &mut start).is_ok()) && start == GUARD
    }
}

/// Whether a path is the name of another store's companion file.
fn is_companion(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b"-journal") || name.ends_with(b"-wal")
}

/// The path of a companion file.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

struct Opening<'a> {
    disk: &'a dyn Disk,
    path: &'a Path,
    journal_path: &'a Path,
    wait: Duration,
}

struct Opened {
    file: Arc<dyn DiskFile>,
    lock_file: Option<Arc<dyn DiskFile>>,
    /// The journal, when it has frames.
    journal_file: Option<Arc<dyn DiskFile>>,
    contents: Option<Contents>,
    created: bool,
}

struct Recovered {
    committed: CommitState,
    history: Vec<CommitState>,
    versions: crate::journal::Versions,
    applied: CommitNumber,
    /// The largest end of allocation of the commits from the applied one on: readers may hold any of them.
    applied_eoa: u64,
    /// Where the writer goes on, when a journal is there.
    journal: Option<Contents>,
    trailer: Option<(u64, u64)>,
    trailer_problem: Option<String>,
}

impl Opening<'_> {
    fn reader(&self) -> Result<Opened> {
        let file = self.open_file(Access::Read)?;
        self.lock_shared(file.as_ref())?;
        // After the lock: from here on no writer can move commits from the journal into the file.
        let journal = match self.disk.open(self.journal_path, Access::Read) {
            Ok(journal) => Some(journal),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("open", self.journal_path, error)),
        };
        let contents = match &journal {
            Some(journal) => self.parse(journal.as_ref())?,
            None => None,
        };
        let journal_file = journal.filter(|_| contents.is_some());
        Ok(Opened { file, lock_file: None, journal_file, contents, created: false })
    }

    fn writer(&self, how: OpenAs) -> Result<Opened> {
        // A path that cannot be a store is refused before anything is created beside it.
        let exists = match self.disk.open(self.path, Access::ReadWrite) {
            Ok(file) => {
                let names = file.names().map_err(|source| Error::io("look at", self.path, source))?;
                if names > 1 {
                    let problem = format!(
                        "it has {names} names (hard links), and a journal can lie beside only one of them; copy it and open the copy for writing"
                    );
                    return Err(Error::Usage { path: self.path.to_owned(), problem });
                }
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(self.open_error(error)),
        };
        match (how, exists) {
            (OpenAs::Writer, false) => return Err(Error::NotFound { path: self.path.to_owned() }),
            (_, false) if is_companion(self.path) => {
                let problem =
                    "a name that ends in -journal or -wal belongs to the files beside a store; choose another"
                        .to_owned();
                return Err(Error::Usage { path: self.path.to_owned(), problem });
            }
            (OpenAs::WriterOfNew, true) => return Err(Error::AlreadyExists { path: self.path.to_owned() }),
            _ => {}
        }
        let lock_file = self.lock_writer()?;
        let access = match how {
            OpenAs::WriterOfNew => Access::CreateNew,
            OpenAs::WriterOrCreate => Access::Create,
            _ => Access::ReadWrite,
        };
        let opened = self.open_file(access).and_then(|file| {
            self.lock_shared(file.as_ref())?;
            self.disk
                .protect_like(self.journal_path, self.path)
                .map_err(|source| Error::io("set the permissions of", self.journal_path, source))?;
            let contents = self.parse(lock_file.as_ref())?;
            write_pid(lock_file.as_ref()).map_err(|source| Error::io("write", self.journal_path, source))?;
            Ok((file, contents))
        });
        let (file, contents) = opened.inspect_err(|_| {
            // Refused: what this opening made goes again. A journal that was there before stays.
            if !exists {
                let _ = self.disk.remove(self.path);
            }
            if matches!(lock_file.len(), Ok(0)) {
                let _ = self.disk.remove(self.journal_path);
            }
        })?;
        let journal_file = contents.is_some().then(|| Arc::clone(&lock_file));
        Ok(Opened { file, lock_file: Some(lock_file), journal_file, contents, created: !exists })
    }

    /// Becomes the writer: holds the lock on the file that the journal's path names.
    fn lock_writer(&self) -> Result<Arc<dyn DiskFile>> {
        let fail = |source| Error::io("lock", self.journal_path, source);
        // The journal may be removed or replaced between opening and locking it; then the lock is on a file without a
        // name and worth nothing. A writer that closes or packs does so once, so a few rounds are enough.
        for _ in 0..100 {
            let file = self
                .disk
                .open(self.journal_path, Access::Create)
                .map_err(|source| Error::io("create", self.journal_path, source))?;
            if !file.try_lock(Lock::Exclusive).map_err(fail)? {
                return Err(Error::Busy { path: self.path.to_owned(), holder: writer_pid(file.as_ref()) });
            }
            if self.disk.is_at(file.as_ref(), self.journal_path).map_err(fail)? {
                return Ok(file);
            }
        }
        Err(Error::Busy { path: self.path.to_owned(), holder: None })
    }

    fn open_file(&self, access: Access) -> Result<Arc<dyn DiskFile>> {
        self.disk.open(self.path, access).map_err(|error| self.open_error(error))
    }

    fn open_error(&self, error: std::io::Error) -> Error {
        let path = self.path.to_owned();
        match error.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound { path },
            std::io::ErrorKind::AlreadyExists => Error::AlreadyExists { path },
            std::io::ErrorKind::IsADirectory | std::io::ErrorKind::InvalidInput => Error::NotAFile { path },
            _ => Error::io("open", self.path, error),
        }
    }

    fn lock_shared(&self, file: &dyn DiskFile) -> Result<()> {
        let until = Instant::now() + self.wait;
        loop {
            if file.try_lock(Lock::Shared).map_err(|source| Error::io("lock", self.path, source))? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Error::Locked { path: self.path.to_owned() });
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn parse(&self, journal: &dyn DiskFile) -> Result<Option<Contents>> {
        parse(journal, self.journal_path)
    }

    /// Puts together what the file, the journal and the trailer say.
    fn state(
        &self,
        file: &dyn DiskFile,
        journal: Option<&dyn DiskFile>,
        contents: Option<Contents>,
    ) -> Result<Recovered> {
        let length = file.len().map_err(|source| Error::io("read the length of", self.path, source))?;
        let mut start = [0; SUPERBLOCK];
        read_or_zero(file, 0, &mut start).map_err(|source| Error::io("read", self.path, source))?;
        let signature: [u8; 8] = start[..8].try_into().unwrap_or_default();
        match (contents, journal) {
            (Some(contents), Some(journal)) => {
                let applied = self.check_base(file, journal, &contents)?;
                let committed = contents.newest().clone();
                let needed = if applied == committed.number { committed.eoa } else { committed.direct_end };
                if length < needed {
                    let (path, journal) = (self.path, self.journal_path.display());
                    let problem = format!(
                        "the file has {length} bytes where the commits in {journal} need {needed}: it was cut short, as it is by \
                         another program that opens it for writing meanwhile; restore it from a backup, or move the journal away \
                         to keep what the file holds without it"
                    );
                    return Err(Error::damaged(path, length, problem));
                }
                let states = || contents.states();
                let applied_eoa = states().filter(|state| state.number >= applied).map(|state| state.eoa).max();
                // What older commits refer to may have been overwritten since.
                let kept = committed.oldest..committed.number;
                let history = states().filter(|state| kept.contains(&state.number) && state.eoa > 0).cloned().collect();
                Ok(Recovered {
                    history,
                    versions: contents.versions.clone(),
                    applied,
                    applied_eoa: applied_eoa.unwrap_or(committed.eoa),
                    committed,
                    journal: Some(contents),
                    trailer: None,
                    trailer_problem: None,
                })
            }
            _ => self.state_without_journal(file, length, &start, signature),
        }
    }

    fn state_without_journal(
        &self,
        file: &dyn DiskFile,
        length: u64,
        start: &[u8; SUPERBLOCK],
        signature: [u8; 8],
    ) -> Result<Recovered> {
        if signature == GUARD {
            let problem = format!(
                "a commit was being applied and its journal {} is missing; put the journal back beside the file and open it again",
                self.journal_path.display()
            );
            return Err(Error::damaged(self.path, 0, problem));
        }
        let eoa = if length == 0 { 0 } else { self.superblock_eof(start)? };
        if length < eoa {
            return Err(self.too_short(length, eoa));
        }
        if length > 0 && eoa == 0 {
            // Not to be mistaken for an empty file, which may be written anew.
            return Err(Error::damaged(
                self.path,
                0,
                "the superblock says that the file has no bytes; restore it from a backup",
            ));
        }
        let plain = CommitState {
            number: CommitNumber(0),
            eoa,
            time: 0,
            free: Arc::new([]),
            oldest: CommitNumber(0),
            direct_end: eoa,
        };
        let mut state = Recovered {
            committed: plain,
            history: Vec::new(),
            versions: crate::journal::Versions::default(),
            applied: CommitNumber(0),
            applied_eoa: eoa,
            journal: None,
            trailer: None,
            trailer_problem: None,
        };
        match self.trailer(file, length, eoa, start)? {
            Trailer::None => {}
            Trailer::Unusable(problem) => state.trailer_problem = Some(problem),
            Trailer::Found(contents, offset, image_length) => {
                state.committed = contents.newest().clone();
                state.history = contents.states().cloned().collect();
                state.history.pop();
                state.applied = state.committed.number;
                state.applied_eoa = state.committed.eoa;
                state.trailer = Some((offset, image_length));
            }
        }
        Ok(state)
    }

    /// Looks for a packed journal behind the end of the HDF5 file.
    fn trailer(&self, file: &dyn DiskFile, length: u64, eoa: u64, start: &[u8; SUPERBLOCK]) -> Result<Trailer> {
        if length <= eoa {
            return Ok(Trailer::None);
        }
        let junk = |what: &str| {
            Ok(Trailer::Unusable(format!(
                "{} bytes behind the end of the HDF5 data (offset {eoa}) {what}; the free-space list and the kept older commits in them are not used",
                length - eoa
            )))
        };
        let footer_at = length.saturating_sub(FOOTER_LEN as u64);
        let mut bytes = [0; FOOTER_LEN];
        read_or_zero(file, footer_at, &mut bytes).map_err(|source| Error::io("read", self.path, source))?;
        let Some(footer) = Footer::read_from_bytes(&bytes).ok().filter(Footer::is_intact) else {
            return junk("have no intact footer");
        };
        if footer.version > JOURNAL_FORMAT_VERSION {
            let (found, supported) = (footer.version.into(), JOURNAL_FORMAT_VERSION.into());
            return Err(Error::NewerFormat { path: self.path.to_owned(), what: "trailer", found, supported });
        }
        if footer.offset < eoa || footer.offset.checked_add(footer.length) != Some(footer_at) {
            return junk("have a footer that points elsewhere");
        }
        if footer.superblock_sum != superblock_sum(start) {
            return junk("belong to an earlier state of the file, which another program has changed since");
        }
        if !image_matches(file, &footer).map_err(|source| Error::io("read", self.path, source))? {
            return junk("do not match their checksum");
        }
        match parse_trailer(file, self.path, footer.offset, footer.length) {
            Ok(Some(contents)) if contents.newest().eoa == eoa => {
                Ok(Trailer::Found(Box::new(contents), footer.offset, footer.length))
            }
            Ok(_) | Err(Error::Damaged { .. }) => junk("hold no readable record"),
            Err(error) => Err(error),
        }
    }

    /// Checks that the file is one the journal can be applied to; returns the newest commit it surely holds.
    fn check_base(&self, file: &dyn DiskFile, journal: &dyn DiskFile, contents: &Contents) -> Result<CommitNumber> {
        let mut found = [0; PAGE_LEN];
        read_or_zero(file, 0, &mut found).map_err(|source| Error::io("read", self.path, source))?;
        let unwritten = contents.base.eoa == 0 && found[..SUPERBLOCK] == [0; SUPERBLOCK];
        if found[..GUARD.len()] == GUARD || unwritten {
            // Mid-apply, or a file whose first commit is not in it yet: every page comes from the journal.
            return Ok(contents.base.number);
        }
        let applied = contents.applied.unwrap_or(contents.base.number);
        let start = found.first_chunk().ok_or_else(|| self.changed_elsewhere())?;
        let signed = found[..SIGNATURE.len()] == SIGNATURE;
        let eof = if signed { self.superblock_eof(start)? } else { 0 };
        if !signed || contents.states().all(|state| state.eoa != eof) {
            return Err(self.changed_elsewhere());
        }
        // What the journal knows of the file is as some commit left it, and not one before what was applied.
        let newest = contents.newest();
        let mut candidates: Vec<&CommitState> = contents.states().filter(|state| state.number >= applied).collect();
        for page in contents.versions.known(PageNumber(0), PageNumber(u64::MAX)).into_iter().take(CHECKED_PAGES) {
            if newest.is_free(page) || contents.versions.lookup(page, newest.number) == Some(Place::File) {
                // Written directly, perhaps by a transaction that never was a commit.
                continue;
            }
            if contents.states().any(|state| state.number > contents.base.number && state.eoa <= page.start()) {
                // The file was cut below it and has grown again since, perhaps without the page being written.
                continue;
            }
            read_or_zero(file, page.start(), &mut found).map_err(|source| Error::io("read", self.path, source))?;
            let mut refused = None;
            let mut fits = Vec::with_capacity(candidates.len());
            for state in candidates {
                let length = state.eoa.saturating_sub(page.start()).min(PAGE_SIZE) as usize;
                let same = match contents.versions.lookup(page, state.number) {
                    // A later transaction may have written it directly.
                    _ if state.is_free(page) => true,
                    // The same image as that of the candidate before.
                    Some(place) if refused == Some(place) => false,
                    Some(Place::Journal(offset)) => {
                        let mut image = [0; PAGE_LEN];
                        check_page(journal, self.journal_path, offset, page, &mut image)?;
                        image[..length] == found[..length]
                    }
                    _ => true,
                };
                if same {
                    fits.push(state);
                } else {
                    refused = contents.versions.lookup(page, state.number);
                }
            }
            candidates = fits;
        }
        if candidates.is_empty() { Err(self.changed_elsewhere()) } else { Ok(applied) }
    }

    fn changed_elsewhere(&self) -> Error {
        Error::ChangedElsewhere { path: self.path.to_owned(), journal: self.journal_path.to_owned() }
    }

    fn too_short(&self, length: u64, eoa: u64) -> Error {
        Error::damaged(
            self.path,
            length,
            format!(
                "the file has {length} bytes where its superblock says {eoa}; it was cut short, so restore it from a backup"
            ),
        )
    }

    /// The end-of-file address in a superblock (HDF5 file format specification 4.0, II.A).
    fn superblock_eof(&self, start: &[u8; SUPERBLOCK]) -> Result<u64> {
        if start[..8] != SIGNATURE {
            return Err(Error::NotHdf5 { path: self.path.to_owned() });
        }
        let (offset_size, at) = match start[8] {
            0 => (start[13], 40),
            1 => (start[13], 44),
            2 | 3 => (start[9], 28),
            version => {
                let (found, supported) = (version.into(), 3);
                return Err(Error::NewerFormat {
                    path: self.path.to_owned(),
                    what: "HDF5 superblock",
                    found,
                    supported,
                });
            }
        };
        if offset_size != 8 {
            return Err(Error::damaged(
                self.path,
                9,
                format!("the superblock has addresses of {offset_size} bytes where 8 are supported"),
            ));
        }
        u64::read_from_prefix(&start[at..])
            .map(|(eof, _)| eof)
            .map_err(|_| Error::NotHdf5 { path: self.path.to_owned() })
    }
}

enum Trailer {
    None,
    Unusable(String),
    Found(Box<Contents>, u64, u64),
}

fn image_matches(file: &dyn DiskFile, footer: &Footer) -> std::io::Result<bool> {
    use std::hash::Hasher;
    let mut hasher = twox_hash::XxHash3_64::new();
    let mut buffer = vec![0; 1 << 16];
    let (mut at, end) = (footer.offset, footer.offset + footer.length);
    while at < end {
        let count = buffer.len().min((end - at) as usize);
        read_or_zero(file, at, &mut buffer[..count])?;
        hasher.write(&buffer[..count]);
        at += count as u64;
    }
    Ok(hasher.finish() == footer.image_sum)
}

/// The checksum that ties a trailer to the superblock it was written for.
pub(super) fn superblock_sum(start: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(&start[..SUPERBLOCK])
}

/// Bytes that [`superblock_sum`] needs.
pub(super) const SUPERBLOCK_BYTES: usize = SUPERBLOCK;
