//! The filters between a tensor's bytes and a chunk of an HDF5 dataset, without libhdf5.
//!
//! Chunks are encoded and decoded here so that it can happen on every core, outside libhdf5's lock.
//! What [`encode_chunk`] writes is what HDF5's own filters could have written: any reader inflates it
//! with no plugin, [`Compression::Zstd`] excepted. What [`decode_chunk`] reads may come from anywhere and is trusted in nothing; it
//! never allocates more than the raw chunk and a few bytes.

mod bits;
mod blocks;
#[allow(unsafe_code, reason = "one bound is checked for many rounds of look-ups")]
mod chains;
#[allow(unsafe_code, reason = "what a processor has is found out when the program runs")]
mod cpu;
mod deflate;
mod fletcher32;
mod huffman;
mod index;
mod inflate;
mod lzf;
mod packer;
mod repeats;
mod runs;
mod shuffle;
mod sketch;
mod tables;
mod vector;
mod zstd;
mod zstd_frame;

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

pub use fletcher32::fletcher32;
pub(crate) use huffman::information_in_bits;
use shuffle::unshuffle_pieces;
pub use shuffle::{shuffle, unshuffle};

/// The level of gzip compression, 1 (fast) to 9 (small).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GzipLevel(u8);

impl GzipLevel {
    /// The level as a number; `None` outside 1 to 9.
    pub const fn new(level: u8) -> Option<Self> {
        if matches!(level, 1..=9) { Some(Self(level)) } else { None }
    }

    /// The level, 1 to 9.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for GzipLevel {
    /// 4, as in coral.
    fn default() -> Self {
        Self(4)
    }
}

/// The level at which [`Compression::Planes`] looks for sequences that repeat, and which it records.
const PLANES_LEVEL: GzipLevel = GzipLevel(1);

/// How a new dataset is compressed.
///
/// ```
/// use corallite_weights::Compression;
/// assert_eq!("planes".parse::<Compression>()?, Compression::default());
/// assert_eq!("gzip".parse::<Compression>()?.to_string(), "gzip:4");
/// assert!("gzip:10".parse::<Compression>().is_err());
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// `shuffle` + `gzip`, by an encoder that knows what float bytes look like. The fast one of two: sequences that repeat
    /// are looked for at level 1.
    #[default]
    Planes,
    /// The same, with sequences that repeat looked for at this level.
    Gzip(GzipLevel),
    /// `shuffle` + `zstd` (filter 32015), for readers that have the package `hdf5plugin`: the fastest of those that make
    /// weights smaller, and a tenth of a percent larger than [`Compression::Planes`].
    Zstd,
    /// `shuffle` + `lzf`, which every h5py reads.
    Lzf,
    /// Bytes as they are, which can be mapped into memory.
    None,
}

impl Compression {
    /// The HDF5 filter pipeline of a dataset with this compression and element size (in bytes).
    /// The bits of [`encode_chunk`]'s mask count along it. Elements of one byte need no shuffle.
    pub fn pipeline(self, element_size: usize) -> Vec<Filter> {
        let coder = match self {
            Self::Planes => Filter::Deflate { level: PLANES_LEVEL.get() },
            Self::Gzip(level) => Filter::Deflate { level: level.get() },
            Self::Zstd => Filter::Zstd { level: zstd::LEVEL },
            Self::Lzf => Filter::Lzf,
            Self::None => return Vec::new(),
        };
        if element_size > 1 { vec![Filter::Shuffle { element_size }, coder] } else { vec![coder] }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let level = |digits: &str| digits.parse().ok().and_then(GzipLevel::new).map(Self::Gzip);
        match text {
            "planes" => Some(Self::Planes),
            "gzip" => Some(Self::Gzip(GzipLevel::default())),
            "zstd" => Some(Self::Zstd),
            "lzf" => Some(Self::Lzf),
            "none" => Some(Self::None),
            other => other.strip_prefix("gzip:").and_then(level),
        }
        .ok_or_else(|| {
            let text: String = text.chars().take(40).collect();
            Error::unsupported(format!("compression `{text}`; use planes, gzip, gzip:1 to gzip:9, zstd, lzf or none"))
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planes => f.write_str("planes"),
            Self::Gzip(level) => write!(f, "gzip:{}", level.get()),
            Self::Zstd => f.write_str("zstd"),
            Self::Lzf => f.write_str("lzf"),
            Self::None => f.write_str("none"),
        }
    }
}

/// One filter of a dataset's pipeline, in the order in which it is applied when writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// HDF5 filter 2: groups the first bytes of all elements, then the second, and so on.
    Shuffle {
        /// Bytes per element; 1 does nothing.
        element_size: usize,
    },
    /// HDF5 filter 1: a zlib stream.
    Deflate {
        /// The level it was written with. Decoding does not need it.
        level: u8,
    },
    /// HDF5 filter 32000, h5py's: an LZF stream.
    Lzf,
    /// HDF5 filter 32015, `hdf5plugin`'s: zstd frames.
    Zstd {
        /// The level it was written with. Decoding does not need it.
        level: u8,
    },
    /// HDF5 filter 3: a checksum of four bytes after the data.
    Fletcher32,
}

