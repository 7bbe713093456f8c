//! What a hostile user, a damaged disk or another program does to weights that are stored as deltas: no weight is lost by it
//! that was not lost before, and nothing is read wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;

use corallite_file::hdf5::types::VarLenUnicode;
use corallite_file::hdf5::{Dataset, Group};
use corallite_file::{Buffer, Fault, Mode, Options, SimulatedDisk, Storage, StoredLayout, object_offset};
use corallite_weights::delta::{Delta, DeltaEncoder};
use corallite_weights::{
    AddOptions, ByteOrder, Checkpoints, Compression, DeltaStore, Dtype, Error, Hdf5Options, Hdf5Store, RepackOptions,
    SafetensorsFile, Unwatched, Watch, WeightHash, WeightStore, WeightTensor, safetensors,
};

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

/// Weights of which each step changes the lowest bits of some.
fn step(count: usize, step: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        noise(1).take(count).flat_map(|bits| ((bits >> 40) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()).collect();
    for number in 1..=step {
        for (element, bits) in bytes.chunks_exact_mut(4).zip(noise(number + 1)) {
            if bits & 7 == 0 {
                element[0] ^= (bits >> 32) as u8;
            }
        }
    }
    bytes
}

fn tensor(count: usize, number: u64) -> WeightTensor {
    WeightTensor::new("w", vec![count as u64], Dtype::F32, step(count, number)).unwrap()
}

/// The checkpoint `name` of these tensors.
fn add(store: &Hdf5Store, name: &str, tensors: &[WeightTensor], longest: Option<usize>) -> Outcome<Vec<WeightHash>> {
    let mut model = Vec::new();
    safetensors::write(&mut model, tensors, &[])?;
    let file = SafetensorsFile::from_bytes(model)?;
    let added = store.transaction(|transaction| match longest {
        Some(longest) => transaction.with_longest_chain(longest).add_checkpoint(name, &file, &Unwatched),
        None => transaction.add_checkpoint(name, &file, &Unwatched),
    })?;
    Ok(tensors.iter().map(|tensor| added.checkpoint.weight(tensor.name()).unwrap().clone()).collect())
}

/// `step-0`, `step-1` … of one tensor, and its keys.
fn run(store: &Hdf5Store, count: usize, steps: u64) -> Outcome<Vec<WeightHash>> {
    (0..steps)
        .map(|number| Ok(add(store, &format!("step-{number}"), &[tensor(count, number)], None)?.remove(0)))
        .collect()
}

fn check(store: &Hdf5Store, keys: &[WeightHash], count: usize) -> Outcome {
    for (key, number) in keys.iter().zip(0..) {
        let weight = store.load(key).map_err(|error| format!("step {number}: {error}"))?.ok_or("gone")?;
        assert!(weight.data()? == step(count, number), "step {number}");
    }
    assert_eq!(store.verify(&Unwatched)?.damaged, []);
    assert_eq!(Checkpoints::new(store).verify()?, []);
    Ok(())
}

fn open(bytes: Vec<u8>) -> Outcome<Hdf5Store> {
    let storage = Storage::with_options(Buffer::from(bytes), Options::new());
    Ok(Hdf5Store::open_storage(storage, &Hdf5Options::new())?)
}

/// Where the header of an object lies, and its chunks.
fn places(bytes: &[u8], path: &str) -> Outcome<(usize, Vec<usize>)> {
    let storage = Storage::with_options(Buffer::from(bytes.to_vec()), Options::new());
    storage.open(Mode::Read, false)?;
    let snapshot = storage.snapshot()?;
    let offset = object_offset(snapshot.file(), path)?.ok_or("no such object")?;
    let described = snapshot.describe_dataset(offset)?.ok_or("not one of ours")?;
    let chunks = match described.layout {
        StoredLayout::Chunked { chunks, .. } => chunks.iter().flatten().map(|chunk| chunk.offset as usize).collect(),
        _ => Vec::new(),
    };
    Ok((offset as usize, chunks))
}

#[test]
fn chains_that_are_asked_for_longer_than_can_be_read_are_not_made() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let mut keys = Vec::new();
    for number in 0..70 {
        keys.extend(add(&store, &format!("step-{number}"), &[tensor(2048, number)], Some(1000))?);
    }
    check(&store, &keys, 2048)?;
    Checkpoints::new(&store).repack(RepackOptions::new().longest_chain(1000))?;
    check(&store, &keys, 2048)
}

