//! The backend in the store file passes what every backend must.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

use std::sync::Arc;

use corallite::StoreBackend;
use corallite::file::{Mode, Source, Storage};
use corallite::objects::backend::Backend;
use corallite::objects::conformance::{Open, run, run_reopened};

fn storage() -> Arc<Storage> {
    let storage = Storage::new(Source::Memory);
    storage.open(Mode::Append, false).unwrap();
    Arc::new(storage)
}

#[test]
fn it_keeps_the_contract_of_a_backend() {
    run(&|| Ok(Arc::new(StoreBackend::with_storage(storage()).unwrap()))).into_result().unwrap();
}

#[test]
fn what_was_synced_is_there_after_opening_again() {
    run_reopened(&|| -> Open {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(Storage::new(folder.path().join("store.h5")));
        Box::new(move || {
            assert!(folder.path().is_dir());
            storage.close().unwrap();
            storage.open(Mode::Append, false).unwrap();
            let backend: Arc<dyn Backend> = Arc::new(StoreBackend::with_storage(Arc::clone(&storage)).unwrap());
            Ok(backend)
        })
    })
    .into_result()
    .unwrap();
}
