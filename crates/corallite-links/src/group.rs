//! Group commit: requests that arrive while one is being committed are committed together, next.
//!
//! There is no thread of its own. Whoever comes when nobody leads leads: it commits what waits, its own request among it,
//! hands the lead to the first of those that came meanwhile, and only then hands out the outcomes: the next batch is on its
//! way to the disk while threads wake up. Each waits on a seat of its own, so that nobody is woken for nothing.

use crate::sync::{Arc, Condvar, Mutex};

/// Requests `R` that wait for their outcomes `O`.
#[derive(Debug)]
pub(crate) struct Group<R, O> {
    state: Mutex<State<R, O>>,
}

#[derive(Debug)]
struct State<R, O> {
    waiting: Vec<Waiting<R, O>>,
    /// Whether somebody leads, or was told to. While nobody does, nobody waits.
    is_led: bool,
}

#[derive(Debug)]
struct Waiting<R, O> {
    request: R,
    seat: Arc<Seat<O>>,
}

/// Where one thread waits.
#[derive(Debug)]
struct Seat<O> {
    news: Mutex<News<O>>,
    changed: Condvar,
}

#[derive(Debug)]
enum News<O> {
    None,
    /// The thread leads now; its request is the first that waits.
    Lead,
    /// `None`: the leader panicked.
    Outcome(Option<O>),
}

impl<O> Seat<O> {
    fn new() -> Arc<Self> {
        Arc::new(Self { news: Mutex::new(News::None), changed: Condvar::new() })
    }

    fn tell(&self, news: News<O>) {
        *self.news.lock() = news;
        self.changed.notify_one();
    }

    fn wait(&self) -> News<O> {
        let mut news = self.news.lock();
        loop {
            match std::mem::replace(&mut *news, News::None) {
                News::None => self.changed.wait(&mut news),
                told => return told,
            }
        }
    }
}

impl<R, O> Default for Group<R, O> {
    fn default() -> Self {
        Self { state: Mutex::new(State { waiting: Vec::new(), is_led: false }) }
    }
}

/// Hands the lead on however the leader ends, and answers those whose outcomes are not known, so that a panic leaves nobody
/// waiting for ever.
struct Lead<'a, R, O> {
    group: &'a Group<R, O>,
    /// Those whose requests are being committed.
    seats: Vec<Arc<Seat<O>>>,
}

impl<R, O> Lead<'_, R, O> {
    /// Ends the lead, then hands out the outcomes.
    fn end(mut self, outcomes: impl Iterator<Item = O>) {
        let seats = std::mem::take(&mut self.seats);
        drop(self);
        let mut outcomes = outcomes.fuse();
        for seat in seats {
            seat.tell(News::Outcome(outcomes.next()));
        }
    }
}

impl<R, O> Drop for Lead<'_, R, O> {
    fn drop(&mut self) {
        let next = {
            let mut state = self.group.state.lock();
            let next = state.waiting.first().map(|waiting| Arc::clone(&waiting.seat));
            state.is_led = next.is_some();
            next
        };
        if let Some(next) = next {
            next.tell(News::Lead);
        }
        for seat in &self.seats {
            seat.tell(News::Outcome(None));
        }
    }
}

impl<R, O> Group<R, O> {
    /// Has a request committed, alone or with others. `commit` gives one outcome for each request, in order. `None` when the
    /// thread that committed it panicked.
    pub(crate) fn submit(&self, request: R, commit: impl FnOnce(Vec<R>) -> Vec<O>) -> Option<O> {
        let seat = Seat::new();
        let leads = {
            let mut state = self.state.lock();
            state.waiting.push(Waiting { request, seat: Arc::clone(&seat) });
            !std::mem::replace(&mut state.is_led, true)
        };
        if !leads && let News::Outcome(outcome) = seat.wait() {
            return outcome;
        }
        let batch = std::mem::take(&mut self.state.lock().waiting);
        let mut requests = Vec::with_capacity(batch.len());
        let mut seats = Vec::with_capacity(batch.len());
        for waiting in batch {
            requests.push(waiting.request);
            seats.push(waiting.seat);
        }
        // The first request is the leader's own.
        seats.remove(0);
        let lead = Lead { group: self, seats };
        let mut outcomes = commit(requests).into_iter();
        let own = outcomes.next();
        lead.end(outcomes);
        own
    }

    /// Runs `commit` as the leader if nobody leads, so that a request need not be handed over.
    pub(crate) fn lead_alone<T>(&self, commit: impl FnOnce() -> T) -> Option<T> {
        if std::mem::replace(&mut self.state.lock().is_led, true) {
            return None;
        }
        let _lead = Lead { group: self, seats: Vec::new() };
        Some(commit())
    }
}
