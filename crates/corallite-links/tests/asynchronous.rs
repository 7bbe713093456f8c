//! The async API: what it promises about durability, dropped futures, room, closing, and workers that must not wait.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{Outcome, key};
use corallite_file::Mode;
use corallite_links::{AsyncCIDStore, CIDStore, Change, Durability, E, Error, LinksOptions};

fn runtime(workers: usize) -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?)
}

/// Polls a future once.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Whether a store that is opened from the files as they are now has a pair: what a killed process would leave.
fn survives(store: &CIDStore, key: E, value: E) -> Outcome<bool> {
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("copy.h5");
    for suffix in ["", "-wal", "-journal"] {
        let from = format!("{}{suffix}", store.path().display());
        if std::fs::exists(&from)? {
            std::fs::copy(from, format!("{}{suffix}", copy.display()))?;
        }
    }
    Ok(CIDStore::open_read_only(&copy)?.contains(key, value)?)
}

#[test]
fn a_write_is_in_the_synced_log_when_its_future_is_ready() -> Outcome {
    let directory = tempfile::tempdir()?;
    runtime(2)?.block_on(async {
        let store = AsyncCIDStore::open(directory.path().join("a.h5")).await?;
        for number in 0..20 {
            store.insert(key(number), E::new(7)).await?;
            let log = store.wal().ok_or("there is no log")?;
            assert_eq!(log.durable(), log.position().lsn, "acknowledged before it was synced");
            assert!(survives(store.store(), key(number), E::new(7))?);
        }
        Ok(store.close().await?)
    })
}

#[test]
fn writers_at_the_same_time_share_syncs_and_each_gets_its_own_outcome() -> Outcome {
    let directory = tempfile::tempdir()?;
    runtime(2)?.block_on(async {
        let store = AsyncCIDStore::open(directory.path().join("a.h5")).await?;
        store.insert(key(u64::MAX), E::new(0)).await?;
        let before = store.get_metrics().await?.wal_syncs;
        let tasks: Vec<_> = (0..64)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0..50 {
                        let own = key(writer * 1000 + number);
                        store.insert(own, E::new(1)).await?;
                        // Present, and absent: no outcome is another's.
                        assert!(store.delete((own, E::new(1))).await?);
                        assert!(!store.delete((own, E::new(1))).await?);
                        store.batch_insert(&[(own, E::new(2)), (own, E::new(3))]).await?;
                        assert_eq!(store.apply(&[Change::delete(own)], Durability::Durable).await?, 2);
                        store.insert(own, E::new(4)).await?;
                        assert_eq!(store.get(own).await?, [E::new(4)]);
                    }
                    Ok::<_, Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        let syncs = store.get_metrics().await?.wal_syncs - before;
        assert!(syncs < 64 * 50 * 6 / 4, "{syncs} syncs for {} writes", 64 * 50 * 6);
        assert_eq!(store.count().await?, 64 * 50 + 1);
        Ok(store.close().await?)
    })
}

#[test]
fn no_worker_waits_for_a_write() -> Outcome {
    let store = Arc::new(CIDStore::memory()?);
    let asynchronous = AsyncCIDStore::from(Arc::clone(&store));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        // Nothing can be written while a transaction is open; a worker that waited for it would never come to commit it.
        let mut transaction = store.begin()?;
        transaction.insert(key(1), E::new(1))?;
        let mut writes = Vec::new();
        for number in 0..100 {
            let store = asynchronous.clone();
            writes.push(tokio::spawn(async move { store.insert(key(1), E::new(number)).await }));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(writes.iter().all(|write| !write.is_finished()));
        let background = tokio::spawn({
            let store = asynchronous.clone();
            async move { store.gc().await }
        });
        transaction.commit()?;
        for write in writes {
            write.await??;
        }
        background.await??;
        assert_eq!(asynchronous.get(key(1)).await?.len(), 100);
        Ok(asynchronous.close().await?)
    })
}

