//! Makes a delta of two weights of a store, or applies one; the Python tests run it beside coral-ml.
//!
//! ```text
//! cargo run -p corallite-weights --example delta -- encode STORE WEIGHT REFERENCE TYPE DELTA
//! cargo run -p corallite-weights --example delta -- decode STORE DELTA REFERENCE OUT
//! ```
//!
//! WEIGHT, REFERENCE and DELTA are keys in the store. `encode` adds the delta to the store and prints its metadata;
//! `decode` writes the bytes of the weight to the file OUT.

use std::error::Error;
use std::io::Write;

use corallite_file::Mode;
use corallite_weights::{
    DeltaConfig, DeltaEncoder, DeltaStore, Hdf5Options, Hdf5Store, WeightHash, WeightStore, WeightTensor,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["encode", store, weight, reference, delta_type, delta] => encode(store, weight, reference, delta_type, delta),
        ["decode", store, delta, reference, out] => decode(store, delta, reference, out),
        _ => {
            Err("usage: delta encode STORE WEIGHT REFERENCE TYPE DELTA | delta decode STORE DELTA REFERENCE OUT".into())
        }
    }
}

fn load(store: &Hdf5Store, key: &str) -> Result<WeightTensor, Box<dyn Error>> {
    Ok(store.load(&WeightHash::new(key)?)?.ok_or_else(|| format!("there is no weight {key}"))?)
}

fn encode(path: &str, weight: &str, reference: &str, delta_type: &str, key: &str) -> Result<(), Box<dyn Error>> {
    let store = Hdf5Store::open(path, Hdf5Options::new())?;
    let encoder = DeltaEncoder::new(DeltaConfig { delta_type: delta_type.into(), ..DeltaConfig::default() });
    let delta = encoder.encode_delta(&load(&store, weight)?, &load(&store, reference)?)?;
    store.store_delta(&delta, &WeightHash::new(key)?)?;
    store.close()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&delta.metadata)?)?;
    Ok(())
}

fn decode(path: &str, key: &str, reference: &str, out: &str) -> Result<(), Box<dyn Error>> {
    let store = Hdf5Store::open(path, Hdf5Options::new().mode(Mode::Read))?;
    let delta = store.load_delta(&WeightHash::new(key)?)?.ok_or_else(|| format!("there is no delta {key}"))?;
    let weight = DeltaEncoder::default().decode_delta(&delta, &load(&store, reference)?)?;
    std::fs::write(out, weight.data()?)?;
    Ok(())
}