#[test]
fn a_damaged_root_of_a_full_chain_does_not_keep_others_from_being_stored() -> Outcome {
    const COUNT: usize = 700_000;
    let buffer = Buffer::new();
    let options = Hdf5Options::new().longest_chain(1);
    let store = Hdf5Store::open_storage(Storage::with_options(buffer.clone(), Options::new()), &options)?;
    let keys = run(&store, COUNT, 2)?;
    store.close()?;
    let mut bytes = buffer.to_vec();
    let (_, chunks) = places(&bytes, &format!("weights/{}", keys[0]))?;
    assert_eq!(chunks.len(), 3);
    // In a chunk that no sample is taken of.
    bytes[chunks[0] + 5000] ^= 0x10;
    let store = Hdf5Store::open_storage(Storage::with_options(Buffer::from(bytes), Options::new()), &options)?;
    assert!(store.load(&keys[0]).is_err());
    let key = add(&store, "step-2", &[tensor(COUNT, 2)], None)?.remove(0);
    assert!(store.load(&key)?.unwrap().data()? == step(COUNT, 2));
    Ok(())
}

#[test]
fn a_base_with_a_damaged_header_is_no_reason_not_to_store_another() -> Outcome {
    let buffer = Buffer::new();
    let store = Hdf5Store::open_storage(Storage::with_options(buffer.clone(), Options::new()), &Hdf5Options::new())?;
    let keys = run(&store, 5000, 2)?;
    store.close()?;
    for (key, parent) in keys.iter().zip(["weights", "deltas"]) {
        let mut bytes = buffer.to_vec();
        let (header, _) = places(&bytes, &format!("{parent}/{key}"))?;
        bytes[header + 40] ^= 0x10;
        let store = open(bytes)?;
        assert!(store.load(key).is_err());
        let new =
            add(&store, "step-2", &[tensor(5000, 2)], None).map_err(|error| format!("{parent}: {error}"))?.remove(0);
        assert!(store.load(&new)?.unwrap().data()? == step(5000, 2));
        Checkpoints::new(&store)
            .repack(RepackOptions::new().compression("lzf".parse()?))
            .map_err(|error| format!("repack, {parent}: {error}"))?;
        assert!(store.load(&new)?.unwrap().data()? == step(5000, 2));
    }
    Ok(())
}

/// Does something from the `from`th question on, until it works.
struct Meanwhile<F: Fn() -> bool + Sync> {
    thread: ThreadId,
    from: u64,
    asked: AtomicU64,
    done: AtomicBool,
    act: F,
}

impl<F: Fn() -> bool + Sync> Watch for Meanwhile<F> {
    fn is_cancelled(&self) -> bool {
        // Other threads ask within a commit, and would wait for it for ever.
        if std::thread::current().id() == self.thread
            && self.asked.fetch_add(1, Ordering::Relaxed) >= self.from
            && !self.done.load(Ordering::Relaxed)
        {
            self.done.store((self.act)(), Ordering::Relaxed);
        }
        false
    }
}

#[test]
fn what_others_do_while_a_store_is_repacked_makes_no_circle() -> Outcome {
    const COUNT: usize = 5000;
    let mut met = 0;
    for from in 0..6 {
        let store = Hdf5Store::memory(Hdf5Options::new())?;
        let keys = run(&store, COUNT, 2)?;
        let watch = Meanwhile {
            thread: std::thread::current().id(),
            from,
            asked: AtomicU64::new(0),
            done: AtomicBool::new(false),
            // The first checkpoint goes and comes back, now as a delta of the second. Within a commit this is refused.
            act: || {
                let checkpoints = Checkpoints::new(&store);
                let change = || -> Outcome {
                    checkpoints.remove("step-0")?;
                    checkpoints.repack(RepackOptions::new().longest_chain(0))?;
                    checkpoints.gc(&Unwatched)?;
                    add(&store, "again", &[tensor(COUNT, 0)], None)?;
                    Ok(())
                };
                change().is_ok()
            },
        };
        Checkpoints::new(&store).repack(RepackOptions::new().batch_bytes(1).watch(&watch))?;
        met += u32::from(watch.done.into_inner());
        check(&store, &keys, COUNT).map_err(|error| format!("{from}: {error}"))?;
    }
    assert!(met > 1, "{met}");
    Ok(())
}

