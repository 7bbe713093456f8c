//! Each exit code, by something that really ends with it.

use std::time::{Duration, Instant};

use corallite::Store;

use crate::bench::{Bench, Done};

#[test]
fn damage_is_1_and_named() {
    let bench = Bench::with_store();
    bench.model("plain", &["plain.weight"]);
    bench.run(["add", "models.h5", "plain.safetensors", "--compression", "none"]).ok();
    let model = bench.bytes("plain.safetensors");
    let tensor = &model[model.len() - 32 * 64 * 4..];
    let mut store = bench.bytes("models.h5");
    let at = store.windows(64).position(|window| window == &tensor[..64]).unwrap();
    store[at + 1000] ^= 4;
    std::fs::write(bench.path("models.h5"), &store).unwrap();

    let key = {
        let shown = bench.run(["show", "models.h5", "plain", "--json"]).json();
        shown["tensors"][0]["key"].as_str().unwrap().to_owned()
    };
    let done = bench.run(["verify", "models.h5"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let line = done.out.lines().find(|line| line.contains(&key)).unwrap_or_else(|| panic!("{done:?}"));
    assert!(line.starts_with("damaged weight") && line.contains("plain.weight"), "{line}");

    let done = bench.run(["verify", "models.h5", "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["damaged"][0]["key"].as_str().unwrap(), key);
    assert_eq!(report["damaged"][0]["name"], "plain.weight");

    assert!(bench.run(["export", "models.h5", "plain", "-o", "out"]).refused(1).contains(&key));
    assert!(!bench.path("out").exists());
    bench.run(["export", "models.h5", "base", "-o", "out"]).ok();
}

#[test]
fn wrong_usage_is_2() {
    let bench = Bench::with_store();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["ls"],
        &["ls", "models.h5", "--nothing"],
        &["add", "models.h5"],
        &["add", "models.h5", "base.safetensors", "--compression", "gzip:10"],
        &["export", "models.h5", "base"],
        &["diff", "models.h5", "base"],
        &["rollback", "models.h5", "yesterday"],
        &["completions", "no-shell"],
        &["link", "models.h5", "key"],
        &["links", "models.h5"],
        &["load-links", "models.h5", "-", "--batch", "0"],
        &["restore", "models.h5"],
        &["backup", "models.h5", "models.h5"],
    ] {
        let done = bench.run(arguments);
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:?}");
        assert!(done.out.is_empty() && !done.err.is_empty(), "{done:?}");
    }
}

#[test]
fn a_bad_input_file_is_3_and_named() {
    let bench = Bench::with_store();
    std::fs::write(bench.path("text.safetensors"), b"once upon a time").unwrap();
    let mut cut = bench.bytes("base.safetensors");
    cut.pop();
    std::fs::write(bench.path("cut.safetensors"), cut).unwrap();
    std::fs::create_dir(bench.path("folder.safetensors")).unwrap();
    for file in ["text.safetensors", "cut.safetensors", "folder.safetensors", "gone.safetensors"] {
        assert!(bench.run(["add", "models.h5", file]).refused(3).contains(file));
    }
    bench.run(["add", "models.h5", ".."]).refused(3);
}

#[test]
fn a_store_that_cannot_be_used_is_4() {
    let bench = Bench::with_store();
    std::fs::write(bench.path("text.h5"), b"once upon a time").unwrap();
    std::fs::create_dir(bench.path("folder.h5")).unwrap();
    let before = bench.files();
    for store in ["missing.h5", "text.h5", "folder.h5", "base.safetensors/x.h5"] {
        for arguments in [
            &["ls", store][..],
            &["show", store, "base"],
            &["info", store],
            &["stats", store],
            &["diff", store, "base", "base"],
            &["verify", store],
            &["log", store],
            &["rm", store, "base"],
            &["gc", store],
            &["rollback", store, "1"],
            &["export", store, "base", "-o", "out"],
        ] {
            bench.run(arguments).refused(4);
        }
        if store != "missing.h5" {
            bench.run(["add", store, "base.safetensors"]).refused(4);
        }
    }
    assert_eq!(bench.files(), before);
    assert_eq!(bench.bytes("text.h5"), b"once upon a time");
}

#[test]
fn an_empty_file_is_4_until_something_is_added() {
    let bench = Bench::new();
    bench.model("base", &["a"]);
    std::fs::write(bench.path("models.h5"), b"").unwrap();
    for arguments in [&["ls", "models.h5"][..], &["rm", "models.h5", "base"]] {
        assert!(bench.run(arguments).refused(4).contains("corallite add"));
        assert!(bench.bytes("models.h5").is_empty());
    }
    bench.run(["add", "models.h5", "base.safetensors"]).ok();
    assert_eq!(bench.checkpoints(), ["base"]);
}

#[test]
fn a_store_that_another_process_writes_is_5_and_says_which() {
    let bench = Bench::with_store();
    let holder = Store::open(bench.path("models.h5")).unwrap();
    for arguments in [
        &["add", "models.h5", "base.safetensors", "--name", "n"][..],
        &["rm", "models.h5", "base"],
        &["gc", "models.h5"],
    ] {
        let sentence = bench.run(arguments).refused(5);
        assert!(sentence.contains(&std::process::id().to_string()), "{sentence}");
    }
    for arguments in [&["ls", "models.h5"][..], &["info", "models.h5"], &["verify", "models.h5"]] {
        bench.run(arguments).ok();
    }
    holder.close().unwrap();
    bench.run(["rm", "models.h5", "base"]).ok();
}

#[test]
fn a_name_that_is_not_there_or_taken_is_6() {
    let bench = Bench::with_store();
    for arguments in [
        &["show", "models.h5", "nobody"][..],
        &["show", "models.h5", "base/nobody"],
        &["show", "models.h5", "a/b/c"],
        &["rm", "models.h5", "nobody"],
        &["export", "models.h5", "nobody", "-o", "out"],
    ] {
        bench.run(arguments).refused(6);
    }
    assert!(bench.run(["add", "models.h5", "base.safetensors"]).refused(6).contains("base"));
}

#[test]
fn a_disk_that_takes_no_more_is_7_and_the_store_is_as_it_was() {
    let bench = Bench::with_store();
    bench.large_model("large", 1 << 20);
    let before = bench.bytes("models.h5");
    // The signal that comes with the limit must not end the process either.
    let sentence = bench.shell(r#"ulimit -f 1000; "$corallite" add models.h5 large.safetensors"#).refused(7);
    assert!(sentence.contains("models.h5"), "{sentence}");
    assert_eq!(bench.checkpoints(), ["base"]);
    bench.run(["verify", "models.h5"]).ok();
    bench.run(["add", "models.h5", "large.safetensors"]).ok();
    assert!(bench.bytes("models.h5") != before);
    bench.shell(r#"ulimit -f 1000; "$corallite" export models.h5 large -o out"#).refused(7);
    assert!(!bench.path("out").exists());
}

#[test]
fn an_interrupt_is_130_and_leaves_no_new_store() {
    let bench = Bench::new();
    bench.large_model("large", 24 << 20);
    let before = bench.files();
    for signal in ["INT", "TERM"] {
        let interrupted = (0..20).any(|_| {
            let adding = bench.start(["add", "new.h5", "large.safetensors", "--compression", "gzip:9"]);
            let id = adding.id().to_string();
            let deadline = Instant::now() + Duration::from_secs(20);
            while !bench.path("new.h5").exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
            let done = Done::from(adding.wait_with_output().unwrap());
            if done.code == Some(0) {
                // The signal came after the commit: once more.
                std::fs::remove_file(bench.path("new.h5")).unwrap();
                return false;
            }
            assert!(done.refused(130).contains("interrupted"));
            true
        });
        assert!(interrupted, "no {signal} came in time");
        assert_eq!(bench.files(), before);
    }
}
