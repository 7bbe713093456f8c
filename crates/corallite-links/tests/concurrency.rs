//! Readers, writers and maintenance at once see what each of them may see.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Outcome, Random, key};
use corallite_file::{Mode, Options, Storage};
use corallite_links::{CIDStore, Change, Durability, E, LinksOptions};

const KEYS: u64 = 600;
const ROUNDS: u64 = 80;
/// Keys that one batch changes together, all to the same value.
const TOGETHER: u64 = 40;

/// Each group of keys has the numbers of its last rounds as values, the same for each key: a batch adds one and removes the
/// oldest, so there are always between `KEPT` and `KEPT + 1` of them.
const KEPT: u64 = 3;

fn group(number: u64) -> impl Iterator<Item = E> {
    (0..TOGETHER).map(move |index| key(number * TOGETHER + index))
}

fn round(number: u64, round: u64) -> Vec<Change> {
    let mut changes: Vec<Change> = group(number).map(|key| Change::insert(key, E::new(round.into()))).collect();
    if let Some(old) = round.checked_sub(KEPT) {
        changes.extend(group(number).map(|key| Change::delete_value(key, E::new(old.into()))));
    }
    changes
}

fn numbers(values: &[E]) -> Vec<u64> {
    values.iter().map(|value| value.number() as u64).collect()
}

/// Consecutive, ascending, and as many as there are between two changes of a batch.
fn is_possible(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers.len() as u64 <= KEPT + 1
}

fn check(right: bool, what: impl Fn() -> String) -> Outcome {
    if right { Ok(()) } else { Err(what().into()) }
}

struct Run {
    store: CIDStore,
    /// For each group, the last round that was acknowledged.
    done: Vec<AtomicU64>,
    is_over: AtomicBool,
}

impl Run {
    fn going(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    fn write(&self, groups: impl Iterator<Item = u64> + Clone) -> Outcome {
        for number in 0..ROUNDS {
            for each in groups.clone() {
                let durability = if number % 16 == 0 { Durability::Durable } else { Durability::Buffered };
                if number % 5 == 0 {
                    self.store.transaction(|tx| {
                        for change in round(each, number) {
                            match change.operation {
                                corallite_links::Operation::Insert => _ = tx.insert(change.key, change.value)?,
                                _ => _ = tx.delete((change.key, change.value))?,
                            }
                        }
                        Ok::<_, corallite_links::Error>(())
                    })?;
                } else {
                    self.store.apply(&round(each, number), durability)?;
                }
                self.done[each as usize].store(number, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Values are never older than what was acknowledged before they were read.
    fn read(&self, seed: u64) -> Outcome {
        let mut random = Random::new(seed);
        while self.going() {
            let each = random.below(KEYS / TOGETHER);
            let before = self.done[each as usize].load(Ordering::Acquire);
            let keys: Vec<E> = group(each).collect();
            let found = numbers(&self.store.get(keys[random.below(TOGETHER) as usize])?);
            check(is_possible(&found), || format!("{found:?}"))?;
            check(before == u64::MAX || found.last().is_some_and(|last| *last >= before), || {
                format!("{found:?}, {before} done")
            })?;
            for values in self.store.get_many(&keys)? {
                let found = numbers(&values);
                check(is_possible(&found), || format!("get_many: {found:?}"))?;
            }
            if before != u64::MAX {
                // It may be gone by now, but then `KEPT` more rounds have begun.
                let there = self.store.contains(keys[0], E::new(before.into()))?;
                let after = self.store.get(keys[0])?;
                let after = numbers(&after).last().copied().unwrap_or(0);
                check(there || after >= before + KEPT, || format!("{before} is not there, {after} is"))?;
            }
        }
        Ok(())
    }

    /// In a snapshot all keys of a group have the same values, now and later.
    fn look_back(&self) -> Outcome {
        while self.going() {
            let snapshot = self.store.snapshot()?;
            let first: Vec<Vec<u64>> = (0..KEYS / TOGETHER)
                .map(|each| snapshot.get(key(each * TOGETHER)).map(|values| numbers(&values)))
                .collect::<Result<_, _>>()?;
            let mut seen = 0;
            for entry in snapshot.iter() {
                let (found, values) = entry?;
                let each = (0..KEYS).find(|number| key(*number) == found).ok_or("a key that nobody added")? / TOGETHER;
                check(numbers(&values) == first[each as usize], || {
                    format!("{found}: {values:?}, not {:?}", first[each as usize])
                })?;
                seen += 1;
            }
            let expected = first.iter().filter(|values| !values.is_empty()).count() as u64 * TOGETHER;
            check(seen == expected, || format!("{seen} keys of {expected}"))?;
        }
        Ok(())
    }

    fn maintain(&self) -> Outcome {
        let mut number = 0;
        while self.going() {
            match number % 6 {
                0 => drop(self.store.checkpoint()?),
                1 => drop(self.store.compact()?),
                2 => drop(self.store.gc()?),
                3 => drop(self.store.background_maintenance()?),
                4 => drop(self.store.migrate_directory()?),
                _ => {
                    let key = key(number % KEYS);
                    self.store.value_set(key).promote()?;
                    self.store.compact_key(key)?;
                    self.store.demote_if_possible(key)?;
                }
            }
            number += 1;
        }
        Ok(())
    }
}

fn run(memory: u64) -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("links.h5");
    let options = LinksOptions::new().memory(memory).log_bytes(64 << 10);
    let storage = Storage::with_options(path.as_path(), Options::new().history(0));
    let store = CIDStore::on_storage(storage, Mode::Append, options)?;
    let done = (0..KEYS / TOGETHER).map(|_| AtomicU64::new(u64::MAX)).collect();
    let run = Run { store, done, is_over: AtomicBool::new(false) };
    std::thread::scope(|scope| -> Outcome {
        let others = [
            scope.spawn(|| run.read(1)),
            scope.spawn(|| run.read(2)),
            scope.spawn(|| run.look_back()),
            scope.spawn(|| run.maintain()),
        ];
        let writers = [0, 1].map(|half| {
            let run = &run;
            scope.spawn(move || run.write((0..KEYS / TOGETHER).filter(move |each| each % 2 == half)))
        });
        let written: Vec<Outcome> =
            writers.map(|thread| thread.join().unwrap_or_else(|_| Err("a writer panicked".into()))).into();
        run.is_over.store(true, Ordering::Release);
        let rest = others.map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())));
        written.into_iter().chain(rest).collect()
    })?;
    let expected: Vec<u64> = (ROUNDS - KEPT..ROUNDS).collect();
    let right = |store: &CIDStore| -> Outcome {
        for number in 0..KEYS {
            let found = numbers(&store.get(key(number))?);
            check(found == expected, || format!("key {number}: {found:?}"))?;
        }
        check(store.count()? == KEYS, || "the count is wrong".to_owned())
    };
    right(&run.store)?;
    run.store.close()?;
    right(&CIDStore::open_read_only(&path)?)
}

#[test]
fn readers_writers_and_maintenance_at_once_see_whole_batches_in_order() -> Outcome {
    run(1 << 30)
}
