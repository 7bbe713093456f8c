//! Files that are damaged, removed, put there by others, or not allowed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use corallite_objects::Error;
use corallite_objects::backend::{Backend, BackendExt, Change, DirectoryBackend, Durability, Expect, Range};

use super::{put_stream, stream};

/// A directory with three values and a stream.
fn directory() -> (tempfile::TempDir, DirectoryBackend) {
    let place = tempfile::tempdir().unwrap();
    let backend = DirectoryBackend::open(place.path()).unwrap();
    for key in ["Account.1", "Account.2", "Account.3"] {
        backend.add(key, format!("{{\"key\":\"{key}\"}}").as_bytes()).unwrap();
    }
    put_stream(&backend, "Account.1", b"stream").unwrap();
    (place, backend)
}

fn is_damaged(error: &Error) -> bool {
    matches!(error, Error::Malformed { .. })
}

#[test]
fn a_damaged_file_is_reported_with_its_name_and_hinders_no_other() {
    for damage in [
        "",
        "{",
        "{\n  \"key\": \"Accou",
        "\0\0\0\0",
        "{\"key\":\"\u{0}\"}",
        "#bytes 5\nab",
        "#bytes x\n",
        "#bytes 1\nab",
    ] {
        let (place, backend) = directory();
        let file = place.path().join("Account/2.json");
        fs::write(&file, damage).unwrap();
        let error = backend.get("Account.2").unwrap_err();
        assert!(is_damaged(&error), "{damage:?}: {error}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        let entries: Vec<_> = backend.entries_in(&Range::default()).unwrap().collect();
        assert_eq!(entries.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true], "{damage:?}");
        assert_eq!(backend.keys("").unwrap().count(), 3);
        let swap = Change { key: "Account.2", value: None, expect: Expect::Value(b"{}") };
        assert!(is_damaged(&backend.write(&[swap], Durability::Durable).unwrap_err()));
        // It can be replaced, or removed.
        backend.update("Account.2", b"{}").unwrap();
        assert_eq!(backend.get("Account.2").unwrap().unwrap(), b"{}".as_slice());
        fs::write(&file, damage).unwrap();
        backend.remove("Account.2").unwrap();
        assert_eq!(backend.get("Account.2").unwrap(), None);
    }
}

#[test]
fn a_document_that_a_person_edited_is_read() {
    let (place, backend) = directory();
    fs::write(place.path().join("Account/2.json"), "{ \"key\": \"edited\" }\n").unwrap();
    let found = backend.get("Account.2").unwrap().unwrap();
    assert_eq!(found, b"{ \"key\": \"edited\" }\n".as_slice());
    let swap = Change { key: "Account.2", value: Some(b"{}"), expect: Expect::Value(&found) };
    backend.write(&[swap], Durability::Durable).unwrap();
    fs::write(place.path().join("Account/new.json"), "{}").unwrap();
    assert_eq!(backend.get("Account.new").unwrap().unwrap(), b"{}".as_slice());
}

#[test]
fn a_file_that_somebody_removed_is_absent() {
    let (place, backend) = directory();
    fs::remove_file(place.path().join("Account/2.json")).unwrap();
    fs::remove_file(place.path().join("Account/1.data")).unwrap();
    assert_eq!(backend.get("Account.2").unwrap(), None);
    assert!(matches!(backend.update("Account.2", b"{}"), Err(Error::Absent { .. })));
    assert!(backend.read_stream("Account.1").unwrap().is_none());
    fs::remove_dir_all(place.path().join("Account")).unwrap();
    assert_eq!(backend.keys("").unwrap().count(), 0);
    assert_eq!(backend.keys("Account.").unwrap().count(), 0);
    backend.add("Account.2", b"{}").unwrap();
    assert_eq!(backend.get("Account.2").unwrap().unwrap(), b"{}".as_slice());
}

#[test]
fn a_folder_in_the_place_of_a_file_is_reported_and_left_alone() {
    let (place, backend) = directory();
    for name in ["Account/2.json", "Account/1.data"] {
        fs::remove_file(place.path().join(name)).unwrap();
        fs::create_dir(place.path().join(name)).unwrap();
        fs::write(place.path().join(name).join("foreign"), "x").unwrap();
    }
    assert!(is_damaged(&backend.get("Account.2").unwrap_err()));
    assert!(is_damaged(&backend.has("Account.2").unwrap_err()));
    assert!(is_damaged(&backend.update("Account.2", b"{}").unwrap_err()));
    let anything = |value| Change { key: "Account.2", value, expect: Expect::Anything };
    assert!(is_damaged(&backend.write(&[anything(Some(b"{}"))], Durability::Durable).unwrap_err()));
    assert!(is_damaged(&backend.write(&[anything(None)], Durability::Durable).unwrap_err()));
    assert!(is_damaged(&backend.read_stream("Account.1").unwrap_err()));
    assert!(is_damaged(&put_stream(&backend, "Account.1", b"new").unwrap_err()));
    assert_eq!(backend.path("Account.1"), None);
    assert_eq!(backend.keys("").unwrap().map(|key| key.unwrap()).collect::<Vec<_>>(), ["Account.1", "Account.3"]);
    assert!(place.path().join("Account/2.json/foreign").exists());
    assert_eq!(backend.get("Account.1").unwrap().unwrap(), b"{\"key\":\"Account.1\"}".as_slice());
}

