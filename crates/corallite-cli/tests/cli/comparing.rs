//! diff and stats.

use corallite::Store;
use corallite::weights::{Dtype, WeightHash, WeightStore, WeightTensor};
use serde_json::{Value, json};

use crate::bench::{Bench, Done};

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn tensor(name: &str, shape: &[u64], dtype: Dtype, bytes: Vec<u8>) -> WeightTensor {
    WeightTensor::new(name, shape, dtype, bytes).unwrap()
}

/// Values like those of a trained layer, moved by so much a step.
fn layer(seed: u32, steps: f32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    f32s((0..64 * 256).map(|_| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        next() * 0.1 + steps * next() * 1e-5
    }))
}

/// A store with `base`, and `first` and `second`, which are its layers trained on; `head` stays what it is.
fn trained() -> Bench {
    let bench = Bench::new();
    for (step, name) in ["base", "first", "second"].into_iter().enumerate() {
        let tensors = [
            tensor("layer.0", &[64, 256], Dtype::F32, layer(1, step as f32)),
            tensor("layer.1", &[64, 256], Dtype::F32, layer(2, step as f32)),
            tensor("head", &[64, 256], Dtype::F32, layer(3, 0.0)),
        ];
        bench.write(name, &tensors);
    }
    bench.run(["add", "models.h5", "base.safetensors", "first.safetensors", "second.safetensors"]).ok();
    bench
}

/// A store with checkpoints `a` and `b` of these tensors, which are stored as they are.
fn pair(a: &[WeightTensor], b: &[WeightTensor]) -> Bench {
    let bench = Bench::new();
    bench.write("a", a);
    bench.write("b", b);
    bench.run(["add", "models.h5", "a.safetensors", "b.safetensors", "--compression", "none", "--chain", "0"]).ok();
    bench
}

fn diff(bench: &Bench, more: &[&str]) -> Value {
    bench.run([&["diff", "models.h5", "a", "b", "--json"], more].concat()).json()
}

/// The keys of an object, sorted.
fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn diff_of_the_same_checkpoint_finds_nothing_and_ends_with_0() {
    let bench = trained();
    bench.run(["add", "models.h5", "base.safetensors", "--name", "again"]).ok();
    for other in ["base", "again"] {
        let report = bench.run(["diff", "models.h5", "base", other, "--exit-code", "--json"]).json();
        assert_eq!((&report["identical"], &report["same"], &report["changed"]), (&true.into(), &3.into(), &0.into()));
        assert_eq!((&report["tensors"], &report["change"]), (&json!([]), &Value::Null));
        assert_eq!(report["differing_bytes"], 0);
    }
    let text = bench.run(["diff", "models.h5", "base", "again"]).ok();
    assert!(text.contains("identical: 3 tensors") && !text.contains("layer.0"), "{text}");
    let text = bench.run(["diff", "models.h5", "base", "again", "--all"]).ok();
    assert!(text.contains("layer.0") && text.contains("same"), "{text}");
    assert_eq!(
        bench.run(["diff", "models.h5", "base", "again", "-a", "--json"]).json()["tensors"][2]["status"],
        "same"
    );
}

#[test]
fn diff_says_how_much_a_tensor_changed() {
    let bench = pair(
        &[
            tensor("moved", &[4], Dtype::F32, f32s([1.0, 2.0, 2.0, 0.0])),
            tensor("still", &[2], Dtype::F32, f32s([1.0, 2.0])),
            tensor("zeros", &[2], Dtype::F32, f32s([0.0, 0.0])),
        ],
        &[
            tensor("moved", &[4], Dtype::F32, f32s([1.0, 2.0, 2.0, 1.5])),
            tensor("still", &[2], Dtype::F32, f32s([1.0, 2.0])),
            tensor("zeros", &[2], Dtype::F32, f32s([3.0, 4.0])),
        ],
    );
    let report = diff(&bench, &[]);
    assert_eq!((&report["same"], &report["changed"], &report["identical"]), (&1.into(), &2.into(), &false.into()));
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 2);
    let moved = &tensors.iter().find(|tensor| tensor["name"] == "moved").unwrap()["change"];
    assert_eq!((number(&moved["relative_norm"]), number(&moved["norm"])), (0.5, 1.5));
    assert_eq!((number(&moved["largest_change"]), number(&moved["changed_share"])), (1.5, 0.25));
    assert!((number(&moved["cosine"]) - 9.0 / (3.0 * 11.25_f64.sqrt())).abs() < 1e-15, "{moved}");
    let zeros = &tensors.iter().find(|tensor| tensor["name"] == "zeros").unwrap()["change"];
    assert_eq!((&zeros["relative_norm"], &zeros["cosine"]), (&Value::Null, &Value::Null));
    assert_eq!(number(&zeros["norm"]), 5.0);
    // Of both together: the root of 1.5² + 5² against 3.
    assert!((number(&report["change"]["relative_norm"]) - 27.25_f64.sqrt() / 3.0).abs() < 1e-15, "{report}");
    assert_eq!((&report["differing_bytes"], &report["differing_stored_bytes"]), (&24.into(), &24.into()));

    let text = bench.run(["diff", "models.h5", "a", "b"]).ok();
    assert!(text.contains("0.5") && text.contains('█') && text.contains("25.0 %"), "{text}");
    assert!(text.contains("was all zeros") && text.contains("1 same, 2 changed"), "{text}");
}

