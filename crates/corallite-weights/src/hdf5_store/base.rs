//! Choosing what a new weight is stored as the difference to.
//!
//! Candidates are weights of the same shape and dtype in some other checkpoints, the last ones as a rule: first those of the same name, then, among
//! all others, those whose *sketch* (some elements at fixed places) is nearest. A few samples of the tensor decide: they are
//! encoded as they are, and as differences to each candidate.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use corallite_file::Transaction;
use parking_lot::Mutex;

use super::attributes::DeltaOf;
use super::geometry::Chunks;
use super::stored::{Decoder, Stored, dataset_dims};
use crate::checkpoint::{Checkpoint, CheckpointTensor};
use crate::delta::{Difference, Order, OrderChoice};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::filter::{Compression, Scratch, encode_chunk};
use crate::hash::WeightHash;

/// So many weights of one shape have sketches made.
const SKETCHED: usize = 64;
/// Candidates of the same name that are tried.
const NAMESAKES: usize = 2;
/// Below this a weight is stored whole: what describes a delta takes about as much.
const SMALLEST: u64 = 4096;
/// Bytes that the attributes of a delta take more than those of a weight.
const OVERHEAD: usize = 512;
/// Bytes of a sample.
const SAMPLE: u64 = 32 << 10;
/// Elements of a sketch.
const SKETCH: u64 = 256;
/// A delta of less than this share of the weight's own size is not worth looking for a better one.
const GOOD: f64 = 0.7;
/// A delta has to save at least this share, since reading it reads its base.
const WORTH: f64 = 0.98;

/// What a weight is stored as the difference to.
pub(crate) struct Chosen {
    pub(crate) difference: Difference,
    pub(crate) delta: DeltaOf,
    pub(crate) base: Arc<Stored>,
}

/// The weights that others may be stored as differences to.
pub(crate) struct Bases<'a> {
    transaction: &'a Transaction<'a>,
    compression: Compression,
    /// The longest chain that is made.
    longest: usize,
    /// Weights that are no bases.
    without: HashSet<WeightHash>,
    by_name: HashMap<String, Vec<CheckpointTensor>>,
    by_kind: HashMap<(Dtype, Vec<u64>), Vec<WeightHash>>,
    /// Elements of each candidate at fixed places; `None` for one that cannot be read.
    sketches: Mutex<HashMap<WeightHash, Option<Arc<[u8]>>>>,
}

#[derive(Default)]
pub(crate) struct Workspace {
    scratch: Scratch,
    decoder: Decoder,
    differences: Vec<u8>,
    encoded: Vec<u8>,
}

impl<'a> Bases<'a> {
    /// So many checkpoints are looked through, the last ones.
    pub(crate) const RECENT: usize = 8;

    /// Takes the weights of these checkpoints, the first ones first, except those in `without`.
    pub(crate) fn new(
        transaction: &'a Transaction<'a>,
        compression: Compression,
        longest: usize,
        checkpoints: &[Checkpoint],
        without: &HashSet<WeightHash>,
    ) -> Self {
        let mut by_name: HashMap<String, Vec<CheckpointTensor>> = HashMap::new();
        let mut by_kind: HashMap<(Dtype, Vec<u64>), Vec<WeightHash>> = HashMap::new();
        let mut seen = HashSet::new();
        let taken = if longest > 0 && compression != Compression::None { checkpoints } else { &[] };
        for tensor in taken.iter().flat_map(Checkpoint::tensors) {
            let is_large = tensor.dtype.byte_len(&tensor.shape).is_ok_and(|length| length >= SMALLEST);
            if !is_large || without.contains(&tensor.key) {
                continue;
            }
            let namesakes = by_name.entry(tensor.name.clone()).or_default();
            if namesakes.iter().all(|other| other.key != tensor.key) {
                namesakes.push(tensor.clone());
            }
            if seen.insert(tensor.key.clone()) {
                by_kind.entry((tensor.dtype, tensor.shape.clone())).or_default().push(tensor.key.clone());
            }
        }
        let (without, sketches) = (without.clone(), Mutex::default());
        Self { transaction, compression, longest, without, by_name, by_kind, sketches }
    }

