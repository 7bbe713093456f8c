//! Maintenance, and what a store says of itself.

use super::AsyncCIDStore;
use crate::E;
use crate::checkpoint::CheckpointReport;
use crate::deletion_log::DeletionEntry;
use crate::error::Result;
use crate::format::DirectoryForm;
use crate::metrics::LinksMetrics;
use crate::store::{Maintenance, Statistics, Tuning};
#[cfg(doc)]
use crate::{CIDStore, Error};

impl AsyncCIDStore {
    /// See [`CIDStore::compact_key`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::compact_key`].
    pub async fn compact_key(&self, key: E) -> Result<u64> {
        self.hand_over(move |store| store.compact_key(key)).await
    }

    /// See [`CIDStore::demote_if_possible`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::demote_if_possible`].
    pub async fn demote_if_possible(&self, key: E) -> Result<bool> {
        self.hand_over(move |store| store.demote_if_possible(key)).await
    }

    /// See [`CIDStore::compact`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::compact`].
    pub async fn compact(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.compact()).await
    }

    /// See [`CIDStore::merge`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::merge`].
    pub async fn merge(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.merge()).await
    }

    /// See [`CIDStore::gc`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::gc`].
    pub async fn gc(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.gc()).await
    }

    /// See [`CIDStore::run_gc_once`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::run_gc_once`].
    pub async fn run_gc_once(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.run_gc_once()).await
    }

    /// See [`CIDStore::background_maintenance`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::background_maintenance`].
    pub async fn background_maintenance(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.background_maintenance()).await
    }

    /// See [`CIDStore::migrate_directory`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::migrate_directory`].
    pub async fn migrate_directory(&self) -> Result<DirectoryForm> {
        self.hand_over(|store| store.migrate_directory()).await
    }

    /// See [`CIDStore::statistics`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::statistics`].
    pub async fn statistics(&self) -> Result<Statistics> {
        self.hand_over(|store| store.statistics()).await
    }

    /// See [`CIDStore::count`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::count`].
    pub async fn count(&self) -> Result<u64> {
        self.hand_over(|store| store.count()).await
    }

    /// See [`CIDStore::verify`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::verify`].
    pub async fn verify(&self) -> Result<Vec<String>> {
        self.hand_over(|store| store.verify()).await
    }

    /// See [`CIDStore::debug_dump`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::debug_dump`].
    pub async fn debug_dump(&self) -> Result<String> {
        self.hand_over(|store| store.debug_dump()).await
    }

    /// See [`CIDStore::checkpoint`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::checkpoint`].
    pub async fn checkpoint(&self) -> Result<CheckpointReport> {
        self.hand_over(|store| store.checkpoint()).await
    }

    /// See [`CIDStore::flush`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.hand_over(|store| store.flush()).await
    }

    /// See [`CIDStore::expose_metrics`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::expose_metrics`].
    pub async fn expose_metrics(&self) -> Result<String> {
        self.hand_over(|store| store.expose_metrics()).await
    }

    /// See [`CIDStore::get_metrics`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn get_metrics(&self) -> Result<LinksMetrics> {
        self.hand_over(|store| Ok(store.get_metrics())).await
    }

    /// See [`CIDStore::auto_tune`].
    pub fn auto_tune(&self, metrics: &LinksMetrics) -> Tuning {
        self.store.auto_tune(metrics)
    }

    /// What the deletion log holds; see [`DeletionLog::scan`](crate::DeletionLog::scan).
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn scan_deletions(&self) -> Result<Vec<DeletionEntry>> {
        self.hand_over(|store| Ok(store.deletion_log().scan())).await
    }

    /// Empties the deletion log; see [`DeletionLog::clear`](crate::DeletionLog::clear).
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn clear_deletions(&self) -> Result<()> {
        self.hand_over(|store| {
            store.deletion_log().clear();
            Ok(())
        })
        .await
    }
}
