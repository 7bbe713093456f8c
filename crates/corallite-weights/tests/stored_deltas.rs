//! Weights that are stored as the difference to others: they load, they are found, what they need is kept, and damage to it
//! is reported for each of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corallite_file::{Buffer, LossMode, Mode, Options, SimulatedDisk, Storage, StoredLayout, object_offset};
use corallite_weights::{
    ByteOrder, Checkpoints, Compression, DeltaStore, Dtype, Error, Hdf5Options, Hdf5Store, RepackOptions, Unwatched,
    Watch, WeightHash, WeightStore, WeightTensor, content_hash, safetensors,
};
use tempfile::TempDir;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Numbers that look random, from a seed.
fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// Weights about zero, as a layer has them.
fn layer(count: usize, seed: u64) -> Vec<f32> {
    let uniform = |bits: u64| (bits >> 40) as f32 / (1 << 24) as f32 - 0.5;
    noise(seed).map(|bits| (uniform(bits) + uniform(bits << 24)) * 0.1).take(count).collect()
}

/// The same after a few steps of training.
fn trained(weights: &[f32], seed: u64) -> Vec<f32> {
    weights.iter().zip(noise(seed)).map(|(value, bits)| value + ((bits >> 40) as f32 / 8e6 - 1.0) * 1e-5).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn tensor(name: &str, shape: Vec<u64>, values: &[f32]) -> WeightTensor {
    WeightTensor::new(name, shape, Dtype::F32, bytes(values)).unwrap()
}

/// A folder with a training run: `step-0`, `step-1` … with two layers that change and one that does not.
struct Run {
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Run {
    fn new(steps: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let (mut a, mut b) = (layer(64 * 96, 1), layer(300 * 1000, 2));
        let frozen = layer(5000, 3);
        let mut files = Vec::new();
        for step in 0..steps {
            let file = folder.path().join(format!("step-{step}.safetensors"));
            let tensors = [
                tensor("a", vec![64, 96], &a),
                tensor("b", vec![300, 1000], &b),
                tensor("frozen", vec![5000], &frozen),
                tensor("bias", vec![7], &a[..7]),
            ];
            safetensors::write(std::fs::File::create(&file)?, &tensors, &[])?;
            files.push(file);
            (a, b) = (trained(&a, 10 + step as u64), trained(&b, 90 + step as u64));
        }
        Ok(Self { folder, files })
    }

    fn store(&self, options: Hdf5Options) -> Outcome<Hdf5Store> {
        let store = Hdf5Store::open(self.folder.path().join("store.h5"), options)?;
        for (step, file) in self.files.iter().enumerate() {
            Checkpoints::new(&store).add(&format!("step-{step}"), file)?;
        }
        Ok(store)
    }

    /// Every checkpoint that is there comes out byte for byte, and nothing is damaged.
    fn check(&self, store: &Hdf5Store) -> Outcome {
        let checkpoints = Checkpoints::new(store);
        for (step, file) in self.files.iter().enumerate() {
            let name = format!("step-{step}");
            if checkpoints.get(&name)?.is_some() {
                let out = self.folder.path().join("out.safetensors");
                checkpoints.export(&name, &out)?;
                assert_eq!(std::fs::read(&out)?, std::fs::read(file)?, "{name}");
            }
        }
        assert_eq!(store.verify(&Unwatched)?.damaged, []);
        assert_eq!(checkpoints.verify()?, []);
        Ok(())
    }
}

fn key(store: &Hdf5Store, step: usize, name: &str) -> WeightHash {
    let checkpoint = Checkpoints::new(store).get(&format!("step-{step}")).unwrap().unwrap();
    checkpoint.weight(name).unwrap().clone()
}

fn chains(store: &Hdf5Store) -> Vec<usize> {
    store.encodings().unwrap().into_values().map(|encoding| encoding.unwrap().chain).collect()
}

#[test]
fn weights_of_later_checkpoints_are_deltas_and_load_by_their_keys() -> Outcome {
    let run = Run::new(3)?;
    let store = run.store(Hdf5Options::new())?;
    run.check(&store)?;
    let (first, last) = (key(&store, 1, "b"), key(&store, 2, "b"));
    let encoding = store.encoding(&last)?.unwrap();
    assert_eq!((encoding.base.as_ref(), encoding.chain), (Some(&first), 2));
    assert!(encoding.stored_bytes < encoding.length / 2, "{encoding:?}");
    assert_eq!(store.encoding(&key(&store, 0, "b"))?.unwrap().chain, 0);
    // Every way of reading gives the same.
    let whole = store.load(&last)?.unwrap();
    assert_eq!(content_hash(Dtype::F32, whole.shape(), &whole.data()?), last);
    assert_eq!(store.load_lazy(&last)?.unwrap().data()?, whole.data()?);
    assert_eq!(store.load_mapped(&last)?.unwrap().data()?, whole.data()?);
    let rows = store.load_rows(&last, 250..270)?.unwrap();
    assert_eq!(rows.data()?, whole.data()?.slice(250 * 4000..270 * 4000));
    assert_eq!(store.get_metadata(&last)?.unwrap().name, "b");
    // Every way of asking counts it once.
    let listed = store.list_weights()?;
    assert_eq!(listed.len(), listed.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(store.count()?, listed.len() as u64);
    assert!(listed.contains(&last) && store.exists(&last)?);
    assert_eq!(store.sizes()?.len(), listed.len());
    // As a delta it says what it is a difference to.
    assert!(store.list_deltas()?.contains(&last));
    let delta = store.load_delta(&last)?.unwrap();
    assert_eq!((delta.reference_hash, delta.original_dtype), (first, Dtype::F32));
    // Stored again it is known, whether for a checkpoint or for its own sake.
    assert_eq!(store.store(&whole, None)?, last);
    assert_eq!(store.count()?, listed.len() as u64);
    store.close()?;
    let again = Hdf5Store::open(run.folder.path().join("store.h5"), Hdf5Options::new().mode(Mode::Read))?;
    run.check(&again)
}

#[test]
fn only_a_store_with_deltas_is_closed_to_older_programs() -> Outcome {
    let run = Run::new(2)?;
    let version =
        |store: &Hdf5Store| store.file().unwrap().group("config")?.attr("format_version")?.read_scalar::<i64>();
    let store = run.store(Hdf5Options::new().longest_chain(0))?;
    assert_eq!((version(&store)?, store.list_deltas()?.len()), (1, 0));
    Checkpoints::new(&store).repack(RepackOptions::new().longest_chain(8))?;
    assert_eq!(version(&store)?, 2);
    run.check(&store)
}

#[test]
fn chains_are_as_long_as_asked_for_and_begin_anew() -> Outcome {
    let run = Run::new(12)?;
    for longest in [1, 3] {
        std::fs::remove_file(run.folder.path().join("store.h5")).ok();
        let store = run.store(Hdf5Options::new().longest_chain(longest))?;
        run.check(&store)?;
        assert_eq!(chains(&store).into_iter().max(), Some(longest));
        // Besides the biases, which are too small, only the first of each: a chain that is full is followed by one on its root.
        assert_eq!(chains(&store).into_iter().filter(|chain| *chain == 0).count(), 12 + 3);
        store.close()?;
    }
    Ok(())
}

#[test]
fn a_tensor_under_another_name_finds_its_base() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let layers: Vec<Vec<f32>> = (0..6).map(|seed| layer(100 * 100, seed)).collect();
    let write = |name: &str, prefix: &str, layers: &[Vec<f32>]| -> Outcome {
        let tensors: Vec<WeightTensor> = layers
            .iter()
            .enumerate()
            .map(|(index, values)| tensor(&format!("{prefix}{index}"), vec![100, 100], values))
            .collect();
        let file = folder.path().join(name);
        safetensors::write(std::fs::File::create(&file)?, &tensors, &[])?;
        Checkpoints::new(&store).add(name, &file)?;
        Ok(())
    };
    write("one", "layer", &layers)?;
    // Renamed, in another order, and a little different.
    let moved: Vec<Vec<f32>> = layers.iter().rev().map(|values| trained(values, 7)).collect();
    write("two", "block", &moved)?;
    let checkpoints = Checkpoints::new(&store);
    let (one, two) = (checkpoints.get("one")?.unwrap(), checkpoints.get("two")?.unwrap());
    for (index, tensor) in two.tensors().iter().enumerate() {
        let base = store.encoding(&tensor.key)?.unwrap().base;
        assert_eq!(base.as_ref(), one.weight(&format!("layer{}", 5 - index)), "{}", tensor.name);
    }
    Ok(())
}

#[test]
fn unrelated_weights_are_stored_whole() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    for seed in 0..2 {
        let file = folder.path().join("model.safetensors");
        safetensors::write(std::fs::File::create(&file)?, &[tensor("w", vec![50_000], &layer(50_000, 5 + seed))], &[])?;
        Checkpoints::new(&store).add(&format!("model-{seed}"), &file)?;
    }
    assert_eq!(chains(&store), [0, 0]);
    Ok(())
}

#[test]
fn every_dtype_comes_back_from_a_delta() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let mut deltas = 0;
    for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.safetensors_name().is_some()) {
        let mut data: Vec<u8> = noise(3).flat_map(u64::to_le_bytes).take(24_000).collect();
        if dtype == Dtype::BOOL {
            data.iter_mut().for_each(|byte| *byte &= 1);
        }
        let count = data.len() as u64 * 8 / u64::from(dtype.bit_size());
        for step in 0..2 {
            // One element in forty changes in its lowest bits: NaNs, infinities and denormals among them.
            if step > 0 {
                let part = dtype.swap_size();
                data.chunks_exact_mut(part).step_by(40).for_each(|element| element[0] ^= 1);
            }
            let weight = WeightTensor::new("w", vec![count], dtype, data.clone())?;
            let file = folder.path().join("model.safetensors");
            safetensors::write(std::fs::File::create(&file)?, &[weight], &[])?;
            let name = format!("{dtype}-{step}");
            let checkpoint = Checkpoints::new(&store).add(&name, &file)?;
            let key = checkpoint.weight("w").unwrap();
            assert_eq!(store.load(key)?.unwrap().data()?, data, "{name}");
            deltas += store.encoding(key)?.unwrap().chain;
        }
    }
    assert_eq!(deltas, 22);
    assert_eq!(store.verify(&Unwatched)?.damaged, []);
    Ok(())
}

