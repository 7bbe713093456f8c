//! What a storage promises to one program.

use std::sync::Arc;

use corallite_file::{Buffer, CommitNumber, Error, Mode, Options, Replay, Source, Storage};
use parking_lot::Mutex;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn set(storage: &Storage, group: &str, value: i64) -> Outcome {
    let group = storage.create_group(group)?;
    let attribute = match group.attr("value") {
        Ok(attribute) => attribute,
        Err(_) => group.new_attr::<i64>().create("value")?,
    };
    attribute.write_scalar(&value)?;
    Ok(())
}

fn get(storage: &Storage, group: &str) -> Result<i64, Box<dyn std::error::Error>> {
    Ok(storage.file()?.group(group)?.attr("value")?.read_scalar()?)
}

#[test]
fn a_closed_store_is_one_hdf5_file_that_opens_again() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::new(path.as_path());
    storage.open(Mode::Append, false)?;
    set(&storage, "nodes/x", 7)?;
    storage.flush()?;
    assert!(directory.path().join("a.h5-journal").exists());
    storage.close()?;
    let names: Vec<_> = std::fs::read_dir(directory.path())?.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a.h5"]);
    storage.open(Mode::Read, false)?;
    assert_eq!(get(&storage, "nodes/x")?, 7);
    for group in [Storage::CONFIG_GROUP, Storage::NODES_GROUP, Storage::VALUES_GROUP, Storage::BUCKETS_GROUP] {
        assert!(storage.contains(group)?);
    }
    assert_eq!(storage.file()?.group("config")?.attr("format_version")?.read_scalar::<i64>()?, 1);
    Ok(())
}

#[test]
fn rollback_restores_the_last_commit() -> Outcome {
    let storage = Storage::new(Source::Memory);
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 1)?;
    storage.flush()?;
    for round in 0..3 {
        set(&storage, "a", 2 + round)?;
        set(&storage, "b", 2)?;
        storage.rollback()?;
        assert_eq!(get(&storage, "a")?, 1);
        assert!(!storage.contains("b")?);
    }
    Ok(())
}

#[test]
fn earlier_commits_can_be_rolled_back_to_and_forward_again() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::with_options(path.as_path(), Options::new().history(4));
    storage.open(Mode::Append, false)?;
    let mut commits = Vec::new();
    for value in 0..8 {
        set(&storage, "a", value)?;
        set(&storage, &format!("only/{value}"), value)?;
        commits.push(storage.flush()?);
    }
    storage.close()?;
    storage.open(Mode::ReadWrite, false)?;
    assert_eq!(storage.versions()?.len(), 5);
    assert!(matches!(storage.rollback_to_version(commits[2]), Err(Error::NoSuchCommit { .. })));
    let now = storage.rollback_to_version(commits[4])?;
    assert_eq!(now, CommitNumber(commits[7].0 + 1));
    assert_eq!(get(&storage, "a")?, 4);
    assert!(storage.contains("only/4")? && !storage.contains("only/5")?);
    storage.close()?;
    storage.open(Mode::ReadWrite, false)?;
    assert_eq!(get(&storage, "a")?, 4);
    storage.rollback_to_version(commits[7])?;
    assert_eq!(get(&storage, "a")?, 7);
    assert!(storage.contains("only/7")?);
    storage.close()?;
    storage.open(Mode::Read, false)?;
    assert_eq!(get(&storage, "only/7")?, 7);
    Ok(())
}

#[test]
fn a_snapshot_keeps_its_commit_while_the_writer_goes_on() -> Outcome {
    let storage = Storage::with_options(Source::Memory, Options::new().history(0).journal_bytes(1));
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 1)?;
    storage.flush()?;
    let snapshot = storage.snapshot()?;
    for value in 2..40 {
        set(&storage, "a", value)?;
        set(&storage, &format!("x{value}"), value)?;
        if value > 5 {
            storage.file()?.unlink(&format!("x{}", value - 3))?;
        }
        storage.flush()?;
        assert_eq!(snapshot.file().group("a")?.attr("value")?.read_scalar::<i64>()?, 1);
        assert!(!snapshot.file().link_exists("x2"));
    }
    assert_eq!(storage.snapshot()?.file().group("a")?.attr("value")?.read_scalar::<i64>()?, 39);
    Ok(())
}

#[test]
fn a_buffer_receives_the_committed_file() -> Outcome {
    let buffer = Buffer::new();
    let storage = Storage::new(buffer.clone());
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 5)?;
    storage.flush()?;
    let flushed = buffer.to_vec();
    assert_eq!(&flushed[..4], b"\x89HDF");
    storage.close()?;
    for bytes in [flushed, buffer.to_vec()] {
        let storage = Storage::new(Buffer::from(bytes));
        storage.open(Mode::Read, false)?;
        assert_eq!(get(&storage, "a")?, 5);
    }
    Ok(())
}