#[test]
fn every_weight_that_is_a_delta_comes_out_as_one_that_decodes() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let encoder = DeltaEncoder::default();
    let mut deltas = 0;
    for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.safetensors_name().is_some()) {
        let mut data: Vec<u8> = noise(3).flat_map(u64::to_le_bytes).take(24_000).collect();
        if dtype == Dtype::BOOL {
            data.iter_mut().for_each(|byte| *byte &= 1);
        }
        let count = data.len() as u64 * 8 / u64::from(dtype.bit_size());
        let mut last = None;
        for number in 0..2 {
            if number > 0 {
                data.chunks_exact_mut(dtype.swap_size()).step_by(40).for_each(|element| element[0] ^= 1);
            }
            let weight = WeightTensor::new("w", vec![count], dtype, data.clone())?;
            last = Some(add(&store, &format!("{dtype}-{number}"), &[weight], None)?.remove(0));
        }
        let key = last.unwrap();
        let Some(delta) = store.load_delta(&key)? else { continue };
        deltas += 1;
        let reference = store.load(&delta.reference_hash)?.unwrap();
        let decoded = encoder.decode_delta(&delta, &reference).map_err(|error| format!("{dtype}: {error}"))?;
        assert!(decoded.data()? == data, "{dtype}");
        assert_eq!((decoded.dtype(), decoded.shape()), (dtype, &[count][..]));
    }
    assert!(deltas > 20);
    Ok(())
}

#[test]
fn no_damaged_reference_makes_gc_free_a_base() -> Outcome {
    let buffer = Buffer::new();
    let store = Hdf5Store::open_storage(Storage::with_options(buffer.clone(), Options::new()), &Hdf5Options::new())?;
    let keys = run(&store, 5000, 2)?;
    store.close()?;
    let bytes = buffer.to_vec();
    let text = keys[0].as_str().as_bytes();
    let mut met = 0;
    for at in (0..bytes.len() - text.len()).filter(|&at| bytes[at..].starts_with(text)) {
        let mut bytes = bytes.clone();
        bytes[at + 7] = if bytes[at + 7] == b'0' { b'1' } else { b'0' };
        let Ok(store) = open(bytes) else { continue };
        if !store.exists(&keys[0]).unwrap_or(false) {
            continue;
        }
        met += 1;
        Checkpoints::new(&store).remove("step-0")?;
        let freed = Checkpoints::new(&store).gc(&Unwatched);
        assert!(store.exists(&keys[0])?, "offset {at}: {freed:?}");
        let deleted = store.delete(&keys[0]);
        assert!(store.exists(&keys[0])?, "offset {at}: {freed:?}, {deleted:?}");
    }
    assert!(met > 1, "{met}");
    Ok(())
}

#[test]
fn what_is_held_stays_readable_while_the_store_is_repacked() -> Outcome {
    const COUNT: usize = 400_000;
    let folder = tempfile::tempdir()?;
    let options = Hdf5Options::new().longest_chain(0).compression(Compression::None);
    let store = Hdf5Store::open(folder.path().join("store.h5"), options)?;
    let keys = run(&store, COUNT, 3)?;
    let held = |key: &WeightHash| -> Outcome<Vec<WeightTensor>> {
        Ok(vec![store.load_lazy(key)?.unwrap(), store.load_mapped(key)?.unwrap()])
    };
    let checkpoints = Checkpoints::new(&store);
    let mut all = Vec::new();
    for (compression, chain) in [("planes", 8), ("zstd", 1), ("none", 8), ("gzip:1", 2), ("planes", 0)] {
        for (key, number) in keys.iter().zip(0..) {
            all.push((number, held(key)?));
            let mut pieces = store.pieces(key)?.unwrap();
            all.push((number, held(key)?));
            checkpoints.repack(RepackOptions::new().compression(compression.parse()?).longest_chain(chain))?;
            let mut bytes = Vec::new();
            pieces.try_for_each(|piece| piece.map(|piece| bytes.extend(piece)))?;
            assert!(bytes == step(COUNT, number));
        }
        check(&store, &keys, COUNT)?;
    }
    for number in 0..3 {
        checkpoints.remove(&format!("step-{number}"))?;
    }
    checkpoints.gc(&Unwatched)?;
    assert_eq!(store.count()?, 0);
    for (number, held) in all {
        for weight in held {
            assert!(weight.data()? == step(COUNT, number));
        }
    }
    Ok(())
}

