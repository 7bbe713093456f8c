//! Reading what [`super::encode`] writes, without libhdf5 and its lock.
//!
//! Only that form is understood; whatever else a header holds (another writer's dataset, an attribute that was added
//! since) is [`Foreign`], and libhdf5 reads it. Checksums are verified as libhdf5 verifies them.

use std::ffi::CString;

use super::checksum::lookup3;
use super::encode::{
    ATTRIBUTE, ATTRIBUTE_INFO, COMPACT_ATTRIBUTES, DATASPACE, DATATYPE, FILL_VALUE, FILTER_PIPELINE,
    FIRST_NAMED_FILTER, FIXED_ARRAY, LAYOUT, NIL, REAL, REFERENCE_COUNT, SIGNED, SINGLE_CHUNK, TEXT, UNDEFINED,
    UNSIGNED, chunk_length_width, entry_size, page_bits,
};
use super::{AttributeValue, FilterStep, StoredChunk};
use crate::error::{Error, Result};
use crate::vfd::heap;

/// A dataset as its header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetDescription {
    /// The datatype message; compare with [`encode_datatype`](super::encode_datatype).
    pub datatype: Vec<u8>,
    /// The dimensions; none for a scalar.
    pub dims: Vec<u64>,
    /// Where the data is.
    pub layout: StoredLayout,
    /// The attributes, in the order in which they are stored.
    pub attributes: Vec<(CString, AttributeValue)>,
}

/// Where the data of a [`DatasetDescription`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredLayout {
    /// In the object header.
    Compact(Vec<u8>),
    /// In one run.
    Contiguous {
        /// Byte offset in the file; `None` where nothing was allocated.
        offset: Option<u64>,
        /// Bytes.
        length: u64,
    },
    /// In chunks.
    Chunked {
        /// Elements of a chunk along each dimension.
        dims: Vec<u64>,
        /// Bytes of an element.
        item_size: u64,
        /// What the chunks went through, in order.
        filters: Vec<FilterStep>,
        /// All chunks, in row-major order; `None` for one that was never written.
        chunks: Vec<Option<StoredChunk>>,
    },
}

/// The bytes of one commit.
pub(crate) trait Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// The end of what there is.
    fn end(&self) -> u64;
    /// An error that names the file.
    fn damaged(&self, offset: u64, problem: &str) -> Error;
}

/// Why a header is not described here.
enum Stop {
    /// It is not of the form that is written here.
    Foreign,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Step<T> = std::result::Result<T, Stop>;

/// Bytes taken from the front; running out of them is [`Stop::Foreign`].
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        match self.0.split_at_checked(count) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(Stop::Foreign),
        }
    }

    fn number(&mut self, width: usize) -> Step<u64> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn u8(&mut self) -> Step<u8> {
        Ok(self.number(1)? as u8)
    }

    /// Takes exactly these bytes.
    fn literal(&mut self, bytes: &[u8]) -> Step<()> {
        if self.take(bytes.len())? == bytes { Ok(()) } else { Err(Stop::Foreign) }
    }
}

/// Describes the dataset whose object header begins at `offset`; `None` when only libhdf5 can.
pub(super) fn describe(bytes: &dyn Bytes, offset: u64) -> Result<Option<DatasetDescription>> {
    match (Decoder { bytes, heap: None }).dataset(offset) {
        Ok(dataset) => Ok(Some(dataset)),
        Err(Stop::Foreign) => Ok(None),
        Err(Stop::Error(error)) => Err(error),
    }
}

struct Decoder<'a> {
    bytes: &'a dyn Bytes,
    heap: Option<Heap>,
}

const HEAP_HEADER: usize = 16;

/// Larger structures are left to libhdf5: a forged length must not claim memory. A heap may be read for each attribute.
const MOST_HEADER: u64 = 256 << 10;
const MOST_ATTRIBUTES: usize = 64;
/// `H5HG_MINSIZE`.
const LEAST_HEAP: u64 = 4096;
const MOST_HEAP: u64 = 256 << 10;
const MOST_INDEX: u64 = 16 << 20;

/// The collection of texts that was read last.
struct Heap {
    offset: u64,
    bytes: Vec<u8>,
    /// Where the object after the one found last begins.
    next: usize,
}

/// The chunk index is read after the whole header: the filters decide how long its entries are.
struct ChunkLayout {
    dims: Vec<u64>,
    item_size: u64,
    index: Index,
}

enum Index {
    Single { length: Option<(u64, u32)>, offset: u64 },
    Array { page_bits: u8, offset: u64 },
}

