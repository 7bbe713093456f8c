//! What is done to files and folders, and what of it is not on the disk yet.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};

/// How many files and folders may wait for a sync before somebody has to do one.
const MOST_UNSYNCED: usize = 1_024;

/// What temporary files begin with. Others in their folder are foreign.
const TEMPORARY: &str = "tmp-";

/// The version of the layout, in `.corallite/format`.
const FORMAT: &str = "1";

/// The hidden folder of a root, with the locks and the temporary files.
#[derive(Debug)]
pub(super) struct Hidden {
    folder: PathBuf,
    /// What this instance's temporary files are called.
    name: String,
    next: AtomicU64,
    /// Held while expectations are checked and files renamed; by one process, and in it by one thread.
    lock: Mutex<File>,
    /// Held, together with others, as long as it is open.
    open: Mutex<Option<File>>,
}

impl Hidden {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let folder = root.join(".corallite");
        create_folders(&folder)?;
        if fs::symlink_metadata(&folder).is_ok_and(|found| found.is_symlink()) {
            return Err(leads_out(&folder));
        }
        let file = |name| {
            let path = folder.join(name);
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            file.map_err(|error| Error::io("open", path.display(), error))
        };
        let (lock, open) = (file("lock")?, file("open")?);
        let name = format!("{TEMPORARY}{}", uuid::Uuid::new_v4().simple());
        let hidden = Self { folder, name, next: AtomicU64::new(0), lock: Mutex::new(lock), open: Mutex::new(None) };
        // Whoever opens it does so alone: between finding nobody else and telling others of oneself, nobody comes.
        let locked = hidden.lock()?;
        hidden.check_format()?;
        if open.try_lock().is_ok() {
            hidden.remove_leftovers()?;
        }
        locks(|| open.lock_shared()).map_err(|error| Error::io("lock", hidden.folder.display(), error))?;
        drop(locked);
        *hidden.open.lock() = Some(open);
        Ok(hidden)
    }

    fn check_format(&self) -> Result<()> {
        let path = self.folder.join("format");
        match fs::read_to_string(&path) {
            Ok(format) if format.trim() == FORMAT => Ok(()),
            Ok(format) => {
                let problem =
                    format!("its layout is `{}`, this program knows {FORMAT}; use a newer program", format.trim());
                Err(Error::Malformed { location: self.folder.display().to_string(), key: "format".to_owned(), problem })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.stage(&path, format!("{FORMAT}\n").as_bytes(), true)?.place(&path)?;
                sync_folder(&self.folder)
            }
            Err(error) => Err(Error::io("read", path.display(), error)),
        }
    }

    /// Removes the temporary files of killed processes.
    fn remove_leftovers(&self) -> Result<()> {
        let failed = |error| Error::io("clean up", self.folder.display(), error);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY)) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Waits until nobody else changes anything.
    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        let file = self.lock.lock();
        locks(|| file.lock()).map_err(|error| Error::io("lock", self.folder.display(), error))?;
        Ok(Locked(file))
    }

    /// Tells others that it is not open here any more.
    pub(super) fn close(&self) {
        if let Some(open) = self.open.lock().take() {
            // Not only closed: a process that is just being started may have the file for a moment.
            let _ = open.unlock();
        }
    }

    /// A new temporary file for what `path` is to hold.
    pub(super) fn temporary(&self, path: &Path) -> Result<(Staged, File)> {
        let temporary = self.folder.join(format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|error| Error::io("write", path.display(), error))?;
        Ok((Staged { temporary: Some(temporary) }, file))
    }

    /// A temporary file that holds what `path` is to hold.
    pub(super) fn stage(&self, path: &Path, bytes: &[u8], is_durable: bool) -> Result<Staged> {
        let (staged, mut file) = self.temporary(path)?;
        let written = file.write_all(bytes).and_then(|()| if is_durable { file.sync_data() } else { Ok(()) });
        written.map_err(|error| Error::io("write", path.display(), error))?;
        Ok(staged)
    }
}

/// As long as it lives, nobody else changes anything.
pub(super) struct Locked<'a>(MutexGuard<'a, File>);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It fails only for a file that is no lock, and then there was none.
        let _ = self.0.unlock();
    }
}

