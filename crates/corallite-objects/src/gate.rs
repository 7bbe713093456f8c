//! Who may change what a storage keeps: many threads at once, or one alone.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Saves enter it, before they lock anything else. Whoever must not be overtaken by one shuts it. A thread within a
/// transaction of the backend is alone in it: others, that wait for the transaction's end, wait here and hold nothing that the
/// transaction may need.
#[derive(Default)]
pub(crate) struct Gate {
    lock: RwLock<()>,
    /// Whether there is somebody in `alone`.
    has_alone: AtomicBool,
    alone: Mutex<Option<Alone>>,
}

struct Alone {
    thread: ThreadId,
    undo: Vec<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// Whether this thread is.
    pub(crate) fn is_alone(&self) -> bool {
        self.has_alone.load(Ordering::Acquire)
            && self.alone.lock().as_ref().is_some_and(|alone| alone.thread == thread::current().id())
    }

    /// Lets others in too, and keeps them from shutting it. `None` for a thread that is alone.
    pub(crate) fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if self.is_alone() { None } else { Some(self.lock.read()) }
    }

    /// Keeps all others out. `None` for a thread that is alone, and so does already.
    pub(crate) fn shut(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        if self.is_alone() { None } else { Some(self.lock.write()) }
    }

    /// Runs `work` alone. When it fails, or panics, what [`Gate::undo_with`] was told is done, the last first.
    pub(crate) fn alone<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.is_alone() {
            return work();
        }
        let _lock = self.lock.write();
        *self.alone.lock() = Some(Alone { thread: thread::current().id(), undo: Vec::new() });
        self.has_alone.store(true, Ordering::Release);
        let mut end = End { gate: self, is_undone: true };
        let value = work()?;
        end.is_undone = false;
        Ok(value)
    }

    /// What is to be done should the [`Gate::alone`] of this thread fail. Nothing is noted outside of one.
    pub(crate) fn undo_with(&self, undo: impl FnOnce() + Send + 'static) {
        if !self.has_alone.load(Ordering::Acquire) {
            return;
        }
        if let Some(alone) = self.alone.lock().as_mut().filter(|alone| alone.thread == thread::current().id()) {
            alone.undo.push(Box::new(undo));
        }
    }
}

/// Ends a time alone, however it is left.
struct End<'a> {
    gate: &'a Gate,
    is_undone: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.gate.has_alone.store(false, Ordering::Release);
        let alone = self.gate.alone.lock().take();
        if let Some(alone) = alone.filter(|_| self.is_undone) {
            alone.undo.into_iter().rev().for_each(|undo| undo());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_is_alone_enters_and_shuts_and_others_do_not() {
        let gate = Gate::default();
        let outcome: Result<(), ()> = gate.alone(|| {
            assert!(gate.enter().is_none() && gate.shut().is_none());
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(gate.lock.try_read().is_none() && !gate.is_alone()));
            });
            Ok(())
        });
        assert!(outcome.is_ok() && gate.enter().is_some());
    }

    #[test]
    fn what_fails_is_undone_from_its_end_and_what_works_is_not() {
        let (gate, order) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let note = |number| {
            let order = Arc::clone(&order);
            gate.undo_with(move || order.lock().push(number));
        };
        note(0);
        let _: Result<(), ()> = gate.alone(|| {
            note(1);
            note(2);
            Err(())
        });
        assert_eq!(*order.lock(), [2, 1]);
        let _: Result<(), ()> = gate.alone(|| {
            note(3);
            Ok(())
        });
        assert_eq!(*order.lock(), [2, 1]);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            gate.alone::<(), ()>(|| {
                note(4);
                panic!("on purpose")
            })
        }));
        assert!(panicked.is_err() && *order.lock() == [2, 1, 4] && gate.shut().is_some());
    }
}