#[test]
fn a_full_disk_while_repacking_loses_nothing() -> Outcome {
    const COUNT: usize = 100_000;
    let path = Path::new("/disk/store.h5");
    let disk = SimulatedDisk::new();
    let open = |disk: &SimulatedDisk| {
        let storage = Storage::on_disk(Arc::new(disk.clone()), path, Options::new());
        Hdf5Store::open_storage(storage, &Hdf5Options::new().longest_chain(0))
    };
    let store = open(&disk)?;
    let keys = run(&store, COUNT, 3)?;
    let all = RepackOptions::new().batch_bytes(400_000);
    for (fault, compression) in [
        (Fault::Capacity(store.file_bytes()? + 100_000), "none"),
        (Fault::Capacity(store.file_bytes()? + 500_000), "none"),
        (Fault::FailWrite(3), "zstd"),
        (Fault::FailWrite(10), "zstd"),
        (Fault::FailSync(0), "zstd"),
        (Fault::FailSync(2), "zstd"),
    ] {
        let disk = SimulatedDisk::with_files([(path.to_path_buf(), disk.read(path).unwrap())].into());
        let store = open(&disk)?;
        disk.inject(Some(fault));
        let outcome = Checkpoints::new(&store).repack(all.compression(compression.parse()?).longest_chain(4));
        assert!(outcome.is_err(), "{fault:?}");
        disk.inject(None);
        drop(store);
        let store = open(&disk).map_err(|error| format!("{fault:?}: {error}"))?;
        check(&store, &keys, COUNT).map_err(|error| format!("{fault:?}: {error}"))?;
        Checkpoints::new(&store).repack(all.longest_chain(4))?;
        check(&store, &keys, COUNT)?;
    }
    Ok(())
}

#[test]
fn a_delta_and_a_weight_of_one_key_live_beside_each_other() -> Outcome {
    for compression in ["planes", "none"] {
        let store = Hdf5Store::memory(Hdf5Options::new())?;
        let keys = run(&store, 5000, 1)?;
        let (first, second) = (tensor(5000, 0), tensor(5000, 1));
        let delta = DeltaEncoder::default().encode_delta(&second, &first)?;
        let key = second.content_hash()?;
        // The delta is there first.
        store.store_delta(&delta, &key)?;
        assert!(!store.exists(&key)?);
        assert_eq!(add(&store, "step-1", std::slice::from_ref(&second), None)?, std::slice::from_ref(&key));
        let both = [keys[0].clone(), key.clone()];
        check(&store, &both, 5000)?;
        // Of the whole weight, too.
        store.store_delta(&DeltaEncoder::default().encode_delta(&first, &second)?, &keys[0])?;
        let checkpoints = Checkpoints::new(&store);
        for _ in 0..2 {
            checkpoints.repack(RepackOptions::new().compression(compression.parse()?))?;
            check(&store, &both, 5000)?;
            assert_eq!(store.load_delta(&key)?.unwrap().data, delta.data);
            assert_eq!((store.count()?, store.list_weights()?.len(), store.list_deltas()?.len()), (2, 2, 2));
        }
        assert_eq!(checkpoints.repack(RepackOptions::new().compression(compression.parse()?))?.rewritten, 0);
        // Each goes by itself.
        assert!(store.delete_delta(&key)?);
        assert!(store.exists(&key)? && !store.delta_exists(&key)?);
        checkpoints.remove("step-0")?;
        checkpoints.remove("step-1")?;
        checkpoints.gc(&Unwatched)?;
        assert!(store.delete_delta(&keys[0])?);
        checkpoints.gc(&Unwatched)?;
        assert_eq!((store.count()?, store.list_deltas()?.len()), (0, 0));
    }
    // The weight is a delta first.
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let keys = run(&store, 5000, 2)?;
    let delta: Delta = DeltaEncoder::default().encode_delta(&tensor(5000, 1), &tensor(5000, 2))?;
    assert!(matches!(store.store_delta(&delta, &keys[1]), Err(Error::Conflict { .. })));
    assert!(matches!(store.delete_delta(&keys[1]), Err(Error::InUse { .. })));
    check(&store, &keys, 5000)
}

