//! What can go wrong with a store.

use crate::{file, links, objects, weights};

/// An error of a store, by the part it comes from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file layer, whichever part was using it.
    #[error(transparent)]
    File(file::Error),

    /// The weights or the checkpoints.
    #[error(transparent)]
    Weights(weights::Error),

    /// The links.
    #[error(transparent)]
    Links(links::Error),

    /// The objects.
    #[error(transparent)]
    Objects(Box<objects::Error>),
}

/// The result of a call of a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<file::Error> for Error {
    fn from(error: file::Error) -> Self {
        Self::File(error)
    }
}

impl From<weights::Error> for Error {
    fn from(error: weights::Error) -> Self {
        match error {
            weights::Error::File(error) => Self::File(error),
            error => Self::Weights(error),
        }
    }
}

impl From<links::Error> for Error {
    fn from(error: links::Error) -> Self {
        match error {
            links::Error::File(error) => Self::File(error),
            error => Self::Links(error),
        }
    }
}

impl From<objects::Error> for Error {
    fn from(error: objects::Error) -> Self {
        Self::Objects(Box::new(error))
    }
}

/// Why a transaction ended without a commit.
pub(crate) enum Failed<E> {
    /// The caller's change said so.
    Change(E),
    /// The weights could not be committed.
    Commit(Error),
}

impl<E> From<weights::Error> for Failed<E> {
    fn from(error: weights::Error) -> Self {
        Self::Commit(error.into())
    }
}
