//! Links: 128-bit ids to sets of 128-bit ids, in one HDF5 file that survives a crash.
//!
//! ```
//! use corallite_links::{CIDStore, E};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("links.h5");
//! let store = CIDStore::open(&path)?;
//! let model = E::from_str("sentence-transformers/all-MiniLM-L6-v2"); // any text has an id
//! store.insert(model, E::from_str("apache-2.0"))?; // durable: survives `kill -9` and power loss
//! store.batch_insert(&[(model, E::from_str("english")), (E::from_str("english"), model)])?; // all or none
//! for tag in store.get(model)? {
//!     println!("{tag}");
//! }
//! store.close()?;
//! # let store = CIDStore::open(&path)?;
//! # assert_eq!(store.get(model)?, [E::from_str("apache-2.0"), E::from_str("english")]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The keys are spread over *partitions* by a hash under the store's own seed; a partition is an extendible hash table of
//! 4096-byte buckets. Changes go to a write-ahead log beside the file (`links.h5-wal`) and to the partitions in memory;
//! checkpoints bring them into the file, each in one atomic commit that also says how far the log has been brought in. A
//! cleanly closed store is one file. `docs/links.md` describes the formats and the protocol.
//!
//! What is promised:
//!
//! * When a write returns `Ok`, it survives `kill -9` and power loss, unless it asked for less ([`Durability`]).
//! * A batch, and a transaction, happens as a whole or not at all.
//! * A damaged byte is reported with its place; nothing is repaired silently. One flipped bit in a cell's state is corrected
//!   and counted.
//! * Values come back in the order of their insertion, each once.
//! * Maintenance (checkpoints, compaction, merging, garbage collection) changes no answer, whenever it runs.

mod arena;
mod bucket;
mod change;
mod changes;
mod checkpoint;
mod deletion_log;
mod directory;
mod e;
mod engine;
mod entry;
mod error;
mod exposition;
mod format;
mod group;
mod hash;
mod hot;
mod image;
mod memory;
mod metrics;
mod options;
mod overlay;
mod pending;
#[cfg(feature = "async")]
mod queue;
mod set;
mod source;
mod store;
mod sync;
mod value_set;
mod values;
mod wal;

pub use corallite_file as file;

pub use change::{Change, Operation};
pub use changes::Changes;
pub use checkpoint::CheckpointReport;
pub use deletion_log::{BackgroundGC, DeletionEntry, DeletionLog};
pub use directory::{Bucket, BucketId, Buckets, Directory};
pub use e::{E, StoredE};
pub use entry::{Decoded, HashEntry, MULTI_VALUE_THRESHOLD, SpillPointer, StateMask};
pub use error::{Error, Result};
pub use format::{DirectoryForm, LINKS_FORMAT_VERSION};
pub use metrics::{Event, LinksMetrics};
pub use options::LinksOptions;
pub use pending::{Pending, has_pending};
#[cfg(feature = "async")]
pub use store::{AsyncBuckets, AsyncCIDStore, AsyncDirectory, AsyncPairs, AsyncSnapshot, AsyncValueSet};
pub use store::{CIDStore, Deletion, Maintenance, Pairs, Snapshot, Statistics, Transaction, Tuning};
pub use value_set::ValueSet;
pub use values::Values;
pub use wal::Wal as WAL;
pub use wal::{
    Adopted, Audit, Damage, Durability, Finding, LOG_FORMAT_VERSION, Lsn, Position, Prepared, Record, Recovered,
    ReplayReport, Stamp, Wal, WalMetrics, WalOptions, WalSource,
};
