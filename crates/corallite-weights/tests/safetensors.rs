//! Reading and writing safetensors, checked against the official library.

#![allow(clippy::unwrap_used)] // the workspace lint exempts test functions, but not their helpers

use std::collections::HashMap;

use bytes::Bytes;
use corallite_weights::safetensors::{SafetensorsFile, header_for, write, write_exact};
use corallite_weights::{ByteOrder, Dtype, Error, WeightTensor};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn official_dtype(dtype: Dtype) -> safetensors::Dtype {
    serde_json::from_value(dtype.safetensors_name().unwrap().into()).unwrap()
}

/// Tensors with distinct names, of any dtype, some empty, some 0-d.
fn tensors() -> impl Strategy<Value = Vec<WeightTensor>> {
    let one = (0usize..22, proptest::collection::vec(0u64..5, 0..4), any::<u8>());
    proptest::collection::btree_map("\\PC{0,12}|[\"\\\\\n\u{1}/]{0,3}", one, 0..8).prop_map(|map| {
        let tensor = |(name, (dtype, mut shape, seed)): (String, (usize, Vec<u64>, u8))| {
            let dtype = Dtype::ALL[dtype];
            if dtype.item_size().is_none() {
                shape.push(4);
            }
            let len = dtype.byte_len(&shape).unwrap();
            let data: Vec<u8> = (0..len).map(|i| seed.wrapping_add(i as u8)).collect();
            WeightTensor::new(name, shape, dtype, data).unwrap()
        };
        map.into_iter().map(tensor).collect()
    })
}

fn officially(tensors: &[WeightTensor], metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let data: Vec<(Bytes, &WeightTensor)> = tensors.iter().map(|t| (t.data().unwrap(), t)).collect();
    let views = data.iter().map(|(bytes, t)| {
        let shape = t.shape().iter().map(|&d| d as usize).collect();
        (t.name().to_owned(), TensorView::new(official_dtype(t.dtype()), shape, bytes).unwrap())
    });
    safetensors::serialize(views, metadata).unwrap()
}

/// Everything the official library reads from `bytes` is what we read.
fn assert_same(bytes: &[u8], ours: &SafetensorsFile) {
    let official = SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(official.len(), ours.tensors().len());
    for tensor in ours.tensors() {
        let theirs = official.tensor(tensor.name()).unwrap();
        assert_eq!(theirs.data(), tensor.data(), "{}", tensor.name());
        assert_eq!(theirs.dtype(), official_dtype(tensor.dtype()));
        assert!(theirs.shape().iter().map(|&d| d as u64).eq(tensor.shape().iter().copied()));
    }
}