impl Filter {
    /// HDF5's number for this filter.
    pub const fn id(self) -> u32 {
        match self {
            Self::Deflate { .. } => 1,
            Self::Shuffle { .. } => 2,
            Self::Fletcher32 => 3,
            Self::Lzf => 32000,
            Self::Zstd { .. } => 32015,
        }
    }

    /// The name under which it is registered.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deflate { .. } => "deflate",
            Self::Shuffle { .. } => "shuffle",
            Self::Fletcher32 => "fletcher32",
            Self::Lzf => "lzf",
            Self::Zstd { .. } => "zstd",
        }
    }
}

/// Buffers and coder state that are worth keeping from one chunk to the next. One per thread.
#[derive(Default)]
pub struct Scratch {
    shuffled: Vec<u8>,
    stage: Vec<u8>,
    next: Vec<u8>,
    deflater: Option<Box<deflate::Deflater>>,
    lzf: lzf::Table,
    zstd: zstd::Zstd,
    inflater: Inflater,
}

/// The two inflaters: ours, and the general one for what it does not know.
#[derive(Default)]
struct Inflater {
    tables: inflate::Tables,
    stored: Vec<inflate::Stored>,
    general: Option<libdeflater::Decompressor>,
}

impl Scratch {
    /// Empty; grows with the chunks it is used for.
    pub fn new() -> Self {
        Self::default()
    }
}

/// What a thread keeps at most between two calls of [`with_scratch`], in bytes: that of chunks of some MiB.
const MOST_KEPT: usize = 8 << 20;

