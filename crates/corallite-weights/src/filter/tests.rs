//! Promises of the pipeline as a whole. The parts' own tests are with the parts.

use std::io::Read;

use proptest::prelude::*;

use super::*;

const COMPRESSIONS: [Compression; 7] = [
    Compression::Planes,
    Compression::Zstd,
    Compression::Gzip(GzipLevel(1)),
    Compression::Gzip(GzipLevel(4)),
    Compression::Gzip(GzipLevel(9)),
    Compression::Lzf,
    Compression::None,
];

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Floats around zero, like a trained layer.
fn weights(count: usize) -> Vec<u8> {
    let noise = noise(count * 8);
    let float = |b: &[u8; 8]| b.iter().map(|&b| f32::from(b) - 127.5).sum::<f32>() / 5000.0;
    noise.as_chunks::<8>().0.iter().flat_map(|b| float(b).to_le_bytes()).collect()
}

fn zlib_whole(element_size: usize, raw: &[u8], level: u32) -> usize {
    let mut shuffled = vec![0; raw.len()];
    shuffle(element_size, raw, &mut shuffled);
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
    std::io::Write::write_all(&mut encoder, &shuffled).unwrap();
    encoder.finish().unwrap().len()
}

fn round_trip(compression: Compression, size: usize, raw: &[u8], scratch: &mut Scratch) -> (u32, Vec<u8>) {
    let mut encoded = vec![1, 2, 3];
    let mask = encode_chunk(compression, size, raw, scratch, &mut encoded).unwrap();
    let mut back = vec![0xaa; raw.len()];
    decode_chunk(&compression.pipeline(size), mask, &encoded, &mut back, scratch).unwrap();
    assert!(back == raw, "{compression} {size} {}", raw.len());
    if mask == 0 && matches!(compression, Compression::Planes | Compression::Gzip(_)) {
        // Inflaters of other families read it too, zlib's up to the index.
        let mut inflated = Vec::new();
        let mut reader = flate2::bufread::ZlibDecoder::new(encoded.as_slice());
        reader.read_to_end(&mut inflated).unwrap();
        assert_eq!(encoded.len() - reader.into_inner().len(), stream_len(&encoded));
        unshuffle(size, &inflated, &mut back);
        assert!(back == raw, "flate2: {compression} {size} {}", raw.len());
        assert!(general(&encoded, raw.len()) == Some(inflated), "libdeflate: {compression} {size} {}", raw.len());
    }
    (mask, encoded)
}

/// The length of a chunk without its index.
fn stream_len(encoded: &[u8]) -> usize {
    let has_index = index::read(encoded).next().is_some();
    let [.., low, high, _, _, _, _] = *encoded else { return encoded.len() };
    if has_index { encoded.len() - 6 - usize::from(u16::from_le_bytes([low, high])) } else { encoded.len() }
}

/// Decodes a chunk of `planes` that has an index, and says how many blocks were decoded by it.
fn decode_indexed(encoded: &[u8], size: usize, raw: &[u8]) -> usize {
    let (mut scratch, mut back) = (Scratch::new(), vec![0xaa; raw.len()]);
    decode_chunk(&Compression::Planes.pipeline(size), 0, encoded, &mut back, &mut scratch).unwrap();
    assert!(back == raw);
    assert!(scratch.inflater.general.is_none(), "the index is not to send anybody to the general inflater");
    scratch.inflater.tables.quartered
}

/// Chunks with an index: of few bits a literal and of many, in one block and in several, of odd sizes.
fn indexed() -> Vec<(&'static str, usize, Vec<u8>)> {
    let bf16 = |count| weights(count).as_chunks::<4>().0.iter().flat_map(|b| [b[2], b[3]]).collect::<Vec<u8>>();
    let f16 = |count: usize| -> Vec<u8> {
        let floats = weights(count);
        let floats = floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        floats.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect()
    };
    let mut two_kinds = bf16(70_000);
    two_kinds.extend(f16(70_000));
    let mut odd = weights(30_000);
    odd.extend([1, 2, 3]);
    vec![
        ("f32", 4, weights(100_000)),
        ("bf16", 2, bf16(100_001)),
        ("f16", 2, f16(100_003)),
        ("two kinds", 2, two_kinds),
        ("odd", 4, odd),
        ("short", 4, weights(16 * 1024)),
        ("bytes", 1, weights(40_000).as_chunks::<4>().0.iter().map(|b| b[3]).collect()),
    ]
}

