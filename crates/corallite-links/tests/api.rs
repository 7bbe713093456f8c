//! The methods of the documents that other tests do not come by: metrics, events, tuning, entries, bulk reads.

use std::sync::Arc;
use std::time::Duration;

use corallite_file::Mode;
use corallite_links::{
    BackgroundGC, CIDStore, Change, DirectoryForm, Durability, E, Error, HashEntry, LinksMetrics, LinksOptions,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn store() -> Result<CIDStore, corallite_links::Error> {
    let store = CIDStore::memory()?;
    let pairs: Vec<(E, E)> = (0..300).map(|number| (E::new(number / 6), E::new(number))).collect();
    store.batch_insert(&pairs)?;
    Ok(store)
}

#[test]
fn one_collection_looks_at_what_was_deleted_and_clears_the_deletion_log() -> Outcome {
    let store = store()?;
    store.delete_value(E::new(3), E::new(20))?;
    store.delete_value(E::new(3), E::new(21))?;
    assert_eq!((store.deletion_log().scan().len(), store.get_tombstone_count(E::new(3))?), (2, 2));
    let done = store.run_gc_once()?;
    // Four values are left, which fit the bucket again.
    assert_eq!((done.deletions, done.tombstones, done.demoted), (2, 2, 1));
    assert!(store.deletion_log().scan().is_empty() && !store.is_spilled(E::new(3))?);
    assert_eq!(store.get(E::new(3))?, [18, 19, 22, 23].map(E::new));
    assert_eq!(store.run_gc_once()?.deletions, 0);
    Ok(())
}

#[test]
fn what_was_only_read_does_not_stay_in_the_way() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("links.h5");
    let options = || LinksOptions::new().background(false).seed([1, 2]);
    let key = |number: u64| E::from_parts(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number);
    let insert = |store: &CIDStore, keys: std::ops::Range<u64>, value: u128| -> Outcome {
        let changes: Vec<Change> = keys.map(|number| Change::insert(key(number), E::new(value))).collect();
        Ok(store.apply(&changes, Durability::Buffered).map(drop)?)
    };
    let store = CIDStore::open_with(&path, Mode::Append, options())?;
    (0..20).try_for_each(|part| insert(&store, part * 10_000..part * 10_000 + 10_000, 1))?;
    store.migrate_directory()?;
    // Changes in runs, of all partitions, too few to fold any.
    insert(&store, 0..20_000, 2)?;
    assert_eq!(store.checkpoint()?.folded, 0);
    store.close()?;

    let limit = 2 << 20;
    let store = CIDStore::open_with(&path, Mode::Append, options().memory(limit))?;
    assert_eq!(store.count()?, 200_000);
    assert!(store.statistics()?.memory <= limit, "{:?}", store.statistics()?);
    assert_eq!(store.get(key(7))?, [E::new(1), E::new(2)]);
    // A change of one partition writes no others.
    store.insert(key(1 << 40), E::new(1))?;
    let report = store.checkpoint()?;
    assert_eq!((report.folded, report.appended), (0, 1));
    Ok(())
}

#[test]
fn what_would_wait_for_a_transaction_of_the_same_thread_is_refused() -> Outcome {
    let store = CIDStore::memory()?;
    store.insert(E::new(1), E::new(1))?;
    let mut transaction = store.begin()?;
    transaction.insert(E::new(2), E::new(1))?;
    let refused = [
        store.insert(E::new(1), E::new(2)).err(),
        store.checkpoint().err(),
        store.begin().err(),
        store.snapshot().err(),
        store.compact().err(),
    ];
    for error in refused {
        assert!(matches!(&error, Some(Error::Usage { problem, .. }) if problem.contains("transaction")), "{error:?}");
    }
    transaction.commit()?;
    store.insert(E::new(1), E::new(2))?;
    assert_eq!((store.get(E::new(1))?.len(), store.get(E::new(2))?.len()), (2, 1));
    Ok(())
}

#[test]
fn metrics_count_what_was_done() -> Outcome {
    let store = store()?;
    store.get(E::new(1))?;
    store.delete(E::new(1))?;
    store.checkpoint()?;
    let found = store.get_metrics();
    assert_eq!((found.inserts, found.deletes, found.promotions), (300, 1, 50));
    assert!(found.gets >= 1 && found.commits == 2 && found.checkpoints >= 1 && found.wal_syncs >= 2, "{found:?}");
    let text = store.expose_metrics()?;
    assert!(text.contains("corallite_links_inserts_total 300\n"), "{text}");
    assert!(text.contains("corallite_links_commit_seconds_count 2\n"), "{text}");
    let log = store.wal().ok_or("no log")?.prometheus_metrics()?;
    assert!(log.contains("corallite_wal_batches_total 2\n") && log.contains("corallite_wal_depth 0\n"), "{log}");
    Ok(())
}

