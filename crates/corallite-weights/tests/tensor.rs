//! Promises of [`WeightTensor`] and of hashing through it.

#![allow(clippy::unwrap_used)] // the workspace lint exempts test functions, but not their helpers

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use corallite_weights::{
    ByteOrder, Dtype, Error, Kind, Result, WeightHash, WeightMetadata, WeightSource, WeightTensor,
};

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn vector(values: &[f32]) -> WeightTensor {
    WeightTensor::new("unnamed", vec![values.len() as u64], Dtype::F32, floats(values)).unwrap()
}

struct Counting {
    data: Bytes,
    reads: AtomicUsize,
    rows: AtomicUsize,
}

impl WeightSource for Counting {
    fn read(&self) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.data.clone())
    }
    fn read_rows(&self, rows: Range<u64>) -> Result<Bytes> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        Ok(self.data.slice(rows.start as usize * 4..rows.end as usize * 4))
    }
}

#[test]
fn data_that_does_not_fit_shape_and_dtype_makes_no_tensor() {
    let error = WeightTensor::new("w", vec![2, 3], Dtype::F32, vec![0; 23]).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::ShapeMismatch { .. }));
    assert!(text.contains("`w`") && text.contains("(2, 3)") && text.contains("24") && text.contains("23"), "{text}");
    assert!(WeightTensor::new("w", vec![u64::MAX, 2], Dtype::U8, vec![]).is_err());
    assert!(WeightTensor::new("w", vec![3], Dtype::F4, vec![0; 2]).is_err());
    assert!(WeightTensor::without_data(WeightMetadata::new("w", [u64::MAX], Dtype::F32)).is_err());
}

#[test]
fn setting_data_forgets_the_hash() {
    let mut w = vector(&[1.0, 2.0]);
    let before = w.compute_hash(false).unwrap();
    assert_eq!(w.metadata().hash.as_ref(), Some(&before));
    w.set_data(vec![1], Dtype::F64, vec![0; 8]).unwrap();
    assert_eq!(w.metadata().hash, None);
    assert_ne!(w.content_hash().unwrap(), before);
    assert_eq!((w.shape(), w.dtype(), w.nbytes()), (&[1u64][..], Dtype::F64, 8));
    assert!(w.set_data(vec![2], Dtype::F64, vec![0; 8]).is_err());
    assert_eq!(w.shape(), [1]);
}

#[test]
fn a_callers_key_is_not_taken_for_the_content_hash() {
    let w = vector(&[1.0]).stored_as(WeightHash::new("mine").unwrap());
    assert_eq!(w.content_hash().unwrap(), vector(&[1.0]).content_hash().unwrap());
}

#[test]
fn a_lazy_tensor_reads_only_what_is_asked_for() {
    let source = Arc::new(Counting { data: floats(&[1.0, 2.0, 3.0]).into(), reads: 0.into(), rows: 0.into() });
    let metadata = WeightMetadata::new("lazy", [3], Dtype::F32);
    let mut w = WeightTensor::lazy(metadata, source.clone()).unwrap();
    assert!(!w.has_data());
    assert_eq!(w.rows(1..3).unwrap().data().unwrap(), floats(&[2.0, 3.0]));
    assert_eq!((source.reads.load(Ordering::Relaxed), source.rows.load(Ordering::Relaxed)), (0, 1));
    w.materialize().unwrap();
    w.data().unwrap();
    assert_eq!(source.reads.load(Ordering::Relaxed), 1);
}

#[test]
fn a_source_of_the_wrong_length_is_reported_as_damage_of_its_key() {
    let source = Counting { data: vec![0; 8].into(), reads: 0.into(), rows: 0.into() };
    let w = WeightTensor::lazy(WeightMetadata::new("lazy", [3], Dtype::F32), Arc::new(source)).unwrap();
    assert!(matches!(w.data(), Err(Error::ShapeMismatch { .. })));
    let w = w.stored_as(WeightHash::new("k").unwrap());
    assert!(matches!(w.data(), Err(Error::Damaged { .. })));
}

#[test]
fn rows_are_slices_or_refused() {
    let w = WeightTensor::new("w", vec![4, 3], Dtype::U8, (0..12).collect::<Vec<u8>>()).unwrap();
    let rows = w.rows(1..3).unwrap();
    assert_eq!((rows.shape(), rows.data().unwrap()), (&[2u64, 3][..], Bytes::from_static(&[3, 4, 5, 6, 7, 8])));
    #[allow(clippy::reversed_empty_ranges)]
    for bad in [3..5, 5..5, 3..1, 0..u64::MAX] {
        assert!(w.rows(bad).is_err());
    }
    assert!(WeightTensor::new("s", vec![], Dtype::U8, vec![1]).unwrap().rows(0..1).is_err());
    let four_bit = WeightTensor::new("f", vec![2, 3], Dtype::F4, vec![0; 3]).unwrap();
    assert!(matches!(four_bit.rows(0..1), Err(Error::Unsupported { .. })));
    let empty = WeightTensor::new("e", vec![5, 0], Dtype::F32, vec![]).unwrap();
    assert_eq!(empty.rows(1..4).unwrap().shape(), [3, 0]);
}

