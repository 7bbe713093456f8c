//! Group commit and the committer's queue keep their promises whichever thread runs when: their files are compiled here with
//! shuttle's locks, and run under thousands of random schedules. A schedule in which somebody waits for ever fails.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests, which panic where a test fails")]
#![allow(unreachable_pub, dead_code, reason = "the files are those of the library")]

#[path = "../src/group.rs"]
mod group;
#[path = "../src/queue.rs"]
mod queue;

/// What `src/sync.rs` is for the library, with shuttle's locks behind the interface of parking_lot.
mod sync {
    use std::ops::{Deref, DerefMut};

    pub use shuttle::sync::Arc;

    #[derive(Debug)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    /// Empty only inside of [`Condvar::wait`].
    #[derive(Debug)]
    pub struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>, &'a shuttle::sync::Mutex<T>);

    /// How waiting for a time ended: never known to be in time, so that every number of waiting items is seen.
    #[derive(Debug)]
    pub struct Waited;

    impl Waited {
        pub fn timed_out(&self) -> bool {
            use shuttle::rand::Rng;
            shuttle::rand::thread_rng().r#gen()
        }
    }

    #[derive(Debug)]
    pub struct Condvar(shuttle::sync::Condvar);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        /// A panic leaves no poison, as with parking_lot.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())), &self.0)
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    impl Condvar {
        pub fn new() -> Self {
            Self(shuttle::sync::Condvar::new())
        }

        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.0.take().unwrap();
            guard.0 = Some(self.0.wait(held).unwrap_or_else(|poisoned| poisoned.into_inner()));
        }

        /// Any time may be over as soon as others have run.
        pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: std::time::Instant) -> Waited {
            drop(guard.0.take().unwrap());
            shuttle::thread::yield_now();
            guard.0 = Some(guard.1.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            Waited
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use group::Group;
use queue::Queue;
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

const SCHEDULES: usize = 2000;

/// One thread's number, and which of its requests this is.
type Request = (usize, usize);

/// A log in which every request should be once: batches, in the order in which they were committed.
#[derive(Default)]
struct Log {
    /// Not one of the locks under test: only one thread runs at a time, and none gives way holding it.
    batches: std::sync::Mutex<Vec<Vec<Request>>>,
    leaders: AtomicUsize,
}

impl Log {
    /// Commits requests and answers each with itself. Threads change places before, within, and after.
    fn commit(&self, requests: Vec<Request>) -> Vec<Request> {
        assert_eq!(self.leaders.fetch_add(1, Ordering::SeqCst), 0, "two lead at the same time");
        thread::yield_now();
        self.batches.lock().unwrap().push(requests.clone());
        thread::yield_now();
        self.leaders.fetch_sub(1, Ordering::SeqCst);
        requests
    }

    fn submit(&self, group: &Group<Request, Request>, request: Request) -> Option<Request> {
        let alone = group.lead_alone(|| self.commit(vec![request])[0]);
        alone.or_else(|| group.submit(request, |requests| self.commit(requests)))
    }

    fn written(&self) -> Vec<Request> {
        self.batches.lock().unwrap().concat()
    }
}

/// Runs it under schedules that change threads often, and under ones that change them rarely.
fn under_schedules(check: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_random(check, SCHEDULES);
    shuttle::check_pct(check, SCHEDULES, 3);
}

/// Three threads submit two requests each.
fn group_of_three(tries_alone: bool) {
    let shared = Arc::new((Group::default(), Log::default()));
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (group, log) = &*shared;
                for turn in 0..2 {
                    let request = (number, turn);
                    let outcome = match tries_alone {
                        true => log.submit(group, request),
                        false => group.submit(request, |requests| log.commit(requests)),
                    };
                    assert_eq!(outcome, Some(request), "this is the outcome of another");
                    assert!(log.written().contains(&request), "acknowledged before it was committed");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let written = shared.1.written();
    for number in 0..3 {
        let turns: Vec<usize> = written.iter().filter(|request| request.0 == number).map(|request| request.1).collect();
        assert_eq!(turns, [0, 1], "requests of one thread are lost, doubled, or out of order");
    }
}

#[test]
fn everyone_gets_exactly_its_own_outcome_and_nobody_waits_for_ever() {
    under_schedules(|| group_of_three(false));
}

#[test]
fn a_leader_alone_and_groups_take_turns() {
    under_schedules(|| group_of_three(true));
}

#[test]
fn requests_that_come_meanwhile_are_committed_together() {
    // Some schedule must show it; all of them must leave nobody behind.
    let largest = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&largest);
    shuttle::check_random(
        move || {
            let shared = Arc::new((Group::default(), Log::default()));
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.0.submit((number, 0), |requests| shared.1.commit(requests)))
                })
                .collect();
            threads.into_iter().for_each(|thread| assert!(thread.join().unwrap().is_some()));
            let batches = shared.1.batches.lock().unwrap();
            let longest = batches.iter().map(Vec::len).max().unwrap_or(0);
            seen.fetch_max(longest, std::sync::atomic::Ordering::Relaxed);
        },
        SCHEDULES,
    );
    assert_eq!(largest.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[test]
fn a_leader_that_panics_strands_nobody() {
    std::panic::set_hook(Box::new(|info| {
        // The panics that are wanted would fill the screen.
        if info.payload().downcast_ref::<&str>() != Some(&WANTED) {
            eprintln!("{info}");
        }
    }));
    const WANTED: &str = "as wanted";
    shuttle::check_random(
        || {
            let shared = Arc::new((Group::default(), Log::default()));
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        let (group, log) = &*shared;
                        let commit = |requests: Vec<Request>| {
                            thread::yield_now();
                            // The batch with the first thread's request is the one that goes wrong.
                            if requests.contains(&(0, 0)) {
                                std::panic::panic_any(WANTED);
                            }
                            log.commit(requests)
                        };
                        catch_unwind(AssertUnwindSafe(|| group.submit((number, 0), commit)))
                    })
                })
                .collect();
            let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let (group, log) = &*shared;
            let written = log.written();
            for (number, outcome) in outcomes.iter().enumerate() {
                match outcome {
                    Ok(Some(request)) => assert_eq!(*request, (number, 0)),
                    Ok(None) | Err(_) => assert!(!written.contains(&(number, 0)), "committed, and said to be lost"),
                }
            }
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1, "one leader panicked");
            // The next one is served.
            assert_eq!(group.submit((9, 9), |requests| log.commit(requests)), Some((9, 9)));
        },
        SCHEDULES,
    );
}