#[test]
fn a_dropped_future_leaves_all_of_its_batch_or_nothing() -> Outcome {
    let store = Arc::new(CIDStore::memory()?);
    let asynchronous = AsyncCIDStore::from(Arc::clone(&store));
    let batch = |number: u64| -> Vec<(E, E)> { (0..10).map(|value| (key(number), E::new(value))).collect() };
    {
        // Never polled: nothing.
        let pairs = batch(1);
        drop(asynchronous.batch_insert(&pairs));
    }
    let blocker = store.begin()?;
    for number in 2..50 {
        // Polled once, so that it was taken, then dropped: all of it, though nobody waits.
        let pairs = batch(number);
        let mut write = pin!(asynchronous.batch_insert(&pairs));
        assert!(poll(write.as_mut()).is_pending());
    }
    blocker.abort();
    runtime(1)?.block_on(asynchronous.insert(key(50), E::new(0)))?;
    assert_eq!(store.get(key(1))?.len(), 0);
    for number in 2..50 {
        assert_eq!(store.get(key(number))?.len(), 10, "batch {number}");
    }
    Ok(())
}

#[test]
fn writes_are_done_in_the_order_in_which_they_were_first_polled() -> Outcome {
    let store = Arc::new(CIDStore::memory()?);
    let asynchronous = AsyncCIDStore::from(Arc::clone(&store));
    runtime(1)?.block_on(async {
        let writes = (0..200).map(|number| asynchronous.insert(key(1), E::new(number)));
        let mut writes: Vec<_> = writes.map(Box::pin).collect();
        for write in &mut writes {
            let _ = poll(write.as_mut());
        }
        drop(writes);
        asynchronous.insert(key(2), E::new(0)).await?;
        let expected: Vec<E> = (0..200).map(E::new).collect();
        assert_eq!(asynchronous.get(key(1)).await?.as_slice(), expected);
        Ok(())
    })
}

#[test]
fn what_waits_is_bounded_and_nobody_is_forgotten() -> Outcome {
    let directory = tempfile::tempdir()?;
    let options = LinksOptions::new().log_bytes(32 << 20);
    let store = Arc::new(CIDStore::open_with(directory.path().join("a.h5"), Mode::Append, options)?);
    let asynchronous = AsyncCIDStore::from(Arc::clone(&store));
    let pairs: Vec<(E, E)> = (0..40_000).map(|number| (key(number), E::new(1))).collect();
    runtime(1)?.block_on(async {
        let blocker = store.begin()?;
        // The first is with the committer, which waits for the transaction; the second fills the queue.
        let mut writes: Vec<_> = (0..4).map(|_| Box::pin(asynchronous.batch_insert(&pairs))).collect();
        assert!(poll(writes[0].as_mut()).is_pending());
        tokio::time::sleep(Duration::from_millis(50)).await;
        for write in &mut writes[1..] {
            assert!(poll(write.as_mut()).is_pending());
        }
        // There is no room for a third: dropped, it leaves nothing, and the one behind it gets its turn.
        let late = key(1 << 40);
        let none: Vec<(E, E)> = (0..40_000).map(|number| (late, E::new(number))).collect();
        let mut refused = Box::pin(asynchronous.batch_insert(&none));
        assert!(poll(refused.as_mut()).is_pending());
        drop(refused);
        blocker.abort();
        for write in writes {
            write.await?;
        }
        assert!(!asynchronous.contains_key(late).await?, "more was taken than there is room for");
        assert_eq!(asynchronous.count().await?, 40_000);
        Ok(asynchronous.close().await?)
    })
}

