//! What is known about checkpoints: tags, properties, files, queries, and all of it as JSON.

use serde_json::{Value, json};

use crate::bench::Bench;

fn found(bench: &Bench, condition: &str) -> Vec<String> {
    let found = bench.run(["find", "models.h5", "Checkpoint", condition, "--sort", "name", "--json"]).json();
    found.as_array().unwrap().iter().map(|object| object["oid"].as_str().unwrap().to_owned()).collect()
}

fn with_three() -> Bench {
    let bench = Bench::with_store();
    bench.model("run-1", &["a", "d"]);
    bench.model("run-2", &["a", "e"]);
    let add = "add models.h5 run-1.safetensors --parent base --tag best --tag small --set loss=1.5";
    bench.run(add.split(' ')).ok();
    bench.run("add models.h5 run-2.safetensors --parent run-1 --set metrics.accuracy=0.75".split(' ')).ok();
    bench
}

#[test]
fn checkpoints_are_found_by_what_was_said_of_them() {
    let bench = with_three();
    assert_eq!(found(&bench, ""), ["base", "run-1", "run-2"]);
    assert_eq!(found(&bench, "tags = 'best' and loss < 2"), ["run-1"]);
    assert_eq!(found(&bench, "metrics.accuracy > 0.5 or parent = 'base'"), ["run-1", "run-2"]);
    bench.run(["set", "models.h5", "run-2", "loss=2.5", "note=a longer note"]).ok();
    bench.run(["tag", "models.h5", "run-2", "best", "best"]).ok();
    assert_eq!(found(&bench, "tags = 'best'"), ["run-1", "run-2"]);
    assert_eq!(found(&bench, "tags = 'best' and loss >= 2 and note ~ 'LONGER'"), ["run-2"]);
    bench.run(["tag", "models.h5", "run-1", "best", "--remove"]).ok();
    bench.run(["set", "models.h5", "run-2", "loss="]).ok();
    assert_eq!(found(&bench, "tags = 'best'"), ["run-2"]);
    assert_eq!(found(&bench, "loss is null"), ["base", "run-2"]);
    assert_eq!(bench.run(["tag", "models.h5", "run-1"]).ok(), "run-1: small\n");

    let newest =
        bench.run(["find", "models.h5", "Checkpoint", "", "--sort", "-created", "--limit", "1", "--json"]).json();
    assert_eq!(newest[0]["name"], "run-2");
    assert_eq!(newest[0]["tensors"], 2);
    assert_eq!(newest[0]["parent"], json!({"oid": "run-1", "type": "Checkpoint"}));
    assert_eq!(newest[0]["weights"].as_array().unwrap().len(), 2);
    let plan = bench.run(["find", "models.h5", "Checkpoint", "tags = 'best' and loss < 2", "--explain"]).ok();
    assert_eq!(plan, "index Checkpoint.by.tags = \"best\"; then the condition\n");
    let table = bench.run(["find", "models.h5", "Checkpoint", "tags = 'best'"]).ok();
    assert!(table.contains("metrics=accuracy=0.75") && table.contains("tags=best"), "{table}");
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let bench = with_three();
    let before = bench.bytes("models.h5");
    let refused = |line: &str, code: i32| bench.run(line.split(' ')).refused(code);
    assert!(refused("set models.h5 base name=other", 2).contains("cannot be set"));
    assert!(refused("set models.h5 base loss", 2).contains("KEY=VALUE"));
    assert!(refused("set models.h5 base parent=nobody", 6).contains("nobody"));
    assert!(refused("set models.h5 nobody loss=1", 6).contains("nobody"));
    assert!(refused("set models.h5 base tags=3", 2).contains("tags"));
    refused("tag models.h5 nobody best", 6);
    refused("set models.h5 base parent=base", 2);
    refused("set models.h5 base loss=NaN", 2);
    assert!(refused("find models.h5 Checkpoint created>'yesterday'", 2).contains("2026-01-31"));
    refused("find models.h5 Checkpoint --sort -", 2);
    refused("put-file models.h5 .", 3);
    refused("put-file models.h5 /dev/zero", 3);
    refused("put-file models.h5 models.h5", 2);
    assert!(refused("find models.h5 Nothing", 2).contains("Checkpoint"));
    assert!(refused("find models.h5 Checkpoint loss<", 2).contains("character"));
    assert!(refused("get-file models.h5 nothing -o out", 6).contains("nothing"));
    refused("put-file models.h5 nothing", 3);
    refused("add models.h5 run-1.safetensors --name x --parent nobody", 6);
    assert_eq!(bench.bytes("models.h5"), before);
    assert!(!bench.path("out").exists());
}

#[test]
fn a_removed_checkpoint_is_found_no_more_and_is_no_parent() {
    let bench = with_three();
    bench.run(["rm", "models.h5", "run-1"]).ok();
    assert_eq!(found(&bench, ""), ["base", "run-2"]);
    assert_eq!(found(&bench, "parent is null"), ["base", "run-2"]);
    assert!(bench.run(["gc", "models.h5", "--json"]).json()["weights"].as_u64() >= Some(1));
    bench.run(["verify", "models.h5"]).ok();
}

