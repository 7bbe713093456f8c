//! A backend that breaks a promise is caught.

use std::path::PathBuf;

use bytes::Bytes;

use super::*;
use crate::Result;
use crate::backend::{
    Change, Durability, Entries, Expect, Keys, MemoryBackend, Range, ReadStream, Watchers, WriteStream,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    ForgetsExpectations,
    ForgetsTheLastOfABatch,
    IgnoresCase,
    LeaksPrefixes,
    ForgetsDirection,
    LosesEmptyValues,
    KeepsOldStreams,
    TellsNobody,
    StaysOpen,
}

/// The memory backend, with a fault.
#[derive(Debug)]
struct Faulty(MemoryBackend, Fault);

impl Faulty {
    fn key(&self, key: &str) -> String {
        if self.1 == Fault::IgnoresCase { key.to_lowercase() } else { key.to_owned() }
    }

    fn range(&self, range: &Range) -> Range {
        let mut range = range.clone();
        match self.1 {
            Fault::LeaksPrefixes => range.from = range.from.trim_end_matches('.').to_owned(),
            Fault::ForgetsDirection => range.is_reversed = false,
            _ => {}
        }
        range
    }
}

impl Backend for Faulty {
    fn location(&self) -> String {
        self.0.location()
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let value = self.0.get(&self.key(key))?;
        Ok(value.filter(|value| self.1 != Fault::LosesEmptyValues || !value.is_empty()))
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        self.0.keys_in(&self.range(range))
    }

    fn entries_in(&self, range: &Range) -> Result<Entries<'_>> {
        self.0.entries_in(&self.range(range))
    }

    fn write(&self, changes: &[Change<'_>], durability: Durability) -> Result<()> {
        let keys: Vec<String> = changes.iter().map(|change| self.key(change.key)).collect();
        let changes = changes.iter().zip(&keys).map(|(change, key)| Change { key, ..*change });
        let mut changes: Vec<Change<'_>> = changes.collect();
        match self.1 {
            Fault::ForgetsExpectations => changes.iter_mut().for_each(|change| change.expect = Expect::Anything),
            Fault::ForgetsTheLastOfABatch if changes.len() > 1 => drop(changes.pop()),
            _ => {}
        }
        self.0.write(&changes, durability)
    }

    fn is_atomic(&self) -> bool {
        true
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        self.0.read_stream(key)
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        self.0.write_stream(key)
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        match self.1 {
            Fault::KeepsOldStreams => Ok(self.0.read_stream(key)?.is_some()),
            _ => self.0.remove_stream(key),
        }
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        self.0.streams(prefix)
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.0.path(key)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn clear(&self) -> Result<()> {
        self.0.clear()
    }

    fn close(&self) -> Result<()> {
        if self.1 == Fault::StaysOpen { Ok(()) } else { self.0.close() }
    }

    fn watchers(&self) -> &Watchers {
        static NOBODY: std::sync::LazyLock<Watchers> = std::sync::LazyLock::new(Watchers::default);
        if self.1 == Fault::TellsNobody { &NOBODY } else { self.0.watchers() }
    }
}

#[test]
fn a_backend_that_breaks_a_promise_is_caught() {
    let run = |fault| run(&|| Ok(Arc::new(Faulty(MemoryBackend::new(), fault))));
    run(Fault::None).into_result().unwrap();
    for fault in [
        Fault::ForgetsExpectations,
        Fault::ForgetsTheLastOfABatch,
        Fault::IgnoresCase,
        Fault::LeaksPrefixes,
        Fault::ForgetsDirection,
        Fault::LosesEmptyValues,
        Fault::KeepsOldStreams,
        Fault::TellsNobody,
        Fault::StaysOpen,
    ] {
        let report = run(fault);
        assert!(!report.failures.is_empty(), "{fault:?} is not noticed");
        assert!(!report.passed.is_empty(), "{fault:?} fails everything");
    }
}

#[test]
fn a_backend_that_forgets_fails_the_checks_of_those_that_keep() {
    let report = run_reopened(&|| Box::new(|| Ok(Arc::new(MemoryBackend::new()))));
    assert_eq!((report.passed.len(), report.failures.len()), (0, 4), "{report:?}");
}
