//! The store's file: whatever the bytes are, opening it and reading everything in it gives values or errors.

use std::sync::LazyLock;

use corallite_file::hdf5::File;
use corallite_file::hdf5::types::VarLenUnicode;
use corallite_file::{Buffer, Mode};
use corallite_weights::{
    Checkpoints, Compression, Delta, DeltaStore, DeltaType, Dtype, Hdf5Options, Hdf5Store, SafetensorsFile, Unwatched,
    WeightHash, WeightStore, WeightTensor, coral_hash, safetensors,
};

use crate::input::{EDITS, Input, edit};

/// A valid store with a weight of each layout, a delta, a checkpoint and a few commits of history.
pub static VALID: LazyLock<Vec<u8>> = LazyLock::new(|| valid().expect("a store in memory can be written"));

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| ((i as f32 * 0.37).sin() * 0.05).to_le_bytes()).collect()
}

fn valid() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let buffer = Buffer::new();
    let mut reference = None;
    for (compression, rows) in [("gzip:4", 600), ("lzf", 500), ("none", 300), ("none", 3)] {
        let compression: Compression = compression.parse()?;
        let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new().compression(compression))?;
        let weight = WeightTensor::new(format!("w{rows}"), vec![rows, 8], Dtype::F32, floats(rows as usize * 8))?;
        reference = Some(store.store(&weight, None)?);
        store.close()?;
    }
    let reference = reference.ok_or("no weight")?;
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    let delta = Delta {
        delta_type: DeltaType::Float32Raw,
        data: floats(24).into(),
        data_dtype: Dtype::F32,
        data_shape: vec![24],
        metadata: serde_json::Map::new(),
        original_shape: vec![3, 8],
        original_dtype: Dtype::F32,
        reference_hash: reference,
        compression_ratio: 1.0,
    };
    store.store_delta(&delta, &WeightHash::new("delta")?)?;
    let mut model = Vec::new();
    let tensors = [
        WeightTensor::new("bias", vec![5], Dtype::BF16, vec![7; 10])?,
        WeightTensor::new("empty", vec![0, 4], Dtype::F32, vec![])?,
        WeightTensor::new("step", vec![], Dtype::I64, vec![1; 8])?,
    ];
    safetensors::write(&mut model, &tensors, &[("format".to_owned(), "pt".to_owned())])?;
    let model = SafetensorsFile::from_bytes(model)?;
    store.transaction(|transaction| transaction.add_checkpoint("base", &model, &Unwatched).map(drop))?;
    store.close()?;
    Ok(buffer.to_vec())
}

/// A store as coral writes it, in HDF5's oldest format, whose structures carry no checksums at all.
pub static CORAL: LazyLock<Vec<u8>> = LazyLock::new(|| coral().expect("a file can be written in the temporary folder"));

fn coral() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    // libhdf5 writes the old format to a path only.
    let path = std::env::temp_dir().join(format!("corallite-fuzz-{}.h5", std::process::id()));
    let file = File::create(&path)?;
    let weights = file.create_group("weights")?;
    file.create_group("metadata")?;
    file.create_group("deltas")?;
    for (rows, chunked) in [(600, true), (40, false), (41, false)] {
        let data = floats(rows * 8);
        let key = coral_hash(Dtype::F32, &[rows as u64, 8], &data);
        let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let builder = weights.new_dataset::<f32>().shape((rows, 8));
        let builder = if chunked { builder.chunk((100, 8)).shuffle().deflate(4) } else { builder };
        let dataset = builder.create(key.as_str())?;
        dataset.write_raw(&values)?;
        let texts = [
            ("name", format!("w{rows}")),
            ("dtype", "float32".to_owned()),
            ("compression_info", "{}".to_owned()),
            ("hash", key.to_string()),
        ];
        for (name, text) in texts {
            let text: VarLenUnicode = text.parse().map_err(|_| "a text with a NUL")?;
            dataset.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
        }
        dataset.new_attr::<i64>().shape(2).create("shape")?.write_raw(&[rows as i64, 8])?;
    }
    // Closing alone does not write while groups are open.
    file.flush()?;
    drop((weights, file));
    let bytes = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    Ok(bytes)
}

/// How an input is used: its first byte modulo 3.
pub mod base {
    /// The rest of the input is the file.
    pub const NONE: u8 = 0;
    /// The rest is edits of [`VALID`](super::VALID).
    pub const VALID: u8 = 1;
    /// The rest is edits of [`CORAL`](super::CORAL).
    pub const CORAL: u8 = 2;
}

/// One input of the target.
pub fn check(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut file = match input.u8() % 3 {
        base::NONE => input.rest().to_vec(),
        base::VALID => VALID.clone(),
        _ => CORAL.clone(),
    };
    while !input.is_empty() {
        let kind = input.u8();
        edit(kind % EDITS, &mut input, &mut file);
    }
    read_all(file);
}

/// Opens `file` as a store and reads everything; says how many weights could be read.
pub fn read_all(file: Vec<u8>) -> usize {
    let Ok(store) = Hdf5Store::open_source(Buffer::from(file), Hdf5Options::new().mode(Mode::Read)) else { return 0 };
    let mut readable = 0;
    for key in store.list_weights().unwrap_or_default() {
        let _ = store.exists(&key);
        let _ = store.get_metadata(&key);
        let _ = store.load_rows(&key, 0..1);
        let _ = store.load_mapped(&key);
        if let Ok(Some(lazy)) = store.load_lazy(&key) {
            let _ = lazy.data();
        }
        readable += usize::from(matches!(store.load(&key), Ok(Some(_))));
    }
    for key in store.list_deltas().unwrap_or_default() {
        let _ = store.load_delta(&key);
    }
    let _ = (store.get_storage_info(), store.get_delta_storage_info(), store.count());
    let _ = (store.needed_by_checkpoints(), store.verify(&Unwatched));
    let checkpoints = Checkpoints::new(&store);
    for info in checkpoints.list().unwrap_or_default() {
        let _ = checkpoints.get(&info.name);
    }
    let _ = checkpoints.verify();
    let _ = (store.storage().versions(), store.storage().trailer_problem());
    let _ = store.close();
    readable
}
