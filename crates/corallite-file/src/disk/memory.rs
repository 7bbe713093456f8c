//! Files in memory: for stores without a path and for tests.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{Access, Disk, DiskFile, Lock, Mapping};

/// Bytes that a [`Storage`](crate::Storage) can be opened on instead of a path. Clones share the bytes.
///
/// After [`Storage::flush`](crate::Storage::flush) and [`Storage::close`](crate::Storage::close) the buffer holds the
/// committed file: a complete HDF5 image that any reader opens.
#[derive(Clone, Debug, Default)]
pub struct Buffer(Arc<RwLock<Vec<u8>>>);

impl Buffer {
    /// An empty buffer: opens as a new file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.read().clone()
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(RwLock::new(bytes)))
    }
}

/// A disk whose files are in memory. Clones share the files; `sync` has nothing to do.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<HashMap<PathBuf, Arc<MemoryFile>>>>);

impl MemoryDisk {
    /// A disk with no files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `buffer` at `path`; writing to the file writes to the buffer.
    pub fn insert(&self, path: impl Into<PathBuf>, buffer: Buffer) {
        self.0.lock().insert(path.into(), Arc::new(MemoryFile::new(buffer)));
    }

    #[cfg(feature = "simulated-disk")]
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().keys().cloned().collect()
    }

    #[cfg(feature = "simulated-disk")]
    pub(super) fn identity(&self, path: &Path) -> Option<u64> {
        self.0.lock().get(path).map(|file| file.identity)
    }

    #[cfg(feature = "simulated-disk")]
    pub(super) fn total_len(&self) -> u64 {
        self.0.lock().values().map(|file| file.buffer.len() as u64).sum()
    }

    /// The bytes of the file at `path`.
    pub fn buffer(&self, path: &Path) -> Option<Buffer> {
        self.0.lock().get(path).map(|file| file.buffer.clone())
    }
}

#[derive(Debug)]
struct MemoryFile {
    buffer: Buffer,
    locks: Mutex<LockTable>,
    identity: u64,
}

#[derive(Debug, Default)]
struct LockTable {
    exclusive: Option<u64>,
    shared: Vec<u64>,
}

/// One opening of a memory file: locks belong to handles, as `flock`'s do.
#[derive(Debug)]
struct MemoryHandle {
    file: Arc<MemoryFile>,
    handle: u64,
    writable: bool,
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl MemoryFile {
    fn new(buffer: Buffer) -> Self {
        Self { buffer, locks: Mutex::default(), identity: next_number() }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.0.lock();
        let file = match (files.get(path), access) {
            (Some(_), Access::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Arc::clone(file),
            (None, Access::Read | Access::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                let file = Arc::new(MemoryFile::new(Buffer::new()));
                files.insert(path.to_owned(), Arc::clone(&file));
                file
            }
        };
        Ok(Arc::new(MemoryHandle { file, handle: next_number(), writable: access != Access::Read }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        let identity = file.identity()?.1;
        Ok(self.0.lock().get(path).is_some_and(|found| found.identity == identity))
    }
}

impl DiskFile for MemoryHandle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.buffer.0.read();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut bytes = self.file.buffer.0.write();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(new.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if bytes.len() < end {
            let more = end - bytes.len();
            bytes.try_reserve(more).map_err(|_| io::ErrorKind::OutOfMemory)?;
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.buffer.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.file.buffer.0.write().resize(length, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let mut locks = self.file.locks.lock();
        release(&mut locks, self.handle);
        match lock {
            Lock::Shared if locks.exclusive.is_none() => locks.shared.push(self.handle),
            Lock::Exclusive if locks.exclusive.is_none() && locks.shared.is_empty() => {
                locks.exclusive = Some(self.handle);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        release(&mut self.file.locks.lock(), self.handle);
        Ok(())
    }

    fn map(&self, _offset: u64, _length: usize) -> io::Result<Option<Mapping>> {
        Ok(None)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((0, self.file.identity))
    }
}

impl Drop for MemoryHandle {
    fn drop(&mut self) {
        release(&mut self.file.locks.lock(), self.handle);
    }
}

fn release(locks: &mut LockTable, handle: u64) {
    locks.shared.retain(|&holder| holder != handle);
    if locks.exclusive == Some(handle) {
        locks.exclusive = None;
    }
}
