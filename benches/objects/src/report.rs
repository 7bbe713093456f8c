//! The table on standard output, and everything that was measured as JSON.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::Common;
use crate::compare::Samples;
use crate::engine::Kind;
use crate::measure::median;

/// What was run.
pub(crate) struct Run<'a> {
    pub(crate) common: &'a Common,
    pub(crate) rounds: u32,
    /// Milliseconds for an fdatasync of 4 KiB.
    pub(crate) fsync: f64,
    pub(crate) samples: &'a Samples,
}

/// What a figure means.
struct Figure {
    /// Its name in samples.
    key: &'static str,
    name: &'static str,
    unit: &'static str,
    is_time: bool,
    rows: &'static [Row],
}

/// One of ours beside one of theirs.
struct Row(Kind, Option<Kind>, Aim);

/// What has to be reached.
#[derive(Clone, Copy)]
enum Aim {
    /// So many times as good as the peer.
    Times(f64),
    AtLeast(f64),
    AtMost(f64),
    /// Nothing; it is told for comparison.
    None,
}

use Aim::{AtLeast, AtMost, Times};
use Kind::{Dbm, Directory, Files, Redb, Sqlite, Store};

/// All figures, in the order of the report.
const FIGURES: &[Figure] = &[
    Figure {
        key: "save",
        name: "save + 3 indexes, durable batches of 1,000",
        unit: "objects/s",
        is_time: false,
        rows: &[
            Row(Dbm, Some(Sqlite), Times(1.0)),
            Row(Store, Some(Sqlite), Times(1.5)),
            Row(Dbm, Some(Redb), Aim::None),
        ],
    },
    Figure {
        key: "single",
        name: "durable save of one object, no indexes",
        unit: "objects/s",
        is_time: false,
        rows: &[Row(Directory, Some(Files), Times(0.8))],
    },
    Figure {
        key: "get_cold",
        name: "get by id, just opened",
        unit: "µs",
        is_time: true,
        rows: &[
            Row(Dbm, Some(Sqlite), Times(1.5)),
            Row(Store, Some(Sqlite), Times(1.5)),
            Row(Dbm, Some(Redb), Aim::None),
        ],
    },
    Figure {
        key: "get_again",
        name: "get by id, again, nobody has it",
        unit: "µs",
        is_time: true,
        rows: &[Row(Dbm, Some(Sqlite), Aim::None), Row(Store, Some(Sqlite), Aim::None)],
    },
    Figure {
        key: "get_cached",
        name: "get by id, cached: somebody has it",
        unit: "µs",
        is_time: true,
        rows: &[Row(Dbm, Some(Sqlite), Times(10.0)), Row(Store, Some(Sqlite), Times(10.0))],
    },
    Figure {
        key: "query_one",
        name: "index query, 1 hit",
        unit: "µs",
        is_time: true,
        rows: &[
            Row(Dbm, Some(Sqlite), Times(1.5)),
            Row(Store, Some(Sqlite), Times(1.5)),
            Row(Dbm, Some(Redb), Aim::None),
        ],
    },
    Figure {
        key: "query_many",
        name: "index query, 1,000 hits",
        unit: "µs",
        is_time: true,
        rows: &[
            Row(Dbm, Some(Sqlite), Times(1.5)),
            Row(Store, Some(Sqlite), Times(1.5)),
            Row(Dbm, Some(Redb), Aim::None),
        ],
    },
    Figure {
        key: "rebuild",
        name: "rebuild of 3 indexes",
        unit: "entries/s",
        is_time: false,
        rows: &[Row(Dbm, Some(Sqlite), AtLeast(300_000.0)), Row(Store, Some(Sqlite), AtLeast(300_000.0))],
    },
    Figure {
        key: "rebuild_quarter",
        name: "the same, a quarter of the objects",
        unit: "entries/s",
        is_time: false,
        rows: &[Row(Dbm, Some(Sqlite), Aim::None), Row(Store, Some(Sqlite), Aim::None)],
    },
    Figure {
        key: "rebuild_linear",
        name: "linear: the rate of all to that of a quarter",
        unit: "",
        is_time: false,
        rows: &[Row(Dbm, None, AtLeast(0.8)), Row(Store, None, AtLeast(0.8))],
    },
    Figure {
        key: "raw_in",
        name: "a file in, durable",
        unit: "MB/s",
        is_time: false,
        rows: &[Row(Directory, Some(Files), Times(0.8)), Row(Store, Some(Files), Times(0.8))],
    },
    Figure {
        key: "raw_out",
        name: "a file out, hash checked",
        unit: "MB/s",
        is_time: false,
        rows: &[Row(Directory, Some(Files), Times(0.8)), Row(Store, Some(Files), Times(0.8))],
    },
    Figure {
        key: "raw_memory",
        name: "resident memory for both, at most",
        unit: "MB",
        is_time: true,
        rows: &[Row(Directory, None, AtMost(64.0)), Row(Store, None, AtMost(64.0))],
    },
];