/// A lock that a signal interrupts is tried again.
fn locks(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A temporary file, which is gone with this unless it gets its place.
#[derive(Debug)]
pub(super) struct Staged {
    temporary: Option<PathBuf>,
}

impl Staged {
    pub(super) fn place(mut self, path: &Path) -> Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        rename(temporary, path)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What is left is removed when the directory is opened again.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// What was changed and may not be on the disk.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    waiting: Mutex<Waiting>,
    /// Folders that are known to be on the disk, to spare a sync of their parents.
    folders: Mutex<HashSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct Waiting {
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// After a failed sync the system may have forgotten what it did not write
    /// (<https://wiki.postgresql.org/wiki/Fsync_Errors>): a later one that succeeds says nothing.
    has_failed: bool,
}

impl Unsynced {
    /// Remembers files and folders until the next [`Unsynced::sync`].
    pub(super) fn add(&self, files: impl IntoIterator<Item = PathBuf>, folders: BTreeSet<PathBuf>) -> Result<()> {
        let mut waiting = self.waiting.lock();
        waiting.files.extend(files);
        waiting.folders.extend(folders);
        let is_full = waiting.files.len() + waiting.folders.len() > MOST_UNSYNCED;
        drop(waiting);
        if is_full { self.sync() } else { Ok(()) }
    }

    /// Brings all of them to the disk. Whoever comes meanwhile waits, since what is theirs may be under way.
    pub(super) fn sync(&self) -> Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.has_failed {
            let lost = io::Error::other(
                "an earlier sync failed, and what it was to write may be lost; write it again after opening again",
            );
            return Err(Error::io("sync", "the directory", lost));
        }
        let Waiting { files, folders, .. } = std::mem::take(&mut *waiting);
        let synced = files.iter().try_for_each(|path| match File::open(path).and_then(|file| file.sync_data()) {
            // Removed or a folder's now: then its name is what counts.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("sync", path.display(), error)),
            _ => Ok(()),
        });
        let synced = synced.and_then(|()| folders.iter().try_for_each(|folder| sync_folder(folder)));
        waiting.has_failed = synced.is_err();
        synced
    }

    /// Sees to it that a folder below `root` is there. Says which folders have to be synced to keep it.
    pub(super) fn ensure_folder(&self, root: &Path, folder: &Path) -> Result<BTreeSet<PathBuf>> {
        const MOST_KNOWN: usize = 10_000;
        let mut to_sync = BTreeSet::new();
        let mut path = root.to_owned();
        for part in folder {
            let parent = path.clone();
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(found) if found.is_symlink() => return Err(leads_out(&path)),
                Ok(_) => return Err(Error::io("write into", path.display(), ErrorKind::NotADirectory.into())),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fs::create_dir(&path).map_err(|error| Error::io("create", path.display(), error))?;
                }
                Err(error) => return Err(Error::io("read", path.display(), error)),
            }
            if !self.folders.lock().contains(&path) {
                to_sync.insert(parent);
            }
        }
        if to_sync.is_empty() {
            return Ok(to_sync);
        }
        let mut known = self.folders.lock();
        if known.len() > MOST_KNOWN {
            known.clear();
        }
        Ok(to_sync)
    }

    /// Notes that folders are on the disk, with their parents up to the root.
    pub(super) fn is_on_disk(&self, root: &Path, folder: &Path) {
        let mut known = self.folders.lock();
        known.extend(folder.ancestors().filter(|part| !part.as_os_str().is_empty()).map(|part| root.join(part)));
    }

    /// Forgets which folders are there.
    pub(super) fn forget_folders(&self) {
        self.folders.lock().clear();
    }
}

/// Gives a file another name, in the place of what has it.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => a_folder(to),
        _ => Error::io("write", to.display(), error),
    })
}

/// Brings the names in a folder to the disk.
pub(in crate::backend) fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Removed: then its parent is synced too.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("sync", folder.display(), error)),
        _ => Ok(()),
    }
}

/// Creates a folder and those above it, for good.
pub(in crate::backend) fn create_folders(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_folders(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !folder.is_dir() => {
            Err(Error::io("create", folder.display(), error))
        }
        _ => sync_folder(parent),
    }
}

fn leads_out(path: &Path) -> Error {
    let source = io::Error::other("it is a symbolic link, which is not followed; put a folder in its place");
    Error::io("write into", path.display(), source)
}

/// The error for a folder where a file has to be.
pub(super) fn a_folder(path: &Path) -> Error {
    let location = path.parent().unwrap_or(path).display().to_string();
    let key = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::Malformed { location, key, problem: "it is a folder; move it away, or put the file in its place".to_owned() }
}
