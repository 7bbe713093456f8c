//! The one error type of the file layer.

use std::io;
use std::path::{Path, PathBuf};

use crate::page::CommitNumber;

/// What can go wrong with a transactional HDF5 file. Every message says what is affected and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },

    /// The disk or quota is full. The running transaction was rolled back; the last commit is intact.
    #[error("no space left for {}; the last commit is intact, so free some space and try again", path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },

    /// No file is at the path.
    #[error("{} does not exist; create it with mode \"a\", \"w\" or \"x\"", path.display())]
    NotFound {
        /// The missing file.
        path: PathBuf,
    },

    /// Mode `w-`/`x` found a file.
    #[error("{} already exists; open it with mode \"a\" or \"r+\", or choose another path", path.display())]
    AlreadyExists {
        /// The existing file.
        path: PathBuf,
    },

    /// The path is a directory, a device, a pipe or a socket.
    #[error("{} is not a regular file; give the path of an HDF5 file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },

    /// The file does not begin with an HDF5 signature.
    #[error("{} is not an HDF5 file; nothing was changed", path.display())]
    NotHdf5 {
        /// The file.
        path: PathBuf,
    },

    /// The file has no bytes, or the session that created it ended before its first commit.
    #[error("{} is empty; open it with mode \"a\" to begin a store there", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },

    /// A valid HDF5 file of somebody else's.
    #[error("{} is an HDF5 file but not a Corallite store; nothing was changed (adopt it explicitly to use it as one)", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
    },

    /// Written by a newer Corallite.
    #[error("{} has {what} version {found}, and this program reads up to {supported}; upgrade Corallite (nothing was changed)", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Which format: the store's, the journal's or the trailer's.
        what: &'static str,
        /// The version in the file.
        found: u64,
        /// The newest version understood here.
        supported: u64,
    },

    /// Another writer has the file open.
    #[error("{} is open for writing by {}; close it there first, or open it here with mode \"r\"", path.display(), holder_text(*holder))]
    Busy {
        /// The file.
        path: PathBuf,
        /// The process id of the writer, when it could be read.
        holder: Option<u32>,
    },

    /// Readers of other programs hold the file in a way that the operation cannot wait for.
    #[error("{} is locked by another program; try again when it has closed the file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },

    /// The file was opened without permission to write, or with mode `r`.
    #[error("{} is open read-only; open it with mode \"r+\" or \"a\" to write", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },

    /// Bytes on the disk are not what was written.
    #[error("{} is damaged at offset {offset}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        offset: u64,
        /// What does not agree, and what can be done.
        problem: String,
    },

    /// The file changed under an interrupted session's journal.
    #[error("{} was changed by another program while {} held commits for it; move the journal away to keep that program's state, or restore the file from a backup", path.display(), journal.display())]
    ChangedElsewhere {
        /// The file.
        path: PathBuf,
        /// Its journal.
        journal: PathBuf,
    },

    /// An earlier failure made the state in memory unusable; the file itself is at its last commit.
    #[error("{} cannot be used any more because {cause}; close it and open it again to continue from the last commit", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The failure.
        cause: String,
    },

    /// `rollback_to_version` was given a commit that is not kept.
    #[error("commit {wanted} of {} is not kept; the commits that can be rolled back to are {oldest} to {newest}", path.display())]
    NoSuchCommit {
        /// The file.
        path: PathBuf,
        /// The commit asked for.
        wanted: CommitNumber,
        /// The oldest kept commit.
        oldest: CommitNumber,
        /// The current commit.
        newest: CommitNumber,
    },

    /// The storage is not open.
    #[error("{} is not open; call open first", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },

    /// `open` was called twice.
    #[error("{} is already open; close it first", path.display())]
    AlreadyOpen {
        /// The file.
        path: PathBuf,
    },

    /// The call needs another way of opening.
    #[error("{}: {problem}", path.display())]
    Usage {
        /// The file.
        path: PathBuf,
        /// What was asked for and how to get it.
        problem: String,
    },

    /// `apply_insert`/`apply_delete` before a target was bound.
    #[error("no replay target is bound to {}; call bind_replay first", path.display())]
    NoReplayTarget {
        /// The file.
        path: PathBuf,
    },

    /// libhdf5 reported an error.
    #[error("HDF5 could not {action} in {}: {detail}", path.display())]
    Hdf5 {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: String,
        /// libhdf5's own description.
        detail: String,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// The result of a file-layer call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if is_disk_full(&source) {
            return Self::DiskFull { path: path.to_owned() };
        }
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), offset, problem: problem.into() }
    }

    pub(crate) fn hdf5(path: &Path, action: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self::Hdf5 { path: path.to_owned(), action: action.into(), detail: error.to_string() }
    }
}

/// Whether an error means that the device or the quota is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