    /// The base of which the difference is smallest; `None` when the weight is better stored whole.
    pub(crate) fn choose(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        data: &[u8],
        workspace: &mut Workspace,
    ) -> Result<Option<Chosen>> {
        let (dims, item) = dataset_dims(dtype, shape)?;
        if (data.len() as u64) < SMALLEST || item > 8 || self.by_kind.is_empty() {
            return Ok(None);
        }
        let Some(others) = self.by_kind.get(&(dtype, shape.to_vec())) else { return Ok(None) };
        let Some(chunks) = Chunks::new(&dims, item) else { return Ok(None) };
        let samples = samples(&chunks);
        let mut whole = 0;
        for part in samples.iter().flat_map(|sample| &sample.parts) {
            whole += self.size(item, slice(data, part), workspace)?;
        }
        let mut best: Option<(usize, Order, Arc<Stored>)> = None;
        let is_good = |best: &Option<(usize, Order, Arc<Stored>)>| {
            best.as_ref().is_some_and(|(size, ..)| (*size as f64) < whole as f64 * GOOD)
        };
        let mut tried = HashSet::new();
        let namesakes = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        let namesakes = namesakes.iter().filter(|tensor| tensor.dtype == dtype && tensor.shape == shape);
        for key in namesakes.take(NAMESAKES).map(|tensor| &tensor.key) {
            if !is_good(&best) {
                self.try_base(key, dtype, item, &samples, data, &mut tried, &mut best, workspace)?;
            }
        }
        if !is_good(&best)
            && let Some(key) = self.nearest(others, dtype, &chunks, data, &tried, workspace)?
        {
            self.try_base(&key, dtype, item, &samples, data, &mut tried, &mut best, workspace)?;
        }
        let Some((size, order, base)) = best else { return Ok(None) };
        // What the samples say of the whole.
        let parts = samples.iter().flat_map(|sample| &sample.parts);
        let sampled: u64 = parts.map(|range| range.end - range.start).sum();
        let scale = data.len() as f64 / sampled as f64;
        let (size, whole) = (size as f64 * scale + OVERHEAD as f64, whole as f64 * scale);
        let Some(difference) = Difference::new(dtype, order).filter(|_| size < whole * WORTH) else { return Ok(None) };
        let delta = DeltaOf { reference: base.key.clone(), order, chunk: chunks.dims().to_vec() };
        Ok(Some(Chosen { difference, delta, base }))
    }

    /// Keeps `key`, or what its chain begins with, as the base if the difference to it is the smallest yet.
    #[allow(clippy::too_many_arguments)]
    fn try_base(
        &self,
        key: &WeightHash,
        dtype: Dtype,
        item: u64,
        samples: &[Sample],
        data: &[u8],
        tried: &mut HashSet<WeightHash>,
        best: &mut Option<(usize, Order, Arc<Stored>)>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let Some(mut base) = unless_damaged(Stored::find(self.transaction, self.transaction.file(), key))?.flatten()
        else {
            return Ok(());
        };
        if base.chain() >= self.longest {
            while let Some(next) = base.base() {
                base = next.clone();
            }
        }
        // Of what is read whole every chunk would cost that.
        if base.is_read_whole() || self.without.contains(&base.key) || !tried.insert(base.key.clone()) {
            return Ok(());
        }
        let Some(difference) = Difference::new(dtype, Order::Natural) else { return Ok(()) };
        let (mut size, mut choice) = (0, OrderChoice::new(dtype));
        let mut elements = Vec::new();
        for Sample { chunk, parts } in samples {
            elements.resize((chunk.end - chunk.start) as usize, 0);
            let read = base.read_part(self.transaction, chunk.clone(), &mut elements, &mut workspace.decoder);
            if unless_damaged(read)?.is_none() {
                return Ok(());
            }
            choice.look_at(slice(data, chunk), &elements)?;
            for part in parts {
                let base = slice(&elements, &(part.start - chunk.start..part.end - chunk.start));
                let mut differences = std::mem::take(&mut workspace.differences);
                differences.resize(base.len(), 0);
                difference.encode(slice(data, part), base, &mut differences)?;
                size += self.size(item, &differences, workspace)?;
                workspace.differences = differences;
            }
        }
        let size = (size as f64 * choice.share()) as usize;
        if best.as_ref().is_none_or(|(smallest, ..)| size < *smallest) {
            *best = Some((size, choice.order(), Arc::new(base)));
        }
        Ok(())
    }

    /// Bytes that these become.
    fn size(&self, item: u64, bytes: &[u8], workspace: &mut Workspace) -> Result<usize> {
        let Workspace { scratch, encoded, .. } = workspace;
        encode_chunk(self.compression, item as usize, bytes, scratch, encoded)?;
        Ok(encoded.len())
    }