impl Decoder<'_> {
    fn read(&self, offset: u64, length: u64) -> Step<Vec<u8>> {
        let within = offset.checked_add(length).is_some_and(|end| end <= self.bytes.end());
        if !within {
            return Err(Stop::Foreign);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Stop::Foreign)?];
        self.bytes.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Data that would lie outside the file is damage: it must not read as zeros.
    fn within(&self, offset: u64, length: u64) -> Step<()> {
        if offset.checked_add(length).is_some_and(|end| end <= self.bytes.end()) {
            return Ok(());
        }
        let problem = "data that a header places here would lie behind the end of the file; restore it from a backup";
        Err(Stop::Error(self.bytes.damaged(offset, problem)))
    }

    /// Checks a structure that ends in its checksum, and returns it without.
    fn sealed<'b>(&self, offset: u64, bytes: &'b [u8]) -> Step<&'b [u8]> {
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(Stop::Foreign)?;
        if lookup3(content) == u32::from_le_bytes(*sum) {
            return Ok(content);
        }
        let problem = "the metadata that begins here does not match its checksum; restore the file from a backup";
        Err(Stop::Error(self.bytes.damaged(offset, problem)))
    }

    fn dataset(&mut self, offset: u64) -> Step<DatasetDescription> {
        /// Longer headers take a second read.
        const USUAL: u64 = 1024;
        const PREFIX: u64 = 10;
        let end = self.bytes.end();
        let mut bytes = self.read(offset, USUAL.min(end.checked_sub(offset).ok_or(Stop::Foreign)?))?;
        let mut cursor = Cursor(&bytes);
        cursor.literal(b"OHDR\x02")?;
        let flags = cursor.u8()?;
        if flags & !0x03 != 0x10 {
            return Err(Stop::Foreign);
        }
        cursor.take(4)?;
        let width = 1_u64 << (flags & 0x03);
        let messages = cursor.number(width as usize)?;
        let length = (PREFIX + width + 4).checked_add(messages).ok_or(Stop::Foreign)?;
        if length > MOST_HEADER {
            return Err(Stop::Foreign);
        }
        if length > bytes.len() as u64 {
            bytes = self.read(offset, length)?;
        }
        bytes.truncate(length as usize);
        let content = self.sealed(offset, &bytes)?;
        let mut cursor = Cursor(&content[(PREFIX + width) as usize..]);

        let (mut dims, mut datatype, mut filters) = (None, None, None);
        let (mut stored, mut chunked) = (None, None);
        let mut attributes = Vec::new();
        // What is left below a message's header is a gap.
        while cursor.0.len() >= 4 {
            let (kind, length, flags) = (cursor.u8()?, cursor.number(2)?, cursor.u8()?);
            let mut body = Cursor(cursor.take(length as usize)?);
            if flags & 0x02 != 0 {
                return Err(Stop::Foreign); // shared: its content is elsewhere
            }
            match kind {
                NIL | FILL_VALUE | REFERENCE_COUNT => {}
                ATTRIBUTE_INFO if body.0 == COMPACT_ATTRIBUTES => {}
                DATASPACE if dims.is_none() => dims = Some(dataspace(&mut body)?),
                DATATYPE if datatype.is_none() => datatype = Some(body.0.to_vec()),
                FILTER_PIPELINE if filters.is_none() => filters = Some(pipeline(&mut body)?),
                LAYOUT if stored.is_none() && chunked.is_none() => match layout(&mut body)? {
                    Ok(found) => stored = Some(found),
                    Err(found) => chunked = Some(found),
                },
                ATTRIBUTE if attributes.len() < MOST_ATTRIBUTES => attributes.push(self.attribute(&mut body)?),
                _ => return Err(Stop::Foreign),
            }
        }
        let (dims, datatype) = (dims.ok_or(Stop::Foreign)?, datatype.ok_or(Stop::Foreign)?);
        if let Some(StoredLayout::Contiguous { offset: Some(offset), length }) = stored {
            self.within(offset, length)?;
        }
        let layout = match (stored, chunked) {
            (Some(stored), None) => stored,
            (None, Some(chunked)) => self.chunked(&dims, chunked, filters.unwrap_or_default())?,
            _ => return Err(Stop::Foreign),
        };
        Ok(DatasetDescription { datatype, dims, layout, attributes })
    }

    fn attribute(&mut self, body: &mut Cursor<'_>) -> Step<(CString, AttributeValue)> {
        body.literal(&[3, 0])?;
        let (name, datatype, space) = (body.number(2)?, body.number(2)?, body.number(2)?);
        body.literal(&[0])?;
        let name = CString::from_vec_with_nul(body.take(name as usize)?.to_vec()).map_err(|_| Stop::Foreign)?;
        let datatype = body.take(datatype as usize)?;
        let dims = dataspace(&mut Cursor(body.take(space as usize)?))?;
        let value = match (dims.as_slice(), datatype) {
            ([], datatype) if datatype == TEXT => self.text(body)?,
            ([], datatype) if datatype == UNSIGNED => AttributeValue::Unsigned(body.number(8)?),
            ([], datatype) if datatype == REAL => AttributeValue::Real(f64::from_bits(body.number(8)?)),
            (&[count], datatype) if datatype == SIGNED => {
                let count = usize::try_from(count).map_err(|_| Stop::Foreign)?;
                let words = body.take(count.checked_mul(8).ok_or(Stop::Foreign)?)?;
                let (words, _) = words.as_chunks::<8>();
                AttributeValue::Integers(words.iter().map(|word| i64::from_le_bytes(*word)).collect())
            }
            _ => return Err(Stop::Foreign),
        };
        Ok((name, value))
    }

    fn text(&mut self, body: &mut Cursor<'_>) -> Step<AttributeValue> {
        let (length, collection, index) = (body.number(4)?, body.number(8)?, body.number(4)?);
        if self.heap.as_ref().is_none_or(|heap| heap.offset != collection) {
            let size = heap::collection_size(&self.read(collection, HEAP_HEADER as u64)?).ok_or(Stop::Foreign)?;
            if !(LEAST_HEAP..=MOST_HEAP).contains(&size) {
                return Err(Stop::Foreign);
            }
            let bytes = self.read(collection, size)?;
            if !heap::is_well_formed(&bytes) {
                return Err(Stop::Foreign);
            }
            self.heap = Some(Heap { offset: collection, bytes, next: HEAP_HEADER });
        }
        let Some(heap) = &mut self.heap else { return Err(Stop::Foreign) };
        // The texts of one dataset follow each other, so the search goes on where the last one ended.
        for from in [heap.next, HEAP_HEADER] {
            let mut at = from;
            while let Some((header, rest)) = heap.bytes.get(at..).and_then(<[u8]>::split_first_chunk::<16>) {
                let number = u32::from(u16::from_le_bytes([header[0], header[1]]));
                let [.., a, b, c, d, e, f, g, h] = *header;
                let size = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let Some(padded) = size.checked_next_multiple_of(8).filter(|&size| size <= rest.len() as u64) else {
                    break;
                };
                if number == 0 {
                    break; // free space, to the end
                }
                at += header.len() + padded as usize;
                if u64::from(number) == index {
                    if size != length {
                        return Err(Stop::Foreign);
                    }
                    heap.next = at;
                    return match std::str::from_utf8(&rest[..length as usize]) {
                        Ok(text) => Ok(AttributeValue::Text(text.to_owned())),
                        Err(_) => Err(Stop::Foreign),
                    };
                }
            }
        }
        // Damaged, or rearranged: libhdf5 has the last word.
        Err(Stop::Foreign)
    }

    fn chunked(&self, shape: &[u64], layout: ChunkLayout, filters: Vec<FilterStep>) -> Step<StoredLayout> {
        let ChunkLayout { dims, item_size, index } = layout;
        // Chunks larger than the dataset are as little allowed as chunks of 4 GiB.
        if dims.len() != shape.len() || dims.iter().zip(shape).any(|(&chunk, &dim)| chunk == 0 || chunk > dim) {
            return Err(Stop::Foreign);
        }
        let full = dims.iter().try_fold(item_size, |bytes, &dim| bytes.checked_mul(dim)).ok_or(Stop::Foreign)?;
        if full > u64::from(u32::MAX) {
            return Err(Stop::Foreign);
        }
        let count =
            shape.iter().zip(&dims).try_fold(1_u64, |count, (&dim, &chunk)| count.checked_mul(dim.div_ceil(chunk)));
        let count = count.ok_or(Stop::Foreign)?;
        let filtered = !filters.is_empty();
        let place = |offset: u64, length: u64, filter_mask: u32| {
            if offset == UNDEFINED {
                return Ok(None);
            }
            self.within(offset, length)?;
            Ok::<_, Stop>(Some(StoredChunk { offset, length, filter_mask }))
        };
        let chunks = match index {
            Index::Single { length, offset } if count == 1 => {
                let (length, mask) = length.unwrap_or((full, 0));
                vec![place(offset, length, mask)?]
            }
            Index::Array { page_bits: bits, offset } if usize::try_from(count).is_ok_and(|n| bits == page_bits(n)) => {
                let header = self.read(offset, 28)?;
                let mut cursor = Cursor(self.sealed(offset, &header)?);
                let size = entry_size(full, filtered) as u64;
                cursor.literal(b"FAHD")?;
                cursor.literal(&[0, u8::from(filtered), size as u8, bits])?;
                let (entries, block_offset) = (cursor.number(8)?, cursor.number(8)?);
                if entries != count {
                    return Err(Stop::Foreign);
                }
                let length = count.checked_mul(size).and_then(|length| length.checked_add(18)).ok_or(Stop::Foreign)?;
                if length > MOST_INDEX {
                    return Err(Stop::Foreign);
                }
                let block = self.read(block_offset, length)?;
                let mut cursor = Cursor(self.sealed(block_offset, &block)?);
                cursor.literal(b"FADB")?;
                cursor.literal(&[0, u8::from(filtered)])?;
                cursor.literal(&offset.to_le_bytes())?;
                let mut chunks = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    let offset = cursor.number(8)?;
                    chunks.push(if filtered {
                        let length = cursor.number(chunk_length_width(full))?;
                        place(offset, length, cursor.number(4)? as u32)?
                    } else {
                        place(offset, full, 0)?
                    });
                }
                chunks
            }
            _ => return Err(Stop::Foreign),
        };
        Ok(StoredLayout::Chunked { dims, item_size, filters, chunks })
    }
}

