//! Element types: which exist, how wide they are, and what numpy and safetensors call them.
//!
//! A [`Dtype`] is a kind of number plus a byte order. Types of one byte or less have no byte order,
//! so theirs is always [`ByteOrder::Little`] and two equal types always compare equal.

use std::fmt;

use crate::error::{Error, Result};

/// The order of the bytes of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum ByteOrder {
    /// Least significant byte first: x86, ARM, and every safetensors file.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

/// A kind of number, without its byte order.
///
/// The order of the variants is safetensors' own: its writer places tensors by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// One byte, 0 or 1.
    Bool,
    /// 4-bit float, two to a byte (OCP MX `E2M1`).
    F4,
    /// 6-bit float with 2 exponent bits, four to three bytes.
    F6E2M3,
    /// 6-bit float with 3 exponent bits, four to three bytes.
    F6E3M2,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// 8-bit float, 5 exponent bits, with infinities.
    F8E5M2,
    /// 8-bit float, 4 exponent bits, finite (`e4m3fn`).
    F8E4M3,
    /// 8-bit power of two (`e8m0fnu`).
    F8E8M0,
    /// 8-bit float, 4 exponent bits, finite, no negative zero.
    F8E4M3Fnuz,
    /// 8-bit float, 5 exponent bits, finite, no negative zero.
    F8E5M2Fnuz,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// IEEE half precision.
    F16,
    /// The upper half of an IEEE single (`bfloat16`).
    Bf16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// IEEE single precision.
    F32,
    /// Two `F32`: real, imaginary.
    C64,
    /// IEEE double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// Two `F64`: real, imaginary. Not in safetensors.
    C128,
}

/// The element type of a tensor: a [`Kind`] and a [`ByteOrder`].
///
/// ```
/// use corallite_weights::{ByteOrder, Dtype};
/// let big = Dtype::F32.with_byte_order(ByteOrder::Big);
/// assert_eq!(big.numpy_name(), "float32");
/// assert_eq!(big.numpy_str(), ">f4");
/// assert_ne!(big, Dtype::F32);
/// assert_eq!(Dtype::U8.with_byte_order(ByteOrder::Big), Dtype::U8);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dtype {
    kind: Kind,
    order: ByteOrder,
}

