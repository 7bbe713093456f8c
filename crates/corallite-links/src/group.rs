//! Group commit: requests that arrive while one is being committed are committed together, next.
//!
//! There is no thread of its own. Whoever comes when nobody leads leads: it commits what waits, its own request among it,
//! and hands out the outcomes; one of those that came meanwhile leads next.

use std::collections::HashMap;

use parking_lot::{Condvar, Mutex};

/// Requests `R` that wait, and outcomes `O` that were not fetched yet.
#[derive(Debug)]
pub(crate) struct Group<R, O> {
    state: Mutex<State<R, O>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<R, O> {
    waiting: Vec<(u64, R)>,
    is_led: bool,
    next: u64,
    done: HashMap<u64, O>,
}

impl<R, O> Default for Group<R, O> {
    fn default() -> Self {
        let state = State { waiting: Vec::new(), is_led: false, next: 0, done: HashMap::new() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

/// Gives up the lead however the leader ends, so that a panic leaves nobody waiting for ever.
struct Lead<'a, R, O>(&'a Group<R, O>);

impl<R, O> Drop for Lead<'_, R, O> {
    fn drop(&mut self) {
        self.0.state.lock().is_led = false;
        self.0.changed.notify_all();
    }
}

impl<R, O> Group<R, O> {
    /// Has a request committed, alone or with others. `commit` gives one outcome for each request, in order.
    pub(crate) fn submit(&self, request: R, commit: impl Fn(Vec<R>) -> Vec<O>) -> O {
        let mut state = self.state.lock();
        let ticket = state.next;
        state.next += 1;
        state.waiting.push((ticket, request));
        loop {
            if let Some(outcome) = state.done.remove(&ticket) {
                return outcome;
            }
            if state.is_led {
                self.changed.wait(&mut state);
                continue;
            }
            state.is_led = true;
            let (tickets, requests): (Vec<u64>, Vec<R>) = std::mem::take(&mut state.waiting).into_iter().unzip();
            drop(state);
            let lead = Lead(self);
            let outcomes = commit(requests);
            self.state.lock().done.extend(tickets.into_iter().zip(outcomes));
            drop(lead);
            state = self.state.lock();
        }
    }

    /// Runs `commit` as the leader if nobody leads and nobody waits, so that a request need not be handed over.
    pub(crate) fn lead_alone<T>(&self, commit: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = self.state.lock();
            if state.is_led || !state.waiting.is_empty() {
                return None;
            }
            state.is_led = true;
        }
        let _lead = Lead(self);
        Some(commit())
    }
}
