//! Storing: hashes and compresses on all cores, and writes in order of completion, holding a few chunks at a time.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use corallite_file::hdf5::Group;
use corallite_file::{AttributeValue, DataLayout, DatasetWriter, FilterStep, NewDataset, StoredChunk, Transaction};

use rayon::prelude::*;

use super::geometry::Chunks;
use super::library;
use super::stored::{Decoder, Stored, dataset_dims};
use crate::delta::Difference;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::filter::{Compression, Filter, Scratch, encode_chunk};
use crate::hash::{ContentHasher, WeightHash, content_hash};
use crate::tensor::WeightTensor;

/// Tensors below this size are kept in the object header when compression is on: an index costs more than it saves.
const COMPACT_BELOW: u64 = 512;
/// Chunks are handed to workers in batches of about this many bytes, so that small tensors cost no more than large.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_CHUNKS: usize = 256;

/// What is told about long work, and how it is stopped. All methods may be called from any thread.
pub trait Watch: Sync {
    /// So many bytes of input have been dealt with since the last call.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// So many bytes of input have been read since the last call. The same bytes may be read more than once: to hash them,
    /// and to store them.
    fn touched(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Whether to stop. The operation then ends with [`Error::Cancelled`] and nothing of it is kept.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// Stops when the flag is set.
impl Watch for AtomicBool {
    fn is_cancelled(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
}

/// What is written beside the data.
pub(crate) trait Describe: Send + Sync {
    /// The attributes of the dataset `key`, in the order in which they are stored.
    fn attributes(&self, key: &WeightHash) -> Vec<(&'static CStr, AttributeValue)>;
}

/// A dataset that is not in the file yet.
pub(crate) struct New {
    pub(crate) key: WeightHash,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Bytes,
    /// Where the data was written already.
    pub(crate) place: Option<u64>,
    /// What it is stored as the difference to.
    pub(crate) base: Option<(Difference, Arc<Stored>)>,
    pub(crate) description: Arc<dyn Describe>,
}

/// How one new weight is written.
struct Planned<'a> {
    new: &'a New,
    dims: Vec<u64>,
    item: u64,
    form: Form,
}

enum Form {
    /// In the object header.
    Compact,
    /// In one run.
    Contiguous,
    Chunked {
        chunks: Chunks,
        filters: Vec<FilterStep>,
    },
}

impl<'a> Planned<'a> {
    fn of(new: &'a New, compression: Compression) -> Result<Self> {
        let (dims, item) = dataset_dims(new.dtype, &new.shape)?;
        let length = new.data.len() as u64;
        let chunks = chunks(new, compression)?;
        let form = match chunks {
            Some(chunks) => {
                let filters = compression.pipeline(item as usize).iter().map(step).collect();
                Form::Chunked { chunks, filters }
            }
            None if length < COMPACT_BELOW && length > 0 && compression != Compression::None => Form::Compact,
            None => Form::Contiguous,
        };
        Ok(Self { new, dims, item, form })
    }

    fn chunks(&self) -> Option<&Chunks> {
        match &self.form {
            Form::Chunked { chunks, .. } => Some(chunks),
            _ => None,
        }
    }
}

/// The chunks that a weight is written in, unless it is written in one piece.
pub(super) fn chunks(new: &New, compression: Compression) -> Result<Option<Chunks>> {
    if compression == Compression::None || (new.data.len() as u64) < COMPACT_BELOW {
        return Ok(None);
    }
    let (dims, item) = dataset_dims(new.dtype, &new.shape)?;
    Ok(Chunks::new(&dims, item))
}

/// A filter as HDF5 records it. All are optional: a chunk that one does not make smaller leaves it out.
fn step(filter: &Filter) -> FilterStep {
    let parameters = match *filter {
        Filter::Shuffle { element_size } => vec![element_size as u32],
        Filter::Deflate { level } | Filter::Zstd { level } => vec![level.into()],
        Filter::Lzf | Filter::Fletcher32 => Vec::new(),
    };
    FilterStep { id: filter.id() as u16, name: filter.name().to_owned(), optional: true, parameters }
}

/// A chunk ready to be written.
struct Encoded {
    weight: usize,
    index: u64,
    filter_mask: u32,
    bytes: Vec<u8>,
    raw: u64,
}

/// The groups that datasets are written to.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a> {
    pub(crate) whole: &'a Group,
    /// For what is stored as a difference.
    pub(crate) deltas: &'a Group,
}

/// Writes new weights into their groups; says how many bytes their data takes.
pub(crate) fn write_all(
    transaction: &Transaction<'_>,
    groups: Groups<'_>,
    weights: &[New],
    compression: Compression,
    watch: &dyn Watch,
) -> Result<u64> {
    let planned = weights.iter().map(|new| Planned::of(new, compression)).collect::<Result<Vec<_>>>()?;
    let batches = batches(&planned);
    let mut writer = Writer::new(transaction, groups, &planned)?;
    for weight in planned.iter().filter(|weight| weight.chunks().is_none()) {
        stop_if_cancelled(watch)?;
        writer.write_whole(weight)?;
        if weight.new.place.is_none() {
            watch.advance(weight.new.data.len() as u64);
            watch.touched(weight.new.data.len() as u64);
        }
    }
    if batches.is_empty() {
        return Ok(writer.bytes);
    }
    let workers = thread::available_parallelism().map_or(1, usize::from).min(batches.len());
    if workers == 1 {
        let mut encoder = Encoder::new(transaction);
        for batch in &batches {
            stop_if_cancelled(watch)?;
            for chunk in encoder.encode(&planned, batch, compression)? {
                watch.advance(chunk.raw);
                watch.touched(chunk.raw);
                writer.write_chunk(&chunk)?;
            }
        }
        return Ok(writer.bytes);
    }
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Two finished batches for each worker bound what is held in memory.
        let (sender, receiver) = sync_channel(2 * workers);
        for _ in 0..workers {
            let (sender, planned, batches, next, stop) = (sender.clone(), &planned, &batches, &next, &stop);
            scope.spawn(move || work(transaction, planned, batches, compression, next, stop, &sender));
        }
        drop(sender);
        let outcome = receive(&receiver, &mut writer, watch);
        // Workers that wait for room end when the receiver goes.
        stop.store(true, Ordering::Relaxed);
        drop(receiver);
        outcome
    })?;
    Ok(writer.bytes)
}