/// What libdeflate makes of a stream that should have so many bytes.
fn general(stream: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let found = libdeflater::Decompressor::new().zlib_decompress(stream, &mut out);
    found.is_ok_and(|found| found == len).then_some(out)
}

/// What our own inflater makes of it; `None` also for a kind of stream that it leaves to the other.
fn ours(stream: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0xaa; len];
    inflate::zlib(stream, &mut out, &mut inflate::Tables::default()).then_some(out)
}

/// Differences of 16-bit floats: nearly always small, often zero.
fn differences(count: usize, zeros: u8) -> Vec<u8> {
    let small =
        |b: &[u8; 4]| if b[0] < zeros { 0 } else { u16::from(b[1].trailing_zeros() as u8) * 3 + u16::from(b[2] > 250) };
    noise(count * 4).as_chunks::<4>().0.iter().flat_map(|b| small(b).to_le_bytes()).collect()
}

/// Elements that floats rarely have: of one pattern but for a few, NaNs with payloads, denormals.
fn hostile_elements() -> impl Strategy<Value = Vec<u8>> {
    (0..5u8, 0..40_000usize, any::<[u8; 4]>(), any::<prop::sample::Index>()).prop_map(|(kind, count, value, at)| {
        let mut raw: Vec<u8> = match kind {
            0 => value.repeat(count),
            1 => noise(count * 4).as_chunks::<4>().0.iter().flat_map(|b| [b[0], b[1], 0x80 | b[2], 0x7f]).collect(),
            2 => noise(count * 4).as_chunks::<4>().0.iter().flat_map(|b| [b[0], b[1] & 3, 0, b[3] & 0x80]).collect(),
            3 => differences(count, value[0]),
            _ => noise(count * 4),
        };
        if kind == 0 && !raw.is_empty() {
            let at = at.index(raw.len());
            raw[at] ^= 1;
        }
        raw.truncate(raw.len() - usize::from(value[1] % 4).min(raw.len()));
        raw
    })
}