#[test]
fn a_batch_that_is_too_large_fails_alone() -> Outcome {
    let directory = tempfile::tempdir()?;
    let options = LinksOptions::new().log_bytes(64 << 10);
    let store = Arc::new(CIDStore::open_with(directory.path().join("a.h5"), Mode::Append, options)?);
    let asynchronous = AsyncCIDStore::from(Arc::clone(&store));
    runtime(1)?.block_on(async {
        let large: Vec<(E, E)> = (0..5000).map(|number| (key(number), E::new(1))).collect();
        let blocker = store.begin()?;
        let mut small: Vec<_> =
            (0..3000).map(|number| Box::pin(asynchronous.insert(key(1 << 20 | number), E::new(2)))).collect();
        let (before, after) = small.split_at_mut(1500);
        before.iter_mut().for_each(|write| assert!(poll(write.as_mut()).is_pending()));
        let mut refused = Box::pin(asynchronous.batch_insert(&large));
        assert!(poll(refused.as_mut()).is_pending());
        after.iter_mut().for_each(|write| assert!(poll(write.as_mut()).is_pending()));
        blocker.abort();
        assert!(matches!(refused.await, Err(Error::TooLarge { .. })));
        for write in small {
            write.await?;
        }
        assert_eq!(asynchronous.count().await?, 3000);
        let syncs = store.get_metrics().wal_syncs;
        assert!(syncs < 100, "{syncs} syncs: the small ones were not committed together");
        Ok(asynchronous.close().await?)
    })
}

