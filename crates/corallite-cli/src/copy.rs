//! A copy of a whole store, consistent while another program writes it.
//!
//! A store is a file, and the links that are only in the log beside it. The file's newest commit is held for reading, so
//! that it stays as it is; then the log is copied, and with it what was acknowledged since that commit; then the commit's
//! bytes. The copy's log is recovered as after a crash, which checks it against the copied commit record by record.
//!
//! Two things can go wrong between the first step and the second, and then all of it is done again: the writer has made a
//! checkpoint and written over records of the log that the held commit needs, which recovery notices; or it has closed the
//! store and removed the log, which a newer commit tells.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corallite::file::{CommitNumber, Mode, Snapshot};
use corallite::links::LinksOptions;
use corallite::weights::{Damage, Hdf5Options, Watch};
use corallite::{Error, Store, links};

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::counted;
use crate::work::Work;

/// How often a copy is begun again because a writer was faster.
const ATTEMPTS: usize = 20;
const PIECE: usize = 1 << 20;

/// A copy beside its place; removed unless [`Copy::put`] moves it there.
#[derive(Debug)]
pub(crate) struct Copy {
    temporary: PathBuf,
    target: PathBuf,
    /// The commit that was copied.
    pub(crate) commit: CommitNumber,
    /// Changes of links that came from the log.
    pub(crate) recovered: u64,
}

impl Copy {
    /// Copies the store at `source`, for a place at `target`.
    pub(crate) fn make(source: &Path, target: &Path, output: &Output, work: &mut Work) -> Result<Self, Failure> {
        // Where the log lies is where a symbolic link leads.
        let resolved = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
        // Errors name absolute paths.
        let mut temporary = std::path::absolute(target).unwrap_or_else(|_| target.to_owned()).into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let mut copy =
            Self { temporary: temporary.into(), target: target.to_owned(), commit: CommitNumber(0), recovered: 0 };
        let mut attempt = 1;
        while !copy.attempt(&resolved, attempt == ATTEMPTS, output, work)? {
            attempt += 1;
        }
        Ok(copy)
    }

    /// Whether it worked; the last attempt does or fails.
    fn attempt(&mut self, source: &Path, last: bool, output: &Output, work: &mut Work) -> Result<bool, Failure> {
        let store = Store::open_read_only(source).map_err(|error| opened::refused(source, error))?;
        let snapshot = store.storage().snapshot()?;
        self.commit = snapshot.version();
        let (log, changed) = (opened::beside(source, "-wal"), opened::beside(&self.temporary, "-wal"));
        let before = modified(&log);
        let copied = copy_log(&log, &changed)
            .map_err(|error| Failure::io(&format!("cannot copy {} to {}", log.display(), changed.display()), &error))?;
        if !copied && !last && newest(source)? != self.commit {
            return Ok(false);
        }
        work.show(output, "copying", snapshot.bytes());
        self.copy_file(source, &snapshot, work)?;
        drop(snapshot);
        store.close()?;
        if !copied {
            // A store whose log should be there and is not would make a backup that cannot be opened.
            self.open_links().map_err(|error| self.explain(source, error))?;
            return Ok(true);
        }
        match self.recover() {
            Ok(()) => Ok(true),
            // Where nobody wrote meanwhile, nothing would be different the next time.
            Err(Error::Links(
                links::Error::ForeignLog { .. } | links::Error::DamagedLog { .. } | links::Error::NotALog { .. },
            )) if !last && (modified(&log) != before || newest(source)? != self.commit) => Ok(false),
            Err(error) => Err(self.explain(source, error)),
        }
    }

    fn copy_file(&self, source: &Path, snapshot: &Snapshot, work: &Work) -> Result<(), Failure> {
        let create = || {
            let file = File::create(&self.temporary)?;
            file.set_permissions(fs::metadata(source)?.permissions())?;
            Ok(file)
        };
        let mut file = create().map_err(|error| self.failed(&error))?;
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < snapshot.bytes() {
            if work.is_cancelled() {
                return Err(Failure::new(Exit::Interrupted, "interrupted; nothing was changed"));
            }
            let length = (snapshot.bytes() - at).min(PIECE as u64) as usize;
            snapshot.read_at(at, &mut piece[..length])?;
            file.write_all(&piece[..length]).map_err(|error| self.failed(&error))?;
            at += length as u64;
            work.advance(length as u64);
        }
        file.sync_all().map_err(|error| self.failed(&error))
    }

