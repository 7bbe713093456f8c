//! Links: 128-bit ids to sets of 128-bit ids, in one HDF5 file that survives a crash.

mod arena;
mod bucket;
mod change;
mod checkpoint;
mod e;
mod engine;
mod entry;
mod error;
mod format;
mod hash;
mod hot;
mod image;
mod memory;
mod overlay;
mod set;
mod source;
mod values;
mod wal;

pub use change::{Change, Operation};
pub use checkpoint::CheckpointReport;
pub use e::{E, StoredE};
pub use entry::{Decoded, HashEntry, MULTI_VALUE_THRESHOLD, SpillPointer, StateMask};
pub use error::{Error, Result};
pub use format::{DirectoryForm, LINKS_FORMAT_VERSION};
pub use values::Values;
pub use wal::Wal as WAL;
pub use wal::{
    Audit, Damage, Durability, Finding, LOG_FORMAT_VERSION, Lsn, Position, Prepared, Record, Recovered, ReplayReport,
    Stamp, Wal, WalMetrics, WalOptions, WalSource,
};
