//! Durable writes of several threads as one commit: who has the turn takes along what waits for it.

use std::sync::Arc;

use corallite_objects::Error;
use corallite_objects::backend::{Change, Expect};
use parking_lot::Mutex;

use super::backend::Result;

/// One thread's changes, waiting for a commit, and then what became of them.
#[derive(Debug, Default)]
pub(super) struct Request {
    changes: Vec<OwnedChange>,
    outcome: Mutex<Option<Result<()>>>,
}

#[derive(Debug)]
struct OwnedChange {
    key: String,
    value: Option<Vec<u8>>,
    expect: OwnedExpect,
}

#[derive(Debug)]
enum OwnedExpect {
    Anything,
    Absent,
    Present,
    Value(Vec<u8>),
}

impl Request {
    fn new(changes: &[Change<'_>]) -> Self {
        let changes = changes.iter().map(|change| OwnedChange {
            key: change.key.to_owned(),
            value: change.value.map(<[u8]>::to_vec),
            expect: match change.expect {
                Expect::Anything => OwnedExpect::Anything,
                Expect::Absent => OwnedExpect::Absent,
                Expect::Present => OwnedExpect::Present,
                Expect::Value(value) => OwnedExpect::Value(value.to_vec()),
            },
        });
        Self { changes: changes.collect(), outcome: Mutex::new(None) }
    }

    pub(super) fn changes(&self) -> Vec<Change<'_>> {
        let changes = self.changes.iter().map(|change| Change {
            key: &change.key,
            value: change.value.as_deref(),
            expect: match &change.expect {
                OwnedExpect::Anything => Expect::Anything,
                OwnedExpect::Absent => Expect::Absent,
                OwnedExpect::Present => Expect::Present,
                OwnedExpect::Value(value) => Expect::Value(value),
            },
        });
        changes.collect()
    }

    pub(super) fn settle(&self, outcome: Result<()>) {
        *self.outcome.lock() = Some(outcome);
    }

    /// What became of it, once somebody has dealt with it.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        self.outcome.lock().take()
    }
}

/// Requests that wait.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<Vec<Arc<Request>>>);

impl Queue {
    /// Adds a request.
    pub(super) fn push(&self, changes: &[Change<'_>]) -> Arc<Request> {
        let request = Arc::new(Request::new(changes));
        self.0.lock().push(Arc::clone(&request));
        request
    }

    /// Takes all requests out.
    pub(super) fn take(&self) -> Vec<Arc<Request>> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Takes one request out that nobody has dealt with.
    pub(super) fn withdraw(&self, request: &Arc<Request>) {
        self.0.lock().retain(|waiting| !Arc::ptr_eq(waiting, request));
    }
}

/// The error of a commit, for those who were in it besides the one that made it.
pub(super) fn shared_error(place: String, error: &Error) -> Error {
    match error {
        Error::Closed { location } => Error::Closed { location: location.clone() },
        error => Error::backend("write to", place, error.to_string()),
    }
}