#[test]
fn modes_are_those_of_h5py() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::new(path.as_path());
    for mode in [Mode::Read, Mode::ReadWrite] {
        assert!(matches!(storage.open(mode, false), Err(Error::NotFound { .. })));
        assert!(!path.exists() && !directory.path().join("a.h5-journal").exists());
    }
    std::fs::write(&path, b"")?;
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 1)?;
    storage.close()?;
    assert!(matches!(storage.open("x".parse()?, false), Err(Error::AlreadyExists { .. })));
    storage.open(Mode::Read, false)?;
    assert!(storage.file()?.create_group("no").is_err());
    assert!(matches!(storage.flush(), Err(Error::ReadOnly { .. })));
    storage.close()?;
    storage.open(Mode::Write, false)?;
    assert!(!storage.contains("a")?);
    storage.close()?;
    storage.open(Mode::Read, false)?;
    assert!(!storage.contains("a")?);
    Ok(())
}

#[test]
fn what_is_not_a_store_is_refused_untouched() -> Outcome {
    let directory = tempfile::tempdir()?;
    let text = directory.path().join("text");
    std::fs::write(&text, b"plain text, longer than a superblock would be: 0123456789 0123456789 0123456789")?;
    let storage = Storage::new(text.as_path());
    for mode in [Mode::Append, Mode::Read, Mode::ReadWrite] {
        assert!(matches!(storage.open(mode, false), Err(Error::NotHdf5 { .. })));
    }
    let storage = Storage::new(directory.path());
    assert!(matches!(storage.open(Mode::Append, false), Err(Error::NotAFile { .. })));

    let foreign = directory.path().join("foreign.h5");
    corallite_file::hdf5::File::create(&foreign)?.create_group("theirs")?;
    let before = std::fs::read(&foreign)?;
    let storage = Storage::new(foreign.as_path());
    assert!(matches!(storage.open(Mode::Append, false), Err(Error::ForeignFile { .. })));
    assert_eq!(std::fs::read(&foreign)?, before);
    let storage = Storage::with_options(foreign.as_path(), Options::new().adopt(|_| true));
    storage.open(Mode::Append, false)?;
    assert!(storage.contains("theirs")? && storage.contains("config")?);
    storage.close()?;

    let newer = directory.path().join("newer.h5");
    let storage = Storage::new(newer.as_path());
    storage.open(Mode::Append, false)?;
    storage.file()?.group("config")?.attr("format_version")?.write_scalar(&99_i64)?;
    storage.close()?;
    let before = std::fs::read(&newer)?;
    for mode in [Mode::Append, Mode::Read] {
        assert!(matches!(storage.open(mode, false), Err(Error::NewerFormat { found: 99, .. })));
    }
    assert_eq!(std::fs::read(&newer)?, before);
    let mut left: Vec<_> = std::fs::read_dir(directory.path())?.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["foreign.h5", "newer.h5", "text"]);
    Ok(())
}

