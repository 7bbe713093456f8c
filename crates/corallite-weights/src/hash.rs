//! Keys of weights: the validated key type, the content hash that makes keys, and coral's old hash.
//!
//! The content hash is BLAKE3 over a prefix and the tensor's bytes. The prefix, in this order:
//!
//! | bytes | what |
//! |---|---|
//! | 20 | the ASCII text `corallite weight v1` and a zero byte |
//! | 1 + n | the length of the dtype's numpy name, then the name |
//! | 1 | byte order: 0 little (and types of one byte), 1 big |
//! | 8 | rank, little-endian |
//! | 8 × rank | the dimensions, little-endian |
//!
//! Every part has a fixed length or carries it, so two different tensors never share a prefix plus
//! data. Another layout would need another version in the text.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use crate::dtype::{ByteOrder, Dtype, ShapeText};
use crate::error::{Error, Result};

const DOMAIN: &[u8] = b"corallite weight v1\0";

/// Inputs below this are hashed on the calling thread: waking others costs more than it saves.
const PARALLEL_FROM: usize = 1 << 20;

/// The key under which a store keeps a weight or a delta.
///
/// Usually the 64 hex digits of [`content_hash`], but a caller may bring its own: any text that HDF5
/// accepts as the name of one link, which is 1 to 255 bytes of UTF-8 without `/` and NUL, and not `.` or `..`.
///
/// ```
/// use corallite_weights::WeightHash;
/// assert!(WeightHash::new("encoder-v2").is_ok());
/// assert!(WeightHash::new("a/b").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightHash(std::sync::Arc<str>);

