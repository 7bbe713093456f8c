//! Commands that look at a store: ls, show, info, verify.

use corallite::Store;
use corallite::weights::{Dtype, WeightStore, WeightTensor};

use crate::bench::Bench;

#[test]
fn ls_names_checkpoints_and_counts_loose_weights() {
    let bench = Bench::with_store();
    let store = Store::open(bench.path("models.h5")).unwrap();
    let loose = WeightTensor::new("loose.weight", vec![3], Dtype::U8, vec![1_u8, 2, 3]).unwrap();
    let key = store.weights().store(&loose, None).unwrap();
    store.close().unwrap();

    let listing = bench.run(["ls", "models.h5", "--json"]).json();
    let base = &listing["checkpoints"][0];
    assert_eq!((&base["name"], &base["tensors"]), (&"base".into(), &3.into()));
    assert_eq!(base["source"], "base.safetensors");
    assert_eq!(base["logical_bytes"].as_u64().unwrap(), bench.bytes("base.safetensors").len() as u64);
    assert!(base["added_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&listing["weights"], &listing["loose_weights"]), (&4.into(), &1.into()));
    assert!(listing.get("loose").is_none());

    let text = bench.run(["ls", "models.h5"]).ok();
    assert!(text.contains("base.safetensors") && text.contains("1 loose") && !text.contains("loose.weight"), "{text}");
    let text = bench.run(["ls", "models.h5", "--weights"]).ok();
    assert!(text.contains("loose.weight") && text.contains(&key.as_str()[..12]), "{text}");
}

#[test]
fn ls_lists_the_weights_of_a_file_without_checkpoints() {
    let bench = Bench::new();
    let store = Store::open(bench.path("models.h5")).unwrap();
    let loose = WeightTensor::new("alone", vec![3], Dtype::U8, vec![1_u8, 2, 3]).unwrap();
    store.weights().store(&loose, None).unwrap();
    store.close().unwrap();
    let text = bench.run(["ls", "models.h5"]).ok();
    assert!(text.contains("alone") && text.contains("uint8") && text.contains("[3]"), "{text}");
    assert_eq!(bench.run(["ls", "models.h5", "--json"]).json()["loose"][0]["name"], "alone");
}

#[test]
fn show_lists_the_tensors_and_metadata_of_a_checkpoint() {
    let bench = Bench::with_store();
    let shown = bench.run(["show", "models.h5", "base", "--json"]).json();
    assert_eq!(shown["kind"], "checkpoint");
    assert_eq!(shown["metadata"], serde_json::json!({"format": "pt"}));
    let tensors = shown["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 3);
    for (tensor, name) in tensors.iter().zip(["a", "b", "c"]) {
        assert_eq!((&tensor["name"], &tensor["dtype"]), (&name.into(), &"float32".into()));
        assert_eq!((&tensor["shape"], &tensor["bytes"]), (&serde_json::json!([32, 64]), &8192.into()));
        assert_eq!(tensor["key"].as_str().unwrap().len(), 64);
        assert!((1..=8192).contains(&tensor["stored_bytes"].as_u64().unwrap()));
    }
    let text = bench.run(["show", "models.h5", "base"]).ok();
    assert!(text.contains("format = pt") && text.contains("[32, 64]") && text.contains("float32"), "{text}");
}

#[test]
fn a_weight_is_found_by_its_key_the_beginning_of_it_and_its_name() {
    let bench = Bench::with_store();
    let key =
        bench.run(["show", "models.h5", "base", "--json"]).json()["tensors"][1]["key"].as_str().unwrap().to_owned();
    let upper = key[..10].to_ascii_uppercase();
    for what in [&key, &key[..6], &upper, "base/b"] {
        let shown = bench.run(["show", "models.h5", what, "--json"]).json();
        assert_eq!((&shown["kind"], &shown["name"]), (&"weight".into(), &"b".into()), "{what}");
        assert_eq!(shown["key"].as_str().unwrap(), key);
    }
    bench.run(["show", "models.h5", &key[..5]]).refused(6);
}

#[test]
fn the_beginning_of_two_keys_is_refused() {
    let bench = Bench::new();
    let store = Store::open(bench.path("models.h5")).unwrap();
    for (key, value) in [("same-start-1", 1_u8), ("same-start-2", 2)] {
        let weight = WeightTensor::new(key, vec![1], Dtype::U8, vec![value]).unwrap();
        store.weights().store(&weight, Some(&key.parse().unwrap())).unwrap();
    }
    store.close().unwrap();
    assert!(bench.run(["show", "models.h5", "same-start"]).refused(6).contains("more digits"));
    assert!(bench.run(["show", "models.h5", "same-start-2"]).ok().contains("same-start-2"));
}

#[test]
fn show_draws_a_weight_s_values() {
    let bench = Bench::new();
    let values: Vec<u8> = (0..1000).flat_map(|index| ((index % 10) as f32 - 4.5).to_le_bytes()).collect();
    let one = |name: &str, shape: &[u64], dtype, bytes: Vec<u8>| WeightTensor::new(name, shape, dtype, bytes).unwrap();
    bench.write(
        "model",
        &[
            one("level", &[10, 100], Dtype::F32, values),
            one("empty", &[0, 3], Dtype::F16, vec![]),
            one("scalar", &[], Dtype::I64, 7_i64.to_le_bytes().to_vec()),
            one(
                "nan",
                &[2],
                Dtype::F32,
                [f32::NAN, f32::INFINITY].iter().flat_map(|value| value.to_le_bytes()).collect(),
            ),
        ],
    );
    bench.run(["add", "models.h5", "model.safetensors"]).ok();
    let shown = bench.run(["show", "models.h5", "model/level", "--json"]).json();
    let found = &shown["statistics"];
    assert_eq!((&found["count"], &found["zeros"]), (&1000.into(), &0.into()));
    assert_eq!((&found["min"], &found["max"], &found["mean"]), (&(-4.5).into(), &4.5.into(), &0.0.into()));
    let counts = shown["histogram"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 1000);
    assert_eq!(shown["checkpoints"], serde_json::json!(["model"]));
    let text = bench.run(["show", "models.h5", "model/level"]).ok();
    assert!(text.contains('█') && text.contains("min -4.5") && text.contains("1000 values"), "{text}");
    for name in ["empty", "scalar", "nan"] {
        let text = bench.run(["show", "models.h5", &format!("model/{name}")]).ok();
        assert!(text.contains(name) && !text.contains('█'), "{text}");
    }
}

#[test]
fn every_dtype_has_figures() {
    let bench = Bench::new();
    let dtypes: Vec<Dtype> = Dtype::ALL.into_iter().filter(|dtype| dtype.safetensors_name().is_some()).collect();
    assert!(dtypes.len() > 20);
    let tensors: Vec<WeightTensor> = dtypes
        .iter()
        .map(|dtype| {
            // Of each dtype some numbers that are finite, and none that are the same in all.
            let bytes: Vec<u8> = (0..48_u8).map(|at| at % 2).collect();
            let shape = vec![48 * 8 / u64::from(dtype.bit_size())];
            WeightTensor::new(dtype.numpy_name(), shape, *dtype, bytes).unwrap()
        })
        .collect();
    bench.write("model", &tensors);
    bench.run(["add", "models.h5", "model.safetensors"]).ok();
    for tensor in &tensors {
        let shown = bench.run(["show", "models.h5", &format!("model/{}", tensor.name()), "--json"]).json();
        let found = &shown["statistics"];
        let values = tensor.size() * if tensor.name() == "complex64" { 2 } else { 1 };
        assert_eq!(
            (&found["count"], &found["nan"], &found["infinite"]),
            (&values.into(), &0.into(), &0.into()),
            "{shown}"
        );
        let of = |figure: &str| found[figure].as_f64().unwrap_or_else(|| panic!("{}: no {figure}", tensor.name()));
        assert!(of("min") <= of("mean") && of("mean") <= of("max") && of("std") >= 0.0, "{shown}");
        assert_eq!(shown["dtype"], tensor.name());
    }
}

#[test]
fn info_has_the_keys_that_scripts_rely_on() {
    let bench = Bench::with_store();
    bench.run(["add", "models.h5", "base.safetensors", "--name", "again"]).ok();
    let info = bench.run(["info", "models.h5", "--json"]).json();
    let length = bench.bytes("base.safetensors").len() as u64;
    assert_eq!((&info["weights"], &info["checkpoints"]), (&3.into(), &2.into()));
    assert_eq!(info["logical_bytes"].as_u64().unwrap(), 2 * length);
    assert_eq!(info["file_bytes"].as_u64().unwrap(), bench.bytes("models.h5").len() as u64);
    let stored = info["stored_bytes"].as_u64().unwrap();
    assert!(stored > 0 && stored < length, "{info}");
    let ratio = info["ratio"].as_f64().unwrap();
    assert!((ratio - 2.0 * length as f64 / stored as f64).abs() < 1e-9, "{info}");
    assert!(bench.run(["info", "models.h5"]).ok().contains('█'));
}

#[test]
fn info_of_an_empty_store_has_no_ratio() {
    let bench = Bench::with_store();
    bench.run(["rm", "models.h5", "base"]).ok();
    bench.run(["gc", "models.h5"]).ok();
    let info = bench.run(["info", "models.h5", "--json"]).json();
    assert_eq!((&info["weights"], &info["stored_bytes"]), (&0.into(), &0.into()));
    assert!(info["ratio"].is_null());
    bench.run(["info", "models.h5"]).ok();
    bench.run(["ls", "models.h5"]).ok();
}

#[test]
fn verify_of_a_sound_store_counts_what_it_checked() {
    let bench = Bench::with_store();
    let report = bench.run(["verify", "models.h5", "--json"]).json();
    assert_eq!((&report["ok"], &report["verified"]), (&true.into(), &3.into()));
    assert_eq!((&report["bytes"], &report["unverifiable"]), (&(3 * 8192).into(), &0.into()));
    assert_eq!(report["damaged"], serde_json::json!([]));
    assert_eq!(bench.run(["verify", "models.h5", "--quiet"]).ok(), "");
}