#[test]
fn a_second_writer_is_refused_and_told_who_the_first_is() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let first = Storage::new(path.as_path());
    first.open(Mode::Append, false)?;
    first.flush()?;
    let second = Storage::new(path.as_path());
    match second.open(Mode::Append, false) {
        Err(Error::Busy { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    first.close()?;
    second.open(Mode::Append, false)?;
    Ok(())
}

#[test]
fn a_reader_neither_blocks_the_writer_nor_sees_its_commits_until_it_refreshes() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let writer = Storage::new(path.as_path());
    writer.open(Mode::Append, false)?;
    set(&writer, "a", 1)?;
    writer.flush()?;
    let reader = Storage::new(path.as_path());
    reader.open(Mode::Read, true)?;
    for value in 2..6 {
        set(&writer, "a", value)?;
        let commit = writer.flush()?;
        assert!(writer.applied_version()? < commit);
        assert_eq!(get(&reader, "a")?, value - 1);
        // A reader that begins now sees the newest commit, through the journal.
        let late = Storage::new(path.as_path());
        late.open(Mode::Read, false)?;
        assert_eq!(get(&late, "a")?, value);
        assert!(matches!(late.refresh(), Err(Error::Usage { .. })));
        assert_eq!(reader.refresh()?, commit);
        assert_eq!(get(&reader, "a")?, value);
    }
    writer.close()?;
    assert!(directory.path().join("a.h5-journal").exists(), "the reader keeps the commits from being applied");
    reader.close()?;
    writer.open(Mode::ReadWrite, false)?;
    assert_eq!(get(&writer, "a")?, 5);
    writer.close()?;
    assert!(!directory.path().join("a.h5-journal").exists());
    Ok(())
}

#[test]
fn transactions_are_all_or_nothing() -> Outcome {
    let storage = Storage::new(Source::Memory);
    storage.open(Mode::Append, false)?;
    storage.transaction::<_, Box<dyn std::error::Error>>(|tx| {
        tx.file().create_group("kept")?;
        Ok(())
    })?;
    let failed = storage.transaction::<(), Box<dyn std::error::Error>>(|tx| {
        tx.file().create_group("lost")?;
        Err("stop".into())
    });
    assert!(failed.is_err());
    assert!(storage.contains("kept")? && !storage.contains("lost")?);
    Ok(())
}

#[test]
fn replay_hooks_call_what_is_bound() -> Outcome {
    #[derive(Default)]
    struct Log(Mutex<Vec<(u128, Option<u128>)>>);
    impl Replay for Log {
        fn insert(&self, storage: &Storage, key: u128, value: u128) -> corallite_file::Result<()> {
            storage.create_group(&format!("buckets/{key}"))?;
            self.0.lock().push((key, Some(value)));
            Ok(())
        }
        fn delete(&self, _storage: &Storage, key: u128) -> corallite_file::Result<()> {
            self.0.lock().push((key, None));
            Ok(())
        }
    }
    let storage = Storage::new(Source::Memory);
    storage.open(Mode::Append, false)?;
    assert!(matches!(storage.apply_insert(1, 2), Err(Error::NoReplayTarget { .. })));
    let log = Arc::new(Log::default());
    storage.bind_replay(log.clone());
    storage.apply_insert(1, 2)?;
    storage.apply_delete(1)?;
    assert_eq!(*log.0.lock(), [(1, Some(2)), (1, None)]);
    assert_eq!(storage.buckets()?.member_names()?, ["1"]);
    Ok(())
}

#[test]
fn freed_space_is_reused_across_sessions() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::with_options(path.as_path(), Options::new().history(0));
    let data = vec![1_u8; 1 << 20];
    for round in 0..6 {
        storage.open(Mode::Append, false)?;
        let values = storage.file()?.group("values")?;
        if values.link_exists("big") {
            values.unlink("big")?;
            storage.flush()?;
            storage.reclaim()?;
        }
        let values = storage.file()?.group("values")?;
        values.new_dataset_builder().with_data(&data).create("big")?;
        values.new_dataset_builder().with_data(&[round; 100]).create(format!("small{round}").as_str())?;
        storage.close()?;
    }
    let length = std::fs::metadata(&path)?.len();
    assert!(length < (2 << 20) + (1 << 18), "{length}");
    Ok(())
}

#[test]
fn an_abandoned_new_file_is_gone_and_an_old_one_as_it_was() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::new(path.as_path());
    storage.open(Mode::Append, false)?;
    storage.snapshot()?;
    set(&storage, "a", 1)?;
    storage.abandon()?;
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0);
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 1)?;
    storage.flush()?;
    set(&storage, "a", 2)?;
    storage.abandon()?;
    storage.open(Mode::Append, false)?;
    assert_eq!(get(&storage, "a")?, 1);
    storage.abandon()?;
    assert!(path.exists());
    Ok(())
}

#[test]
fn a_file_has_one_writer_whatever_name_it_is_opened_by() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (path, link) = (directory.path().join("a.h5"), directory.path().join("link.h5"));
    let first = Storage::new(path.as_path());
    first.open(Mode::Append, false)?;
    std::os::unix::fs::symlink(&path, &link)?;
    let second = Storage::new(link.as_path());
    assert!(matches!(second.open(Mode::Append, false), Err(Error::Busy { .. })));
    first.close()?;
    second.open(Mode::Append, false)?;
    set(&second, "a", 1)?;
    second.close()?;
    std::fs::hard_link(&path, directory.path().join("hard.h5"))?;
    assert!(matches!(first.open(Mode::Append, false), Err(Error::Usage { .. })));
    first.open(Mode::Read, false)?;
    assert_eq!(get(&first, "a")?, 1);
    Ok(())
}

#[test]
fn a_journal_has_the_permissions_of_its_file() -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::new(path.as_path());
    storage.open(Mode::Append, false)?;
    storage.close()?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 1)?;
    storage.flush()?;
    let journal = std::fs::metadata(directory.path().join("a.h5-journal"))?;
    assert_eq!(journal.permissions().mode() & 0o777, 0o600);
    Ok(())
}

#[test]
fn a_store_cannot_take_the_place_of_anothers_journal() -> Outcome {
    let directory = tempfile::tempdir()?;
    for name in ["a.h5-journal", "a.h5-wal"] {
        let storage = Storage::new(directory.path().join(name));
        assert!(matches!(storage.open(Mode::Append, false), Err(Error::Usage { .. })));
    }
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0);
    Ok(())
}

