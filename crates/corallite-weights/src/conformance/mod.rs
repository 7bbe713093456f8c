//! One suite of checks that every [`WeightStore`] and [`DeltaStore`] must pass.
//!
//! For whoever writes a store: call [`run`] with a function that makes a new, empty store, from a
//! test, and ask the report for [`into_result`](Report::into_result).
//!
//! ```
//! use corallite_weights::{MemoryStore, conformance};
//! conformance::run(&|| Box::new(MemoryStore::new())).into_result()?;
//! conformance::run_deltas(&|| Box::new(MemoryStore::new())).into_result()?;
//! # Ok::<(), conformance::Failures>(())
//! ```
//!
//! Checks are named after the promise they check. They never panic; whatever a store answers
//! becomes a line in the report. Each gets a store of its own.

mod data;
mod deltas;
mod weights;
mod weights_many;

use std::fmt;

use crate::store::{DeltaStore, WeightStore};

/// What a check found wrong, in words; `Ok` when it found nothing.
type Outcome = std::result::Result<(), String>;

/// One check: its name, and what it does with a new store.
struct Check<S: ?Sized> {
    name: &'static str,
    run: fn(&S) -> Outcome,
}

/// One check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The check's name: the promise that was broken.
    pub check: &'static str,
    /// What the store did instead.
    pub problem: String,
}

/// What all checks found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The names of the checks that passed.
    pub passed: Vec<&'static str>,
    /// The checks that failed.
    pub failures: Vec<Failure>,
}

impl Report {
    /// `Ok` when every check passed.
    ///
    /// # Errors
    /// The failures; their text lists them all.
    pub fn into_result(self) -> std::result::Result<(), Failures> {
        if self.failures.is_empty() { Ok(()) } else { Err(Failures(self.failures)) }
    }
}

/// The failures of a run, as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures(pub Vec<Failure>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store broke {} promise(s)", self.0.len())?;
        self.0.iter().try_for_each(|failure| write!(f, "\n- {}: {}", failure.check, failure.problem))
    }
}

impl std::error::Error for Failures {}

/// Runs every check of weights. `make` makes a new, empty, open store.
pub fn run(make: &dyn Fn() -> Box<dyn WeightStore>) -> Report {
    run_checks(weights::CHECKS.iter().chain(weights_many::CHECKS), make)
}

/// Runs every check of deltas. `make` makes a new, empty, open store.
pub fn run_deltas(make: &dyn Fn() -> Box<dyn DeltaStore>) -> Report {
    run_checks(deltas::CHECKS.iter(), make)
}

fn run_checks<'a, S: ?Sized + 'a>(checks: impl Iterator<Item = &'a Check<S>>, make: &dyn Fn() -> Box<S>) -> Report {
    let mut report = Report::default();
    for check in checks {
        match (check.run)(&*make()) {
            Ok(()) => report.passed.push(check.name),
            Err(problem) => report.failures.push(Failure { check: check.name, problem }),
        }
    }
    report
}

/// Passes when `condition` holds.
fn ensure(condition: bool, problem: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(problem()) }
}

/// Passes when both are equal.
fn same<T: PartialEq + fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    ensure(got == want, || format!("{what}: {got:?} instead of {want:?}"))
}

/// The value of a call that has to succeed.
fn ok<T>(what: &str, result: crate::Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| format!("{what} failed: {error}"))
}

/// Passes when a call failed with the error that `wanted` accepts.
fn refused<T: fmt::Debug>(what: &str, result: crate::Result<T>, wanted: fn(&crate::Error) -> bool) -> Outcome {
    match result {
        Err(error) if wanted(&error) => Ok(()),
        Err(error) => Err(format!("{what} failed with another error: {error}")),
        Ok(value) => Err(format!("{what} succeeded with {value:?}")),
    }
}

#[cfg(test)]
mod tests;