fn dataspace(body: &mut Cursor<'_>) -> Step<Vec<u64>> {
    body.literal(&[2])?;
    let rank = body.u8()?;
    body.literal(&[0, u8::from(rank > 0)])?;
    (0..rank).map(|_| body.number(8)).collect()
}

fn pipeline(body: &mut Cursor<'_>) -> Step<Vec<FilterStep>> {
    body.literal(&[2])?;
    let count = body.u8()?;
    (0..count)
        .map(|_| {
            let id = body.number(2)? as u16;
            let name = if id >= FIRST_NAMED_FILTER { body.number(2)? } else { 0 };
            let (flags, parameters) = (body.number(2)?, body.number(2)?);
            let name = body.take(name as usize)?.split(|&byte| byte == 0).next().unwrap_or_default();
            let name = String::from_utf8(name.to_vec()).map_err(|_| Stop::Foreign)?;
            let parameters = (0..parameters).map(|_| Ok(body.number(4)? as u32)).collect::<Step<_>>()?;
            Ok(FilterStep { id, name, optional: flags & 1 != 0, parameters })
        })
        .collect()
}

fn layout(body: &mut Cursor<'_>) -> Step<std::result::Result<StoredLayout, ChunkLayout>> {
    const COMPACT: u8 = 0;
    const CONTIGUOUS: u8 = 1;
    const CHUNKED: u8 = 2;
    const FILTERED_SINGLE: u8 = 0x02;
    body.literal(&[4])?;
    match body.u8()? {
        COMPACT => {
            let length = body.number(2)? as usize;
            Ok(Ok(StoredLayout::Compact(body.take(length)?.to_vec())))
        }
        CONTIGUOUS => {
            let (offset, length) = (body.number(8)?, body.number(8)?);
            Ok(Ok(StoredLayout::Contiguous { offset: (offset != UNDEFINED).then_some(offset), length }))
        }
        CHUNKED => {
            let (flags, rank, width) = (body.u8()?, body.u8()?, body.u8()? as usize);
            if flags & !FILTERED_SINGLE != 0 || rank == 0 || !(1..=8).contains(&width) {
                return Err(Stop::Foreign);
            }
            let mut dims = (0..rank).map(|_| body.number(width)).collect::<Step<Vec<_>>>()?;
            let item_size = dims.pop().filter(|&size| size > 0).ok_or(Stop::Foreign)?;
            let index = match body.u8()? {
                SINGLE_CHUNK => {
                    let length = if flags & FILTERED_SINGLE != 0 {
                        Some((body.number(8)?, body.number(4)? as u32))
                    } else {
                        None
                    };
                    Index::Single { length, offset: body.number(8)? }
                }
                FIXED_ARRAY => Index::Array { page_bits: body.u8()?, offset: body.number(8)? },
                _ => return Err(Stop::Foreign),
            };
            Ok(Err(ChunkLayout { dims, item_size, index }))
        }
        _ => Err(Stop::Foreign),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode::{fixed_array, object_header};
    use super::super::heap::HeapText;
    use super::super::{DataLayout, NewDataset};
    use super::*;

    struct Memory(Vec<u8>);

    impl Bytes for Memory {
        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
            Ok(())
        }

        fn end(&self) -> u64 {
            self.0.len() as u64
        }

        fn damaged(&self, offset: u64, problem: &str) -> Error {
            Error::damaged(std::path::Path::new("memory"), offset, problem)
        }
    }

    const HEADER: usize = 0;
    const INDEX: usize = 2048;
    const HEAP: usize = 4096;

    /// A dataset of three chunks with every kind of attribute, and where its structures end.
    fn file() -> (Vec<u8>, [(usize, usize); 3]) {
        let filters = [
            FilterStep { id: 2, name: String::new(), optional: true, parameters: vec![4] },
            FilterStep { id: 32000, name: "lzf".to_owned(), optional: true, parameters: vec![] },
        ];
        let chunk = StoredChunk { offset: 5000, length: 77, filter_mask: 1 };
        let attributes = [
            (c"text", AttributeValue::Text("some text".to_owned())),
            (c"integers", AttributeValue::Integers(vec![1, -2])),
            (c"unsigned", AttributeValue::Unsigned(7)),
            (c"real", AttributeValue::Real(0.5)),
        ];
        let dataset = NewDataset {
            datatype: &[0x10, 8, 0, 0, 4, 0, 0, 0, 0, 0, 32, 0],
            item_size: 4,
            dims: &[25, 3],
            layout: DataLayout::Chunked { dims: &[10, 3], filters: &filters, chunks: &[chunk; 3] },
            attributes: &attributes,
        };
        let text = HeapText { length: 9, collection: HEAP as u64, index: 1 };
        let header = object_header(&dataset, &[text], Some(INDEX as u64)).expect("it fits");
        let index = fixed_array(INDEX as u64, &[chunk; 3], 120, true);
        let mut heap = b"GCOL\x01\0\0\0".to_vec();
        heap.extend_from_slice(&4096_u64.to_le_bytes());
        heap.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        heap.extend_from_slice(b"some text\0\0\0\0\0\0\0");
        heap.extend_from_slice(&[0; 8]);
        heap.extend_from_slice(&(4096_u64 - 48).to_le_bytes());
        let mut bytes = vec![0; 8192];
        bytes[HEADER..header.len()].copy_from_slice(&header);
        bytes[HEAP..HEAP + heap.len()].copy_from_slice(&heap);
        bytes[INDEX..INDEX + index.len()].copy_from_slice(&index);
        let sealed = [(HEADER, header.len()), (INDEX, INDEX + 28), (INDEX + 28, INDEX + index.len())];
        (bytes, sealed)
    }

    #[test]
    fn it_is_read_back() {
        let found = describe(&Memory(file().0), 0).unwrap().expect("the form is known");
        assert_eq!(found.dims, [25, 3]);
        assert_eq!(found.attributes.len(), 4);
        assert_eq!(found.attributes[0], (c"text".to_owned(), AttributeValue::Text("some text".to_owned())));
        let StoredLayout::Chunked { chunks, filters, .. } = found.layout else { panic!("{:?}", found.layout) };
        assert_eq!((chunks.len(), filters[1].name.as_str()), (3, "lzf"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Bytes that a forger changed, with checksums that agree: anything but a panic or memory without bound.
        #[test]
        fn forged_structures_do_no_harm(
            changes in prop::collection::vec((0..3_usize, any::<prop::sample::Index>(), any::<u8>()), 1..6),
            heap in prop::collection::vec((0..64_usize, any::<u8>()), 0..3),
        ) {
            let (mut bytes, sealed) = file();
            for (structure, at, value) in changes {
                let (start, end) = sealed[structure];
                bytes[start + at.index(end - start - 4)] = value;
            }
            for (at, value) in heap {
                bytes[HEAP + at] = value;
            }
            for (start, end) in sealed {
                let sum = lookup3(&bytes[start..end - 4]);
                bytes[end - 4..end].copy_from_slice(&sum.to_le_bytes());
            }
            match describe(&Memory(bytes), 0) {
                Ok(Some(DatasetDescription { layout: StoredLayout::Chunked { dims, item_size, chunks, .. }, .. })) => {
                    prop_assert!(dims.iter().product::<u64>() * item_size <= u64::from(u32::MAX));
                    prop_assert!(chunks.iter().flatten().all(|chunk| chunk.offset + chunk.length <= 8192));
                }
                Ok(Some(DatasetDescription { layout: StoredLayout::Contiguous { offset, length }, .. })) => {
                    prop_assert!(offset.is_none_or(|offset| offset + length <= 8192));
                }
                _ => {}
            }
        }
    }
}
