//! HDF5 filter 32015: a zstd frame a chunk, as `hdf5plugin` registers it.
//!
//! On full tensors nothing repeats: [`super::zstd_frame`] writes them, and the library, with a search reduced to next to
//! nothing, those that are too short for that. On chunks of other kinds it works as its first level does.

use zstd_safe::{CCtx, CParameter, DCtx, ParamSwitch, ResetDirective, Strategy, compress_bound, get_error_name};

use super::bits::Literals;
use super::huffman::histogram;
use super::repeats::{Repeats, telling_length};
use super::zstd_frame;
use crate::error::{Error, Result};

/// The level recorded in files. Decoding does not need it.
pub(super) const LEVEL: u8 = 1;

/// From this share of one byte value on a chunk is no full tensor, and matches are looked for.
const SKEWED: f32 = 0.25;

/// The share of repeating windows from which on they are, as in [`super::deflate`].
const REPEATING: f32 = 0.06;

/// Bytes between those counted for that.
const STRIDE: usize = 61;

/// Contexts kept from chunk to chunk, made when they are first needed.
#[derive(Default)]
pub(super) struct Zstd {
    encoder: Option<(Search, CCtx<'static>)>,
    decoder: Option<DCtx<'static>>,
    repeats: Repeats,
    sample: Vec<u8>,
    literals: Literals,
}

/// How hard to look for matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Next to not at all.
    Barely,
    /// As level 1 does.
    Quick,
}

impl Zstd {
    /// Replaces `out` by a frame, with its content size, of `src`, which consists of planes of `plane_len` bytes.
    pub(super) fn compress(&mut self, src: &[u8], plane_len: usize, out: &mut Vec<u8>) -> Result<()> {
        let search = self.search(src, plane_len);
        if search == Search::Barely && src.len() >= zstd_frame::LEAST && u32::try_from(src.len()).is_ok() {
            zstd_frame::compress(src, plane_len, &mut self.literals, out);
            return Ok(());
        }
        let encoder = match &mut self.encoder {
            Some((at, encoder)) if *at == search => encoder,
            slot => {
                let encoder = slot.take().map(|(_, encoder)| encoder).or_else(CCtx::try_create);
                let mut encoder = encoder.ok_or_else(|| Error::filter("zstd", "no memory for the encoder"))?;
                set(&mut encoder, search).map_err(fail)?;
                &mut slot.insert((search, encoder)).1
            }
        };
        out.clear();
        out.reserve(compress_bound(src.len()));
        encoder.compress2(out, src).map_err(fail)?;
        Ok(())
    }

    /// What `src` is worth, by a sample of its bytes and the repeats of its last whole plane, which are those of its elements
    /// when whole rows are the same.
    fn search(&mut self, src: &[u8], plane_len: usize) -> Search {
        self.sample.clear();
        self.sample.extend(src.iter().step_by(STRIDE));
        let counts = histogram(&self.sample);
        let most = counts.iter().max().copied().unwrap_or(0);
        if most as f32 >= self.sample.len() as f32 * SKEWED {
            return Search::Quick;
        }
        let planes = src.len().checked_div(plane_len).unwrap_or(0);
        let end = if planes > 0 { planes * plane_len } else { src.len() };
        let start = if planes > 0 { end - plane_len } else { 0 };
        self.repeats.reset();
        let share = self.repeats.share(src, start, end, telling_length(0.0));
        if share >= REPEATING { Search::Quick } else { Search::Barely }
    }

    /// Decompresses `src` to exactly `out`.
    pub(super) fn decompress(&mut self, src: &[u8], out: &mut [u8]) -> Result<()> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            slot => slot.insert(DCtx::try_create().ok_or_else(|| Error::filter("zstd", "no memory for the decoder"))?),
        };
        // In one call, so that nothing is allocated for the window that a frame asks for.
        let len = decoder.decompress(out, src).map_err(fail)?;
        if len == out.len() {
            return Ok(());
        }
        Err(Error::filter("zstd", format!("{len} bytes instead of {}", out.len())))
    }
}

/// Sets the parameters of the encoder.
fn set(encoder: &mut CCtx<'_>, search: Search) -> zstd_safe::SafeResult {
    encoder.reset(ResetDirective::SessionAndParameters)?;
    encoder.set_parameter(CParameter::CompressionLevel(i32::from(LEVEL)))?;
    if search == Search::Barely {
        for parameter in [
            CParameter::Strategy(Strategy::ZSTD_fast),
            // No more than the blocks take, whose literals get a code each.
            CParameter::WindowLog(17),
            CParameter::HashLog(8),
            CParameter::MinMatch(7),
            // The step between the places looked at: with strategy fast the longest means the fewest.
            CParameter::TargetLength(1 << 17),
            // Which otherwise is off for steps like that.
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ] {
            encoder.set_parameter(parameter)?;
        }
    }
    Ok(0)
}

fn fail(code: usize) -> Error {
    Error::filter("zstd", get_error_name(code))
}
