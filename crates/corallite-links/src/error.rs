//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

use crate::E;
use crate::wal::Lsn;

/// An error of the links engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file layer.
    #[error(transparent)]
    File(#[from] corallite_file::Error),

    /// The system refused something on the log.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The log.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },

    /// The disk or quota is full; nothing that was acknowledged is lost.
    #[error("no space left for {}; nothing acknowledged is lost, so free some space, then close and open the store again", path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },

    /// A write or a sync of the log failed, so that nobody knows what of it is on the disk.
    #[error("{} takes no more writes because {cause}; close the store and open it again: everything acknowledged before is in it", path.display())]
    Poisoned {
        /// The log.
        path: PathBuf,
        /// The failure.
        cause: String,
    },

    /// The log is no log, or not one of a version understood here.
    #[error("{} is no links log: {problem}", path.display())]
    NotALog {
        /// The log.
        path: PathBuf,
        /// What does not agree.
        problem: String,
    },

    /// Written by a newer Corallite.
    #[error("{} has {what} version {found}, and this program reads up to {supported}; upgrade Corallite (nothing was changed)", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Which format.
        what: &'static str,
        /// The version in the file.
        found: u64,
        /// The newest version understood here.
        supported: u64,
    },

    /// The log belongs to another store, or to another state of this one.
    #[error("{} is the log of another store ({problem}); move it away, or put it back beside its own store", path.display())]
    ForeignLog {
        /// The log.
        path: PathBuf,
        /// What does not agree.
        problem: String,
    },

    /// The file says that there is a log, and there is none.
    #[error("{} is missing, and with it the links that were changed last; put it back beside its store, restore a backup, or open with `salvage` to give them up", path.display())]
    MissingLog {
        /// The log.
        path: PathBuf,
    },

    /// Acknowledged records of the log are damaged.
    #[error("{} is damaged from record {from} to {to} (byte {offset}): {problem}; everything before is intact: restore a backup, or open with `salvage` to give up what follows", path.display())]
    DamagedLog {
        /// The log.
        path: PathBuf,
        /// The first record that cannot be trusted.
        from: Lsn,
        /// The first record after them.
        to: Lsn,
        /// Where in the file the first one lies.
        offset: u64,
        /// What does not agree.
        problem: String,
    },

    /// Bytes of a bucket, a directory or a value set are not what was written.
    #[error("the links in {} are damaged at {place}: {problem}; restore a backup", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// Which dataset and where in it.
        place: String,
        /// What does not agree.
        problem: String,
    },

    /// The store was opened for reading.
    #[error("{} is open read-only; open it for writing to change links", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },

    /// The store was closed.
    #[error("the links of {} are closed", path.display())]
    Closed {
        /// The store.
        path: PathBuf,
    },

    /// A batch larger than the log.
    #[error("{records} changes at once do not fit the log of {}, which holds {capacity}; split them, or open the store with a larger log", path.display())]
    TooLarge {
        /// The store.
        path: PathBuf,
        /// Records asked for.
        records: u64,
        /// Records that fit.
        capacity: u64,
    },

    /// A call that cannot be done as asked.
    #[error("{}: {problem}", path.display())]
    Usage {
        /// The store.
        path: PathBuf,
        /// What was asked for and how to get it.
        problem: String,
    },

    /// A key whose entry cannot be given in the asked form.
    #[error("key {key}: {problem}")]
    Key {
        /// The key.
        key: E,
        /// Why not.
        problem: &'static str,
    },
}

/// The result of a call of the links engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { path: path.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }

    /// The same for another whose changes were in the same batch. Errors of the file layer cannot be copied; their text can.
    pub(crate) fn again(&self, store: &Path) -> Self {
        match self {
            Self::Io { action, path, source } => {
                let source = io::Error::new(source.kind(), source.to_string());
                Self::Io { action, path: path.clone(), source }
            }
            Self::DiskFull { path } | Self::File(corallite_file::Error::DiskFull { path, .. }) => {
                Self::DiskFull { path: path.clone() }
            }
            Self::Poisoned { path, cause } => Self::Poisoned { path: path.clone(), cause: cause.clone() },
            Self::ReadOnly { path } => Self::ReadOnly { path: path.clone() },
            Self::Closed { path } => Self::Closed { path: path.clone() },
            other => Self::Usage {
                path: store.to_owned(),
                problem: format!("a batch with this and other changes could not be written: {other}"),
            },
        }
    }

    pub(crate) fn damaged(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), place: place.into(), problem: problem.into() }
    }
}