/// Calls `work` with a [`Scratch`] that the thread keeps, unless it has become large: for those who decode now and then.
///
/// ```
/// use corallite_weights::filter::{Compression, decode_chunk, encode_chunk, with_scratch};
/// let (raw, mut encoded, mut back) = ([7; 4096], Vec::new(), [0; 4096]);
/// let mask = with_scratch(|scratch| encode_chunk(Compression::Planes, 4, &raw, scratch, &mut encoded))?;
/// with_scratch(|scratch| decode_chunk(&Compression::Planes.pipeline(4), mask, &encoded, &mut back, scratch))?;
/// assert_eq!(back, raw);
/// # Ok::<(), corallite_weights::Error>(())
/// ```
pub fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static KEPT: RefCell<Scratch> = RefCell::default();
    }
    KEPT.with(|kept| {
        // Taken already when `work` itself asks for one, or waits for other work that does.
        let Ok(mut scratch) = kept.try_borrow_mut() else { return work(&mut Scratch::new()) };
        let result = work(&mut scratch);
        if scratch.shuffled.capacity() + scratch.stage.capacity() + scratch.next.capacity() > MOST_KEPT {
            *scratch = Scratch::new();
        }
        result
    })
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// Encodes one chunk as the pipeline of `compression` and `element_size` does, into `out`, and
/// returns HDF5's filter mask: bit *i* set means that filter *i* of the pipeline was left out.
///
/// A chunk that does not get smaller is stored raw with every filter masked, which every reader
/// understands and which is the fastest to read.
///
/// ```
/// use corallite_weights::filter::{Compression, Scratch, decode_chunk, encode_chunk};
/// let (raw, mut scratch, mut out) = ([7u8; 4096], Scratch::new(), Vec::new());
/// let mask = encode_chunk(Compression::default(), 4, &raw, &mut scratch, &mut out)?;
/// assert!(mask == 0 && out.len() < 100);
/// let mut back = [0u8; 4096];
/// decode_chunk(&Compression::default().pipeline(4), mask, &out, &mut back, &mut scratch)?;
/// assert_eq!(back, raw);
/// # Ok::<(), corallite_weights::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unsupported`] for an element size of 0 or a chunk of 4 GiB or more, which HDF5 does not allow.
pub fn encode_chunk(
    compression: Compression,
    element_size: usize,
    raw: &[u8],
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<u32> {
    out.clear();
    if element_size == 0 || raw.len() as u64 > u64::from(u32::MAX) {
        let what = format!("a chunk of {} bytes in elements of {element_size}; HDF5 wants less than 4 GiB", raw.len());
        return Err(Error::unsupported(what));
    }
    let planes = if element_size == 1 || compression == Compression::None {
        raw
    } else {
        scratch.shuffled.resize(raw.len(), 0);
        shuffle(element_size, raw, &mut scratch.shuffled);
        scratch.shuffled.as_slice()
    };
    let smaller = match compression {
        Compression::Planes | Compression::Gzip(_) => {
            let level = if let Compression::Gzip(level) = compression { level } else { PLANES_LEVEL };
            let plane_len = raw.len() / element_size;
            deflate::zlib(planes, plane_len, level, scratch.deflater.get_or_insert_default(), out)?;
            out.len() < raw.len()
        }
        Compression::Zstd => {
            scratch.zstd.compress(planes, raw.len() / element_size, out)?;
            out.len() < raw.len()
        }
        Compression::Lzf => lzf::compress(planes, &mut scratch.lzf, out),
        Compression::None => false,
    };
    if smaller {
        return Ok(0);
    }
    out.clear();
    out.extend_from_slice(raw);
    let filters = compression.pipeline(element_size).len();
    Ok((1 << filters) - 1)
}

/// Decodes one chunk. `filters` is the dataset's pipeline, `filter_mask` the chunk's own mask, and
/// `out` exactly as long as the raw chunk. On an error the content of `out` is unspecified.
///
/// # Errors
/// [`Error::Filter`] when the chunk does not decode to exactly `out.len()` bytes or its checksum differs;
/// [`Error::Unsupported`] for more than 32 filters or two compressions of one chunk.
pub fn decode_chunk(
    filters: &[Filter],
    filter_mask: u32,
    encoded: &[u8],
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<()> {
    if filters.len() > 32 {
        return Err(Error::unsupported(format!("a pipeline of {} filters; HDF5 allows 32", filters.len())));
    }
    let active: Vec<Filter> = (0u32..)
        .zip(filters)
        .filter(|(i, filter)| filter_mask >> i & 1 == 0 && !matches!(filter, Filter::Shuffle { element_size: 1 }))
        .map(|(_, filter)| *filter)
        .collect();
    let Scratch { stage, next, inflater, zstd, .. } = scratch;
    // The bytes between two filters: `encoded` at first, then `stage`. A checksum is cut off by lowering `len`.
    let mut staged = false;
    let mut len = encoded.len();
    for (i, filter) in active.iter().enumerate().rev() {
        let input = if staged { &stage[..len] } else { &encoded[..len] };
        if let Filter::Fletcher32 = filter {
            len = fletcher32::verify(input)?.len();
            continue;
        }
        let want = len_before(&active[..i], out.len())?;
        let last = i == 0;
        if let (Filter::Deflate { .. }, [Filter::Shuffle { element_size: size @ (2 | 4 | 8 | 16) }]) =
            (filter, &active[..i])
        {
            // The usual pair, in one go: what is stored as it is gets no copy on the way.
            return inflate_shuffled(*size, input, out, next, inflater);
        }
        let target: &mut [u8] = if last { &mut *out } else { room_for(next, want) };
        apply(*filter, input, target, inflater, zstd)?;
        if last {
            return Ok(());
        }
        std::mem::swap(stage, next);
        (staged, len) = (true, want);
    }
    if len != out.len() {
        return Err(Error::filter("none", format!("the chunk has {len} bytes and its raw size is {}", out.len())));
    }
    out.copy_from_slice(if staged { &stage[..len] } else { &encoded[..len] });
    Ok(())
}

/// The number of bytes that go into the filter after `earlier`, for a raw chunk of `raw` bytes.
fn len_before(earlier: &[Filter], raw: usize) -> Result<usize> {
    earlier.iter().try_fold(raw, |len, filter| match filter {
        Filter::Shuffle { .. } => Ok(len),
        Filter::Fletcher32 => len.checked_add(4).ok_or_else(|| Error::filter("fletcher32", "the chunk is too long")),
        Filter::Deflate { .. } | Filter::Lzf | Filter::Zstd { .. } => {
            Err(Error::unsupported("chunks that were compressed and filtered again; rewrite the dataset with h5repack"))
        }
    })
}

/// So many bytes of `buffer`, whatever they are. Zeros that the system gives are not written again.
fn room_for(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        *buffer = Vec::new();
        *buffer = vec![0; len];
    }
    &mut buffer[..len]
}

/// Inflates `input` and undoes the shuffle of the bytes, by way of `planes`.
fn inflate_shuffled(
    element_size: usize,
    input: &[u8],
    out: &mut [u8],
    planes: &mut Vec<u8>,
    inflater: &mut Inflater,
) -> Result<()> {
    let planes = room_for(planes, out.len());
    let Inflater { tables, stored, .. } = inflater;
    if !inflate::zlib_in_parts(input, planes, tables, stored) {
        inflater.inflate_any(input, planes)?;
        unshuffle(element_size, planes, out);
        return Ok(());
    }
    let piece = |at: usize| {
        let next = stored.partition_point(|part| part.start <= at);
        match next.checked_sub(1).and_then(|last| stored.get(last)) {
            Some(part) if at < part.start + part.len => &input[part.from..part.from + part.len][at - part.start..],
            _ => &planes[at..stored.get(next).map_or(planes.len(), |part| part.start)],
        }
    };
    unshuffle_pieces(element_size, piece, out);
    Ok(())
}

impl Inflater {
    /// Inflates a stream of any kind to exactly `target`.
    fn inflate_any(&mut self, input: &[u8], target: &mut [u8]) -> Result<()> {
        let general = self.general.get_or_insert_with(libdeflater::Decompressor::new);
        match general.zlib_decompress(input, target) {
            Ok(len) if len == target.len() => Ok(()),
            Ok(len) => Err(Error::filter("deflate", format!("{len} bytes instead of {}", target.len()))),
            Err(error) => Err(Error::filter("deflate", error.to_string())),
        }
    }
}

fn apply(
    filter: Filter,
    input: &[u8],
    target: &mut [u8],
    inflater: &mut Inflater,
    zstd: &mut zstd::Zstd,
) -> Result<()> {
    match filter {
        Filter::Shuffle { element_size } => {
            if input.len() != target.len() || element_size == 0 {
                let problem = format!("{} bytes of {element_size}-byte elements for {}", input.len(), target.len());
                return Err(Error::filter("shuffle", problem));
            }
            unshuffle(element_size, input, target);
            Ok(())
        }
        Filter::Deflate { .. } => {
            if inflate::zlib(input, target, &mut inflater.tables) {
                return Ok(());
            }
            inflater.inflate_any(input, target)
        }
        Filter::Lzf => lzf::decompress(input, target),
        Filter::Zstd { .. } => zstd.decompress(input, target),
        Filter::Fletcher32 => Err(Error::filter("fletcher32", "it is verified, not applied")),
    }
}

#[cfg(test)]
mod tests;
