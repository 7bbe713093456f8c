//! The safetensors reader: whatever it accepts, the official library accepts with the same tensors, and it writes the
//! same file again.

use bytes::Bytes;
use corallite_weights::Dtype;
use corallite_weights::safetensors::{SafetensorsFile, write_exact};
use safetensors::SafeTensors;

/// The official library's name for a dtype.
fn official(dtype: Dtype) -> safetensors::Dtype {
    serde_json::from_value(dtype.safetensors_name().expect("read from a safetensors file").into()).expect("official")
}

/// Reads `bytes` as a safetensors file; `true` when it was accepted.
pub fn check(bytes: &[u8]) -> bool {
    let Ok(ours) = SafetensorsFile::from_bytes(Bytes::copy_from_slice(bytes)) else { return false };
    let theirs = SafeTensors::deserialize(bytes).expect("the official library refuses what was accepted here");
    assert_eq!(theirs.len(), ours.tensors().len());
    for tensor in ours.tensors() {
        let other = theirs.tensor(tensor.name()).expect("the official library has no such tensor");
        assert_eq!(other.data(), tensor.data(), "{}", tensor.name());
        assert_eq!(other.dtype(), official(tensor.dtype()), "{}", tensor.name());
        assert!(other.shape().iter().map(|&dim| dim as u64).eq(tensor.shape().iter().copied()), "{}", tensor.name());
        tensor.to_weight().expect("a tensor of a checked header is a weight");
    }
    let (_, header) = SafeTensors::read_metadata(bytes).expect("read above");
    let theirs = header.metadata().clone().unwrap_or_default();
    assert_eq!(theirs.len(), ours.metadata().len());
    assert!(ours.metadata().iter().all(|(key, value)| theirs.get(key) == Some(value)));
    let mut copy = Vec::with_capacity(bytes.len());
    let data = ours.tensors_in_data_order().map(|tensor| Ok(tensor.data()));
    write_exact(&mut copy, ours.header().raw(), data).expect("what was read can be written");
    assert!(copy == bytes, "the file written again differs");
    true
}

/// A file of this header and this data.
pub fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}
