//! Every backend passes the conformance suite.

#![cfg(feature = "dbm")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use corallite_objects::backend::{Backend, DbmBackend, DirectoryBackend, MemoryBackend, MultiBackend};
use corallite_objects::conformance;

/// In memory where there is such a place; the directory backend alone is tried on the disk.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn the_memory_backend_passes_the_conformance_suite() -> Result<(), conformance::Failures> {
    conformance::run(&|| Ok(Arc::new(MemoryBackend::new()))).into_result()
}

#[test]
fn the_directory_backend_passes_the_conformance_suite() -> Result<(), conformance::Failures> {
    let folders = tempfile::tempdir().unwrap();
    let next = Cell::new(0);
    let place = || {
        next.set(next.get() + 1);
        folders.path().join(next.get().to_string())
    };
    conformance::run(&|| Ok(Arc::new(DirectoryBackend::open(place())?))).into_result()?;
    conformance::run_reopened(&|| {
        let place = place();
        Box::new(move || Ok(Arc::new(DirectoryBackend::open(&place)?)))
    })
    .into_result()
}

#[test]
fn the_dbm_backend_passes_the_conformance_suite() -> Result<(), conformance::Failures> {
    let folders = memory();
    let next = Cell::new(0);
    let place = || {
        next.set(next.get() + 1);
        folders.path().join(format!("{}.dbm", next.get()))
    };
    conformance::run(&|| Ok(Arc::new(DbmBackend::open(place())?))).into_result()?;
    conformance::run_reopened(&|| {
        let place = place();
        Box::new(move || Ok(Arc::new(DbmBackend::open(&place)?)))
    })
    .into_result()
}

#[test]
fn several_backends_together_pass_the_conformance_suite() -> Result<(), conformance::Failures> {
    let folders = memory();
    let next = Cell::new(0);
    let place = || {
        next.set(next.get() + 1);
        folders.path().join(next.get().to_string())
    };
    let open = |place: &Path| -> corallite_objects::Result<Arc<dyn Backend>> {
        let directory = Arc::new(DirectoryBackend::open(place.join("directory"))?);
        let dbm = Arc::new(DbmBackend::open(place.join("file.dbm"))?);
        Ok(Arc::new(MultiBackend::new(vec![dbm, directory, Arc::new(MemoryBackend::new())])?))
    };
    conformance::run(&|| open(&place())).into_result()?;
    conformance::run_reopened(&|| {
        let place = place();
        Box::new(move || open(&place))
    })
    .into_result()
}
