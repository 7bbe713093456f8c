//! The bytes of object headers and chunk indexes.

use std::ffi::CStr;

use super::checksum::lookup3;
use super::heap::HeapText;
use super::{AttributeValue, DataLayout, NewDataset, StoredChunk};

/// HDF5 keeps up to this many attributes in the object header; from so few on it moves them back there.
const MOST_COMPACT_ATTRIBUTES: u16 = 16;
const FEWEST_DENSE_ATTRIBUTES: u16 = 8;

pub(super) const UNDEFINED: u64 = u64::MAX;

/// Flags of messages.
const CONSTANT: u8 = 0x01;
const DO_NOT_SHARE: u8 = 0x04;

/// Message types.
pub(super) const NIL: u8 = 0x00;
pub(super) const DATASPACE: u8 = 0x01;
pub(super) const DATATYPE: u8 = 0x03;
pub(super) const FILL_VALUE: u8 = 0x05;
pub(super) const LAYOUT: u8 = 0x08;
pub(super) const FILTER_PIPELINE: u8 = 0x0b;
pub(super) const ATTRIBUTE: u8 = 0x0c;
pub(super) const ATTRIBUTE_INFO: u8 = 0x15;
pub(super) const REFERENCE_COUNT: u8 = 0x16;

/// All attributes are in the header: no heap, no index. Without this message libhdf5 counts none.
pub(super) const COMPACT_ATTRIBUTES: [u8; 18] = {
    let mut body = [0xff; 18];
    body[0] = 0;
    body[1] = 0;
    body
};

/// Chunk indexes.
pub(super) const SINGLE_CHUNK: u8 = 1;
pub(super) const FIXED_ARRAY: u8 = 3;

/// Filters from this number on are written with their name.
pub(super) const FIRST_NAMED_FILTER: u16 = 256;

