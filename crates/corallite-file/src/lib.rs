//! HDF5 files with transactions: a commit is atomic, durable and seen whole by every reader, and the file stays
//! readable by every other HDF5 program.
//!
//! ```
//! use corallite_file::{Mode, Storage};
//!
//! # let directory = tempfile::tempdir()?;
//! let storage = Storage::new(directory.path().join("models.h5"));
//! storage.open(Mode::Append, false)?;
//! let group = storage.create_group("notes")?;
//! group.new_attr::<i64>().create("answer")?.write_scalar(&42)?;
//! let commit = storage.flush()?; // durable: survives `kill -9` and power loss
//! storage.create_group("mistake")?;
//! storage.rollback()?; // back to the last commit
//! assert!(storage.contains("notes")? && !storage.contains("mistake")?);
//! storage.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! libhdf5 is the authority on the format but never touches the disk: it reads and writes pages through a virtual
//! file driver into a pager, which journals them. While a file is open, and after a crash, its journal lies beside it
//! (`models.h5-journal`); a cleanly closed file is one file. `docs/file-format.md` describes both byte by byte, with
//! the order of writes and syncs of a commit.
//!
//! What is promised:
//!
//! * When [`Storage::flush`] returns `Ok`, the commit survives `kill -9` and power loss.
//! * A reader, in this process or another, sees exactly one commit from open to close.
//! * One process writes at a time; a second gets [`Error::Busy`] with the holder's process id.
//! * A damaged byte is reported with its place; nothing is repaired silently.

mod chunk;
mod disk;
mod error;
mod journal;
mod object;
mod page;
mod pager;
mod space;
mod storage;
mod vfd;

pub use chunk::{ChunkLocation, chunk_locations, contiguous_offset, write_chunk};
pub use disk::{Access, Buffer, Disk, DiskFile, Lock, Mapping, MemoryDisk, OsDisk};
#[cfg(feature = "simulated-disk")]
pub use disk::{CrashImage, Fault, LossMode, SimulatedDisk};
pub use error::{Error, Result};
pub use hdf5_metno as hdf5;
pub use journal::JOURNAL_FORMAT_VERSION;
pub use object::{
    AttributeValue, DataLayout, DatasetDescription, DatasetWriter, FilterStep, NewDataset, StoredChunk, StoredLayout,
    encode_datatype, object_offset,
};
pub use page::{CommitNumber, PAGE_SIZE, PageNumber};
pub use storage::{
    CommitInfo, CommitPages, FORMAT_VERSION, Item, Mapped, Mode, Options, Recognize, Replay, Snapshot, Source, Storage,
    StorageGuard, Transaction,
};
