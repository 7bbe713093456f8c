//! Direct chunks and direct pages: where the bytes of a dataset lie, and writing chunks already encoded.
//!
//! Chunks are encoded and decoded outside libhdf5, in parallel; libhdf5 keeps the index. All functions take
//! libhdf5's lock for the time of one call.

use std::ffi::{c_int, c_uint, c_void};

use hdf5_metno::Dataset;
use hdf5_metno::sync::sync;
use hdf5_metno_sys::h5d::{H5Dchunk_iter, H5Dwrite_chunk};
use hdf5_metno_sys::h5p::H5P_DEFAULT;

/// Where a chunk lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkLocation {
    /// The coordinates of the chunk's first element.
    pub coordinates: Vec<u64>,
    /// Bit i is set when filter i of the pipeline was skipped.
    pub filter_mask: u32,
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes stored.
    pub length: u64,
}

/// Stores an encoded chunk. `coordinates` are those of its first element, one for each dimension.
///
/// # Errors
///
/// What libhdf5 reports, for example for coordinates outside the dataset.
pub fn write_chunk(dataset: &Dataset, coordinates: &[u64], filter_mask: u32, bytes: &[u8]) -> hdf5_metno::Result<()> {
    if coordinates.len() != dataset.ndim() {
        let text = format!("{} coordinates for a dataset of rank {}", coordinates.len(), dataset.ndim());
        return Err(hdf5_metno::Error::Internal(text));
    }
    sync(|| {
        // SAFETY: the dataset is open, the coordinates are as many as its rank, and the buffer has the given length.
        let status = unsafe {
            H5Dwrite_chunk(
                dataset.id(),
                H5P_DEFAULT,
                filter_mask,
                coordinates.as_ptr(),
                bytes.len(),
                bytes.as_ptr().cast::<c_void>(),
            )
        };
        if status < 0 { Err(hdf5_metno::Error::query()?) } else { Ok(()) }
    })
}

/// Where every stored chunk of a dataset lies. Costs one pass over the chunk index.
///
/// # Errors
///
/// What libhdf5 reports, for example for a damaged index.
pub fn chunk_locations(dataset: &Dataset) -> hdf5_metno::Result<Vec<ChunkLocation>> {
    struct Gather {
        rank: usize,
        found: Vec<ChunkLocation>,
    }

    unsafe extern "C" fn each(
        coordinates: *const u64,
        filter_mask: c_uint,
        offset: u64,
        length: u64,
        gather: *mut c_void,
    ) -> c_int {
        // SAFETY: libhdf5 passes back the pointer given to H5Dchunk_iter, which nothing else uses meanwhile, and
        // coordinates as many as the dataset's rank.
        unsafe {
            let gather = &mut *gather.cast::<Gather>();
            let coordinates = std::slice::from_raw_parts(coordinates, gather.rank).to_vec();
            gather.found.push(ChunkLocation { coordinates, filter_mask, offset, length });
        }
        0
    }

    let mut gather = Gather { rank: dataset.ndim(), found: Vec::new() };
    let status = sync(|| {
        // SAFETY: the dataset is open, and `gather` outlives the call.
        unsafe { H5Dchunk_iter(dataset.id(), H5P_DEFAULT, Some(each), (&raw mut gather).cast::<c_void>()) }
    });
    if status < 0 {
        return Err(hdf5_metno::Error::query()?);
    }
    Ok(gather.found)
}

/// Where the bytes of a contiguous dataset begin in the file; `None` when it is not contiguous or has no bytes.
///
/// The bytes may be read through [`Snapshot::read_at`](crate::Snapshot::read_at) and written through
/// [`Transaction::write_at`](crate::Transaction::write_at); never mix that with reading or writing the same dataset
/// through libhdf5 in one transaction.
pub fn contiguous_offset(dataset: &Dataset) -> Option<u64> {
    dataset.offset()
}
