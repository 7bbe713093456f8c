//! Every backend passes the conformance suite.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use corallite_objects::backend::MemoryBackend;
use corallite_objects::conformance;

#[test]
fn the_memory_backend_passes_the_conformance_suite() -> Result<(), conformance::Failures> {
    conformance::run(&|| Ok(Arc::new(MemoryBackend::new()))).into_result()
}