fn work(
    transaction: &Transaction<'_>,
    planned: &[Planned<'_>],
    batches: &[Batch],
    compression: Compression,
    next: &AtomicUsize,
    stop: &AtomicBool,
    sender: &SyncSender<Result<Vec<Encoded>>>,
) {
    let mut encoder = Encoder::new(transaction);
    while !stop.load(Ordering::Relaxed) {
        let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
        if sender.send(encoder.encode(planned, batch, compression)).is_err() {
            return;
        }
    }
}

fn receive(receiver: &Receiver<Result<Vec<Encoded>>>, writer: &mut Writer<'_>, watch: &dyn Watch) -> Result<()> {
    for batch in receiver {
        stop_if_cancelled(watch)?;
        for chunk in batch? {
            watch.advance(chunk.raw);
            watch.touched(chunk.raw);
            writer.write_chunk(&chunk)?;
        }
    }
    Ok(())
}

pub(crate) fn stop_if_cancelled(watch: &dyn Watch) -> Result<()> {
    if watch.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Neighbouring chunks, as (weight, first chunk, count).
type Batch = Vec<(usize, u64, u64)>;

fn batches(planned: &[Planned<'_>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut open: Batch = Vec::new();
    let mut bytes = 0;
    for (weight, plan) in planned.iter().enumerate() {
        let Some(chunks) = plan.chunks() else { continue };
        for index in 0..chunks.count() {
            open.push((weight, index, 1));
            bytes += chunks.full();
            if bytes >= BATCH_BYTES || open.len() >= BATCH_CHUNKS {
                batches.push(std::mem::take(&mut open));
                bytes = 0;
            }
        }
    }
    if !open.is_empty() {
        batches.push(open);
    }
    batches
}

struct Encoder<'a> {
    transaction: &'a Transaction<'a>,
    scratch: Scratch,
    decoder: Decoder,
    padded: Vec<u8>,
    base: Vec<u8>,
}

impl<'a> Encoder<'a> {
    fn new(transaction: &'a Transaction<'a>) -> Self {
        let (scratch, decoder) = (Scratch::default(), Decoder::default());
        Self { transaction, scratch, decoder, padded: Vec::new(), base: Vec::new() }
    }

    fn encode(&mut self, planned: &[Planned<'_>], batch: &Batch, compression: Compression) -> Result<Vec<Encoded>> {
        let mut encoded = Vec::with_capacity(batch.len());
        for &(weight, first, count) in batch {
            let plan = &planned[weight];
            let Some(chunks) = plan.chunks() else { continue };
            for index in first..first + count {
                let chunk = chunks.get(index);
                let data = &plan.new.data[chunk.range.start as usize..chunk.range.end as usize];
                let full = chunks.full() as usize;
                let raw = if let Some((difference, base)) = &plan.new.base {
                    self.base.resize(data.len(), 0);
                    base.read_part(self.transaction, chunk.range.clone(), &mut self.base, &mut self.decoder)?;
                    self.padded.resize(data.len(), 0);
                    difference.encode(data, &self.base, &mut self.padded)?;
                    self.padded.resize(full, 0);
                    &self.padded
                } else if data.len() == full {
                    data
                } else {
                    // HDF5 stores the last chunk of an axis whole.
                    self.padded.clear();
                    self.padded.extend_from_slice(data);
                    self.padded.resize(full, 0);
                    &self.padded
                };
                let mut bytes = Vec::new();
                let filter_mask = encode_chunk(compression, plan.item as usize, raw, &mut self.scratch, &mut bytes)?;
                encoded.push(Encoded { weight, index, filter_mask, bytes, raw: data.len() as u64 });
            }
        }
        Ok(encoded)
    }
}

/// Whole numbers of so many bytes.
pub(super) fn unsigned(bytes: u64) -> Dtype {
    match bytes {
        2 => Dtype::U16,
        4 => Dtype::U32,
        8 => Dtype::U64,
        _ => Dtype::U8,
    }
}

/// Finds room for bytes and writes them.
fn place(transaction: &Transaction<'_>, data: &[u8]) -> Result<u64> {
    let offset = transaction.allocate(data.len() as u64)?;
    transaction.write_at(offset, data)?;
    Ok(offset)
}

/// What [`hash_all`] found out about a weight.
pub(crate) struct Hashed {
    pub(crate) data: Bytes,
    pub(crate) hash: WeightHash,
    /// Where its data was written meanwhile.
    pub(crate) place: Option<u64>,
}

/// Bytes that are hashed at a time, so that a mapped file need not be in memory whole.
const HASH_PIECE: usize = 32 << 20;

/// From this size on a weight is worth writing while it is hashed.
const OVERLAP_FROM: u64 = 256 << 10;

/// Hashes weights on all cores. With `overlap`, large ones are written as they are while they are hashed, so that disk
/// and processor do not wait for each other; what then turns out to be stored already has to be released.
pub(crate) fn hash_all(
    transaction: &Transaction<'_>,
    weights: &[&WeightTensor],
    overlap: bool,
    watch: &dyn Watch,
) -> Result<Vec<Hashed>> {
    let is_large = |weight: &WeightTensor| overlap && weight.nbytes() >= OVERLAP_FROM;
    let mut hashed: Vec<Option<Hashed>> = weights
        .par_iter()
        .map(|weight| {
            stop_if_cancelled(watch)?;
            if is_large(weight) {
                return Ok(None);
            }
            let data = weight.data()?;
            let mut hasher = ContentHasher::new(weight.dtype(), weight.shape());
            for piece in data.chunks(HASH_PIECE) {
                hasher.update(piece);
                watch.touched(piece.len() as u64);
            }
            Ok(Some(Hashed { data, hash: hasher.finish(), place: None }))
        })
        .collect::<Result<_>>()?;
    for (weight, hashed) in weights.iter().zip(&mut hashed).filter(|(weight, _)| is_large(weight)) {
        stop_if_cancelled(watch)?;
        let data = weight.data()?;
        let (place, hash) =
            rayon::join(|| place(transaction, &data), || content_hash(weight.dtype(), weight.shape(), &data));
        watch.advance(data.len() as u64);
        watch.touched(data.len() as u64);
        *hashed = Some(Hashed { place: Some(place?), hash, data });
    }
    Ok(hashed.into_iter().flatten().collect())
}

/// Writes data to its place, and each dataset when all its data has one.
struct Writer<'a> {
    transaction: &'a Transaction<'a>,
    groups: Groups<'a>,
    planned: &'a [Planned<'a>],
    datasets: DatasetWriter<'a>,
    /// What of the weights begun was written, and how many chunks are still to come.
    open: HashMap<usize, (Vec<StoredChunk>, usize)>,
    /// Bytes of data written.
    bytes: u64,
}

impl<'a> Writer<'a> {
    fn new(transaction: &'a Transaction<'a>, groups: Groups<'a>, planned: &'a [Planned<'a>]) -> Result<Self> {
        let datasets = transaction.create_datasets()?;
        Ok(Self { transaction, groups, planned, datasets, open: HashMap::new(), bytes: 0 })
    }

    fn write_chunk(&mut self, chunk: &Encoded) -> Result<()> {
        let plan = &self.planned[chunk.weight];
        let Form::Chunked { chunks, filters } = &plan.form else { return Ok(()) };
        let length = chunk.bytes.len() as u64;
        let offset = self.transaction.allocate_encoded(length)?;
        self.transaction.write_at(offset, &chunk.bytes)?;
        self.bytes += length;
        let stored = StoredChunk { offset, length, filter_mask: chunk.filter_mask };
        let count = chunks.count() as usize;
        let (places, left) = self.open.entry(chunk.weight).or_insert_with(|| (vec![stored; count], count));
        places[chunk.index as usize] = stored;
        *left -= 1;
        if *left == 0
            && let Some((places, _)) = self.open.remove(&chunk.weight)
        {
            return self.create(plan, DataLayout::Chunked { dims: chunks.dims(), filters, chunks: &places });
        }
        Ok(())
    }

    /// Writes a weight that is not chunked.
    fn write_whole(&mut self, plan: &Planned<'_>) -> Result<()> {
        let data = &plan.new.data;
        self.bytes += data.len() as u64;
        if matches!(plan.form, Form::Compact) {
            return self.create(plan, DataLayout::Compact(data));
        }
        let mut offset = plan.new.place;
        if offset.is_none() && !data.is_empty() {
            offset = Some(place(self.transaction, data)?);
        }
        self.create(plan, DataLayout::Contiguous(offset))
    }

    fn create(&mut self, plan: &Planned<'_>, layout: DataLayout<'_>) -> Result<()> {
        let New { key, description, dtype, base, .. } = plan.new;
        let (group, dtype) = match base {
            Some(_) => (self.groups.deltas, unsigned(plan.item)),
            None => (self.groups.whole, *dtype),
        };
        let datatype = library::datatype_message(dtype)
            .map_err(|error| self.transaction.explain(&format!("create the weight {key}"), &error))?;
        let attributes = description.attributes(key);
        let item_size = plan.item as u32;
        let dataset = NewDataset { datatype: &datatype, item_size, dims: &plan.dims, layout, attributes: &attributes };
        Ok(self.datasets.create(group, key.as_str(), &dataset)?)
    }
}
