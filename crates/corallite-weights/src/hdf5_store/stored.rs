//! One weight as it lies in the file: finding it, reading its bytes, checking them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use corallite_file::hdf5::{Dataset, File};
use corallite_file::{
    ChunkLocation, DatasetDescription, FilterStep, Snapshot, StoredChunk, StoredLayout, Transaction, chunk_locations,
    contiguous_offset, object_offset,
};
use rayon::prelude::*;

use super::attributes::{self, Description, Unreadable};
use super::base::Chosen;
use super::geometry::Chunks;
use super::library::{self, Layout};
use super::{DELTAS, WEIGHTS};
use crate::delta::Difference;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::filter::{Compression, Filter, decode_chunk, with_scratch};
use crate::hash::{ContentHasher, WeightHash, coral_hash};
use crate::tensor::{WeightMetadata, WeightSource};
use crate::zeroed;

/// Where encoded bytes are read from: a snapshot, or a running transaction.
pub(crate) trait Pages: Sync {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> corallite_file::Result<()>;
    fn explain(&self, action: &str, error: &corallite_file::hdf5::Error) -> corallite_file::Error;
    /// Describes the dataset at `offset` without libhdf5, where that is possible.
    fn describe(&self, offset: u64) -> corallite_file::Result<Option<DatasetDescription>>;
}

impl Pages for Snapshot {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> corallite_file::Result<()> {
        Snapshot::read_at(self, offset, buffer)
    }

    fn explain(&self, action: &str, error: &corallite_file::hdf5::Error) -> corallite_file::Error {
        Snapshot::explain(self, action, error)
    }

    fn describe(&self, offset: u64) -> corallite_file::Result<Option<DatasetDescription>> {
        self.describe_dataset(offset)
    }
}

impl Pages for Transaction<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> corallite_file::Result<()> {
        Transaction::read_at(self, offset, buffer)
    }

    fn explain(&self, action: &str, error: &corallite_file::hdf5::Error) -> corallite_file::Error {
        Transaction::explain(self, action, error)
    }

    /// libhdf5 may hold changes that are not in any page yet.
    fn describe(&self, _offset: u64) -> corallite_file::Result<Option<DatasetDescription>> {
        Ok(None)
    }
}

/// How the bytes are reached.
#[derive(Clone, Debug)]
enum Form {
    Chunked {
        chunks: Chunks,
        filters: Vec<Filter>,
        locations: Vec<Option<StoredChunk>>,
    },
    Contiguous {
        offset: u64,
    },
    /// The bytes themselves, which the object header has.
    Held(Bytes),
    /// Through libhdf5: its compact data, or an order of chunks that is none of ours.
    Library(Dataset),
    /// As differences to another weight, chunk by chunk.
    Difference {
        difference: Difference,
        chunks: Chunks,
        encoded: Box<Body>,
        base: Arc<Stored>,
    },
    Empty,
}

/// The bytes of a dataset in the file.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) key: WeightHash,
    /// Bytes of data, decoded.
    pub(crate) length: u64,
    form: Form,
}

/// A weight in the file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    body: Body,
    pub(crate) description: Description,
}

impl std::ops::Deref for Stored {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}

/// The dimensions of the HDF5 dataset for a tensor: its shape, or one dimension where HDF5 cannot have the shape.
pub(crate) fn dataset_dims(dtype: Dtype, shape: &[u64]) -> Result<(Vec<u64>, u64)> {
    /// `H5S_MAX_RANK`.
    const MAX_RANK: usize = 32;
    let item = dtype.item_size().unwrap_or(1) as u64;
    if dtype.item_size().is_none() || shape.len() > MAX_RANK {
        return Ok((vec![dtype.byte_len(shape)? / item], item));
    }
    Ok((shape.to_vec(), item))
}

/// The largest chunk that differences may be sorted in, and how many there may be of what size: what is written has about a
/// mebibyte. Larger ones would take memory for each link of a chain; each smaller one has the chunk of the dataset decoded again.
const LARGEST_SPAN: u64 = 16 << 20;
const SMALLEST_SPAN: u64 = 16 << 10;
const SMALL_SPANS: u64 = 256;

