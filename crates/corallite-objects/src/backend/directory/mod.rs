//! The directory backend: a file for each value and each stream.
//!
//! Values are JSON that people can read ([`document`] says how), in folders named after collections ([`name`]). What is
//! written is first a temporary file in `.corallite`, and gets its name when it is whole. Whoever reads takes no lock: they
//! see the old file or the new one. Whoever writes holds a lock while they check what is expected and rename, so several
//! processes can work on one directory, where it has `flock`.
//!
//! Other files are left alone. A folder that is a symbolic link is read, and never written into.

mod disk;
mod document;
mod list;
mod name;
mod stream;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};

use self::disk::{Hidden, Staged, Unsynced};
#[cfg(feature = "dbm")]
pub(super) use self::disk::{create_folders, sync_folder};
use self::list::{Entry, Listing};
use self::name::Kind;
use super::{Backend, Change, Durability, Entries, EventKind, Expect, Keys, Range, ReadStream, Watchers, WriteStream};
use crate::error::{Error, Result};
use crate::key;

/// Values and streams as files in a directory, for people and programs to look at.
///
/// ```
/// use corallite_objects::backend::{Backend, BackendExt, DirectoryBackend};
///
/// # let folder = tempfile::tempdir().unwrap();
/// let backend = DirectoryBackend::open(folder.path())?;
/// backend.add("Account.1", br#"{"name":"Ann"}"#)?;
/// let file = std::fs::read_to_string(folder.path().join("Account/1.json")).unwrap();
/// assert_eq!(file, "{\n  \"name\": \"Ann\"\n}\n");
/// # Ok::<(), corallite_objects::Error>(())
/// ```
///
/// Several processes may have it open. A batch is checked whole before anything of it is done, but a crash in its midst
/// leaves the changes made so far. Listing reads a whole folder at a time. What is [`Durability::Buffered`] is synced when
/// 1,024 files wait, or earlier, with the next durable write or `sync`; a power loss before can leave such a file empty,
/// which is then reported as damaged.
#[derive(Debug)]
pub struct DirectoryBackend {
    root: PathBuf,
    is_closed: RwLock<bool>,
    /// `None` where the directory can only be read.
    hidden: Option<Hidden>,
    unsynced: Unsynced,
    watchers: Watchers,
}

impl DirectoryBackend {
    /// Opens a directory, and creates it where it is missing. One without the right to write can be read.
    ///
    /// # Errors
    ///
    /// What the system reports; a layout of a newer version.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let failed = |error| Error::io("open", root.display(), error);
        disk::create_folders(root)?;
        let root = root.canonicalize().map_err(failed)?;
        let hidden = match Hidden::open(&root) {
            Ok(hidden) => Some(hidden),
            Err(Error::Io { source, .. })
                if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let (unsynced, watchers) = (Unsynced::default(), Watchers::default());
        Ok(Self { root, is_closed: RwLock::new(false), hidden, unsynced, watchers })
    }

    fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps it open for a while.
    fn state(&self) -> Result<RwLockReadGuard<'_, bool>> {
        // Recursive, as whoever goes through keys calls other methods meanwhile.
        let state = self.is_closed.read_recursive();
        if *state { Err(Error::Closed { location: self.location() }) } else { Ok(state) }
    }

    fn hidden(&self) -> Result<&Hidden> {
        self.hidden.as_ref().ok_or_else(|| {
            Error::io("write into", self.root.display(), std::io::Error::from(ErrorKind::PermissionDenied))
        })
    }

    fn file(&self, key: &str, kind: Kind) -> Result<PathBuf> {
        key::check(key)?;
        Ok(name::file_of(key, kind).unwrap_or_default())
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = name::file_of(key, Kind::Value).map(|path| self.root.join(path)) else { return Ok(None) };
        match fs::read(&path) {
            Ok(file) => document::decode(file).map(Some).map_err(|problem| {
                let problem =
                    format!("its file {} cannot be used: {problem}; repair, replace or remove it", path.display());
                Error::Malformed { location: self.location(), key: key.to_owned(), problem }
            }),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
                ErrorKind::IsADirectory => Err(disk::a_folder(&path)),
                _ => Err(Error::io("read", path.display(), error)),
            },
        }
    }

    fn is_there(&self, key: &str, kind: Kind) -> Result<bool> {
        let Some(path) = name::file_of(key, kind).map(|path| self.root.join(path)) else { return Ok(false) };
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => Err(disk::a_folder(&path)),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(Error::io("read", path.display(), error)),
        }
    }

    fn check(&self, changes: &[Change<'_>]) -> Result<()> {
        for change in changes {
            // What nobody compares is not read; so a damaged file can be replaced.
            let found = match change.expect {
                Expect::Anything => None,
                Expect::Absent | Expect::Present => self.is_there(change.key, Kind::Value)?.then(Vec::new),
                Expect::Value(_) => self.read(change.key)?,
            };
            change.check(|| self.location(), found.as_deref())?;
        }
        Ok(())
    }

    /// Brings to the disk what was changed, or remembers it. `folders` are below the root.
    fn keep(
        &self,
        files: Vec<PathBuf>,
        folders: &[PathBuf],
        mut to_sync: BTreeSet<PathBuf>,
        durability: Durability,
    ) -> Result<()> {
        to_sync.extend(folders.iter().map(|folder| self.root.join(folder)));
        match durability {
            Durability::Buffered => self.unsynced.add(files, to_sync),
            Durability::Durable => {
                to_sync.iter().try_for_each(|folder| disk::sync_folder(folder))?;
                folders.iter().for_each(|folder| self.unsynced.is_on_disk(&self.root, folder));
                self.unsynced.sync()
            }
        }
    }

    fn remove_file(&self, file: &Path) -> Result<bool> {
        let path = self.root.join(file);
        // Nothing is removed behind a link either.
        self.check_links(file)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(false),
                _ if path.is_dir() => Err(disk::a_folder(&path)),
                _ => Err(Error::io("remove", path.display(), error)),
            },
        }
    }

    fn check_links(&self, file: &Path) -> Result<()> {
        let folder = file.parent().unwrap_or(Path::new(""));
        if fs::symlink_metadata(self.root.join(folder)).is_err() {
            return Ok(());
        }
        self.unsynced.ensure_folder(&self.root, folder).map(|_| ())
    }

    fn place_stream(&self, key: &str, staged: Staged, durability: Durability) -> Result<()> {
        let _state = self.state()?;
        let file = self.file(key, Kind::Stream)?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let locked = self.hidden()?.lock()?;
        let to_sync = self.unsynced.ensure_folder(&self.root, &folder)?;
        let path = self.root.join(file);
        staged.place(&path)?;
        self.watchers.happened(key, EventKind::Stream);
        drop(locked);
        self.keep(vec![path], &[folder], to_sync, durability)
    }
}

impl Backend for DirectoryBackend {
    fn location(&self) -> String {
        format!("the directory {}", self.root.display())
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let _state = self.state()?;
        Ok(self.read(key)?.map(Bytes::from))
    }

    fn has(&self, key: &str) -> Result<bool> {
        let _state = self.state()?;
        self.is_there(key, Kind::Value)
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        let _state = self.state()?;
        Ok(Box::new(Listing::new(self, range, Kind::Value)?))
    }

