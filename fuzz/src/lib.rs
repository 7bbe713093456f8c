//! The properties that the fuzz targets check, apart from the fuzzer, so that `cargo test` checks them too
//! (`crates/corallite-weights/tests/hostile.rs`).
//!
//! Each `check` takes one input and panics when a promise does not hold.

pub mod deltas;
pub mod filters;
pub mod input;
pub mod journal;
pub mod links_log;
pub mod store;
pub mod tensors;
