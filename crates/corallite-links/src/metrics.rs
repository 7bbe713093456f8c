//! Metrics, for Prometheus and for people.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::change::{Change, Operation};
use crate::checkpoint::CheckpointReport;
use crate::error::Result;
use crate::exposition;
use crate::store::{CIDStore, Maintenance};
use crate::wal::ReplayReport;

/// Stripes of a counter that many threads increase; each thread has one.
const STRIPES: usize = 16;
/// Events that are kept.
const EVENTS: usize = 256;

static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static STRIPE: usize = NEXT_STRIPE.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// A cache line, so that threads do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

/// Something that happened, as [`CIDStore::log_event`] noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds since 1970.
    pub nanos: u64,
    /// What.
    pub name: String,
    /// With which numbers.
    pub fields: Vec<(String, u64)>,
}

/// The store's metrics at one moment; see [`CIDStore::get_metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinksMetrics {
    /// Keys looked up.
    pub gets: u64,
    /// Pairs asked to be inserted.
    pub inserts: u64,
    /// Keys and pairs asked to be deleted.
    pub deletes: u64,
    /// Batches committed, and the time from their beginning to their end.
    pub commits: u64,
    /// Nanoseconds spent in commits.
    pub commit_nanos: u64,
    /// Buckets and partitions split.
    pub splits: u64,
    /// Buckets and partitions merged.
    pub merges: u64,
    /// Directories doubled.
    pub doublings: u64,
    /// Directories halved.
    pub halvings: u64,
    /// Buckets that overflowed because their keys share their hash bits.
    pub overflows: u64,
    /// Keys whose values moved to a value set.
    pub promotions: u64,
    /// Keys whose values moved back.
    pub demotions: u64,
    /// States in which a flipped bit was corrected.
    pub ecc_corrections: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Bytes that they wrote.
    pub checkpoint_bytes: u64,
    /// Checkpoints that failed.
    pub checkpoint_failures: u64,
    /// Runs of garbage collection.
    pub gc_runs: u64,
    /// Tombstones that they removed.
    pub gc_tombstones: u64,
    /// Records that recovery replayed.
    pub replayed: u64,
    /// Commits that found the log full and had to wait for a checkpoint.
    pub log_full: u64,
    /// Records in the log that the file does not hold.
    pub wal_depth: u64,
    /// Syncs of the log.
    pub wal_syncs: u64,
    /// Nanoseconds spent in them.
    pub wal_sync_nanos: u64,
    /// Bytes of loaded partitions and of changes to others.
    pub memory_bytes: u64,
    /// Loaded partitions.
    pub loaded_partitions: u64,
}

/// What is counted while the store works.
#[derive(Debug)]
pub(crate) struct Metrics {
    gets: [Stripe; STRIPES],
    inserts: AtomicU64,
    deletes: AtomicU64,
    commits: AtomicU64,
    commit_nanos: AtomicU64,
    latency: Histogram,
    checkpoints: AtomicU64,
    checkpoint_bytes: AtomicU64,
    checkpoint_failures: AtomicU64,
    checkpoint_latency: Histogram,
    gc_runs: AtomicU64,
    gc_tombstones: AtomicU64,
    replayed: AtomicU64,
    log_full: AtomicU64,
    events: Mutex<VecDeque<Event>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            gets: Default::default(),
            inserts: AtomicU64::default(),
            deletes: AtomicU64::default(),
            commits: AtomicU64::default(),
            commit_nanos: AtomicU64::default(),
            latency: Histogram::new(exponential_buckets(20e-6, 2.0, 16)),
            checkpoints: AtomicU64::default(),
            checkpoint_bytes: AtomicU64::default(),
            checkpoint_failures: AtomicU64::default(),
            checkpoint_latency: Histogram::new(exponential_buckets(1e-3, 2.0, 16)),
            gc_runs: AtomicU64::default(),
            gc_tombstones: AtomicU64::default(),
            replayed: AtomicU64::default(),
            log_full: AtomicU64::default(),
            events: Mutex::default(),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Metrics {
    #[inline]
    pub(crate) fn read(&self) {
        let stripe = STRIPE.with(|stripe| *stripe);
        let counter = &self.gets[stripe].0;
        // A lost count where two threads share a stripe is cheaper than a locked instruction for every read.
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, changes: &[Change], took: Duration) {
        let inserts = changes.iter().filter(|change| change.operation == Operation::Insert).count() as u64;
        add(&self.inserts, inserts);
        add(&self.deletes, changes.len() as u64 - inserts);
        add(&self.commits, 1);
        add(&self.commit_nanos, nanos_of(took));
        self.latency.observe(took.as_secs_f64());
    }

    pub(crate) fn checkpointed(&self, report: &CheckpointReport) {
        add(&self.checkpoints, 1);
        add(&self.checkpoint_bytes, report.bytes);
        self.checkpoint_latency.observe(report.duration.as_secs_f64());
    }

    pub(crate) fn checkpoint_failed(&self) {
        add(&self.checkpoint_failures, 1);
    }

    pub(crate) fn collected(&self, done: &Maintenance) {
        add(&self.gc_runs, 1);
        add(&self.gc_tombstones, done.tombstones);
    }

    pub(crate) fn replayed(&self, report: &ReplayReport) {
        add(&self.replayed, report.records);
    }

    pub(crate) fn log_full(&self) {
        add(&self.log_full, 1);
    }

    fn note(&self, name: &str, fields: &[(&str, u64)]) {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos_of);
        let fields = fields.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        let mut events = self.events.lock();
        if events.len() == EVENTS {
            events.pop_front();
        }
        events.push_back(Event { nanos, name: name.to_owned(), fields });
    }
}

