//! Neural-network weights: tensors, their identity, their compression, and the stores that keep them.
//!
//! ```
//! use corallite_weights::{Dtype, MemoryStore, WeightStore, WeightTensor};
//!
//! let store = MemoryStore::new();
//! let bytes: Vec<u8> = [0.5f32, -1.0, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let weight = WeightTensor::new("layer.0.bias", vec![3], Dtype::F32, bytes)?;
//! let key = store.store(&weight, None)?;                 // the key is the BLAKE3 of the content
//! assert_eq!(store.store(&weight, None)?, key);          // kept once
//! let loaded = store.load(&key)?.expect("just stored");
//! assert_eq!(loaded.data()?, weight.data()?);            // bit for bit
//! assert_eq!(loaded.name(), "layer.0.bias");
//! assert!(loaded.is_similar_to(&weight, 0.99)?);
//! # Ok::<(), corallite_weights::Error>(())
//! ```
//!
//! A [`WeightTensor`] is bytes with a [`Dtype`] and a shape; [`safetensors`] brings them from files
//! and back, [`filter`] makes them small in a way that every HDF5 reader understands, and a
//! [`WeightStore`] keeps them. What a store promises is in [`store`]; [`conformance`] checks it on any
//! implementation.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod conformance;
pub mod delta;
mod dict;
pub mod dtype;
pub mod error;
pub mod filter;
pub mod hash;
pub mod hdf5_store;
pub mod memory;
pub mod safetensors;
pub mod store;
pub mod tensor;
pub mod values;
mod zeroed;

pub use checkpoint::{
    AddOptions, Added, Checkpoint, CheckpointInfo, Checkpoints, GcReport, RepackOptions, RepackReport,
};
pub use delta::{Delta, DeltaConfig, DeltaEncoder, DeltaType};
pub use dtype::{ByteOrder, Dtype, Kind};
pub use error::{Error, Result};
pub use filter::{Compression, Filter};
pub use hash::{ContentHasher, WeightHash, content_hash, coral_hash};
pub use hdf5_store::{
    Damage, Encoding, Hdf5Options, Hdf5Store, Pieces, Unwatched, Verification, Watch, WeightTransaction,
};
pub use memory::MemoryStore;
pub use safetensors::SafetensorsFile;
pub use store::{DeltaStorageInfo, DeltaStore, StorageInfo, WeightStore};
pub use tensor::{WeightMetadata, WeightSource, WeightTensor};
pub use zeroed::zeroed;
