//! Datasets encoded here: the object header, the attributes' texts and the chunk index go into the file as bytes, and
//! libhdf5 only links the object into its group.
//!
//! Creating a dataset with eight attributes through libhdf5 costs it half a million instructions under one lock, most of
//! them spent on keeping an object header open that is known in full beforehand. The format is that of the HDF5 file
//! format specification, version 4.0 (object headers of version 2, layout messages of version 4, fixed array
//! indexes, global heap collections), as libhdf5 1.10 and everything newer reads it.

mod checksum;
mod decode;
mod encode;
mod heap;
mod library;
pub(crate) mod superblock;

use std::ffi::CStr;

use hdf5_metno::Group;

use crate::error::{Error, Result};
use crate::storage::Transaction;
use heap::Heap;

pub use library::encode_datatype;

pub(crate) use decode::Bytes;
pub use decode::{DatasetDescription, StoredLayout};

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// Text of variable length, in UTF-8.
    Text(String),
    /// A list of signed 64-bit numbers.
    Integers(Vec<i64>),
    /// One unsigned 64-bit number.
    Unsigned(u64),
    /// One 64-bit float.
    Real(f64),
}

/// One step of a filter pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterStep {
    /// The filter's registered number.
    pub id: u16,
    /// Its name. Recorded for filters that are not HDF5's own (numbers from 256 on): without it, libhdf5 writes a header
    /// that it cannot read when another program that knows the filter copies the dataset.
    pub name: String,
    /// Whether a chunk may leave it out.
    pub optional: bool,
    /// What it is told.
    pub parameters: Vec<u32>,
}

/// Where a chunk of a [`DataLayout::Chunked`] dataset was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes stored.
    pub length: u64,
    /// Bit i is set when filter i of the pipeline was skipped.
    pub filter_mask: u32,
}

/// Where a dataset's bytes are.
#[derive(Clone, Copy, Debug)]
pub enum DataLayout<'a> {
    /// In the object header, a message of which holds less than 64 KiB.
    Compact(&'a [u8]),
    /// In one run that [`Transaction::allocate`] gave; `None` for an empty dataset.
    Contiguous(Option<u64>),
    /// In chunks of these dimensions.
    Chunked {
        /// Elements of a chunk along each dimension.
        dims: &'a [u64],
        /// What the chunks went through, in order.
        filters: &'a [FilterStep],
        /// All chunks, in row-major order.
        chunks: &'a [StoredChunk],
    },
}

/// A dataset to be created.
#[derive(Clone, Copy, Debug)]
pub struct NewDataset<'a> {
    /// The element type, as [`encode_datatype`] gives it.
    pub datatype: &'a [u8],
    /// Bytes of an element.
    pub item_size: u32,
    /// The dimensions; none for a scalar.
    pub dims: &'a [u64],
    /// Where the data is.
    pub layout: DataLayout<'a>,
    /// Names and values, in the order in which they are stored.
    pub attributes: &'a [(&'static CStr, AttributeValue)],
}

/// Where the header of the object at `path` below `group` begins; `None` when nothing is there, or a link of another
/// kind than a hard one.
///
/// # Errors
///
/// What libhdf5 reports of a group that it cannot read.
pub fn object_offset(group: &Group, path: &str) -> hdf5_metno::Result<Option<u64>> {
    library::offset_of(group, path)
}

/// Describes the dataset whose header begins at `offset`; `None` when only libhdf5 can.
pub(crate) fn describe(bytes: &dyn Bytes, offset: u64) -> Result<Option<DatasetDescription>> {
    decode::describe(bytes, offset)
}

/// Creates datasets in a running transaction; see [`Transaction::create_datasets`].
///
/// Texts of neighbouring datasets share heap collections, to which nothing else may add meanwhile: do not read or
/// write attributes of the new datasets through libhdf5 before this is dropped.
#[derive(Debug)]
pub struct DatasetWriter<'a> {
    transaction: &'a Transaction<'a>,
    heap: Heap,
}

impl<'a> DatasetWriter<'a> {
    pub(crate) fn new(transaction: &'a Transaction<'a>) -> Self {
        Self { transaction, heap: Heap::default() }
    }

    /// Creates the dataset `link` in `group`. The bytes that its layout names must have been written, or be written
    /// before the transaction ends.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what HDF5 cannot hold, and what libhdf5 reports, for example for a name that is taken.
    pub fn create(&mut self, group: &Group, link: &str, dataset: &NewDataset<'_>) -> Result<()> {
        let usage = |problem: String| Error::Usage { path: self.transaction.storage().path().to_owned(), problem };
        encode::check(dataset)
            .map_err(|problem| usage(format!("`{}` cannot be created: {problem}", link.escape_default())))?;
        let mut texts = Vec::new();
        for (_, value) in dataset.attributes {
            if let AttributeValue::Text(text) = value {
                texts.push(self.heap.add(self.transaction, text.as_bytes())?);
            }
        }
        self.heap.write(self.transaction)?;
        let index = match &dataset.layout {
            DataLayout::Chunked { dims, filters, chunks } if chunks.len() > 1 => {
                let chunk_bytes = dims.iter().product::<u64>() * u64::from(dataset.item_size);
                let length = encode::fixed_array_length(chunks.len(), chunk_bytes, !filters.is_empty());
                let offset = self.transaction.allocate_metadata(length)?;
                let bytes = encode::fixed_array(offset, chunks, chunk_bytes, !filters.is_empty());
                self.transaction.write_at(offset, &bytes)?;
                Some((offset, length))
            }
            _ => None,
        };
        let header = encode::object_header(dataset, &texts, index.map(|(offset, _)| offset)).map_err(
            |encode::TooLarge(what)| {
                usage(format!("{what} of `{}` is larger than an HDF5 object header can hold", link.escape_default()))
            },
        )?;
        let offset = self.transaction.allocate_metadata(header.len() as u64)?;
        self.transaction.write_at(offset, &header)?;
        if let Err(error) = library::link(group, link, offset) {
            let error = self.transaction.explain(&format!("create the dataset {link}"), &error);
            self.transaction.release_metadata(offset, header.len() as u64)?;
            if let Some((offset, length)) = index {
                self.transaction.release_metadata(offset, length)?;
            }
            return Err(error);
        }
        match dataset.layout {
            DataLayout::Compact(_) | DataLayout::Contiguous(None) => {}
            DataLayout::Contiguous(Some(offset)) => self.transaction.named(offset),
            DataLayout::Chunked { chunks, .. } => chunks.iter().for_each(|chunk| self.transaction.named(chunk.offset)),
        }
        Ok(())
    }
}
