//! Deltas: what was encoded decodes, and whatever else comes from a file gives an error or a weight of the reference's
//! shape. A lossless delta that carries the hash of its weight gives that weight or an error, however it was damaged.

use std::io::Write;

use corallite_weights::{ByteOrder, Delta, DeltaConfig, DeltaEncoder, DeltaType, Dtype, Error, WeightTensor};
use serde_json::{Map, Value, json};

use crate::input::{Input, edit};

/// What an input did: of use to a test that wants to know that its inputs reach something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The two have no delta of this type.
    NotEncoded,
    /// The delta was refused.
    Refused,
    /// The delta gave a weight.
    Decoded,
}

/// One input of the target: the first byte says whether the delta is made up or an encoder's, damaged.
pub fn check(bytes: &[u8]) -> Outcome {
    let mut input = Input(bytes);
    let is_forged = input.u8() & 1 == 0;
    let delta_type = match DeltaType::ALL.get(usize::from(input.u8() % 12)) {
        Some(known) => known.clone(),
        None => DeltaType::from("from_the_future"),
    };
    let byte = input.u8();
    let order = if byte & 0x80 == 0 { ByteOrder::Little } else { ByteOrder::Big };
    let dtype = Dtype::ALL[usize::from(byte & 0x7f) % Dtype::ALL.len()].with_byte_order(order);
    // Four elements of any dtype fill whole bytes. Now and then there are more than decoders take at a time.
    let shape = match input.u8() {
        0 => vec![],
        1 => vec![0, 4],
        2 => vec![1, 20_000],
        dim => vec![u64::from(dim % 16), 4],
    };
    let Ok(length) = dtype.byte_len(&shape) else { return Outcome::NotEncoded };
    let (seed, likeness) = (input.u64(), input.u8());
    let reference = noise(length as usize, seed);
    let weight: Vec<u8> =
        reference.iter().zip(noise(length as usize, !seed)).map(|(byte, other)| byte ^ (other & likeness)).collect();
    let tensor = |bytes| WeightTensor::new("w", shape.clone(), dtype, bytes).expect("as long as the shape says");
    let (reference, weight) = (tensor(reference), tensor(weight));
    if is_forged { forged(delta_type, &reference, input) } else { damaged(delta_type, &reference, &weight, input) }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(length)
    .collect()
}

/// A delta that no encoder made.
fn forged(delta_type: DeltaType, reference: &WeightTensor, mut input: Input<'_>) -> Outcome {
    let mut metadata = Map::new();
    if delta_type.is_lossless() && input.u8() & 1 == 0 {
        metadata.insert("lossless".into(), true.into());
    }
    for _ in 0..input.u8() % 8 {
        change(&mut metadata, &mut input);
    }
    let data_dtype = match input.u8() {
        0 => Dtype::U8,
        1 => Dtype::F32,
        2 => Dtype::I8,
        byte => Dtype::ALL[usize::from(byte) % Dtype::ALL.len()],
    };
    let (packing, data_shape) = (input.u8(), input.u8());
    let first = usize::from(input.u16());
    let (a, b) = (input.bytes(first), input.rest());
    let packed = |streams: &[&[u8]]| {
        let streams: Vec<Vec<u8>> = streams.iter().map(|bytes| deflated(bytes)).collect();
        let lengths = streams[..streams.len() - 1].iter().flat_map(|stream| (stream.len() as u32).to_le_bytes());
        lengths.chain(streams.iter().flatten().copied()).collect::<Vec<u8>>()
    };
    let data = match packing % 5 {
        0 => deflated(b),
        1 => packed(&[a, b]),
        2 => packed(&[a, &a[..a.len() / 2], b]),
        // Many times what the reference holds.
        3 => deflated(&vec![packing; 1 << 20]),
        _ => b.to_vec(),
    };
    let size = data_dtype.shuffle_size();
    let data = data[..data.len() / size * size].to_vec();
    let data_shape = match data_shape % 4 {
        0 => reference.shape().to_vec(),
        1 => vec![(data.len() / size / 2) as u64, 2],
        _ => vec![(data.len() / size) as u64],
    };
    let delta = Delta {
        delta_type,
        data: data.into(),
        data_dtype,
        data_shape,
        metadata,
        original_shape: reference.shape().to_vec(),
        original_dtype: reference.dtype(),
        reference_hash: reference.content_hash().expect("it is in memory"),
        compression_ratio: 0.0,
    };
    decode(&delta, reference).map_or(Outcome::Refused, |_| Outcome::Decoded)
}

