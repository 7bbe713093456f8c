//! A damaged store, or no store at all. See `corallite_fuzz::store`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| corallite_fuzz::store::check(bytes));
