//! Arbitrary bytes as a safetensors file. See `corallite_fuzz::tensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    corallite_fuzz::tensors::check(bytes);
});