#[test]
fn big_endian_weights_are_repacked_into_what_they_were() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let big = Dtype::F32.with_byte_order(ByteOrder::Big);
    let values = layer(5000, 1);
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    let key = store.store(&WeightTensor::new("w", vec![5000], big, data.clone())?, None)?;
    let report = Checkpoints::new(&store).repack(RepackOptions::new().compression("gzip:9".parse()?))?;
    assert_eq!((report.weights, report.rewritten, report.deltas), (1, 1, 0));
    let weight = store.load(&key)?.unwrap();
    assert_eq!((weight.dtype(), weight.data()?.to_vec()), (big, data));
    Ok(())
}

#[test]
fn a_base_that_is_needed_is_kept() -> Outcome {
    let run = Run::new(3)?;
    let store = run.store(Hdf5Options::new())?;
    let checkpoints = Checkpoints::new(&store);
    let (first, second, third) = (key(&store, 0, "b"), key(&store, 1, "b"), key(&store, 2, "b"));
    assert!(matches!(store.delete(&first), Err(Error::InUse { .. })));
    // Two checkpoints go; what the third is a difference to stays, with all of its chain.
    checkpoints.remove("step-0")?;
    checkpoints.remove("step-1")?;
    let freed = checkpoints.gc(&Unwatched)?;
    assert_eq!(freed.weights, 2, "the biases");
    for key in [&first, &second] {
        assert!(store.exists(key)?);
        let Err(Error::InUse { by, .. }) = store.delete(key) else { panic!("deleted") };
        assert!(by.contains("stored as the difference to it"), "{by}");
    }
    run.check(&store)?;
    assert_eq!(store.load(&third)?.unwrap().shape(), [300, 1000]);
    // With the last checkpoint goes everything, whatever refers to whatever.
    checkpoints.remove("step-2")?;
    checkpoints.gc(&Unwatched)?;
    assert_eq!((store.count()?, store.list_deltas()?.len()), (0, 0));
    Ok(())
}