/// Whether HDF5 can have such a dataset, and the layout fits its dimensions.
pub(super) fn check(dataset: &NewDataset<'_>) -> Result<(), &'static str> {
    /// `H5S_MAX_RANK` and `H5Z_MAX_NFILTERS`.
    const MOST: usize = 32;
    let product = |dims: &[u64]| dims.iter().try_fold(u64::from(dataset.item_size), |size, &dim| size.checked_mul(dim));
    let length = product(dataset.dims).filter(|_| dataset.dims.len() <= MOST && dataset.item_size > 0);
    let Some(length) = length else { return Err("its dimensions are more or larger than HDF5 allows") };
    let mut names = std::collections::BTreeSet::new();
    for (name, value) in dataset.attributes {
        if name.is_empty() || !name.to_bytes().is_ascii() || !names.insert(*name) {
            return Err("its attributes need different names in ASCII");
        }
        if let AttributeValue::Text(text) = value
            && (text.contains('\0') || u32::try_from(text.len()).is_err())
        {
            return Err("a text of an attribute contains a NUL character or is too long");
        }
    }
    let fits = match dataset.layout {
        DataLayout::Compact(bytes) => bytes.len() as u64 == length,
        DataLayout::Contiguous(offset) => offset.is_some() || length == 0,
        DataLayout::Chunked { dims, filters, chunks } => {
            let whole = product(dims).is_some_and(|bytes| bytes > 0 && bytes <= u64::from(u32::MAX));
            let count = dims.iter().zip(dataset.dims).try_fold(1_u64, |count, (&chunk, &dim)| {
                if chunk == 0 || chunk > dim { None } else { count.checked_mul(dim.div_ceil(chunk)) }
            });
            whole
                && !dims.is_empty()
                && dims.len() == dataset.dims.len()
                && count == Some(chunks.len() as u64)
                && filters.len() <= MOST
                && filters.iter().all(|filter| filter.parameters.len() <= 1024 && !filter.name.contains('\0'))
        }
    };
    if fits { Ok(()) } else { Err("its layout does not fit its dimensions") }
}

/// What does not fit into a message.
#[derive(Debug)]
pub(super) struct TooLarge(pub(super) &'static str);

#[derive(Default)]
struct Messages(Vec<u8>);

impl Messages {
    fn push(&mut self, kind: u8, flags: u8, body: &[u8], what: &'static str) -> Result<(), TooLarge> {
        let length = u16::try_from(body.len()).map_err(|_| TooLarge(what))?;
        self.0.push(kind);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.push(flags);
        self.0.extend_from_slice(body);
        Ok(())
    }
}

/// The header of a dataset that nothing links to yet. `texts` are the places of its text attributes, in order; `index`
/// that of the chunk index of more than one chunk.
pub(super) fn object_header(
    dataset: &NewDataset<'_>,
    texts: &[HeapText],
    index: Option<u64>,
) -> Result<Vec<u8>, TooLarge> {
    let mut messages = Messages::default();
    messages.push(DATASPACE, 0, &dataspace(dataset.dims), "the shape")?;
    messages.push(DATATYPE, CONSTANT, dataset.datatype, "the type")?;
    let early = matches!(dataset.layout, DataLayout::Contiguous(_) | DataLayout::Compact(_));
    messages.push(FILL_VALUE, CONSTANT, &fill_value(early), "the fill value")?;
    if let DataLayout::Chunked { filters, .. } = dataset.layout
        && !filters.is_empty()
    {
        let mut body = vec![2, filters.len() as u8];
        for filter in filters {
            body.extend_from_slice(&filter.id.to_le_bytes());
            if filter.id >= FIRST_NAMED_FILTER {
                let length = u16::try_from(filter.name.len() + 1).map_err(|_| TooLarge("a filter's name"))?;
                body.extend_from_slice(&length.to_le_bytes());
            }
            body.extend_from_slice(&u16::from(filter.optional).to_le_bytes());
            body.extend_from_slice(&(filter.parameters.len() as u16).to_le_bytes());
            if filter.id >= FIRST_NAMED_FILTER {
                body.extend_from_slice(filter.name.as_bytes());
                body.push(0);
            }
            filter.parameters.iter().for_each(|value| body.extend_from_slice(&value.to_le_bytes()));
        }
        messages.push(FILTER_PIPELINE, CONSTANT, &body, "the filter pipeline")?;
    }
    let constant = match dataset.layout {
        DataLayout::Contiguous(Some(_)) => CONSTANT,
        _ => 0,
    };
    messages.push(LAYOUT, constant, &layout(dataset, index)?, "the data")?;
    if !dataset.attributes.is_empty() {
        messages.push(ATTRIBUTE_INFO, DO_NOT_SHARE, &COMPACT_ATTRIBUTES, "an attribute")?;
    }
    let mut texts = texts.iter();
    for (name, value) in dataset.attributes {
        messages.push(ATTRIBUTE, 0, &attribute(name, value, &mut texts)?, "an attribute")?;
    }
    // libhdf5 raises the count to 1 when it links the object, and drops this message.
    let mut count = vec![0];
    count.extend_from_slice(&0_u32.to_le_bytes());
    messages.push(REFERENCE_COUNT, DO_NOT_SHARE, &count, "the reference count")?;
    Ok(header(&messages.0))
}

/// Wraps messages into a header of version 2.
fn header(messages: &[u8]) -> Vec<u8> {
    // Bytes of the field for the messages' length: 1, 2 or 4.
    let width = if messages.len() <= 0xff { 0 } else { 1 + u8::from(messages.len() > 0xffff) };
    let mut bytes = Vec::with_capacity(messages.len() + 18);
    bytes.extend_from_slice(b"OHDR");
    bytes.push(2);
    // The limits of attribute storage are stored; no times, no creation order.
    bytes.push(0x10 | width);
    bytes.extend_from_slice(&MOST_COMPACT_ATTRIBUTES.to_le_bytes());
    bytes.extend_from_slice(&FEWEST_DENSE_ATTRIBUTES.to_le_bytes());
    bytes.extend_from_slice(&(messages.len() as u32).to_le_bytes()[..1 << width]);
    bytes.extend_from_slice(messages);
    seal(&mut bytes);
    bytes
}

/// Appends the checksum of all before it.
fn seal(bytes: &mut Vec<u8>) {
    let sum = lookup3(bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
}

fn dataspace(dims: &[u64]) -> Vec<u8> {
    let mut body = vec![2, dims.len() as u8, 0, u8::from(!dims.is_empty())];
    dims.iter().for_each(|dim| body.extend_from_slice(&dim.to_le_bytes()));
    body
}

/// No value is given, and none is ever written; space is allocated early, or chunk by chunk.
fn fill_value(early: bool) -> [u8; 2] {
    const EARLY: u8 = 1;
    const INCREMENTAL: u8 = 3;
    const NEVER: u8 = 1 << 2;
    [3, NEVER | if early { EARLY } else { INCREMENTAL }]
}

fn layout(dataset: &NewDataset<'_>, index: Option<u64>) -> Result<Vec<u8>, TooLarge> {
    let mut body = vec![4];
    match dataset.layout {
        DataLayout::Compact(bytes) => {
            body.push(0);
            body.extend_from_slice(&u16::try_from(bytes.len()).map_err(|_| TooLarge("the data"))?.to_le_bytes());
            body.extend_from_slice(bytes);
        }
        DataLayout::Contiguous(offset) => {
            let length = dataset.dims.iter().product::<u64>() * u64::from(dataset.item_size);
            body.push(1);
            body.extend_from_slice(&offset.unwrap_or(UNDEFINED).to_le_bytes());
            body.extend_from_slice(&length.to_le_bytes());
        }
        DataLayout::Chunked { dims, filters, chunks } => {
            let filtered = !filters.is_empty();
            body.push(2);
            body.push(if chunks.len() == 1 && filtered { 0x02 } else { 0 });
            // The element's size counts as one more dimension.
            let sizes = || dims.iter().copied().chain([u64::from(dataset.item_size)]);
            let width = sizes().map(|size| (size.max(1).ilog2() as usize + 8) / 8).max().unwrap_or(1);
            body.push(dims.len() as u8 + 1);
            body.push(width as u8);
            sizes().for_each(|size| body.extend_from_slice(&size.to_le_bytes()[..width]));
            match chunks {
                [chunk] => {
                    body.push(SINGLE_CHUNK);
                    if filtered {
                        body.extend_from_slice(&chunk.length.to_le_bytes());
                        body.extend_from_slice(&chunk.filter_mask.to_le_bytes());
                    }
                    body.extend_from_slice(&chunk.offset.to_le_bytes());
                }
                _ => {
                    body.push(FIXED_ARRAY);
                    body.push(page_bits(chunks.len()));
                    body.extend_from_slice(&index.unwrap_or(UNDEFINED).to_le_bytes());
                }
            }
        }
    }
    Ok(body)
}

/// So many bits that the array is one page: it is written once and whole.
pub(super) fn page_bits(chunks: usize) -> u8 {
    /// libhdf5's own.
    const USUAL: u32 = 10;
    (chunks as u64).checked_next_power_of_two().map_or(u64::BITS, u64::ilog2).max(USUAL) as u8
}

/// Bytes of a chunk's length in the index, as libhdf5 counts them.
pub(super) fn chunk_length_width(chunk_bytes: u64) -> usize {
    (1 + (chunk_bytes.max(1).ilog2() as usize + 8) / 8).min(8)
}

pub(super) fn entry_size(chunk_bytes: u64, filtered: bool) -> usize {
    if filtered { 8 + chunk_length_width(chunk_bytes) + 4 } else { 8 }
}

const ARRAY_HEADER: usize = 28;
const ARRAY_BLOCK_PREFIX: usize = 14;

/// Bytes of a fixed array index: its header, and after it its one data block.
pub(super) fn fixed_array_length(chunks: usize, chunk_bytes: u64, filtered: bool) -> u64 {
    let block = ARRAY_BLOCK_PREFIX + chunks * entry_size(chunk_bytes, filtered) + 4;
    (ARRAY_HEADER + block) as u64
}

/// A fixed array index that begins at `offset`.
pub(super) fn fixed_array(offset: u64, chunks: &[StoredChunk], chunk_bytes: u64, filtered: bool) -> Vec<u8> {
    let (width, size) = (chunk_length_width(chunk_bytes), entry_size(chunk_bytes, filtered));
    let block_offset = offset + ARRAY_HEADER as u64;
    let mut bytes = Vec::with_capacity(fixed_array_length(chunks.len(), chunk_bytes, filtered) as usize);
    bytes.extend_from_slice(b"FAHD");
    bytes.extend_from_slice(&[0, u8::from(filtered), size as u8, page_bits(chunks.len())]);
    bytes.extend_from_slice(&(chunks.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&block_offset.to_le_bytes());
    seal(&mut bytes);
    let mut block = Vec::with_capacity(bytes.capacity() - bytes.len());
    block.extend_from_slice(b"FADB");
    block.extend_from_slice(&[0, u8::from(filtered)]);
    block.extend_from_slice(&offset.to_le_bytes());
    for chunk in chunks {
        block.extend_from_slice(&chunk.offset.to_le_bytes());
        if filtered {
            block.extend_from_slice(&chunk.length.to_le_bytes()[..width]);
            block.extend_from_slice(&chunk.filter_mask.to_le_bytes());
        }
    }
    seal(&mut block);
    bytes.extend_from_slice(&block);
    bytes
}

/// 64-bit numbers, little-endian.
pub(super) const SIGNED: [u8; 12] = [0x10, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0];
pub(super) const UNSIGNED: [u8; 12] = [0x10, 0x00, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0];
/// IEEE 754 binary64.
pub(super) const REAL: [u8; 20] = [0x11, 0x20, 63, 0, 8, 0, 0, 0, 0, 0, 64, 0, 52, 11, 0, 52, 0xff, 0x03, 0, 0];
/// A sequence of bytes that is text, ends at a NUL character, and is UTF-8; 16 bytes say where it is.
pub(super) const TEXT: [u8; 20] = [0x19, 0x01, 0x01, 0, 16, 0, 0, 0, 0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0];

fn attribute<'a>(
    name: &CStr,
    value: &AttributeValue,
    texts: &mut impl Iterator<Item = &'a HeapText>,
) -> Result<Vec<u8>, TooLarge> {
    let (datatype, dims, data): (&[u8], &[u64], Vec<u8>) = match value {
        AttributeValue::Text(_) => {
            let text = texts.next().ok_or(TooLarge("a text"))?;
            let mut data = text.length.to_le_bytes().to_vec();
            data.extend_from_slice(&text.collection.to_le_bytes());
            data.extend_from_slice(&text.index.to_le_bytes());
            (&TEXT, &[], data)
        }
        AttributeValue::Integers(values) => {
            (&SIGNED, &[values.len() as u64], values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        AttributeValue::Unsigned(value) => (&UNSIGNED, &[], value.to_le_bytes().to_vec()),
        AttributeValue::Real(value) => (&REAL, &[], value.to_le_bytes().to_vec()),
    };
    let dataspace = dataspace(dims);
    let name = name.to_bytes_with_nul();
    let name_length = u16::try_from(name.len()).map_err(|_| TooLarge("an attribute's name"))?;
    /// The name is ASCII, as libhdf5 writes it by default.
    const ASCII: u8 = 0;
    let mut body = vec![3, 0];
    body.extend_from_slice(&name_length.to_le_bytes());
    body.extend_from_slice(&(datatype.len() as u16).to_le_bytes());
    body.extend_from_slice(&(dataspace.len() as u16).to_le_bytes());
    body.push(ASCII);
    body.extend_from_slice(name);
    body.extend_from_slice(datatype);
    body.extend_from_slice(&dataspace);
    body.extend_from_slice(&data);
    Ok(body)
}
