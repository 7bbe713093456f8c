//! A flipped bit anywhere in a store is found by `verify`, or it changed nothing that the store says.

use std::collections::BTreeMap;

use corallite_file::{Buffer, Mode, Options, Storage};
use corallite_weights::{
    Checkpoints, Delta, DeltaStore, DeltaType, Dtype, Hdf5Options, Hdf5Store, Unwatched, WeightHash, WeightStore,
    WeightTensor, safetensors,
};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Everything a store says, as text.
fn dump(store: &Hdf5Store) -> Outcome<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for key in store.list_weights()? {
        let weight = store.load(&key)?.ok_or("listed but absent")?;
        let hash = blake3::hash(&weight.data()?);
        all.insert(format!("weight {key}"), format!("{:?} {hash}", weight.metadata()));
    }
    for key in store.list_deltas()? {
        all.insert(format!("delta {key}"), format!("{:?}", store.load_delta(&key)?));
    }
    let checkpoints = Checkpoints::new(store);
    for info in checkpoints.list()? {
        all.insert(format!("checkpoint {}", info.name), format!("{:?}", checkpoints.get(&info.name)?));
    }
    Ok(all)
}

fn open(bytes: Vec<u8>) -> Outcome<Hdf5Store> {
    let options = Hdf5Options::new().mode(Mode::Read);
    let storage = Storage::with_options(Buffer::from(bytes), Options::new().adopt(Hdf5Store::is_coral));
    Ok(Hdf5Store::open_storage(storage, &options)?)
}

/// Whether `verify` finds fault with the file.
fn is_found(store: &Hdf5Store) -> bool {
    let (Ok(weights), Ok(checkpoints)) = (store.verify(&Unwatched), Checkpoints::new(store).verify()) else {
        return true;
    };
    !weights.damaged.is_empty() || !checkpoints.is_empty()
}

/// A small store with every layout, a checkpoint, a delta, and history.
fn sample() -> Outcome<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("model.safetensors");
    let floats = |count: u32, seed: u32| -> Vec<u8> {
        (0..count).flat_map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) as f32).sin().to_le_bytes()).collect()
    };
    let tensors = [
        WeightTensor::new("layer.weight", vec![60, 50], Dtype::F32, floats(3000, 1))?,
        WeightTensor::new("layer.bias", vec![20], Dtype::F32, floats(20, 2))?,
    ];
    safetensors::write(std::fs::File::create(&file)?, &tensors, &[("format".to_owned(), "pt".to_owned())])?;
    let buffer = Buffer::new();
    for (seed, compression) in [(1, "gzip"), (2, "none"), (3, "lzf")] {
        let options = Hdf5Options::new().compression(compression.parse()?);
        let storage = Storage::with_options(buffer.clone(), Options::new().adopt(Hdf5Store::is_coral));
        let store = Hdf5Store::open_storage(storage, &options)?;
        store.store(&WeightTensor::new("loose", vec![700], Dtype::F32, floats(700, seed))?, None)?;
        let mine = WeightHash::new(format!("mine-{compression}"))?;
        let key = store.store(&WeightTensor::new("mine", vec![90], Dtype::F64, floats(180, seed))?, Some(&mine))?;
        if compression == "gzip" {
            Checkpoints::new(&store).add("base", &file)?;
            let delta = Delta {
                delta_type: DeltaType::Sparse,
                data: floats(300, 9).into(),
                data_dtype: Dtype::F32,
                data_shape: vec![300],
                metadata: serde_json::Map::new(),
                original_shape: vec![90],
                original_dtype: Dtype::F64,
                reference_hash: key,
                compression_ratio: 0.5,
            };
            store.store_delta(&delta, &WeightHash::new("delta")?)?;
        }
        store.close()?;
    }
    Ok(buffer.to_vec())
}

#[test]
fn a_flipped_bit_is_found_or_changed_nothing() -> Outcome {
    let bytes = sample()?;
    let good = open(bytes.clone())?;
    assert!(!is_found(&good));
    let expected = dump(&good)?;
    assert_eq!(expected.len(), 10);
    let (mut found, mut harmless) = (0, 0);
    // A prime step, so that every kind of structure is met at every position within it.
    for at in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let Ok(store) = open(damaged) else {
            found += 1;
            continue;
        };
        if is_found(&store) {
            found += 1;
        } else {
            let actual =
                dump(&store).map_err(|error| format!("offset {at}: verify found nothing, reading failed: {error}"))?;
            assert_eq!(actual, expected, "offset {at}: verify found nothing, but the content differs");
            harmless += 1;
        }
    }
    assert!(found > harmless / 8, "{found} found, {harmless} in unused bytes");
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_refused_or_complete() -> Outcome {
    let bytes = sample()?;
    let expected = dump(&open(bytes.clone())?)?;
    for length in (0..bytes.len()).step_by(1009) {
        if let Ok(store) = open(bytes[..length].to_vec()) {
            // Only the trailer was cut: all data is there, and the loss is reported.
            assert_eq!(dump(&store)?, expected);
            assert!(is_found(&store), "cut at {length}");
        }
    }
    Ok(())
}