/// kind, bits per element, bytes per unit that the byte order swaps, safetensors name, numpy name, array-protocol letters
type Row = (Kind, u32, u32, Option<&'static str>, &'static str, &'static str);

const TABLE: [Row; 23] = [
    (Kind::Bool, 8, 1, Some("BOOL"), "bool", "b1"),
    (Kind::F4, 4, 1, Some("F4"), "float4_e2m1fn", ""),
    (Kind::F6E2M3, 6, 1, Some("F6_E2M3"), "float6_e2m3fn", ""),
    (Kind::F6E3M2, 6, 1, Some("F6_E3M2"), "float6_e3m2fn", ""),
    (Kind::U8, 8, 1, Some("U8"), "uint8", "u1"),
    (Kind::I8, 8, 1, Some("I8"), "int8", "i1"),
    (Kind::F8E5M2, 8, 1, Some("F8_E5M2"), "float8_e5m2", ""),
    (Kind::F8E4M3, 8, 1, Some("F8_E4M3"), "float8_e4m3fn", ""),
    (Kind::F8E8M0, 8, 1, Some("F8_E8M0"), "float8_e8m0fnu", ""),
    (Kind::F8E4M3Fnuz, 8, 1, Some("F8_E4M3FNUZ"), "float8_e4m3fnuz", ""),
    (Kind::F8E5M2Fnuz, 8, 1, Some("F8_E5M2FNUZ"), "float8_e5m2fnuz", ""),
    (Kind::I16, 16, 2, Some("I16"), "int16", "i2"),
    (Kind::U16, 16, 2, Some("U16"), "uint16", "u2"),
    (Kind::F16, 16, 2, Some("F16"), "float16", "f2"),
    (Kind::Bf16, 16, 2, Some("BF16"), "bfloat16", ""),
    (Kind::I32, 32, 4, Some("I32"), "int32", "i4"),
    (Kind::U32, 32, 4, Some("U32"), "uint32", "u4"),
    (Kind::F32, 32, 4, Some("F32"), "float32", "f4"),
    (Kind::C64, 64, 4, Some("C64"), "complex64", "c8"),
    (Kind::F64, 64, 8, Some("F64"), "float64", "f8"),
    (Kind::I64, 64, 8, Some("I64"), "int64", "i8"),
    (Kind::U64, 64, 8, Some("U64"), "uint64", "u8"),
    (Kind::C128, 128, 8, None, "complex128", "c16"),
];

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident = $kind:ident,)*) => {
        impl Dtype {
            $($(#[$doc])* pub const $name: Dtype = Dtype { kind: Kind::$kind, order: ByteOrder::Little };)*
            /// Every element type, little-endian, in safetensors' order.
            pub const ALL: [Dtype; 23] = [$(Dtype::$name),*];
        }
    };
}

constants! {
    /// Boolean, one byte.
    BOOL = Bool,
    /// 4-bit float.
    F4 = F4,
    /// 6-bit float, 2 exponent bits.
    F6_E2M3 = F6E2M3,
    /// 6-bit float, 3 exponent bits.
    F6_E3M2 = F6E3M2,
    /// Unsigned byte.
    U8 = U8,
    /// Signed byte.
    I8 = I8,
    /// 8-bit float, 5 exponent bits.
    F8_E5M2 = F8E5M2,
    /// 8-bit float, 4 exponent bits.
    F8_E4M3 = F8E4M3,
    /// 8-bit power of two.
    F8_E8M0 = F8E8M0,
    /// 8-bit float, 4 exponent bits, no negative zero.
    F8_E4M3FNUZ = F8E4M3Fnuz,
    /// 8-bit float, 5 exponent bits, no negative zero.
    F8_E5M2FNUZ = F8E5M2Fnuz,
    /// Signed 16-bit integer.
    I16 = I16,
    /// Unsigned 16-bit integer.
    U16 = U16,
    /// Half precision.
    F16 = F16,
    /// Brain float.
    BF16 = Bf16,
    /// Signed 32-bit integer.
    I32 = I32,
    /// Unsigned 32-bit integer.
    U32 = U32,
    /// Single precision.
    F32 = F32,
    /// Complex of two single-precision parts.
    C64 = C64,
    /// Double precision.
    F64 = F64,
    /// Signed 64-bit integer.
    I64 = I64,
    /// Unsigned 64-bit integer.
    U64 = U64,
    /// Complex of two double-precision parts.
    C128 = C128,
}

impl Dtype {
    /// The type of this kind and byte order.
    pub const fn new(kind: Kind, order: ByteOrder) -> Self {
        let plain = Dtype { kind, order: ByteOrder::Little };
        if plain.row().2 == 1 { plain } else { Dtype { kind, order } }
    }

    /// The same kind of number with another byte order; types of one byte stay as they are.
    pub const fn with_byte_order(self, order: ByteOrder) -> Self {
        Self::new(self.kind, order)
    }

    /// The kind of number.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The order of the bytes of one number.
    pub const fn byte_order(self) -> ByteOrder {
        self.order
    }

    const fn row(self) -> &'static Row {
        &TABLE[self.kind as usize]
    }

    /// The width of one element, in bits.
    pub const fn bit_size(self) -> u32 {
        self.row().1
    }

    /// The bytes of one element; `None` for the 4- and 6-bit types, which share bytes.
    pub const fn item_size(self) -> Option<usize> {
        let bits = self.bit_size();
        if bits.is_multiple_of(8) { Some((bits / 8) as usize) } else { None }
    }

    /// The element size, in bytes, that a shuffle filter should use: that of one element, 1 when
    /// elements share bytes.
    pub const fn shuffle_size(self) -> usize {
        match self.item_size() {
            Some(size) => size,
            None => 1,
        }
    }

    /// How many bytes the byte order reverses at a time: 4 for `C64`, which is two floats.
    pub const fn swap_size(self) -> usize {
        self.row().2 as usize
    }

    /// What safetensors calls this type; `None` for `C128`, which it does not have.
    ///
    /// The format is little-endian by definition, so the name says nothing about the byte order.
    pub const fn safetensors_name(self) -> Option<&'static str> {
        self.row().3
    }

    /// The type that safetensors calls `name`.
    ///
    /// # Errors
    /// [`Error::UnknownDtype`].
    pub fn from_safetensors_name(name: &str) -> Result<Self> {
        Self::find(name, |row| row.3 == Some(name))
    }

    /// numpy's `dtype.name` (with `ml_dtypes` for the types numpy lacks), without the byte order.
    pub const fn numpy_name(self) -> &'static str {
        self.row().4
    }

    /// numpy's `str(dtype)`: the name, or `>f4` and the like for big-endian types.
    pub fn numpy_str(self) -> String {
        match (self.order, self.row().5) {
            (ByteOrder::Big, "") => format!(">{}", self.numpy_name()),
            (ByteOrder::Big, letters) => format!(">{letters}"),
            (ByteOrder::Little, _) => self.numpy_name().to_owned(),
        }
    }

    /// The type with this numpy name: `float32`, or with a byte order `<f4`, `>f4`, `=f4`, `|u1`.
    ///
    /// # Errors
    /// [`Error::UnknownDtype`].
    pub fn from_numpy_name(name: &str) -> Result<Self> {
        let (order, rest) = match name.as_bytes().first() {
            Some(b'>') => (ByteOrder::Big, name.get(1..)),
            Some(b'<' | b'|' | b'=') => (ByteOrder::Little, name.get(1..)),
            _ => (ByteOrder::Little, None),
        };
        let bare = rest.unwrap_or(name);
        let prefixed = rest.is_some();
        let found = Self::find(name, |row| row.4 == bare || prefixed && !row.5.is_empty() && row.5 == bare)?;
        Ok(found.with_byte_order(order))
    }

    fn find(name: &str, matches: impl Fn(&Row) -> bool) -> Result<Self> {
        TABLE
            .iter()
            .find(|row| matches(row))
            .map(|row| Dtype::new(row.0, ByteOrder::Little))
            .ok_or_else(|| Error::UnknownDtype { name: name.chars().take(64).collect() })
    }

    /// The number of bytes that a tensor of this type and shape takes.
    ///
    /// ```
    /// use corallite_weights::Dtype;
    /// assert_eq!(Dtype::F32.byte_len(&[2, 3]).unwrap(), 24);
    /// assert_eq!(Dtype::F4.byte_len(&[6]).unwrap(), 3);
    /// assert!(Dtype::F4.byte_len(&[3]).is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the product overflows 64 bits, or when the elements of a 4- or
    /// 6-bit type do not fill whole bytes.
    pub fn byte_len(self, shape: &[u64]) -> Result<u64> {
        let mismatch = |problem: String| Error::ShapeMismatch { name: String::new(), problem };
        element_count(shape)
            .and_then(|count| count.checked_mul(u64::from(self.bit_size())))
            .ok_or_else(|| mismatch(format!("{} elements of {self} do not fit in memory", ShapeText(shape))))
            .and_then(|bits| {
                if bits.is_multiple_of(8) {
                    Ok(bits / 8)
                } else {
                    Err(mismatch(format!("{} elements of {self} do not fill whole bytes", ShapeText(shape))))
                }
            })
    }
}

