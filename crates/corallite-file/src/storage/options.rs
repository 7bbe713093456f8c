//! How a storage is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::disk::Buffer;
use crate::pager::Limits;

/// What a storage is kept in.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    Path(PathBuf),
    /// Bytes in memory that the caller keeps.
    Buffer(Buffer),
    /// Memory that goes with the storage.
    Memory,
}

impl Source {
    /// The path, or a name for what has none.
    pub fn path(&self) -> &Path {
        match self {
            Self::Path(path) => path,
            Self::Buffer(_) => Path::new("<buffer>"),
            Self::Memory => Path::new("<memory>"),
        }
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&str> for Source {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<Buffer> for Source {
    fn from(buffer: Buffer) -> Self {
        Self::Buffer(buffer)
    }
}

/// How a file is opened: h5py's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `r`: read; the file must exist.
    Read,
    /// `r+`: read and write; the file must exist.
    ReadWrite,
    /// `w`: create, or replace what is there.
    Write,
    /// `w-` or `x`: create; the file must not exist.
    Exclusive,
    /// `a`: read and write; create if absent.
    Append,
}

impl Mode {
    /// The mode's name, as h5py spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::ReadWrite => "r+",
            Self::Write => "w",
            Self::Exclusive => "w-",
            Self::Append => "a",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A string that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a mode; use \"r\", \"r+\", \"w\", \"w-\", \"x\" or \"a\"")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Ok(match text {
            "r" => Self::Read,
            "r+" => Self::ReadWrite,
            "w" => Self::Write,
            "w-" | "x" => Self::Exclusive,
            "a" => Self::Append,
            _ => return Err(UnknownMode(text.to_owned())),
        })
    }
}

/// Looks at a foreign HDF5 file, opened read-only, and says whether to take it.
pub type Recognize = fn(&hdf5_metno::File) -> bool;

/// Settings of a storage.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) history: usize,
    pub(super) history_bytes: u64,
    pub(super) journal_bytes: u64,
    pub(super) dirty_bytes: usize,
    pub(super) lock_wait: Duration,
    pub(super) adopt: Option<Recognize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history: 8,
            history_bytes: 16 << 20,
            journal_bytes: 64 << 20,
            dirty_bytes: 32 << 20,
            lock_wait: Duration::from_secs(5),
            adopt: None,
        }
    }
}

impl Options {
    /// The default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many commits before the newest can be rolled back to (default 8). What they alone refer to is not reused.
    #[must_use]
    pub fn history(mut self, commits: usize) -> Self {
        self.history = commits;
        self
    }

    /// About how many bytes of page images are kept for them (default 16 MiB); beyond, the oldest are given up.
    #[must_use]
    pub fn history_bytes(mut self, bytes: u64) -> Self {
        self.history_bytes = bytes;
        self
    }

    /// From which size on the journal is packed (default 64 MiB).
    #[must_use]
    pub fn journal_bytes(mut self, bytes: u64) -> Self {
        self.journal_bytes = bytes;
        self
    }

    /// How many bytes of changed pages a transaction holds in memory before it moves them to the journal (default
    /// 32 MiB).
    #[must_use]
    pub fn dirty_bytes(mut self, bytes: usize) -> Self {
        self.dirty_bytes = bytes;
        self
    }

    /// How long to wait for a lock of another program (default 5 s).
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Which HDF5 files that are no Corallite stores may be opened and, when writing, made such (default none).
    #[must_use]
    pub fn adopt(mut self, recognize: Recognize) -> Self {
        self.adopt = Some(recognize);
        self
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            history: self.history,
            history_bytes: self.history_bytes,
            journal_bytes: self.journal_bytes,
            dirty_bytes: self.dirty_bytes,
            lock_wait: self.lock_wait,
        }
    }
}