/// Stretches of different nature one after the other, so that every kind of block meets every other.
fn mixture() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (0..6u8, 0..70_000usize, any::<u8>()).prop_map(|(kind, len, byte)| match kind {
        0 => vec![byte; len],
        1 => noise(len),
        2 => noise(len).into_iter().map(|b| b.count_ones() as u8).collect(),
        3 => noise(100).into_iter().cycle().take(len).collect(),
        4 => weights(len / 4),
        _ => (0..len).map(|i| (i / 7) as u8).collect(),
    });
    proptest::collection::vec(stretch, 0..5).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_compression_gives_back_what_went_in(raw in mixture(), size in 1usize..17) {
        let mut scratch = Scratch::new();
        for compression in COMPRESSIONS {
            round_trip(compression, size, &raw, &mut scratch);
        }
    }

    #[test]
    fn elements_that_floats_rarely_have_come_back_as_well(raw in hostile_elements(), size in 1usize..17) {
        let mut scratch = Scratch::new();
        for compression in COMPRESSIONS {
            round_trip(compression, size, &raw, &mut scratch);
        }
    }

    #[test]
    fn our_inflater_agrees_with_the_general_one_on_broken_streams(
        raw in prop_oneof![mixture(), hostile_elements()], size in 1usize..5,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()), mend in any::<bool>(),
    ) {
        let mut encoded = Vec::new();
        let mask = encode_chunk(Compression::Planes, size, &raw, &mut Scratch::new(), &mut encoded).unwrap();
        prop_assume!(mask == 0);
        for (at, change) in changes {
            let at = at.index(encoded.len());
            encoded[at] ^= change;
        }
        if let Some(cut) = cut {
            encoded.truncate(cut.index(encoded.len()));
        }
        if mend && encoded.len() > 6 {
            // A checksum that is right for whatever comes out, so that it is not what decides.
            let mut out = vec![0; raw.len()];
            let (_, index) = encoded.split_at(stream_len(&encoded));
            let (index, body) = (index.len(), encoded.len() - index.len() - 4);
            if libdeflater::Decompressor::new().deflate_decompress(&encoded[2..body], &mut out).is_ok() {
                let end = encoded.len() - index;
                encoded[body..end].copy_from_slice(&libdeflater::adler32(&out).to_be_bytes());
            }
        }
        if let Some(out) = ours(&encoded, raw.len()) {
            prop_assert!(general(&encoded, raw.len()) == Some(out));
        }
    }

    #[test]
    fn an_index_of_anything_changes_no_byte(
        which in any::<prop::sample::Index>(),
        claims in proptest::collection::vec((0..5u8, 0..1_000_000usize, any::<[u32; 3]>(), any::<prop::sample::Index>()), 0..6),
    ) {
        let cases = indexed();
        let (_, size, raw) = &cases[which.index(cases.len())];
        let mut encoded = Vec::new();
        encode_chunk(Compression::Planes, *size, raw, &mut Scratch::new(), &mut encoded).unwrap();
        let right: Vec<_> = index::read(&encoded).collect();
        encoded.truncate(stream_len(&encoded));
        let mut claimed = index::Index::default();
        let mut end = 0;
        for (kind, number, bits, at) in claims {
            let mut block = right[at.index(right.len())];
            match kind {
                // The right place, and other bits: far off, just beside, or of another length.
                0 => block.bits = bits.map(|bits| bits as usize),
                1 => block.bits[number % 3] ^= 1 << (number % 20),
                2 => block.len = number,
                3 => block = index::Quarters { start: number, len: number, bits: bits.map(|bits| bits as usize % 2_000_000) },
                _ => {}
            }
            if block.start >= end {
                claimed.add(&block);
                end = block.start + block.len;
            }
        }
        claimed.write(&mut encoded);
        decode_indexed(&encoded, *size, raw);
    }

    #[test]
    fn our_inflater_agrees_with_the_general_one_on_streams_of_others(raw in prop_oneof![mixture(), hostile_elements()], level in 0..10u32) {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
        std::io::Write::write_all(&mut encoder, &raw).unwrap();
        let encoded = encoder.finish().unwrap();
        if let Some(out) = ours(&encoded, raw.len()) {
            prop_assert!(out == raw);
        }
    }

    #[test]
    fn hostile_zstd_frames_give_an_error_or_bytes_but_never_a_panic(
        raw in hostile_elements(), change in any::<(prop::sample::Index, u8)>(), len in 0..5000usize, cut in any::<prop::sample::Index>(),
    ) {
        let (mut scratch, mut encoded) = (Scratch::new(), Vec::new());
        let mask = encode_chunk(Compression::Zstd, 4, &raw, &mut scratch, &mut encoded).unwrap();
        prop_assume!(mask == 0);
        let at = change.0.index(encoded.len());
        encoded[at] ^= change.1;
        let filters = Compression::Zstd.pipeline(4);
        let _ = decode_chunk(&filters, 0, &encoded, &mut vec![0; raw.len()], &mut scratch);
        let cut = cut.index(encoded.len());
        prop_assert!(decode_chunk(&filters, 0, &encoded[..cut], &mut vec![0; raw.len()], &mut scratch).is_err());
        if len != raw.len() {
            prop_assert!(decode_chunk(&filters, 0, &encoded, &mut vec![0; len], &mut scratch).is_err());
        }
    }

    #[test]
    fn hostile_chunks_give_an_error_or_bytes_but_never_a_panic(
        mut encoded in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0..6u8, zlib in any::<bool>(), mask in 0..16u32, len in 0..5000usize, size in 0..20usize,
    ) {
        if zlib && encoded.len() > 2 {
            encoded[0] = 0x78;
            encoded[1] = 0x01;
        }
        if kind > 3 && encoded.len() > 4 {
            encoded[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        }
        let coder = match kind {
            0 | 2 => Filter::Lzf,
            1 | 3 => Filter::Deflate { level: 4 },
            _ => Filter::Zstd { level: 3 },
        };
        let shuffle = Filter::Shuffle { element_size: size };
        let filters = if kind & 2 == 0 { vec![shuffle, coder, Filter::Fletcher32] } else { vec![Filter::Fletcher32, shuffle, coder] };
        let mut scratch = Scratch::new();
        let _ = decode_chunk(&filters, mask, &encoded, &mut vec![0; len], &mut scratch);
        prop_assert!(scratch.stage.capacity() + scratch.next.capacity() <= 4 * (len + 64));
    }

    #[test]
    fn a_flipped_bit_in_a_zlib_chunk_is_never_returned_as_data(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let raw = weights(3000);
        let mut scratch = Scratch::new();
        let (mask, mut encoded) = round_trip(Compression::default(), 4, &raw, &mut scratch);
        prop_assert_eq!(mask, 0);
        let at = at.index(encoded.len());
        encoded[at] ^= 1 << bit;
        let mut back = vec![0; raw.len()];
        let result = decode_chunk(&Compression::default().pipeline(4), mask, &encoded, &mut back, &mut scratch);
        prop_assert!(result.is_err() || back == raw, "byte {at} bit {bit}");
    }
}