    fn entries_in(&self, range: &Range) -> Result<Entries<'_>> {
        Ok(Box::new(self.keys_in(range)?.filter_map(|key| match key {
            Ok(key) => Some(self.get(&key).transpose()?.map(|value| (key, value))),
            Err(error) => Some(Err(error)),
        })))
    }

    fn write(&self, changes: &[Change<'_>], durability: Durability) -> Result<()> {
        let _state = self.state()?;
        let hidden = self.hidden()?;
        // Once before the work, for those who are refused, and once when nobody else can change anything.
        self.check(changes)?;
        let is_durable = durability == Durability::Durable;
        let mut staged = Vec::with_capacity(changes.len());
        for change in changes {
            let file = self.file(change.key, Kind::Value)?;
            let value =
                change.value.map(|value| hidden.stage(&self.root.join(&file), &document::encode(value), is_durable));
            staged.push((file, value.transpose()?));
        }
        let locked = hidden.lock()?;
        self.check(changes)?;
        let mut folders: Vec<PathBuf> = Vec::new();
        let mut to_sync = BTreeSet::new();
        for (file, value) in &staged {
            let folder = file.parent().unwrap_or(Path::new(""));
            if value.is_some() && folders.last().is_none_or(|last| last != folder) {
                to_sync.append(&mut self.unsynced.ensure_folder(&self.root, folder)?);
                folders.push(folder.to_owned());
            }
        }
        let mut files = Vec::new();
        let mut done = 0;
        let mut place = |(file, value): (PathBuf, Option<Staged>)| {
            match value {
                Some(value) => {
                    let path = self.root.join(&file);
                    value.place(&path)?;
                    files.push(path);
                }
                None if self.remove_file(&file)? => to_sync.extend(self.root.join(&file).parent().map(Path::to_owned)),
                None => {}
            }
            done += 1;
            Ok(())
        };
        // Those before one that fails are done, and treated so.
        let placed = staged.into_iter().try_for_each(&mut place);
        self.watchers.changed(&changes[..done]);
        drop(locked);
        let kept = self.keep(files, &folders, to_sync, durability);
        placed.and(kept)
    }

    fn is_atomic(&self) -> bool {
        false
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        let _state = self.state()?;
        if !self.is_there(key, Kind::Stream)? {
            return Ok(None);
        }
        let path = self.root.join(self.file(key, Kind::Stream)?);
        match File::open(&path).and_then(stream::Reader::new) {
            Ok(reader) => Ok(Some(Box::new(reader))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path.display(), error)),
        }
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        let _state = self.state()?;
        let path = self.root.join(self.file(key, Kind::Stream)?);
        let (staged, file) = self.hidden()?.temporary(&path)?;
        Ok(Box::new(stream::Writer::new(self, key, staged, file)))
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        let _state = self.state()?;
        let Some(file) = name::file_of(key, Kind::Stream) else { return Ok(false) };
        let locked = self.hidden()?.lock()?;
        if !self.remove_file(&file)? {
            return Ok(false);
        }
        self.watchers.happened(key, EventKind::Stream);
        drop(locked);
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        self.keep(Vec::new(), &[folder], BTreeSet::new(), Durability::Durable)?;
        Ok(true)
    }

    fn rename_stream(&self, from: &str, to: &str, durability: Durability) -> Result<bool> {
        let _state = self.state()?;
        let new = self.file(to, Kind::Stream)?;
        let folder = new.parent().unwrap_or(Path::new("")).to_owned();
        let locked = self.hidden()?.lock()?;
        let Some(old) = name::file_of(from, Kind::Stream) else { return Ok(false) };
        if !self.is_there(from, Kind::Stream)? {
            return Ok(false);
        }
        self.check_links(&old)?;
        let mut to_sync = self.unsynced.ensure_folder(&self.root, &folder)?;
        let (old, path) = (self.root.join(old), self.root.join(new));
        if durability == Durability::Durable {
            // It may have been written without being synced.
            let synced = File::open(&old).and_then(|file| file.sync_data());
            synced.map_err(|error| Error::io("sync", old.display(), error))?;
        }
        disk::rename(&old, &path)?;
        to_sync.extend(old.parent().map(Path::to_owned));
        self.watchers.happened(from, EventKind::Stream);
        self.watchers.happened(to, EventKind::Stream);
        drop(locked);
        self.keep(vec![path], &[folder], to_sync, durability)?;
        Ok(true)
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        let _state = self.state()?;
        Ok(Box::new(Listing::new(self, &Range::prefix(prefix), Kind::Stream)?))
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        let _state = self.state().ok()?;
        let path = self.root.join(name::file_of(key, Kind::Stream)?);
        path.is_file().then_some(path)
    }

    fn sync(&self) -> Result<()> {
        let _state = self.state()?;
        self.unsynced.sync()
    }

    fn clear(&self) -> Result<()> {
        let _state = self.state()?;
        let locked = self.hidden()?.lock()?;
        self.unsynced.forget_folders();
        let (mut files, mut folders, mut errors) = (Vec::new(), vec![PathBuf::new()], Vec::new());
        list::walk(&self.root, PathBuf::new(), &mut errors, &mut |entry| match entry {
            Entry::File(file) => files.push(file),
            Entry::Folder(folder) => folders.extend(name::collection_of(&folder).map(|_| folder)),
        });
        for folder in &folders[1..] {
            list::walk(&self.root, folder.clone(), &mut errors, &mut |entry| {
                if let Entry::File(file) = entry {
                    files.push(file);
                }
            });
        }
        files.retain(|file| [Kind::Value, Kind::Stream].iter().any(|kind| name::key_of(file, *kind).is_some()));
        for file in &files {
            self.remove_file(file)?;
        }
        // From the innermost outwards; those with something foreign in them stay.
        let all = files.iter().filter_map(|file| file.parent()).chain(folders.iter().map(AsRef::as_ref));
        let all: BTreeSet<&Path> = all.flat_map(Path::ancestors).collect();
        for folder in all.into_iter().rev() {
            disk::sync_folder(&self.root.join(folder))?;
            if !folder.as_os_str().is_empty() {
                let _ = fs::remove_dir(self.root.join(folder));
            }
        }
        self.unsynced.forget_folders();
        self.watchers.happened("", EventKind::Cleared);
        drop(locked);
        errors.pop().map_or(Ok(()), Err)
    }

    fn close(&self) -> Result<()> {
        let mut is_closed = self.is_closed.write();
        if std::mem::replace(&mut *is_closed, true) {
            return Ok(());
        }
        let synced = self.unsynced.sync();
        self.hidden.iter().for_each(Hidden::close);
        synced
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }
}