/// So many deltas one on another are read, at most; fewer are written.
const LONGEST_CHAIN: usize = 64;

impl Body {
    /// Looks at the layout of a dataset that should hold `length` bytes.
    pub(crate) fn open(
        pages: &dyn Pages,
        dataset: Dataset,
        key: &WeightHash,
        dtype: Dtype,
        length: u64,
    ) -> Result<Self> {
        let damaged = |problem: &str| Error::Damaged { key: key.clone(), problem: problem.to_owned() };
        let fail = |error: &corallite_file::hdf5::Error| pages.explain(&format!("read {key}"), error);
        if library::extent_bytes(&dataset).map_err(|error| fail(&error))? != length {
            return Err(damaged("its dataset has another size than its attributes say"));
        }
        let form = match library::layout(&dataset).map_err(|error| fail(&error))? {
            _ if length == 0 => Form::Empty,
            Layout::Contiguous => match contiguous_offset(&dataset) {
                Some(offset) => Form::Contiguous { offset },
                None => return Err(damaged("its bytes were never written")),
            },
            Layout::Chunked { dims, filters: Some(filters) } => {
                let item = dtype.item_size().unwrap_or(1) as u64;
                let shape: Vec<u64> = dataset.shape().iter().map(|&dim| dim as u64).collect();
                match Chunks::from_dims(&shape, &dims, item) {
                    Some(chunks) => {
                        let locations = chunk_locations(&dataset).map_err(|error| fail(&error))?;
                        let locations = place(&chunks, locations)
                            .ok_or_else(|| damaged("its chunk index names chunks that cannot be"))?;
                        Form::Chunked { chunks, filters, locations }
                    }
                    // libhdf5 would look for a plugin.
                    None if filters.iter().any(|filter| matches!(filter, Filter::Zstd { .. })) => {
                        return Err(Error::unsupported(format!(
                            "{key}: zstd chunks of {dims:?} in a tensor of {shape:?}, which are not neighbouring bytes of it; \
                             rewrite the dataset with h5repack"
                        )));
                    }
                    None => Form::Library(dataset),
                }
            }
            _ => Form::Library(dataset),
        };
        Ok(Self { key: key.clone(), length, form })
    }

