//! A store beside a damaged or forged journal. See `corallite_fuzz::journal`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| corallite_fuzz::journal::check(bytes));
