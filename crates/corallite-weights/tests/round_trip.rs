//! Whatever a tensor holds comes back bit for bit, through every way of reading it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::Range;

use corallite_file::{Buffer, Mode, Source};
use corallite_weights::{
    ByteOrder, Compression, Dtype, Hdf5Options, Hdf5Store, Unwatched, WeightHash, WeightMetadata, WeightStore,
    WeightTensor,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What compares equal as a number and differs as bits, or the other way round: signalling NaNs and NaN payloads of
/// each width, negative zeros, the smallest denormal.
const SPECIAL: [u64; 8] = [
    0x7ff0_0000_0000_0001,
    0xfff8_0000_dead_beef,
    0x7f80_0001_ffc1_2345,
    0x7c01_fe00_7f81_ffff,
    0x8000_0000_0000_0000,
    0x8000_0000_8000_0000,
    0x0000_0000_0000_0001,
    0,
];

/// Bytes of one of three kinds: noise, which no filter makes smaller; [`SPECIAL`] words; one byte over and over.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = length.div_ceil(8);
    let mut bytes: Vec<u8> = match seed % 3 {
        0 => (0..words).flat_map(|_| next().to_ne_bytes()).collect(),
        1 => (0..words).flat_map(|_| SPECIAL[next() as usize % SPECIAL.len()].to_le_bytes()).collect(),
        _ => vec![(seed >> 8) as u8; 8 * words],
    };
    bytes.truncate(length);
    bytes
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    (select(&Dtype::ALL[..]), select(&[ByteOrder::Little, ByteOrder::Big][..]))
        .prop_map(|(dtype, order)| dtype.with_byte_order(order))
}

/// The shape, changed as little as it takes for 4- and 6-bit elements to fill whole bytes.
fn whole_bytes(dtype: Dtype, mut shape: Vec<u64>) -> Vec<u64> {
    if dtype.item_size().is_none() {
        match shape.last_mut() {
            Some(last) => *last *= 4,
            None => shape.push(4),
        }
    }
    shape
}

fn metadata() -> impl Strategy<Value = WeightMetadata> {
    let text = || proptest::option::of("[^\0]{1,20}");
    let notes = proptest::collection::btree_map("\\PC{0,6}", any::<i64>(), 0..3);
    ("[^\0]{0,30}", text(), text(), notes).prop_map(|(name, layer_type, model_name, notes)| {
        let mut metadata = WeightMetadata::new(name, [], Dtype::F32);
        metadata.layer_type = layer_type;
        metadata.model_name = model_name;
        metadata.compression_info = notes.into_iter().map(|(key, value)| (key, value.into())).collect();
        metadata
    })
}

fn tensors(shapes: impl Strategy<Value = (Dtype, Vec<u64>)>) -> impl Strategy<Value = WeightTensor> {
    (shapes, metadata(), any::<u64>()).prop_map(|((dtype, shape), mut metadata, seed)| {
        metadata.shape = whole_bytes(dtype, shape);
        metadata.dtype = dtype;
        let length = dtype.byte_len(&metadata.shape).unwrap();
        WeightTensor::from_metadata(metadata, bytes(length as usize, seed)).unwrap()
    })
}

/// 0-d, empty and small tensors of up to four dimensions.
fn small() -> impl Strategy<Value = WeightTensor> {
    tensors((dtypes(), proptest::collection::vec(prop_oneof![1 => Just(0_u64), 9 => 1..9_u64], 0..5)))
}

/// Tensors of more than one chunk, cut along any of their first axes.
fn large() -> impl Strategy<Value = WeightTensor> {
    let lead = proptest::collection::vec(1..4_u64, 0..3);
    tensors((dtypes(), lead, 1..40_u64, (1_u64 << 20) + 1..5 << 19).prop_map(|(dtype, lead, inner, length)| {
        let rows: u64 = lead.iter().product();
        let elements = length * 8 / u64::from(dtype.bit_size());
        let mut shape = lead;
        shape.extend([elements / rows / inner + 1, inner]);
        (dtype, shape)
    }))
}

fn compressions() -> Vec<Compression> {
    ["planes", "gzip:1", "gzip:4", "gzip:9", "zstd", "lzf", "none"].map(|text| text.parse().unwrap()).to_vec()
}

