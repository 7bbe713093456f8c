//! The chunk filters: hostile chunks give an error or the right number of bytes, whatever the pipeline; what was
//! encoded decodes.

use std::io::Read;

use corallite_weights::filter::{Compression, Filter, Scratch, decode_chunk, encode_chunk, fletcher32, unshuffle};

use crate::input::Input;

/// The largest raw chunk asked for, in bytes: more than two of the blocks that the encoder works in.
const MOST: usize = 72 << 10;

/// One input of the target: the first byte says which property.
pub fn check(bytes: &[u8]) {
    let mut input = Input(bytes);
    if input.u8() & 1 == 0 { hostile(input) } else { round_trip(input) }
}

/// Decodes what was never encoded here, twice: the result must not depend on what the buffers held before.
fn hostile(mut input: Input<'_>) {
    let (count, mask) = (input.u8() % 40, input.u32());
    let filters: Vec<Filter> = (0..count).map(|_| filter(&mut input)).collect();
    let raw_len = input.u32() as usize % (MOST + 1);
    let fix = input.u8();
    let mut encoded = input.rest().to_vec();
    if fix & 1 != 0 {
        encoded.extend(fletcher32(&encoded).to_le_bytes());
    }
    let (mut scratch, mut out) = (Scratch::new(), vec![0; raw_len]);
    let first = decode_chunk(&filters, mask, &encoded, &mut out, &mut scratch);
    let mut again = vec![0xa5; raw_len];
    let second = decode_chunk(&filters, mask, &encoded, &mut again, &mut scratch);
    match (&first, &second) {
        (Ok(()), Ok(())) => assert!(out == again, "decoding depends on what the buffers held: {filters:?}"),
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        _ => panic!("{first:?} and then {second:?} from {filters:?}"),
    }
    // An inflater of another family, where both accept the stream.
    if let ([Filter::Deflate { .. }], 0, Ok(())) = (filters.as_slice(), mask & 1, first) {
        let mut inflated = Vec::new();
        let reader = flate2::bufread::ZlibDecoder::new(encoded.as_slice());
        if reader.take(MOST as u64 + 1).read_to_end(&mut inflated).is_ok() {
            assert!(inflated == out, "two inflaters disagree");
        }
    }
}

fn filter(input: &mut Input<'_>) -> Filter {
    let byte = input.u8();
    match byte & 3 {
        0 => Filter::Deflate { level: byte >> 2 },
        1 if byte >> 2 & 1 == 0 => Filter::Lzf,
        1 => Filter::Zstd { level: byte >> 3 },
        2 => Filter::Fletcher32,
        // Element sizes as in files, zero among them, and now and then one that overflows.
        _ if byte >> 2 == 63 => Filter::Shuffle { element_size: input.u64() as usize },
        _ => Filter::Shuffle { element_size: usize::from(byte >> 2) },
    }
}

/// Encodes a chunk and decodes it again, here and with another inflater.
fn round_trip(mut input: Input<'_>) {
    let compression = match input.u8() % 13 {
        0 => Compression::None,
        1 => Compression::Lzf,
        11 => Compression::Planes,
        12 => Compression::Zstd,
        level => format!("gzip:{}", level - 1).parse().expect("a level from 1 to 9"),
    };
    let element_size = usize::from(input.u8());
    let raw = expand(&mut input);
    let mut scratch = Scratch::new();
    let mut encoded = vec![1, 2, 3];
    let mask = match encode_chunk(compression, element_size, &raw, &mut scratch, &mut encoded) {
        Ok(mask) => mask,
        Err(error) => return assert_eq!(element_size, 0, "{error}"),
    };
    assert!(encoded.len() <= raw.len(), "{} bytes became {}", raw.len(), encoded.len());
    let filters = compression.pipeline(element_size);
    let mut back = vec![0xa5; raw.len()];
    decode_chunk(&filters, mask, &encoded, &mut back, &mut scratch).expect("what was encoded here decodes");
    assert!(back == raw, "{compression} of elements of {element_size}: {} bytes come back different", raw.len());
    if let (Compression::Planes | Compression::Gzip(_), 0) = (compression, mask) {
        let mut inflated = Vec::new();
        flate2::bufread::ZlibDecoder::new(encoded.as_slice()).read_to_end(&mut inflated).expect("zlib reads it");
        unshuffle(element_size, &inflated, &mut back);
        assert!(back == raw, "another inflater sees other bytes");
    }
    // A chunk of the wrong length must not pass for this one.
    let mut longer = vec![0; raw.len() + 1];
    assert!(decode_chunk(&filters, mask, &encoded, &mut longer, &mut scratch).is_err());
}

/// Raw data of up to [`MOST`] bytes from a short input: stretches that repeat, count, or are noise.
fn expand(input: &mut Input<'_>) -> Vec<u8> {
    let mut raw = Vec::new();
    while !input.is_empty() && raw.len() < MOST {
        let (kind, len) = (input.u8(), usize::from(input.u16()));
        match kind % 5 {
            0 => raw.extend(std::iter::repeat_n(input.u8(), len)),
            1 => {
                let mut state = input.u32() | 1;
                raw.extend(
                    std::iter::repeat_with(|| {
                        state ^= state << 13;
                        state ^= state >> 17;
                        state ^= state << 5;
                        (state >> 24) as u8 & kind
                    })
                    .take(len),
                );
            }
            2 => raw.extend((0..len).map(|i| (i / (1 + usize::from(kind >> 4))) as u8)),
            3 => {
                let from = raw.len().saturating_sub(1 + usize::from(input.u16()));
                for i in 0..len.min(raw.len().saturating_sub(from).max(1) * 64) {
                    let byte = raw.get(from + i).copied().unwrap_or(kind);
                    raw.push(byte);
                }
            }
            _ => raw.extend_from_slice(input.bytes(len)),
        }
    }
    raw.truncate(MOST);
    raw
}