/// The number of elements of a shape, 1 for `[]`; `None` when the product overflows, multiplying
/// from the left as the safetensors library does.
pub(crate) fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim))
}

/// A shape as Python writes a tuple: `()`, `(3,)`, `(2, 3)`.
pub(crate) struct ShapeText<'a>(pub(crate) &'a [u64]);

impl fmt::Display for ShapeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str(if self.0.len() == 1 { ",)" } else { ")" })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.numpy_str())
    }
}

impl fmt::Debug for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dtype({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, i);
            assert_eq!(Dtype::ALL[i].kind(), row.0);
        }
    }

    #[test]
    fn every_name_leads_back_to_its_dtype() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_numpy_name(dtype.numpy_name()).unwrap(), dtype);
            if let Some(name) = dtype.safetensors_name() {
                assert_eq!(Dtype::from_safetensors_name(name).unwrap(), dtype);
            }
            let big = dtype.with_byte_order(ByteOrder::Big);
            assert_eq!(Dtype::from_numpy_name(&big.numpy_str()).unwrap(), big);
        }
    }

    #[test]
    fn array_protocol_strings_carry_the_byte_order() {
        assert_eq!(Dtype::from_numpy_name("<f4").unwrap(), Dtype::F32);
        assert_eq!(Dtype::from_numpy_name("|u1").unwrap(), Dtype::U8);
        assert_eq!(Dtype::from_numpy_name(">i8").unwrap(), Dtype::I64.with_byte_order(ByteOrder::Big));
        assert_eq!(Dtype::from_numpy_name("int8").unwrap(), Dtype::I8);
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "<", ">", "f4", "<", "float31", "F33", "é"] {
            assert!(Dtype::from_numpy_name(name).is_err(), "{name}");
            assert!(Dtype::from_safetensors_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn byte_lengths_are_exact_or_refused() {
        assert_eq!(Dtype::F32.byte_len(&[]).unwrap(), 4);
        assert_eq!(Dtype::F32.byte_len(&[0, u64::MAX]).unwrap(), 0);
        assert_eq!(Dtype::C128.byte_len(&[3]).unwrap(), 48);
        assert_eq!(Dtype::F6_E2M3.byte_len(&[4]).unwrap(), 3);
        assert!(Dtype::F6_E2M3.byte_len(&[3]).is_err());
        assert!(Dtype::U8.byte_len(&[u64::MAX, 2]).is_err());
        assert!(Dtype::U64.byte_len(&[u64::MAX / 8]).is_err());
        assert_eq!(Dtype::U8.byte_len(&[u64::MAX / 8]).unwrap(), u64::MAX / 8);
    }
}
