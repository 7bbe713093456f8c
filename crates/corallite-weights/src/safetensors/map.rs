//! Maps a file into memory. The only unsafe code of this crate.

use std::fs::File;

use bytes::Bytes;
use memmap2::Mmap;

/// The whole file as bytes that are read from disk when they are touched. The file must not be empty.
#[allow(unsafe_code)]
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is private to the returned `Bytes`, which owns it until the last slice is
    // dropped, and nothing here writes through it. That no other process changes the file in place
    // is what `SafetensorsFile::open` asks of its caller; Unix offers no way to enforce it.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
