//! zlib streams of a known length, written and read piece by piece. A stream that would give more is found out
//! without being inflated.

use std::io::{Read, Write};

use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::fields::{Checked, Wrong, wrong};
use crate::error::{Error, Result};

/// A stream being written.
pub(super) struct Deflate(ZlibEncoder<Vec<u8>>);

impl Deflate {
    pub(super) fn new(level: u32) -> Self {
        Self(ZlibEncoder::new(Vec::new(), flate2::Compression::new(level)))
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|error| Error::filter("deflate", error.to_string()))
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        self.0.finish().map_err(|error| Error::filter("deflate", error.to_string()))
    }
}

/// A stream being read.
pub(super) struct Inflate<'a>(ZlibDecoder<&'a [u8]>);

impl<'a> Inflate<'a> {
    pub(super) fn new(stream: &'a [u8]) -> Self {
        Self(ZlibDecoder::new(stream))
    }

    pub(super) fn fill(&mut self, out: &mut [u8]) -> Checked<()> {
        self.0.read_exact(out).map_err(|error| Wrong { field: "data", problem: format!("does not inflate: {error}") })
    }

    /// Checks that the stream ends here, and its checksum.
    pub(super) fn end(mut self) -> Checked<()> {
        match self.0.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => wrong("data", "inflates to more than the shape calls for"),
            Err(error) => wrong("data", format!("does not inflate: {error}")),
        }
    }
}

/// Cuts a stream whose length is said elsewhere off the front of `bytes`.
pub(super) fn cut<'a>(bytes: &mut &'a [u8], len: usize) -> Checked<&'a [u8]> {
    let Some((stream, rest)) = bytes.split_at_checked(len) else {
        return wrong("data", format!("has {} bytes where one of its streams should have {len}", bytes.len()));
    };
    *bytes = rest;
    Ok(stream)
}

/// The length of a stream, as 4 bytes at the front of `bytes`.
pub(super) fn cut_len(bytes: &mut &[u8]) -> Checked<usize> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return wrong("data", "ends within its header") };
    *bytes = rest;
    Ok(u32::from_le_bytes(*len) as usize)
}

/// A stream's length as 4 bytes.
pub(super) fn len_bytes(stream: &[u8]) -> Result<[u8; 4]> {
    let len = u32::try_from(stream.len())
        .map_err(|_| Error::unsupported("a stream of 4 GiB and more in a delta; use the delta type `zigzag`"))?;
    Ok(len.to_le_bytes())
}
