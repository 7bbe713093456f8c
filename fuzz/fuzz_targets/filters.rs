//! Hostile chunks, and chunks there and back. See `corallite_fuzz::filters`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| corallite_fuzz::filters::check(bytes));