    /// The same from a header read without libhdf5; `None` when that cannot read the data.
    fn described(described: &DatasetDescription, key: &WeightHash, item: u64, length: u64) -> Result<Option<Self>> {
        let damaged = |problem: &str| Error::Damaged { key: key.clone(), problem: problem.to_owned() };
        let extent = described.dims.iter().try_fold(item, |bytes, &dim| bytes.checked_mul(dim));
        if extent != Some(length) {
            return Err(damaged("its dataset has another size than its attributes say"));
        }
        let form = match &described.layout {
            _ if length == 0 => Form::Empty,
            StoredLayout::Contiguous { offset: None, .. } => return Err(damaged("its bytes were never written")),
            StoredLayout::Contiguous { length: stored, .. } if *stored != length => {
                return Err(damaged("its bytes are not as many as its dataset says"));
            }
            StoredLayout::Contiguous { offset: Some(offset), .. } => Form::Contiguous { offset: *offset },
            StoredLayout::Compact(bytes) if bytes.len() as u64 == length => Form::Held(Bytes::copy_from_slice(bytes)),
            StoredLayout::Chunked { dims, item_size, filters, chunks } if *item_size == item => {
                let known = filters.iter().map(filter).collect::<Option<Vec<_>>>();
                match (Chunks::from_dims(&described.dims, dims, item), known) {
                    (Some(geometry), Some(filters)) => {
                        Form::Chunked { chunks: geometry, filters, locations: chunks.clone() }
                    }
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { key: key.clone(), length, form }))
    }

    /// Where the bytes lie, when they lie as they are.
    pub(crate) fn contiguous(&self) -> Option<u64> {
        match self.form {
            Form::Contiguous { offset } => Some(offset),
            _ => None,
        }
    }

    /// Bytes the data takes in the file.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.form {
            Form::Chunked { locations, .. } => locations.iter().flatten().map(|location| location.length).sum(),
            Form::Empty => 0,
            Form::Contiguous { .. } | Form::Held(_) => self.length,
            Form::Library(dataset) => library::stored_bytes(dataset),
            Form::Difference { encoded, .. } => encoded.stored_bytes(),
        }
    }

    /// Where the last of its bytes ends in the file; 0 where that is not known.
    pub(crate) fn end(&self) -> u64 {
        match &self.form {
            Form::Chunked { locations, .. } => {
                locations.iter().flatten().map(|chunk| chunk.offset.saturating_add(chunk.length)).max().unwrap_or(0)
            }
            Form::Contiguous { offset } => offset.saturating_add(self.length),
            Form::Difference { encoded, .. } => encoded.end(),
            Form::Held(_) | Form::Library(_) | Form::Empty => 0,
        }
    }

    /// Whether it has the filters that `compression` gives it.
    pub(crate) fn is_written_with(&self, compression: Compression) -> bool {
        match &self.form {
            Form::Chunked { chunks, filters, .. } => {
                let item = filters.iter().find_map(|filter| match filter {
                    Filter::Shuffle { element_size } => Some(*element_size),
                    _ => None,
                });
                *filters == compression.pipeline(item.unwrap_or(1)) && chunks.full() <= Chunks::TARGET
            }
            Form::Difference { encoded, .. } => encoded.is_written_with(compression),
            Form::Contiguous { .. } => compression == Compression::None,
            Form::Held(_) => compression != Compression::None,
            Form::Empty => true,
            Form::Library(dataset) => {
                compression != Compression::None && matches!(library::layout(dataset), Ok(Layout::Compact))
            }
        }
    }

    /// The filters of the dataset, by name, in the order in which they were applied.
    pub(crate) fn filters(&self) -> Vec<String> {
        match &self.form {
            Form::Chunked { filters, .. } => filters
                .iter()
                .map(|filter| match filter {
                    Filter::Deflate { level } => format!("deflate({level})"),
                    other => other.name().to_owned(),
                })
                .collect(),
            Form::Library(dataset) => {
                dataset.filters().iter().map(|filter| format!("{filter:?}").to_ascii_lowercase()).collect()
            }
            Form::Difference { encoded, .. } => encoded.filters(),
            _ => Vec::new(),
        }
    }

    /// The number of chunks, for data that is not in one piece.
    pub(crate) fn chunk_count(&self) -> Option<u64> {
        match &self.form {
            Form::Library(dataset) => dataset.num_chunks().map(|count| count as u64),
            _ => self.chunks().map(Chunks::count),
        }
    }

    fn damaged(&self, problem: impl Into<String>) -> Error {
        Error::Damaged { key: self.key.clone(), problem: problem.into() }
    }

    /// Whether any part of it costs reading all of it, since libhdf5 reads it or what it is a difference to.
    pub(crate) fn is_read_whole(&self) -> bool {
        match &self.form {
            Form::Library(_) => true,
            Form::Difference { encoded, base, .. } => encoded.is_read_whole() || base.is_read_whole(),
            _ => false,
        }
    }

    /// Its chunks, if it has any.
    pub(crate) fn chunks(&self) -> Option<&Chunks> {
        match &self.form {
            Form::Chunked { chunks, .. } | Form::Difference { chunks, .. } => Some(chunks),
            _ => None,
        }
    }

    /// Reads a range of the tensor's bytes, decoding on all cores.
    pub(crate) fn read(&self, pages: &dyn Pages, range: Range<u64>) -> Result<Vec<u8>> {
        if let Form::Difference { difference, chunks, encoded, base } = &self.form
            && self.is_read_whole()
        {
            let mut all = self.room_for(self.length)?;
            let elements = base.read(pages, 0..self.length).map_err(|error| self.without_base(base, error))?;
            let differences = encoded.read(pages, 0..self.length)?;
            for index in 0..chunks.count() {
                let Range { start, end } = chunks.get(index).range;
                let span = start as usize..end as usize;
                difference.decode(&differences[span.clone()], &elements[span.clone()], &mut all[span])?;
            }
            return Ok(all[range.start as usize..range.end as usize].to_vec());
        }
        let mut bytes = self.room_for(range.end - range.start)?;
        let Some(chunks) = self.chunks() else {
            self.read_part(pages, range, &mut bytes, &mut Decoder::default())?;
            return Ok(bytes);
        };
        let mut pieces = Vec::new();
        let mut rest = bytes.as_mut_slice();
        for index in chunks.covering(&range) {
            let chunk = chunks.get(index).range;
            let wanted = chunk.start.max(range.start)..chunk.end.min(range.end);
            let (piece, next) = rest.split_at_mut((wanted.end - wanted.start) as usize);
            pieces.push((wanted, piece));
            rest = next;
        }
        pieces.into_par_iter().try_for_each_init(Decoder::default, |decoder, (wanted, piece)| {
            self.read_part(pages, wanted, piece, decoder)
        })?;
        Ok(bytes)
    }

    /// A buffer for so many of the tensor's bytes: a damaged size must not bring the program down.
    fn room_for(&self, length: u64) -> Result<Vec<u8>> {
        let wanted = usize::try_from(length).map_err(|_| self.damaged("it is larger than memory"))?;
        if !self.is_plausible(length) || Vec::<u8>::new().try_reserve_exact(wanted).is_err() {
            return Err(self.damaged(format!("it claims {length} bytes, which its stored data cannot be")));
        }
        // Now that there is room: memory that the system gives zeroed need not be filled again.
        Ok(zeroed(wanted))
    }

    /// Reads a range of the tensor's bytes on this thread into `out`, which is as long.
    pub(crate) fn read_part(
        &self,
        pages: &dyn Pages,
        range: Range<u64>,
        out: &mut [u8],
        decoder: &mut Decoder,
    ) -> Result<()> {
        match &self.form {
            Form::Empty => {}
            Form::Contiguous { offset } => pages.read_at(offset + range.start, out)?,
            Form::Held(held) => out.copy_from_slice(&held[range.start as usize..range.end as usize]),
            Form::Library(dataset) => {
                let read = |into: &mut [u8]| {
                    library::read_all(dataset, into)
                        .map_err(|error| pages.explain(&format!("read the weight {}", self.key), &error))
                        .map_err(|error| self.unreadable(error))
                };
                if range == (0..self.length) {
                    return read(out);
                }
                let mut all = self.room_for(self.length)?;
                read(&mut all)?;
                out.copy_from_slice(&all[range.start as usize..range.end as usize]);
            }
            Form::Chunked { chunks, filters, locations } => {
                let mut rest = out;
                for index in chunks.covering(&range) {
                    let chunk = chunks.get(index).range;
                    let wanted = chunk.start.max(range.start)..chunk.end.min(range.end);
                    let (piece, next) = rest.split_at_mut((wanted.end - wanted.start) as usize);
                    rest = next;
                    let location = locations.get(index as usize).and_then(Option::as_ref);
                    let location = location.ok_or_else(|| self.damaged(format!("its chunk {index} is missing")))?;
                    let skip = (wanted.start - chunk.start) as usize;
                    let decoded = decoder.decode(pages, location, filters, chunks.full() as usize, skip, piece);
                    decoded.map_err(|error| match error {
                        Error::Filter { filter, problem } => {
                            let offset = location.offset;
                            self.damaged(format!("chunk {index} at offset {offset}: {filter}: {problem}"))
                        }
                        other => other,
                    })?;
                }
            }
            Form::Difference { difference, chunks, encoded, base } => {
                let mut rest = out;
                for index in chunks.covering(&range) {
                    let chunk = chunks.get(index).range;
                    let wanted = chunk.start.max(range.start)..chunk.end.min(range.end);
                    let (piece, next) = rest.split_at_mut((wanted.end - wanted.start) as usize);
                    rest = next;
                    // Sorted differences find their elements only as a whole chunk.
                    let span = if difference.is_sorted() { chunk } else { wanted.clone() };
                    let length = (span.end - span.start) as usize;
                    let (mut differences, mut elements) = (decoder.buffer(length)?, decoder.buffer(length)?);
                    encoded.read_part(pages, span.clone(), &mut differences, decoder)?;
                    base.read_part(pages, span.clone(), &mut elements, decoder)
                        .map_err(|error| self.without_base(base, error))?;
                    if span == wanted {
                        difference.decode(&differences, &elements, piece)?;
                    } else {
                        let mut whole = decoder.buffer(length)?;
                        difference.decode(&differences, &elements, &mut whole)?;
                        let skip = (wanted.start - span.start) as usize;
                        piece.copy_from_slice(&whole[skip..skip + piece.len()]);
                        decoder.give_back(whole);
                    }
                    decoder.give_back(differences);
                    decoder.give_back(elements);
                }
            }
        }
        Ok(())
    }

    fn without_base(&self, base: &Stored, error: Error) -> Error {
        match error {
            Error::Damaged { problem, .. } => self.damaged(format!("its base, the weight `{}`: {problem}", base.key)),
            other => other,
        }
    }

    /// libhdf5 fails on damaged chunks in words of its own.
    fn unreadable(&self, error: corallite_file::Error) -> Error {
        match error {
            corallite_file::Error::Hdf5 { detail, .. } => self.damaged(detail),
            other => Error::File(other),
        }
    }

    /// Whether so many bytes can come out of what is stored.
    fn is_plausible(&self, length: u64) -> bool {
        match self.form {
            Form::Contiguous { .. } | Form::Held(_) | Form::Empty => true,
            Form::Difference { ref encoded, ref base, .. } => encoded.is_plausible(length) && base.is_plausible(length),
            Form::Chunked { ref filters, .. } => length <= densest(filters, self.stored_bytes()),
            Form::Library(_) => length <= densest(&[], self.stored_bytes()),
        }
    }

    /// Calls `each` with every piece of the tensor's bytes in order, a few mebibytes at a time.
    pub(crate) fn for_each_piece(&self, pages: &dyn Pages, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PIECE: u64 = 16 << 20;
        if self.is_read_whole() {
            return each(&self.read(pages, 0..self.length)?);
        }
        let mut at = 0;
        while at < self.length {
            let mut end = (at + PIECE).min(self.length);
            if let Some(chunks) = self.chunks()
                && end < self.length
            {
                // Whole chunks, so that none is decoded twice.
                end = chunks.get(chunks.covering(&(at..end)).end - 1).range.end;
            }
            each(&self.read(pages, at..end)?)?;
            at = end;
        }
        Ok(())
    }
}