#[test]
fn files_come_back_byte_for_byte() {
    let bench = Bench::new();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(bench.path("large.bin"), &content).unwrap();
    std::fs::write(bench.path("empty"), b"").unwrap();
    let put = bench.run("put-file models.h5 large.bin --name a/large.bin --set kind=test --json".split(' ')).json();
    assert_eq!((&put["bytes"], &put["replaced"]), (&json!(12_000_000), &json!(false)));
    bench.run(["put-file", "models.h5", "empty"]).ok();
    bench.run(["get-file", "models.h5", "a/large.bin", "-o", "out"]).ok();
    bench.run(["get-file", "models.h5", "empty", "-o", "out-empty"]).ok();
    assert!(bench.bytes("out") == content && bench.bytes("out-empty").is_empty());
    assert!(bench.shell("$corallite get-file models.h5 a/large.bin -o - | cmp - large.bin").ok().is_empty());
    std::fs::write(bench.path("large.bin"), b"another").unwrap();
    let put = bench.run("put-file models.h5 large.bin --name a/large.bin --json".split(' ')).json();
    assert_eq!(put["replaced"], true);
    bench.run(["get-file", "models.h5", "a/large.bin", "-o", "out"]).ok();
    assert_eq!(bench.bytes("out"), b"another");
    assert!(bench.run(["get-file", "models.h5", "empty", "-o", "models.h5"]).refused(2).contains("the store itself"));
    bench.run(["verify", "models.h5"]).ok();
}

#[test]
fn objects_go_out_and_in_again() {
    let bench = with_three();
    let lines = ["{\"type\":\"Run\",\"oid\":\"a\",\"loss\":1.5}", "", "{\"type\":\"Run\",\"steps\":[1,2]}"].join("\n");
    std::fs::write(bench.path("runs.jsonl"), lines).unwrap();
    let saved = bench.run(["import-objects", "models.h5", "runs.jsonl", "--json"]).json();
    assert_eq!(saved["saved"], json!({"Run": 2}));
    let runs = bench.run(["find", "models.h5", "Run", "loss < 2", "--json"]).json();
    assert_eq!(runs[0]["oid"], "a");

    bench.run(["export-objects", "models.h5", "-o", "all.jsonl"]).ok();
    let all = String::from_utf8(bench.bytes("all.jsonl")).unwrap();
    let values: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.iter().filter(|value| value["type"] == "Checkpoint").count(), 3);
    assert_eq!(values.iter().filter(|value| !value["@class"].is_null()).count(), 2);
    let saved = bench.run(["import-objects", "models.h5", "all.jsonl", "--json"]).json();
    assert_eq!((&saved["saved"], &saved["unchanged"]), (&json!({}), &json!(5)));

    // Into another store, which has one of the checkpoints.
    bench.run(["add", "other.h5", "run-1.safetensors"]).ok();
    let saved = bench.run(["import-objects", "other.h5", "all.jsonl", "--json"]).json();
    assert_eq!((&saved["saved"], &saved["skipped"]), (&json!({"Checkpoint": 1, "Run": 2}), &json!(2)));
    let tagged = bench.run(["find", "other.h5", "Checkpoint", "tags = 'best'", "--json"]).json();
    assert_eq!(tagged[0]["loss"], 1.5);

    std::fs::write(bench.path("bad.jsonl"), "{\"type\":\"Run\",\"oid\":\"b\"}\n{\"loss\":1}\n").unwrap();
    assert!(bench.run(["import-objects", "models.h5", "bad.jsonl"]).refused(3).contains("line 2"));
    assert!(bench.run(["export-objects", "models.h5", "--class", "Nothing"]).refused(2).contains("Run"));
}

#[test]
fn what_was_said_is_sorted_by_shown_and_listed() {
    let bench = with_three();
    for (name, accuracy) in [("base", 0.5), ("run-1", 0.9), ("run-2", 0.7)] {
        bench.run(["set", "models.h5", name, &format!("metrics.accuracy={accuracy}")]).ok();
    }
    let found = bench.run("find models.h5 Checkpoint --sort -metrics.accuracy --json".split(' ')).json();
    let names: Vec<&str> = found.as_array().unwrap().iter().map(|object| object["oid"].as_str().unwrap()).collect();
    assert_eq!(names, ["run-1", "run-2", "base"]);
    let shown = bench.run(["show", "models.h5", "run-1", "--json"]).json();
    assert_eq!((&shown["properties"]["tags"], &shown["properties"]["loss"]), (&json!(["best", "small"]), &json!(1.5)));
    assert!(bench.run(["show", "models.h5", "run-1"]).ok().contains("tags: best, small"));
    std::fs::write(bench.path("card.md"), "# Card").unwrap();
    bench.run("put-file models.h5 card.md --set license=mit".split(' ')).ok();
    let listed = bench.run(["ls", "models.h5", "--files", "--json"]).json();
    assert_eq!(
        (&listed["files"][0]["name"], &listed["files"][0]["meta"]),
        (&json!("card.md"), &json!({"license": "mit"}))
    );
    assert!(bench.run(["ls", "models.h5", "--files"]).ok().contains("card.md"));
}

#[test]
fn a_checkpoint_that_objects_of_others_need_is_not_removed() {
    let bench = with_three();
    let declaration = json!({
        "@class": "Report", "collection": "Report",
        "declaration": {"name": "Report", "properties": {}, "indexes": {},
            "relations": {"model": {"targets": ["Checkpoint"], "many": false, "on_remove": "Refuse"}}},
    });
    let report = json!({"type": "Report", "oid": "r", "model": {"oid": "base", "type": "Checkpoint"}});
    std::fs::write(bench.path("in.jsonl"), format!("{declaration}\n{report}\n")).unwrap();
    bench.run(["import-objects", "models.h5", "in.jsonl"]).ok();
    assert!(bench.run(["rm", "models.h5", "base"]).refused(6).contains("Report.r"));
    assert_eq!(bench.checkpoints(), ["base", "run-1", "run-2"]);
    for class in ["File", "weight"] {
        std::fs::write(bench.path("in.jsonl"), json!({"type": class, "oid": "x"}).to_string()).unwrap();
        assert!(bench.run(["import-objects", "models.h5", "in.jsonl"]).refused(3).contains("no class of objects"));
    }
}
