//! The safetensors file format: a strict reader without copies, and a writer that gives back the
//! original file byte for byte.
//!
//! A file is eight bytes of little-endian header length, a JSON header, and the tensors' bytes. This
//! reader accepts a subset of what the official library accepts: besides everything that library
//! checks, it refuses names or fields that occur twice and fields it does not know, because whatever
//! is silently dropped at reading cannot be given back.

mod header;
mod map;
mod read;
mod write;

pub use header::{Header, MAX_HEADER_LEN, MAX_RANK, TensorInfo};
pub use read::{SafetensorsFile, TensorView};
pub use write::{header_for, write, write_exact};