/// A delta that an encoder made, and what becomes of it when it is edited.
fn damaged(delta_type: DeltaType, reference: &WeightTensor, weight: &WeightTensor, mut input: Input<'_>) -> Outcome {
    let encoder = DeltaEncoder::new(DeltaConfig { delta_type, ..DeltaConfig::default() });
    let mut delta = match encoder.encode_delta(weight, reference) {
        Ok(delta) => delta,
        Err(Error::Unsupported { .. }) => return Outcome::NotEncoded,
        Err(error) => panic!("{error}"),
    };
    let back = decode(&delta, reference).expect("what was encoded here decodes");
    let (wanted, back) = (weight.data().expect("in memory"), back.data().expect("in memory"));
    assert!(!delta.delta_type.is_lossless() || back == wanted, "{delta:?} is not lossless");

    let hash = delta.metadata.get("content_hash").cloned();
    let mut data = delta.data.to_vec();
    for _ in 0..input.u8() % 4 {
        edit(input.u8(), &mut input, &mut data);
    }
    for _ in 0..input.u8() % 3 {
        change(&mut delta.metadata, &mut input);
    }
    if input.u8() & 1 == 0 {
        data.resize(delta.data.len(), 0);
    } else {
        data.truncate(data.len() / delta.data_dtype.shuffle_size() * delta.data_dtype.shuffle_size());
        delta.data_shape = vec![(data.len() / delta.data_dtype.shuffle_size()) as u64];
    }
    delta.data = data.into();
    let Some(found) = decode(&delta, reference) else { return Outcome::Refused };
    if delta.delta_type.is_lossless() && hash.is_some() && delta.metadata.get("content_hash") == hash.as_ref() {
        assert!(found.data().expect("in memory") == wanted, "a damaged delta passes for the weight: {delta:?}");
    }
    Outcome::Decoded
}

/// Changes the metadata in one place.
fn change(metadata: &mut Map<String, Value>, input: &mut Input<'_>) {
    const FIELDS: [&str; 15] = [
        "lossless",
        "content_hash",
        "exact",
        "run",
        "scale",
        "offset",
        "bits",
        "original_shape",
        "rows",
        "columns",
        "num_rows",
        "num_cols",
        "num_elements",
        "num_nonzero",
        "max_error",
    ];
    let field = FIELDS[usize::from(input.u8()) % FIELDS.len()];
    let value = match input.u8() % 10 {
        0 => {
            metadata.remove(field);
            return;
        }
        1 => Value::Null,
        2 => (input.u8() & 1 == 0).into(),
        3 => input.u64().into(),
        4 => u64::from(input.u8() % 16).into(),
        5 => json!(f64::from_bits(input.u64())),
        6 => json!(f64::from(input.u8()) / 16.0 - 4.0),
        7 => json!({"at": [input.u8() % 8, input.u16()], "bits": [input.u64(), input.u8()]}),
        8 => json!([input.u8() % 16, 4]),
        _ => "text".into(),
    };
    metadata.insert(field.into(), value);
}

/// Decodes twice, to the same, and to what belongs to the reference.
fn decode(delta: &Delta, reference: &WeightTensor) -> Option<WeightTensor> {
    let encoder = DeltaEncoder::default();
    match (encoder.decode_delta(delta, reference), encoder.decode_delta(delta, reference)) {
        (Ok(first), Ok(second)) => {
            assert_eq!((first.shape(), first.dtype()), (reference.shape(), reference.dtype()));
            assert!(first.data().expect("in memory") == second.data().expect("in memory"), "{delta:?} decodes to two");
            Some(first)
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.to_string(), second.to_string());
            let names_a_field = matches!(first, Error::Delta { .. } | Error::ShapeMismatch { .. });
            assert!(names_a_field, "{first}");
            None
        }
        (first, second) => panic!("{first:?} and then {second:?} from {delta:?}"),
    }
}

/// Any bytes as one zlib stream.
pub fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory does not refuse")
}