/// The general inflater would hide it if ours knew none of them.
#[test]
fn our_inflater_knows_the_streams_of_full_tensors_and_of_differences() {
    let bf16: Vec<u8> = weights(200_000).as_chunks::<4>().0.iter().flat_map(|b| [b[2], b[3]]).collect();
    let mut partly = differences(300_000, 240);
    partly[100_000..200_000].fill(0);
    let cases = [
        ("weights", 4, weights(262_144)),
        ("bf16", 2, bf16),
        ("few zeros", 2, differences(300_000, 60)),
        ("many zeros", 2, differences(300_000, 252)),
        ("zeros in between", 2, partly),
        ("zeros", 4, vec![0; 1 << 20]),
        ("small", 4, weights(400)),
    ];
    for (name, size, raw) in cases {
        let (mask, encoded) = round_trip(Compression::Planes, size, &raw, &mut Scratch::new());
        assert_eq!(mask, 0);
        assert!(ours(&encoded, raw.len()).is_some(), "{name}");
    }
}

#[test]
fn blocks_of_literals_are_decoded_by_their_index_and_without_it_all_the_same() {
    for (name, size, raw) in indexed() {
        let (mask, mut encoded) = round_trip(Compression::Planes, size, &raw, &mut Scratch::new());
        let entries = index::read(&encoded).count();
        assert!(mask == 0 && entries > 0 && decode_indexed(&encoded, size, &raw) == entries, "{name}");
        let stream = stream_len(&encoded);
        assert!((encoded.len() - stream) * 1000 <= raw.len(), "{name}: {} bytes", encoded.len() - stream);
        for end in [stream, stream + 1, encoded.len() - 1] {
            assert_eq!(decode_indexed(&encoded[..end], size, &raw), 0, "{name}");
        }
        // Bytes that follow an index make it none.
        encoded.push(0);
        assert_eq!(decode_indexed(&encoded, size, &raw), 0, "{name}");
    }
}

#[test]
fn a_damaged_index_costs_time_and_no_byte() {
    for (_, size, raw) in indexed() {
        let (_, encoded) = round_trip(Compression::Planes, size, &raw, &mut Scratch::new());
        for at in stream_len(&encoded)..encoded.len() {
            for change in [1, 0x40, 0x80, 0xff] {
                let mut damaged = encoded.clone();
                damaged[at] ^= change;
                decode_indexed(&damaged, size, &raw);
            }
        }
    }
}

#[test]
fn the_index_of_another_chunk_costs_time_and_no_byte() {
    let mut scratch = Scratch::new();
    let chunks: Vec<_> = indexed()
        .into_iter()
        .map(|(_, size, raw)| (size, round_trip(Compression::Planes, size, &raw, &mut scratch).1, raw))
        .collect();
    for (size, encoded, raw) in &chunks {
        for (_, other, _) in &chunks {
            let stream = [&encoded[..stream_len(encoded)], &other[stream_len(other)..]].concat();
            decode_indexed(&stream, *size, raw);
        }
    }
}