#[test]
fn a_commit_that_answers_too_few_strands_nobody() {
    shuttle::check_random(
        || {
            let group = Arc::new(Group::default());
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let group = Arc::clone(&group);
                    thread::spawn(move || {
                        group.submit(number, |requests: Vec<usize>| {
                            thread::yield_now();
                            requests.into_iter().take(1).collect()
                        })
                    })
                })
                .collect();
            for (number, thread) in threads.into_iter().enumerate() {
                let outcome = thread.join().unwrap();
                assert!(outcome.is_none_or(|outcome| outcome == number));
            }
        },
        SCHEDULES,
    );
}

/// Sometimes more is hoped for than there will be.
fn hope(taken: usize) -> Option<(usize, std::time::Instant)> {
    taken.is_multiple_of(2).then(|| (3, std::time::Instant::now()))
}

#[test]
fn the_queue_hands_over_everything_once_and_in_order_until_it_is_closed() {
    shuttle::check_random(
        || {
            let queue = Arc::new(Queue::default());
            let pushers: Vec<_> = (0..2)
                .map(|number| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || (0..3).filter(|turn| queue.push((number, *turn)).is_ok()).count())
                })
                .collect();
            let taker = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let (mut all, mut taken) = (Vec::new(), Vec::new());
                    while queue.take_all(&mut taken, hope(all.len())) {
                        assert!(!taken.is_empty());
                        all.append(&mut taken);
                    }
                    all
                })
            };
            let closer = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.close())
            };
            let pushed: Vec<usize> = pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect();
            closer.join().unwrap();
            let all = taker.join().unwrap();
            for (number, count) in pushed.into_iter().enumerate() {
                let turns: Vec<usize> = all.iter().filter(|item| item.0 == number).map(|item| item.1).collect();
                assert_eq!(turns, (0..count).collect::<Vec<_>>(), "taken is not what was accepted");
            }
        },
        SCHEDULES,
    );
}

#[test]
fn the_queue_wakes_its_taker_for_everything() {
    // Never closed before everything was taken, so a lost wake-up is a deadlock.
    shuttle::check_random(
        || {
            let queue = Arc::new(Queue::default());
            let pushers: Vec<_> = (0..2)
                .map(|number| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || (0..2).for_each(|turn| queue.push((number, turn)).unwrap()))
                })
                .collect();
            let (mut all, mut taken) = (0, Vec::new());
            while all < 4 && queue.take_all(&mut taken, hope(all)) {
                all += taken.len();
                taken.clear();
            }
            assert_eq!(all, 4);
            pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
        },
        SCHEDULES,
    );
}
