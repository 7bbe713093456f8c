//! Hostile deltas, and deltas there and back. See `corallite_fuzz::deltas`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    corallite_fuzz::deltas::check(bytes);
});
