//! What is compared: a durable multi-map from ids to sets of ids.

use std::path::Path;
use std::pin::Pin;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::peers;

/// An id and one of its values.
pub(crate) type Pair = (u128, u128);

/// Looks a key up, in the state as of the call of [`Engine::reader`].
pub(crate) type Reader<'a> = Box<dyn FnMut(u128) -> Result<Found> + 'a>;

/// Resolves when a write is durable.
pub(crate) type Durable = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// How many values were found and their exclusive or, so that each of them has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) count: u64,
    pub(crate) xor: u128,
}

impl Found {
    pub(crate) fn add(&mut self, value: u128) {
        self.count += 1;
        self.xor ^= value;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.xor ^= other.xor;
    }
}

/// What every engine is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Memory for cached pages or blocks. Write buffers come on top; LMDB has no cache but the page cache.
    pub(crate) cache_bytes: u64,
}

/// One open multi-map. Dropping it closes it cleanly.
pub(crate) trait Engine: Send + Sync {
    /// Adds pairs, in any order; when it returns they survive a power loss.
    fn insert_batch(&self, pairs: &[Pair]) -> Result<()>;

    /// Removes pairs, as durably.
    fn delete_batch(&self, pairs: &[Pair]) -> Result<()>;

    /// A lookup for one thread.
    fn reader(&self) -> Result<Reader<'_>>;

    /// Finishes what is postponed to the background (checkpoints, flushes of memtables), so that it is paid for within
    /// the figure that caused it.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Does the work while no checkpoint ends, as far as the engine can be kept from it: its log fills.
    fn without_checkpoints(&self, work: &dyn Fn() -> Result<()>) -> Result<()> {
        work()
    }

    /// Changes that opening replayed from the log, if the engine tells.
    fn replayed(&self) -> Option<u64> {
        None
    }

    /// Makes the files as small as the engine can, and closes.
    fn compact(self: Box<Self>) -> Result<()>;

    /// A durable insert through the engine's own queue for concurrent writers, if it has one. Engines without one are
    /// measured behind a queue of the benchmark's.
    fn insert_queued(&self, _pair: Pair) -> Option<Durable> {
        None
    }
}

/// The engines of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Corallite,
    Lmdb,
    Redb,
    Fjall,
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

impl Kind {
    /// The name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Corallite => "corallite",
            Self::Lmdb => "lmdb",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "rocksdb",
        }
    }

    /// Whether ratios are against the best of these.
    pub(crate) fn is_peer(self) -> bool {
        match self {
            Self::Corallite => false,
            Self::Lmdb | Self::Redb | Self::Fjall => true,
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => true,
        }
    }

    /// Opens what is in the folder, or creates it there.
    pub(crate) fn open(self, folder: &Path, settings: &Settings) -> Result<Box<dyn Engine>> {
        std::fs::create_dir_all(folder)?;
        Ok(match self {
            Self::Corallite => Box::new(crate::corallite::Corallite::open(folder, settings)?),
            Self::Lmdb => Box::new(peers::lmdb::Lmdb::open(folder, settings)?),
            Self::Redb => Box::new(peers::redb::Redb::open(folder, settings)?),
            Self::Fjall => Box::new(peers::fjall::Fjall::open(folder, settings)?),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => Box::new(peers::rocksdb::Rocksdb::open(folder, settings)?),
        })
    }
}
