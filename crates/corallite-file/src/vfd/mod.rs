//! The virtual file driver: libhdf5's reads and writes go to the pager.
//!
//! [`open`] and [`create`] give an HDF5 file whose bytes are those of a [`Target`]: the writer's transaction or a
//! snapshot. The driver has no lock callback, which keeps the superblock's status flags clear, so that other HDF5
//! programs can open the file at any time.

mod abi;
mod driver;
pub(crate) mod heap;
mod library;

use std::sync::Arc;

pub(crate) use library::{create, free_sections, open};

use crate::pager::{Pager, View};

/// Whose bytes an HDF5 handle sees.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// The running transaction. Handles of an older epoch than the pager's write nothing.
    Writer { pager: Arc<Pager>, epoch: u64 },
    /// One commit.
    Snapshot(Arc<View>),
}

impl Target {
    pub(crate) fn pager(&self) -> &Arc<Pager> {
        match self {
            Self::Writer { pager, .. } => pager,
            Self::Snapshot(view) => view.pager(),
        }
    }
}