impl CIDStore {
    /// The metrics as numbers.
    pub fn get_metrics(&self) -> LinksMetrics {
        let shared = self.shared();
        let metrics = &shared.metrics;
        let log = shared.log().map(|log| log.metrics()).unwrap_or_default();
        let (events, memory_bytes, loaded) = {
            let writer = shared.writer.lock();
            let loaded = writer.partitions.iter().flatten().filter(|owned| owned.hot.is_some()).count();
            (writer.events, shared.engine.bytes(&writer), loaded)
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinksMetrics {
            gets: metrics.gets.iter().map(|stripe| read(&stripe.0)).sum(),
            inserts: read(&metrics.inserts),
            deletes: read(&metrics.deletes),
            commits: read(&metrics.commits),
            commit_nanos: read(&metrics.commit_nanos),
            splits: events.splits,
            merges: events.merges,
            doublings: events.doublings,
            halvings: events.halvings,
            overflows: events.overflows,
            promotions: events.promotions,
            demotions: events.demotions,
            ecc_corrections: read(&shared.engine.corrections),
            checkpoints: read(&metrics.checkpoints),
            checkpoint_bytes: read(&metrics.checkpoint_bytes),
            checkpoint_failures: read(&metrics.checkpoint_failures),
            gc_runs: read(&metrics.gc_runs),
            gc_tombstones: read(&metrics.gc_tombstones),
            replayed: read(&metrics.replayed),
            log_full: read(&metrics.log_full),
            wal_depth: log.depth,
            wal_syncs: log.syncs,
            wal_sync_nanos: log.sync_nanos,
            memory_bytes,
            loaded_partitions: loaded as u64,
        }
    }

    /// The metrics as Prometheus scrapes them: OpenMetrics text.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`](crate::Error::Usage) should the text not be made, which has no known cause.
    pub fn expose_metrics(&self) -> Result<String> {
        let shared = self.shared();
        let now = self.get_metrics();
        let mut registry = Registry::with_prefix("corallite_links");
        let counters = [
            ("gets", "Keys looked up", now.gets),
            ("inserts", "Pairs asked to be inserted", now.inserts),
            ("deletes", "Keys and pairs asked to be deleted", now.deletes),
            ("splits", "Buckets and partitions split", now.splits),
            ("merges", "Buckets and partitions merged", now.merges),
            ("directory_doublings", "Directories doubled", now.doublings),
            ("directory_halvings", "Directories halved", now.halvings),
            ("bucket_overflows", "Buckets whose keys share their hash bits", now.overflows),
            ("promotions", "Keys whose values moved to a value set", now.promotions),
            ("demotions", "Keys whose values moved back into their bucket", now.demotions),
            ("ecc_corrections", "States in which a flipped bit was corrected", now.ecc_corrections),
            ("checkpoints", "Checkpoints written", now.checkpoints),
            ("checkpoint_bytes", "Bytes written by checkpoints", now.checkpoint_bytes),
            ("checkpoint_failures", "Checkpoints that failed", now.checkpoint_failures),
            ("gc_runs", "Runs of garbage collection", now.gc_runs),
            ("gc_tombstones", "Tombstones removed by garbage collection", now.gc_tombstones),
            ("replayed_records", "Records replayed by recovery", now.replayed),
            ("log_full", "Commits that waited for a checkpoint", now.log_full),
            ("wal_syncs", "Syncs of the log", now.wal_syncs),
        ];
        let gauges = [
            ("wal_depth", "Records in the log that the file does not hold", now.wal_depth),
            ("memory_bytes", "Bytes of loaded partitions and of changes to others", now.memory_bytes),
            ("loaded_partitions", "Partitions in memory", now.loaded_partitions),
        ];
        exposition::register(&mut registry, &counters, &gauges);
        let latency = shared.metrics.latency.clone();
        registry.register_with_unit("commit", "Time of a commit", Unit::Seconds, latency);
        let latency = shared.metrics.checkpoint_latency.clone();
        registry.register_with_unit("checkpoint", "Time of a checkpoint", Unit::Seconds, latency);
        exposition::encode(&registry, self.path())
    }

    /// Notes that something happened; the last 256 such events are kept. The store notes its own.
    pub fn log_event(&self, name: &str, fields: &[(&str, u64)]) {
        self.shared().metrics.note(name, fields);
    }

    /// The last events, the oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared().metrics.events.lock().iter().cloned().collect()
    }
}
