//! A queue from many threads to one, which takes everything that waits at once.

use std::time::Instant;

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
    /// With how many items the taker is to be woken; 0 while it works, so that nobody pays for waking it.
    wake_at: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { waiting: Vec::new(), is_closed: false, wake_at: 0 }), changed: Condvar::new() }
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
        let wakes = state.wake_at != 0 && state.waiting.len() >= state.wake_at;
        if wakes {
            state.wake_at = 0;
        }
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// How many items wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Waits until there is something and moves all of it to `taken`, which is empty; false when the queue is closed and
    /// nothing is left. Until a time, waits for as many items as are hoped for. For one thread only.
    pub(crate) fn take_all(&self, taken: &mut Vec<T>, hope: Option<(usize, Instant)>) -> bool {
        let mut state = self.state.lock();
        if let Some((count, until)) = hope {
            while !state.is_closed && state.waiting.len() < count {
                state.wake_at = count;
                if self.changed.wait_until(&mut state, until).timed_out() {
                    break;
                }
            }
        }
        while !state.is_closed && state.waiting.is_empty() {
            state.wake_at = 1;
            self.changed.wait(&mut state);
        }
        state.wake_at = 0;
        std::mem::swap(taken, &mut state.waiting);
        !taken.is_empty()
    }

    /// Takes no more items. What is there can still be taken.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        drop(state);
        self.changed.notify_one();
    }
}