#[test]
fn events_are_kept_with_their_numbers() -> Outcome {
    let store = store()?;
    store.log_event("error", &[("code", 7)]);
    let events = store.events();
    let last = events.last().ok_or("no event")?;
    assert_eq!((last.name.as_str(), last.fields.as_slice()), ("error", &[("code".to_owned(), 7)][..]));
    Ok(())
}

#[test]
fn entries_are_in_the_form_of_the_documents() -> Outcome {
    let store = store()?;
    assert_eq!(store.get_entry(E::new(999))?, None);
    store.insert(E::new(500), E::new(8))?;
    store.insert(E::new(500), E::new(9))?;
    for _ in 0..2 {
        let entry: HashEntry = store.get_entry(E::new(500))?.ok_or("no entry")?;
        assert_eq!((entry.key_high(), entry.key_low(), entry.inline()), (0, 500, &[E::new(8), E::new(9)][..]));
        assert_eq!((entry.state_mask.state(), entry.spill), (Some(0b11), None));
        let spilled = store.get_entry(E::new(1))?.ok_or("no entry")?;
        assert!(spilled.spill.is_some() && spilled.inline().is_empty());
        store.checkpoint()?;
    }
    assert!(store.valueset_exists(E::new(1))? && !store.is_spilled(E::new(500))?);
    Ok(())
}

#[test]
fn many_keys_are_read_at_once_in_their_order() -> Outcome {
    let store = store()?;
    let keys: Vec<E> = (0..60).rev().map(E::new).collect();
    for (key, values) in keys.iter().zip(store.get_many(&keys)?) {
        assert_eq!(values, store.lookup(*key)?);
        assert_eq!(values.len(), if key.number() < 50 { 6 } else { 0 });
    }
    assert!(store.contains(E::new(0), E::new(5))? && !store.contains(E::new(0), E::new(6))?);
    assert!(store.contains_key(E::new(0))? && !store.contains_key(E::new(50))?);
    assert_eq!(store.count()?, 50);
    Ok(())
}

#[test]
fn batches_tuning_dumps_and_the_directory_say_what_they_are_asked() -> Outcome {
    let store = store()?;
    assert_eq!(store.batch_delete(&[E::new(0), E::new(1), E::new(77)])?, 12);
    assert_eq!(store.migrate_directory()?, DirectoryForm::Attribute);
    let tuning = store.auto_tune(&store.get_metrics());
    assert!(tuning.batch_size >= 64 && tuning.flush_interval > Duration::ZERO, "{tuning:?}");
    let dump = store.debug_dump()?;
    assert!(dump.contains("48 keys, 288 pairs"), "{dump}");
    Ok(())
}

#[test]
fn tuning_follows_from_the_metrics_it_is_given() -> Outcome {
    let store = store()?;
    let mut metrics = LinksMetrics::default();
    let unmeasured = store.auto_tune(&metrics);
    assert_eq!((unmeasured.batch_size, unmeasured.flush_interval), (2048, Duration::from_millis(1)));
    (metrics.wal_syncs, metrics.wal_sync_nanos) = (4, 8_000_000);
    (metrics.inserts, metrics.deletes, metrics.commit_nanos) = (700, 300, 10_000_000);
    let tuning = store.auto_tune(&metrics);
    assert_eq!((tuning.batch_size, tuning.flush_interval), (2000, Duration::from_millis(4)));
    metrics.wal_sync_nanos = u64::MAX;
    let most = store.auto_tune(&metrics).batch_size;
    metrics.wal_sync_nanos = 0;
    assert_eq!((most, store.auto_tune(&metrics).batch_size), (2048, 64));
    Ok(())
}

#[test]
fn garbage_is_collected_in_the_background_until_it_is_stopped() -> Outcome {
    let store = Arc::new(store()?);
    for value in 6..9 {
        store.delete_value(E::new(1), E::new(value))?;
    }
    assert_eq!((store.get_tombstone_count(E::new(1))?, store.deletion_log().scan().len()), (3, 3));
    let collector = BackgroundGC::start(&store, Duration::from_millis(1))?;
    while store.get_metrics().gc_runs == 0 {
        std::thread::yield_now();
    }
    collector.stop()?;
    assert!(store.deletion_log().scan().is_empty() && !store.is_spilled(E::new(1))?);
    assert_eq!(store.get(E::new(1))?, [E::new(9), E::new(10), E::new(11)]);
    Ok(())
}