/// Reads `key` in every way there is, and compares with what was stored.
fn assert_same(store: &Hdf5Store, key: &WeightHash, stored: &WeightTensor, rows: (Index, Index)) {
    let data = stored.data().unwrap();
    let mut expected = stored.metadata().clone();
    expected.hash = Some(key.clone());
    assert_eq!(store.get_metadata(key).unwrap().unwrap(), expected);
    let whole = [
        ("load", store.load(key).unwrap().unwrap()),
        ("load_lazy", store.load_lazy(key).unwrap().unwrap()),
        ("load_mapped", store.load_mapped(key).unwrap().unwrap()),
    ];
    for (how, loaded) in whole {
        assert_eq!(loaded.metadata(), &expected, "{how}");
        assert_eq!(loaded.store_ref(), Some(key), "{how}");
        assert!(loaded.data().unwrap() == data, "{how} of {stored}: other bytes");
    }
    let Some((&count, row_shape)) = stored.shape().split_first() else {
        assert!(store.load_rows(key, 0..1).is_err(), "a 0-d tensor has no rows");
        return;
    };
    let (one, other) = (rows.0.index(count as usize + 1) as u64, rows.1.index(count as usize + 1) as u64);
    let rows: Range<u64> = one.min(other)..one.max(other);
    let part = store.load_rows(key, rows.clone());
    let Some(row) = stored.dtype().byte_len(row_shape).ok().filter(|_| !data.is_empty()) else {
        // Rows of 4- and 6-bit elements need not begin at a byte; then only none of them can be had.
        assert_eq!(part.is_ok(), rows.is_empty() || data.is_empty(), "{stored} {rows:?}");
        return;
    };
    let part = part.unwrap().unwrap();
    assert_eq!(part.shape()[0], rows.end - rows.start);
    assert_eq!(&part.shape()[1..], row_shape);
    assert!(
        part.data().unwrap() == data.slice((rows.start * row) as usize..(rows.end * row) as usize),
        "{stored} {rows:?}"
    );
}

/// Stores a batch, some of it twice, closes, opens the bytes again and compares everything.
fn check(weights: &[WeightTensor], again: &[Index], compression: Compression, rows: (Index, Index)) {
    let buffer = Buffer::new();
    let options = Hdf5Options::new().compression(compression);
    let store = Hdf5Store::open_source(Source::Buffer(buffer.clone()), options).unwrap();
    let mut batch: Vec<(String, WeightTensor)> =
        weights.iter().enumerate().map(|(index, weight)| (format!("w{index}"), weight.clone())).collect();
    for index in again {
        let mut twin = index.get(weights).clone();
        twin.set_name("another name for the same");
        batch.push((format!("w{}", batch.len()), twin));
    }
    let keys = store.store_batch(&batch).unwrap();
    let mine = WeightHash::new("a key of the caller's").unwrap();
    assert_eq!(store.store(&weights[0], Some(&mine)).unwrap(), mine);
    store.close().unwrap();

    // Of equal content the first one's name is kept.
    let mut expected: BTreeMap<WeightHash, &WeightTensor> = BTreeMap::from([(mine, &weights[0])]);
    for ((name, weight), (stored_name, key)) in batch.iter().zip(&keys) {
        assert_eq!(name, stored_name);
        assert_eq!(key, &weight.content_hash().unwrap());
        expected.entry(key.clone()).or_insert(weight);
    }
    let store = Hdf5Store::open_source(Source::Buffer(buffer), Hdf5Options::new().mode(Mode::Read)).unwrap();
    assert!(store.list_weights().unwrap().iter().eq(expected.keys()));
    for (key, weight) in &expected {
        assert_same(&store, key, weight, rows);
    }
    let found = store.verify(&Unwatched).unwrap();
    assert_eq!(found.damaged, []);
    assert_eq!((found.verified, found.unverifiable), (expected.len() as u64, 0));
    assert_eq!(found.bytes, expected.values().map(|weight| weight.nbytes()).sum::<u64>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_comes_back_bit_for_bit_with_every_compression(
        weights in proptest::collection::vec(small(), 1..8),
        again in proptest::collection::vec(any::<Index>(), 0..4),
        rows in any::<(Index, Index)>(),
    ) {
        for compression in compressions() {
            check(&weights, &again, compression, rows);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tensors_of_several_chunks_come_back_bit_for_bit(
        weights in proptest::collection::vec(large(), 1..3),
        again in proptest::collection::vec(any::<Index>(), 0..2),
        compression in select(compressions()),
        rows in any::<(Index, Index)>(),
    ) {
        check(&weights, &again, compression, rows);
    }
}
