//! What an encoder of deltas promises: lossless types keep every bit, lossy ones stay within their bound, and a delta that
//! is damaged or belongs to another weight is refused by the field that is wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};

use bytes::Bytes;
use corallite_weights::{
    ByteOrder, Delta, DeltaConfig, DeltaEncoder, DeltaStore, DeltaType, Dtype, Error, Hdf5Options, Hdf5Store, Kind,
    WeightHash, WeightStore, WeightTensor, coral_hash, values,
};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// Signalling NaNs and NaN payloads of each width, infinities, negative zeros, the smallest denormal.
const SPECIAL: [u64; 9] = [
    0x7ff0_0000_0000_0001,
    0xfff8_0000_dead_beef,
    0x7f80_0001_ffc1_2345,
    0x7c01_fe00_7f81_ffff,
    0x7f80_0000_ff80_0000,
    0x8000_0000_8000_0000,
    0x8000_0000_0000_0000,
    0x0000_0001_0000_0001,
    0,
];

fn generator(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A reference and a weight: noise, hostile words, all equal, one bit off, or near floats.
fn pair(length: usize, kind: u8, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut next = generator(seed);
    let mut words = |of: &dyn Fn(u64) -> u64| -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| of(next()).to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    };
    let special = |random: u64| SPECIAL[random as usize % SPECIAL.len()];
    let (reference, mut weight) = match kind {
        0 => (words(&|random| random), words(&|random| random)),
        1 => (words(&special), words(&special)),
        2 => (vec![seed as u8; length], vec![(seed >> 8) as u8; length]),
        // Mantissas differ a little, in each of the widths.
        3 => {
            let reference = words(&|random| random & 0x3fff_ffff_3fff_3fff);
            (
                reference.clone(),
                reference.iter().enumerate().map(|(i, b)| if i % 8 == 0 { b ^ 1 } else { *b }).collect(),
            )
        }
        _ => {
            let reference = words(&special);
            (reference.clone(), reference)
        }
    };
    if kind == 4 && length > 0 {
        weight[seed as usize % length] ^= 0x10;
    }
    (reference, weight)
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    (select(&Dtype::ALL[..]), select(&[ByteOrder::Little, ByteOrder::Big][..]))
        .prop_map(|(dtype, order)| dtype.with_byte_order(order))
}

fn shapes() -> impl Strategy<Value = Vec<u64>> {
    // Elements of 4 and 6 bits fill whole bytes in all of these but two.
    select(vec![
        vec![],
        vec![0],
        vec![3, 0, 2],
        vec![4],
        vec![1, 12],
        vec![64, 33],
        vec![5, 7, 4],
        vec![9],
        vec![20_004],
    ])
}

fn encoder(delta_type: DeltaType) -> DeltaEncoder {
    DeltaEncoder::new(DeltaConfig { delta_type, ..DeltaConfig::default() })
}

