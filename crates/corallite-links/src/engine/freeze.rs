//! Snapshots: what partitions were before they changed.
//!
//! A snapshot costs nothing when it is made. The first change of a partition afterwards keeps a copy of the partition for
//! the snapshots that are older, for as long as these live.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::error::Result;
use crate::hash::Hash;
use crate::{E, Values};

/// Keys with their values.
pub(crate) type Content = Vec<(E, Values)>;

/// A partition as it was.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) skip: u8,
    pub(crate) prefix: u64,
    /// What it held, by key; an error when it could not be read.
    pub(crate) content: Result<Content>,
}

impl Frozen {
    pub(crate) fn covers(&self, hash: Hash) -> bool {
        hash.prefix(u32::from(self.skip)) == self.prefix
    }
}

/// What is kept for one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    pub(crate) partitions: Mutex<Vec<Arc<Frozen>>>,
}

/// The snapshots that live.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    newest: u64,
    all: Vec<Weak<Kept>>,
}

impl Snapshots {
    pub(crate) fn begin(&mut self) -> Arc<Kept> {
        self.newest += 1;
        let kept = Arc::new(Kept { number: self.newest, partitions: Mutex::default() });
        self.all.retain(|snapshot| snapshot.strong_count() > 0);
        self.all.push(Arc::downgrade(&kept));
        kept
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    pub(crate) fn any_after(&self, number: u64) -> bool {
        self.all.iter().filter_map(Weak::upgrade).any(|snapshot| snapshot.number > number)
    }

    /// Keeps a partition for the snapshots made after the one with this number.
    pub(crate) fn keep(&self, after: u64, frozen: Frozen) {
        let frozen = Arc::new(frozen);
        for snapshot in self.all.iter().filter_map(Weak::upgrade).filter(|snapshot| snapshot.number > after) {
            snapshot.partitions.lock().push(Arc::clone(&frozen));
        }
    }
}
