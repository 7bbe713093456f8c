//! [`E`]: a 128-bit id.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 128-bit id: the key and the value of every link.
///
/// Every value is legal, zero included. In the file it is the HDF5 compound `{high: <u8, low: <u8}`.
///
/// ```
/// use corallite_links::E;
///
/// let id = E::from_str("apache-2.0"); // the same on every machine: UUIDv5 in the DNS namespace
/// assert_eq!(id, E::from_parts(id.high(), id.low()));
/// assert_eq!(E::from_hex(&id.to_string()), Some(id)); // 32 hex digits
/// assert_ne!(E::random(), E::random()); // UUIDv4
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct E(u128);

/// An [`E`] as it lies in files: the high half, then the low half, each little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StoredE {
    /// The upper 64 bits.
    pub high: zerocopy::little_endian::U64,
    /// The lower 64 bits.
    pub low: zerocopy::little_endian::U64,
}

impl E {
    /// The smallest id.
    pub const MIN: Self = Self(0);
    /// The largest id.
    pub const MAX: Self = Self(u128::MAX);

    /// The id with this number.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// A random id, a UUIDv4.
    pub fn random() -> Self {
        Self(Uuid::new_v4().as_u128())
    }

    /// The id of a text: its UUIDv5 in the DNS namespace (RFC 9562, section 5.5).
    #[expect(clippy::should_implement_trait, reason = "the documents' name; it cannot fail, unlike the trait's")]
    pub fn from_str(text: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_DNS, text.as_bytes()).as_u128())
    }

    /// The id that 32 hexadecimal digits spell, with an optional `0x` or a UUID's hyphens; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() == 36 {
            return Uuid::try_parse(digits).ok().map(|uuid| Self(uuid.as_u128()));
        }
        let hexadecimal = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal.then(|| u128::from_str_radix(digits, 16).ok().map(Self)).flatten()
    }

    /// What a person typed: an id in hex (see [`E::from_hex`]), or any other text (see [`E::from_str`]).
    pub fn parse(text: &str) -> Self {
        Self::from_hex(text).unwrap_or_else(|| Self::from_str(text))
    }

    /// The id with these halves.
    pub const fn from_parts(high: u64, low: u64) -> Self {
        Self((high as u128) << 64 | low as u128)
    }

    /// The upper 64 bits.
    pub const fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The lower 64 bits.
    pub const fn low(self) -> u64 {
        self.0 as u64
    }

    /// The number.
    pub const fn number(self) -> u128 {
        self.0
    }

    /// As it lies in files.
    pub const fn to_hdf5(self) -> StoredE {
        StoredE {
            high: zerocopy::little_endian::U64::new(self.high()),
            low: zerocopy::little_endian::U64::new(self.low()),
        }
    }

    /// From what lies in a file.
    pub const fn from_hdf5(stored: StoredE) -> Self {
        Self::from_parts(stored.high.get(), stored.low.get())
    }
}

impl fmt::Display for E {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for E {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E({:#034x})", self.0)
    }
}

impl fmt::LowerHex for E {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl From<u128> for E {
    fn from(number: u128) -> Self {
        Self(number)
    }
}

impl From<E> for u128 {
    fn from(id: E) -> Self {
        id.0
    }
}

impl From<Uuid> for E {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.as_u128())
    }
}

impl From<E> for Uuid {
    fn from(id: E) -> Self {
        Self::from_u128(id.0)
    }
}

impl From<[u8; 16]> for E {
    /// From big-endian bytes, a UUID's order.
    fn from(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl From<E> for [u8; 16] {
    fn from(id: E) -> Self {
        id.0.to_be_bytes()
    }
}

impl FromStr for E {
    type Err = std::convert::Infallible;

    /// As [`E::parse`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::parse(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_text_is_its_uuid5_in_the_dns_namespace() {
        // python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS, "foo").hex)'
        assert_eq!(E::from_str("foo").to_string(), "b84ed8eda7b1502f83f690132e68adef");
        assert_eq!(E::from_str("").to_string(), "4ebd020883285d698c44ec50939c0967");
    }
}