impl Figure {
    fn median(&self, samples: &Samples, engine: Kind) -> Option<f64> {
        samples.get(&engine)?.get(self.key).map(|rounds| median(rounds))
    }

    /// How many times as good the first is: 2 is twice the rate, or half the time.
    fn ratio(&self, figure: f64, reference: f64) -> f64 {
        if self.is_time { reference / figure } else { figure / reference }
    }
}

impl Aim {
    fn text(self) -> String {
        match self {
            Self::Times(times) => format!("≥ {times} ×"),
            Self::AtLeast(least) => format!("≥ {}", rounded(least)),
            Self::AtMost(most) => format!("≤ {}", rounded(most)),
            Self::None => String::new(),
        }
    }

    fn is_reached(self, figure: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::Times(times) => ratio.map(|ratio| ratio >= times),
            Self::AtLeast(least) => Some(figure >= least),
            Self::AtMost(most) => Some(figure <= most),
            Self::None => None,
        }
    }
}

/// Writes the table, and the JSON where that is wanted.
pub(crate) fn write(run: &Run<'_>, path: Option<&Path>) -> Result<()> {
    let mut out = io::stdout().lock();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        out,
        "{} objects, {} saved, a file of {} MB; medians of {} rounds, {cores} cores; one fdatasync of 4 KiB takes {:.2} \
         ms.\n",
        rounded(run.common.objects as f64),
        rounded(run.common.saves() as f64),
        rounded(run.common.raw_bytes as f64 / 1e6),
        run.rounds,
        run.fsync,
    )?;
    writeln!(out, "| | unit | Corallite | | peer | | ratio | aim | reached |")?;
    writeln!(out, "|---|---|---|---:|---|---:|---:|---:|---|")?;
    let mut rows = Vec::new();
    for figure in FIGURES {
        for &Row(ours, peer, aim) in figure.rows {
            let Some(own) = figure.median(run.samples, ours) else { continue };
            let theirs = peer.and_then(|peer| figure.median(run.samples, peer));
            let ratio = theirs.map(|theirs| figure.ratio(own, theirs));
            let is_reached = aim.is_reached(own, ratio);
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                figure.name,
                figure.unit,
                ours.title(),
                rounded(own),
                peer.map_or("", Kind::title),
                theirs.map_or(String::new(), rounded),
                ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                aim.text(),
                is_reached.map_or("", |is_reached| if is_reached { "yes" } else { "no" }),
            )?;
            rows.push(json!({
                "figure": figure.key, "unit": figure.unit, "engine": ours.name(), "median": own,
                "peer": peer.map(Kind::name), "peer_median": theirs, "ratio": ratio, "aim": aim.text(),
                "is_reached": is_reached,
            }));
        }
    }
    if let Some(path) = path {
        let samples: Map<String, Value> =
            run.samples.iter().map(|(engine, figures)| (engine.name().to_owned(), json!(figures))).collect();
        let report = json!({
            "cores": cores, "fsync_4_kib_ms": run.fsync, "objects": run.common.objects, "saved": run.common.saves(),
            "raw_bytes": run.common.raw_bytes, "rows": rows, "rounds": samples,
        });
        fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

/// A number of three digits or more, with commas between the thousands.
fn rounded(number: f64) -> String {
    let decimals = if number >= 100.0 {
        0
    } else if number >= 1.0 {
        1
    } else {
        2
    };
    let text = format!("{number:.decimals$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut grouped = String::with_capacity(text.len() + whole / 3);
    for (at, character) in text.char_indices() {
        if at > 0 && at < whole && (whole - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(character);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_all_of_the_whole() {
        assert_eq!([1_234_567.0, 123.4, 12.34, 0.125].map(rounded), ["1,234,567", "123", "12.3", "0.12"]);
    }

    #[test]
    fn an_aim_of_a_time_is_reached_by_less_of_it() {
        let figure = &FIGURES[2];
        assert_eq!((figure.key, figure.ratio(2.0, 3.0)), ("get_cold", 1.5));
        assert_eq!(Times(1.5).is_reached(2.0, Some(1.5)), Some(true));
        assert_eq!(AtMost(64.0).is_reached(65.0, None), Some(false));
        assert_eq!(Aim::None.is_reached(1.0, Some(0.1)), None);
    }
}
