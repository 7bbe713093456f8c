//! Opening.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use corallite_file::{Mode, Storage};

use super::{AsyncCIDStore, blocking};
use crate::CIDStore;
use crate::error::Result;
use crate::options::LinksOptions;

async fn opened(path: PathBuf, open: impl FnOnce(&Path) -> Result<CIDStore> + Send + 'static) -> Result<AsyncCIDStore> {
    let there = path.clone();
    blocking(&path, move || open(&there)).await?.map(AsyncCIDStore::from)
}

impl AsyncCIDStore {
    /// See [`CIDStore::open`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        opened(path.as_ref().to_owned(), |path| CIDStore::open(path)).await
    }

    /// See [`CIDStore::open_read_only`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        opened(path.as_ref().to_owned(), |path| CIDStore::open_read_only(path)).await
    }

    /// See [`CIDStore::open_with`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn open_with(path: impl AsRef<Path>, mode: Mode, options: LinksOptions) -> Result<Self> {
        opened(path.as_ref().to_owned(), move |path| CIDStore::open_with(path, mode, options)).await
    }

    /// See [`CIDStore::on_storage`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn on_storage(storage: Storage, mode: Mode, options: LinksOptions) -> Result<Self> {
        opened(storage.path().to_owned(), move |_| CIDStore::on_storage(storage, mode, options)).await
    }

    /// See [`CIDStore::with_storage`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::with_storage`].
    pub async fn with_storage(storage: Arc<Storage>, options: LinksOptions) -> Result<Self> {
        opened(storage.path().to_owned(), move |_| CIDStore::with_storage(storage, options)).await
    }

    /// See [`CIDStore::memory`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::memory`].
    pub async fn memory() -> Result<Self> {
        opened(PathBuf::from("a store in memory"), |_| CIDStore::memory()).await
    }
}
