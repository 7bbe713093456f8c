//! The committer: a thread that commits what futures ask for, everything that waits with one sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, TryAcquireError, oneshot};

use super::Shared;
use super::commit::Request;
use crate::change::Change;
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::wal::Durability;

/// Changes that may wait for the committer; whoever has more waits before.
const ROOM: u32 = 1 << 16;

/// A store's committer. Its thread starts with the first request.
#[derive(Debug)]
pub(super) struct Committer {
    queue: Queue<Job>,
    /// A permit for each change that may be added to the queue.
    room: Semaphore,
    is_started: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Job {
    request: Request,
    /// Dropped without an answer when the thread panics. Nobody listens when the future was dropped.
    outcome: oneshot::Sender<Result<u64>>,
}

impl Default for Committer {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            room: Semaphore::new(ROOM as usize),
            is_started: AtomicBool::new(false),
            thread: Mutex::new(None),
        }
    }
}

impl Committer {
    /// Commits what was asked for until now, refuses what comes, and ends the thread.
    pub(super) fn stop(&self) {
        self.queue.close();
        self.room.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            // Those whose requests a panic lost were told.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Has changes committed by the committer. A future that is dropped before it was polled, or while there is no room,
    /// leaves nothing; dropped later it leaves all.
    pub(super) async fn commit_later(self: &Arc<Self>, changes: Vec<Change>, durability: Durability) -> Result<u64> {
        self.check_writable()?;
        if changes.is_empty() {
            return Ok(0);
        }
        self.start_committer()?;
        let closed = || Error::Closed { path: self.path.clone() };
        let committer = &self.committer;
        let size = u32::try_from(changes.len()).unwrap_or(ROOM).min(ROOM);
        // Given back when the request is taken from the queue. Where there is room nothing is awaited, so that the request is
        // taken when the future is first polled, even if its task has used up its turn.
        let room = match committer.room.try_acquire_many(size) {
            Err(TryAcquireError::NoPermits) => committer.room.acquire_many(size).await.map_err(|_| closed())?,
            room => room.map_err(|_| closed())?,
        };
        room.forget();
        let (outcome, answer) = oneshot::channel();
        let job = Job { request: Request { changes, durability }, outcome };
        committer.queue.push(job).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(self.lost()))
    }

    fn start_committer(self: &Arc<Self>) -> Result<()> {
        if self.committer.is_started.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut thread = self.committer.thread.lock();
        if thread.is_none() && !self.committer.is_started.load(Ordering::Acquire) {
            let shared = Arc::clone(self);
            let started = std::thread::Builder::new().name("links-commit".to_owned()).spawn(move || run(&shared));
            *thread = Some(started.map_err(|error| Error::io("start a thread for", &self.path, error))?);
            self.committer.is_started.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// However the thread ends, nobody waits for it any more.
struct End<'a>(&'a Committer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.room.close();
        // After a panic: with the requests go the senders that futures wait for.
        self.0.queue.take_all(&mut Vec::new(), None);
    }
}

/// When the committer waits for more than it has.
///
/// Tasks that were just answered often write again at once. A sync that does not wait for them serves only those that came
/// during the sync before: with 64 writers, every other sync half of them. Waiting pays when they do come, and costs those
/// that wait already a part of a sync when they do not.
#[derive(Debug, Default)]
struct Hope {
    /// Batches to write without waiting, after hope was disappointed.
    discouraged: u32,
    hoped: Option<usize>,
}

impl Hope {
    const DISCOURAGED: u32 = 16;
    const LONGEST: Duration = Duration::from_millis(1);

    /// How many requests are hoped for, given how many were answered now and how many wait, and until when.
    fn next(&mut self, answered: usize, waiting: usize, last: Duration) -> Option<(usize, Instant)> {
        self.hoped = None;
        if waiting == 0 && answered == 1 {
            return None;
        }
        if self.discouraged > 0 {
            self.discouraged -= 1;
            return None;
        }
        // One in eight may do something else now.
        let count = (answered + waiting).div_ceil(8) * 7;
        self.hoped = Some(count.min(answered + waiting));
        self.hoped.map(|count| (count, Instant::now() + (last / 2).min(Self::LONGEST)))
    }

    fn came(&mut self, count: usize) {
        if self.hoped.is_some_and(|hoped| count < hoped) {
            self.discouraged = Self::DISCOURAGED;
        }
    }
}

fn run(shared: &Shared) {
    let committer = &shared.committer;
    let _end = End(committer);
    let mut jobs = Vec::new();
    let mut waiting = Vec::new();
    let mut requests = Vec::new();
    let mut hope = Hope::default();
    let mut hoped = None;
    while committer.queue.take_all(&mut jobs, hoped) {
        hope.came(jobs.len());
        let mut room = 0;
        for Job { request, outcome } in jobs.drain(..) {
            room += request.changes.len().min(ROOM as usize);
            requests.push(request);
            waiting.push(outcome);
        }
        committer.room.add_permits(room);
        let begun = Instant::now();
        let outcomes = shared.commit_group(&requests);
        hoped = hope.next(requests.len(), committer.queue.len(), begun.elapsed());
        requests.clear();
        for (waiting, outcome) in waiting.drain(..).zip(outcomes) {
            let _ = waiting.send(outcome);
        }
        let _ = shared.after(Ok(0));
    }
}
