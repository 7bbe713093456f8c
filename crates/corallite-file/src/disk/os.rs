//! The operating system's files.
//!
//! The `unsafe` of this file is the memory map, and one hint to the kernel.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, Disk, DiskFile, Lock, Mapping};

/// Files of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

#[derive(Debug)]
struct OsFile(File);

impl Disk for OsDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        // Asked before opening, because opening a pipe would wait for its other end.
        match std::fs::metadata(path) {
            Ok(found) => {
                let kind = found.file_type();
                if kind.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut options = OpenOptions::new();
        options.read(true).mode(0o666);
        match access {
            Access::Read => {}
            Access::ReadWrite => {
                options.write(true);
            }
            Access::Create => {
                options.write(true).create(true);
            }
            Access::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        match std::fs::canonicalize(path) {
            Ok(resolved) => Ok(resolved),
            // A dangling link would be created through; everything else is created where it says.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match std::fs::read_link(path) {
                Ok(target) => Ok(path.parent().unwrap_or(Path::new("")).join(target)),
                Err(_) => Ok(path.to_owned()),
            },
            Err(error) => Err(error),
        }
    }

    fn protect_like(&self, path: &Path, like: &Path) -> io::Result<()> {
        let wanted = std::fs::metadata(like)?.permissions();
        if std::fs::metadata(path)?.permissions() == wanted { Ok(()) } else { std::fs::set_permissions(path, wanted) }
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        match std::fs::metadata(path) {
            Ok(found) => Ok((found.dev(), found.ino()) == file.identity()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    #[cfg(target_os = "linux")]
    fn begin_write_back(&self, offset: u64, length: u64) {
        use std::os::fd::AsRawFd;
        let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
        // SAFETY: the descriptor is open; the call touches no memory of ours. Whether it worked, `sync` will tell.
        unsafe { libc::sync_file_range(self.0.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let outcome = match lock {
            Lock::Shared => self.0.try_lock_shared(),
            Lock::Exclusive => self.0.try_lock(),
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Option<Mapping>> {
        // Touching mapped pages past the end of a file kills the process, so a short file is refused here.
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.len()? => Map::new(&self.0, offset, length).map(|map| Some(Mapping(map))),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn names(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.nlink())
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        let found = self.0.metadata()?;
        Ok((found.dev(), found.ino()))
    }
}

/// A part of a read-only map of a file.
#[derive(Clone, Debug)]
pub(super) struct Map {
    whole: Arc<memmap2::MmapRaw>,
    start: usize,
    length: usize,
}

impl Map {
    fn new(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        let whole = memmap2::MmapOptions::new().offset(offset).len(length).map_raw_read_only(file)?;
        Ok(Self { whole: Arc::new(whole), start: 0, length })
    }

    pub(super) fn part(&self, offset: usize, length: usize) -> Option<Self> {
        let within = offset.checked_add(length).is_some_and(|end| end <= self.length);
        within.then(|| Self { whole: Arc::clone(&self.whole), start: self.start + offset, length })
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: start and length lie within the map, which lives as long as `self`. Whoever looks at the bytes has
        // pinned their extent: the pager neither rewrites nor cuts pinned extents, and other programs are kept out by
        // the lock that every Corallite handle holds on the file while it is open.
        unsafe { std::slice::from_raw_parts(self.whole.as_ptr().add(self.start), self.length) }
    }
}
