//! Commands that change a store, and export.

use crate::bench::Bench;

#[test]
fn what_was_added_is_exported_byte_for_byte() {
    let bench = Bench::with_store();
    for (number, compression) in ["planes", "gzip:9", "zstd", "lzf", "none"].iter().enumerate() {
        let name = format!("m{number}");
        bench.model(&name, &[&name, "a"]);
        let file = format!("{name}.safetensors");
        bench.run(["add", "models.h5", &file, "--compression", compression]).ok();
        bench.run(["export", "models.h5", &name, "-o", "out"]).ok();
        assert!(bench.bytes("out") == bench.bytes(&file), "{compression}");
    }
    assert_eq!(bench.checkpoints(), ["base", "m0", "m1", "m2", "m3", "m4"]);
}

#[test]
fn add_says_what_was_new() {
    let bench = Bench::with_store();
    bench.model("tuned", &["a", "b", "changed"]);
    bench.model("tuned-more", &["a", "changed", "changed-too"]);
    let report = bench.run(["add", "models.h5", "tuned.safetensors", "tuned-more.safetensors", "--json"]).json();
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    for (file, name) in files.iter().zip(["tuned", "tuned-more"]) {
        assert_eq!(file["name"], name);
        assert_eq!((&file["tensors"], &file["new_weights"]), (&3.into(), &1.into()));
        assert_eq!(file["bytes"].as_u64().unwrap(), bench.bytes(&format!("{name}.safetensors")).len() as u64);
        let stored = file["stored_bytes"].as_u64().unwrap();
        assert!((1000..=32 * 64 * 4).contains(&stored), "{stored}");
        assert!(file["seconds"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn one_name_is_for_one_file() {
    let bench = Bench::with_store();
    bench.model("x", &["x"]);
    bench.run(["add", "models.h5", "x.safetensors", "--name", "another"]).ok();
    assert_eq!(bench.checkpoints(), ["another", "base"]);
    let two = ["add", "models.h5", "x.safetensors", "base.safetensors", "--name", "n"];
    assert!(bench.run(two).refused(2).contains("--name"));
    std::fs::create_dir(bench.path("folder")).unwrap();
    std::fs::copy(bench.path("x.safetensors"), bench.path("folder/x.safetensors")).unwrap();
    let same = ["add", "models.h5", "x.safetensors", "folder/x.safetensors"];
    assert!(bench.run(same).refused(2).contains("`x`"));
}

#[test]
fn a_refused_add_of_several_files_adds_none_of_them() {
    let bench = Bench::with_store();
    bench.model("good", &["new"]);
    std::fs::write(bench.path("bad.safetensors"), b"no model").unwrap();
    let before = bench.bytes("models.h5");
    bench.run(["add", "models.h5", "good.safetensors", "bad.safetensors"]).refused(3);
    bench.run(["add", "models.h5", "good.safetensors", "base.safetensors"]).refused(6);
    assert!(bench.bytes("models.h5") == before);
}

#[test]
fn a_refused_add_makes_no_store() {
    let bench = Bench::new();
    bench.model("base", &["a"]);
    std::fs::write(bench.path("bad.safetensors"), b"no model").unwrap();
    let before = bench.files();
    bench.run(["add", "new.h5", "base.safetensors", "bad.safetensors"]).refused(3);
    bench.run(["add", "new.h5", "base.safetensors", "--name", "a/b"]).refused(2);
    bench.run(["add", "no-folder/new.h5", "base.safetensors"]).refused(4);
    assert_eq!(bench.files(), before);
}

#[test]
fn a_closed_store_is_one_file() {
    let bench = Bench::with_store();
    bench.model("more", &["more"]);
    bench.run(["add", "models.h5", "more.safetensors"]).ok();
    bench.run(["rm", "models.h5", "more"]).ok();
    bench.run(["gc", "models.h5"]).ok();
    assert_eq!(bench.files(), ["base.safetensors", "models.h5", "more.safetensors"]);
}

/// Readers of other programs hold a shared lock on the file, as libhdf5 takes it.
#[test]
fn a_reader_of_another_program_is_not_waited_for_and_the_user_is_told() {
    let bench = Bench::with_store();
    bench.model("more", &["more"]);
    let reader = std::fs::File::open(bench.path("models.h5")).unwrap();
    reader.lock_shared().unwrap();
    let done = bench.run(["add", "models.h5", "more.safetensors"]);
    assert!(done.code == Some(0) && done.err.starts_with("warning: ") && done.err.lines().count() == 1, "{done:?}");
    assert_eq!(bench.run(["rm", "models.h5", "base", "-q"]).ok(), "");
    assert_eq!(bench.checkpoints(), ["more"]);
    drop(reader);
    bench.run(["gc", "models.h5"]).ok();
    assert_eq!(bench.files(), ["base.safetensors", "models.h5", "more.safetensors"]);
}

#[test]
fn rm_removes_all_or_none_and_gc_frees_only_what_nothing_needs() {
    let bench = Bench::with_store();
    bench.model("tuned", &["a", "b", "changed"]);
    bench.run(["add", "models.h5", "tuned.safetensors"]).ok();
    assert!(bench.run(["rm", "models.h5", "tuned", "nobody"]).refused(6).contains("nobody"));
    assert_eq!(bench.checkpoints(), ["base", "tuned"]);

    let removed = bench.run(["rm", "models.h5", "base", "base", "--json"]).json();
    assert_eq!(removed["removed"], serde_json::json!(["base"]));
    assert_eq!(bench.run(["info", "models.h5", "--json"]).json()["weights"], 4);
    let freed = bench.run(["gc", "models.h5", "--json"]).json();
    assert_eq!(freed["weights"], 1);
    assert!(freed["stored_bytes"].as_u64().unwrap() > 1000, "{freed}");
    assert_eq!(bench.run(["info", "models.h5", "--json"]).json()["weights"], 3);
    bench.run(["export", "models.h5", "tuned", "-o", "out"]).ok();
    assert!(bench.bytes("out") == bench.bytes("tuned.safetensors"));
    bench.run(["verify", "models.h5"]).ok();
}

#[test]
fn a_rollback_is_one_commit_and_brings_back_what_was() {
    let bench = Bench::with_store();
    let current = || bench.run(["log", "models.h5", "--json"]).json();
    let with_base = current()["current"].as_u64().unwrap();
    bench.run(["rm", "models.h5", "base"]).ok();
    assert!(bench.checkpoints().is_empty());
    let before = current()["current"].as_u64().unwrap();
    let report = bench.run(["rollback", "models.h5", &with_base.to_string(), "--json"]).json();
    assert_eq!(report["commit"].as_u64().unwrap(), before + 1);
    assert_eq!(current()["current"].as_u64().unwrap(), before + 1);
    assert_eq!(bench.checkpoints(), ["base"]);
    bench.run(["verify", "models.h5"]).ok();

    let here = current()["current"].to_string();
    assert!(bench.run(["rollback", "models.h5", &here]).ok().contains("already"));
    assert!(bench.run(["rollback", "models.h5", "999"]).refused(6).contains("corallite log"));
}

#[test]
fn the_log_names_each_commit_with_its_time_and_size() {
    let bench = Bench::with_store();
    bench.model("more", &["more"]);
    bench.run(["add", "models.h5", "more.safetensors"]).ok();
    let log = bench.run(["log", "models.h5", "--json"]).json();
    let commits = log["commits"].as_array().unwrap();
    assert!(commits.len() >= 2, "{log}");
    assert_eq!(commits.last().unwrap()["number"], log["current"]);
    for pair in commits.windows(2) {
        assert!(pair[0]["number"].as_u64() < pair[1]["number"].as_u64());
        assert!(pair[0]["time"].as_str() <= pair[1]["time"].as_str());
        assert!(pair[1]["bytes"].as_u64().unwrap() > 0);
    }
    assert!(bench.run(["log", "models.h5"]).ok().contains("current"));
}

#[test]
fn an_export_replaces_an_older_file_but_no_store() {
    let bench = Bench::with_store();
    std::fs::write(bench.path("out"), b"older").unwrap();
    bench.run(["export", "models.h5", "base", "-o", "out"]).ok();
    assert!(bench.bytes("out") == bench.bytes("base.safetensors"));

    let before = bench.bytes("models.h5");
    std::fs::copy(bench.path("models.h5"), bench.path("other.h5")).unwrap();
    std::os::unix::fs::symlink("models.h5", bench.path("link.h5")).unwrap();
    for target in ["models.h5", "./models.h5", "link.h5", "models.h5-journal"] {
        bench.run(["export", "models.h5", "base", "-o", target]).refused(2);
        bench.run(["export", "models.h5", "base", "-o", target, "--force"]).refused(2);
    }
    assert!(bench.run(["export", "models.h5", "base", "-o", "other.h5"]).refused(2).contains("--force"));
    assert!(bench.bytes("models.h5") == before && bench.bytes("other.h5") == before);
    bench.run(["export", "models.h5", "base", "-o", "other.h5", "--force"]).ok();
    assert!(bench.bytes("other.h5") == bench.bytes("base.safetensors"));
}

#[test]
fn an_export_through_a_link_replaces_what_it_points_to() {
    let bench = Bench::with_store();
    std::fs::write(bench.path("real"), b"older").unwrap();
    std::os::unix::fs::symlink("real", bench.path("link")).unwrap();
    bench.run(["export", "models.h5", "base", "-o", "link"]).ok();
    assert!(bench.path("link").is_symlink());
    assert!(bench.bytes("real") == bench.bytes("base.safetensors"));
}

#[test]
fn a_refused_export_leaves_no_file() {
    let bench = Bench::with_store();
    let before = bench.files();
    bench.run(["export", "models.h5", "nobody", "-o", "out"]).refused(6);
    bench.run(["export", "models.h5", "base", "-o", "no-folder/out"]).refused(7);
    bench.run(["export", "models.h5", "base", "-o", "/dev/null"]).refused(7);
    bench.run(["export", "models.h5", "base", "-o", "."]).refused(7);
    assert_eq!(bench.files(), before);
}

#[test]
fn commands_that_change_nothing_leave_every_byte() {
    let bench = Bench::with_store();
    let before = bench.bytes("models.h5");
    for arguments in [
        &["ls", "models.h5"][..],
        &["show", "models.h5", "base"],
        &["show", "models.h5", "base/a"],
        &["info", "models.h5"],
        &["verify", "models.h5"],
        &["log", "models.h5"],
        &["export", "models.h5", "base", "-o", "out"],
    ] {
        bench.run(arguments).ok();
        assert!(bench.bytes("models.h5") == before, "{arguments:?}");
    }
    assert_eq!(bench.files(), ["base.safetensors", "models.h5", "out"]);
}
