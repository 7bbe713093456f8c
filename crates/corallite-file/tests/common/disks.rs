//! Disks that are broken on purpose, to see that the harness notices, and disks that stop at a chosen moment.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use corallite_file::{Access, Disk, DiskFile, Lock, Mapping};

/// A thing a file layer does to its disk; a [`Filter`] decides what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Write,
    Cut,
    Sync,
    LockExclusive,
    SyncDirectory,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Do,
    /// It is not done, but reported as done.
    Pretend,
}

/// Decides about each step on each path.
pub type Filter = dyn Fn(Step, &Path) -> Verdict + Send + Sync;

/// A disk that asks a filter before each change.
#[derive(Clone)]
pub struct FilteredDisk {
    inner: Arc<dyn Disk>,
    filter: Arc<Filter>,
}

impl FilteredDisk {
    pub fn new(inner: impl Disk + 'static, filter: impl Fn(Step, &Path) -> Verdict + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(inner), filter: Arc::new(filter) }
    }
}

impl fmt::Debug for FilteredDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Disk for FilteredDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, access)?;
        Ok(Arc::new(FilteredFile { inner, path: path.into(), filter: Arc::clone(&self.filter) }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match (self.filter)(Step::SyncDirectory, path) {
            Verdict::Do => self.inner.sync_directory(path),
            Verdict::Pretend => Ok(()),
        }
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        self.inner.is_at(file, path)
    }
}

struct FilteredFile {
    inner: Arc<dyn DiskFile>,
    path: Box<Path>,
    filter: Arc<Filter>,
}

impl fmt::Debug for FilteredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl FilteredFile {
    fn unless_pretended(&self, step: Step, body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match (self.filter)(step, &self.path) {
            Verdict::Do => body(),
            Verdict::Pretend => Ok(()),
        }
    }
}

impl DiskFile for FilteredFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.unless_pretended(Step::Write, || self.inner.write_at(offset, bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.unless_pretended(Step::Cut, || self.inner.set_len(length))
    }

    fn sync(&self) -> io::Result<()> {
        self.unless_pretended(Step::Sync, || self.inner.sync())
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        if lock == Lock::Exclusive {
            (self.filter)(Step::LockExclusive, &self.path);
        }
        self.inner.try_lock(lock)
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Option<Mapping>> {
        self.inner.map(offset, length)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.inner.identity()
    }
}