/// cos 45° is 0.7071; the rest follows from the definition.
#[test]
fn similarity_is_the_cosine() {
    let a = vector(&[1.0, 0.0]);
    assert!(a.is_similar_to(&vector(&[2.0, 0.0]), 1.0).unwrap());
    let diagonal = vector(&[1.0, 1.0]);
    assert!(a.is_similar_to(&diagonal, 0.70).unwrap());
    assert!(!a.is_similar_to(&diagonal, 0.71).unwrap());
    assert!(!a.is_similar_to(&vector(&[-1.0, 0.0]), 0.99).unwrap());
    let zero = vector(&[0.0, 0.0]);
    assert!(!a.is_similar_to(&zero, 0.0).unwrap());
    assert!(zero.is_similar_to(&zero, 0.99).unwrap());
    let nan = vector(&[f32::NAN, 1.0]);
    assert!(!nan.is_similar_to(&nan, 0.0).unwrap());
    assert!(!a.is_similar_to(&vector(&[1.0, 0.0, 0.0]), 0.0).unwrap());
    let ints = WeightTensor::new("i", vec![2], Dtype::I32, vec![0; 8]).unwrap();
    assert!(!zero.is_similar_to(&ints, 0.0).unwrap());
}

#[test]
fn similarity_works_for_every_dtype_beyond_one_piece() {
    for dtype in Dtype::ALL {
        for dtype in [dtype, dtype.with_byte_order(ByteOrder::Big)] {
            let shape = [24_000u64];
            let len = dtype.byte_len(&shape).unwrap() as usize;
            // Bytes below 0x40 are finite and not zero in every float format, in either byte order.
            let data: Vec<u8> = (0..len).map(|i| (i % 23 + 1) as u8).collect();
            let data = match dtype.kind() {
                // Squares of numbers this small would vanish in an f64.
                Kind::F64 | Kind::C128 if dtype.byte_order() == ByteOrder::Little => {
                    data.iter().step_by(8).flat_map(|&b| f64::from(b).to_le_bytes()).collect()
                }
                Kind::F64 | Kind::C128 => data.iter().step_by(8).flat_map(|&b| f64::from(b).to_be_bytes()).collect(),
                _ => data,
            };
            let mut other = data.clone();
            let w = WeightTensor::new("w", shape, dtype, data).unwrap();
            assert!(w.is_similar_to(&w, 0.999_999).unwrap(), "{dtype}");
            other[len / 2..].fill(0);
            let other = WeightTensor::new("w", shape, dtype, other).unwrap();
            assert!(!w.is_similar_to(&other, 0.999).unwrap(), "{dtype}");
            assert!(w.is_similar_to(&other, 0.6).unwrap(), "{dtype}");
        }
    }
}

#[test]
fn the_dictionary_is_corals() {
    let values: Vec<f32> = (0..6u8).map(f32::from).collect();
    let w = WeightTensor::new("unnamed", vec![2, 3], Dtype::F32, floats(&values)).unwrap();
    let want = serde_json::json!({
        "metadata": {
            "name": "unnamed", "shape": [2, 3], "dtype": "float32", "layer_type": null, "model_name": null,
            "compression_info": {}, "hash": w.content_hash().unwrap().as_str(),
        },
        "store_ref": null, "has_data": true,
    });
    assert_eq!(w.to_dict().unwrap(), want);
    assert_eq!(w.to_string(), "WeightTensor(name='unnamed', shape=(2, 3), dtype=float32, size=6, nbytes=24)");
}

#[test]
fn a_tensor_survives_its_dictionary() {
    let mut metadata = WeightMetadata::new("é", [2], Dtype::I16.with_byte_order(ByteOrder::Big));
    metadata.layer_type = Some("Linear".into());
    metadata.compression_info.insert("bits".into(), 8.into());
    let key = WeightHash::new("mine").unwrap();
    let w = WeightTensor::from_metadata(metadata, vec![1, 2, 3, 4]).unwrap().stored_as(key);
    let back = WeightTensor::from_dict(&w.to_dict().unwrap(), Some(w.data().unwrap())).unwrap();
    assert!(back.same_content(&w).unwrap());
    assert_eq!((back.name(), back.store_ref()), (w.name(), w.store_ref()));
    assert_eq!(back.metadata().compression_info, w.metadata().compression_info);
    let bare = WeightTensor::from_dict(&w.to_dict().unwrap(), None).unwrap();
    assert_eq!((bare.size(), bare.nbytes(), bare.has_data()), (2, 4, false));
    assert!(matches!(bare.data(), Err(Error::NotFound { .. })));
    assert!(WeightTensor::from_dict(&w.to_dict().unwrap(), Some(Bytes::new())).is_err());
    assert!(WeightTensor::from_dict(&serde_json::json!({"metadata": {"name": 1}}), None).is_err());
    assert!(WeightTensor::from_dict(&serde_json::json!([]), None).is_err());
}
