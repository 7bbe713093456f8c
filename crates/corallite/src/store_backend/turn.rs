//! Whose turn it is to change the objects.

use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

/// One batch at a time. Unlike a mutex it knows which thread has it, and a thread may pass it on.
#[derive(Debug, Default)]
pub(super) struct Turn {
    holder: Mutex<Option<ThreadId>>,
    freed: Condvar,
}

impl Turn {
    /// Takes the turn if nobody has it.
    pub(super) fn try_take(&self) -> Option<Held<'_>> {
        let mut holder = self.holder.lock();
        if holder.is_some() {
            return None;
        }
        *holder = Some(thread::current().id());
        Some(Held { turn: self })
    }

    /// Waits for the turn; `None` when this thread has it, for it would wait for itself.
    pub(super) fn take(&self) -> Option<Held<'_>> {
        match self.take_unless(|| None::<()>) {
            Some(Ok(held)) => Some(held),
            Some(Err(())) | None => None,
        }
    }

    /// The same, until `done` gives something, which is asked whenever somebody has given the turn up.
    pub(super) fn take_unless<T>(&self, mut done: impl FnMut() -> Option<T>) -> Option<Result<Held<'_>, T>> {
        let me = thread::current().id();
        let mut holder = self.holder.lock();
        loop {
            if let Some(value) = done() {
                return Some(Err(value));
            }
            match *holder {
                None => break,
                Some(other) if other == me => return None,
                Some(_) => self.freed.wait(&mut holder),
            }
        }
        *holder = Some(me);
        Some(Ok(Held { turn: self }))
    }
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    turn: &'a Turn,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.turn.holder.lock() = None;
        self.turn.freed.notify_all();
    }
}
