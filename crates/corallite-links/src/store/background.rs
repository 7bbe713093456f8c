//! The store's threads: one writes checkpoints, one writes large batches to the log while they are applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::Shared;
use crate::checkpoint::Fold;
use crate::error::{Error, Result};
use crate::wal::{Prepared, Wal};

/// The checkpoint thread.
#[derive(Debug)]
pub(super) struct Background {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Background {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (shared_there, stop_there) = (Arc::clone(shared), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("links-checkpoint".to_owned())
            .spawn(move || run(&shared_there, &stop_there))
            .map_err(|error| Error::io("start a thread for", &shared.path, error))?;
        Ok(Self { thread, stop })
    }

    pub(super) fn stop(self, shared: &Shared) {
        self.stop.store(true, Ordering::Release);
        shared.want_checkpoint();
        // A panic of the thread has nothing to say that the next call does not find out.
        let _ = self.thread.join();
    }
}

fn run(shared: &Shared, stop: &AtomicBool) {
    loop {
        {
            let mut wanted = shared.wanted.lock();
            while !*wanted {
                shared.wake.wait(&mut wanted);
            }
            *wanted = false;
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        if let Some(log) = shared.log() {
            // Room that was never used is zeroed while there is time; appends do not depend on it.
            while !stop.load(Ordering::Acquire) && log.zero_ahead().unwrap_or(false) {}
            if log.used() * 2 >= log.capacity() {
                // Whoever needs the room finds out why there is none.
                let _ = shared.checkpoint(Fold::Grown);
            }
        }
    }
}

/// Writes batches to the log on a thread of its own.
#[derive(Debug, Default)]
pub(super) struct LogThread(Mutex<Option<Channels>>);

#[derive(Debug)]
struct Channels {
    jobs: SyncSender<(Arc<Wal>, Prepared)>,
    outcomes: Receiver<Result<()>>,
}

impl LogThread {
    /// Writes and syncs a batch while `meanwhile` runs.
    pub(super) fn write<T>(
        &self,
        log: &Arc<Wal>,
        prepared: Prepared,
        meanwhile: impl FnOnce() -> T,
    ) -> (Result<()>, T) {
        let mut channels = self.0.lock();
        if channels.is_none() {
            *channels = start().ok();
        }
        let refused = match &*channels {
            Some(open) => match open.jobs.send((Arc::clone(log), prepared)) {
                Ok(()) => {
                    let result = meanwhile();
                    let lost = || Error::Poisoned { path: log.path().to_owned(), cause: "its thread ended".to_owned() };
                    return (open.outcomes.recv().unwrap_or_else(|_| Err(lost())), result);
                }
                Err(error) => error.0.1,
            },
            // No thread to be had: one after the other does as well.
            None => prepared,
        };
        let written = log.write(&refused).and_then(|()| log.sync());
        (written, meanwhile())
    }
}

fn start() -> std::io::Result<Channels> {
    let (jobs, todo) = sync_channel::<(Arc<Wal>, Prepared)>(1);
    let (done, outcomes) = sync_channel(1);
    std::thread::Builder::new().name("links-log".to_owned()).spawn(move || {
        for (log, prepared) in todo {
            let outcome = log.write(&prepared).and_then(|()| log.sync());
            // Handles go first: whoever gets the outcome may close the store.
            drop((log, prepared));
            if done.send(outcome).is_err() {
                break;
            }
        }
    })?;
    Ok(Channels { jobs, outcomes })
}
