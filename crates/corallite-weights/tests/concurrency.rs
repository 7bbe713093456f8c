//! Deleting beside adding: threads take turns, and each change happens whole.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use corallite_weights::{
    AddOptions, Checkpoints, Dtype, Error, Hdf5Options, Hdf5Store, Unwatched, Watch, WeightHash, WeightStore,
    WeightTensor, safetensors,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Says when the work that it watches has begun, which is within that work's transaction.
struct Begun(SyncSender<()>);

impl Begun {
    fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = sync_channel(1);
        (Self(sender), receiver)
    }
}

impl Watch for Begun {
    fn advance(&self, _bytes: u64) {
        let _ = self.0.try_send(());
    }

    fn is_cancelled(&self) -> bool {
        let _ = self.0.try_send(());
        false
    }
}

fn tensor(name: &str, seed: u32) -> WeightTensor {
    let bytes: Vec<u8> =
        (0..90_000_u32).flat_map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 9).to_le_bytes()).collect();
    WeightTensor::new(name, vec![300, 300], Dtype::F32, bytes).unwrap()
}

/// Weights that no other name and no other number has.
fn own(name: &str, count: u32) -> Vec<WeightTensor> {
    let number = name.bytes().fold(0_u32, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
    (0..count).map(|index| tensor(&format!("{name}.{index}"), number.wrapping_mul(1000) + index)).collect()
}

fn model(directory: &Path, name: &str, weights: &[WeightTensor]) -> PathBuf {
    let path = directory.join(format!("{name}.safetensors"));
    safetensors::write(File::create(&path).unwrap(), weights, &[]).unwrap();
    path
}

fn key(weight: &WeightTensor) -> WeightHash {
    weight.content_hash().unwrap()
}

/// Nothing is damaged, nothing that a checkpoint needs is missing, and every file comes back.
fn assert_consistent(store: &Hdf5Store, directory: &Path) {
    assert_eq!(store.verify(&Unwatched).unwrap().damaged, []);
    let checkpoints = Checkpoints::new(store);
    assert_eq!(checkpoints.verify().unwrap(), []);
    for info in checkpoints.list().unwrap() {
        let out = directory.join("out");
        checkpoints.export(&info.name, &out).unwrap();
        assert!(std::fs::read(out).unwrap() == std::fs::read(directory.join(&info.source)).unwrap(), "{}", info.name);
    }
}

#[test]
fn what_is_deleted_during_an_add_is_deleted_after_it() -> Outcome {
    let directory = tempfile::tempdir()?;
    let store = Hdf5Store::open(directory.path().join("w.h5"), Hdf5Options::new())?;
    let checkpoints = Checkpoints::new(&store);
    let (shared, lost, loose) = (tensor("shared", 1), tensor("lost", 2), tensor("loose", 3));
    checkpoints.add("old", model(directory.path(), "old", &[shared.clone(), lost.clone()]))?;
    store.store(&loose, None)?;
    let files: Vec<(String, PathBuf)> = ["one", "two"]
        .map(|name| {
            let mut weights = own(name, 12);
            weights.push(shared.clone());
            (name.to_owned(), model(directory.path(), name, &weights))
        })
        .to_vec();
    let new = || own("one", 12).into_iter().chain(own("two", 12)).map(|weight| key(&weight));

    // Every commit's weights, in order; nothing else may ever be seen.
    let before = BTreeSet::from([key(&shared), key(&lost), key(&loose)]);
    let added: BTreeSet<_> = before.iter().cloned().chain(new()).collect();
    let deleted: BTreeSet<_> = added.iter().filter(|&found| *found != key(&loose)).cloned().collect();
    let collected: BTreeSet<_> = deleted.iter().filter(|&found| *found != key(&lost)).cloned().collect();
    let commits = [before, added, deleted, collected.clone()];

    let (watch, begun) = Begun::new();
    // Each thread has its end of the channel, so that a panic in one ends the other too.
    let (store, files, loose, shared) = (&store, &files, &key(&loose), &key(&shared));
    thread::scope(|scope| {
        let adding = scope.spawn(move || checkpoints.add_all(files, AddOptions::new().watch(&watch)).unwrap());
        let deleting = scope.spawn(move || {
            begun.recv().unwrap();
            assert!(store.delete(loose).unwrap());
            assert!(matches!(store.delete(shared), Err(Error::InUse { .. })));
            assert!(checkpoints.remove("old").unwrap());
            // Now only the new checkpoints need it.
            assert!(matches!(store.delete(shared), Err(Error::InUse { .. })));
            assert_eq!(checkpoints.gc(&Unwatched).unwrap().weights, 1);
        });
        let mut last = 0;
        while !(adding.is_finished() && deleting.is_finished()) {
            let found: BTreeSet<_> = store.list_weights().unwrap().into_iter().collect();
            let at = commits.iter().position(|commit| *commit == found).expect("a state that no commit has");
            assert!(at >= last, "commit {at} was seen after commit {last}");
            last = at;
        }
    });
    assert!(store.list_weights()?.iter().eq(&collected));
    assert!(checkpoints.list()?.iter().map(|info| info.name.as_str()).eq(["one", "two"]));
    assert_consistent(store, directory.path());
    Ok(())
}

#[test]
fn a_weight_that_gc_frees_while_its_next_checkpoint_waits_is_stored_again() -> Outcome {
    let directory = tempfile::tempdir()?;
    let store = Hdf5Store::open(directory.path().join("w.h5"), Hdf5Options::new())?;
    let checkpoints = Checkpoints::new(&store);
    let weights = own("old", 6);
    checkpoints.add("old", model(directory.path(), "old", &weights))?;
    checkpoints.remove("old")?;
    let path = model(directory.path(), "new", &weights);

    let (watch, begun) = Begun::new();
    thread::scope(|scope| {
        let collecting = scope.spawn(move || checkpoints.gc(&watch).unwrap());
        begun.recv().unwrap();
        checkpoints.add("new", &path).unwrap();
        assert_eq!(collecting.join().unwrap().weights, 6);
    });
    assert_eq!(store.count()?, 6);
    assert_consistent(&store, directory.path());
    Ok(())
}

/// Both threads change the same few checkpoints as fast as they can, so that their turns fall in any order.
#[test]
fn adding_and_deleting_in_any_order_loses_nothing_that_is_needed() -> Outcome {
    let directory = tempfile::tempdir()?;
    let store = Hdf5Store::open(directory.path().join("w.h5"), Hdf5Options::new())?;
    let checkpoints = Checkpoints::new(&store);
    let shared = own("shared", 3);
    let files: Vec<(String, PathBuf)> = (0..4)
        .map(|index| {
            let name = format!("model{index}");
            let weights: Vec<_> = shared.iter().cloned().chain(own(&name, 2)).collect();
            (name.clone(), model(directory.path(), &name, &weights))
        })
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..16 {
                let pair = [files[round % 4].clone(), files[(round + 1) % 4].clone()];
                match checkpoints.add_all(&pair, AddOptions::new()) {
                    Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                    Err(error) => panic!("round {round}: {error}"),
                }
            }
        });
        scope.spawn(|| {
            for round in 0..16 {
                checkpoints.remove(&files[round % 4].0).unwrap();
                match store.delete(&key(&shared[round % 3])) {
                    Ok(_) | Err(Error::InUse { .. }) => {}
                    Err(error) => panic!("round {round}: {error}"),
                }
                if round % 4 == 3 {
                    checkpoints.gc(&Unwatched).unwrap();
                }
            }
        });
    });
    assert_consistent(&store, directory.path());
    checkpoints.gc(&Unwatched)?;
    let needed = store.needed_by_checkpoints()?;
    assert_eq!(store.list_weights()?.into_iter().collect::<std::collections::HashSet<_>>(), needed);
    assert_consistent(&store, directory.path());
    Ok(())
}
