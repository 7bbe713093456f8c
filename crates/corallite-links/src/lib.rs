//! Links: 128-bit ids to sets of 128-bit ids, in one HDF5 file that survives a crash.

mod change;
mod e;
mod error;
mod wal;

pub use change::{Change, Operation};
pub use e::{E, StoredE};
pub use error::{Error, Result};
pub use wal::Wal as WAL;
pub use wal::{
    Audit, Damage, Durability, Finding, LOG_FORMAT_VERSION, Lsn, Position, Prepared, Record, Recovered, ReplayReport,
    Stamp, Wal, WalMetrics, WalOptions, WalSource,
};
