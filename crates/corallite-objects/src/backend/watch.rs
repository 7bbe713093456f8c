//! Telling others of changes.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Change, Expect};

/// A key that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// What happened to it.
    pub kind: EventKind,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It got its first value, as far as the writer knew.
    Added,
    /// It got a value, maybe another one.
    Updated,
    /// It was removed.
    Removed,
    /// Its stream was replaced or removed.
    Stream,
    /// Everything was removed; the key is empty.
    Cleared,
}

/// Who is told of changes of a backend. Each is told of those made through the same instance, in the order in which they
/// were made for each key; other processes are not heard of.
#[derive(Debug, Default)]
pub struct Watchers {
    subscribers: Mutex<Vec<(Concern, Sender<Event>)>>,
}

/// What a subscriber wants to hear of.
#[derive(Debug)]
enum Concern {
    Prefix(String),
    Key(String),
}

impl Concern {
    fn is_with(&self, changed: &str) -> bool {
        match self {
            Self::Prefix(prefix) => changed.starts_with(prefix.as_str()),
            Self::Key(key) => changed == key,
        }
    }
}

impl Watchers {
    /// Tells of changes to keys that begin with a prefix, from now on.
    pub fn subscribe(&self, prefix: &str) -> Subscription {
        self.add(Concern::Prefix(prefix.to_owned()))
    }

    /// Tells of changes to one key, from now on.
    pub fn subscribe_key(&self, key: &str) -> Subscription {
        self.add(Concern::Key(key.to_owned()))
    }

    fn add(&self, concern: Concern) -> Subscription {
        let (sender, receiver) = channel();
        self.subscribers.lock().push((concern, sender));
        Subscription { receiver }
    }

    /// Tells of changes that were made. For implementations.
    pub fn changed(&self, changes: &[Change<'_>]) {
        self.tell(changes.iter().map(|change| {
            let kind = match (change.value, change.expect) {
                (None, _) => EventKind::Removed,
                (Some(_), Expect::Absent) => EventKind::Added,
                _ => EventKind::Updated,
            };
            (change.key, kind)
        }));
    }

    /// Tells of one event. For implementations.
    pub fn happened(&self, key: &str, kind: EventKind) {
        self.tell(std::iter::once((key, kind)));
    }

    fn tell<'a>(&self, events: impl Iterator<Item = (&'a str, EventKind)>) {
        let mut subscribers = self.subscribers.lock();
        if subscribers.is_empty() {
            return;
        }
        for (key, kind) in events {
            // Those whose subscription was dropped are forgotten.
            subscribers.retain(|(concern, sender)| {
                let concerns = kind == EventKind::Cleared || concern.is_with(key);
                !concerns || sender.send(Event { key: key.to_owned(), kind }).is_ok()
            });
        }
    }
}

/// Changes, as they happen. They wait here until they are taken; dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Event>,
}

impl Subscription {
    /// The next event, if there is one.
    pub fn try_next(&self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }

    /// The next event, waited for; `None` when the time is over or the backend is gone.
    pub fn next_within(&self, time: Duration) -> Option<Event> {
        self.receiver.recv_timeout(time).ok()
    }
}