    /// The weight whose elements at the places of the sketch are nearest.
    fn nearest(
        &self,
        keys: &[WeightHash],
        dtype: Dtype,
        chunks: &Chunks,
        data: &[u8],
        tried: &HashSet<WeightHash>,
        workspace: &mut Workspace,
    ) -> Result<Option<WeightHash>> {
        let place = sketch_place(chunks);
        let weight = &data[place.start as usize..place.end as usize];
        let Some(difference) = Difference::new(dtype, Order::Natural) else { return Ok(None) };
        let mut nearest: Option<(u64, &WeightHash)> = None;
        for key in keys.iter().filter(|key| !tried.contains(*key)).take(SKETCHED) {
            let Some(sketch) = self.sketch(key, &place, &mut workspace.decoder)? else { continue };
            let mut differences = vec![0; weight.len()];
            difference.encode(weight, &sketch, &mut differences)?;
            let distance = bits(&differences, difference.width());
            if nearest.is_none_or(|(least, _)| distance < least) {
                nearest = Some((distance, key));
            }
        }
        // As far away as chance has it: half of the bits.
        let far = weight.len() as u64 * 8 / 2;
        Ok(nearest.filter(|(distance, _)| *distance < far).map(|(_, key)| key.clone()))
    }

    fn sketch(&self, key: &WeightHash, place: &Range<u64>, decoder: &mut Decoder) -> Result<Option<Arc<[u8]>>> {
        if let Some(known) = self.sketches.lock().get(key) {
            return Ok(known.clone());
        }
        let found = unless_damaged(Stored::find(self.transaction, self.transaction.file(), key))?.flatten();
        let mut sketch = None;
        if let Some(stored) = found.filter(|stored| !stored.is_read_whole()) {
            let mut elements = vec![0; (place.end - place.start) as usize];
            let read = stored.read_part(self.transaction, place.clone(), &mut elements, decoder);
            sketch = unless_damaged(read)?.map(|()| elements.into());
        }
        self.sketches.lock().insert(key.clone(), sketch.clone());
        Ok(sketch)
    }
}

/// A damaged weight is no base, and no reason not to store another.
fn unless_damaged<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_of_one_weight() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A chunk that is looked at, all of which has to be decoded to read any of it, and the parts of it that are encoded.
struct Sample {
    chunk: Range<u64>,
    parts: Vec<Range<u64>>,
}

fn samples(chunks: &Chunks) -> Vec<Sample> {
    let places = OrderChoice::places(chunks.count()).into_iter();
    let samples = places.map(|index| {
        let chunk = chunks.get(index).range;
        let parts = if chunk.end - chunk.start <= 2 * SAMPLE {
            vec![chunk.clone()]
        } else {
            // Whole elements, whatever their size.
            vec![chunk.start..chunk.start + SAMPLE, chunk.end - SAMPLE..chunk.end]
        };
        Sample { chunk, parts }
    });
    samples.collect()
}

fn slice<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// Where a tensor's sketch is taken: in the chunk that is sampled, too.
fn sketch_place(chunks: &Chunks) -> Range<u64> {
    let range = chunks.get(chunks.count() / 2).range;
    range.start..range.end.min(range.start + SKETCH * 8)
}

/// Bits that the differences take without their leading zeros.
fn bits(differences: &[u8], width: usize) -> u64 {
    differences
        .chunks_exact(width)
        .map(|bytes| {
            let mut word = [0; 8];
            word[..width].copy_from_slice(bytes);
            u64::from(64 - u64::from_le_bytes(word).leading_zeros())
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_parts_of_the_tensor_in_whole_elements() {
        for shape in [vec![1024], vec![100, 1000], vec![3000, 3000], vec![7, 50_001], vec![20_000_000]] {
            for item in [1, 2, 4, 8] {
                let chunks = Chunks::new(&shape, item).unwrap();
                let length = shape.iter().product::<u64>() * item;
                let parts = samples(&chunks).into_iter().flat_map(|sample| sample.parts);
                for range in parts.chain([sketch_place(&chunks)]) {
                    assert!(range.start < range.end && range.end <= length);
                    assert!(range.start.is_multiple_of(item) && range.end.is_multiple_of(item));
                }
            }
        }
    }

    #[test]
    fn the_distance_counts_bits_that_differ_in_size() {
        assert_eq!(bits(&[0, 0, 0, 0], 4), 0);
        assert_eq!(bits(&[0xff, 1, 0, 0, 1, 0, 0, 0], 4), 10);
        assert_eq!(bits(&[1, 2, 4], 1), 6);
    }
}