proptest! {
    #[test]
    fn what_we_write_is_what_the_official_library_writes(tensors in tensors(), value in proptest::option::of("\\PC*")) {
        let metadata: Vec<(String, String)> = value.map(|v| ("format".to_owned(), v)).into_iter().collect();
        let mut ours = Vec::new();
        let len = write(&mut ours, &tensors, &metadata).unwrap();
        prop_assert_eq!(len, ours.len() as u64);
        let map = (!metadata.is_empty()).then(|| metadata.iter().cloned().collect());
        let theirs = officially(&tensors, map);
        prop_assert!(ours == theirs, "{}\n{}", String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
        let file = SafetensorsFile::from_bytes(ours.clone()).unwrap();
        assert_same(&ours, &file);
        prop_assert_eq!(file.metadata(), metadata);
    }

    #[test]
    fn export_gives_back_the_file_byte_for_byte(tensors in tensors(), spaces in 0usize..20) {
        let original = officially(&tensors, Some(HashMap::from([("a".into(), "1".into()), ("b".into(), "2".into())])));
        let header_len = u64::from_le_bytes(original[..8].try_into().unwrap()) as usize;
        let header = format!("{}{}", std::str::from_utf8(&original[8..8 + header_len]).unwrap(), " ".repeat(spaces));
        let original = file(&header, &original[8 + header_len..]);
        let read = SafetensorsFile::from_bytes(original.clone()).unwrap();
        let mut copy = Vec::new();
        write_exact(&mut copy, read.header().raw(), read.tensors_in_data_order().map(|t| Ok(t.data()))).unwrap();
        prop_assert!(copy == original);
    }

    #[test]
    fn whatever_we_accept_the_official_library_accepts_with_the_same_content(
        tensors in tensors(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0usize..3,
    ) {
        let mut bytes = officially(&tensors, None);
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let at = at.index(8 + header_len);
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut);
        if let Ok(file) = SafetensorsFile::from_bytes(bytes.clone()) {
            assert_same(&bytes, &file);
        }
    }

    #[test]
    fn random_headers_never_panic(text in "[{}\\[\\]\",:0-9a-zF_ -]{0,80}", data in 0usize..20) {
        let bytes = file(&format!("{{{text}"), &vec![0; data]);
        if let Ok(file) = SafetensorsFile::from_bytes(bytes.clone()) {
            assert_same(&bytes, &file);
        }
    }
}

const ONE: &str = r#"{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;

#[test]
fn files_of_the_wrong_length_are_refused_with_the_reason() {
    let problem = |bytes: Vec<u8>| SafetensorsFile::from_bytes(bytes).unwrap_err().to_string();
    assert!(SafetensorsFile::from_bytes(file(ONE, &[0; 4])).is_ok());
    let short = problem(file(ONE, &[0; 3]));
    assert!(short.contains("tensor `w`") && short.contains("3 of 4"), "{short}");
    assert!(problem(file(ONE, &[0; 5])).contains("1 bytes follow"));
    assert!(problem(vec![]).contains("0 bytes"));
    assert!(problem(vec![1; 7]).contains("7 bytes"));
    assert!(problem(vec![9, 0, 0, 0, 0, 0, 0, 0]).contains("header length is 9"));
    assert!(problem(vec![0xff; 64]).contains("header length is 18446744073709551615"));
    assert!(problem(100_000_001u64.to_le_bytes().to_vec()).contains("100000000"));
}

#[test]
fn a_mapped_file_a_read_file_and_its_bytes_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let bytes = file(ONE, &[1, 2, 3, 4]);
    std::fs::write(&path, &bytes).unwrap();
    for file in [SafetensorsFile::open(&path).unwrap(), SafetensorsFile::read(&path).unwrap()] {
        let weight = file.tensor("w").unwrap().to_weight().unwrap();
        assert_eq!(file.path(), path);
        drop(file);
        // The weight keeps the mapping alive.
        assert_eq!(weight.data().unwrap(), [1, 2, 3, 4].as_slice());
    }
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let directory = SafetensorsFile::open(dir.path()).unwrap_err().to_string();
    assert!(directory.contains("is a directory"), "{directory}");
    let missing = SafetensorsFile::open(dir.path().join("none")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }) && missing.to_string().contains("none"));
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    assert!(matches!(SafetensorsFile::open(&empty), Err(Error::Safetensors { .. })));
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    if made.is_ok_and(|status| status.success()) {
        let error = SafetensorsFile::open(&fifo).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn writing_checks_every_tensor_against_the_header() {
    let data = |lens: &[usize]| lens.iter().map(|&len| Ok(Bytes::from(vec![0; len]))).collect::<Vec<_>>();
    for lens in [&[][..], &[3], &[5], &[4, 0]] {
        let result = write_exact(Vec::new(), ONE.as_bytes(), data(lens));
        assert!(matches!(result, Err(Error::ShapeMismatch { .. })), "{lens:?}");
    }
    assert_eq!(write_exact(Vec::new(), ONE.as_bytes(), data(&[4])).unwrap(), 8 + ONE.len() as u64 + 4);
    assert!(write_exact(Vec::new(), b"{}x", data(&[])).is_err());
    assert!(matches!(write_exact(Vec::new(), ONE.as_bytes(), [Err(Error::Cancelled)]), Err(Error::Cancelled)));
}

#[test]
fn what_safetensors_cannot_hold_is_refused() {
    let one = |name: &str, dtype| header_for(&[(name.to_owned(), dtype, vec![1])], &[]);
    assert!(matches!(one("w", Dtype::C128), Err(Error::Unsupported { .. })));
    assert!(matches!(one("w", Dtype::F32.with_byte_order(ByteOrder::Big)), Err(Error::Unsupported { .. })));
    assert!(matches!(one("__metadata__", Dtype::F32), Err(Error::Unsupported { .. })));
    assert!(matches!(one("w", Dtype::F4), Err(Error::ShapeMismatch { .. })));
    let twice = vec![("w".to_owned(), Dtype::U8, vec![1]); 2];
    assert!(matches!(header_for(&twice, &[]), Err(Error::DuplicateName { .. })));
    let deep = [("w".to_owned(), Dtype::U8, vec![1; 65])];
    assert!(matches!(header_for(&deep, &[]), Err(Error::Unsupported { .. })));
}