#[test]
fn files_of_others_are_ignored_and_never_removed() {
    let (place, backend) = directory();
    let foreign = [
        "README.txt",
        "Account/notes.txt",
        "Account/A.json",
        "Account/2.json.bak",
        "Account/%zz.json",
        "Account/deep/x.json",
        "other/x.json",
        ".git/x.json",
        ".corallite/mine",
    ];
    for name in foreign {
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }
    assert_eq!(backend.keys("").unwrap().count(), 3);
    assert_eq!(backend.streams("").unwrap().count(), 1);
    backend.clear().unwrap();
    assert_eq!(backend.keys("").unwrap().count(), 0);
    assert!(!place.path().join("Account/1.json").exists());
    backend.close().unwrap();
    DirectoryBackend::open(place.path()).unwrap().clear().unwrap();
    for name in foreign {
        assert!(place.path().join(name).exists(), "{name}");
    }
}

#[test]
fn nothing_is_written_or_removed_behind_a_symbolic_link() {
    let (place, backend) = directory();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("1.json"), "{}").unwrap();
    symlink(outside.path(), place.path().join("Linked")).unwrap();
    let refused = |result: corallite_objects::Result<()>| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("symbolic link") && error.contains("Linked"), "{error}");
    };
    refused(backend.add("Linked.2", b"{}"));
    refused(backend.update("Linked.1", b"[]"));
    refused(backend.remove("Linked.1"));
    refused(put_stream(&backend, "Linked.1", b"stream"));
    refused(backend.clear());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    // A file that is a link is replaced, and what it leads to is not.
    fs::write(outside.path().join("target"), "{\"a\":1}").unwrap();
    fs::remove_file(place.path().join("Linked")).unwrap();
    symlink(outside.path().join("target"), place.path().join("Account/2.json")).unwrap_or_else(|_| {
        fs::remove_file(place.path().join("Account/2.json")).unwrap();
        symlink(outside.path().join("target"), place.path().join("Account/2.json")).unwrap();
    });
    backend.write(&[super::put("Account.2", b"[]")], Durability::Durable).unwrap();
    assert_eq!(fs::read(outside.path().join("target")).unwrap(), b"{\"a\":1}");
}

#[test]
fn a_directory_without_the_right_to_write_can_be_read_and_says_what_it_lacks() {
    let (place, backend) = directory();
    backend.close().unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let hidden = place.path().join(".corallite");
    for file in ["lock", "open"] {
        set(&hidden.join(file), 0o444);
    }
    for folder in [&hidden, &place.path().join("Account"), place.path()] {
        set(folder, 0o555);
    }
    // Root may write everywhere.
    let is_root = fs::write(hidden.join("probe"), "").is_ok();
    if !is_root {
        let backend = DirectoryBackend::open(place.path()).unwrap();
        assert_eq!(backend.keys("").unwrap().count(), 3);
        let error = backend.update("Account.1", b"{}").unwrap_err();
        assert!(error.to_string().contains(place.path().to_str().unwrap()), "{error}");
        assert!(error.to_string().contains("ermission denied"), "{error}");
        assert_eq!(stream(&backend, "Account.1").unwrap(), b"stream");
    }
    for folder in [place.path(), &place.path().join("Account"), &hidden] {
        set(folder, 0o755);
    }
}

#[test]
fn a_layout_of_a_newer_version_is_refused_and_a_file_is_no_directory() {
    let (place, backend) = directory();
    backend.close().unwrap();
    fs::write(place.path().join(".corallite/format"), "2\n").unwrap();
    let error = DirectoryBackend::open(place.path()).unwrap_err().to_string();
    assert!(error.contains("newer program"), "{error}");
    let file = place.path().join("Account/1.json");
    let error = DirectoryBackend::open(&file).unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
}

#[test]
fn a_buffered_write_beyond_the_bound_is_kept_too() {
    let (_place, backend) = directory();
    for number in 0..1_200 {
        backend.write(&[super::put(&format!("B.{number}"), b"{}")], Durability::Buffered).unwrap();
    }
    assert_eq!(backend.keys("B.").unwrap().count(), 1_200);
    backend.sync().unwrap();
}