fn tensor(dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> WeightTensor {
    WeightTensor::new("w", shape, dtype, bytes).unwrap()
}

fn f32s(values: &[f32]) -> WeightTensor {
    tensor(Dtype::F32, &[values.len() as u64], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn lossless() -> Vec<DeltaType> {
    DeltaType::ALL.into_iter().filter(DeltaType::is_lossless).collect()
}

fn lossy() -> Vec<DeltaType> {
    DeltaType::ALL.into_iter().filter(|delta_type| !delta_type.is_lossless()).collect()
}

/// Types that take every dtype, and whatever bits there are.
const BY_BITS: [DeltaType; 3] = [DeltaType::Zigzag, DeltaType::XorFloat32, DeltaType::XorBfloat16];

const FLOATS: [Dtype; 4] = [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_lossless_delta_gives_back_every_bit_or_is_refused_with_the_type_that_would(
        dtype in dtypes(), shape in shapes(), delta_type in select(lossless()), kind in 0_u8..5, seed: u64,
    ) {
        let Ok(length) = dtype.byte_len(&shape) else { return Ok(()) };
        let (reference, weight) = pair(length as usize, kind, seed);
        let (reference, weight) = (tensor(dtype, &shape, reference), tensor(dtype, &shape, weight));
        let encoder = encoder(delta_type.clone());
        let delta = match encoder.encode_delta(&weight, &reference) {
            Ok(delta) => delta,
            Err(Error::Unsupported { what }) => {
                prop_assert!(!BY_BITS.contains(&delta_type), "{}", what);
                prop_assert!(what.contains("zigzag"), "{}", what);
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        prop_assert_eq!(&delta.metadata["lossless"], &Value::Bool(true));
        delta.check().unwrap();
        let back = encoder.decode_delta(&delta, &reference).unwrap();
        prop_assert_eq!(back.data().unwrap(), weight.data().unwrap());
        prop_assert_eq!((back.shape(), back.dtype()), (weight.shape(), weight.dtype()));
        let (dict, bytes) = delta.to_dict();
        prop_assert_eq!(&Delta::from_dict(&dict, bytes).unwrap(), &delta);
    }

    #[test]
    fn near_floats_are_never_refused_by_a_lossless_type(
        dtype in select(&FLOATS[..3]), delta_type in select(lossless()), seed: u64, count in 1_u64..9000,
    ) {
        let mut next = generator(seed);
        let (mut reference, mut weight) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let base = (next() % 2001) as f32 / 1000.0 - 1.0;
            let value = base + (next() % 2001) as f32 * 1e-7 - 1e-4;
            match dtype.kind() {
                Kind::F16 => for (to, x) in [(&mut reference, base), (&mut weight, value)] {
                    to.extend(half::f16::from_f32(x).to_le_bytes());
                },
                Kind::Bf16 => for (to, x) in [(&mut reference, base), (&mut weight, value)] {
                    to.extend(half::bf16::from_f32(x).to_le_bytes());
                },
                _ => for (to, x) in [(&mut reference, base), (&mut weight, value)] {
                    to.extend(x.to_le_bytes());
                },
            }
        }
        // Some that no sum gives back, whatever is added: NaN with a payload, infinity, negative zero.
        let size = dtype.item_size().unwrap();
        for special in [0x7fc1_ff81_7fc1_7fc1_u64, 0x7f80_0000_7f80_7f80, 0x8000_0000_8000_8000] {
            let at = next() as usize % count as usize * size;
            weight[at..at + size].copy_from_slice(&special.to_le_bytes()[8 - size..]);
        }
        let (reference, weight) = (tensor(dtype, &[count], reference), tensor(dtype, &[count], weight));
        let encoder = encoder(delta_type);
        let delta = encoder.encode_delta(&weight, &reference).unwrap();
        prop_assert_eq!(encoder.decode_delta(&delta, &reference).unwrap().data().unwrap(), weight.data().unwrap());
    }

    #[test]
    fn a_lossy_delta_stays_within_its_bound_and_says_how_far_off_it_is(
        dtype in select(&FLOATS[..]), is_big: bool, delta_type in select(lossy()), seed: u64, rows in 0_u64..20,
        columns in 1_u64..300, size in -8_i32..4, step in -12_i32..3, is_constant: bool,
    ) {
        let dtype = dtype.with_byte_order(if is_big { ByteOrder::Big } else { ByteOrder::Little });
        let mut next = generator(seed);
        let mut unit = || next() as f64 / u64::MAX as f64 * 2.0 - 1.0;
        let constant = unit();
        let bytes = |value: f64| {
            let mut bytes = match dtype.kind() {
                Kind::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
                Kind::Bf16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
                Kind::F32 => (value as f32).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            };
            if is_big {
                bytes.reverse();
            }
            bytes
        };
        let (mut reference, mut weight) = (Vec::new(), Vec::new());
        for _ in 0..rows * columns {
            let base = unit() * f64::powi(10.0, size);
            reference.extend(bytes(base));
            let change = if is_constant { constant } else { unit() };
            weight.extend(bytes(base + change * f64::powi(10.0, step)));
        }
        let shape = [rows, columns];
        let (reference, weight) = (tensor(dtype, &shape, reference), tensor(dtype, &shape, weight));
        let encoder = encoder(delta_type.clone());
        let delta = encoder.encode_delta(&weight, &reference).unwrap();
        prop_assert_eq!(&delta.metadata["lossless"], &Value::Bool(false));
        let back = encoder.decode_delta(&delta, &reference).unwrap();

        let numbers = |tensor: &WeightTensor| {
            let mut numbers = Vec::new();
            values::for_each(dtype, &tensor.data().unwrap(), |value| numbers.push(value));
            numbers
        };
        let (weight, reference, back) = (numbers(&weight), numbers(&reference), numbers(&back));
        let changes: Vec<f64> = weight.iter().zip(&reference).map(|(value, base)| value - base).collect();
        let largest = |changes: &[f64]| changes.iter().fold(0.0_f64, |most, change| most.max(change.abs()));
        let range = changes.iter().copied().fold(f64::MIN, f64::max) - changes.iter().copied().fold(f64::MAX, f64::min);
        // Relative rounding of float32 in scale, offset, product and sum; and of the result's own dtype.
        let single = f64::powi(2.0, -24);
        let (own, least) = match dtype.kind() {
            Kind::F16 => (f64::powi(2.0, -11), f64::powi(2.0, -25)),
            Kind::Bf16 => (f64::powi(2.0, -8), f64::powi(2.0, -134)),
            Kind::F32 => (single, f64::powi(2.0, -150)),
            _ => (0.0, 0.0),
        };
        let mut worst = 0.0_f64;
        for (index, ((value, found), change)) in weight.iter().zip(&back).zip(&changes).enumerate() {
            let row = index as u64 / columns * columns;
            let bound = match delta_type {
                DeltaType::Int8Quantized => range / 255.0 / 2.0,
                DeltaType::Int16Quantized => range / 65535.0 / 2.0,
                DeltaType::Sparse if change.abs() <= 1e-6 => 1e-6,
                DeltaType::Sparse => 0.0,
                _ => largest(&changes[row as usize..(row + columns) as usize]) / 127.0 / 2.0,
            };
            let rounding = 6.0 * single * (largest(&changes) + range.max(0.0)) + f64::powi(2.0, -148);
            let sum = (own + if dtype.kind() == Kind::F64 { f64::EPSILON } else { single }) * (value.abs() + bound + rounding);
            let error = (value - found).abs();
            prop_assert!(error <= bound + rounding + sum + least, "{} of {}: {:e} > {:e}", found, value, error, bound);
            worst = worst.max(error);
        }
        prop_assert_eq!(delta.metadata["max_error"].as_f64(), Some(worst));
    }

    #[test]
    fn a_lossy_delta_of_a_nan_or_an_infinity_is_refused(
        dtype in select(&FLOATS[..]), delta_type in select(lossy()), at in 0_usize..64, in_reference: bool,
        special in select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
    ) {
        let element = match dtype.kind() {
            Kind::F16 => half::f16::from_f64(special).to_le_bytes().to_vec(),
            Kind::Bf16 => half::bf16::from_f64(special).to_le_bytes().to_vec(),
            Kind::F32 => (special as f32).to_le_bytes().to_vec(),
            _ => special.to_le_bytes().to_vec(),
        };
        let plain = vec![0; 64 * element.len()];
        let mut wrong = plain.clone();
        wrong[at * element.len()..][..element.len()].copy_from_slice(&element);
        let (mut weight, mut reference) = (tensor(dtype, &[8, 8], wrong), tensor(dtype, &[8, 8], plain));
        if in_reference {
            std::mem::swap(&mut weight, &mut reference);
        }
        let error = encoder(delta_type).encode_delta(&weight, &reference).unwrap_err();
        prop_assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("zigzag"), "{}", error);
    }
}

#[test]
fn the_default_is_lossless_whatever_the_bits() {
    let (weight, reference) = (f32s(&[f32::NAN, 1.0, -0.0]), f32s(&[f32::INFINITY, 0.0, 0.0]));
    let encoder = DeltaEncoder::default();
    let delta = encoder.encode_delta(&weight, &reference).unwrap();
    assert_eq!(delta.delta_type, DeltaType::Zigzag);
    assert_eq!(encoder.decode_delta(&delta, &reference).unwrap().data().unwrap(), weight.data().unwrap());
}

#[test]
fn what_subtraction_would_lose_is_listed_and_too_much_of_it_refused() {
    // 1e-9 is lost against 1.0; a NaN's payload and a negative zero in any sum.
    let reference = f32s(&[1.0, 1.0, 0.5, 0.0]);
    let weight = f32s(&[1e-9, f32::from_bits(0x7fc0_1234), 0.25, -0.0]);
    for delta_type in [DeltaType::Float32Raw, DeltaType::Compressed, DeltaType::ExponentMantissa] {
        let encoder = encoder(delta_type.clone());
        let delta = encoder.encode_delta(&weight, &reference).unwrap();
        let bits = [1e-9_f32.to_bits(), 0x7fc0_1234, 0x8000_0000];
        assert_eq!(delta.metadata["exact"], json!({"at": [0, 1, 3], "bits": bits}), "{delta_type}");
        assert_eq!(encoder.decode_delta(&delta, &reference).unwrap().data().unwrap(), weight.data().unwrap());

        let (many, ones) = (f32s(&[1e-9; 10_000]), f32s(&[1.0; 10_000]));
        let error = encoder.encode_delta(&many, &ones).unwrap_err().to_string();
        assert!(error.contains("zigzag"), "{error}");
        // Few enough, and yet too long a text for an attribute.
        let (many, ones) = (f32s(&[1e-9; 4000]), f32s(&[1.0; 4000]));
        assert!(encoder.encode_delta(&many, &ones).is_err());
    }
}

#[test]
fn negative_zeros_that_did_not_change_need_no_list() {
    let zeros = f32s(&[-0.0; 5000]);
    for delta_type in [DeltaType::Float32Raw, DeltaType::Compressed, DeltaType::ExponentMantissa] {
        let encoder = encoder(delta_type);
        let delta = encoder.encode_delta(&zeros, &zeros).unwrap();
        assert!(!delta.metadata.contains_key("exact"));
        assert_eq!(encoder.decode_delta(&delta, &zeros).unwrap().data().unwrap(), zeros.data().unwrap());
    }
}

#[test]
fn a_lossy_delta_that_would_round_a_number_to_infinity_is_refused() {
    let halves = |values: [f32; 3]| {
        let bytes = values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
        tensor(Dtype::F16, &[3], bytes)
    };
    // The middle difference is 290 below its level, and 290 more than the weight is past the largest float16.
    let (weight, reference) = (halves([65504.0, 65504.0, -65504.0]), halves([-65504.0, -480.0, 65504.0]));
    let encoder = encoder(DeltaType::Int8Quantized);
    match encoder.encode_delta(&weight, &reference) {
        Err(error) => assert!(error.to_string().contains("infinite"), "{error}"),
        Ok(delta) => panic!("{:?}", delta.metadata),
    }
}

#[test]
fn deltas_come_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = Hdf5Store::open(folder.path().join("deltas.h5"), Hdf5Options::new()).unwrap();
    let near: Vec<f32> = (0..5000).map(|i| (i as f32).sin()).collect();
    let far: Vec<f32> = near.iter().map(|value| value + 0.001).collect();
    let reference = f32s(&near);
    let key = file.store(&reference, Some(&WeightHash::new("its own key").unwrap())).unwrap();
    let reference = file.load(&key).unwrap().unwrap();
    let weight = f32s(&far);
    for delta_type in DeltaType::ALL {
        let encoder = encoder(delta_type.clone());
        let delta = encoder.encode_delta(&weight, &reference).unwrap();
        assert_eq!(delta.reference_hash, key, "a stored reference is named by its key");
        let name = WeightHash::new(delta_type.as_str()).unwrap();
        file.store_delta(&delta, &name).unwrap();
        let stored = file.load_delta(&name).unwrap().unwrap();
        assert!(stored == delta, "{delta_type}: {:?}", stored.metadata);
        file.store_delta(&delta, &name).unwrap();
        let back = encoder.decode_delta(&stored, &reference).unwrap();
        assert!(!delta_type.is_lossless() || back.data().unwrap() == weight.data().unwrap(), "{delta_type}");
    }
    file.close().unwrap();
}

#[test]
fn differences_sorted_by_exponent_are_sorted_run_by_run() {
    let count = 600_000_u64;
    let mut next = generator(7);
    let reference: Vec<u8> = (0..count).flat_map(|_| (next() as u32 & 0x3fff_ffff).to_le_bytes()).collect();
    let weight: Vec<u8> = reference
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|b| (u32::from_le_bytes(*b) + u32::from(b[0])).to_le_bytes())
        .collect();
    let (reference, weight) = (tensor(Dtype::F32, &[count], reference), tensor(Dtype::F32, &[count], weight));
    let encoder = encoder(DeltaType::ZigzagByExponent);
    let delta = encoder.encode_delta(&weight, &reference).unwrap();
    assert_eq!(delta.metadata["run"], 262_144);
    assert_eq!(encoder.decode_delta(&delta, &reference).unwrap().data().unwrap(), weight.data().unwrap());
    // Runs of another length, as one is for a whole tensor, are taken as the metadata says.
    let whole =
        corallite_weights::delta::Difference::new(Dtype::F32, corallite_weights::delta::Order::Exponent).unwrap();
    let mut data = vec![0; weight.nbytes() as usize];
    whole.encode(&weight.data().unwrap(), &reference.data().unwrap(), &mut data).unwrap();
    let mut delta = Delta { data: data.into(), ..delta };
    assert!(encoder.decode_delta(&delta, &reference).is_err(), "the hash tells that the runs are wrong");
    delta.metadata.remove("run");
    assert_eq!(encoder.decode_delta(&delta, &reference).unwrap().data().unwrap(), weight.data().unwrap());
}

/// float32 has no odd numbers above 2^24, so indices there have to be kept wider.
#[test]
fn a_sparse_delta_of_a_large_weight_names_each_index_exactly() {
    let count = (1 << 24) + 6;
    let reference = vec![0_u8; 2 * count];
    let mut weight = reference.clone();
    let changed = [5, 1 << 24, (1 << 24) + 1, (1 << 24) + 3];
    for at in changed {
        weight[2 * at + 1] = 0x3c; // 1.0
    }
    let shape = [count as u64];
    let (reference, weight) = (tensor(Dtype::F16, &shape, reference), tensor(Dtype::F16, &shape, weight));
    let encoder = encoder(DeltaType::Sparse);
    let delta = encoder.encode_delta(&weight, &reference).unwrap();
    assert_eq!((delta.data_dtype, delta.data_shape.as_slice()), (Dtype::F64, [4, 2].as_slice()));
    assert_eq!(encoder.decode_delta(&delta, &reference).unwrap().data().unwrap(), weight.data().unwrap());
}

fn inflate(stream: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::bufread::ZlibDecoder::new(stream).read_to_end(&mut out).unwrap();
    out
}

/// The layouts that docs/store-format.md describes, taken apart by hand.
#[test]
fn the_streams_of_a_delta_are_laid_out_as_documented() {
    let (reference, weight) = (f32s(&[1.0, -2.0, 0.5]), f32s(&[1.5, 2.0, 0.5]));
    let stream = |bytes: &Bytes, from: usize, len: usize| inflate(&bytes[from..from + len]);
    let len = |bytes: &Bytes, at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;

    let xor = encoder(DeltaType::XorFloat32).encode_delta(&weight, &reference).unwrap().data;
    let high = len(&xor, 0);
    assert_eq!(stream(&xor, 4, high), [0, 0, 0, 1, 0, 0]);
    assert_eq!(inflate(&xor[4 + high..]), [0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    let halves = encoder(DeltaType::XorBfloat16).encode_delta(&weight, &reference).unwrap().data;
    let high = len(&halves, 0);
    assert_eq!(stream(&halves, 4, high), [0x40, 0, 0, 0x80, 0, 0]);
    assert_eq!(inflate(&halves[4 + high..]), [0; 6]);

    // The differences are 0.5, 4.0 and 0.0.
    let parts = encoder(DeltaType::ExponentMantissa).encode_delta(&weight, &reference).unwrap().data;
    let (signs, exponents) = (len(&parts, 0), len(&parts, 4));
    assert_eq!(stream(&parts, 8, signs), [0]);
    assert_eq!(stream(&parts, 8 + signs, exponents), [126, 129, 0]);
    assert_eq!(inflate(&parts[8 + signs + exponents..]), [0; 12]);
    let negative = encoder(DeltaType::ExponentMantissa).encode_delta(&reference, &weight).unwrap().data;
    assert_eq!(stream(&negative, 8, len(&negative, 0)), [0b1100_0000]);

    let per_axis = encoder(DeltaType::PerAxisScaled).encode_delta(&weight, &reference).unwrap();
    let scale = 4.0_f32 / 127.0;
    assert_eq!(per_axis.data, [scale.to_le_bytes().as_slice(), &[16, 127, 0]].concat());

    let sparse = encoder(DeltaType::Sparse).encode_delta(&weight, &reference).unwrap();
    let pairs: Vec<u8> = [0.0_f32, 0.5, 1.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!((sparse.data.as_ref(), sparse.data_shape), (pairs.as_slice(), vec![2, 2]));

    let zigzag = encoder(DeltaType::Zigzag);
    let complex = |bytes: Vec<u8>| tensor(Dtype::C64, &[2], bytes);
    let delta = zigzag.encode_delta(&complex(vec![1; 16]), &complex(vec![0; 16])).unwrap();
    assert_eq!((delta.data_dtype, delta.data_shape), (Dtype::U32, vec![2, 2]));
    let packed = |bytes: Vec<u8>| tensor(Dtype::F4, &[2, 4], bytes);
    let delta = zigzag.encode_delta(&packed(vec![1; 4]), &packed(vec![0; 4])).unwrap();
    assert_eq!((delta.data_dtype, delta.data_shape, delta.data), (Dtype::U8, vec![4], vec![2; 4].into()));
}

/// A delta as coral writes them: no labels.
fn coral(
    delta_type: DeltaType,
    dtype: Dtype,
    data: (Dtype, Vec<u64>, Vec<u8>),
    metadata: Value,
) -> (Delta, WeightTensor) {
    let reference = match dtype.kind() {
        Kind::I8 => tensor(dtype, &[2, 2], vec![1, 100, 0xff, 0]),
        Kind::I64 => tensor(dtype, &[2, 2], [1_i64, 1 << 60, -1, 0].iter().flat_map(|v| v.to_le_bytes()).collect()),
        _ => tensor(dtype, &[2, 2], [1.0_f32, -0.0, 0.25, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    let delta = Delta {
        delta_type,
        data: data.2.into(),
        data_dtype: data.0,
        data_shape: data.1,
        metadata: metadata.as_object().cloned().unwrap_or_else(Map::new),
        original_shape: vec![2, 2],
        original_dtype: dtype,
        reference_hash: coral_hash(dtype, &[2, 2], &reference.data().unwrap()),
        compression_ratio: 0.0,
    };
    (delta, reference)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn unlabelled_deltas_decode_as_coral_decodes_them() {
    let f32_out = |delta_type, data, metadata, want: [f32; 4]| {
        let (delta, reference) = coral(delta_type, Dtype::F32, data, metadata);
        let back = DeltaEncoder::default().decode_delta(&delta, &reference).unwrap();
        assert_eq!(back.data().unwrap(), floats(&want));
    };
    let shape = vec![2, 2];
    let raw = floats(&[0.5, 0.0, -0.25, 1.0]);
    let wanted = [1.5, 0.0, 0.0, 9.0];
    f32_out(DeltaType::Float32Raw, (Dtype::F32, shape.clone(), raw.clone()), json!({}), wanted);
    let stream = deflated(&raw);
    let length = vec![stream.len() as u64];
    f32_out(DeltaType::Compressed, (Dtype::U8, length, stream), json!({"original_shape": [2, 2]}), wanted);
    let levels = vec![0x80, 0, 1, 127];
    let scales = json!({"scale": 0.5, "offset": 1.0, "bits": 8});
    f32_out(DeltaType::Int8Quantized, (Dtype::I8, shape.clone(), levels), scales, [-62.0, 1.0, 1.75, 72.5]);
    let pairs = floats(&[0.0, 0.5, 3.0, 7.0, 3.0, 1.0]);
    f32_out(
        DeltaType::Sparse,
        (Dtype::F32, vec![3, 2], pairs),
        json!({"original_shape": [2, 2]}),
        [1.5, 0.0, 0.25, 9.0],
    );
    // Rows 2.0 and 0.5, columns 1.0 and 4.0; signs + - - +.
    let halves = [2.0, 0.5, 1.0, 4.0].map(|value| half::f16::from_f32(value).to_le_bytes());
    let signs = [halves.concat(), vec![0b1001_0000]].concat();
    let sides = json!({"num_rows": 2, "num_cols": 2, "num_elements": 4, "original_shape": [2, 2]});
    f32_out(DeltaType::PerAxisScaled, (Dtype::U8, vec![9], signs), sides, [3.0, -8.0, -0.25, 10.0]);

    let raw = (Dtype::F32, shape, floats(&[1.9, 28.9, -2.5, -0.9]));
    let (delta, reference) = coral(DeltaType::Float32Raw, Dtype::I8, raw.clone(), json!({}));
    let back = DeltaEncoder::default().decode_delta(&delta, &reference).unwrap().data().unwrap();
    assert_eq!(back, vec![2, 0x80, (-3_i8) as u8, 0], "128 wraps around");
    let (delta, reference) = coral(DeltaType::Float32Raw, Dtype::I64, raw, json!({}));
    let back = DeltaEncoder::default().decode_delta(&delta, &reference).unwrap().data().unwrap();
    let wanted: Vec<u8> = [2_i64, 1 << 60, -3, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(back, wanted);
}

/// What has to be in the error, and what is done to the delta for it.
type Damage = (&'static str, fn(&mut Delta));

fn meta(delta: &mut Delta, field: &str, value: Value) {
    delta.metadata.insert(field.into(), value);
}

fn replace(delta: &mut Delta, data: Vec<u8>) {
    delta.data_shape = vec![data.len() as u64];
    delta.data = data.into();
}

fn patch(delta: &mut Delta, at: usize, bytes: &[u8]) {
    let mut data = delta.data.to_vec();
    data[at..at + bytes.len()].copy_from_slice(bytes);
    delta.data = data.into();
}

fn refused(delta_type: DeltaType, damages: &[Damage]) {
    let base: Vec<f32> = (0..64).map(|i| (i * 37 % 64) as f32).collect();
    // Each of the differences is another, so that none can pass for its neighbour.
    let next: Vec<f32> = base.iter().map(|value| value * 1.25 + 0.5).collect();
    let shaped = |values: &[f32]| tensor(Dtype::F32, &[8, 8], floats(values));
    let (reference, weight) = (shaped(&base), shaped(&next));
    let encoder = encoder(delta_type.clone());
    let whole = encoder.encode_delta(&weight, &reference).unwrap();
    encoder.decode_delta(&whole, &reference).unwrap();
    let common: &[Damage] = &[
        ("lossless", |delta| meta(delta, "lossless", json!("yes"))),
        ("lossless", |delta| {
            let is_lossless = delta.delta_type.is_lossless();
            meta(delta, "lossless", json!(!is_lossless));
        }),
        ("delta_type", |delta| {
            delta.metadata.clear();
            delta.delta_type = DeltaType::Other("new\n".into());
        }),
        ("original_shape", |delta| delta.original_shape = vec![64]),
        ("do not fit", |delta| delta.original_shape = vec![u64::MAX, u64::MAX]),
        ("original_dtype", |delta| delta.original_dtype = Dtype::I32),
        ("original_dtype", |delta| delta.original_dtype = Dtype::F32.with_byte_order(ByteOrder::Big)),
        ("reference_hash", |delta| delta.reference_hash = WeightHash::new("another").unwrap()),
        ("data has", |delta| delta.data = delta.data.slice(1..)),
        ("data_", |delta| {
            delta.data_dtype = Dtype::BOOL;
            delta.data_shape = vec![delta.data.len() as u64];
        }),
        ("data", |delta| replace(delta, vec![])),
        ("data", |delta| replace(delta, vec![0xff; 400])),
    ];
    let checked: &[Damage] = &[
        ("content_hash", |delta| meta(delta, "content_hash", json!(7))),
        ("content_hash", |delta| meta(delta, "content_hash", json!("0".repeat(64)))),
    ];
    let checked = if delta_type.is_lossless() { checked } else { &[] };
    for (number, (field, damage)) in common.iter().chain(checked).chain(damages).enumerate() {
        let mut delta = whole.clone();
        damage(&mut delta);
        match encoder.decode_delta(&delta, &reference) {
            Err(error @ (Error::Delta { .. } | Error::ShapeMismatch { .. })) => {
                assert!(error.to_string().contains(field), "{delta_type}, damage {number}: {error}");
            }
            other => panic!("{delta_type}, damage {number}: {other:?}"),
        }
    }
}

#[test]
fn a_damaged_delta_of_bits_is_refused_by_field() {
    let changed: Damage = ("content_hash", |delta| patch(delta, 9, &[0x55]));
    refused(DeltaType::Zigzag, &[changed]);
    refused(
        DeltaType::ZigzagByExponent,
        &[
            changed,
            ("run", |delta| meta(delta, "run", json!(0))),
            ("run", |delta| meta(delta, "run", json!(-1))),
            ("content_hash", |delta| meta(delta, "run", json!(3))),
        ],
    );
    let streams: &[Damage] = &[
        ("data", |delta| patch(delta, 0, &[0xff; 4])),
        ("data", |delta| patch(delta, 0, &[0; 4])),
        ("data", |delta| patch(delta, 8, &[0xff; 4])),
        ("original_shape", |delta| meta(delta, "original_shape", json!([8, 9]))),
        ("original_shape", |delta| meta(delta, "original_shape", json!("[8, 8]"))),
        ("more bits", |delta| {
            let (high, low) = (deflated(&[0xff; 128]), deflated(&[0xff; 256]));
            replace(delta, [(high.len() as u32).to_le_bytes().as_slice(), &high, &low].concat());
        }),
    ];
    refused(DeltaType::XorFloat32, streams);
    refused(DeltaType::XorBfloat16, &streams[..5]);
}

#[test]
fn a_damaged_delta_of_floats_is_refused_by_field() {
    let list: &[Damage] = &[
        ("exact", |delta| meta(delta, "exact", json!(1))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [1]}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [1], "bits": []}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [1, 1], "bits": [0, 0]}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [2, 1], "bits": [0, 0]}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [64], "bits": [0]}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [u64::MAX], "bits": [0]}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [0.5], "bits": [0]}))),
        ("exact", |delta| meta(delta, "exact", json!({"at": [1], "bits": [1_u64 << 32]}))),
    ];
    refused(DeltaType::Float32Raw, list);
    refused(DeltaType::Float32Raw, &[("data_shape", |delta| delta.data_shape = vec![64])]);
    let bomb: Damage = ("more than the shape", |delta| replace(delta, deflated(&vec![0; 64 << 20])));
    refused(DeltaType::Compressed, list);
    refused(
        DeltaType::Compressed,
        &[
            bomb,
            ("inflate", |delta| replace(delta, deflated(&[0; 255]))),
            ("inflate", |delta| {
                let end = delta.data.len() - 2;
                patch(delta, end, &[0x5a]);
            }),
            ("original_shape", |delta| meta(delta, "original_shape", json!([64]))),
        ],
    );
    refused(DeltaType::ExponentMantissa, list);
    refused(
        DeltaType::ExponentMantissa,
        &[
            ("data", |delta| patch(delta, 0, &[0xff; 8])),
            ("data", |delta| patch(delta, 4, &[0xff; 4])),
            ("mantissa", |delta| {
                let (signs, exponents, mantissas) = (deflated(&[0; 8]), deflated(&[0; 64]), deflated(&[0xff; 256]));
                let header = [signs.len() as u32, exponents.len() as u32].map(u32::to_le_bytes).concat();
                replace(delta, [header, signs, exponents, mantissas].concat());
            }),
        ],
    );
}

#[test]
fn a_damaged_lossy_delta_is_refused_by_field() {
    let scales: &[Damage] = &[
        ("scale", |delta| meta(delta, "scale", json!("1"))),
        ("scale", |delta| meta(delta, "scale", json!(1e300))),
        ("scale", |delta| meta(delta, "scale", Value::Null)),
        ("scale", |delta| drop(delta.metadata.remove("scale"))),
        ("offset", |delta| drop(delta.metadata.remove("offset"))),
        ("data_shape", |delta| delta.data_shape = vec![64]),
    ];
    refused(DeltaType::Int8Quantized, scales);
    refused(DeltaType::Int16Quantized, scales);
    refused(
        DeltaType::Sparse,
        &[
            ("index", |delta| patch(delta, 0, &64_f32.to_le_bytes())),
            ("index", |delta| patch(delta, 8, &(-1_f32).to_le_bytes())),
            ("index", |delta| patch(delta, 8, &f32::NAN.to_le_bytes())),
            ("index", |delta| patch(delta, 8, &0.5_f32.to_le_bytes())),
            ("index", |delta| patch(delta, 8, &f32::INFINITY.to_le_bytes())),
            ("ascend", |delta| patch(delta, 8, &0_f32.to_le_bytes())),
            ("ascend", |delta| patch(delta, 16, &0_f32.to_le_bytes())),
            ("data_shape", |delta| delta.data_shape = vec![128]),
            ("data_shape", |delta| delta.data_shape = vec![32, 4]),
            ("original_shape", |delta| meta(delta, "original_shape", json!([8]))),
        ],
    );
    refused(
        DeltaType::PerAxisScaled,
        &[
            ("rows", |delta| meta(delta, "rows", json!(7))),
            ("rows", |delta| meta(delta, "rows", json!(-8))),
            ("columns", |delta| drop(delta.metadata.remove("columns"))),
            ("rows", |delta| {
                meta(delta, "rows", json!(1_u64 << 63));
                meta(delta, "columns", json!(1_u64 << 63));
            }),
            ("scale", |delta| patch(delta, 0, &f32::NAN.to_le_bytes())),
            ("scale", |delta| patch(delta, 4, &(-1_f32).to_le_bytes())),
            ("num_rows", |delta| meta(delta, "num_rows", json!("8"))),
            ("signs", |delta| {
                meta(delta, "num_rows", json!(8));
                meta(delta, "num_cols", json!(8));
            }),
        ],
    );
}

#[test]
fn integers_outside_their_range_and_dtypes_without_sums_are_refused() {
    for (dtype, far) in [(Dtype::I8, 3e9), (Dtype::I8, f32::NAN), (Dtype::I64, 9e18), (Dtype::I64, f32::NEG_INFINITY)] {
        let raw = (Dtype::F32, vec![2, 2], floats(&[1.0, far, 0.0, 0.0]));
        let (delta, reference) = coral(DeltaType::Float32Raw, dtype, raw, json!({}));
        let error = DeltaEncoder::default().decode_delta(&delta, &reference).unwrap_err();
        assert!(matches!(error, Error::Delta { field: "data", .. }), "{error}");
    }
    for dtype in [Dtype::BOOL, Dtype::F8_E4M3, Dtype::I32, Dtype::C64] {
        let zeros = tensor(dtype, &[2], vec![0; 2 * dtype.item_size().unwrap()]);
        for delta_type in DeltaType::ALL.into_iter().filter(|delta_type| !BY_BITS.contains(delta_type)) {
            if delta_type == DeltaType::ZigzagByExponent && dtype == Dtype::C64 {
                continue;
            }
            let encoder = DeltaEncoder::new(DeltaConfig { delta_type, min_weight_size: 0, ..DeltaConfig::default() });
            let error = encoder.encode_delta(&zeros, &zeros).unwrap_err().to_string();
            assert!(error.contains("zigzag"), "{error}");
            assert!(!encoder.can_encode_as_delta(&zeros, &zeros).unwrap());
        }
    }
}

/// An element of 16 bytes does not fit into a number of the list; nothing here writes such a list.
#[test]
fn a_list_for_elements_wider_than_its_numbers_is_refused() {
    let reference = tensor(Dtype::C128, &[2], vec![0; 32]);
    let raw = (Dtype::F32, vec![2], floats(&[1.0, 2.0]));
    let list = json!({"exact": {"at": [0], "bits": [1]}});
    let (delta, _) = coral(DeltaType::Float32Raw, Dtype::F32, raw, list);
    let reference_hash = reference.content_hash().unwrap();
    let delta = Delta { original_shape: vec![2], original_dtype: Dtype::C128, reference_hash, ..delta };
    let error = DeltaEncoder::default().decode_delta(&delta, &reference).unwrap_err();
    assert!(matches!(error, Error::Delta { field: "exact", .. }), "{error}");
    let delta = Delta { metadata: Map::new(), ..delta };
    let back = DeltaEncoder::default().decode_delta(&delta, &reference).unwrap().data().unwrap();
    let wanted: Vec<u8> = [1.0_f64, 0.0, 2.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(back, wanted);
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let zeros = f32s(&[0.0; 4]);
    for config in [
        DeltaConfig { delta_type: DeltaType::Compressed, compression_level: 10, ..DeltaConfig::default() },
        DeltaConfig { delta_type: DeltaType::Sparse, sparse_threshold: f64::NAN, ..DeltaConfig::default() },
        DeltaConfig { delta_type: DeltaType::Sparse, sparse_threshold: -1.0, ..DeltaConfig::default() },
        DeltaConfig { delta_type: DeltaType::from("from_the_future"), ..DeltaConfig::default() },
    ] {
        let error = DeltaEncoder::new(config).encode_delta(&zeros, &zeros).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
    let error = DeltaEncoder::default().encode_delta(&zeros, &f32s(&[0.0; 5])).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
}

/// The figures are those of coral-ml 1.0.0 for the same two arrays.
#[test]
fn whether_a_delta_is_worth_it_follows_corals_rules() {
    let base = vec![0.0_f32; 1000];
    let mut next = base.clone();
    next.iter_mut().step_by(10).for_each(|value| *value = 1.0);
    let (reference, weight) = (f32s(&base), f32s(&next));
    let with = |delta_type, change: fn(&mut DeltaConfig)| {
        let mut config = DeltaConfig { delta_type, ..DeltaConfig::default() };
        change(&mut config);
        DeltaEncoder::new(config)
    };
    let can = |encoder: &DeltaEncoder| encoder.can_encode_as_delta(&weight, &reference).unwrap();
    for delta_type in DeltaType::ALL {
        assert!(can(&with(delta_type.clone(), |_| ())), "{delta_type}");
        assert!(!can(&with(delta_type.clone(), |config| config.min_weight_size = 4001)), "{delta_type}");
        let strict = with(delta_type.clone(), |config| config.max_delta_ratio = 0.2);
        assert_eq!(can(&strict), delta_type.is_lossless(), "{delta_type}");
        let encoder = with(delta_type, |_| ());
        assert!(!encoder.can_encode_as_delta(&weight, &f32s(&[0.0; 999])).unwrap());
        assert!(!encoder.can_encode_as_delta(&weight, &tensor(Dtype::I32, &[1000], vec![0; 4000])).unwrap());
    }
    // 100 × 8 + 400 of 4000 bytes are 0.3; 1000 + 400 are 0.35.
    assert!(can(&with(DeltaType::Sparse, |config| config.max_delta_ratio = 0.3)));
    assert!(!can(&with(DeltaType::Sparse, |config| config.max_delta_ratio = 0.299)));
    assert!(can(&with(DeltaType::Int8Quantized, |config| config.min_compression_ratio = 0.65)));
    assert!(!can(&with(DeltaType::Int8Quantized, |config| config.min_compression_ratio = 0.651)));
    let estimate = |delta_type| with(delta_type, |_| ()).estimate_delta_size(&weight, &reference).unwrap();
    assert_eq!(
        [DeltaType::Sparse, DeltaType::Int8Quantized, DeltaType::Int16Quantized, DeltaType::Zigzag].map(estimate),
        [800, 1000, 2000, 4000]
    );
}