#[test]
fn a_weight_kept_for_its_own_sake_keeps_its_base() -> Outcome {
    let run = Run::new(2)?;
    let store = run.store(Hdf5Options::new())?;
    let kept = key(&store, 1, "b");
    store.store(&store.load(&kept)?.unwrap(), None)?;
    let checkpoints = Checkpoints::new(&store);
    checkpoints.remove("step-0")?;
    checkpoints.remove("step-1")?;
    checkpoints.gc(&Unwatched)?;
    assert_eq!(store.count()?, 2);
    assert_eq!(store.load(&kept)?.unwrap().data()?.len(), 1_200_000);
    // Nobody needs it now: first it goes, then its base.
    assert!(store.delete(&kept)?);
    checkpoints.gc(&Unwatched)?;
    assert_eq!(store.count()?, 0);
    Ok(())
}

/// Where the chunks of a weight lie.
fn chunk(buffer: &Buffer, path: &str) -> Outcome<u64> {
    let storage = Storage::with_options(buffer.clone(), Options::new());
    storage.open(Mode::Read, false)?;
    let snapshot = storage.snapshot()?;
    let offset = object_offset(snapshot.file(), path)?.ok_or("no such object")?;
    let described = snapshot.describe_dataset(offset)?.ok_or("not one of ours")?;
    let StoredLayout::Chunked { chunks, .. } = described.layout else { return Err("not chunked".into()) };
    Ok(chunks[0].as_ref().ok_or("no chunk")?.offset)
}