#[test]
fn closing_commits_what_was_taken_and_refuses_what_comes() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let store = Arc::new(CIDStore::open(&path)?);
    let asynchronous = AsyncCIDStore::from(Arc::clone(&store));
    let acknowledged = runtime(2)?.block_on(async {
        let mut tasks = Vec::new();
        for writer in 0..32 {
            let store = asynchronous.clone();
            tasks.push(tokio::spawn(async move {
                let mut done = 0;
                loop {
                    match store.insert(key(writer), E::new(done)).await {
                        Ok(()) => done += 1,
                        Err(Error::Closed { .. }) => return Ok(done),
                        Err(error) => return Err(error),
                    }
                }
            }));
        }
        // Threads write too, past the committer.
        let thread = std::thread::spawn(move || {
            let mut done = 0;
            while store.insert(key(99), E::new(done)).is_ok() {
                done += 1;
            }
            done
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (one, other) = tokio::join!(asynchronous.clone().close(), asynchronous.close());
        one?;
        other?;
        let mut acknowledged = Vec::new();
        for (writer, task) in (0..).zip(tasks) {
            acknowledged.push((writer, task.await??));
        }
        acknowledged.push((99, thread.join().map_err(|_| "the thread panicked")?));
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(acknowledged)
    })?;
    let store = CIDStore::open(&path)?;
    for (writer, count) in acknowledged {
        assert!(count > 0, "writer {writer} did nothing");
        let found = store.get(key(writer))?;
        let expected: Vec<E> = (0..count).map(E::new).collect();
        assert_eq!(found.as_slice(), expected, "writer {writer}");
    }
    Ok(())
}

#[test]
fn a_closed_store_says_so_to_everyone() -> Outcome {
    runtime(1)?.block_on(async {
        let store = AsyncCIDStore::memory().await?;
        let unused = AsyncCIDStore::memory().await?;
        store.insert(key(1), E::new(1)).await?;
        let other = store.clone();
        store.close().await?;
        assert!(matches!(other.insert(key(1), E::new(2)).await, Err(Error::Closed { .. })));
        assert!(matches!(other.get(key(1)).await, Err(Error::Closed { .. })));
        assert!(matches!(other.checkpoint().await, Err(Error::Closed { .. })));
        other.close().await?;
        // Without any write there was no committer to end.
        Ok(unused.close().await?)
    })
}

#[test]
fn writes_without_a_background_thread_make_their_own_checkpoints() -> Outcome {
    let directory = tempfile::tempdir()?;
    let options = LinksOptions::new().log_bytes(64 << 10).background(false);
    runtime(2)?.block_on(async {
        let store = AsyncCIDStore::open_with(directory.path().join("a.h5"), Mode::Append, options).await?;
        let tasks: Vec<_> = (0..8)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0..500 {
                        store.insert(key(writer << 20 | number), E::new(1)).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        assert_eq!(store.statistics().await?.pairs, 4000);
        Ok(store.close().await?)
    })
}

#[test]
fn a_store_in_the_file_is_read_as_one_in_memory() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let pairs: Vec<(E, E)> = (0..3000).map(|number| (key(number / 3), E::new(number.into()))).collect();
    runtime(2)?.block_on(async {
        let store = AsyncCIDStore::open(&path).await?;
        store.batch_insert(&pairs).await?;
        store.close().await?;
        let store = AsyncCIDStore::open_read_only(&path).await?;
        let keys: Vec<E> = (0..1000).map(key).collect();
        let many = store.get_many(&keys).await?;
        let mut values = corallite_links::Values::default();
        for (number, (one, found)) in (0..).zip(keys.iter().zip(&many)) {
            let expected = [0, 1, 2].map(|value| E::new(number * 3 + value));
            assert_eq!(*found, expected);
            assert_eq!(store.get(*one).await?, expected);
            store.get_into(*one, &mut values).await?;
            assert_eq!(values, expected);
            assert!(store.contains(*one, expected[1]).await?);
        }
        assert!(!store.contains_key(key(5000)).await?);
        let snapshot = store.snapshot().await?;
        let mut iteration = snapshot.iter();
        let mut found = 0;
        while let Some((one, values)) = iteration.next().await? {
            assert_eq!(snapshot.get(one).await?, values);
            found += values.len();
        }
        assert_eq!(found, 3000);
        assert!(matches!(store.insert(key(1), E::new(1)).await, Err(Error::ReadOnly { .. })));
        Ok(())
    })
}

#[test]
fn a_snapshot_and_its_iteration_do_not_see_later_writes() -> Outcome {
    runtime(2)?.block_on(async {
        let store = AsyncCIDStore::memory().await?;
        let pairs: Vec<(E, E)> = (0..500).map(|number| (key(number), E::new(1))).collect();
        store.batch_insert(&pairs).await?;
        let snapshot = store.snapshot().await?;
        store.batch_delete(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()).await?;
        store.insert(key(1000), E::new(1)).await?;
        let mut iteration = snapshot.iter();
        let mut found = std::collections::BTreeSet::new();
        while let Some((key, _)) = iteration.next().await? {
            assert!(found.insert(key), "{key} comes twice");
        }
        assert_eq!(found, pairs.iter().map(|pair| pair.0).collect());
        assert_eq!(snapshot.get(key(3)).await?, [E::new(1)]);
        let set = store.value_set(key(7));
        for value in 0..6 {
            set.add(E::new(value)).await?;
        }
        assert!(set.is_spilled().await? && set.remove(E::new(0)).await? && set.remove(E::new(1)).await?);
        assert_eq!(set.tombstone_count().await?, 2);
        assert!(set.demote().await?);
        Ok(())
    })
}

#[test]
fn a_write_that_races_with_closing_is_kept_or_refused() -> Outcome {
    let directory = tempfile::tempdir()?;
    for round in 0..8 {
        let path = directory.path().join(format!("{round}.h5"));
        let store = Arc::new(CIDStore::open(&path)?);
        // Something to write when closing, so that it takes a while.
        let pairs: Vec<(E, E)> = (0..20_000).map(|number| (key(number), E::new(1))).collect();
        store.batch_insert(&pairs)?;
        let thread = std::thread::spawn({
            let store = Arc::clone(&store);
            move || {
                let mut done = 0;
                while store.apply(&[Change::insert(key(1 << 40 | done), E::new(2))], Durability::Buffered).is_ok() {
                    done += 1;
                    // Whoever writes holds the log, which is then not removed, and would make good for the mistake.
                    std::thread::sleep(Duration::from_micros(50));
                }
                done
            }
        });
        runtime(1)?.block_on(AsyncCIDStore::from(store).close())?;
        let done = thread.join().map_err(|_| "the thread panicked")?;
        let store = CIDStore::open(&path)?;
        for number in 0..done {
            assert!(store.contains_key(key(1 << 40 | number))?, "write {number} of {done} is lost");
        }
    }
    Ok(())
}