#[test]
fn two_files_of_one_commit_are_deltas_of_each_other() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let mut files = Vec::new();
    for number in 0..3 {
        let file = folder.path().join(format!("{number}"));
        // The same tensor twice in each, and what the other files have.
        let other = tensor(6000, (number + 1) % 3);
        let tensors: Vec<WeightTensor> = ["a", "b", "c"]
            .iter()
            .zip([tensor(6000, number), tensor(6000, number), other])
            .map(|(name, tensor)| WeightTensor::new(*name, tensor.shape(), Dtype::F32, tensor.data().unwrap()).unwrap())
            .collect();
        safetensors::write(std::fs::File::create(&file)?, &tensors, &[])?;
        files.push((format!("{number}"), file));
    }
    let checkpoints = Checkpoints::new(&store);
    checkpoints.add_all(&files, AddOptions::new())?;
    for _ in 0..2 {
        for (name, file) in &files {
            let out = folder.path().join("out");
            checkpoints.export(name, &out)?;
            assert!(std::fs::read(out)? == std::fs::read(file)?);
        }
        assert_eq!(store.verify(&Unwatched)?.damaged, []);
        assert_eq!(store.count()?, 3);
        checkpoints.repack(RepackOptions::new().batch_bytes(1))?;
    }
    Ok(())
}

#[test]
fn strange_shapes_and_names_are_deltas_too() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let mut keys = Vec::new();
    let shapes: Vec<Vec<u64>> = vec![
        [vec![1; 40], vec![2048]].concat(),
        [vec![1; 31], vec![2048]].concat(),
        vec![0, 5],
        vec![],
        vec![3, 0],
        vec![1, 2048],
        vec![2048, 1],
    ];
    for number in 0..3 {
        let tensors: Vec<WeightTensor> = shapes
            .iter()
            .zip(0..)
            .map(|(shape, index)| {
                let count = shape.iter().product::<u64>() as usize;
                let data = step(count, number + 10 * index);
                WeightTensor::new(format!("{index}{}", "n".repeat(3000)), shape.clone(), Dtype::F32, data).unwrap()
            })
            .collect();
        for (key, tensor) in add(&store, &format!("{number}"), &tensors, None)?.into_iter().zip(tensors) {
            keys.push((key, tensor));
        }
    }
    for compression in ["planes", "none", "zstd", "lzf", "planes"] {
        for (key, tensor) in &keys {
            let found = store.load(key)?.unwrap();
            assert!(found.data()? == tensor.data()? && found.shape() == tensor.shape());
        }
        assert_eq!(store.verify(&Unwatched)?.damaged, []);
        Checkpoints::new(&store).repack(RepackOptions::new().compression(compression.parse()?))?;
    }
    Ok(())
}

#[test]
fn repacking_a_store_that_cannot_be_written_says_so() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path: PathBuf = folder.path().join("store.h5");
    let store = Hdf5Store::open(&path, Hdf5Options::new())?;
    let keys = run(&store, 5000, 2)?;
    store.close()?;
    let store = Hdf5Store::open(&path, Hdf5Options::new().mode(Mode::Read))?;
    assert!(matches!(Checkpoints::new(&store).repack(RepackOptions::new()), Err(Error::File(_))));
    check(&store, &keys, 5000)
}

