//! What is printed, where, and for whom.

use std::os::unix::ffi::OsStrExt;

use corallite::weights::{Dtype, WeightTensor};

use crate::bench::{Bench, Done};

const COMMANDS: [&str; 20] = [
    "add",
    "ls",
    "show",
    "diff",
    "export",
    "rm",
    "gc",
    "info",
    "stats",
    "verify",
    "log",
    "rollback",
    "link",
    "unlink",
    "links",
    "load-links",
    "migrate",
    "backup",
    "restore",
    "completions",
];

#[test]
fn the_help_teaches_every_command_and_exit_code() {
    let bench = Bench::new();
    let help = bench.run(["--help"]).ok();
    for command in COMMANDS {
        assert!(help.contains(command), "{command}");
        let own = bench.run([command, "--help"]).ok();
        assert!(own.contains("Examples:") && own.contains(&format!("corallite {command}")), "{own}");
    }
    for code in ["  0  ", "  1  ", "  2  ", "  3  ", "  4  ", "  5  ", "  6  ", "  7  ", "  8  ", "130  "] {
        assert!(help.contains(code), "{code}");
    }
    assert!(bench.run(["--version"]).ok().starts_with("corallite "));
}

#[test]
fn every_shell_gets_completions() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(bench.run(["completions", shell]).ok().contains("rollback"), "{shell}");
    }
}

#[test]
fn nothing_is_coloured_or_drawn_when_nobody_watches() {
    let bench = Bench::with_store();
    bench.model("more", &["more"]);
    for arguments in [
        &["add", "models.h5", "more.safetensors"][..],
        &["ls", "models.h5"],
        &["show", "models.h5", "more/more"],
        &["info", "models.h5"],
        &["stats", "models.h5"],
        &["diff", "models.h5", "base", "more"],
        &["verify", "models.h5"],
        &["export", "models.h5", "base", "-o", "out"],
    ] {
        let done = bench.run(arguments);
        assert!(!done.out.contains('\x1b') && !done.out.contains('\r') && done.err.is_empty(), "{done:?}");
    }
}

#[test]
fn quiet_prints_only_what_was_asked_for() {
    let bench = Bench::new();
    bench.model("base", &["a"]);
    for arguments in [
        &["-q", "add", "models.h5", "base.safetensors"][..],
        &["export", "-q", "models.h5", "base", "-o", "out"],
        &["link", "-q", "models.h5", "base", "apache-2.0"],
        &["load-links", "models.h5", "-", "-q"],
        &["backup", "models.h5", "backup.h5", "-q"],
        &["restore", "backup.h5", "again.h5", "-q"],
        &["unlink", "-q", "models.h5", "base"],
        &["migrate", "-q", "models.h5"],
        &["rm", "models.h5", "base", "--quiet"],
        &["gc", "models.h5", "-q"],
    ] {
        assert_eq!(bench.run(arguments).ok(), "");
    }
    assert!(!bench.run(["info", "models.h5", "-q"]).ok().is_empty());
    assert!(bench.run(["gc", "models.h5", "-q", "--json"]).json().is_object());
    bench.run(["show", "models.h5", "nobody", "-q"]).refused(6);
}

#[test]
fn a_reader_of_the_output_that_goes_away_is_no_error() {
    let bench = Bench::with_store();
    for arguments in [&["ls", "models.h5"][..], &["show", "models.h5", "base"], &["--help"], &["completions", "bash"]] {
        let mut running = bench.start(arguments);
        drop(running.stdout.take());
        let done = Done::from(running.wait_with_output().unwrap());
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_name_cannot_steer_the_terminal() {
    let bench = Bench::new();
    let name = "\x1b[2Jwiped\nfake: line\u{202e}";
    bench.write("model", &[WeightTensor::new(name, vec![1], Dtype::U8, vec![1_u8]).unwrap()]);
    bench.run(["add", "models.h5", "model.safetensors", "--name", name]).ok();
    for arguments in [
        &["ls", "models.h5"][..],
        &["show", "models.h5", name],
        &["diff", "models.h5", name, name, "--all"],
        &["stats", "models.h5"],
        &["rm", "models.h5", name],
    ] {
        let out = bench.run(arguments).ok();
        assert!(!out.contains('\x1b') && !out.contains('\u{202e}'), "{out:?}");
        assert!(!out.lines().any(|line| line.starts_with("fake")), "{out:?}");
    }
    let sentence = bench.run(["rm", "models.h5", name]).refused(6);
    assert!(!sentence.contains('\x1b') && !sentence.contains('\u{202e}'), "{sentence:?}");
}

#[test]
fn paths_that_are_not_text_work() {
    let bench = Bench::new();
    bench.model("base", &["a"]);
    let store = std::ffi::OsStr::from_bytes(b"\xff\xfe.h5");
    let model = std::ffi::OsStr::from_bytes(b"\xff.safetensors");
    std::fs::copy(bench.path("base.safetensors"), bench.path("").join(model)).unwrap();
    let add = |more: &[&str]| {
        let arguments = ["add".as_ref(), store, model];
        bench.run(arguments.into_iter().chain(more.iter().map(std::ffi::OsStr::new)))
    };
    assert!(add(&[]).refused(2).contains("--name"));
    add(&["--name", "n"]).ok();
    for command in ["ls", "info", "verify"] {
        bench.run([command.as_ref(), store]).ok();
        assert!(bench.run([command.as_ref(), store, "--json".as_ref()]).json().is_object());
    }
    bench.run(["export".as_ref(), store, "n".as_ref(), "-o".as_ref(), std::ffi::OsStr::from_bytes(b"\xfe")]).ok();
}