impl Stored {
    /// Finds the weight `key`, whether it is stored whole or as a delta.
    pub(crate) fn find(pages: &dyn Pages, file: &File, key: &WeightHash) -> Result<Option<Self>> {
        Self::find_chained(pages, file, key, 0)
    }

    fn find_chained(pages: &dyn Pages, file: &File, key: &WeightHash, depth: usize) -> Result<Option<Self>> {
        for parent in [WEIGHTS, DELTAS] {
            if let Some(found) = Self::find_below(pages, file, parent, key, depth)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The weight that lies below `parent`, with `depth` others stored as differences to it; `None` for a delta that is none.
    pub(crate) fn find_below(
        pages: &dyn Pages,
        file: &File,
        parent: &str,
        key: &WeightHash,
        depth: usize,
    ) -> Result<Option<Self>> {
        let path = format!("{parent}/{key}");
        let fail = |error: &corallite_file::hdf5::Error| pages.explain(&format!("read the weight {key}"), error);
        if !file.link_exists(parent) {
            return Ok(None);
        }
        let Some(offset) = object_offset(file, &path).map_err(|error| fail(&error))? else { return Ok(None) };
        let unreadable = |error| match error {
            Unreadable::Library(error) => Error::File(fail(&error)),
            Unreadable::Damaged(problem) => Error::Damaged { key: key.clone(), problem },
        };
        let read = |source: &dyn attributes::Attributes, own: library::OwnType| match parent {
            DELTAS if !attributes::is_weight(source).map_err(unreadable)? => Ok(None),
            _ => attributes::read(source, own, key).map(Some).map_err(unreadable),
        };
        if let Some(described) = pages.describe(offset)?
            && let Some(own) = library::described_type(&described.datatype).map_err(|error| fail(&error))?
        {
            let Some(description) = read(&described, own)? else { return Ok(None) };
            let length = description.metadata.byte_len()?;
            if let Some(body) = Body::described(&described, key, own.size as u64, length)? {
                let body = Self::with_base(pages, file, body, &description, depth)?;
                return Ok(Some(Self { body, description }));
            }
        }
        let dataset = library::open_dataset(file, &path).map_err(|error| fail(&error))?;
        let own = library::own_type(&dataset).map_err(|error| fail(&error))?;
        let Some(description) = read(&dataset, own)? else { return Ok(None) };
        let length = description.metadata.byte_len()?;
        let body = Body::open(pages, dataset, key, description.metadata.dtype, length)?;
        let body = Self::with_base(pages, file, body, &description, depth)?;
        Ok(Some(Self { body, description }))
    }

    /// The body of a weight, whose bytes may be differences to a base.
    fn with_base(pages: &dyn Pages, file: &File, body: Body, description: &Description, depth: usize) -> Result<Body> {
        let Some(delta) = &description.delta else { return Ok(body) };
        let metadata = &description.metadata;
        if depth >= LONGEST_CHAIN {
            return Err(body.damaged(format!("its chain of bases is longer than {LONGEST_CHAIN}, or a circle")));
        }
        let base = Self::find_chained(pages, file, &delta.reference, depth + 1);
        let base = base.map_err(|error| match error {
            Error::Damaged { problem, .. } => {
                body.damaged(format!("its base, the weight `{}`: {problem}", delta.reference))
            }
            other => other,
        })?;
        let base =
            base.ok_or_else(|| body.damaged(format!("its base, the weight `{}`, is missing", delta.reference)))?;
        if base.dtype() != metadata.dtype || base.metadata().shape != metadata.shape {
            return Err(body.damaged(format!("its base, the weight `{}`, has another shape or dtype", delta.reference)));
        }
        let (dims, item) = dataset_dims(metadata.dtype, &metadata.shape)?;
        let chunks = Chunks::from_dims(&dims, &delta.chunk, item).filter(|chunks| {
            chunks.full().min(body.length) <= LARGEST_SPAN
                && chunks.count() <= SMALL_SPANS + body.length / SMALLEST_SPAN
        });
        let difference = Difference::new(metadata.dtype, delta.order);
        let (Some(chunks), Some(difference)) = (chunks, difference) else {
            return Err(body.damaged("the order of its differences is none that its dtype and shape can have"));
        };
        let Body { key, length, .. } = &body;
        let (key, length, base) = (key.clone(), *length, Arc::new(base));
        Ok(Body { key, length, form: Form::Difference { difference, chunks, encoded: Box::new(body), base } })
    }

    /// The weight that this one is stored as a difference to.
    pub(crate) fn base(&self) -> Option<&Stored> {
        match &self.body.form {
            Form::Difference { base, .. } => Some(base),
            _ => None,
        }
    }

    /// What it is stored as, to be stored so again.
    pub(crate) fn chosen(&self) -> Option<Chosen> {
        let Form::Difference { difference, base, .. } = &self.body.form else { return None };
        let delta = self.description.delta.clone()?;
        Some(Chosen { difference: *difference, delta, base: Arc::clone(base) })
    }

    /// How many deltas have to be applied one after another to read it; 0 for a weight that is stored whole.
    pub(crate) fn chain(&self) -> usize {
        self.and_its_bases().count() - 1
    }

    /// It, what it is stored as the difference to, and so on.
    pub(crate) fn and_its_bases(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |stored| stored.base())
    }

    pub(crate) fn metadata(&self) -> &WeightMetadata {
        &self.description.metadata
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.metadata().dtype
    }

    /// Whether the key can be computed from the content, and so checks it.
    pub(crate) fn is_verifiable(&self) -> bool {
        self.description.content_hash.is_some() || self.key.is_content_hash() || is_coral_key(&self.key)
    }

    /// Checks all bytes against the content hash; a key of the caller's without one is only read.
    pub(crate) fn verify(&self, pages: &dyn Pages) -> Result<()> {
        if self.is_coral() {
            let bytes = self.read(pages, 0..self.length)?;
            return self.verify_bytes(&bytes);
        }
        let mut hasher = ContentHasher::new(self.dtype(), &self.metadata().shape);
        self.for_each_piece(pages, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        self.compare_hash(&hasher.finish())
    }

    /// As [`Stored::verify`], for bytes already read.
    pub(crate) fn verify_bytes(&self, bytes: &[u8]) -> Result<()> {
        let shape = &self.metadata().shape;
        if self.is_coral() {
            let found = coral_hash(self.dtype(), shape, bytes);
            return if found == self.key { Ok(()) } else { Err(self.differs(&found)) };
        }
        if !self.is_verifiable() {
            return Ok(());
        }
        self.compare_hash(&crate::hash::content_hash(self.dtype(), shape, bytes))
    }

    fn is_coral(&self) -> bool {
        self.description.content_hash.is_none() && is_coral_key(&self.key)
    }

    fn compare_hash(&self, found: &WeightHash) -> Result<()> {
        let expected = match &self.description.content_hash {
            Some(hash) => hash,
            None if self.key.is_content_hash() => &self.key,
            None => return Ok(()),
        };
        if found == expected { Ok(()) } else { Err(self.differs(found)) }
    }

    fn differs(&self, found: &WeightHash) -> Error {
        let base = self.base().map(|base| format!("; it is stored as a delta of `{}`", base.key)).unwrap_or_default();
        self.damaged(format!("its content hashes to {found}{base}"))
    }

    /// Compares the content with `bytes`.
    pub(crate) fn equals(&self, pages: &dyn Pages, dtype: Dtype, shape: &[u64], bytes: &[u8]) -> Result<bool> {
        if self.dtype() != dtype || self.metadata().shape != shape || self.length != bytes.len() as u64 {
            return Ok(false);
        }
        let mut at = 0;
        let mut same = true;
        self.for_each_piece(pages, |piece| {
            same &= piece == &bytes[at..at + piece.len()];
            at += piece.len();
            Ok(())
        })?;
        Ok(same)
    }
}

/// A filter as it is known here.
fn filter(step: &FilterStep) -> Option<Filter> {
    match (step.id, step.parameters.first()) {
        (1, Some(&level)) => Some(Filter::Deflate { level: level as u8 }),
        (2, Some(&size)) if size > 0 => Some(Filter::Shuffle { element_size: size as usize }),
        (3, None) => Some(Filter::Fletcher32),
        (32000, None) => Some(Filter::Lzf),
        (32015, level) => Some(Filter::Zstd { level: level.map_or(0, |level| *level as u8) }),
        _ => None,
    }
}

/// Keys that coral makes: an XXH3-64 in 16 hexadecimal digits.
fn is_coral_key(key: &WeightHash) -> bool {
    let key = key.as_str();
    key.len() == 16 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Sorts the stored chunks into their places; `None` when one belongs nowhere.
fn place(chunks: &Chunks, found: Vec<ChunkLocation>) -> Option<Vec<Option<StoredChunk>>> {
    if chunks.count() > found.len() as u64 {
        // Some are missing; the table must not grow with what a damaged shape claims.
        let most =
            found.iter().filter_map(|location| chunks.index_of(&location.coordinates)).max().map_or(0, |most| most + 1);
        if most > 4 * found.len() as u64 + 64 {
            return None;
        }
    }
    let mut places: Vec<Option<StoredChunk>> = Vec::new();
    places.resize_with(usize::try_from(chunks.count().min(4 * found.len() as u64 + 64)).ok()?, || None);
    for location in found {
        let ChunkLocation { offset, length, filter_mask, .. } = location;
        let index = usize::try_from(chunks.index_of(&location.coordinates)?).ok()?;
        *places.get_mut(index)? = Some(StoredChunk { offset, length, filter_mask });
    }
    Some(places)
}

/// Buffers for decoding, one set for each thread.
#[derive(Default)]
pub(crate) struct Decoder {
    encoded: Vec<u8>,
    raw: Vec<u8>,
    /// For the links of a chain.
    spare: Vec<Vec<u8>>,
}

impl Decoder {
    /// A buffer of this length, to be given back.
    fn buffer(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        resize(&mut buffer, length)?;
        Ok(buffer)
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    /// Decodes a chunk and copies what lies `skip` bytes into it to `out`.
    fn decode(
        &mut self,
        pages: &dyn Pages,
        location: &StoredChunk,
        filters: &[Filter],
        full: usize,
        skip: usize,
        out: &mut [u8],
    ) -> Result<()> {
        // No filter here makes a chunk much larger than it was.
        let most = (full as u64 + full as u64 / 8).saturating_add(4096);
        if location.length > most || full as u64 > densest(filters, location.length) {
            let problem = format!("it takes {} bytes for {full} bytes of data", location.length);
            return Err(Error::Filter { filter: "chunk index", problem });
        }
        resize(&mut self.encoded, location.length as usize)?;
        pages.read_at(location.offset, &mut self.encoded)?;
        if skip == 0 && out.len() == full {
            return with_scratch(|scratch| decode_chunk(filters, location.filter_mask, &self.encoded, out, scratch));
        }
        resize(&mut self.raw, full)?;
        with_scratch(|scratch| decode_chunk(filters, location.filter_mask, &self.encoded, &mut self.raw, scratch))?;
        out.copy_from_slice(&self.raw[skip..skip + out.len()]);
        Ok(())
    }
}

/// The most that can come out of so many stored bytes: deflate reaches 1032 to 1; zstd, the densest, repeats a byte
/// 131072 times in a block of 4.
fn densest(filters: &[Filter], stored: u64) -> u64 {
    let has_zstd = filters.iter().any(|filter| matches!(filter, Filter::Zstd { .. }));
    stored.saturating_mul(if has_zstd { 32_768 } else { 1100 }).saturating_add(1 << 20)
}

/// Makes a buffer so long; a forged length must not bring the program down.
fn resize(buffer: &mut Vec<u8>, length: usize) -> Result<()> {
    if buffer.try_reserve(length.saturating_sub(buffer.len())).is_err() {
        return Err(Error::Filter { filter: "chunk index", problem: format!("a chunk claims {length} bytes") });
    }
    buffer.resize(length, 0);
    Ok(())
}

/// A weight read when its data is asked for, from the commit it was found in.
pub(crate) struct Source {
    pub(crate) stored: Stored,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl WeightSource for Source {
    fn read(&self) -> Result<Bytes> {
        let bytes = self.stored.read(self.snapshot.as_ref(), 0..self.stored.length)?;
        self.stored.verify_bytes(&bytes)?;
        Ok(bytes.into())
    }

    fn read_rows(&self, rows: Range<u64>) -> Result<Bytes> {
        let count = self.stored.metadata().shape.first().copied().unwrap_or(1).max(1);
        let row = self.stored.length / count;
        Ok(self.stored.read(self.snapshot.as_ref(), rows.start * row..rows.end * row)?.into())
    }
}
