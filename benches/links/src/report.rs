//! Tables on standard output, and everything that was measured as JSON.

use std::fs;
use std::io::{self, Write};
use std::thread;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::Kind;
use crate::measure::{clock_cost, median};
use crate::rounds::cold::Cold;
use crate::rounds::compare::Samples;
use crate::rounds::growth::Stage;
use crate::rounds::larger_than_memory::Outgrown;
use crate::rounds::reopen::Reopened;
use crate::sample::{Better, FIGURES, Figure};
use crate::{Common, Output};

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    fsync_4_kib_us: f64,
    clock_ns: f64,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look(fsync_us: f64) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { cores, fsync_4_kib_us: fsync_us, clock_ns: clock_cost() }
    }
}

/// The medians of all engines, side by side.
pub(crate) fn comparison(
    machine: &Machine,
    common: &Common,
    output: &Output,
    keys: u64,
    samples: &Samples,
) -> Result<()> {
    let rounds = samples.values().map(Vec::len).max().unwrap_or(0);
    let rows: Vec<Row> = FIGURES.iter().map(|figure| Row::new(figure, samples)).collect();

    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} keys, medians of {rounds} rounds, {} cores; one fdatasync of 4 KiB takes {:.2} ms, a reading of the clock \
         {:.0} ns.\nIn brackets: how many times as good as the best peer.\n",
        grouped(keys as f64, 0),
        machine.cores,
        machine.fsync_4_kib_us / 1e3,
        machine.clock_ns,
    )?;
    let names: Vec<&str> = samples.keys().map(|engine| engine.name()).collect();
    writeln!(out, "| | unit | {} | best peer |", names.join(" | "))?;
    writeln!(out, "|---|---|{}---|", "---:|".repeat(names.len()))?;
    for row in &rows {
        let cells: Vec<String> = samples.keys().map(|&engine| row.cell(engine)).collect();
        let best = row.best.map_or("", Kind::name);
        writeln!(out, "| {} | {} | {} | {best} |", row.figure.name, row.figure.unit, cells.join(" | "))?;
    }
    output.write(&json!({
        "machine": machine,
        "keys": keys,
        "cache_bytes": common.cache_bytes,
        "medians": rows.iter().map(|row| (row.figure.key.to_owned(), row.json())).collect::<serde_json::Map<_, _>>(),
        "rounds": samples,
    }))
}

/// One figure of all engines.
struct Row {
    figure: &'static Figure,
    medians: Vec<(Kind, f64)>,
    best: Option<Kind>,
}

impl Row {
    fn new(figure: &'static Figure, samples: &Samples) -> Self {
        let medians: Vec<(Kind, f64)> = samples
            .iter()
            .map(|(&engine, rounds)| (engine, median(&rounds.iter().map(figure.of).collect::<Vec<_>>())))
            .collect();
        let best = medians
            .iter()
            .filter(|(engine, _)| engine.is_peer() && figure.better != Better::Neither)
            .max_by(|(_, one), (_, other)| match figure.better {
                Better::Higher | Better::Neither => one.total_cmp(other),
                Better::Lower => other.total_cmp(one),
            })
            .map(|&(engine, _)| engine);
        Self { figure, medians, best }
    }

    fn median(&self, engine: Kind) -> f64 {
        self.medians.iter().find(|(of, _)| *of == engine).map_or(f64::NAN, |(_, median)| *median)
    }

    fn ratio(&self, engine: Kind) -> Option<f64> {
        self.best.and_then(|best| self.figure.better.ratio(self.median(engine), self.median(best)))
    }

    fn cell(&self, engine: Kind) -> String {
        let median = self.median(engine);
        let median = grouped(median, if median < 100.0 { 2 } else { 0 });
        match self.ratio(engine) {
            Some(ratio) if self.best != Some(engine) => format!("{median} ({ratio:.2})"),
            _ => median,
        }
    }

