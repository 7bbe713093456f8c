//! [`Change`]: what a write does to the links.

use crate::E;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Links a value to a key.
    Insert = 1,
    /// Removes one value of a key.
    DeleteValue = 2,
    /// Removes a key with all its values.
    DeleteKey = 3,
}

impl Operation {
    /// The operation with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Insert),
            2 => Some(Self::DeleteValue),
            3 => Some(Self::DeleteKey),
            _ => None,
        }
    }
}

/// One change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// What is done.
    pub operation: Operation,
    /// To which key.
    pub key: E,
    /// With which value; zero for [`Operation::DeleteKey`].
    pub value: E,
}

impl Change {
    /// Links `value` to `key`.
    pub const fn insert(key: E, value: E) -> Self {
        Self { operation: Operation::Insert, key, value }
    }

    /// Removes `value` from `key`.
    pub const fn delete_value(key: E, value: E) -> Self {
        Self { operation: Operation::DeleteValue, key, value }
    }

    /// Removes `key` and its values.
    pub const fn delete(key: E) -> Self {
        Self { operation: Operation::DeleteKey, key, value: E::MIN }
    }
}
