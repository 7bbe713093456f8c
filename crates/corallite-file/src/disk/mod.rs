//! The seam to the disk.
//!
//! Everything the file layer does to storage goes through [`Disk`] and [`DiskFile`]; nothing else in this crate
//! opens a file. [`OsDisk`] is the operating system's, [`MemoryDisk`] keeps files in memory, and the
//! `SimulatedDisk` of the feature `simulated-disk` cuts, reorders and tears unsynced writes.

mod memory;
mod os;
#[cfg(feature = "simulated-disk")]
mod simulated;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use memory::{Buffer, MemoryDisk};
pub use os::OsDisk;
#[cfg(feature = "simulated-disk")]
pub use simulated::{CrashImage, Fault, LossMode, SimulatedDisk};

/// How [`Disk::open`] treats a present or absent file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read an existing file.
    Read,
    /// Read and write an existing file.
    ReadWrite,
    /// Read and write; create when absent.
    Create,
    /// Read and write; fail when present.
    CreateNew,
}

/// A kind of whole-file advisory lock, the one that libhdf5 takes too (`flock` on Unix).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Many holders, no exclusive one.
    Shared,
    /// One holder.
    Exclusive,
}

/// A place with named files.
///
/// Durability contract: [`DiskFile::sync`] makes a file's earlier writes and its length survive power loss;
/// [`Disk::sync_directory`] does so for names (creation, renaming, removal). Nothing is promised for anything else, in
/// any order.
pub trait Disk: Send + Sync + Debug {
    /// Opens the file at `path`. A path that is no regular file gives [`io::ErrorKind::IsADirectory`] or
    /// [`io::ErrorKind::InvalidInput`], without blocking.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes the name `path`; open files stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives the file at `from` the name `to`, replacing what was there, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in the directory of `path` durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// The path that `path` stands for once symbolic links are followed, so that companion files lie beside the file
    /// itself and not beside a link to it. A path that names nothing yet is resolved as far as it exists.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    /// Gives the file at `path` the permissions of the one at `like`: a journal holds what its file holds.
    fn protect_like(&self, path: &Path, like: &Path) -> io::Result<()> {
        let _ = (path, like);
        Ok(())
    }

    /// Whether `file` is what `path` names now.
    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool>;
}

/// An open file. Offsets and lengths are in bytes; all methods may be called from any thread.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`, growing the file where needed. After an error any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The file's length.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Hints that these bytes, just written, are going to be synced: the disk may begin with them now. Promises nothing.
    fn begin_write_back(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;

    /// Takes or converts this handle's lock without waiting; `false` when another handle is in the way (a lock held
    /// before may then be lost).
    fn try_lock(&self, lock: Lock) -> io::Result<bool>;

    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;

    /// Maps `length` bytes read-only, where the disk can.
    fn map(&self, offset: u64, length: usize) -> io::Result<Option<Mapping>>;

    /// How many names the file has. Companion files can lie beside only one of them.
    fn names(&self) -> io::Result<u64> {
        Ok(1)
    }

    /// A number that tells this file from others on the same disk, for [`Disk::is_at`].
    fn identity(&self) -> io::Result<(u64, u64)>;
}

/// Read-only bytes of a file, mapped into memory.
#[derive(Clone, Debug)]
pub struct Mapping(os::Map);

impl Mapping {
    /// A part of it, which keeps the whole mapped. `None` when it has no such bytes.
    pub fn part(&self, offset: usize, length: usize) -> Option<Self> {
        self.0.part(offset, length).map(Self)
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// Reads exactly `buffer.len()` bytes; what lies past the end of the file reads as zeros.
pub(crate) fn read_or_zero(file: &dyn DiskFile, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = file.read_at(offset, buffer)?;
        if count == 0 {
            buffer.fill(0);
            return Ok(());
        }
        offset += count as u64;
        buffer = &mut buffer[count..];
    }
    Ok(())
}
