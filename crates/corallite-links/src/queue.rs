//! A queue from many threads to one, which takes everything that waits at once.

use crate::sync::{Condvar, Mutex};

/// A queue of `T`.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    is_closed: bool,
    /// Whether the taker waits: nobody pays for waking one that works.
    is_idle: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State { waiting: Vec::new(), is_closed: false, is_idle: false }),
            changed: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Adds an item, or gives it back when the queue is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(item);
        }
        state.waiting.push(item);
        let wakes = std::mem::take(&mut state.is_idle);
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something and moves all of it to `taken`, which is empty; false when the queue is closed and
    /// nothing is left. For one thread only.
    pub(crate) fn take_all(&self, taken: &mut Vec<T>) -> bool {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.is_closed {
                return false;
            }
            state.is_idle = true;
            self.changed.wait(&mut state);
        }
        state.is_idle = false;
        std::mem::swap(taken, &mut state.waiting);
        true
    }

    /// Takes no more items. What is there can still be taken.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        drop(state);
        self.changed.notify_one();
    }
}