#[test]
fn what_differs_is_8_when_the_exit_code_is_to_say_so() {
    let bench = trained();
    bench.run(["diff", "models.h5", "base", "first"]).ok();
    for more in [&["--exit-code"][..], &["--exit-code", "-q"], &["--exit-code", "--json"]] {
        let done = bench.run([&["diff", "models.h5", "base", "first"], more].concat());
        assert!(done.code == Some(8) && !done.out.is_empty() && done.err.is_empty(), "{done:?}");
    }
    let done = bench.run(["diff", "models.h5", "base/head", "base/layer.0", "--exit-code"]);
    assert_eq!(done.code, Some(8), "{done:?}");
    bench.run(["diff", "models.h5", "base/head", "first/head", "--exit-code"]).ok();
}

#[test]
fn tensors_that_are_in_one_or_of_another_kind_are_named_as_such() {
    let values = || f32s([1.0, 2.0, 3.0, 4.0]);
    let bench = pair(
        &[
            tensor("gone", &[4], Dtype::F32, values()),
            tensor("retyped", &[4], Dtype::F32, values()),
            tensor("reshaped", &[4], Dtype::F32, values()),
            tensor("empty", &[0, 3], Dtype::F32, vec![]),
        ],
        &[
            tensor("retyped", &[4], Dtype::I32, values()),
            tensor("reshaped", &[2, 2], Dtype::F32, values()),
            tensor("come", &[4], Dtype::F32, values()),
            tensor("empty", &[0, 3], Dtype::F32, vec![]),
        ],
    );
    let report = diff(&bench, &["--all"]);
    let status = |name: &str| {
        let tensors = report["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["status"].as_str().unwrap().to_owned()
    };
    assert_eq!((status("gone").as_str(), status("come").as_str()), ("only_in_a", "only_in_b"));
    assert_eq!((status("retyped").as_str(), status("reshaped").as_str()), ("other_dtype", "other_shape"));
    assert_eq!(status("empty"), "same");
    for kind in ["same", "only_in_a", "only_in_b", "other_dtype", "other_shape"] {
        assert_eq!(report[kind], 1, "{kind}");
    }
    assert_eq!((&report["changed"], &report["change"]), (&0.into(), &Value::Null));
    // The values of `come` are those of `gone`: another name is another tensor.
    assert_eq!(report["differing_bytes"], 48);
    let text = bench.run(["diff", "models.h5", "a", "b"]).ok();
    for words in ["only in a", "only in b", "float32 is now int32", "[4] is now [2, 2]", "1 of another shape"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("empty"), "{text}");
    assert_eq!(bench.run(["diff", "models.h5", "a", "b", "--exit-code"]).code, Some(8));
}

#[test]
fn nan_and_infinity_are_counted_and_left_out() {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let bench = pair(
        &[tensor("w", &[5], Dtype::F32, f32s([3.0, nan, 4.0, 1.0, infinity]))],
        &[tensor("w", &[5], Dtype::F32, f32s([3.0, nan, 9.0, nan, infinity]))],
    );
    let change = diff(&bench, &[])["tensors"][0]["change"].clone();
    assert_eq!((&change["nan"], &change["infinite"], &change["changed_elements"]), (&2.into(), &1.into(), &2.into()));
    assert_eq!((number(&change["relative_norm"]), number(&change["largest_change"])), (1.0, 5.0));
    let text = bench.run(["diff", "models.h5", "a", "b"]).ok();
    assert!(text.contains("left out") && text.contains("2 pairs with a NaN, 1 pair with an infinity"), "{text}");

    let bench = pair(&[tensor("w", &[1], Dtype::F32, f32s([nan]))], &[tensor("w", &[1], Dtype::F32, f32s([1.0]))]);
    let change = diff(&bench, &[])["tensors"][0]["change"].clone();
    assert_eq!(
        (&change["relative_norm"], &change["cosine"], &change["largest_change"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    bench.run(["diff", "models.h5", "a", "b"]).ok();
}

#[test]
fn diff_compares_weights_by_name_and_by_key() {
    let bench = trained();
    let tensors = bench.run(["show", "models.h5", "first", "--json"]).json()["tensors"].clone();
    let find = |name: &str| tensors.as_array().unwrap().iter().find(|tensor| tensor["name"] == name).unwrap();
    let key = find("layer.0")["key"].as_str().unwrap();
    let by_name = bench.run(["diff", "models.h5", "base/layer.0", "first/layer.0", "--json"]).json();
    let by_key = bench.run(["diff", "models.h5", "base/layer.0", &key[..12], "--json"]).json();
    assert_eq!(by_name["tensors"], by_key["tensors"]);
    assert_eq!((&by_key["changed"], &by_key["tensors"][0]["b"]["key"]), (&1.into(), &key.into()));
    let text = bench.run(["diff", "models.h5", "base/layer.0", "base/layer.1"]).ok();
    assert!(text.contains("layer.0 / layer.1"), "{text}");

    assert!(bench.run(["diff", "models.h5", "base", "first/head"]).refused(2).contains("two weights"));
    for names in [["base", "nobody"], ["nobody", "base"], ["base/head", "base/nobody"]] {
        bench.run(["diff", "models.h5", names[0], names[1]]).refused(6);
    }
}

#[test]
fn weights_that_have_keys_of_their_own_and_the_same_bytes_are_the_same() {
    let bench = Bench::new();
    let store = Store::open(bench.path("models.h5")).unwrap();
    for key in ["mine.1", "mine.2"] {
        let weight = tensor("w", &[3], Dtype::U8, vec![1, 2, 3]);
        store.weights().store(&weight, Some(&WeightHash::new(key).unwrap())).unwrap();
    }
    store.close().unwrap();
    let report = bench.run(["diff", "models.h5", "mine.1", "mine.2", "--json", "--exit-code"]).json();
    assert_eq!((&report["identical"], &report["same"]), (&true.into(), &1.into()));
}

#[test]
fn diff_and_show_say_what_is_stored_as_a_delta_of_what() {
    let bench = trained();
    let report = bench.run(["diff", "models.h5", "base", "first", "--json"]).json();
    for tensor in report["tensors"].as_array().unwrap() {
        let (a, b) = (&tensor["a"], &tensor["b"]);
        assert_eq!((&b["base"], &b["chain"], &a["base"], &a["chain"]), (&a["key"], &1.into(), &Value::Null, &0.into()));
        assert!(b["delta_type"].as_str().unwrap().starts_with("zigzag"), "{b}");
        assert!(b["stored_bytes"].as_u64() < b["bytes"].as_u64(), "{b}");
    }
    assert_eq!(report["changed"], 2);
    assert_eq!(bench.run(["diff", "models.h5", "base", "first"]).ok().matches("delta of A").count(), 2);
    let second = bench.run(["diff", "models.h5", "base", "second"]).ok();
    assert!(!second.contains("delta of A") && second.contains("delta of "), "{second}");

    let shown = bench.run(["show", "models.h5", "first", "--json"]).json();
    let stored: Vec<_> = shown["tensors"].as_array().unwrap().iter().map(|tensor| tensor["chain"].as_u64()).collect();
    assert_eq!(stored.iter().flatten().sum::<u64>(), 2, "{shown}");
    let text = bench.run(["show", "models.h5", "first"]).ok();
    assert_eq!((text.matches("delta of ").count(), text.matches("whole").count()), (2, 1), "{text}");
    // A weight that is a delta is shown with its values, not with the differences.
    let weight = bench.run(["show", "models.h5", "second/layer.1", "--json"]).json();
    let values: Vec<f32> = layer(2, 2.0).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
    assert_eq!((number(&weight["statistics"]["min"]), weight["chain"].as_u64()), (f64::from(min), Some(2)));
    assert!((number(&weight["statistics"]["mean"]) - mean).abs() < 1e-12, "{weight}");
}

/// Changes a byte of the only tensor of `b.safetensors` where it is stored.
fn damage(bench: &Bench, model: &str, from_end: usize) {
    let model = bench.bytes(model);
    let wanted = &model[model.len() - from_end..][..64];
    let mut store = bench.bytes("models.h5");
    let at = store.windows(64).position(|window| window == wanted).unwrap();
    store[at + 8] ^= 4;
    std::fs::write(bench.path("models.h5"), store).unwrap();
}

#[test]
fn a_damaged_tensor_is_named_and_the_others_are_compared() {
    let values = |from: u16| (0..2048).flat_map(|index: u16| (from + index).to_le_bytes()).collect::<Vec<u8>>();
    let two =
        |from| [tensor("x", &[2048], Dtype::U16, values(from)), tensor("y", &[2048], Dtype::U16, values(9000 + from))];
    let bench = pair(&two(0), &two(3000));
    damage(&bench, "b.safetensors", 4096);
    let done = bench.run(["diff", "models.h5", "a", "b", "--json", "--exit-code"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let report: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&report["damaged"], &report["changed"], &report["identical"]), (&1.into(), &1.into(), &false.into()));
    let damaged = &report["tensors"][1];
    assert_eq!(
        (&damaged["name"], &damaged["status"], &damaged["change"]),
        (&"y".into(), &"damaged".into(), &Value::Null)
    );
    assert!(damaged["problem"].as_str().unwrap().contains(damaged["b"]["key"].as_str().unwrap()), "{damaged}");
    let done = bench.run(["diff", "models.h5", "a", "b"]);
    assert!(done.code == Some(1) && done.out.contains("damaged y: "), "{done:?}");
}

#[test]
fn the_json_of_diff_and_stats_has_the_keys_that_scripts_rely_on() {
    let bench = trained();
    let report = bench.run(["diff", "models.h5", "base", "second", "--all", "--json"]).json();
    let whole = [
        "a",
        "b",
        "change",
        "changed",
        "damaged",
        "differing_bytes",
        "differing_stored_bytes",
        "identical",
        "only_in_a",
        "only_in_b",
        "other_dtype",
        "other_shape",
        "same",
        "store",
        "tensors",
    ];
    assert_eq!(keys(&report), whole);
    let change = [
        "changed_elements",
        "changed_share",
        "cosine",
        "elements",
        "infinite",
        "largest_change",
        "nan",
        "norm",
        "relative_norm",
    ];
    assert_eq!(keys(&report["change"]), change);
    for tensor in report["tensors"].as_array().unwrap() {
        assert_eq!(keys(tensor), ["a", "b", "change", "name", "problem", "status"]);
        let side = ["base", "bytes", "chain", "delta_type", "dtype", "key", "name", "shape", "stored_bytes"];
        assert_eq!((keys(&tensor["a"]), keys(&tensor["b"])), (side.to_vec(), side.to_vec()));
        assert_eq!(tensor["change"].is_null(), tensor["status"] == "same");
    }

    let stats = bench.run(["stats", "models.h5", "--json"]).json();
    let whole = [
        "chains",
        "checkpoint_records",
        "checkpoints",
        "damaged",
        "deltas",
        "dtypes",
        "file_bytes",
        "files_stored_bytes",
        "filters",
        "in_no_checkpoint",
        "journal_bytes",
        "largest",
        "links_stored_bytes",
        "log_bytes",
        "objects_stored_bytes",
        "other_deltas",
        "rest_bytes",
        "store",
        "whole",
    ];
    assert_eq!(keys(&stats), whole);
    let tally = ["bytes", "stored_bytes", "weights"];
    assert_eq!((keys(&stats["whole"]), keys(&stats["deltas"])), (tally.to_vec(), tally.to_vec()));
    assert_eq!(keys(&stats["dtypes"][0]), ["bytes", "dtype", "stored_bytes", "weights"]);
    assert_eq!(keys(&stats["filters"][0]), ["bytes", "filters", "stored_bytes", "weights"]);
    assert_eq!(keys(&stats["chains"][0]), ["bytes", "length", "stored_bytes", "weights"]);
    let checkpoint = ["added_stored_bytes", "logical_bytes", "name", "stored_bytes", "tensors", "unique_stored_bytes"];
    assert_eq!(keys(&stats["checkpoints"][0]), checkpoint);
    let largest = ["base", "bytes", "dtype", "key", "name", "shape", "stored_bytes"];
    assert_eq!(keys(&stats["largest"][0]), largest);
}

fn sum(rows: &Value, field: &str) -> u64 {
    rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).sum()
}

#[test]
fn the_sums_of_stats_agree_with_each_other_and_with_the_file() {
    let bench = trained();
    bench.write("mixed", &[tensor("bits", &[700], Dtype::U8, (0..700_u32).map(|at| (at * 77) as u8).collect())]);
    bench.run(["add", "models.h5", "mixed.safetensors", "--compression", "none"]).ok();
    let store = Store::open(bench.path("models.h5")).unwrap();
    store.weights().store(&tensor("loose", &[3], Dtype::I16, vec![1, 2, 3, 4, 5, 6]), None).unwrap();
    store.close().unwrap();
    bench.run(["link", "models.h5", "base", "mit", "english"]).ok();

    let stats = bench.run(["stats", "models.h5", "--json"]).json();
    let info = bench.run(["info", "models.h5", "--json"]).json();
    let at = |part: &Value, field: &str| part[field].as_u64().unwrap();
    let stored = at(&stats["whole"], "stored_bytes") + at(&stats["deltas"], "stored_bytes");
    assert_eq!(stored, info["stored_bytes"].as_u64().unwrap());
    assert_eq!((at(&stats["whole"], "weights"), at(&stats["deltas"], "weights")), (5, 4), "{stats}");
    for rows in ["dtypes", "filters", "chains"] {
        assert_eq!(sum(&stats[rows], "stored_bytes"), stored, "{rows}");
        assert_eq!(sum(&stats[rows], "weights"), 9, "{rows}");
        assert_eq!(sum(&stats[rows], "bytes"), at(&stats["whole"], "bytes") + at(&stats["deltas"], "bytes"), "{rows}");
    }
    let added = sum(&stats["checkpoints"], "added_stored_bytes");
    assert_eq!(added + at(&stats["in_no_checkpoint"], "stored_bytes"), stored);
    assert_eq!((at(&stats["in_no_checkpoint"], "weights"), at(&stats["in_no_checkpoint"], "bytes")), (1, 6));
    let file = bench.bytes("models.h5").len() as u64;
    assert_eq!(at(&stats, "file_bytes"), file);
    let accounted = stored
        + at(&stats["other_deltas"], "stored_bytes")
        + at(&stats["checkpoint_records"], "stored_bytes")
        + at(&stats, "links_stored_bytes")
        + at(&stats, "objects_stored_bytes")
        + at(&stats, "files_stored_bytes");
    assert_eq!(accounted + at(&stats, "rest_bytes"), file);
    assert!(at(&stats, "links_stored_bytes") > 0 && at(&stats["checkpoint_records"], "stored_bytes") > 0, "{stats}");

    let chains: Vec<(u64, u64)> =
        stats["chains"].as_array().unwrap().iter().map(|row| (at(row, "length"), at(row, "weights"))).collect();
    assert_eq!(chains, [(0, 5), (1, 2), (2, 2)]);
    let names: Vec<&str> =
        stats["checkpoints"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "first", "second", "mixed"]);
    for row in stats["checkpoints"].as_array().unwrap() {
        let (whole, own, added) =
            (at(row, "stored_bytes"), at(row, "unique_stored_bytes"), at(row, "added_stored_bytes"));
        // `head` came with `base`, and the others have it too; what else a checkpoint added is its own.
        let shared = if row["name"] == "base" { added - own } else { 0 };
        assert!(own + shared == added && added <= whole && (row["name"] != "base" || shared > 0), "{row}");
    }
    let text = bench.run(["stats", "models.h5"]).ok();
    for words in
        ["whole weights", "weights as deltas", "the rest", "shuffle, deflate", "uint8", "0 (whole)", "second", "█"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn stats_lists_as_many_of_the_largest_weights_as_it_is_asked_for() {
    let bench = trained();
    let largest = |more: &[&str]| {
        let stats = bench.run([&["stats", "models.h5", "--json"], more].concat()).json();
        let rows = stats["largest"].as_array().unwrap().clone();
        rows.iter().map(|row| row["stored_bytes"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let all = largest(&[]);
    assert!(all.len() == 7 && all.is_sorted_by(|a, b| a >= b), "{all:?}");
    assert_eq!(largest(&["--top", "2"]), all[..2]);
    assert!(largest(&["--top", "0"]).is_empty());
    assert!(!bench.run(["stats", "models.h5", "--top", "0"]).ok().contains("LARGEST"));
    assert_eq!(bench.run(["stats", "models.h5", "--top", "many"]).code, Some(2));
}

#[test]
fn stats_of_a_store_with_nothing_in_it_is_no_error() {
    let bench = Bench::with_store();
    bench.run(["rm", "models.h5", "base"]).ok();
    bench.run(["gc", "models.h5"]).ok();
    let stats = bench.run(["stats", "models.h5", "--json"]).json();
    assert_eq!(
        (&stats["whole"]["weights"], &stats["checkpoints"], &stats["chains"]),
        (&0.into(), &json!([]), &json!([]))
    );
    let at = |name: &str| stats[name].as_u64().unwrap();
    assert_eq!(at("rest_bytes") + at("objects_stored_bytes"), at("file_bytes"));
    assert!(bench.run(["stats", "models.h5"]).ok().contains("the rest"));
    let done: Done = bench.run(["stats", "nothing.h5"]);
    done.refused(4);
}