/// A stream that breaks off or is damaged in front of its index is not read by it.
#[test]
fn an_index_behind_a_damaged_stream_is_no_help() {
    let raw = weights(30_000);
    let (_, encoded) = round_trip(Compression::Planes, 4, &raw, &mut Scratch::new());
    let (stream, index) = encoded.split_at(stream_len(&encoded));
    for cut in [1, 2, 4, 5, 100, stream.len() / 2] {
        let short = [&stream[..stream.len() - cut], index].concat();
        assert_eq!(ours(&short, raw.len()), None);
        let out = &mut vec![0; raw.len()];
        assert!(decode_chunk(&Compression::Planes.pipeline(4), 0, &short, out, &mut Scratch::new()).is_err());
    }
}

/// Without run lengths the shares were 1.10, 1.98, 4.4 and 12.4: no code is shorter than a bit.
#[test]
fn run_lengths_get_below_a_bit_for_each_byte() {
    let shares = [60, 200, 240, 252].map(|zeros| {
        let raw = differences(500_000, zeros);
        let (_, encoded) = round_trip(Compression::Planes, 2, &raw, &mut Scratch::new());
        let mut planes = vec![0; raw.len()];
        shuffle(2, &raw, &mut planes);
        let bits: f32 = planes.chunks(500_000).map(|p| huffman::entropy_in_bits(&huffman::histogram(p), p.len())).sum();
        encoded.len() as f32 * 8.0 / bits
    });
    for (share, most) in shares.into_iter().zip([1.09, 1.45, 1.6, 1.8]) {
        assert!(share <= most, "{shares:?}");
    }
}

#[test]
fn zstd_frames_of_other_writers_decode() {
    let raw = weights(50_000);
    let mut shuffled = vec![0; raw.len()];
    shuffle(4, &raw, &mut shuffled);
    let frame = |bytes: &[u8], level: i32, has_size: bool| {
        let mut encoder = zstd_safe::CCtx::create();
        encoder.set_parameter(zstd_safe::CParameter::CompressionLevel(level)).unwrap();
        encoder.set_parameter(zstd_safe::CParameter::ContentSizeFlag(has_size)).unwrap();
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
        encoder.compress2(&mut out, bytes).unwrap();
        out
    };
    let (a, b) = shuffled.split_at(70_000);
    let frames =
        [frame(&shuffled, 1, true), frame(&shuffled, 19, false), [frame(a, 3, true), frame(b, -5, false)].concat()];
    let filters = [Filter::Shuffle { element_size: 4 }, Filter::Zstd { level: 3 }];
    let mut scratch = Scratch::new();
    for frame in frames {
        let mut out = vec![0; raw.len()];
        decode_chunk(&filters, 0, &frame, &mut out, &mut scratch).unwrap();
        assert!(out == raw);
        for wrong in [raw.len() - 1, raw.len() + 1] {
            assert!(decode_chunk(&filters, 0, &frame, &mut vec![0; wrong], &mut scratch).is_err());
        }
    }
}

#[test]
fn chunks_that_do_not_shrink_are_stored_raw_with_every_filter_masked() {
    let mut scratch = Scratch::new();
    for (size, want) in [(1, 0b1), (4, 0b11)] {
        for compression in [Compression::default(), Compression::Lzf] {
            for raw in [noise(100_000), vec![], vec![1]] {
                let (mask, encoded) = round_trip(compression, size, &raw, &mut scratch);
                assert_eq!((mask, encoded == raw), (want, true), "{compression} {size} {}", raw.len());
            }
        }
    }
    assert_eq!(round_trip(Compression::None, 4, &[1, 2, 3, 4], &mut scratch), (0, vec![1, 2, 3, 4]));
}