    /// Brings what the copied log holds into the copy.
    fn recover(&mut self) -> Result<(), Error> {
        // The log may have gone on to links of transactions that came after the commit.
        let options = LinksOptions::new().cut_log(true);
        let store = Store::open_with(&self.temporary, Hdf5Options::new().mode(Mode::ReadWrite))?.links_options(options);
        self.recovered = store.links()?.recovered().map_or(0, |recovered| recovered.records);
        store.close()
    }

    fn open_links(&self) -> Result<(), Error> {
        let store = Store::open_read_only(&self.temporary)?;
        if store.has_links()? {
            store.links()?;
        }
        store.close()
    }

    /// Checks every chunk, hash and link of the copy; how many weights were compared with their hashes.
    pub(crate) fn verify(&self, source: &Path, work: &Work) -> Result<u64, Failure> {
        work.on("verifying");
        let store = Store::open_read_only(&self.temporary).map_err(|error| self.explain(source, error))?;
        let found = store.verify(work)?;
        store.close()?;
        let Some(Damage { kind, name, problem, .. }) = found.damaged.first() else { return Ok(found.verified) };
        let sentence = format!(
            "{} is damaged ({} found; the first: {kind} {name}: {problem}); {} was not changed",
            source.display(),
            counted(found.damaged.len() as u64, "problem"),
            self.target.display(),
        );
        Err(Failure::new(Exit::Damaged, sentence))
    }

    /// An error about the copy, told of what was copied.
    fn explain(&self, source: &Path, error: Error) -> Failure {
        let failure = Failure::from(error);
        let (temporary, source) = (self.temporary.display().to_string(), source.display().to_string());
        Failure::new(failure.exit(), failure.sentence().replace(&temporary, &source))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(&format!("cannot write {}", self.temporary.display()), error)
    }

    /// Moves the copy to its place, durably, and removes what lay beside the file that it replaces.
    pub(crate) fn put(self) -> Result<(), Failure> {
        fs::rename(&self.temporary, &self.target).map_err(|error| self.failed(&error))?;
        let stale = || {
            sync_folder(&self.target)?;
            for suffix in ["-journal", "-wal"] {
                remove(&opened::beside(&self.target, suffix))?;
            }
            sync_folder(&self.target)
        };
        stale().map_err(|error| {
            let target = self.target.display();
            Failure::new(Exit::Io, format!("{target} is written, but {target}-journal or {target}-wal, of the file that it replaced, could not be removed: {error}; remove them"))
        })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal"] {
            // What cannot be removed is in nobody's way.
            let _ = remove(&opened::beside(&self.temporary, suffix));
        }
    }
}

/// The newest commit of a store.
fn newest(source: &Path) -> Result<CommitNumber, Failure> {
    let store = Store::open_read_only(source).map_err(|error| opened::refused(source, error))?;
    let newest = store.storage().version()?;
    store.close()?;
    Ok(newest)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

/// Copies the log; `false` when there is none.
///
/// From its end to its beginning: so the header, which says which records were given up, is read after all of them, and
/// of two records that are written meanwhile the older one, which lies before the younger one, is seldom missed alone.
/// Where it is, recovery ends before it or takes it for damage; it was not acknowledged before the copy began.
fn copy_log(from: &Path, to: &Path) -> io::Result<bool> {
    let log = match File::open(from) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            remove(to)?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let found = log.metadata()?;
    let copy = File::create(to)?;
    copy.set_permissions(found.permissions())?;
    copy.set_len(found.len())?;
    let mut piece = vec![0; PIECE];
    let mut end = found.len();
    while end > 0 {
        let start = (end - 1) / PIECE as u64 * PIECE as u64;
        let piece = &mut piece[..(end - start) as usize];
        log.read_exact_at(piece, start)?;
        // Most of a log may never have been written.
        if piece.iter().any(|byte| *byte != 0) {
            copy.write_all_at(piece, start)?;
        }
        end = start;
    }
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