#[test]
fn an_add_that_fails_within_a_commit_leaves_no_trace() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let keys = run(&store, 5000, 2)?;
    let mut model = Vec::new();
    safetensors::write(&mut model, &[tensor(5000, 2)], &[])?;
    let file = SafetensorsFile::from_bytes(model)?;
    let outcome: Result<(), Error> = store.transaction(|transaction| {
        transaction.add_checkpoint("step-2", &file, &Unwatched)?;
        transaction.remove_checkpoint("step-1")?;
        transaction.add_checkpoint("step-0", &file, &Unwatched).map(drop)
    });
    assert!(matches!(outcome, Err(Error::AlreadyExists { .. })));
    assert_eq!(store.count()?, 2);
    check(&store, &keys, 5000)?;
    // One that is caught leaves what it had stored, which gc frees.
    let cancelled = AtomicBool::new(true);
    store.transaction::<_, Error>(|transaction| {
        let _ = transaction.add_checkpoint("step-2", &file, &cancelled);
        Ok(())
    })?;
    check(&store, &keys, 5000)?;
    Checkpoints::new(&store).gc(&Unwatched)?;
    assert_eq!(store.count()?, 2);
    Ok(())
}

#[test]
fn big_endian_weights_under_keys_of_the_callers_survive() -> Outcome {
    let store = Hdf5Store::memory(Hdf5Options::new())?;
    let keys = run(&store, 5000, 2)?;
    let mine = WeightHash::new("mine")?;
    let big = Dtype::F32.with_byte_order(ByteOrder::Big);
    let weight = WeightTensor::new("w", vec![5000], big, step(5000, 0))?;
    store.store(&weight, Some(&mine))?;
    // Under another key what is a delta already.
    store.store(&tensor(5000, 1), Some(&WeightHash::new("copy")?))?;
    for compression in ["zstd", "none", "planes"] {
        Checkpoints::new(&store).repack(RepackOptions::new().compression(compression.parse()?))?;
        check(&store, &keys, 5000)?;
        let found = store.load(&mine)?.unwrap();
        assert!(found.dtype() == big && found.data()? == step(5000, 0));
        assert!(store.load(&WeightHash::new("copy")?)?.unwrap().data()? == step(5000, 1));
    }
    Ok(())
}

/// What another program may write of a delta of `reference`.
fn describe(dataset: &Dataset, key: &str, shape: &[i64], delta: Option<(&str, &str, &[i64])>) -> Outcome {
    let mut texts = vec![("name", "foreign"), ("dtype", "float32"), ("compression_info", "{}"), ("hash", key)];
    dataset.new_attr::<i64>().shape(shape.len()).create("shape")?.write_raw(shape)?;
    if let Some((delta_type, reference, chunk)) = delta {
        texts.extend([("delta_type", delta_type), ("original_dtype", "float32"), ("reference_hash", reference)]);
        dataset.new_attr::<i64>().shape(chunk.len()).create("sorted_within")?.write_raw(chunk)?;
    }
    for (name, text) in texts {
        let text: VarLenUnicode = text.parse().map_err(|_| "a text with a NUL")?;
        dataset.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
    }
    Ok(())
}

/// A store into which libhdf5 has written, with so many weights below /deltas, opened again.
fn store_with(count: u64, write: impl FnOnce(&Group, &Group) -> Outcome) -> Outcome<Hdf5Store> {
    let buffer = Buffer::new();
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    let file = store.storage().file()?;
    write(&file.group("weights")?, &file.group("deltas")?)?;
    file.group("deltas")?.new_attr::<u64>().create("weights")?.write_scalar(&count)?;
    store.storage().flush()?;
    store.close()?;
    Ok(Hdf5Store::open_source(buffer, Hdf5Options::new())?)
}