/// The bound of the design: at most 0.1 % above zlib on the whole chunk, plus the fixed cost of a few blocks.
#[test]
fn no_kind_of_data_gets_larger_than_plain_zlib_makes_it() {
    let row = noise(1536);
    let ids: Vec<u8> = (0..100_000u64).flat_map(|i| (i % 512).to_le_bytes()).collect();
    let sparse: Vec<u8> =
        weights(100_000).into_iter().zip(noise(400_000)).map(|(w, n)| if n < 230 { 0 } else { w }).collect();
    let text: Vec<u8> = (0..60_000u32).flat_map(|i| format!("token_{} ", i * i % 977).into_bytes()).collect();
    let mut half_zero = weights(100_000);
    half_zero[200_000..].fill(0);
    let bf16: Vec<u8> = weights(200_000).as_chunks::<4>().0.iter().flat_map(|b| [b[2], b[3]]).collect();
    let cases: [(&str, usize, Vec<u8>); 9] = [
        ("weights", 4, weights(262_144)),
        ("bf16", 2, bf16),
        ("equal rows", 4, row.iter().copied().cycle().take(1 << 20).collect()),
        ("position ids", 8, ids),
        ("zeros", 4, vec![0; 1 << 20]),
        ("sparse", 4, sparse),
        ("half zero", 4, half_zero),
        ("text", 1, text),
        ("small", 4, weights(64)),
    ];
    let mut scratch = Scratch::new();
    for (name, size, raw) in cases {
        for level in [1, 4] {
            let (_, encoded) = round_trip(Compression::Gzip(GzipLevel(level)), size, &raw, &mut scratch);
            let plain = zlib_whole(size, &raw, u32::from(level)).min(raw.len());
            assert!(encoded.len() <= plain + plain / 1000 + 64, "{name} at {level}: {} against {plain}", encoded.len());
        }
    }
}

/// A code is made of a sample. Here the sample is of one kind of bytes and what it skips of another: the code must be made
/// again, of all bytes, and bytes that occur once have to have one.
#[test]
fn a_sample_that_misleads_costs_nothing_but_time() {
    let (quiet, mut loud) = (noise(300_000), noise(300_000));
    loud.iter_mut().for_each(|byte| *byte = byte.count_ones() as u8 * 20);
    // The places where the first stretches of the sample are.
    let is_sampled = |at: usize| (at / 256 + at / 1024) % 4 == at / 64 % 4;
    let mut raw: Vec<u8> = (0..300_000).map(|at| if is_sampled(at) { quiet[at] % 5 + 100 } else { loud[at] }).collect();
    raw[77_777] = 255;
    let exact = |bytes: &[u8]| huffman::entropy_in_bits(&huffman::histogram(bytes), bytes.len()) as usize / 8;
    for compression in [Compression::Planes, Compression::Zstd] {
        let (mask, encoded) = round_trip(compression, 1, &raw, &mut Scratch::new());
        assert_eq!(mask, 0);
        assert!(encoded.len() < exact(&raw) * 102 / 100, "{compression}: {} for {}", encoded.len(), exact(&raw));
    }
}

/// The frames of full tensors are ours: hdf5plugin reads them by this library.
#[test]
fn zstd_frames_of_full_tensors_are_as_small_as_planes() {
    let raw = weights(262_144);
    let [planes, zstd] =
        [Compression::Planes, Compression::Zstd].map(|it| round_trip(it, 4, &raw, &mut Scratch::new()).1.len());
    assert!(zstd < planes + planes / 500, "{zstd} against {planes}");
    // Planes that are of one value take next to nothing.
    let raw: Vec<u8> =
        raw.as_chunks::<4>().0.iter().flat_map(|b| [b[0], b[1], b[2], 7, b[0] ^ b[1], b[3], b[1], b[2]]).collect();
    let (_, encoded) = round_trip(Compression::Zstd, 8, &raw, &mut Scratch::new());
    assert!(encoded.len() < raw.len() * 13 / 16, "{}", encoded.len());
}

