//! A damaged or forged write-ahead log of links. See `corallite_fuzz::links_log`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| corallite_fuzz::links_log::check(bytes));