#[test]
fn a_damaged_base_is_reported_for_every_weight_that_depends_on_it() -> Outcome {
    let run = Run::new(3)?;
    let buffer = Buffer::new();
    let store = Hdf5Store::open_storage(Storage::with_options(buffer.clone(), Options::new()), &Hdf5Options::new())?;
    for (step, file) in run.files.iter().enumerate() {
        Checkpoints::new(&store).add(&format!("step-{step}"), file)?;
    }
    let keys: Vec<WeightHash> = (0..3).map(|step| key(&store, step, "b")).collect();
    store.close()?;
    let mut damaged = buffer.to_vec();
    let at = chunk(&buffer, &format!("weights/{}", keys[0]))? as usize + 1000;
    damaged[at] ^= 0x10;
    let storage = Storage::with_options(Buffer::from(damaged), Options::new());
    let store = Hdf5Store::open_storage(storage, &Hdf5Options::new())?;
    let damaged = store.verify(&Unwatched)?.damaged;
    let named: BTreeSet<&str> = damaged.iter().map(|damage| damage.name.as_str()).collect();
    assert_eq!(named, keys.iter().map(WeightHash::as_str).collect());
    for damage in damaged.iter().filter(|damage| damage.name != keys[0].as_str()) {
        assert!(damage.problem.contains("base"), "{}", damage.problem);
    }
    for key in &keys {
        assert!(matches!(store.load(key), Err(Error::Damaged { .. })));
    }
    // What is added next is no difference to what cannot be read.
    let file = run.folder.path().join("next.safetensors");
    let next = trained(&layer(300 * 1000, 2), 77);
    safetensors::write(std::fs::File::create(&file)?, &[tensor("b", vec![300, 1000], &next)], &[])?;
    let checkpoint = Checkpoints::new(&store).add("next", &file)?;
    let key = checkpoint.weight("b").unwrap();
    assert_eq!(store.encoding(key)?.unwrap().chain, 0);
    assert_eq!(store.load(key)?.unwrap().data()?, bytes(&next));
    // Nor does repacking make it worse.
    let report = Checkpoints::new(&store).repack(RepackOptions::new().compression("gzip:1".parse()?))?;
    assert_eq!(report.damaged.len(), 3);
    assert_eq!(store.load(key)?.unwrap().data()?, bytes(&next));
    assert_eq!(store.verify(&Unwatched)?.damaged.len(), 3);
    Ok(())
}