#[test]
fn forged_attributes_of_deltas_are_damage() -> Outcome {
    const COUNT: i64 = 1 << 20;
    const HUGE: usize = 1 << 29;
    let kinds: [(&str, &str, &str, &[i64]); 10] = [
        ("zeros", "zigzag", "base", &[0]),
        ("negative", "zigzag", "base", &[-1]),
        ("rank", "zigzag", "base", &[1, 1]),
        ("none", "zigzag", "base", &[]),
        ("itself", "zigzag", "itself", &[COUNT]),
        ("type", "xor_float32", "base", &[COUNT]),
        ("missing", "zigzag", "nobody", &[COUNT]),
        ("single", "zigzag_by_exponent", "base", &[1]),
        ("endless", "zigzag_by_exponent", "base", &[i64::MAX]),
        ("one run", "zigzag_by_exponent", "base", &[4 * COUNT]),
    ];
    let store = store_with(u64::MAX, |weights, deltas| {
        let base = weights.new_dataset::<f32>().shape(COUNT as usize).chunk(1 << 18).deflate(1).create("base")?;
        base.write_raw(&vec![1.5_f32; COUNT as usize])?;
        describe(&base, "base", &[COUNT], None)?;
        for (key, delta_type, reference, chunk) in kinds {
            let dataset = deltas.new_dataset::<u32>().shape(COUNT as usize).chunk(1 << 18).deflate(1).create(key)?;
            dataset.write_raw(&vec![2_u32; COUNT as usize])?;
            describe(&dataset, key, &[COUNT], Some((delta_type, reference, chunk)))?;
        }
        // Two gibibytes that neither has.
        let huge = weights.new_dataset::<f32>().shape(HUGE).chunk(1 << 18).deflate(1).create("huge")?;
        huge.write_slice(&vec![1.5_f32; 1 << 18], 0..1 << 18)?;
        describe(&huge, "huge", &[HUGE as i64], None)?;
        let dataset = deltas.new_dataset::<u32>().shape(HUGE).chunk(1 << 18).deflate(1).create("of-huge")?;
        dataset.write_slice(&vec![2_u32; 1 << 18], 0..1 << 18)?;
        describe(&dataset, "of-huge", &[HUGE as i64], Some(("zigzag", "huge", &[1 << 18])))
    })?;
    assert_eq!(store.count()?, 13);
    let keys = kinds.iter().map(|(key, ..)| *key).filter(|key| *key != "one run").chain(["of-huge"]);
    for key in keys {
        let key = WeightHash::new(key)?;
        let Err(Error::Damaged { problem, .. }) = store.load(&key) else { panic!("{key} was read") };
        assert!(key.as_str() != "of-huge" || problem.contains("claims"), "{problem}");
    }
    // One run of all elements is none that is too large here.
    let whole = store.load(&WeightHash::new("one run")?)?.unwrap();
    assert!(whole.data()?.chunks_exact(4).all(|element| element == (1.5_f32.to_bits() + 1).to_le_bytes()));
    assert!(matches!(store.delete(&WeightHash::new("base")?), Err(Error::InUse { .. })));
    Ok(())
}

#[test]
fn a_base_in_blocks_is_not_read_again_for_every_chunk() -> Outcome {
    const SIDE: usize = 1400;
    let store = store_with(1, |weights, deltas| {
        let shape = [SIDE as i64, SIDE as i64];
        let base = weights.new_dataset::<f32>().shape((SIDE, SIDE)).chunk((20, 20)).deflate(1).create("base")?;
        base.write_raw(&vec![1.5_f32; SIDE * SIDE])?;
        describe(&base, "base", &shape, None)?;
        let dataset = deltas.new_dataset::<u32>().shape((SIDE, SIDE)).chunk((30, 30)).deflate(1).create("delta")?;
        dataset.write_raw(&vec![2_u32; SIDE * SIDE])?;
        // As small as may be.
        describe(&dataset, "delta", &shape, Some(("zigzag_by_exponent", "base", &[3, SIDE as i64])))
    })?;
    let key = WeightHash::new("delta")?;
    let started = std::time::Instant::now();
    let expected = (1.5_f32.to_bits() + 1).to_le_bytes();
    let read = [store.load(&key)?.unwrap().data()?, store.load_lazy(&key)?.unwrap().data()?];
    let pieces: Vec<u8> = store.pieces(&key)?.unwrap().collect::<Result<Vec<_>, _>>()?.concat();
    for bytes in [&read[0][..], &read[1][..], &pieces[..]] {
        assert!(bytes.len() == SIDE * SIDE * 4 && bytes.chunks_exact(4).all(|element| element == expected));
    }
    assert!(store.load_rows(&key, 700..702)?.unwrap().data()?.chunks_exact(4).all(|element| element == expected));
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    Ok(())
}
