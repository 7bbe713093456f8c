//! What kind of numbers a dtype holds.

use corallite::weights::{Dtype, Kind};

/// Whether the elements are whole numbers.
pub(crate) fn is_integral(dtype: Dtype) -> bool {
    use Kind::{Bool, I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype.kind(), Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// Whether an element is two numbers.
pub(crate) fn is_complex(dtype: Dtype) -> bool {
    matches!(dtype.kind(), Kind::C64 | Kind::C128)
}