#[test]
fn repacking_keeps_every_weight_and_its_metadata() -> Outcome {
    let run = Run::new(5)?;
    let store = run.store(Hdf5Options::new().longest_chain(0).compression(Compression::None))?;
    let mine = WeightHash::new("mine")?;
    let weight = tensor("loose", vec![3000], &layer(3000, 40));
    store.store(&weight, Some(&mine))?;
    let checkpoints = Checkpoints::new(&store);
    let all = |store: &Hdf5Store| -> Vec<String> {
        let keys = store.list_weights().unwrap();
        keys.iter().map(|key| format!("{:?}", store.get_metadata(key).unwrap())).collect()
    };
    let before = all(&store);
    let small = RepackOptions::new().batch_bytes(100_000);
    for (options, longest) in [
        (small.compression("gzip:1".parse()?).longest_chain(8), 4),
        (small.compression("lzf".parse()?).longest_chain(2), 2),
        (small.compression("lzf".parse()?).longest_chain(0), 0),
        (small.compression(Compression::None), 0),
        (small.compression("gzip:6".parse()?).longest_chain(1), 1),
    ] {
        let report = checkpoints.repack(options)?;
        assert_eq!((report.weights, report.damaged.len()), (before.len() as u64, 0));
        assert!(report.rewritten > 0);
        assert_eq!(chains(&store).into_iter().max(), Some(longest));
        assert_eq!(all(&store), before);
        run.check(&store)?;
        assert_eq!(store.load(&mine)?.unwrap().data()?, weight.data()?);
        let (file, held) = (store.file_bytes()?, report.bytes_after);
        assert!(file < 2 * held + (1 << 20), "{file} bytes for {held} of weights");
        // Once more has nothing to do.
        assert_eq!(checkpoints.repack(options)?.rewritten, 0);
    }
    Ok(())
}

/// Stops after so many bytes.
struct Stop(AtomicU64);

impl Watch for Stop {
    fn is_cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[test]
fn an_interrupted_repack_leaves_every_weight() -> Outcome {
    let run = Run::new(4)?;
    for calls in [0, 3, 9, 15, 24] {
        std::fs::remove_file(run.folder.path().join("store.h5")).ok();
        let store = run.store(Hdf5Options::new().longest_chain(0))?;
        let stop = Stop(AtomicU64::new(calls));
        let options = RepackOptions::new().longest_chain(3).batch_bytes(1).watch(&stop);
        assert!(matches!(Checkpoints::new(&store).repack(options), Err(Error::Cancelled)), "{calls}");
        run.check(&store)?;
        store.close()?;
    }
    Ok(())
}

#[test]
fn a_power_loss_while_repacking_loses_nothing() -> Outcome {
    let run = Run::new(3)?;
    let path = Path::new("/disk/store.h5");
    let disk = SimulatedDisk::new();
    let open = |disk: &SimulatedDisk, mode| {
        let storage = Storage::on_disk(Arc::new(disk.clone()), path, Options::new());
        Hdf5Store::open_storage(storage, &Hdf5Options::new().mode(mode).longest_chain(0))
    };
    let store = open(&disk, Mode::Append)?;
    for (step, file) in run.files.iter().enumerate() {
        Checkpoints::new(&store).add(&format!("step-{step}"), file)?;
    }
    disk.forget();
    let options = RepackOptions::new().longest_chain(3).batch_bytes(500_000);
    Checkpoints::new(&store).repack(options)?;
    store.close()?;
    let mut chains = BTreeSet::new();
    let count = disk.changes();
    for (mode, seed) in LossMode::ALL.into_iter().zip(0..) {
        for part in 0..12 {
            let image = disk.crash(count * part / 11, mode, seed * 100 + part as u64);
            let disk = SimulatedDisk::with_files(image.files);
            let store = open(&disk, Mode::Append).map_err(|error| format!("{mode:?} {part}: {error}"))?;
            run.check(&store).map_err(|error| format!("{mode:?} {part}: {error}"))?;
            chains.insert(self::chains(&store).into_iter().filter(|chain| *chain > 0).count());
            // It goes on from there.
            Checkpoints::new(&store).repack(options)?;
            run.check(&store)?;
        }
    }
    assert!(chains.len() > 2, "the cuts met only {chains:?}");
    Ok(())
}
