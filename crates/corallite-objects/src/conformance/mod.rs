//! One suite of checks that every [`Backend`] must pass.
//!
//! For whoever writes a backend: call [`run`] with a function that makes a new, empty one, from a test, and ask the report
//! for [`into_result`](Report::into_result). For one that keeps things, call [`run_reopened`] too.
//!
//! ```
//! use std::sync::Arc;
//! use corallite_objects::{backend::MemoryBackend, conformance};
//!
//! conformance::run(&|| Ok(Arc::new(MemoryBackend::new()))).into_result()?;
//! # Ok::<(), conformance::Failures>(())
//! ```
//!
//! Checks are named after the promise they check. They do not panic; whatever a backend answers becomes a line in the
//! report. Each gets a backend of its own.

mod data;
mod life;
mod ranges;
mod streams;
#[cfg(test)]
mod tests;
mod threads;
mod values;

use std::fmt;
use std::sync::Arc;

use crate::backend::Backend;

/// What a check found wrong, in words; `Ok` when it found nothing.
type Outcome = std::result::Result<(), String>;

/// What opens one and the same place.
pub type Open = Box<dyn Fn() -> crate::Result<Arc<dyn Backend>>>;

/// A check's name, and what it does with a new backend.
type Check = (&'static str, fn(&dyn Backend) -> Outcome);

/// The same, with what opens a place that is new.
type ReopenCheck = (&'static str, fn(&Open) -> Outcome);

/// One check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The check's name: the promise that was broken.
    pub check: &'static str,
    /// What the backend did instead.
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
    ///
    /// The failures; their text lists them all.
    pub fn into_result(self) -> std::result::Result<(), Failures> {
        if self.failures.is_empty() { Ok(()) } else { Err(Failures(self.failures)) }
    }

    fn add(&mut self, check: &'static str, outcome: Outcome) {
        match outcome {
            Ok(()) => self.passed.push(check),
            Err(problem) => self.failures.push(Failure { check, problem }),
        }
    }
}

/// The failures of a run, as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures(pub Vec<Failure>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backend broke {} promise(s)", self.0.len())?;
        self.0.iter().try_for_each(|failure| write!(f, "\n- {}: {}", failure.check, failure.problem))
    }
}

impl std::error::Error for Failures {}

/// Runs every check. `make` makes a new, empty, open backend.
pub fn run(make: &dyn Fn() -> crate::Result<Arc<dyn Backend>>) -> Report {
    let mut report = Report::default();
    for (name, check) in [values::CHECKS, ranges::CHECKS, streams::CHECKS, threads::CHECKS, life::CHECKS].concat() {
        report.add(name, ok("opening", make()).and_then(|backend| check(&*backend)));
    }
    report
}

/// Runs the checks for backends that keep what they are given. `make` makes a new, empty place and gives what opens it,
/// which is called again when the one before is closed.
pub fn run_reopened(make: &dyn Fn() -> Open) -> Report {
    let mut report = Report::default();
    for (name, check) in life::REOPEN_CHECKS {
        report.add(name, check(&make()));
    }
    report
}

/// Passes when `condition` holds.
fn ensure(condition: bool, problem: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(problem()) }
}

/// Passes when both are equal.
fn same<T: PartialEq<U> + fmt::Debug, U: fmt::Debug>(what: &str, got: T, want: U) -> Outcome {
    ensure(got == want, || {
        let shorten = |text: String| text.chars().take(300).collect::<String>();
        format!("{what}: {} instead of {}", shorten(format!("{got:?}")), shorten(format!("{want:?}")))
    })
}

/// The value of a call that has to succeed.
fn ok<T, E: fmt::Display>(what: &str, result: std::result::Result<T, E>) -> std::result::Result<T, String> {
    result.map_err(|error| format!("{what} failed: {error}"))
}

/// Passes when a call failed with the error that `wanted` accepts.
fn refused<T>(what: &str, result: crate::Result<T>, wanted: fn(&crate::Error) -> bool) -> Outcome {
    match result {
        Err(error) if wanted(&error) => Ok(()),
        Err(error) => Err(format!("{what} failed with another error: {error}")),
        Ok(_) => Err(format!("{what} succeeded")),
    }
}