impl WeightHash {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks `key` and makes it a key.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], which says which rule the text breaks.
    pub fn new(key: impl AsRef<str>) -> Result<Self> {
        let key = key.as_ref();
        let problem = if key.is_empty() {
            "it is empty"
        } else if key.len() > Self::MAX_LEN {
            "it is longer than 255 bytes"
        } else if key.contains('/') {
            "it contains `/`, which separates groups in HDF5"
        } else if key.contains('\0') {
            "it contains a NUL character"
        } else if key == "." || key == ".." {
            "HDF5 reserves `.` and `..`"
        } else {
            return Ok(Self(key.into()));
        };
        Err(Error::InvalidKey { key: key.chars().take(80).flat_map(char::escape_default).collect(), problem })
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this has the form of a content hash: 64 lower-case hex digits.
    pub fn is_content_hash(&self) -> bool {
        self.0.len() == 64 && self.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl fmt::Display for WeightHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WeightHash {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl AsRef<str> for WeightHash {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Computes a content hash from data that arrives in pieces.
///
/// ```
/// use corallite_weights::{ContentHasher, Dtype, content_hash};
/// let mut hasher = ContentHasher::new(Dtype::U8, &[4]);
/// hasher.update(&[1, 2]).update(&[3, 4]);
/// assert_eq!(hasher.finish(), content_hash(Dtype::U8, &[4], &[1, 2, 3, 4]));
/// ```
#[derive(Debug, Clone)]
pub struct ContentHasher {
    inner: blake3::Hasher,
    parallel: bool,
}

impl ContentHasher {
    /// Starts the hash of a tensor of this type and shape.
    pub fn new(dtype: Dtype, shape: &[u64]) -> Self {
        let name = dtype.numpy_name();
        let mut inner = blake3::Hasher::new();
        inner.update(DOMAIN);
        inner.update(&[name.len() as u8]);
        inner.update(name.as_bytes());
        inner.update(&[match dtype.byte_order() {
            ByteOrder::Little => 0,
            ByteOrder::Big => 1,
        }]);
        inner.update(&(shape.len() as u64).to_le_bytes());
        for dim in shape {
            inner.update(&dim.to_le_bytes());
        }
        Self { inner, parallel: true }
    }

    /// Stays on the calling thread whatever the size, for callers that already use every core.
    #[must_use]
    pub fn serial(mut self) -> Self {
        self.parallel = false;
        self
    }

    /// Adds the next bytes of the tensor. Pieces of a megabyte and more use the rayon pool.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        if self.parallel && bytes.len() >= PARALLEL_FROM {
            self.inner.update_rayon(bytes);
        } else {
            self.inner.update(bytes);
        }
        self
    }

    /// The hash of everything added so far, as a key of 64 hex digits.
    pub fn finish(&self) -> WeightHash {
        WeightHash(self.inner.finalize().to_hex().as_str().into())
    }
}

/// The content hash of a whole tensor: the key a store gives it.
pub fn content_hash(dtype: Dtype, shape: &[u64], bytes: &[u8]) -> WeightHash {
    ContentHasher::new(dtype, shape).update(bytes).finish()
}

/// The 16-digit key that coral-ml 1.0.0 gives the same tensor (xxh3, 64 bits).
///
/// For reading its files only: 64 bits are too few to name content by, and the byte order is not part of it.
///
/// ```
/// use corallite_weights::{Dtype, coral_hash};
/// let data: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// assert_eq!(coral_hash(Dtype::F32, &[3], &data).as_str(), "7fd46bae6a74f6ec");
/// ```
pub fn coral_hash(dtype: Dtype, shape: &[u64], bytes: &[u8]) -> WeightHash {
    let mut hasher = CoralHasher::new(dtype, shape);
    hasher.update(bytes);
    hasher.finish()
}

/// Computes a [`coral_hash`] from data that arrives in pieces.
pub(crate) struct CoralHasher(twox_hash::XxHash3_64);

impl CoralHasher {
    pub(crate) fn new(dtype: Dtype, shape: &[u64]) -> Self {
        let mut hasher = twox_hash::XxHash3_64::with_seed(0);
        hasher.write(ShapeText(shape).to_string().as_bytes());
        hasher.write(dtype.numpy_name().as_bytes());
        Self(hasher)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn finish(&self) -> WeightHash {
        WeightHash(format!("{:016x}", self.0.finish()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le<const N: usize, T>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(bytes).collect()
    }

    /// The constants come from coral-ml 1.0.0 with numpy: `WeightTensor(np.array(...)).compute_hash()`.
    #[test]
    fn coral_hash_agrees_with_the_python_package() {
        let arange: Vec<f32> = (0..6u8).map(f32::from).collect();
        let ints: Vec<i64> = (0..10_000).map(|i| i * 7919).collect();
        let one_two_three = [1f32, 2.0, 3.0];
        let big = Dtype::F32.with_byte_order(ByteOrder::Big);
        let cases: Vec<(Dtype, &[u64], Vec<u8>, &str)> = vec![
            (Dtype::F32, &[2, 3], le(&arange, |x| x.to_le_bytes()), "ed206ebfbaa3b7a6"),
            (Dtype::F32, &[3], le(&one_two_three, |x| x.to_le_bytes()), "7fd46bae6a74f6ec"),
            (Dtype::F64, &[], 1.5f64.to_le_bytes().to_vec(), "33199f201c1484a2"),
            (Dtype::I8, &[0], vec![], "b5f2319f6efb5203"),
            (big, &[3], le(&one_two_three, |x| x.to_be_bytes()), "a3e3ecc7ac1a7363"),
            (Dtype::BOOL, &[2], vec![1, 0], "d31854a67d45020c"),
            (Dtype::C64, &[1], le(&[1f32, 2.0], |x| x.to_le_bytes()), "dc46acb0a021d281"),
            (Dtype::C128, &[1], le(&[1f64, 2.0], |x| x.to_le_bytes()), "6fe2c47e069f1fa0"),
            (Dtype::U16, &[2, 0], vec![], "0498ad674be4bf7e"),
            (Dtype::F16, &[2], vec![0x00, 0x3c, 0x00, 0x40], "546716a669322f49"),
            (Dtype::I64, &[100, 100], le(&ints, |x| x.to_le_bytes()), "a212621849743c5e"),
        ];
        for (dtype, shape, bytes, want) in cases {
            assert_eq!(coral_hash(dtype, shape, &bytes).as_str(), want, "{dtype} {shape:?}");
        }
    }

    /// Keys are on disk for ever; a change here orphans every stored weight.
    #[test]
    fn the_content_hash_is_the_documented_one() {
        let mut prefix = b"corallite weight v1\0\x07float32\x01".to_vec();
        prefix.extend(2u64.to_le_bytes());
        prefix.extend(1u64.to_le_bytes());
        prefix.extend(3u64.to_le_bytes());
        prefix.extend([9u8; 12]);
        let want = blake3::hash(&prefix).to_hex();
        let big = Dtype::F32.with_byte_order(ByteOrder::Big);
        assert_eq!(content_hash(big, &[1, 3], &[9; 12]).as_str(), want.as_str());
        assert!(content_hash(big, &[1, 3], &[9; 12]).is_content_hash());
    }

    #[test]
    fn dtype_order_shape_and_bytes_all_change_the_hash() {
        let base = content_hash(Dtype::F32, &[4], &[0; 16]);
        assert_ne!(base, content_hash(Dtype::I32, &[4], &[0; 16]));
        assert_ne!(base, content_hash(Dtype::F32.with_byte_order(ByteOrder::Big), &[4], &[0; 16]));
        assert_ne!(base, content_hash(Dtype::F32, &[2, 2], &[0; 16]));
        assert_ne!(base, content_hash(Dtype::F32, &[4], &[1; 16]));
    }

    #[test]
    fn serial_parallel_and_piecewise_hashing_agree() {
        let data: Vec<u8> = (0..3u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let shape = [data.len() as u64];
        let parallel = content_hash(Dtype::U8, &shape, &data);
        let serial = ContentHasher::new(Dtype::U8, &shape).serial().update(&data).finish();
        let mut pieces = ContentHasher::new(Dtype::U8, &shape);
        data.chunks(1_500_001).for_each(|piece| {
            pieces.update(piece);
        });
        assert_eq!(parallel, serial);
        assert_eq!(parallel, pieces.finish());
    }

    #[test]
    fn keys_that_hdf5_would_misread_are_refused() {
        for bad in ["", ".", "..", "a/b", "/", "a\0b", &"x".repeat(256), &"é".repeat(128)] {
            assert!(matches!(WeightHash::new(bad), Err(Error::InvalidKey { .. })), "{bad:?}");
        }
        for good in ["...", "a.b", " ", "é", &"x".repeat(255), "层.0"] {
            assert_eq!(WeightHash::new(good).unwrap().as_str(), good);
        }
    }
}