    fn json(&self) -> Value {
        let engine = |&(engine, median): &(Kind, f64)| {
            (engine.name().to_owned(), json!({ "median": median, "times_best_peer": self.ratio(engine) }))
        };
        json!({
            "unit": self.figure.unit,
            "best_peer": self.best.map(Kind::name),
            "engines": self.medians.iter().map(engine).collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// One engine at several sizes.
pub(crate) fn growth(common: &Common, output: &Output, engine: Kind, stages: &[Stage]) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n", engine.name())?;
    writeln!(
        out,
        "| keys | insert, pairs/s | at this size | its CPU, ns | get, CPU, ns | wall, ns | P99, ns | B/key |"
    )?;
    writeln!(out, "|{}", "---:|".repeat(8))?;
    for stage in stages {
        let figures = [
            stage.keys as f64,
            stage.insert_rate,
            stage.last_insert_rate,
            stage.last_insert_cpu,
            stage.get_cpu,
            stage.get_wall,
            stage.get_p99,
            stage.bytes_per_key,
        ];
        writeln!(out, "| {} |", figures.map(|figure| grouped(figure, 0)).join(" | "))?;
    }
    output.write(&json!({ "engine": engine, "cache_bytes": common.cache_bytes, "growth": stages }))
}

/// One engine with more data than memory.
pub(crate) fn larger_than_memory(common: &Common, output: &Output, engine: Kind, outgrown: &Outgrown) -> Result<()> {
    let rows = [
        ("memory, MiB", mebibytes(outgrown.memory_bytes)),
        ("pairs", outgrown.pairs as f64),
        ("insert, settled, pairs/s", outgrown.insert_rate),
        ("over the last quarter, pairs/s", outgrown.last_quarter_rate),
        ("get, present, on average, ns", outgrown.get_wall),
        ("P99, ns", outgrown.get_p99),
        ("P99.9, ns", outgrown.get_p999),
        ("most resident, mapped files included, MiB", mebibytes(outgrown.peak_bytes)),
        ("most resident, anonymous, MiB", mebibytes(outgrown.peak_anonymous_bytes)),
        ("on disk, bytes for each key", outgrown.bytes_per_key),
    ];
    column(engine, rows.map(|(name, figure)| (name, grouped(figure, 0))))?;
    output.write(&json!({ "engine": engine, "cache_bytes": common.cache_bytes, "larger_than_memory": outgrown }))
}

/// One engine opened again and again.
pub(crate) fn reopen(common: &Common, output: &Output, engine: Kind, reopened: &Reopened) -> Result<()> {
    let clean = &reopened.clean;
    let rows = [
        ("keys", grouped(reopened.keys as f64, 0)),
        ("reopen and get after a clean close, median, ms", grouped(median(clean), 2)),
        ("the fastest, ms", grouped(clean.iter().copied().fold(f64::NAN, f64::min), 2)),
        ("the slowest, ms", grouped(clean.iter().copied().fold(f64::NAN, f64::max), 2)),
        ("reopen and get after kill -9, ms", grouped(reopened.killed, 2)),
        ("pairs written before the kill", grouped(reopened.written as f64, 0)),
        (
            "replayed from the log",
            reopened.replayed.map_or_else(|| "not told".to_owned(), |records| grouped(records as f64, 0)),
        ),
    ];
    column(engine, rows)?;
    output.write(&json!({ "engine": engine, "cache_bytes": common.cache_bytes, "reopen": reopened }))
}

/// One engine with nothing in memory.
pub(crate) fn cold(common: &Common, output: &Output, engine: Kind, cold: &Cold) -> Result<()> {
    let rows = [
        ("keys", grouped(cold.keys as f64, 0)),
        ("open, cold, ms", grouped(cold.absent.open, 2)),
        ("absent key, cold: on average, ns", grouped(cold.absent.wall, 0)),
        ("P99, ns", grouped(cold.absent.p99, 0)),
        ("present key, cold: on average, ns", grouped(cold.present.wall, 0)),
        ("P99, ns", grouped(cold.present.p99, 0)),
    ];
    column(engine, rows)?;
    output.write(&json!({ "engine": engine, "cache_bytes": common.cache_bytes, "cold": cold }))
}

/// A table of one engine.
fn column<const ROWS: usize>(engine: Kind, rows: [(&str, String); ROWS]) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "| | {} |\n|---|---:|", engine.name())?;
    for (name, figure) in rows {
        writeln!(out, "| {name} | {figure} |")?;
    }
    Ok(())
}

impl Output {
    fn write(&self, report: &Value) -> Result<()> {
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_string_pretty(report)? + "\n")?;
        }
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A number with commas between the thousands.
fn grouped(number: f64, decimals: usize) -> String {
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
    fn thousands_are_grouped() {
        assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
        assert_eq!(grouped(123.456, 2), "123.46");
        assert_eq!(grouped(1_000.5, 1), "1,000.5");
        assert_eq!(grouped(7.0, 0), "7");
    }

    #[test]
    fn twice_as_good_is_twice_the_rate_or_half_the_time() {
        assert_eq!(Better::Higher.ratio(200.0, 100.0), Some(2.0));
        assert_eq!(Better::Lower.ratio(50.0, 100.0), Some(2.0));
    }
}