#[test]
fn a_refused_opening_leaves_no_new_file() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (path, journal) = (directory.path().join("a.h5"), directory.path().join("a.h5-journal"));
    std::fs::write(&journal, vec![7_u8; 10_000])?;
    assert!(Storage::new(path.as_path()).open(Mode::Append, false).is_err());
    assert!(!path.exists(), "an empty store was left");
    assert_eq!(std::fs::read(&journal)?, vec![7_u8; 10_000]);
    Ok(())
}

/// A file as a crash in the middle of applying a commit leaves it; returns its path and its journal's.
fn half_applied(directory: &std::path::Path) -> Outcome<(std::path::PathBuf, std::path::PathBuf)> {
    let path = directory.join("a.h5");
    let storage = Storage::with_options(path.as_path(), Options::new().lock_wait(std::time::Duration::ZERO));
    storage.open(Mode::Append, false)?;
    set(&storage, "a", 1)?;
    storage.flush()?;
    // While another program reads, the commit waits in the journal.
    let reader = std::fs::File::open(&path)?;
    reader.lock_shared()?;
    set(&storage, "a", 2)?;
    storage.flush()?;
    let (copy, journal) = (directory.join("copy.h5"), directory.join("copy.h5-journal"));
    std::fs::copy(&path, &copy)?;
    std::fs::copy(directory.join("a.h5-journal"), &journal)?;
    let mut bytes = std::fs::read(&copy)?;
    assert_eq!(bytes[1..4], *b"HDF");
    bytes[..8].copy_from_slice(b"CORALMID");
    std::fs::write(&copy, bytes)?;
    Ok((copy, journal))
}

#[test]
fn a_reader_finishes_what_a_crashed_writer_began_to_apply() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (path, journal) = half_applied(directory.path())?;
    let storage = Storage::new(path.as_path());
    storage.open(Mode::Read, false)?;
    assert_eq!(get(&storage, "a")?, 2);
    assert_eq!(std::fs::read(&path)?[1..4], *b"HDF", "no other program can open it");
    assert!(!journal.exists());
    Ok(())
}

#[test]
fn a_reader_that_may_not_write_reads_a_half_applied_file_as_it_is() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (path, journal) = half_applied(directory.path())?;
    let before = (std::fs::read(&path)?, std::fs::read(&journal)?);
    // The lock of a writer, alive but slow.
    let writer = std::fs::File::open(&journal)?;
    writer.lock()?;
    let storage = Storage::new(path.as_path());
    storage.open(Mode::Read, false)?;
    assert_eq!(get(&storage, "a")?, 2);
    assert_eq!((std::fs::read(&path)?, std::fs::read(&journal)?), before);
    Ok(())
}

#[test]
fn finishing_a_commit_keeps_the_earlier_ones() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (path, _) = half_applied(directory.path())?;
    let reader = Storage::with_options(path.as_path(), Options::new().history(0).history_bytes(0));
    reader.open(Mode::Read, false)?;
    reader.close()?;
    let writer = Storage::new(path.as_path());
    writer.open(Mode::ReadWrite, false)?;
    assert_eq!(writer.versions()?.len(), 3);
    Ok(())
}

/// Pages that lay behind the end for a while, and were not written since, differ from their images in the journal.
#[test]
fn a_file_that_shrank_and_grew_again_is_still_the_journals() -> Outcome {
    const LENGTH: usize = 80 << 10;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.h5");
    let storage = Storage::with_options(path.as_path(), Options::new().history(2));
    storage.open(Mode::Append, false)?;
    let file = storage.file()?;
    file.new_dataset::<u8>().shape(LENGTH).create("old")?.write(&vec![7_u8; LENGTH])?;
    storage.flush()?;
    file.dataset("old")?.write_slice(&[9_u8; 100], 30_000..30_100)?;
    storage.flush()?;
    let long = std::fs::metadata(&path)?.len();
    file.unlink("old")?;
    for number in 0..6 {
        storage.flush()?;
        set(&storage, "a", number)?;
    }
    storage.flush()?;
    assert!(std::fs::metadata(&path)?.len() < long, "the file was not cut");
    file.new_dataset::<u8>().shape(LENGTH).create("new")?.write_slice(&[1_u8; 10], 0..10)?;
    storage.flush()?;
    let copy = directory.path().join("copy.h5");
    std::fs::copy(&path, &copy)?;
    std::fs::copy(directory.path().join("a.h5-journal"), directory.path().join("copy.h5-journal"))?;
    for mode in [Mode::Read, Mode::ReadWrite] {
        let crashed = Storage::new(copy.as_path());
        crashed.open(mode, false)?;
        assert_eq!(get(&crashed, "a")?, 5);
    }
    Ok(())
}