/// Chunks as h5py 3 wrote them (`read_direct_chunk`).
#[test]
fn chunks_written_by_h5py_decode() {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    };
    let forty: Vec<u8> = (0..40u32).flat_map(u32::to_le_bytes).collect();
    let letters = [b"abc".repeat(8), vec![b'a'; 66]].concat();
    let shuffle = |element_size| Filter::Shuffle { element_size };
    let deflate = Filter::Deflate { level: 4 };
    let gzip = "785e6360646266616563e7e0e4e2e6e1e5e3171014121611151397909492969195935750545256515553671820000097f3030df932d231";
    let lzf = "1f000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f08202122232425262700e06c00010000";
    let cases = [
        (vec![Filter::Lzf], 0, "0361626361e00c02e03600016161", letters),
        (vec![shuffle(4), Filter::Lzf], 0, lzf, forty.clone()),
        (vec![shuffle(1), Filter::Lzf], 2, "00010203040506", (0..7).collect()),
        (vec![shuffle(4), deflate, Filter::Fletcher32], 0, gzip, forty),
        (vec![Filter::Fletcher32], 0, "616263fffe62c326ea", b"abc\xff\xfe".to_vec()),
    ];
    let mut scratch = Scratch::new();
    for (filters, mask, hex, want) in cases {
        let mut out = vec![0; want.len()];
        decode_chunk(&filters, mask, &bytes(hex), &mut out, &mut scratch).unwrap();
        assert_eq!(out, want, "{filters:?}");
        for wrong in [want.len() - 1, want.len() + 1] {
            let result = decode_chunk(&filters, mask, &bytes(hex), &mut vec![0; wrong], &mut scratch);
            assert!(result.is_err(), "{filters:?} into {wrong} bytes");
        }
    }
}

#[test]
fn a_checksum_before_or_after_the_other_filters_is_verified() {
    let raw = weights(1000);
    let mut scratch = Scratch::new();
    let deflate = Filter::Deflate { level: 4 };
    let mut summed = raw.clone();
    summed.extend(fletcher32(&raw).to_le_bytes());
    let mut inner = Vec::new();
    encode_chunk(Compression::default(), 1, &[summed.clone(), vec![0; 4000]].concat(), &mut scratch, &mut inner)
        .unwrap();
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(4));
    std::io::Write::write_all(&mut encoder, &summed).unwrap();
    let encoded = encoder.finish().unwrap();
    let mut out = vec![0; raw.len()];
    decode_chunk(&[Filter::Fletcher32, deflate], 0, &encoded, &mut out, &mut scratch).unwrap();
    assert_eq!(out, raw);
    summed[17] ^= 1;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(4));
    std::io::Write::write_all(&mut encoder, &summed).unwrap();
    let error = decode_chunk(&[Filter::Fletcher32, deflate], 0, &encoder.finish().unwrap(), &mut out, &mut scratch);
    assert!(error.unwrap_err().to_string().contains("fletcher32"));
}

#[test]
fn pipelines_that_make_no_sense_are_refused() {
    let mut scratch = Scratch::new();
    let deflate = Filter::Deflate { level: 4 };
    let twice = decode_chunk(&[deflate, deflate], 0, &[0x78, 1], &mut [0; 8], &mut scratch);
    assert!(matches!(twice, Err(Error::Filter { .. } | Error::Unsupported { .. })));
    let many = decode_chunk(&[Filter::Lzf; 33], !0, &[1; 8], &mut [0; 8], &mut scratch);
    assert!(matches!(many, Err(Error::Unsupported { .. })));
    assert!(encode_chunk(Compression::Lzf, 0, &[1], &mut scratch, &mut vec![]).is_err());
}

#[test]
fn compression_names_lead_back_to_their_settings() {
    for compression in COMPRESSIONS {
        assert_eq!(compression.to_string().parse::<Compression>().unwrap(), compression);
    }
    for bad in ["", "gzip:", "gzip:0", "gzip:10", "gzip:+4x", "GZIP", "zip", "none:1"] {
        assert!(bad.parse::<Compression>().is_err(), "{bad}");
    }
}

/// Skewed bytes that repeat nothing: single-byte codes win, and the match search must not be kept.
#[test]
fn the_cheaper_of_matching_and_single_bytes_is_taken() {
    let raw: Vec<u8> = noise(4000).into_iter().map(|b| b.count_ones() as u8).collect();
    let (_, encoded) = round_trip(Compression::default(), 1, &raw, &mut Scratch::new());
    let plain = zlib_whole(1, &raw, 4);
    assert!(encoded.len() < plain * 95 / 100, "{} against {plain}", encoded.len());
}
