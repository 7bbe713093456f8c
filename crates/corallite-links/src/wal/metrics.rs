//! [`WalMetrics`]: what a log has done.

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::Wal;
use crate::error::Result;
use crate::exposition;

/// Counts since the log was opened or created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalMetrics {
    /// Batches written.
    pub batches: u64,
    /// Records written, commit records included.
    pub records: u64,
    /// Bytes of records written.
    pub bytes: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Nanoseconds spent in syncs.
    pub sync_nanos: u64,
    /// Nanoseconds of the longest sync.
    pub sync_nanos_max: u64,
    /// Records that the store's file has not confirmed, now.
    pub depth: u64,
    /// How often writing went past the end of the ring.
    pub wraps: u64,
    /// Batches refused because there was no room.
    pub refused: u64,
}

impl WalMetrics {
    pub(super) fn synced(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.syncs += 1;
        self.sync_nanos = self.sync_nanos.saturating_add(nanos);
        self.sync_nanos_max = self.sync_nanos_max.max(nanos);
    }
}

impl Wal {
    /// The counts of [`Wal::metrics`] as Prometheus scrapes them: OpenMetrics text.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`](crate::Error::Usage) should the text not be made, which has no known cause.
    pub fn prometheus_metrics(&self) -> Result<String> {
        let now = self.metrics();
        let mut registry = Registry::with_prefix("corallite_wal");
        let counters = [
            ("batches", "Batches written", now.batches),
            ("records", "Records written, commit records included", now.records),
            ("bytes", "Bytes of records written", now.bytes),
            ("syncs", "Syncs done", now.syncs),
            ("sync_nanoseconds", "Time spent in syncs", now.sync_nanos),
            ("wraps", "How often writing went past the end of the ring", now.wraps),
            ("refused", "Batches refused because there was no room", now.refused),
        ];
        let gauges = [
            ("depth", "Records that the store's file has not confirmed", now.depth),
            ("longest_sync_nanoseconds", "The longest sync", now.sync_nanos_max),
        ];
        exposition::register(&mut registry, &counters, &gauges);
        exposition::encode(&registry, self.path())
    }
}
