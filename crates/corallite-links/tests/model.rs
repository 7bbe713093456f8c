//! Random work on a store does what it does to a plain map, whatever happens in between: maintenance, checkpoints, closing,
//! and ends without closing.

mod common;

use common::{Model, Outcome, Random, assert_same, change, expect, key};
use corallite_file::{Mode, Options, Storage};
use corallite_links::{CIDStore, Change, Durability, E, LinksOptions};

fn open(path: &std::path::Path, random: &mut Random, batch: u64) -> Outcome<(CIDStore, bool)> {
    let background = random.one_in(2);
    let options = LinksOptions::new()
        .partition_bytes(random.pick(&[16 << 10, 64 << 10, 4 << 20]))
        .memory(random.pick(&[1 << 20, 3 << 20, 17 << 20, 1 << 30]))
        .log_bytes(random.pick(&[64 << 10, 256 << 10, 4 << 20]).max(batch * 100))
        .background(background);
    let storage = Storage::with_options(path, Options::new().history(random.pick(&[0, 8]) as usize));
    Ok((CIDStore::on_storage(storage, Mode::Append, options)?, background))
}

/// Takes the file and the log as a killed process leaves them, puts them elsewhere, and opens them there.
fn kill(store: &CIDStore, to: &std::path::Path) -> Outcome {
    store.flush()?;
    for suffix in ["", "-wal", "-journal"] {
        let name = |path: &std::path::Path| format!("{}{suffix}", path.display());
        let _ = std::fs::remove_file(name(to));
        if std::path::Path::new(&name(store.path())).exists() {
            std::fs::copy(name(store.path()), name(to))?;
        }
    }
    Ok(())
}

fn work(seed: u64, steps: usize, keys: u64, batch: u64) -> Outcome {
    let directory = tempfile::tempdir()?;
    let mut random = Random::new(seed);
    let mut number = 0;
    let mut path = directory.path().join("0.h5");
    let (mut store, mut background) = open(&path, &mut random, batch)?;
    let mut model = Model::new();
    for step in 0..steps {
        match random.below(100) {
            0..3 => {
                store.close()?;
                assert!(!directory.path().join(format!("{number}.h5-wal")).exists(), "the log is left");
                (store, background) = open(&path, &mut random, batch)?;
            }
            // A checkpoint under way would change the files while they are copied.
            3..6 if !background => {
                number += 1;
                let copy = directory.path().join(format!("{number}.h5"));
                kill(&store, &copy)?;
                (store, background) = open(&copy, &mut random, batch)?;
                path = copy;
            }
            3..9 => drop(store.checkpoint()?),
            9 => drop(store.compact()?),
            10 => drop(store.gc()?),
            11 => drop(store.background_maintenance()?),
            12 => drop(store.merge()?),
            13 => drop(store.migrate_directory()?),
            14..20 => {
                let key = key(random.below(keys));
                store.compact_key(key)?;
                store.demote_if_possible(key)?;
                store.value_set(key).promote()?;
            }
            20..25 => {
                let count = random.below(20);
                store.transaction(|tx| {
                    for _ in 0..count {
                        let change = change(&mut random, keys);
                        let moved = match change.operation {
                            corallite_links::Operation::Insert => tx.insert(change.key, change.value)?,
                            corallite_links::Operation::DeleteValue => tx.delete((change.key, change.value))?,
                            corallite_links::Operation::DeleteKey => tx.delete(change.key)?,
                        };
                        assert_eq!(moved, expect(&mut model, &change) > 0);
                        assert_eq!(tx.get(change.key)?, *model.get(&change.key).unwrap_or(&vec![]));
                    }
                    Ok::<_, corallite_links::Error>(())
                })?;
            }
            _ => {
                let count = random.below(batch) + 1;
                let changes: Vec<Change> = (0..count).map(|_| change(&mut random, keys)).collect();
                for change in &changes {
                    expect(&mut model, change);
                }
                let durability = if random.one_in(4) { Durability::Durable } else { Durability::Buffered };
                store.apply(&changes, durability)?;
            }
        }
        if random.one_in(steps as u64 / 12) {
            assert_same(&store, &model).map_err(|error| format!("step {step}: {error}"))?;
        }
    }
    assert_same(&store, &model)?;
    assert_eq!(store.verify()?, Vec::<String>::new());
    store.close()?;
    let store = CIDStore::open_read_only(&path)?;
    assert_same(&store, &model)
}

#[test]
fn few_keys_do_what_a_plain_map_does() -> Outcome {
    (0..4).try_for_each(|seed| work(seed, 300, 30, 50).map_err(|error| format!("seed {seed}: {error}").into()))
}

#[test]
fn many_keys_do_what_a_plain_map_does() -> Outcome {
    (10..12).try_for_each(|seed| work(seed, 200, 20_000, 900).map_err(|error| format!("seed {seed}: {error}").into()))
}

#[test]
fn a_store_larger_than_its_memory_does_what_a_plain_map_does() -> Outcome {
    work(20, 60, 600_000, 20_000)
}

#[test]
fn every_number_is_a_legal_key_and_a_legal_value() -> Outcome {
    let store = CIDStore::memory()?;
    for id in [E::MIN, E::MAX, E::new(1), E::from_parts(0, u64::MAX), E::from_parts(u64::MAX, 0)] {
        for value in [E::MIN, E::MAX, id, E::new(1 << 127), E::new(1 << 64), E::new(2)] {
            store.insert(id, value)?;
        }
    }
    store.checkpoint()?;
    assert_eq!(store.get(E::MIN)?.len(), 5);
    assert_eq!(store.get(E::MAX)?.as_slice()[..3], [E::MIN, E::MAX, E::new(1 << 127)]);
    assert!(store.delete((E::MIN, E::MIN))? && !store.delete((E::MIN, E::MIN))?);
    assert!(!store.contains(E::MIN, E::MIN)? && store.contains(E::MIN, E::MAX)?);
    Ok(())
}
