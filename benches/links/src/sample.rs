//! The figures of one engine in one round.

use serde::{Deserialize, Serialize};

/// Defines the sample and, in the same order, the table of what each of its figures is.
macro_rules! figures {
    ($($field:ident: $name:literal, $unit:literal, $better:ident;)*) => {
        /// One round of one engine.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        pub(crate) struct Sample {
            $(pub(crate) $field: f64,)*
        }

        /// All figures, in the order of the report.
        pub(crate) const FIGURES: &[Figure] = &[
            $(Figure {
                key: stringify!($field),
                name: $name,
                unit: $unit,
                better: Better::$better,
                of: |sample| sample.$field,
            },)*
        ];
    };
}

figures! {
    insert_rate: "insert, durable batches of 10,000, settled", "pairs/s", Higher;
    insert_cpu: "its processor time, all threads", "ns", Lower;
    get_cpu: "get, present: processor time", "ns", Lower;
    get_wall: "get, present: on average", "ns", Lower;
    get_p99: "get, present: P99", "ns", Lower;
    get_p999: "get, present: P99.9", "ns", Lower;
    get_rate_two_threads: "get, present, 2 threads", "gets/s", Higher;
    absent_cpu: "get, absent: processor time", "ns", Lower;
    delete_in_use_rate: "delete, in use, durable batches of 10,000, settled", "pairs/s", Higher;
    delete_rate: "delete, just after opening, the same", "pairs/s", Higher;
    fsync: "fdatasync of 4 KiB, of the disk, just before the next", "ns", Neither;
    single_rate: "durable single inserts, one thread", "inserts/s", Higher;
    single_p99: "their P99", "ns", Lower;
    concurrent_rate: "durable single inserts, 64 writers", "inserts/s", Higher;
    concurrent_p99: "their P99", "ns", Lower;
    settled_bytes: "on disk after the inserts, for each key", "bytes", Lower;
    compacted_bytes: "on disk after compaction, for each key", "bytes", Lower;
    reopen_clean: "reopen and get after a clean close", "ms", Lower;
    reopen_killed: "reopen and get after kill -9", "ms", Lower;
}

/// What a figure means.
pub(crate) struct Figure {
    /// Its name in JSON.
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) of: fn(&Sample) -> f64,
}

/// Which figures win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
    /// No engine's merit.
    Neither,
}

impl Better {
    /// How many times as good the first is: 2 is twice the rate, or half the time.
    pub(crate) fn ratio(self, figure: f64, reference: f64) -> Option<f64> {
        match self {
            Self::Higher => Some(figure / reference),
            Self::Lower => Some(reference / figure),
            Self::Neither => None,
        }
    }
}
